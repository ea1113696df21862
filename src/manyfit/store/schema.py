"""Tables of a project's database, in the newest version: `migrations.py` leads there from earlier ones.

`phase` says what an execution was run for: "search", "confirm" (the race on fresh seeds) or "proof" (the recommended
trial's score on further seeds). `attempt` counts retries of a trial: the rows of a failed attempt stay, the latest
attempt is the one that counts.
`families` are contenders that confirmations compare, with the rules that were fixed before their first run, and the
rounds up to which they were looked at; `decisions` say who of them was found worse. Rules and decisions never change.
`outcome`, `logs`, `rules`, `looks` and `decision` are JSON objects; NaN and infinities are stored as the texts "NaN",
"Infinity" and "-Infinity" (Python's JSON reads and writes them), None marks what was not measured.
`program` and `run` say how an epoch was computed (`core.records.Computed`), where that depends on timing: the name of a
row of `programs`, and the trainer's own text.
`files` has the checksum of every file beside the database that the store knows of, by its name below the folder
(`checksums.py`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from manyfit.core.errors import ProjectError, explain

MOST_BYTES = 1 << 26
"""Of one value: what is longer is read from no project, and written to none."""

MOST_COUNTED = 1_000_000
"""Trials, attempts, executions and epochs have lower numbers: lists are as long as the highest that is found."""

_ACTING = re.compile(r"\b(?:AS|CHECK|COLLATE|CONFLICT|DEFAULT|REFERENCES|WHERE)\b", re.IGNORECASE)
_NAMES_ANOTHER_FILE = bytes.fromhex("d9d505f920a163d7")  # at the end of a journal (SQLite's file format, 3)

TABLES = (
    """
    CREATE TABLE project (
        name  TEXT PRIMARY KEY,
        value TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE trials (
        id         TEXT PRIMARY KEY,
        number     INTEGER NOT NULL,
        status     TEXT NOT NULL,
        attempt    INTEGER NOT NULL,
        trial_values TEXT NOT NULL,
        outcome    TEXT NOT NULL,
        started_at REAL NOT NULL,
        ended_at   REAL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE executions (
        trial_id  TEXT NOT NULL,
        phase     TEXT NOT NULL,
        attempt   INTEGER NOT NULL,
        execution INTEGER NOT NULL,
        outcome   TEXT NOT NULL,
        PRIMARY KEY (trial_id, phase, attempt, execution)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE families (
        number INTEGER PRIMARY KEY,
        rules  TEXT NOT NULL,
        looks  TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE decisions (
        family   INTEGER NOT NULL,
        trial_id TEXT NOT NULL,
        decision TEXT NOT NULL,
        PRIMARY KEY (family, trial_id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE epochs (
        trial_id  TEXT NOT NULL,
        phase     TEXT NOT NULL,
        attempt   INTEGER NOT NULL,
        execution INTEGER NOT NULL,
        epoch     INTEGER NOT NULL,
        logs      TEXT NOT NULL,
        program   TEXT,
        run       TEXT,
        PRIMARY KEY (trial_id, phase, attempt, execution, epoch)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE programs (
        name TEXT PRIMARY KEY,
        text TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE files (
        name   TEXT PRIMARY KEY,
        sha256 TEXT NOT NULL
    ) WITHOUT ROWID
    """,
)


def check_harmless(connection: sqlite3.Connection, where: str) -> None:
    """Checks that a database is tables and nothing that acts by itself when these are read or written.

    Args:
        connection: nothing was read through it yet.
        where: the project, for messages.

    Raises:
        ProjectError: it has triggers, views, virtual tables, or columns that are computed or checked, which no version
            of Manyfit makes.
        sqlite3.DatabaseError: it is no database.
    """
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    for kind, name, statement in connection.execute("SELECT type, name, sql FROM sqlite_master"):
        if not _is_plain(kind, statement):
            raise tampered(where, f"a database with the {kind} {name!r}", "plain tables, as Manyfit makes them")


def _is_plain(kind: str, statement: str | None) -> bool:
    if statement is None:  # an index that SQLite has made by itself
        return kind == "index"
    begins = {"table": "CREATE TABLE ", "index": "CREATE "}.get(kind)
    # An index of an expression computes it whenever a row is written.
    is_expression = kind == "index" and statement.count("(") > 1
    return begins is not None and statement.startswith(begins) and not is_expression and not _ACTING.search(statement)


def check_journals(files: Iterable[Path], where: str) -> None:
    """Checks that opening a database deletes no other file, which SQLite does where a journal beside it names one.

    A process that died while it wrote to several databases at once leaves such a journal: the file that it names lists
    these, and is deleted after the last of them was put back. Manyfit writes to one database, so it leaves none.

    Args:
        files: the database, and what lies beside it.
        where: the project, for messages.

    Raises:
        ProjectError: a journal names another file.
    """
    for path in files:
        if names_another_file(path):
            got = f"{path.name}, which names another file to be deleted"
            raise tampered(where, got, "the project's own journal")


def names_another_file(path: Path) -> bool:
    """Whether a journal ends as one that names another file; see `check_journals`."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_NAMES_ANOTHER_FILE)))
        return file.read() == _NAMES_ANOTHER_FILE


def tampered(where: str, got: str, allowed: str) -> ProjectError:
    """The error of a project that no version of Manyfit has left as it is."""
    instead = "Somebody has added it: open no project whose origin you do not know, or type overwrite=True."
    return ProjectError(explain(where, got, allowed, instead))
