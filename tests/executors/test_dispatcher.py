"""The driver's side, with threads for workers: sharing out, versions, memory, recycling, what cannot be sent."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import numpy as np
import pytest
import remote_work
import tiny

from manyfit.core.errors import SearchError, UsageError
from manyfit.core.records import Ending
from manyfit.data.call import Call
from manyfit.executors.messages import Lost, OverMemory
from manyfit.executors.worker import versions
from manyfit.testing.executors import ThreadExecutor, ThreadPool, make_scripted, plans
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task

X = np.arange(40_000, dtype=np.float64)


def trainer_of(executor, lines=None):
    return executor.trainer(
        make_scripted, notify=(lines if lines is not None else []).append, folder=Path("."), keeps_programs=False
    )


def train(trainer, supply, task=None):
    trainer.train(supply, task or Task(call=Call((X,)), build=len))
    return supply


def test_arrays_are_put_once_for_all_tasks_and_workers():
    executor = ThreadExecutor(2)
    trainer = trainer_of(executor)
    for _ in range(3):
        train(trainer, ListSupply(plans(4)))
    [pool] = executor.pools
    assert (pool.num_shared, pool.num_started) == (1, 2)
    trainer.close()


def test_an_array_that_no_task_uses_any_more_is_put_again():
    executor = ThreadExecutor(1)
    trainer = trainer_of(executor)
    for array in (X, X + 1, X + 1, X):
        train(trainer, ListSupply(plans(1)), Task(call=Call((array,)), build=len))
    assert executor.pools[0].num_shared == 4
    trainer.close()


def test_no_worker_hoards_what_is_left():
    class Remaining(ListSupply):
        @property
        def remaining(self):
            return len(self._waiting)

    taken = []

    class Counting(Remaining):
        def take(self, count):
            taken.append((count, self.remaining))
            return super().take(count)

    trainer = trainer_of(ThreadExecutor(4))
    train(trainer, Counting(plans(4)))
    trainer.close()
    assert max(count for count, _ in taken) == 1  # members=2 were wanted, but there is one for each of four workers


def test_a_worker_of_another_version_is_not_used_and_the_message_says_which():
    lines: list[str] = []
    trainer = trainer_of(ThreadExecutor(2, versions={**versions(), "Keras": "2.0"}), lines)
    with pytest.raises(UsageError) as caught:
        train(trainer, ListSupply(plans(2)))
    tiny.four_parts(caught.value)
    assert f"Keras 2.0 there, {versions()['Keras']} here" in str(caught.value)
    assert any("Keras 2.0 there" in line for line in lines)


def test_workers_that_do_not_start_end_the_search_with_the_reason(monkeypatch):
    monkeypatch.setattr(ThreadPool, "_work", lambda self, name, answers: self.messages.put((name, Lost("no luck"))))
    with pytest.raises(SearchError, match=r"3 workers did not start\. no luck"):
        train(trainer_of(ThreadExecutor(2)), ListSupply(plans(2)))


def test_a_first_worker_that_takes_too_long_ends_the_search(monkeypatch):
    monkeypatch.setattr(ThreadPool, "_work", lambda self, name, answers: None)
    with pytest.raises(SearchError, match=r"no worker has started within 0\.5 seconds"):
        train(trainer_of(ThreadExecutor(1, start_seconds=0.5)), ListSupply(plans(1)))


def test_a_cap_below_what_a_worker_needs_ends_the_search_with_the_reason(monkeypatch):
    monkeypatch.setattr(ThreadPool, "_work", lambda self, name, answers: self.messages.put((name, OverMemory(3 << 30))))
    with pytest.raises(SearchError, match=r"uses 3\.0 GiB before it trains anything, and the cap is 1\.0 GiB"):
        train(trainer_of(ThreadExecutor(2, max_memory_bytes=2**30)), ListSupply(plans(2)))


def test_an_execution_that_uses_too_much_memory_ends_as_out_of_memory():
    executor = ThreadExecutor(1, max_memory_bytes=2**30)
    trainer = trainer_of(executor)

    class Greedy(ListSupply):
        def report(self, epochs):
            [pool] = executor.pools
            if epochs[0][0].trial_id == "0":
                pool.exceed_memory(threading_name(pool), 3 * 2**30)
            return super().report(epochs)

    def threading_name(pool):
        [name] = pool.answers
        return name

    class OneByOne(Greedy):
        remaining = 0  # so that a worker holds one execution at a time

    supply = train(trainer, OneByOne(plans(3)))
    trainer.close()
    result = supply.results["0", 0]
    assert result.ending is Ending.OUT_OF_MEMORY
    assert "used 3.0 GiB; the cap is 1.0 GiB" in str(result.message)
    assert {supply.results[key].ending for key in (("1", 0), ("2", 0))} == {Ending.COMPLETED}


def test_a_worker_is_replaced_after_its_share():
    executor = ThreadExecutor(1, recycle_after=2)
    trainer = trainer_of(executor)

    class OneByOne(ListSupply):
        remaining = 0

    supply = train(trainer, OneByOne(plans(6)))
    trainer.close()
    assert len(supply.results) == 6
    assert executor.pools[0].num_started == 3


def test_a_lost_machine_is_not_the_fault_of_what_it_trained():
    executor = ThreadExecutor(1, max_losses=1)
    trainer = trainer_of(executor)
    losses = []

    class Unlucky(ListSupply):
        def report(self, epochs):
            if len(losses) < 5 and epochs[0][1] >= 1:
                losses.append(1)
                [pool] = executor.pools
                [name] = pool.answers
                pool.messages.put((name, Lost("a machine went", node_lost=True)))
            return super().report(epochs)

    supply = train(trainer, Unlucky(plans(2)))
    trainer.close()
    assert len(losses) == 5
    assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}


@pytest.mark.parametrize("name", ["build", "callback", "data"])
def test_what_cannot_be_sent_is_named(name):
    guard = threading.Lock()

    def build_model(hp):
        return guard

    def callback():
        return 1

    callback.held = guard
    task = {
        "build": Task(build=build_model),
        "callback": Task(call=Call(kwargs={"callbacks": [Holding(guard)]}), build=len),
        "data": Task(call=Call(row for row in X), build=len),
    }[name]
    if name == "data":
        task = dataclasses.replace(task, call=Call(((row for row in X),)))
    named = {
        "build": r"the function .*build_model > its variable guard, a lock",
        "callback": r"Holding\.guard, a lock",
        "data": "a generator",
    }[name]
    trainer = trainer_of(ThreadExecutor(1))
    with pytest.raises(UsageError, match=named) as caught:
        train(trainer, ListSupply(plans(1)), task)
    tiny.four_parts(caught.value)


def test_a_search_of_a_run_trial_of_one_s_own_goes_on(project):
    executor = ThreadExecutor(1)
    arguments = {"objective": "loss", "hyperparameters": remote_work.space(), "seed": 0}
    tuner = remote_work.Numbers(max_trials=3, executor=executor, **arguments, **project)
    for max_trials in (3, 5):
        tuner.oracle.max_trials = max_trials
        tuner.search(verbose=0)
    here = remote_work.Numbers(max_trials=5, directory=project["directory"], project_name="here", **arguments)
    here.search(verbose=0)
    assert tiny.scores(tuner) == tiny.scores(here)
    assert executor.pools[0].num_started == 1
    tuner.close()


class Holding:
    """Holds something that cannot be pickled."""

    def __init__(self, guard):
        self.guard = guard
