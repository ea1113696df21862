"""Where a member's numbers lie in its twin: index maps of axes, rules of layers, states made wide and narrow again.

A narrow weight is a part of a wide one whose other elements are 0. Which part, follows from its layer: each axis of a
tensor between layers carries a map from the member's units to places in the twin, and the axes of a weight take the
maps of what the layer reads and writes. Units that are not there have no incoming and no outgoing weights, so that
their gradients are exactly 0, and every optimizer that moves a weight of 0 by a gradient of 0 nowhere leaves them.

`RULES` says which layers can be widened, and is the table in docs/population.md; what is not listed keeps its widths.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.training.population.arrays import Array, Arrays, State


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """Places of a member's units along one axis of a twin.

    Attributes:
        places: of each unit of the member, in its order.
        size: units of the twin.
    """

    places: np.ndarray
    size: int

    @classmethod
    def leading(cls, units: int, size: int) -> Axis:
        """The first units of the twin are the member's."""
        return cls(np.arange(units), size)

    @classmethod
    def joined(cls, axes: Sequence[Axis]) -> Axis:
        """One behind the other, as concatenation lays them."""
        if not axes:
            return cls(np.arange(0), 0)
        starts = np.cumsum([0, *(axis.size for axis in axes)])
        places = [axis.places + start for axis, start in zip(axes, starts, strict=False)]
        return cls(np.concatenate(places), int(starts[-1]))

    def repeated(self, times: int) -> Axis:
        """As many blocks of the axis: positions of an image that is made flat, gates of a recurrent layer."""
        return Axis.joined([self] * times)

    def divided(self, times: int) -> Axis:
        """Each unit becomes so many in a row: what a depthwise convolution makes of a channel."""
        places = self.places[:, None] * times + np.arange(times)
        return Axis(places.ravel(), self.size * times)

    @property
    def inside(self) -> np.ndarray:
        """1 where the member has a unit, else 0."""
        inside = np.zeros(self.size, np.float32)
        inside[self.places] = 1
        return inside

    @property
    def columns(self) -> np.ndarray:
        """The member's number of each unit of the twin; 0 where it has none."""
        columns = np.zeros(self.size, np.uint32)
        columns[self.places] = np.arange(len(self.places))
        return columns

    @property
    def selection(self) -> slice | np.ndarray:
        """What selects the places: a slice where they lead."""
        leads = bool(len(self.places) == 0 or self.places[-1] == len(self.places) - 1)
        return slice(0, len(self.places)) if leads else self.places


@dataclasses.dataclass(frozen=True)
class Widening:
    """How a layer is widened.

    Attributes:
        width: the name of its width in its configuration; None where it has no width of its own.
        weights: name of a weight -> what its last axes are: "in" and "out", "gates" (several blocks of "out"), "deep"
            (each unit of "in" several times), "" (not widened). Axes before these are not widened.
        output: what its last axis is: "out", "both" (twice "out"), "in", "deep", "flat" (positions times "in"), "join"
            (its inputs' one behind the other).
        gates: blocks of a recurrent layer.
        note: for the table in the documentation.
    """

    width: str | None = None
    weights: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    output: str = "in"
    gates: int = 1
    note: str = ""

    @property
    def owns_output(self) -> bool:
        """Whether what it writes has a width of its own."""
        return self.output in ("out", "both")

    @property
    def is_recurrent(self) -> bool:
        """Whether its units read each other."""
        return self.weights is _RECURRENT


_CONVOLUTION = {"kernel": ("in", "out"), "bias": ("out",)}
_TRANSPOSED = {"kernel": ("out", "in"), "bias": ("out",)}
_DEPTHWISE = {"kernel": ("in", ""), "bias": ("deep",)}
_SEPARABLE = {"depthwise_kernel": ("in", ""), "pointwise_kernel": ("deep", "out"), "bias": ("out",)}
_RECURRENT = {"kernel": ("in", "gates"), "recurrent_kernel": ("out", "gates"), "bias": ("gates",)}
_PASSES = Widening(note="the units that they read")
_MERGES = Widening(note="the units that they read, of one width")

RULES: Mapping[str, Widening] = {
    "Dense": Widening("units", {"kernel": ("in", "out"), "bias": ("out",)}, "out"),
    **{f"Conv{n}D": Widening("filters", _CONVOLUTION, "out", note="one group") for n in (1, 2, 3)},
    **{f"Conv{n}DTranspose": Widening("filters", _TRANSPOSED, "out") for n in (1, 2, 3)},
    **{f"DepthwiseConv{n}D": Widening(None, _DEPTHWISE, "deep", note="0 at 0") for n in (1, 2)},
    **{f"SeparableConv{n}D": Widening("filters", _SEPARABLE, "out") for n in (1, 2)},
    "Embedding": Widening("output_dim", {"embeddings": ("out",)}, "out"),
    "LSTM": Widening("units", _RECURRENT, "out", gates=4, note="no dropout inside; 0 at 0"),
    "GRU": Widening("units", _RECURRENT, "out", gates=3, note="no dropout inside; 0 at 0"),
    "SimpleRNN": Widening("units", _RECURRENT, "out", gates=1, note="no dropout inside; 0 at 0"),
    "Bidirectional": Widening(output="both", note="LSTM, GRU or SimpleRNN"),
    "Flatten": Widening(output="flat", note="each position's units"),
    "Concatenate": Widening(output="join", note="along the last axis"),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _MERGES),
    **{f"{kind}Pooling{n}D": _PASSES for kind in ("Max", "Average") for n in (1, 2, 3)},
    **{f"Global{kind}Pooling{n}D": _PASSES for kind in ("Max", "Average") for n in (1, 2)},
    **{f"{kind}{n}D": _PASSES for kind in ("ZeroPadding", "Cropping", "UpSampling") for n in (1, 2)},
    "RepeatVector": _PASSES,
}
"""Layers between whose widths members may differ."""


FOLLOWERS: Mapping[str, str] = {
    "element-wise activations": "by number; one that is not 0 at 0 is multiplied by 0 where a model has no unit",
    "BatchNormalization, LayerNormalization": "whether there is one; over the units that are there",
    "Dropout, SpatialDropout1D, 2D, 3D": "whether there is one, and its rate; drops what it drops alone, bit for bit",
    "Dense, LSTM, GRU, SimpleRNN, Conv of stride 1 and padding same, on top of each other": "their number",
    "SGD, Adam, AdamW, RMSprop, Adagrad, Adadelta, Adamax, Nadam, Lion, Lamb, Ftrl": "by number; Keras's own code",
}
"""What else is data, and how."""

KEPT: Mapping[str, str] = {
    "softmax, log_softmax, sparsemax, glu in a hidden layer": "look at all units",
    "activity regularisers, OrthogonalRegularizer, groups, channels first": "look at all units, or at their order",
    "dropout inside of recurrent layers": "draws by the width",
    "every other layer, and the output layer": "the widths around them are kept, too",
    "every other optimizer, layers and functions of your own": "no program for several widths at all",
}
"""What keeps its widths, or its model out of a program for several, and why."""


def table() -> str:
    """What can be data and what cannot, as Markdown."""
    named: dict[tuple[str, str], list[str]] = {}
    for kind, rule in RULES.items():
        named.setdefault((rule.width or "", rule.note), []).append(kind)
    rows = [
        (", ".join(kinds), "; ".join(filter(None, [f"`{width}`" * bool(width), note])))
        for (width, note), kinds in named.items()
    ]
    lines = [
        ("layers", "what is data"),
        ("---", "---"),
        *rows,
        *FOLLOWERS.items(),
        ("**other layers, optimizers**", "**why they keep their widths**"),
        *KEPT.items(),
    ]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def rule_of(kind: str, config: Mapping[str, Any]) -> Widening | None:
    """The rule of a layer, or of a place without one; None: neither side may be widened.

    Args:
        kind: the layer's class; "Pass" where there is none.
        config: its configuration.
    """
    if kind != "Bidirectional":
        return Widening() if kind == "Pass" else RULES.get(kind)
    inner = RULES.get(config["layer"]["class_name"])
    # Two layers that differ in more than their direction are none of ours.
    ways = [{**config[way]["config"], "go_backwards": None} for way in ("layer", "backward_layer")]
    if inner is None or inner.weights is not _RECURRENT or ways[0] != ways[1]:
        return None
    return dataclasses.replace(inner, output="both" if config["merge_mode"] == "concat" else "out")


def inner_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration in which a layer's width stands: its own, or that of the layer in it."""
    return config["layer"]["config"] if "layer" in config else config


def with_width(config: Mapping[str, Any], name: str, width: int | None) -> dict[str, Any]:
    """A configuration with another width; None: without one."""
    if "layer" in config:
        ways = {way: config[way] for way in ("layer", "backward_layer")}
        changed = {way: {**each, "config": with_width(each["config"], name, width)} for way, each in ways.items()}
        return {**config, **changed}
    rest = {key: value for key, value in config.items() if key != name}
    return rest if width is None else {**rest, name: width}


@dataclasses.dataclass(frozen=True)
class Placing:
    """Where one narrow array lies in a wide one.

    Attributes:
        number: of the wide array, in its part of the state.
        axes: the last axes' maps; those before are the same in both.
    """

    number: int
    axes: tuple[Axis, ...]

    def selection(self, ndim: int) -> Any:
        """What selects the narrow array of a wide one with so many axes."""
        chosen = [axis.selection for axis in self.axes]
        free: list[slice | np.ndarray] = [slice(None)] * (ndim - len(chosen))
        if all(isinstance(each, slice) for each in chosen):
            return (*free, *chosen)
        # With several arrays NumPy would pair their entries; each is given an axis of its own.
        arrays = [axis.places for axis in self.axes]
        shapes = [[-1 if at == axis else 1 for at in range(len(arrays))] for axis in range(len(arrays))]
        return (*free, *(array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)))


@dataclasses.dataclass(frozen=True)
class Slot:
    """One variable of an optimizer: the number of the weight that it belongs to; None for a counter or a rate."""

    weight: int | None


def slots_of(optimizer_names: Iterable[str], weight_paths: Sequence[str]) -> list[Slot]:
    """Which weight each variable of an optimizer belongs to, by its name, which begins with the weight's.

    Args:
        optimizer_names: of its variables, in their order.
        weight_paths: of the trainable variables, in theirs.
    """
    starts = {f"{path.replace('/', '_')}_": number for number, path in enumerate(weight_paths)}
    longest = sorted(starts, key=len, reverse=True)
    return [Slot(next((starts[each] for each in longest if name.startswith(each)), None)) for name in optimizer_names]


def order_of_slots(slots: Sequence[Slot], weights: Sequence[int]) -> list[int]:
    """The numbers of the twin's optimizer variables in the order in which the optimizer of a member has its own.

    Args:
        slots: of the twin's optimizer.
        weights: for each of the member's trainable variables the number of the twin's.
    """
    order: list[int] = []
    # Keras makes its variables in passes over the weights, each weight's together: momentum and velocity of the first,
    # of the second. Within each pass the member's stand in the member's order.
    for run in _passes(slots):
        if run and slots[run[0]].weight is None:
            order += run
        else:
            order += [number for weight in weights for number in run if slots[number].weight == weight]
    return order


def _passes(slots: Sequence[Slot]) -> list[list[int]]:
    runs: list[list[int]] = []
    before: int | None = None
    for number, slot in enumerate(slots):
        begins = not runs or slot.weight is None or before is None or slot.weight < before
        if begins:
            runs.append([])
        runs[-1].append(number)
        before = slot.weight
    return runs


class Embedding:
    """One member's way into its twin and back.

    Args:
        shapes: shapes and types of the twin's variables, for each part of its state.
        starts: what the twin's variables start from, each filled with one number, for each part.
        placings: of the member's trainable, other and optimizer variables, in their order.
        own: part of the twin's state, and number in it -> this member's value.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[tuple[tuple[int, ...], np.dtype]]],
        starts: Sequence[Sequence[float]],
        placings: Sequence[Sequence[Placing]],
        own: Mapping[tuple[int, int], np.ndarray],
    ) -> None:
        self._shapes = shapes
        self._placings, self._own = placings, own
        placed = {placing.number for placing in placings[1]}
        # Weights are 0 where the member has none, and so are the statistics of such units. What the member has not at
        # all, such as a place's rate, keeps a value that computes no NaN behind a closed gate.
        fixed = [0.0 if number in placed else start for number, start in enumerate(starts[1])]
        self._fills = [0.0] * len(shapes[0]), fixed, list(starts[2])

    def widen(self, state: State) -> State:
        """The member's state as its twin holds it: its numbers in their places, 0 elsewhere, its own widths and rates.

        Args:
            state: the member's trainable, other and optimizer variables.
        """
        parts = []
        for shapes, placings, values, fill in zip(self._shapes, self._placings, state, self._fills, strict=True):
            wide = [np.full(shape, value, dtype) for (shape, dtype), value in zip(shapes, fill, strict=True)]
            for placing, value in zip(placings, values, strict=True):
                _put(wide, placing, np.asarray(value))
            parts.append(wide)
        for (part, number), own in self._own.items():
            parts[part][number] = own.astype(self._shapes[part][number][1])
        return tuple(tuple(part) for part in parts)  # type: ignore[return-value]

    def narrow(self, wide: State) -> State:
        """The member's state of its twin's, in the order and the shapes of the member's own model."""
        return tuple(  # type: ignore[return-value]
            tuple(_taken(values, placing) for placing in placings)
            for values, placings in zip(wide, self._placings, strict=True)
        )

    def outside(self, wide: State) -> list[np.ndarray]:
        """How far the twin has moved where the member has nothing: weights, then the optimizer's; the member's are 0.

        All of it is exactly 0 as long as padding changes nothing: a weight of 0 with a gradient of 0 stays, and so does
        what an optimizer keeps of such gradients.
        """
        rest = []
        for part in (0, 2):
            starts = zip(wide[part], self._fills[part], strict=True)
            arrays = [np.array(np.asarray(value) - start, np.dtype(value.dtype)) for value, start in starts]
            for number in self._own_of(part):
                arrays[number] = np.zeros_like(arrays[number])
            for placing in self._placings[part]:
                array = arrays[placing.number]
                array[placing.selection(array.ndim)] = 0
            rest += arrays
        return rest

    def _own_of(self, part: int) -> list[int]:
        return [number for of, number in self._own if of == part]


def _put(wide: list[np.ndarray], placing: Placing, value: np.ndarray) -> None:
    array = wide[placing.number]
    if array.shape == value.shape:
        wide[placing.number] = value  # nothing to pad: no copy
    else:
        array[placing.selection(array.ndim)] = value


def _taken(values: Arrays, placing: Placing) -> Array:
    array = np.asarray(values[placing.number])
    if all(len(axis.places) == axis.size for axis in placing.axes):
        return array
    return np.ascontiguousarray(array[placing.selection(array.ndim)])


def multiplications(
    name: str, config: Mapping[str, Any], rule: Widening, sizes: tuple[int, int], positions: int
) -> float:
    """Multiplications of a layer for one row, in its forward pass.

    Args:
        name: of its class.
        config: of the layer.
        rule: of its class.
        sizes: units that it reads and writes.
        positions: places of an image or a sequence at which it is applied.
    """
    units_in, units_out = sizes
    if name == "Embedding" or not rule.weights:
        return 0
    if rule.weights is _RECURRENT:
        ways = 2 if "layer" in config else 1
        units = units_out // 2 if rule.output == "both" else units_out
        return ways * positions * rule.gates * units * (units_in + units)
    window = math.prod(np.atleast_1d(config.get("kernel_size", 1)).tolist())
    multiplier = config.get("depth_multiplier", 1)
    if rule.weights is _DEPTHWISE:
        return positions * window * units_in * multiplier
    if rule.weights is _SEPARABLE:
        return positions * units_in * multiplier * (window + units_out)
    return positions * window * units_in * units_out
