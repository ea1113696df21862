"""The one gate to what Keras and JAX do not promise: every private name of theirs that Manyfit uses stands in here.

Each function does one thing that Keras's own `fit` does, on the same private functions, so that the two cannot drift
apart unnoticed. Each private name has a test in `tests/training/keras_internals/` that says what breaks without it, and
`make test-oldest` and `make test-newest` run those tests at both ends of the range that `pyproject.toml` allows.

`building`: how models come to be; `convolutions`: how Keras convolves and pools; `data`: how `fit` reads what it is
given; `draws`: how Keras draws random numbers; `frozen_models`: how it
runs a model inside of a model; `programs`: how XLA compiles, and where JAX keeps what was compiled.
Only `building` works on every backend; the others import JAX.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from manyfit.core.shared_context import SharedContext


class Swapped(SharedContext):
    """Functions of modules and classes that are others while any thread is inside.

    The others have to look at who is asking, by a context variable: threads that are outside call them, too.

    Args:
        functions: of each the module or class, its name there, and what makes the other one of its own.
    """

    def __init__(self, *functions: tuple[ModuleType | type, str, Callable[[Any], Any]]) -> None:
        super().__init__(lambda: _swapped(functions))


@contextlib.contextmanager
def _swapped(functions: tuple[tuple[ModuleType | type, str, Callable[[Any], Any]], ...]) -> Iterator[None]:
    own = [getattr(module, name) for module, name, _ in functions]
    ours = [make(each) for each, (_, _, make) in zip(own, functions, strict=True)]
    for (module, name, _), other in zip(functions, ours, strict=True):
        setattr(module, name, other)
    yield
    for (module, name, _), each, other in zip(functions, own, ours, strict=True):
        # Somebody may have put a function of theirs there meanwhile, which is not ours to take away.
        if getattr(module, name) is other:
            setattr(module, name, each)
