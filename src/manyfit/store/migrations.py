"""How a project that an earlier version wrote becomes one of this version: numbered steps, each a transaction.

A project knows its version (the fact `schema_version`; 0.1.0 wrote 1). Opening it runs the steps that it lacks, one
after another. A step and the new number are committed together: a process that is killed in the middle leaves the
project at the step before, with every row as it was, and the next one goes on from there.

**To add or change a table:**

1. Change `TABLES` in `schema.py`, which says how a new project begins.
2. Add a function here that does the same to an existing project, and put it at the *end* of `STEPS`. It takes a
   connection and calls `connection.execute` only: `executescript` would commit in the middle. What a column of an old
   row holds is decided here, once; nobody else asks whether a row is old.
3. `tests/store/test_migrations.py` proves that both ways lead to the same tables; `test_golden.py` opens the projects
   of all released versions.

A step that was released is never changed, moved or removed: projects stand on every one of them. SQLite cannot alter
much of a table in place; make `new_trials`, copy with `INSERT INTO ... SELECT`, drop, rename.

Numbers and not one look at the columns that are there: what a row *means* can change while its columns stay.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence

from manyfit.core.errors import ProjectError, explain
from manyfit.core.files import write_failed
from manyfit.core.untrusted import read_json
from manyfit.store.layout import DATABASE_NAME
from manyfit.store.schema import TABLES

Step = Callable[[sqlite3.Connection], None]

FIRST_VERSION = 1  # of 0.1.0


def _add_evidence(connection: sqlite3.Connection) -> None:
    """Confirmations of 0.1.0 left runs and no decisions: the first one of this version fixes the rules."""
    connection.execute(
        """
        CREATE TABLE families (
            number INTEGER PRIMARY KEY,
            rules  TEXT NOT NULL,
            looks  TEXT NOT NULL
        )
        """
    )
    connection.execute(
        """
        CREATE TABLE decisions (
            family   INTEGER NOT NULL,
            trial_id TEXT NOT NULL,
            decision TEXT NOT NULL,
            PRIMARY KEY (family, trial_id)
        ) WITHOUT ROWID
        """
    )


def _epochs_say_how_they_were_computed(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE epochs ADD COLUMN program TEXT")
    connection.execute("ALTER TABLE epochs ADD COLUMN run TEXT")
    connection.execute("CREATE TABLE programs ( name TEXT PRIMARY KEY, text TEXT NOT NULL ) WITHOUT ROWID")


def _files_have_checksums(connection: sqlite3.Connection) -> None:
    """Of what was written before nobody knows a checksum: such files are read as they are."""
    connection.execute("CREATE TABLE files ( name TEXT PRIMARY KEY, sha256 TEXT NOT NULL ) WITHOUT ROWID")


STEPS: tuple[Step, ...] = (_add_evidence, _epochs_say_how_they_were_computed, _files_have_checksums)
"""In order: the first one leads from version 1 to version 2."""

SCHEMA_VERSION = FIRST_VERSION + len(STEPS)
"""Of the tables in `schema.py`."""


def bring_up_to_date(
    connection: sqlite3.Connection, where: str, *, steps: Sequence[Step] = STEPS, tables: Sequence[str] = TABLES
) -> None:
    """Creates the tables of a new project, or takes an earlier one step by step to this version.

    Args:
        connection: in autocommit mode, so that transactions begin where this file says so.
        where: the project, for messages.
        steps: see `STEPS`.
        tables: the statements that create the newest schema.

    Raises:
        ProjectError: a newer version wrote it, or the disk is full; the project stays as it was.
        sqlite3.DatabaseError: it is no project.
    """
    version, newest = version_of(connection), FIRST_VERSION + len(steps)
    if version is None:
        _create(connection, tables, newest)
        return
    if not FIRST_VERSION <= version <= newest:
        raise ProjectError(
            explain(
                where,
                f"a file of version {version}",
                f"up to version {newest}",
                "Update Manyfit: pip install --upgrade manyfit.",
            )
        )
    for number in range(version + 1, newest + 1):
        with transaction(connection, where):
            steps[number - FIRST_VERSION - 1](connection)
            assert connection.in_transaction, "a step has committed"  # our bug: it could not be taken back
            _set_version(connection, number)


def version_of(connection: sqlite3.Connection) -> int | None:
    """The version of a project's file; None where it is empty."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'project'").fetchone():
        return None
    row = connection.execute("SELECT value FROM project WHERE name = 'schema_version'").fetchone()
    try:
        return None if row is None else int(read_json(row[0]))
    except (ArithmeticError, ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(f"its version is no number: {error}") from error


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, where: str) -> Iterator[sqlite3.Connection]:
    """All writes inside are committed together, or not at all.

    Args:
        connection: in autocommit mode.
        where: the project, for the message.

    Raises:
        ProjectError: the disk is full or the file cannot be written; what was committed before stays.
    """
    try:
        # IMMEDIATE: the right to write is taken now. Taken at the first write it could be refused in the middle.
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        # The second is what SQLite says of a file that somebody has damaged meanwhile.
        if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
            raise database_failed(where, error) from error
        raise


def database_failed(where: str, error: sqlite3.DatabaseError) -> ProjectError:
    """What SQLite says, in words: a full disk is no damaged file, and nobody is to start anew for one.

    Args:
        where: the project.
        error: of SQLite.
    """
    code = getattr(error, "sqlite_errorcode", None)
    kind = None if code is None else code & 0xFF  # the rest says where in SQLite it happened
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or not isinstance(error, sqlite3.OperationalError):
        return ProjectError(
            explain(
                where,
                f"{DATABASE_NAME}, which cannot be read or written ({error})",
                "a Manyfit project in a writable folder",
                "Restore the file from a copy, or type overwrite=True to start anew.",
            )
        )
    if kind in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        got, instead = f"{DATABASE_NAME}, which another program holds ({error})", "Close that program, and call again."
        return ProjectError(explain(where, got, "a database that nobody else writes to", instead))
    number = errno.EACCES if kind in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN) else None
    return write_failed(where, str(error), number=number)


def _create(connection: sqlite3.Connection, tables: Sequence[str], version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        _drop_what_a_killed_process_left(connection)
        for table in tables:
            connection.execute(table)
        _set_version(connection, version)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _drop_what_a_killed_process_left(connection: sqlite3.Connection) -> None:
    """Drops empty tables of a file without a version.

    0.1.0 created its tables one by one, and wrote the version last: killed in between, it left empty ones.
    """
    found = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (name,) in found:
        if connection.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone():
            raise sqlite3.DatabaseError(f"table {name} has rows, and no version is written there")
    for (name,) in found:
        connection.execute(f'DROP TABLE "{name}"')


def _set_version(connection: sqlite3.Connection, version: int) -> None:
    connection.execute("INSERT OR REPLACE INTO project VALUES ('schema_version', ?)", (json.dumps(version),))
