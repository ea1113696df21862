"""Random search: fair, and exact about finite spaces."""

from __future__ import annotations

import numpy as np
from scipy.stats import chisquare, kstest

from manyfit.core.records import Ending, Observation
from manyfit.samplers.non_adaptive import RandomSampler
from manyfit.space.hyperparameters import HyperParameters


def test_all_of_a_space_of_eighteen_and_then_nothing() -> None:
    """KerasTuner 1.4.8 stops short of the last configuration in a third of such searches."""
    space = HyperParameters()
    space.Int("layers", 1, 6)
    space.Choice("units", [16, 32, 64])
    for seed in range(20):
        history: list[Observation] = []
        for trial in range(18):
            (values,) = RandomSampler().propose(space, history, [], 1, np.random.default_rng([seed, trial]))
            history.append(Observation(str(trial), values, Ending.FAILED))
        assert len({tuple(each.values.items()) for each in history}) == 18
        assert RandomSampler().propose(space, history, [], 1, np.random.default_rng(seed)) == []


def test_large_finite_space_is_not_listed_but_exact_when_asked_for_all() -> None:
    space = HyperParameters()
    space.Int("a", 1, 2000, sampling="log")
    space.Boolean("b")
    assert len(RandomSampler().propose(space, [], [], 5000, np.random.default_rng(0))) == 4000


def test_statistical_draws_follow_the_spaces_distribution() -> None:
    """Log scale uniform in the logarithm, categories evenly; alpha 1e-4 each."""
    space = HyperParameters()
    space.Float("rate", 1e-4, 1e-1, sampling="log")
    space.Choice("kind", ["a", "b", "c", "d"])
    drawn = RandomSampler().propose(space, [], [], 2000, np.random.default_rng(1))
    logs = (np.log10([values["rate"] for values in drawn]) + 4.0) / 3.0
    assert kstest(logs, "uniform").pvalue > 1e-4
    counts = np.unique([values["kind"] for values in drawn], return_counts=True)[1]
    assert chisquare(counts).pvalue > 1e-4


def test_consecutive_seeds_are_unrelated() -> None:
    """In KerasTuner seed s + d repeats the trials of seed s, shifted by one."""
    space = HyperParameters()
    space.Float("a", 0.0, 1.0)
    space.Float("b", 0.0, 1.0)
    first, second = (
        {values["a"] for values in RandomSampler().propose(space, [], [], 50, np.random.default_rng(seed))}
        for seed in (11, 13)
    )
    assert not first & second
