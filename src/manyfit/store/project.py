"""A project's database: facts are committed here before anybody acts on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.errors import ProjectError, explain
from manyfit.store import lock
from manyfit.store.layout import DATABASE_NAME, ProjectLayout
from manyfit.store.migrations import bring_up_to_date, transaction

ExecutionKey = tuple[str, str, int, int]
"""Trial id, phase, attempt, index of the execution."""

_KEY = ("trial_id", "phase", "attempt", "execution")
_THIS_EXECUTION = " AND ".join(f"{name} = ?" for name in _KEY)


class ProjectStore:
    """Opens (or creates) the project in a folder.

    Args:
        folder: the project's folder.
        overwrite: delete what an earlier search left there.

    Raises:
        ProjectError: another process has the project open, the folder cannot be written, the file is not a
            project's database, it was written by a newer Manyfit, or `overwrite` would delete what is no project.
    """

    def __init__(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        self.layout = ProjectLayout.of(folder)
        self.folder = self.layout.folder
        self._closed = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(self.folder)
        except OSError as error:
            raise ProjectError(
                explain(
                    f'directory "{self.folder}"',
                    f"a folder that cannot be written ({error.strerror or error})",
                    "a writable folder",
                    'Type another one, for instance directory="my_search".',
                )
            ) from None
        try:
            if overwrite:
                self._clear()
            self._connection = self._connect()
        except BaseException:
            lock.release(self.folder)
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
        marks = (layout.database, layout.oracle_file)  # what tells a project, KerasTuner's included, from any folder
        entries = [entry for entry in self.folder.iterdir() if entry not in (layout.lock, layout.holder)]
        entries.sort(key=lambda entry: entry in marks)  # the marks last: a broken off clearing can be repeated
        if entries and entries[-1] not in marks:
            raise ProjectError(
                explain(
                    f'overwrite=True with the project folder "{self.folder}"',
                    f"a folder with {entries[0].name} and no project in it",
                    "an empty folder, or a project's",
                    "Type another project_name= or directory=, or empty the folder yourself.",
                )
            )
        for entry in entries:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _connect(self) -> sqlite3.Connection:
        connection = None
        try:
            # Autocommit (`isolation_level=None`): transactions begin where `transaction` says so, and nowhere else. Any
            # thread may write, since oracles are called from several; their lock keeps the order.
            connection = sqlite3.connect(
                self.layout.database, isolation_level=None, check_same_thread=False, timeout=30.0
            )
            connection.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing at this level; only a power cut can lose the last transactions.
            connection.execute("PRAGMA synchronous=NORMAL")
            bring_up_to_date(connection, self._where)
        except BaseException as error:
            if connection is not None:
                connection.close()
            if not isinstance(error, sqlite3.DatabaseError):
                raise
            raise ProjectError(
                explain(
                    self._where,
                    f"{DATABASE_NAME}, which cannot be read or written ({error})",
                    "a Manyfit project in a writable folder",
                    "Restore the file, or type overwrite=True to start anew.",
                )
            ) from None
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All writes inside are committed together, or not at all.

        Raises:
            ProjectError: the disk is full or the file cannot be written; what was committed before stays.
        """
        with transaction(self._connection, self._where) as connection:
            yield connection

    # Project facts ---------------------------------------------------------------------------------------------

    def get(self, name: str, default: object = None) -> Any:
        """A named fact of the project (settings, seed, space)."""
        row = self._connection.execute("SELECT value FROM project WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

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
        """
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
        rows = self._connection.execute("SELECT * FROM trials ORDER BY number, id").fetchall()
        trials = [dict(zip(names, row, strict=True)) for row in rows]
        for trial in trials:
            trial["values"] = json.loads(trial["values"])
            trial["outcome"] = json.loads(trial["outcome"])
        return trials

    # Executions ------------------------------------------------------------------------------------------------

    def save_epochs(self, rows: Iterable[tuple[str, str, int, int, int, Mapping[str, float]]]) -> None:
        """Commits (trial id, phase, attempt, execution, epoch, logs) of a whole population in one transaction."""
        # One commit for a population's epoch, not one per member: a commit waits for the disk.
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO epochs VALUES (?, ?, ?, ?, ?, ?)",
                [(*row[:5], json.dumps(dict(row[5]))) for row in rows],
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
        with self.transaction() as connection:
            connection.execute("INSERT OR REPLACE INTO executions VALUES (?, ?, ?, ?, ?)", (*key, json.dumps(outcome)))
            if history is not None:
                connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION}", key)
                connection.executemany(
                    "INSERT INTO epochs VALUES (?, ?, ?, ?, ?, ?)",
                    [(*key, epoch, json.dumps(dict(logs))) for epoch, logs in enumerate(history)],
                )

    def forget_epochs(self, key: ExecutionKey) -> None:
        """Drops the reported epochs of an execution that will run again from its start."""
        with self.transaction() as connection:
            connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION}", key)

    def forget_executions(self, keys: Iterable[ExecutionKey]) -> None:
        """Drops finished executions and their epochs, because others take their place."""
        with self.transaction() as connection:
            for key in keys:
                connection.execute(f"DELETE FROM executions WHERE {_THIS_EXECUTION}", key)
                connection.execute(f"DELETE FROM epochs WHERE {_THIS_EXECUTION}", key)

    def executions(self) -> list[dict[str, Any]]:
        """All finished executions: trial_id, phase, attempt, execution, and what their outcome holds."""
        # Ordered by key and not as they were written: after a restart everything has to come in the same order.
        rows = self._connection.execute("SELECT * FROM executions ORDER BY 1, 2, 3, 4").fetchall()
        return [{**dict(zip(_KEY, row, strict=False)), **json.loads(row[4])} for row in rows]

    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]:
        """Logs of every epoch: trial_id, phase, attempt, execution, epoch, logs."""
        where, arguments = ("", ()) if trial_id is None else (" WHERE trial_id = ?", (trial_id,))
        rows = self._connection.execute(f"SELECT * FROM epochs{where} ORDER BY 1, 2, 3, 4, 5", arguments).fetchall()
        return [{**dict(zip((*_KEY, "epoch"), row, strict=False)), "logs": json.loads(row[5])} for row in rows]

    # Weights ---------------------------------------------------------------------------------------------------

    def weights_path(self, trial_id: str, execution: int) -> Path:
        """Where the weights of an execution's best epoch lie."""
        return self.layout.weights(trial_id, execution)

    def delete_weights(self, trial_ids: Iterable[str]) -> None:
        """Deletes the weights of trials, where there are any."""
        for trial_id in trial_ids:
            for path in self.layout.of_models(trial_id):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file and gives the project's lock back."""
        if not self._closed:
            self._closed = True
            self._connection.close()
            lock.release(self.folder)

    # A tuner that nobody closed must not keep the project locked for the rest of a notebook's life.
    def __del__(self) -> None:
        if not getattr(self, "_closed", True) and hasattr(self, "_connection"):
            self.close()


def now() -> float:
    """Seconds since 1970, for the times that are stored."""
    return time.time()
