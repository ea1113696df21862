"""Compiling: functions to programs that run, and a cache on disk so that the second run of a search compiles nothing.

What runs once per pass is compiled *quickly*, without the compiler's optimisations: `benchmarks/results/speed.md` says
what that earns (row A, cold cache: the end of a training epoch in .23 instead of .97 processor seconds) and what the
same options would cost everywhere (epochs three times as long). `QUICK_COMPILES` switches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import jax

from manyfit.core.files import cache_folder
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.keras_internals.programs import ONE_THREAD, bytes_of, kept_on_disk, quick_options
from manyfit.training.population.arrays import ArrayTree, Function

QUICK_COMPILES = True


@contextlib.contextmanager
def programs_kept() -> Iterator[None]:
    """What JAX compiles inside is kept on disk, unless the user keeps it elsewhere or nowhere; see `kept_on_disk`."""
    folder = cache_folder("programs")
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield  # a home that cannot be written to costs speed, not the search
        return
    with kept_on_disk(folder):
        yield


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


def compile_function(
    function: Function,
    arguments: Sequence[ArrayTree],
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
    # Ahead of time, not by calling: what is compiled, in which thread, and for how long is then ours to know.
    lowered = jax.jit(function, donate_argnums=donate).lower(*arguments)
    return compiled_from(lowered, started, quick=quick, one_thread=one_thread)


def compiled_from(lowered: jax.stages.Lowered, started: float, *, quick: bool, one_thread: bool = False) -> Compiled:
    """Compiles what `jax.jit(...).lower(...)` has answered.

    Args:
        lowered: the program.
        started: when tracing it began, by `time.perf_counter`.
        quick: see `compile_function`.
        one_thread: likewise.
    """
    options: dict[str, str | bool] = {}
    if jax.default_backend() == "cpu":  # other compilers refuse these names
        options |= quick_options() if quick and QUICK_COMPILES else {}
        options |= ONE_THREAD if one_thread else {}
    # `compiler_options={}` and `None` are two keys of the cache on disk: say nothing where there is nothing to say.
    executable = lowered.compile(compiler_options=options or None)
    outputs = jax.tree.map(lambda out: jax.ShapeDtypeStruct(out.shape, out.dtype), lowered.out_info)
    return Compiled(
        executable,
        outputs,
        time.perf_counter() - started,
        num_bytes=bytes_of(executable.memory_analysis()),
        num_flops=float((executable.cost_analysis() or {}).get("flops", 0.0)),
    )
