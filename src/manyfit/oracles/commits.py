"""How the book's writes reach the store: in their order, none lost, and small facts along with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias

from manyfit.core.errors import ManyfitError
from manyfit.core.files import write_failed

Key = tuple[str, str, int, int]  # of an execution in the store: trial id, phase, attempt, index


RELOADING = "Error reloading `Oracle` from existing project"
"""Where errors about what a project holds were met; KerasTuner's words."""


class Store(Protocol):
    """What the book needs of a store; `manyfit.store.ProjectStore` is one."""

    def get(self, name: str, default: object = None) -> Any: ...
    def put(self, **facts: Any) -> None: ...
    def save_trials(self, rows: Iterable[Mapping[str, Any]], **facts: Any) -> None: ...
    def trials(self) -> list[dict[str, Any]]: ...
    def save_epochs(self, rows: Iterable[tuple[str, str, int, int, int, Mapping[str, float]]]) -> None: ...
    def save_execution(
        self, key: Key, outcome: Mapping[str, Any], *, history: Sequence[Mapping[str, float]] | None = None
    ) -> None: ...
    def executions(self) -> list[dict[str, Any]]: ...
    def epochs(self, trial_id: str | None = None) -> list[dict[str, Any]]: ...
    def forget_epochs(self, key: Key, first: int = 0) -> None: ...
    def forget_executions(self, keys: Iterable[Key]) -> None: ...
    def save_evidence(
        self,
        families: Iterable[tuple[int, Mapping[str, Any], Mapping[str, int]]],
        decisions: Iterable[tuple[int, str, Mapping[str, Any]]] = (),
    ) -> None: ...
    def families(self) -> list[tuple[dict[str, Any], dict[str, int]]]: ...
    def decisions(self) -> list[tuple[int, str, dict[str, Any]]]: ...
    def exclusive(self) -> AbstractContextManager[object]: ...
    def begin_work(self, what: str) -> None: ...
    def end_work(self) -> None: ...
    def check_idle(self) -> None: ...
    def has_changed(self) -> bool: ...
    def catch_up(self) -> None: ...


Write: TypeAlias = Callable[[Store], None]
"""A commit. It may be made twice: what it writes replaces what is there."""

#: What a write fails with that the store will never take, such as a value that is no JSON. Others may work later.
_REFUSED = (TypeError, ValueError)


class Commits:
    """Makes writes in their order. One that fails is *owed*, and made before the next one.

    Facts that nobody acts on, and that only tell people where a search stands (`note`), get no commit of their own,
    which waits for the disk: they go along with the next one that holds facts.

    Attributes:
        store: where writes go; None: nowhere yet.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        self._owed: list[Write] = []
        self._notes: dict[str, Any] = {}

    def note(self, **facts: Any) -> None:
        """Has facts of the project committed along with the next ones."""
        self._notes.update(facts)

    def save(self, rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
        """Commits rows of trials, facts of the project, and what was noted, as one transaction."""
        facts = self._with_notes(facts)
        self.make(lambda store: store.save_trials(rows, **facts))

    def put(self, facts: Mapping[str, Any]) -> None:
        """Commits facts of the project, and what was noted."""
        facts = self._with_notes(facts)
        if facts:
            self.make(lambda store: store.put(**facts))

    def _with_notes(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        notes, self._notes = self._notes, {}
        return {**notes, **facts}

    def make(self, write: Write) -> None:
        """Makes a write, after those that are owed."""
        if self.store is not None:
            # One thread at a time: another one that saves must not overtake, nor write twice what is owed.
            with self.store.exclusive():
                self._owed.append(write)
                self.settle()

    def owe(self, writes: Iterable[Write]) -> None:
        """Takes writes that are made before the next one."""
        self._owed += writes

    def forget(self) -> None:
        """Drops what is owed: it belongs to a state that another tuner has gone on from without it."""
        self._owed.clear()

    def settle(self) -> None:
        """Makes the writes that are owed, in their order.

        Raises:
            ProjectError: one cannot be made; it stays owed.
        """
        if self.store is None:
            return
        with self.store.exclusive():
            while self._owed:
                try:
                    self._owed[0](self.store)
                except _REFUSED:
                    del self._owed[0]
                    raise
                except ManyfitError:
                    raise
                except Exception as error:  # whatever it is, no trial is to blame
                    raise write_failed("project", str(error)) from error
                del self._owed[0]
