"""Runs Keras under a seed without touching the user's generators.

Keras draws initial weights and data orders from the global generators of Python and NumPy, so an execution's seed has
to be set there; afterwards the user's generators are put back as they were.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import keras
import numpy as np


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything inside draws from `seed`: initial weights, dropout, the order of the data.

    Args:
        seed: an integer in ``[0, 2**32)``.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        keras.utils.set_random_seed(seed)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
