"""Keras layers of which a twin is made beside Keras's own: what differs between its members is a variable of theirs.

A twin is one model that serves members of different widths, activations and so on (see `twins`). None of these
variables trains. `twins.Embedding` fills in a member's own numbers, so one trace serves all members, and nothing in it
depends on who they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import keras
import numpy as np
from keras import ops

from manyfit.training.keras_internals.draws import strided_draw

ELEMENTWISE = frozenset(
    """
    linear relu relu6 leaky_relu elu celu selu silu swish gelu tanh tanh_shrink hard_tanh softsign mish hard_silu
    hard_swish soft_shrink hard_shrink threshold squareplus sigmoid hard_sigmoid softplus exponential log_sigmoid
    sparse_plus sparse_sigmoid
    """.split()  # noqa: SIM905  thirty names read better as words
)
"""Activations that work on each number by itself; softmax, log_softmax, sparsemax and glu do not."""

LINEAR = '"linear"'
"""The text of no activation."""


def keeps_zero(activation: keras.layers.Layer) -> bool:
    """Whether an element-wise activation layer is 0 at 0, so that units that are not there stay 0 without a mask."""
    return not np.any(np.asarray(activation(np.zeros((1, 1)))))


class Chosen(keras.layers.Layer):
    """One of several element-wise activations by its number, 0 where no unit is.

    Args:
        activations: Keras's own layers; all are computed, which XLA makes one pass.
        size: units; None where each activation is 0 at 0, so that no mask is needed.
    """

    def __init__(self, activations: Sequence[keras.layers.Layer], size: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.activations = list(activations)
        self.which = self.inside = None
        if len(self.activations) > 1:
            self.which = self.add_weight(
                shape=(), dtype="int32", initializer="zeros", trainable=False, name="which_activation"
            )
        if size is not None:
            self.inside = self.add_weight(shape=(size,), initializer="ones", trainable=False, name="inside")

    def call(self, inputs: Any) -> Any:
        """The chosen activation's outputs."""
        outputs = self.activations[0](inputs)
        for number, activation in enumerate(self.activations[1:], 1):
            # Never a sum of products with 0 and 1: what is not chosen may be infinite.
            outputs = ops.where(ops.equal(self.which, number), activation(inputs), outputs)
        if self.inside is None:
            return outputs
        # The activation is multiplied, not the gradient masked: clipping by norm and a loss scale see true gradients.
        return outputs * ops.cast(self.inside, outputs.dtype)


class Gate(keras.layers.Layer):
    """What it is given first where a member has the layers between, what it is given second where it has not."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.open = self.add_weight(shape=(), dtype="bool", initializer="ones", trainable=False, name="open")

    def call(self, inputs: Sequence[Any]) -> Any:
        """One of two tensors of one shape. The gradient of the other is exactly 0."""
        return ops.where(ops.convert_to_tensor(self.open), inputs[0], inputs[1])

    def compute_mask(self, inputs: Sequence[Any], previous_mask: Sequence[Any] | None = None) -> Any:
        """The mask of the second: the layers between keep it."""
        del inputs
        return None if previous_mask is None else previous_mask[1]

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        """That of both."""
        return input_shape[0]


class WideDropout(keras.layers.Layer):
    """Keras's dropout whose rate is a variable, and which drops of a member's units those that its own layer drops.

    JAX numbers the elements of a mask row by row, so element (r, c) of a mask with n columns is made of the hash of
    r*n + c. Here n is the member's number of columns, and c the column that it has there in the member.

    Args:
        size: units, those that a member has not included.
        repeats: axes along which one mask is repeated, as a spatial dropout does.
    """

    def __init__(self, size: int, repeats: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.repeats = tuple(repeats)
        # It exists where the member's does not, too; then nothing reads it.
        self.seed_generator = keras.random.SeedGenerator(0)
        # As it is under mixed precision, too: what it is compared with is drawn in float32.
        self.keep = self.add_weight(
            shape=(), dtype="float32", initializer="ones", trainable=False, autocast=False, name="keep"
        )
        self.columns = self.add_weight(
            shape=(size,), dtype="uint32", initializer="zeros", trainable=False, name="columns"
        )
        self.num_columns = self.add_weight(
            shape=(), dtype="uint32", initializer="zeros", trainable=False, name="num_columns"
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        """What stays, scaled up; all of it outside of training, and at a keep rate of 1."""
        if not training:
            return inputs
        shape = [1 if axis in self.repeats else size for axis, size in enumerate(inputs.shape)]
        stays = strided_draw(
            self.seed_generator.next(), self.keep.value, shape[:-1], self.columns.value, self.num_columns.value
        )
        # As Keras writes it: a division, a selection.
        kept = inputs / ops.cast(self.keep, inputs.dtype)
        return jnp.where(jnp.broadcast_to(stays, inputs.shape), kept, jnp.zeros_like(inputs))

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the inputs."""
        return input_shape
