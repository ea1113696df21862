"""Everything in which members of one program may differ: each kind unifies, is lifted, and trains as on its own."""

import keras
import numpy as np
import pytest
from keras import layers, losses, optimizers, regularizers
from keras.optimizers import schedules
from marks import needs_jax

from manyfit.data.call import Call
from manyfit.training.keras_internals import building
from manyfit.training.population.arrays import values_of, variables_of
from manyfit.training.population.data import Shapes, read_fit_arguments
from manyfit.training.population.lift import Lift
from manyfit.training.population.probe import find_mismatch
from manyfit.training.population.trace import complete, trace
from manyfit.training.seeding import seeded

pytestmark = needs_jax

RNG = np.random.default_rng(5)
FLAT = RNG.normal(size=(8, 6)).astype("float32")
IMAGES = RNG.random(size=(8, 6, 6, 3)).astype("float32")
SEQUENCES = RNG.normal(size=(8, 4, 3)).astype("float32")
LABELS = RNG.integers(0, 3, 8)
ONE_HOT = np.eye(3, dtype="float32")[LABELS]


def optimizer(make):
    return FLAT, LABELS, lambda v: model([], optimizer=make(v))


def layer(make, x=FLAT):
    pooling = {FLAT.ndim: [], IMAGES.ndim: [layers.GlobalAveragePooling2D()], 3: [layers.GlobalAveragePooling1D()]}
    return x, LABELS, lambda v: model([made := make(v), *(pooling[x.ndim] if made.name != "recurrent" else [])], x=x)


def loss(make, y=ONE_HOT, **options):
    return FLAT, y, lambda v: model([], loss=make(v), **options)


def model(middle, *, x=FLAT, optimizer="sgd", loss="sparse_categorical_crossentropy", **options):
    found = keras.Sequential([layers.Input(x.shape[1:]), *middle, layers.Dense(3, activation="softmax")])
    found.compile(optimizer=optimizer, loss=loss, **options)
    return found


def two_losses(v):
    inputs = layers.Input((6,))
    outputs = {"a": layers.Dense(1, name="a")(inputs), "b": layers.Dense(1, name="b")(inputs)}
    found = keras.Model(inputs, outputs)
    found.compile("sgd", loss={"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": v})
    return found


def weighted_loss(v):
    """Weights of classes as an array constant of the trace."""
    weights = np.array([1.0, v, v**2], "float32")

    def of(y, predicted):
        return keras.ops.sum(-weights * y * keras.ops.log(predicted), axis=-1)

    return of


class Attention(layers.Layer):
    """Self-attention, with dropout inside."""

    def __init__(self, rate):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 2, dropout=rate)

    def build(self, shape):
        self.attention.build(shape, shape)

    def call(self, x, training=None):
        return self.attention(x, x, training=training)


SLOPES = {
    "leaky relu": lambda v: layers.LeakyReLU(negative_slope=v),
    "elu": lambda v: layers.ELU(alpha=v),
    "relu threshold": lambda v: layers.ReLU(threshold=v),
}
CASES = {
    "cosine schedule": optimizer(lambda v: optimizers.SGD(schedules.CosineDecay(v, 20, alpha=v / 9))),
    "exponential schedule": optimizer(lambda v: optimizers.SGD(schedules.ExponentialDecay(v, 9, 0.5 + v))),
    "piecewise schedule": optimizer(lambda v: optimizers.SGD(schedules.PiecewiseConstantDecay([5], [v, v / 2]))),
    "warm-up": optimizer(lambda v: optimizers.Adam(schedules.CosineDecay(0.0, 9, warmup_target=v, warmup_steps=5))),
    "weight decay": optimizer(lambda v: optimizers.AdamW(0.01, weight_decay=v)),
    "momentum": optimizer(lambda v: optimizers.SGD(0.01, momentum=v)),
    "betas": optimizer(lambda v: optimizers.Adam(0.01, beta_1=1 - v, beta_2=1 - v / 9)),
    "rho": optimizer(lambda v: optimizers.RMSprop(0.01, rho=1 - v, momentum=v)),
    "epsilon": optimizer(lambda v: optimizers.Adam(0.01, epsilon=v)),
    "moving average of weights": optimizer(lambda v: optimizers.SGD(0.01, use_ema=True, ema_momentum=1 - v)),
    "clip by norm": optimizer(lambda v: optimizers.SGD(0.01, clipnorm=v)),
    "clip by value": optimizer(lambda v: optimizers.SGD(0.01, clipvalue=v)),
    "clip by global norm": optimizer(lambda v: optimizers.SGD(0.01, global_clipnorm=v)),
    "dropout": layer(layers.Dropout),
    "spatial dropout": layer(layers.SpatialDropout2D, IMAGES),
    "Gaussian dropout": layer(layers.GaussianDropout),
    "alpha dropout": layer(layers.AlphaDropout),
    "recurrent dropout": layer(lambda v: layers.LSTM(2, recurrent_dropout=v, dropout=v, name="recurrent"), SEQUENCES),
    "attention dropout": layer(Attention, SEQUENCES),
    "noise": layer(layers.GaussianNoise),
    "L1 and L2": layer(lambda v: layers.Dense(4, kernel_regularizer=regularizers.L1L2(v, 2 * v))),
    "activity regularizer": layer(lambda v: layers.Dense(4, activity_regularizer=regularizers.L2(v))),
    "seed": layer(lambda v: layers.Dropout(0.5, seed=int(100 * v))),
    "batch normalisation": layer(lambda v: layers.BatchNormalization(momentum=1 - v, epsilon=v), IMAGES),
    "layer normalisation": layer(lambda v: layers.LayerNormalization(epsilon=v)),
    **{name: layer(make) for name, make in SLOPES.items()},
    "random translation": layer(lambda v: layers.RandomTranslation(v, v), IMAGES),
    "random rotation": layer(layers.RandomRotation, IMAGES),
    "random zoom": layer(layers.RandomZoom, IMAGES),
    "random shear": layer(lambda v: layers.RandomShear(v, v), IMAGES),
    "random brightness": layer(lambda v: layers.RandomBrightness(v, value_range=(0, 1)), IMAGES),
    "random contrast": layer(lambda v: layers.RandomContrast(v, value_range=(0, 1)), IMAGES),
    "label smoothing": loss(lambda v: losses.CategoricalCrossentropy(label_smoothing=v)),
    "focal gamma": loss(lambda v: losses.CategoricalFocalCrossentropy(gamma=9 * v, alpha=v)),
    "Huber delta": loss(lambda v: losses.Huber(delta=v)),
    "class weights": loss(weighted_loss),
    "loss weights": (FLAT, {"a": FLAT[:, :1], "b": FLAT[:, 1:2]}, two_losses),
}


def capture(build, value, shapes):
    building.forget_names()
    with seeded(1):
        found = build(value)
        building.build_symbolically(found, shapes.first_batch())
    state = tuple(tuple(values_of(part)) for part in variables_of(found)[:3])
    traced = trace(found, shapes)
    complete(traced, found, shapes)
    return traced, state


@pytest.mark.parametrize("name", CASES)
def test_one_program(name):
    x, y, build = CASES[name]
    data = read_fit_arguments(Call((x, y), {"batch_size": 8}))
    shapes = Shapes(data.training, None)
    (first, first_state), (other, other_state) = (capture(build, value, shapes) for value in (0.1, 0.3))
    assert first.key == other.key, first.difference(other).reason
    lift = Lift(first).widened([other])
    # A seed is state: nothing needs to be lifted.
    assert (lift.count > 0) is (name != "seed")
    found = find_mismatch(lift, [other], [other_state], data.training.some_batch(), fused=False)
    assert found is None
    del first_state
