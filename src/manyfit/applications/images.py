"""What the ready-made image models share: checks of their arguments, inputs, the ends of networks."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.tuners.keras_tuner.hypermodel import HyperModel

Shape = tuple[int | None, ...]


def check_classes(who: str, classes: int | None, *, include_top: bool = True) -> None:
    """Checks that a classifier knows how many classes there are.

    Raises:
        UsageError: it does not.
    """
    if include_top and not classes:
        allowed = "a number of classes" if who == "HyperEfficientNet" else "a number of classes, or include_top=False"
        raise UsageError(
            explain(
                who, "no classes. You must specify `classes` when `include_top=True`", allowed, "Type classes=10, say."
            )
        )


def check_input(who: str, input_shape: Shape | None, input_tensor: keras.KerasTensor | None) -> None:
    """Checks that the shape of the images is known.

    Raises:
        UsageError: it is not.
    """
    if input_shape is None and input_tensor is None:
        raise UsageError(
            explain(
                who,
                "neither. You must specify either `input_shape` or `input_tensor`",
                "the shape of one image: height, width, channels",
                "Type input_shape=(32, 32, 3), say.",
            )
        )


def open_input(
    input_shape: Shape | None, input_tensor: keras.KerasTensor | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """The inputs of the model, and the tensor that its first layer takes."""
    if input_tensor is None:
        images = keras.Input(shape=input_shape)
        return images, images
    return keras.utils.get_source_inputs(input_tensor), input_tensor


def pool(x: keras.KerasTensor, how: str) -> keras.KerasTensor:
    """One vector per image: "avg", "max" over the positions, or all of them: "flatten"."""
    if how == "flatten":
        return layers.Flatten()(x)
    return layers.GlobalAveragePooling2D()(x) if how == "avg" else layers.GlobalMaxPooling2D()(x)


class TopOrNone(HyperModel):
    """What the networks share that can be had with or without a classifier: their arguments, checked and kept."""

    @checked_arguments(classes=at_least(0, 10))
    def __init__(
        self,
        include_top: bool = True,
        input_shape: Shape | None = None,
        input_tensor: keras.KerasTensor | None = None,
        classes: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_classes(type(self).__name__, classes, include_top=include_top)
        check_input(type(self).__name__, input_shape, input_tensor)
        self.include_top = include_top
        self.input_shape = input_shape
        self.input_tensor = input_tensor
        self.classes = classes
