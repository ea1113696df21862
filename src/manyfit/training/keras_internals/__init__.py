"""The one gate to what Keras and JAX do not promise: every private name of theirs that Manyfit uses stands in here.

Each function does one thing that Keras's own `fit` does, on the same private functions, so that the two cannot drift
apart unnoticed. Each private name has a test in `tests/training/keras_internals/` that says what breaks without it, and
`make test-oldest` and `make test-newest` run those tests at both ends of the range that `pyproject.toml` allows.

`building`: how models come to be; `convolutions`: how Keras convolves and pools; `data`: how `fit` reads what it is
given; `draws`: how Keras draws random numbers; `programs`: how XLA compiles, and where JAX keeps what was compiled.
Only `building` works on every backend; the others import JAX.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


class Swapped:
    """Functions of modules that are others while any thread is inside of `while_inside`.

    The others have to look at who is asking, by a context variable: threads that are outside call them, too.

    Args:
        functions: of each the module, its name there, and what makes the other one of the module's own.
    """

    def __init__(self, *functions: tuple[ModuleType, str, Callable[[Any], Any]]) -> None:
        self._functions = functions
        self._lock = threading.Lock()
        self._num_inside = 0
        self._both: list[tuple[object, object]] = []  # the module's own, and ours

    @contextlib.contextmanager
    def while_inside(self) -> Iterator[None]:
        """The others in place of the modules' own, which are back when the last thread has left."""
        with self._lock:
            if self._num_inside == 0:
                own = [getattr(module, name) for module, name, _ in self._functions]
                self._both = [(each, make(each)) for each, (_, _, make) in zip(own, self._functions, strict=True)]
                for (module, name, _), (_, ours) in zip(self._functions, self._both, strict=True):
                    setattr(module, name, ours)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                for (module, name, _), (each, ours) in zip(self._functions, self._both, strict=True):
                    # Somebody may have put a function of theirs there meanwhile, which is not ours to take away.
                    if self._num_inside == 0 and getattr(module, name) is ours:
                        setattr(module, name, each)
