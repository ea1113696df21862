"""The worker's side: trains what the driver hands out, through the trainer that would run in one process.

The trainer pulls from a `RemoteSupply`, which asks the driver. The trainer stays from task to task, and arrays that
tasks share are the same objects, so a population keeps its compiled programs from the search to its confirmation.
"""

from __future__ import annotations

import dataclasses
import pickle
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from manyfit.core.errors import SearchError
from manyfit.core.lifecycle import stand_in
from manyfit.core.records import Decision, Plan, Result
from manyfit.executors import memory
from manyfit.executors.base import Handle
from manyfit.executors.messages import (
    Answer,
    Begin,
    Decide,
    Finished,
    Forget,
    Hello,
    Idle,
    Message,
    Raised,
    Report,
    Stop,
    Take,
    Want,
    Work,
)
from manyfit.executors.parcels import ArrayFile, Mirror, open_array, unpack
from manyfit.training.base import Task, Trainer
from manyfit.training.keras_fit import KerasFit
from manyfit.training.program_report import Programs

Exchange = Callable[[Message], Answer]
"""Says something to the driver and returns its answer."""


# What driver and worker have to agree on ----------------------------------------------------------------------


def versions() -> dict[str, str]:
    """Versions that have to be the same everywhere, by name."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "Manyfit": sys.modules["manyfit"].__version__,  # not imported: the package stands above its parts
        "Keras": keras.__version__,
        "Keras's backend": keras.backend.backend(),
        "Python": python,
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs, for people; empty where everything agrees.

    Example:

    >>> differences({"Keras": "3.15.1", "Python": "3.11"}, {"Keras": "3.14.0", "Python": "3.11"})
    'Keras 3.14.0 there, 3.15.1 here'
    """
    return "; ".join(
        f"{name} {theirs.get(name, 'missing')} there, {version} here"
        for name, version in ours.items()
        if theirs.get(name) != version
    )


@dataclasses.dataclass(frozen=True)
class KerasGlobals:
    """Settings of Keras that are global in the driver, and have to be the same in a worker."""

    floatx: str
    image_data_format: str
    dtype_policy: object  # as Keras serialises it

    @classmethod
    def of_this_process(cls) -> KerasGlobals:
        """What is set here."""
        # Serialised: a policy of the user's own class has to be registered with Keras, which then finds it over there.
        policy = keras.saving.serialize_keras_object(keras.config.dtype_policy())
        return cls(keras.config.floatx(), keras.config.image_data_format(), policy)

    def apply(self) -> None:
        """Sets it here."""
        keras.config.set_floatx(self.floatx)
        keras.config.set_image_data_format(self.image_data_format)
        keras.config.set_dtype_policy(keras.saving.deserialize_keras_object(self.dtype_policy))


# Working ------------------------------------------------------------------------------------------------------


def serve(
    exchange: Exchange,
    hello: Hello,
    *,
    fetch: Callable[[Handle], np.ndarray],
    folder: Path | None,
    cap: Callable[[int], None] = lambda most: None,
) -> None:
    """Works until the driver says stop.

    Args:
        exchange: talks to the driver.
        hello: what to say first.
        fetch: brings an array here, given what `WorkerPool.share` returned.
        folder: where files lie until they are sent; None: a temporary one.
        cap: is told how many bytes this process may hold while it trains, once it is known.
    """
    mirror = Mirror(Path(tempfile.mkdtemp(prefix="manyfit-worker-")) if folder is None else folder)
    worker = _Worker(exchange, fetch, mirror, cap)
    try:
        answer = exchange(hello)
        while not isinstance(answer, Stop):
            try:
                worker.obey(answer)
                message: Message = Idle(programs=worker.programs(), lines=worker.supply.lines_since())
            except Exception as error:
                message = Raised(_portable(error), lines=worker.supply.lines_since())
            answer = exchange(message)
    finally:
        mirror.remove()


class _Worker:
    def __init__(
        self,
        exchange: Exchange,
        fetch: Callable[[Handle], np.ndarray],
        mirror: Mirror,
        cap: Callable[[int], None],
    ) -> None:
        self._fetch, self._cap = fetch, cap
        self._capped: int | None = None
        self._mirror = mirror
        self._arrays: dict[str, np.ndarray] = {}
        self._trainer: Trainer | None = None
        self.supply = RemoteSupply(exchange, mirror)

    def obey(self, answer: Answer) -> None:
        """Does what the driver said."""
        if isinstance(answer, Begin):
            self._train(answer.work)
        elif isinstance(answer, Forget) and self._trainer is not None:
            self._trainer.forget(answer.keys)

    def _train(self, work: Work) -> None:
        # Arrays that the last task had as well stay the same objects: programs were compiled for them.
        known = self._arrays
        self._arrays = {name: known[name] if name in known else self._open(at) for name, at in work.arrays.items()}
        try:
            make, task, settings = unpack(work.content, self._arrays, self._mirror.path)
        except (ImportError, AttributeError) as error:
            raise SearchError(
                f"A worker cannot find what the build function or the data need: {type(error).__name__}: {error}. "
                "Install it on every machine; or define it in your script, which then travels as a whole."
            ) from error
        settings.apply()
        most = task.limits.max_memory_bytes
        if most is not None and most != self._capped:
            self._capped = most
            self._cap(most)
        if self._trainer is None:
            self._trainer = make(self.supply.say)
            keeps_programs = self._trainer.programs() is not None
            self.supply.footprint = memory.Footprint(_nothing if keeps_programs else _drop_compiled)
        self.supply.independent = work.independent
        trainer = self._trainer
        if task.split_for is not None and not trainer.takes_splits:
            trainer = KerasFit(self.supply.say)
        trainer.train(self.supply, _quiet(task))

    def _open(self, handle: Handle) -> np.ndarray:
        return open_array(handle) if isinstance(handle, ArrayFile) else self._fetch(handle)

    def programs(self) -> Programs | None:
        """Of the trainer, where it has some."""
        return None if self._trainer is None else self._trainer.programs()


class RemoteSupply:
    """A supply at the other end of a line.

    Args:
        exchange: talks to the driver.
        mirror: where files are written before they are sent.
    """

    def __init__(self, exchange: Exchange, mirror: Mirror) -> None:
        self._exchange = exchange
        self._mirror = mirror
        self._lines: list[str] = []
        self._num_training = 0
        self.footprint: memory.Footprint | None = None  # from before the first execution
        self.independent = False
        self.remaining: int | None = None  # the driver knows, and shares out

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        assert self.footprint is not None  # our bug: made with the trainer
        # Only between executions: what a running one holds is in use, and collecting would slow it down.
        held = 0 if self._num_training else self.footprint.give_back()
        answer = self._exchange(Want(count, held, lines=self.lines_since()))
        assert isinstance(answer, Take)
        self._num_training += len(answer.plans)
        return [self._at_home(plan) for plan in answer.plans]

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        rows = [(plan.key, epoch, dict(logs)) for plan, epoch, logs in epochs]
        answer = self._exchange(Report(rows, lines=self.lines_since()))
        assert isinstance(answer, Decide)
        return answer.decisions

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`. The driver has it when this returns."""
        # With the message that says that it ended, not later: a worker that dies in between would leave half a fact.
        files = self._mirror.collect()
        if result.failure is not None:
            failure = dataclasses.replace(result.failure, error=_portable(result.failure.error))
            result = dataclasses.replace(result, failure=failure)
        self._exchange(Finished(result, files, lines=self.lines_since()))
        self._num_training -= 1

    def say(self, line: str) -> None:
        """Takes a line for the user; it travels with the next message."""
        self._lines.append(line)

    def lines_since(self) -> Sequence[str]:
        """Lines that have not been sent."""
        lines, self._lines = self._lines, []
        return lines

    def _at_home(self, plan: Plan) -> Plan:
        """A plan whose files are written here."""
        if plan.weights_path is None:
            return plan
        return dataclasses.replace(plan, weights_path=str(self._mirror.path(plan.weights_path)))


def _nothing() -> None:
    pass


def _drop_compiled() -> None:
    """Drops what Keras's backend has compiled for models that are gone."""
    if keras.backend.backend() == "jax":
        import jax  # other backends may lack it

        jax.clear_caches()


def _quiet(task: Task) -> Task:
    """The task, without Keras's progress bar unless the user asked for one: bars of several workers are no use."""
    if task.fit is not None:  # a function of the user's, which is called as it would be called here
        return task
    return dataclasses.replace(task, call=task.call.with_(verbose=task.call.get("verbose", 0)))


def _portable(error: Exception) -> Exception:
    """The error, or where it cannot be pickled one that means the same."""
    try:
        pickle.loads(pickle.dumps(error))
        return error
    except Exception:
        return stand_in(error)
