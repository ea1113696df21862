"""Runs Keras under a seed without touching the user's generators.

Keras draws initial weights and data orders from the global generators of Python, NumPy and, on that backend, torch, so
an execution's seed has to be set there; afterwards the user's generators are put back as they were.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Everything inside draws from `seed`: initial weights, dropout, the order of the data.

    Args:
        seed: an integer in ``[0, 2**32)``.
    """
    # Put back even after an error: a trial that fails must not change what the user's next random number is.
    outer = generator_states()
    try:
        keras.utils.set_random_seed(seed)
        yield
    finally:
        set_generator_states(outer)


def generator_states() -> tuple[Any, ...]:
    """The states of the global generators that Keras draws from, for `set_generator_states`."""
    states = (random.getstate(), np.random.get_state())  # noqa: NPY002
    torch = _torch()
    return states if torch is None else (*states, torch.get_rng_state())


def has_drawn(before: tuple[Any, ...]) -> bool:
    """Whether anybody has drawn from Python's or NumPy's global generator since `generator_states` was called."""
    now = generator_states()
    return before[0] != now[0] or any(not np.array_equal(a, b) for a, b in zip(before[1], now[1], strict=True))


def set_generator_states(states: tuple[Any, ...]) -> None:
    """Puts the global generators back to where `generator_states` found them."""
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch = _torch()
    if torch is not None:
        torch.set_rng_state(states[2])


def _torch() -> Any:
    """torch where it is Keras's backend: its data loader shuffles by torch's own generator."""
    if keras.backend.backend() != "torch":
        return None
    import torch

    return torch
