"""Residual networks: ResNet (He et al. 2015), its second version (He et al. 2016) and ResNeXt (Xie et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable

import keras
from keras import layers

from manyfit.applications.images import TopOrNone, open_input, pool
from manyfit.space.hyperparameters import HyperParameters

_EPSILON = 1.001e-5  # of the published weights of keras.applications
_NUM_GROUPS = 32  # cardinality of ResNeXt


class HyperResNet(TopOrNone):
    """Residual networks of three families and several depths, compiled for one-hot labels.

    Hyperparameters: `version` ("v1", "v2", "next"), `conv3_depth` (4, 8), `conv4_depth` (6, 23, 36), `pooling`
    ("avg", "max"); with a top also `optimizer` ("adam", "rmsprop", "sgd") and `learning_rate` (0.1, 0.01, 0.001).
    "next" has a grouped convolution, where KerasTuner has a `Lambda` layer, so it can be saved; the parameters
    are as many.

    Args:
        include_top: whether a classifier ends the network; without it the model is not compiled.
        input_shape: height, width, channels of an image.
        input_tensor: a Keras tensor that the network goes on from, in place of `input_shape`.
        classes: number of classes.
        **kwargs: `name` and `tunable` of `HyperModel`.

    Raises:
        UsageError: a top without `classes`, or neither `input_shape` nor `input_tensor`.

    Example: `kt.RandomSearch(kt.applications.HyperResNet(input_shape=(32, 32, 3), classes=10), "val_accuracy")`.
    """

    def build(self, hp: HyperParameters) -> keras.Model:
        """A network, compiled if it has a top."""
        version = hp.Choice("version", ["v1", "v2", "next"], default="v2")
        depths = [
            3,
            hp.Choice("conv3_depth", [4, 8]),
            hp.Choice("conv4_depth", [6, 23, 36]),
            3,
        ]
        inputs, x = open_input(self.input_shape, self.input_tensor)
        x = _stem(x, version)
        for stage, depth in enumerate(depths):
            x = _STAGES[version](x, 64 * 2**stage, depth, stage)
        if version == "v2":
            x = _normalise(x)
        x = pool(x, hp.Choice("pooling", ["avg", "max"], default="avg"))
        if not self.include_top:
            return keras.Model(inputs, x, name="ResNet")
        x = layers.Dense(self.classes, activation="softmax", name="probs")(x)
        model = keras.Model(inputs, x, name="ResNet")
        optimizer = keras.optimizers.get(hp.Choice("optimizer", ["adam", "rmsprop", "sgd"], default="adam"))
        # Set afterwards, since the optimizer is made from its name with the rate of Keras.
        optimizer.learning_rate = hp.Choice("learning_rate", [0.1, 0.01, 0.001], default=0.01)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
        return model


def _stem(x: keras.KerasTensor, version: str) -> keras.KerasTensor:
    x = layers.ZeroPadding2D(3)(x)
    x = layers.Conv2D(64, 7, strides=2, use_bias=version != "next")(x)
    # No bias where a normalisation follows at once: its shift would undo it. ResNet v1 keeps one, for the published
    # weights.
    if version != "v2":  # the second version normalises at the start of each block
        x = _normalise(x)
    return layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))


def _normalise(x: keras.KerasTensor, activation: str | None = "relu") -> keras.KerasTensor:
    x = layers.BatchNormalization(epsilon=_EPSILON)(x)
    return layers.Activation(activation)(x) if activation else x


def _stage_v1(x: keras.KerasTensor, filters: int, depth: int, stage: int) -> keras.KerasTensor:
    """He et al. 2015, Figure 5 right: the first block of a stage halves the image, but for the first stage."""
    for block in range(depth):
        strides = 2 if block == 0 and stage > 0 else 1
        shortcut = x
        if block == 0:
            shortcut = _normalise(layers.Conv2D(4 * filters, 1, strides=strides)(x), None)
        inner = _normalise(layers.Conv2D(filters, 1, strides=strides)(x))
        inner = _normalise(layers.Conv2D(filters, 3, padding="same")(inner))
        inner = _normalise(layers.Conv2D(4 * filters, 1)(inner), None)
        x = layers.Activation("relu")(layers.Add()([shortcut, inner]))
    return x


def _stage_v2(x: keras.KerasTensor, filters: int, depth: int, stage: int) -> keras.KerasTensor:
    """He et al. 2016, Figure 1b: normalised before convolving; the last block of a stage halves the image."""
    for block in range(depth):
        strides = 2 if block == depth - 1 and stage < 3 else 1
        before = _normalise(x)
        if block == 0:
            shortcut = layers.Conv2D(4 * filters, 1, strides=strides)(before)
        else:
            shortcut = layers.MaxPooling2D(1, strides=strides)(x) if strides > 1 else x
        inner = _normalise(layers.Conv2D(filters, 1, use_bias=False)(before))
        inner = layers.Conv2D(filters, 3, strides=strides, use_bias=False)(layers.ZeroPadding2D(1)(inner))
        inner = layers.Conv2D(4 * filters, 1)(_normalise(inner))
        x = layers.Add()([shortcut, inner])
    return x


def _stage_next(x: keras.KerasTensor, filters: int, depth: int, stage: int) -> keras.KerasTensor:
    """Xie et al. 2017, Figure 3c: a grouped convolution inside; the first block of a stage halves the image.

    Widths and strides are KerasTuner's: the first stage is half as wide as the paper's, and halves the image, too; the
    last one does not.
    """
    filters = filters if stage == 0 else 2 * filters
    for block in range(depth):
        strides = 2 if block == 0 and stage < 3 else 1
        shortcut = x
        if block == 0:
            shortcut = _normalise(layers.Conv2D(2 * filters, 1, strides=strides, use_bias=False)(x), None)
        inner = _normalise(layers.Conv2D(filters, 1, use_bias=False)(x))
        inner = layers.ZeroPadding2D(1)(inner)
        inner = _normalise(layers.Conv2D(filters, 3, strides=strides, groups=_NUM_GROUPS, use_bias=False)(inner))
        inner = _normalise(layers.Conv2D(2 * filters, 1, use_bias=False)(inner), None)
        x = layers.Activation("relu")(layers.Add()([shortcut, inner]))
    return x


_STAGES: dict[str, Callable[[keras.KerasTensor, int, int, int], keras.KerasTensor]] = {
    "v1": _stage_v1,
    "v2": _stage_v2,
    "next": _stage_next,
}
