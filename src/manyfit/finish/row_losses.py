"""What a run scores on each validation row: what the error of the rows is computed from.

The objective is a name in the logs of `fit` (`val_loss`, `val_auc`). Whose it is, the trained model knows: the loss or
the metric that it was compiled with. A metric with a formula for its influences (`manyfit.stats.influence`) is taken by
it, a loss or a metric that is a function of single rows is asked row by row, JAX derives those of Keras's other metrics
(`manyfit.finish.metric_influence`), and for the rest the rows stay unknown.

Whether the rows are those of the logged value is *tried*, not assumed: their mean has to be that value.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import UsageError
from manyfit.ensemble.members import emits_logits, is_keras, loss_of
from manyfit.finish.metric_influence import metric_influence, metrics_of, value_of
from manyfit.stats.influence import Influence, influence_of, mean_influence, metric_name
from manyfit.stats.intervals import Scale
from manyfit.store.predictions import RowLosses
from manyfit.training.keras_internals.building import mean_function

_AREA = 0.02  # Keras takes the area under a curve over 200 thresholds, not over all
_SAME = 0.1  # of the standard error by the rows: so near has the mean of the rows to be to the logged value
_SETTLED_BY = ("pinball", "top_k")  # names that need settings, which the function knows


def row_losses(
    model: object, objective: str, y: Any, predictions: Any, *, sample_weight: Any, rows_are: str
) -> RowLosses | None:
    """What a trained model scores on each row.

    Args:
        model: a compiled Keras model, or an estimator.
        objective: the name in the logs.
        y: (n, ...) targets.
        predictions: (n, ..., C) probabilities or values.
        sample_weight: (n,) or None.
        rows_are: names the rows; see `manyfit.store.predictions.name_of_rows`.

    Returns:
        None where it is a metric of the training rows, of several outputs, or one that single rows do not tell.
    """
    if not objective.startswith("val_") or not isinstance(predictions, np.ndarray) or not isinstance(y, np.ndarray):
        return None
    plain = objective.removeprefix("val_")
    is_loss = plain == "loss"
    judge: Any = loss_of(model) if is_loss else plain  # type: ignore[arg-type]  # an estimator has none, which is fine
    weight = sample_weight if isinstance(sample_weight, np.ndarray) and sample_weight.ndim == 1 else None
    if sample_weight is not None and weight is None:
        return None
    found = _by_formula(_name_of(judge), y, predictions, weight, is_loss)
    if is_keras(model) and not is_loss and not emits_logits(model):
        found = _by_slopes(metrics_of(model).get(plain), found, y, predictions)
    if found is None and not emits_logits(model):  # type: ignore[arg-type]
        found = _by_function(judge, y, predictions, weight, is_loss)
    if found is None or not np.isfinite(found[1].value):
        return None
    name, influence = found
    return RowLosses(name, influence.value, influence.losses.astype(np.float32), rows_are, str(influence.scale))


def losses_of_predictions(metric: str, y: Any, predictions: Any, *, rows_are: str) -> RowLosses | None:
    """The same from kept predictions, by the name of a metric that `row_losses` has found; None where there is none."""
    if not metric or not isinstance(predictions, np.ndarray) or not isinstance(y, np.ndarray):
        return None
    found = _by_formula(metric, y, predictions, None, False)
    if found is None or not np.isfinite(found[1].value):
        return None
    influence = found[1]
    return RowLosses(metric, influence.value, influence.losses.astype(np.float32), rows_are, str(influence.scale))


def at_value(kept: RowLosses, value: float, *, penalised: bool) -> np.ndarray | None:
    """The rows of a run whose logged metric is `value`, moved so that their mean is it; None where they are not its.

    A metric of Keras may be an approximation (its AUC), and half precision rounds: both move the mean by little.

    Args:
        kept: the rows.
        value: that was logged.
        penalised: whether it may hold a penalty on the weights besides, which no row knows.

    Example:

    >>> kept = RowLosses("mse", 2.0, np.array([1.0, 3.0], dtype=np.float32), "", "log")
    >>> at_value(kept, 2.05, penalised=False).round(2).astype(str).tolist()
    ['1.05', '3.05']
    >>> at_value(kept, 9.0, penalised=False) is None
    True
    """
    error = float(kept.rows.std()) / np.sqrt(max(1, kept.rows.size))
    near = max(_SAME * error, 2e-3 * abs(value), 1e-6)
    if abs(kept.value - value) <= near or (penalised and value > kept.value):
        return (kept.rows + np.float32(value - kept.rows.mean(dtype=np.float64))).astype(np.float32)
    return None


def _name_of(judge: object) -> str:
    """`SparseCategoricalCrossentropy`, its instance, its function and its name are one thing."""
    name = judge if isinstance(judge, str) else getattr(judge, "name", None) or getattr(judge, "__name__", "")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", str(name)).lower()


def _by_formula(
    name: str, y: np.ndarray, predictions: np.ndarray, weight: np.ndarray | None, is_loss: bool
) -> tuple[str, Influence] | None:
    known = metric_name(re.sub(r"_\d+$", "", name))
    if known is None or known in _SETTLED_BY:
        return None
    try:
        plain = influence_of(known, y, predictions)
    except UsageError:  # shapes that this metric does not know: pixels, steps
        return None
    if weight is None or not is_loss:  # Keras weighs losses; metrics only where it is told to
        return known, plain
    # Keras divides the weighted sum by the number of rows, not by the sum of the weights.
    return "", mean_influence(plain.losses * weight)


def _by_slopes(
    metric: keras.Metric | None, found: tuple[str, Influence] | None, y: np.ndarray, predictions: np.ndarray
) -> tuple[str, Influence] | None:
    """What is asked of the metric itself, unless a formula found its number or it is a mean over rows."""
    if metric is None or mean_function(metric) is not None:
        return found
    if found is not None:  # a metric of the same name may have another threshold, or be the area under another curve
        said = value_of(metric, y, predictions)
        near = _AREA if isinstance(metric, keras.metrics.AUC) else 1e-4
        if said is None or abs(found[1].value - said) <= near + 1e-3 * abs(said):
            return found
    derived = metric_influence(metric, y, predictions)
    return found if derived is None else ("", derived)


def _by_function(
    judge: Any, y: np.ndarray, predictions: np.ndarray, weight: np.ndarray | None, is_loss: bool
) -> tuple[str, Influence] | None:
    try:
        function: Callable[..., Any] = (keras.losses.get if is_loss else keras.metrics.get)(judge)
        if isinstance(function, keras.metrics.Metric):  # it looks at all rows at once
            return None
        call = function.call if isinstance(function, keras.losses.Loss) else function
        truth = y[..., None] if y.ndim == predictions.ndim - 1 and predictions.shape[-1] == 1 else y
        answer = keras.ops.convert_to_numpy(call(keras.ops.convert_to_tensor(truth), predictions))
        values = np.asarray(answer, dtype=np.float64).reshape(len(predictions), -1).mean(axis=1)
    except (TypeError, ValueError, AttributeError):  # it takes other things
        return None
    return "", mean_influence(values if weight is None else values * weight, scale=Scale.LOG)
