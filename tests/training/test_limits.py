"""A training run that passes a limit of its own ends as that trial's failure, and the search goes on."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import threading

import keras
import pytest
import tiny

from manyfit.core import limits as core_limits
from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError
from manyfit.core.limits import TrialLimits
from manyfit.core.records import Ending
from manyfit.testing.fakes import ListSupply
from manyfit.testing.trainers import TrainerSuite, plan_of
from manyfit.training import limits
from manyfit.training.base import Permissions
from manyfit.training.keras_fit import KerasFit
from manyfit.training.limits import waiting_told


class Times:
    """A time that goes when it is told to."""

    now = 0.0

    def __call__(self):
        return self.now


class Fitting(TrainerSuite):
    def make(self):
        return KerasFit()


@pytest.fixture
def times():
    return Times()


def endings_of(supply):
    return [supply.results[str(n), 0].ending for n in range(len(supply.results))]


def after_epoch(trial, epoch, act):
    """Callbacks of a task that act before the batches of one epoch of one trial."""

    class Acts(keras.callbacks.Callback):
        def on_epoch_begin(self, number, logs=None):
            if number == epoch:
                act()

    return lambda plan: [Acts()] if plan.trial_id == trial else []


@pytest.mark.parametrize("pauses", [False, True], ids=["in the thread of the call", "in one that can be paused"])
def test_a_run_that_takes_too_long_fails_with_its_limit_and_the_others_go_on(pauses, times):
    def dawdle():
        times.now += 7.5

    supply = Fitting().trained(
        [plan_of(0), plan_of(1), plan_of(2)],
        limits=TrialLimits(max_seconds=5.0),
        clock=Clock(now=times),
        callbacks=after_epoch("1", 1, dawdle),
        may=Permissions(pause=pauses),
    )
    assert endings_of(supply) == [Ending.COMPLETED, Ending.TOO_SLOW, Ending.COMPLETED]
    slow = supply.results["1", 0]
    assert slow.num_epochs == 1 and slow.final
    assert "not done after 7.5 seconds (max_seconds_per_trial=5)" in slow.message


def test_the_limit_of_a_call_still_means_stopped(times):
    def dawdle():
        times.now += 7.5

    clock = Clock(5.0, now=times)
    clock.start()
    changes = {"limits": TrialLimits(max_seconds=99.0), "clock": clock, "callbacks": after_epoch("0", 1, dawdle)}
    assert endings_of(Fitting().trained([plan_of(0)], **changes)) == [Ending.STOPPED]


def test_time_that_is_spent_on_others_while_a_run_is_paused_does_not_count(times):
    found = limits.RunLimits(TrialLimits(max_seconds=5.0), Clock(now=times), print)
    for _ in range(4):
        with found.counting("0"):
            times.now += 1.0
            found.check()
        times.now += 100.0
    with found.counting("0"), pytest.raises(limits.OverLimit):
        times.now += 1.0
        found.check()


def test_a_process_that_holds_too_much_fails_the_run_and_no_other(monkeypatch):
    held = {"bytes": 1 << 30}
    monkeypatch.setattr(core_limits, "held_bytes", lambda: held["bytes"])
    monkeypatch.setattr(core_limits, "give_back", lambda: None)
    monkeypatch.setattr(core_limits, "LOOK_SECONDS", 0.0)

    def grow():
        held["bytes"] = 3 << 30

    class Freeing(ListSupply):
        def finish(self, result):
            super().finish(result)
            held["bytes"] = 1 << 30

    supply = Fitting().trained(
        Freeing([plan_of(0), plan_of(1)]),
        limits=TrialLimits(max_memory_bytes=2 << 30),
        callbacks=after_epoch("0", 1, grow),
    )
    assert endings_of(supply) == [Ending.OUT_OF_MEMORY, Ending.COMPLETED]
    assert "holds 3.0 GiB (max_memory=2.0 GiB)" in supply.results["0", 0].message


def test_what_cannot_be_ended_is_said_once_with_the_line_and_what_to_type(monkeypatch):
    monkeypatch.setattr(limits, "_GRACE_SECONDS", 0.0)
    said, heard = [], threading.Event()

    def notify(line):
        said.append(line)
        heard.set()

    with waiting_told(1e-3, Clock.started(), "7", notify):
        assert heard.wait(60)  # as a build function that does not come back
    assert len(said) == 1 and "trial 7" in said[0] and "test_limits.py" in said[0]
    assert "executor=kt.ProcessExecutor()" in said[0] and "max_seconds_per_trial=0.001" in said[0]


def test_who_comes_back_in_time_hears_nothing():
    said = []
    with waiting_told(1e9, Clock(), "7", said.append), waiting_told(None, Clock(), "8", said.append):
        num_threads = threading.active_count()
    assert not said and num_threads >= threading.active_count()


def test_through_the_tuner_a_slow_trial_is_told_and_never_the_best(project, rows, times):
    """A build that takes too long and comes back, in the second of three trials; the time is told, not waited for."""

    def build(hp):
        if hp.Int("number", 0, 2) == 1:
            times.now += 100.0
        return tiny.build(hp)

    tuner = kt.GridSearch(build, "val_loss", max_trials=3, population=False, max_seconds_per_trial=60, **project)
    tuner.enqueue(*({"units": 2, "learning_rate": 0.01, "number": number} for number in range(3)))
    with tuner.limited(Clock(now=times)):
        tuner.search(*rows, epochs=1, validation_split=0.25, verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [str(trial.ending) for trial in trials] == ["completed", "too slow", "completed"]
    assert trials[1].score is None and trials[1] not in tuner.oracle.get_best_trials(9)
    assert "max_seconds_per_trial=60" in trials[1].message


@pytest.mark.parametrize(
    "arguments", [{"max_seconds_per_trial": 0}, {"max_seconds_per_trial": "10"}, {"max_memory": "much"}]
)
def test_limits_that_are_none_are_refused_before_training(arguments, project):
    with pytest.raises(UsageError) as caught:
        kt.RandomSearch(tiny.build, "val_loss", **arguments, **project)
    tiny.four_parts(caught.value)
    assert next(iter(arguments)) in str(caught.value)


def test_three_in_a_row_that_hang_end_the_search(project, rows, times):
    def build(hp):
        times.now += 100.0
        return tiny.build(hp)

    options = {"max_seconds_per_trial": 60, "max_retries_per_trial": 2, "population": False}
    tuner = kt.RandomSearch(build, "val_loss", max_trials=9, **options, **project)
    with pytest.raises(SearchError, match="too slow"), tuner.limited(Clock(now=times)):
        tuner.search(*rows, epochs=1, validation_split=0.25, verbose=0)
    assert len(tuner.oracle.trials) == 3 and {trial.num_retries for trial in tuner.oracle.trials.values()} == {0}
