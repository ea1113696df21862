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
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any


class Swapped:
    """Functions of a module that are others while any thread is inside of `while_inside`.

    The others have to look at who is asking, by a context variable: threads that are outside call them, too.

    Args:
        module: of Keras.
        others: name -> what makes the other function of the module's own.
    """

    def __init__(self, module: ModuleType, others: Mapping[str, Callable[[Any], Any]]) -> None:
        self._module, self._others = module, others
        self._lock = threading.Lock()
        self._num_inside = 0
        self._before: dict[str, object] = {}
        self._ours: dict[str, object] = {}

    @contextlib.contextmanager
    def while_inside(self) -> Iterator[None]:
        """The others in place of the module's own, which are back when the last thread has left."""
        with self._lock:
            if self._num_inside == 0:
                self._before = {name: getattr(self._module, name) for name in self._others}
                self._ours = {name: make(self._before[name]) for name, make in self._others.items()}
                for name, function in self._ours.items():
                    setattr(self._module, name, function)
            self._num_inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_inside -= 1
                for name, own in self._before.items() if self._num_inside == 0 else ():
                    # Somebody may have put a function of theirs there meanwhile, which is not ours to take away.
                    if getattr(self._module, name) is self._ours[name]:
                        setattr(self._module, name, own)
