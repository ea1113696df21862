import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyfit.schedulers import rungs


def table(max_epochs, factor, min_epochs=1):
    """{bracket: [(trials, epochs) per rung]}, trials as promised to users of KerasTuner."""
    numbers = range(rungs.num_brackets(max_epochs, factor, min_epochs))
    return {s: [(r.num_trials, r.epochs) for r in rungs.rungs_of(max_epochs, factor, s)] for s in numbers}


def test_81_by_3_is_the_papers():
    # Li et al. 2018, Table 1 (R = 81, eta = 3) for the most aggressive bracket and the epochs of all; the first
    # sizes of the others by its Algorithm 1, n = ceil((s_max + 1) / (s + 1) * eta^s), which the table rounds down.
    found = table(81, 3)
    assert found[4] == [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]
    assert [found[s][0] for s in (3, 2, 1, 0)] == [(34, 3), (15, 9), (8, 27), (5, 81)]
    for s, bracket in found.items():
        assert [epochs for _, epochs in bracket] == [81 // 3 ** (s - r) for r in range(s + 1)]


GOLDEN = {
    (243, 3): {
        5: [(243, 1), (81, 3), (27, 9), (9, 27), (3, 81), (1, 243)],
        4: [(98, 3), (33, 9), (11, 27), (4, 81), (2, 243)],
        3: [(41, 9), (14, 27), (5, 81), (2, 243)],
        2: [(18, 27), (6, 81), (2, 243)],
        1: [(9, 81), (3, 243)],
        0: [(6, 243)],
    },
    (1000, 10): {
        3: [(1000, 1), (100, 10), (10, 100), (1, 1000)],
        2: [(134, 10), (14, 100), (2, 1000)],
        1: [(20, 100), (2, 1000)],
        0: [(4, 1000)],
    },
    (100, 3): {
        4: [(98, 2), (33, 4), (11, 12), (4, 34), (2, 100)],
        3: [(41, 4), (14, 12), (5, 34), (2, 100)],
        2: [(18, 12), (6, 34), (2, 100)],
        1: [(9, 34), (3, 100)],
        0: [(6, 100)],
    },
    (10, 3): {2: [(12, 2), (4, 4), (2, 10)], 1: [(6, 4), (2, 10)], 0: [(4, 10)]},
    (8, 2): {
        3: [(8, 1), (4, 2), (2, 4), (1, 8)],
        2: [(6, 2), (3, 4), (2, 8)],
        1: [(4, 4), (2, 8)],
        0: [(4, 8)],
    },
    (2, 3): {0: [(2, 2)]},
    (1, 2): {0: [(1, 1)]},
}


@pytest.mark.parametrize(("max_epochs", "factor"), list(GOLDEN))
def test_golden_tables(max_epochs, factor):
    assert table(max_epochs, factor) == GOLDEN[max_epochs, factor]


@pytest.mark.parametrize(
    ("max_epochs", "num_rung_entries", "num_epochs"),
    # KerasTuner 1.4.8 with factor=3, counted by running its oracle: its "trials" are entries of rungs, and epochs
    # are counted as if promoted trials continue.
    [(100, 254, 2672), (81, 211, 1767), (50, 90, 922), (30, 90, 576), (10, 30, 120)],
)
def test_a_search_spends_what_kerastuners_spends(max_epochs, num_rung_entries, num_epochs):
    entries, epochs = 0, 0
    for bracket in table(max_epochs, 3).values():
        before = 0
        for num_trials, rung_epochs in bracket:
            entries += num_trials
            epochs += num_trials * (rung_epochs - before)
            before = rung_epochs
    assert (entries, epochs) == (num_rung_entries, num_epochs)


@pytest.mark.parametrize("factor", range(2, 12))
def test_no_power_loses_a_rung(factor):
    for power in range(1, 40):
        assert rungs.num_brackets(factor**power, factor) == power + 1
        assert rungs.num_brackets(factor**power - 1, factor) == power
        assert rungs.ceil_log(factor**power, factor) == power
        assert rungs.ceil_log(factor**power + 1, factor) == power + 1
        assert rungs.rung_epochs(factor**power, factor, power) == [factor**r for r in range(power + 1)]


def test_floating_point_would_have_lost_one():
    assert math.floor(math.log(243, 3)) == 4  # the trap itself, so that nobody simplifies `num_brackets`
    assert rungs.num_brackets(243, 3) - 1 == 5


@given(st.integers(1, 10**9), st.integers(2, 50), st.integers(1, 100))
def test_brackets_are_ladders(max_epochs, factor, min_epochs):
    for s in range(rungs.num_brackets(max_epochs, factor, min_epochs)):
        ladder = rungs.rungs_of(max_epochs, factor, s)
        epochs = [rung.epochs for rung in ladder]
        sizes = [rung.num_trials for rung in ladder]
        assert epochs[-1] == max_epochs and epochs[0] >= min_epochs and len(ladder) == s + 1
        assert epochs == sorted(set(epochs))
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] >= 1
        for rung, following in itertools.pairwise(sizes):
            assert following == -(-rung // factor) or following == -(-rung // factor) - 1 or following * factor >= rung


@given(st.integers(1, 500), st.integers(2, 5), st.integers(1, 300))
def test_few_trials_get_fewer_brackets_that_still_halve(max_epochs, factor, max_trials):
    plan = rungs.bracket_numbers(max_epochs, factor, 1, max_trials)
    assert sum(size for _, size in plan) <= max_trials
    assert [number for number, _ in plan] == sorted({number for number, _ in plan}, reverse=True)
    assert all(size >= 1 for _, size in plan)
    full = rungs.bracket_numbers(max_epochs, factor, 1, None)
    if max_trials >= sum(size for _, size in full):
        assert plan == full
    if max_trials > factor and max_epochs >= factor:
        assert plan[0][0] >= 1


@given(st.integers(1, 500), st.integers(2, 5), st.integers(1, 300))
def test_a_shrunk_bracket_reaches_the_end(max_epochs, factor, num_trials):
    s = rungs.num_brackets(max_epochs, factor) - 1
    full = rungs.rungs_of(max_epochs, factor, s)
    small = rungs.shrunk(full, num_trials, factor)
    assert small[-1].num_trials >= 1 and small[-1].epochs == max_epochs
    assert small[0].num_trials == min(num_trials, full[0].num_trials)
    assert all(after.num_trials <= before.num_trials for before, after in itertools.pairwise(small))
    assert rungs.shrunk(full, full[0].num_trials, factor) == full
