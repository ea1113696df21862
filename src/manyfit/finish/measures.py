"""A model's scores on test rows, each with what every row does to it: that is where its interval comes from.

The numbers are those that the model's own `evaluate` says. For most metrics the influence of a row is known in closed
form (`manyfit.stats.influence`), for others JAX derives it (`manyfit.finish.metric_influence`); either is believed only
if it gives the model's own number on all rows. Where neither does (several outputs, another backend), the model is
measured again without one group of rows after another:

    variance = (G - 1) / G sum_g (T_(g) - mean of T_(.))^2

with T_(g) the metric without group g of G (the delete-a-group jackknife; Kott 2001). Rows are dealt to groups by their
content, so that neither the order of rows nor a seed plays a part.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import keras
import numpy as np

from manyfit.core.errors import UsageError
from manyfit.core.history import numbers_of
from manyfit.core.objective import infer_metric_direction
from manyfit.data.classes import Classes
from manyfit.data.identity import row_identities
from manyfit.data.kinds import Ability, FitData, is_nested, kind_of
from manyfit.data.rows import MAX_READ_BYTES, Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import is_keras
from manyfit.finish.metric_influence import metric_influence, metrics_of, scale_of
from manyfit.stats.components import worst_for_missing
from manyfit.stats.influence import Influence, components_of, influence_of, mean_influence, metric_name
from manyfit.stats.intervals import Interval, Scale, scaled_interval
from manyfit.training.boosting import Estimator, LabelledRows
from manyfit.training.estimators import ClassNamer, is_estimator, measured, row_weights, targets
from manyfit.training.keras_internals.building import compile_arguments, mean_function

_NUM_GROUPS = 20  # Student's quantile is 2.09 then, against 1.96 for infinitely many; each group costs a call
_CHUNK_ROWS = 8192  # of functions of rows: answers with a number for each pixel are large
_AUC_TOLERANCE = 0.02  # Keras takes the area over 200 thresholds, not over all


class Evaluated(Protocol):
    """What can be measured: a Keras model, which returns a list unless told otherwise, or an ensemble."""

    def evaluate(self, x: FitData, y: FitData, **options: Any) -> Any: ...


Also = Callable[[Any, Rows], Mapping[str, float]]
"""What else is measured of estimators."""


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How models are measured on test rows.

    Attributes:
        confidence: of the intervals.
        options: of the models' `evaluate`, without sample weights.
        wanted: names that are measured of estimators besides what is measured of all.
        also: what else is measured of estimators.
        groups: a label per row, where rows of one group resemble each other; None: rows are drawn one by one.
    """

    confidence: float = 0.95
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    wanted: Sequence[str] = ()
    also: Also | None = None
    groups: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Measure:
    """One metric of one model.

    Attributes:
        interval: with the score as its estimate.
        losses: (rows,) influences on the score; None: not known row by row.
        note: what has to be known of the number; empty: nothing.
    """

    interval: Interval
    losses: np.ndarray | None = None
    note: str = ""


def measures_of(
    model: Evaluated | Estimator, test: Rows, how: Measuring, *, numbers: Mapping[str, Any] | None = None
) -> dict[str, Measure]:
    """Measures a model on test rows.

    Args:
        model: a Keras model, an ensemble or an estimator.
        test: the rows, read if they can be; targets as the model takes them.
        how: see `Measuring`.
        numbers: what the model's `evaluate` has said of these rows already; then it is not called again, and metrics
            whose influences are not known in closed form stay without an interval.
    """
    has_said = numbers is not None
    numbers = numbers_of(numbers) if numbers is not None else _numbers(model, test, how)
    rows = test.num_rows
    found: dict[str, Measure] = {}
    if rows is not None and rows >= 2 and test.can(Ability.TAKEN):
        for name, influence in _influences(model, test, numbers, how).items():
            found[name] = _measure(influence, how)
        rest = [name for name in numbers if name not in found]
        if rest and not has_said:
            found.update(_by_groups(model, test, numbers, rest, how))
    unknown = functools.partial(Interval, low=-math.inf, high=math.inf, confidence=how.confidence, count=rows or 0)
    return {name: found.get(name, Measure(unknown(number))) for name, number in numbers.items()}


def is_foreign(model: object) -> TypeGuard[Estimator]:
    """Whether it is an estimator, which does not measure itself as Keras models and ensembles do."""
    return not hasattr(model, "evaluate") and is_estimator(model)


def _numbers(model: Evaluated | Estimator, test: Rows, how: Measuring) -> dict[str, float]:
    """What the model itself says."""
    if is_foreign(model):
        rows = LabelledRows(test.x, targets(test.y), row_weights(test.sample_weight))
        logs = {**measured(model, rows, how.wanted), **(how.also(model, test) if how.also is not None else {})}
        return {name: float(value) for name, value in logs.items()}
    options = dict(how.options)
    if test.sample_weight is not None:
        options["sample_weight"] = test.sample_weight
    if isinstance(model, keras.Model):
        options |= {"verbose": 0, "return_dict": True}
    return numbers_of(model.evaluate(test.x, test.y, **options))


def _measure(influence: Influence, how: Measuring) -> Measure:
    count = len(influence.rows)
    if influence.reason:
        nothing = Interval(math.nan, -math.inf, math.inf, how.confidence, count)
        return Measure(nothing, note=influence.reason)
    interval = components_of([influence], groups=how.groups).interval(how.confidence)
    notes = []
    if influence.num_missing:
        notes.append(f"{influence.num_missing} rows without a prediction count as the worst")
    if interval.low == interval.high:
        notes.append("no variation seen over these rows")
    if 0 < influence.rare_rows < 10:
        notes.append(f"{influence.rare_rows} rows of the rarer class only")
    return Measure(dataclasses.replace(interval, count=count), influence.rows, "; ".join(notes))


# Row by row ------------------------------------------------------------------------------------------------------


def _influences(
    model: Evaluated | Estimator, test: Rows, numbers: Mapping[str, float], how: Measuring
) -> dict[str, Influence]:
    """The influences that are known row by row and give the model's own numbers."""
    try:
        answer = _answer(model, test, how)
    except UsageError:  # an ensemble whose classes are not those of these rows has said so already
        return {}
    if answer is None:
        return {}
    found = {}
    for name, number in numbers.items():
        tolerance = _AUC_TOLERANCE if "auc" in name else 1e-5 + 1e-4 * abs(number)
        penalty = answer.penalty if name == "loss" else 0.0
        candidates = list(answer.candidates(name.removeprefix("weighted_")))
        # A loss is one of several forms: those that these rows cannot be measured by are none of them.
        if any(not one.reason for one in candidates):
            candidates = [one for one in candidates if not one.reason]
        # Rows without a prediction are worst here; what Keras makes of them is NaN, or an accident.
        odd = next((one for one in candidates if one.reason or one.num_missing), None)
        if odd is not None:
            found[name] = odd
            continue
        near = [one for one in candidates if abs(one.value + penalty - number) <= tolerance]
        if not near:
            derived = answer.derived(name)
            near = [derived] if derived is not None and abs(derived.value - number) <= tolerance else []
        if near:
            nearest = min(near, key=lambda one: abs(one.value + penalty - number))
            found[name] = dataclasses.replace(nearest, value=number)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class _Answer:
    """What a model says of the test rows, beside the truth.

    Attributes:
        truth: (rows, ...) targets.
        prediction: (rows, ...).
        weight: (rows,) or None.
        loss: the function of rows that was given as the loss; None: it has none.
        metrics: Keras's objects by the name in the logs.
        penalty: what the loss has besides, which no row changes.
    """

    truth: np.ndarray
    prediction: np.ndarray
    weight: np.ndarray | None = None
    loss: Callable[[Any, Any], Any] | None = None
    metrics: Mapping[str, keras.Metric] = dataclasses.field(default_factory=dict)
    penalty: float = 0.0

    def candidates(self, name: str) -> Iterator[Influence]:
        """Influences that might be those of a metric, likeliest first."""
        if name == "loss" and self.loss is not None:
            yield from self._of_rows(self.loss, is_share=False)
        metric = self.metrics.get(name)
        if metric is not None and (function := mean_function(metric)) is not None:
            yield from self._of_rows(function, is_share=infer_metric_direction(name) == "max")
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(metric).__name__).lower() if metric is not None else name
        for known in dict.fromkeys([re.sub(r"_\d+$", "", name), kind]):
            yield from self._of_name({"loss": "log_loss", "r2_score": "r2"}.get(known, known))
        if name == "loss":
            yield from self._of_name("mse")

    def derived(self, name: str) -> Influence | None:
        """The influence on a metric of which Keras's object is all that is known."""
        metric = self.metrics.get(name)
        return None if metric is None else metric_influence(metric, self.truth, self.prediction)

    def _of_name(self, name: str) -> Iterator[Influence]:
        if metric_name(name) is None or self.prediction.ndim > 2 or self.truth.ndim > 2:
            return
        predictions = [self.prediction]
        if self.truth.ndim == 1 and self.prediction.ndim == 2 and self.prediction.shape[1] == 2:
            predictions.append(self.prediction[:, 1])  # a metric of the second class, as scikit-learn's F1 is
        weights = [None] if self.weight is None else [self.weight, None]
        for prediction, weight in itertools.product(predictions, weights):
            # What does not fit these shapes is another metric.
            with contextlib.suppress(UsageError, ValueError, TypeError):
                yield influence_of(name, self.truth, prediction, sample_weight=weight)

    def _of_rows(self, function: Callable[[Any, Any], Any], *, is_share: bool) -> Iterator[Influence]:
        """Of the mean of a function of rows, which Keras weighs in one of three ways.

        Args:
            function: of truths and predictions.
            is_share: whether it may be one of rights and wrongs.
        """
        try:
            values = _row_values(function, self.truth, self.prediction)
        except Exception:  # a function of the user's, which may want whole batches
            return
        if values is None:
            return
        known, missing = worst_for_missing(values)
        is_share = is_share and bool(np.isin(known, (0.0, 1.0)).all())
        if is_share and missing:
            known[~np.isfinite(values)] = 0.0  # a decision that was not taken is wrong
        weights = [None] if self.weight is None else [self.weight, None]
        for weight in weights:
            one = mean_influence(known, sample_weight=weight)
            yield dataclasses.replace(one, scale=Scale.WILSON if is_share else one.scale, num_missing=missing)
        if self.weight is not None:  # losses are weighed and divided by the number of rows
            yield dataclasses.replace(mean_influence(known * self.weight), num_missing=missing)


def _answer(model: Evaluated | Estimator, test: Rows, how: Measuring) -> _Answer | None:
    """What a model says of the rows; None where it is not one array of numbers."""
    if is_nested(test.y) or is_nested(test.sample_weight) or test.y is None:
        return None
    weight = row_weights(test.sample_weight)
    if weight is not None and len(weight) != test.num_rows:
        return None
    if is_foreign(model):
        return _answer_of_estimator(model, test, weight)
    batch = how.options.get("batch_size")
    truth = kind_of(test.y).as_array(test.y)
    if isinstance(model, Ensemble):
        prediction = model.predict(test.x, batch_size=batch)
        source = next((one for member in model.members for one in member.models if is_keras(one)), None)
        truth = truth if model.classes is None else Classes(model.classes).numbers("evaluate(x, y)", truth)
    elif isinstance(model, keras.Model) and not _answers_much(model, test.num_rows or 0):
        prediction, source = model.predict(test.x, batch_size=batch, verbose=0), model
    else:
        return None
    if is_nested(prediction) or truth.dtype.kind not in "biuf":
        return None
    prediction = np.asarray(prediction, dtype=np.float32)
    if source is None:
        return _Answer(truth, prediction, weight)
    penalty = float(sum(float(each) for each in source.losses)) if source is model else 0.0
    return _Answer(truth, prediction, weight, _loss_of(source), metrics_of(source), penalty)


def _answers_much(model: keras.Model, num_rows: int) -> bool:
    """Whether all that a model says of so many rows is too large to be held: a number for each pixel, say."""
    shape = getattr(model, "output_shape", None)  # which a subclassed model does not say
    sizes = [size or 1 for size in shape[1:]] if isinstance(shape, tuple) else []
    return 4 * num_rows * math.prod(sizes) > MAX_READ_BYTES


def _answer_of_estimator(model: Estimator, test: Rows, weight: np.ndarray | None) -> _Answer | None:
    truth = targets(test.y)
    if isinstance(model, ClassNamer):
        numbers = model.numbers(truth)
        if not (numbers < len(model.classes_)).all():
            return None
        return _answer_of_estimator(model.estimator, dataclasses.replace(test, y=numbers), weight)
    if truth.ndim != 1:
        return None
    if hasattr(model, "predict_proba"):
        prediction = np.asarray(model.predict_proba(test.x))
        places = np.searchsorted(model.classes_, truth).clip(max=len(model.classes_) - 1)
        if prediction.ndim != 2 or (np.asarray(model.classes_)[places] != truth).any():
            return None
        return _Answer(places, prediction, weight)
    prediction = np.asarray(model.predict(test.x))
    if len(getattr(model, "classes_", ())):
        return _Answer(np.ones(len(truth)), (prediction.reshape(-1) == truth).astype(float), weight)
    return _Answer(truth, prediction.astype(float), weight) if truth.dtype.kind in "biuf" else None


def _loss_of(model: keras.Model) -> Callable[[Any, Any], Any] | None:
    """The function of rows in a loss of one output."""
    loss = compile_arguments(model).get("loss")
    if loss is None or is_nested(loss):
        return None
    found = keras.losses.get(loss)
    return found.call if isinstance(found, keras.losses.Loss) else found


def _row_values(function: Callable[[Any, Any], Any], truth: np.ndarray, prediction: np.ndarray) -> np.ndarray | None:
    """(rows,) values of a function that Keras calls with batches; None where it says one number for all of them."""
    if truth.ndim == prediction.ndim - 1 and prediction.shape[-1] == 1:
        truth = truth[..., None]  # Keras does so before it asks
    parts = []
    for start in range(0, len(truth), _CHUNK_ROWS):
        part = slice(start, start + _CHUNK_ROWS)
        values = keras.ops.convert_to_numpy(function(truth[part], prediction[part]))
        if values.ndim == 0 or len(values) != len(truth[part]):
            return None
        parts.append(values.reshape(len(values), -1).mean(axis=1, dtype=np.float64))
    return np.concatenate(parts)


# By groups -------------------------------------------------------------------------------------------------------


def _by_groups(
    model: Evaluated | Estimator, test: Rows, numbers: Mapping[str, float], names: Sequence[str], how: Measuring
) -> dict[str, Measure]:
    """The delete-a-group jackknife."""
    groups = _dealt(test, how.groups)
    if groups is None or len(groups) < 2:
        return {}
    everything = np.arange(test.num_rows or 0)
    without = [_numbers(model, test.take(np.setdiff1d(everything, group, assume_unique=True)), how) for group in groups]
    found = {}
    for name in names:
        values = np.array([each.get(name, math.nan) for each in without])
        # A group may hold all rows of a class that the metric needs; then there is no telling how much it varies.
        variance = float((len(values) - 1) * values.var()) if np.isfinite(values).all() else math.nan
        interval = scaled_interval(
            numbers[name],
            variance,
            len(values) - 1,
            scale=scale_of(name, np.append(values, numbers[name])),
            confidence=how.confidence,
            num_rows=len(everything),
        )
        found[name] = Measure(interval)
    return found


def _dealt(test: Rows, labels: np.ndarray | None) -> list[np.ndarray] | None:
    """Row numbers in groups, by content; those of one label stay together. None where rows have no identity."""
    if labels is not None:
        _, place = np.unique(labels, return_inverse=True)
        num_groups = min(_NUM_GROUPS, int(place.max()) + 1)
        return [np.flatnonzero(place % num_groups == group) for group in range(num_groups)]
    try:
        identities = row_identities(*(part for part in test.parts if part is not None))
    except (UsageError, TypeError, ValueError):
        return None
    order = np.argsort(identities, kind="stable")
    num_groups = min(_NUM_GROUPS, len(order))
    return [np.sort(order[start::num_groups]) for start in range(num_groups)]
