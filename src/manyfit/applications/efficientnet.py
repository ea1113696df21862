"""EfficientNet (Tan & Le 2019) in its eight sizes."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from manyfit.applications.images import Shape, check_classes, check_input, open_input, pool
from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import at_least, checked_arguments, one_of
from manyfit.space.hyperparameters import HyperParameters
from manyfit.tuners.keras_tuner.hypermodel import HyperModel

# Tan & Le 2019: the side of the images that each size was designed for, in pixels.
_SIDES = {"B0": 224, "B1": 240, "B2": 260, "B3": 300, "B4": 380, "B5": 456, "B6": 528, "B7": 600}


class HyperEfficientNet(HyperModel):
    """EfficientNets of keras.applications with a classifier, compiled for one-hot labels.

    Hyperparameters: `version` ("B0" to "B7"), `pooling` ("avg", "max"), `top_dropout_rate` (0.2 to 0.8),
    `learning_rate` (0.1, 0.01, 0.001). Images are resized to the side of the version; pixels are from 0 to 255.

    KerasTuner always downloads the ImageNet weights and starts from them; here that has to be asked for with
    `weights="imagenet"`, and without it the network starts from random weights.

    Args:
        input_shape: height, width, channels of an image.
        input_tensor: a Keras tensor that the network goes on from, in place of `input_shape`.
        classes: number of classes.
        augmentation_model: a Keras model or a `HyperModel` that changes images before they enter, for instance
            `HyperImageAugment`.
        weights: None for random ones, "imagenet" to download those of keras.applications (three channels only), or
            the path of a weights file.
        **kwargs: `name` and `tunable` of `HyperModel`.

    Raises:
        UsageError: no `classes`, neither `input_shape` nor `input_tensor`, or an `augmentation_model` that is no model.

    Example: `kt.applications.HyperEfficientNet(input_shape=(32, 32, 3), classes=10, weights="imagenet")`.
    """

    @checked_arguments(skip=("augmentation_model",), classes=at_least(0, 10), weights=one_of("imagenet"))
    def __init__(
        self,
        input_shape: Shape | None = None,
        input_tensor: keras.KerasTensor | None = None,
        classes: int | None = None,
        augmentation_model: HyperModel | keras.Model | None = None,
        *,
        weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_classes("HyperEfficientNet", classes)
        check_input("HyperEfficientNet", input_shape, input_tensor)
        if augmentation_model is not None and not isinstance(augmentation_model, HyperModel | keras.Model):
            raise UsageError(
                explain(
                    "HyperEfficientNet(augmentation_model)",
                    f"{augmentation_model!r} of type {type(augmentation_model).__name__}",
                    "a keras.Model or a HyperModel",
                    "Type augmentation_model=kt.applications.HyperImageAugment(input_shape=(32, 32, 3)), say.",
                )
            )
        self.input_shape = input_shape
        self.input_tensor = input_tensor
        self.classes = classes
        self.augmentation_model = augmentation_model
        self.weights = weights

    def build(self, hp: HyperParameters) -> keras.Model:
        """A compiled network."""
        inputs, x = open_input(self.input_shape, self.input_tensor)
        if self.augmentation_model is not None:
            augment = self.augmentation_model
            x = (augment.build(hp) if isinstance(augment, HyperModel) else augment)(x)
        version = hp.Choice("version", list(_SIDES), default="B0")
        # Inside the model: then the saved one takes images of the user's own size.
        x = layers.Resizing(_SIDES[version], _SIDES[version], interpolation="bilinear")(x)
        # By name, since the eight sizes differ in nothing else.
        network = getattr(keras.applications, f"EfficientNet{version}")
        x = network(include_top=False, weights=self.weights, input_tensor=x).output
        x = pool(x, hp.Choice("pooling", ["avg", "max"], default="avg"))
        x = layers.Dropout(hp.Float("top_dropout_rate", 0.2, 0.8, step=0.2, default=0.2), name="top_dropout")(x)
        x = layers.Dense(self.classes, activation="softmax", name="probs")(x)
        model = keras.Model(inputs, x, name="EfficientNet")
        self._compile(model, hp)
        return model

    def _compile(self, model: keras.Model, hp: HyperParameters) -> None:
        """Override it to train with another optimizer or loss; so can users of KerasTuner."""
        learning_rate = hp.Choice("learning_rate", [0.1, 0.01, 0.001], default=0.01)
        optimizer = keras.optimizers.SGD(learning_rate, momentum=0.1)
        model.compile(optimizer, "categorical_crossentropy", metrics=["accuracy"])
