"""Labels that a model cannot have are found before it trains, and those that it can have are let through."""

from __future__ import annotations

import re

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest

from manyfit.core.errors import SearchError
from manyfit.data.call import Call
from manyfit.training.labels import LabelCheck, LabelsError, facts_of

X = np.random.default_rng(0).normal(size=(12, 3)).astype("float32")
CLASSES = np.arange(12) % 3
SPARSE, ONE_HOT, BINARY = "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"


def model(loss, units=3, layers=()):
    made = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(units)])
    made.compile("sgd", loss)
    return made


def check(loss, y, units=3, **more):
    LabelCheck().check(model(loss, units), Call((X, y), more))


def nan_in(y):
    return np.where(np.arange(len(y)) == 5, np.nan, y)


WRONG = {
    "below 0": (SPARSE, CLASSES - 3, "labels from -3 to -1 .* whole numbers from 0 to 2, one for each output"),
    "beyond": (SPARSE, CLASSES + 1, r"labels from 1 to 3 .* Type Dense\(4\)"),
    "object": (keras.losses.SparseCategoricalCrossentropy(), CLASSES + 1, "labels from 1 to 3"),
    "function": (keras.losses.sparse_categorical_crossentropy, CLASSES + 1, "labels from 1 to 3"),
    "halves": (SPARSE, CLASSES / 2, "whole numbers from 0 to 2"),
    "NaN": (SPARSE, nan_in(CLASSES), "labels that are NaN"),
    "classes": (ONE_HOT, CLASSES, r"the same shape as the output: \(rows, 3\)\. Type .*to_categorical\(labels, 3\)"),
    "width": (ONE_HOT, np.eye(4)[CLASSES], r"labels of shape \(12, 4\)"),
    "twos": (ONE_HOT, 2 * np.eye(3)[CLASSES], "numbers from 0 to 1"),
    "two classes": (BINARY, np.repeat(CLASSES[:, None], 3, 1), "numbers from 0 to 1"),
    "counts": ("poisson", np.repeat(CLASSES[:, None], 3, 1) - 1.0, "numbers of at least 0"),
    "regression": ("mse", nan_in(X[:, 0]), "labels that are NaN .* finite numbers"),
    "list": (SPARSE, list(map(int, CLASSES + 1)), "labels from 1 to 3"),
}  # fmt: skip

RIGHT = {
    "classes": (SPARSE, CLASSES),
    "column": (SPARSE, CLASSES[:, None].astype("float32")),
    "ignored": (keras.losses.SparseCategoricalCrossentropy(ignore_class=-1), CLASSES - 1),
    "one-hot": (ONE_HOT, np.eye(3)[CLASSES]),
    "smoothed": (ONE_HOT, np.full((12, 3), 1 / 3)),
    "several": (BINARY, np.ones((12, 3), bool)),
    "numbers": ("mse", X),
    "function of the user's": (lambda y, p: keras.losses.sparse_categorical_crossentropy(y % 3, p), CLASSES - 5),
    "no such loss": ("bogus", CLASSES - 5),
}


@pytest.mark.backends
@pytest.mark.parametrize("kind", WRONG)
def test_labels_that_a_loss_cannot_have_are_an_error_that_says_what_to_type(kind):
    loss, y, message = WRONG[kind]
    with pytest.raises(LabelsError, match=message) as caught:
        check(loss, y)
    assert re.match(r"search\(y\): got .*\. Allowed: .*\. (Type|Leave out) ", str(caught.value))


@pytest.mark.backends
@pytest.mark.parametrize("kind", RIGHT)
def test_labels_that_it_can_have_are_let_through(kind):
    check(*RIGHT[kind])


def test_validation_labels_are_checked_too():
    with pytest.raises(LabelsError, match=r"search\(validation_data=\(x, y\)\): got labels from 5 to 7"):
        check(SPARSE, CLASSES, validation_data=(X, CLASSES + 5))


def test_labels_of_no_weight_and_of_masked_steps_may_be_anything():
    check(SPARSE, CLASSES - 1, sample_weight=(CLASSES > 0).astype("float32"))
    masked = model(SPARSE, layers=[keras.layers.Masking()])
    LabelCheck().check(masked, Call((X, CLASSES - 1)))


@pytest.mark.backends
def test_several_outputs_have_a_loss_each():
    inputs = keras.Input((3,))
    outputs = {name: keras.layers.Dense(units, name=name)(inputs) for name, units in (("kind", 3), ("size", 1))}
    made = keras.Model(inputs, outputs)
    made.compile("sgd", {"kind": SPARSE, "size": "mse"})
    LabelCheck().check(made, Call((X, {"kind": CLASSES, "size": X[:, 0]})))
    with pytest.raises(LabelsError, match=r'search\(y\), output "kind": got labels from 1 to 3'):
        LabelCheck().check(made, Call((X, {"kind": CLASSES + 1, "size": X[:, 0]})))


def test_each_array_is_read_once(monkeypatch):
    read = []
    labels, call = LabelCheck(), Call((X, CLASSES))
    monkeypatch.setattr(
        "manyfit.training.labels.facts_of", lambda y, ignored: read.append(id(y)) or facts_of(y, ignored)
    )
    for units in (3, 4, 5):
        labels.check(model(SPARSE, units), call)
    assert read == [id(CLASSES)]


def test_labels_are_read_in_parts(monkeypatch):
    monkeypatch.setattr("manyfit.training.labels._AT_ONCE", 5)
    y = np.zeros((7, 2))
    y[6, 1], y[0, 0] = 0.5, -2.0
    facts = facts_of(y)
    assert (facts.low, facts.high, facts.whole) == (-2.0, 0.5, False)
    assert np.isnan(facts_of(np.array([1.0, np.nan, 2.0] * 4)).low)


@pytest.mark.backends
@pytest.mark.parametrize("population", [True, False])
def test_a_search_ends_before_it_trains_and_trials_of_another_loss_go_on(project, population):
    def build(hp):
        return model(hp.Choice("loss", [SPARSE, "mse"]), units=1)

    tuner = kt.GridSearch(build, "val_loss", population=population, **project)
    tuner.search(X, CLASSES, validation_split=0.25, verbose=0)
    first, second = tuner.oracle.trials.values()
    assert (first.status, second.status) == ("FAILED", "COMPLETED")
    assert (
        first.message.startswith("LabelsError: search(y): got labels from 0 to 2") and not first.executions[0].history
    )

    def narrow(hp):
        return model(SPARSE, units=hp.Int("units", 1, 2))

    alone = kt.RandomSearch(narrow, "val_loss", 9, population=population, **{**project, "project_name": "alone"})
    with pytest.raises(SearchError, match=r"search\(y\): got labels from 0 to 2 .*Allowed: .*Type Dense\(3\)"):
        alone.search(X, CLASSES, validation_split=0.25, verbose=0)
    assert not any(run.num_epochs for trial in alone.oracle.trials.values() for run in trial.executions.values())
