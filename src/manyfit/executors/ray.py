"""Workers on a Ray cluster. The only file that imports ray, and of Ray it uses the core only: actors, objects and
placement groups.

Each worker is an actor that keeps its data and its compiled programs. The driver calls its one method, `exchange`, with
an answer, and gets the worker's next message: so nobody but the driver needs an address, and a dead worker is an error
of the call that waits for it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core.checks import whole_number, whole_number_or_none
from manyfit.core.errors import UsageError, explain
from manyfit.executors import memory
from manyfit.executors.base import Executor, Handle, MakeTrainer, WorkerPool
from manyfit.executors.dispatcher import Dispatcher
from manyfit.executors.messages import Answer, Hello, Lost, Message, OverMemory, Raised, Stop
from manyfit.executors.process import MAX_HELD_BYTES, share_of_device
from manyfit.executors.seats import WorkerRules
from manyfit.training.base import Trainer

try:
    import ray
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
except ImportError:  # said when an executor is made
    ray = None

_WHERE = "RayExecutor"
_NODE_DIED = "node has died"  # what Ray says of an actor whose machine went
_PROBE = "import sys, ray; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); ray.nodes()"
_STOP_SECONDS = 2.0  # that workers get to remove their files


class RayExecutor(Executor):
    """Trains on a Ray cluster: many machines, or this one.

    Oracle and store stay in this process. Workers may come and go while a search runs: a machine that joins gets
    workers, and what a dead worker or machine was training is trained by others. Data lie once per machine, in Ray's
    object store.

    Args:
        address: of a running cluster, "host:port" or "ray://host:port"; "auto" for the one that this machine belongs
            to; None starts Ray on this machine, or uses the one that `ray.init` has started.
        resources_per_worker: what one worker needs, by Ray's names: `{"CPU": 2, "GPU": 0.5, "memory": 4 * 2**30}`.
            A part of a GPU is shared with others; several GPUs are reserved together on one machine. "memory", in
            bytes, is also a cap: an execution that needs more ends as out of memory.
        max_workers: None for as many as the cluster has room for, now and later.
        timeout_seconds: how long the cluster may take to answer, and a first worker to start.
        recycle_after: a worker ends after so many executions, and another starts; None: as in `ProcessExecutor`.
        max_losses: an execution whose worker died so many times ends as failed. Lost machines do not count.
        **init: passed on to `ray.init`: `num_cpus`, `object_store_memory`, `runtime_env`, ...

    Raises:
        UsageError: Ray is not installed, or an argument is out of its range.

    Example: see docs/scale.md.
    """

    def __init__(
        self,
        address: str | None = None,
        resources_per_worker: Mapping[str, float] | None = None,
        *,
        max_workers: int | None = None,
        timeout_seconds: float = 60.0,
        recycle_after: int | None = None,
        max_losses: int = 4,
        **init: Any,
    ) -> None:
        if ray is None:
            raise UsageError(explain(_WHERE, "no Ray", "the package ray", "Type pip install manyfit[ray]."))
        self.address = address
        self.resources_per_worker = {"CPU": 1.0, **(resources_per_worker or {})}
        for name, amount in self.resources_per_worker.items():
            if isinstance(amount, bool) or not isinstance(amount, int | float) or amount < 0:
                raise UsageError(
                    explain(
                        f"{_WHERE}(resources_per_worker)", f"{name}={amount!r}", "numbers from 0", 'Type {"GPU": 1}.'
                    )
                )
        gpus = self.resources_per_worker.get("GPU", 0)
        if gpus > 1 and gpus != int(gpus):
            raise UsageError(
                explain(f"{_WHERE}(resources_per_worker)", f"GPU={gpus}", "a part of one GPU, or whole ones", "Type 2.")
            )
        self.max_workers = whole_number_or_none(f"{_WHERE}(max_workers)", max_workers, instead="Leave it out.")
        self.timeout_seconds = float(timeout_seconds)
        self.recycle_after = whole_number_or_none(f"{_WHERE}(recycle_after)", recycle_after, instead="Leave it out.")
        self.max_losses = whole_number(f"{_WHERE}(max_losses)", max_losses, instead="Type max_losses=1, say.")
        self.init = init
        self._started = False

    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """See `Executor`."""
        cap = self.resources_per_worker.get("memory")
        rules = WorkerRules(
            _WHERE,
            max_losses=self.max_losses,
            start_seconds=self.timeout_seconds,
            recycle_after=self.recycle_after,
            max_held_bytes=None if keeps_programs else MAX_HELD_BYTES,
            max_memory_bytes=None if cap is None else int(cap),
        )
        return Dispatcher(lambda: RayPool(self), make, rules=rules, folder=folder, notify=notify)

    def connect(self) -> None:
        """Connects to the cluster, or starts one; once per process.

        Raises:
            UsageError: nothing answers at the address, or another version of Ray or Python does.
        """
        if ray.is_initialized():
            return
        # Ray sends statistics of use by default; a library that starts it does not decide that for its users.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if self.address not in (None, "local"):
            self._probe(str(self.address))
        own = {} if self.address not in (None, "local") else {"include_dashboard": False}
        settings = {"log_to_driver": False, "logging_level": "ERROR", **own, **self.init}
        try:
            with warnings.catch_warnings():
                # Ray forks to start its programs, and each of them begins anew: JAX's threads are not missed there.
                warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
                ray.init(address=self.address, **settings)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise _unreachable(self.address, f"{type(error).__name__}: {error}") from error
        self._started = True

    def _probe(self, address: str) -> None:
        """Asks in a process of its own whether a cluster answers: `ray.init` may wait for minutes, and not be ended."""
        host, _, port = address.removeprefix("ray://").rpartition(":")
        if host and port.isdigit():
            try:
                socket.create_connection((host, int(port)), timeout=min(5.0, self.timeout_seconds)).close()
            except OSError as error:
                raise _unreachable(address, str(error)) from error
        with subprocess.Popen(
            [sys.executable, "-c", _PROBE, address], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as probe:
            try:
                _, said = probe.communicate(timeout=self.timeout_seconds)
            except subprocess.TimeoutExpired as error:
                probe.kill()
                raise _unreachable(address, f"no answer within {self.timeout_seconds:g} seconds") from error
        if probe.returncode:
            raise _unreachable(address, (said.strip().splitlines() or ["Ray refused"])[-1])

    def close(self) -> None:
        """Disconnects from Ray, and ends it where this executor has started it."""
        if self._started and ray.is_initialized():
            ray.shutdown()
        self._started = False


def _unreachable(address: str | None, why: str) -> UsageError:
    return UsageError(
        explain(
            f"{_WHERE}(address={address!r})",
            f"no cluster that can be used ({why})",
            'the address of a running cluster with the same versions of Ray and Python, "auto", or None',
            "Type `ray start --head` on the first machine and pass the address that it prints; or leave address out.",
        )
    )


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What an actor is told when it starts."""

    environment: Mapping[str, str]
    path: Sequence[str]
    max_memory_bytes: int | None


class _RayWorker:
    """The actor: a worker in a thread, and a method that hands messages out and answers in."""

    def __init__(self, settings: _Settings) -> None:
        # `setdefault`: what the owner of a machine has set for it wins.
        for name, value in settings.environment.items():
            os.environ.setdefault(name, value)
        sys.path += [path for path in settings.path if path not in sys.path]
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._max_memory_bytes = settings.max_memory_bytes

    def exchange(self, answer: Answer | None) -> Message:
        """Takes the answer to the last message, None at first, and returns the next message."""
        # In a thread: a method of an actor has to return its message while the trainer is within an epoch.
        if answer is None:
            threading.Thread(target=self._work, name="worker", daemon=True).start()
        else:
            self._answers.put(answer)
        return self._messages.get()

    def _work(self) -> None:
        # Not at the top of the module: the environment has to be set before Keras's backend looks.
        from manyfit.executors.worker import serve, versions

        def cap(max_bytes: int) -> None:
            memory.watch(max_bytes, lambda used: self._messages.put(OverMemory(used)))

        if self._max_memory_bytes:
            cap(self._max_memory_bytes)
        context = ray.get_runtime_context()
        hello = Hello(
            versions(),
            socket.gethostname(),
            os.getpid(),
            node=context.get_node_id(),
            devices=os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        )
        try:
            serve(self._exchange, hello, fetch=ray.get, folder=None, cap=cap)
            self._messages.put(Message())
        except BaseException as error:
            self._messages.put(Raised(RuntimeError(f"a worker failed: {type(error).__name__}: {error}")))

    def _exchange(self, message: Message) -> Answer:
        self._messages.put(message)
        return self._answers.get()


@dataclasses.dataclass
class _Actor:
    # Ray's objects, whose classes are not there where Ray is not installed.
    handle: Any
    group: Any  # its placement group, or None
    pending: Any  # the call that returns its next message; None while it waits for an answer
    node: str = ""


class RayPool(WorkerPool):
    """Actors of a cluster.

    Args:
        executor: how to reach the cluster, and what each worker needs.

    Raises:
        UsageError: see `RayExecutor.connect`.
    """

    def __init__(self, executor: RayExecutor) -> None:
        executor.connect()
        self._executor = executor
        self._actors: dict[str, _Actor] = {}
        self._count = 0
        self._had_room = False

    def capacity(self) -> int:
        """See `WorkerPool`."""
        needed = {name: amount for name, amount in self._executor.resources_per_worker.items() if amount > 0}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        # Amounts are floats: 0.3 / 0.1 is a hair less than 3.
        room = sum(
            min((int(node.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items()), default=1)
            for node in nodes
        )
        # Later no room only means that machines have left, and they may come back; at the start it is a mistake.
        if room == 0 and not self._had_room:
            most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in needed}
            raise UsageError(
                explain(
                    f"{_WHERE}(resources_per_worker={self._executor.resources_per_worker})",
                    f"more than any machine of the cluster has ({_shown(most)})",
                    "what fits on one machine",
                    "Ask for less, or add a machine that has it first.",
                )
            )
        self._had_room = True
        return room if self._executor.max_workers is None else min(room, self._executor.max_workers)

    def start(self) -> str:
        """See `WorkerPool`."""
        needed = dict(self._executor.resources_per_worker)
        # No restarts by Ray: a new actor would know nothing of the task, and wait for an answer that never comes.
        options: dict[str, Any] = {"max_restarts": 0, "scheduling_strategy": "SPREAD"}
        group = None
        if needed.get("GPU", 0) > 1:  # together, or not at all
            group = placement_group([needed], strategy="STRICT_PACK")
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(group, 0)
        gpus = needed.get("GPU", 0)
        options.update(num_cpus=needed.pop("CPU", 0), num_gpus=needed.pop("GPU", 0))
        if "memory" in needed:
            options["memory"] = int(needed.pop("memory"))
        settings = _Settings(
            {"KERAS_BACKEND": keras.backend.backend(), **(share_of_device(gpus) if 0 < gpus < 1 else {})},
            [path for path in sys.path if path],
            self._executor.resources_per_worker.get("memory"),  # type: ignore[arg-type]
        )
        handle = ray.remote(_RayWorker).options(**options, resources=needed).remote(settings)
        self._count += 1
        name = f"worker-{self._count}"
        self._actors[name] = _Actor(handle, group, handle.exchange.remote(None))
        return name

    def wait(self, timeout_seconds: float) -> Sequence[tuple[str, Message]]:
        """See `WorkerPool`."""
        names = {actor.pending: name for name, actor in self._actors.items() if actor.pending is not None}
        if not names:
            return []
        # One first, then whatever else is there: asked for all at once, Ray would wait for the slowest.
        ready, _ = ray.wait(list(names), num_returns=1, timeout=timeout_seconds)
        if ready and len(names) > 1:
            ready, _ = ray.wait(list(names), num_returns=len(names), timeout=0)
        return [(names[pending], self._read(names[pending])) for pending in ready]

    def _read(self, name: str) -> Message:
        actor = self._actors[name]
        try:
            message = ray.get(actor.pending)
        except ray.exceptions.RayError as error:
            text = str(error)
            lost_node = _NODE_DIED in text or any(
                node["NodeID"] == actor.node and not node["Alive"] for node in ray.nodes()
            )
            self.kill(name)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return Lost("its worker died: " + (" ".join(lines[:3]) or type(error).__name__), node_lost=lost_node)
        actor.pending = None
        if isinstance(message, Hello):
            actor.node = message.node
        if type(message) is Message:  # it has stopped, as it was told
            self.kill(name)
            return Lost("it was told to stop")
        return message

    def answer(self, worker: str, answer: Answer) -> None:
        """See `WorkerPool`."""
        actor = self._actors[worker]
        actor.pending = actor.handle.exchange.remote(answer)

    def kill(self, worker: str) -> None:
        """See `WorkerPool`."""
        actor = self._actors.pop(worker, None)
        if actor is None or not ray.is_initialized():
            return
        ray.kill(actor.handle, no_restart=True)
        if actor.group is not None:
            remove_placement_group(actor.group)

    def share(self, array: np.ndarray) -> Handle:
        """See `WorkerPool`. Ray copies an object to each machine that asks for it, once, and processes there map it."""
        return ray.put(array)

    def close(self) -> None:
        """See `WorkerPool`."""
        with contextlib.suppress(Exception):  # Ray may be gone already
            stopping = [actor.handle.exchange.remote(Stop()) for actor in self._actors.values() if not actor.pending]
            if stopping:
                ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_SECONDS)
        for name in list(self._actors):
            self.kill(name)


def _shown(amounts: Mapping[str, float]) -> str:
    return ", ".join(f"{name}: {amount:g}" for name, amount in sorted(amounts.items()))
