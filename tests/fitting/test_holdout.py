"""Rows that are held out where the caller of `fit` gave none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from manyfit.core.errors import UsageError
from manyfit.data.call import Call
from manyfit.fitting.holdout import FEWEST_ROWS_OF_ONE_PART, MOST_HELD_OUT, classes_of, hold_out

MEASURED = ["val_loss"]


def call_of(num_rows: int, y=None, **arguments) -> Call:
    rows = np.arange(num_rows)
    return Call((rows[:, None], rows if y is None else y), arguments)


def held_out(told) -> np.ndarray:
    return told.call.validation_rows().x[:, 0]


def test_few_rows_are_cut_into_folds_by_class():
    y = np.array([0] * 40 + [1] * 10)
    told = hold_out(call_of(50, y), measures=MEASURED)
    folds = told.cross_validation.resolve(told.call.x, y)
    counts = [np.bincount(y[folds.split(fold).validation]).tolist() for fold in range(folds.num_splits)]
    expected = [np.bincount(y[test]).tolist() for _, test in StratifiedKFold(5).split(y, y)]
    assert counts == expected == [[8, 2]] * 5
    assert told.call.get("validation_data") is None


def test_one_part_of_many_rows_is_held_out_and_nothing_is_lost():
    count = FEWEST_ROWS_OF_ONE_PART
    y = (np.arange(count) % 10 == 0).astype(int)
    told = hold_out(call_of(count, y, sample_weight=np.arange(count)), measures=MEASURED)
    assert told.cross_validation is None and len(held_out(told)) == count // 5
    assert y[held_out(told)].mean() == pytest.approx(0.1)
    assert sorted([*told.call.x[:, 0], *held_out(told)]) == list(range(count))
    assert told.order.tolist() == [*told.call.x[:, 0], *held_out(told)]
    assert told.call.get("row_id").tolist() == told.order.tolist()  # where they came from
    weights = told.call.validation_rows().sample_weight
    assert np.array_equal(weights, held_out(told))


def test_no_more_than_so_many_rows_are_held_out():
    told = hold_out(call_of(15 * MOST_HELD_OUT), measures=MEASURED)
    assert len(held_out(told)) == MOST_HELD_OUT


def test_the_last_rows_are_held_out_where_they_are_in_the_order_of_time():
    told = hold_out(call_of(50), measures=MEASURED, time_ordered=True)
    assert held_out(told).tolist() == list(range(40, 50)) and told.in_order_of_time
    # The same where rows are many.
    assert held_out(hold_out(call_of(5_000), measures=MEASURED, time_ordered=True)).tolist() == list(range(4000, 5000))


@pytest.mark.parametrize("num_rows", [60, FEWEST_ROWS_OF_ONE_PART])
def test_groups_stay_together(num_rows):
    groups = np.arange(num_rows) % 7
    told = hold_out(call_of(num_rows), measures=MEASURED, groups=groups)
    if told.in_folds:
        folds = told.cross_validation.resolve(told.call.x, told.call.y)
        splits = [folds.split(fold) for fold in range(folds.num_splits)]
        parts = [(groups[split.training], groups[split.validation]) for split in splits]
    else:
        parts = [(groups[told.call.x[:, 0]], groups[held_out(told)])]
        assert np.array_equal(told.groups, groups[told.order])
    assert not any(set(training) & set(validation) for training, validation in parts)


def test_what_the_caller_says_stays():
    data = (np.zeros((3, 1)), np.zeros(3))
    for arguments in ({"validation_data": data}, {"validation_split": 0.3}):
        call = call_of(50, **arguments)
        assert hold_out(call, measures=MEASURED).call is call
    call = call_of(50)
    assert hold_out(call, measures=["loss"]).call is call  # nothing is measured on them


@pytest.mark.parametrize("num_rows", [2, 3, 10])
def test_a_handful_of_rows_will_do(num_rows):
    told = hold_out(call_of(num_rows), measures=MEASURED)
    folds = told.cross_validation.resolve(told.call.x, told.call.y)
    assert folds.num_splits == min(5, num_rows)


def test_rare_classes_and_one_class_are_no_reason_to_refuse():
    assert classes_of(np.array([0] * 9 + [1, 2]), 5).tolist() == [0] * 11
    assert len(set(classes_of(np.array([0] * 9 + [1, 2, 3, 4, 5]), 5).tolist())) == 2
    assert classes_of(np.zeros(9), 5).tolist() == [0] * 9
    assert classes_of(np.array(["cat", "dog"] * 5, dtype=object), 5).tolist() == [0, 1] * 5
    assert classes_of({"a": np.zeros(9)}, 5) is None
    assert classes_of(np.arange(500), 5) is None


@pytest.mark.parametrize(
    ("arguments", "options", "instead"),
    [
        ({}, {"groups": np.zeros(3)}, "Pass the groups of all rows of x."),
        ({}, {"groups": np.zeros(50)}, "Leave groups out."),
        ({}, {"groups": np.arange(50), "time_ordered": True}, "Leave out time_ordered=."),
        ({"validation_split": 0.2}, {"groups": np.arange(50)}, "Leave out groups=."),
    ],
)
def test_what_cannot_be_is_refused(arguments, options, instead):
    with pytest.raises(UsageError, match=r"fit\(.*Allowed: ") as error:
        hold_out(call_of(50, **arguments), measures=MEASURED, **options)
    assert str(error.value).endswith(instead)


def test_of_a_generator_nothing_can_be_held_out():
    def batches():
        yield np.zeros((2, 1)), np.zeros(2)

    with pytest.raises(UsageError, match=r"Type fit\(x, ..., validation_data=...\)."):
        hold_out(Call((batches(),), {"steps_per_epoch": 2}), measures=MEASURED)


def test_one_row_is_too_few():
    with pytest.raises(UsageError, match="got 1 rows, and no validation_data"):
        hold_out(call_of(1), measures=MEASURED)
