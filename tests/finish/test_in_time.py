"""Steps after a search keep their own limit of time, by a clock of the test's: `max_seconds=` of each."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import itertools
import types

import keras
import numpy as np
import pytest

from manyfit.core import clock
from manyfit.core.errors import UsageError
from manyfit.training import known_costs

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
EPOCH_SECONDS = 10.0


class Times:
    """A time that goes when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Sleeps(keras.callbacks.Callback):
    """An epoch takes ten seconds; executions share the time."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def on_epoch_end(self, epoch, logs=None):
        self.times.now += EPOCH_SECONDS

    def __deepcopy__(self, memo):
        return Sleeps(self.times)


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 1.0))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """A search of three trials of two epochs, and its time."""
    times = Times()
    monkeypatch.setattr(clock, "time", types.SimpleNamespace(monotonic=times, time=times))
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: None)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=3, seed=0, directory=tmp_path, population=False)
    tuner.search(X[:40], Y[:40], validation_data=(X[40:], Y[40:]), epochs=2, callbacks=[Sleeps(times)], verbose=0)
    return tuner, times


STEPS = {
    "confirm": lambda tuner, seconds: tuner.confirm(3, max_seconds=seconds, verbose=0),
    "bag": lambda tuner, seconds: tuner.bag(2, 3, max_seconds=seconds, verbose=0),
    "retrain": lambda tuner, seconds: tuner.retrain(3, max_seconds=seconds, verbose=0),
}


@pytest.mark.parametrize("limit", [5.0, 45.0])
@pytest.mark.parametrize("step", STEPS)
def test_a_step_returns_in_time_and_loses_nothing(step, limit, searched):
    tuner, times = searched
    begun, trials = times.now, [trial.score for trial in tuner.oracle.trials.values()]
    try:
        STEPS[step](tuner, limit)
    except Exception as error:
        assert "second" in str(error) or "time" in str(error), error
    assert times.now - begun <= 1.05 * limit + 2 + EPOCH_SECONDS * (limit < EPOCH_SECONDS)
    assert [trial.score for trial in tuner.oracle.trials.values()] == trials
    assert not tuner.oracle.clock.is_limited and tuner.get_best_models(1)[0].predict(X, verbose=0).shape == (60, 1)


def test_a_limit_that_is_none_is_refused(searched):
    tuner, times = searched
    begun = times.now
    for step, wrong in itertools.product(STEPS, [0, -1, float("nan"), float("inf"), "60"]):
        with pytest.raises(UsageError, match=rf"{step}\(max_seconds=\.\.\.\).*a number above 0"):
            STEPS[step](tuner, wrong)
    assert times.now == begun
