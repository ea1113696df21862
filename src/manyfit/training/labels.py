"""Labels that a model cannot have are found before it trains.

On JAX a label beyond the last output is no error: it has no term in the loss, which gets smaller, and the trial wins.
Which labels a loss of Keras can mean is known; what a function of the user's does with them is not, so that such
functions are left alone, and are the way out for whoever means what is refused here.

The rules are of one loss and one output each, so a trial whose values choose another loss may well train on the same
labels. Nothing is read twice: what is known of an array (its ends, whether it holds whole numbers) is found in one pass
and kept for all trials of a search.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import FailedTrialError, explain
from manyfit.data.call import Call
from manyfit.data.kinds import FitData, is_nested, kind_of, leaves

_AT_ONCE = 1 << 20  # elements that are looked at together: labels may lie in a file larger than memory


class LabelsError(FailedTrialError):
    """Labels that the model of a trial cannot have. Another model may, so it ends the trial only, without a retry."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a loss takes as labels.

    Attributes:
        low: the smallest label.
        high: the largest one; None: the last output's number.
        whole: whether labels are numbers of classes.
        wide: whether there is a label for each output.
        instead: what to type instead.
    """

    low: float = -math.inf
    high: float | None = math.inf
    whole: bool = False
    wide: bool = False
    instead: str = "Leave out the rows without a label, or use a loss function of your own that does."


_BETWEEN = 'Type y = (y > 0).astype("float32") for two classes, or loss="mse" for numbers.'
_RULES = {
    "sparse_categorical_crossentropy": Rule(0, None, whole=True),
    "categorical_crossentropy": Rule(0, 1, wide=True, instead="Type y = keras.utils.to_categorical(labels)."),
    "categorical_focal_crossentropy": Rule(0, 1, wide=True, instead="Type y = keras.utils.to_categorical(labels)."),
    "binary_crossentropy": Rule(0, 1, instead=_BETWEEN),
    "binary_focal_crossentropy": Rule(0, 1, instead=_BETWEEN),
    "hinge": Rule(-1, 1, instead='Type y = np.where(y > 0, 1, -1), or loss="mse" for numbers.'),
    "squared_hinge": Rule(-1, 1, instead='Type y = np.where(y > 0, 1, -1), or loss="mse" for numbers.'),
    "poisson": Rule(0, instead='Type loss="mse" for numbers below 0.'),
    "kl_divergence": Rule(0, instead='Type loss="mse" for numbers below 0.'),
}


@dataclasses.dataclass(frozen=True)
class LabelFacts:
    """What is known of an array of labels."""

    shape: tuple[int, ...]
    low: float  # NaN where one is
    high: float
    whole: bool


class LabelCheck:
    """Checks labels against models, and remembers what it knows of the labels."""

    def __init__(self) -> None:
        self._call: Call | None = None
        self._given: dict[str, FitData] = {}  # what is checked: place -> labels
        # By id; the call holds the arrays: an id may be given again once its object is gone.
        self._facts: dict[tuple[int, float | None], LabelFacts | None] = {}

    def check(self, model: keras.Model, call: Call) -> None:
        """Checks the labels of a call of `fit` that are arrays.

        Args:
            model: compiled.
            call: with labels for training, and perhaps for validation.

        Raises:
            LabelsError: labels that the model's loss or its outputs cannot have; the message says what to type.
        """
        if self._call is not call:
            self._call, self._given = call, _labels_of(call)
            self._facts.clear()
        if any(isinstance(each, keras.layers.Masking) or getattr(each, "mask_zero", False) for each in model.layers):
            return  # labels of steps that are masked may be anything
        for place, y in self._given.items():
            for name, part, loss, shape in _pairs(model, y):
                where = f"search({place})" if name is None else f'search({place}), output "{name}"'
                self._check(where, part, loss, shape)

    def _check(self, where: str, y: FitData, loss: Any, shape: tuple[int | None, ...] | None) -> None:
        name, config = _of_keras(loss)
        if name is None:
            return
        facts = self._known(y, config.get("ignore_class"))
        if facts is None:
            return
        rule, width = _RULES.get(name, Rule()), None if shape is None or config.get("axis", -1) != -1 else shape[-1]
        if rule.wide and shape is not None and width is not None and not _fits(facts.shape, shape):
            outputs = ", ".join("rows" if size is None else str(size) for size in shape)
            raise LabelsError(
                explain(
                    where,
                    f"labels of shape {facts.shape} for loss={name!r}",
                    f"labels of the same shape as the output: ({outputs})",
                    f'Type y = keras.utils.to_categorical(labels, {width}), or loss="sparse_categorical_crossentropy".',
                )
            )
        high = rule.high if rule.high is not None else math.inf if width is None else width - 1
        # Also false where an end is NaN.
        within = rule.low <= facts.low and facts.high <= high and math.isfinite(facts.low + facts.high)
        if within and (facts.whole or not rule.whole):
            return
        raise LabelsError(explain(where, _got(facts, name), _allowed(rule, high), _instead(rule, facts, width)))

    def _known(self, y: FitData, ignored: float | None) -> LabelFacts | None:
        key = id(y), ignored
        if key not in self._facts:
            self._facts[key] = facts_of(y, ignored)
        return self._facts[key]


def _labels_of(call: Call) -> dict[str, FitData]:
    """The labels of a call that are arrays, and that count: with a weight of 0 a label may be anything."""
    given = {"y": (call.y, call.sample_weight)}
    validation = call.get("validation_data")
    if isinstance(validation, list | tuple) and len(validation) in (2, 3):
        given["validation_data=(x, y)"] = (validation[1], validation[2] if len(validation) == 3 else None)
    return {
        place: y
        for place, (y, weights) in given.items()
        if not any(kind_of(each).is_pipeline or (kind_of(each).as_array(each) == 0).any() for each in leaves(weights))
    }


def facts_of(y: FitData, ignored: float | None = None) -> LabelFacts | None:
    """What is known of an array of labels; None of what holds no numbers, or is read in passes.

    Args:
        y: an array.
        ignored: a label that stands for none.

    Example:

    >>> facts_of(np.array([0, 2, 1]))
    LabelFacts(shape=(3,), low=0.0, high=2.0, whole=True)
    """
    kind = kind_of(y)
    array = None if kind.is_pipeline else kind.as_array(y)
    if array is None or array.dtype.kind not in "biuf" or array.size == 0:
        return None
    low, high, whole = math.inf, -math.inf, True
    step = max(1, _AT_ONCE // max(1, math.prod(array.shape[1:])))
    for first in range(0, len(array) if array.ndim else 0, step):
        some = array[first : first + step]
        some = some if ignored is None else some[some != ignored]
        if some.size:
            low, high = np.minimum(low, some.min()), np.maximum(high, some.max())  # NaN stays
            whole = whole and (some.dtype.kind != "f" or bool((np.floor(some) == some).all()))
    return None if low > high else LabelFacts(array.shape, float(low), float(high), whole)


def _pairs(model: keras.Model, y: FitData) -> Iterator[tuple[str | None, FitData, Any, tuple[int | None, ...] | None]]:
    """Each output that has labels of its own: name (None of a single one), labels, loss, shape where it is known."""
    try:
        outputs = model.outputs
        shapes = None if outputs is None else [tuple(each.shape) for each in keras.tree.flatten(outputs)]
    except (AttributeError, ValueError):  # it takes its shapes from the first batch
        shapes = None
    losses = getattr(model, "loss", None)
    if not is_nested(y):
        if y is not None and not isinstance(losses, Mapping | list | tuple) and (shapes is None or len(shapes) == 1):
            yield None, y, losses, None if shapes is None else shapes[0]
        return
    names = list(getattr(model, "output_names", None) or ())
    parts = y if isinstance(y, Mapping) else dict(zip(names, y, strict=False))
    for place, name in enumerate(names):
        if isinstance(losses, Mapping):
            loss = losses.get(name)
        elif isinstance(losses, list | tuple):
            loss = losses[place] if place < len(losses) else None
        else:
            loss = losses
        known = shapes is not None and len(shapes) == len(names)
        if parts.get(name) is not None and not is_nested(parts[name]):
            yield name, parts[name], loss, shapes[place] if known and shapes is not None else None


def _of_keras(loss: Any) -> tuple[str | None, Mapping[str, Any]]:
    """The name of a loss of Keras's, and its settings; None of a function or class of the user's."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # no such loss, which Keras says better
            return None, {}
    if isinstance(loss, keras.losses.Loss):
        # Exactly a class of Keras's: one that derives from it may mean other labels.
        if getattr(keras.losses, type(loss).__name__, None) is not type(loss) or type(loss).__name__ == "CTC":
            return None, {}
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(loss).__name__.replace("KLD", "Kl_d")).lower()
        return name, {each: getattr(loss, each) for each in ("ignore_class", "axis") if hasattr(loss, each)}
    name = getattr(loss, "__name__", "")
    known = getattr(keras.losses, name, None) is loss and name not in ("ctc", "deserialize", "get", "serialize")
    return (name, {}) if known else (None, {})


def _fits(labels: tuple[int, ...], output: tuple[int | None, ...]) -> bool:
    return len(labels) == len(output) and labels[-1] == output[-1]


def _got(facts: LabelFacts, name: str) -> str:
    if math.isnan(facts.low):
        return f"labels that are NaN for loss={name!r}"
    return f"labels from {facts.low:g} to {facts.high:g} for loss={name!r}"


def _allowed(rule: Rule, high: float) -> str:
    kind = "whole numbers" if rule.whole else "numbers"
    if math.isinf(rule.low):
        return "finite numbers"
    if math.isinf(high):
        return f"{kind} of at least {rule.low:g}"
    of_outputs = ", one for each output" if rule.high is None else ""
    return f"{kind} from {rule.low:g} to {high:g}{of_outputs}"


def _instead(rule: Rule, facts: LabelFacts, width: int | None) -> str:
    if not rule.whole or math.isnan(facts.low):
        return Rule.instead if math.isnan(facts.low) else rule.instead
    if not facts.whole:
        return 'Type loss="mse" if these are numbers, y.astype("int32") if they are classes.'
    if facts.low >= 0 and width is not None:
        return f"Type Dense({facts.high + 1:.0f}) for the last layer, or loss={'binary_crossentropy'!r} for one output."
    return "Type y = np.unique(y, return_inverse=True)[1], which counts classes from 0."
