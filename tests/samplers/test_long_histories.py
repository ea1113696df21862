"""Histories of thousands of trials: counts of what is done for them, and never seconds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from manyfit.core.records import Ending, Observation
from manyfit.samplers import candidates
from manyfit.samplers.candidates import settled, tried
from manyfit.samplers.gp import data
from manyfit.samplers.gp.data import MAX_POINTS, collect, most_telling
from manyfit.samplers.gp.problem import OneLoss
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.gp.surrogate import NoisePrior, Surrogate
from manyfit.samplers.non_adaptive import RandomSampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def space_of(highest=64):
    space = HyperParameters()
    space.Float("x", 0.0, 1.0), space.Float("y", 0.0, 1.0), space.Int("units", 1, highest)
    return space


def history_of(space, count):
    drawn = Encoding(space).random_many(count, np.random.default_rng(0))
    return [
        Observation(str(n), values, Ending.COMPLETED, ((values["x"] - 0.3) ** 2 + values["units"] / 640,), epochs=3)
        for n, values in enumerate(drawn)
    ]


@pytest.fixture
def adapted(monkeypatch):
    """Configurations that were adapted to a space."""
    seen = []
    honest = Encoding.adapt
    monkeypatch.setattr(Encoding, "adapt", lambda self, values, rng=None: seen.append(1) or honest(self, values, rng))
    return seen


@pytest.mark.parametrize("sampler", [RandomSampler(), GaussianProcessSampler()], ids=["random", "bayesian"])
def test_a_proposal_looks_anew_at_what_is_new_only(sampler, adapted):
    space, history = space_of(), history_of(space_of(), 150)
    first = sampler.propose(space, history[:-1], [], 1, np.random.default_rng(7))
    assert len(first) == 1 and len(adapted) >= 149
    adapted.clear()
    sampler.propose(space, history, first, 1, np.random.default_rng(8))
    assert len(adapted) <= 5  # the trial that ended since, the pending one, the proposal


def test_a_space_that_grew_and_values_that_are_others_are_looked_at_anew():
    narrow, wide = Encoding(space_of(8)), Encoding(space_of(64))
    history = history_of(space_of(64), 20)
    for encoding in (narrow, wide, narrow):
        expected = [(encoding.adapt(each.values), encoding.key(encoding.adapt(each.values))) for each in history]
        assert settled(encoding, history) == expected
        assert tried(encoding, history, []) == {key for _, key in expected}
    # Numbers of objects are given again: the values of another trial are not taken for those of one that is gone.
    for start in range(5):
        other = history_of(space_of(64), 20 + start)
        assert [key for _, key in settled(wide, other)] == [wide.key(wide.adapt(each.values)) for each in other]


def test_a_history_that_has_grown_is_not_gone_through_again(monkeypatch):
    looks = []
    honest = candidates._Settled.of
    monkeypatch.setattr(candidates._Settled, "of", lambda self, *given: looks.append(1) or honest(self, *given))
    encoding, history = Encoding(space_of()), history_of(space_of(), 400)
    assert len(tried(encoding, history[:390], [])) == 390 == len(looks)
    looks.clear()
    for count in range(391, 401):
        assert len(tried(encoding, history[:count], [])) == count
        assert len(settled(encoding, history[:count])) == count
    assert len(looks) == 10
    # One that ends late stands among those that have begun after it; one that is taken back is no longer tried.
    late = [*history[:20], *history[21:]]
    keys = [encoding.key(encoding.adapt(each.values)) for each in history]
    assert tried(encoding, late, []) == {*keys[:20], *keys[21:]}
    assert tried(encoding, history, []) == set(keys)
    assert [key for _, key in settled(encoding, history)] == keys
    assert tried(encoding, history[:5], []) == set(keys[:5])
    earlier = [dataclasses.replace(each, earlier=True) for each in history[:3]]
    assert tried(encoding, [*earlier, *history[3:5]], [history[9].values]) == {*keys[3:5], keys[9]}


def test_up_to_so_many_points_nothing_is_left_out_and_beyond_the_best_the_nearest_and_a_spread_stay(monkeypatch):
    monkeypatch.setattr(data, "MAX_POINTS", 60)
    space = space_of()
    encoding, history = Encoding(space), history_of(space, 200)
    assert len(collect(encoding, history[:60]).losses) == 60
    every = collect(encoding, history[:60])
    assert np.array_equal(every.points, encoding.encode_many([each.values for each in history[:60]]))
    few = collect(encoding, history)
    assert len(few.points) == len(few.losses) == len(few.counts) == len(few.satisfied) == 60
    losses = np.array([each.loss for each in history])
    assert set(np.sort(losses)[:20]) <= set(few.losses)
    # No place is as far from all that stay as it would be were the best alone to stay.
    points = encoding.encode_many([each.values for each in history])
    best = points[np.argsort(losses)[:60]]
    assert _largest_gap(points, few.points) < 0.6 * _largest_gap(points, best)


def _largest_gap(points, kept):
    return np.abs(points[:, None, :] - kept[None]).sum(axis=2).min(axis=1).max()


def test_what_is_kept_follows_from_the_history_and_has_the_incumbent_among_trials_that_were_stopped_early():
    space = space_of()
    encoding, history = Encoding(space), history_of(space, 120)
    early = [
        Observation(each.trial_id, each.values, Ending.STOPPED, (each.loss - 9.0,), epochs=1, full=False)
        for each in history[1:]
    ]
    evidence = collect(encoding, [history[0], *early])
    rows = most_telling(evidence, 30)
    assert len(set(rows.tolist())) == 30 and np.array_equal(rows, most_telling(evidence, 30))
    assert np.array_equal(evidence.take(rows).full, evidence.full) and len(evidence.full) == 1


def test_a_process_predicts_from_at_most_so_many_points(monkeypatch):
    sizes = []
    honest = Surrogate._condition

    def condition(self, points, *rest):
        sizes.append(len(points))
        return honest(self, points, *rest)

    monkeypatch.setattr(Surrogate, "_condition", condition)
    space = space_of()
    problem = OneLoss(Encoding(space), history_of(space, 700), (), noise=NoisePrior(), beta=None)
    problem.fit()
    assert problem.num_rows == MAX_POINTS == 500 and max(sizes) == 500
