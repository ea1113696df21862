"""Evolution: typed mutation, selection, and a problem whose expectation is known."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Observation
from manyfit.samplers.evolution import EvolutionSampler, mutate
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters
from manyfit.testing.samplers import conditional_space, mixed_space


def test_golden_one_max_beats_chance_as_theory_says() -> None:
    """OneMax with 20 bits: chance's best of 200 draws is about 16 (binomial order statistic: mean 16.2); a
    (mu + lambda) search with mutation rate 1/n needs about e n ln n = 163 evaluations for all 20
    (Droste, Jansen and Wegener 2002), so 200 are enough for at least 18, in the mean over searches."""
    space = HyperParameters()
    for i in range(20):
        space.Boolean(f"bit{i}")
    best = []
    for seed in range(6):
        history: list[Observation] = []
        for trial in range(200):
            sampler = EvolutionSampler(population_size=16, tournament_size=8)
            (values,) = sampler.propose(space, history, [], 1, np.random.default_rng([seed, trial]))
            loss = -float(sum(bool(value) for value in values.values()))
            history.append(Observation(str(trial), values, Ending.COMPLETED, (loss,)))
        best.append(-min(each.loss for each in history))
    assert np.mean(best) >= 18.0


def test_mutations_change_something_and_about_one_thing() -> None:
    encoding, rng = Encoding(mixed_space()), np.random.default_rng(0)
    start = encoding.encode(encoding.defaults())
    changed = [int((encoding.snap(mutate(encoding, start, rng)[None, :])[0] != start).sum()) for _ in range(400)]
    assert min(changed) >= 1
    assert 1.0 <= np.mean(changed) < 2.0


def test_small_steps_are_more_likely_than_large_ones_and_stay_on_the_grid() -> None:
    space = HyperParameters()
    space.Int("layers", 1, 21, default=11)
    encoding, rng = Encoding(space), np.random.default_rng(1)
    start = encoding.encode({"layers": 11})
    moved = np.array([encoding.decode(mutate(encoding, start, rng))["layers"] for _ in range(600)])
    distance = np.abs(moved.astype(int) - 11)
    assert distance.min() == 1
    assert (distance == 1).mean() > 0.4
    assert (distance > 5).any()


def test_what_a_mutation_switches_on_is_legal() -> None:
    encoding, rng = Encoding(conditional_space()), np.random.default_rng(2)
    start = encoding.encode({"optimizer": "sgd", "nesterov": False, "rate": 1e-3})
    children = [encoding.decode(mutate(encoding, start, rng)) for _ in range(100)]
    assert all(encoding.is_valid(values) for values in children)
    assert {values["optimizer"] for values in children} == {"sgd", "adam"}


def test_failed_trials_are_no_parents_where_others_are() -> None:
    space = HyperParameters()
    space.Float("x", 0.0, 1.0)
    good = [Observation(str(i), {"x": 0.1 + 0.001 * i}, Ending.COMPLETED, (1.0,)) for i in range(12)]
    bad = [Observation(str(12 + i), {"x": 0.9 + 0.001 * i}, Ending.FAILED) for i in range(12)]
    sampler = EvolutionSampler(population_size=24, tournament_size=24, crossover_rate=0.0)
    children = sampler.propose(space, good + bad, [], 40, np.random.default_rng(3))
    # From a parent near 0.1 only a step of 0.3 standard deviations scale comes close to 0.9.
    assert np.median([float(values["x"]) for values in children]) < 0.3


@pytest.mark.parametrize(
    "arguments", [{"population_size": 1}, {"tournament_size": 0}, {"tournament_size": 25}, {"crossover_rate": 1.5}]
)
def test_bad_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(UsageError, match=f"EvolutionSampler: got {next(iter(arguments))}="):
        EvolutionSampler(**arguments)
