"""`Population`: the trainer whose executions train together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import keras

from manyfit.core.records import Plan
from manyfit.training.base import Bookkeeping, Supply, Task, Trainer
from manyfit.training.hardware import freed_memory_kept
from manyfit.training.keras_internals.programs import programs_kept
from manyfit.training.known_costs import KnownCosts
from manyfit.training.population.admission import Admission
from manyfit.training.population.calls import OWN_FIT
from manyfit.training.population.data import Sources, Stream, same_sources, why_not_read
from manyfit.training.population.learned import Learned
from manyfit.training.population.session import Session
from manyfit.training.program_report import ProgramRecord, Programs
from manyfit.training.rehearsal import mentions


def supported(task: Task | None = None) -> str | None:
    """Why population training cannot be used here, or for a task; None if it can."""
    if keras.backend.backend() != "jax":
        return f"Keras runs on {keras.backend.backend()}, population training needs the JAX backend"
    if keras.distribution.distribution() is not None or (task is not None and task.devices is not None):
        return "each model spans the devices (devices=, or a keras.distribution that is set)"
    if task is not None and not task.compiled:
        return "jit_compile=False was asked for"
    if task is not None and task.fit is not None:
        why = task.why_fit_alone or (None if mentions(task.fit, "fit") else "does not call model.fit")
        if why is not None:
            return f"{OWN_FIT} {why}"
    # Calls of the trials' own are looked at when it is known what they are.
    return None if task is None or task.calls or task.fit is not None else why_not_read(task.call)


class Population(Trainer):
    """Trains executions together, as few compiled programs as their structures need.

    Args:
        fallback: trains what cannot join a population, one execution after another.
        population_size: most members that train at once; None: chosen by measurement.
        notify: takes one line of text for each reason why something trains in `fallback`.
        shuffle_seed: names the order of the batches; all executions of a search read epoch n in the same order.

    Attributes:
        learned: programs and traces for the data that are resident; a call of `train` on other data starts anew.
        costs: what steps have taken.
    """

    takes_splits = True

    def __init__(
        self,
        fallback: Trainer,
        *,
        population_size: int | None = None,
        notify: Callable[[str], None] = warnings.warn,
        shuffle_seed: int = 0,
    ) -> None:
        self._fallback = fallback
        self._population_size = population_size
        self._notify = notify
        self._aside = Bookkeeping(notify)
        self._shuffle_seed = shuffle_seed
        self._reasons: dict[str, list[Plan]] = {}
        self.learned = Learned()
        self.costs = KnownCosts("population")
        self._task: Task | None = None  # whose data these are
        self._sources: Sources | None = None
        self._past: list[ProgramRecord] = []  # programs of other data

    def train(self, supply: Supply, task: Task) -> None:
        with programs_kept(), freed_memory_kept():
            self._train(supply, task)

    def _train(self, supply: Supply, task: Task) -> None:
        reason = supported(task)
        if reason is not None:
            self._refuse(reason, None)
            self._fallback.train(supply, task)
            return
        sources = self._keep(task)
        data = None if task.calls or task.fit is not None else sources.of(task.call)
        if task.split_for is not None and data is not None and isinstance(data.training, Stream):
            self._refuse("the folds' data do not fit on the device", None)
            self._fallback.train(supply, task)
            return
        admission = Admission(
            supply,
            task,
            sources,
            learned=self.learned,
            fallback=self._fallback,
            refuse=self._refuse,
            notify=self._notify,
            aside=self._aside,
            widens=self._population_size != 1,
        )
        Session(
            supply,
            task,
            admission=admission,
            max_members=self._population_size,
            shuffle_seed=self._shuffle_seed,
            costs=self.costs,
        ).run()
        self.costs.remember()

    def _keep(self, task: Task) -> Sources:
        """The data. Those of the call before stay, with their programs: confirming winners compiles nothing."""
        kept = self._sources if self._task is not None and same_sources(self._task, task) else None
        # A stream is there in its own batches only.
        if kept is not None and (task.calls or task.fit is not None or kept.of(task.call) is not None):
            return kept
        # Programs over streams are let go with them; what they were is still shown.
        self._past += [program.record() for program in self.learned.programs.values() if program.streams]
        self.learned = self.learned.for_other_rows()
        self._task = task
        self._sources = Sources(has_splits=task.split_for is not None, seed=self._shuffle_seed)
        return self._sources

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """See `Trainer`. Members are held for one call of `train` only; the fallback may hold more."""
        self._fallback.forget(keys)

    def programs(self) -> Programs:
        """The programs of all calls of `train`, and why executions trained with `model.fit` instead."""
        records = (*self._past, *(program.record() for program in self.learned.programs.values()))
        return Programs(records, {why: tuple(plan.trial_id for plan in plans) for why, plans in self._reasons.items()})

    def _refuse(self, reason: str, plan: Plan | None) -> None:
        # Once per reason: a hundred trials with the same callback are one line.
        if reason not in self._reasons:
            self._reasons[reason] = []
            self._notify(f"population training: {reason}; training with model.fit instead")
        if plan is not None:
            self._reasons[reason].append(plan)
