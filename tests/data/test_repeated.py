"""Rows of validation that are trained on: found by content, whatever kind they are of, and kept by a search."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.data.identity import repeated_rows
from manyfit.data.rows import Rows


def drawn(num_rows, num_columns, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num_rows, num_columns)).astype("float32")


@pytest.mark.parametrize("num_columns", [1, 5, 40, 700])
def test_it_counts_what_comparing_all_pairs_counts(num_columns):
    """Outside witness: every pair of rows, compared by NumPy. Rows of 700 columns agree in all but one of them."""
    x, held = drawn(120, num_columns), drawn(60, num_columns, seed=1)
    held[10:25], held[25:30] = x[40:55], x[60:65]
    if num_columns > 32:
        held[25:30, -1] += 0.5
        x[:, 0] = held[:, 0] = 0.0  # the same in all, as the border of a picture is
    y, targets = np.arange(120) % 2, np.zeros(60, int)
    pairs = (x[:, None] == held[None]).all(axis=-1)
    with_target = pairs & (y[:, None] == targets[None])
    found = repeated_rows(Rows(x, y), Rows(held, targets))
    assert (found.num_rows, found.num_training, found.num_distinct) == (60, 120, len(np.unique(x, axis=0)))
    assert (found.num_repeated, found.num_same_target) == (pairs.any(axis=0).sum(), with_target.any(axis=0).sum())


def test_rows_that_differ_in_what_is_not_looked_at_first_are_other_rows():
    x = np.repeat(drawn(1, 300), 8, axis=0) + np.eye(8, 300, dtype="float32") * 1e-3
    held = x[:4].copy()
    held[:2, 299] += 1.0
    assert repeated_rows(Rows(x, np.zeros(8)), Rows(held, np.zeros(4))).num_repeated == 2


def test_of_folds_it_counts_rows_that_are_there_before():
    x = drawn(50, 3)
    x[45:] = x[:5]
    found = repeated_rows(Rows(x, np.arange(50) % 5), None)
    assert (found.num_rows, found.num_repeated, found.num_same_target) == (50, 5, 5)


@pytest.mark.parametrize(
    ("x", "held"),
    [
        (np.array([["a"], ["b"]]), np.array([["a"], ["b"]])),
        (drawn(4, 3), drawn(4, 2)),
        (drawn(4, 3), drawn(0, 3)),
        ([drawn(4, 3), drawn(4, 2)], [drawn(4, 3)]),
    ],
    ids=["texts", "other columns", "no rows", "other parts"],
)
def test_what_cannot_be_compared_is_not_compared(x, held):
    assert repeated_rows(Rows(x, None), Rows(held, None)) is None


def test_dictionaries_types_and_zeros_make_no_difference():
    x = {"a": np.array([0.0, 1.0]), "b": np.array([[1, 2], [3, 4]])}
    held = {"b": np.array([[1.0, 2.0]]), "a": np.array([-0.0], "float64")}
    assert repeated_rows(Rows(x, None), Rows(held, None)).num_repeated == 1


def test_a_search_keeps_what_it_found(tmp_path):
    x, y = drawn(40, 3), np.arange(40.0)
    tuner = tiny.searched(tiny.Formula(), max_trials=1, seed=0, directory=str(tmp_path), project_name="p")
    tuner.search(x, y, validation_data=(x[:10], y[:10] + 1), verbose=0)
    assert kt.open_project(tmp_path / "p").facts["repeated_rows"] == {
        "num_rows": 10, "num_repeated": 10, "num_same_target": 0, "num_training": 40, "num_distinct": 40,
        "is_held_out": True,
    }  # fmt: skip
