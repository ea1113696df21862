"""Which rows train and which validate: sizes, classes, groups, time, splitters of scikit-learn, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection

import manyfit as kt
from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.data.folds import CrossValidation, Split, random_splits

X = np.arange(24, dtype=float).reshape(12, 2)
Y = np.array([0, 1] * 4 + [0] * 4)


def splits_of(cross_validation, x=X, y=Y, count=None):
    folds = cross_validation.resolve(x, y)
    return [folds.split(index) for index in range(count or folds.num_splits)]


@given(st.integers(2, 7), st.integers(7, 60), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_each_row_is_held_out_once_and_sizes_differ_by_one(folds, rows, seed, stratify):
    labels = np.arange(rows) % 3
    found = splits_of(
        CrossValidation(folds, stratify=False if not stratify else None, seed=seed), np.zeros(rows), labels
    )
    held_out = np.concatenate([split.validation for split in found])
    assert sorted(held_out) == list(range(rows))
    sizes = [len(split.validation) for split in found]
    assert max(sizes) - min(sizes) <= 1
    assert all(len(split.training) + len(split.validation) == rows for split in found)


def test_classes_keep_their_shares():
    found = splits_of(CrossValidation(4, stratify=True))
    for split in found:
        assert np.bincount(Y[split.validation]).tolist() == [2, 1]


def test_repeats_cut_anew_and_the_seed_decides():
    first, second = splits_of(kt.CrossValidation(3, 2), count=6)[::3]
    assert first.validation.tolist() != second.validation.tolist()
    again = splits_of(kt.CrossValidation(3, 2))[0]
    assert again.validation.tolist() == first.validation.tolist()
    assert splits_of(kt.CrossValidation(3, 2, seed=1))[0].validation.tolist() != first.validation.tolist()


def test_time_goes_forward_as_in_scikit_learn():
    rows = np.zeros((29, 1))
    found = splits_of(CrossValidation(4, time_series=True), rows, None)
    for split, (training, validation) in zip(found, model_selection.TimeSeriesSplit(4).split(rows), strict=True):
        assert (split.training == training).all() and (split.validation == validation).all()


def test_groups_stay_together():
    groups = np.repeat(["a", "b", "c", "d", "e"], [4, 3, 2, 2, 1])
    for split in splits_of(CrossValidation(3, groups=groups)):
        assert not set(groups[split.training]) & set(groups[split.validation])


@pytest.mark.parametrize(
    "splitter",
    [
        model_selection.KFold(3),
        model_selection.StratifiedKFold(3),
        model_selection.RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
        model_selection.ShuffleSplit(4, test_size=0.25, random_state=0),
    ],
)
def test_splitters_of_scikit_learn(splitter):
    expected = list(splitter.split(X, Y))
    for given_as in (splitter, CrossValidation(splitter)):
        found = splits_of(CrossValidation.of(given_as))
        assert len(found) == len(expected)
        for split, (training, validation) in zip(found, expected, strict=True):
            assert (split.training == np.sort(training)).all() and (split.validation == np.sort(validation)).all()


def test_random_splits_are_fresh_for_each_index():
    folds = random_splits(20, 5, seed=0)
    sets = {tuple(folds.split(index).validation) for index in range(6)}
    assert len(sets) == 6 and all(len(rows) == 5 for rows in sets)


class Leaky:
    """A splitter that puts a row, or a group, into both parts."""

    def get_n_splits(self, x=None, y=None, groups=None):
        return 1

    def split(self, x, y=None, groups=None):
        yield np.arange(8), np.arange(7, 12)


class Empty(Leaky):
    def split(self, x, y=None, groups=None):
        yield np.arange(12), np.arange(0)


class Mixed(Leaky):
    def split(self, x, y=None, groups=None):
        yield np.arange(6), np.arange(6, 12)


GROUPS = np.array([0] * 7 + [1] * 5)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: CrossValidation(1), "folds=1"),
        (lambda: CrossValidation(True), "folds=True"),
        (lambda: CrossValidation(5, 0), "repeats=0"),
        (lambda: CrossValidation(5, stratify=True, groups=GROUPS), "one of them"),
        (lambda: CrossValidation(5, 2, time_series=True), "repeats=1"),
        (lambda: splits_of(CrossValidation(13)), "13 folds of 12 rows"),
        (lambda: splits_of(CrossValidation(5, stratify=True)), "class 1 with 4 rows"),
        (lambda: splits_of(CrossValidation(3, groups=GROUPS)), "3 folds of 2 groups"),
        (lambda: splits_of(CrossValidation(2, groups=GROUPS[:5])), "5 groups for 12 rows"),
        (lambda: splits_of(CrossValidation(Mixed(), groups=GROUPS)), "in the training and in the"),
        (lambda: splits_of(CrossValidation(Leaky())), "rows in both parts"),
        (lambda: splits_of(CrossValidation(Empty())), "an empty validation part"),
        (lambda: splits_of(CrossValidation(12, time_series=True)), "12 folds of 12 rows"),
        (lambda: splits_of(CrossValidation(3), x=iter([1])), "arrays, whose rows"),
        (lambda: Split(np.array([], dtype=int), np.array([1])), "an empty training part"),
    ],
)
def test_what_is_refused(make, word):
    with pytest.raises(UsageError, match=word) as error:
        make()
    tiny.four_parts(error.value)


def test_what_is_no_cross_validation():
    with pytest.raises(UsageTypeError, match="a number or a splitter"):
        CrossValidation.of("five")
