"""`keras.callbacks.TensorBoard` in a search: a folder per execution, and values and curves for the HParams dashboard.

What is written, as in KerasTuner: `<log_dir>/<trial_id>/execution<k>/` holds the session of an execution (its values,
when it began and ended), and below it what Keras's callback writes: `train` and `validation`. Keras's callback needs
TensorFlow; where that is not installed, `EpochScalars` writes the curves in its place.

This is the only file that imports tensorboard, and it does so when a search has such a callback.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import itertools
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from manyfit.core.errors import UsageError, explain
from manyfit.core.history import numbers_of
from manyfit.core.records import Plan, Value
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import Bookkeeping, Task

_file_numbers = itertools.count()


def per_execution(task: Task) -> Task:
    """The task with each of its TensorBoard callbacks writing into a folder per execution.

    Raises:
        ImportError: there is one, and tensorboard is not installed: `pip install manyfit[tensorboard]`.
        UsageError: one is set to write what only TensorFlow can, which is not installed.
    """
    callbacks = task.call.callbacks
    boards = [callback for callback in callbacks if isinstance(callback, keras.callbacks.TensorBoard)]
    if not boards:
        return task
    _check_installed(boards)
    others = [callback for callback in callbacks if callback not in boards]
    before = task.callbacks

    def callbacks_of(plan: Plan) -> list[Any]:
        own = [] if before is None else before(plan)
        return [*own, *(each for board in boards for each in callbacks_for(board, plan))]

    return dataclasses.replace(task, call=task.call.with_(callbacks=others), callbacks=callbacks_of)


def callbacks_for(board: keras.callbacks.TensorBoard, plan: Plan) -> list[keras.callbacks.Callback]:
    """What writes one execution's curves and values.

    Args:
        board: the user's callback; it stays as it is.
        plan: the execution.
    """
    assert isinstance(plan.values, HyperParameters)  # our bug: a tuner's plans hold them
    # A copy of the user's callback keeps every setting of theirs; only the folder is another one.
    own = copy.deepcopy(board)
    own.log_dir = str(Path(own.log_dir) / plan.trial_id / f"execution{plan.execution}")
    curves = own if _has_tensorflow() else EpochScalars(own.log_dir)
    return [curves, HParamsSession(own.log_dir, plan.values.values, plan.trial_id)]


def watch_boards(callbacks: Sequence[keras.callbacks.Callback], aside: Bookkeeping) -> None:
    """Lets those of an execution's callbacks that write for TensorBoard fail without ending the execution.

    Args:
        callbacks: changed in place; a board that has failed once is not called again.
        aside: hears of it.
    """
    for callback in callbacks:
        # A subclass of the user's is their code, and fails as any callback of theirs does.
        if isinstance(callback, HParamsSession | EpochScalars) or type(callback) is keras.callbacks.TensorBoard:
            _watch(callback, aside)


def _watch(callback: keras.callbacks.Callback, aside: Bookkeeping) -> None:
    failed: list[str] = []

    def watched(hook: Callable[..., None], name: str) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            if not failed:
                failed.append(name)
                with aside.keeping("files for TensorBoard"):
                    hook(*args, **kwargs)
                    failed.clear()

        return call

    for name in dir(keras.callbacks.Callback):
        if name.startswith(("on_", "set_")) and getattr(type(callback), name) is not getattr(
            keras.callbacks.Callback, name
        ):
            setattr(callback, name, watched(getattr(callback, name), name))


class HParamsSession(keras.callbacks.Callback):
    """Writes one session of the HParams dashboard.

    Args:
        folder: of the execution.
        values: hyperparameter name -> value.
        group: sessions of one group, a trial's executions, are shown as one row with their mean.
    """

    def __init__(self, folder: str | os.PathLike[str], values: Mapping[str, Value], group: str) -> None:
        super().__init__()
        self.file = EventFile(folder)
        self.values = dict(values)
        self.group = group

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        from tensorboard.plugins.hparams import metadata, plugin_data_pb2

        start = plugin_data_pb2.SessionStartInfo(group_name=self.group, start_time_secs=time.time())
        for name, value in self.values.items():
            # First, since True is also a number for Python.
            if isinstance(value, bool):
                start.hparams[name].bool_value = value
            elif isinstance(value, str):
                start.hparams[name].string_value = value
            else:
                start.hparams[name].number_value = value
        self.file.write([_session(metadata.SESSION_START_INFO_TAG, session_start_info=start)])

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=time.time())
        self.file.write([_session(metadata.SESSION_END_INFO_TAG, session_end_info=end)])


class EpochScalars(keras.callbacks.Callback):
    """Writes what `keras.callbacks.TensorBoard` writes of each epoch's metrics, without TensorFlow.

    Args:
        folder: of the execution; training metrics go to `train` in it, those with "val_" to `validation`.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        super().__init__()
        self.files = {part: EventFile(Path(folder) / part) for part in ("train", "validation")}

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = numbers_of(logs)
        validation = {name.removeprefix("val_"): numbers.pop(name) for name in list(numbers) if name.startswith("val_")}
        if "learning_rate" not in numbers and hasattr(self.model.optimizer, "learning_rate"):
            numbers["learning_rate"] = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        for part, metrics in (("train", numbers), ("validation", validation)):
            self.files[part].write([_scalar(f"epoch_{name}", value) for name, value in metrics.items()], epoch)


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _check_installed(boards: Sequence[keras.callbacks.TensorBoard]) -> None:
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            explain(
                "search(callbacks=[TensorBoard])",
                "no package tensorboard, which writes the values of trials and shows them",
                "tensorboard beside Manyfit",
                "Type pip install manyfit[tensorboard], or leave the callback out.",
            )
        )
    needing = [name for board in boards for name in ("histogram_freq", "embeddings_freq") if getattr(board, name, 0)]
    if needing and not _has_tensorflow():
        raise UsageError(
            explain(
                "search(callbacks=[TensorBoard])",
                f"{needing[0]}, which needs TensorFlow",
                "metrics per epoch where TensorFlow is not installed",
                f"Leave {needing[0]} out, or type pip install manyfit[tensorflow].",
            )
        )


def _session(tag: str, **info: Any) -> Any:
    from tensorboard.compat.proto import summary_pb2
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    content = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **info)
    return summary_pb2.Summary.Value(tag=tag, metadata=metadata.create_summary_metadata(content))


def _scalar(tag: str, value: float) -> Any:
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2.Summary.Value(tag=tag, simple_value=value)


class EventFile:
    """One file of events. It is open only while it is written to, because many executions train at once.

    Args:
        folder: it is made when the first event is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_file_numbers)}"
        self.path = Path(folder) / name

    def write(self, values: Sequence[Any], step: int = 0) -> None:
        """Adds an event.

        Args:
            values: `Summary.Value` messages; nothing is written where there are none.
            step: the epoch.
        """
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        if not values:
            return
        events = [event_pb2.Event(wall_time=time.time(), step=step, summary=summary_pb2.Summary(value=values))]
        # TensorBoard wants to read a version first, and an empty file of an execution without events would be one to
        # explain.
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            events.insert(0, event_pb2.Event(wall_time=time.time(), file_version="brain.Event:2"))
        # Opened for each event: a search with hundreds of executions would run out of open files.
        with open(self.path, "ab") as file:
            for event in events:
                RecordWriter(file).write(event.SerializeToString())
