"""What a tuner writes down for those who look at its project: the plan, the programs, who leads, where it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from collections.abc import Callable
from importlib import metadata
from typing import Any

import keras

from manyfit.core.errors import ProjectError
from manyfit.core.events import Event, StepBegan, StepEnded, TrialEnded
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.explaining import how_different
from manyfit.finish.leader import leader_of
from manyfit.oracles import Oracle
from manyfit.oracles.book import TrialBook
from manyfit.store.facts import ENSEMBLE, ENVIRONMENT, FALLBACKS, LEADER, PLAN, PROGRAM, Leader, SearchPlan, to_fact
from manyfit.store.predictions import Archive
from manyfit.training.program_report import ProgramRecord, Programs

_PACKAGES = ("manyfit", "keras", "jax", "tensorflow", "torch", "numpy")
_FIRST_LOOK = 8  # trials after which it is said for the first time who leads; then after twice as many each time


class Recording:
    """Listens to a search, and has its facts committed along with those of the trials.

    Args:
        oracle: of the search.
        plan: how far the search is to go, as it is known when it begins.
        programs: what is compiled so far; None: nothing that executions share.
        predictions: where the search keeps them.

    Attributes:
        leader: who leads, as it was last looked at.
    """

    def __init__(
        self,
        oracle: Oracle,
        *,
        plan: Callable[[], SearchPlan],
        programs: Callable[[], Programs | None],
        predictions: Callable[[], Archive],
    ) -> None:
        self._oracle = oracle
        self._plan, self._programs, self._predictions = plan, programs, predictions
        self.leader: Leader | None = None
        self._known: dict[str, ProgramRecord] = {}
        self._num_reasons = 0
        self._next_look = _FIRST_LOOK

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`."""
        if isinstance(event, StepBegan) and event.what == "a search":
            self._oracle.book.note(**{PLAN: to_fact(self._plan()), ENVIRONMENT: environment()})
        elif isinstance(event, TrialEnded):
            self._note_programs(is_last=False)
            if len(self._oracle.book.ended) >= self._next_look:
                self._next_look *= 2
                self._note_leader()
        elif isinstance(event, StepEnded):
            self._note_programs(is_last=True)
            if event.what == "a search":
                self._note_leader()

    def _note_programs(self, *, is_last: bool) -> None:
        """Those that have changed. Which trials fell back for which reason: once per reason, and at the end."""
        programs = self._programs()
        if programs is None:
            return
        changed = [record for record in programs.records if self._known.get(record.program) != record]
        self._known.update({record.program: record for record in changed})
        self._oracle.book.note(**{f"{PROGRAM}{record.program}": dataclasses.asdict(record) for record in changed})
        if len(programs.reasons) > self._num_reasons or (is_last and programs.reasons):
            self._num_reasons = len(programs.reasons)
            self._oracle.book.note(**{FALLBACKS: {why: list(ids) for why, ids in programs.reasons.items()}})

    def _note_leader(self) -> None:
        self.leader = leader_of(self._oracle, self._predictions())
        if self.leader is not None:
            self._oracle.book.note(**{LEADER: to_fact(self.leader)})

    def records(self) -> list[dict[str, Any]]:
        """Of the programs, as they were when a trial last ended."""
        return [dataclasses.asdict(record) for record in list(self._known.values())]


class OracleSources:
    """What a display asks of a search besides its events (`manyfit.show.board.ProgressSources`), by its oracle alone.

    Args:
        oracle: of the search.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.objective = oracle.objective
        self._oracle = oracle

    def plan(self) -> SearchPlan:
        """See `ProgressSources`."""
        return SearchPlan(self._oracle.max_trials, self._oracle.max_seconds)

    def leader(self) -> Leader | None:
        """See `ProgressSources`."""
        return None

    def programs(self) -> list[dict[str, Any]]:
        """See `ProgressSources`."""
        return []

    def spent(self) -> dict[str, float]:
        """See `ProgressSources`."""
        return dict(self._oracle.book.seconds)

    def left(self) -> float:
        """See `ProgressSources`."""
        return self._oracle.clock.left()


class SearchSources(OracleSources):
    """The same, by what is recorded of it, too.

    Args:
        oracle: of the search.
        recording: that listens to it.
        plan: how far it is to go.
    """

    def __init__(self, oracle: Oracle, recording: Recording, plan: Callable[[], SearchPlan]) -> None:
        super().__init__(oracle)
        self._recording, self._plan = recording, plan

    def plan(self) -> SearchPlan:
        """See `ProgressSources`."""
        return self._plan()

    def leader(self) -> Leader | None:
        """See `ProgressSources`."""
        return self._recording.leader

    def programs(self) -> list[dict[str, Any]]:
        """See `ProgressSources`."""
        return self._recording.records()


def environment() -> dict[str, Any]:
    """Versions, backend and machine of this process."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "packages": versions,
        "backend": keras.backend.backend(),
        "platform": platform.platform(),
        "processors": os.cpu_count(),
    }


def record_ensemble(book: TrialBook, ensemble: Ensemble) -> None:
    """Writes down what an ensemble came to. The caller gets it in any case: a full disk is owed that line."""
    with contextlib.suppress(ProjectError):
        book.put(**{ENSEMBLE: summary_of(ensemble)})


def summary_of(ensemble: Ensemble) -> dict[str, Any]:
    """What is kept of an ensemble: who is in it, what it scores, and what it gains over its best member."""
    choice, gain = ensemble.choice, ensemble.gain
    return {
        "method": ensemble.method,
        "metric": ensemble.metric.name,
        "weights": {name: float(weight) for name, weight in ensemble.weights.items() if weight},
        "refused": ensemble.refused,
        "score": None if choice is None else float(choice.score),
        "baseline_score": None if choice is None else float(choice.baseline_score),
        "gain": None if gain is None else [float(gain.estimate), float(gain.low), float(gain.high)],
        "notes": list(ensemble.notes),
        "diversity": how_different(ensemble.problem, ensemble.pool, [member.name for member in ensemble.members]),
    }
