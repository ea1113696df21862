"""Predicting many models one after another, against `model.predict`."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from manyfit.ensemble.prediction import Forward


def model_of(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, activation="softmax")])


@pytest.mark.parametrize("keeps_rows", [False, True])
def test_predictions_are_those_of_predict_whatever_was_predicted_before(keeps_rows):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 21, 3))
    forward = Forward(keeps_rows=keeps_rows)
    for seed, x in ((1, first), (2, first), (1, second), (2, first)):
        model = model_of(seed)
        found = forward.predict(model, x, batch_size=8)
        np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5)


def test_rows_that_are_too_many_to_stay_are_predicted_all_the_same():
    x, model = np.ones((5, 3)), model_of(0)
    found = Forward(keeps_rows=True, max_kept_numbers=10).predict(model, x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5)


def convolving(seed):
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [layers.Input((3,)), layers.Reshape((3, 1)), layers.Conv1D(2, 2), layers.Flatten(), layers.Dense(2)]
    )


class Half:
    """Something that predicts and is no Keras model."""

    def predict(self, x):
        return x[:, 0] / 2


def test_several_models_are_predicted_as_each_is_alone():
    x = np.random.default_rng(0).normal(size=(21, 3))
    wide = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(7, activation="softmax")])
    models = [model_of(1), wide, *map(model_of, range(2, 8)), Half(), convolving(1), convolving(2)]
    forward = Forward(keeps_rows=True)
    found = forward.predict_several(models, x, batch_size=8)
    assert len(found) == len(models)
    for one, model in zip(found, models, strict=True):
        right = np.asarray(model.predict(x, verbose=0) if isinstance(model, keras.Model) else model.predict(x))
        np.testing.assert_allclose(one, right.reshape(21, -1), rtol=1e-5, atol=1e-6)


def test_several_of_none_is_nothing():
    assert Forward().predict_several([], np.ones((2, 3))) == []
