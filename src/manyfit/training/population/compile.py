"""Compiling: functions to programs that run, and a cache on disk so that the second run of a search compiles nothing.

On a CPU there are three *efforts*. What runs once per pass, or once at all, is compiled without optimisation ("once"):
`benchmarks/results/speed.md` says what that earns (row A, cold cache: the end of a training epoch in .23 instead of .97
processor seconds) and what the same options would cost everywhere (epochs three times as long). Steps are compiled
"quick" at first, which takes half to three quarters of the time and makes epochs up to a third longer; where enough
work is left, they are compiled in "full" behind the training and exchanged between two epochs (`Exchanges`).
`QUICK_COMPILES` switches both.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import jax

from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.keras_internals.programs import (
    ONE_THREAD,
    bytes_of,
    kept_until_compiled,
    programs_kept,
    quick_options,
)
from manyfit.training.population.arrays import ArrayTree, Function

QUICK_COMPILES = True

Tier: TypeAlias = Literal["quick", "full"]
"""How a pass's steps are compiled."""

Effort: TypeAlias = Literal["once", "quick", "full"]
"""A tier, or "once" for what is not worth any optimisation."""

_RATIO = 0.85  # of the seconds of an epoch compiled in full, to one compiled quickly, where nothing is known
_COST = 1.6  # likewise of the seconds that compiling takes
_ENOUGH_TO_COMPARE = 2  # runs of a pass in full
_LEAST_COST_SECONDS = 1.0  # what was read from the cache on disk tells nothing of what compiling takes


def has_tiers() -> bool:
    """Whether the compiler has a choice: that of a CPU."""
    return QUICK_COMPILES and jax.default_backend() == "cpu"


class Exchanges:
    """What exchanges of quickly compiled passes for fully compiled ones have brought in this process.

    Example: four seconds of work left are not worth the compilation, forty are; and none is where it brought nothing.

    >>> exchanges = Exchanges()
    >>> [exchanges.pays(seconds, compile_seconds=1.0) for seconds in (4.0, 40.0)]
    [False, True]
    >>> exchanges.record("a pass", quick=2.0, full=2.1)
    >>> exchanges.pays(400.0, compile_seconds=1.0)
    False
    """

    def __init__(self) -> None:
        self._ratios: dict[object, float] = {}
        self._costs: list[float] = []

    def pays(self, work_left_seconds: float, *, compile_seconds: float) -> bool:
        """Whether a full compilation is worth it.

        Args:
            work_left_seconds: that are left to train, as compiled now.
            compile_seconds: that compiling quickly took.
        """
        ratio = statistics.median(list(self._ratios.values()) or [_RATIO])
        cost = statistics.median(list(self._costs) or [_COST])
        return work_left_seconds * (1.0 - ratio) > max(compile_seconds * cost, _LEAST_COST_SECONDS)

    def record(self, name: object, *, quick: float, full: float) -> None:
        """Takes the seconds of an epoch of one pass in both tiers; the last word on each name counts."""
        self._ratios[name] = full / quick

    def record_cost(self, *, quick: float, full: float) -> None:
        """Takes the seconds that compiling one pass has taken in both tiers."""
        if quick > 0.0:
            self._costs.append(full / quick)


exchanges = Exchanges()
"""Those of this process."""


class Tiers:
    """In which of its tiers a pass runs: quickly compiled at first, then in the faster one.

    Args:
        first: the tier to begin with.

    Attributes:
        tier: the one to run in.
        seconds: tier -> the shortest time that a run took.
    """

    def __init__(self, first: Tier) -> None:
        self.tier: Tier = first if has_tiers() else "full"
        self.seconds: dict[Tier, float] = {}
        self._num_full = 0  # runs

    def record(self, tier: Tier, seconds: float) -> None:
        """Takes the time of a run; goes back to what was compiled quickly where that turns out to be faster."""
        # The shortest, as in `LayoutChoice.record`: what else the machine does makes a run longer only.
        self.seconds[tier] = min(seconds, self.seconds.get(tier, math.inf))
        self._num_full += tier == "full"
        if "quick" not in self.seconds:
            self.tier = "full"  # so it was asked for, from the start
        elif self._num_full >= _ENOUGH_TO_COMPARE:
            exchanges.record(id(self), quick=self.seconds["quick"], full=self.seconds["full"])
            self.tier = min(self.seconds, key=self.seconds.__getitem__)


@contextlib.contextmanager
def quick_building() -> Iterator[None]:
    """Around the builds that explore a space: drawing weights compiles, so it is quick, and stays for the next run."""
    with programs_kept(), quick_draws():
        yield


@dataclasses.dataclass(frozen=True)
class Compiled:
    """One compiled function, the shapes of what it answers, and what it cost."""

    call: Function
    outputs: ArrayTree
    seconds: float
    num_bytes: int  # of arguments, answers and what lies in between, while it runs, on one device
    num_flops: float  # of one device, by the compiler's count: the body of a loop counts once
    # The same function compiled with another effort, without tracing it anew; that holds the program as it was before
    # compiling, another megabyte.
    again: Callable[[Effort], Compiled] | None

    def for_good(self) -> Compiled:
        """What will not be compiled again."""
        return dataclasses.replace(self, again=None)


def compile_function(
    function: Function,
    arguments: Sequence[ArrayTree],
    *,
    effort: Effort = "full",
    one_thread: bool = False,
    donate: tuple[int, ...] = (),
) -> Compiled:
    """Traces, lowers and compiles a function for arguments (arrays or shapes).

    Args:
        function: pure.
        arguments: arrays, or their shapes.
        effort: how much to optimise; only where the compiler has that choice (a CPU).
        one_thread: for programs that run beside others on the cores of a CPU: handing parts of small steps from thread
            to thread costs a tenth of the time then.
        donate: places of the arguments whose memory the answers may take.
    """
    started = time.perf_counter()
    # Ahead of time, not by calling: what is compiled, in which thread, and for how long is then ours to know.
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    return compiled_from(lowered, started, effort=effort, one_thread=one_thread)


def compiled_from(lowered: jax.stages.Lowered, started: float, *, effort: Effort, one_thread: bool = False) -> Compiled:
    """Compiles what `jax.jit(...).lower(...)` has answered.

    Args:
        lowered: the program.
        started: when tracing it began, by `time.perf_counter`.
        effort: see `compile_function`.
        one_thread: likewise.
    """
    options: dict[str, str | bool] = {}
    if jax.default_backend() == "cpu":  # other compilers refuse these names
        options |= _options_of(effort) if QUICK_COMPILES else {}
        options |= ONE_THREAD if one_thread else {}
    # `compiler_options={}` and `None` are two keys of the cache on disk: say nothing where there is nothing to say.
    with kept_until_compiled():  # also where its thread is left meanwhile
        executable = lowered.compile(compiler_options=options or None)
    outputs = jax.tree.map(lambda out: jax.ShapeDtypeStruct(out.shape, out.dtype), lowered.out_info)
    return Compiled(
        executable,
        outputs,
        time.perf_counter() - started,
        num_bytes=bytes_of(executable.memory_analysis()),
        num_flops=float((executable.cost_analysis() or {}).get("flops", 0.0)),
        again=lambda other: compiled_from(lowered, time.perf_counter(), effort=other, one_thread=one_thread),
    )


def _options_of(effort: Effort) -> dict[str, str | bool]:
    if effort == "full":
        return {}
    # Level 1 where there are no older emitters: as long as the default for dense layers, a fifth less for convolutions.
    return quick_options() if effort == "once" else quick_options("2", "1")
