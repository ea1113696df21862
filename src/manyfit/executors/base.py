"""The contract of executors: where executions run.

An `Executor` is a choice of the user's, with its limits. It makes trainers, so a tuner that has one trains through the
contract that it knows (`training/base.py`). Executors with workers share one driver (`dispatcher.py`) and one worker
(`worker.py`), and differ in their `WorkerPool` only: how workers are started, heard, answered and ended.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from manyfit.core.signatures import checked_arguments
from manyfit.executors.messages import Answer, Message
from manyfit.training.base import Trainer

Handle = object
"""Where an array lies, in the words of one pool: its workers know how to fetch it, and nobody else looks inside."""

MakeTrainer = Callable[[Callable[[str], None]], Trainer]
"""Makes a trainer, given what takes one line of text for the user. Has to be picklable."""


class Executor(abc.ABC):
    """Where executions run. Pass one as `executor=` to any tuner."""

    @abc.abstractmethod
    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """A trainer whose executions run here.

        Args:
            make: makes the trainer that a worker uses.
            notify: takes one line of text for the user.
            folder: of the project. What workers write there is written by the driver.
            keeps_programs: whether that trainer profits from staying in one process: a population's compiled
                programs.
        """

    def close(self) -> None:  # noqa: B027  # most have nothing to end
        """Ends what was started for this executor, a cluster of its own included."""


class LocalExecutor(Executor):
    """Trains in this process: what a tuner without `executor=` does."""

    @checked_arguments()
    def __init__(self) -> None:
        super().__init__()

    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """See `Executor`."""
        del folder, keeps_programs
        return make(notify)


class WorkerPool(abc.ABC):
    """Workers of one trainer. Each has a name that is never given twice.

    A worker's first message is `Hello`; `Lost` is its last, once. Between a message and its answer it waits.
    """

    @abc.abstractmethod
    def capacity(self) -> int:
        """Workers that there may be now. It grows and shrinks with the cluster.

        Raises:
            UsageError: there can be none, and why.
        """

    @abc.abstractmethod
    def start(self) -> str:
        """Starts one more worker and returns its name at once; it may take its time until `Hello`."""

    @abc.abstractmethod
    def wait(self, timeout_seconds: float) -> Sequence[tuple[str, Message]]:
        """What workers have said since, in order of arrival; waits up to `timeout_seconds` for a first message."""

    # That a worker died is told in one way only, `Lost` from `wait`: else two places of the driver would take back
    # what it held, and race for it.
    @abc.abstractmethod
    def answer(self, worker: str, answer: Answer) -> None:
        """Answers a worker's message. Never fails: that the worker has died meanwhile is heard from `wait`."""

    @abc.abstractmethod
    def kill(self, worker: str) -> None:
        """Ends a worker at once, whatever it does. Nothing more is heard of it, `Lost` included."""

    @abc.abstractmethod
    def share(self, array: np.ndarray) -> Handle:
        """Puts an array where every worker can read it without a copy of its own, once per machine.

        Returns:
            What a worker needs to find it; see `manyfit.executors.parcels.open_array`.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Ends all workers and frees shared arrays. May be called twice."""
