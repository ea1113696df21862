"""The program of a worker process of `ProcessExecutor`."""

from __future__ import annotations

import os
import socket
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn


def main() -> None:
    """Works for the process that started this one; its arguments: a pipe, that process, a cap, a folder."""
    descriptor, driver, max_bytes = (int(argument) for argument in sys.argv[1:4])
    line = Connection(descriptor)
    # Before anything is imported: thread pools are made as large as the cores that are there at that moment.
    cores = os.environ.pop("MANYFIT_WORKER_CORES", "")
    if cores:
        os.sched_setaffinity(0, [int(core) for core in cores.split(",")])
    _end_with(driver)
    _work(line, max_bytes, Path(sys.argv[4]))


def _work(line: Connection, max_bytes: int, folder: Path) -> None:
    # Not at the top: which cores and devices there are has to be settled before Keras's backend looks.
    from manyfit.executors import memory
    from manyfit.executors.messages import Answer, Hello, Message, OverMemory
    from manyfit.executors.worker import serve, versions

    speaking = threading.Lock()

    def exchange(message: Message) -> Answer:
        with speaking:
            line.send(message)
        return line.recv()

    def over(used_bytes: int) -> None:
        with speaking:
            line.send(OverMemory(used_bytes))

    def cap(max_bytes: int) -> None:
        memory.watch(max_bytes, over)

    if max_bytes:
        cap(max_bytes)
    hello = Hello(versions(), socket.gethostname(), os.getpid(), devices=os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
    try:
        serve(exchange, hello, fetch=_nothing_to_fetch, folder=folder, cap=cap)
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(0)  # the driver is gone, or ends us
    # Not through the interpreter's end: threads of paused executions would keep it waiting.
    sys.stdout.flush()
    os._exit(0)


def _end_with(driver: int) -> None:
    """Ends this process when the driver is gone, even in the middle of an epoch."""

    def look() -> None:
        pause = threading.Event()
        while os.getppid() == driver:
            pause.wait(0.5)
        os._exit(0)

    threading.Thread(target=look, name="driver-watch", daemon=True).start()


def _nothing_to_fetch(handle: object) -> NoReturn:
    raise TypeError(f"arrays of this pool are files, not {handle!r}")
