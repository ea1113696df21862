"""Every trainer against the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest
from marks import needs_jax

from manyfit.executors.dispatcher import Dispatcher
from manyfit.testing.executors import ThreadExecutor
from manyfit.testing.trainers import TrainerSuite
from manyfit.training.base import Trainer
from manyfit.training.estimators import Estimators
from manyfit.training.keras_fit import KerasFit


@pytest.mark.backends
class TestKerasFit(TrainerSuite):
    def make(self) -> Trainer:
        return KerasFit()


class TestEstimators(TrainerSuite):
    """What is no estimator trains as `KerasFit` trains it."""

    def make(self) -> Trainer:
        return Estimators()


@needs_jax
class TestPopulation(TrainerSuite):
    def make(self) -> Trainer:
        from manyfit.training.population import Population  # imports JAX, which other backends lack

        return Population(KerasFit(), population_size=2)


def keras_fit_in_a_worker(notify) -> Trainer:
    del notify
    return KerasFit()


class TestOneWorker(TrainerSuite):
    """One worker, in a thread: two that train Keras models in one process would share its global generators."""

    raises_here = False

    def make(self) -> Trainer:
        executor = ThreadExecutor(1)
        trainer = executor.trainer(keras_fit_in_a_worker, notify=print, folder=Path("."), keeps_programs=False)
        assert isinstance(trainer, Dispatcher)
        return trainer
