"""How `fit` reads what it is given: Keras's own conversion, batches and splits, on the JAX backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeGuard

import keras
import numpy as np
from keras.src.backend.jax.trainer import JAXEpochIterator
from keras.src.trainers.data_adapters import array_slicing, data_adapter_utils
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter


def epoch_iterator(x: object, y: object, sample_weight: object, **arguments: object) -> JAXEpochIterator:
    """Keras's iterator over whatever `fit` was given; takes what `fit` takes for it."""
    return JAXEpochIterator(x, y, sample_weight, **arguments)


def first_batch(iterator: JAXEpochIterator) -> Any:
    """The first batch, looked at as `fit` does before its first step; the next pass begins anew."""
    first = next(one_pass(iterator))
    iterator.reset()
    return first


def one_pass(iterator: JAXEpochIterator) -> Iterator[Any]:
    """The batches of one epoch, as `fit` reads them."""
    for _, _, batches in iterator:
        batch = next(batches, None)
        if batch is None:
            # `fit` meets the end of the data in here, too: Keras notes how many batches there were, and warns where
            # `steps_per_epoch` promised more.
            with iterator.catch_stop_iteration():
                raise StopIteration
            return
        yield batch


def is_array_adapter(adapter: object) -> TypeGuard[ArrayDataAdapter]:
    """Whether the data are arrays (as against a stream)."""
    return isinstance(adapter, ArrayDataAdapter)


def arrays_of(adapter: ArrayDataAdapter) -> Any:
    """The (x, y, sample_weight) arrays of an adapter, converted as `fit` converts each batch of them."""
    # The adapter has no public way to all of its rows at once; its batches, put together, would be copied twice.
    sliceable = array_slicing.convert_to_sliceable(adapter._inputs, target_backend="jax")

    def whole(part: Any) -> np.ndarray | None:
        # Not `map_structure(..., none_is_leaf=False)`, which Keras 3.10 does not know yet.
        return None if part is None else np.asarray(part.convert_to_jax_compatible(part[slice(None)]))

    return keras.tree.map_structure(whole, sliceable)


def batch_size_of(adapter: ArrayDataAdapter) -> int:
    """Rows per batch, with Keras's defaults filled in."""
    return adapter.batch_size


def split(arrays: object, validation_split: float) -> tuple[Any, Any]:
    """Training and validation part of (x, y, sample_weight), as `fit(validation_split=...)` cuts them."""
    return array_slicing.train_validation_split(arrays, validation_split=validation_split)


def unpack(data: object) -> tuple[Any, Any, Any]:
    """(x, y, sample_weight) of what `fit` accepts as `validation_data`."""
    return data_adapter_utils.unpack_x_y_sample_weight(data)
