"""Runs of folds: which there are, whatever step has trained them, and a supply of those that are missing.

A run of a fold is known by what it was trained as: the rows of its split and the call of `fit`, under its trial's
values. Whoever wants a fold trained asks here first, so none is trained twice: a search with folds, a bag, another bag
with more repeats, a confirmation on folds. The runs themselves lie in the book, in the phase that trained them; a note
says which fold each of them is of.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.records import SEARCH, Decision, Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.data.folds import FoldPlan
from manyfit.data.identity import fingerprint
from manyfit.data.rows import Rows
from manyfit.finish.longer import run_seconds
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import RACE, Execution
from manyfit.store.checksums import IsSound, unknown
from manyfit.store.layout import ProjectLayout
from manyfit.training.base import Task
from manyfit.training.devices import distributed, distribution_of
from manyfit.training.estimators import load_estimator, pickle_path
from manyfit.training.models import build_model
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_weights

FOLD = "fold"  # the phase of runs that were trained after the search, and the name of the note
FOLDS = "folds"  # the note of a search's executions: the folds of all of them, in turn
EPOCHS = "epochs"  # the note of what was trained after the search: up to here
_WITHOUT = ("x", "y", "sample_weight", "validation_data", "validation_split", "verbose", "callbacks", "epochs")


def fold_names(plan: FoldPlan, rows: Rows, call: Call) -> list[str]:
    """A name for every split of a plan: equal for equal rows, splits and calls of `fit`.

    Args:
        plan: the splits.
        rows: that they cut.
        call: that trains; its callbacks count by their classes, since their state would make every call another one.
    """
    data = fingerprint(rows.num_rows, *rows.parts)
    settings = {name: value for name, value in call.arguments.items() if name not in _WITHOUT}
    classes = " ".join(type(one).__name__ for one in call.callbacks)
    splits = (plan.folds.split(index) for index in range(plan.num_splits))
    return [fingerprint(data, settings, classes, split.training, split.validation) for split in splits]


@dataclasses.dataclass(frozen=True)
class SharedFolds:
    """The folds of a confirmation's seeds, whose runs a bag takes, and which may be there already.

    Attributes:
        names: of the splits of the first seeds, in order.
        epochs: that a full run trains for; None: as the call says.
    """

    names: tuple[str, ...]
    epochs: int | None = None

    def runs(self, trial: Trial) -> dict[int, Execution]:
        """The full runs of a trial that a bag has trained, by the number of their split."""
        found: dict[int, Execution] = {}
        numbers = {name: number for number, name in reversed(list(enumerate(self.names)))}
        for _, run in sorted(trial.executions_of(FOLD).items()):
            number = numbers.get(run.notes.get(FOLD, ""))
            if number is not None and _is_full(run, self.epochs):
                found.setdefault(number, run)
        return found


def seed_of_fold(oracle: Oracle, number: int) -> int:
    """The seed of the first run on a split: the same for all trials, like its rows, so that they are pairs."""
    return seeds.seed_of(oracle.seed, FOLD, number)


@dataclasses.dataclass(frozen=True)
class FoldRun:
    """One run of a fold that has a model."""

    trial: Trial
    phase: str
    run: Execution

    def weights(self, layout: ProjectLayout) -> Path:
        """Where its weights lie."""
        return layout.weights(self.trial.trial_id, self.run.index, phase=self.phase)


def known_runs(
    trial: Trial, name: str, layout: ProjectLayout, epochs: int | None, *, is_sound: IsSound = unknown
) -> list[FoldRun]:
    """The runs of a trial on one fold whose models are there, those of the search first.

    Args:
        trial: whose values they have.
        name: of the fold, see `fold_names`.
        layout: says where weights lie.
        epochs: that a full run trains for; None: as the call says.
        is_sound: whether a file is what was written; a run whose weights are not is trained again.
    """
    found = []
    for phase in (SEARCH, FOLD, RACE):
        for _, run in sorted((trial.executions if phase == SEARCH else trial.executions_of(phase)).items()):
            one = FoldRun(trial, phase, run)
            path = one.weights(layout)
            # A search may have stopped it early, or promoted it no further: then it says nothing of a full training.
            full = trial.target_epochs in (None, epochs) if phase == SEARCH else True
            if (
                _fold_of(run) == name
                and full
                and _is_full(run, epochs)
                and any(each.exists() and is_sound(each) for each in (path, pickle_path(path)))
            ):
                found.append(one)
    return found


def _is_full(run: Execution, epochs: int | None) -> bool:
    # Runs before 0.2 say nothing of their epochs: they were those of the best trained trial.
    return run.ending is Ending.COMPLETED and run.notes.get(EPOCHS, epochs) == epochs


def _fold_of(run: Execution) -> str | None:
    if FOLDS in run.notes:
        names = run.notes[FOLDS]
        return names[run.index % len(names)]
    return run.notes.get(FOLD)


def load_run(task: Task, one: FoldRun, layout: ProjectLayout, *, trust: bool = False) -> Any:
    """The model of a run, with the weights of its best epoch.

    Args:
        task: builds it.
        one: the run.
        layout: says where its weights lie.
        trust: allow an estimator that somebody else wrote.
    """
    path = one.weights(layout)
    if pickle_path(path).exists():
        return load_estimator(pickle_path(path), trust=trust)
    # Seeded, since a build function may draw: random features that no weight remembers, say.
    with seeded(one.run.seed), distributed(distribution_of(task.devices)):
        model = build_model(task.build, one.trial.hyperparameters.copy())
    load_weights(model, str(path))
    return model


class FoldSupply:
    """Hands out the runs of folds that are missing; results go into the book. See `manyfit.training.base.Supply`.

    Args:
        wanted: trial and number of a split, of each run.
        names: of the splits, see `fold_names`.
        oracle: seed and book.
        layout: says where weights go.
        epochs: train up to here; None: as the call says.
        clock: when it is over none begins, and those that run are broken off.

    Attributes:
        splits: the number of the split of each run.
        failures: why runs have no model, by trial.
    """

    independent = True

    def __init__(
        self,
        wanted: Sequence[tuple[Trial, int]],
        names: Sequence[str],
        oracle: Oracle,
        layout: ProjectLayout,
        *,
        epochs: int | None,
        clock: Clock,
    ) -> None:
        self.failures: dict[str, str] = {}
        self.splits: dict[tuple[str, int], int] = {}
        self.out_of_time = False
        self._names, self._oracle, self._clock = names, oracle, clock
        self._plans: list[Plan] = []
        for trial, split in wanted:
            # Runs of other folds keep their numbers. The first one that is free: what a kill has broken off has the
            # same again, and writes over what its first life has left.
            taken = {*trial.executions_of(FOLD), *(number for name, number in self.splits if name == trial.trial_id)}
            number = next(number for number in itertools.count() if number not in taken)
            self.splits[trial.trial_id, number] = split
            self._plans.append(
                Plan(
                    trial.trial_id,
                    number,
                    trial.hyperparameters.copy(),
                    seed_of_fold(oracle, split),
                    epochs=epochs,
                    weights_path=str(layout.weights(trial.trial_id, number, phase=FOLD)),
                    phase=FOLD,
                )
            )

    @property
    def remaining(self) -> int | None:
        """See `manyfit.training.base.Supply`."""
        return len(self._plans)

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        if self._time_is_up():
            return []
        trials = self._oracle.trials
        # A run that is cut off is none, so it is begun only where all of it fits.
        seconds = [run_seconds(trials[plan.trial_id], plan.epochs) for plan in self._plans[:count]]
        if seconds and not self._clock.allows(min(seconds)):
            self._clock.refuse(min(seconds))
            self.out_of_time = True
            return []
        taken, self._plans = self._plans[:count], self._plans[count:]
        return taken

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._oracle.book.add_epochs(epochs)
        # Not `_time_is_up`: where there is no time for a further run, those that train may still have enough.
        return [Decision.STOP if self._clock.is_over() else Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        plan = result.plan
        if result.ending is Ending.STOPPED and self._time_is_up():
            self._oracle.book.forget_epochs(plan)  # broken off: it says nothing about a full training
            return
        if not result.ending.has_score:
            self.failures.setdefault(plan.trial_id, result.message or str(result.ending))
        self._oracle.book.add_execution(result, **{FOLD: self._names[self.splits[plan.key]], EPOCHS: plan.epochs})

    def _time_is_up(self) -> bool:
        self.out_of_time = self.out_of_time or self._clock.begins_nothing()
        return self.out_of_time
