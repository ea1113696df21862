"""Parts of the rows: within each other, classes in proportion, groups whole, the latest of a series."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.data.call import Call
from manyfit.data.parts import RowParts, why_no_parts, with_validation

X, Y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2


def parts_of_all_kinds():
    labels = np.random.default_rng(0).integers(0, 3, 97)
    return [RowParts.by_class(97, labels, 1), RowParts.by_class(97, None, 1), RowParts.by_group(labels, 1),
            RowParts.latest(97)]  # fmt: skip


@pytest.mark.parametrize("place", range(4))
def test_smaller_parts_are_in_larger_ones_and_all_rows_are_in_the_last(place):
    parts = parts_of_all_kinds()[place]
    before: set[int] = set()
    for size in (10, 30, 60, 97):
        rows = parts.numbers(parts.nearest(size))
        assert (np.diff(rows) > 0).all() and before <= set(rows.tolist())
        assert parts.numbers(parts.nearest(size)) is rows  # members that read the same rows are told by the object
        before = set(rows.tolist())
    assert before == set(range(97)) and parts.num_rows == 97


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 5), st.data())
def test_every_part_has_every_class_in_proportion_to_within_a_row(labels, seed, data):
    classes = np.array(labels)
    size = data.draw(st.integers(1, len(classes)))
    rows = RowParts.by_class(len(classes), classes, seed).numbers(size)
    for label, count in zip(*np.unique(classes, return_counts=True), strict=True):
        assert abs((classes[rows] == label).sum() - size * count / len(classes)) <= len(np.unique(classes))


def test_a_seed_says_which_rows():
    first, again, other = (RowParts.by_class(50, None, seed).numbers(10).tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_groups_are_whole():
    groups = np.repeat(np.arange(10), 7)
    parts = RowParts.by_group(groups, seed=0)
    rows = parts.numbers(parts.nearest(20))
    assert len(rows) == 21 and set(np.unique(groups[rows], return_counts=True)[1]) == {7}
    assert parts.nearest(1_000) == 70


def test_the_latest_rows_follow_each_other():
    assert RowParts.latest(100).numbers(20).tolist() == list(range(80, 100))


def test_what_validates_is_given_by_itself():
    call = with_validation(Call((X, Y), {"validation_split": 0.25, "epochs": 2}))
    assert call.num_rows == 15 and call.get("validation_split") is None and call.get("epochs") == 2
    np.testing.assert_array_equal(call.get("validation_data")[0], X[15:])
    assert with_validation(call) is call and with_validation(Call((X, Y))).num_rows == 20


def test_streams_have_no_parts():
    assert why_no_parts(Call((X, Y))) is None
    assert "stream" in why_no_parts(Call((iter([]),)))
    assert "steps_per_epoch" in why_no_parts(Call((X, Y), {"steps_per_epoch": 2}))
