"""A trial as a plain program of Keras: it runs in another process, without Manyfit, and has the trial's score."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import inspect
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tiny
from sklearn.linear_model import LogisticRegression

from manyfit.core.errors import UsageError

RNG = np.random.default_rng(2)
X = RNG.normal(size=(48, 3)).astype("float32")
Y = (X.sum(axis=1) + 0.5 * RNG.normal(size=48) > 0).astype("int32")


def stack(hp):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(
                hp.Int("units", 2, 6), activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)
            ),
            keras.layers.Dropout(hp.Float("drop", 0.1, 0.5)),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1)), "binary_crossentropy", metrics=["accuracy"])
    return model


def graph(hp):
    """Layers in another order than that of their calls, one that is called twice, an operation, a model inside."""
    answer = keras.layers.Dense(1, activation="sigmoid", name="answer")
    inputs, shared = keras.Input((3,), name="rows"), keras.layers.Dense(3, "tanh")
    inside = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), keras.layers.BatchNormalization()], name="in")
    hidden = shared(keras.layers.Dropout(0.2)(shared(inputs)))
    model = keras.Model(inputs, answer(keras.layers.Add()([inside(hidden), keras.ops.relu(inputs) * 2.0])))
    rate = keras.optimizers.schedules.ExponentialDecay(hp.Float("rate", 0.01, 0.1), 10, 0.9)
    loss = keras.losses.BinaryCrossentropy(label_smoothing=0.1)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=[keras.metrics.AUC(name="area")])
    return model


def searched(folder, build, y=Y, *, objective="val_loss", population=True, **arguments):
    tuner = kt.RandomSearch(build, objective, max_trials=1, seed=0, directory=folder, population=population)
    tuner.search(X, y, verbose=0, **{"epochs": 2, "batch_size": 16, **arguments})
    return tuner


RUNNER = """
import runpy, sys
for path in sys.argv[1:]:
    sys.argv = [path, path.replace(".py", ".npz")]
    runpy.run_path(path, run_name="__main__")
"""


def scores_of(folder, programs):
    """What programs print, with their rows, run by another Python that has not Manyfit on its path."""
    for number, (text, rows) in enumerate(programs):
        (folder / f"{number}.py").write_text(text, encoding="utf-8")
        np.savez(folder / f"{number}.npz", **{"x": X, "y": Y, **rows})
    here = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", RUNNER, *(f"{number}.py" for number in range(len(programs)))]
    run = subprocess.run(command, cwd=folder, env=here, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return [float(line.split()[1]) for line in run.stdout.splitlines() if line.startswith("score ")]


def test_programs_have_the_scores_of_their_trials(tmp_path):
    """Alone and in a population, with and without folds; one process runs all programs, since one start is enough."""
    area = kt.Objective("val_area", "max")
    callbacks = [
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.1, patience=1, min_delta=10.0),
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=1),
    ]
    weights = np.linspace(0.5, 1.5, 48)
    given = {"validation_data": (X[:16], Y[:16]), "sample_weight": weights, "callbacks": callbacks, "epochs": 3}
    alone = searched(tmp_path / "0", stack, population=False, **given)
    together = searched(tmp_path / "1", stack, validation_split=0.25)
    folds = searched(tmp_path / "2", graph, objective=area, cross_validation=2)
    tuners = [alone, together, folds]
    texts = [tuner.to_script() for tuner in tuners]
    for text in texts:
        assert "manyfit" not in text
    assert 'keras.layers.Dense(1, activation="sigmoid")' in texts[0]
    assert "DRAWS" not in texts[0] and "DRAWS" not in texts[1], "the seed alone says the weights"
    assert "DRAWS" in texts[2] and "dense_layer(" in texts[2] and "build_in_(draws)" in texts[2]
    assert "keras.ops.relu(rows)" in texts[2] and "InOrder" in texts[2] and "InOrder" not in texts[0]
    assert "ReduceLROnPlateau" in texts[0] and "EarlyStopping" not in texts[0]
    rows = [{"x_val": X[:16], "y_val": Y[:16], "weight": weights}, {}, {}]
    scores = scores_of(tmp_path, list(zip(texts, rows, strict=True)))
    assert alone.to_script() == texts[0], "the same text each time"
    assert scores == pytest.approx([tuner.oracle.trials["0"].score for tuner in tuners], abs=1e-3)


class Doubled(keras.layers.Layer):
    """A layer of the user's own."""

    def call(self, inputs):
        return 2 * inputs


def squared(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def test_what_only_the_user_has_is_named(tmp_path):
    def build(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), Doubled()])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), squared)
        return model

    tuner = searched(tmp_path, build, population=False, validation_split=0.25)
    text = tuner.to_script()
    assert "#   Doubled, from" in text and "#   squared, from" in text and "raise NotImplementedError" in text
    code = [textwrap.dedent(inspect.getsource(one)) for one in (Doubled, squared)]
    mine = ["\n".join(code) if line.startswith("raise NotImplementedError") else line for line in text.splitlines()]
    [score] = scores_of(tmp_path, [("\n".join(mine), {})])
    assert score == pytest.approx(tuner.oracle.trials["0"].score, abs=1e-3)


class Net(keras.Model):
    """A model that does not say how it was made."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def test_a_model_that_nobody_can_write_is_left_to_the_user(tmp_path):
    def build(hp):
        model = Net(hp.Int("units", 1, 1))
        model.compile("sgd", "mse")
        return model

    text = searched(tmp_path, build, population=False, validation_split=0.25).to_script()
    compile(text, "script.py", "exec")
    assert "put your build function here, with the values {'units': 1}" in text or "custom_objects" in text


def test_what_is_no_training_of_a_network_is_refused(tmp_path):
    forest = kt.RandomSearch(
        lambda hp: LogisticRegression(C=hp.Float("C", 0.1, 1.0)), "val_loss", 1, directory=tmp_path / "a"
    )
    forest.search(X, Y, cross_validation=3, verbose=0)
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, directory=tmp_path / "b")
    for ask in (forest.to_script, tuner.to_script, lambda: tuner.to_script("7")):
        with pytest.raises(UsageError) as caught:
            ask()
        tiny.four_parts(caught.value)
