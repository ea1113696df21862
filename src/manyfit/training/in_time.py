"""Compilations of `model.fit`: kept on the disk for the next model of that structure, and left when the time is up."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from typing import Any

import keras

from manyfit.core.clock import Clock
from manyfit.core.threads import LeavableThreads
from manyfit.training.base import OutOfTime


def programs_kept() -> contextlib.AbstractContextManager[None]:
    """Inside, what JAX compiles is kept on the disk; other backends keep nothing."""
    if keras.backend.backend() != "jax":
        return contextlib.nullcontext()
    from manyfit.training.keras_internals import programs  # imports JAX

    return programs.programs_kept()


_LOOK_SECONDS = 0.2  # between two looks at the clock, which another thread may have ended


class StillCompiling(OutOfTime):
    """The clock of a task is over, and a program compiles that nobody waits for any more."""


def waited(trials: str, programs: str) -> str:
    """The line that names what was left.

    Args:
        trials: their ids.
        programs: what compiles, in words.
    """
    return f"the time was up while trials {trials} waited for a program ({programs})"


@contextlib.contextmanager
def compiled_in_time(clock: Clock) -> Iterator[None]:
    """Inside, a compilation that still runs when the clock is over is left to end by itself; on JAX.

    Tracing a model is Python's work and cannot be left; neither can what other backends do.

    Args:
        clock: is told of the seconds that a compilation has taken when it is left.

    Raises:
        StillCompiling: from wherever the program was asked for.
    """
    if not clock.is_limited or keras.backend.backend() != "jax":
        yield
        return
    from manyfit.training.keras_internals import programs  # imports JAX

    threads = LeavableThreads(1, name="compilation")
    try:
        with programs.compiled_by(functools.partial(_compiled, threads, clock)):
            yield
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _compiled(threads: LeavableThreads, clock: Clock, compilation: Callable[[], Any]) -> Any:
    begun = clock.now()
    future = threads.submit(compilation)
    while not future.done():
        left = clock.left()
        if left <= 0.0:
            clock.refuse(clock.now() - begun)
            raise StillCompiling
        wait([future], min(left, _LOOK_SECONDS))
    return future.result()
