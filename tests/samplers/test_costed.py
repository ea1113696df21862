"""Proposals that mind what they cost: what is opened, when, and what stays as the inner sampler would have it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from manyfit.core.costs import Costs
from manyfit.core.records import Ending, Observation, Value, Values
from manyfit.samplers.base import Belief, Sampler
from manyfit.samplers.costed import CostedSampler, Moment
from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import RandomSampler
from manyfit.space.hyperparameters import HyperParameters
from manyfit.testing.samplers import random_history, with_costs

INNER: list[Sampler] = [RandomSampler(), GaussianProcessSampler(), EvolutionSampler()]
SEEDS = range(3)
each_sampler = pytest.mark.parametrize("inner", INNER, ids=lambda each: type(each).__name__)


def space_of_layers() -> HyperParameters:
    space = HyperParameters()
    space.Int("layers", 1, 8, default=3)
    space.Float("rate", 1e-4, 1e-1, sampling="log", default=1e-3)
    return space


def trials(layers: int, losses: Sequence[float], *, compile_seconds: float = 4.5, first: int = 0) -> list[Observation]:
    """Trials of one structure, of ten epochs of .1 s each."""
    costs = Costs(f"of {layers} layers", compile=compile_seconds, epoch=0.1)
    return [
        Observation(
            f"{first + i:04d}",
            {"layers": layers, "rate": 1e-3 * 1.1 ** (first + i)},
            Ending.COMPLETED,
            (loss,),
            epochs=10,
            costs=costs,
        )
        for i, loss in enumerate(losses)
    ]


def ask(
    inner: Sampler, history: Sequence[Observation], left: float, count: int = 2, *, seconds: float = 60.0, seed: int = 0
) -> list[dict[str, Value]]:
    sampler = CostedSampler(inner, Moment(seconds, left))
    return sampler.propose(space_of_layers(), history, [], count, np.random.default_rng(seed))


def layers_of(proposals: Sequence[Values]) -> list[Value]:
    return [values["layers"] for values in proposals]


@each_sampler
def test_begins_with_the_defaults_and_fills_the_slots_beside_them(inner: Sampler) -> None:
    sampler = CostedSampler(inner, Moment(60.0, 60.0), first={"rate": 1e-2})
    proposals = sampler.propose(space_of_layers(), [], [], 8, np.random.default_rng(0))
    assert proposals[0] == {"layers": 3, "rate": 1e-2}
    assert layers_of(proposals) == [3] * 8
    rates = sorted(np.log10(float(values["rate"])) for values in proposals[1:])
    assert rates[0] < -3.3 and rates[-1] > -1.7  # a Sobol sequence leaves no half of a range out


@each_sampler
def test_a_structure_that_takes_longer_than_is_left_is_not_opened(inner: Sampler) -> None:
    history = trials(3, [0.5, 0.7, 0.6, 0.8, 0.7, 0.6], compile_seconds=100.0)  # it stagnates
    for seed in SEEDS:
        assert layers_of(ask(inner, history, 90.0, seconds=10_000.0, seed=seed)) == [3, 3]
        assert layers_of(ask(inner, history, 20.0, seconds=50.0, seed=seed)) == [3, 3]


@each_sampler
def test_a_search_that_stagnates_opens_one_structure_per_batch(inner: Sampler) -> None:
    history = trials(3, [0.6, 0.4, 0.9, 0.5, 0.5, 0.7, 0.5, 0.6])
    opened = [layers_of(ask(inner, history, 50.0, count=3, seed=seed)) for seed in SEEDS]
    assert all(len(set(found)) == 1 for found in opened), "what is opened takes the whole batch: it is compiled once"
    assert any(found != [3, 3, 3] for found in opened)


@each_sampler
def test_a_search_that_still_gains_stays(inner: Sampler) -> None:
    history = trials(3, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5])  # .1 a second: a compilation would have to bring half of it
    assert all(layers_of(ask(inner, history, 50.0, seed=seed)) == [3, 3] for seed in SEEDS)


@each_sampler
def test_nothing_is_opened_in_the_last_third_nor_beyond_half_of_the_time(inner: Sampler) -> None:
    history = trials(3, [0.6, 0.4, 0.9, 0.5, 0.5, 0.7, 0.5, 0.6])
    for seed in SEEDS:
        assert layers_of(ask(inner, history, 19.0, seed=seed)) == [3, 3]
        assert layers_of(ask(inner, history, 12.0, seconds=17.0, seed=seed)) == [3, 3]  # 2 x 4.5 s > 17 s / 2
    assert any(layers_of(ask(inner, history, 12.0, seconds=19.0, seed=seed)) != [3, 3] for seed in SEEDS)


def test_a_new_structure_gets_a_batch_before_anything_else() -> None:
    history = [*trials(3, [0.6, 0.4, 0.9, 0.5, 0.5]), *trials(5, [0.8], first=5)]
    assert layers_of(ask(RandomSampler(), history, 45.0)) == [5, 5]


def test_visits_grow() -> None:
    """After the second structure two batches are made before a third is thought about."""
    history = [*trials(3, [0.5, 0.8, 0.7, 0.6]), *trials(5, [0.6, 0.55, 0.9], first=4)]
    asked = [layers_of(ask(RandomSampler(), history, 280.0, seconds=300.0, seed=seed)) for seed in range(10)]
    assert {layers for found in asked for layers in found} <= {3, 5}
    history += trials(5, [0.7], first=7)
    asked = [layers_of(ask(RandomSampler(), history, 280.0, seconds=300.0, seed=seed)) for seed in range(10)]
    assert not {layers for found in asked for layers in found} <= {3, 5}


def test_the_better_structure_is_gone_on_with() -> None:
    history = [*trials(3, [0.9, 0.8, 0.85, 0.9]), *trials(5, [0.5, 0.6, 0.55, 0.5], first=4)]
    assert layers_of(ask(RandomSampler(), history, 15.0)) == [5, 5]


@each_sampler
def test_no_limit_or_equal_costs_are_the_inner_sampler_bit_for_bit(inner: Sampler) -> None:
    space = space_of_layers()
    history = random_history(space, 6)
    pending = [each.values for each in random_history(space, 8)[6:]]
    expected = inner.propose(space, history, pending, 3, np.random.default_rng(7))
    cheap = with_costs(history, lambda values: Costs(str(values["layers"]), build=0.1, compile=0.2, epoch=0.5))
    for sampler, seen in [
        (CostedSampler(inner), history),
        (CostedSampler(inner, Moment(60.0, 50.0)), history),  # trials have ended, and nobody has measured one
        (CostedSampler(inner, Moment(60.0, 50.0)), cheap),  # compiling takes less than half of a training
    ]:
        assert sampler.propose(space, seen, pending, 3, np.random.default_rng(7)) == expected


def test_a_structure_without_scores_is_left() -> None:
    """The defaults do not fit into the memory: another structure is tried, whatever the budget of compiling says."""
    (first,) = trials(3, [0.5])
    failed = Observation("0000", first.values, Ending.OUT_OF_MEMORY, costs=first.costs)
    assert layers_of(ask(RandomSampler(), [failed], 15.0, count=1, seed=1)) != [3]


def test_what_does_not_fit_is_not_proposed_though_nothing_else_is_left() -> None:
    space = HyperParameters()
    space.Choice("kind", ["a", "b"])
    history = [
        Observation("0", {"kind": "a"}, Ending.COMPLETED, (0.5,), epochs=5, costs=Costs("a", compile=9, epoch=1))
    ]
    for left, num_left in ((20.0, 1), (10.0, 0)):
        sampler = CostedSampler(RandomSampler(), Moment(60.0, left))
        assert len(sampler.propose(space, history, [], 2, np.random.default_rng(0))) == num_left


def test_a_model_that_likes_a_bound_which_is_a_structure_of_its_own_goes_on_within() -> None:
    """The best dropout is 0, where the layer is gone: another program, for which there is no time."""
    space = HyperParameters()
    space.Float("dropout", 0.0, 0.5)
    history = [
        Observation(
            str(i), {"dropout": 0.05 * (9 - i)}, Ending.COMPLETED, (0.05 * (9 - i),), epochs=10,
            costs=Costs("a", compile=4.5, epoch=0.1),
        )
        for i in range(8)
    ]  # fmt: skip
    sampler = CostedSampler(GaussianProcessSampler(), Moment(60.0, 15.0))
    proposals = sampler.propose(space, history, [], 3, np.random.default_rng(0))
    assert len(proposals) == 3 and all(float(values["dropout"]) > 0.0 for values in proposals)


def test_a_structure_does_not_begin_with_the_defaults_again() -> None:
    """The lowest corner of what is left to vary is nobody's choice."""
    for inner in (GaussianProcessSampler(), EvolutionSampler()):
        sampler = CostedSampler(inner, Moment(60.0, 50.0), first={"layers": 2, "rate": 1e-2})
        (first,) = sampler.propose(space_of_layers(), [], [], 1, np.random.default_rng(0))
        (second,) = sampler.propose(space_of_layers(), [], [first], 1, np.random.default_rng(1))
        assert second["layers"] == 2 and second["rate"] not in (1e-2, 1e-3, 1e-4)


def test_large_batches_of_samplers_that_learn_vary_the_best_trial() -> None:
    history = trials(3, [0.6, 0.2, 0.9, 0.5])
    proposals = ask(EvolutionSampler(), history, 15.0, count=6)
    assert layers_of(proposals) == [3] * 6 and len({values["rate"] for values in proposals}) == 6


def test_samplers_without_beliefs_follow_those_they_are_told() -> None:
    sampler = CostedSampler(RandomSampler(), beliefs=[Belief("rate", 1e-2, spread=0.05)])
    history = trials(3, [0.5])
    drawn = [
        float(sampler.propose(space_of_layers(), history, [], 1, np.random.default_rng(seed))[0]["rate"])
        for seed in range(30)
    ]
    assert np.mean([4e-3 < rate < 2.5e-2 for rate in drawn]) > 0.7
