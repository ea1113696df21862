"""Models with several outputs: how their answers are laid out, and one problem made of the outputs' problems.

The members of an ensemble keep one weight each, for all outputs, since it is whole models that are averaged. So the
outputs are put side by side, as columns of one prediction, and what is minimised is the sum of the outputs' losses,
with the `loss_weights` of the members; or the loss of those outputs alone that the user names. Only methods that need
nothing but values of a loss can do that, and the only pool is the weighted average.

| symbol | here | meaning |
|---|---|---|
| T | `Outputs.width` | numbers of one row, all outputs together |
| C_i, K_i | of a part's problem | columns and positions of output i |
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.foreign_metrics import resolve_metric
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask, ProblemPart, make_problem

Prediction: TypeAlias = "np.ndarray | dict[str, np.ndarray] | list[np.ndarray]"
"""What a model answers: an array with a row per row, or several such, one for each output."""


@dataclasses.dataclass(frozen=True)
class OutputTask:
    """What one output predicts."""

    task: PredictionTask | str | None = None  # None: found from the numbers
    share: float = 1.0  # of the sum of losses


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model: their shapes without rows, and in what they come.

    Example:

    >>> outputs = Outputs.of({"age": np.zeros((5, 1)), "mask": np.zeros((5, 4, 4, 2))})
    >>> outputs.several, outputs.names, outputs.width
    (True, ('age', 'mask'), 33)
    """

    shapes: tuple[tuple[int, ...], ...]
    names: tuple[str, ...] | None = None  # of a dictionary; None for a list, and for a single output
    several: bool = False  # whether they come in a list or a dictionary
    tasks: tuple[OutputTask, ...] = ()  # of several outputs
    layers: tuple[str, ...] | None = None  # that make the outputs of a list: targets may come by their names, too

    @classmethod
    def of(cls, prediction: Any) -> Outputs:
        """How a prediction is laid out.

        Raises:
            UsageError: outputs within outputs.
        """
        if not isinstance(prediction, Mapping | list | tuple):
            return cls((np.shape(prediction)[1:],))
        parts = list(prediction.values()) if isinstance(prediction, Mapping) else list(prediction)
        if any(isinstance(part, Mapping | list | tuple) for part in parts):
            raise UsageError(
                explain(
                    "Ensemble member",
                    "outputs within outputs",
                    "one output, or a list or a dictionary of outputs",
                    "Give the model one flat dictionary of outputs.",
                )
            )
        names = tuple(map(str, prediction)) if isinstance(prediction, Mapping) else None
        return cls(tuple(np.shape(part)[1:] for part in parts), names, several=True)

    @property
    def keys(self) -> tuple[str | int, ...]:
        """What each output is found by: names, or places."""
        return self.names if self.names is not None else tuple(range(len(self.shapes)))

    @property
    def width(self) -> int:
        """Numbers of one row."""
        return sum(math.prod(shape) for shape in self.shapes)

    def parts(self, structure: Any, what: str = "predictions") -> list[Any]:
        """The elements of a list or dictionary, one for each output, in order.

        Raises:
            UsageError: there is not one for each output.
        """
        names = self.names if self.names is not None else self.layers
        if isinstance(structure, Mapping) and names is not None and set(structure) == set(names):
            return [structure[name] for name in names]
        if isinstance(structure, list | tuple) and len(structure) == len(self.shapes):
            return list(structure)
        got = list(structure) if isinstance(structure, Mapping) else f"a {type(structure).__name__}"
        allowed = f"a dictionary with {list(self.names)}" if self.names else f"a list of {len(self.shapes)}"
        raise UsageError(
            explain(f"Ensemble, {what}", got, allowed, "Give one for every output, as the members' fit takes.")
        )

    def flat(self, prediction: Any) -> np.ndarray:
        """(n, T): all outputs side by side."""
        arrays = [np.asarray(part) for part in self.parts(prediction)]
        return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)

    def structured(self, flat: np.ndarray) -> Prediction:
        """The inverse of `flat`."""
        parts, start = [], 0
        for shape in self.shapes:
            stop = start + math.prod(shape)
            parts.append(flat[:, start:stop].reshape(len(flat), *shape))
            start = stop
        return parts if self.names is None else dict(zip(self.names, parts, strict=True))

    def to_json(self) -> dict[str, Any]:
        """What a file keeps of it."""
        tasks = [[None if one.task is None else str(one.task), one.share] for one in self.tasks]
        told = {"shapes": self.shapes, "names": self.names, "several": self.several, "tasks": tasks}
        return told if self.layers is None else told | {"layers": self.layers}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Outputs:
        """The inverse of `to_json`."""
        tasks = tuple(
            OutputTask(None if task is None else PredictionTask(task), share) for task, share in told["tasks"]
        )
        names, layers = (None if one is None else tuple(one) for one in (told["names"], told.get("layers")))
        shapes, several = tuple(map(tuple, told["shapes"])), bool(told["several"])
        lengths = {len(one) for one in (shapes, names, layers, tasks if several else None) if one is not None}
        if len(lengths) != 1 or (not several and len(shapes) != 1):
            raise ValueError(f"outputs that do not fit each other: {told}")
        return cls(shapes, names, several, tasks, layers)


def several_problem(
    outputs: Outputs,
    predictions: Sequence[Any],
    y: Any,
    *,
    sample_weight: Any = None,
    max_numbers: int | None = None,
    rng: np.random.Generator | None = None,
) -> EnsembleProblem:
    """One problem of several outputs: columns side by side, and a part for each output.

    Args:
        outputs: of the members, with their tasks.
        predictions: of each member, in the structure of its outputs.
        y: labels, one array for every output.
        sample_weight: (n,) weights, or one such array for every output; then rows have the mean of them.
        max_numbers: of an output, see `EnsembleProblem.thinned`.
        rng: of the positions that are kept then.

    Raises:
        UsageError: there is not one array of labels for each output, or labels and predictions of one do not fit.
    """
    by_member = [outputs.parts(prediction) for prediction in predictions]
    labels = outputs.parts(y, "labels")
    weight = _one_weight(outputs, sample_weight)
    whole, parts, start = [], [], 0
    for place, (key, known) in enumerate(zip(outputs.keys, outputs.tasks, strict=True)):
        stacked = np.stack([_columns(member[place]) for member in by_member])
        try:
            own = make_problem(stacked, labels[place], task=known.task, sample_weight=weight)
        except UsageError as error:
            raise UsageError(f"Output {key!r}: {error}") from error
        if max_numbers is not None and rng is not None:
            own = own.thinned(max_numbers, rng)
        width = own.num_positions * own.num_outputs
        parts.append(ProblemPart(str(key), own.members(np.array([0])), slice(start, start + width), known.share))
        whole.append(own)
        start += width
    first = whole[0]
    side_by_side = [own.predictions.reshape(own.num_members, own.num_rows, -1) for own in whole]
    truth = [own.one_hot if own.task is PredictionTask.MULTICLASS else own.target for own in whole]
    return EnsembleProblem(
        PredictionTask.REGRESSION,  # columns of numbers, whose errors may be averaged; no probabilities as a whole
        np.concatenate(side_by_side, axis=2),
        np.concatenate([array.reshape(first.num_rows, -1) for array in truth], axis=1),
        first.row_weight,
        np.arange(first.num_rows),
        parts=tuple(parts),
    )


def _columns(array: Any) -> np.ndarray:
    array = np.asarray(array)
    return array[:, None] if array.ndim == 1 else array


def _one_weight(outputs: Outputs, sample_weight: Any) -> np.ndarray | None:
    if sample_weight is None or not isinstance(sample_weight, Mapping | list | tuple):
        return sample_weight
    if isinstance(sample_weight, list) and not hasattr(sample_weight[0], "__len__"):
        return np.asarray(sample_weight)
    weights = [np.asarray(one, dtype=np.float64) for one in outputs.parts(sample_weight, "sample weights")]
    return np.mean([one.reshape(len(one), -1).mean(axis=1) for one in weights], axis=0)


def several_metric(outputs: Outputs, spec: object = None, direction: str | None = None) -> Metric:
    """The metric of models with several outputs.

    Args:
        outputs: of the members, with their tasks.
        spec: None for the sum of the outputs' usual losses, or a dictionary (or a list) that names a metric for some
            outputs: one metric counts as it is, of several the losses are summed.
        direction: "min" or "max", where a metric does not tell.

    Raises:
        UsageError: one metric for outputs that are several things, or outputs that there are not.
    """
    names = list(map(str, outputs.keys))
    if spec in (None, "loss", "val_loss"):
        asked: dict[str, object] = dict.fromkeys(names)
    elif isinstance(spec, list | tuple) and len(spec) == len(names):
        asked = {name: one for name, one in zip(names, spec, strict=True) if one is not None}
    elif isinstance(spec, Mapping) and spec and {str(key) for key in spec} <= set(names):
        asked = {str(key): one for key, one in spec.items()}
    else:
        allowed = f"None for the sum of losses, or a dictionary with some of {names}"
        instead = f"For instance metric={{{names[0]!r}: None}} for that output's loss."
        raise UsageError(explain("Ensemble.fit(metric)", spec, allowed, instead))
    terms = [
        (place, resolve_metric(asked[name], _known(known.task), direction=direction), known.share)
        for place, (name, known) in enumerate(zip(names, outputs.tasks, strict=True))
        if name in asked
    ]
    return _metric_of_one(*terms[0][:2], names) if len(terms) == 1 else _sum_of(terms)


def _known(task: PredictionTask | str | None) -> PredictionTask:
    assert task is not None  # our bug: it was found when the problem was made
    return PredictionTask(task)


def _own_columns(prediction: np.ndarray, part: ProblemPart) -> np.ndarray:
    own = prediction[..., part.columns]
    return own.reshape(*own.shape[:-2], -1, part.problem.num_outputs)


def _metric_of_one(place: int, metric: Metric, names: Sequence[str]) -> Metric:
    rows, whole = metric.row_losses, metric.whole_loss
    return dataclasses.replace(
        metric,
        name=f"{names[place]} {metric.name}",
        row_losses=None if rows is None else lambda p, problem: rows(*_seen(p, problem, place)),
        whole_loss=None if whole is None else lambda p, problem: whole(*_seen(p, problem, place)),
        to_score=lambda loss, problem: metric.to_score(loss, problem.parts[place].problem),
        exact=False,
        ranks=False,
    )


def _seen(prediction: np.ndarray, problem: EnsembleProblem, place: int) -> tuple[np.ndarray, EnsembleProblem]:
    part = problem.parts[place]
    return _own_columns(prediction, part), part.problem


def _sum_of(terms: Sequence[tuple[int, Metric, float]]) -> Metric:
    def row_losses(prediction: np.ndarray, problem: EnsembleProblem) -> np.ndarray:
        total = np.zeros(())
        for place, metric, share in terms:
            assert metric.row_losses is not None  # asked below
            total = total + share * metric.row_losses(*_seen(prediction, problem, place))
        return total

    def whole_loss(prediction: np.ndarray, problem: EnsembleProblem) -> float:
        return float(sum(share * metric.loss(*_seen(prediction, problem, place)) for place, metric, share in terms))

    by_row = all(metric.row_losses is not None for _, metric, _ in terms)
    weighs = all(metric.weighs for _, metric, _ in terms)
    if by_row:
        return Metric("sum of losses", row_losses=row_losses, weighs=weighs)
    return Metric("sum of losses", whole_loss=whole_loss, weighs=weighs)
