"""What `fit` makes of input that cannot be right, of code that fails, of too little time, and of being called again."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import datetime
import signal
import types

import keras
import numpy as np
import pytest
import tiny

from manyfit.core import clock
from manyfit.core.errors import SearchError, UsageError
from manyfit.training import known_costs

rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
HELD_OUT = X[30:], Y[30:]


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 1.0))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


def tuner_of(folder, hypermodel=build, kind=kt.RandomSearch, objective="val_accuracy", **options):
    return kind(hypermodel, objective, seed=0, directory=folder, population=False, **options)


def fitted(tuner, x=X, y=Y, **options):
    # Rows in the order of time are neither folded nor bagged, which most of these tests would only wait for.
    defaults = {} if "validation_data" in options else {"time_ordered": True}
    return tuner.fit(x, y, **{"max_trials": 2, "epochs": 1, "verbose": 0, **defaults, **options})


class Times:
    """A time that goes when it is told to, by whoever takes some."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def times(monkeypatch):
    """The time of all clocks; what steps took is not known from elsewhere."""
    found = Times()
    monkeypatch.setattr(clock, "time", types.SimpleNamespace(monotonic=found, time=found))
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: None)
    return found


# Arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        *({"max_seconds": wrong} for wrong in (float("nan"), float("inf"), True, datetime.timedelta(seconds=9))),
        *({"max_trials": wrong} for wrong in (0, -1, 1.5, "2", float("nan"), True)),
        *({"epochs": wrong} for wrong in (0, -3, 1.5, "2")),
        {"validation_data": (X[:0], Y[:0])},
        {"y": Y[:-1]},
        {"x": X[:1], "y": Y[:1]},
        {"x": X[:0], "y": Y[:0]},
        {"x": None},
        {"x": ((X, Y) for _ in range(3)), "y": None, "validation_data": HELD_OUT},  # a generator without steps
    ],
    ids=lambda options: " and ".join(f"{name} {type(wrong).__name__}" for name, wrong in options.items()),
)
def test_what_cannot_be_right_is_refused_in_four_parts_before_anything_is_trained(options, tmp_path):
    tuner = tuner_of(tmp_path)
    with pytest.raises(UsageError) as caught:
        fitted(tuner, **options)
    tiny.four_parts(caught.value)
    assert not tuner.oracle.trials
    assert fitted(tuner, max_trials=1).predict(X).shape == (40, 1) if "epochs" in options else True


# Rows -------------------------------------------------------------------------------------------------------------


def test_labels_that_are_no_numbers_are_named(tmp_path):
    with pytest.raises(SearchError, match=r"labels that are NaN.*Leave out the rows without a label"):
        fitted(tuner_of(tmp_path), y=np.full(40, np.nan))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_rows_that_are_no_numbers_diverge_and_are_no_winner(wrong, tmp_path):
    with pytest.raises(SearchError, match="2 x diverged: the loss was not finite"):
        fitted(tuner_of(tmp_path), x=np.where(np.arange(40)[:, None] == 3, wrong, X))


@pytest.mark.parametrize("held_out", [None, (X[:1], Y[:1])], ids=["two rows", "one row to validate on"])
def test_so_few_rows_that_nothing_is_combined_are_a_winner_all_the_same(held_out, tmp_path):
    rows = {"x": X[:2], "y": Y[:2], "time_ordered": False} if held_out is None else {"validation_data": held_out}
    winner = fitted(tuner_of(tmp_path), max_trials=2, **rows)
    assert winner.predict(X).shape == (40, 1)
    assert any("at least three rows" in reason for reason in winner.reasons)


def test_an_objective_that_no_epoch_measures_is_named(tmp_path):
    tuner = tuner_of(tmp_path, objective=kt.Objective("val_auc", "max"))
    with pytest.raises(UsageError, match=r"val_auc.*one of accuracy, loss, val_accuracy, val_loss"):
        fitted(tuner)


# Code of the user's -----------------------------------------------------------------------------------------------


class Once(keras.callbacks.Callback):
    """Calls a function at the end of the first epochs, as often as it is told to."""

    left = 0

    def __init__(self, function):
        super().__init__()
        self.function = function

    def on_epoch_end(self, epoch, logs=None):
        if type(self).left > 0:
            type(self).left -= 1
            self.function()

    def __deepcopy__(self, memo):
        return self


def raise_error():
    raise ValueError("mine")


def test_a_callback_that_raises_once_costs_its_trial_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(Once, "left", 1)
    winner = fitted(tuner_of(tmp_path), callbacks=[Once(raise_error)])
    assert winner.predict(X).shape == (40, 1)
    assert sorted(str(run.ending) for run in winner.search.results()) == ["completed", "failed"]


def test_a_fit_of_the_users_is_trained_by(tmp_path):
    class Own(kt.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, x, y, **kwargs):
            return model.fit(x, y, batch_size=hp.Int("batch_size", 5, 20), **kwargs)

    winner = fitted(tuner_of(tmp_path, Own()), max_trials=1)
    assert winner.predict(X).shape == (40, 1) and "batch_size" in winner.card.what


# Time -------------------------------------------------------------------------------------------------------------


def takes(times, *, build_seconds=0.0, epoch_seconds=0.0, batch_seconds=0.0):
    """A build function and a callback that take so long by a clock of the test's."""

    class Sleeps(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            times.now += epoch_seconds

        def on_train_batch_end(self, batch, logs=None):
            times.now += batch_seconds

        def __deepcopy__(self, memo):
            return self

    def slow(hp):
        times.now += build_seconds
        return build(hp)

    return slow, Sleeps()


@pytest.mark.parametrize("limit", [1.0, 5.0])
def test_no_time_for_a_single_epoch_is_said_with_how_long_it_takes_and_more_time_goes_on(limit, tmp_path, times):
    slow, sleeps = takes(times, build_seconds=0.25, batch_seconds=6.0)  # as the first one does, which compiles
    tuner = tuner_of(tmp_path, slow)
    with pytest.raises(SearchError) as caught:
        fitted(tuner, max_seconds=limit, callbacks=[sleeps])
    where, _, allowed, instead = tiny.four_parts(caught.value)
    assert where == f"fit(max_seconds={limit:g})" and "takes 6 s or more" in allowed and "Type max_seconds=" in instead
    assert fitted(tuner, max_seconds=60, callbacks=[sleeps]).predict(X).shape == (40, 1)


@pytest.mark.parametrize(("held_out", "limit"), [(True, 20.0), (False, 40.0)], ids=["bagged", "confirmed"])
def test_a_call_whose_epochs_sleep_returns_in_time_with_all_that_was_finished(held_out, limit, tmp_path, times):
    slow, sleeps = takes(times, build_seconds=0.125, epoch_seconds=0.75)
    rows = {"validation_data": HELD_OUT} if held_out else {"time_ordered": True}
    tuner, begun = tuner_of(tmp_path, slow), times.now
    winner = tuner.fit(X, Y, max_seconds=limit, epochs=3, callbacks=[sleeps], verbose=0, **rows)
    assert winner.ended_by == "time" and times.now - begun <= 1.05 * limit + 2
    assert winner.predict(X).shape == (40, 1)
    assert sum(winner.time.values()) == pytest.approx(times.now - begun)


# Again ------------------------------------------------------------------------------------------------------------


def test_fit_goes_on_from_a_search_and_a_search_from_fit(tmp_path):
    tuner = tuner_of(tmp_path, max_trials=2)
    rows = {"validation_data": HELD_OUT, "epochs": 1, "verbose": 0}
    tuner.search(X, Y, **rows)
    tuner.oracle.max_trials = 3
    for _ in range(2):  # the second time nothing is left to try
        winner = tuner.fit(X, Y, **rows)
        assert len(tuner.oracle.trials) == 3 and winner.predict(X).shape == (40, 1)
    tuner.oracle.max_trials = 4
    tuner.search(X, Y, **rows)
    assert len(tuner.oracle.trials) == 4 and all(run.score is not None for run in tuner.results())


# Interrupted ------------------------------------------------------------------------------------------------------


def test_an_interruption_while_a_model_is_built_returns_the_best_so_far(tmp_path):
    built = []

    def interrupted(hp):
        model = build(hp)
        built.append(1)
        if len(built) == 4:  # the first ones explore the space
            signal.raise_signal(signal.SIGINT)
        return model

    winner = fitted(tuner_of(tmp_path, interrupted), max_trials=9)
    assert winner.ended_by == "interrupted" and winner.predict(X).shape == (40, 1)
    finished = len([run for run in winner.search.results() if run.score is not None])
    assert finished >= 1
    on = fitted(winner.search, max_trials=finished + 1)
    assert on.ended_by == "trials"


@pytest.mark.parametrize("step", ["ensemble", "confirm", "get_best_models"])
def test_an_interruption_after_the_search_returns_the_best_so_far(step, tmp_path, monkeypatch):
    tuner = tuner_of(tmp_path, executions_per_trial=1)

    def interrupt(*args, **kwargs):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(tuner, step, interrupt)
    if step == "get_best_models":  # where nothing is combined
        monkeypatch.setattr(tuner, "ensemble", lambda **options: raise_refused())
    winner = fitted(tuner, max_trials=3)
    assert winner.ended_by == "interrupted" and winner.predict(X).shape == (40, 1)
    assert len([run for run in tuner.results() if run.score is not None]) == 3


def raise_refused():
    raise UsageError("f(): got nothing. Allowed: something. Type f(1).")
