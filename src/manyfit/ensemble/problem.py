"""One set of rows, what the members predicted on them and what was true: the input of every method.

| symbol | here | meaning |
|---|---|---|
| M | `num_members` | members |
| n | `num_rows` | rows |
| C | `num_outputs` | columns of a prediction: classes, labels, or outputs |
| P | `true_probability` | (N, M), the probability each member gave to what was true |
| v | `row_weight` | (n,), sums to one |
| K | `num_positions` | answers of a row: the pixels of a mask, the steps of a sequence; 1 for most |

Predictions of pixels and steps lie in one long axis, row after row: n is n * K in every shape of an array above but v.
What is a matter of chance, folds and bootstraps and standard errors, is counted and drawn by rows: the pixels of an
image go together.

Binary and multi-label tasks are sets of independent two-class questions, so N = n * C there and N = n elsewhere.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import math

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain

# The same floor everywhere, or the exact weights and the metric that judges them would minimise different losses.
EPSILON = 1e-7  # probabilities are kept this far from zero, as in Keras's cross-entropies
_SUM_TOLERANCE = 2e-2  # half precision, ten classes and a mixed-precision softmax stay well within


class PredictionTask(enum.StrEnum):
    """What the members predict."""

    BINARY = "binary"  # one column: the probability of 1
    MULTICLASS = "multiclass"  # one column per class, rows sum to one
    MULTILABEL = "multilabel"  # one column per label, each a probability of its own
    REGRESSION = "regression"  # one column per output (or per quantile)

    @property
    def probabilistic(self) -> bool:
        """Whether predictions are probabilities."""
        return self is not PredictionTask.REGRESSION

    @property
    def two_class(self) -> bool:
        """Whether each column is a two-class question of its own."""
        return self in (PredictionTask.BINARY, PredictionTask.MULTILABEL)


def two_columns(predictions: np.ndarray) -> np.ndarray:
    """Turns (M, n, C) probabilities of 1 into (M, n * C, 2) probabilities of 0 and 1."""
    flat = predictions.reshape(len(predictions), -1)
    return np.stack([1.0 - flat, flat], axis=-1)


@dataclasses.dataclass(frozen=True, eq=False)
class EnsembleProblem:
    """Predictions and truth on the rows that weights are learned from."""

    task: PredictionTask
    predictions: np.ndarray  # (M, n, C)
    target: np.ndarray  # (n,) class indices for multiclass; (n, C) otherwise
    row_weight: np.ndarray  # (n,), sums to one
    given: np.ndarray  # the labels as the user gave them, for metrics that are not ours
    positions: tuple[int, ...] = ()  # height and width, or steps; empty where a row has one answer
    position_weight: np.ndarray | None = None  # (n, K), each row of it sums to one; None: all alike
    parts: tuple[ProblemPart, ...] = ()  # where models have several outputs: see `manyfit.ensemble.outputs`
    groups: np.ndarray | None = None  # (n,) numbers: rows of one group are not independent of each other; None: all are

    @property
    def num_members(self) -> int:
        """M."""
        return len(self.predictions)

    @property
    def num_rows(self) -> int:
        """n."""
        return len(self.row_weight)

    @property
    def num_positions(self) -> int:
        """K."""
        return math.prod(self.positions)

    @property
    def num_outputs(self) -> int:
        """C."""
        return self.predictions.shape[2]

    def over_answers(self, row_weight: np.ndarray) -> np.ndarray:
        """(..., n * K) weights of answers, from (..., n) weights of rows; the sum stays."""
        if not self.positions:
            return row_weight
        spread = np.repeat(row_weight, self.num_positions, axis=-1)
        return spread / self.num_positions if self.position_weight is None else spread * self.position_weight.ravel()

    def per_row(self, losses: np.ndarray) -> np.ndarray:
        """(..., n) means over the answers of each row, of (..., n * K) losses."""
        if not self.positions:
            return losses
        losses = losses.reshape(*losses.shape[:-1], self.num_rows, self.num_positions)
        return losses.mean(-1) if self.position_weight is None else (losses * self.position_weight).sum(-1)

    def answers_of(self, rows: np.ndarray) -> np.ndarray:
        """Where the answers of some rows lie."""
        if not self.positions:
            return rows
        return (rows[:, None] * self.num_positions + np.arange(self.num_positions)).ravel()

    @functools.cached_property
    def answer_weight(self) -> np.ndarray:
        """(n * K,) weights of the answers, summing to one."""
        return self.over_answers(self.row_weight)

    @functools.cached_property
    def entry_weight(self) -> np.ndarray:
        """(N,) weights of the entries of `true_probability` and of `residual`, summing to one."""
        return self.answer_weight if self.task is PredictionTask.MULTICLASS else self.residual_weight

    @functools.cached_property
    def true_probability(self) -> np.ndarray:
        """P (N, M): the probability that each member gave to what was true, at least `EPSILON`."""
        if self.task is PredictionTask.MULTICLASS:
            chosen = self.predictions[:, np.arange(len(self.target)), self.target]
        else:
            chosen = np.where(self.target[None] > 0.5, self.predictions, 1.0 - self.predictions)
            chosen = chosen.reshape(self.num_members, -1)
        # Transposed at the end, not built as (N, M): methods take a few members at a time, whose numbers then lie
        # together in memory.
        return np.maximum(chosen, EPSILON).astype(np.float64, order="C", copy=False).T

    @functools.cached_property
    def log_true_probability(self) -> np.ndarray:
        """(N, M) log of `true_probability`, in the precision of the predictions: float32 logs are ten times as fast."""
        # Not in double for members in single precision: nothing would be gained, in ten times the time.
        precision = np.result_type(self.predictions.dtype, np.float32)
        return np.log(self.true_probability.T.astype(precision, copy=False)).astype(np.float64, copy=False).T

    @functools.cached_property
    def residual(self) -> np.ndarray:
        """(N, M): prediction minus truth, rows times outputs."""
        target = self.one_hot if self.task is PredictionTask.MULTICLASS else self.target
        difference = self.predictions.astype(np.float64) - target[None]
        return difference.reshape(self.num_members, -1).T

    @functools.cached_property
    def residual_weight(self) -> np.ndarray:
        """(n * C,) weights of the rows of `residual`, summing to one."""
        return np.repeat(self.answer_weight / self.num_outputs, self.num_outputs)

    @functools.cached_property
    def one_hot(self) -> np.ndarray:
        """(n, C) indicator of the true class."""
        return np.eye(self.num_outputs)[self.target]

    def rows(self, chosen: np.ndarray) -> EnsembleProblem:
        """The same problem on some of its rows, weights renormalised."""
        weight = self.row_weight[chosen]
        total = weight.sum()
        # A fold may hold rows of weight zero only.
        weight = weight / total if total > 0 else np.full(len(weight), 1.0 / len(weight))
        answers, within = self.answers_of(chosen), self.position_weight
        return dataclasses.replace(
            self,
            predictions=self.predictions[:, answers],
            target=self.target[answers],
            row_weight=weight,
            given=self.given[chosen],
            position_weight=None if within is None else within[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            parts=tuple(part.with_(part.problem.rows(chosen)) for part in self.parts),
        )

    def grouped(self, groups: ArrayLike | None) -> EnsembleProblem:
        """The same problem, whose rows with one label are not independent of each other.

        Args:
            groups: (n,) labels of any kind; None: every row is independent of all others.
        """
        numbers = None if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
        return dataclasses.replace(self, groups=numbers)

    def members(self, chosen: np.ndarray) -> EnsembleProblem:
        """The same problem with some of its members."""
        return dataclasses.replace(self, predictions=self.predictions[chosen])

    def weighted(self, row_weight: np.ndarray) -> EnsembleProblem:
        """The same problem with other row weights, as a bootstrap sample needs."""
        parts = tuple(part.with_(part.problem.weighted(row_weight)) for part in self.parts)
        return dataclasses.replace(self, row_weight=row_weight / row_weight.sum(), parts=parts)

    def thinned(self, max_numbers: int, rng: np.random.Generator) -> EnsembleProblem:
        """The same rows with some of their positions, drawn for each row, so that a member has so many numbers at most.

        The pixels of an image tell nearly the same: fewer of each cost little, fewer images would cost much.
        """
        count = max(1, max_numbers // max(1, self.num_rows * self.num_outputs))
        if self.num_positions <= count:
            return self
        kept = np.sort(rng.random((self.num_rows, self.num_positions)).argpartition(count, axis=1)[:, :count], axis=1)
        answers = (np.arange(self.num_rows)[:, None] * self.num_positions + kept).ravel()
        within = self.position_weight
        if within is not None:
            within = _shares(np.take_along_axis(within, kept, axis=1))
        return dataclasses.replace(
            self,
            predictions=self.predictions[:, answers],
            target=self.target[answers],
            positions=(count,),
            position_weight=within,
        )

    def among(self, members: np.ndarray, num_members: int) -> EnsembleProblem:
        """The same problem among all members, with NaN for those that are not in it.

        Args:
            members: indices of those that are.
            num_members: how many there are in all.
        """
        if len(members) == num_members:
            return self
        full = np.full((num_members, *self.predictions.shape[1:]), np.nan)
        full[members] = self.predictions
        return dataclasses.replace(self, predictions=full)


@dataclasses.dataclass(frozen=True, eq=False)
class ProblemPart:
    """One output of several: its labels, and which columns of the whole prediction are its own."""

    name: str
    problem: EnsembleProblem  # with one member's predictions, which nobody reads
    columns: slice
    share: float  # of the sum of losses

    def with_(self, problem: EnsembleProblem) -> ProblemPart:
        """The same part of other rows."""
        return dataclasses.replace(self, problem=problem)


def make_problem(
    predictions: np.ndarray,
    y: ArrayLike,
    *,
    task: PredictionTask | str | None = None,
    sample_weight: ArrayLike | None = None,
) -> EnsembleProblem:
    """Checks predictions and labels, finds the task, and brings both into one form.

    Args:
        predictions: (M, n, C), or (M, n, ..., C) with an answer for every pixel or step; finite.
        y: (n,) or (n, 1) labels or values, (n, C) one-hot labels, labels or values; one for every pixel or step.
        task: what the members predict; None finds it from the numbers.
        sample_weight: (n,), or one for every pixel or step; not negative; or None.

    Raises:
        UsageError: rows of predictions and labels differ in number.
        UsageError: labels do not fit the task, the positions or the columns of the predictions.
        UsageError: predictions of a classification task are not probabilities.
        UsageError: sample weights are negative, not finite, all zero, or of another length.
    """
    given = np.asarray(y)
    if given.ndim == 0 or len(given) != predictions.shape[1]:
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"{0 if given.ndim == 0 else len(given)} labels for {predictions.shape[1]} predicted rows",
                "one label per predicted row, in the same order",
                "Give the labels of exactly the rows that were predicted.",
            )
        )
    if len(given) == 0:
        raise UsageError(explain("Ensemble.fit(y)", "no rows", "some rows", "Give the validation rows."))
    positions = predictions.shape[2:-1]
    labels = _labels_by_answer(given, positions, predictions.shape)
    predictions = predictions.reshape(len(predictions), -1, predictions.shape[-1])
    # Keras takes a column and a row of labels for the same thing, and so do we.
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    found = PredictionTask(task) if task is not None else infer_task(predictions, labels)
    target = _target(found, predictions, labels)
    if found.probabilistic:
        predictions = _probabilities(found, predictions)
    weight, within = _weights(sample_weight, len(given), positions)
    return EnsembleProblem(found, predictions, target, weight, given, positions, within)


def _labels_by_answer(given: np.ndarray, positions: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Labels with the positions of each row in the first axis: (n * K,) or (n * K, C)."""
    if not positions:
        return given
    inner = given.shape[1:]
    if inner == positions:
        return given.reshape(-1)
    if inner[:-1] == positions and inner[-1] in (1, shape[-1]):
        return given.reshape(-1, inner[-1])
    raise UsageError(
        explain(
            "Ensemble.fit(y)",
            f"labels of shape {given.shape} for predictions of shape {shape[1:]}",
            f"labels of shape {(len(given), *positions)} or {shape[1:]}: one for every answer",
            "Give the labels as the members' fit takes them.",
        )
    )


def _is_probability(predictions: np.ndarray) -> bool:
    return bool(predictions.min() >= -1e-6 and predictions.max() <= 1 + 1e-3)


def _sums_to_one(predictions: np.ndarray) -> bool:
    return bool(np.abs(predictions.sum(axis=-1, dtype=np.float64) - 1).max() <= _SUM_TOLERANCE)


def _zero_or_one(labels: np.ndarray) -> bool:
    return labels.dtype.kind in "biuf" and bool(np.isin(labels, (0, 1)).all())


def infer_task(predictions: np.ndarray, labels: np.ndarray) -> PredictionTask:
    """Finds the task from the numbers alone: probabilities or not, rows that sum to one or not, labels or values.

    A saved model does not tell what its outputs mean, and asking for a task would be one more thing to get wrong.
    Labels that are texts can only be classes. Otherwise predictions decide first, since values within [0, 1] that sum
    to one are hardly an accident, and labels tell the rest. `task=` overrules it.
    """
    num_outputs = predictions.shape[-1]
    if labels.dtype.kind not in "biuf":
        return PredictionTask.BINARY if num_outputs == 1 else PredictionTask.MULTICLASS
    if not _is_probability(predictions):
        looks_like_labels = labels.ndim == 1 and num_outputs > 1
        return PredictionTask.MULTICLASS if looks_like_labels else PredictionTask.REGRESSION
    if num_outputs == 1:
        return PredictionTask.BINARY if labels.ndim == 1 and _zero_or_one(labels) else PredictionTask.REGRESSION
    # Several columns and one label a row: classes, whether or not the columns have the sum one.
    if labels.ndim == 1:
        return PredictionTask.MULTICLASS
    if not _zero_or_one(labels):
        return PredictionTask.REGRESSION
    return (
        PredictionTask.MULTICLASS
        if _sums_to_one(predictions) and (labels.sum(axis=1) == 1).all()
        else PredictionTask.MULTILABEL
    )


def _target(task: PredictionTask, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    num_outputs = predictions.shape[-1]
    if labels.dtype.kind not in "biuf":
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"labels of type {labels.dtype}",
                "numbers: class indices, one-hot rows, 0/1 labels or values",
                "Encode the classes as 0, 1, 2, ... in the order of the columns of the predictions.",
            )
        )
    # Members may have NaN, they get weight zero; a label may not, since no member could be judged by it.
    if not np.isfinite(labels).all():
        raise UsageError(
            explain("Ensemble.fit(y)", "labels that are NaN or inf", "finite labels", "Leave out those rows.")
        )
    if task is PredictionTask.MULTICLASS:
        return _class_indices(labels, num_outputs)
    target = labels.reshape(len(labels), -1).astype(np.float64)
    if target.shape[1] != num_outputs:
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"labels of shape {labels.shape} for predictions with {num_outputs} columns, as {task.value}",
                f"labels of shape ({len(labels)}, {num_outputs})",
                'Give one label per column, or say which task it is: task="multiclass".',
            )
        )
    if task.two_class and not _zero_or_one(target):
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"labels between {target.min():g} and {target.max():g}, as {task.value}",
                "0 and 1",
                'Encode the labels as 0 and 1, or pass task="regression".',
            )
        )
    return target


def _class_indices(labels: np.ndarray, num_classes: int) -> np.ndarray:
    if labels.ndim == 2:
        if labels.shape[1] != num_classes or not _zero_or_one(labels) or not (labels.sum(axis=1) == 1).all():
            raise UsageError(
                explain(
                    "Ensemble.fit(y)",
                    f"labels of shape {labels.shape} for predictions with {num_classes} classes",
                    "class indices of shape (n,), or one-hot rows with one column per class",
                    "Give y.argmax(axis=1) if the rows are soft labels.",
                )
            )
        return labels.argmax(axis=1)
    indices = labels.astype(np.int64)
    if labels.ndim != 1 or (indices != labels).any() or indices.min() < 0 or indices.max() >= num_classes:
        raise UsageError(
            explain(
                "Ensemble.fit(y)",
                f"labels between {labels.min():g} and {labels.max():g} for predictions with {num_classes} classes",
                f"whole numbers from 0 to {num_classes - 1}",
                "Encode the classes as 0, 1, 2, ... in the order of the columns of the predictions.",
            )
        )
    return indices


def _probabilities(task: PredictionTask, predictions: np.ndarray) -> np.ndarray:
    if not _is_probability(predictions) or (task is PredictionTask.MULTICLASS and not _sums_to_one(predictions)):
        raise UsageError(
            explain(
                "Ensemble.fit(predictions)",
                f"numbers between {predictions.min():g} and {predictions.max():g} that are no probabilities",
                f"probabilities, for a {task.value} task",
                "Apply softmax or sigmoid to logits first, or pass the Keras models: "
                "their from_logits losses are understood.",
            )
        )
    # Softmax in half precision may say 1.0001.
    clipped = np.clip(predictions, 0, 1)
    if task is PredictionTask.MULTICLASS:
        sums = clipped.sum(axis=-1, keepdims=True, dtype=np.float64)
        if np.abs(sums - 1).max() > 1e-5:  # half precision; exact sums are left alone, bit for bit
            clipped = clipped / sums
    return clipped


def _weights(
    sample_weight: ArrayLike | None, num_rows: int, positions: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weights of rows, with the sum one; and of the positions within each row, None where these are alike."""
    if sample_weight is None:
        return np.full(num_rows, 1.0 / num_rows), None
    weight = np.asarray(sample_weight)
    if weight.dtype.kind not in "fiub":
        got, instead = f"{weight.dtype} in place of numbers", "Leave it out for equal ones."
        raise UsageError(explain("Ensemble.fit(sample_weight)", got, "one number per row", instead))
    weight = weight.astype(np.float64)
    by_position = bool(positions) and weight.size == num_rows * math.prod(positions) and weight.size != num_rows
    weight = weight.reshape(num_rows, -1) if by_position else weight.reshape(-1)
    if len(weight) != num_rows or not np.isfinite(weight).all() or weight.min() < 0 or weight.sum() <= 0:
        raise UsageError(
            explain(
                "Ensemble.fit(sample_weight)",
                f"{len(weight)} weights for {num_rows} rows" if len(weight) != num_rows else "unusable weights",
                "one finite weight per row, none negative, not all zero",
                "Leave sample_weight out to weigh all rows alike.",
            )
        )
    if not by_position:
        return weight / weight.sum(), None
    return weight.sum(axis=1) / weight.sum(), _shares(weight)


def _shares(weight: np.ndarray) -> np.ndarray:
    """Every row divided by its sum; a row of zeros, which has no weight either, becomes equal shares."""
    total = weight.sum(axis=1, keepdims=True)
    return np.where(total > 0, weight / np.where(total > 0, total, 1.0), 1.0 / weight.shape[1])
