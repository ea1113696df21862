"""Which trainer a tuner's executions get: chosen here, made in this process or by an executor's workers, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

import keras

from manyfit.executors.base import MakeTrainer
from manyfit.training.base import Task, Trainer
from manyfit.training.estimators import Estimators
from manyfit.training.keras_fit import KerasFit


@dataclasses.dataclass(frozen=True)
class TrainerChoice:
    """What decides about the trainer. Called, it makes one; it can be pickled, so that workers make theirs.

    Attributes:
        fuses: whether trials may train together as one program.
        estimators: whether the build function returns estimators.
        on_batches: whether something of the user's has to be called for each batch, which a population has not.
        population_size: most members that train together; None: found by measurement.
        shuffle_seed: of the order of the data.
    """

    fuses: bool
    estimators: bool
    on_batches: bool
    population_size: int | None
    shuffle_seed: int

    @property
    def keeps_programs(self) -> bool:
        """Whether the trainer has compiled programs that it profits from keeping."""
        return self.fuses and not self.on_batches

    def __call__(self, notify: Callable[[str], None]) -> Trainer:
        """A new trainer.

        Args:
            notify: takes one line of text for people.
        """
        if not self.keeps_programs:
            return Estimators() if self.estimators else KerasFit()
        from manyfit.training.population import Population  # imports JAX, which other backends lack

        return Population(
            KerasFit(), population_size=self.population_size, notify=notify, shuffle_seed=self.shuffle_seed
        )


def may_fuse(*, population: bool, estimators: bool, distributed: bool) -> bool:
    """Whether trials may train together as one program: Keras models on JAX, unless the user says otherwise."""
    keras_on_jax = not estimators and keras.backend.backend() == "jax"
    return keras_on_jax and population and not distributed


def exploring_builds(fuses: bool) -> contextlib.AbstractContextManager[None]:
    """Around the builds that explore a space, whose weights nobody trains: for a population they are drawn quickly."""
    if not fuses:
        return contextlib.nullcontext()
    from manyfit.training.population.compile import quick_building  # imports JAX

    return quick_building()


class Trainers:
    """The trainers of one tuner.

    One is kept for all that follows, so that its compiled programs serve from search to search and to retraining.

    Args:
        notify: takes one line of text for people.
        on_executor: makes a trainer whose executions run in workers; None: they run here.
    """

    def __init__(self, notify: Callable[[str], None], on_executor: Callable[..., Trainer] | None) -> None:
        self._notify = notify
        self._on_executor = on_executor
        self._kept: Trainer | None = None

    def get(self, choice: TrainerChoice) -> Trainer:
        """The trainer; the choice counts when it is made, and not afterwards."""
        if self._kept is None:
            make: MakeTrainer = choice
            if self._on_executor is None:
                self._kept = make(self._notify)
            else:
                self._kept = self._on_executor(make, keeps_programs=choice.keeps_programs)
        return self._kept

    def suited(self, trainer: Trainer, task: Task, *, on_batches: bool) -> Trainer:
        """This trainer, or `model.fit` where it cannot do what a task asks: index sets of folds, hooks of batches."""
        fits = task.split_for is None or trainer.takes_splits
        # Workers chose by `on_batches` when theirs were made.
        return trainer if fits and (not on_batches or self._on_executor is not None) else KerasFit()

    def close(self) -> None:
        """Ends workers, where there are any."""
        if self._kept is not None:
            self._kept.close()
