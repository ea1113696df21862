"""Which devices a population uses: all of this process, the data whole on each of them."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

AXIS = "devices"


@functools.cache
def mesh() -> jax.sharding.Mesh:
    """The devices of this process, in a row."""
    return jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))


def num_devices() -> int:
    """How many they are."""
    return mesh().size


def on_every_device(array: Any) -> jax.Array:
    """Puts an array that all members read on each device."""
    if num_devices() == 1:
        return jax.device_put(array)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec()))
