"""Folds after a search: a confirmation on other splits, and predictions of rows that a model did not train on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import keras
import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.arguments import joined_rows
from manyfit.data.call import Call
from manyfit.data.folds import CrossValidation, FoldPlan, random_splits
from manyfit.data.kinds import FitData, map_leaves
from manyfit.data.rows import Rows
from manyfit.evidence.book import SEEDS_APART
from manyfit.finish.fold_runs import fold_names
from manyfit.training.base import Task


@dataclasses.dataclass(frozen=True)
class Resplit:
    """What a confirmation trains on.

    Attributes:
        task: of its runs.
        name: of the splits.
        folds: names of the splits of the first seeds, if others may train on them, too: see `fold_runs.fold_names`.
    """

    task: Task
    name: str
    folds: tuple[str, ...] = ()


def resplit(task: Task, cross_validation: object, new_splits: bool, seed: int) -> Resplit:
    """A confirmation's task, with a fold or a fresh split for every seed if asked for.

    Args:
        task: of the search.
        cross_validation: what the user gave, or None.
        new_splits: cut training and validation rows anew for every seed, in the search's proportion.
        seed: of the study.

    Raises:
        UsageError: both are asked for; there are no validation rows to cut anew; the rows are no arrays.
    """
    if cross_validation is not None and new_splits:
        got = "cross_validation= and new_splits=True"
        raise UsageError(explain("confirm()", got, "one of the two", "Leave new_splits out: folds are new splits."))
    if cross_validation is None and not new_splits:
        return Resplit(task, "splits of the search" if task.split_for is not None else "rows of the search")
    counts = task.call.counted_rows()
    joined, rows = of_all_rows("confirm(cross_validation=...)", task)
    shared: tuple[str, ...] = ()
    if cross_validation is not None:
        settings = CrossValidation.of(cross_validation)
        folds, name = settings.resolve(rows.x, rows.y), repr(settings)
        # Of one round of all folds: more weights would be kept than a bag asks for.
        plan = FoldPlan(folds, folds.num_splits * settings.repeats)
        shared = tuple(fold_names(plan, rows, joined.call))
    else:
        if rows.num_rows is None or counts is None or not counts[1]:
            raise UsageError(
                explain(
                    "confirm(new_splits=True)",
                    "a search without validation rows as arrays",
                    "validation_data= as arrays, or validation_split=",
                    "Leave new_splits out, or pass cross_validation=5.",
                )
            )
        folds, name = random_splits(rows.num_rows, counts[1], seed), "new splits"
    # What keeps row losses knows the rows of the search only.
    # Seeds of a later protocol begin at a number of their own, and with the first fold.
    splits = dataclasses.replace(joined, split_for=lambda plan: folds.split(plan.execution % SEEDS_APART), keep=None)
    return Resplit(splits, name, shared)


def of_all_rows(where: str, task: Task) -> tuple[Task, Rows]:
    """A search's task whose validation rows join the others: which of them validate is for each split to say.

    Args:
        where: who asks, for messages.
        task: of the search.

    Returns:
        The task, and its rows.

    Raises:
        UsageError: the rows cannot be joined, or a trial was trained on another number of them.
    """
    rows = joined_rows(where, task.call)
    without = ("validation_data", "validation_split")
    calls = {trial_id: _joined(where, own, rows, trial_id) for trial_id, own in task.calls.items()}
    calls = {trial_id: own.with_(without=without) for trial_id, own in calls.items()}
    return dataclasses.replace(task, call=task.call.with_(without=without, rows=rows), calls=calls), rows


def _joined(where: str, call: Call, rows: Rows, trial_id: str) -> Call:
    """A trial's own call with all of its rows to train on; they have to be as many as all others have."""
    own = joined_rows(where, call)
    if own.num_rows != rows.num_rows:
        got = f"trial {trial_id}, which was trained on {own.num_rows} rows of its own, beside {rows.num_rows}"
        instead = "Train all trials on the same rows, or leave the folds out."
        raise UsageError(explain(where, got, "trials of the same rows", instead))
    return call.with_(rows=own)


def out_of_fold(plan: FoldPlan, call: Call) -> tuple[np.ndarray, FitData, FitData]:
    """The rows that some fold validates, with their targets: what out-of-fold predictions are compared with.

    Returns:
        Row numbers in ascending order, y of these rows, sample weights or None.
    """
    covered = np.unique(np.concatenate([plan.folds.split(index).validation for index in range(plan.num_splits)]))
    held_out = call.rows.take(covered)
    return covered, held_out.y, held_out.sample_weight


def predict_out_of_fold(
    plan: FoldPlan, load: Callable[[int], keras.Model], executions: Sequence[int], x: FitData, covered: np.ndarray
) -> FitData:
    """Predictions of a trial's fold models, each on the rows that it never trained on.

    Args:
        plan: the folds.
        load: execution -> the model of that fold.
        executions: of the trial.
        x: all rows.
        covered: row numbers that are wanted.

    Returns:
        (len(covered), ...), of several outputs a list or a dictionary of such: the mean over the repeats in which a
        row was held out.
    """
    counts = np.zeros(int(covered.max()) + 1)
    total: FitData = None

    def added(predicted: np.ndarray, sums: np.ndarray) -> np.ndarray:
        np.add.at(sums, rows, predicted)
        return sums

    for execution in executions:
        rows = plan.folds.split(execution % plan.num_splits).validation
        predicted = load(execution).predict(Rows.of(x).take(rows).x, verbose=0)
        if total is None:
            total = map_leaves(lambda output: np.zeros((len(counts), *output.shape[1:])), predicted)
        # Added up and divided later: with repeats a row is held out several times, by other models.
        total = map_leaves(added, predicted, total)
        counts[rows] += 1
    assert (counts[covered] > 0).all()  # our bug: every fold of a completed trial was run
    return map_leaves(lambda sums: sums[covered] / counts[covered].reshape(-1, *[1] * (sums.ndim - 1)), total)
