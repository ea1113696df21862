"""A `fit` that is interrupted or killed: the winner so far is returned or stands on the disk, and the call goes on."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

from manyfit.fitting.record import FitRecord
from manyfit.fitting.standing import Standing

RNG = np.random.default_rng(4)
X = RNG.normal(size=(90, 3)).astype("float32")
Y = (X.sum(axis=1) + RNG.normal(size=90) > 0).astype("int32")
ROWS = {"validation_data": (X[60:], Y[60:]), "epochs": 3, "verbose": 1}


class InterruptAt(keras.callbacks.Callback):
    """A signal at the end of one epoch of all that are trained in this process."""

    count = 0

    def __init__(self, at, number=signal.SIGINT):
        super().__init__()
        self.at, self.number = at, number

    def on_epoch_end(self, epoch, logs=None):
        type(self).count += 1
        if type(self).count == self.at:
            signal.raise_signal(self.number)


@pytest.fixture(autouse=True)
def from_the_start():
    InterruptAt.count = 0
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def no_bag(monkeypatch):
    """Where a bag is not what is tried: it takes most of the time."""
    monkeypatch.setattr("manyfit.fitting.phases.best_bag", lambda *arguments, **options: None)


def tuner_in(folder, *, population=False):
    return kt.RandomSearch(tiny.build, "val_loss", seed=0, directory=folder, population=population)


def interrupted(folder, at, number=signal.SIGINT, *, population=False, **options):
    tuner = tuner_in(folder, population=population)
    return tuner.fit(X[:60], Y[:60], max_trials=3, callbacks=[InterruptAt(at, number)], **{**ROWS, **options})


@pytest.mark.parametrize(
    ("number", "population"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_the_best_epoch_so_far_is_the_winner_of_a_fit_that_is_interrupted(tmp_path, number, population):
    winner = interrupted(tmp_path, 8, number, population=population, verbose=0)
    assert winner.ended_by == "interrupted" and "in the phase 'search'" in winner.reasons[-1]
    assert "it was interrupted" in repr(winner) and "a search that was still going on" in repr(winner)
    curves = [
        run
        for trial in winner.search.oracle.trials.values()
        for run in (
            *(one.history["val_loss"] for one in trial.executions.values()),
            *(curve["val_loss"] for curve in trial.running.values()),
        )
    ]
    assert winner.model.evaluate(*ROWS["validation_data"], verbose=0)[0] == pytest.approx(
        min(itertools.chain.from_iterable(curves)), abs=1e-5
    )
    assert winner.evaluate(X, Y)["accuracy"] > 0 and winner.model in winner.search.model_origins
    on_disk = kt.load_winner(winner.search.project_dir)
    np.testing.assert_allclose(on_disk.predict(X), winner.predict(X), atol=1e-6)


def test_the_same_call_goes_on(tmp_path, no_bag):
    first = interrupted(tmp_path, 5, verbose=0)
    seconds = first.time["search"]
    first.search.close()
    winner = tuner_in(tmp_path).fit(X[:60], Y[:60], max_trials=3, **{**ROWS, "verbose": 0})
    assert winner.ended_by == "trials" and len(winner.search.oracle.trials) == 3
    assert winner.time["search"] > seconds  # of both calls


def test_before_the_first_epoch_there_is_nothing_to_return(tmp_path, capsys):
    class Early(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        tuner_in(tmp_path).fit(X[:60], Y[:60], max_trials=3, callbacks=[Early()], **ROWS)
    assert "fit was interrupted" in capsys.readouterr().out


def test_a_second_ctrl_c_raises(tmp_path, monkeypatch):
    monkeypatch.setattr(Standing, "flush", lambda self: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path, 5, verbose=0)


def test_an_ensemble_in_hand_is_what_an_interrupted_later_phase_returns(tmp_path, monkeypatch):
    tuner = tuner_in(tmp_path)
    monkeypatch.setattr(tuner, "bag", lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    winner = tuner.fit(X[:60], Y[:60], max_trials=3, **{**ROWS, "verbose": 0})
    assert winner.ended_by == "interrupted" and winner.ensemble is not None
    assert "in the phase 'bag'" in winner.reasons[-1] and "bag" in winner.time


def test_where_nothing_is_left_the_winner_of_the_earlier_call_comes_back_and_a_higher_limit_goes_on(
    tmp_path, capsys, no_bag
):
    first = tuner_in(tmp_path).fit(X[:60], Y[:60], max_trials=2, max_seconds=1000, **{**ROWS, "verbose": 0})
    first.search.close()
    record = FitRecord(first.search.store.layout.winner)
    record.note({"search": 999.0, "save": 2.0}, at=0.0, finished=True)  # as if it had taken that long
    again = tuner_in(tmp_path)
    winner = again.fit(X[:60], Y[:60], max_trials=2, max_seconds=1000, **ROWS)
    assert "nothing is left of 1000 s" in capsys.readouterr().out
    np.testing.assert_allclose(winner.predict(X), first.predict(X), atol=1e-6)
    assert winner.search is again and winner.evaluate(X, Y).times_used == 1
    further = again.fit(X[:60], Y[:60], max_trials=3, max_seconds=2000, **ROWS)
    assert "goes on after 1001 s of earlier calls" in capsys.readouterr().out
    assert len(again.oracle.trials) == 3 and 999 < further.time["search"] < 1999


PROGRAM = """
import json, os, signal, sys
import manyfit as kt
import keras, numpy as np

x = np.random.default_rng(4).normal(size=(90, 3)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int32")

def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.3)), "binary_crossentropy", metrics=["accuracy"])
    return model

class End(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        if epoch == 2:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

tuner = kt.RandomSearch(build, "val_loss", seed=0, directory=sys.argv[1])
callbacks = [End()] if len(sys.argv) > 2 else []
winner = tuner.fit(
    x[:60], y[:60], validation_data=(x[60:], y[60:]), epochs=4, max_trials=2, max_seconds=500,
    callbacks=callbacks, verbose=0,
)
print(json.dumps({"ended_by": winner.ended_by, "time": dict(winner.time), "trials": len(tuner.oracle.trials)}))
"""


def run(folder, *arguments):
    """A process that fits, as a user starts it."""
    code = folder / "program.py"
    code.write_text(PROGRAM)
    return subprocess.run(
        [sys.executable, str(code), str(folder), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )


def test_a_process_that_is_killed_leaves_its_winner_and_another_goes_on(tmp_path):
    killed = run(tmp_path, "SIGKILL")
    assert killed.returncode == -signal.SIGKILL and killed.stdout == ""
    winner = kt.load_winner(tmp_path)  # here, where nobody knows the build function
    assert winner.predict(X).shape == (90, 1) and "a search that was still going on" in repr(winner)
    spent = json.loads(next(Path(tmp_path).rglob("fit.json")).read_text())
    assert not spent["finished"] and spent["phases"]["search"] > 0
    again = run(tmp_path)
    told = json.loads(again.stdout.splitlines()[-1])
    assert told["ended_by"] == "trials" and told["trials"] == 2
    assert told["time"]["search"] >= spent["phases"]["search"]


def test_a_process_that_is_told_to_end_returns_its_winner_and_ends_as_it_likes(tmp_path):
    ended = run(tmp_path, "SIGTERM")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1])["ended_by"] == "interrupted"
