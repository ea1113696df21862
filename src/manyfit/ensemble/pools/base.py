"""What a pool is: a fitted rule that makes one prediction of several members', in NumPy and as layers of Keras.

Two families. A `TemperedPool` averages (probabilities, their logarithms, powers, ...) and can be sharpened afterwards;
a pool that is none, such as the one of ranks, has an order but no temperature.

Every pool is written twice, for arrays and with layers, since what is saved must load where Manyfit is not installed:
standard layers and operations only, no Lambda, no class of ours. `manyfit.testing.pools` holds the two against each
other. Weighted sums are one `Rescaling` per member and an `Add`, not a matrix product, because accelerators may run
products in reduced precision.

Notation: p (S, n, C) predictions of the S members with weight, w (S,) their weights, q (n, C) the pool, beta one over
the temperature. Binary and multi-label columns are pooled as two-class questions of their own: (1 - p, p).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from scipy.special import expit

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.problem import EPSILON, PredictionTask, two_columns

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    from keras import KerasTensor


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(abc.ABC):
    """A fitted pool: everything that is needed to combine predictions, and nothing else.

    A concrete pool is a frozen dataclass (`eq=False`) that sets `kind` and implements `_combined`, `to_keras` and
    `describe`. If it has more fields than the weights, it overrides `numbers` and `from_saved` for single numbers, and
    for arrays with an entry per member `arrays`, `from_saved` and `expand`.

    Raises:
        UsageError: weights that are not one finite number per member, or all zero.
    """

    weights: np.ndarray  # (M,); zero for members that are not used, which are never looked at

    kind: ClassVar[str]  # its name in files
    on_simplex: ClassVar[bool] = True  # weights are shares: not negative, with the sum one
    why_not_without: ClassVar[str] = (
        "without it the others would have to be fitted anew"  # said where `without` is None
    )
    averages_logs: ClassVar[bool] = False  # of probabilities; which decomposition of the loss is exact depends on it

    def __post_init__(self) -> None:
        weights = self.weights
        if weights.ndim != 1 or not np.isfinite(weights).all() or not weights.any():
            raise UsageError(
                explain(
                    f"{type(self).__name__}(weights)",
                    f"weights {np.array2string(weights, threshold=8)}",
                    "one finite number per member, not all zero",
                    "For instance np.array([0.7, 0.3]).",
                )
            )

    @property
    def support(self) -> np.ndarray:
        """Indices of the members that are used."""
        return np.flatnonzero(self.weights)

    def __call__(self, predictions: np.ndarray, task: PredictionTask) -> np.ndarray:
        """Combines predictions.

        Args:
            predictions: (M, n, C); rows of members with weight zero may hold anything, NaN included.
            task: what they predict.

        Returns:
            (n, C) in float64.
        """
        return self.combine(predictions[self.support].astype(np.float64), task)

    def combine(self, predictions: np.ndarray, task: PredictionTask) -> np.ndarray:
        """Like a call, with the predictions (S, n, C) of the members of `support` only.

        Raises:
            UsageError: another number of members, or an array without the three axes.
        """
        if predictions.ndim != 3 or len(predictions) != len(self.support):
            raise UsageError(
                explain(
                    f"{type(self).__name__}.combine",
                    f"predictions of shape {predictions.shape}",
                    f"shape ({len(self.support)}, rows, columns): one layer per member with weight",
                    "Give the predictions of the members of pool.support, in that order.",
                )
            )
        return self._combined(predictions, task)

    @abc.abstractmethod
    def _combined(self, predictions: np.ndarray, task: PredictionTask) -> np.ndarray:
        """`combine`, after its checks."""

    @abc.abstractmethod
    def to_keras(self, outputs: Sequence[KerasTensor], task: PredictionTask, num_outputs: int) -> KerasTensor:
        """The same with layers.

        Args:
            outputs: S tensors (n, C) in float32, of the members of `support`.
            task: what they predict.
            num_outputs: C.

        Returns:
            (n, C).
        """

    @abc.abstractmethod
    def describe(self) -> str:
        """The pool in words."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a file needs, of the members of `support` only: the others are not saved."""
        return {"weights": self.weights[self.support]}

    def numbers(self) -> dict[str, float]:
        """The single numbers that a file needs beside the arrays."""
        return {}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` and `numbers` gave; all its members are used."""
        return cls(arrays["weights"])

    def expand(self, members: np.ndarray, num_members: int) -> Self:
        """The same pool among all members, when it was fitted on a selection of them.

        Args:
            members: indices of the members it was fitted on.
            num_members: how many there are in all.
        """
        return dataclasses.replace(self, weights=spread(self.weights, members, num_members))

    def pruned(self, count: int) -> Self:
        """The pool of the `count` members with the largest weights, for pools whose weights are shares."""
        weights = self.weights.copy()
        weights[np.argsort(-weights, kind="stable")[count:]] = 0.0
        return dataclasses.replace(self, weights=weights / weights.sum())

    def carried(self, share: float) -> Pool:
        """The pool for models that were trained anew: part of the weights was luck of the models before them.

        Args:
            share: of the learned weights in the new ones; the rest is shared equally by the members that are used.
        """
        # Weights below zero are the fit's way of cancelling errors of these very models.
        learned = np.maximum(self.weights, 0.0) if self.weights.max() > 0 else np.abs(self.weights)
        used = self.weights != 0
        mixed = share * learned / learned.sum() + (1.0 - share) * used / used.sum()
        return dataclasses.replace(self, weights=mixed)

    def without(self, member: int) -> Self | None:
        """The pool whose other weights are scaled up to make up for a member; None where weights are no shares."""
        weights = self.weights.copy()
        weights[member] = 0.0
        return dataclasses.replace(self, weights=weights * (self.weights.sum() / weights.sum()))

    def with_share(self, member: int, share: float) -> Self | None:
        """The pool that gives this share to a member without weight; None where that needs a new fit."""
        # In proportion to the sum, which is no one for a geometric pool.
        weights = self.weights * (1 - share)
        weights[member] = share * self.weights.sum()
        return dataclasses.replace(self, weights=weights)


@dataclasses.dataclass(frozen=True, eq=False)
class TemperedPool(Pool):
    """A pool that can be made sharper or softer, and whose members can be, each before it is pooled.

    Probabilities: q = softmax(`_logits`), where beta is within the logits. Values: `_values`, without a temperature.

    A concrete one sets `kind` and `text`, implements `_logits` and `_logit_layers`, and overrides `_values` and
    `_value_layers` together, unless it averages values.
    """

    inverse_temperature: float = 1.0  # beta, applied to the log of the pool
    member_inverse_temperatures: np.ndarray | None = None  # (M,), applied to each member before it is pooled

    text: ClassVar[str]  # what `describe` begins with

    def _combined(self, predictions: np.ndarray, task: PredictionTask) -> np.ndarray:
        if not task.probabilistic:
            return self._values(predictions)
        # Before the columns are unfolded: a temperature acts on a member's own question.
        if self.member_inverse_temperatures is not None:
            predictions = sharpened(predictions, self.member_inverse_temperatures[self.support], task)
        num_rows, num_outputs = predictions.shape[1:]
        expanded = two_columns(predictions) if task.two_class else predictions
        pooled = self._probabilities(expanded)
        return pooled[:, 1].reshape(num_rows, num_outputs) if task.two_class else pooled

    def _probabilities(self, predictions: np.ndarray) -> np.ndarray:
        return softmax(self._logits(predictions))

    @abc.abstractmethod
    def _logits(self, predictions: np.ndarray) -> np.ndarray:
        """(N, C): beta times the log of the pool, up to a constant per row."""

    def _values(self, predictions: np.ndarray) -> np.ndarray:
        """(n, C) of values; a pool that has no formula of its own for them averages."""
        return np.tensordot(self._shares, predictions, axes=1)

    @property
    def _shares(self) -> np.ndarray:
        return self.weights[self.support]

    def to_keras(self, outputs: Sequence[KerasTensor], task: PredictionTask, num_outputs: int) -> KerasTensor:
        """The same with layers: each step mirrors one of `combine`."""
        if not task.probabilistic:
            return self._value_layers(outputs)
        if self.member_inverse_temperatures is not None:
            betas = self.member_inverse_temperatures[self.support]
            outputs = [_sharpened_layer(output, beta, task) for output, beta in zip(outputs, betas, strict=True)]
        return self._probability_layers(outputs, task)

    def _probability_layers(self, outputs: Sequence[KerasTensor], task: PredictionTask) -> KerasTensor:
        import keras

        if not task.two_class:
            return keras.layers.Softmax(dtype="float32", name="pool")(self._logit_layers(outputs, "pool_sum"))
        logit = self._two_class_logit(outputs)
        return keras.layers.Activation("sigmoid", dtype="float32", name="pool")(logit)

    def _two_class_logit(self, outputs: Sequence[KerasTensor]) -> KerasTensor:
        """Pools (1 - p, p) of every column by itself: the difference of the two logits."""
        import keras

        ones = self._logit_layers(outputs, "pool_ones")
        zeros = self._logit_layers([scaled(output, -1.0, 1.0) for output in outputs], "pool_zeros")
        return keras.layers.Subtract(dtype="float32", name="pool_logit")([ones, zeros])

    @abc.abstractmethod
    def _logit_layers(self, outputs: Sequence[KerasTensor], name: str) -> KerasTensor:
        """`_logits` with layers; `name` is that of the sum over members, of which a model may hold several."""

    def _value_layers(self, outputs: Sequence[KerasTensor]) -> KerasTensor:
        return self._weighted(outputs, "pool")

    def _weighted(self, outputs: Sequence[KerasTensor], name: str, weights: np.ndarray | None = None) -> KerasTensor:
        """The sum of `outputs` times the pool's weights, or (S,) or (S, C) others."""
        return weighted_sum(outputs, self._shares if weights is None else weights, self.support, name)

    def describe(self) -> str:
        """The pool in words, temperatures included."""
        beta = self.inverse_temperature
        text = self.text.format(**vars(self)) + ("" if beta == 1.0 else f", temperature {1 / beta:.3g}")
        return text if self.member_inverse_temperatures is None else f"{text}, each member calibrated first"

    def arrays(self) -> dict[str, np.ndarray]:
        """Weights, and the members' inverse temperatures if they have any."""
        betas = self.member_inverse_temperatures
        more = {} if betas is None else {"member_inverse_temperatures": betas[self.support]}
        return {**super().arrays(), **more}

    def numbers(self) -> dict[str, float]:
        """The inverse temperature."""
        return {"inverse_temperature": self.inverse_temperature}

    @classmethod
    def from_saved(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float]) -> Self:
        """The pool of a file, with what `arrays` and `numbers` gave."""
        return cls(
            arrays["weights"],
            inverse_temperature=numbers["inverse_temperature"],
            member_inverse_temperatures=arrays.get("member_inverse_temperatures"),
        )

    def carried(self, share: float) -> Pool:
        """See `Pool.carried`. A calibration belongs to the models that it was fitted on: there is none any more."""
        bare = dataclasses.replace(self, inverse_temperature=1.0, member_inverse_temperatures=None)
        return super(TemperedPool, bare).carried(share)

    def expand(self, members: np.ndarray, num_members: int) -> Self:
        """The same pool among all members, when it was fitted on a selection of them."""
        betas = self.member_inverse_temperatures
        betas = None if betas is None else spread(betas, members, num_members)
        return dataclasses.replace(super().expand(members, num_members), member_inverse_temperatures=betas)


def spread(array: np.ndarray, members: np.ndarray, num_members: int, *, empty: float = 0.0) -> np.ndarray:
    """(M, ...) zeros, or `empty`, with `array` (S, ...) in the places `members`."""
    # Zero means unused, for weights as for all that goes with them.
    full = np.full((num_members, *array.shape[1:]), empty)
    full[members] = array
    return full


def log_clipped(probabilities: np.ndarray) -> np.ndarray:
    """Log of probabilities kept `EPSILON` away from zero."""
    return np.log(np.maximum(probabilities, EPSILON))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis."""
    # The axis is moved to the front and back: NumPy sums a short last axis several times as slowly.
    front = np.array(np.moveaxis(logits, -1, 0), dtype=np.float64, order="C")
    front -= front.max(axis=0)
    np.exp(front, out=front)
    front /= front.sum(axis=0)
    return np.moveaxis(front, 0, -1)


def sharpened(predictions: np.ndarray, inverse_temperatures: np.ndarray, task: PredictionTask) -> np.ndarray:
    """Probabilities (S, n, C) with one inverse temperature per member."""
    betas = inverse_temperatures[:, None, None]
    if not task.two_class:
        return softmax(betas * log_clipped(predictions))
    return expit(betas * (log_clipped(predictions) - log_clipped(1.0 - predictions)))


def _sharpened_layer(output: KerasTensor, beta: float, task: PredictionTask) -> KerasTensor:
    import keras

    if not task.two_class:
        return keras.layers.Softmax(dtype="float32")(scaled(log_layer(output), beta))
    logs = [log_layer(output), log_layer(scaled(output, -1.0, 1.0))]
    logit = scaled(keras.layers.Subtract(dtype="float32")(logs), beta)
    return keras.layers.Activation("sigmoid", dtype="float32")(logit)


def weighted_sum(outputs: Sequence[KerasTensor], weights: np.ndarray, members: np.ndarray, name: str) -> KerasTensor:
    """The sum of tensors times (S,) or (S, C) weights; layers are named by the indices of the members."""
    import keras

    terms = [
        scaled(output, weight, 0.0, f"{name}_weight_{member}")
        for output, weight, member in zip(outputs, weights, members, strict=True)
    ]
    return terms[0] if len(terms) == 1 else keras.layers.Add(dtype="float32", name=name)(terms)


Scale = float | np.ndarray
"""One number for all columns, or (C,) one for each."""


def scaled(value: KerasTensor, scale: Scale, offset: Scale = 0.0, name: str | None = None) -> KerasTensor:
    """`value` times a scale plus an offset."""
    import keras

    # Plain numbers: a layer's configuration goes through JSON, which knows no NumPy.
    plain = [number.tolist() if isinstance(number, np.ndarray | np.generic) else number for number in (scale, offset)]
    return keras.layers.Rescaling(plain[0], plain[1], dtype="float32", name=name)(value)


def log_layer(value: KerasTensor, *, floor: bool = True) -> KerasTensor:
    """`log_clipped` with operations; without the floor for numbers that are certainly positive."""
    import keras

    return keras.ops.log(keras.ops.maximum(value, EPSILON) if floor else value)


def exponential_layer(value: KerasTensor) -> KerasTensor:
    """The exponential function."""
    import keras

    return keras.layers.Activation("exponential", dtype="float32")(value)
