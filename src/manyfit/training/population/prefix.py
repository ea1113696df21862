"""What a step computes of each row anew in every epoch, though it is always the same: a frozen backbone, a table that was
learned elsewhere, preprocessing in front of them. It is computed once, kept, and fed to the rest of the step.

The *prefix* of a step are the instructions that work row by row (`row_wise`) on leaves of the batch and on frozen
variables, which no training step changes. Where the rest of the step reads it, it is *cut*: the values there become
further leaves of the rows, and the step is written again without the instructions that lead to them. Nobody is asked
which layers are frozen: a layer that trains, an augmentation, dropout that draws or a normalisation that updates is no
constant, so the prefix ends there by itself. In a validation they may be, so its cut may lie further behind.

It is worth it where what is kept is little against the multiplications that it saves: the labels of a batch as one-hot
vectors, or a scaled image, are computed again as before.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np

from manyfit.training.population.arrays import Array, Arrays, Function, State, on_every_device, shapes_of
from manyfit.training.population.canonical_jaxpr import (
    Form,
    Instruction,
    canonical_form,
    evaluate_part,
    needed,
    text_of,
)
from manyfit.training.population.compile import Compiled, compile_function
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.member import View
from manyfit.training.population.row_wise import Constant, Rows, Standing, multiplications, standing_of
from manyfit.training.population.sizing import free_bytes
from manyfit.training.population.trace import Trace

CUTS = True
_LEAST_PER_NUMBER = 64  # multiplications that a kept number must save: below, reading it costs as much
_SHARE_OF_MEMORY = 0.25  # of what is free, for all that is kept
_MAX_CUTS = 32
# Rows are moved by one place to see whether what is computed of them moves along: to rounding, since a product of other
# rows may be summed up in another order.
_RELATIVE = 1e-3
# Parameters of instructions that hold the shape of what goes in or comes out.
_SHAPES = ("shape", "new_sizes", "limit_indices", "slice_sizes")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """What is computed once, of one step.

    Attributes:
        form: the step's.
        leaves: place among the leaves of a batch -> its variable in the form, of what is read.
        fixed: likewise among the non-trainable variables.
        outputs: the variables that are kept, and where rows lie in them.
        key: equal for prefixes that compute the same of a row, whatever the sizes of their batches.
        multiplications: that it saves, per row.
        num_bytes: that it keeps, per row.
    """

    form: Form
    leaves: Mapping[int, int]
    fixed: Mapping[int, int]
    outputs: Mapping[int, Rows]
    key: str
    multiplications: float
    num_bytes: float

    def values(self, fixed: Sequence[Array], leaves: Sequence[Array]) -> list[jax.Array]:
        """What is kept of one batch, rows first; a pure function.

        Args:
            fixed: the values of the variables in `fixed`.
            leaves: those of the leaves in `leaves`.
        """
        known = dict(zip((*self.fixed.values(), *self.leaves.values()), (*fixed, *leaves), strict=True))
        found = evaluate_part(self.form, known, list(self.outputs))
        return [rows.first(value) for rows, value in zip(self.outputs.values(), found, strict=True)]


@dataclasses.dataclass(frozen=True)
class _Inputs:
    """Where the inputs of a step begin: its variables, then the leaves of a batch."""

    fixed: range
    first_leaf: int

    @classmethod
    def of(cls, kind: str, counts: tuple[int, int, int, int]) -> _Inputs:
        num_trainable, num_fixed, num_optimizer, num_metrics = counts
        first = num_trainable + num_fixed + num_metrics + (num_optimizer if kind == "train" else 0)
        return cls(range(num_trainable, num_trainable + num_fixed), first)


def find_prefix(
    form: Form, shapes: Sequence[jax.ShapeDtypeStruct], *, first_leaf: int, fixed: range, frozen: Sequence[int]
) -> Prefix | None:
    """The prefix of a step; None where there is none that is worth it.

    Args:
        form: of the step.
        shapes: of the leaves of its batch.
        first_leaf: the variable that the first of them is.
        fixed: the non-trainable variables among the form's.
        frozen: those of them that are equal in all steps of a training.
    """
    walk = _Walk(form, shapes, first_leaf, frozen)
    kept = walk.cut()
    inside = needed(form, set(), list(kept))
    read = {reference for each in inside for reference in each.inputs}
    again = set(map(id, needed(form, set(kept), form.body.outputs)))
    saved = sum(multiplications(each.equation) for each in inside if id(each) not in again) / walk.num_rows
    numbers = sum(math.prod(walk.shape_of(variable)) for variable in kept) / walk.num_rows
    if not kept or saved < _LEAST_PER_NUMBER * numbers:
        return None
    return Prefix(
        form,
        {place: first_leaf + place for place in range(len(shapes)) if first_leaf + place in read},
        {variable - fixed.start: variable for variable in fixed if variable in read},
        {variable: walk.rows_of(variable) for variable in kept},
        walk.key(inside, kept, first_leaf, fixed),
        saved,
        sum(map(walk.bytes_of, kept)),
    )


class _Walk:
    """Walks a form once; knows how its variables stand, and which of them rest upon a product or a convolution."""

    def __init__(
        self, form: Form, shapes: Sequence[jax.ShapeDtypeStruct], first_leaf: int, frozen: Sequence[int]
    ) -> None:
        self.form = form
        self.num_rows = max([shape.shape[0] for shape in shapes if shape.shape], default=0)
        self.standings: dict[int, Standing] = dict.fromkeys(frozen, Constant())
        self.num_leaves = len(shapes)
        self.worked: set[int] = set()
        self._made_by: dict[int, Instruction] = {}
        for place, shape in enumerate(shapes):
            if shape.shape and shape.shape[0] == self.num_rows:
                self.standings[first_leaf + place] = Rows(0)
        for instruction in form.body.instructions:
            self._take(instruction)

    def _take(self, instruction: Instruction) -> None:
        self._made_by.update(dict.fromkeys(instruction.outputs, instruction))
        found = [self._standing(reference) for reference in instruction.inputs]
        standings = [each for each in found if each is not None]
        if len(standings) < len(found) or instruction.bodies:
            return
        standing = standing_of(instruction.equation, standings, self.num_rows)
        if standing is None:
            return
        self.standings.update(dict.fromkeys(instruction.outputs, standing))
        if isinstance(standing, Rows) and (
            multiplications(instruction.equation) or not self.worked.isdisjoint(instruction.inputs)
        ):
            self.worked.update(instruction.outputs)

    def _standing(self, reference: int) -> Standing | None:
        if reference >= 0:
            return self.standings.get(reference)
        # A number is the same everywhere; an array of them is not, for all that is known.
        return Constant()

    def cut(self) -> dict[int, None]:
        """The variables to be kept, in order: what the rest reads, or what that is made of where this is less."""
        whole = needed(self.form, set(), self.form.body.outputs)
        rest = [each for each in whole if self.worked.isdisjoint(each.outputs)]
        read = {*self.form.body.outputs, *(reference for each in rest for reference in each.inputs)}
        kept = read & self.worked
        while (fewer := self._pushed_back(kept)) is not None:
            kept = fewer
        return dict.fromkeys(sorted(kept))

    def _pushed_back(self, kept: set[int]) -> set[int] | None:
        """An earlier cut that keeps no more, where one of these variables is cheaply made of others.

        The last instructions may hold numbers that a search tries (a rate of dropout divides what is left): those stay
        in the step, where they can be inputs, and what is kept serves all of them.
        """
        for variable in sorted(kept):
            made_by = self._made_by[variable]
            if multiplications(made_by.equation):
                continue
            fewer = (kept - {variable}) | (self.worked & set(made_by.inputs))
            if sum(map(self.bytes_of, fewer)) <= sum(map(self.bytes_of, kept)):
                return fewer
        return None

    def rows_of(self, variable: int) -> Rows:
        """Where rows lie in a variable that holds rows."""
        standing = self.standings[variable]
        assert isinstance(standing, Rows)  # our bug: only such are worked for
        return standing

    def shape_of(self, variable: int) -> tuple[int, ...]:
        """The shape of a variable that an instruction has made."""
        return tuple(self._aval(variable).shape)

    def bytes_of(self, variable: int) -> float:
        """Bytes per row of a variable that an instruction has made."""
        return math.prod(self.shape_of(variable)) * self._aval(variable).dtype.itemsize / self.num_rows

    def _aval(self, variable: int) -> jax.ShapeDtypeStruct:
        made_by = self._made_by[variable]
        aval = made_by.equation.outvars[made_by.outputs.index(variable)].aval
        return jax.ShapeDtypeStruct(aval.shape, aval.dtype)

    def key(self, instructions: Sequence[Instruction], kept: Mapping[int, None], first_leaf: int, fixed: range) -> str:
        """A hash of what is computed: the instructions, with the rows of a batch counted as one."""
        names = {variable: f"fixed {place}" for place, variable in enumerate(fixed)}
        names |= {first_leaf + place: f"leaf {place}" for place in range(self.num_leaves)}
        lines = []
        for instruction in instructions:
            names |= {output: f"{len(lines)}.{place}" for place, output in enumerate(instruction.outputs)}
            inputs = [
                names[each] if each >= 0 else repr((self.form.bits[-each - 1], str(self.form.dtypes[-each - 1])))
                for each in instruction.inputs
            ]
            parameters = [
                f"{name}={self._sizes(instruction, value) if name in _SHAPES else text_of(value)}"
                for name, value in sorted(instruction.equation.params.items())
            ]
            lines.append(f"{instruction.equation.primitive.name} {inputs} {parameters}")
        lines += [names[variable] for variable in kept]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def _sizes(self, instruction: Instruction, sizes: Sequence[int]) -> str:
        standing = self.standings[instruction.outputs[0]]
        axes = {standing.axis} if isinstance(standing, Rows) else standing.same
        # What is the same along an axis was spread over the rows, or over something else: its values do not tell.
        return text_of(
            tuple(
                f"{size // self.num_rows} rows" if axis in axes and size % self.num_rows == 0 else size
                for axis, size in enumerate(sizes)
            )
        )


@dataclasses.dataclass(frozen=True)
class Cut:
    """A trace without its prefixes.

    Attributes:
        trace: with steps that take what is kept as further leaves.
        prefixes: "train" or "test" -> what is computed once of its rows.
        leaves: likewise, the places of the leaves that the rest still reads.
    """

    trace: Trace
    prefixes: Mapping[str, Prefix]
    leaves: Mapping[str, tuple[int, ...]]


def cut_trace(found: Trace, state: State, sources: Mapping[str, ResidentRows]) -> Cut | None:
    """A trace without its prefixes; None where no step has one.

    Args:
        found: complete.
        state: of a member, for the shapes.
        sources: "train" and "test" -> their rows.
    """
    fixed = _Inputs.of("train", found.counts).fixed
    training = [form for name, form in found.forms.items() if name.startswith("train ")]
    # What a step answers as it got it. A test may leave alone what training changes, so training is asked.
    frozen = [each for each in fixed if all(form.body.outputs[each] == each for form in training)]
    prefixes, leaves, forms = {}, {}, dict(found.forms)
    for kind, rows in sources.items():
        inputs = _Inputs.of(kind, found.counts)
        steps = {name: rows.shapes[number] for number, name in enumerate(_names(found, kind))}
        several = [
            find_prefix(found.forms[name], shapes, first_leaf=inputs.first_leaf, fixed=fixed, frozen=frozen)
            for name, shapes in steps.items()
        ]
        first = several[0] if several else None
        # The short batch's step is fed with what the full batch's has computed.
        if first is None or any(each is None or each.key != first.key for each in several):
            continue
        prefixes[kind] = first
        leaves[kind] = _still_read(first, inputs.first_leaf, len(rows.leaves))
        variables = [*state, found.start_metrics] if kind == "train" else [*state[:2], found.start_metrics]
        structs = [shape for part in variables for shape in shapes_of(part)]
        read = (*range(inputs.first_leaf), *(inputs.first_leaf + place for place in leaves[kind]))
        for prefix, (name, shapes) in zip(several, steps.items(), strict=True):
            assert prefix is not None  # asked above
            forms[name] = _rest(prefix, [*structs, *shapes], read)
    if not prefixes:
        return None
    trace = found.with_forms(forms)
    # Equal steps behind other prefixes are no program to share: its rows hold other leaves.
    name = " ".join([trace.key, *(f"{kind} {prefix.key}" for kind, prefix in prefixes.items())])
    return Cut(dataclasses.replace(trace, key=hashlib.sha256(name.encode()).hexdigest()[:16]), prefixes, leaves)


def _names(found: Trace, kind: str) -> list[str]:
    return sorted(name for name in found.forms if name.startswith(f"{kind} "))


def _still_read(prefix: Prefix, first_leaf: int, num_leaves: int) -> tuple[int, ...]:
    rest = needed(prefix.form, set(prefix.outputs), prefix.form.body.outputs)
    read = {*prefix.form.body.outputs, *(reference for each in rest for reference in each.inputs)}
    return tuple(place for place in range(num_leaves) if first_leaf + place in read)


def _rest(prefix: Prefix, inputs: Sequence[jax.ShapeDtypeStruct], read: Sequence[int]) -> Form:
    """The form of a step without its prefix: it takes the inputs in `read`, then what is kept."""
    fixed, leaves = ([inputs[variable] for variable in part.values()] for part in (prefix.fixed, prefix.leaves))

    def rest(given: Sequence[Array], kept: Sequence[Array]) -> list[jax.Array]:
        middle = zip(prefix.outputs.items(), kept, strict=True)
        known = {variable: rows.back(value) for (variable, rows), value in middle}
        return evaluate_part(prefix.form, {**dict(zip(read, given, strict=True)), **known}, prefix.form.body.outputs)

    kept = jax.eval_shape(prefix.values, fixed, leaves)
    return canonical_form(jax.make_jaxpr(rest)([inputs[variable] for variable in read], kept))


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What was computed of all rows.

    Attributes:
        prefix: by which.
        sources: the leaves that it was computed of.
        fixed: the frozen variables' values.
        leaves: what came out, one row for each of theirs.
    """

    prefix: Prefix
    sources: Arrays
    fixed: list[np.ndarray]
    leaves: Arrays

    def is_of(self, prefix: Prefix, sources: Arrays) -> bool:
        """Whether this is what a prefix computes of these rows, if the frozen weights are equal."""
        same = all(one is other for one, other in zip(self.sources, sources, strict=True))
        return self.prefix.key == prefix.key and same

    def has(self, fixed: Sequence[Array]) -> bool:
        """Whether it was computed with these weights, to the bit."""
        return all(np.array_equal(one, np.asarray(other)) for one, other in zip(self.fixed, fixed, strict=True))


def _in_words(kept: Iterable[_Kept]) -> str:
    """What `tuner.programs()` says of them."""
    several = list({id(each): each for each in kept}.values())  # folds validate on rows that others train on
    num_rows = sum(len(each.leaves[0]) for each in several)
    num_bytes = sum(leaf.nbytes for each in several for leaf in each.leaves)
    most = max(each.prefix.multiplications for each in several)
    return (
        f"a frozen prefix of {_short(most)} multiplications a row is computed once "
        f"({num_rows:,} rows, {_short(num_bytes)}B)"
    )


def _short(number: float) -> str:
    """A number of three digits or less, and the letter that makes it as large as it is."""
    for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return f"{number:.3g} "


class Prefixes:
    """What is kept of prefixes for the executions that train on the same data."""

    def __init__(self) -> None:
        self._cuts: collections.OrderedDict[int, tuple[Trace, Cut | None]] = collections.OrderedDict()
        self._kept: list[_Kept] = []
        self._compiled: dict[tuple[object, ...], Compiled] = {}
        self._views: dict[tuple[int, ...], tuple[View, View]] = {}

    def cut(self, found: Trace, state: State, view: View) -> tuple[Trace, View]:
        """A trace and the rows of a member, without what is computed once, or as they are.

        Args:
            found: complete.
            state: the member's, as it begins.
            view: its rows.
        """
        sources = {"train": view.training, "test": view.validation}
        resident = {kind: rows for kind, rows in sources.items() if isinstance(rows, ResidentRows)}
        if not CUTS or "train" not in resident or len(resident) < sum(rows is not None for rows in sources.values()):
            return found, view
        cut = self._cut_of(found, state, resident)
        if cut is None:
            return found, view
        kept = {kind: self._keep(prefix, state[1], resident[kind]) for kind, prefix in cut.prefixes.items()}
        if None in kept.values():
            return found, view
        return cut.trace, self._view(view, {kind: each for kind, each in kept.items() if each is not None}, cut)

    def _cut_of(self, found: Trace, state: State, sources: Mapping[str, ResidentRows]) -> Cut | None:
        # By identity, and held: what a recognised model has was cut before.
        if id(found) not in self._cuts:
            self._cuts[id(found)] = found, cut_trace(found, state, sources)
            if len(self._cuts) > _MAX_CUTS:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(id(found))
        return self._cuts[id(found)][1]

    def _keep(self, prefix: Prefix, fixed: Arrays, rows: ResidentRows) -> _Kept | None:
        """What a prefix computes of all rows; None where there is no memory for it, or its weights are others'."""
        sources = tuple(rows.leaves[place] for place in prefix.leaves)
        values = [fixed[place] for place in prefix.fixed]
        others = [kept for kept in self._kept if kept.is_of(prefix, sources)]
        for kept in others:
            if kept.has(values):
                return kept
        num_rows = len(sources[0])
        if others or prefix.num_bytes * num_rows > _SHARE_OF_MEMORY * free_bytes():
            return None
        found = self._computed(prefix, values, sources, size=rows.shapes[0][0].shape[0])
        if found is None:
            return None
        # Copies of the weights: Keras gives a model's own arrays away when it predicts.
        kept = _Kept(prefix, sources, [np.array(value) for value in values], tuple(map(on_every_device, found)))
        self._kept.append(kept)
        return kept

    def _computed(
        self, prefix: Prefix, fixed: Sequence[Array], sources: Arrays, *, size: int
    ) -> list[np.ndarray] | None:
        """What is kept of all rows, batch by batch; None where it is not row by row, for all that was shown."""
        at_hand = [np.asarray(leaf.addressable_data(0)) for leaf in sources]
        num_rows = len(at_hand[0])

        def batch(start: int) -> list[np.ndarray]:
            numbers = np.arange(start, start + size) % num_rows  # the last batch is filled up with the first rows
            return [leaf[numbers] for leaf in at_hand]

        function = self._function(prefix, (list(fixed), batch(0)))
        one, moved = ([np.asarray(out) for out in function(fixed, batch(start))] for start in (0, 1))
        if not all(map(_moved_along, one, moved)):
            return None
        kept = [np.empty((num_rows, *out.shape[1:]), out.dtype) for out in one]
        for start in range(0, num_rows, size):
            for into, out in zip(kept, one if start == 0 else function(fixed, batch(start)), strict=True):
                into[start : start + size] = np.asarray(out)[: num_rows - start]
        return kept

    def _function(self, prefix: Prefix, arguments: tuple[list[Array], list[np.ndarray]]) -> Function:
        """The compiled prefix. That of other batches serves as well: a key says what is computed of a row."""
        shapes = [(leaf.shape[1:], str(leaf.dtype)) for leaf in arguments[1]]
        name = (prefix.key, arguments[1][0].shape[0], *shapes)
        if name not in self._compiled:
            self._compiled[name] = compile_function(prefix.values, arguments)
        return self._compiled[name].call

    def _view(self, view: View, kept: Mapping[str, _Kept], cut: Cut) -> View:
        """The rows with what is kept; one object for all members that share both, as their orders are named by it."""
        name = (id(view), *map(id, kept.values()))
        if name not in self._views:
            parts = {"train": view.training, "test": view.validation}
            for kind, each in kept.items():
                rows = parts[kind]
                assert isinstance(rows, ResidentRows)  # asked by the caller
                leaves = (*(rows.leaves[place] for place in cut.leaves[kind]), *each.leaves)
                parts[kind] = dataclasses.replace(rows, leaves=leaves)
            self._views[name] = view, view.with_rows(parts["train"], parts["test"], _in_words(kept.values()))
        return self._views[name][1]


def _moved_along(one: np.ndarray, moved: np.ndarray) -> bool:
    """Whether rows that stand one place further up are what they were."""
    a, b = one[1:].astype(np.float64), moved[:-1].astype(np.float64)
    scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return np.allclose(a, b, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True)
