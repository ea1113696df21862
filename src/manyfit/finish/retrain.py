"""Retrains winners on all data, for the number of epochs that their own curves call for."""

from __future__ import annotations

import dataclasses
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import keras

from manyfit.core import seeds
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.records import Decision, Plan, Result
from manyfit.data.arguments import VALIDATION_ARGUMENTS, joined_rows
from manyfit.data.call import Call
from manyfit.data.rows import FitData, Rows
from manyfit.finish.schedules import stretched_build
from manyfit.oracles import Oracle, Trial
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import FixedSupply, Permissions, Task, Trainer
from manyfit.training.devices import distributed, distribution_of
from manyfit.training.estimators import load_estimator, pickle_path
from manyfit.training.models import build_model
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_weights

#: The phase of the runs with patience that look for a best epoch beyond the search's last one.
LONGER = "longer"
_LONGER_FACTOR = 5  # such a run may be so many times as long as the longest one so far
_LONGER_PATIENCE = 0.2  # and ends after this share of that one without a better epoch, or after 5 epochs


SavePath: TypeAlias = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class RetrainCandidate:
    """A winner to retrain."""

    trial_id: str
    values: HyperParameters
    best_epochs: Sequence[int]  # of its executions (folds and fresh seeds included), counted from 0
    seeds: Sequence[int]  # one per model that is wanted


class PatientSupply(FixedSupply):
    """Ends an execution that has not become better for a while, and writes it into the book.

    Args:
        plans: what to run.
        oracle: objective and book.
        patience_epochs: by trial id.
    """

    def __init__(self, plans: Sequence[Plan], oracle: Oracle, patience_epochs: Mapping[str, int]) -> None:
        super().__init__(plans)
        self._oracle = oracle
        self._patience = patience_epochs
        self._best: dict[tuple[str, int], tuple[float, int]] = {}

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._oracle.book.add_epochs(epochs)
        return [self._decide(*row) for row in epochs]

    def _decide(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> Decision:
        objective = self._oracle.objective
        loss = objective.loss(objective.get_value(logs)) if objective.has_value(logs) else math.inf
        best, since = self._best.get(plan.key, (math.inf, -1))
        if loss < best:
            self._best[plan.key] = (loss, epoch)
            return Decision.GO_ON
        return Decision.STOP if epoch - since >= self._patience[plan.trial_id] else Decision.GO_ON

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        super().finish(result)
        self._oracle.book.add_execution(result)


def candidates_of(trials: Sequence[Trial], seed: int, executions: int) -> list[RetrainCandidate]:
    """What is known of winners. A run with patience outweighs all others, which were cut short."""
    candidates = []
    for trial in trials:
        runs = [*trial.executions.values(), *(run for kind in trial.replicates.values() for run in kind.values())]
        longer = [run for run in trial.executions_of(LONGER).values() if run.best_epoch is not None]
        epochs = [run.best_epoch for run in longer or runs if run.best_epoch is not None]
        # The first model has the seed that it had before `executions=` existed; asking for more keeps it.
        path = [(trial.trial_id,), *((trial.trial_id, number) for number in range(1, executions))]
        own = [seeds.seed_of(seed, "retrain", *names) for names in path]
        candidates.append(RetrainCandidate(trial.trial_id, trial.hyperparameters, epochs, own))
    return candidates


def cut_short(trial: Trial) -> bool:
    """Whether at least half of a trial's runs were best in their last epoch: training on might have been better."""
    runs = [run for run in trial.executions.values() if run.best_epoch is not None]
    runs += [run for kind in trial.replicates.values() for run in kind.values() if run.best_epoch is not None]
    at_the_end = sum(run.best_epoch == run.num_epochs - 1 for run in runs)
    return bool(runs) and not trial.executions_of(LONGER) and 2 * at_the_end >= len(runs)


def train_longer(
    trials: Sequence[Trial], oracle: Oracle, task: Task, trainer: Trainer, *, say: Callable[[str], None]
) -> None:
    """One run with patience for each trial whose curves were cut short, on the rows of the search.

    Args:
        trials: the winners.
        oracle: objective, seed and book.
        task: of the search.
        trainer: how.
        say: takes one line of text for people.
    """
    # Only where the curves say so: the run may be several times as long as the longest of the search.
    short = [t for t in trials if cut_short(t) and trainer.trains_in_epochs(t.hyperparameters, task)]
    if not short:
        return
    names = ", ".join(trial.trial_id for trial in short)
    if task.call.x is None:
        say(
            f"retrain: trials {names} were still improving in their last epoch; their last epoch is taken for the best."
        )
        return
    longest = {t.trial_id: max(run.num_epochs for run in t.executions.values()) for t in short}
    patience = {trial_id: max(5, math.ceil(_LONGER_PATIENCE * epochs)) for trial_id, epochs in longest.items()}
    say(
        f"retrain: trials {names} were still improving in their last epoch. Each gets one run of up to "
        f"{_LONGER_FACTOR} times as many epochs, with patience, to find its best epoch."
    )
    plans = [
        Plan(
            trial.trial_id,
            0,
            trial.hyperparameters.copy(),
            seeds.seed_of(oracle.seed, LONGER, trial.trial_id),
            epochs=_LONGER_FACTOR * longest[trial.trial_id],
            phase=LONGER,
        )
        for trial in short
    ]
    may = Permissions(share_callbacks=task.may.share_callbacks)
    trainer.train(PatientSupply(plans, oracle, patience), dataclasses.replace(task, callbacks=None, may=may))
    for trial in short:
        [run] = trial.executions_of(LONGER).values()
        found = "failed" if run.best_epoch is None else f"best in epoch {run.best_epoch + 1} of {run.num_epochs}"
        say(f"retrain: trial {trial.trial_id} in that run: {found}.")


def num_epochs(best_epochs: Sequence[int], epochs_factor: float) -> int:
    """Epochs to retrain for: the median best epoch, counted from 1, times a factor, because there is more data.

    Example:

    >>> num_epochs([9, 9, 14], 1.2)
    12
    """
    return max(1, round(statistics.median(epoch + 1 for epoch in best_epochs) * epochs_factor))


def retrain(
    candidates: Sequence[RetrainCandidate],
    task: Task,
    trainer: Trainer,
    *,
    epochs_factor: float = 1.2,
    steps_ratio: float | None = None,
) -> list[keras.Model]:
    """Trains each candidate anew, all of them in one go.

    Args:
        candidates: what to train.
        task: build function, all the data, fit arguments; nothing is ranked.
        trainer: how.
        epochs_factor: see `num_epochs`.
        steps_ratio: steps per epoch now by those of the search: learning-rate schedules are stretched so that they end
            where they were at the best epoch. None leaves them as they are.

    Returns:
        Trained models in the order of the candidates (and of their seeds), each with its `history`.

    Raises:
        UsageError: `epochs_factor` is not above 0.
        SearchError: a candidate failed; the message says which and why.
    """
    if not epochs_factor > 0:
        raise UsageError(
            explain("retrain(epochs_factor=...)", epochs_factor, "more than 0", "Type epochs_factor=1.2, the default.")
        )
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            Plan(
                candidate.trial_id,
                number,
                candidate.values.copy(),
                seed,
                epochs=num_epochs(candidate.best_epochs, epochs_factor),
                weights_path=str(Path(folder) / f"{candidate.trial_id}-{number}.npz"),
                phase="retrain",
            )
            for candidate in candidates
            for number, seed in enumerate(candidate.seeds)
        ]
        # All at once, so that a population trains them together.
        supply = FixedSupply(plans)
        trained = task
        if steps_ratio is not None:
            factors = [num_epochs(c.best_epochs, epochs_factor) / num_epochs(c.best_epochs, 1.0) for c in candidates]
            # By values and not by trial: the build function is told nothing else.
            by_values = {_key(c.values): steps_ratio * factor for c, factor in zip(candidates, factors, strict=True)}
            trained = dataclasses.replace(
                task, build=stretched_build(task.build, lambda hp: by_values.get(_key(hp), 1.0))
            )
        trainer.train(supply, trained)
        return [_finished_model(plan, supply.results[plan.key], task) for plan in plans]


def _key(hyperparameters: HyperParameters) -> str:
    return repr(sorted(hyperparameters.values.items()))


def _finished_model(plan: Plan, result: Result, task: Task) -> keras.Model:
    if not result.ending.has_score:
        raise SearchError(f"retrain: trial {plan.trial_id} ended as {result.ending}.\n{result.message}")
    estimator = pickle_path(str(plan.weights_path))
    if estimator.exists():
        return load_estimator(estimator)
    with seeded(plan.seed), distributed(distribution_of(task.devices)):
        model = build_model(task.build, plan.values.copy())
    load_weights(model, str(plan.weights_path))
    history = keras.callbacks.History()
    history.history = {name: list(curve) for name, curve in result.history.items()}
    history.epoch = list(range(plan.epochs or 0))
    model.history = history
    return model


def call_for_all_data(searched: Call, x: FitData, y: FitData, callbacks: object) -> Call:
    """The call of a search, turned into that of a retraining.

    Args:
        searched: the call of the search.
        x: all rows; None joins the search's training and validation rows.
        y: their targets.
        callbacks: None takes those of the search that watch no metric (a `LearningRateScheduler`, say): without
            validation rows there is nothing for the others to watch.

    Raises:
        UsageError: x is None, and the search's data cannot be joined; or x has fewer rows than the search trained on.
    """
    if x is None:
        rows = joined_rows("retrain()", searched)
    else:
        rows = Rows.of(x, y)
        _check_rows(rows.num_rows, searched.counted_rows())
    if callbacks is None:
        callbacks = [one for one in searched.callbacks if not hasattr(one, "monitor")]
    return searched.with_(rows=rows, without=VALIDATION_ARGUMENTS).with_(callbacks=callbacks)


def steps_ratio(searched: Call, now: Call) -> float:
    """Steps per epoch of a retraining by those of the search; 1 where rows cannot be counted."""
    before, rows = searched.counted_rows(), now.num_rows
    if before is None or rows is None or not before[0]:
        return 1.0
    # In steps, because that is what schedules of learning rates count.
    old_size, new_size = (call.get("batch_size") or 32 for call in (searched, now))
    return math.ceil(rows / new_size) / math.ceil(before[0] / old_size)


def _check_rows(rows: int | None, searched: tuple[int, int] | None) -> None:
    if rows is None or searched is None or rows >= searched[0]:
        return
    training, validation = searched
    raise UsageError(
        explain(
            "retrain(x=...)",
            f"{rows} rows, while the search trained on {training} and validated on {validation}",
            f"at least {training} rows, best all {training + validation}",
            "Pass training and validation rows, or leave x and y out: those of the search are joined.",
        )
    )


def save_models(
    models: Sequence[keras.Model], names: Sequence[str], where: SavePath | Sequence[SavePath]
) -> list[Path]:
    """Saves models as `.keras` files.

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
    for model, path in zip(models, paths, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return paths
