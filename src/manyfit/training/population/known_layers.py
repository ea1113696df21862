"""Models whose configuration tells all that they compute: those of Keras's own layers that are listed here."""

from __future__ import annotations

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
    MultiHeadAttention Rescaling RandomFlip RandomRotation RandomZoom RandomTranslation RandomContrast RandomBrightness
    """.split()  # noqa: SIM905  seventy names read better as words
)


def is_of_known_layers(model: keras.Model) -> bool:
    """Whether a model is Keras's own, of layers on the list, and of models of which the same is true."""
    # A subclass of the user's may do anything in its `call`, of which its configuration says nothing.
    is_plain = type(model) is keras.Sequential or type(model).__name__ == "Functional"
    if not is_plain or not type(model).__module__.startswith("keras."):
        return False
    # A list, not a rule: a layer of a later Keras is traced until somebody has looked at it.
    return all(
        is_of_known_layers(layer)
        if isinstance(layer, keras.Model)
        else type(layer).__name__ in _LAYERS and type(layer).__module__.startswith("keras.")
        for layer in model.layers
    )
