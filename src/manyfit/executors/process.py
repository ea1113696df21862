"""Workers in further processes of this machine."""

from __future__ import annotations

import dataclasses
import mmap
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import IO

import keras
import numpy as np

from manyfit.core.checks import whole_number, whole_number_or_none
from manyfit.core.errors import UsageError, explain
from manyfit.core.limits import held_bytes, readable
from manyfit.executors.base import Executor, Handle, MakeTrainer, WorkerPool
from manyfit.executors.dispatcher import Dispatcher
from manyfit.executors.messages import Answer, Hello, Lost, Message
from manyfit.executors.parcels import ArrayFile
from manyfit.executors.seats import WorkerRules
from manyfit.training.base import Trainer

_WHERE = "ProcessExecutor"
_START_SECONDS = 300.0  # one that dies is heard of at once, one that waits for a slow disk is not lost
MAX_HELD_BYTES = 512 << 20
_WORKER = "from manyfit.executors.process_worker import main; main()"


class ProcessExecutor(Executor):
    """Trains in further processes of this machine: for backends and estimators whose trials cannot be fused.

    Processes are started anew (spawned), so nothing of this process's threads or devices is in them, and scripts need
    no `if __name__ == "__main__"`. Each has its own cores, or its own device. A process that dies costs the execution
    that it was training, which is tried again.

    Args:
        workers: how many processes.
        devices: accelerators by number, as CUDA counts them; worker i gets number i, round and round. None: all that
            the environment names, else those that the driver sees.
        max_memory_bytes: what one process may use; an execution that needs more ends as out of memory. None: no cap.
        recycle_after: a process ends after so many executions, and another starts: 1 gives the system back
            everything that a trial has used, at the price of a start each time. None: what a trial has freed goes back
            after it, and a process ends that still holds more than 512 MiB beyond what it held before its first
            execution, or more than 128 MiB where a start is less than 2 % of its time.
        max_losses: an execution whose process died so many times ends as failed.

    Raises:
        UsageError: a number out of its range, a cap on memory that this system cannot watch, or a system without POSIX
            pipes.

    Example:

    >>> ProcessExecutor(workers=2, max_memory_bytes=4 << 30)
    ProcessExecutor(workers=2, max_memory_bytes=4.0 GiB)
    """

    def __init__(
        self,
        workers: int = 2,
        *,
        devices: Sequence[int] | None = None,
        max_memory_bytes: int | None = None,
        recycle_after: int | None = None,
        max_losses: int = 4,
    ) -> None:
        if os.name != "posix":
            raise UsageError(explain(_WHERE, sys.platform, "Linux or macOS", "Use kt.RayExecutor() here."))
        self.workers = whole_number(f"{_WHERE}(workers)", workers, instead="Type workers=1, say.")
        self.devices = None if devices is None else [int(device) for device in devices]
        self.max_memory_bytes = whole_number_or_none(
            f"{_WHERE}(max_memory_bytes)", max_memory_bytes, instead="Leave it out."
        )
        if self.max_memory_bytes is not None and not held_bytes():
            allowed = "a cap where the system tells what a process holds: Linux"
            where = f"{_WHERE}(max_memory_bytes)"
            raise UsageError(explain(where, f"a cap on {sys.platform}", allowed, "Leave it out."))
        self.recycle_after = whole_number_or_none(f"{_WHERE}(recycle_after)", recycle_after, instead="Leave it out.")
        self.max_losses = whole_number(f"{_WHERE}(max_losses)", max_losses, instead="Type max_losses=1, say.")

    def __repr__(self) -> str:
        cap = "" if self.max_memory_bytes is None else f", max_memory_bytes={readable(self.max_memory_bytes)}"
        return f"{_WHERE}(workers={self.workers}{cap})"

    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """See `Executor`."""
        rules = WorkerRules(
            _WHERE,
            max_losses=self.max_losses,
            recycle_after=self.recycle_after,
            start_seconds=_START_SECONDS,
            max_held_bytes=None if keeps_programs else MAX_HELD_BYTES,
            max_memory_bytes=self.max_memory_bytes,
        )
        return Dispatcher(lambda: ProcessPool(self), make, rules=rules, folder=folder, notify=notify)


@dataclasses.dataclass
class _Worker:
    slot: int
    process: subprocess.Popen[bytes]
    line: connection.Connection


class ProcessPool(WorkerPool):
    """Processes at the ends of pipes.

    Args:
        executor: how many, and what they may use.
    """

    def __init__(self, executor: ProcessExecutor) -> None:
        self._executor = executor
        self._workers: dict[str, _Worker] = {}
        self._count = 0
        self._arrays: list[IO[bytes]] = []  # open files: closing them frees the memory
        self._folder = tempfile.TemporaryDirectory(prefix="manyfit-workers-")  # of their files
        self._finalizer = weakref.finalize(self, _end_all, self._workers, self._arrays, self._folder)

    def capacity(self) -> int:
        """See `WorkerPool`."""
        return self._executor.workers

    def start(self) -> str:
        """See `WorkerPool`."""
        taken = {worker.slot for worker in self._workers.values()}
        slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)
        ours, theirs = connection.Pipe()
        self._count += 1
        name = f"worker-{self._count}"
        cap = self._executor.max_memory_bytes or 0
        arguments = [str(theirs.fileno()), str(os.getpid()), str(cap), os.path.join(self._folder.name, name)]
        process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, *arguments],
            env={**os.environ, **self._environment(slot)},
            pass_fds=[theirs.fileno()],  # spawned, not forked: JAX's threads do not survive a fork
            stdin=subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is the driver's: it ends its workers
        )
        theirs.close()
        self._workers[name] = _Worker(slot, process, ours)
        return name

    def _environment(self, slot: int) -> dict[str, str]:
        executor = self._executor
        environment = {
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "KERAS_BACKEND": keras.backend.backend(),
        }
        devices = _visible_devices() if executor.devices is None else [str(device) for device in executor.devices]
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
            sharing = -(-executor.workers // len(devices))
            if sharing > 1:
                environment.update(share_of_device(1 / sharing))
        cores = cores_of(slot, executor.workers)
        if cores:
            environment["MANYFIT_WORKER_CORES"] = ",".join(map(str, cores))
            environment.setdefault("OMP_NUM_THREADS", str(len(cores)))
        return environment

    def wait(self, timeout_seconds: float) -> Sequence[tuple[str, Message]]:
        """See `WorkerPool`."""
        names = {worker.line: name for name, worker in self._workers.items()}
        ready = connection.wait(list(names), timeout_seconds)
        return [(names[line], self._read(names[line])) for line in ready]  # type: ignore[index]

    def _read(self, name: str) -> Message:
        worker = self._workers[name]
        try:
            message = worker.line.recv()
            if isinstance(message, Hello):
                message.node = "here"
            return message
        except (EOFError, OSError):
            # The pipe ends before the process has; its exit status says why, and is worth a moment.
            code = worker.process.poll()
            if code is None:
                try:
                    code = worker.process.wait(timeout=5.0)
                except subprocess.TimeoutExpired:
                    code = None
            self.kill(name)
            return Lost(_how_it_ended(code))

    def answer(self, worker: str, answer: Answer) -> None:
        """See `WorkerPool`."""
        try:
            self._workers[worker].line.send(answer)
        except OSError:
            return  # it has died: the next `wait` reads the end of its pipe

    def kill(self, worker: str) -> None:
        """See `WorkerPool`."""
        gone = self._workers.pop(worker, None)
        if gone is not None:
            _end({worker: gone})

    def share(self, array: np.ndarray) -> Handle:
        """See `WorkerPool`. The array lies in memory of its own that all processes map, and that ends with them."""
        # A file in memory that every process maps, and not `multiprocessing.shared_memory`: that one outlives a killed
        # driver, and its tracker warns of segments that are still in use.
        size = array.nbytes
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("manyfit")
            path = f"/proc/{os.getpid()}/fd/{descriptor}"
            file: IO[bytes] = os.fdopen(descriptor, "r+b")
        else:
            file = tempfile.NamedTemporaryFile(prefix="manyfit-")  # noqa: SIM115
            path = file.name
        file.truncate(size)
        with mmap.mmap(file.fileno(), size) as memory:
            target: np.ndarray = np.ndarray(array.shape, array.dtype, buffer=memory)
            target[...] = array
            del target  # the map cannot be closed while it is in use
        self._arrays.append(file)
        return ArrayFile(path, array.dtype, array.shape)

    def close(self) -> None:
        """See `WorkerPool`."""
        self._finalizer()


def _end_all(workers: dict[str, _Worker], arrays: list[IO[bytes]], folder: tempfile.TemporaryDirectory[str]) -> None:
    _end(workers)
    for file in arrays:
        file.close()
    arrays.clear()
    folder.cleanup()


def _end(workers: dict[str, _Worker]) -> None:
    for worker in workers.values():
        worker.process.kill()
        worker.line.close()
    for worker in workers.values():
        worker.process.wait()
    workers.clear()


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "its process closed its pipe"
    if code < 0:
        hint = " (the system does that when memory runs out)" if code == -9 else ""
        return f"its process was killed by signal {-code}{hint}"
    return f"its process ended with exit status {code}"


def _visible_devices() -> list[str]:
    """Accelerators as CUDA names them: those of the environment, else those that the driver's backend sees."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() not in ("", "-1")]
    try:
        found = [str(device).lower() for device in keras.distribution.list_devices()]
    except (AttributeError, NotImplementedError, RuntimeError):  # a backend of Keras that cannot list them
        return []
    return [str(number) for number, name in enumerate(found) if name.startswith(("gpu", "cuda"))]


def share_of_device(share: float) -> Mapping[str, str]:
    """Environment of a process that may use a share of its accelerator's memory.

    JAX reserves three quarters of the memory that it finds, so two processes would collide without this.
    """
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 * share:.3f}", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}


def cores_of(slot: int, workers: int) -> list[int]:
    """The processor cores of a worker: an even part of ours; none (that is: no rule) where there are too few.

    Threads of several workers on the same core slow each other down by more than their share.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    cores = sorted(os.sched_getaffinity(0))
    if workers > len(cores):
        return []
    return cores[slot % workers :: workers]
