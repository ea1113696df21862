"""A full batch's step on a batch of which only the first rows are real: what the short batch's own step answers."""

import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras import layers, metrics
from marks import needs_jax

from manyfit.training.keras_internals import building
from manyfit.training.population.arrays import values_of, variables_of
from manyfit.training.population.canonical_jaxpr import Mismatch, canonical_form
from manyfit.training.population.compile import compile_function
from manyfit.training.population.data import ResidentRows, Shapes
from manyfit.training.population.lift import Lift, Steps
from manyfit.training.population.masking import Masking, masking_of
from manyfit.training.population.trace import complete, trace

pytestmark = needs_jax

FULL, SHORT, OTHER = 8, 5, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(FULL, 12)).astype("float32")
WORDS = RNG.integers(0, 20, (FULL, 12)).astype("int32")
CLASSES = np.arange(FULL) % 3
ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
WEIGHTS = RNG.random(FULL).astype("float32")


def sequential(*middle, loss, scores=(), weighted=(), optimizer=None, kind=keras.Sequential):
    """Its optimizer is one that does not make steps of rounding, as Adam does where a gradient is zero but for that."""
    keras.utils.set_random_seed(0)
    model = kind([layers.Input((12,)), *middle])
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, loss, metrics=list(scores), weighted_metrics=list(weighted))
    return model


class OwnStep(keras.Sequential):
    """A step of the user's own, with logs of its own."""

    def train_step(self, state, data):
        logs, state = super().train_step(state, data)
        return {**logs, "largest": jnp.max(data[0]), "mean": jnp.mean(data[0])}, state


def largest_error(y, prediction):
    """A loss of a whole batch."""
    return keras.ops.max(keras.ops.square(y - prediction))


def dense():
    return sequential(
        layers.Dense(6, activation="relu", kernel_regularizer="l2"),
        layers.Dropout(0.3),
        layers.Dense(3, activation="softmax"),
        loss="sparse_categorical_crossentropy",
        scores=["accuracy", metrics.SparseTopKCategoricalAccuracy(2)],
        weighted=["accuracy"],
    ), (X, CLASSES, WEIGHTS)


def normalised():
    return sequential(
        layers.Dense(6, activation="relu", activity_regularizer="l2"),
        layers.BatchNormalization(),
        layers.Dense(3, activation="softmax"),
        loss="categorical_crossentropy",
        scores=[metrics.F1Score(average="macro"), metrics.TopKCategoricalAccuracy(2)],
        optimizer=keras.optimizers.SGD(0.1, global_clipnorm=0.1),
    ), (X, ONE_HOT, None)


def recurrent():
    return sequential(
        layers.Embedding(20, 4, mask_zero=True),
        layers.LSTM(5, dropout=0.2, recurrent_dropout=0.2),
        layers.Dense(1, activation="sigmoid"),
        loss="binary_crossentropy",
        scores=["AUC", metrics.AUC(curve="PR", thresholds=[0.4, 0.5, 0.6]), "precision", "recall"],
    ), (WORDS, (CLASSES > 0).astype("float32"), None)


def attention():
    inputs = layers.Input((12,))
    x = layers.Reshape((4, 3))(inputs)
    x = layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x)
    x = layers.LayerNormalization()(layers.Conv1D(4, 2, padding="same")(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(layers.AveragePooling1D(2)(x))))
    model.compile("sgd", "mse", metrics=["mae", metrics.R2Score()])
    return model, (X, ONE_HOT, None)


def of_the_user():
    return sequential(layers.Dense(3), loss=largest_error, kind=OwnStep), (X, ONE_HOT, None)


def shapes_of_batches(data, *sizes):
    """Batches of the first size, and a last one of the second."""
    leaves, structure = jax.tree.flatten(data)
    return Shapes(*[ResidentRows(tuple(leaves), structure, sum(sizes), sizes[0], len(sizes))] * 2)


def traced(model, data, *sizes):
    shapes = shapes_of_batches(data, *sizes)
    building.build_symbolically(model, shapes.first_batch())
    found = trace(model, shapes)
    complete(found, model, shapes)
    return found


def leaves_of(data, numbers):
    return [jnp.asarray(np.asarray(leaf)[numbers]) for leaf in jax.tree.leaves(data)]


@pytest.mark.parametrize("case", [dense, normalised, recurrent, attention, of_the_user], ids=lambda case: case.__name__)
def test_a_masked_step_answers_what_the_short_step_does(case):
    model, data = case()
    found, short = traced(model, data, FULL, SHORT), traced(model, data, OTHER)
    steps = Steps(Lift(found))
    state = tuple(values_of(part) for part in variables_of(model)[:3])
    numbers = np.array([4, 1, 6, 1, 1, 4, 6, 4])  # the first three are real, the others copies of them
    batch, real = leaves_of(data, numbers), leaves_of(data, numbers[:OTHER])
    for kind in ("train", "test"):
        assert steps.can_mask(kind)

        def masked(state, batch, rows, kind=kind):
            return getattr(steps, kind)(0, {}, state, found.start_metrics, batch, rows=rows)

        def alone(state, batch, kind=kind):
            return getattr(Steps(Lift(short)), kind)(0, {}, state, short.start_metrics, batch)

        rows = np.int32(OTHER)
        got = compile_function(masked, (state, batch, rows), quick=True).call(state, batch, rows)
        expected = compile_function(alone, (state, real), quick=True).call(state, real)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=2e-6)


def masked(function, *arguments, rows=4, short=3):
    """Masking of a function whose arguments have `rows` rows in its one trace and `short` in the other."""
    cut = [argument[:short] for argument in arguments]
    forms = [canonical_form(jax.make_jaxpr(function)(*each)) for each in (arguments, cut)]
    return forms[0], masking_of(*forms, rows, short)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.sort(x, axis=0)[0],
        lambda x: jnp.sum(x[::-1] * x),
        lambda x: jnp.sum(x[1:] - x[:-1]),
        lambda x: jnp.sum(x[jnp.argsort(jnp.arange(x.shape[0]))] * x),
        lambda x: jnp.sum(jax.lax.map(jnp.sum, x)),
        lambda x: jnp.sum(x.T.reshape(-1)[: x.shape[0]]),
        lambda x: jnp.sum(x) * math.sqrt(x.shape[0]),
        lambda x: jnp.sum(jax.random.normal(jax.random.key(0), (2, x.shape[0]))) + jnp.sum(x),
        lambda x: jnp.linalg.det(x.T @ x) + jnp.sum(jnp.linalg.qr(x)[0]),
        lambda x: x * 2,
    ],
)
def test_what_mixes_rows_is_refused_with_a_reason(function):
    _, found = masked(function, jnp.ones((4, 2)))
    assert isinstance(found, Mismatch) and found.reason


@pytest.mark.parametrize(
    "function",
    [
        lambda x: jnp.mean(x, axis=0),
        lambda x: jnp.sum(x) * (1 / x.shape[0]),
        lambda x: jnp.sum(x) / jnp.prod(jnp.array(x.shape)),
        lambda x: jnp.array([jnp.max(x), jnp.min(x), jnp.argmax(x[:, 0]), jnp.any(x > 3), jnp.all(x < 3)]),
        lambda x: jnp.sum(jnp.cumsum(x[:, 0]) * x[:, 1]) + jnp.sum(jax.lax.cumsum(x, reverse=True) * x),
        lambda x: jax.nn.logsumexp(x @ x.T, axis=1).sum(),
        lambda x: jnp.zeros(3).at[jnp.argmax(x, axis=1)].add(x[:, 0]),
        lambda x: jnp.zeros(3).at[jnp.argmax(x, axis=1)].max(x[:, 0]),
        lambda x: jnp.sum(x.reshape(-1) * jax.random.normal(jax.random.key(0), (x.size,))),
        lambda x: jax.lax.fori_loop(0, 3, lambda _, w: w - 0.1 * x.T @ (x @ w - 1), jnp.ones(2)),
        lambda x: jax.lax.cond(jnp.sum(x) > 0, jnp.sum, jnp.mean, x),
        lambda x: jax.lax.scan(lambda c, column: (c + column, jnp.mean(c)), jnp.zeros(x.shape[0]), x.T)[1],
        lambda x: jax.grad(lambda w: jnp.mean(jax.checkpoint(jnp.sin)(x @ w)))(jnp.ones(2)),
        lambda x: jnp.mean(jnp.stack([x, 2 * x], axis=1).reshape(-1, 2), axis=0),
    ],
)
def test_what_is_made_of_first_rows_is_exact(function):
    x = jnp.array(RNG.normal(size=(4, 2)), "float32")
    form, found = masked(function, x)
    assert isinstance(found, Masking), found
    for rows in (1, 4):
        numbers = np.concatenate([np.arange(rows), np.full(4 - rows, rows - 1)])
        (got,) = found.evaluate(form, [x[numbers]], {}, jnp.int32(rows))
        np.testing.assert_allclose(got, function(x[:rows]), rtol=2e-6, atol=1e-6)


def test_rows_that_are_not_real_are_hidden_whatever_they_hold():
    # Noise is drawn for each row, so a copied row's may be infinite where no real one's is: both operands are masked.
    def gradient(x):
        noise = jax.random.uniform(jax.random.key(0), x.shape)
        return (x / noise).T @ (x / noise)

    form, found = masked(gradient, jnp.ones((4, 2)))
    assert isinstance(found, Masking)
    filled = jnp.array([[1.0, 2.0], [3.0, 4.0], [jnp.inf, jnp.nan], [jnp.nan, 1.0]])
    (got,) = found.evaluate(form, [filled], {}, jnp.int32(2))
    np.testing.assert_allclose(got, gradient(filled[:2]), rtol=1e-5)


def test_numbers_of_a_full_batch_stay_to_the_bit():
    # A seventh of ten thousand rows cannot be scaled there and back without rounding.
    form, found = masked(lambda x: jnp.sum(x) * (x.shape[0] / 7.0), jnp.ones(10_001), rows=10_001, short=77)
    assert isinstance(found, Masking)
    (got,) = found.evaluate(form, [jnp.ones(10_001)], {}, jnp.int32(10_001))
    assert float(got) == float(np.float32(10_001) * np.float32(10_001 / 7.0))


def test_a_member_whose_numbers_differ_has_them_scaled():
    forms = [
        canonical_form(jax.make_jaxpr(lambda x, scale=scale: jnp.sum(x) * (scale / x.shape[0]))(jnp.ones(rows)))
        for scale, rows in ((1.0, 4), (1.0, 3), (5.0, 4))
    ]
    found = masking_of(*forms[:2], 4, 3)
    assert isinstance(found, Masking)
    (hole,) = found.counts
    (got,) = found.evaluate(forms[0], [jnp.ones(4)], {hole: jnp.float32(forms[2].values[hole])}, jnp.int32(2))
    assert float(got) == 5.0
