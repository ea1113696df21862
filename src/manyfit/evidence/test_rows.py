"""Every look at test rows, and by how much the best of several looks is lucky.

Rows are known again by their content: in any order, as a part of what was looked at before, or with more around them.
The losses of each row are kept in half precision, since only their differences between models are needed.

| notation | meaning |
|---|---|
| n | rows of the latest look |
| k | models that were measured on them |
| s | standard deviation over rows of the difference of two models' losses; root mean square over pairs of models |
| e(k) | mean of the largest of k standard normal draws |

The score of each model has luck of its own with these rows, with standard deviation s / sqrt(2 n): what the rows do to
all models alike cancels in s. Were all k equal on fresh rows, the best would look better than it is by

    e(k) s / sqrt(2 n).                                                                                          (1)

From five models on their scores say how far they are from equal, and the posterior of the best is used instead, where
it is less. Close models have a small s, which is why long competitions on one test set did little harm (Roelofs 2019).
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.objective import infer_metric_direction
from manyfit.data.classes import ProjectFacts
from manyfit.data.identity import fingerprint, row_identities
from manyfit.data.kinds import FitData
from manyfit.stats.ranking import expected_maximum

MAX_KEPT_ROWS = 1 << 17
"""Of larger test sets those with the smallest identities stand for all: a sample by content, the same in each look."""

_MIN_MODELS = 5  # below, scores do not tell how far models are from equal
_FACT, _ROWS, _LOSSES = "test_uses", "test_rows", "test_losses"  # where the project keeps them


@dataclasses.dataclass(frozen=True, eq=False)
class RowSet:
    """Rows by their content.

    Args:
        identities: ascending, each once: all, or the smallest of many.
        num_rows: in the set, those that occur several times included.
        key: the same for the same rows in any order.

    Example:

    >>> x = np.arange(12.0).reshape(6, 2)
    >>> whole, part = RowSet.of(x), RowSet.of(x[[4, 1, 0]])
    >>> part.overlaps(whole), part.overlaps(RowSet.of(-1 - x)), RowSet.of(x[::-1]).key == whole.key
    (True, False, True)
    """

    identities: np.ndarray
    num_rows: int
    key: str

    @classmethod
    def of(cls, x: FitData) -> RowSet:
        """The rows of an array, or of a nested structure of arrays."""
        return cls.ordered(x)[0]

    @classmethod
    def ordered(cls, x: FitData) -> tuple[RowSet, np.ndarray]:
        """The same, and for each of the identities the number of a row that has it."""
        own = row_identities(x)
        each, first = np.unique(own, return_index=True)
        kept = slice(None, MAX_KEPT_ROWS)
        return cls(each[kept], len(own), fingerprint(np.sort(own))), first[kept]

    @property
    def places_once(self) -> bool:
        """Whether the content of a row tells which it is: most rows occur once."""
        return 2 * len(self.identities) > min(self.num_rows, MAX_KEPT_ROWS)

    def overlaps(self, other: RowSet) -> bool:
        """Whether more than half of the smaller set is in the other one, too."""
        if self.key == other.key:
            return True
        if not (self.places_once and other.places_once):
            return False  # few distinct contents are in every set that is drawn from them
        mine, theirs = self._up_to(other), other._up_to(self)
        shared = np.intersect1d(mine, theirs, assume_unique=True)
        return 2 * len(shared) > min(len(mine), len(theirs))

    def _up_to(self, other: RowSet) -> np.ndarray:
        """The identities up to where both sets are kept in full."""
        cut = [one.identities[-1] for one in (self, other) if len(one.identities) == MAX_KEPT_ROWS]
        return self.identities[self.identities <= min(cut)] if cut else self.identities


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredModel:
    """One model in a look.

    Attributes:
        artefact: what tells it from others: `manyfit.finish.artefact.artefact_of`.
        scores: by metric.
        intervals: the same in words.
        losses: by metric, of each row of the set in the order of its identities, the influence on the score; empty
            where rows or influences are unknown.
    """

    artefact: str
    scores: Mapping[str, float]
    intervals: Mapping[str, str] = dataclasses.field(default_factory=dict)
    losses: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Look:
    """One evaluation of one or more models on test rows.

    Attributes:
        data: fingerprint of the data as they were given; all there is where rows have no identity (streams).
        rows: what was looked at; None: unknown.
        models: by name.
        confidence: of the intervals.
        at: when, in seconds since 1970.
    """

    data: str
    rows: RowSet | None
    models: Mapping[str, MeasuredModel]
    confidence: float
    at: float = dataclasses.field(default_factory=time.time)

    @property
    def choice(self) -> frozenset[str]:
        """The models that were measured."""
        return frozenset(model.artefact for model in self.models.values())

    def shares_rows(self, other: Look) -> bool:
        """Whether it is a look at the same rows."""
        if self.data == other.data:
            return True
        return self.rows is not None and other.rows is not None and self.rows.overlaps(other.rows)


class Looks:
    """The looks of a project.

    Args:
        store: of the project.
    """

    def __init__(self, store: ProjectFacts) -> None:
        self._store = store

    def add(self, look: Look) -> None:
        """Writes a look down, once per choice and rows."""
        if any(look.choice <= other.choice for other in self.all() if other.data == look.data):
            return
        facts: dict[str, Any] = {}
        if look.rows is not None:
            facts[f"{_ROWS} {look.rows.key}"] = [look.rows.num_rows, _packed(look.rows.identities)]
            for model in look.models.values():
                facts[f"{_LOSSES} {look.rows.key} {model.artefact}"] = {
                    metric: _halved(losses) for metric, losses in model.losses.items()
                }
        told = {
            "data": look.data,
            "rows": None if look.rows is None else look.rows.key,
            "models": list(look.models),
            "artefacts": {name: model.artefact for name, model in look.models.items()},
            "scores": {name: dict(model.scores) for name, model in look.models.items()},
            "with_intervals": {name: dict(model.intervals) for name, model in look.models.items()},
            "confidence": look.confidence,
            "at": look.at,
        }
        self._store.put(**facts, **{_FACT: [*self._store.get(_FACT, []), told]})

    def all(self) -> list[Look]:
        """Oldest first."""
        return [self._read(told) for told in self._store.get(_FACT, [])]

    def before(self, look: Look) -> list[Look]:
        """Earlier looks at the same rows that measured another choice; for one that is repeated, those before it."""
        others = [other for other in self.all() if look.shares_rows(other)]
        return list(itertools.takewhile(lambda other: not look.choice <= other.choice, others))

    def _read(self, told: Mapping[str, Any]) -> Look:
        rows = None
        if (key := told.get("rows")) is not None:
            num_rows, identities = self._store.get(f"{_ROWS} {key}")
            rows = RowSet(_unpacked(identities, np.uint64), num_rows, key)
        # Version 0.1 wrote one text for all models of a look.
        artefacts = told.get("artefacts") or {
            name: told["choice"] + (f" {place}" if place else "") for place, name in enumerate(told["models"])
        }
        models = {}
        for name, artefact in artefacts.items():
            kept = {} if rows is None else self._store.get(f"{_LOSSES} {rows.key} {artefact}", {})
            losses = {metric: _whole(one) for metric, one in kept.items()}
            texts = told.get("with_intervals", {}).get(name, {})
            models[name] = MeasuredModel(artefact, told["scores"][name], texts, losses)
        return Look(told["data"], rows, models, told.get("confidence", 0.95), told["at"])


@dataclasses.dataclass(frozen=True)
class Luck:
    """By how much the best of several models looks better on test rows than it is.

    Attributes:
        num_models: that were measured on these rows.
        amounts: by metric, in its units.
        is_bound: whether they hold for equal models, and are less if the models differ.
    """

    num_models: int
    amounts: Mapping[str, float]
    is_bound: bool

    def __str__(self) -> str:
        about = "up to about" if self.is_bound else "about"
        return ", ".join(f"{about} {amount:.2g} ({metric})" for metric, amount in self.amounts.items() if amount > 0)


def luck_of_best(looks: Sequence[Look]) -> Luck:
    """By how much the best of all models in some looks at the same rows is lucky: see the head of this file.

    Args:
        looks: the latest last.
    """
    measured = {model.artefact: (look, model) for look in looks for model in look.models.values()}
    amounts, bounds = {}, []
    for metric in next(iter(looks[-1].models.values())).losses:
        kept = [(look.rows, model.losses[metric]) for look, model in measured.values() if metric in model.losses]
        variances = [v for one, other in itertools.combinations(kept, 2) if (v := _variance(one, other)) is not None]
        if not variances or looks[-1].rows is None:
            continue
        scores = [model.scores[metric] for _, model in measured.values() if metric in model.scores]
        noise = math.sqrt(float(np.mean(variances)) / (2 * looks[-1].rows.num_rows))
        amounts[metric], bound = _luck(metric, noise, scores)
        bounds.append(bound)
    return Luck(len(measured), amounts, is_bound=not bounds or any(bounds))


def _variance(one: tuple[RowSet | None, np.ndarray], other: tuple[RowSet | None, np.ndarray]) -> float | None:
    """Over the rows that both were measured on, of the difference of their losses; None where that are too few."""
    if one[0] is None or other[0] is None:
        return None
    shared = np.intersect1d(one[0].identities, other[0].identities, assume_unique=True, return_indices=True)
    difference = _as_kept(one[1])[shared[1]] - _as_kept(other[1])[shared[2]]
    return float(difference.var(ddof=1)) if len(difference) > 1 else None


def _luck(metric: str, noise: float, scores: Sequence[float]) -> tuple[float, bool]:
    """The luck of the best, and whether it is (1), which holds for equal models."""
    bound = noise * expected_maximum(len(scores))
    direction = infer_metric_direction(metric)
    if len(scores) < _MIN_MODELS or noise == 0 or direction is None or not np.isfinite(scores).all():
        return bound, noise > 0
    from manyfit.stats.posterior import search_posterior  # slow to load, and who only reads looks asks for none

    losses = np.asarray(scores) * (1 if direction == "min" else -1)
    return min(bound, abs(search_posterior(losses, noise).finalists[0].optimism)), False


def change_since(look: Look, earlier: Look) -> dict[str, float]:
    """How far the first model of a look is from the first of an earlier one, in standard errors of the difference.

    Returns:
        By metric, for those whose losses both have kept; the sign is that of the later score less the earlier.
    """
    if look.rows is None or earlier.rows is None:
        return {}
    now, then = (next(iter(one.models.values())) for one in (look, earlier))
    shared, mine, theirs = np.intersect1d(
        look.rows.identities, earlier.rows.identities, assume_unique=True, return_indices=True
    )
    found = {}
    for metric in now.losses:
        if metric not in then.losses or len(shared) < 2:
            continue
        # A difference of rows that were rounded alike; the rounded means of the two cancel against the scores.
        rows = _as_kept(now.losses[metric])[mine] - _as_kept(then.losses[metric])[theirs]
        rows += now.scores[metric] - then.scores[metric]
        error = rows.std(ddof=1) / math.sqrt(len(rows))
        found[metric] = 0.0 if error == 0 else float(rows.mean() / error)
    return found


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode()


def _unpacked(text: str, dtype: type[np.generic]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), np.dtype(dtype).newbyteorder("<")).astype(dtype)


def _halved(losses: np.ndarray) -> list[Any]:
    """Losses in half precision, in units of about the largest: squared errors of prices would be too large for it."""
    unit = _unit(losses)
    return [unit, _packed((losses / unit).astype(np.float16))]


def _whole(kept: Sequence[Any]) -> np.ndarray:
    return _unpacked(kept[1], np.float16).astype(np.float64) * kept[0]


def _as_kept(losses: np.ndarray) -> np.ndarray:
    """The losses as they are once they were written down, so that new ones compare with those that were."""
    return _whole(_halved(losses))


def _unit(losses: np.ndarray) -> float:
    # A power of two, so that losses that are equal stay so whatever the others are.
    return float(2.0 ** np.ceil(np.log2(np.abs(losses).max(initial=0.0) or 1.0)))
