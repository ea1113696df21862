"""The held-out score, once: every look at test data is written down, and a second choice made with them is shown.

| notation | meaning |
|---|---|
| n | test rows |
| m | equal groups that they are cut into |
| s | standard deviation of a metric over the groups |
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeGuard

import keras
import numpy as np
import scipy.stats

from manyfit.core.errors import UsageError, explain
from manyfit.core.history import numbers_of
from manyfit.core.objective import Objective
from manyfit.data.classes import Classes, ProjectFacts
from manyfit.data.identity import fingerprint
from manyfit.data.kinds import Ability
from manyfit.data.rows import MAX_READ_BYTES, FitData, Rows
from manyfit.report import terminal
from manyfit.stats.intervals import Interval, confidence_level, mean_interval
from manyfit.training.boosting import Estimator, LabelledRows
from manyfit.training.estimators import is_estimator, measured, row_weights, targets

_NUM_GROUPS = 20  # Student's quantile is 2.09 then, against 1.96 for infinitely many; each group costs a call
_FACT = "test_uses"  # where the project keeps them


class Evaluated(Protocol):
    """What can be measured: a Keras model, which returns a list unless told otherwise, or an ensemble."""

    def evaluate(self, x: FitData, y: FitData, **options: Any) -> Any: ...


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out scores. Print it.

    Attributes:
        scores: model name -> metric -> estimate and interval.
        num_rows: test rows; None where they cannot be counted.
        earlier: earlier evaluations of other models on the same test data.
    """

    scores: Mapping[str, Mapping[str, Interval]]
    num_rows: int | None
    earlier: tuple[Mapping[str, Any], ...]

    @property
    def times_used(self) -> int:
        """How many choices have been measured on these test data, this one included."""
        return 1 + len(self.earlier)

    def __getitem__(self, metric: str) -> float:
        """The first model's estimate of a metric."""
        return next(iter(self.scores.values()))[metric].estimate

    def sentences(self) -> list[str]:
        """What one has to know about these numbers."""
        lines = []
        if self.earlier:
            times = "twice" if self.times_used == 2 else f"{self.times_used} times"
            names = "; ".join(", ".join(use["models"]) for use in self.earlier)
            lines.append(
                f"Test set used {times}: it was used before for another choice ({names}). The better of several "
                "choices looks better on the rows that it was chosen by than it is."
            )
        if len(self.scores) > 1:
            lines.append(
                f"Choosing among these {len(self.scores)} models by these numbers would make the chosen one too good."
            )
        return lines

    def __str__(self) -> str:
        metrics = list(dict.fromkeys(name for row in self.scores.values() for name in row))
        rows = [{"model": name, **{m: str(row[m]) for m in metrics if m in row}} for name, row in self.scores.items()]
        confidence = next(iter(next(iter(self.scores.values())).values())).confidence
        count = "" if self.num_rows is None else f" on {self.num_rows} rows"
        head = f"Held-out scores{count}, with {confidence:.0%} intervals over the rows"
        return "\n".join(
            [head, "", terminal.table(rows, ["model", *metrics]), *[f"\n{line}" for line in self.sentences()]]
        )


def evaluate(
    models: Mapping[str, Evaluated],
    x: FitData,
    y: FitData,
    store: ProjectFacts,
    *,
    confidence: float = 0.95,
    objective: Objective | None = None,
    also: Callable[[Any, Rows], Mapping[str, float]] | None = None,
    **options: Any,
) -> Evaluation:
    """Measures final models on test data, and writes down that these data were used.

    Args:
        models: name -> Keras model, estimator or ensemble.
        x: test rows.
        y: their targets; names of classes, where those of the search had names.
        store: of the project.
        confidence: of the intervals.
        objective: of the search: what it names is measured of estimators, besides what is measured of all.
        also: what else is measured of estimators.
        **options: passed on to `evaluate` of the models: `batch_size`, `sample_weight`.

    Raises:
        UsageError: no models, no rows, x and y of different length, a class that the search did not have, or a
            confidence outside (0, 1).
    """
    confidence = confidence_level("evaluate", confidence)
    test, options = _test_rows(x, y, options, len(models))
    rows = test.num_rows
    if not models or rows == 0:
        got = "no models" if not models else "no test rows"
        raise UsageError(explain("evaluate(x, y)", got, "at least one of each", "Call tuner.retrain(...) first."))
    classes = Classes.of_project(store)
    numbered = test if classes is None else dataclasses.replace(test, y=classes.numbers("evaluate(x, y)", test.y))
    wanted = () if objective is None else tuple(name.removeprefix("val_") for name in objective.names)
    scores = {
        name: _scores(
            functools.partial(_measure, model, options=options, wanted=wanted, also=also),
            test if _is_foreign(model) else numbered,
            confidence,
        )
        for name, model in models.items()
    }
    use = {
        "data": fingerprint(test.x, test.y),
        "choice": fingerprint(*(array for model in models.values() for array in _weights(model, test.x))),
        "models": list(models),
        "scores": {name: {metric: found.estimate for metric, found in row.items()} for name, row in scores.items()},
        "with_intervals": {name: {metric: str(found) for metric, found in row.items()} for name, row in scores.items()},
        "confidence": confidence,
        "at": time.time(),
    }
    known = store.get(_FACT, [])
    # Written down before anybody sees the number: a look that is not recorded did happen all the same.
    same_data = [other for other in known if other["data"] == use["data"]]
    if not any(other["choice"] == use["choice"] for other in same_data):
        store.put(**{_FACT: [*known, use]})
    earlier = tuple(other for other in same_data if other["choice"] != use["choice"])
    return Evaluation(scores, rows, earlier)


def _test_rows(x: FitData, y: FitData, options: Mapping[str, Any], num_models: int) -> tuple[Rows, dict[str, Any]]:
    """The test rows, as arrays where that can be, and the options that are left for `evaluate` of a model."""
    test = Rows(x, y, options.get("sample_weight"), options.get("steps"))
    test.check_lengths("evaluate(x, y)")
    left = {name: value for name, value in options.items() if name != "sample_weight"}
    if test.kind.is_pipeline and test.can(Ability.AS_ARRAYS):
        # Only arrays can be recognised when they are used again, and cut into groups for the intervals.
        with contextlib.suppress(UsageError):  # more than fits into memory: then without intervals
            return test.read(max_bytes=MAX_READ_BYTES), {name: left[name] for name in left if name != "steps"}
    if num_models > 1:
        test.require(Ability.READ_AGAIN, "evaluate(x)")
    return test, left


def test_uses(store: ProjectFacts) -> list[dict[str, Any]]:
    """Every choice that was measured on test data: data, choice, models, scores, with_intervals, confidence, at."""
    return store.get(_FACT, [])


test_uses.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for a test


def _is_foreign(model: object) -> TypeGuard[Estimator]:
    """Whether it is an estimator, which does not measure itself as Keras models and ensembles do."""
    return not hasattr(model, "evaluate") and is_estimator(model)


def _weights(model: object, x: FitData) -> list[np.ndarray]:
    """What tells a model from another."""
    if hasattr(model, "get_weights"):
        return model.get_weights()
    if _is_foreign(model):  # by what it says of these rows: each library keeps what it learned in its own way
        return [np.asarray(model.predict(x))]
    members = [one for member in getattr(model, "members", ()) for one in member.models]
    parts = [weight for one in members for weight in _weights(one, x)]
    return [*parts, np.asarray(list(getattr(model, "weights", {}).values()), dtype=float)]


def _scores(measure: Callable[[Rows], dict[str, float]], test: Rows, confidence: float) -> dict[str, Interval]:
    rows, weights = test.num_rows, test.sample_weight
    totals = measure(test)
    groups: list[dict[str, float]] = []
    if rows is not None and rows >= 2 and test.can(Ability.TAKEN):
        # Equal groups: rows that are left over would make one group another size, and its metric another variance.
        size = rows // min(_NUM_GROUPS, rows)
        for start in range(0, size * min(_NUM_GROUPS, rows), size):
            groups.append(measure(test.take(slice(start, start + size))))
    # A group may lack what a metric needs, a second class say; then there is no telling how much it varies.
    return {
        name: _interval(
            name,
            value,
            [group.get(name, math.nan) for group in groups],
            None if weights is not None else rows,
            confidence,
        )
        for name, value in totals.items()
    }


def _measure(
    model: Evaluated | Estimator,
    test: Rows,
    *,
    options: Mapping[str, Any],
    wanted: Sequence[str],
    also: Callable[[Any, Rows], Mapping[str, float]] | None,
) -> dict[str, float]:
    if _is_foreign(model):
        rows = LabelledRows(test.x, targets(test.y), row_weights(test.sample_weight))
        logs = {**measured(model, rows, wanted), **(also(model, test) if also is not None else {})}
        return {name: float(value) for name, value in logs.items()}
    options = {name: value for name, value in options.items() if name != "sample_weight"}
    if test.sample_weight is not None:
        options["sample_weight"] = test.sample_weight
    if isinstance(model, keras.Model):
        options |= {"verbose": 0, "return_dict": True}
    found = model.evaluate(test.x, test.y, **options)
    return numbers_of(found)


def _interval(name: str, value: float, groups: Sequence[float], rows: int | None, confidence: float) -> Interval:
    """Where a metric lies on further rows of the same kind.

    A share of right rows has Wilson's interval, which is sound near 0 and 1 (Wilson 1927). Any other metric is
    measured on m groups of rows as well: its standard error on all rows is s / sqrt(m), as its variance falls with
    the number of rows (batch means; for metrics that are no means this is the subsampling estimate of Politis and
    Romano 1994). The centre is always the metric on all rows.
    """
    if rows is not None and name.endswith(("accuracy", "acc")):
        hits = value * rows
        if abs(hits - round(hits)) < 1e-6 * rows + 1e-3:
            found = scipy.stats.binomtest(round(hits), rows).proportion_ci(confidence, method="wilson")
            return Interval(value, float(found.low), float(found.high), confidence, rows)
    if len(groups) < 2 or not np.isfinite(groups).all():
        return Interval(value, -math.inf, math.inf, confidence, rows or 0)
    reach = mean_interval(groups, confidence).half_width
    return Interval(value, value - reach, value + reach, confidence, rows or 0)
