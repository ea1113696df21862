"""Reads a project without touching it: while a search writes there, in a folder that cannot be written, after a kill.

Everything is read at once, as it was committed at one moment. SQLite keeps the newest transactions in a file beside the
database (`-wal`) with an index of it (`-shm`). What is safe, and leaves no file behind, depends on what is there:

- neither: nobody writes, the file is read as it is, and once more if that was wrong;
- both: a search writes, or was killed. A connection that may only read joins in;
- a log without its index, or an index that cannot be opened: a copy of both files is read, elsewhere;
- a journal (on a network file system, where there is no log): likewise, if its writer does not end it in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from manyfit.core.errors import ManyfitError, ProjectError, explain
from manyfit.store.connecting import check_not_emptied
from manyfit.store.layout import DATABASE_NAME, ProjectLayout
from manyfit.store.migrations import SCHEMA_VERSION, bring_up_to_date, version_of
from manyfit.store.schema import check_harmless, names_another_file

_TICK_SECONDS = 0.05  # of clocks of file systems, with room
_TRIES = 5  # of a database that changes under the reader's hands


@dataclasses.dataclass(frozen=True)
class ProjectRows:
    """The rows of a project's tables, as they were at one moment.

    Attributes:
        facts: name -> JSON.
        trials: (id, number, status, attempt, values, outcome, started, ended), by number; both objects are JSON.
        executions: (trial, phase, attempt, execution, outcome), by key; the last is JSON.
        epochs: (trial, phase, attempt, execution, epoch, logs), by key; the last is JSON.
        written_at: when the project was last written to, in seconds since 1970.
    """

    facts: dict[str, str]
    trials: list[tuple[Any, ...]]
    executions: list[tuple[Any, ...]]
    epochs: list[tuple[Any, ...]]
    written_at: float


@contextlib.contextmanager
def rows_told(where: str) -> Iterator[None]:
    """Turns what rows of another shape lead to into one error; also a decorator of what reads rows.

    Only the parts that are asked for are looked at, each where it is used. So what reads a project for people is put
    inside of this: a text in the place of a number, a key that is missing, a number that is none.

    Args:
        where: who reads, for the message.

    Raises:
        ProjectError: the rows are none that Manyfit writes.
    """
    try:
        yield
    except ManyfitError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ProjectError(
            explain(
                where,
                f"rows that cannot be read ({type(error).__name__}: {error})",
                "rows as Manyfit writes them",
                "Restore the project from a copy, or search again with overwrite=True.",
            )
        ) from error


class _Changed(Exception):
    """Somebody has begun to write while the file was read as one that nobody writes."""


def what_is_at(path: Path, as_folder: str) -> str:
    """What was found in the place of a project, for a message.

    Args:
        path: of the place.
        as_folder: what it is if it is a folder.
    """
    if path.is_dir():
        return as_folder
    return "a file" if path.exists() else "no folder"


def read_project(folder: str | os.PathLike[str]) -> ProjectRows:
    """All rows of a project.

    Args:
        folder: the project's.

    Raises:
        ProjectError: there is no project, its file is damaged, holds more than tables, or a newer Manyfit wrote it.
    """
    layout = ProjectLayout.of(folder)
    if not layout.database.is_file():
        raise ProjectError(
            explain(
                f'open_project("{folder}")',
                what_is_at(layout.folder, "a folder without a project"),
                f"a folder with {DATABASE_NAME} in it",
                'Type the project\'s own folder, "directory/project_name"; manyfit ls lists those below a folder.',
            )
        )
    check_not_emptied(layout, f'project "{folder}"')
    error: Exception | None = None
    for way in _ways(layout.database):
        try:
            with way() as connection:
                return _rows(connection, folder, _written_at(layout.database))
        except (_Changed, sqlite3.OperationalError, OSError) as failed:
            error = failed
        except sqlite3.DatabaseError as failed:
            error = failed
            break  # no way of opening it makes a project of it
    raise ProjectError(
        explain(
            f'project "{folder}"',
            f"{DATABASE_NAME}, which cannot be read ({error})",
            "a database as Manyfit writes it",
            "Restore the file from a copy, or search again with overwrite=True.",
        )
    ) from error


def _written_at(database: Path) -> float:
    files = (database, _beside(database, "-wal"))
    return max(path.stat().st_mtime for path in files if path.exists())


def _beside(database: Path, ending: str) -> Path:
    return database.with_name(database.name + ending)


def _ways(database: Path) -> Iterator[Callable[[], contextlib.AbstractContextManager[sqlite3.Connection]]]:
    for _ in range(_TRIES):
        journal = _beside(database, "-journal")
        # One that names another file would have SQLite delete that: then the database is read as it is.
        if journal.exists() and not names_another_file(journal):
            yield lambda: _beside_a_writer(database)
            yield lambda: _of_a_copy(database, "-journal")
        elif not _beside(database, "-wal").exists():
            yield lambda: _at_rest(database)
        if _beside(database, "-wal").exists() and _beside(database, "-shm").exists():
            yield lambda: _beside_a_writer(database)
        if _beside(database, "-wal").exists():
            yield lambda: _of_a_copy(database)


@contextlib.contextmanager
def _opened(place: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(place, uri=True, isolation_level=None, timeout=10.0)) as connection:
        yield connection


@contextlib.contextmanager
def _at_rest(database: Path) -> Iterator[sqlite3.Connection]:
    before = database.stat()
    with _opened(f"{database.resolve().as_uri()}?mode=ro&immutable=1") as connection:
        try:
            yield connection
        finally:
            after = database.stat()
            # Whatever was read, or went wrong, in a file that has changed meanwhile, says nothing.
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise _Changed("it was written meanwhile")


@contextlib.contextmanager
def _beside_a_writer(database: Path) -> Iterator[sqlite3.Connection]:
    with _opened(f"{database.resolve().as_uri()}?mode=ro") as connection:
        connection.execute("BEGIN")  # what is read afterwards is of one moment
        yield connection


@contextlib.contextmanager
def _of_a_copy(database: Path, ending: str = "-wal") -> Iterator[sqlite3.Connection]:
    before = database.stat()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / database.name
        # The log first: if it is emptied into the database in between, both hold what it held.
        shutil.copyfile(_beside(database, ending), _beside(copy, ending))
        shutil.copyfile(database, copy)
        if before.st_mtime_ns != database.stat().st_mtime_ns:
            raise _Changed("it was written meanwhile")
        with _opened(copy.as_uri()) as connection:
            yield connection


def _rows(connection: sqlite3.Connection, folder: str | os.PathLike[str], written_at: float) -> ProjectRows:
    where = f'project "{folder}"'
    connection.execute("PRAGMA trusted_schema=OFF")  # of a stranger's file
    check_harmless(connection, where)
    with contextlib.ExitStack() as stack:
        if version_of(connection) != SCHEMA_VERSION:
            # What an earlier version wrote is brought up to date in memory; a newer one's is refused there.
            memory = stack.enter_context(contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)))
            connection.backup(memory)
            bring_up_to_date(memory, where)
            connection = memory
        ask = connection.execute
        return ProjectRows(
            facts=dict(ask("SELECT name, value FROM project").fetchall()),
            trials=ask("SELECT * FROM trials ORDER BY number").fetchall(),
            executions=ask("SELECT * FROM executions ORDER BY 1, 2, 3, 4").fetchall(),
            epochs=ask(
                "SELECT trial_id, phase, attempt, execution, epoch, logs FROM epochs ORDER BY 1, 2, 3, 4, 5"
            ).fetchall(),
            written_at=written_at,
        )


def token_of(folder: str | os.PathLike[str], now: float | None = None) -> str:
    """A text that changes whenever a project does: cheap enough to be asked for several times a second.

    Args:
        folder: the project's.
        now: seconds since 1970; None: the clock's.
    """
    layout, parts, newest = ProjectLayout.of(folder), [], 0.0
    for path in (layout.database, _beside(layout.database, "-wal"), layout.requests):
        try:
            found = path.stat()
        except OSError:
            parts.append("-")
            continue
        parts.append(f"{found.st_mtime_ns:x}.{found.st_size:x}")
        newest = max(newest, found.st_mtime)
    # Two writes within one tick of the file system's clock may look like one: what is that new may still change.
    is_new = abs((time.time() if now is None else now) - newest) < _TICK_SECONDS
    return "-".join(parts) + ("~" if is_new else "")


def projects_below(folder: str | os.PathLike[str]) -> list[Path]:
    """The folders of all projects in a folder and below it, in order of their names; links are not followed."""
    found = [Path(place) for place, _, files in os.walk(folder) if DATABASE_NAME in files]
    return sorted(found)
