"""The smallest tuners, models and searches that still are ones; tests of several folders share them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import manyfit as kt  # isort: skip

import keras

from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Ending, Plan, Result
from manyfit.training.base import Supply, Task, Trainer, judge

#: All ready tuners.
READY = [
    kt.RandomSearch,
    kt.GridSearch,
    kt.QuasiRandomSearch,
    kt.Search,
    kt.Evolution,
    kt.BayesianOptimization,
    kt.OptunaSearch,
    kt.Hyperband,
]


def space(units: int = 50) -> kt.HyperParameters:
    """Two hyperparameters: `units` from 1 to `units`, `kind` a or b."""
    hp = kt.HyperParameters()
    hp.Int("units", 1, units)
    hp.Choice("kind", ["a", "b"])
    return hp


def run_by(function: Callable[[kt.Trial], Any], tuner: type[Any] = kt.RandomSearch) -> type[Any]:
    """A tuner class whose `run_trial` is `function(trial)`: no model, no training."""

    class Numbers(tuner):
        def run_trial(self, trial, *args, **kwargs):
            return function(trial)

    return Numbers


def numbers(function: Callable[[kt.Trial], Any], tuner: type[Any] = kt.RandomSearch, **arguments: Any) -> Any:
    """Such a tuner over `space()`, unless the arguments say otherwise."""
    arguments.setdefault("hyperparameters", space())
    return run_by(function, tuner)(**arguments)


def proposals(tuner: Any) -> list[dict[str, Any]]:
    """The values of all trials in the order of their start."""
    return [dict(trial.hyperparameters.values) for trial in tuner.oracle.trials.values()]


def scores(tuner: Any) -> dict[str, list[float]]:
    """Each trial's scores, one per execution."""
    return {trial_id: trial.scores for trial_id, trial in tuner.oracle.trials.items()}


def build(hp: kt.HyperParameters) -> keras.Model:
    """A classifier of three features with a few units."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(hp.Int("units", 1, 4), activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 0.3)),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def compiled(model: keras.Model) -> keras.Model:
    """The model, compiled with what `build` uses."""
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="binary_crossentropy", metrics=["accuracy"])
    return model


class Formula(Trainer):
    """Keeps the contract of a trainer, but its curves come from a formula: seed, values and epoch decide.

    Args:
        num_epochs: epochs of each execution.
        members: executions that train side by side.
        fail: the error that an execution raises, or None.
    """

    def __init__(
        self, num_epochs: int = 3, members: int = 1, fail: Callable[[Plan], Exception | None] = lambda plan: None
    ) -> None:
        self.num_epochs = num_epochs
        self.members = members
        self.fail = fail
        self.trained: list[tuple[str, int, int]] = []  # trial, execution, seed, in the order of their end

    def train(self, supply: Supply, task: Task) -> None:
        while plans := supply.take(self.members):
            curves: dict[tuple[str, int], dict[str, list[float | None]]] = {plan.key: {"loss": []} for plan in plans}
            for epoch in range(self.num_epochs):
                logs = [{"loss": loss_of(plan, epoch)} for plan in plans]
                for plan, log in zip(plans, logs, strict=True):
                    curves[plan.key]["loss"].append(log["loss"])
                supply.report([(plan, epoch, log) for plan, log in zip(plans, logs, strict=True)])
            for plan in plans:
                self._finish(plan, curves[plan.key], supply, task)

    def _finish(self, plan: Plan, curve: dict[str, list[float | None]], supply: Supply, task: Task) -> None:
        self.trained.append((*plan.key, plan.seed))
        error = self.fail(plan)
        if error is not None:
            supply.finish(Result(plan, Ending.FAILED, curve, message=repr(error), failure=failure_of(error)))
            return
        ending, message = judge(curve, task.objective, stopped=False)
        supply.finish(Result(plan, ending, curve, message=message))


def loss_of(plan: Plan, epoch: int) -> float:
    """A loss that differs from execution to execution and from epoch to epoch."""
    return (plan.seed % 1009) / 1009 + abs(epoch - 1) + plan.values.values["units"] / 100


def searched(trainer: Trainer, **arguments: Any) -> kt.RandomSearch:
    """A random search (not run yet) that trains with `trainer`."""

    class Untrained(kt.RandomSearch):
        def _get_trainer(self):
            return trainer

    arguments.setdefault("hyperparameters", space())
    arguments.setdefault("objective", "loss")
    return Untrained(build, **arguments)


def four_parts(error: BaseException) -> Sequence[str]:
    """Splits the text of an error of Manyfit into where, got, allowed, instead; fails where a part is missing."""
    text = str(error)
    where, got = text.split(": got ", 1)
    got, allowed = got.split(". Allowed: ", 1)
    allowed, instead = allowed.split(". ", 1)
    assert where and got and allowed and instead.strip(), text
    return where, got, allowed, instead
