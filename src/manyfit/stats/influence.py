"""How much each row moves a metric: with it, a metric that is no mean has the same standard errors as one that is.

A metric T of N rows changes, when row j gets a little more weight, in proportion to its *influence* I_j. These have
mean 0, and var(T) is about sum I_j^2 / N^2 (Hampel 1974). So `value + influence` is used as a loss per row by `crossed`
and `paired`, and the interval is taken on a scale whose ends stay where the metric can be.

| metric | influence of row j |
|---|---|
| mean of losses l_j | l_j - mean |
| RMSE | (e_j^2 - MSE) / (2 RMSE) |
| R2 | -(1 - R2) (e_j^2 / MSE - (y_j - mean y)^2 / var y) |
| balanced accuracy | sum over classes c of [y_j = c] (right_j - recall_c) / (C share_c) |
| AUC | (V_j - AUC) / share of its class; V_j: share of the other class ranked right against j (DeLong 1988) |
| F1 | (2 TP_j - F1 (2 TP_j + FP_j + FN_j)) / mean of (2 TP + FP + FN); macro: mean over classes (Takahashi 2022) |
| precision | (TP_j - precision (TP_j + FP_j)) / mean of (TP + FP), over all columns at once, as Keras counts |
| recall | (TP_j - recall (TP_j + FN_j)) / mean of (TP + FN), likewise |

With row weights w, means are weighted and I_j is multiplied by w_j N / sum w.

A row whose prediction is not a number counts as the worst: the largest loss, a wrong decision, the last rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyfit.core.errors import UsageError, explain
from manyfit.stats.components import Components, crossed, worst_for_missing
from manyfit.stats.intervals import Array, Scale

Mask = NDArray[np.bool_]
_EPSILON = 1e-7  # Keras's own: what a probability of 0 counts as


@dataclasses.dataclass(frozen=True, slots=True)
class Influence:
    """A metric of one run, and what each row does to it."""

    value: float  # NaN where the rows cannot say: see `reason`
    rows: Array  # (rows,), mean 0, in the units of the metric
    scale: Scale
    rare_rows: int = 0  # rows of the rarer class, where two classes decide
    num_missing: int = 0  # rows without a prediction, counted as the worst
    reason: str = ""  # why there is no value

    @property
    def losses(self) -> Array:
        """Value plus influence: what `crossed` and `paired` take as this run's row."""
        return self.value + self.rows


def components_of(
    runs: Sequence[Influence], *, groups: ArrayLike | None = None, blocks: int | bool | None = None
) -> Components:
    """The components of a metric over several runs of one configuration on the same rows.

    Args:
        runs: what `influence_of` gave for each run.
        groups: as in `crossed`.
        blocks: as in `crossed`.

    Raises:
        UsageError: no runs, a metric without a value, and what `crossed` raises.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(2, size=200)
    >>> runs = [influence_of("accuracy", truth, truth * 0.4 + rng.uniform(0.0, 0.7, 200)) for _ in range(5)]
    >>> print(components_of(runs).interval())
    0.807 [0.7791, 0.8322]
    """
    if not runs:
        raise UsageError(explain("components_of(runs)", "none", "one or more runs", "Run the configuration first."))
    if reason := next((run.reason for run in runs if not np.isfinite(run.value)), ""):
        raise UsageError(explain("components_of(runs)", reason, "a metric with a value", "Use the loss instead."))
    return crossed(
        np.stack([run.losses for run in runs]),
        groups=groups,
        blocks=blocks,
        scale=runs[0].scale,
        rare_rows=min(run.rare_rows for run in runs),
    )


def mean_influence(losses: ArrayLike, *, sample_weight: ArrayLike | None = None, scale: Scale = Scale.LOG) -> Influence:
    """The influence of rows on the mean of their losses.

    Args:
        losses: one per row; what is not finite counts as the largest of the others.
        sample_weight: one per row.
        scale: `Scale.LOG` for losses that are never negative, else `Scale.PLAIN`.

    Raises:
        UsageError: not one number per row, or weights that are negative or all 0.

    Example:

    >>> mean_influence([1.0, 2.0, 6.0]).rows.tolist()
    [-2.0, -1.0, 3.0]
    """
    rows, missing = worst_for_missing(losses)
    if rows.ndim != 1 or rows.size == 0:
        got = f"an array of shape {rows.shape}"
        raise UsageError(explain("mean_influence(losses)", got, "one loss per row", "Take means over outputs first."))
    weight = _weights(sample_weight, rows.size)
    if missing == rows.size:
        return _undefined(rows.size, scale, "no row has a prediction")
    mean = float((weight * rows).mean())
    if scale is Scale.LOG and rows.min() < 0:
        scale = Scale.PLAIN
    return Influence(mean, weight * (rows - mean), scale, num_missing=missing)


def influence_of(
    metric: str,
    y_true: ArrayLike,
    y_pred: ArrayLike,
    *,
    sample_weight: ArrayLike | None = None,
    threshold: float = 0.5,
    quantiles: ArrayLike = 0.5,
    k: int = 5,
) -> Influence:
    """A metric of one run's predictions, with the influence of each row.

    Args:
        metric: by Keras's or scikit-learn's name, with or without ``val_``: the losses of probabilities and values,
            RMSE, R2, accuracy, top-k accuracy, balanced accuracy, AUC, F1, precision, recall, pinball. `METRICS` holds
            them.
        y_true: (rows,) labels or values, or (rows, columns): one-hot, several labels, several values.
        y_pred: (rows,) or (rows, columns): probabilities or values.
        sample_weight: one per row.
        threshold: from which on the probability of the second class, or of a label, decides for it.
        quantiles: of the pinball loss, one for all columns or one each.
        k: of the top-k accuracy.

    Returns:
        A `value` of NaN with its `reason` where the rows cannot say (one class only for AUC).

    Raises:
        UsageError: a name that is none of them, shapes that do not fit, or weights that are negative or all 0.

    Example:

    >>> found = influence_of("auc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    >>> found.value, found.rows.tolist()
    (0.75, [0.5, -0.5, -0.5, 0.5])
    """
    name = metric_name(metric)
    if name is None:
        allowed = f"one of {', '.join(METRICS)}"
        raise UsageError(explain("influence_of(metric)", metric, allowed, "Use mean_influence for losses per row."))
    case = _Case.of(y_true, y_pred, sample_weight, threshold)
    if case.missing.all():
        return _undefined(len(case.weight), Scale.PLAIN, "no row has a prediction")
    if name == "pinball":
        return case.mean(_pinball(case, np.asarray(quantiles, dtype=float)))
    if name == "top_k":
        return case.share(_in_top(case, k))
    return METRICS[name](case)


@dataclasses.dataclass(frozen=True)
class _Case:
    """Truths and predictions in one form."""

    truth: Array  # (rows, columns): 0 or 1 for classes
    prediction: Array  # (rows, columns); where missing: 0
    weight: Array  # (rows,), mean 1
    missing: Mask  # (rows,)
    exclusive: bool  # one class out of several per row
    threshold: float

    @classmethod
    def of(cls, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None, threshold: float) -> _Case:
        prediction, truth = _columns(np.asarray(y_pred)), _columns(np.asarray(y_true))
        if len(truth) != len(prediction) or len(truth) == 0:
            got = f"{len(truth)} truths and {len(prediction)} predictions"
            raise UsageError(explain("influence_of", got, "one of each per row", "Pass the rows of one call."))
        columns = prediction.shape[1]
        labels = columns > 1 and truth.shape[1] == 1
        if labels and not (np.equal(np.mod(truth, 1), 0).all() and truth.min() >= 0 and truth.max() < columns):
            got = f"labels from {truth.min():g} to {truth.max():g} for {columns} columns"
            raise UsageError(
                explain("influence_of(y_true)", got, f"whole numbers below {columns}", "Number the classes.")
            )
        if labels:
            truth = np.eye(columns)[truth[:, 0].astype(int)]
        if truth.shape != prediction.shape:
            got = f"shapes {truth.shape} and {prediction.shape}"
            raise UsageError(explain("influence_of", got, "as many columns in both", "One column per class or value."))
        missing = np.logical_not(np.isfinite(prediction).all(axis=1))
        one_hot = columns > 1 and bool(((truth == 0) | (truth == 1)).all() and (truth.sum(axis=1) == 1).all())
        shown = np.where(missing[:, None], 0.0, prediction)
        return cls(truth, shown, _weights(sample_weight, len(truth)), missing, one_hot, threshold)

    @property
    def right(self) -> Array:
        """(rows,) the share of right decisions: 0 or 1, but for several labels per row."""
        agrees = self.decided == (self.truth > 0.5)
        # Of two classes that are confused, all the other columns agree: a class is right as a whole or not at all.
        right = agrees.all(axis=1) if self.exclusive else agrees.mean(axis=1)
        return np.where(self.missing, 0.0, right)

    @property
    def decided(self) -> Mask:
        """(rows, columns) what is decided for; where missing, what is wrong."""
        if not self.exclusive:
            return self.flagged
        chosen: Mask = np.arange(self.truth.shape[1]) == self.prediction.argmax(axis=1)[:, None]
        wrong = np.roll(self.truth > 0.5, 1, axis=1)
        return np.where(self.missing[:, None], wrong, chosen)

    @property
    def flagged(self) -> Mask:
        """(rows, columns) what is above the threshold, whatever the other columns say; where missing, what is wrong."""
        return np.where(self.missing[:, None], self.truth <= 0.5, self.prediction > self.threshold)

    def mean(self, losses: Array) -> Influence:
        """A mean of losses that are never negative."""
        return mean_influence(np.where(self.missing, np.nan, losses), sample_weight=self.weight)

    def share(self, right: Array) -> Influence:
        """A mean of rights and wrongs."""
        value = float((self.weight * right).mean())
        return Influence(value, self.weight * (right - value), Scale.WILSON, num_missing=int(self.missing.sum()))


def _log_loss(case: _Case) -> Influence:
    if not all(((shown >= 0) & (shown <= 1)).all() for shown in (case.truth, case.prediction)):
        return _undefined(len(case.weight), Scale.LOG, "truths or predictions that are no probabilities")
    p = np.clip(case.prediction, _EPSILON, 1 - _EPSILON)
    if case.exclusive:
        return case.mean(-np.log((p * case.truth).sum(axis=1)))
    return case.mean(-(case.truth * np.log(p) + (1 - case.truth) * np.log1p(-p)).mean(axis=1))


def _squared(case: _Case) -> Influence:
    return case.mean(((case.prediction - case.truth) ** 2).mean(axis=1))


def _absolute(case: _Case) -> Influence:
    return case.mean(np.abs(case.prediction - case.truth).mean(axis=1))


def _relative(case: _Case) -> Influence:
    return case.mean(
        100 * (np.abs(case.prediction - case.truth) / np.maximum(np.abs(case.truth), _EPSILON)).mean(axis=1)
    )


def _root(case: _Case) -> Influence:
    square = _squared(case)
    value = float(np.sqrt(square.value))
    rows = square.rows / (2 * value) if value > 0 else np.zeros_like(square.rows)
    return dataclasses.replace(square, value=value, rows=rows)


def _explained(case: _Case) -> Influence:
    """R2, uniform mean over columns as Keras and scikit-learn have it."""
    values, influences = [], []
    for column in range(case.truth.shape[1]):
        y = case.truth[:, column]
        errors, _ = worst_for_missing(np.where(case.missing, np.nan, (case.prediction[:, column] - y) ** 2))
        deviations = (y - (case.weight * y).mean()) ** 2
        spread, unexplained = float((case.weight * deviations).mean()), float((case.weight * errors).mean())
        if spread == 0:
            return _undefined(len(y), Scale.LOG1M, "the truth is the same on every row")
        values.append(1 - unexplained / spread)
        influences.append(case.weight * (unexplained * deviations / spread - errors) / spread)
    rows = np.mean(influences, axis=0)
    return Influence(float(np.mean(values)), rows, Scale.LOG1M, num_missing=int(case.missing.sum()))


def _pinball(case: _Case, quantiles: Array) -> Array:
    if not ((quantiles > 0).all() and (quantiles < 1).all()):
        raise UsageError(explain("influence_of(quantiles)", quantiles, "levels between 0 and 1", "Type 0.9, say."))
    short = case.truth - case.prediction
    losses: Array = np.maximum(quantiles * short, (quantiles - 1) * short).mean(axis=1)
    return losses


def _in_top(case: _Case, k: int) -> Array:
    if not case.exclusive:
        return case.right
    own = (case.prediction * case.truth).sum(axis=1, keepdims=True)
    # Ties count against the row: a model that says the same of every class has found nothing.
    ahead = (case.prediction >= own).sum(axis=1) - 1
    return np.where(case.missing, 0.0, (ahead < k).astype(float))


def _balanced(case: _Case) -> Influence:
    truth = case.truth if case.exclusive else np.concatenate([case.truth, 1 - case.truth], axis=1)
    decided = case.decided if case.exclusive else np.concatenate([case.decided, ~case.decided], axis=1)
    shares = (case.weight[:, None] * truth).mean(axis=0)
    present = shares > 0
    if present.sum() < 2:
        return _undefined(len(truth), Scale.LOGIT, "one class only")
    truth, decided, shares = truth[:, present], decided[:, present], shares[present]
    recall = (case.weight[:, None] * truth * decided).mean(axis=0) / shares
    rows = case.weight * (truth * (decided - recall) / shares).mean(axis=1)
    rare = int(truth.sum(axis=0).min())
    return Influence(float(recall.mean()), rows, Scale.LOGIT, rare, int(case.missing.sum()))


def _area(case: _Case) -> Influence:
    values, influences, rare = [], [], []
    for column in range(case.truth.shape[1]):
        positive = case.truth[:, column] > 0.5
        if positive.all() or not positive.any():
            continue
        # The last rank: a missing positive is below all, a missing negative above all.
        score = np.where(case.missing, np.where(positive, -np.inf, np.inf), case.prediction[:, column])
        value, rows = _delong(score, positive, case.weight)
        values.append(value)
        influences.append(rows)
        rare.append(int(min(positive.sum(), (~positive).sum())))
    if not values:
        return _undefined(len(case.weight), Scale.LOGIT, "one class only")
    rows = np.mean(influences, axis=0)
    return Influence(float(np.mean(values)), rows, Scale.LOGIT, min(rare), int(case.missing.sum()))


def _delong(score: Array, positive: Mask, weight: Array) -> tuple[float, Array]:
    """AUC and influences, from ranks: one sort (Sun and Xu 2014), ties counting half."""
    _, tie = np.unique(score, return_inverse=True)
    tie = tie.reshape(-1)
    share = np.empty_like(weight)
    for own in (True, False):
        other = np.bincount(tie, np.where(positive != own, weight, 0.0))
        below = np.cumsum(other) - other
        right = (below + other / 2) / other.sum()
        mine = positive == own
        share[mine] = (right if own else 1 - right)[tie[mine]]
    pi = float((weight * positive).mean())
    value = float((weight * positive * share).mean()) / pi
    return value, weight * (share - value) / np.where(positive, pi, 1 - pi)


def _f1(case: _Case) -> Influence:
    """Of the second class for one column; else the mean over classes or labels that occur."""
    truth, decided = case.truth > 0.5, case.decided
    both = case.weight[:, None] * 2 * (truth & decided)
    total = case.weight[:, None] * (truth.astype(float) + decided)
    present = total.sum(axis=0) > 0
    if not present.any():
        return _undefined(len(truth), Scale.LOGIT, "no positive row, and none predicted")
    both, total = both[:, present], total[:, present]
    values = both.mean(axis=0) / total.mean(axis=0)
    rows = ((both - values * total) / total.mean(axis=0)).mean(axis=1)
    rare = int(truth[:, present].sum(axis=0).min())
    return Influence(float(values.mean()), rows, Scale.LOGIT, max(rare, 1), int(case.missing.sum()))


def _precision(case: _Case) -> Influence:
    return _found_of(case, case.flagged, "no row is predicted positive")


def _recall(case: _Case) -> Influence:
    return _found_of(case, case.truth > 0.5, "no positive row")


def _found_of(case: _Case, counted: Mask, reason: str) -> Influence:
    """The share of what is counted that is positive and found."""
    found = case.weight * (case.flagged & (case.truth > 0.5)).sum(axis=1)
    total = case.weight * counted.sum(axis=1)
    if not total.any():
        return _undefined(len(total), Scale.LOGIT, reason)
    value = float(found.mean() / total.mean())
    rows = (found - value * total) / total.mean()
    return Influence(value, rows, Scale.LOGIT, int(counted.any(axis=1).sum()), int(case.missing.sum()))


def _accuracy(case: _Case) -> Influence:
    return case.share(case.right)


#: Manyfit's names of the metrics, as in ensembles.
METRICS: dict[str, Callable[[_Case], Influence]] = {
    "log_loss": _log_loss,
    "mse": _squared,
    "brier": _squared,
    "rmse": _root,
    "mae": _absolute,
    "mape": _relative,
    "r2": _explained,
    "accuracy": _accuracy,
    "balanced_accuracy": _balanced,
    "auc": _area,
    "f1": _f1,
    "precision": _precision,
    "recall": _recall,
}
_WITH_SETTINGS = ("pinball", "top_k")
_OTHER_NAMES = {
    "logloss": "log_loss",
    "crossentropy": "log_loss",
    "cross_entropy": "log_loss",
    "binary_crossentropy": "log_loss",
    "categorical_crossentropy": "log_loss",
    "sparse_categorical_crossentropy": "log_loss",
    "mean_squared_error": "mse",
    "root_mean_squared_error": "rmse",
    "mean_absolute_error": "mae",
    "mean_absolute_percentage_error": "mape",
    "r2_score": "r2",
    "acc": "accuracy",
    "binary_accuracy": "accuracy",
    "categorical_accuracy": "accuracy",
    "sparse_categorical_accuracy": "accuracy",
    "top_k_categorical_accuracy": "top_k",
    "sparse_top_k_categorical_accuracy": "top_k",
    "roc_auc": "auc",
    "f1_score": "f1",
    "f1_macro": "f1",
    "quantile": "pinball",
    "pinball_loss": "pinball",
}


def metric_name(name: str) -> str | None:
    """Manyfit's name of a metric whose influence is known in closed form, or None.

    Example:

    >>> metric_name("val_root_mean_squared_error"), metric_name("my_metric")
    ('rmse', None)
    """
    plain = usual_name(name)
    return plain if plain in METRICS or plain in _WITH_SETTINGS else None


def usual_name(name: str) -> str:
    """Manyfit's name of a metric that goes by several; ``val_`` in front is ignored. Others stay as they are.

    Example:

    >>> usual_name("neg_mean_squared_error"), usual_name("My metric")
    ('mse', 'my_metric')
    """
    # Names come from Keras's logs ("val_auc"), from scikit-learn ("neg_log_loss") and from people.
    plain = name.lower().replace(" ", "_").removeprefix("val_").removeprefix("neg_")
    return _OTHER_NAMES.get(plain, plain)


def _columns(array: NDArray[np.generic]) -> Array:
    table: Array = np.atleast_1d(array.astype(float))
    return table.reshape(len(table), -1)


def _weights(sample_weight: ArrayLike | None, size: int) -> Array:
    if sample_weight is None:
        return np.ones(size)
    weight = np.asarray(sample_weight, dtype=float)
    if weight.shape != (size,) or not np.isfinite(weight).all() or (weight < 0).any() or weight.sum() == 0:
        got = f"weights of shape {weight.shape} for {size} rows"
        raise UsageError(explain("sample_weight", got, "one number per row, 0 or more", "Leave it out."))
    relative: Array = weight * (size / weight.sum())
    return relative


def _undefined(size: int, scale: Scale, reason: str) -> Influence:
    return Influence(float("nan"), np.full(size, np.nan), scale, reason=reason)
