"""Searches tell why trials failed: with the user's own words and line, whoever trained them, wherever."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import pytest
import tiny

from manyfit.core.causes import reason_of
from manyfit.core.errors import SearchError


class Refusing(keras.layers.Layer):
    """Keras puts its own headline and arguments around what a layer raises."""

    def call(self, x):
        raise RuntimeError("a layer of mine refuses\nand says more")


class Narrow(keras.layers.Layer):
    def call(self, x):
        return keras.ops.matmul(x, keras.ops.ones((7, 3)))


def raising_loss(y, predicted):
    raise LookupError("my loss has no such key")


class RaisingMetric(keras.metrics.Metric):
    def update_state(self, y, predicted, sample_weight=None):
        {}["no such count"]

    def result(self):
        return 0.0


def of_file():
    try:
        int("three")
    except ValueError as error:
        raise KeyError("units") from error


#: What a trial does -> how the line that tells its cause begins, and the code that it ends with; None: none of ours.
FAILURES = {
    "layer": ("RuntimeError: a layer of mine refuses / and says more", "raise RuntimeError("),
    "shapes": (None, "keras.ops.matmul(x, keras.ops.ones((7, 3)))"),
    "build": (
        "KeyError: 'units', from ValueError: invalid literal for int() with base 10: 'three'",
        'raise KeyError("units") from error',
    ),
    "loss": ("LookupError: my loss has no such key", "raise LookupError("),
    "metric": ("KeyError: 'no such count'", '{}["no such count"]'),
    "bogus loss": ("ValueError: Could not interpret loss identifier: bogus", None),
    "labels": (
        "LabelsError: search(y): got labels of shape (24,) for loss='categorical_crossentropy'. Allowed: ",
        None,
    ),
    "eager": ("LookupError: my loss has no such key", "raise LookupError("),
}


def build(hp):
    kind = hp.Choice("kind", ["fine", *FAILURES])
    if kind == "build":
        of_file()
    layers = [Refusing()] if kind == "layer" else [Narrow()] if kind == "shapes" else []
    model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Dense(2, activation="softmax")])
    losses = {"loss": raising_loss, "eager": raising_loss, "bogus loss": "bogus", "labels": "categorical_crossentropy"}
    model.compile(
        "sgd",
        losses.get(kind, "sparse_categorical_crossentropy"),
        metrics=[RaisingMetric()] if kind == "metric" else [],
        run_eagerly=kind == "eager",
    )
    return model


def searched(folder, rows, **more):
    tuner = kt.GridSearch(build, "val_loss", directory=folder, max_consecutive_failed_trials=99, **more)
    tuner.search(*rows, validation_data=rows, verbose=0)
    return tuner


@pytest.fixture(scope="module", params=["population", "model.fit", "process"])
def reasons(request, tmp_path_factory, rows):
    """Kind of failure -> the line that a trial's message ends with."""
    more = {"population": request.param == "population"}
    if request.param == "process":
        more["executor"] = kt.ProcessExecutor(workers=1)
    tuner = searched(tmp_path_factory.mktemp(request.param.replace(".", "-")), rows, **more)
    tuner.close()
    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"] + ["FAILED"] * len(FAILURES)
    return {trial.hyperparameters["kind"]: reason_of(trial.message) for trial in trials}


@pytest.mark.backends
@pytest.mark.parametrize("kind", FAILURES)
def test_a_cause_is_the_users_own_words_and_line(reasons, kind):
    words, code = FAILURES[kind]
    assert words is None or reasons[kind].startswith(words)
    if code is not None:
        assert " (test_causes.py:" in reasons[kind] and code in reasons[kind]
    for filler in ("JAX has removed", "Exception encountered", "Arguments received", "automatically infer", "\x1b"):
        assert filler not in reasons[kind]


def test_where_all_fail_each_cause_is_told_once_and_unlike_ones_apart(project, rows):
    def different(hp):
        number = hp.Int("number", 0, 3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2 + number // 2, activation="softmax")])
        model.compile("sgd", "categorical_crossentropy")
        return model

    tuner = kt.GridSearch(different, "val_loss", max_consecutive_failed_trials=9, **project)
    with pytest.raises(SearchError) as caught:
        tuner.search(*rows, validation_data=rows, verbose=0)
    lines = str(caught.value).splitlines()[1:-1]
    assert [line[:4] for line in lines] == ["2 x "] * 2, "the shapes are (24, 2) and (24, 3)"
    assert all("same shape" in line for line in lines)


def test_the_table_of_results_shows_the_cause(project, rows):
    hp = kt.HyperParameters()
    hp.Choice("kind", ["fine", "layer"])
    tuner = searched(project["directory"], rows, hyperparameters=hp, tune_new_entries=False)
    assert "a layer of mine refuses" in str(tuner.results())


def test_codes_of_files_that_are_gone_have_a_line_number(tmp_path):
    path = tmp_path / "gone.py"
    names: dict = {}
    exec(compile("def fails():\n    raise ValueError('x')\n", str(path), "exec"), names)

    def run(trial):
        names["fails"]()

    tuner = tiny.numbers(run, objective="val_loss", max_trials=1, directory=str(tmp_path))
    with pytest.raises(SearchError, match=r"1 x failed: ValueError: x \(gone\.py:2\)"):
        tuner.search(verbose=0)


def test_numbers_of_unlike_failures_are_kept(project):
    def run(trial):
        raise ValueError(f"got {trial.number // 2} rows")

    tuner = tiny.numbers(run, objective="val_loss", max_trials=4, max_consecutive_failed_trials=9, **project)
    with pytest.raises(SearchError) as caught:
        tuner.search(verbose=0)
    assert str(caught.value).count("2 x failed: ValueError: got ") == 2
    assert all(f"got {number} rows" in str(caught.value) for number in (0, 1))
