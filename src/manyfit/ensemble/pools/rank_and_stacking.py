"""Two pools that are no means: averages of ranks, and a linear model on what the members predict."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from manyfit.ensemble.pools.base import Pool, TemperedPool, log_clipped, log_layer, scaled, spread, weighted_sum
from manyfit.ensemble.pools.means import LinearPool
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    from keras import KerasTensor

Steps = tuple[tuple[np.ndarray, ...], ...]
"""Per member, per column: one number for every knot; empty for members without weight."""


@dataclasses.dataclass(frozen=True, eq=False)
class RankPool(Pool):
    """The average of ranks, for metrics that look at order only, such as AUC. Make it with `rank_pool`.

    The ranks are those among the fitting rows. There is no temperature: every one of them leaves the order alone.
    """

    knots: Steps  # sorted distinct values
    heights: Steps  # their ranks in [0, 1]

    kind: ClassVar[str] = "rank"

    def _combined(self, predictions: np.ndarray, task: PredictionTask) -> np.ndarray:
        _, num_rows, num_columns = predictions.shape
        pooled = np.zeros((num_rows, num_columns))
        for position, member in enumerate(self.support):
            for column in range(num_columns):
                x = predictions[position, :, column]
                ranks = np.interp(x, self.knots[member][column], self.heights[member][column])
                pooled[:, column] += self.weights[member] * ranks
        return pooled

    def to_keras(self, outputs: Sequence[KerasTensor], task: PredictionTask, num_outputs: int) -> KerasTensor:
        """The same with layers, column by column."""
        import keras

        ranked = []
        for member, output in zip(self.support, outputs, strict=True):
            columns = [
                _rank_layers(output[..., c : c + 1], self.knots[member][c], self.heights[member][c])
                for c in range(num_outputs)
            ]
            ranked.append(columns[0] if len(columns) == 1 else keras.layers.Concatenate(dtype="float32")(columns))
        return weighted_sum(ranked, self.weights[self.support], self.support, "pool")

    def describe(self) -> str:
        """The pool in words."""
        return "average of ranks"

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, knots and heights; the latter differ in length, so each is an array of its own."""
        answer = super().arrays()
        for position, member in enumerate(self.support):
            for column, (knots, heights) in enumerate(zip(self.knots[member], self.heights[member], strict=True)):
                answer[f"knots_{position}_{column}"] = knots
                answer[f"heights_{position}_{column}"] = heights
        return answer

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` gave."""

        def steps(name: str) -> Steps:
            columns = range(next(c for c in itertools.count() if f"{name}_0_{c}" not in arrays))
            return tuple(tuple(arrays[f"{name}_{m}_{c}"] for c in columns) for m in range(len(arrays["weights"])))

        return cls(arrays["weights"], steps("knots"), steps("heights"))

    def expand(self, members: np.ndarray, num_members: int) -> Self:
        """The same pool among all members, when it was fitted on a selection of them."""
        return dataclasses.replace(
            self,
            weights=spread(self.weights, members, num_members),
            knots=_placed(self.knots, members, num_members),
            heights=_placed(self.heights, members, num_members),
        )

    def with_share(self, member: int, share: float) -> Self | None:
        """None: the ranks of a member without weight are not known."""
        return None


def _placed(steps: Steps, members: np.ndarray, num_members: int) -> Steps:
    full: list[tuple[np.ndarray, ...]] = [()] * num_members
    for position, member in enumerate(members):
        full[member] = steps[position]
    return tuple(full)


def _rank_layers(column: KerasTensor, knots: np.ndarray, heights: np.ndarray) -> KerasTensor:
    """Linear interpolation as a sum of ramps, each clipped to [0, 1]: no term is large, so nothing cancels."""
    import keras

    if len(knots) == 1:
        return scaled(column, 0.0, float(heights[0]))
    widths, rises = np.diff(knots), np.diff(heights)
    repeated = keras.layers.Concatenate(dtype="float32")([column] * len(widths)) if len(widths) > 1 else column
    # Normalization computes (x - mean) / sqrt(variance): it subtracts first, which keeps steep ramps exact.
    means, variances = knots[:-1].tolist(), (widths**2).tolist()
    ramps = keras.layers.Normalization(mean=means, variance=variances, dtype="float32")(repeated)
    clipped = keras.layers.ReLU(max_value=1.0, dtype="float32")(ramps)
    rising = scaled(clipped, rises, 0.0)
    return scaled(keras.ops.sum(rising, axis=-1, keepdims=True), 1.0, float(heights[0]))


def rank_pool(predictions: np.ndarray, weights: np.ndarray, *, num_knots: int = 64) -> RankPool:
    """A rank-average pool whose ranks are those among the rows it was fitted on.

    A new row is placed among the fitting rows by linear interpolation between quantiles, so one row can be predicted
    alone, and the pool can be written with standard layers.

    Args:
        predictions: (M, n, C) on the fitting rows.
        weights: (M,) on the simplex.
        num_knots: quantiles that are kept per member and column.
    """
    levels = np.linspace(0, 1, num_knots)
    knots, heights = [], []
    for member in predictions:
        member_knots, member_heights = [], []
        for column in member.T.astype(np.float64):
            values = np.unique(np.quantile(column, levels, method="nearest"))
            ordered = np.sort(column)
            below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
            member_knots.append(values)
            member_heights.append(below / (2 * len(column)))  # mid-ranks: ties share their place
        knots.append(tuple(member_knots))
        heights.append(tuple(member_heights))
    return RankPool(weights, tuple(knots), tuple(heights))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StackingPool(TemperedPool):
    """A regularised linear model: softmax(b + sum of u_i log p_i) of probabilities, b + sum of u_i p_i of values.

    The coefficients may be negative and depend on each other, so no share can be taken from one member and given to
    another: `weights` only says who takes part, and how much on average over the columns.
    """

    class_weights: np.ndarray  # u (M, C)
    bias: np.ndarray  # b (C,)

    kind: ClassVar[str] = "stacking"
    text: ClassVar[str] = "regularised linear model on the members' outputs"
    why_not_without: ClassVar[str] = "a coefficient of a linear model, not a share"
    on_simplex: ClassVar[bool] = False
    averages_logs: ClassVar[bool] = True

    @property
    def _coefficients(self) -> np.ndarray:
        return self.class_weights[self.support]

    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        logits = np.einsum("mnc,mc->nc", log_clipped(predictions), self._coefficients) + self.bias
        return self.inverse_temperature * logits

    def _values(self, predictions: np.ndarray) -> np.ndarray:
        return np.einsum("mnc,mc->nc", predictions, self._coefficients) + self.bias

    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        beta = self.inverse_temperature
        total = self._weighted([log_layer(output) for output in outputs], name, self._coefficients)
        return scaled(total, beta, beta * self.bias)

    def _two_class_logit(self, outputs: Sequence[KerasTensor]) -> KerasTensor:
        """The two classes have coefficients of their own, so the two sums differ in more than their inputs."""
        import keras

        zeros = [log_layer(scaled(output, -1.0, 1.0)) for output in outputs]
        ones = [log_layer(output) for output in outputs]
        sums = [
            self._weighted(ones, "pool_ones", self._coefficients[:, 1]),
            self._weighted(zeros, "pool_zeros", self._coefficients[:, 0]),
        ]
        beta = self.inverse_temperature
        return scaled(keras.layers.Subtract(dtype="float32")(sums), beta, beta * float(self.bias[1] - self.bias[0]))

    def _value_layers(self, outputs: Sequence[KerasTensor]) -> KerasTensor:
        return scaled(self._weighted(outputs, "pool_sum", self._coefficients), 1.0, self.bias, "pool")

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, coefficients and bias, and the members' inverse temperatures if they have any."""
        return {**super().arrays(), "class_weights": self._coefficients, "bias": self.bias}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` and `numbers` gave."""
        return cls(
            arrays["weights"],
            inverse_temperature=numbers["inverse_temperature"],
            member_inverse_temperatures=arrays.get("member_inverse_temperatures"),
            class_weights=arrays["class_weights"],
            bias=arrays["bias"],
        )

    def expand(self, members: np.ndarray, num_members: int) -> Self:
        """The same pool among all members, when it was fitted on a selection of them."""
        full = spread(self.class_weights, members, num_members)
        return dataclasses.replace(super().expand(members, num_members), class_weights=full)

    def carried(self, share: float) -> Pool:
        """See `Pool.carried`: a weighted average, since coefficients of outputs belong to the models they are of."""
        return LinearPool(self.weights).carried(share)

    def without(self, member: int) -> Self | None:
        """None: the other coefficients would have to be fitted anew."""
        return None

    def with_share(self, member: int, share: float) -> Self | None:
        """None: the other coefficients would have to be fitted anew."""
        return None
