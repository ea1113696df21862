"""What a frozen model inside of a model says of rows, computed once for all models that put a head of their own on it.

A search over heads of one backbone predicts the same validation rows with every trial's model. Each model would be
compiled as a whole, backbone included, and run it again. Cut behind the backbone, there is a front, which all share as
long as its weights are the same to the bit, and a head, which is compiled in no time.

It earns row G5 of `benchmarks/structures.py`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from manyfit.data.kinds import FitData

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class CutModel:
    """A model in two.

    Attributes:
        front: from the rows to what the frozen model says.
        head: from there to the output.
    """

    front: keras.Model
    head: keras.Model

    @classmethod
    def of(cls, model: keras.Model) -> CutModel | None:
        """The parts of a functional model; None for one without a frozen model inside, or that looks past it."""
        # Not at the top: it imports Keras, which an ensemble of kept predictions never needs.
        from manyfit.training.keras_internals.building import cut_behind, frozen_models_of

        frozen = frozen_models_of(model)
        found = cut_behind(model, frozen[0]) if len(frozen) == 1 else None
        # A front that trains is another one in each trial.
        return None if found is None or found[0].trainable_variables else cls(*found)

    def weights_key(self) -> str:
        """Equal for fronts with the same weights, to the bit."""
        found = hashlib.sha256()
        for variable in self.front.variables:
            found.update(np.asarray(variable).tobytes())
        return found.hexdigest()


class KeptFeatures:
    """What fronts have said of the rows that were asked for last.

    Args:
        max_numbers: more of them are not kept.
    """

    def __init__(self, max_numbers: int) -> None:
        self._max_numbers = max_numbers
        self._rows: FitData | None = None
        self._known: dict[str, np.ndarray] = {}

    def of(self, key: str, x: FitData, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """What a front says of these rows.

        Args:
            key: equal for fronts that say the same.
            x: the rows; known by identity.
            compute: says it.
        """
        if self._rows is not x:
            self._rows, self._known = x, {}
        if key in self._known:
            return self._known[key]
        features = compute()
        if features.size + sum(each.size for each in self._known.values()) <= self._max_numbers:
            self._known[key] = features
        return features
