import dataclasses

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.stats.racing import Verdict, level_of_one_pair, next_runs, nominal_level, race


def play(losses, *, batch, **options):
    """Runs a race by its own requests, as `finish` does."""
    scores = np.full(losses.shape, np.nan)
    while True:
        standing = race(scores, max_rounds=losses.shape[1], **options)
        runs = next_runs(scores, standing, count=batch, max_rounds=losses.shape[1])
        if not runs:
            return standing, int(np.isfinite(scores).sum())
        for contender, seed in runs:
            assert np.isnan(scores[contender, seed])
            scores[contender, seed] = losses[contender, seed]


def test_the_level_of_pocock():
    # Pocock 1977, table 1: 10 looks at two-sided 0.05 take the nominal level 0.0106 each, 0.0053 for one side at
    # 0.025, with known variance and looks after equal amounts of data. Ours come after rounds 3 to 12 and estimate
    # the variance; the first makes looks more alike, the second less.
    assert level_of_one_pair(0.025, 12) == pytest.approx(0.0053, rel=0.1)


def test_one_look_is_an_ordinary_t_test():
    # 100,000 paths, both signs: the standard error of the level is 1 % and 2 %.
    assert level_of_one_pair(0.05, 3) == pytest.approx(0.05, rel=0.04)
    assert nominal_level(2, 0.95, 3) == pytest.approx(0.04, rel=0.04)
    assert nominal_level(6, 0.95, 3) == pytest.approx(1 - 0.96 ** (1 / 5), rel=0.08)


def test_levels_fall_with_looks_and_contenders():
    assert nominal_level(2, 0.95, 10) > nominal_level(2, 0.95, 30) > nominal_level(2, 0.95, 60)
    assert nominal_level(2, 0.95, 30) > nominal_level(8, 0.95, 30) > nominal_level(30, 0.95, 30) > 0
    assert nominal_level(1, 0.95, 30) == nominal_level(8, 0.95, 2) == 0.0


def test_a_drop_is_a_paired_t_test_below_the_level():
    rng = np.random.default_rng(2)
    scores = rng.normal(size=(3, 12)) + np.array([[0.0], [0.2], [2.0]])
    standing = race(scores, futility=0.0, max_rounds=12)
    after = standing.dropped_after[2]
    rivals = [scipy.stats.ttest_rel(scores[2, :n], scores[0, :n], alternative="greater").pvalue for n in range(3, 13)]
    second = [scipy.stats.ttest_rel(scores[2, :n], scores[1, :n], alternative="greater").pvalue for n in range(3, 13)]
    smallest = np.minimum(rivals, second)
    assert after == 3 + int(np.flatnonzero(smallest < standing.level)[0])
    assert standing.winning_set == (0, 1) and standing.dropped_by[2] in (0, 1)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 40))
def test_batches_change_no_decision_and_waste_at_most_one_of_them_per_drop(seed, num_contenders, batch):
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(num_contenders, 12)) + rng.normal(size=(num_contenders, 1))
    one_by_one, needed = play(losses, batch=1)
    batched, used = play(losses, batch=batch)
    assert batched == one_by_one
    assert needed <= used < needed + batch * num_contenders or num_contenders == 1
    at_once = race(losses, max_rounds=12)
    assert at_once == one_by_one
    if num_contenders > 1:
        assert at_once.num_executions == needed


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_and_common_noise_do_not_matter(seed, factor, shift):
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(4, 10)) + rng.normal(size=(4, 1))
    moved = losses * factor + shift + 3 * rng.normal(size=(1, 10))
    assert race(losses, max_rounds=10) == race(moved, max_rounds=10)


def test_contenders_keep_their_names_under_permutation():
    rng = np.random.default_rng(9)
    losses = rng.normal(size=(5, 15)) + np.arange(5)[:, None]
    order = np.array([3, 0, 4, 1, 2])
    plain, moved = race(losses, max_rounds=15), race(losses[order], max_rounds=15)
    assert tuple(order[list(moved.winning_set)]) == plain.winning_set


def test_one_finalist_has_won():
    standing = race([[np.nan]])
    assert standing.verdict is Verdict.ONE_LEFT and standing.winning_set == (0,) and standing.settled
    assert next_runs([[np.nan]], standing, count=4) == []


def test_exact_ties_cannot_be_told_apart_and_cost_few_runs():
    standing, used = play(np.tile(np.linspace(1, 2, 30), (4, 1)), batch=4)
    assert standing.verdict is Verdict.CANNOT_BE_TOLD_APART and standing.settled
    assert standing.winning_set == (0, 1, 2, 3)
    assert used == 20


def test_contenders_without_noise_are_ranked_at_the_first_look():
    standing = race([[1.0] * 3, [2.0] * 3, [3.0] * 3])
    assert standing.verdict is Verdict.ONE_LEFT and standing.dropped_after == (None, 3, 3)


def test_running_out_of_rounds_is_not_settled():
    losses = np.array([[0.0, 1.0, 0.1, 1.1], [0.5, 1.0, 0.9, 1.0]])
    standing = race(losses, max_rounds=4)
    assert standing.verdict is Verdict.OUT_OF_ROUNDS and not standing.settled and standing.winning_set == (0, 1)


def test_a_diverged_run_loses_against_those_that_never_diverge():
    scores = [[0.1, np.inf, np.nan], [0.5, 0.6, 0.5], [0.4, 0.5, 0.6]]
    standing = race(scores, max_rounds=9)
    assert standing.dropped_after == (2, None, None) and standing.dropped_by[0] == 2
    assert standing.winning_set == (2, 1)


def test_when_everybody_diverges_divergence_is_a_bad_score():
    noise = np.random.default_rng(0).normal(scale=0.01, size=(2, 20))
    scores = noise.copy()
    scores[0, 0] = np.inf
    scores[1, ::2] = np.inf
    standing = race(scores, max_rounds=20, futility=0.0)
    assert standing.winning_set[0] == 0
    hopeless = race(np.full((2, 6), np.inf), max_rounds=6, futility=0.0)
    assert hopeless.winning_set == (0, 1)


def test_the_recommended_is_the_cheapest_within_noise_of_the_leader():
    rng = np.random.default_rng(1)
    noise = rng.normal(scale=0.1, size=(3, 4))
    scores = noise - noise.mean(axis=1, keepdims=True) + np.array([[1.0], [1.001], [1.5]])
    standing = race(scores[:, :4], max_rounds=30, futility=0, costs=[5.0, 2.0, 1.0])
    assert standing.recommended == 1
    assert race(scores, max_rounds=30, futility=0).recommended == 0
    early = race(scores[:, :2], max_rounds=30, costs=[5.0, 2.0, 1.0])
    assert set(early.winning_set) == {0, 1, 2} and early.recommended == 1


def test_runs_go_to_those_still_in_the_race_only():
    scores = np.full((3, 6), np.nan)
    scores[:, :3] = [[1.0, 1.1, 1.2], [1.1, 1.0, 1.2], [9.0, 9.1, 9.2]]
    standing = race(scores, max_rounds=6, futility=0.0)
    assert standing.winning_set == (0, 1)
    assert next_runs(scores, standing, count=3, max_rounds=6) == [(0, 3), (1, 3), (0, 4)]
    scores[0, 3] = 1.0
    assert next_runs(scores, standing, count=2, max_rounds=6) == [(1, 3), (0, 4)]


def test_a_look_waits_for_the_slowest():
    scores = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, np.nan, 2.0]])
    standing = race(scores, max_rounds=9)
    assert standing.rounds == 2 and standing.verdict is None
    assert next_runs(scores, standing, count=9, max_rounds=4) == [(1, 2)]


def test_the_best_stays_in_the_set_as_often_as_stated():
    # 600 races of 6 equal contenders, 15 rounds, 90 %: the first is dropped with probability at most 0.1, so more
    # than 88 times with probability 1e-4. Fewer than 20 times would mean a confidence far above the stated one; at
    # 0.07, what larger simulations show, that has probability 1e-5.
    rng = np.random.default_rng(11)
    dropped = 0
    for _ in range(600):
        scales = np.array([1.0, 1.0, 1.0, 0.5, 2.0, 2.0])
        losses = scales[:, None] * rng.normal(size=(6, 15)) + rng.normal(size=(1, 15))
        dropped += 0 not in race(losses, confidence=0.9, max_rounds=15).winning_set
    assert 20 <= dropped <= 88


def test_a_clear_winner_is_found_with_fewer_runs_than_uniform_replication():
    rng = np.random.default_rng(12)
    used = []
    for _ in range(100):
        losses = rng.normal(size=(8, 30)) + 2.0 * (np.arange(8) > 0)[:, None]
        standing = race(losses)
        assert standing.winning_set == (0,)
        used.append(standing.num_executions)
    assert np.median(used) <= 120


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"confidence": 0.5}, "0.7 <= confidence < 1"),
        ({"confidence": 95}, "Type 0.95 for 95 %"),
        ({"max_rounds": 0}, "integer of 1 or more"),
        ({"max_rounds": 2.5}, "integer of 1 or more"),
        ({"futility": 1.0}, "0 <= futility < 1"),
        ({"costs": [1.0]}, "one number per contender"),
        ({"costs": [1.0, float("nan")]}, "one number per contender"),
    ],
)
def test_race_refuses(options, part):
    with pytest.raises(UsageError, match=part):
        race([[1.0], [2.0]], **options)


def test_standing_is_a_value():
    standing = race([[1.0] * 3, [2.0] * 3])
    assert dataclasses.replace(standing) == standing
