"""Arrays: what they are called in this room, where they are put, which lie in a file, and how variables hold them.

Devices: a population uses all of this process, and the data lie whole on each of them.

Files (`np.memmap`, `np.load(mmap_mode="r")`): a CPU computes on the file's pages themselves where they are laid out as
it needs them; nothing is copied, and the system may drop pages that were read. What would have to be converted or
copied as a whole is streamed instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import keras
import numpy as np

from manyfit.training import stored_state

Array: TypeAlias = jax.Array | np.ndarray
"""On a device, or in the machine's memory; inside a traced function, the tracer that stands for it."""

Arrays: TypeAlias = tuple[jax.Array, ...]
"""Arrays in an order that somebody else knows: the leaves of a batch, the variables of a model."""

ArrayTree: TypeAlias = Any
"""Tuples, lists and dictionaries of arrays, nested as JAX's `tree` functions take them, or of `ShapeDtypeStruct` in
their place. It is `Any` to mypy, since a tree is indexed by whoever knows its structure and by nobody else."""

State: TypeAlias = tuple[Arrays, Arrays, Arrays]
"""One member's trainable, non-trainable and optimizer variables."""

Lifted: TypeAlias = Mapping[str, Mapping[str, Array]]
"""The numbers in which members of one program differ: form name -> a vector per type for scalars, an array each for
the rest; see `lift.Lift.values`."""

Function: TypeAlias = Callable[..., ArrayTree]
"""A pure function of trees of arrays, which JAX may trace."""


class Order(NamedTuple):
    """What a pass reads.

    Attributes:
        leaves: the arrays, first axis rows.
        numbers: of the rows, batch by batch: (batches, rows); a first axis for members if each has its own. A short
            last batch is filled up with rows of its own.
        num_rows: that are read, without those copies; one number, or one per member.
    """

    leaves: Arrays
    numbers: np.ndarray
    num_rows: np.ndarray | np.int32


AXIS = "devices"
_ALIGNMENT_BYTES = 64  # of what XLA takes without a copy
_SMALL_BYTES = 64 << 20  # such arrays may be copied
_PADDED_BYTES = 1 << 30  # up to here compiling again for another number of rows costs more than a copy of them


@functools.cache
def mesh() -> jax.sharding.Mesh:
    """The devices of this process, in a row."""
    # Local ones: what spans several processes would have to be called by all of them at once, and a search is not.
    return jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))


def num_devices() -> int:
    """How many they are."""
    return mesh().size


def on_every_device(array: Array) -> jax.Array:
    """Puts an array that all members read on each device."""
    if num_devices() == 1:
        return jax.device_put(array)
    return jax.device_put(array, jax.sharding.NamedSharding(mesh(), jax.sharding.PartitionSpec()))


def copied(values: ArrayTree) -> ArrayTree:
    """A tree of the same values in arrays of their own, on the same devices, which a model cannot use up."""
    # One call for all of them, which stay on their devices.
    return jax.device_put(values, may_alias=False)


def shape_of(
    shape: Sequence[int], dtype: np.dtype, sharding: jax.sharding.NamedSharding | None = None
) -> jax.ShapeDtypeStruct:
    """A shape and a type, for tracing without values; and where the array lies, if that is said."""
    # The type that JAX will give the array: newer versions warn where an int64 is asked for that becomes an int32.
    return jax.ShapeDtypeStruct(
        shape, jax.dtypes.canonicalize_dtype(dtype, allow_extended_dtype=True), sharding=sharding
    )


def shapes_of(arrays: Sequence[Array]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and types of arrays, for tracing without values."""
    return [shape_of(np.shape(array), array.dtype) for array in arrays]


def rounded_up(count: int) -> int:
    """The next of the lengths that arrays are brought to: steps of an eighth of a power of two.

    >>> [rounded_up(count) for count in (7, 800, 1000, 1025)]
    [7, 832, 1024, 1152]
    """
    step = max(1, (1 << max(count, 1).bit_length() - 1) // 8)
    return -(-count // step) * step


def with_room(arrays: Sequence[np.ndarray], room: int) -> list[np.ndarray]:
    """Arrays with so many rows, of which those beyond their own are never read; themselves where a copy costs too much.

    On a CPU the rows that are not there take no memory: nobody touches their pages.
    """
    if sum(array.nbytes for array in arrays) > _PADDED_BYTES or any(map(is_mapped, arrays)):
        return list(arrays)
    return [array if len(array) >= room else _longer(array, room) for array in arrays]


def _longer(array: np.ndarray, room: int) -> np.ndarray:
    shape = (room, *array.shape[1:])
    num_bytes = math.prod(shape) * array.itemsize
    # Laid out as XLA takes it without another copy.
    memory = np.empty(num_bytes + _ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT_BYTES
    longer = memory[start : start + num_bytes].view(array.dtype).reshape(shape)
    longer[: len(array)] = array
    return longer


def is_mapped(array: object) -> bool:
    """Whether an array, or what it is a view of, lies in a file."""
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


def must_stream(arrays: Sequence[Array], small_bytes: int = _SMALL_BYTES) -> bool:
    """Whether reading one of these arrays at once would bring a large file into memory.

    Args:
        arrays: as the user has passed them.
        small_bytes: files up to this size may be read whole.
    """
    return any(is_mapped(array) and array.nbytes > small_bytes and not _in_place(array) for array in arrays)


def _in_place(array: Array) -> bool:
    assert isinstance(array, np.ndarray)  # it is mapped
    if np.issubdtype(array.dtype, np.floating) and array.dtype != keras.config.floatx():
        return False  # Keras converts it
    if jax.default_backend() != "cpu" or num_devices() > 1:
        return True  # it goes to the device, if there is room
    aligned = array.ctypes.data % _ALIGNMENT_BYTES == 0 and array.flags.c_contiguous
    return bool(aligned and array.dtype == jax.dtypes.canonicalize_dtype(array.dtype, allow_extended_dtype=True))


def build_layers(model: keras.Model, x: object) -> None:
    """Creates the variables of the layers of a `Sequential` model without an input layer, in the order of `fit`.

    Ten times as fast as `build_symbolically`, which traces losses and metrics as well; other models are left alone.
    """
    if type(model) is keras.Sequential and not model.built and hasattr(x, "shape"):
        model.build((None, *x.shape[1:]))


def variables_of(model: keras.Model) -> tuple[list[keras.Variable], ...]:
    """Trainable, non-trainable, optimizer and metric variables, in the order of `train_step`'s state."""
    return (*stored_state.variables_of(model), model.metrics_variables)


def values_of(variables: Sequence[keras.Variable]) -> Arrays:
    """The arrays in variables."""
    return tuple(variable.value for variable in variables)


def in_order_of_weights(model: keras.Model, trainable: Sequence[Array], fixed: Sequence[Array]) -> list[Array]:
    """Values of the trainable and the other variables in the order of `model.weights`, which leaves seeds out."""
    values = dict(zip(map(id, model.trainable_variables), trainable, strict=True))
    values.update(zip(map(id, model.non_trainable_variables), fixed, strict=True))
    return [values[id(variable)] for variable in model.weights]


def metric_results(model: keras.Model, values: Sequence[Array]) -> dict[str, jax.Array]:
    """The logs that the metrics would show if their variables held `values`; traceable."""
    # Inside of the scope the variables read as these values, and nothing is assigned.
    scope = keras.StatelessScope(state_mapping=list(zip(model.metrics_variables, values, strict=True)))
    with scope:
        return dict(model.get_metrics_result())
