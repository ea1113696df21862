"""Heads on one frozen model: what it says of rows is computed once, and predictions are those of `model.predict`."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from marks import needs_jax

from manyfit.ensemble.frozen_part import CutModel, KeptFeatures
from manyfit.ensemble.prediction import Forward

pytestmark = needs_jax


def backbone(seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((6, 6, 2))
    x = layers.BatchNormalization()(layers.Conv2D(3, 3, activation="relu")(inputs))
    model = keras.Model(inputs, x)
    model.trainable = False
    return model


def on_top_of(inner, units=4, *, past=False):
    inputs = keras.Input((6, 6, 2))
    x = layers.Flatten()(inner(layers.Rescaling(2.0)(inputs), training=False))
    x = layers.Concatenate()([x, layers.Flatten()(inputs)]) if past else x
    model = keras.Model(inputs, layers.Dense(3)(layers.Dropout(0.5)(layers.Dense(units, "relu")(x))))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def rows():
    return np.random.default_rng(0).normal(size=(21, 6, 6, 2)).astype("float32")


def right(model, x):
    logits = np.asarray(model.predict(x, verbose=0))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_the_frozen_part_runs_once_for_equal_weights(monkeypatch):
    x, forward, asked = rows(), Forward(keeps_rows=True), []
    own = KeptFeatures.of

    def counted(self, key, x, compute):
        return own(self, key, x, lambda: (asked.append(key), compute())[1])

    monkeypatch.setattr(KeptFeatures, "of", counted)
    weights = backbone().get_weights()
    for units, seed in ((4, 0), (5, 0), (4, 1), (6, 0)):
        inner = backbone(seed)
        if seed == 0:
            inner.set_weights(weights)
        model = on_top_of(inner, units)
        np.testing.assert_allclose(forward.predict(model, x, batch_size=8), right(model, x), rtol=1e-4, atol=1e-6)
    assert len(asked) == 2, "one per set of weights"
    other = x + 1
    np.testing.assert_allclose(forward.predict(model, other, batch_size=8), right(model, other), rtol=1e-4, atol=1e-6)
    assert len(asked) == 3


@pytest.mark.parametrize("why", ["it trains", "the head looks past it", "there are two", "none"])
def test_other_models_are_predicted_whole(why):
    inner = backbone()
    inner.trainable = why == "it trains"
    if why == "none":
        model = keras.Sequential([keras.Input((6, 6, 2)), layers.Flatten(), layers.Dense(3)])
    elif why == "there are two":
        inputs = keras.Input((6, 6, 2))
        both = layers.Add()([inner(inputs), backbone(1)(inputs)])
        model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(both)))
    else:
        model = on_top_of(inner, past=why == "the head looks past it")
    assert CutModel.of(model) is None
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    found = Forward(keeps_rows=True).predict(model, rows(), batch_size=8)
    np.testing.assert_allclose(found, right(model, rows()), rtol=1e-4, atol=1e-6)


def test_what_is_too_large_is_not_kept():
    kept, x, calls = KeptFeatures(10), rows(), []
    for _ in range(2):
        kept.of("a", x, lambda: (calls.append(1), np.ones(11))[1])
    assert len(calls) == 2
