"""Networks of separable convolutions with residual connections, after Xception (Chollet 2017)."""

from __future__ import annotations

import keras
from keras import layers

from manyfit.applications.images import TopOrNone, open_input, pool
from manyfit.space.hyperparameters import HyperParameters


class HyperXception(TopOrNone):
    """Xception with its width, depth and ends open, compiled for one-hot labels.

    Hyperparameters: `activation` ("relu" with batch normalisation, "selu" without), `conv2d_num_filters` (32, 64, 128),
    `kernel_size` (3, 5) and `initial_strides` (2) of the first convolution, `sep_num_filters` (128 to 768),
    `num_residual_blocks` (2 to 8), `pooling` ("avg", "flatten", "max"); with a top also `num_dense_layers` (1 to 3),
    `dropout_rate` (0 to 0.6), `dense_use_bn` (True, False), `learning_rate` (1e-3, 1e-4, 1e-5). As in KerasTuner, dense
    layers have one unit per class. `dense_use_bn` is True or False here, where KerasTuner turns it into 1 or 0.

    Args:
        include_top: whether a classifier ends the network; without it the model is not compiled.
        input_shape: height, width, channels of an image.
        input_tensor: a Keras tensor that the network goes on from, in place of `input_shape`.
        classes: number of classes.
        **kwargs: `name` and `tunable` of `HyperModel`.

    Raises:
        UsageError: a top without `classes`, or neither `input_shape` nor `input_tensor`.

    Example: `kt.RandomSearch(kt.applications.HyperXception(input_shape=(32, 32, 3), classes=10), "val_accuracy")`.
    """

    def build(self, hp: HyperParameters) -> keras.Model:
        """A network, compiled if it has a top."""
        activation = hp.Choice("activation", ["relu", "selu"])
        inputs, x = open_input(self.input_shape, self.input_tensor)
        x = _convolve(
            x,
            layers.Conv2D,
            hp.Choice("conv2d_num_filters", [32, 64, 128], default=64),
            activation,
            kernel_size=hp.Choice("kernel_size", [3, 5]),
            strides=hp.Choice("initial_strides", [2]),
        )
        filters = hp.Int("sep_num_filters", 128, 768, step=128, default=256)
        for block in range(hp.Int("num_residual_blocks", 2, 8, default=4)):
            x = _residual(x, filters, activation, project=block == 0)
        x = _exit(x, 2 * filters, activation)
        x = pool(x, hp.Choice("pooling", ["avg", "flatten", "max"]))
        return (
            self._with_top(hp, inputs, x, activation) if self.include_top else keras.Model(inputs, x, name="Xception")
        )

    def _with_top(
        self, hp: HyperParameters, inputs: keras.KerasTensor, x: keras.KerasTensor, activation: str
    ) -> keras.Model:
        num_layers = hp.Int("num_dense_layers", 1, 3)
        dropout_rate = hp.Float("dropout_rate", 0.0, 0.6, step=0.1, default=0.5)
        normalised = hp.Choice("dense_use_bn", [True, False])
        for _ in range(num_layers):
            x = layers.Dense(self.classes, activation=activation)(x)
            if normalised:
                x = layers.BatchNormalization()(x)
            x = layers.Dropout(dropout_rate)(x)
        model = keras.Model(inputs, layers.Dense(self.classes, activation="softmax")(x), name="Xception")
        optimizer = keras.optimizers.Adam(hp.Choice("learning_rate", [1e-3, 1e-4, 1e-5]))
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
        return model


def _convolve(
    x: keras.KerasTensor,
    layer: type[layers.Layer],
    filters: int,
    activation: str,
    *,
    kernel_size: int = 3,
    strides: int = 1,
) -> keras.KerasTensor:
    """A convolution. "selu" normalises by itself (Klambauer et al. 2017); others are followed by a normalisation."""
    if activation == "selu":
        kernel = {"depthwise_initializer": "lecun_normal", "pointwise_initializer": "lecun_normal"}
        if layer is layers.Conv2D:
            kernel = {"kernel_initializer": "lecun_normal"}
        return layer(filters, kernel_size, strides=strides, padding="same", activation="selu", **kernel)(x)
    x = layer(filters, kernel_size, strides=strides, padding="same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def _residual(x: keras.KerasTensor, filters: int, activation: str, *, project: bool) -> keras.KerasTensor:
    # Separable: a filter per channel, then a mixture of channels, for a ninth of the work of a full 3 x 3 convolution.
    inner = _convolve(x, layers.SeparableConv2D, filters, activation)
    inner = _convolve(inner, layers.SeparableConv2D, filters, activation)
    shortcut = layers.Conv2D(filters, 1, padding="same")(x) if project else x
    return layers.Add()([inner, shortcut])


def _exit(x: keras.KerasTensor, filters: int, activation: str) -> keras.KerasTensor:
    """Halves the image for the last time."""
    inner = _convolve(x, layers.SeparableConv2D, filters, activation)
    inner = _convolve(inner, layers.SeparableConv2D, filters, activation)
    inner = layers.MaxPooling2D(3, strides=2, padding="same")(inner)
    return layers.Add()([inner, layers.Conv2D(filters, 1, strides=2, padding="same")(x)])
