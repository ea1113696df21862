"""The screen of a search from outside: from another terminal, by what its project says; `manyfit show --watch`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from manyfit.core.objective import Objective
from manyfit.report import words
from manyfit.report.snapshot import RecordedRun, RecordedTrial, Snapshot
from manyfit.show.board import SEARCH, Board, MemberState, StepProgress
from manyfit.show.screen import layout
from manyfit.store.facts import SECONDS, Leader, SearchPlan

_LEAST_SECONDS = 1.0  # between two looks
_SHARE = 0.1  # of the time at most for reading: a project of 5,000 trials takes a second


class SnapshotSources:
    """What a board asks of a search, from a snapshot: see `manyfit.show.board.ProgressSources`.

    Args:
        snapshot: of the project.
        now: seconds since 1970.
    """

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.objective = Objective(snapshot.objective, cast(Literal["min", "max"], snapshot.direction))
        self._snapshot, self._now = snapshot, now

    def plan(self) -> SearchPlan:
        """See `ProgressSources`."""
        return self._snapshot.plan or SearchPlan()

    def leader(self) -> Leader | None:
        """See `ProgressSources`."""
        return self._snapshot.leader

    def programs(self) -> Sequence[Mapping[str, Any]]:
        """See `ProgressSources`."""
        return list(self._snapshot.programs.values())

    def spent(self) -> Mapping[str, float]:
        """See `ProgressSources`."""
        return dict(self._snapshot.facts.get(SECONDS) or {})

    def left(self) -> float:
        """See `ProgressSources`."""
        limit = self.plan().max_seconds
        return float("inf") if limit is None else max(0.0, limit - self._snapshot.seconds(self._now))


class WatchedProject:
    """Looks at a project again and again, and has a board of it.

    Args:
        folder: of the project.
        clock: seconds since 1970. Tests pass their own.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._step: StepProgress | None = None
        self.look()

    def look(self) -> None:
        """Reads the project as it is now."""
        self.seen = seen = Snapshot.of(self._folder)
        now, activity = self._clock(), seen.activity
        # A new board each time: what has been forgotten, a trial that is tried again say, is not shown on.
        self.board = board = Board(SnapshotSources(seen, now), now=self._clock)
        board.begin(SEARCH if activity is None else activity.what)
        board.began_at = now if activity is None else activity.since
        board.last_at = seen.written_at
        self._count(board, now)
        board.values = {trial.trial_id: trial.values for trial in seen.trials}
        board.scores = {one.trial_id: one.score for one in seen.trials if one.is_completed and one.score is not None}
        board.reasons = {one.trial_id: one.message or one.ending or "" for one in seen.failed}
        for trial in seen.trials:
            for run in trial.runs:
                if run.ending is None and run.logs and self.is_worked_on:
                    board.members[trial.trial_id, run.phase, run.execution] = self._member(trial, run)

    def _count(self, board: Board, now: float) -> None:
        """Trials and epochs so far, and their pace since the first look."""
        before = self._step
        step = board.step
        step.began_at = board.began_at
        runs = [run for trial in self.seen.trials for run in trial.runs]
        own = [run for run in runs if (run.phase == "search") == board.is_searching]
        step.num_begun = len(self.seen.trials)
        step.num_ended = sum(trial.ended_at is not None for trial in self.seen.trials)
        step.num_runs = sum(run.ending is not None for run in own)
        step.num_epochs = sum(run.num_epochs for run in own)
        # How long the epochs before the first look took is not known here.
        if before is None or before.what != step.what:
            step.first_epoch_at, step.num_first = now, step.num_epochs
        else:
            step.first_epoch_at, step.num_first = before.first_epoch_at, before.num_first
        step.least_epochs = 1
        self._step = step

    def _member(self, trial: RecordedTrial, run: RecordedRun) -> MemberState:
        several = run.phase != "search" or (self.seen.plan or SearchPlan()).executions_per_trial > 1
        name = f"{trial.trial_id}/{run.execution + 1}" if several else trial.trial_id
        curve = list(run.curves.get(self.seen.objective, ()))
        return MemberState(trial.trial_id, name, trial.values, run.num_epochs, curve)

    @property
    def is_worked_on(self) -> bool:
        """Whether somebody is at work there."""
        return self.seen.activity is not None and self.seen.activity.until is None and not self.seen.has_died

    def drawn(self, width: int) -> RenderableType:
        """The screen, below the project's name and who works on it."""
        head = [
            Text(words.name_of(self._folder), style="bold"),
            Text(words.state(self.seen, self._clock()), style="dim"),
        ]
        return Group(*head, layout(self.board, width))


def watch(folder: Path, screen: Console) -> Snapshot:
    """Shows a project until nobody works on it any more, or Ctrl+C.

    Args:
        folder: of the project.
        screen: the terminal.

    Returns:
        The last snapshot.

    Raises:
        ProjectError: there is no project, or it cannot be read any more.
    """
    project = WatchedProject(folder)
    with Live(project.drawn(screen.width), console=screen, auto_refresh=False, transient=True) as live:
        # A new project waits for its first search.
        while project.is_worked_on or project.seen.activity is None:
            before = time.monotonic()
            project.look()
            live.update(project.drawn(screen.width), refresh=True)
            time.sleep(max(_LEAST_SECONDS, (time.monotonic() - before) / _SHARE))
    return project.seen
