"""Layers and an optimizer of which a twin is made beside Keras's own: what differs between its members is a variable.

A twin is one model that serves members of different widths, activations and so on (see `twins`). None of these
variables trains. `twins.Embedding` fills in a member's own numbers, so one trace serves all members, and nothing in it
depends on who they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
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
        if self.which is None:
            outputs = self.activations[0](inputs)
        else:
            # What is not chosen is computed of 0: an exponential's gradient may be infinite, and 0 times that is NaN.
            chosen = [ops.equal(self.which, number) for number in range(len(self.activations))]
            outputs = ops.zeros_like(inputs)
            for is_it, activation in zip(chosen, self.activations, strict=True):
                outputs = ops.where(is_it, activation(ops.where(is_it, inputs, ops.zeros_like(inputs))), outputs)
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


class Exits(keras.layers.Layer):
    """Tensors side by side, of which all but a member's own are zeros.

    Args:
        num_ends: tensors, of which a member leaves through one.
    """

    def __init__(self, num_ends: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.open = self.add_weight(
            shape=(num_ends,), dtype="bool", initializer="ones", trainable=False, name="open_exits"
        )

    def call(self, inputs: Sequence[Any]) -> Any:
        """The tensors along their last axes. The gradients of those that are closed are exactly 0."""
        is_open = ops.unstack(ops.convert_to_tensor(self.open))
        ends = [ops.where(its, end, ops.zeros_like(end)) for its, end in zip(is_open, inputs, strict=True)]
        return ops.concatenate(ends, axis=-1)

    def compute_mask(self, inputs: Sequence[Any], previous_mask: Sequence[Any] | None = None) -> Any:
        """The mask of the first: the layers between keep it."""
        del inputs
        return None if previous_mask is None else previous_mask[0]

    def compute_output_shape(self, input_shape: Sequence[Any]) -> Any:
        """One behind the other."""
        return (*input_shape[0][:-1], sum(shape[-1] for shape in input_shape))


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


class WideLayerNormalization(keras.layers.LayerNormalization):
    """Keras's layer normalisation over the units that a member has; 0 where none is."""

    def build(self, input_shape: Any) -> None:
        """Makes Keras's variables, and 1 or 0 for each unit."""
        super().build(input_shape)
        self.inside = self.add_weight(shape=(input_shape[-1],), initializer="ones", trainable=False, name="inside")

    def call(self, inputs: Any) -> Any:
        """As Keras computes it: in float32 at least, mean and variance over the last axis."""
        wide = keras.backend.result_type(inputs.dtype, "float32")
        x, inside = ops.cast(inputs, wide), ops.cast(self.inside, wide)
        num_units = ops.sum(inside)
        mean = ops.sum(x * inside, axis=-1, keepdims=True) / num_units
        # Units that are not there would each add the square of the mean.
        variance = ops.sum(ops.square(x - mean) * inside, axis=-1, keepdims=True) / num_units
        inverse = ops.rsqrt(variance + self.epsilon)
        if self.gamma is not None:
            inverse = inverse * ops.cast(self.gamma, wide)
        rest = -mean * inverse
        if self.beta is not None:
            rest = rest + ops.cast(self.beta, wide)
        return ops.cast((x * inverse + rest) * inside, self.compute_dtype)


class OneOfSeveral(keras.optimizers.Optimizer):
    """One of several of Keras's own optimizers by its number: all that a member's does is Keras's own code.

    Its variables are the number, and those of the optimizers, each once: what two optimizers call alike and start alike
    is one variable, since a member reads only those of its own.

    Args:
        choices: Keras's own optimizers, not built yet.
        loss_scale_factor: of all of them.
    """

    def __init__(self, choices: Sequence[keras.optimizers.Optimizer], loss_scale_factor: float | None = None) -> None:
        super().__init__(learning_rate=0.0, loss_scale_factor=loss_scale_factor, name="one_of_several")
        self.choices = list(choices)
        self.which = self.add_variable(shape=(), dtype="int32", name="which_optimizer")
        self.places: list[list[int]] = []  # of the variables of each, among those of all
        self._united: list[keras.Variable] = [self.which]

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes the variables of all."""
        known: dict[tuple[Any, ...], int] = {}
        for choice in self.choices:
            choice.build(variables)
            places = []
            for variable in choice.variables:
                key = variable.name, tuple(variable.shape), variable.dtype, first_number(variable)
                # A learning rate is given; no member starts from the one that it was made with.
                place = known.setdefault(key[:-1] if variable.name == "learning_rate" else key, len(self._united))
                if place == len(self._united):
                    self._united.append(variable)
                places.append(place)
            self.places.append(places)
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        """The number, and the variables of all."""
        return list(self._united)

    def stateless_apply(
        self, optimizer_variables: Sequence[Any], grads: Sequence[Any], trainable_variables: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        """What the chosen one makes of weights and of its own variables; those of others stay."""

        def branch(number: int) -> Any:
            def apply(held: list[Any], gradients: list[Any], weights: list[Any]) -> tuple[list[Any], list[Any]]:
                own = self.places[number]
                moved, new = self.choices[number].stateless_apply([held[place] for place in own], gradients, weights)
                after = list(held)
                for place, value in zip(own, new, strict=True):
                    after[place] = jnp.asarray(value, held[place].dtype)
                return [jnp.asarray(each, old.dtype) for each, old in zip(moved, weights, strict=True)], after

            return apply

        # A real branch where members train one after another; side by side all are computed.
        branches = [branch(number) for number in range(len(self.choices))]
        return jax.lax.switch(
            optimizer_variables[0], branches, list(optimizer_variables), list(grads), list(trainable_variables)
        )  # type: ignore[no-any-return]


def first_number(variable: keras.Variable) -> float:
    """The number with which an optimizer's variable is filled at its start."""
    return float(np.ravel(np.asarray(variable.value))[0])
