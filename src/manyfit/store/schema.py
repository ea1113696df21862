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

import sqlite3

from manyfit.core.errors import ProjectError, explain

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
        ProjectError: it has triggers, views or virtual tables, which no version of Manyfit makes.
        sqlite3.DatabaseError: it is no database.
    """
    kinds = ("CREATE TABLE %", "CREATE INDEX %", "CREATE UNIQUE INDEX %")
    plain = "sql IS NULL OR " + " OR ".join(["sql LIKE ?"] * len(kinds))
    query = f"SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index') OR NOT ({plain})"
    found = connection.execute(query, kinds).fetchone()
    if found:
        raise ProjectError(
            explain(
                where,
                f"a database with the {found[0]} {found[1]!r}",
                "plain tables, as Manyfit makes them",
                "Somebody has added it: open no project whose origin you do not know, or type overwrite=True.",
            )
        )
