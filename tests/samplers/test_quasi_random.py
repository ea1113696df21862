"""The Sobol sequence, against SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import qmc

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Observation
from manyfit.samplers.non_adaptive import QuasiRandomSampler
from manyfit.space.hyperparameters import HyperParameters


def cube(num_dimensions: int) -> HyperParameters:
    space = HyperParameters()
    for j in range(num_dimensions):
        space.Float(f"x{j}", 0.0, 1.0)
    return space


def test_golden_one_at_a_time_is_the_sequence_of_scipy() -> None:
    space, history = cube(3), list[Observation]()
    for trial in range(16):
        (values,) = QuasiRandomSampler(seed=5).propose(space, history, [], 1, np.random.default_rng(trial))
        history.append(Observation(str(trial), values, Ending.COMPLETED, (0.0,)))
    ours = np.array([list(each.values.values()) for each in history])
    np.testing.assert_allclose(ours, qmc.Sobol(3, rng=np.random.default_rng(5)).random(16), atol=1e-12)


def test_batches_and_pending_trials_continue_the_sequence() -> None:
    space = cube(2)
    whole = QuasiRandomSampler().propose(space, [], [], 8, np.random.default_rng(0))
    assert QuasiRandomSampler().propose(space, [], whole[:5], 3, np.random.default_rng(1)) == whole[5:]


def test_sixteen_points_fall_into_sixteen_parts_of_every_axis() -> None:
    drawn = QuasiRandomSampler(seed=1).propose(cube(4), [], [], 16, np.random.default_rng(0))
    for j in range(4):
        assert sorted(int(16 * float(values[f"x{j}"])) for values in drawn) == list(range(16))


def test_negative_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="QuasiRandomSampler: got seed=-1"):
        QuasiRandomSampler(seed=-1)
