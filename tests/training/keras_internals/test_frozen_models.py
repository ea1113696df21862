"""A frozen model inside of a model is traced once, and what comes out is what Keras's own run of its graph makes."""

from __future__ import annotations

import gc

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.models import Functional
from marks import needs_jax

from manyfit.training.keras_internals import building, frozen_models
from manyfit.training.population import trace as tracing
from manyfit.training.population.known_layers import is_of_known_layers

pytestmark = needs_jax


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(frozen_models, "_traced", {})


def backbone(*more, trainable=False, name="backbone"):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), *more]
    )
    inner = keras.Model(model.inputs[0], model.outputs[0], name=name)
    inner.trainable = trainable
    return inner


def on_top_of(inner, units=5, **options):
    building.forget_names()
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(inner(layers.Rescaling(2.0)(inputs), **options))
    model = keras.Model(inputs, layers.Dense(2, "softmax")(layers.Dropout(0.5)(layers.Dense(units, "relu")(x))))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    tracing.build_variables(model, batch())
    return model


def batch(rows=4):
    return np.zeros((rows, 8, 8, 3), "float32"), np.zeros((rows,), "int32"), None


def keys(model):
    """Of the traced training and test step."""
    state = [tracing.shapes_of(tracing.values_of(part)) for part in tracing.variables_of(model)]
    data = batch()[:2]
    train, _ = tracing._trace_step("train", model.train_step, state, data)
    test, _ = tracing._trace_step("test", model.test_step, [state[0], state[1], state[3]], data)
    return train.key, test.key


def both_ways(make, monkeypatch):
    """The keys with Keras's own run, and with what is known; the latter twice, for what the first has found."""
    monkeypatch.setattr(frozen_models, "TRACES_ONCE", False)
    own = keys(make())
    monkeypatch.setattr(frozen_models, "TRACES_ONCE", True)
    return own, keys(make()), keys(make())


def num_runs(monkeypatch):
    """Counts how often a layer of the backbone runs."""
    runs, own = [], layers.Conv2D.call
    monkeypatch.setattr(layers.Conv2D, "call", lambda *args, **kwargs: (runs.append(1), own(*args, **kwargs))[1])
    return runs


@pytest.mark.parametrize("options", [{}, {"training": False}, {"training": True}])
def test_the_steps_are_the_same_to_the_letter(options, monkeypatch):
    own, first, second = both_ways(lambda: on_top_of(backbone(), **options), monkeypatch)
    assert own == first == second
    assert any(frozen_models._traced.values())


def test_another_head_runs_no_layer_of_the_backbone(monkeypatch):
    keys(on_top_of(backbone(), units=5))
    model = on_top_of(backbone(), units=7)  # Keras runs its graph where it is built, which this is not about
    runs = num_runs(monkeypatch)
    keys(model)
    assert not runs
    monkeypatch.setattr(frozen_models, "TRACES_ONCE", False)
    keys(model)
    assert len(runs) == 2


def test_other_weights_of_the_same_backbone_are_inputs():
    with frozen_models.traced_once(is_of_known_layers):
        found = []
        for seed in (0, 1):
            building.forget_names()
            keras.utils.set_random_seed(seed)
            inner = backbone()
            x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
            answer = jax_jit(inner)(x)
            np.testing.assert_allclose(answer, inner(x), rtol=1e-5)
            found.append(np.asarray(answer))
    assert not np.allclose(*found)
    assert len(frozen_models._traced) == 1


def jax_jit(model):
    import jax

    return jax.jit(lambda x: model(x, training=False))


@pytest.mark.parametrize(
    ("why", "more", "trainable"),
    [
        ("it trains", (), True),
        ("it draws", (layers.Dropout(0.5),), False),
        ("it adds a loss", (layers.ActivityRegularization(0.1),), False),
    ],
)
def test_what_does_more_than_to_answer_is_left_alone(why, more, trainable, monkeypatch):
    clones = lambda: [type(layer).from_config(layer.get_config()) for layer in more]  # noqa: E731
    make = lambda: on_top_of(backbone(*clones(), trainable=trainable), training=True)  # noqa: E731
    own, first, second = both_ways(make, monkeypatch)
    assert own == first == second, why
    assert not any(found for (*_, training, _, _, _), found in frozen_models._traced.items() if training), why


def test_layers_of_the_users_are_left_alone(monkeypatch):
    class Own(layers.Layer):
        def call(self, inputs):
            return inputs * 2

    own, first, _ = both_ways(lambda: on_top_of(backbone(Own())), monkeypatch)
    assert own == first
    assert not frozen_models._traced


def test_another_type_of_numbers_is_another_trace(monkeypatch):
    """In half precision variables are cast where they are read: such a model is Keras's to run."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        own, first, second = both_ways(lambda: on_top_of(backbone()), monkeypatch)
    finally:
        keras.config.set_dtype_policy("float32")
    assert own == first == second


def test_what_is_known_keeps_no_model_alive():
    keys(on_top_of(backbone()))
    gc.collect()
    assert not [each for each in gc.get_objects() if isinstance(each, keras.Model) and each.name == "backbone"]


def test_outside_it_is_keras():
    before = Functional.call
    with frozen_models.traced_once(is_of_known_layers):
        assert Functional.call is not before
    assert Functional.call is before
