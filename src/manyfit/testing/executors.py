"""Conformance suite for executors, and an honest fake: a pool whose workers are threads.

For authors of a new pool: `check_executor(executor)` runs small searches of formulas on it and fails where the contract
of `manyfit.executors.base` does not hold. Nothing in it needs Keras models, so it takes seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import FatalValueError
from manyfit.core.limits import TrialLimits
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.executors.base import Executor, Handle, MakeTrainer, WorkerPool
from manyfit.executors.dispatcher import Dispatcher
from manyfit.executors.messages import Answer, Hello, Lost, Message, OverMemory, Raised, Stop
from manyfit.executors.seats import WorkerRules
from manyfit.executors.worker import serve, versions
from manyfit.store.layout import ProjectLayout
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Supply, Task, Trainer

NUM_EPOCHS = 4
_THREAD = "thread-worker"


def check_executor(executor: Executor) -> None:
    """Runs all checks on an executor with two workers or more, and the same workers where they live through it."""
    trainer = executor.trainer(make_scripted, notify=print, folder=Path("."), keeps_programs=False)
    for check in (
        check_results_equal_local_ones,
        check_decisions_are_obeyed,
        check_pauses_continue,
        check_a_killed_worker_loses_nothing,
        check_a_deadly_execution_ends_as_failed,
        check_a_hanging_execution_ends_as_too_slow,
        check_files_arrive,
        check_fatal_errors_come_back,
    ):
        check(trainer)
    trainer.close()


def check_results_equal_local_ones(trainer: Trainer) -> None:
    """Whatever trains where: the same curves, each execution once, arrays unchanged."""
    found, local = _trained(trainer, plans(10)), ListSupply(plans(10))
    Scripted(1).train(local, _task())
    assert sorted(found.results) == sorted(local.results)
    for key, result in found.results.items():
        assert result.history == local.results[key].history, key
        assert result.ending is Ending.COMPLETED
    assert sorted((plan.key, epoch) for plan, epoch, _ in found.reports) == _all_epochs(10)


def check_decisions_are_obeyed(trainer: Trainer) -> None:
    """An execution that is told to stop stops, and no other."""
    found = _trained(
        trainer, plans(4), decide=lambda plan, epoch, logs: Decision.STOP if plan.trial_id == "1" else Decision.GO_ON
    )
    lengths = {key: len(result.history["loss"]) for key, result in found.results.items()}
    assert lengths == {("0", 0): 4, ("1", 0): 1, ("2", 0): 4, ("3", 0): 4}
    assert found.results["1", 0].ending is Ending.STOPPED


def check_pauses_continue(trainer: Trainer) -> None:
    """A paused execution goes on where its state is, and reports no epoch twice."""

    class Pausing(ListSupply):
        def finish(self, result: Result) -> None:
            super().finish(result)
            if result.ending is Ending.PAUSED:
                self.put(dataclasses.replace(result.plan, first_epoch=2))

    found = Pausing(
        plans(4),
        decide=lambda plan, epoch, logs: Decision.PAUSE if epoch == 1 and not plan.first_epoch else Decision.GO_ON,
    )
    trainer.train(found, _task())
    assert sorted((plan.key, epoch) for plan, epoch, _ in found.reports) == _all_epochs(4)
    assert all(result.ending is Ending.COMPLETED for result in found.results.values())
    continued = [result.measures["epochs_trained"] for result in found.results.values()]
    assert 2 in continued, f"no execution continued where its state was: {continued}"


def check_a_killed_worker_loses_nothing(trainer: Trainer) -> None:
    """A worker that dies in the middle of an epoch: its execution is trained again, nothing is counted twice."""
    with tempfile.TemporaryDirectory() as folder:
        deadly = dataclasses.replace(plans(3)[2], values={"a": 0.5, "kills": 1, "folder": folder})
        found = _trained(trainer, [*plans(2), deadly, *plans(6)[3:]])
    assert sorted((plan.key, epoch) for plan, epoch, _ in found.reports) == _all_epochs(6)
    assert {result.ending for result in found.results.values()} == {Ending.COMPLETED}


def check_a_deadly_execution_ends_as_failed(trainer: Trainer) -> None:
    """An execution whose workers keep dying ends with the reason, and the others do not suffer."""
    with tempfile.TemporaryDirectory() as folder:
        deadly = dataclasses.replace(plans(1)[0], values={"a": 0.5, "kills": 100, "folder": folder})
        found = _trained(trainer, [deadly, *plans(4)[1:]])
        assert 2 <= len(list(Path(folder).iterdir())) <= 8
    endings = {key: result.ending for key, result in found.results.items()}
    assert endings == {("0", 0): Ending.FAILED, **{(str(number), 0): Ending.COMPLETED for number in (1, 2, 3)}}
    assert "it lost" in str(found.results["0", 0].message)


def check_a_hanging_execution_ends_as_too_slow(trainer: Trainer) -> None:
    """An execution that does not come back ends with its limit, and those beside it go on."""
    hanging = dataclasses.replace(plans(1)[0], values={"a": 0.5, "hangs": True})
    found = ListSupply([hanging, *plans(4)[1:]])
    trainer.train(found, dataclasses.replace(_task(), limits=TrialLimits(max_seconds=0.5)))
    endings = {key: result.ending for key, result in found.results.items()}
    assert endings == {("0", 0): Ending.TOO_SLOW, **{(str(number), 0): Ending.COMPLETED for number in (1, 2, 3)}}
    assert "max_seconds_per_trial=0.5" in str(found.results["0", 0].message)
    assert sorted((plan.key, epoch) for plan, epoch, _ in found.reports if plan.trial_id != "0") == [
        ((trial, 0), epoch) for trial in "123" for epoch in range(NUM_EPOCHS)
    ]


def check_files_arrive(trainer: Trainer) -> None:
    """Weights lie where the plan says when the supply hears of the result."""
    with tempfile.TemporaryDirectory() as folder:
        path = ProjectLayout.of(folder).weights("0", 0)
        seen = []

        class Watching(ListSupply):
            def finish(self, result: Result) -> None:
                super().finish(result)
                seen.append(path.read_text(encoding="ascii"))
                assert result.plan.weights_path == str(path)

        trainer.train(Watching([dataclasses.replace(plans(1)[0], weights_path=str(path))]), _task())
        assert seen == ["weights of 0"]


def check_fatal_errors_come_back(trainer: Trainer) -> None:
    """A `FatalError` of the user's ends the search, and is the same error here."""
    fatal = dataclasses.replace(plans(1)[0], values={"a": 0.5, "fatal": True})
    try:
        _trained(trainer, [fatal])
    except FatalValueError as error:
        assert str(error) == "the user's word"
    else:
        raise AssertionError("a FatalError of a worker was lost")


def plans(count: int) -> list[Plan]:
    """Executions of a formula."""
    return [Plan(str(number), 0, {"a": number / 7}, seed=number) for number in range(count)]


def _all_epochs(count: int) -> list[tuple[tuple[str, int], int]]:
    return sorted(((str(number), 0), epoch) for number in range(count) for epoch in range(NUM_EPOCHS))


def _task() -> Task:
    return Task(build=len, call=Call((np.arange(40_000, dtype=np.float64),)))


def _trained(trainer: Trainer, work: Sequence[Plan], **arguments: Any) -> ListSupply:
    supply = ListSupply(work, **arguments)
    trainer.train(supply, _task())
    return supply


def make_scripted(notify: Callable[[str], None]) -> Trainer:
    """Makes a `Scripted` in a worker."""
    del notify
    return Scripted(2)


class Scripted(Trainer):
    """Trains formulas, as the plan's values say: `a` moves the curve, `kills`, `hangs` and `fatal` are what they say.

    Args:
        members: executions that train side by side.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self._paused: dict[tuple[str, int], dict[str, list[float | None]]] = {}

    def train(self, supply: Supply, task: Task) -> None:
        """See `Trainer`."""
        [rows] = task.call.args
        total = float(rows.sum())
        while taken := supply.take(self.members):
            active = {plan.key: (plan, self._paused.pop(plan.key, {"loss": []})) for plan in taken}
            begun = {key: len(history["loss"]) for key, (_, history) in active.items()}
            while active:
                self._epoch(supply, active, begun, total)

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """See `Trainer`."""
        for key in keys:
            self._paused.pop(key, None)

    def _epoch(self, supply: Supply, active: dict[Any, Any], begun: Mapping[Any, int], total: float) -> None:
        """An epoch of all members, as a population has it: one report, an answer each, results of those that end.

        No model is trained: a loss falls by a formula, so that what an executor loses, repeats or mixes up shows as
        another number. Values of the plan have the process die, or the search end, in the middle of it.
        """
        reports = []
        for plan, history in active.values():
            if plan.values.get("fatal"):
                raise FatalValueError("the user's word")
            epoch = len(history["loss"])
            if plan.values.get("hangs"):
                time.sleep(3600.0)
            if epoch == 1:
                _maybe_die(plan)
            history["loss"].append(plan.values["a"] + 1 / (epoch + 1) + total * 1e-9)
            if epoch >= plan.first_epoch:
                reports.append((plan, epoch, {"loss": history["loss"][-1]}))
        answers = zip(reports, supply.report(reports) if reports else [], strict=True)
        decisions = {plan.key: decision for (plan, _, _), decision in answers}
        for key, (plan, history) in list(active.items()):
            decision = decisions.get(key, Decision.GO_ON)
            if decision is Decision.GO_ON and len(history["loss"]) < NUM_EPOCHS:
                continue
            endings = {Decision.PAUSE: Ending.PAUSED, Decision.STOP: Ending.STOPPED}
            ending = endings.get(decision, Ending.COMPLETED)
            if ending is Ending.PAUSED:
                self._paused[key] = history
            if plan.weights_path is not None:
                path = Path(plan.weights_path)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"weights of {plan.trial_id}", encoding="ascii")
            trained = len(history["loss"]) - begun[key]
            copied = {name: list(curve) for name, curve in history.items()}
            del active[key]
            supply.finish(Result(plan, ending, copied, measures={"epochs_trained": trained}))


def _maybe_die(plan: Plan) -> None:
    """Ends this worker as the system would, as often as the plan says."""
    assert isinstance(plan.values, dict)  # as `plans` makes them
    for number in range(plan.values.get("kills", 0)):
        mark = Path(plan.values["folder"]) / f"killed-{number}"
        if not mark.exists():
            mark.touch()
            if threading.current_thread().name.startswith(_THREAD):
                raise _Died
            os.kill(os.getpid(), signal.SIGKILL)


class _Died(BaseException):
    """A thread cannot be killed; this comes as near as it can."""


class ThreadExecutor(Executor):
    """An executor whose workers are threads: the whole protocol without a second process.

    Args:
        workers: how many.
        versions: what workers say of their versions; None: the truth.
        **rules: of `manyfit.executors.seats.WorkerRules`.
    """

    def __init__(self, workers: int = 2, *, versions: Mapping[str, str] | None = None, **rules: Any) -> None:
        self.workers, self.versions = workers, versions
        self.rules = WorkerRules("ThreadExecutor", **rules)
        self.pools: list[ThreadPool] = []

    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """See `Executor`."""
        del keeps_programs

        def make_pool() -> WorkerPool:
            self.pools.append(ThreadPool(self))
            return self.pools[-1]

        return Dispatcher(make_pool, make, rules=self.rules, folder=folder, notify=notify)


def _as_it_is(handle: Handle) -> np.ndarray:
    """Threads share memory, so an array is where it always was."""
    assert isinstance(handle, np.ndarray)
    return handle


class ThreadPool(WorkerPool):
    """Workers that are threads of this process.

    Args:
        executor: how many.
    """

    def __init__(self, executor: ThreadExecutor) -> None:
        self.executor = executor
        self.answers: dict[str, queue.SimpleQueue[Answer]] = {}
        self.messages: queue.SimpleQueue[tuple[str, Message]] = queue.SimpleQueue()
        self.num_started = 0
        self.num_shared = 0

    def capacity(self) -> int:
        """See `WorkerPool`."""
        return self.executor.workers

    def start(self) -> str:
        """See `WorkerPool`."""
        name = f"{_THREAD}-{self.num_started}"
        self.num_started += 1
        self.answers[name] = queue.SimpleQueue()
        threading.Thread(target=self._work, args=(name, self.answers[name]), name=name, daemon=True).start()
        return name

    def _work(self, name: str, answers: queue.SimpleQueue[Answer]) -> None:
        def exchange(message: Message) -> Answer:
            self.messages.put((name, message))
            return answers.get()

        hello = Hello(self.executor.versions or versions(), "here", os.getpid())
        try:
            serve(exchange, hello, fetch=_as_it_is, folder=None)
            self.messages.put((name, Lost("it was told to stop")))
        except _Died:
            self.messages.put((name, Lost("it died")))
        except BaseException as error:
            self.messages.put((name, Raised(error)))

    def wait(self, timeout_seconds: float) -> Sequence[tuple[str, Message]]:
        """See `WorkerPool`."""
        with contextlib.suppress(queue.Empty):
            name, message = self.messages.get(timeout=timeout_seconds)
            return [(name, message)] if name in self.answers else []
        return []

    def answer(self, worker: str, answer: Answer) -> None:
        """See `WorkerPool`."""
        self.answers[worker].put(answer)

    def kill(self, worker: str) -> None:
        """See `WorkerPool`."""
        answers = self.answers.pop(worker, None)
        if answers is not None:
            answers.put(Stop())

    def share(self, array: np.ndarray) -> Handle:
        """See `WorkerPool`."""
        self.num_shared += 1
        return array

    def close(self) -> None:
        """See `WorkerPool`."""
        for worker in list(self.answers):
            self.kill(worker)

    def exceed_memory(self, worker: str, used_bytes: int) -> None:
        """Has a worker use too much memory, at any time."""
        self.messages.put((worker, OverMemory(used_bytes)))
