"""What a step computes of each row anew in every epoch, though it is always the same: a frozen backbone, a table that
was learned elsewhere, preprocessing in front of them. It is computed once, kept, and fed to the rest of the step.

The *prefix* of a step are the instructions that work row by row (`row_wise`) on leaves of the batch and on frozen
variables, which no training step changes. Where the rest of the step reads it, it is *cut*: the values there become
further leaves of the rows, and the step is written again without the instructions that lead to them. Nobody is asked
which layers are frozen: a layer that trains, an augmentation, dropout that draws or a normalisation that updates is no
constant, so the prefix ends there by itself. In a validation they may be, so its cut may lie further behind.

It is worth it where what is kept is little against the multiplications that it saves: the labels of a batch as one-hot
vectors, or a scaled image, are computed again as before.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.extend import core as jax_core

from manyfit.training.population.arrays import Array, State, shapes_of
from manyfit.training.population.canonical_jaxpr import (
    Form,
    Instruction,
    Mismatch,
    canonical_form,
    evaluate_part,
    needed,
    text_of,
)
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.masking import Masking, masking_of
from manyfit.training.population.row_wise import (
    Constant,
    RowAxis,
    Standing,
    multiplications,
    shape_of_atom,
    standing_of,
)
from manyfit.training.population.trace import Trace

_LEAST_PER_NUMBER = 64  # multiplications that a kept number must save: below, reading it costs as much
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
        shapes: of these, with rows first, for one batch.
        key: equal for prefixes that compute the same of a row, whatever the sizes of their batches.
        multiplications: that it saves, per row.
        num_bytes: that it keeps, per row.
    """

    form: Form
    leaves: Mapping[int, int]
    fixed: Mapping[int, int]
    outputs: Mapping[int, RowAxis]
    shapes: Sequence[jax.ShapeDtypeStruct]
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
    if not kept:
        return None
    inside = needed(form, set(), list(kept))
    read = {reference for each in inside for reference in each.inputs}
    again = set(map(id, needed(form, set(kept), form.body.outputs)))
    saved = sum(multiplications(each.equation) for each in inside if id(each) not in again) / walk.num_rows
    if saved < _LEAST_PER_NUMBER * sum(map(walk.numbers_of, kept)):
        return None
    return Prefix(
        form,
        {place: first_leaf + place for place in range(len(shapes)) if first_leaf + place in read},
        {variable - fixed.start: variable for variable in fixed if variable in read},
        {variable: walk.rows_of(variable) for variable in kept},
        [jax.eval_shape(walk.rows_of(variable).first, walk.struct_of(variable)) for variable in kept],
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
                self.standings[first_leaf + place] = RowAxis(0)
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
        if isinstance(standing, RowAxis) and (
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

    def rows_of(self, variable: int) -> RowAxis:
        """Where rows lie in a variable that holds rows."""
        standing = self.standings[variable]
        assert isinstance(standing, RowAxis)  # our bug: only such are worked for
        return standing

    def numbers_of(self, variable: int) -> float:
        """Numbers per row in a variable that an instruction has made."""
        return math.prod(shape_of_atom(self._atom(variable))) / self.num_rows

    def bytes_of(self, variable: int) -> float:
        """Bytes per row, likewise."""
        return self.numbers_of(variable) * self.struct_of(variable).dtype.itemsize

    def struct_of(self, variable: int) -> jax.ShapeDtypeStruct:
        """Its shape and type."""
        dtype = getattr(self._atom(variable).aval, "dtype", None)
        assert dtype is not None  # rows are arrays
        return jax.ShapeDtypeStruct(shape_of_atom(self._atom(variable)), dtype)

    def _atom(self, variable: int) -> jax_core.Var:
        made_by = self._made_by[variable]
        return made_by.equation.outvars[made_by.outputs.index(variable)]

    def key(self, instructions: Sequence[Instruction], kept: Mapping[int, None], first_leaf: int, fixed: range) -> str:
        """A hash of what is computed: the instructions, with the rows of a batch counted as one."""
        names = {variable: f"fixed {place}" for place, variable in enumerate(fixed)}
        names |= {first_leaf + place: f"leaf {place}" for place in range(self.num_leaves)}
        lines: list[str] = []
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
        axes = {standing.axis} if isinstance(standing, RowAxis) else standing.same
        # What is the same along an axis was spread over the rows, or over something else: its values do not tell.
        return text_of(
            tuple(
                f"{size // self.num_rows} rows" if axis in axes and size % self.num_rows == 0 else size
                for axis, size in enumerate(sizes)
            )
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """What a member's rows were computed with, once and for all.

    Attributes:
        values: place among the non-trainable variables -> its value, in an array of its own.
        words: what was computed, for the user.
    """

    values: Mapping[int, np.ndarray]
    words: str

    def holds(self, fixed: Sequence[Array]) -> bool:
        """Whether these non-trainable variables have the same weights in these places."""
        return are_equal(self.values, fixed)


def are_equal(weights: Mapping[int, np.ndarray], fixed: Sequence[Array]) -> bool:
    """Whether non-trainable variables have these weights in these places, to the bit."""
    return all(value.tobytes() == np.asarray(fixed[place]).tobytes() for place, value in weights.items())


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
    cuts = {kind: _cuts_of(kind, found, rows, fixed, frozen) for kind, rows in sources.items()}
    prefixes = {kind: next(iter(several.values())) for kind, several in cuts.items() if several}
    if not prefixes:
        return None
    read = [_read_by_rest(prefix) for several in cuts.values() for prefix in several.values()]
    idle = [each for each in frozen if all(each not in some for some in read)] if len(prefixes) == len(cuts) else []
    leaves, forms = {}, dict(found.forms)
    for kind, prefix in prefixes.items():
        first_leaf = _Inputs.of(kind, found.counts).first_leaf
        is_read, num_leaves = _read_by_rest(prefix).union(prefix.form.body.outputs), len(sources[kind].leaves)
        leaves[kind] = tuple(place for place in range(num_leaves) if first_leaf + place in is_read)
        taken = [each for each in range(first_leaf) if each not in idle]
        taken += [first_leaf + place for place in leaves[kind]]
        variables = (*state, found.start_metrics) if kind == "train" else (*state[:2], found.start_metrics)
        structs = shapes_of([value for part in variables for value in part])
        for number, (name, each) in enumerate(cuts[kind].items()):
            inputs = [*structs, *sources[kind].shapes[number]]
            forms[name] = _rest(each, {variable: inputs[variable] for variable in taken}, idle)
    trace = found.with_forms(forms, _maskings(forms, sources), frozenset(each - fixed.start for each in idle))
    # Equal steps behind other prefixes are no program to share: its rows hold other leaves.
    name = " ".join([trace.key, *(f"{kind} {prefix.key}" for kind, prefix in prefixes.items())])
    return Cut(dataclasses.replace(trace, key=hashlib.sha256(name.encode()).hexdigest()[:16]), prefixes, leaves)


def _cuts_of(kind: str, found: Trace, rows: ResidentRows, fixed: range, frozen: Sequence[int]) -> dict[str, Prefix]:
    """The prefixes of the steps of one kind, by their names; none where the steps do not begin alike."""
    first_leaf = _Inputs.of(kind, found.counts).first_leaf
    names = sorted(name for name in found.forms if name.startswith(f"{kind} "))
    prefixes: dict[str, Prefix] = {}
    for name, shapes in zip(names, rows.shapes, strict=True):
        prefix = find_prefix(found.forms[name], shapes, first_leaf=first_leaf, fixed=fixed, frozen=frozen)
        # The short batch's step is fed with what the full batch's has computed.
        if prefix is None or any(other.key != prefix.key for other in prefixes.values()):
            return {}
        prefixes[name] = prefix
    return prefixes


def _maskings(forms: Mapping[str, Form], sources: Mapping[str, ResidentRows]) -> dict[str, Masking | Mismatch]:
    return {
        kind: masking_of(forms[f"{kind} 0"], forms[f"{kind} 1"], rows.batch_size, rows.tail_size)
        for kind, rows in sources.items()
        if f"{kind} 1" in forms
    }


def _read_by_rest(prefix: Prefix) -> set[int]:
    rest = needed(prefix.form, set(prefix.outputs), prefix.form.body.outputs)
    return {reference for each in rest for reference in each.inputs}


def _rest(prefix: Prefix, inputs: Mapping[int, jax.ShapeDtypeStruct], idle: Sequence[int]) -> Form:
    """The form of a step without its prefix: it takes these inputs, then what is kept, and answers nothing idle."""
    # Variables are answered in the places in which they are taken.
    outputs = [output for place, output in enumerate(prefix.form.body.outputs) if place not in idle]

    def rest(given: Sequence[Array], kept: Sequence[Array]) -> list[jax.Array]:
        middle = zip(prefix.outputs.items(), kept, strict=True)
        known = {variable: rows.back(value) for (variable, rows), value in middle}
        return evaluate_part(prefix.form, {**dict(zip(inputs, given, strict=True)), **known}, outputs)

    return canonical_form(jax.make_jaxpr(rest)(list(inputs.values()), prefix.shapes))
