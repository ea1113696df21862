"""Trains executions one after another through `model.fit`: every backend, every model, every callback."""

from __future__ import annotations

import copy
import dataclasses
import gc
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from manyfit.core import history as histories
from manyfit.core.errors import FatalValueError, explain
from manyfit.core.lifecycle import failure_of, is_paused
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.data.order import SeededOrder
from manyfit.training.base import Supply, Task, Trainer, judge
from manyfit.training.callback_files import separate_files
from manyfit.training.continuing import Continue, is_storable, make_variables, order_of_data, stored_by, variables_of
from manyfit.training.devices import LayoutCheck, distributed, distribution_of
from manyfit.training.keras_settings import KerasSettings, clear_session
from manyfit.training.measuring import take_measures
from manyfit.training.models import build_model, check_size, num_parameters
from manyfit.training.outcomes import completed_by, merge_histories, to_histories
from manyfit.training.precision import LossScaleCallback, needs_loss_scale_callback
from manyfit.training.seeding import seeded
from manyfit.training.stored_state import StoredState, read_state, states_of, write_state
from manyfit.training.suspended import SuspendableCall
from manyfit.training.weights import write_weights

#: Parameters of a model whose memory is worth a full garbage collection (0.1 s); smaller ones wait for Python's own.
_LARGE = 1_000_000


class KerasFit(Trainer):
    """Trains executions one after another through `model.fit`.

    A paused execution stays in memory and continues as if it had never stopped. One that is no longer there (the
    process was killed meanwhile) continues from its stored state; what cannot be stored (see `is_storable`) is trained
    again from its start, with its own seed, without reporting what is known.
    """

    takes_splits = True

    def __init__(self) -> None:
        self._paused: dict[tuple[str, int], _Run] = {}

    def train(self, supply: Supply, task: Task) -> None:
        while plans := supply.take(1):
            for plan in plans:
                supply.finish(self._train_one(plan, supply, task))

    def forget(self, keys: Iterable[tuple[str, int]]) -> None:
        """Ends paused executions that nobody will continue."""
        for key in keys:
            run = self._paused.pop(key, None)
            if run is not None and run.call is not None:
                run.call.abandon()

    def _train_one(self, plan: Plan, supply: Supply, task: Task) -> Result:
        # Without this every model of a search would stay in Keras's registries.
        clear_session()
        run = self._paused.pop(plan.key, None) or _Run(plan, supply, task)
        result = run.proceed(plan)
        if is_paused(result):
            self._paused[plan.key] = run
        else:
            is_large = run.model is not None and num_parameters(run.model) >= _LARGE
            del run  # it holds the model, whose layers refer to each other
            gc.collect(2 if is_large else 0)
        return result


class _Run:
    """One execution, from its build to its end, with pauses in between."""

    def __init__(self, plan: Plan, supply: Supply, task: Task) -> None:
        self.task = task
        self.reporter = _Reporter(plan, supply)
        self.keeper = BestWeights(task.objective)
        self.model: keras.Model | None = None
        self.result = Result(plan, Ending.COMPLETED, self.reporter.history)
        self.loss_scale = LossScaleCallback()
        self.settings = KerasSettings.current()
        self.call: SuspendableCall | None = None
        self.user_callbacks: list[keras.callbacks.Callback] = []
        self.stored: StoredState | None = None
        self.order = order_of_data(plan.seed, task)
        if task.may.pause:
            self.call = SuspendableCall(self._train)
            self.reporter.pause = self._pause

    def proceed(self, plan: Plan) -> Result:
        """Trains until the end, or until the supply says pause."""
        started = time.perf_counter()
        self.reporter.plan = plan
        self.result = dataclasses.replace(self.result, plan=plan)
        try:
            paused = False
            if self.call is None:
                self._train(None)
            else:
                paused = not self.call.proceed()
            self._judge(plan, paused)
        except Exception as error:
            self.result.fail(failure_of(error))
        self.result.seconds += time.perf_counter() - started
        if self.model is not None:
            take_measures(self.result, self.model, self.task)
        return self.result

    def _pause(self) -> None:
        assert self.call is not None  # our bug: only a call that can be paused is
        inside = KerasSettings.current()
        self.call.pause()
        inside.restore()  # what trained meanwhile has cleared them in all threads

    def _train(self, call: SuspendableCall | None) -> None:
        del call
        plan, task = self.reporter.plan, self.task
        self.settings.restore()  # a call that can be paused has a thread of its own
        self.user_callbacks = copy_callbacks(task.call.get("callbacks"), plan, share=task.may.share_callbacks)
        distribution = distribution_of(task.devices)  # of the process that trains
        with seeded(plan.seed), distributed(distribution):
            self.model = build_model(task.build, plan.values)
            check_size(self.model, task.max_model_size)
            own: list[keras.callbacks.Callback] = [self.loss_scale] if needs_loss_scale_callback(self.model) else []
            own += [] if distribution is None else [LayoutCheck(distribution)]
            own += [] if self.order is None else [self.order]
            own += [self.keeper, self.reporter, *self._continued(plan)]
            returned = fit(
                self.model,
                plan,
                task,
                callbacks=own,
                user_callbacks=self.user_callbacks,
                initial_epoch=None if self.stored is None else self.stored.epoch,
                order=self.order,
            )
        check_size(self.model, task.max_model_size)  # again: a model may be built by its first batch only
        if task.fit is not None and task.objective is not None:
            found = merge_histories(to_histories(returned, task.objective, "HyperModel.fit()"))
            self.result.history = completed_by(self.reporter.history, found)

    def _judge(self, plan: Plan, paused: bool) -> None:
        assert self.model is not None  # our bug: `_train` sets it or raises
        result = self.result
        result.num_parameters = num_parameters(self.model)
        if paused:
            result.ending, result.message = Ending.PAUSED, None
            self._store(plan)
        else:
            stopped = self.reporter.stopped
            result.ending, result.message = judge(result.history, self.task.objective, stopped=stopped)
            result.ending, result.message = self.loss_scale.judged(result.ending, result.message)
        if plan.weights_path is not None and result.ending.has_score:
            latest = self.model.get_weights()
            weights = self.keeper.weights or latest
            write_weights(plan.weights_path, weights, build_config=self.model.get_build_config())
            if self.task.keep is not None:
                self.model.set_weights(weights)
                self.task.keep([(plan, self.model)])
                self.model.set_weights(latest)  # a paused execution goes on from here

    def _continued(self, plan: Plan) -> list[keras.callbacks.Callback]:
        """Reads the stored state of an execution that was paused in another process; a callback that puts it back."""
        stored = read_state(plan, stored_by(), len(self.user_callbacks))
        if stored is None:
            return []
        assert self.model is not None  # our bug: it has just been built
        make_variables(self.model, self.task)
        if not stored.fits(variables_of(self.model)):
            keras.utils.set_random_seed(plan.seed)  # making the variables may have drawn from it
            self.model = build_model(self.task.build, plan.values)
            return []
        self.stored = stored
        self.reporter.history = {name: list(curve) for name, curve in stored.history.items()}
        self.keeper.weights, self.keeper.loss = stored.best, stored.best_loss
        self.result.history = self.reporter.history
        return [Continue(stored, self.user_callbacks)]

    def _store(self, plan: Plan) -> None:
        assert self.model is not None and self.call is not None  # our bug: it has just been paused
        callbacks = states_of(self.user_callbacks)
        if plan.state_path is None or callbacks is None or not is_storable(self.model, self.task, self.order):
            return
        state = StoredState(
            stored_by(),
            plan.seed,
            max(map(len, self.reporter.history.values())),
            variables=tuple([variable.numpy() for variable in group] for group in variables_of(self.model)),  # type: ignore[arg-type]
            callbacks=callbacks,
            history=self.reporter.history,
            best=self.keeper.weights,
            best_loss=self.keeper.loss,
            generators=self.call.generators,
        )
        write_state(plan.state_path, state)


def fit(
    model: keras.Model,
    plan: Plan,
    task: Task,
    *,
    callbacks: list[keras.callbacks.Callback],
    user_callbacks: list[keras.callbacks.Callback],
    initial_epoch: int | None = None,
    order: SeededOrder | None = None,
) -> Any:
    """Calls `model.fit` for a plan with the user's arguments.

    Args:
        model: to train.
        plan: how long.
        task: the arguments.
        callbacks: ours, after the user's.
        user_callbacks: copies of the user's.
        initial_epoch: where it goes on; None: as the user's arguments say.
        order: of the data, one of `callbacks`; None: Keras's.
    """
    call = task.call_of(plan)
    if order is not None:
        call = order.applied_to(call)
    own = [] if task.callbacks is None else task.callbacks(plan)
    call = call.with_(callbacks=user_callbacks + own + callbacks)
    if initial_epoch is not None:
        call = call.with_(initial_epoch=initial_epoch)
    if task.fit is not None:
        return task.fit(plan.values, model, *call.args, **call.kwargs)
    return model.fit(*call.args, **call.kwargs)


class CannotCopy(FatalValueError):
    """A callback of the user's cannot be copied; `callback` is its class, the cause is what copying raised."""

    def __init__(self, callback: Any, cause: Exception) -> None:
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


def copy_callbacks(callbacks: Any, plan: Plan | None = None, *, share: bool = False) -> list[keras.callbacks.Callback]:
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
            copies.append(copy.deepcopy(callback))
        except Exception as error:
            if not share:
                raise CannotCopy(callback, error) from error
            copies.append(callback)
    if plan is not None:
        separate_files(copies, plan)
    return copies


class _Reporter(keras.callbacks.Callback):
    """Keeps the curves, reports each epoch and obeys the answer."""

    def __init__(self, plan: Plan, supply: Supply) -> None:
        super().__init__()
        self.plan = plan
        self.supply = supply
        self.history: dict[str, list[float | None]] = {}
        self.stopped = False
        self.pause: Callable[[], None] | None = None

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = scalar_logs(logs)
        histories.append(self.history, numbers, epoch)
        if epoch < self.plan.first_epoch:
            return  # known from before the process was killed
        [decision] = self.supply.report([(self.plan, epoch, numbers)])
        if decision is Decision.PAUSE and self.pause is not None:
            if not self.model.stop_training:  # else a callback has ended it at its rung's end
                self.pause()
        elif decision is not Decision.GO_ON:
            self.stopped = True
            self.model.stop_training = True


class BestWeights(keras.callbacks.Callback):
    """Holds the weights of the best epoch in memory; of the last epoch where nothing is ranked.

    Args:
        objective: what makes an epoch the best; None keeps the last epoch's.
    """

    def __init__(self, objective: Objective | None) -> None:
        super().__init__()
        self.objective = objective
        self.weights: list[np.ndarray] | None = None
        self.loss = float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        del epoch
        numbers = scalar_logs(logs)
        if self.objective is None or not self.objective.has_value(numbers):
            return
        loss = self.objective.loss(self.objective.get_value(numbers))
        if loss < self.loss:
            self.loss = loss
            self.weights = self.model.get_weights()


def scalar_logs(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The logs of an epoch as Python numbers; what is no number (a learning-rate object, a text) is left out."""
    numbers = {}
    for name, value in (logs or {}).items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers
