"""Who is worse, who is equal, and what cannot be told: with the error of the rows, and never taken back."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.evidence.decisions import DropDecision, RaceEnd, compare, decide, next_runs
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs


def rules_for(table, **changes):
    return RaceRules(**{"num_contenders": max(1, len(table)), "max_rounds": max(1, np.shape(table)[1]), **changes})


def table(rng, truths, *, rows=200, seeds=20, own=0.3, by_seed=0.05):
    """Losses (contenders, seeds, rows): each contender has luck of its own with these rows, whatever the seed."""
    luck = own * rng.normal(size=(len(truths), 1, rows))
    seed = by_seed * rng.normal(size=(len(truths), seeds, 1))
    rest = rng.normal(size=(len(truths), seeds, rows))
    return np.asarray(truths)[:, None, None] + rng.lognormal(size=rows) + luck + seed + rest


def play(losses, *, batch, rows=None):
    """Runs a race by its own requests, as a confirmation does."""
    scores, rules = np.full(losses.shape, np.nan), rules_for(losses)
    while True:
        runs = Runs(scores, rows)
        standing = decide(runs, rules)
        wanted = next_runs(runs, standing, count=batch)
        if not wanted:
            return standing, int(np.isfinite(scores).sum())
        for contender, seed in wanted:
            assert np.isnan(scores[contender, seed])
            scores[contender, seed] = losses[contender, seed]


def test_two_contenders_are_compared_by_the_crossed_layout():
    """Against mean squares that are added up here entry by entry, and Satterthwaite's degrees of freedom."""
    losses = table(np.random.default_rng(0), [0.0, 0.4], rows=50, seeds=4)
    d = losses[1] - losses[0]
    n, size = d.shape
    by_seed, by_row, mean = d.mean(axis=1), d.mean(axis=0), d.mean()
    ms_seeds = size * ((by_seed - mean) ** 2).sum() / (n - 1)
    ms_rows = n * ((by_row - mean) ** 2).sum() / (size - 1)
    nu = (ms_seeds + ms_rows) ** 2 / (ms_seeds**2 / (n - 1) + ms_rows**2 / (size - 1))
    t = mean / np.sqrt((ms_seeds + ms_rows) / (n * size))
    found = Runs(losses.mean(axis=2), losses).difference(1, 0, range(n))
    assert found.statistic == pytest.approx(t) and found.variance_of_free_degrees == pytest.approx(nu)
    assert found.p_value == pytest.approx(scipy.stats.t.sf(t, nu))
    ms_rest = ((d - by_seed[:, None] - by_row + mean) ** 2).sum() / ((n - 1) * (size - 1))
    assert found.rows_at_best == pytest.approx(max(0, (ms_rows - ms_rest) / n / size))
    assert compare(Runs(losses.mean(axis=2), losses), 0, 1, rounds=4).mean == pytest.approx(-mean)


def test_without_rows_a_drop_is_a_paired_t_test_over_seeds_and_is_called_so():
    scores = np.random.default_rng(2).normal(size=(2, 12)) + np.array([[0.0], [2.0]])
    standing = decide(Runs(scores), rules_for(scores))
    p_values = [scipy.stats.ttest_rel(scores[1, :n], scores[0, :n], alternative="greater").pvalue for n in range(3, 13)]
    [decision] = standing.decisions
    assert decision.round == 3 + int(np.flatnonzero(np.array(p_values) < standing.rules.level)[0])
    assert decision.p_value == pytest.approx(p_values[decision.round - 3])
    assert (decision.contender, decision.rival, decision.by) == (1, 0, "seeds")


def test_equals_on_fresh_rows_are_hardly_ever_called_different():
    """Pairs that differ by their luck with these rows alone: over seeds nearly all would be "proven"."""
    rng = np.random.default_rng(3)
    false, false_over_seeds = 0, 0
    for _ in range(150):
        losses = table(rng, [0.0, 0.0], own=1.0, by_seed=0.02)
        false += bool(decide(Runs(losses.mean(axis=2), losses), RaceRules(num_contenders=2)).decisions)
        false_over_seeds += bool(decide(Runs(losses.mean(axis=2)), RaceRules(num_contenders=2)).decisions)
    assert false <= 15  # more have a probability of 1 in 200 at the promised 5 %
    assert false_over_seeds > 50


def test_variances_borrow_from_each_other_so_that_three_rounds_are_enough():
    losses = table(np.random.default_rng(4), [0.0, *[1.0] * 7], seeds=3)
    standing = decide(Runs(losses.mean(axis=2), losses), RaceRules())
    assert standing.settled and {one.round for one in standing.decisions} == {3}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 40))
def test_batches_change_no_decision_and_waste_at_most_one_of_them_per_drop(seed, num_contenders, batch):
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(num_contenders, 12)) + rng.normal(size=(num_contenders, 1))
    one_by_one, needed = play(losses, batch=1)
    batched, used = play(losses, batch=batch)
    assert batched == one_by_one == decide(Runs(losses), rules_for(losses))
    assert needed <= used < needed + batch * num_contenders or num_contenders == 1


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.1, 10), st.floats(-5, 5))
def test_units_and_common_noise_do_not_matter(seed, factor, shift):
    rng = np.random.default_rng(seed)
    losses = rng.normal(size=(4, 10)) + rng.normal(size=(4, 1))
    moved = losses * factor + shift + 3 * rng.normal(size=(1, 10))
    words = [
        (each.winning_set, each.rounds, [(one.contender, one.rival, one.round) for one in each.decisions])
        for each in (decide(Runs(table), rules_for(table, margin=1e-9)) for table in (losses, moved))
    ]
    assert words[0] == words[1]


def test_decisions_are_facts():
    """Whatever is run later: nobody comes back, and a look is made once."""
    rng = np.random.default_rng(5)
    losses = table(rng, [0.0, 0.5, 0.5])
    first = decide(Runs(losses[:, :4].mean(axis=2), losses[:, :4]), RaceRules())
    assert {one.contender for one in first.decisions} == {1, 2}
    reversed_since = losses.copy()
    reversed_since[0, 4:] += 9.0
    after = decide(Runs(reversed_since.mean(axis=2), reversed_since), RaceRules(), known=first.decisions)
    assert after.decisions == first.decisions and after.winning_set == (0,)
    seen = decide(Runs(losses.mean(axis=2), losses), RaceRules(), seen={0: 20, 1: 20, 2: 20})
    assert not seen.decisions


def test_equal_within_the_margin_is_a_finding():
    rng = np.random.default_rng(6)
    losses = table(rng, [0.0, 0.0], rows=4000, own=0.02, by_seed=0.001)
    standing = decide(Runs(losses.mean(axis=2), losses), RaceRules(margin=0.05))
    assert standing.verdict is RaceEnd.EQUAL and standing.verdict.is_a_finding and not standing.settled
    assert decide(Runs(losses.mean(axis=2), losses), RaceRules(margin=1e-5)).verdict is not RaceEnd.EQUAL


def test_the_rows_are_the_limit_and_more_of_them_would_settle_it():
    rng = np.random.default_rng(7)
    losses = table(rng, [0.0, 0.05], rows=100, own=1.0)
    runs = Runs(losses.mean(axis=2), losses)
    standing = decide(runs, RaceRules(num_contenders=2))
    assert standing.verdict is RaceEnd.ROWS_ARE_THE_LIMIT
    leader, other = standing.winning_set
    found = compare(runs, other, leader, rounds=standing.rounds)
    needed = found.rows_needed(standing.rules.level)
    assert needed > 100
    t = scipy.stats.t.isf(standing.rules.level, 99)
    assert needed == int(np.ceil(100 * t**2 * found.rows_variance / found.mean**2))


def test_seeds_that_are_needed_settle_it():
    rng = np.random.default_rng(8)
    losses = table(rng, [0.0, 0.2], rows=4000, own=0.0, by_seed=0.15, seeds=60)
    runs = Runs(losses.mean(axis=2), losses)
    found = runs.difference(1, 0, range(4))
    needed = found.seeds_needed(0.005)
    t = scipy.stats.t.isf(0.005, found.variance_of_free_degrees)
    assert needed >= 4 and abs(found.mean) >= t * np.sqrt(found.variance_after(needed))
    assert abs(found.mean) < t * np.sqrt(found.variance_after(needed - 1)) or needed == 4
    assert found.variance_after(4) == pytest.approx(found.variance)


def test_splits_that_overlap_are_no_fresh_rows():
    """Nadeau and Bengio's correction: 1/n becomes 1/n + validation rows by training rows."""
    d = np.array([[0.0, 0.0, 0.0, 0.0], [0.1, 0.3, 0.2, 0.25]])
    found = Runs(d, overlap=0.25).difference(1, 0, range(4))
    assert found.variance == pytest.approx(np.var(d[1], ddof=1) * (1 / 4 + 0.25))
    assert found.variance_after(10**9) == pytest.approx(found.variance_at_best)


def test_one_diverged_run_among_good_ones_is_no_reason_to_drop():
    rng = np.random.default_rng(9)
    losses = np.array([[0.0], [0.3]]) + 0.01 * rng.normal(size=(2, 12))
    losses[0, 1] = np.inf
    standing = decide(Runs(losses), rules_for(losses))
    assert standing.winning_set == (0,) and [one.contender for one in standing.decisions] == [1]


def test_a_rate_of_failures_that_is_worse_by_the_same_level_is_one():
    losses = np.zeros((2, 12)) + 0.01 * np.random.default_rng(10).normal(size=(2, 12))
    losses[0, 1:] = np.inf
    standing = decide(Runs(losses), rules_for(losses))
    [decision] = standing.decisions
    assert (decision.contender, decision.by) == (0, "failures") and decision.p_value < standing.rules.level
    failed = int(np.isinf(losses[0, : decision.round]).sum())
    good = decision.round - failed
    assert decision.p_value == pytest.approx(
        scipy.stats.fisher_exact([[failed, good], [0, decision.round]], alternative="greater").pvalue
    )
    assert decide(Runs(np.full((2, 6), np.inf)), RaceRules()).winning_set == (0, 1)  # both alike


def test_contenders_keep_their_names_under_permutation():
    losses = np.random.default_rng(9).normal(size=(5, 15)) + np.arange(5)[:, None]
    order = np.array([3, 0, 4, 1, 2])
    plain, moved = (decide(Runs(each), rules_for(each)) for each in (losses, losses[order]))
    assert tuple(order[list(moved.winning_set)]) == plain.winning_set


def test_one_finalist_has_nobody_to_be_compared_with():
    runs = Runs([[np.nan]])
    standing = decide(runs, RaceRules())
    assert standing.settled and standing.winning_set == (0,) and next_runs(runs, standing, count=4) == []


def test_exact_ties_are_equal_and_cost_few_runs():
    standing, used = play(np.tile(np.linspace(1, 2, 30), (4, 1)), batch=4)
    assert standing.verdict is RaceEnd.EQUAL and standing.winning_set == (0, 1, 2, 3)
    assert used == 12


def test_contenders_without_noise_are_ranked_at_the_first_look():
    standing = decide(Runs([[1.0] * 3, [2.0] * 3, [3.0] * 3]), RaceRules())
    assert standing.settled and {one.contender: one.round for one in standing.decisions} == {1: 3, 2: 3}


def test_fewer_than_two_runs_settle_nothing():
    for seeds in (1, 2):
        standing = decide(Runs(np.arange(3.0)[:, None] + np.zeros((3, seeds))), RaceRules())
        assert standing.verdict is None and len(standing.winning_set) == 3 and not standing.decisions


def test_a_round_waits_for_the_slowest():
    runs = Runs(np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, np.nan, 2.0]]))
    standing = decide(runs, RaceRules(max_rounds=4))
    assert standing.rounds == 2 and standing.verdict is None
    assert next_runs(runs, standing, count=9) == [(1, 2)]


def test_runs_go_to_those_who_are_left():
    scores = np.full((3, 6), np.nan)
    scores[:, :3] = [[1.0, 1.1, 1.2], [1.1, 1.0, 1.2], [9.0, 9.1, 9.2]]
    standing = decide(Runs(scores), RaceRules(max_rounds=6))
    assert standing.winning_set == (0, 1)
    assert next_runs(Runs(scores), standing, count=3) == [(0, 3), (1, 3), (0, 4)]


def test_the_best_stays_in_the_set_as_often_as_stated():
    # 150 races of 6 equal contenders, 15 rounds, 90 %: the first is dropped with probability at most 0.1, so more
    # than 30 times with probability 1e-4.
    rng = np.random.default_rng(11)
    dropped = 0
    for _ in range(150):
        scales = np.array([1.0, 1.0, 1.0, 0.5, 2.0, 2.0])
        losses = scales[:, None] * rng.normal(size=(6, 15)) + rng.normal(size=(1, 15))
        dropped += 0 not in decide(Runs(losses), rules_for(losses, confidence=0.9)).winning_set
    assert 1 <= dropped <= 30


def test_a_clear_winner_is_found_with_fewer_runs_than_uniform_replication():
    rng = np.random.default_rng(12)
    used = []
    for _ in range(60):
        losses = rng.normal(size=(8, 30)) + 2.0 * (np.arange(8) > 0)[:, None]
        standing = decide(Runs(losses), rules_for(losses))
        assert standing.winning_set == (0,)
        used.append(sum(standing.dropped[i].round if i in standing.dropped else standing.rounds for i in range(8)))
    assert np.median(used) <= 120


def test_a_later_family_has_half_the_error():
    first = RaceRules(confidence=0.95)
    second, third = first.after(1, 3), first.after(2, 8)
    assert second.confidence == pytest.approx(0.975) and third.confidence == pytest.approx(0.9875)
    assert third.level < first.level and second.num_contenders == 3
    assert RaceRules.from_dict(second.to_dict()) == second


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"confidence": 0.5}, "0.7 <= confidence < 1"),
        ({"confidence": 95}, "Type 0.95 for 95 %"),
        ({"max_rounds": 0}, "at least 1"),
        ({"num_contenders": 0}, "at least 1"),
        ({"margin": 0.0}, "above 0"),
    ],
)
def test_rules_refuse(changes, part):
    with pytest.raises(UsageError, match=part):
        RaceRules(**changes)


def test_tables_refuse():
    with pytest.raises(UsageError, match="shape"):
        Runs([[1.0, 2.0]], np.zeros((1, 3, 4)))
    with pytest.raises(UsageError, match="num_contenders"):
        decide(Runs(np.zeros((3, 1))), RaceRules(num_contenders=2))


def test_a_decision_is_a_value():
    decision = DropDecision(1, 0, 3, 5.0, 1e-4, 1e-3, 0.2, "seeds")
    assert dataclasses.replace(decision) == decision and "contender" not in decision.to_dict()


def test_among_equals_nobody_is_called_worse():
    """Of 100 races of 8 that only seeds make differ, 4 may have such a word; with the level of 7 tests it was 13."""
    rng = np.random.default_rng(7)
    wrong = 0
    for _ in range(100):
        seeds = rng.standard_normal((8, 20, 1))
        rows = (seeds + 1e-3 * rng.standard_normal((8, 20, 12))).astype(np.float32)
        wrong += bool(decide(Runs(rows.mean(axis=2, dtype=float), rows), RaceRules()).decisions)
    assert wrong <= 7
