"""Which trainer a tuner's executions get: chosen here, made in this process or by an executor's workers, and kept.

What a trainer has compiled for one search serves the next one, and retraining: so a tuner has one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence

import keras

from manyfit.core.environment import chosen_by, is_installed
from manyfit.executors.base import MakeTrainer
from manyfit.training.base import Task, Trainer
from manyfit.training.estimators import Estimators
from manyfit.training.keras_fit import KerasFit
from manyfit.training.program_report import Programs


@dataclasses.dataclass(frozen=True)
class TrainerChoice:
    """What decides about the trainer. Called, it makes one; it can be pickled, so that workers make theirs.

    Attributes:
        fuses: whether trials may train together as one program.
        estimators: whether the build function returns estimators.
        batch_hooks: methods of the user's that have to be called for each batch, which a population cannot.
        population_size: most members that train together; None: found by measurement.
        shuffle_seed: of the order of the data.
    """

    fuses: bool
    estimators: bool
    batch_hooks: tuple[str, ...]
    population_size: int | None
    shuffle_seed: int

    @property
    def keeps_programs(self) -> bool:
        """Whether the trainer has compiled programs that it profits from keeping."""
        return self.fuses and not self.batch_hooks

    def __call__(self, notify: Callable[[str], None]) -> Trainer:
        """A new trainer.

        Args:
            notify: takes one line of text for people.
        """
        # `Estimators` trains Keras models, too: a build function may return one or the other by a hyperparameter.
        if not self.keeps_programs:
            return Estimators(notify) if self.estimators else KerasFit(notify)
        from manyfit.training.population import Population  # imports JAX, which other backends lack

        return Population(
            KerasFit(notify), population_size=self.population_size, notify=notify, shuffle_seed=self.shuffle_seed
        )


def may_fuse(*, population: bool, estimators: bool, distributed: bool) -> bool:
    """Whether trials may train together as one program: Keras models on JAX, unless the user says otherwise."""
    # Estimators have no training steps to share, and a `tf.distribute` strategy places variables by rules of its own.
    keras_on_jax = not estimators and keras.backend.backend() == "jax"
    return keras_on_jax and population and not distributed


def price_of_backend(*, in_workers: bool) -> str | None:
    """What a search on another backend than JAX does without, and what to type; None on JAX."""
    backend = keras.backend.backend()
    if backend == "jax":
        return None
    # Who has set the variable cannot be told to import Manyfit first: it leaves a choice of the user's alone.
    first = "" if "KERAS_BACKEND" in os.environ else " import manyfit before Keras (and before tensorflow.keras), or"
    remedy = f"{first} set KERAS_BACKEND=jax before the program starts"
    if not is_installed("jax"):
        # Where Manyfit has chosen what there was, it will choose JAX once that is there.
        remedy = " pip install jax" + ("" if chosen_by == "what is installed" else f", and{remedy}")
    where = " in each worker" if in_workers else ""
    return (
        f"Keras runs on {backend}, where trials train one after another{where}, through model.fit. On JAX they train "
        f"together, as one compiled program:{remedy}."
    )


def exploring_builds(fuses: bool) -> contextlib.AbstractContextManager[None]:
    """Around the builds that explore a space, whose weights nobody trains: for a population they are drawn quickly."""
    if not fuses:
        return contextlib.nullcontext()
    from manyfit.training.population.compile import quick_building  # imports JAX

    return quick_building()


class Trainers:
    """The trainers of one tuner.

    Args:
        say: takes one line of text for people.
        on_executor: makes a trainer whose executions run in workers; None: they run here.
    """

    def __init__(self, say: Callable[[str], None], on_executor: Callable[..., Trainer] | None) -> None:
        self._say = say
        self._on_executor = on_executor
        self._kept: Trainer | None = None

    def get(self, choice: TrainerChoice) -> Trainer:
        """The trainer; the choice counts when it is made, and not afterwards."""
        # Made late: what a subclass overrides may be set on the tuner itself until the first search.
        if self._kept is None:
            make: MakeTrainer = choice
            if self._on_executor is None:
                self._kept = make(self._say)
            else:
                self._kept = self._on_executor(make, keeps_programs=choice.keeps_programs)
        return self._kept

    def programs(self) -> Programs | None:
        """What the trainer has compiled so far; None where there is none yet, or it compiles nothing to share."""
        return None if self._kept is None else self._kept.programs()

    def for_task(self, trainer: Trainer, task: Task, choice: TrainerChoice) -> Trainer:
        """This trainer, or `model.fit` where it cannot do what a task asks: index sets of folds, hooks of batches.

        Hooks may have been overridden after the trainer was made, on the tuner itself: what was chosen then is no good.
        """
        # Said with every task and not once: a search that is slow for that reason may be the second one.
        self.say_why_sequential(choice.batch_hooks, choice.fuses)
        fits = task.split_for is None or trainer.takes_splits
        if fits and (not choice.batch_hooks or self._on_executor is not None):
            return trainer
        return Estimators(self._say) if choice.estimators else KerasFit(self._say)

    def say_why_sequential(self, overrides: Sequence[str], fuses: bool) -> None:
        """Says which methods of the user's keep trials from training together, where they otherwise would."""
        if overrides and fuses:
            verb = "is" if len(overrides) == 1 else "are"
            where = "" if self._on_executor is None else " in each worker"
            self._say(f"Trials run one after another{where}, because {', '.join(overrides)} {verb} overridden.")

    def close(self) -> None:
        """Ends workers, where there are any."""
        if self._kept is not None:
            self._kept.close()
