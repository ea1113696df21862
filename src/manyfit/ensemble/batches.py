"""Rows in batches of one size: arrays, or lists and dictionaries of arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


def sliceable(x: Any) -> bool:
    """Whether rows can be cut out of it: numeric arrays, or a list or dictionary of such."""
    if isinstance(x, dict):
        return bool(x) and all(sliceable(value) for value in x.values())
    if isinstance(x, list | tuple):
        return bool(x) and all(isinstance(value, np.ndarray) for value in x)
    return isinstance(x, np.ndarray) and x.dtype.kind in "biuf" and len(x) > 0


def map_arrays(x: Any, function: Callable[[np.ndarray], Any]) -> Any:
    """Applies a function to every array."""
    if isinstance(x, dict):
        return {key: function(value) for key, value in x.items()}
    if isinstance(x, list | tuple):
        return [function(value) for value in x]
    return function(x)


def flat_arrays(x: Any) -> list[np.ndarray]:
    """The arrays in it."""
    return list(x.values()) if isinstance(x, dict) else list(x) if isinstance(x, list | tuple) else [x]


def count_rows(x: Any) -> int:
    """Rows of the first array."""
    return len(flat_arrays(x)[0])


def slice_rows(x: Any, start: int, stop: int) -> Any:
    """Rows from `start` to `stop`; floats become float32, as in `model.predict`."""
    return map_arrays(
        x,
        lambda array: (
            array[start:stop].astype(np.float32, copy=False) if array.dtype.kind == "f" else array[start:stop]
        ),
    )


def padded(x: Any, size: int) -> Any:
    """Repeats the last row up to `size`, so that one compiled shape serves all batches."""
    return map_arrays(
        x,
        lambda array: (
            np.concatenate([array, np.repeat(array[-1:], size - len(array), 0)]) if len(array) < size else array
        ),
    )
