"""Predicting many models one after another, against `model.predict`."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from manyfit.ensemble.forward import Forward


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


def test_rows_that_are_too_many_to_stay_are_predicted_all_the_same(monkeypatch):
    monkeypatch.setattr("manyfit.ensemble.forward._MOST_KEPT", 10)
    x, model = np.ones((5, 3)), model_of(0)
    found = Forward(keeps_rows=True).predict(model, x)
    np.testing.assert_allclose(found, model.predict(x, verbose=0), rtol=1e-5)
