"""Copies of models in memory: every kind of model that Keras lets one make, without a class registered anywhere."""

import keras
import numpy as np
import pytest
from keras import ops

from manyfit.training.copies import UncopyableModelError, copy_model, fresh_model

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 6)).astype("float32")
WORDS = np.array([["a b"], ["b c c"]] * 10, dtype=object)
STEPS = RNG.integers(0, 5, size=(20, 7))


class Square(keras.layers.Layer):
    """A layer as people write it: sublayers, variables of its own, not registered."""

    def __init__(self, units=4, activation=None, **options):
        super().__init__(**options)
        self.units, self.dense, self.activation = units, keras.layers.Dense(units), keras.activations.get(activation)

    def build(self, shape):
        self.dense.build(shape)
        self.shift = self.add_weight(shape=(self.units,), initializer="random_normal", name="shift")
        self.built = True

    def call(self, x):
        return self.activation(self.dense(x) ** 2 + self.shift)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "activation": keras.activations.serialize(self.activation)}


class Halves(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return 0.5 * ops.ones(shape, dtype)


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.hidden, self.out = Square(5), keras.layers.Dense(2)

    def call(self, x, training=False):
        return self.out(self.hidden(x))


class TwoInputs(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.left, self.right = keras.layers.Dense(2), keras.layers.Dense(2)

    def call(self, x):
        return self.left(x["a"]) + self.right(x["b"])


class Cell(keras.layers.Layer):
    def __init__(self, units=3, **options):
        super().__init__(**options)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1] + self.units, self.units), name="kernel")
        self.built = True

    def call(self, x, states):
        out = ops.tanh(ops.concatenate([x, states[0]], -1) @ self.kernel)
        return out, [out]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def sequential(*layers, shape=(6,), **options):
    return keras.Sequential([keras.Input(shape, **options), *layers])


def closures():
    def scaled_by(factor):
        def act(x):
            return factor * x

        return act

    return sequential(
        keras.layers.Dense(3, activation=scaled_by(2.0)),
        keras.layers.Dense(3, activation=scaled_by(-1.0)),
        keras.layers.Dense(3, activation=lambda x: ops.tanh(2 * x)),
    )


def lambdas():
    table = {"factor": 3.0}
    return sequential(
        keras.layers.Dense(3),
        keras.layers.Lambda(lambda x, add: ops.tanh(x) * table["factor"] + add, arguments={"add": np.float32(2)}),
        keras.layers.Lambda(lambda x: x[:, :2], output_shape=lambda shape: (shape[0], 2)),
    )


def shared_branches():
    shared = keras.Sequential([keras.layers.Dense(4), Square(2)])
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    both = keras.layers.Concatenate()([shared(a), shared(b), ops.exp(a)])
    return keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(both))


def listed():
    a, b = keras.Input((3,)), keras.Input((3,))
    return keras.Model([a, b], [keras.layers.Add(name="sum")([a, b]), keras.layers.Dense(2, name="two")(a)])


def own_step():
    x = keras.Input((6,))
    model = OwnStep(
        x, keras.layers.Dense(2, kernel_initializer=Halves(), kernel_regularizer=keras.regularizers.L2())(x)
    )
    model.compile("adam", lambda y, p: ops.mean((y - p) ** 2))
    return model


def subclassed():
    model = Subclassed()
    model(X)
    return model


def two_inputs():
    model = TwoInputs()
    model({"a": X[:, :3], "b": X[:, 3:]})
    return model


def preprocessing():
    normalise = keras.layers.Normalization()
    normalise.adapt(X * 3 + 1)
    return sequential(normalise, keras.layers.Dense(2), keras.layers.BatchNormalization())


def trained_statistics():
    model = sequential(keras.layers.Dense(4), keras.layers.BatchNormalization(), keras.layers.Dense(1))
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0)
    return model


def low_rank():
    model = sequential(keras.layers.Dense(4), keras.layers.Dense(1))
    model.layers[0].enable_lora(2)
    return model


def quantized():
    model = sequential(keras.layers.Dense(4), keras.layers.Dense(1))
    model.layers[0].quantize("int8")
    return model


def halves():
    policy = "mixed_bfloat16"
    return sequential(
        keras.layers.Dense(4, dtype=policy), Square(3, dtype=policy), keras.layers.Dense(1, dtype="float32")
    )


TWO = {"a": X[:, :3], "b": X[:, 3:]}
KINDS = {
    "own layer": (lambda: sequential(Square(4, activation="relu"), keras.layers.Dense(1)), X),
    "own activation in an own layer": (lambda: sequential(Square(4, activation=half_of)), X),
    "closures": (closures, X),
    "lambdas": (lambdas, X),
    "shared branches": (shared_branches, TWO),
    "lists": (listed, [X[:, :3], X[:, 3:]]),
    "own train_step": (own_step, X),
    "subclassed": (subclassed, X),
    "subclassed, two inputs": (two_inputs, TWO),
    "preprocessing": (preprocessing, X),
    "trained statistics": (trained_statistics, X),
    "mixed precision": (halves, X),
    "low rank": (low_rank, X),
    "quantized": (quantized, X),
    "fixed batch": (lambda: keras.Sequential([keras.Input(batch_shape=(20, 6)), keras.layers.Dense(2)]), X),
    "masks": (
        lambda: sequential(
            keras.layers.Embedding(5, 3, mask_zero=True),
            keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True)),
            keras.layers.TimeDistributed(Square(2)),
            shape=(7,),
            dtype="int32",
        ),
        STEPS,
    ),
    "stateful, own cell": (
        lambda: keras.Sequential(
            [
                keras.Input(batch_shape=(20, 7, 1)),
                keras.layers.RNN(Cell(3), return_sequences=True, stateful=True),
                keras.layers.LSTM(3, stateful=True),
            ]
        ),
        RNG.normal(size=(20, 7, 1)).astype("float32"),
    ),
}


def half_of(x):
    return x / 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_predicts_the_same_and_shares_nothing(kind):
    make, x = KINDS[kind]
    model = make()
    model.predict(x, batch_size=20, verbose=0)  # builds; a stateful model goes on from here
    copy = copy_model(model)
    first = model.predict(x, batch_size=20, verbose=0)
    for ours, theirs in zip(
        keras.tree.flatten(copy.predict(x, batch_size=20, verbose=0)), keras.tree.flatten(first), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}
    assert len(copy.weights) == len(model.weights)
    fresh = fresh_model(model)
    assert [v.shape for v in fresh.weights] == [v.shape for v in model.weights]


def untold():
    class Table(keras.layers.Layer):
        def __init__(self, table):
            super().__init__()
            self.table = table

        def call(self, x):
            return x * ops.convert_to_tensor(self.table)

    return sequential(Table(np.arange(6.0, dtype="float32")))


class Wide(keras.Model):
    def __init__(self, units=3):
        super().__init__()
        self.out = keras.layers.Dense(units)

    def call(self, x):
        return self.out(x)


def wide():
    model = Wide(4)  # Keras writes down 3: it keeps no arguments of models
    model(X)
    return model


@pytest.mark.parametrize(("make", "name"), [(untold, "Table"), (wide, "Wide")])
def test_what_does_not_tell_how_it_was_made_is_named(make, name):
    with pytest.raises(UncopyableModelError, match=rf"a copy of {name} .*Give {name} a get_config"):
        copy_model(make())


def test_a_fresh_model_forgets_what_was_trained_and_keeps_what_was_not():
    base = sequential(keras.layers.Dense(4))
    base.trainable = False
    model = sequential(base, keras.layers.BatchNormalization(), keras.layers.Dense(1))
    model.compile("sgd", "mse")
    model.fit(X, X[:, :1], verbose=0)
    fresh = fresh_model(model)
    np.testing.assert_array_equal(fresh.layers[0].get_weights()[0], base.get_weights()[0])
    assert not np.allclose(fresh.layers[2].get_weights()[0], model.layers[2].get_weights()[0])
    assert not ops.convert_to_numpy(fresh.layers[1].moving_mean).any()
