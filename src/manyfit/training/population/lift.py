"""What members of one program differ in becomes an input of it.

Executions whose traces have one key run the same instructions; what sets them apart is the numbers in some of the holes
of their forms (see `canonical_jaxpr`): a dropout rate, a weight decay. `Lift` says which holes those are, and packs a
member's numbers; `Steps` runs a trace with such numbers as plain functions of arrays; `Members` puts several of them
side by side in one traced function.

Between calls every member's state is its own list of arrays, so members join, leave, pause and are looked at without
touching the others; a program that wants them stacked does it inside.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.population.arrays import Array, Arrays, ArrayTree, Function, Lifted, State
from manyfit.training.population.canonical_jaxpr import Form, differing_holes, evaluate
from manyfit.training.population.masking import Masking
from manyfit.training.population.trace import Trace


@dataclasses.dataclass(frozen=True)
class Lift:
    """Which holes of a program's forms are inputs.

    Numbers that a hyperparameter may well be are inputs from the start: were they written into the program, the first
    member with another one would have it compiled again. What they cost, on two cores: a tenth of the compilation, 1 to
    4 % of a step. What is left (0, 1, 2, integers, arrays) is written in, where the compiler folds it, until a member
    differs in it. Scalars of one form and type travel as one vector per member, so that a program has few arguments.

    Attributes:
        template: the trace whose other numbers are written into the program.
        holes: form name -> numbers of its lifted holes.
    """

    template: Trace
    holes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, trace: Trace) -> Lift:
        """The lift of a program that begins with this trace."""
        found = {name: tuple(filter(form.may_vary, range(len(form.values)))) for name, form in trace.forms.items()}
        return cls(trace, {name: holes for name, holes in found.items() if holes})

    def widened(self, traces: Sequence[Trace]) -> Lift:
        """Lifts what differs between the template and these traces; itself where that changes nothing.

        Raises:
            ValueError: a step of theirs is another program.
        """
        holes = dict(self.holes)
        for name, form in self.template.forms.items():
            others = [trace.forms[name] for trace in traces if name in trace.forms]
            if any(other.key != form.key for other in others):
                raise ValueError(f'their step "{name}" differs in more than numbers')
            # Against the template alone: where two others differ, one of them differs from the template.
            found = differing_holes([form, *others])
            if union := tuple(sorted({*holes.get(name, ()), *found})):
                holes[name] = union
        return self if holes == self.holes else Lift(self.template, holes)

    @property
    def count(self) -> int:
        """Lifted holes over all forms."""
        return sum(map(len, self.holes.values()))

    def values(self, trace: Trace) -> dict[str, dict[str, np.ndarray]]:
        """One member's numbers: form name -> a vector per type for scalars, an array each for the rest."""
        return {name: self._packed(trace.forms[name], holes) for name, holes in self.holes.items()}

    @staticmethod
    def _packed(form: Form, holes: Sequence[int]) -> dict[str, np.ndarray]:
        scalars: dict[str, list[Any]] = {}
        packed: dict[str, np.ndarray] = {}
        for hole in holes:
            # A Python number in a trace has a weak type; as an input it must have the very type that its instruction
            # took.
            value = np.asarray(form.values[hole]).astype(form.dtypes[hole])
            if value.ndim == 0:
                scalars.setdefault(str(value.dtype), []).append(value)
            else:
                packed[f"hole {hole}"] = value
        return {**packed, **{dtype: np.stack(values) for dtype, values in scalars.items()}}

    def only(self, kind: str) -> Lift:
        """The part that concerns the steps of one kind ("train" or "test"), and the metrics' results."""
        names = [name for name in self.holes if name.split()[0] in (kind, "results")]
        return Lift(self.template, {name: self.holes[name] for name in names})

    def fingerprint(self, kind: str) -> tuple[object, ...]:
        """Equal where the steps of one kind are one program: with the numbers that are written into it."""
        trace = self.template
        steps = []
        for name, form in sorted(trace.forms.items()):
            if name.split()[0] in (kind, "results"):
                lifted = self.holes.get(name, ())
                written = tuple(bits for hole, bits in enumerate(form.bits) if hole not in lifted)
                steps.append((name, form.key, lifted, written))
        # A test has nothing to do with the optimizer, so programs of two optimizers may share one.
        num_trainable, num_fixed, num_optimizer, num_metrics = trace.counts
        counts = (num_trainable, num_fixed, num_optimizer if kind == "train" else 0, num_metrics)
        start = tuple(value.tobytes() for value in trace.start_metrics)
        return (*steps, counts, trace.log_names, trace.step_log_names.get(kind), start)

    def name(self, kind: str) -> str:
        """A short name of `fingerprint`, the same in all processes."""
        return hashlib.sha256(repr(self.fingerprint(kind)).encode()).hexdigest()[:16]

    def joined(self, other: Lift) -> Lift:
        """With all that is lifted in either of two lifts of equal steps; itself where that changes nothing."""
        names = self.holes.keys() | other.holes.keys()
        holes = {name: tuple(sorted({*self.holes.get(name, ()), *other.holes.get(name, ())})) for name in names}
        return self if holes == self.holes else Lift(self.template, holes)

    def unpack(self, name: str, packed: Lifted) -> dict[int, Array]:
        """The inverse of `values` for one form, inside a traced function: hole -> value."""
        places: dict[str, int] = {}
        lifted: dict[int, Array] = {}
        form = self.template.forms[name]
        for hole in self.holes.get(name, ()):
            if np.ndim(form.values[hole]) == 0:
                dtype = str(form.dtypes[hole])
                place = places.get(dtype, 0)
                places[dtype] = place + 1
                lifted[hole] = packed[name][dtype][place]
            else:
                lifted[hole] = packed[name][f"hole {hole}"]
        return lifted


Stepped: TypeAlias = tuple[State, Arrays, Arrays]
"""What a step answers: the state, the metrics' variables, and the logs of a step that logs on its own (else none)."""


class Steps:
    """A program's steps for one member as pure functions of arrays, ready to be laid out."""

    def __init__(self, lift: Lift) -> None:
        self.trace = lift.template
        self.lift = lift

    def can_mask(self, kind: str) -> bool:
        """Whether the first shape's step of a kind ("train" or "test") also serves batches of fewer rows."""
        return isinstance(self.trace.maskings.get(kind), Masking)

    def train(
        self,
        number: int,
        lifted: Lifted,
        state: State,
        metrics: Sequence[Array],
        batch: Sequence[Array],
        rows: Array | None = None,
    ) -> Stepped:
        """One training step.

        Args:
            number: of the batch's shape.
            lifted: the member's numbers.
            state: its variables.
            metrics: its metrics' variables.
            batch: the leaves.
            rows: how many rows of the batch count, where `can_mask` says so: from 1 to all. The first ones are these,
                the others copies of any of them. None: all rows, without masks in the program.
        """
        num_trainable, num_fixed, num_optimizer, num_metrics = self.trace.counts
        flat = [*state[0], *self._taken(state[1]), *state[2], *metrics, *batch]
        parts = _cut(
            self._run("train", number, flat, lifted, rows), (num_trainable, num_fixed, num_optimizer, num_metrics)
        )
        return (parts[0], self._all(parts[1], state[1]), parts[2]), parts[3], self._step_logs("train", parts[4])

    def test(
        self,
        number: int,
        lifted: Lifted,
        state: State,
        metrics: Sequence[Array],
        batch: Sequence[Array],
        rows: Array | None = None,
    ) -> Stepped:
        """One test step; see `train`. The optimizer's variables pass through."""
        num_trainable, num_fixed, _, num_metrics = self.trace.counts
        flat = [*state[0], *self._taken(state[1]), *metrics, *batch]
        out = self._run("test", number, flat, lifted, rows)
        parts = _cut(out, (num_trainable, num_fixed, num_metrics))
        return (parts[0], self._all(parts[1], state[1]), state[2]), parts[2], self._step_logs("test", parts[3])

    def logs(
        self, kind: str, lifted: Lifted, metrics: Sequence[jax.Array], step_logs: Sequence[jax.Array]
    ) -> dict[str, jax.Array]:
        """The epoch's logs: the metrics' results, or what a step of the user's own logged last."""
        if kind in self.trace.step_log_names:
            return dict(zip(self.trace.step_log_names[kind], step_logs, strict=True))
        # The outputs of "results" are the metric variables, which are thrown away, and then the logs.
        out = evaluate(self.trace.forms["results"], metrics, self.lift.unpack("results", lifted))
        return dict(zip(self.trace.log_names, out[self.trace.counts[3] :], strict=True))

    def _taken(self, fixed: Arrays) -> Arrays:
        """What a step takes of a member's non-trainable variables; of those that it takes, all."""
        return fixed if len(fixed) == self.trace.counts[1] else self.trace.without_idle(fixed)

    def _all(self, taken: Arrays, before: Arrays) -> Arrays:
        """The inverse of `_taken`, after a step."""
        return taken if len(before) == len(taken) else self.trace.with_idle(taken, before)

    def _run(
        self, kind: str, number: int, flat: Sequence[Array], lifted: Lifted, rows: Array | None
    ) -> list[jax.Array]:
        name = f"{kind} {number}"
        form, numbers = self.trace.forms[name], self.lift.unpack(name, lifted)
        if rows is None:
            return evaluate(form, flat, numbers)
        masking = self.trace.maskings[kind]
        assert isinstance(masking, Masking) and number == 0  # our bug: `can_mask` is asked first
        return masking.evaluate(form, flat, numbers, rows)

    def _step_logs(self, kind: str, logs: Arrays) -> Arrays:
        return tuple(logs) if kind in self.trace.step_log_names else ()


def _cut(values: Sequence[jax.Array], sizes: Sequence[int]) -> list[Arrays]:
    parts, start = [], 0
    for size in sizes:
        parts.append(tuple(values[start : start + size]))
        start += size
    return [*parts, tuple(values[start:])]


class Members:
    """How several members stand side by side in one traced function.

    A *bundle* is a list with one entry per member ("unrolled"), or one tree with a first axis for members ("vmap").
    Code that steps members is written once, for bundles, and does not ask which of the two it has.

    Args:
        kind: "unrolled" or "vmap".
        count: number of members.
    """

    def __init__(self, kind: str, count: int) -> None:
        # A single member needs no axis: its program is the plain step, which compiles and runs a little faster.
        self.stacked = kind == "vmap" and count > 1
        self.count = count

    def bundle(self, trees: Sequence[ArrayTree]) -> ArrayTree:
        """One bundle from a list with one tree per member."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if self.stacked else list(trees)

    def split(self, bundle: ArrayTree) -> list[ArrayTree]:
        """The inverse of `bundle`."""
        if not self.stacked:
            return list(bundle)
        return [jax.tree.map(lambda leaf, at=member: leaf[at], bundle) for member in range(self.count)]

    def repeat(self, tree: ArrayTree) -> ArrayTree:
        """A bundle in which every member has the same tree."""
        return self.bundle([jax.tree.map(jnp.asarray, tree)] * self.count)

    def map(self, function: Function, *bundles: ArrayTree, shared: ArrayTree = None) -> ArrayTree:
        """`function(*entries, shared)` for every member; answers a bundle."""
        if self.stacked:
            return jax.vmap(lambda *entries: function(*entries, shared))(*bundles)
        return [function(*(bundle[member] for bundle in bundles), shared) for member in range(self.count)]

    def stack(self, bundle: ArrayTree) -> ArrayTree:
        """One tree with a first axis for members from a bundle."""
        return bundle if self.stacked else jax.tree.map(lambda *leaves: jnp.stack(leaves), *bundle)
