"""Callbacks of an execution: copies of the user's, and ours, which report epochs and remember the best one."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras
import numpy as np

from manyfit.core import history as histories
from manyfit.core.clock import Clock
from manyfit.core.errors import FatalValueError, explain
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Plan
from manyfit.training.base import BestEpoch, OutOfTime, Supply

UserCallbacks: TypeAlias = (
    keras.callbacks.Callback | keras.callbacks.CallbackList | Sequence[keras.callbacks.Callback] | None
)
"""What `fit` takes as `callbacks`."""


class CannotCopy(FatalValueError):
    """A callback of the user's cannot be copied; `callback` is its class, the cause is what copying raised."""

    def __init__(self, callback: object, cause: Exception) -> None:
        self.callback = type(callback).__name__
        super().__init__(
            explain(
                "search(callbacks=...)",
                f"{self.callback}, which cannot be copied ({cause}). "
                "All callbacks used during a search should be deep-copyable",
                "callbacks that copy.deepcopy takes, because every execution gets its own",
                "Open files and connections in on_train_begin rather than in __init__.",
            )
        )


def copy_callbacks(
    callbacks: UserCallbacks, plan: Plan | None = None, *, share: bool = False
) -> list[keras.callbacks.Callback]:
    """Deep copies for an execution (None: for whoever asks), so that one's patience or file is not another's.

    Args:
        callbacks: what the user gave to `fit`.
        plan: the execution.
        share: take the user's own object where one cannot be copied; executions must then run one after another.

    Raises:
        CannotCopy: a callback cannot be copied, and may not be shared; the message names it.
    """
    if callbacks is None:
        return []
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    if not isinstance(callbacks, list | tuple):
        callbacks = [callbacks]
    copies = []
    for callback in callbacks:
        try:
            # Deep, since a shallow copy shares lists: patience that one execution counts would end another.
            copies.append(copy.deepcopy(callback))
        except Exception as error:
            if not share:
                raise CannotCopy(callback, error) from error
            copies.append(callback)
    if plan is not None:
        separate_files(copies, plan)
    return copies


def too_few_epochs(callbacks: Sequence[object], epochs: object, *, are_given: bool) -> str | None:
    """A sentence about callbacks that wait for more epochs than a trial has; None where there are none.

    `fit` trains one epoch unless told otherwise, and so does `search`: with `EarlyStopping(patience=10)` and no
    `epochs=` people get the best of one epoch each, and take it for the end of a training.

    Args:
        callbacks: the user's.
        epochs: of a trial.
        are_given: whether the user has said how many.
    """
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.EarlyStopping | keras.callbacks.ReduceLROnPlateau):
            continue
        # The first epoch sets the value that the others are compared with; only then patience is counted.
        least = getattr(callback, "start_from_epoch", 0) + max(callback.patience, 1) + 1
        if isinstance(epochs, int) and epochs < least:
            number = "1 epoch" if epochs == 1 else f"{epochs} epochs"
            since = "" if are_given else ", since epochs= is not given"
            named = f"{type(callback).__name__}(patience={callback.patience})"
            return (
                f"search: each trial trains {number}{since}, and {named} "
                f"can do nothing before epoch {least}. Type epochs={10 * least}, say, or a smaller patience."
            )
    return None


def defines(callback: keras.callbacks.Callback, hook: str) -> bool:
    """Whether a callback does something in a hook.

    Example:

    >>> defines(keras.callbacks.LambdaCallback(on_epoch_end=print), "on_epoch_end")
    True
    """
    if vars(callback).get(hook) is not None:  # LambdaCallback puts its functions on the instance
        return True
    return getattr(type(callback), hook) is not getattr(keras.callbacks.Callback, hook)


#: They have an `on_test_begin` that neither changes nor reads the model.
_LOOKS_ON = (keras.callbacks.TensorBoard, keras.callbacks.ProgbarLogger)


def acts_before_tests(callbacks: Sequence[object]) -> bool:
    """Whether one of them may change what is validated: it has an `on_test_begin`, as `SwapEMAWeights` has.

    Others hear of a validation when it is over, and cannot tell the difference.
    """
    return any(
        defines(callback, "on_test_begin")
        for callback in callbacks
        if isinstance(callback, keras.callbacks.Callback) and type(callback) not in _LOOKS_ON
    )


class Reporter(keras.callbacks.Callback):
    """Keeps the curves, reports each epoch and obeys the answer.

    Attributes:
        error: what the supply raised, which is no fault of the execution's: it ends the search.
    """

    def __init__(self, plan: Plan, supply: Supply) -> None:
        super().__init__()
        self.plan = plan
        self.supply = supply
        self.history: dict[str, list[float | None]] = {}
        self.stopped = False
        self.error: Exception | None = None
        self.pause: Callable[[], None] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = histories.numbers_of(logs)
        histories.append(self.history, numbers, epoch)
        if epoch < self.plan.first_epoch:
            return  # known from before the process was killed
        try:
            [decision] = self.supply.report([(self.plan, epoch, numbers)])
        except Exception as error:
            self.error = error
            raise
        if decision is Decision.PAUSE and self.pause is not None:
            if not self.model.stop_training:  # else a callback has ended it at its rung's end
                self.pause()
        elif decision is not Decision.GO_ON:
            self.stopped = True
            self.model.stop_training = True


class EpochTimes(keras.callbacks.Callback):
    """Takes the seconds of each epoch, its validation included.

    Args:
        clock: by which it counts.

    Attributes:
        seconds: one entry per epoch; the first one compiles.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._clock, self._began = clock, 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._began = self._clock.now()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        self.seconds.append(self._clock.now() - self._began)

    def of_this_epoch(self) -> float:
        """The seconds of the epoch that is under way, so far."""
        return self._clock.now() - self._began

    def split(self) -> tuple[float, float]:
        """The seconds of compiling, and those of an epoch; of a single epoch nobody knows what compiling took."""
        if len(self.seconds) < 2:
            return 0.0, sum(self.seconds)
        epoch = statistics.median(self.seconds[1:])
        return max(0.0, self.seconds[0] - epoch), epoch


class UntilOver(keras.callbacks.Callback):
    """Leaves `fit` between two batches when a clock is over: an epoch that is not finished does not count.

    An epoch that would not end in time is not begun.

    Args:
        clock: of the task.
        times: of the epochs so far.
    """

    def __init__(self, clock: Clock, times: EpochTimes) -> None:
        super().__init__()
        self._clock, self._times = clock, times

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        # The first epoch tells little of the next: it has compiled.
        seconds = statistics.median(self._times.seconds[1:]) if len(self._times.seconds) > 1 else 0.0
        if not self._clock.allows(seconds):
            if not self._clock.is_over():
                self._clock.refuse(seconds)
            raise OutOfTime

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check()

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._check()

    def _check(self) -> None:
        # By an exception, not by `stop_training`: Keras would validate first, and tell callbacks of half an epoch.
        if self._clock.is_over():
            self._clock.refuse(self._times.of_this_epoch())  # so long at least: what to tell who gave too little time
            raise OutOfTime


class BestWeights(keras.callbacks.Callback):
    """Holds the weights of the best epoch in memory; of the last epoch where nothing is ranked.

    They are those that the epoch's validation saw: `SwapEMAWeights` puts averages in for it, and takes them out again
    before the epoch ends.

    Args:
        objective: what makes an epoch the best; None keeps the last epoch's.
        plan: may name an epoch that is kept in place of the best.
        watch: see `Task.watch`.
    """

    def __init__(
        self, objective: Objective | None, plan: Plan, watch: Callable[[Sequence[BestEpoch]], None] | None = None
    ) -> None:
        super().__init__()
        self.objective = objective
        self.plan = plan
        self.watch = watch
        self.swaps = False  # whether other callbacks change weights for a validation; they are copied then
        self._validated: list[np.ndarray] | None = None
        self.weights: list[np.ndarray] | None = None
        self.loss = float("inf")

    def on_test_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        if self.swaps:
            self._validated = self.model.get_weights()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        validated, self._validated = self._validated, None
        if self.objective is None:
            return
        loss = self.plan.rank(epoch, self.objective.epoch_loss(histories.numbers_of(logs)))
        has_improved = loss < self.loss
        if has_improved:
            self.loss = loss
            # In memory: most best epochs are followed by a better one, and a file each would be written for nothing.
            self.weights = validated or self.model.get_weights()
        if self.watch is not None:
            kept = self.weights or []
            found = BestEpoch(self.plan, epoch + 1, loss, self.model, lambda: kept)
            self.watch([found] if has_improved else [])


def separate_files(callbacks: Sequence[keras.callbacks.Callback], plan: Plan) -> None:
    """Gives an execution's copies of callbacks their own files where sharing one would garble it.

    A CSVLogger writes to `<name>-<trial>-<n>.csv`. A BackupAndRestore backs up to a folder `<trial>-<n>` in its own: an
    execution that found the backup of another would go on from that one's weights. A ModelCheckpoint is left alone:
    whoever writes last has the file, as in KerasTuner. TensorBoard's folders are the tuner's business
    (`manyfit.training.tensorboard`).

    Args:
        callbacks: the copies; changed in place.
        plan: the execution.

    Example:

    >>> logger = keras.callbacks.CSVLogger("log.csv")
    >>> separate_files([logger], Plan("0007", 1, {}, seed=0))
    >>> logger.filename
    'log-0007-1.csv'
    """
    for callback in callbacks:
        # It appends, so rows of two executions would stand in one file.
        if isinstance(callback, keras.callbacks.CSVLogger):
            path = Path(callback.filename)
            callback.filename = str(path.with_name(f"{path.stem}-{plan.trial_id}-{plan.execution}{path.suffix}"))
        elif isinstance(callback, keras.callbacks.BackupAndRestore):
            folder = str(callback.backup_dir)
            own = str(Path(folder) / f"{plan.trial_id}-{plan.execution}")
            # Its files lie in the folder, under names that it has made of it once.
            for name, value in vars(callback).items():
                if isinstance(value, str | Path) and str(value).startswith(folder):
                    setattr(callback, name, own + str(value)[len(folder) :])
