"""Predicted costs, against histories that were made from known costs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manyfit.stats.costs import Measurement, predicted_seconds

STEPS = ("build", "compile", "epoch", "predict")


def true_epoch(rows, parameters):
    return 2e-7 * rows * parameters**0.6


def history(num, noise, rng, *, slow_share=0.0):
    """Epochs of structures of many sizes; some waited ten times as long for a busy machine."""
    found = []
    for number in range(num):
        parameters, rows = int(10 ** rng.uniform(2, 6)), int(10 ** rng.uniform(3, 5))
        seconds = true_epoch(rows, parameters) * math.exp(noise * rng.normal())
        seconds *= 10 if rng.uniform() < slow_share else 1
        found.append(Measurement("epoch", f"s{number}", rows, parameters, seconds))
    return found


@pytest.mark.parametrize(("noise", "slow_share", "most"), [(0.0, 0.0, 1.01), (0.1, 0.0, 1.3), (0.1, 0.2, 1.6)])
def test_costs_of_structures_that_nobody_timed_follow_from_the_others(noise, slow_share, most):
    known = history(40, noise, np.random.default_rng(0), slow_share=slow_share)
    for rows, parameters in [(2_000, 500), (10_000, 20_000), (50_000, 500_000)]:
        found = predicted_seconds("epoch", "new", known, rows=rows, parameters=parameters)
        assert 1 / most <= found / true_epoch(rows, parameters) <= most


def test_one_that_waited_moves_nothing_and_the_latest_of_a_structure_count():
    steady = [Measurement("compile", "a", 1, 100, seconds) for seconds in (4.0, 4.1, 400.0, 3.9, 4.0)]
    assert predicted_seconds("compile", "a", steady) == pytest.approx(4.0)
    # By now it lies in a cache.
    assert predicted_seconds("compile", "a", [*steady, *[Measurement("compile", "a", 1, 100, 0.3)] * 5]) < 0.31


@pytest.mark.parametrize("step", ["build", "compile"])
def test_building_and_compiling_do_not_look_at_rows(step):
    known = [Measurement(step, "a", 1_000, 100, 2.0)]
    assert predicted_seconds(step, "a", known, rows=10**6, parameters=100) == pytest.approx(2.0)


def test_nothing_is_known_of_a_step_that_was_never_timed_or_whose_time_is_no_number():
    known = [Measurement("build", "a", 1, 1, 1.0), Measurement("epoch", "a", 1, 1, math.nan)]
    assert predicted_seconds("epoch", "a", known) is None
    assert predicted_seconds("epoch", "a", []) is None


MEASURED = st.builds(
    Measurement,
    st.sampled_from(STEPS),
    st.sampled_from("abc"),
    st.integers(0, 10**7),
    st.integers(0, 10**9),
    st.floats(0.0, 1e5),
)


@given(
    st.lists(MEASURED, min_size=1, max_size=12),
    st.sampled_from("abcd"),
    st.tuples(*[st.integers(1, 10**7)] * 2),
    st.tuples(*[st.integers(1, 10**9)] * 2),
    st.integers(1, 50),
)
def test_more_rows_parameters_or_epochs_never_take_less(known, structure, rows, parameters, epochs):
    step = known[0].step

    def seconds(place, count=1):
        size = {"rows": sorted(rows)[place], "parameters": sorted(parameters)[place]}
        return predicted_seconds(step, structure, known, count=count, **size)

    assert 0 <= seconds(0) <= seconds(1) * (1 + 1e-9)
    assert seconds(0, epochs) == pytest.approx(epochs * seconds(0))


@given(st.lists(MEASURED, min_size=1, max_size=8), st.randoms())
def test_the_order_of_structures_does_not_matter(known, random):
    known = [
        one for number, one in enumerate(known) if one.structure not in {each.structure for each in known[:number]}
    ]
    shuffled = list(known)
    random.shuffle(shuffled)
    found = [predicted_seconds(known[0].step, "new", some, rows=5, parameters=7) for some in (known, shuffled)]
    assert found[0] == pytest.approx(found[1])
