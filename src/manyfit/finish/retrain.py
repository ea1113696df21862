"""Retrains winners on all data, for the number of epochs that their own curves call for."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras

from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.events import EpochsEnded, Event, ExecutionsEnded, RunsPlanned
from manyfit.core.records import Decision, Plan, Result
from manyfit.data.arguments import VALIDATION_ARGUMENTS
from manyfit.data.call import Call
from manyfit.finish.schedules import stretched_build
from manyfit.finish.winners import EpochRule, RetrainCandidate
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import FixedSupply, Task, Trainer
from manyfit.training.devices import distributed, distribution_of
from manyfit.training.estimators import load_estimator, pickle_path, save_final
from manyfit.training.models import build_model
from manyfit.training.replay import ReplayedRate, is_ours, reacts_to_validation
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_weights

SavePath: TypeAlias = str | os.PathLike[str]


class TimedSupply(FixedSupply):
    """Trains a fixed list of executions to their end, or until the time is up.

    Args:
        plans: what to train.
        clock: when it is over, executions end where they are, and none begins.
        tell: takes events, for whoever shows them; what is no trial of the search is not in the book.
    """

    def __init__(self, plans: Sequence[Plan], clock: Clock, tell: Callable[[Event], None] = lambda event: None) -> None:
        super().__init__(plans)
        self._clock, self._tell = clock, tell
        epochs = [plan.epochs for plan in plans]
        tell(RunsPlanned(len(plans), None if None in epochs else sum(each or 0 for each in epochs)))

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        return [] if self._clock.begins_nothing() else super().take(count)

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._tell(EpochsEnded(epochs))
        return [Decision.STOP if self._clock.is_over() else Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        self._tell(ExecutionsEnded([result.plan]))
        if not result.is_unbegun:  # there is no model of it
            super().finish(result)


@dataclasses.dataclass(frozen=True)
class Retraining:
    """How a model was retrained.

    Attributes:
        trial_id: whose configuration it has.
        seed: of its training.
        epochs: that it was trained for.
        planned_epochs: that it was to be trained for: fewer, if time was up or a callback ended it.
        changes: arguments of `fit` that are others than in the search, and the rows: name -> then, now.
        left_out: callbacks of the search that look at validation rows.
        rates_replayed: whether the learning rates that those have set in the search were set again.
        seconds: that the training took.
    """

    trial_id: str
    seed: int
    epochs: int
    planned_epochs: int
    changes: Mapping[str, tuple[object, object]]
    left_out: tuple[str, ...]
    rates_replayed: bool
    seconds: float

    def __str__(self) -> str:
        epochs = f"{self.epochs}" if self.epochs == self.planned_epochs else f"{self.epochs} of {self.planned_epochs}"
        parts = [f"trial {self.trial_id}: {epochs} epochs"]
        parts += [f"{name} {now} (search: {then})" for name, (then, now) in self.changes.items() if then != now]
        if self.left_out:
            rates = "; its learning rates are replayed" if self.rates_replayed else ""
            parts.append(f"without {', '.join(self.left_out)}{rates}")
        return ", ".join(parts)


class RetrainedModels(list[Any]):
    """Retrained models, best configuration first; print it.

    Args:
        models: trained.
        retrainings: how each of them was trained.
    """

    def __init__(self, models: Sequence[Any], retrainings: Sequence[Retraining]) -> None:
        super().__init__(models)
        self.retrainings = tuple(retrainings)

    def __str__(self) -> str:
        return "\n".join(map(str, self.retrainings))


class RetrainInterrupted(KeyboardInterrupt):
    """Ctrl+C: `models` had been trained by then."""

    def __init__(self, models: RetrainedModels) -> None:
        super().__init__()
        self.models = models


class RetrainFailed(SearchError):
    """A training has failed; `models` are the others."""

    def __init__(self, message: str, models: RetrainedModels) -> None:
        super().__init__(message)
        self.models = models


def retrain(
    candidates: Sequence[RetrainCandidate],
    task: Task,
    trainer: Trainer,
    *,
    rule: EpochRule,
    stretch_schedules: bool = True,
    tell: Callable[[Event], None] = lambda event: None,
) -> RetrainedModels:
    """Trains each candidate anew, all of them in one go.

    Args:
        candidates: what to train.
        task: build function, the call of the first candidate, and the clock; nothing is ranked.
        trainer: how.
        rule: for how many epochs.
        stretch_schedules: walk learning-rate schedules so that they end where they were at the best epoch.
        tell: takes events, for whoever shows them.

    Returns:
        Trained models in the order of the candidates (and of their seeds), each with its `history`.

    Raises:
        RetrainFailed: a candidate failed; the message says which and why.
        RetrainInterrupted: Ctrl+C, after at least one of them was trained.
    """
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            Plan(
                candidate.trial_id,
                number,
                candidate.values.copy(),
                seed,
                epochs=rule.epochs(candidate.best_epochs, candidate.first_epoch),
                weights_path=str(Path(folder) / f"{candidate.trial_id}-{number}.npz"),
                phase="retrain",
            )
            for candidate in candidates
            for number, seed in enumerate(candidate.seeds)
        ]
        by_id = {candidate.trial_id: candidate for candidate in candidates}
        # All at once, so that a population trains them together.
        supply = TimedSupply(plans, task.clock or Clock(), tell)
        try:
            trainer.train(supply, _task_of(candidates, task, rule, stretch_schedules=stretch_schedules))
        except KeyboardInterrupt:
            if models := _finished(plans, by_id, supply.results, task):
                raise RetrainInterrupted(models) from None
            raise
        models = _finished(plans, by_id, supply.results, task)
        failed = [result for result in supply.results.values() if not result.ending.has_score]
        if failed:
            what = "\n".join(f"trial {one.plan.trial_id} ended as {one.ending}.\n{one.message}" for one in failed)
            kept = f"The {len(models)} others are trained: evaluate() and export() take them. " if models else ""
            instead = f"{kept}Mend the cause, or leave these trials out: retrain([...]) takes ids."
            allowed = "trainings that end with a model"
            raise RetrainFailed(explain("retrain(...)", what.rstrip("."), allowed, instead), models)
        return models


def _task_of(candidates: Sequence[RetrainCandidate], task: Task, rule: EpochRule, *, stretch_schedules: bool) -> Task:
    """The task that trains candidates as the search trained them, but for what a retraining changes."""
    if stretch_schedules:
        # By values and not by trial: the build function is told nothing else.
        factors = {
            _key(one.values): one.steps_ratio * _span(one, rule) / max(1, _span(one, EpochRule(1.0)))
            for one in candidates
        }
        build = stretched_build(task.build, lambda hp: factors.get(_key(hp), 1.0))
        task = dataclasses.replace(task, build=build)
    several = [one for one in candidates if not one.has_one_fit]
    if task.fit is not None:
        # What a `fit` of the user's wants to be given, it is given: as nothing.
        parameters = inspect.signature(task.fit).parameters.values()
        wanted = [each.name for each in parameters if each.default is each.empty and each.name in VALIDATION_ARGUMENTS]
        lacks: dict[str, Any] = {name: None for name in wanted if name not in candidates[0].call.arguments}
        candidates = [dataclasses.replace(one, call=one.call.with_(**lacks)) for one in candidates]
    rates = {one.trial_id: (one.rates, _span(one, rule), one.first_epoch) for one in candidates if one.rates}
    alike = all(_alike(one.call, candidates[0].call) for one in candidates)
    return dataclasses.replace(
        task,
        call=candidates[0].call,
        # One that is the same for all serves a population; else each has its own.
        calls={} if alike else {one.trial_id: one.call for one in candidates},
        callbacks=functools.partial(_replayed_rates, rates) if rates else None,
        at_fit=None if task.fit is None else functools.partial(_for_all_rows, {one.trial_id for one in several}),
    )


def _alike(one: Call, other: Call) -> bool:
    """Whether two calls are the same: of the very same data and objects."""
    if one.callbacks != other.callbacks:
        return False
    first, second = ({**call.arguments, "callbacks": None} for call in (one, other))
    return list(first) == list(second) and all(value is second[name] for name, value in first.items())


def _span(candidate: RetrainCandidate, rule: EpochRule) -> int:
    """Epochs that a candidate is trained for by a rule."""
    return rule.epochs(candidate.best_epochs, candidate.first_epoch) - candidate.first_epoch


def _replayed_rates(rates: Mapping[str, tuple[Sequence[float | None], int, int]], plan: Plan) -> list[Any]:
    return [ReplayedRate(*rates[plan.trial_id])] if plan.trial_id in rates else []


def _for_all_rows(untouched: Collection[str], plan: Plan, call: Call) -> Call:
    """The call that a `fit` of the user's makes of Keras's, where all rows are trained on."""
    if plan.trial_id in untouched:
        return call  # one of several, each with its own epochs: nobody knows what they would be now
    # A plateau's rates are replayed, whatever it watched: in the search it was recorded by its name alone.
    plateau = keras.callbacks.ReduceLROnPlateau
    left_out = [
        one for one in call.callbacks if (reacts_to_validation(one) or isinstance(one, plateau)) and not is_ours(one)
    ]
    kept = [one for one in call.callbacks if one not in left_out]
    return call.with_(without=VALIDATION_ARGUMENTS, epochs=plan.epochs, callbacks=kept)


def _key(hyperparameters: HyperParameters) -> str:
    return repr(sorted(hyperparameters.values.items()))


def _finished(
    plans: Sequence[Plan],
    candidates: Mapping[str, RetrainCandidate],
    results: Mapping[tuple[str, int], Result],
    task: Task,
) -> RetrainedModels:
    """The models of those plans that ended with weights."""
    models, told = [], []
    for plan in plans:
        result, candidate = results.get(plan.key), candidates[plan.trial_id]
        if result is None or not result.ending.has_score:
            continue
        first = candidate.first_epoch
        models.append(_finished_model(plan, result, task, first))
        told.append(
            Retraining(
                plan.trial_id,
                plan.seed,
                max(0, result.num_epochs - first),
                (plan.epochs or 0) - first,
                candidate.changes,
                candidate.left_out,
                candidate.rates is not None,
                result.seconds,
            )
        )
    return RetrainedModels(models, told)


def _finished_model(plan: Plan, result: Result, task: Task, first_epoch: int) -> Any:
    estimator = pickle_path(str(plan.weights_path))
    if estimator.exists():
        return load_estimator(estimator)
    with seeded(plan.seed), distributed(distribution_of(task.devices)):
        model = build_model(task.build, plan.values.copy())
    load_weights(model, str(plan.weights_path))
    history = keras.callbacks.History()
    history.history = {name: list(curve[first_epoch:]) for name, curve in result.history.items()}
    history.epoch = list(range(first_epoch, result.num_epochs))
    model.history = history
    return model


def save_models(
    models: Sequence[keras.Model], names: Sequence[str], where: SavePath | Sequence[SavePath]
) -> list[Path]:
    """Saves models as `.keras` files, estimators as `.pickle` files.

    Args:
        models: what to save.
        names: of the files, where a folder is given.
        where: a folder, one path that ends in `.keras` for one model, or one such path per model.

    Returns:
        The paths.

    Raises:
        UsageError: another number of paths than of models.
    """
    if isinstance(where, list | tuple):
        paths = [Path(path) for path in where]
    elif str(where).endswith(".keras"):
        paths = [Path(str(where))]
    else:
        paths = [Path(str(where)) / f"{name}.keras" for name in names]
    if len(paths) != len(models):
        got = f"{len(paths)} paths for {len(models)} models"
        raise UsageError(
            explain("retrain(save_best=...)", got, "a folder, or one path per model", 'Type save_best="models".')
        )
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return [save_final(model, path) for model, path in zip(models, paths, strict=True)]
