"""Every pool against the conformance suite."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.ensemble.pools import (
    POOLS,
    ExponentialPool,
    GeometricPool,
    LinearPool,
    Pool,
    PowerPool,
    StackingPool,
    rank_pool,
)
from manyfit.ensemble.problem import PredictionTask
from manyfit.testing.pools import PoolSuite

pytestmark = pytest.mark.backends

WEIGHTS = np.array([0.5, 0.0, 0.3, 0.2])
BETAS = np.array([1.2, 1.0, 0.7, 1.5])
PROBABILITIES = (PredictionTask.BINARY, PredictionTask.MULTICLASS, PredictionTask.MULTILABEL)


class TestLinearPool(PoolSuite):
    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return LinearPool(WEIGHTS)


class TestLinearPoolWithTemperatures(PoolSuite):
    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return LinearPool(WEIGHTS, inverse_temperature=1.4, member_inverse_temperatures=BETAS)


class TestGeometricPool(PoolSuite):
    tasks = PROBABILITIES

    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return GeometricPool(1.3 * WEIGHTS)


class TestPowerPool(PoolSuite):
    tasks = PROBABILITIES

    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return PowerPool(WEIGHTS, parameter=0.4, inverse_temperature=0.8, member_inverse_temperatures=BETAS)


class TestExponentialPool(PoolSuite):
    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return ExponentialPool(WEIGHTS, parameter=2.0, inverse_temperature=1.1)


class TestStackingPool(PoolSuite):
    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        columns = 2 if task.two_class else predictions.shape[-1]
        coefficients = np.outer(WEIGHTS, np.linspace(-0.5, 1.5, columns))
        return StackingPool(WEIGHTS, class_weights=coefficients, bias=np.linspace(-0.2, 0.4, columns))


class TestRankPool(PoolSuite):
    sums_to_one = False
    tolerance = 5e-6  # a sum of 63 ramps in single precision

    def make(self, predictions: np.ndarray, task: PredictionTask) -> Pool:
        return rank_pool(predictions, WEIGHTS)


def test_no_pool_is_forgotten():
    tested = {suite.__name__.removeprefix("Test") for suite in PoolSuite.__subclasses__()}
    assert {pool.__name__ for pool in POOLS.values()} <= tested
