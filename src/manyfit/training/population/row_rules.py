"""What single instructions do to the rows of a batch: the rules of `masking`, one function per kind of primitive.

A rule is asked of an instruction in which rows lie along some axis of an operand or of what it answers. It says along
which axes rows lie in the answer, which operands must be masked first, and whether each row is treated alike; or it
refuses. A rule may trust what the walk over both traces has shown of the operands: cut to their first rows, they are
those of the short trace.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
from jax.extend import core as jax_core

from manyfit.training.population.canonical_jaxpr import Mask, text_of
from manyfit.training.population.row_wise import ELEMENT_WISE

Axes: TypeAlias = dict[int, int]
"""The axes along which rows lie, and how many entries of each make one row."""


class CannotMask(Exception):
    """A step that keeps its short batch's own step; its text is the reason."""


@dataclasses.dataclass(frozen=True)
class Value:
    """What is known of a variable of the two traces.

    Attributes:
        shape: in the full trace.
        axes: those along which rows lie.
        copies: whether rows that are not real are equal to real ones, entry by entry: they come of rows of the batch by
            instructions that do to each row the same. They are finite where real rows are.
    """

    shape: tuple[int, ...]
    axes: Axes
    copies: bool = True


@dataclasses.dataclass(frozen=True)
class Use:
    """An instruction in both traces, and its operands."""

    full: jax_core.JaxprEqn
    short: jax_core.JaxprEqn
    inputs: Sequence[Value]
    outputs: Sequence[Value]

    @property
    def name(self) -> str:
        """The primitive's."""
        return self.full.primitive.name

    def same(self, *names: str) -> Any:
        """Parameters that must be equal in both traces: one, or a tuple of them."""
        found = []
        for name in names:
            value, other = self.full.params.get(name), self.short.params.get(name)
            if value is not other and text_of(value) != text_of(other):
                raise CannotMask(f"`{self.name}` has another {name} where there are fewer rows")
            found.append(value)
        return found[0] if len(names) == 1 else tuple(found)

    def same_but(self, *names: str) -> None:
        """All other parameters must be equal."""
        self.same(*(name for name in self.full.params if name not in names))

    def refuse(self, what: str = "mixes rows") -> CannotMask:
        """What to raise where the instruction is not one that the rule knows."""
        return CannotMask(f"`{self.name}` {what}")


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a rule says of an instruction.

    Attributes:
        axes: along which rows lie in each of its outputs.
        masks: what it must not see.
        copies: whether it does to each row the same, so that copies of rows stay copies.
    """

    axes: Sequence[Axes]
    masks: tuple[Mask, ...] = ()
    copies: bool = True


Rule: TypeAlias = Callable[[Use], Answer]
RULES: dict[str, Rule] = {}


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return keep


def _mask(operand: int, value: Value, number: float, axes: Sequence[int] | None = None) -> Mask:
    chosen = value.axes if axes is None else {axis: value.axes[axis] for axis in axes if axis in value.axes}
    return Mask(operand, tuple(chosen.items()), number)


_RARER = "bitcast_convert_type clz complex conj igamma igammac imag polygamma population_count".split()  # noqa: SIM905


@_rule(*ELEMENT_WISE, *_RARER)
def _elementwise(use: Use) -> Answer:
    use.same_but()
    found = use.outputs[0].axes
    for value in use.inputs:
        # A number is the same for all entries, and so is an axis of one entry.
        if value.shape and value.axes != {axis: found[axis] for axis in found if value.shape[axis] != 1}:
            raise use.refuse()
    return Answer([found])


@_rule("optimization_barrier")
def _barrier(use: Use) -> Answer:
    return Answer([value.axes for value in use.inputs])


@_rule("broadcast_in_dim")
def _broadcast(use: Use) -> Answer:
    places = use.same("broadcast_dimensions")
    (value,), (found,) = use.inputs[:1], use.outputs
    kept = {places[axis]: entries for axis, entries in value.axes.items()}
    # Along an axis that is new, or that had one entry, all entries are equal: their first ones are what they are.
    spread = {axis for axis in found.axes if axis not in places or value.shape[places.index(axis)] == 1}
    return Answer([{axis: found.axes[axis] if axis in spread else kept.get(axis, 0) for axis in found.axes}])


@_rule("reshape")
def _reshape(use: Use) -> Answer:
    if use.full.params.get("dimensions") is not None:
        raise use.refuse()
    (value,), (found,) = use.inputs[:1], use.outputs
    real = [[axis for axis, size in enumerate(one.shape) if size != 1] for one in (value, found)]
    if [value.shape[axis] for axis in real[0]] == [found.shape[axis] for axis in real[1]]:
        # Axes of one entry come and go.
        moved = dict(zip(*real, strict=True))
        return Answer([{moved[axis]: entries for axis, entries in value.axes.items()}])
    if len(value.axes) != 1 or len(found.axes) != 1:
        raise use.refuse()
    # Entries are numbered row by row, so the first ones stay the first ones if as many blocks lie before them.
    blocks = [math.prod(one.shape[: min(one.axes)]) for one in (value, found)]
    if blocks[0] != blocks[1]:
        raise use.refuse()
    return Answer([found.axes])


@_rule("squeeze")
def _squeeze(use: Use) -> Answer:
    return Answer([_without(use.inputs[0].axes, use.same("dimensions"))])


@_rule("transpose")
def _transpose(use: Use) -> Answer:
    order = list(use.same("permutation"))
    return Answer([{order.index(axis): entries for axis, entries in use.inputs[0].axes.items()}])


_NEUTRAL = {
    "sum": 0.0,
    "prod": 1.0,
    "max": -math.inf,
    "min": math.inf,
    "or": 0.0,
    "and": 1.0,
    "xor": 0.0,
}


@_rule(*(f"reduce_{name}" for name in _NEUTRAL), "argmax", "argmin")
def _reduce(use: Use) -> Answer:
    use.same_but()
    axes = use.same("axes")
    value = use.inputs[0]
    number = _NEUTRAL[use.name.removeprefix("reduce_").removeprefix("arg")]
    mixed = [axis for axis in axes if axis in value.axes]
    masks = (_mask(0, value, number, mixed),) if mixed else ()
    return Answer([_without(value.axes, axes)], masks)


def _without(axes: Axes, gone: Sequence[int]) -> Axes:
    """Axes of what is left where some are gone, none of them one along which rows must go on to lie."""
    return {axis - sum(one < axis for one in gone): entries for axis, entries in axes.items() if axis not in gone}


@_rule("cumsum", "cumprod", "cummax", "cummin")
def _cumulative(use: Use) -> Answer:
    axis, reverse = use.same("axis", "reverse")
    value = use.inputs[0]
    if axis not in value.axes:
        return Answer([value.axes])
    # Forward, what comes after a row does not change it.
    masks = (_mask(0, value, _NEUTRAL[use.name.removeprefix("cum")], [axis]),) if reverse else ()
    return Answer([value.axes], masks, copies=False)


@_rule("sort")
def _sort(use: Use) -> Answer:
    use.same_but()
    if any(use.full.params["dimension"] in value.axes for value in use.inputs):
        raise use.refuse()
    return Answer([value.axes for value in use.inputs])


@_rule("top_k", "approx_top_k")
def _top_k(use: Use) -> Answer:
    use.same_but()
    value = use.inputs[0]
    if use.full.params.get("axis", len(value.shape) - 1) in value.axes or use.name != "top_k":
        raise use.refuse()
    return Answer([value.axes] * len(use.outputs))


@_rule("concatenate")
def _concatenate(use: Use) -> Answer:
    axis = use.same("dimension")
    if any(axis in value.axes or value.axes != use.inputs[0].axes for value in use.inputs):
        raise use.refuse()
    return Answer([use.inputs[0].axes])


@_rule("stack")
def _stack(use: Use) -> Answer:
    place = use.same("axis")
    if any(value.axes != use.inputs[0].axes for value in use.inputs):
        raise use.refuse()
    return Answer([{axis + (axis >= place): entries for axis, entries in use.inputs[0].axes.items()}])


@_rule("unstack")
def _unstack(use: Use) -> Answer:
    place, value = use.same("axis"), use.inputs[0]
    if place in value.axes:
        raise use.refuse()
    return Answer([_without(value.axes, (place,))] * len(use.outputs))


@_rule("split")
def _split(use: Use) -> Answer:
    use.same_but()
    if use.full.params["axis"] in use.inputs[0].axes:
        raise use.refuse()
    return Answer([use.inputs[0].axes] * len(use.outputs))


@_rule("slice")
def _slice(use: Use) -> Answer:
    value = use.inputs[0]
    starts, strides = use.same("start_indices", "strides")
    limits, others = use.full.params["limit_indices"], use.short.params["limit_indices"]
    for axis, size in enumerate(value.shape):
        if axis not in value.axes:
            whole = limits[axis] == others[axis]
        else:
            whole = starts[axis] == 0 and limits[axis] == size and (strides is None or strides[axis] == 1)
        if not whole:
            raise use.refuse()
    return Answer([value.axes])


@_rule("dynamic_slice")
def _dynamic_slice(use: Use) -> Answer:
    value, *starts = use.inputs
    _whole(use, value, use.full.params["slice_sizes"], use.short.params["slice_sizes"])
    if any(start.axes for start in starts):
        raise use.refuse()
    return Answer([value.axes])


def _whole(use: Use, value: Value, sizes: Sequence[int], others: Sequence[int]) -> None:
    """Checks that a window takes all rows, and the same of the other axes in both traces."""
    for axis, (size, other) in enumerate(zip(sizes, others, strict=True)):
        if size != value.shape[axis] if axis in value.axes else size != other:
            raise use.refuse()


@_rule("dynamic_update_slice")
def _dynamic_update_slice(use: Use) -> Answer:
    value, update, *starts = use.inputs
    if any(start.axes for start in starts) or update.axes != value.axes:
        raise use.refuse()
    _whole(use, value, update.shape, update.shape)
    return Answer([value.axes])


@_rule("pad")
def _pad(use: Use) -> Answer:
    sides = use.same("padding_config")
    value, filling = use.inputs
    if filling.axes or any(tuple(sides[axis]) != (0, 0, 0) for axis in value.axes):
        raise use.refuse()
    return Answer([value.axes])


@_rule("rev")
def _rev(use: Use) -> Answer:
    value = use.inputs[0]
    if any(axis in value.axes for axis in use.same("dimensions")):
        raise use.refuse()
    return Answer([value.axes])


@_rule("tile")
def _tile(use: Use) -> Answer:
    value, found = use.inputs[0], use.outputs[0]
    if any(use.full.params["reps"][axis] != 1 or use.short.params["reps"][axis] != 1 for axis in value.axes):
        raise use.refuse()
    # Where copies are what rows lie along, each block is equal: the first ones are what they are.
    return Answer([found.axes])


@_rule("iota")
def _iota(use: Use) -> Answer:
    axis = use.same("dimension")
    use.same("dtype")
    return Answer([use.outputs[0].axes], copies=axis not in use.outputs[0].axes)


@_rule("random_bits")
def _random_bits(use: Use) -> Answer:
    """Element n is a hash of the key and n, so it does not change with the rows if these are numbered last."""
    use.same("bit_width")
    found = use.outputs[0]
    kind = str(getattr(use.full.invars[0].aval, "dtype", None))
    is_ours = kind == "key<fry20>"  # `keras_internals.draws`
    is_numbered = is_ours or (kind == "key<fry>" and getattr(jax.config, "jax_threefry_partitionable", False))
    if not is_numbered or use.inputs[0].shape or len(found.axes) != 1 or math.prod(found.shape[: min(found.axes)]) > 1:
        raise use.refuse("draws other numbers where there are fewer rows")
    return Answer([found.axes], copies=False)


@_rule("dot_general")
def _dot_general(use: Use) -> Answer:
    use.same_but()
    (left_summed, right_summed), (left_batch, right_batch) = use.full.params["dimension_numbers"]
    left, right = use.inputs
    sums: list[tuple[int, int]] = []
    for pairs, is_sum in (((left_summed, right_summed), True), ((left_batch, right_batch), False)):
        for one, other in zip(*pairs, strict=True):
            if left.axes.get(one) != right.axes.get(other):
                raise use.refuse()
            if is_sum and one in left.axes:
                sums.append((one, other))
    free = [[axis for axis in range(len(left.shape)) if axis not in (*left_summed, *left_batch)]]
    free.append([axis for axis in range(len(right.shape)) if axis not in (*right_summed, *right_batch)])
    found = [left.axes.get(axis) for axis in (*left_batch, *free[0])] + [right.axes.get(axis) for axis in free[1]]
    axes = {place: entries for place, entries in enumerate(found) if entries is not None}
    return Answer([axes], _masks_of_product(use, sums))


def _masks_of_product(use: Use, sums: Sequence[tuple[int, int]]) -> tuple[Mask, ...]:
    """Masks of a product that sums over rows: of one operand, if what the other has in its place is finite."""
    if not sums:
        return ()
    left, right = use.inputs
    masks = [_mask(0, left, 0.0, [one for one, _ in sums]), _mask(1, right, 0.0, [other for _, other in sums])]
    if left.copies and right.copies:
        return (masks[0] if math.prod(left.shape) <= math.prod(right.shape) else masks[1],)
    return (masks[1],) if left.copies else (masks[0],) if right.copies else tuple(masks)


@_rule("conv_general_dilated")
def _convolution(use: Use) -> Answer:
    use.same_but("lhs_shape", "rhs_shape")
    left, right = use.inputs
    numbers, params = use.full.params["dimension_numbers"], use.full.params
    if params["batch_group_count"] != 1:
        raise use.refuse()
    (rows, features), (_, inner) = numbers.lhs_spec[:2], numbers.rhs_spec[:2]
    if set(left.axes) <= {rows} and not right.axes:
        return Answer([{numbers.out_spec[0]: left.axes[rows]} if left.axes else {}])
    if (
        set(left.axes) == {features}
        and right.axes == {inner: left.axes[features]}
        and params["feature_group_count"] == 1
    ):
        # A kernel's gradient: rows stand where channels are summed over.
        return Answer([{}], _masks_of_product(use, [(features, inner)]))
    raise use.refuse()


@_rule(*(f"reduce_window_{name}" for name in ("sum", "max", "min")), "select_and_scatter_add", "select_and_gather_add")
def _windows(use: Use) -> Answer:
    use.same_but("select_jaxpr", "scatter_jaxpr")
    axes = use.inputs[0].axes
    for axis in axes:
        for name, alone in (
            ("window_dimensions", 1),
            ("window_strides", 1),
            ("padding", (0, 0)),
            ("base_dilation", 1),
            ("window_dilation", 1),
        ):
            given = use.full.params.get(name)
            if given is not None and (tuple(given[axis]) if name == "padding" else given[axis]) != alone:
                raise use.refuse()
    if any(value.axes != axes for value in use.inputs):
        raise use.refuse()
    return Answer([axes] * len(use.outputs))


@_rule("gather")
def _gather(use: Use) -> Answer:
    use.same_but("slice_sizes")
    value, indices = use.inputs
    numbers, sizes = use.full.params["dimension_numbers"], use.full.params["slice_sizes"]
    _whole_windows(use, value, numbers.start_index_map, numbers.operand_batching_dims, sizes)
    for axis, (size, other) in enumerate(zip(sizes, use.short.params["slice_sizes"], strict=True)):
        if size != other and axis not in value.axes:
            raise use.refuse()
    rank = len(use.outputs[0].shape)
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window = [axis for axis in range(len(value.shape)) if axis not in gone]
    axes = {
        place: value.axes[axis] for place, axis in zip(numbers.offset_dims, window, strict=True) if axis in value.axes
    }
    batch = [place for place in range(rank) if place not in numbers.offset_dims]
    axes |= {batch[axis]: entries for axis, entries in _of_indices(use, indices).items()}
    _paired(use, value, indices, numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    return Answer([axes])


def _whole_windows(
    use: Use, value: Value, mapped: Sequence[int], batching: Sequence[int], sizes: Sequence[int]
) -> None:
    """Checks that windows take all rows of an operand, wherever they lie along its other axes."""
    if any(axis not in batching and (axis in mapped or sizes[axis] != value.shape[axis]) for axis in value.axes):
        raise use.refuse()


def _of_indices(use: Use, indices: Value) -> Axes:
    """Where rows lie among the places of windows: the last axis of indices counts the axes of the operand."""
    if len(indices.shape) - 1 in indices.axes:
        raise use.refuse()
    return indices.axes


def _paired(use: Use, value: Value, indices: Value, left: Sequence[int], right: Sequence[int]) -> None:
    if any(value.axes.get(one) != indices.axes.get(other) for one, other in zip(left, right, strict=True)):
        raise use.refuse()


_SCATTERED = {"scatter-add": 0.0, "scatter_add": 0.0, "scatter-sub": 0.0, "scatter-mul": 1.0, "scatter_mul": 1.0}
_SCATTERED |= {"scatter-min": math.inf, "scatter_min": math.inf, "scatter-max": -math.inf, "scatter_max": -math.inf}


@_rule(*_SCATTERED, "scatter")
def _scatter(use: Use) -> Answer:
    use.same_but("update_jaxpr")
    value, indices, updates = use.inputs
    numbers = use.full.params["dimension_numbers"]
    gone = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    window = [axis for axis in range(len(value.shape)) if axis not in gone]
    sizes = [1] * len(value.shape)
    expected: Axes = {}
    for place, axis in zip(numbers.update_window_dims, window, strict=True):
        sizes[axis] = updates.shape[place]
        if axis in value.axes:
            expected[place] = value.axes[axis]
    _whole_windows(use, value, numbers.scatter_dims_to_operand_dims, numbers.operand_batching_dims, sizes)
    _paired(use, value, indices, numbers.operand_batching_dims, numbers.scatter_indices_batching_dims)
    places = [place for place in range(len(updates.shape)) if place not in numbers.update_window_dims]
    own = _of_indices(use, indices)
    if updates.axes != expected | {places[axis]: entries for axis, entries in own.items()}:
        raise use.refuse()
    # Rows that are not real go somewhere, too: what they bring changes nothing.
    summed = [places[axis] for axis in own if axis not in numbers.scatter_indices_batching_dims]
    if summed and use.name not in _SCATTERED:
        raise use.refuse()
    masks = (_mask(2, updates, _SCATTERED[use.name], summed),) if summed else ()
    return Answer([value.axes], masks)
