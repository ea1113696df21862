"""Beliefs of the user about where good values are, one per hyperparameter (Hvarfner et al. 2022, piBO).

(1) log acquisition + strength / trials * log belief

A belief steers the first trials and fades as results come in, so a wrong one costs trials but never the optimum. It
is never zero anywhere, so beliefs cannot exclude everything between them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Value
from manyfit.samplers.gp.kernels import Array
from manyfit.space.encoding import Encoding

_STRENGTH = 10.0
_OTHER_CATEGORY = math.log(0.2)  # how likely another category is, relative to the one believed in
_LEAST = -12.5  # log belief five spreads away; no place is less likely, however many trials agree


@dataclasses.dataclass(frozen=True)
class Belief:
    """Where one hyperparameter is believed to be good.

    Args:
        name: the hyperparameter.
        value: the most likely value. Numbers outside the bounds count as the bound.
        spread: standard deviation, as a share of the range on the hyperparameter's own scale; categories ignore it.

    Raises:
        UsageError: a spread that is not positive.
    """

    name: str
    value: Value
    spread: float = 0.15

    def __post_init__(self) -> None:
        if not (math.isfinite(self.spread) and self.spread > 0):
            raise UsageError(
                explain(f'Belief("{self.name}")', f"spread={self.spread}", "more than 0", "Type spread=0.15.")
            )


class LogBelief:
    """The weighted log beliefs of points, eq. (1), as a score to add. Inactive hyperparameters say nothing.

    Args:
        encoding: of the space.
        beliefs: of the user; names that the space does not have (yet) are passed over.
        num_trials: trials so far.
    """

    def __init__(self, encoding: Encoding, beliefs: Sequence[Belief], num_trials: int) -> None:
        self._weight = _STRENGTH / max(num_trials, 1)
        by_name = {each.name: each for each in beliefs}
        self._terms = [
            (j, float(dimension.hyperparameter.encode([by_name[dimension.name].value])[0]), by_name[dimension.name])
            for j, dimension in enumerate(encoding.dimensions)
            if dimension.name in by_name
        ]
        self._unordered = [each.kind == "unordered" for each in encoding.dimensions]

    def __call__(self, points: Array) -> Array:
        return self.with_slopes(points)[0]

    def with_slopes(self, points: Array) -> tuple[Array, Array]:
        values, slopes = np.zeros(len(points)), np.zeros(points.shape)
        for j, center, belief in self._terms:
            distance = np.where(np.isnan(points[:, j]), 0.0, points[:, j] - center)
            if self._unordered[j]:
                values += self._weight * np.where(distance == 0.0, 0.0, _OTHER_CATEGORY)
                continue
            density = -0.5 * (distance / belief.spread) ** 2
            values += self._weight * np.maximum(density, _LEAST)
            slopes[:, j] -= self._weight * np.where(density > _LEAST, distance / belief.spread**2, 0.0)
        return values, slopes

    def draw(self, candidates: Array, num_points: int, rng: np.random.Generator) -> Array:
        """(num_points, d) of the candidates, each as likely as it is believed in; the first trials use it."""
        log_weights = self(candidates) / self._weight
        weights = np.exp(log_weights - log_weights.max())
        chosen: Array = candidates[rng.choice(len(candidates), size=num_points, p=weights / weights.sum())]
        return chosen
