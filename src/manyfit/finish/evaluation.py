"""The held-out score, once: every look at test data is written down, and what a further one costs is said."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective
from manyfit.data.classes import Classes, ProjectFacts
from manyfit.data.identity import fingerprint
from manyfit.data.kinds import Ability, FitData
from manyfit.data.rows import MAX_READ_BYTES, Rows
from manyfit.evidence.test_rows import Look, Looks, Luck, MeasuredModel, RowSet, change_since, luck_of_best
from manyfit.finish.artefacts import Artefacts
from manyfit.finish.measures import Also, Evaluated, Measure, Measuring, is_foreign, measures_of
from manyfit.report import terminal
from manyfit.stats.intervals import Interval, confidence_level

_FEW_ROWS = 30


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Held-out scores. Print it.

    Attributes:
        scores: model name -> metric -> estimate and interval.
        num_rows: test rows; None where they cannot be counted.
        earlier: looks at the same rows that came before and measured another choice, oldest first.
        luck: of the best of all models that were measured on these rows.
        notes: what has to be known of single numbers.
        changes: how far the first model is from the first of the look before, by metric, in standard errors of the
            difference.
    """

    scores: Mapping[str, Mapping[str, Interval]]
    num_rows: int | None
    earlier: tuple[Look, ...] = ()
    luck: Luck | None = None
    notes: tuple[str, ...] = ()
    changes: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def times_used(self) -> int:
        """How many choices have been measured on these test data, this one included."""
        return 1 + len({look.choice for look in self.earlier})

    def __getitem__(self, metric: str) -> float:
        """The first model's estimate of a metric."""
        return next(iter(self.scores.values()))[metric].estimate

    def sentences(self) -> list[str]:
        """What one has to know about these numbers."""
        lines = list(self.notes)
        if self.earlier:
            names = "; ".join(", ".join(look.models) for look in self.earlier)
            lines.append(f"{ordinal(self.times_used)} look at {self._rows()} (before: {names}).")
            if self.changes and all(abs(change) < 1 for change in self.changes.values()):
                lines.append(f"The change since look {self.times_used - 1} is within the noise.")
        if self.luck is not None and self.luck.num_models > 1:
            count = self.luck.num_models
            if any(self.luck.amounts.values()):
                lines.append(f"The best of {count} models is lucky by {self.luck}; its interval does not include that.")
            elif not self.luck.amounts:
                lines.append(f"The best of {count} models looks better than it is; by how much, is unknown here.")
        return lines

    def _rows(self) -> str:
        return "these rows" if self.num_rows is None else f"these {self.num_rows:,} rows"

    def __str__(self) -> str:
        metrics = list(dict.fromkeys(name for row in self.scores.values() for name in row))
        rows = [{"model": name, **{m: str(row[m]) for m in metrics if m in row}} for name, row in self.scores.items()]
        confidence = next(iter(next(iter(self.scores.values())).values())).confidence
        count = "" if self.num_rows is None else f" on {self.num_rows} rows"
        head = f"Held-out scores{count}, with {confidence:.0%} intervals over the rows"
        return "\n".join(
            [head, "", terminal.table(rows, ["model", *metrics]), *[f"\n{line}" for line in self.sentences()]]
        )


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, ...

    Example:

    >>> [ordinal(number) for number in (1, 2, 3, 11, 22)]
    ['1st', '2nd', '3rd', '11th', '22nd']
    """
    teen = number % 100 in (11, 12, 13)
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def evaluate(
    models: Mapping[str, Evaluated],
    x: FitData,
    y: FitData,
    store: ProjectFacts,
    *,
    confidence: float = 0.95,
    groups: FitData = None,
    objective: Objective | None = None,
    also: Also | None = None,
    **options: Any,
) -> Evaluation:
    """Measures final models on test data, and writes down that these data were used.

    Args:
        models: name -> Keras model, estimator or ensemble.
        x: test rows.
        y: their targets; names of classes, where those of the search had names.
        store: of the project.
        confidence: of the intervals.
        groups: a label per row, where rows of one group resemble each other: groups are what is drawn anew then.
        objective: of the search: what it names is measured of estimators, besides what is measured of all.
        also: what else is measured of estimators.
        **options: passed on to `evaluate` of the models: `batch_size`, `sample_weight`.

    Raises:
        UsageError: no models, no rows, x and y or groups of different length, a class that the search did not have, or
            a confidence outside (0, 1).
    """
    confidence = confidence_level("evaluate", confidence)
    test, options = _test_rows(x, y, options, len(models))
    if not models or test.num_rows == 0:
        got = "no models" if not models else "no test rows"
        raise UsageError(explain("evaluate(x, y)", got, "at least one of each", "Call tuner.retrain(...) first."))
    classes = Classes.of_project(store)
    numbered = test if classes is None else dataclasses.replace(test, y=classes.numbers("evaluate(x, y)", test.y))
    wanted = () if objective is None else tuple(name.removeprefix("val_") for name in objective.names)
    how = Measuring(confidence, options, wanted, also, _labels(groups, test.num_rows))
    found = {name: measures_of(one, test if is_foreign(one) else numbered, how) for name, one in models.items()}
    # Written down before anybody sees the number: a look that is not recorded did happen all the same.
    look = look_of(models, found, test, Artefacts(store), confidence=confidence)
    return told(look, found, test.num_rows, Looks(store))


def record(name: str, model: Evaluated, test: Rows, store: ProjectFacts, numbers: Mapping[str, float]) -> Evaluation:
    """Writes down a look by the model's own `evaluate`, and says what it means after those that came before.

    Args:
        name: of the model.
        model: a Keras model or an ensemble.
        test: what it was measured on; a pipeline that cannot be read again leaves its rows unknown.
        store: of the project.
        numbers: what `evaluate` said.
    """
    if test.kind.is_pipeline and test.can(Ability.READ_AGAIN) and test.can(Ability.AS_ARRAYS):
        test = test.read(max_bytes=MAX_READ_BYTES)
    classes = Classes.of_project(store)
    if classes is not None and test.y is not None:
        test = dataclasses.replace(test, y=classes.numbers("evaluate(x, y)", test.y))
    found = {name: measures_of(model, test, Measuring(), numbers=numbers)}
    look = look_of({name: model}, found, test, Artefacts(store), confidence=0.95)
    return told(look, found, test.num_rows, Looks(store))


def look_of(
    models: Mapping[str, Evaluated],
    found: Mapping[str, Mapping[str, Measure]],
    test: Rows,
    artefacts: Artefacts,
    *,
    confidence: float,
) -> Look:
    """What is kept of an evaluation."""
    rows, order = _row_set(test)
    measured = {}
    for name, model in models.items():
        row = found[name]
        losses = {
            metric: one.losses[order] for metric, one in row.items() if one.losses is not None and order is not None
        }
        measured[name] = MeasuredModel(
            artefacts.of(model, test.x),
            {metric: one.interval.estimate for metric, one in row.items()},
            {metric: str(one.interval) for metric, one in row.items()},
            losses,
        )
    data = f"unknown rows, {uuid.uuid4().hex}" if rows is None else fingerprint(test.x, test.y)
    return Look(data, rows, measured, confidence)


def told(look: Look, found: Mapping[str, Mapping[str, Measure]], num_rows: int | None, looks: Looks) -> Evaluation:
    """Writes a look down, and says what it means after those that came before."""
    before = looks.before(look)
    same_rows = [other for other in looks.all() if look.shares_rows(other)]
    looks.add(look)
    notes = [
        f"{name}, {metric}: {measure.note}."
        for name, row in found.items()
        for metric, measure in row.items()
        if measure.note
    ]
    if num_rows is not None and num_rows < _FEW_ROWS:
        notes.append(f"{num_rows} rows only.")
    if look.rows is None:
        notes.append("The rows are unknown (a stream): no interval, and further looks at them are not noticed.")
    return Evaluation(
        {name: {metric: one.interval for metric, one in row.items()} for name, row in found.items()},
        num_rows,
        tuple(before),
        luck_of_best([*same_rows, look]),
        tuple(notes),
        change_since(look, before[-1]) if before else {},
    )


def _row_set(test: Rows) -> tuple[RowSet | None, np.ndarray | None]:
    """The rows by content, and the order of theirs in it; None for what has no rows one by one."""
    if test.num_rows is None or not test.can(Ability.TAKEN):
        return None, None
    return RowSet.ordered(test.x)


def _labels(groups: FitData, num_rows: int | None) -> np.ndarray | None:
    if groups is None:
        return None
    labels = np.asarray(groups)
    if labels.ndim != 1 or len(labels) != num_rows:
        got = f"an array of shape {labels.shape} for {num_rows} rows"
        raise UsageError(explain("evaluate(groups)", got, "one label per row", "Type groups=patient_of_row, say."))
    return labels


def _test_rows(x: FitData, y: FitData, options: Mapping[str, Any], num_models: int) -> tuple[Rows, dict[str, Any]]:
    """The test rows, as arrays where that can be, and the options that are left for `evaluate` of a model."""
    test = Rows(x, y, options.get("sample_weight"), options.get("steps"))
    test.check_lengths("evaluate(x, y)")
    left = {name: value for name, value in options.items() if name != "sample_weight"}
    if test.kind.is_pipeline and test.can(Ability.AS_ARRAYS):
        # Only arrays can be recognised when they are used again, and looked at row by row for the intervals.
        with contextlib.suppress(UsageError):  # more than fits into memory: then without intervals
            return test.read(max_bytes=MAX_READ_BYTES), {name: left[name] for name in left if name != "steps"}
    if num_models > 1:
        test.require(Ability.READ_AGAIN, "evaluate(x)")
    return test, left
