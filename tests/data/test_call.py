"""The record of one call of `fit`: found by name wherever an argument was passed, and changed by name only."""

from __future__ import annotations

import inspect

import keras
import numpy as np
import pytest

from manyfit.data.call import FIT_PARAMETERS, Call
from manyfit.data.rows import Split

X, Y, WEIGHTS = np.arange(12.0).reshape(6, 2), np.arange(6), np.linspace(1, 2, 6)


def test_the_parameters_are_those_of_keras():
    assert ("self", *FIT_PARAMETERS) == tuple(inspect.signature(keras.Model.fit).parameters)


def test_arguments_are_found_wherever_they_were_passed():
    call = Call((X, Y, 3), {"epochs": 2})
    assert call.x is X and call.y is Y
    assert (call.get("batch_size"), call.get("epochs"), call.get("shuffle", True)) == (3, 2, True)
    by_keyword = Call((), {"x": X, "y": Y, "sample_weight": WEIGHTS})
    assert by_keyword.x is X and by_keyword.y is Y and by_keyword.sample_weight is WEIGHTS
    assert Call().x is None and Call().num_rows is None and call.num_rows == 6


def test_a_changed_argument_stays_where_it_was():
    call = Call((X, Y, 3), {"epochs": 2})
    changed = call.with_(batch_size=6, epochs=9, verbose=0)
    assert changed.args[2] == 6 and dict(changed.kwargs) == {"epochs": 9, "verbose": 0}
    assert call.args[2] == 3 and dict(call.kwargs) == {"epochs": 2}  # the record itself stays


@pytest.mark.parametrize(
    ("call", "args", "names"),
    [
        (Call(), 2, set()),  # x and y come first, since a function of the user's may call them otherwise
        (Call((X,)), 2, set()),
        (Call((), {"x": X}), 0, {"x", "y"}),
        (Call((X,), {"y": Y}), 1, {"y"}),
    ],
)
def test_new_data_go_where_data_are(call, args, names):
    changed = call.with_(x=X[:2], y=Y[:2])
    assert len(changed.args) == args and set(changed.kwargs) == names
    assert len(changed.x) == len(changed.y) == 2


def test_what_is_left_out_takes_nothing_along():
    call = Call((X, Y, 3, 7), {"validation_split": 0.5})
    shorter = call.with_(without=("batch_size", "validation_split", "callbacks"))
    assert len(shorter.args) == 2 and dict(shorter.kwargs) == {"epochs": 7}
    no_targets = call.with_(without=("y",))
    assert no_targets.args == (X,) and no_targets.y is None and no_targets.get("batch_size") == 3


@pytest.mark.parametrize("call", [Call((X, Y), {"sample_weight": WEIGHTS}), Call((), {"x": X, "y": Y}), Call((X,))])
def test_rows_of_a_split_train_and_validate(call):
    split = Split(np.array([0, 1, 4]), np.array([3, 5]))
    part = call.with_(rows=split, epochs=3)
    np.testing.assert_array_equal(part.x, X[[0, 1, 4]])
    held_out = part.get("validation_data")
    assert len(held_out) == sum(one is not None for one in (call.x, call.y, call.sample_weight))
    np.testing.assert_array_equal(held_out[0], X[[3, 5]])
    if call.y is not None:
        np.testing.assert_array_equal(part.y, Y[[0, 1, 4]])
    if call.sample_weight is not None:
        np.testing.assert_array_equal(part.sample_weight, WEIGHTS[[0, 1, 4]])
        np.testing.assert_array_equal(held_out[2], WEIGHTS[[3, 5]])
    assert part.get("epochs") == 3 and len(part.args) == len(call.args)


def test_rows_take_the_place_of_a_share():
    part = Call((X, Y), {"validation_split": 0.5}).with_(rows=Split(np.arange(4), np.arange(4, 6)))
    assert part.get("validation_split") is None and len(part.get("validation_data")[0]) == 2


def test_validation_rows_are_those_that_keras_takes():
    x, y, weights = Call((X, Y), {"validation_split": 0.4, "sample_weight": WEIGHTS}).validation_rows().parts
    np.testing.assert_array_equal(x, X[3:])  # the last ones, and int() of what is left
    np.testing.assert_array_equal(y, Y[3:])
    np.testing.assert_array_equal(weights, WEIGHTS[3:])
    given = Call((X, Y), {"validation_data": (X[:1], Y[:1]), "validation_split": 0.4})
    assert given.validation_rows().num_rows == 1 and given.validation_rows().sample_weight is None
    assert given.counted_rows() == (6, 1)
    assert Call((X, Y), {"validation_split": 0.4}).counted_rows() == (3, 3)
    assert Call((X, Y)).validation_rows() is None and Call((X, Y)).counted_rows() == (6, 0)
    assert Call((iter(()),), {"validation_split": 0.4}).validation_rows() is None


def test_a_function_of_the_users_names_its_own_arguments():
    def fit(hp, model, data, labels, held_out, *args, **kwargs):
        pass

    call = Call.of(fit, (X, Y, (X, Y), 9), {})
    assert call.x is X and call.y is Y and call.get("batch_size") is None
    assert call.get("held_out")[0] is X and call.get("epochs") == 9  # what follows goes on to Keras's `fit`


def test_callbacks_come_as_a_list():
    one = keras.callbacks.TerminateOnNaN()
    for given in (one, [one], (one,), keras.callbacks.CallbackList([one])):
        assert one in Call((X,), {"callbacks": given}).callbacks
    assert Call((X,)).callbacks == Call((X,), {"callbacks": None}).callbacks == []
