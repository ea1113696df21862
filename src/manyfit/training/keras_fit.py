"""Trains executions one after another through `model.fit`: every backend, every model, every callback."""

from __future__ import annotations

import copy
import gc
import time
import traceback
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from manyfit.core import history as histories
from manyfit.core.errors import FatalError, FatalValueError, explain
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.training.base import Supply, Task, Trainer, judge
from manyfit.training.models import build_model, check_size, ending_of, num_parameters
from manyfit.training.outcomes import merge_histories, to_histories
from manyfit.training.seeding import seeded
from manyfit.training.weights import write_weights


class KerasFit(Trainer):
    """Trains executions one after another through `model.fit`."""

    def train(self, supply: Supply, task: Task) -> None:
        while plans := supply.take(1):
            for plan in plans:
                supply.finish(self._train_one(plan, supply, task))

    def _train_one(self, plan: Plan, supply: Supply, task: Task) -> Result:
        started = time.perf_counter()
        # Without this every model of a search would stay in Keras's registries.
        keras.backend.clear_session(free_memory=False)
        reporter = _Reporter(plan, supply)
        keeper = BestWeights(task.objective)
        result = Result(plan, Ending.COMPLETED, reporter.history)
        try:
            with seeded(plan.seed):
                model = build_model(task.build, plan.values)
                check_size(model, task.max_model_size)
                returned = fit(model, plan, task, callbacks=[keeper, reporter])
            check_size(model, task.max_model_size)  # again: a model may be built by its first batch only
            result.num_parameters = num_parameters(model)
            if task.fit is not None and task.objective is not None:
                found = merge_histories(to_histories(returned, task.objective, "HyperModel.fit()"))
                if not all(reporter.history.get(name) == curve for name, curve in found.items()):
                    result.history = dict(found)
            result.ending, result.message = judge(result.history, task.objective, stopped=reporter.stopped)
            if plan.weights_path is not None and result.ending.has_score:
                keeper.restore(model)
                write_weights(plan.weights_path, model.get_weights(), build_config=model.get_build_config())
        except FatalError:
            raise
        except Exception as error:
            result.ending = ending_of(error)
            result.message = traceback.format_exc()
            result.extra["error"] = error
        finally:
            result.seconds = time.perf_counter() - started
            model = keeper.weights = None
            gc.collect(0)
        return result


def fit(model: keras.Model, plan: Plan, task: Task, *, callbacks: list[keras.callbacks.Callback]) -> Any:
    """Calls `model.fit` for a plan with the user's arguments, copies of the user's callbacks, and `callbacks`."""
    kwargs = dict(task.fit_kwargs)
    own = [] if task.callbacks is None else task.callbacks(plan)
    kwargs["callbacks"] = copy_callbacks(kwargs.get("callbacks")) + own + callbacks
    if plan.epochs is not None:
        kwargs["epochs"] = plan.epochs
    if plan.first_epoch:
        kwargs["initial_epoch"] = plan.first_epoch
    if task.fit is not None:
        return task.fit(plan.values, model, *task.fit_args, **kwargs)
    return model.fit(*task.fit_args, **kwargs)


def copy_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """Deep copies, so that one execution's patience or file is not another's.

    Raises:
        FatalValueError: a callback cannot be copied; the message names it.
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
            raise FatalValueError(
                explain(
                    "search(callbacks=...)",
                    f"{type(callback).__name__}, which cannot be copied ({error}). "
                    "All callbacks used during a search should be deep-copyable",
                    "callbacks that copy.deepcopy takes, because every execution gets its own",
                    "Open files and connections in on_train_begin rather than in __init__.",
                )
            ) from error
    return copies


class _Reporter(keras.callbacks.Callback):
    """Keeps the curves, reports each epoch and obeys the answer."""

    def __init__(self, plan: Plan, supply: Supply) -> None:
        super().__init__()
        self.plan = plan
        self.supply = supply
        self.history: dict[str, list[float | None]] = {}
        self.stopped = False

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        numbers = scalar_logs(logs)
        histories.append(self.history, numbers, epoch)
        [decision] = self.supply.report([(self.plan, epoch, numbers)])
        if decision is not Decision.GO_ON:
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
        self._loss = float("inf")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        del epoch
        numbers = scalar_logs(logs)
        if self.objective is None or not self.objective.has_value(numbers):
            return
        loss = self.objective.loss(self.objective.get_value(numbers))
        if loss < self._loss:
            self._loss = loss
            self.weights = self.model.get_weights()

    def restore(self, model: keras.Model) -> None:
        """Puts the kept weights into the model; leaves the last epoch's where no epoch was ranked."""
        if self.weights is not None:
            model.set_weights(self.weights)


def scalar_logs(logs: Mapping[str, Any] | None) -> dict[str, float]:
    """The logs of an epoch as Python numbers; what is no number (a learning-rate object, a text) is left out."""
    numbers = {}
    for name, value in (logs or {}).items():
        try:
            numbers[name] = float(value)
        except (TypeError, ValueError):
            continue
    return numbers
