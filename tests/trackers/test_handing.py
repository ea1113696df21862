"""Trackers are told everything in its order, from a thread of their own; one that raises or hangs stops no search."""

from __future__ import annotations

import logging
import threading

import manyfit as kt  # isort: skip

import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.core.events import CallEnded, TrialsBegan
from manyfit.trackers.base import TrackedEnd, Tracker, tell_all
from manyfit.trackers.handing import TrackerThread


class Notes(Tracker):
    """Writes down what it is told, and in which thread."""

    def __init__(self, known=()):
        self.known, self.told, self.threads = frozenset(known), [], set()

    def begin(self, snapshot):
        self.threads.add(threading.current_thread().name)
        return self.known

    def trial_began(self, trial_id, values):
        self.told.append(("began", trial_id, dict(values)))

    def epochs_ended(self, epochs):
        self.told += [("epoch", one.trial_id, one.prefix, one.epoch, dict(one.metrics)) for one in epochs]

    def trial_ended(self, trial_id, end):
        self.told.append(("ended", trial_id, end))

    def call_ended(self, snapshot):
        self.told.append(("call", len(snapshot.trials)))


def searched(project, trackers, epochs=2, **arguments):
    tuner = tiny.searched(tiny.Formula(num_epochs=epochs), max_trials=2, seed=0, **arguments, **project)
    tuner.search(epochs=epochs, verbose=0, trackers=trackers)
    return tuner


def test_a_base_tuner_whose_run_trial_is_somebodys_own_is_tracked_too(project):
    class Loop(kt.engine.base_tuner.BaseTuner):
        def run_trial(self, trial, *args, **kwargs):
            assert kwargs == {"verbose": 0}  # what is for the search does not reach it
            return {"score": trial.hyperparameters["units"] / 50}

    objective = kt.Objective("score", "max")
    oracle = kt.oracles.RandomSearchOracle(objective, max_trials=2, hyperparameters=tiny.space(), seed=0)
    tuner, notes = Loop(oracle, **project), Notes()
    tuner.search(verbose=0, trackers=notes)
    assert [one[:2] for one in notes.told if one[0] != "epoch"] == [
        ("began", "0"), ("ended", "0"), ("began", "1"), ("ended", "1"), ("call", 2),
    ]  # fmt: skip
    assert [one[2].score for one in notes.told if one[0] == "ended"] == [
        trial.score for trial in tuner.oracle.trials.values()
    ]
    with pytest.raises(UsageError, match="trackers=\\["):
        tuner.search(verbose=0, trackers=["spam"])
    tuner.close()


def test_all_is_told_in_its_order_and_not_by_the_searchs_thread(project):
    notes = Notes()
    tuner = searched(project, [notes], executions_per_trial=2)
    runs = tuner.results()
    for trial in tuner.oracle.trials.values():
        own = [one for one in notes.told if one[1] == trial.trial_id]
        assert [one[0] for one in own] == ["began", *["epoch"] * 4, "ended"]
        assert {(one[2], one[3]) for one in own if one[0] == "epoch"} == {("", 0), ("", 1), ("run2/", 0), ("run2/", 1)}
        assert own[-1][2] == TrackedEnd(trial.score, trial.spread)
        assert own[0][2] == {row.trial_id: row.values for row in runs}[trial.trial_id]
    assert notes.told[-1] == ("call", 2) and notes.threads == {"manyfit-Notes"}


def test_a_search_that_goes_on_tells_what_the_tool_does_not_know(project):
    searched(project, None).close()
    notes = Notes(known=["0"])
    tuner = searched(project, [notes])
    assert [one[:2] for one in notes.told if one[0] in ("began", "ended")] == [("began", "1"), ("ended", "1")]
    again = Notes()
    tell_all(kt.open_project(tuner.project_dir), again)
    assert [one[:2] for one in again.told if one[0] == "ended"] == [("ended", "0"), ("ended", "1")]
    # What is told afterwards of a trial is what was told of it live.
    assert [one for one in notes.told if one[0] != "call"] == [one for one in again.told if one[1] == "1"]


class Breaks(Notes):
    def epochs_ended(self, epochs):
        raise SystemExit("the server is gone")


def test_a_tracker_that_raises_warns_once_and_stops_nothing(project, caplog):
    with caplog.at_level(logging.WARNING, "manyfit"):
        tuner = searched(project, [Breaks(), notes := Notes()])
    assert len(tuner.oracle.get_best_trials(9)) == 2 and notes.told[-1] == ("call", 2)
    [record] = caplog.records
    assert record.getMessage() == "Breaks is told nothing more: it failed" and "the server is gone" in caplog.text


class Hangs(Notes):
    def __init__(self):
        super().__init__()
        self.goes_on = threading.Event()

    def begin(self, snapshot):
        self.goes_on.wait(60)
        return super().begin(snapshot)


def test_a_tracker_that_hangs_costs_a_moment_and_events_that_find_no_room_are_counted(project, caplog):
    tuner = searched(project, None)
    hangs = Hangs()
    with caplog.at_level(logging.WARNING, "manyfit"):
        thread = TrackerThread(hangs, tuner.project_dir, most_events=3, seconds_at_the_end=0.05)
        for _ in range(5):
            thread.hear(TrialsBegan({"7": {}}))
        thread.hear(CallEnded("a search"))
    assert thread.num_dropped == 3  # two of the five, and the end of the call
    [record] = caplog.records
    assert record.getMessage() == "Hangs does not keep up: events are dropped, 1 so far"
    hangs.goes_on.set()
    thread.close()


def test_another_name_is_refused_before_anything_trains(project):
    tuner = tiny.searched(tiny.Formula(), max_trials=1, seed=0, **project)
    with pytest.raises(UsageError, match=r"trackers=\[...\]\): got 'mlfow'"):
        tuner.search(epochs=1, trackers=["mlfow"], verbose=0)
    assert not tuner.oracle.trials


def test_a_tool_that_is_not_installed_is_named_with_its_extra(project, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install manyfit\[wandb\]"):
        kt.trackers.WandB()
