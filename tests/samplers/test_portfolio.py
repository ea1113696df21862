"""The portfolio chooses by space, budget and age, and says what."""

from __future__ import annotations

import numpy as np

from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import GridSampler
from manyfit.samplers.portfolio import PortfolioSampler
from manyfit.space.hyperparameters import HyperParameters
from manyfit.testing.samplers import NUM_FINITE, finite_space, mixed_space


def test_small_spaces_get_the_grid() -> None:
    choice = PortfolioSampler(max_trials=NUM_FINITE).choose(finite_space(), 0)
    assert isinstance(choice.sampler, GridSampler)
    assert choice.reason == "grid: 9 configurations are no more than the 9 trials allowed"


def test_spaces_beyond_the_budget_get_a_model_until_it_is_slow() -> None:
    for portfolio in (PortfolioSampler(max_trials=NUM_FINITE - 1), PortfolioSampler()):
        assert isinstance(portfolio.choose(finite_space(), 0).sampler, GaussianProcessSampler)
    assert isinstance(PortfolioSampler(2000).choose(mixed_space(), 601).sampler, EvolutionSampler)


def test_many_dimensions_get_evolution() -> None:
    space = HyperParameters()
    for i in range(81):
        space.Float(f"x{i}", 0.0, 1.0)
    assert "81 hyperparameters" in PortfolioSampler(100).choose(space, 0).reason


def test_proposals_are_those_of_the_chosen_sampler() -> None:
    space = finite_space()
    asked = PortfolioSampler(max_trials=50).propose(space, [], [], 50, np.random.default_rng(0))
    assert asked == GridSampler().propose(space, [], [], 50, np.random.default_rng(0))
