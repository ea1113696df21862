"""Recognises models whose steps need not be traced again.

Two models of Keras's own layers, optimizer, loss and metrics have the same traced steps if their configurations are
equal but for what is state (the learning rate).
Anything that a configuration does not tell completely is never recognised.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import keras

_LAYERS = frozenset(
    """
    InputLayer Dense EinsumDense Embedding Activation ReLU LeakyReLU PReLU ELU Softmax Flatten Reshape Permute
    RepeatVector Dropout SpatialDropout1D SpatialDropout2D SpatialDropout3D AlphaDropout GaussianDropout
    GaussianNoise ActivityRegularization BatchNormalization LayerNormalization GroupNormalization RMSNormalization
    UnitNormalization Conv1D Conv2D Conv3D Conv1DTranspose Conv2DTranspose Conv3DTranspose SeparableConv1D
    SeparableConv2D DepthwiseConv1D DepthwiseConv2D MaxPooling1D MaxPooling2D MaxPooling3D AveragePooling1D
    AveragePooling2D AveragePooling3D GlobalMaxPooling1D GlobalMaxPooling2D GlobalAveragePooling1D
    GlobalAveragePooling2D ZeroPadding1D ZeroPadding2D Cropping1D Cropping2D UpSampling1D UpSampling2D Add Subtract
    Multiply Average Maximum Minimum Concatenate Dot LSTM GRU SimpleRNN Bidirectional TimeDistributed
    MultiHeadAttention Rescaling
    """.split()  # noqa: SIM905  sixty names read better as words
)


def structure_key(model: Any) -> str | None:
    """A text that is equal for models with the same traced steps; None for a model that is never recognised."""
    if type(model) not in (keras.Sequential, keras.Model) and type(model).__name__ != "Functional":
        return None
    if type(model).train_step is not keras.Model.train_step or type(model).test_step is not keras.Model.test_step:
        return None
    for layer in model.layers:
        if type(layer).__name__ not in _LAYERS or not type(layer).__module__.startswith("keras."):
            return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras reads the learning rate in a way that NumPy 2 warns of
            compiled = model.get_compile_config()
            config = {"model": model.get_config(), "compile": compiled}
        if not isinstance(config["compile"].get("optimizer"), dict):
            return None
        optimizer = compiled["optimizer"]["config"]
        if isinstance(optimizer.get("inner_optimizer"), dict):  # a loss scale wraps another optimizer
            optimizer = optimizer["inner_optimizer"]["config"]
        if isinstance(optimizer.get("learning_rate"), float):
            optimizer["learning_rate"] = "state"
        text = json.dumps(config, sort_keys=True)
    except (TypeError, ValueError, NotImplementedError, AttributeError):
        return None
    # Objects of the user's are named by their module and class only: their code is not in the text.
    return None if _has_custom_objects(config) else text


def _has_custom_objects(config: Any) -> bool:
    if isinstance(config, dict):
        if (
            config.get("registered_name") not in (None, config.get("class_name"))
            or config.get("class_name") == "function"
        ):
            return True
        module = config.get("module")
        if isinstance(module, str) and not module.startswith(("keras", "builtins")):
            return True
        return any(map(_has_custom_objects, config.values()))
    return isinstance(config, list | tuple) and any(map(_has_custom_objects, config))
