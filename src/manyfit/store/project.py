"""A project's database: facts are committed here before anybody acts on them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.errors import ProjectError, explain
from manyfit.core.files import write_failed
from manyfit.core.records import Computed, EpochLogs
from manyfit.core.untrusted import read_json
from manyfit.store import checksums, lock
from manyfit.store.checksums import Checksums
from manyfit.store.connecting import check_not_emptied, connect, copied_to, displaced, identity_of
from manyfit.store.layout import ProjectLayout, check_id, is_safe_id
from manyfit.store.migrations import database_failed, transaction
from manyfit.store.schema import MOST_COUNTED, check_journals, tampered

ExecutionKey = tuple[str, str, int, int]
"""Trial id, phase, attempt, index of the execution."""

READ_FROM_KERAS_TUNER = "read_from_keras_tuner"
"""Fact: the project was KerasTuner's, so its files in KerasTuner's format are not Manyfit's to delete."""
WRITTEN_FOR_KERAS_TUNER = "written_for_keras_tuner"
"""Fact: the ids of the tuners whose files Manyfit has written in KerasTuner's format."""
BESIDE_KERAS_TUNER = "beside_keras_tuner"
"""Fact: the project was started anew in a folder with a project of KerasTuner's, which is another one."""

_KEY = ("trial_id", "phase", "attempt", "execution")
_THIS_EXECUTION = " AND ".join(f"{name} = ?" for name in _KEY)


def _name_of(program: str) -> str:
    return hashlib.sha256(program.encode()).hexdigest()[:16]


class ProjectStore:
    """Opens (or creates) the project in a folder.

    Any number of tuners of one process may open a project, and any of their threads may read and write: writes come one
    after another. But a tuner that has not read what another one wrote is refused (`has_changed`), and while one is in
    a search (`begin_work`) all others are: what is finished is never written over by somebody who does not know of it.

    Args:
        folder: the project's folder.
        overwrite: delete what an earlier search left there, and nothing that Manyfit did not write.

    Attributes:
        is_beside_keras_tuner: whether files of KerasTuner's in the folder are those of another search.

    Raises:
        ProjectError: another process has the project open, the folder cannot be written, the file is not a
            project's database, it was written by a newer Manyfit, files of the project are links to somewhere else, or
            `overwrite` was meant for what is no project, or for one that another tuner is searching.
    """

    def __init__(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.layout = ProjectLayout.of(folder)
        self.folder = self.layout.folder
        self._place = self.folder.absolute()  # whatever the current folder is when the lock is given back
        self._database = ProjectLayout(self._place).database
        self._checksums = Checksums(self.folder, self._checksum)
        self._closed = False
        self._process = os.getpid()
        self._guard = threading.RLock()
        self.layout.refuse_links()  # before anything else, since the lock is a file, too
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if lock.acquire(self._place):
                self.layout.remove_partial_files()
        except OSError as error:
            got, instead = f"a folder that cannot be written ({error.strerror or error})", 'Type directory="my_search".'
            raise ProjectError(explain(f'directory "{self.folder}"', got, "a writable folder", instead)) from None
        try:
            if overwrite:
                self._clear()
            check_not_emptied(self.layout, self._where)
            self._connection = self._connect()
            self.catch_up()
            self.is_beside_keras_tuner = bool(self.get(BESIDE_KERAS_TUNER))
        except BaseException:
            lock.release(self._place)
            raise

    @property
    def _where(self) -> str:
        """This project, for messages."""
        return f'project "{self.folder}"'

    @staticmethod
    def exists(folder: str | os.PathLike[str]) -> bool:
        """Whether a project is in a folder."""
        return isinstance(folder, str | os.PathLike) and ProjectLayout.of(folder).database.is_file()

    def _clear(self) -> None:
        layout = self.layout
        layout.refuse_to_clear_others()
        lock.check(self._place, self)
        trial_ids: list[str] | None = None
        of_keras_tuner: list[str] = []
        try:
            check_not_emptied(layout, self._where)
            self._connection = self._connect()
            trial_ids = self._rows_of_first_column("SELECT id FROM trials")
            of_keras_tuner = [] if self.get(READ_FROM_KERAS_TUNER) else self.get(WRITTEN_FOR_KERAS_TUNER, [])
        except ProjectError:  # damaged, of a newer version, or a stranger's: its trials are told by their files' names
            pass
        # Files before rows: a clearing that breaks off leaves the list of what is still to be deleted.
        for path in layout.own_files(trial_ids, of_keras_tuner=of_keras_tuner):
            path.unlink(missing_ok=True)
        for folder in layout.own_folders(trial_ids):
            with contextlib.suppress(OSError):  # not empty: what is in there is the user's
                folder.rmdir()
        if trial_ids is None:
            for path in layout.database_files():
                path.unlink(missing_ok=True)
            self._connection = self._connect()
        self.catch_up()
        with transaction(self._connection, self._where) as connection:
            # Rows and not the file: another tuner of this process may have it open, and SQLite would not survive that.
            for table in ("trials", "executions", "epochs", "programs", "families", "decisions", "files"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM project WHERE name <> 'schema_version'")
            if layout.oracle_file.exists():
                facts = (BESIDE_KERAS_TUNER, json.dumps(True))
                connection.execute("INSERT INTO project VALUES (?, ?)", facts)
        self._connection.close()

    def _connect(self) -> sqlite3.Connection:
        check_journals(self.layout.database_files(), self._where)
        connection = connect(self.layout.database, self._where)
        self._identity = identity_of(self._database)
        return connection

    # Who writes ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All writes inside are committed together, or not at all.

        Raises:
            ProjectError: the disk is full or the file cannot be written; what was committed before stays.
            ProjectError: the project was closed, another tuner is searching it, or has written to it since this one
                has read it.
        """
        with self.exclusive():
            self._check_usable()
            self._check_place()
            lock.check(self._place, self)
            with transaction(self._connection, self._where) as connection:
                # Inside, where nobody else can write any more.
                if self.has_changed():
                    raise ProjectError(
                        explain(
                            self._where,
                            "a write by a tuner that has not seen what another tuner of this process has added",
                            "a tuner that is up to date",
                            "Type tuner.reload() first, or go on with the other tuner.",
                        )
                    )
                yield connection

    def exclusive(self) -> threading.RLock:
        """A lock of this store's threads, for a `with` statement around several calls."""
        return self._guard

    def begin_work(self, what: str) -> None:
        """Takes the project for a step in which no other tuner may write; `end_work` gives it back.

        Raises:
            ProjectError: another tuner has taken it, or another thread of this one; the message names it.
        """
        self._check_usable()
        self._write_anew_if_gone()
        lock.begin(self._place, self, what)

    def end_work(self) -> None:
        """The inverse of `begin_work`."""
        lock.end(self._place, self)

    def check_idle(self) -> None:
        """Checks that the project may be read anew: no other thread of this tuner is in the middle of something.

        Raises:
            ProjectError: one is, or the project was closed.
        """
        self._check_usable()
        self._write_anew_if_gone()
        lock.check(self._place, self, of_others=False, of_threads=True)

    def has_changed(self) -> bool:
        """Whether another tuner of this process has written here since `catch_up`."""
        return not self._closed and self._version() != self._seen

    def catch_up(self) -> None:
        """To be called before everything is read: what is there now is known from then on."""
        self._seen = self._version()

    def _version(self) -> int:
        """A number that changes when another connection commits, and not when this one does."""
        with self._guard:
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def _check_usable(self) -> None:
        if self._closed:
            got, instead = "a project that was closed", "Make the tuner again with the same arguments."
        elif os.getpid() != self._process:
            got = f"a process that was forked from process {self._process}, which has the project open"
            instead = "Make the tuner in the process that searches, or use executor=kt.ProcessExecutor(...)."
        else:
            return
        raise ProjectError(explain(self._where, got, "an open project of this process", instead))

    def _check_place(self) -> None:
        """Checks that the folder still is where it was opened: what is written below a lost name is lost."""
        found = identity_of(self._database)
        if found != self._identity:
            raise displaced(self._where, is_gone=found is None)

    def _write_anew_if_gone(self) -> None:
        """Writes what was committed to the folder's old place, where it was deleted or moved away."""
        if identity_of(self._database) is not None:
            return
        with self._guard:
            try:
                self._place.mkdir(parents=True, exist_ok=True)
                lock.renew(self._place)
                copied_to(self._database, self._connection)
            except (OSError, sqlite3.DatabaseError) as error:
                raise write_failed(self._where, str(error)) from error
            self._connection.close()
            self._connection = self._connect()
            self.catch_up()

    def _rows(self, query: str, *arguments: object) -> list[Any]:
        with self._guard:
            try:
                with self._reading() as connection:
                    return connection.execute(query, arguments).fetchall()
            except sqlite3.DatabaseError as error:
                raise database_failed(self._where, error) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """The connection; of a project that is closed one for this question only.

        Who has closed a tuner has given the lock back, and may still look at what it found.
        """
        if not self._closed:
            yield self._connection
            return
        place = f"{self.layout.database.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, uri=True)) as connection:
            connection.execute("PRAGMA trusted_schema=OFF")
            yield connection

    def _rows_of_first_column(self, query: str) -> list[str]:
        return [str(row[0]) for row in self._rows(query)]

    # Project facts ---------------------------------------------------------------------------------------------

    def get(self, name: str, default: object = None) -> Any:
        """A named fact of the project (settings, seed, space)."""
        rows = self._rows("SELECT value FROM project WHERE name = ?", name)
        try:
            return read_json(rows[0][0]) if rows else default
        except (ValueError, TypeError) as error:
            raise database_failed(self._where, sqlite3.DatabaseError(str(error))) from error

    def put(self, **facts: object) -> None:
        """Commits named facts of the project."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO project VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )

    # Trials ----------------------------------------------------------------------------------------------------

    def save_trials(self, rows: Iterable[Mapping[str, Any]], **facts: object) -> None:
        """Commits trials, new or changed, and project facts, in one transaction.

        Args:
            rows: mappings with the keys id, number, status, attempt, values, outcome, started_at, ended_at.
            facts: see `put`.

        Raises:
            UsageError: an id that cannot be part of a file's name.
        """
        rows = [{**row, "id": check_id(row["id"])} for row in rows]
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        row["id"],
                        row["number"],
                        row["status"],
                        row["attempt"],
                        json.dumps(row["values"]),
                        json.dumps(row["outcome"]),
                        row["started_at"],
                        row["ended_at"],
                    )
                    for row in rows
                ],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO project VALUES (?, ?)",
                [(name, json.dumps(value)) for name, value in facts.items()],
            )

    def trials(self) -> list[dict[str, Any]]:
        """All trials in the order of their start."""
        names = ("id", "number", "status", "attempt", "values", "outcome", "started_at", "ended_at")
        trials = [dict(zip(names, row, strict=True)) for row in self._rows("SELECT * FROM trials ORDER BY number, id")]
        for trial in trials:
            self._check_key(trial["id"], trial["number"], trial["attempt"])
            trial["values"] = read_json(trial["values"])
            trial["outcome"] = read_json(trial["outcome"])
        return trials

    def _check_key(self, trial_id: object, *numbers: object) -> None:
        """Checks what becomes part of paths: columns of SQLite hold whatever a stranger has put there."""
        odd = [repr(trial_id)] if not is_safe_id(trial_id) else []
        odd += [repr(number) for number in numbers if type(number) is not int or not 0 <= number < MOST_COUNTED]
        if odd:
            got = f"a trial that is called or counted {odd[0]}"
            raise tampered(self._where, got, "trials as Manyfit writes them")

    # Executions ------------------------------------------------------------------------------------------------

    def save_epochs(self, rows: Iterable[tuple[str, str, int, int, int, Mapping[str, float]]]) -> None:
        """Commits (trial id, phase, attempt, execution, epoch, logs) of a whole population in one transaction."""
        # One commit for a population's epoch, not one per member: a commit waits for the disk.
        rows = list(rows)
        how = [EpochLogs.how(row[5]) for row in rows]
        # Long, and the same for thousands of epochs: so they have a table of their own.
        programs = {_name_of(each.program): each.program for each in how if each is not None}
        columns = [(None, None) if each is None else (_name_of(each.program), each.run) for each in how]
        with self.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO programs VALUES (?, ?)", programs.items())
            connection.executemany(
                "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [(*row[:5], json.dumps(dict(row[5])), *told) for row, told in zip(rows, columns, strict=True)],
            )

    def save_execution(
        self, key: ExecutionKey, outcome: Mapping[str, object], *, history: Sequence[Mapping[str, object]] | None = None
    ) -> None:
        """Commits the outcome of an execution, and its epochs where they were not reported one by one.

        Args:
            key: trial id, phase, attempt of the trial, index within the phase.
            outcome: JSON: ending, seed, best_epoch, metrics, seconds, message, ...
            history: one mapping of logs per epoch; replaces what was reported.
        """
        trial_id, phase, _, execution = key
        digests = self._checksums.of(self.layout.of_execution(trial_id, execution, phase=phase))
        with self.transaction() as connection:
            checksums.save(connection, digests)
            connection.execute("INSERT OR REPLACE INTO executions VALUES (?, ?, ?, ?, ?)", (*key, json.dumps(outcome)))
            if history is not None:
                connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION}", key)
                connection.executemany(
                    "INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?, NULL, NULL)",
                    [(*key, epoch, json.dumps(dict(logs))) for epoch, logs in enumerate(history)],
                )

    def forget_epochs(self, key: ExecutionKey, first: int = 0) -> None:
        """Drops the reported epochs of an execution that will run again, from an epoch on."""
        with self.transaction() as connection:
            connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION} AND epoch >= ?", (*key, first))

    def forget_executions(self, keys: Iterable[ExecutionKey]) -> None:
        """Drops finished executions and their epochs, because others take their place."""
        with self.transaction() as connection:
            for key in keys:
                connection.execute(f"DELETE FROM executions WHERE {_THIS_EXECUTION}", key)
                connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION}", key)

    def executions(self) -> list[dict[str, Any]]:
        """All finished executions: trial_id, phase, attempt, execution, and what their outcome holds."""
        # Ordered by key and not as they were written: after a restart everything has to come in the same order.
        rows = self._rows("SELECT * FROM executions ORDER BY 1, 2, 3, 4")
        for row in rows:
            self._check_key(row[0], row[2], row[3])
        return [{**dict(zip(_KEY, row, strict=False)), **read_json(row[4])} for row in rows]

    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]:
        """Logs of every epoch: trial_id, phase, attempt, execution, epoch, logs, and how they were computed."""
        where, arguments = ("", ()) if trial_id is None else (" WHERE trial_id = ?", (trial_id,))
        rows = self._rows(f"SELECT * FROM epochs{where} ORDER BY 1, 2, 3, 4, 5", *arguments)
        programs = dict(self._rows("SELECT name, text FROM programs"))
        for row in rows:
            self._check_key(row[0], row[2], row[3], row[4])
        return [
            {
                **dict(zip((*_KEY, "epoch"), row, strict=False)),
                "logs": read_json(row[5]),
                "computed": Computed(programs[row[6]], row[7]) if row[6] in programs and row[7] is not None else None,
            }
            for row in rows
        ]

    # What confirmations decided ----------------------------------------------------------------------------------

    def save_evidence(
        self,
        families: Iterable[tuple[int, Mapping[str, object], Mapping[str, int]]],
        decisions: Iterable[tuple[int, str, Mapping[str, object]]] = (),
    ) -> None:
        """Commits families of contenders and decisions among them. What is known is a fact: it is never replaced.

        Args:
            families: number, rules, and the rounds up to which each trial was looked at; the last may grow.
            decisions: family, the trial that was found worse, and why.
        """
        with self.transaction() as connection:
            for number, rules, looks in families:
                new = (number, json.dumps(dict(rules)), json.dumps(dict(looks)))
                connection.execute("INSERT OR IGNORE INTO families VALUES (?, ?, ?)", new)
                connection.execute("UPDATE families SET looks = ? WHERE number = ?", (new[2], number))
            connection.executemany(
                "INSERT OR IGNORE INTO decisions VALUES (?, ?, ?)",
                [(family, check_id(trial_id), json.dumps(dict(why))) for family, trial_id, why in decisions],
            )

    def families(self) -> list[tuple[dict[str, Any], dict[str, int]]]:
        """Rules and looks of every family, in their order."""
        rows = self._rows("SELECT rules, looks FROM families ORDER BY number")
        return [(read_json(rules), read_json(looks)) for rules, looks in rows]

    def decisions(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Family, trial that was found worse, and why, of every decision."""
        rows = self._rows("SELECT family, trial_id, decision FROM decisions ORDER BY 1, 2")
        for row in rows:
            self._check_key(row[1], row[0])
        return [(family, trial_id, read_json(why)) for family, trial_id, why in rows]

    # Files -----------------------------------------------------------------------------------------------------

    def _checksum(self, name: str) -> str | None:
        rows = self._rows("SELECT sha256 FROM files WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    def check_files(self, *paths: Path) -> None:
        """Checks that files of the project are those that were written.

        Raises:
            ProjectError: one is damaged, or another one.
        """
        for path in paths:
            self._checksums.check(path)

    def is_sound(self, path: Path) -> bool:
        """Whether a file is the one that was written; where it is another one, that is said once."""
        return self._checksums.is_sound(path)

    def note_files(self, *paths: Path) -> None:
        """Commits the checksums of files that belong to no execution, or that were written after it."""
        digests = self._checksums.of(paths)
        with self.transaction() as connection:
            checksums.save(connection, digests)

    def weights_path(self, trial_id: str, execution: int) -> Path:
        """Where the weights of an execution's best epoch lie."""
        return self.layout.weights(trial_id, execution)

    def delete_weights(self, trial_ids: Iterable[str], *, of_search_only: bool = False) -> None:
        """Deletes the weights of trials, of all phases or of the search."""
        for path in self.layout.of_models(*trial_ids, of_search_only=of_search_only):
            with contextlib.suppress(OSError):  # the next search tries again
                path.unlink()

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def close(self) -> None:
        """Closes the file and gives the project's lock back."""
        # A forked process has copies of both, which are its parent's to give back.
        if not self._closed and os.getpid() == self._process:
            self._closed = True
            self._connection.close()
            lock.release(self._place)

    # A tuner that nobody closed must not keep the project locked for the rest of a notebook's life.
    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_connection"):
            self.close()
