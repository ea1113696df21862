"""Random changes to images while training: a fixed sequence, or RandAugment (Cubuk et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import layers

from manyfit.applications.images import Shape, check_input, open_input
from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import checked_arguments
from manyfit.space.hyperparameters import HyperParameters
from manyfit.tuners.keras_tuner.hypermodel import HyperModel

Range = float | Sequence[float] | None

_MAKE = {
    "rotate": layers.RandomRotation,
    "translate_x": lambda factor: layers.RandomTranslation(0.0, factor),
    "translate_y": lambda factor: layers.RandomTranslation(factor, 0.0),
    "contrast": layers.RandomContrast,
}


class HyperImageAugment(HyperModel):
    """A model without weights that changes images at random while training, and leaves them alone otherwise.

    With `augment_layers=0`: all transforms one after another, each with a hyperparameter `factor_<name>` in steps of
    0.05. Otherwise RandAugment: each image goes through `augment_layers` transforms that are drawn for it; how many is
    a hyperparameter, too. A factor of 0 is no change.

    Args:
        input_shape: height, width, channels of an image.
        input_tensor: a Keras tensor that the model goes on from, in place of `input_shape`.
        rotate: most rotation, as a part of a full turn either way; a pair (lowest, highest) bounds the hyperparameter
            from below, too; None or 0 leaves the transform out. So for the others:
        translate_x: most shift, as a part of the width.
        translate_y: most shift, as a part of the height.
        contrast: most change of contrast.
        augment_layers: 0; or most transforms per image, at least 1; or a pair (fewest, most).
        **kwargs: `name` and `tunable` of `HyperModel`.

    Raises:
        UsageError: neither `input_shape` nor `input_tensor`, or a range that is none.

    Example:

    >>> hypermodel = HyperImageAugment(input_shape=(8, 8, 3), augment_layers=0, contrast=None)
    >>> hp = HyperParameters()
    >>> hypermodel.build(hp).output_shape
    (None, 8, 8, 3)
    >>> [each.name for each in hp.space]
    ['factor_rotate', 'factor_translate_x', 'factor_translate_y']
    """

    @checked_arguments(skip=("rotate", "translate_x", "translate_y", "contrast", "augment_layers"))
    def __init__(
        self,
        input_shape: Shape | None = None,
        input_tensor: keras.KerasTensor | None = None,
        rotate: Range = 0.5,
        translate_x: Range = 0.4,
        translate_y: Range = 0.4,
        contrast: Range = 0.3,
        augment_layers: int | Sequence[int] = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_input("HyperImageAugment", input_shape, input_tensor)
        given = {"rotate": rotate, "translate_x": translate_x, "translate_y": translate_y, "contrast": contrast}
        self.transforms = [(name, _range_of(name, value, 0.0)) for name, value in given.items() if value]
        self.augment_layers = _range_of("augment_layers", augment_layers, 1) if augment_layers != 0 else (0, 0)
        self.input_shape = input_shape
        self.input_tensor = input_tensor

    def build(self, hp: HyperParameters) -> keras.Model:
        """A model from images to images of the same shape."""
        inputs, x = open_input(self.input_shape, self.input_tensor)
        if self.augment_layers == (0, 0):
            for name, factor in self._factors(hp, step=0.05).items():
                x = _MAKE[name](factor)(x) if factor else x
            return keras.Model(inputs, x, name="image_augment")
        fewest, most = self.augment_layers
        # Asked for before the factors, as KerasTuner does: the order of a space is part of what a seed means.
        num_layers = hp.Int("augment_layers", fewest, most, default=fewest)
        factors = self._factors(hp, step=None)
        for _ in range(num_layers if factors else 0):
            x = RandomTransform(factors)(x)
        return keras.Model(inputs, x, name="image_rand_augment")

    def _factors(self, hp: HyperParameters, step: float | None) -> dict[str, float]:
        return {
            name: hp.Float(f"factor_{name}", lowest, highest, step=step, default=lowest)
            for name, (lowest, highest) in self.transforms
        }


@keras.saving.register_keras_serializable(package="manyfit")
class RandomTransform(layers.Layer):
    """Sends each image through one transform that is drawn for it, while training.

    Args:
        factors: strength by the transform's name: "rotate", "translate_x", "translate_y", "contrast".
        **kwargs: those of `keras.layers.Layer`.
    """

    def __init__(self, factors: Mapping[str, float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factors = dict(factors)
        # Text keys: Keras tracks layers in a dict only under text keys, and untracked ones would lose their state when
        # saved.
        self.transforms = {str(place): _MAKE[name](f) for place, (name, f) in enumerate(factors.items()) if f}
        self.seed_generator = keras.random.SeedGenerator()

    def build(self, input_shape: Shape) -> None:
        """Nothing has weights."""
        for transform in self.transforms.values():
            transform.build(input_shape)

    def call(self, images: keras.KerasTensor, training: bool | None = None) -> keras.KerasTensor:
        """Images of the same shape; unchanged unless `training`."""
        # Before anything is drawn: predicting must not move the generator of a later training.
        if not training:
            return images
        shape = (keras.ops.shape(images)[0], 1, 1, 1)
        # Among all, those of factor 0 too: drawing one of them leaves the image alone, as RandAugment's identity does.
        drawn = keras.random.randint(shape, 0, len(self.factors), seed=self.seed_generator)
        changed = images
        for place, transform in self.transforms.items():
            # Every transform is applied to all images and one kept per image: a branch per image could not be compiled.
            changed = keras.ops.where(drawn == int(place), transform(images, training=True), changed)
        return changed

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        """The input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """What Keras saves."""
        return {**super().get_config(), "factors": self.factors}


def _range_of(name: str, value: object, lowest: float) -> tuple[Any, Any]:
    """(lowest, highest) from a number or a pair."""
    kinds = (int,) if name == "augment_layers" else (int, float)
    pair = tuple(value) if isinstance(value, list | tuple) else (lowest, value)
    are_numbers = len(pair) == 2 and all(isinstance(end, kinds) and not isinstance(end, bool) for end in pair)
    if not are_numbers or not 0 <= pair[0] <= pair[1]:
        instead = "3 or (1, 3)" if name == "augment_layers" else "0.3 or (0.1, 0.3)"
        raise UsageError(
            explain(
                f"HyperImageAugment({name})",
                value,
                f"{'a whole number' if kinds == (int,) else 'a number'} from {lowest} up, or a pair (lowest, highest)",
                f"Type {name}={instead}, say.",
            )
        )
    return pair  # type: ignore[return-value]
