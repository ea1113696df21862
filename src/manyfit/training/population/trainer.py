"""`Population`: the trainer whose executions train together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

import jax
import keras

from manyfit.core.records import Plan
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.population.admission import Admission
from manyfit.training.population.data import Rows, Stream, read_fit_arguments
from manyfit.training.population.family import Family
from manyfit.training.population.layout import num_workers
from manyfit.training.population.listing import Programs
from manyfit.training.population.persistence import enable_compilation_cache
from manyfit.training.population.session import Session


def supported() -> str | None:
    """Why population training cannot be used here; None if it can."""
    if keras.backend.backend() != "jax":
        return f"Keras runs on {keras.backend.backend()}, population training needs the JAX backend"
    if keras.distribution.distribution() is not None:
        return "a keras.distribution is set: one model spans the devices"
    return None


class Population(Trainer):
    """Trains executions together, as few compiled programs as their structures need.

    Args:
        fallback: trains what cannot join a population, one execution after another.
        population_size: most members that train at once; None: chosen by measurement.
        notify: takes one line of text for each reason why something trains in `fallback`.
        shuffle_seed: names the order of the batches; all executions of a search read epoch n in the same order.
    """

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
        self._shuffle_seed = shuffle_seed
        self._reasons: dict[str, list[Plan]] = {}
        self._families: dict[str, Family] = {}

    def train(self, supply: Supply, task: Task) -> None:
        enable_compilation_cache()
        reason = supported() or ("the hypermodel has its own `fit`" if task.fit is not None else None)
        data = None if reason else read_fit_arguments(task)
        if data is not None and (isinstance(data.training, Stream) or isinstance(data.validation, Stream)):
            reason = "the data come as a stream, or steps_per_epoch cuts them"
        if reason is not None or data is None:
            self._refuse(str(reason), None)
            self._fallback.train(supply, task)
            return
        assert isinstance(data.training, Rows)
        admission = Admission(supply, task, data, fallback=self._fallback, refuse=self._refuse, notify=self._notify)
        self._families = admission.families
        Session(
            supply,
            task,
            data=data,
            admission=admission,
            max_members=self._max_members(getattr(supply, "independent", False)),
            shuffle_seed=self._shuffle_seed,
        ).run()

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """See `Trainer`. Members are held for one call of `train` only; the fallback may hold more."""
        self._fallback.forget(keys)

    def programs(self) -> Programs:
        """The programs of the last call of `train`, and why executions trained with `model.fit` instead."""
        records = tuple(family.record() for family in self._families.values())
        return Programs(records, {why: tuple(plan.trial_id for plan in plans) for why, plans in self._reasons.items()})

    def _max_members(self, independent: bool) -> int:
        """Members that train at once.

        On a CPU one more member costs nearly a full run: a search whose proposals learn from results gets no more
        members than there are cores. On an accelerator small models are nearly free.
        """
        if self._population_size is not None:
            return self._population_size
        if jax.default_backend() == "cpu":
            return 4 * num_workers() if independent else num_workers()
        return 64 if independent else 16

    def _refuse(self, reason: str, plan: Plan | None) -> None:
        if reason not in self._reasons:
            self._reasons[reason] = []
            self._notify(f"population training: {reason}; training with model.fit instead")
        if plan is not None:
            self._reasons[reason].append(plan)
