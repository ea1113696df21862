"""The quasi-arithmetic means: average f(prediction), map back, renormalise over classes.

| pool | f(p) | remarks |
|---|---|---|
| linear | p | never worse than the members' weighted average, by convexity of the losses |
| geometric | log p | softmax of weighted log-probabilities; weights need not sum to one: their sum is a sharpness |
| power | p ** r | safe for r in [0, 1] only (arXiv 2603.04204); r = 1 is linear, r -> 0 geometric |
| exponential | exp(a p) | follows confident members; tends to linear for a -> 0; no guarantee |

Only the linear and the exponential one have a meaning for values; the others average values as the linear one does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from scipy.special import logsumexp

from manyfit.ensemble.pools.base import TemperedPool, exponential_layer, log_clipped, log_layer, scaled, softmax
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    from keras import KerasTensor


@dataclasses.dataclass(frozen=True, eq=False)
class LinearPool(TemperedPool):
    """The weighted average.

    Example:

    >>> pool = LinearPool(np.array([0.75, 0.25]))
    >>> pool(np.array([[[0.8]], [[0.4]]]), PredictionTask.BINARY).round(3).tolist()
    [[0.7]]
    """

    kind: ClassVar[str] = "linear"
    text: ClassVar[str] = "weighted average"

    def _probabilities(self, predictions: np.ndarray) -> np.ndarray:
        # The average of distributions is one: without a temperature there is no way through logarithms and back.
        if self.inverse_temperature == 1.0:
            return np.tensordot(self._shares, predictions, axes=1)
        return softmax(self._logits(predictions))

    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        return self.inverse_temperature * log_clipped(np.tensordot(self._shares, predictions, axes=1))

    def _probability_layers(self, outputs: Sequence[KerasTensor], task: PredictionTask) -> KerasTensor:
        if self.inverse_temperature == 1.0:
            return self._weighted(outputs, "pool")
        return super()._probability_layers(outputs, task)

    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        return scaled(log_layer(self._weighted(outputs, name)), self.inverse_temperature)


def single(member: int, num_members: int) -> LinearPool:
    """The pool that is one member."""
    weights = np.zeros(num_members)
    weights[member] = 1.0
    return LinearPool(weights)


@dataclasses.dataclass(frozen=True, eq=False)
class GeometricPool(TemperedPool):
    """The weighted geometric mean, renormalised."""

    kind: ClassVar[str] = "geometric"
    text: ClassVar[str] = "weighted geometric mean"
    on_simplex: ClassVar[bool] = False  # the sum of the weights is an inverse temperature
    averages_logs: ClassVar[bool] = True

    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        return self.inverse_temperature * np.tensordot(self._shares, log_clipped(predictions), axes=1)

    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        return scaled(self._weighted([log_layer(output) for output in outputs], name), self.inverse_temperature)


@dataclasses.dataclass(frozen=True, eq=False)
class PowerPool(TemperedPool):
    """The power mean, between the geometric and the linear one."""

    parameter: float = 1.0  # r, in (0, 1]

    kind: ClassVar[str] = "power"
    text: ClassVar[str] = "power mean with r = {parameter:g}"

    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        r = self.parameter
        pooled = np.tensordot(self._shares, np.exp(r * log_clipped(predictions)), axes=1)
        return self.inverse_temperature / r * log_clipped(pooled)

    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        r = self.parameter
        raised = [exponential_layer(scaled(log_layer(output), r)) for output in outputs]
        return scaled(log_layer(self._weighted(raised, name)), self.inverse_temperature / r)

    def numbers(self) -> dict[str, float]:
        """The inverse temperature and r."""
        return {**super().numbers(), "parameter": self.parameter}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` and `numbers` gave."""
        return dataclasses.replace(super().from_saved(arrays, numbers), parameter=numbers["parameter"])


@dataclasses.dataclass(frozen=True, eq=False)
class ExponentialPool(TemperedPool):
    """The exponential mean: of values the Bayes estimate under LINEX loss."""

    parameter: float = 1.0  # a, positive

    kind: ClassVar[str] = "exponential"
    text: ClassVar[str] = "exponential mean with a = {parameter:g}"

    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        a = self.parameter
        pooled = np.log(np.tensordot(self._shares, np.exp(a * predictions), axes=1)) / a
        return self.inverse_temperature * log_clipped(pooled)

    def _values(self, predictions: np.ndarray) -> np.ndarray:
        # Values may be of any size, so the largest is taken out before the exponential; probabilities need no care.
        a = self.parameter
        return logsumexp(a * predictions, b=self._shares[:, None, None], axis=0) / a

    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        raised = [exponential_layer(scaled(output, self.parameter)) for output in outputs]
        mean = scaled(log_layer(self._weighted(raised, name), floor=False), 1 / self.parameter)
        return scaled(log_layer(mean), self.inverse_temperature)

    def _value_layers(self, outputs: Sequence[KerasTensor]) -> KerasTensor:
        import keras

        a, logs = self.parameter, np.log(self._shares)
        terms = [scaled(output, a, log) for output, log in zip(outputs, logs, strict=True)]
        return scaled(keras.ops.logsumexp(keras.ops.stack(terms), axis=0), 1 / a, 0.0, "pool")

    def numbers(self) -> dict[str, float]:
        """The inverse temperature and a."""
        return {**super().numbers(), "parameter": self.parameter}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` and `numbers` gave."""
        return dataclasses.replace(super().from_saved(arrays, numbers), parameter=numbers["parameter"])
