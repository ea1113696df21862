"""Expected hypervolume improvement: against sampling, against its one-dimensional case, slopes against differences."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from manyfit.samplers.gp.acquisition import log_expected_improvement
from manyfit.samplers.gp.kernels import Geometry
from manyfit.samplers.gp.problem import Boxes, HypervolumeImprovement, log_expected_hypervolume
from manyfit.samplers.gp.surrogate import Surrogate, Targets
from manyfit.stats import pareto

FRONT = np.array([[0.1, 0.9, 0.4], [0.5, 0.4, 0.6], [0.8, 0.1, 0.2]])


@pytest.mark.parametrize("num_losses", [2, 3])
def test_golden_against_sampling(num_losses):
    """40,000 draws: the standard error is below 1 % of the value, five of them are allowed."""
    rng = np.random.default_rng(4)
    front, reference = FRONT[:, :num_losses], np.ones(num_losses)
    mean, deviation = np.array([0.35, 0.5, 0.5])[:num_losses], np.array([0.2, 0.15, 0.3])[:num_losses]
    before = pareto.hypervolume(front, reference)
    draws = mean + deviation * rng.standard_normal((40_000, num_losses))
    lower, upper = pareto.free_boxes(front, reference)
    gains = np.maximum(upper - np.maximum(lower, draws[:, None]), 0.0).prod(axis=2).sum(axis=1)
    some = [pareto.hypervolume(np.vstack([front, draw]), reference) - before for draw in draws[:200]]
    np.testing.assert_allclose(gains[:200], some, atol=1e-12)  # eq. (1) against its definition
    value, _, _ = log_expected_hypervolume(list(mean[:, None]), list(deviation[:, None] ** 2), Boxes(lower, upper))
    assert float(np.exp(value[0])) == pytest.approx(gains.mean(), abs=5 * gains.std() / 200)


def test_one_loss_is_expected_improvement():
    boxes = Boxes(np.array([[-np.inf]]), np.array([[0.3]]))
    mean, variance = np.array([0.5, 8.0, 60.0]), np.array([0.04, 1.0, 1.0])
    value, _, _ = log_expected_hypervolume([mean], [variance], boxes)
    np.testing.assert_allclose(value, log_expected_improvement(mean, variance, 0.3), rtol=1e-12)


def test_far_behind_the_front_it_stays_finite_and_points_back():
    boxes = Boxes(*pareto.free_boxes(FRONT[:, :2], np.ones(2)))
    far = [np.array([30.0]), np.array([40.0])]
    value, by_mean, by_variance = log_expected_hypervolume(far, [np.array([0.01])] * 2, boxes)
    assert np.isfinite(value).all() and value[0] < -1e4
    assert all(slope[0] < 0 for slope in by_mean) and all(slope[0] > 0 for slope in by_variance)


def test_slopes_in_the_coordinates():
    rng = np.random.default_rng(8)
    points = rng.random((9, 2))
    geometry = Geometry(np.array([False, False]))
    surrogates = [
        Surrogate(geometry, points, Targets(rng.standard_normal(9), np.ones(9)), np.log([0.6, 0.9, 1e-3]))
        for _ in range(2)
    ]
    waiting = rng.random((2, 2))
    surrogates = [each.fantasise(waiting, 3, rng) for each in surrogates]
    means = np.stack([each.predict(points)[0] for each in surrogates], axis=2)
    fronts = [Boxes(*pareto.free_boxes(rows[pareto.non_dominated(rows)], np.full(2, 1.5))) for rows in means]
    score = HypervolumeImprovement(surrogates, fronts)
    for at in rng.random((4, 2)):
        values, slopes = score.with_slopes(at[None])
        assert values[0] == pytest.approx(score(at[None])[0], rel=1e-12)
        expected = approx_fprime(at, lambda x: float(score(x[None])[0]), 1e-6)
        np.testing.assert_allclose(slopes[0], expected, rtol=2e-3, atol=1e-4)
