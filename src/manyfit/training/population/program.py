"""Compiled steps that many members share.

A *family* is a set of executions whose traces have one key; a *program* is a family's step, compiled for a number of
members and a layout. Between calls every member's state is its own list of arrays, so members join, leave, pause
and are looked at without touching the others; a program that wants them stacked does it inside.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from manyfit.training.keras_internals.programs import ONE_THREAD, bytes_of, quick_options
from manyfit.training.population.capture import Trace
from manyfit.training.population.unify import Form, differing_holes, evaluate

State = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
"""One member's trainable, non-trainable and optimizer variables."""


@dataclasses.dataclass(frozen=True, order=True)
class Layout:
    """How a program runs its members and its steps.

    Attributes:
        steps: "scan" runs an epoch inside the program; "chunk" calls the program once for several steps, written out
            one after another; "host" calls it once per step.
        members: "unrolled" writes the members side by side into the program, "vmap" adds an axis for them, "sequential"
            runs a program for one member once per member, on as many threads as there are cores.
    """

    steps: Literal["scan", "chunk", "host"]
    members: Literal["unrolled", "vmap", "sequential"]

    def __str__(self) -> str:
        return f"{self.steps}/{self.members}"


@dataclasses.dataclass(frozen=True)
class Lift:
    """Which holes of a family's forms are inputs.

    Scalars of one form and type travel as one vector per member, so that a program has few arguments.

    Attributes:
        template: the trace whose other numbers are written into the program.
        holes: form name -> numbers of its lifted holes.
    """

    template: Trace
    holes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

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

    def fingerprint(self, kind: str) -> tuple[Any, ...]:
        """Equal where the steps of one kind are one program: with the numbers that are written into it."""
        trace = self.template
        steps = []
        for name, form in sorted(trace.forms.items()):
            if name.split()[0] in (kind, "results"):
                lifted = self.holes.get(name, ())
                written = tuple(bits for hole, bits in enumerate(form.bits) if hole not in lifted)
                steps.append((name, form.key, lifted, written))
        num_trainable, num_fixed, num_optimizer, num_metrics = trace.counts
        counts = (num_trainable, num_fixed, num_optimizer if kind == "train" else 0, num_metrics)
        start = tuple(value.tobytes() for value in trace.start_metrics)
        return (*steps, counts, trace.log_names, trace.step_log_names.get(kind), start)

    def unpack(self, name: str, packed: Mapping[str, Mapping[str, Any]]) -> dict[int, Any]:
        """The inverse of `values` for one form, inside a traced function: hole -> value."""
        places: dict[str, int] = {}
        lifted: dict[int, Any] = {}
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


class Steps:
    """A family's steps for one member as pure functions of arrays, ready to be laid out."""

    def __init__(self, lift: Lift) -> None:
        self.trace = lift.template
        self.lift = lift

    def train(self, number: int, lifted: Any, state: State, metrics: Sequence[Any], batch: Sequence[Any]) -> Any:
        """One training step -> (state, metrics, logs of the step)."""
        num_trainable, num_fixed, num_optimizer, num_metrics = self.trace.counts
        flat = [*state[0], *state[1], *state[2], *metrics, *batch]
        out = evaluate(self.trace.forms[f"train {number}"], flat, self.lift.unpack(f"train {number}", lifted))
        parts = _cut(out, (num_trainable, num_fixed, num_optimizer, num_metrics))
        return (parts[0], parts[1], parts[2]), parts[3], self._step_logs("train", parts[4])

    def test(self, number: int, lifted: Any, state: State, metrics: Sequence[Any], batch: Sequence[Any]) -> Any:
        """One test step -> (state, metrics, logs of the step)."""
        num_trainable, num_fixed, _, num_metrics = self.trace.counts
        flat = [*state[0], *state[1], *metrics, *batch]
        out = evaluate(self.trace.forms[f"test {number}"], flat, self.lift.unpack(f"test {number}", lifted))
        parts = _cut(out, (num_trainable, num_fixed, num_metrics))
        return (parts[0], parts[1], state[2]), parts[2], self._step_logs("test", parts[3])

    def logs(self, kind: str, lifted: Any, metrics: Sequence[Any], step_logs: Sequence[Any]) -> dict[str, Any]:
        """The epoch's logs: the metrics' results, or what a step of the user's own logged last."""
        if kind in self.trace.step_log_names:
            return dict(zip(self.trace.step_log_names[kind], step_logs, strict=True))
        out = evaluate(self.trace.forms["results"], metrics, self.lift.unpack("results", lifted))
        return dict(zip(self.trace.log_names, out[self.trace.counts[3] :], strict=True))

    def _step_logs(self, kind: str, logs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(logs) if kind in self.trace.step_log_names else ()


def _cut(values: Sequence[Any], sizes: Sequence[int]) -> list[tuple[Any, ...]]:
    parts, start = [], 0
    for size in sizes:
        parts.append(tuple(values[start : start + size]))
        start += size
    return [*parts, tuple(values[start:])]


class Members:
    """How several members stand side by side in one traced function.

    A *bundle* is a list with one entry per member ("unrolled"), or one tree with a first axis for members ("vmap").

    Args:
        kind: "unrolled" or "vmap".
        count: number of members.
    """

    def __init__(self, kind: str, count: int) -> None:
        self.stacked = kind == "vmap" and count > 1
        self.count = count

    def bundle(self, trees: Sequence[Any]) -> Any:
        """One bundle from a list with one tree per member."""
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) if self.stacked else list(trees)

    def split(self, bundle: Any) -> list[Any]:
        """The inverse of `bundle`."""
        if not self.stacked:
            return list(bundle)
        return [jax.tree.map(lambda leaf, at=member: leaf[at], bundle) for member in range(self.count)]

    def repeat(self, tree: Any) -> Any:
        """A bundle in which every member has the same tree."""
        return self.bundle([jax.tree.map(jnp.asarray, tree)] * self.count)

    def map(self, function: Callable[..., Any], *bundles: Any, shared: Any = None) -> Any:
        """`function(*entries, shared)` for every member; answers a bundle."""
        if self.stacked:
            return jax.vmap(lambda *entries: function(*entries, shared))(*bundles)
        return [function(*(bundle[member] for bundle in bundles), shared) for member in range(self.count)]

    def stack(self, bundle: Any) -> Any:
        """One tree with a first axis for members from a bundle."""
        return bundle if self.stacked else jax.tree.map(lambda *leaves: jnp.stack(leaves), *bundle)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One compiled function, the shapes of what it answers, and what it cost."""

    call: Callable[..., Any]
    outputs: Any
    seconds: float
    num_bytes: int  # of arguments, answers and what lies in between, while it runs, on one device
    num_flops: float  # of one device, by the compiler's count: the body of a loop counts once


def compile_function(
    function: Callable[..., Any],
    arguments: Sequence[Any],
    *,
    quick: bool = False,
    one_thread: bool = False,
    donate: tuple[int, ...] = (),
) -> Compiled:
    """Traces, lowers and compiles a function for arguments (arrays or shapes).

    Args:
        function: pure.
        arguments: arrays, or their shapes.
        quick: compile fast rather than for speed; only where the compiler has that choice (a CPU).
        one_thread: for programs that run beside others on the cores of a CPU: handing parts of small steps from thread
            to thread costs a tenth of the time then.
        donate: places of the arguments whose memory the answers may take.
    """
    started = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    return compiled_from(lowered, started, quick=quick, one_thread=one_thread)


def compiled_from(lowered: Any, started: float, *, quick: bool, one_thread: bool = False) -> Compiled:
    """Compiles what `jax.jit(...).lower(...)` has answered.

    Args:
        lowered: the program.
        started: when tracing it began, by `time.perf_counter`.
        quick: see `compile_function`.
        one_thread: likewise.
    """
    options: dict[str, str | bool] = {}
    if jax.default_backend() == "cpu":
        options |= quick_options() if quick else {}
        options |= ONE_THREAD if one_thread else {}
    executable = lowered.compile(compiler_options=options or None)
    outputs = jax.tree.map(lambda out: jax.ShapeDtypeStruct(out.shape, out.dtype), lowered.out_info)
    return Compiled(
        executable,
        outputs,
        time.perf_counter() - started,
        num_bytes=bytes_of(executable.memory_analysis()),
        num_flops=float((executable.cost_analysis() or {}).get("flops", 0.0)),
    )
