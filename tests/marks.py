"""Marks that several test files share: what a test needs, said once."""

from __future__ import annotations

import manyfit  # isort: skip  # before Keras, so that it chooses the backend

import keras
import pytest

BACKEND = keras.backend.backend()


def only_on(backend: str, because: str) -> pytest.MarkDecorator:
    """Skips on the other backends of Keras.

    Args:
        backend: "jax", "tensorflow" or "torch".
        because: why, in words.
    """
    return pytest.mark.skipif(backend != BACKEND, reason=because)


def not_on(backend: str, because: str) -> pytest.MarkDecorator:
    """Skips on one backend of Keras.

    Args:
        backend: "jax", "tensorflow" or "torch".
        because: why, in words.
    """
    return pytest.mark.skipif(backend == BACKEND, reason=because)


needs_jax = only_on("jax", "population training needs the JAX backend")
on_jax_only = only_on("jax", "the backend plays no part in it: once is enough")
needs_a_cpu = pytest.mark.skipif("jax.default_backend() != 'cpu'", reason="what is tested is a CPU's")

assert manyfit.__version__
