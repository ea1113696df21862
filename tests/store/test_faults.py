"""A disk that is full for a moment, two tuners on one project, threads that save: nothing that has finished is lost."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest
import tiny

from manyfit.core.errors import ProjectError
from manyfit.core.records import Decision, Ending, Result
from manyfit.oracles import Oracle
from manyfit.schedulers.hyperband import HyperbandScheduler
from manyfit.store import ProjectStore
from manyfit.tuners.keras_tuner.one_by_one import TrialSteps
from manyfit.tuners.keras_tuner.remote import TrialSupply

pytestmark = pytest.mark.backends


# -- commits that fail ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def failing_commit(monkeypatch, number, late):
    """One commit fails: the one of this number, before it is made or, where the answer is lost, after it."""
    transaction, left = ProjectStore.transaction, [number]

    @contextlib.contextmanager
    def failing(store):
        left[0] -= 1
        if left[0] == -1 and not late:
            raise ProjectError("the disk is full")
        with transaction(store) as connection:
            yield connection
        if left[0] == -1 and late:
            raise ProjectError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ProjectStore, "transaction", failing)
        yield


def story(tuner):
    """What a search was, as far as the user can tell."""
    rows = [(row.trial_id, row.execution, row.seed, row.status, row.ending, row.score) for row in tuner.results()]
    return tiny.proposals(tuner), rows, tuner.results().curves, tuner.oracle.end_order


def survives(make, monkeypatch, number, late):
    """A search that one commit fails in, and that is called again; None where it had fewer commits."""
    tuner = make()
    with failing_commit(monkeypatch, number, late):
        try:
            tuner.search(verbose=0)
        except ProjectError:
            pass
        else:
            tuner.close()
            return None
    tuner.search(verbose=0)
    in_memory = story(tuner)
    tuner.close()
    again = make()
    assert story(again) == in_memory, f"memory and store differ after failed commit {number}"
    again.close()
    return in_memory


def compare_all(make, monkeypatch, late, check, begin=lambda: None):
    """Lets each commit of a search fail in turn; returns how many there were."""
    whole = make("whole")
    whole.search(verbose=0)
    wanted = story(whole)
    begin()
    number = 0
    while (found := survives(functools.partial(make, f"{number}"), monkeypatch, number, late)) is not None:
        assert found == wanted, f"another search after failed commit {number}"
        check(number)
        number += 1
    return number


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_commit_costs_no_call_of_run_trial(tmp_path, monkeypatch, late):
    calls = []

    def run_trial(trial):
        calls.append(trial.trial_id)
        units = trial.hyperparameters.values["units"]
        return [{"loss": units + fold} for fold in range(2)]

    def make(name):
        return tiny.numbers(run_trial, objective="loss", max_trials=3, seed=3, directory=tmp_path, project_name=name)

    def every_trial_was_run_once(number):
        assert sorted(calls) == ["0", "1", "2"], f"after failed commit {number}"
        calls.clear()

    assert compare_all(make, monkeypatch, late, every_trial_was_run_once, begin=calls.clear) >= 10


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_commit_costs_no_execution_that_had_ended(tmp_path, monkeypatch, late, capsys):
    trainers = []

    def make(name):
        trainers.append(tiny.Formula(num_epochs=2, members=2))
        return tiny.searched(
            trainers[-1], max_trials=3, executions_per_trial=2, seed=3, directory=tmp_path, project_name=name
        )

    def little_was_trained_again(number):
        trained = trainers[-2].trained  # the last one belongs to the tuner that only read
        # What trained while the commit of an epoch failed trains again: two members. What had ended does not.
        assert 6 <= len(trained) <= 8 and len(set(trained)) == 6, f"after failed commit {number}"

    assert compare_all(make, monkeypatch, late, little_was_trained_again) >= 16


def test_a_failed_commit_with_retries(tmp_path, monkeypatch, capsys):
    def make(name):
        def fails(plan):
            return ValueError("odd seed") if plan.seed % 2 else None

        return tiny.searched(
            tiny.Formula(num_epochs=1, fail=fails),
            max_trials=4,
            max_retries_per_trial=1,
            max_consecutive_failed_trials=9,
            seed=5,
            directory=tmp_path,
            project_name=name,
        )

    assert compare_all(make, monkeypatch, False, lambda number: None) >= 12


class Pausing(tiny.Formula):
    """Pauses where it is told to, and goes on from there."""

    def train(self, supply, task):
        while plans := supply.take(1):
            [plan] = plans
            losses = [tiny.loss_of(plan, epoch) for epoch in range(4)]
            ending = Ending.COMPLETED
            for epoch in range(plan.first_epoch, 4):
                self.trained.append((plan.trial_id, epoch, plan.seed))
                [decision] = supply.report([(plan, epoch, {"loss": losses[epoch]})])
                if decision is Decision.PAUSE:
                    ending = Ending.PAUSED
                    break
            supply.finish(Result(plan, ending, {"loss": losses[: epoch + 1]}))


@pytest.mark.parametrize("late", [False, True])
def test_a_failed_commit_with_pauses(tmp_path, monkeypatch, capsys, late):
    trainers = []

    def make(name):
        trainers.append(Pausing())
        scheduler = HyperbandScheduler(4, 2)
        return tiny.searched(
            trainers[-1], scheduler=scheduler, max_trials=5, seed=3, directory=tmp_path, project_name=name
        )

    def only_what_was_running_ran_again(number):
        trained = trainers[-2].trained
        again = {trial_id for trial_id, epoch, seed in trained if trained.count((trial_id, epoch, seed)) > 1}
        assert len(again) <= 1, f"trials {again} were trained again after failed commit {number}"

    assert compare_all(make, monkeypatch, late, only_what_was_running_ran_again) >= 20


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), sqlite3.OperationalError("is locked")])
@pytest.mark.parametrize("name", ["save_trials", "save_execution", "put"])
def test_whatever_the_disk_says_the_search_can_be_called_again(tmp_path, monkeypatch, name, error):
    tuner, calls = counted(tmp_path, found := []), [2]
    whole = getattr(ProjectStore, name)

    def fails_once(store, *args, **facts):
        calls[0] -= 1
        if calls[0] == 0:
            raise error
        return whole(store, *args, **facts)

    tuner.oracle.book.put(fact=1)
    monkeypatch.setattr(ProjectStore, name, fails_once)
    for _ in range(2):
        with contextlib.suppress(ProjectError):
            tuner.search(verbose=0)
    tuner.search(verbose=0)
    tuner.close()
    assert calls[0] < 0 and sorted(found) == ["0", "1", "2"]
    assert len(counted(tmp_path, []).oracle.get_best_trials(9)) == 3


def test_a_search_that_still_cannot_write_says_so_and_loses_nothing(tmp_path, monkeypatch):
    tuner = tiny.numbers(lambda trial: 0.5, objective="loss", max_trials=2, directory=tmp_path)
    monkeypatch.setattr(ProjectStore, "save_trials", refuse)
    for _ in range(3):
        with pytest.raises(ProjectError, match="full"):
            tuner.search(verbose=0)
    monkeypatch.undo()
    tuner.search(verbose=0)
    tuner.close()
    again = tiny.numbers(lambda trial: 0.5, objective="loss", max_trials=2, directory=tmp_path)
    assert [trial.status for trial in again.oracle.trials.values()] == ["COMPLETED"] * 2


def refuse(*args, **kwargs):
    raise ProjectError("the disk is full")


def test_what_a_worker_returned_is_not_run_again(tmp_path, monkeypatch):
    calls = []

    def make():
        return counted(tmp_path, calls, max_trials=2)

    tuner = make()
    monkeypatch.setattr(Oracle, "end_trial", refuse)  # what was returned is in the book, the trial's end is not
    with pytest.raises(ProjectError):
        tuner.search(verbose=0)
    monkeypatch.undo()
    steps = TrialSteps(lambda: None, lambda trial: None, None, tuner.on_trial_end, None)
    tuner.oracle.start_clock()
    supply = TrialSupply(tuner.oracle, tuner._one_by_one, steps, tuner.store.weights_path)
    [plan] = supply.take(1)
    assert calls == ["0"] and plan.trial_id == "1"
    assert tuner.oracle.get_best_trials(1)[0].trial_id == "0"
    tuner.oracle.stop_clock()


def test_what_the_store_will_never_take_is_said_once(tmp_path):
    tuner = tiny.numbers(lambda trial: 0.5, objective="loss", max_trials=1, directory=tmp_path)
    with pytest.raises(TypeError, match="JSON"):
        tuner.oracle.book.put(fact=object())
    tuner.search(verbose=0)
    assert tuner.oracle.get_best_trials(1)


def test_the_order_of_ends_is_no_matter_of_clocks(tmp_path, monkeypatch):
    real, calls = time.time, []
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * (calls.append(1) or len(calls)))
    tuner = tiny.numbers(lambda trial: 0.5, objective="loss", max_trials=4, directory=tmp_path)
    tuner.search(verbose=0)
    tuner.close()
    assert calls
    again = tiny.numbers(lambda trial: 0.5, objective="loss", max_trials=4, directory=tmp_path)
    assert again.oracle.end_order == tuner.oracle.end_order == ["0", "1", "2", "3"]


# -- threads -------------------------------------------------------------------------------------------------------


def in_thread(function):
    """What a function raised in a thread of its own, or None."""
    raised = []

    def run():
        try:
            function()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="second")
    thread.start()
    thread.join()
    return raised[0] if raised else None


def test_threads_write_one_after_another(tmp_path):
    store, errors = ProjectStore(tmp_path), []

    def write(name):
        for number in range(100):
            try:
                with store.transaction() as connection:
                    for step in range(3):
                        connection.execute("INSERT OR REPLACE INTO project VALUES (?, '0')", (f"{name}{number}{step}",))
            except ProjectError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and all(store.get(f"{name}{number}2") == 0 for name in "abc" for number in range(100))
    store.close()


def test_a_thread_may_save_while_a_search_runs_and_may_not_reload(tmp_path):
    raised = []

    def run_trial(trial):
        raised.append(in_thread(tuner.save) or in_thread(tuner.oracle.save))
        raised.append(in_thread(tuner.reload))
        raised.append(in_thread(functools.partial(tuner.search, verbose=0)))
        return 0.5

    tuner = tiny.numbers(run_trial, objective="loss", max_trials=3, directory=tmp_path)
    tuner.search(verbose=0)
    assert raised[::3] == [None] * 3
    for error in [*raised[1::3], *raised[2::3]]:
        assert isinstance(error, ProjectError) and "under way" in tiny.four_parts(error)[1]
    tuner.reload()
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 3


# -- two tuners ----------------------------------------------------------------------------------------------------


def counted(tmp_path, calls, **arguments):
    def run_trial(trial):
        calls.append(trial.trial_id)
        return 0.5

    return tiny.numbers(run_trial, objective="loss", directory=tmp_path, **{"max_trials": 3, **arguments})


def test_a_cell_that_is_run_again_makes_a_tuner_that_goes_on(tmp_path):
    calls = []
    first, second = counted(tmp_path, calls), counted(tmp_path, calls)
    first.search(verbose=0)
    second.search(verbose=0)  # reads what the first has done, and finds nothing left
    assert sorted(calls) == ["0", "1", "2"]
    second.oracle.max_trials = 5
    second.search(verbose=0)
    first.oracle.max_trials = 6
    first.search(verbose=0)  # the same the other way round
    assert calls == ["0", "1", "2", "3", "4", "5"]
    first.close()
    second.close()
    assert len(counted(tmp_path, calls).oracle.get_best_trials(9)) == 6


def test_a_tuner_that_does_not_know_what_another_one_did_writes_nothing(tmp_path):
    first, second = counted(tmp_path, []), counted(tmp_path, [])
    first.search(verbose=0)
    for write in (second.save, second.oracle.save, functools.partial(second.oracle.create_trial, "tuner0")):
        with pytest.raises(ProjectError, match="has not seen") as caught:
            write()
    assert "reload()" in tiny.four_parts(caught.value)[3]
    second.reload()
    second.save()
    assert len(second.oracle.get_best_trials(9)) == 3


def test_a_second_tuner_reads_and_is_refused_by_name_while_the_first_searches(tmp_path):
    seen, raised = [], []

    def run_trial(trial):
        second = counted(tmp_path, [])
        seen.append(len(second.oracle.trials))
        second.reload()
        for step in (functools.partial(second.search, verbose=0), second.save):
            raised.append(in_thread(step))
        raised.append(in_thread(lambda: counted(tmp_path, [], overwrite=True)))
        second.close()
        return 0.5

    first = tiny.numbers(run_trial, objective="loss", max_trials=2, directory=tmp_path)
    first.search(verbose=0)
    assert seen == [1, 2] and len(raised) == 6
    for error in raised:
        got = tiny.four_parts(error)[1]
        assert isinstance(error, ProjectError) and "another of this process runs a search" in got
        assert f"process {os.getpid()}" in got and "MainThread" in got and "since" in got
    assert [trial.status for trial in first.oracle.trials.values()] == ["COMPLETED"] * 2


def test_who_looks_at_a_running_search_leaves_its_epochs_alone(tmp_path, capsys):
    class Watched(tiny.Formula):
        def _finish(self, *args):
            tiny.searched(tiny.Formula(), max_trials=2, directory=tmp_path).close()
            super()._finish(*args)

    tuner = tiny.searched(Watched(num_epochs=3), max_trials=2, directory=tmp_path)
    tuner.search(verbose=0)
    curves = tuner.results().curves
    tuner.close()
    assert len(curves) == 6
    assert tiny.searched(tiny.Formula(), max_trials=2, directory=tmp_path).results().curves == curves


def test_a_tuner_whose_project_was_started_anew_is_refused(tmp_path):
    old = counted(tmp_path, [])
    old.search(verbose=0)
    new = counted(tmp_path, [], overwrite=True)
    assert not new.oracle.trials
    for step in (functools.partial(old.search, verbose=0), old.reload):
        with pytest.raises(ProjectError, match="started anew") as caught:
            step()
        tiny.four_parts(caught.value)
    assert len(old.oracle.get_best_trials(9)) == 3  # reading is possible
    new.search(verbose=0)
    old.close()
    new.close()
    assert len(counted(tmp_path, []).oracle.get_best_trials(9)) == 3


def test_a_tuner_that_is_gone_in_the_middle_of_a_search_holds_nobody_up(tmp_path):
    def run_trial(trial):
        raise KeyboardInterrupt

    first = tiny.numbers(run_trial, objective="loss", max_trials=2, directory=tmp_path)
    before = threading.enumerate()
    first.oracle.book.begin_work("a search that nobody ends")
    [beats] = [thread for thread in threading.enumerate() if thread not in before]
    assert beats.name == "manyfit-heartbeat"
    first.close()
    beats.join(60)
    assert not beats.is_alive()
    calls = []
    counted(tmp_path, calls).search(verbose=0)
    assert len(calls) == 3


def test_a_closed_tuner_still_tells_what_it_found(tmp_path):
    tuner = counted(tmp_path, [])
    tuner.search(verbose=0)
    before = tuner.ended_by
    tuner.close()
    assert tuner.ended_by == before == "max_trials" and len(tuner.store.trials()) == 3


def test_a_closed_tuner_says_so(tmp_path):
    tuner = counted(tmp_path, [])
    tuner.close()
    with pytest.raises(ProjectError, match="was closed") as caught:
        tuner.search(verbose=0)
    tiny.four_parts(caught.value)


FORK = """
import os, sys
from manyfit.store import ProjectStore
store = ProjectStore(sys.argv[1])
child = os.fork()
if child == 0:
    try:
        store.put(fact=1)
    except RuntimeError as error:
        print(error, flush=True)
    store.close()
    del store
    os._exit(0)
os.waitpid(child, 0)
store.put(fact=2)
print(store.get("fact"), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_neither_writes_nor_gives_the_lock_back(tmp_path):
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert f"forked from process {process.pid}" in process.stdout.readline()
        assert process.stdout.readline() == "2\n"
        with pytest.raises(ProjectError, match=str(process.pid)):
            ProjectStore(tmp_path)
        process.stdin.close()


def test_confirmation_takes_the_project_too(tmp_path):
    store, second = ProjectStore(tmp_path), ProjectStore(tmp_path)
    store.begin_work("a confirmation")
    with pytest.raises(ProjectError, match="runs a confirmation"):
        second.put(fact=1)
    store.end_work()
    second.put(fact=1)
    store.close()
    second.close()
