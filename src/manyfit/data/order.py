"""An order of the data that follows seed and epoch, for TensorFlow.

Keras shuffles arrays inside a `tf.data` pipeline there, by generators whose state can be neither read nor set, so an
execution that goes on in another process could not go on in its order.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from manyfit.core.seeds import generator
from manyfit.data.call import Call

FIT_SIGNATURE = inspect.signature(keras.Model.fit)
_BATCH_SIZE = 32  # Keras's default


class SeededOrder(keras.callbacks.Callback):
    """Shuffles NumPy arrays by seed and epoch, in the place of Keras; a callback, so that it knows the epoch.

    Args:
        seed: of the execution.

    Attributes:
        knows: whether the order of the next epoch is known without what came before it.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._epoch = 0
        self.knows = False

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        del logs
        self._epoch = epoch

    def applied_to(self, call: Call) -> Call:
        """The call with the arrays as a pipeline; the same one where they are none, or not shuffled.

        Keras shuffles arrays with a generator of its own that cannot be set back, so a paused execution could not go on
        with the rows that come next. A pipeline whose order follows from seed and epoch can. It has to read what Keras
        would read, in batches of the same rows, so everything that it cannot repeat exactly is left to Keras.
        """
        FIT_SIGNATURE.bind(None, *call.args, **call.kwargs)  # an unknown argument is refused here, in Keras's words
        data = call.x, call.y, call.sample_weight
        parts = tuple(part for part in data if part is not None)
        leaves = keras.tree.flatten(parts)
        held_out = None if call.get("validation_data") is not None else call.validation_rows()
        # What the pipeline cannot repeat is left to Keras, whole: an order that is nearly right would be none.
        are_weights_spread = data[2] is not None and keras.tree.is_nested(data[1])  # over several outputs, by Keras
        is_simple = bool(leaves) and all(map(_is_numbers, leaves))
        shuffle = call.get("shuffle", True)
        starts_anew = not call.get("steps_per_epoch")
        self.knows = is_simple and not are_weights_spread and starts_anew and isinstance(shuffle, bool)
        if not self.knows or not shuffle:
            return call
        num_rows = len(leaves[0])
        replaced: dict[str, Any] = {"y": None, "sample_weight": None, "shuffle": False}
        # Keras refuses to split a pipeline, so the rows that it would take are held out here.
        if held_out is not None:
            num_rows -= held_out.num_rows or 0
            validation = tuple(part for part in held_out.parts if part is not None)
            replaced |= {"validation_split": 0.0, "validation_data": validation}
        batch_size = call.get("batch_size") or _BATCH_SIZE
        replaced["x"] = self._pipeline([_as_floatx(leaf[:num_rows]) for leaf in leaves], parts, num_rows, batch_size)
        return call.with_(**replaced)

    def _pipeline(self, leaves: list[np.ndarray], parts: tuple[Any, ...], num_rows: int, batch_size: int) -> Any:
        """A `tf.data.Dataset` of batches: each pass over it is the epoch that has begun."""
        import tensorflow as tf

        def order() -> Iterator[np.ndarray]:
            yield generator(self._seed, "batch order", self._epoch).permutation(num_rows)

        def cut(rows: Any) -> Any:
            full = num_rows // batch_size * batch_size
            batches = tf.data.Dataset.from_tensor_slices(tf.reshape(rows[:full], (-1, batch_size)))
            return batches if full == num_rows else batches.concatenate(tf.data.Dataset.from_tensors(rows[full:]))

        tensors = keras.tree.lists_to_tuples(keras.tree.pack_sequence_as(parts, list(map(tf.constant, leaves))))
        rows = tf.data.Dataset.from_generator(order, output_signature=tf.TensorSpec((num_rows,), tf.int64))
        batches = (
            rows.prefetch(1)
            .flat_map(cut)
            .map(
                lambda numbers: keras.tree.map_structure(lambda tensor: tf.gather(tensor, numbers), tensors),
                num_parallel_calls=tf.data.AUTOTUNE,
            )
        )
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False  # as Keras: they cost more than they give
        counted = batches.apply(tf.data.experimental.assert_cardinality(-(-num_rows // batch_size)))
        return counted.with_options(options).prefetch(tf.data.AUTOTUNE)


def _is_numbers(leaf: object) -> bool:
    """Whether it is an array in memory that TensorFlow takes as it is: no file, no texts, no objects."""
    return type(leaf) is np.ndarray and leaf.dtype.kind in "biuf"


def _as_floatx(array: np.ndarray) -> np.ndarray:
    """What Keras makes of an array: floats become `keras.config.floatx()`."""
    return array.astype(keras.config.floatx(), copy=False) if array.dtype.kind == "f" else array
