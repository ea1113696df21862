"""The driver's side, told word by word what its workers say: orders of events that threads rarely meet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from manyfit.core.records import Ending, Result
from manyfit.data.call import Call
from manyfit.executors.base import WorkerPool
from manyfit.executors.dispatcher import Dispatcher
from manyfit.executors.messages import Finished, Forget, Hello, Idle, Take, Want
from manyfit.executors.seats import WorkerRules
from manyfit.executors.worker import versions
from manyfit.testing.executors import make_scripted, plans
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task


class ScriptedPool(WorkerPool):
    """Workers who say what stands in a list, and whose answers are written down.

    Args:
        script: (worker, message), in the order in which they are heard.
        names: of the workers.
    """

    def __init__(self, script, names):
        self.script, self.names = list(script), list(names)
        self.answers = []
        self._unstarted = list(names)

    def capacity(self):
        return len(self.names)

    def start(self):
        return self._unstarted.pop(0)

    def wait(self, timeout_seconds):
        return [self.script.pop(0)]

    def answer(self, worker, answer):
        self.answers.append((worker, answer))

    def kill(self, worker):
        raise AssertionError("nobody is to be ended here")

    def share(self, array):
        return array

    def close(self):
        pass


class Pausing(ListSupply):
    """Puts what was paused at the end of its list again."""

    def finish(self, result):
        super().finish(result)
        if result.ending is Ending.PAUSED:
            self.put(dataclasses.replace(result.plan, first_epoch=1))


def test_a_worker_forgets_what_it_has_paused_and_another_has_trained_again():
    first, second, third = plans(3)
    hello = Hello(versions(), "here", 1)
    curve = {"loss": [1.0, 0.5]}
    pool = ScriptedPool(
        [
            ("a", hello),
            ("a", Want(1)),
            ("a", Want(1)),
            ("b", hello),
            ("b", Want(1)),
            ("b", Finished(Result(third, Ending.COMPLETED, curve))),
            ("a", Finished(Result(first, Ending.PAUSED, {"loss": [1.0]}))),
            ("a", Finished(Result(second, Ending.PAUSED, {"loss": [1.0]}))),
            ("b", Want(2)),  # "a" has not asked again: one continuation waits for it, for the second that is too long
            ("b", Finished(Result(second, Ending.COMPLETED, curve))),
            ("a", Want(1)),
            ("a", Finished(Result(first, Ending.COMPLETED, curve))),
            ("b", Want(1)),
            ("a", Want(1)),
            ("a", Idle()),
            ("b", Idle()),
            # the next task
            ("a", Idle()),  # it has forgotten
            ("b", Want(1)),
            ("b", Finished(Result(first, Ending.COMPLETED, curve))),
            ("b", Want(1)),
            ("b", Idle()),
        ],
        ["a", "b"],
    )
    trainer = Dispatcher(lambda: pool, make_scripted, rules=WorkerRules("Scripted"), folder=Path(), notify=print)
    task = Task(call=Call((np.arange(4.0),)), build=len)
    trainer.train(Pausing([first, second, third]), task)
    given = [
        (worker, plan.trial_id) for worker, answer in pool.answers if isinstance(answer, Take) for plan in answer.plans
    ]
    assert given == [("a", "0"), ("a", "1"), ("b", "2"), ("b", "1"), ("a", "0")]
    del pool.answers[:]
    trainer.train(ListSupply([first]), task)
    assert pool.answers[0] == ("a", Forget([second.key]))
