"""How much each row moves a metric of which only Keras's object is known: precision, intersection over union, a user's.

Keras's metrics take a weight per row. By how much the metric changes with one of the weights is the influence of that
row, by its definition (`manyfit.stats.influence`), and JAX derives it, for all rows in one pass. A metric stays as it
is when all weights are doubled, so the influences on one that really heeds its weights have mean 0 (Euler's theorem on
homogeneous functions): what does not is not believed.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import keras
import numpy as np

from manyfit.core.objective import infer_metric_direction
from manyfit.stats.influence import Influence
from manyfit.stats.intervals import Scale

_BOUNDED = re.compile(r"(auc|acc|accuracy|f1|score|precision|recall|iou|io_u|dice|sensitivity|specificity)(_\d+)?$")
_MEAN_NEAR_0 = 1e-3  # of the mean influence without its sign: float32 sums of many rows


def metric_influence(metric: keras.Metric, y: np.ndarray, predictions: np.ndarray) -> Influence | None:
    """The influence of each row on a metric of Keras's, on the JAX backend.

    Args:
        metric: any; it is copied by its configuration, and its state is not touched.
        y: (rows, ...) targets.
        predictions: (rows, ...).

    Returns:
        None where there is no telling: on another backend, and for a metric that is no number, has no configuration,
        takes no weights or does not heed them, or is not defined on these rows.

    Example:

    >>> found = metric_influence(keras.metrics.Precision(), np.array([1, 0, 1, 1]), np.array([0.9, 0.8, 0.7, 0.6]))
    >>> round(found.value, 2), found.rows.round(2).tolist()
    (0.75, [0.25, -0.75, 0.25, 0.25])
    """
    if keras.backend.backend() != "jax":
        return None
    if y.ndim == predictions.ndim - 1 and predictions.shape[-1] == 1:
        y = y[..., None]  # as Keras does before it asks
    if y.dtype.kind in "iu":
        y = y.astype(np.int32)  # JAX warns of what it would shorten itself
    # A weight per row, or where each row has many numbers (pixels) and the metric takes them one by one, per number.
    for shape in dict.fromkeys([(len(y),), y.shape]):
        try:
            with warnings.catch_warnings():  # of types; the model's own metric has said so in `fit`
                warnings.simplefilter("ignore")
                value, slopes = _derived(metric, y, predictions, shape)
        except Exception:  # whatever a metric of the user's does: then its rows stay unknown
            continue
        rows = slopes.astype(np.float64) * len(y)
        size = float(np.abs(rows).mean())
        if np.isfinite(rows).all() and size > 0 and abs(rows.mean()) <= _MEAN_NEAR_0 * size:
            return Influence(value, rows - rows.mean(), scale_of(metric.name, np.array([value])))
    return None


def value_of(metric: keras.Metric, y: np.ndarray, predictions: np.ndarray) -> float | None:
    """What a metric of Keras's says of all rows at once; None for one that is no number, or cannot be copied."""
    if y.ndim == predictions.ndim - 1 and predictions.shape[-1] == 1:
        y = y[..., None]
    try:
        return float(type(metric).from_config(metric.get_config())(y, predictions))
    except Exception:  # as above
        return None


def metrics_of(model: keras.Model) -> dict[str, keras.Metric]:
    """The metrics of a model by their names in the logs; those of `compile` stand in one that holds them."""
    return {one.name: one for metric in model.metrics for one in getattr(metric, "metrics", [metric])}


def _derived(
    metric: keras.Metric, y: np.ndarray, predictions: np.ndarray, shape: tuple[int, ...]
) -> tuple[float, np.ndarray]:
    """A metric, and what a little more weight of each row would add to it.

    Args:
        metric: as in `metric_influence`.
        y: as there.
        predictions: as there.
        shape: of the weights that the metric is given, rows first.
    """
    import jax
    import jax.numpy as jnp

    config = metric.get_config()
    if str(config.get("dtype", "")).startswith("int"):
        config["dtype"] = "float32"  # counts of rows, which are no whole numbers any more
    copy = type(metric).from_config(config)
    copy(y[:1], predictions[:1])  # some make their variables at the first rows that they see
    copy.reset_state()
    start = [variable.value for variable in copy.variables]

    def of_weights(weight: Any) -> Any:
        spread = jnp.broadcast_to(weight.reshape(-1, *[1] * (len(shape) - 1)), shape)
        return copy.stateless_result(copy.stateless_update_state(start, y, predictions, sample_weight=spread))

    value, slopes = jax.jit(jax.value_and_grad(of_weights))(np.ones(len(y), dtype=np.float32))
    return float(value), np.asarray(slopes)


def scale_of(name: str, values: np.ndarray) -> Scale:
    """The scale of a metric of which the name is known, and what it was: on all rows, or on parts of them."""
    inside = bool((values >= 0).all())
    if inside and (values <= 1).all() and _BOUNDED.search(name) and not name.endswith("r2_score"):
        return Scale.LOGIT
    return Scale.LOG if inside and infer_metric_direction(name) == "min" else Scale.PLAIN
