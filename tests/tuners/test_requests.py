"""What is asked of a search while it runs is done once and answered, however often its process dies."""

from __future__ import annotations

import contextlib
import functools
import json
import os

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
from deaths import interrupted
from marks import needs_jax

from manyfit.core.errors import ProjectError, UsageError, UsageKeyError
from manyfit.core.events import EpochsEnded, StepEnded
from manyfit.core.records import Decision, Ending, Result
from manyfit.oracles.requests import RequestDesk
from manyfit.store import requests
from manyfit.store.layout import ProjectLayout
from manyfit.store.requests import ask


class Asking(tiny.Formula):
    """Calls a function before each report of an epoch, with the number of the report."""

    def __init__(self, before, **arguments):
        super().__init__(**arguments)
        self.before = before

    def train(self, supply, task):
        number, report = 0, supply.report

        def reported(epochs):
            nonlocal number
            number += 1
            self.before(number)
            return report(epochs)

        supply.report = reported
        super().train(supply, task)


class Obedient(Asking):
    """One that ends an execution when it is told to."""

    def train(self, supply, task):
        def reported(epochs, report=supply.report):
            decisions = report(epochs)
            self.told += [(plan.trial_id, epoch, decision.name) for (plan, epoch, _), decision in zip(
                epochs, decisions, strict=True)]  # fmt: skip
            return decisions

        self.told = []
        supply.report = reported
        super().train(supply, task)


def looks_each_time(tuner):
    tuner.oracle.requests = RequestDesk(tuner.oracle, now=iter(range(10**6)).__next__)


def tuner_of(folder, trainer=None, **arguments):
    arguments = {"max_trials": 3, "seed": 1, "project_name": "p", **arguments}
    tuner = tiny.searched(trainer or tiny.Formula(), directory=str(folder), **arguments)
    looks_each_time(tuner)
    return tuner


def search(tuner):
    tuner.search(np.zeros((4, 3)), np.zeros(4), verbose=0)
    return kt.open_project(tuner.project_dir)


def answers(seen):
    return [(one["what"], one["is_done"], one["answer"]) for one in seen.requests]


def test_a_configuration_a_note_and_a_limit(tmp_path):
    def before(number):
        if number == 2:
            ask(tmp_path / "p", "note", trial_id="0", text="looks <b>odd</b>")
            ask(tmp_path / "p", "enqueue", values={"units": 7, "kind": "a"})
            ask(tmp_path / "p", "raise_limit", max_trials=5)

    seen = search(tuner_of(tmp_path, Asking(before)))
    assert len(seen.trials) == 5 and seen.plan.max_trials == 5
    assert seen.trials[1].values["units"] == 7
    assert answers(seen) == [
        ("note", True, "noted"), ("enqueue", True, "it is tried next"), ("raise_limit", True, "max_trials is 5 now"),
    ]  # fmt: skip
    assert seen.notes("0") == ["looks <b>odd</b>"] and seen.notes("1") == []
    assert not ProjectLayout(tmp_path / "p").waiting_requests()


def test_what_cannot_be_done_is_answered_and_stops_nothing(tmp_path):
    def before(number):
        if number == 4:
            folder = tmp_path / "p"
            ask(folder, "enqueue", values={"units": 700})
            ask(folder, "enqueue", values={"spam": 1})
            ask(folder, "raise_limit", max_trials=2)
            ask(folder, "raise_limit", max_seconds=60)
            ask(folder, "stop_trial", trial_id="0")
            ask(folder, "stop_trial", trial_id="9")
            ask(folder, "stop", pid=1, since=7.0)

    seen = search(tuner_of(tmp_path, Asking(before)))
    assert len(seen.trials) == 3 and seen.ended_by == "The search ended after 3 trials: max_trials=3 is reached."
    assert not any(is_done for _, is_done, _ in answers(seen))
    said = [answer for _, _, answer in answers(seen)]
    assert "units=700" in said[0] and "spam=1" in said[1]
    assert said[2:] == [
        "max_trials=2: the search has 3, and a limit can only be raised",
        "max_seconds=60: the search has no such limit",
        "trial 0 has ended before",
        "there is no trial '9'",
        "the search that was to stop is over",
    ]


def test_a_search_stops_with_the_epochs_that_it_has(tmp_path):
    tuner = tuner_of(tmp_path, Obedient(lambda number: number == 5 and ask(tmp_path / "p", "stop")))
    seen = search(tuner)
    assert tuner.ended_by == "stopped"
    assert seen.ended_by == "The search ended after 2 trials: it was asked to."
    assert ("1", 1, "STOP") in tuner._get_trainer().told
    assert len(search(tuner).trials) == 3  # another call goes on


def test_tuner_stop_from_another_place_of_the_process(tmp_path):
    tuner = tuner_of(tmp_path, Asking(lambda number: number == 2 and tuner.stop()))
    tuner.stop()  # nothing runs: nothing happens
    seen = search(tuner)
    assert len(seen.trials) == 1 and seen.ended_by.endswith("tuner.stop() was called.")


def test_a_trial_stops_and_the_others_go_on(tmp_path):
    def before(number):
        if number == 1:
            assert tuner.stop_trial("1")

    tuner = tuner_of(tmp_path, trainer := Obedient(before, num_epochs=4, members=3))
    seen = search(tuner)
    assert {told[0] for told in trainer.told if told[2] == "STOP"} == {"1"}
    assert [one["answer"] for one in seen.requests] == ["trial 1 stops after its epoch, with the epochs that it has"]
    assert tuner.stop_trial("1") is False
    with pytest.raises(UsageKeyError) as raised:
        tuner.stop_trial("77")
    assert tiny.four_parts(raised.value)[1] == "'77'"


def test_executions_of_a_stopped_trial_that_wait_are_not_begun(tmp_path):
    tuner = tuner_of(
        tmp_path, trainer := Asking(lambda n: n == 1 and tuner.stop_trial("0")), executions_per_trial=3, max_trials=2
    )
    search(tuner)
    assert [(trial, execution) for trial, execution, _ in trainer.trained] == [("0", 0), ("1", 0), ("1", 1), ("1", 2)]


@pytest.mark.parametrize("late", [False, True])
def test_death_at_any_commit_neither_loses_nor_repeats_a_request(tmp_path, monkeypatch, late):
    def asked(number, folder):
        if number == 2 and not (folder / "asked").exists():
            (folder / "asked").touch()
            ask(folder, "enqueue", values={"units": 7, "kind": "a"})
            ask(folder, "raise_limit", max_trials=2)
            ask(folder, "note", trial_id="0", text="odd")

    def make(folder):
        trainer = Asking(functools.partial(asked, folder=folder), num_epochs=2)
        return tuner_of(folder.parent, trainer, project_name=folder.name, max_trials=1)

    num_deaths = 0
    while True:
        folder = tmp_path / str(num_deaths)
        again = interrupted(functools.partial(make, folder), monkeypatch, num_deaths, late)
        if again is None:
            break
        seen = kt.open_project(folder)
        assert [one.values["units"] for one in seen.trials].count(7) == 1, num_deaths
        assert (len(seen.trials), seen.notes("0"), len(seen.requests)) == (2, ["odd"], 3), num_deaths
        assert not ProjectLayout(folder).waiting_requests()
        num_deaths += 1
    assert num_deaths > 10


def test_a_trial_that_was_to_stop_stops_after_a_restart(tmp_path):
    def before(number):
        if number == 1:
            ask(tmp_path / "p", "stop_trial", trial_id="0")
        if number == 2:
            raise KeyboardInterrupt

    tuner = tuner_of(tmp_path, Asking(before, num_epochs=4))
    with pytest.raises(KeyboardInterrupt):
        search(tuner)
    tuner.close()
    again = tuner_of(tmp_path, trainer := Obedient(lambda number: None, num_epochs=4))
    search(again)
    assert trainer.told[0] == ("0", 0, "STOP") and all(told[2] == "GO_ON" for told in trainer.told if told[0] != "0")


def test_a_raised_limit_holds_until_the_script_says_another(tmp_path):
    tuner = tuner_of(tmp_path, Asking(lambda n: n == 1 and ask(tmp_path / "p", "raise_limit", max_trials=5)))
    search(tuner)
    tuner.close()
    same = tuner_of(tmp_path)
    search(same)
    assert (len(same.oracle.trials), same.oracle.max_trials) == (5, 5)
    same.close()
    other = tuner_of(tmp_path, max_trials=4)
    search(other)
    assert (len(other.oracle.trials), other.oracle.max_trials) == (5, 4)


def test_a_paused_trial_that_is_asked_to_stop_ends_at_once(tmp_path):
    def before(number):
        if tuner.oracle.trials["0"].state.name == "PAUSED" and not waited:
            waited.append(number)
            tuner.stop_trial("0")

    waited = []
    tuner = tuner_of(tmp_path, trainer := Pausing(before), scheduler=kt.ASHA(9, min_epochs=1), max_trials=4)
    search(tuner)
    assert waited and tuner.oracle.trials["0"].is_completed
    assert tuner.oracle.trials["0"].message == "stopped after 1 of 9 epochs: it was asked to"
    assert [key for key, _ in trainer.epochs].count("0") == 1


class Pausing(Asking):
    """One that obeys: it pauses, stops and goes on."""

    def train(self, supply, task):
        self.epochs, curves, number = [], {}, 0
        while plans := supply.take(1):
            [plan] = plans
            curve = curves.setdefault(plan.key, {"loss": []})
            for epoch in range(plan.first_epoch, 9):
                number += 1
                self.before(number)
                curve["loss"].append(tiny.loss_of(plan, epoch))
                self.epochs.append((plan.trial_id, epoch))
                [decision] = supply.report([(plan, epoch, {"loss": curve["loss"][-1]})])
                if decision is not Decision.GO_ON:
                    break
            ending = {Decision.PAUSE: Ending.PAUSED, Decision.STOP: Ending.STOPPED}.get(decision, Ending.COMPLETED)
            supply.finish(Result(plan, ending, {"loss": list(curve["loss"])}))


def test_a_run_trial_of_ones_own_hears_between_trials(tmp_path):
    folder = tmp_path / "p"

    def run(trial):
        if trial.trial_id == "0":
            ask(folder, "stop_trial", trial_id="0")
            ask(folder, "enqueue", values={"units": 9, "kind": "b"})
        if trial.trial_id == "1":
            ask(folder, "stop")
        return trial.hyperparameters["units"] / 50

    tuner = tiny.numbers(run, max_trials=4, seed=0, directory=str(tmp_path), project_name="p")
    looks_each_time(tuner)
    tuner.search(verbose=0)
    seen = kt.open_project(folder)
    assert [trial.values["units"] for trial in seen.trials][1:] == [9] and tuner.ended_by == "stopped"
    assert [is_done for _, is_done, _ in answers(seen)] == [False, True, True]


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_models_that_train_obey(tmp_path, rows, population):
    """Together in one program, and with `model.fit`: a trial stops, and then the search does."""
    x, y = rows
    folder = tmp_path / "p"

    class Asks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                tuner.stop_trial("0")
            if epoch == 4:
                tuner.stop()

    tuner = kt.RandomSearch(
        tiny.build, "val_loss", max_trials=2, seed=0, directory=str(tmp_path), project_name="p", population=population
    )
    tuner.search(x, y, validation_data=(x, y), epochs=50, callbacks=[Asks()], verbose=0)
    seen = kt.open_project(folder)
    assert seen.trials[0].searched[0].num_epochs in (2, 3)
    assert "it was asked to" in seen.trials[0].message
    assert tuner.ended_by == "stopped" and max(run.num_epochs for one in seen.trials for run in one.searched) < 9


# After the search ------------------------------------------------------------------------------------------------


class AsksOnce:
    """Asks something of a step at the first event of a kind."""

    def __init__(self, kind, ask):
        self.kind, self.ask, self.has_asked = kind, ask, False

    def hear(self, event):
        if isinstance(event, self.kind) and not self.has_asked:
            self.has_asked = True
            self.ask()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A fit whose search somebody wants to stop when it has just ended; its folder, its winner and what was said."""
    folder = tmp_path_factory.mktemp("after") / "p"
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    y = (x.sum(axis=1) > 0).astype("int32")
    tuner = kt.RandomSearch(tiny.build, "val_loss", seed=0, directory=str(folder.parent), project_name="p")

    class AfterTheSearch:
        def hear(self, event):
            if isinstance(event, StepEnded) and event.what == "a search":
                step = kt.open_project(folder).activity
                ask(folder, "stop", pid=step.pid, since=step.since)

    with tuner.oracle.book.events.listening(AfterTheSearch()):
        winner = tuner.fit(x, y, validation_data=(x, y), max_trials=3, epochs=2, verbose=0)
    return tuner, folder, winner, answers(kt.open_project(folder))


@contextlib.contextmanager
def asked(searched, *requests_of_it, kind=EpochsEnded):
    """Within it these are asked in the middle of the first step; answers what was said of them."""
    tuner, folder, *_ = searched
    before, answered = len(kt.open_project(folder).requests), []
    listener = AsksOnce(kind, lambda: [ask(folder, what, **details) for what, details in requests_of_it])
    with tuner.oracle.book.events.listening(listener):
        yield answered
    answered += answers(kt.open_project(folder))[before:]


@needs_jax
def test_a_fit_stops_whose_search_was_to_stop_and_has_just_ended(searched):
    *_, winner, answered = searched
    assert answered == [("stop", True, "the fit stops, with what it has")]
    assert any("Nothing more was trained after the search: it was asked to." in why for why in winner.reasons)


@needs_jax
def test_a_confirmation_is_asked_between_its_epochs(searched):
    tuner, folder, *_ = searched
    said = (
        ("note", {"trial_id": "0", "text": "odd"}),
        ("enqueue", {"values": {"units": 2, "learning_rate": 0.2}}),
        ("raise_limit", {"max_trials": 12}),
        ("raise_limit", {"max_seconds": 2000.0}),
        ("raise_limit", {"max_seconds": 10.0}),
        ("stop_trial", {"trial_id": "1"}),
        ("stop", {}),
    )
    with asked(searched, *said) as answered:
        found = tuner.confirm(top=2, max_seconds=1000, verbose=0)
    assert answered == [
        ("note", True, "noted"),
        ("enqueue", True, "it waits: the next search tries it first"),
        ("raise_limit", True, "max_trials is 12 now"),
        ("raise_limit", True, "max_seconds is 2000 now"),
        ("raise_limit", False, "max_seconds=10: the confirmation has 2000, and a limit can only be raised"),
        ("stop_trial", False, "trial 1 has ended before"),
        ("stop", True, "the confirmation stops, with what it has"),
    ]
    assert found.verdict == "it was asked to" and found.num_executions < 12
    seen = kt.open_project(folder)
    assert (seen.plan.max_trials, seen.plan.max_seconds) == (12, None) and seen.activity.until is not None
    assert len(seen.trials) <= 3 and len(seen.facts["enqueued"]) == 1


@needs_jax
def test_a_retraining_stops_with_the_epochs_that_it_has(searched):
    tuner, *_ = searched
    with asked(searched, ("stop", {})) as answered:
        [model] = tuner.retrain(epochs=30, verbose=0)
    assert answered == [("stop", True, "the retraining stops, with what it has")]
    assert 1 <= len(model.history.history["loss"]) < 30


# The files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "details"),
    [
        ("rm", {}),
        (7, {}),
        ("stop", {"force": True}),
        ("stop_trial", {}),
        ("stop_trial", {"trial_id": "../x"}),
        ("enqueue", {"values": {}}),
        ("enqueue", {"values": {"a": [1]}}),
        ("enqueue", {"values": {"a": float("nan")}}),
        ("enqueue", {"values": {f"x{n}": 1 for n in range(501)}}),
        ("raise_limit", {}),
        ("raise_limit", {"max_trials": 0}),
        ("raise_limit", {"max_trials": True}),
        ("raise_limit", {"max_seconds": -1.0}),
        ("raise_limit", {"max_seconds": "10"}),
        ("note", {"trial_id": "0", "text": "  "}),
        ("note", {"trial_id": "0", "text": "x" * 2001}),
    ],
)
def test_requests_that_are_none_are_refused_where_they_are_made(what, details):
    with pytest.raises(UsageError) as raised:
        requests.Request.now(what, **details)
    tiny.four_parts(raised.value)


def test_files_of_strangers_are_answered_and_deleted(tmp_path):
    folder = tmp_path / "p"
    secret = tmp_path / "secret"
    secret.write_text(json.dumps({"what": "stop", "details": {}, "asked_at": 1.0}))

    def before(number):
        if number != 1:
            return
        place = ProjectLayout(folder).requests
        place.mkdir()
        name = "{:020d}-00000000.json".format
        (place / name(0)).write_text("[" * 5000)
        (place / name(1)).write_text('{"what": "stop"}')
        (place / name(2)).write_text("x" * 20_000)
        (place / name(3)).write_text('{"what": "enqueue", "details": {"values": {"units": NaN}}, "asked_at": 1}')
        (place / name(4)).symlink_to(secret)
        os.mkfifo(place / name(5))
        (place / "mine.json").write_text("not ours")

    seen = search(tuner_of(tmp_path, Asking(before)))
    assert len(seen.trials) == 3 and [is_done for _, is_done, _ in answers(seen)] == [False] * 6
    assert "a link, or no plain file" in answers(seen)[4][2] and secret.exists()
    assert [path.name for path in ProjectLayout(folder).requests.iterdir()] == ["mine.json"]


def test_too_many_and_too_large_ones_are_refused(tmp_path, monkeypatch):
    search(tuner_of(tmp_path))
    monkeypatch.setattr(requests, "MOST_WAITING", 3)
    for _ in range(3):
        ask(tmp_path / "p", "stop")
    with pytest.raises(UsageError, match="3 requests that nobody has taken"):
        ask(tmp_path / "p", "stop")
    monkeypatch.setattr(requests, "MOST_WAITING", 9)
    with pytest.raises(UsageError, match="bytes"):
        ask(tmp_path / "p", "enqueue", values={f"name {n}": "x" * 100 for n in range(400)})
    with pytest.raises(ProjectError, match="without a project"):
        ask(tmp_path / "q", "stop")


def test_a_link_in_place_of_the_folder_is_refused(tmp_path):
    search(tuner := tuner_of(tmp_path))
    tuner.close()
    (tmp_path / "elsewhere").mkdir()
    ProjectLayout(tmp_path / "p").requests.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProjectError, match="a link in place"):
        ask(tmp_path / "p", "stop")
    with pytest.raises(ProjectError, match="requests, a link to"):
        tuner_of(tmp_path)
