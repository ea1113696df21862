"""Beliefs steer early, fade, and exclude nothing."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Observation
from manyfit.samplers.gp.sampler import Belief, GaussianProcessSampler, LogBelief
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def space_of_two() -> HyperParameters:
    space = HyperParameters()
    space.Float("rate", 1e-4, 1.0, sampling="log")
    space.Choice("kind", ["a", "b", "c"])
    return space


def test_first_trials_follow_the_belief_on_the_hyperparameters_own_scale() -> None:
    sampler = GaussianProcessSampler(5, beliefs=[Belief("rate", 1e-2, spread=0.05), Belief("kind", "b")])
    drawn = sampler.propose(space_of_two(), [], [], 5, np.random.default_rng(0))[1:]  # after the defaults
    assert all(1e-3 < float(values["rate"]) < 1e-1 for values in drawn)


def test_a_wrong_belief_fades() -> None:
    """The optimum is at 1e-1, believed at 1e-3: some twenty trials are enough."""
    sampler, history = GaussianProcessSampler(beliefs=[Belief("rate", 1e-3, spread=0.1)]), list[Observation]()
    for trial in range(22):
        (values,) = sampler.propose(space_of_two(), history, [], 1, np.random.default_rng(trial))
        loss = (np.log10(float(values["rate"])) + 1.0) ** 2 + (values["kind"] != "c")
        history.append(Observation(str(trial), values, Ending.COMPLETED, (float(loss),)))
    assert min(each.loss for each in history) < 0.01


def test_slopes_equal_finite_differences_and_belief_is_never_nothing() -> None:
    encoding = Encoding(space_of_two())
    belief = LogBelief(encoding, [Belief("rate", 1e-2), Belief("kind", "b"), Belief("unknown", 3)], 5)
    points = np.array([[0.3, 0.5], [0.9, 1 / 6]])
    step = np.array([1e-6, 0.0])
    numeric = (belief(points + step) - belief(points - step)) / 2e-6
    np.testing.assert_allclose(belief.with_slopes(points)[1][:, 0], numeric, atol=1e-6)
    sharp = LogBelief(encoding, [Belief("rate", 50.0, spread=1e-9)], 1)  # a value outside the bounds, and no doubt
    assert np.isfinite(sharp(points)).all()


def test_spread_has_to_be_positive() -> None:
    with pytest.raises(UsageError, match="spread=0"):
        Belief("rate", 1e-2, spread=0)
