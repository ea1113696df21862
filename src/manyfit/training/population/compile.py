"""Compiling: functions to programs that run, and a cache on disk so that the second run of a search compiles nothing.

What runs once per pass is compiled *quickly*, without the compiler's optimisations: `benchmarks/results/speed.md` says
what that earns (row A, cold cache: the end of a training epoch in .23 instead of .97 processor seconds) and what the
same options would cost everywhere (epochs three times as long). `QUICK_COMPILES` switches it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax

from manyfit.training.population import keras_side
from manyfit.training.population.arrays import ArrayTree, Function

QUICK_COMPILES = True
OFF = ("", "0", "off", "none")


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `MANYFIT_CACHE_DIR` ("off": nowhere), else the user's cache folder."""
    given = os.environ.get("MANYFIT_CACHE_DIR")
    if given is not None:
        return None if given.lower() in OFF else Path(given).expanduser() / "programs"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "manyfit" / "programs"


def enable_compilation_cache() -> None:
    """Switches the cache on, unless the user has chosen a folder for JAX or has switched it off."""
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    folder = cache_folder()
    if folder is None:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to costs speed, not the search
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # A small program is worth keeping, too: it takes longer to compile than to load.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@contextlib.contextmanager
def quick_building() -> Iterator[None]:
    """Around the builds that explore a space: drawing weights compiles, so it is quick, and stays for the next run."""
    enable_compilation_cache()
    with keras_side.quick_draws():
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
        options |= {"xla_cpu_multi_thread_eigen": False} if one_thread else {}
    # `compiler_options={}` and `None` are two keys of the cache on disk: say nothing where there is nothing to say.
    executable = lowered.compile(compiler_options=options or None)
    outputs = jax.tree.map(lambda out: jax.ShapeDtypeStruct(out.shape, out.dtype), lowered.out_info)
    return Compiled(
        executable,
        outputs,
        time.perf_counter() - started,
        num_bytes=_bytes_of(executable.memory_analysis()),
        num_flops=float((executable.cost_analysis() or {}).get("flops", 0.0)),
    )


@functools.cache
def quick_options() -> dict[str, str | bool]:
    """Options with which XLA compiles for a CPU in a fifth of the time: no optimisation, and the older emitters.

    The newer emitters of fused loops spend most of a small program's compile time. An XLA without that choice refuses
    its name.
    """
    plain: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    both = plain | {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=both)
    except (RuntimeError, ValueError):
        return plain
    return both


def _bytes_of(memory: object) -> int:
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(int(getattr(memory, name, 0) or 0) for name in names)  # a backend without an analysis answers None
