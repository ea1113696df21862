"""Ctrl+C and SIGTERM: three lines, a short traceback, and handlers that are put back."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import os
import signal
import threading
import traceback

import keras
import numpy as np
import pytest
import tiny

from manyfit.fitting.signals import Interruptible

X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")


@pytest.fixture
def default_sigterm():
    """As in a fresh process, whatever runs the tests."""
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def interrupted(block, said=None):
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        Interruptible(lambda: ["kept"], ([] if said is None else said).append),
    ):
        block()
    return caught


def test_sigterm_is_ctrl_c_within_and_the_default_again_afterwards(default_sigterm):
    said = []
    interrupted(lambda: os.kill(os.getpid(), signal.SIGTERM), said)
    assert said == ["", "kept"] and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    with Interruptible(lambda: [], print):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_the_users_stays_theirs(default_sigterm):
    heard = []

    def own(number, frame):
        heard.append(number)

    signal.signal(signal.SIGTERM, own)
    with Interruptible(lambda: [], print):
        os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Interruptible(lambda: [], print):  # one that was set meanwhile, too
        signal.signal(signal.SIGTERM, own)
    assert signal.getsignal(signal.SIGTERM) is own


def test_another_thread_touches_no_handler(default_sigterm):
    seen = []

    def run():
        with Interruptible(lambda: [], print):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_of_nested_calls_the_outermost_speaks(default_sigterm):
    said = []

    def inner():
        with Interruptible(lambda: ["inner"], said.append):
            raise KeyboardInterrupt

    interrupted(inner, said)
    assert said == ["", "kept"]


def test_what_is_raised_is_the_same_with_a_short_traceback_and_no_chain():
    class Own(KeyboardInterrupt):
        pass

    def deep(levels):
        if levels:
            return deep(levels - 1)
        try:
            raise ValueError
        except ValueError:
            raise Own from None

    error = interrupted(lambda: deep(20)).value
    assert type(error) is Own and len(traceback.extract_tb(error.__traceback__)) == 2
    assert "ValueError" not in "".join(traceback.format_exception(error))


def test_other_errors_go_through_as_they_are():
    with pytest.raises(ValueError, match="mine"), Interruptible(lambda: ["kept"], print):
        raise ValueError("mine")


class Interrupt(keras.callbacks.Callback):
    """Ctrl+C at the end of an epoch of the trial whose number it was given."""

    begun = 0

    def __init__(self, trial):
        super().__init__()
        self.trial = trial

    def on_train_begin(self, logs=None):
        type(self).begun += 1

    def on_epoch_end(self, epoch, logs=None):
        if type(self).begun > self.trial:
            signal.raise_signal(signal.SIGINT)


def test_a_search_says_what_is_kept_and_how_to_go_on_and_does_go_on(project, capsys):
    Interrupt.begun = 0
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=3, seed=0, population=False, **project)
    rows = {"validation_data": (X[30:], Y[30:]), "epochs": 2, "verbose": 1}
    with pytest.raises(KeyboardInterrupt) as caught:
        tuner.search(X[:30], Y[:30], callbacks=[Interrupt(1)], **rows)
    lines = capsys.readouterr().out.splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("search was interrupted"))
    best = tuner.oracle.get_best_trials(1)[0].trial_id
    assert lines[first:] == [
        "search was interrupted: 1 of 2 trials have ended.",
        f'Kept in "{tuner.project_dir}": all that has ended, with curves and weights; the best so far is trial {best}.',
        "To go on, call search again with the same arguments, here or in another process.",
    ]
    assert len(traceback.extract_tb(caught.value.__traceback__)) <= 6 and tuner.ended_by == "interrupted"
    tuner.search(X[:30], Y[:30], **rows)
    assert [trial.is_completed for trial in tuner.oracle.trials.values()] == [True] * 3


def test_so_does_a_step_after_it(project, capsys):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, population=False, **project)
    tuner.search(X[:30], Y[:30], validation_data=(X[30:], Y[30:]), epochs=1, verbose=0)
    Interrupt.begun = 0
    with pytest.raises(KeyboardInterrupt):
        tuner.retrain(1, callbacks=[Interrupt(0)], epochs=2, verbose=1)
    out = capsys.readouterr().out
    assert "retrain was interrupted: its runs that have ended count." in out and "To go on, call retrain again" in out


def test_with_verbose_0_nothing_is_said(project, capsys):
    Interrupt.begun = 0
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, population=False, **project)
    with pytest.raises(KeyboardInterrupt):
        tuner.search(X, Y, validation_data=(X, Y), callbacks=[Interrupt(0)], verbose=0)
    assert capsys.readouterr().out == ""


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    tuner = kt.RandomSearch(
        tiny.build, "val_loss", max_trials=3, seed=0, population=False, directory=tmp_path_factory.mktemp("signals")
    )
    tuner.search(X[:30], Y[:30], validation_data=(X[30:], Y[30:]), epochs=1, verbose=0)
    yield tuner
    tuner.close()


STEPS = {
    "confirm": lambda tuner: tuner.confirm(verbose=1),
    "retrain": lambda tuner: tuner.retrain(1, verbose=1),
    "bag": lambda tuner: tuner.bag(1, verbose=1),
    "ensemble": lambda tuner: tuner.ensemble(verbose=1),
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl+C", "SIGTERM"])
@pytest.mark.parametrize("step", STEPS)
def test_each_step_says_three_lines_and_leaves_a_project_that_goes_on(
    step, number, searched, default_sigterm, monkeypatch, capsys
):
    monkeypatch.setattr(searched._finish, step, lambda *args, **kwargs: os.kill(os.getpid(), number))
    with pytest.raises(KeyboardInterrupt) as caught:
        STEPS[step](searched)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert f"{step} was interrupted: its runs that have ended count." in lines
    assert lines[-1] == f"To go on, call {step} again with the same arguments, here or in another process."
    assert len(traceback.extract_tb(caught.value.__traceback__)) <= 5
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL and not searched.oracle.clock.is_running


def test_a_handler_of_the_users_hears_sigterm_in_the_middle_of_a_search_which_goes_on(project, default_sigterm):
    heard = []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, seed=0, population=False, **project)
    at_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: os.kill(os.getpid(), signal.SIGTERM))
    tuner.search(X, Y, validation_data=(X, Y), callbacks=[at_end], epochs=2, verbose=0)
    assert heard == [signal.SIGTERM] * 2 and tuner.oracle.get_best_trials(1)


def test_in_a_thread_that_is_not_the_main_one_a_search_touches_no_handler(project, default_sigterm):
    seen, tuner = [], kt.RandomSearch(tiny.build, "val_loss", max_trials=1, population=False, **project)
    at_end = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: seen.append(signal.getsignal(signal.SIGTERM)))
    search = lambda: tuner.search(X, Y, validation_data=(X, Y), callbacks=[at_end], verbose=0)  # noqa: E731
    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL] and tuner.oracle.get_best_trials(1)
