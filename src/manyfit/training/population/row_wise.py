"""Which instructions of a step work row by row: row i of what comes out depends on row i of what goes in, and on
nothing that changes from batch to batch.

A variable *stands* in one of two ways. It holds *rows*: one of its axes is that of the batch, or has several entries
for each row next to each other (images cut into patches, steps of sequences put one below the other). Or it is
*constant*: it comes from numbers of the program and from frozen weights alone, and may be the same along some of its
axes, as a bias is that was spread over a batch. What stands in neither way (weights that train, random numbers, a mean
over the batch) is unknown, and so is all that an instruction makes of it. Each primitive has a rule; one without a rule
makes everything unknown, which costs time and never a wrong result.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import core as jax_core

from manyfit.training.population.arrays import Array

Shape: TypeAlias = tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class RowAxis:
    """Rows lie along `axis`, each as `entries` entries next to each other."""

    axis: int
    entries: int = 1

    def first(self, value: Array) -> jax.Array:
        """The value with an axis of rows alone in front, as arrays of rows are kept."""
        value = jnp.moveaxis(jnp.asarray(value), self.axis, 0)
        rows, *others = value.shape
        return value if self.entries == 1 else value.reshape(rows // self.entries, self.entries, *others)

    def back(self, value: Array) -> jax.Array:
        """The inverse of `first`."""
        if self.entries > 1:
            rows, entries, *others = value.shape
            value = value.reshape(rows * entries, *others)
        return jnp.moveaxis(jnp.asarray(value), 0, self.axis)


@dataclasses.dataclass(frozen=True, slots=True)
class Constant:
    """Equal for all batches, and along the axes in `same` equal from entry to entry."""

    same: frozenset[int] = frozenset()


Standing: TypeAlias = RowAxis | Constant


def shape_of_atom(atom: jax_core.Var | jax_core.Literal) -> Shape:
    """The shape of what an instruction takes or answers."""
    return tuple(getattr(atom.aval, "shape", ()))


class Operation:
    """An instruction as its rule sees it.

    Args:
        equation: its primitive and parameters, and the shapes around it.
        standings: of its inputs.
        num_rows: of the batch.
    """

    def __init__(self, equation: jax_core.JaxprEqn, standings: Sequence[Standing], num_rows: int) -> None:
        self.name: str = equation.primitive.name
        self.parameters: Mapping[str, Any] = equation.params
        self.shapes = [shape_of_atom(atom) for atom in equation.invars]
        self.out = shape_of_atom(equation.outvars[0])
        self.standings = standings
        self.num_rows = num_rows

    @property
    def rows(self) -> list[tuple[int, RowAxis]]:
        """The places of the inputs that hold rows, and how."""
        return [(place, each) for place, each in enumerate(self.standings) if isinstance(each, RowAxis)]

    def is_same(self, place: int, axis: int) -> bool:
        """Whether an input does not change along an axis, or has none."""
        shape, standing = self.shapes[place], self.standings[place]
        return not shape or shape[axis] == 1 or (isinstance(standing, Constant) and axis in standing.same)

    def plain(self) -> Constant | None:
        """A constant that is made of constants; unknown where one of them was spread over the batch."""
        spread = [
            axis
            for shape, each in zip(self.shapes, self.standings, strict=True)
            if isinstance(each, Constant)
            for axis in each.same
            if shape[axis] > 1
        ]
        return None if spread else Constant()


Rule: TypeAlias = Callable[[Operation], Standing | None]


def standing_of(equation: jax_core.JaxprEqn, standings: Sequence[Standing], num_rows: int) -> Standing | None:
    """How the outputs of an instruction stand; None: unknown.

    Args:
        equation: the instruction's.
        standings: of its inputs.
        num_rows: of the batch.
    """
    rule = _RULES.get(equation.primitive.name)
    if rule is None or equation.effects or (len(equation.outvars) > 1 and rule is not _split):
        return None
    return rule(Operation(equation, standings, num_rows))


def multiplications(equation: jax_core.JaxprEqn) -> float:
    """How many an instruction does in a product or a convolution; 0 for any other."""
    name, parameters = equation.primitive.name, equation.params
    out = math.prod(shape_of_atom(equation.outvars[0]))
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        return out * math.prod(shape_of_atom(equation.invars[0])[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = shape_of_atom(equation.invars[1])
        return out * math.prod(kernel) / kernel[parameters["dimension_numbers"].rhs_spec[0]]
    return 0.0


def _element_wise(operation: Operation) -> Standing | None:
    axes = range(len(operation.out))
    found = {each for _, each in operation.rows}
    if not found:
        places = range(len(operation.shapes))
        return Constant(frozenset(axis for axis in axes if all(operation.is_same(place, axis) for place in places)))
    if len(found) > 1:
        return None
    (rows,) = found
    for place, (shape, each) in enumerate(zip(operation.shapes, operation.standings, strict=True)):
        if isinstance(each, RowAxis):
            if shape[rows.axis] != operation.out[rows.axis]:
                return None
        elif not operation.is_same(place, rows.axis):
            return None
    return rows


def _moved(operation: Operation, sources: Sequence[int | None]) -> Standing | None:
    """Where each axis of the output is one of the input, by its number, or a new one along which all is the same."""
    (standing,) = operation.standings
    if isinstance(standing, RowAxis):
        return dataclasses.replace(standing, axis=sources.index(standing.axis)) if standing.axis in sources else None
    same = (axis for axis, source in enumerate(sources) if source is None or operation.is_same(0, source))
    return Constant(frozenset(same))


def _broadcast(operation: Operation) -> Standing | None:
    if len(operation.shapes) != 1:
        return None  # a size that is an input
    placed = operation.parameters["broadcast_dimensions"]
    sources: list[int | None] = [None] * len(operation.out)
    for axis, place in enumerate(placed):
        sources[place] = axis
    for _, rows in operation.rows:
        if operation.out[placed[rows.axis]] != operation.shapes[0][rows.axis]:
            return None
    return _moved(operation, sources)


def _transpose(operation: Operation) -> Standing | None:
    return _moved(operation, list(operation.parameters["permutation"]))


def _squeeze(operation: Operation) -> Standing | None:
    gone = {axis % len(operation.shapes[0]) for axis in operation.parameters["dimensions"]}
    return _moved(operation, [axis for axis in range(len(operation.shapes[0])) if axis not in gone])


def _reshape(operation: Operation) -> Standing | None:
    if len(operation.shapes) != 1 or operation.parameters.get("dimensions") is not None:
        return None
    if not operation.rows:
        return operation.plain()
    _, rows = operation.rows[0]
    before, out = math.prod(operation.shapes[0][: rows.axis]), operation.out
    # The numbers stay in their order, so rows do: whatever axis begins where theirs began is made of whole rows, unless
    # it is cut across them.
    for axis, size in enumerate(out):
        if math.prod(out[:axis]) == before and size >= operation.num_rows and size % operation.num_rows == 0:
            return RowAxis(axis, size // operation.num_rows)
    return None


def _without(axes: Sequence[int], rows: RowAxis) -> RowAxis | None:
    """Where rows lie once these axes are gone."""
    return None if rows.axis in axes else RowAxis(rows.axis - sum(axis < rows.axis for axis in axes), rows.entries)


def _reduce(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    if len(operation.shapes) > 1:
        return None
    return _without(operation.parameters["axes"], operation.rows[0][1])


def _along_another_axis(name: str) -> Rule:
    """The rule of what leaves shapes as they are and works along the axis that a parameter names."""

    def rule(operation: Operation) -> Standing | None:
        if not operation.rows:
            return operation.plain()
        found = _element_wise(operation)
        axes = operation.parameters[name]
        across = isinstance(found, RowAxis) and found.axis in (axes if isinstance(axes, tuple) else (axes,))
        return None if across else found

    return rule


_split = _along_another_axis("axis")
"""What has several outputs that stand alike."""


def _product(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    contracted, batched = operation.parameters["dimension_numbers"]
    places = set()
    for place, rows in operation.rows:
        if rows.axis in contracted[place]:
            return None
        if rows.axis in batched[place]:
            number = batched[place].index(rows.axis)
            other, axis = 1 - place, batched[1 - place][number]
            if operation.standings[other] != RowAxis(axis, rows.entries) and not operation.is_same(other, axis):
                return None
            places.add(RowAxis(number, rows.entries))
        elif len(operation.rows) > 1:
            return None  # rows against rows
        else:
            # First come the batched axes, then what is left of the one, then of the other.
            left = [
                [axis for axis in range(len(shape)) if axis not in (*contracted[side], *batched[side])]
                for side, shape in enumerate(operation.shapes)
            ]
            place_of = len(batched[0]) + place * len(left[0]) + left[place].index(rows.axis)
            places.add(RowAxis(place_of, rows.entries))
    return places.pop() if len(places) == 1 else None


def _convolution(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    numbers = operation.parameters["dimension_numbers"]
    place, rows = operation.rows[0]
    if len(operation.rows) > 1 or place != 0 or rows.axis != numbers.lhs_spec[0]:
        return None
    if operation.parameters["batch_group_count"] != 1:
        return None
    return RowAxis(numbers.out_spec[0], rows.entries)


def _window(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    place, rows = operation.rows[0]
    if len(operation.rows) > 1 or place != 0 or any(operation.shapes[1:]):
        return None
    one, none = ("window_dimensions", "window_strides", "base_dilation", "window_dilation"), (0, 0)
    alone = all(operation.parameters[name][rows.axis] == 1 for name in one)
    return rows if alone and tuple(operation.parameters["padding"][rows.axis]) == none else None


def _pad(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    place, rows = operation.rows[0]
    config = operation.parameters["padding_config"]
    return rows if len(operation.rows) == 1 and place == 0 and tuple(config[rows.axis]) == (0, 0, 0) else None


def _slice(operation: Operation) -> Standing | None:
    if not operation.rows:
        return operation.plain()
    place, rows = operation.rows[0]
    # A slice as long as its axis begins at its beginning, wherever it was told to.
    whole = operation.shapes[0][rows.axis] == operation.out[rows.axis]
    return rows if len(operation.rows) == 1 and place == 0 and whole else None


def _iota(operation: Operation) -> Standing | None:
    along = operation.parameters["dimension"]
    return None if operation.shapes else Constant(frozenset(range(len(operation.out))) - {along})


def _gather(operation: Operation) -> Standing | None:
    """Rows of a table by numbers that lie in rows, or entries of rows by constant numbers."""
    numbers, sizes = operation.parameters["dimension_numbers"], operation.parameters["slice_sizes"]
    if numbers.operand_batching_dims or numbers.start_indices_batching_dims or len(operation.rows) > 1:
        return None
    if not operation.rows:
        return operation.plain()
    place, rows = operation.rows[0]
    if place == 1:
        free = [axis for axis in range(len(operation.out)) if axis not in numbers.offset_dims]
        return RowAxis(free[rows.axis], rows.entries) if rows.axis < len(free) else None
    kept = [axis for axis in range(len(operation.shapes[0])) if axis not in numbers.collapsed_slice_dims]
    whole = sizes[rows.axis] == operation.shapes[0][rows.axis] and rows.axis not in numbers.start_index_map
    return RowAxis(numbers.offset_dims[kept.index(rows.axis)], rows.entries) if whole and rows.axis in kept else None


ELEMENT_WISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh cbrt ceil clamp convert_element_type
    copy copy_p cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge gt integer_pow is_finite le lgamma log
    log1p logistic lt max min mul ne neg nextafter not or pow real reduce_precision rem round rsqrt select_n
    shift_left shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor
    """.split()  # noqa: SIM905  sixty names read better as words
"""Primitives of which each entry depends on the entries in its place alone."""

_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENT_WISE, _element_wise),
    **dict.fromkeys(["reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum"], _reduce),
    **dict.fromkeys(["argmax", "argmin"], _reduce),
    **dict.fromkeys(["cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum"], _along_another_axis("axis")),
    **dict.fromkeys(["reduce_window_max", "reduce_window_min", "reduce_window_sum", "reduce_window"], _window),
    **dict.fromkeys(["slice", "dynamic_slice"], _slice),
    "broadcast_in_dim": _broadcast,
    "concatenate": _along_another_axis("dimension"),
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "gather": _gather,
    "iota": _iota,
    "pad": _pad,
    "reshape": _reshape,
    "split": _split,
    "rev": _along_another_axis("dimensions"),
    "squeeze": _squeeze,
    "transpose": _transpose,
}
