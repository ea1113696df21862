"""Arrays that lie in a file (`np.memmap`, `np.load(mmap_mode="r")`): read in place, or batch by batch, never whole.

A CPU computes on the file's pages themselves where they are laid out as it needs them; nothing is copied, and the
system may drop pages that were read. What would have to be converted or copied as a whole is streamed instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np

from manyfit.training.population.placement import num_devices

_ALIGNMENT_BYTES = 64  # of what XLA takes without a copy
_SMALL_BYTES = 64 << 20  # such arrays may be copied


def is_mapped(array: Any) -> bool:
    """Whether an array, or what it is a view of, lies in a file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def must_stream(arrays: Sequence[Any], small_bytes: int = _SMALL_BYTES) -> bool:
    """Whether reading one of these arrays at once would bring a large file into memory.

    Args:
        arrays: as the user has passed them.
        small_bytes: files up to this size may be read whole.
    """
    return any(is_mapped(array) and array.nbytes > small_bytes and not _in_place(array) for array in arrays)


def _in_place(array: np.ndarray) -> bool:
    if np.issubdtype(array.dtype, np.floating) and array.dtype != keras.config.floatx():
        return False  # Keras converts it
    if jax.default_backend() != "cpu" or num_devices() > 1:
        return True  # it goes to the device, if there is room
    aligned = array.ctypes.data % _ALIGNMENT_BYTES == 0 and array.flags.c_contiguous
    return bool(aligned and array.dtype == jax.dtypes.canonicalize_dtype(array.dtype))
