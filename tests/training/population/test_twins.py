"""Twins: members of other widths, activations, depths and so on in one wide model, each as its own model trains it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np
import pytest
from wide_searches import quickly_compiled, trained

from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.population.arrays import State, values_of, variables_of
from manyfit.training.population.embeddings import RULES, table
from manyfit.training.population.twins import Outline, Twin, joined, outline_of
from manyfit.training.seeding import generator_states, has_drawn

layers = keras.layers
STEPS, ROWS = 20, 4


@pytest.fixture(scope="module", autouse=True)
def little_optimised() -> Iterator[None]:
    """What building models compiles takes longer than the steps."""
    with quickly_compiled(), quick_draws():
        yield


@pytest.fixture
def float64() -> Iterator[None]:
    """In float64 rounding is a billion times smaller than any mistake."""
    before = keras.config.floatx()
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield
        keras.config.set_floatx(before)
        keras.config.set_dtype_policy(before)


def compiled(model: keras.Model, optimizer: Any = None, loss: str = "mse", **more: Any) -> keras.Model:
    # Plain descent compiles in a fifth of Adam's time, and moves what has a gradient as well. `OPTIMIZERS` has all.
    optimizer = optimizer or keras.optimizers.SGD(0.05)
    model.compile(optimizer, loss, metrics=["mae"], **more)
    model.optimizer.build(model.trainable_variables)
    # Other first values than 0 and 1, so that all that lies in a wrong place is seen.
    for number, variable in enumerate(model.trainable_variables):
        draw = np.random.default_rng(number).normal(size=variable.shape) / 2
        variable.assign(draw + (variable.name == "gamma"))
    return model


def stacked(*inner: keras.layers.Layer, shape: Sequence[int | None] = (3,), out: int = 2, **more: Any) -> keras.Model:
    return compiled(keras.Sequential([keras.Input(shape), *inner, layers.Dense(out)]), **more)


def reading(*inner: keras.layers.Layer) -> keras.Model:
    """Of rows of four words."""
    return compiled(keras.Sequential([keras.Input((4,), dtype="int32"), *inner, layers.Dense(2)]))


def state_of(model: keras.Model) -> State:
    return tuple(tuple(map(np.asarray, values_of(part))) for part in variables_of(model)[:3])  # type: ignore[return-value]


def batches_for(model: keras.Model, num: int = STEPS) -> list[Any]:
    draw = np.random.default_rng(0)
    shape = [size or 4 for size in model.inputs[0].shape[1:]]
    if model.inputs[0].dtype == "int32":
        xs = draw.integers(0, 5, (num, ROWS, *shape)).astype("int32")
    else:
        xs = draw.normal(size=(num, ROWS, *shape)).astype(keras.config.floatx())
    ys = draw.normal(size=(num, ROWS, *model.outputs[0].shape[1:])).astype(keras.config.floatx())
    return list(zip(xs, ys, strict=True))


def outline(model: keras.Model) -> Outline:
    found = outline_of(model)
    assert found is not None
    return found


def twin_of(*models: keras.Model, multiple: int = 1) -> Twin:
    outlines = list(map(outline, models))
    assert len({each.kind for each in outlines}) == 1
    wide = joined(outlines, multiple)
    assert all(map(wide.covers, outlines))
    return Twin(models[0], wide)


def is_same(one: State, other: State, tolerance: float) -> bool:
    pairs = [
        (np.asarray(a), np.asarray(b))
        for part, rest in zip(one, other, strict=True)
        for a, b in zip(part, rest, strict=True)
    ]
    scales = [np.max(np.abs(a), initial=1e-3) for a, _ in pairs]
    return all(np.allclose(b, a, rtol=tolerance, atol=tolerance * by) for (a, b), by in zip(pairs, scales, strict=True))


def trains_alike(twin: Twin, model: keras.Model, tolerance: float = 1e-9) -> State:
    """Trains a model alone and in its twin, and compares all there is; answers the wide state."""
    embedding, start = twin.embedding(model), state_of(model)
    wide = embedding.widen(start)
    back = embedding.narrow(wide)
    for part, others in zip(start, back, strict=True):
        for one, other in zip(part, others, strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    batches = batches_for(model)
    for quick in (True, False):
        alone, losses = trained(model, start, batches, quick=quick)
        together, wide_losses = trained(twin.model, wide, batches, quick=quick)
        if is_same(alone, embedding.narrow(together), tolerance):
            break
    assert not np.isnan(losses).any()
    np.testing.assert_allclose(wide_losses, losses, rtol=max(tolerance, 1e-6))  # Keras logs them in float32
    assert is_same(alone, embedding.narrow(together), tolerance)
    assert not np.array_equal(alone[0][0], start[0][0])  # it has learned something
    # Weights that are not there are exactly 0, and what optimizers keep of their gradients is what it was at the start.
    outside = embedding.outside(together)
    assert len(outside) == len(together[0]) + len(together[2])
    assert not any(np.any(array) for array in outside)
    return together


LAYERS: dict[str, Callable[[int], keras.Model]] = {
    "dense": lambda u: stacked(layers.Dense(u, activation="relu"), layers.Dense(u + 1, activation="tanh")),
    "dense of a sigmoid": lambda u: stacked(layers.Dense(u, activation="sigmoid")),
    "dense of a softplus layer": lambda u: stacked(layers.Dense(u), layers.Activation("softplus")),
    "leaky relu": lambda u: stacked(
        layers.Dense(u), layers.LeakyReLU(negative_slope=0.1), layers.RepeatVector(2), layers.Flatten()
    ),
    "convolutions": lambda u: stacked(
        layers.Conv2D(u, 2, activation="relu"),
        layers.MaxPooling2D(2),
        layers.Conv2D(u + 1, 2, activation="sigmoid"),
        layers.Flatten(),
        layers.Dense(u + 2, activation="tanh"),
        shape=(6, 6, 2),
    ),
    "strides and dilation": lambda u: stacked(
        layers.Conv1D(u, 3, strides=2, padding="same"),
        layers.Conv1D(u, 2, dilation_rate=2, padding="causal"),
        layers.UpSampling1D(2),
        layers.Cropping1D(1),
        layers.AveragePooling1D(2),
        layers.GlobalMaxPooling1D(),
        shape=(8, 2),
    ),
    "transposed": lambda u: stacked(
        layers.Conv2DTranspose(u, 2, strides=2, activation="gelu"), layers.GlobalAveragePooling2D(), shape=(2, 3, 2)
    ),
    "depthwise": lambda u: stacked(
        layers.Conv2D(u, 1),
        layers.DepthwiseConv2D(2, depth_multiplier=2, activation="tanh"),
        layers.Flatten(),
        layers.Dense(u),
        shape=(3, 3, 2),
    ),
    "separable": lambda u: stacked(
        layers.Conv1D(u, 1),
        layers.SeparableConv1D(u + 1, 2, depth_multiplier=2, activation="softplus"),
        layers.ZeroPadding1D(1),
        layers.Flatten(),
        shape=(4, 2),
    ),
    "batch normalisation": lambda u: stacked(
        layers.Dense(u),
        layers.BatchNormalization(),
        layers.Activation("sigmoid"),
        layers.Dense(u, activation="relu"),
        layers.BatchNormalization(momentum=0.5, center=False, scale=False),
        layers.Dense(4, activation="softmax"),
    ),
    "batch normalisation of channels": lambda u: stacked(
        layers.Conv2D(u, 2, activation="softplus"),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.BatchNormalization(),
        shape=(3, 3, 1),
    ),
    "embedding, recurrent": lambda u: reading(
        layers.Embedding(5, u),
        layers.LSTM(u + 1, return_sequences=True),
        layers.GRU(u, return_sequences=True),
        layers.SimpleRNN(u + 2, activation="relu"),
    ),
    "masked and both ways": lambda u: reading(
        layers.Embedding(5, u, mask_zero=True),
        layers.Dropout(0.0),
        layers.Bidirectional(layers.LSTM(u, return_sequences=True)),
        layers.Bidirectional(layers.GRU(u + 1, reset_after=False), merge_mode="sum"),
    ),
    "flatten": lambda u: stacked(layers.Dense(u, activation="elu"), layers.Flatten(), shape=(2, 3)),
    "no bias, penalties": lambda u: stacked(
        layers.Dense(u, use_bias=False, kernel_regularizer="l2", kernel_constraint=keras.constraints.UnitNorm())
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_narrow_member_trains_as_alone(name, float64):
    narrow, wide = LAYERS[name](3), LAYERS[name](5)
    trains_alike(twin_of(narrow, wide), narrow)


def merged(u: int) -> keras.Model:
    inputs = keras.Input((3,))
    one, other = layers.Dense(u, activation="relu")(inputs), layers.Dense(u, activation="sigmoid")(inputs)
    added, times = layers.Add()([one, other]), layers.Multiply()([one, other])
    both = layers.Average()([layers.Maximum()([added, times]), layers.Minimum()([one, other])])
    return compiled(keras.Model(inputs, layers.Dense(2)(layers.Subtract()([both, one]))))


def test_inputs_of_a_merge_stay_of_one_width(float64):
    narrow, wide = merged(3), merged(5)
    twin = twin_of(narrow, wide)
    assert {run.places[0].width for run in twin.outline.runs if run.layer[0] == "Dense" and run.is_wide} == {5}
    trains_alike(twin, narrow)


def side_by_side(u: int, v: int) -> keras.Model:
    inputs = keras.Input((3,))
    both = layers.Concatenate()([layers.Dense(u, activation="relu")(inputs), layers.Dense(v)(inputs)])
    return compiled(keras.Model(inputs, layers.Dense(2)(layers.Dense(u)(both))))


def test_concatenated_inputs_lie_at_padded_offsets(float64):
    narrow, wide = side_by_side(3, 5), side_by_side(5, 4)
    trains_alike(twin_of(narrow, wide), narrow)


def test_several_inputs_and_outputs_keep_their_places_and_names():
    def build(u: int, last: str = "last") -> keras.Model:
        inputs = [keras.Input((2,), name="a"), keras.Input((3,), name="b")]
        hidden = layers.Dense(u)(layers.Concatenate()([layers.Dense(u)(inputs[1]), layers.Dense(3)(inputs[0])]))
        return compiled_plainly(
            keras.Model(inputs, [layers.Dense(1, name="first")(hidden), layers.Dense(2, name=last)(hidden)])
        )

    def compiled_plainly(model: keras.Model) -> keras.Model:
        model.compile("sgd", {"first": "mse", "last": "mae"} if "last" in model.output_names else "mse")
        return model

    narrow, wide, other = build(2), build(4), build(2, last="another")
    assert outline(other).kind != outline(narrow).kind
    twin = twin_of(narrow, wide).model
    assert twin.output_names == ["first", "last"] and [each.shape[-1] for each in twin.inputs] == [2, 3]
    assert [each.shape[-1] for each in twin.outputs] == [1, 2]


def residual(u: int) -> keras.Model:
    inputs = keras.Input((3,))
    hidden = layers.Dense(3, activation="relu")(layers.Dense(u)(inputs))
    return compiled(keras.Model(inputs, layers.Dense(2)(layers.Add()([inputs, hidden]))))


def test_what_is_added_to_an_input_keeps_its_width(float64):
    narrow, wide = residual(3), residual(6)
    trains_alike(twin_of(narrow, wide), narrow)


def deep(*widths: int, norm: bool = False, rate: float = 0.0, activation: str = "relu") -> keras.Model:
    inner: list[keras.layers.Layer] = []
    for width in widths:
        inner.append(layers.Dense(width, activation=activation))
        if norm:
            inner.append(layers.BatchNormalization())
        if rate:
            inner.append(layers.Dropout(rate))
    return stacked(*inner)


def normalised(u: int, *, has_it: bool = True) -> keras.Model:
    second = [layers.LayerNormalization(center=False, scale=False)] if has_it else []
    return stacked(
        layers.Dense(u, activation="sigmoid"), layers.LayerNormalization(), layers.Dense(u + 1), *second,
        layers.Activation("relu"),
    )  # fmt: skip


def test_layer_normalisation_is_over_the_units_that_are_there(float64):
    narrow, wide = normalised(3), normalised(5, has_it=False)
    trains_alike(twin_of(narrow, wide), narrow, tolerance=1e-4)


def test_normalisations_may_be_absent_or_of_another_kind(float64):
    # To float32 rounding: Keras normalises in float32. Plain descent does not blow up the rounding of a gradient
    # that is 0, as that of a bias in front of a normalisation is.
    kinds = [[], [layers.BatchNormalization()], [layers.LayerNormalization()]]
    models = [
        stacked(layers.Dense(3 + number), *norm, layers.Activation("tanh"), optimizer="sgd")
        for number, norm in enumerate(kinds)
    ]
    twin = twin_of(*models)
    for model in models:
        trains_alike(twin, model, tolerance=1e-5)


def test_a_member_leaves_a_run_behind_its_own_last_place(float64):
    models = [deep(3), deep(4, 2, activation="sigmoid"), deep(2, 5, 3, norm=True)]
    twin = twin_of(*models)
    # None need be as wide as what it stands on: the next layer reads each of the three.
    assert [place.width for place in twin.outline.runs[1].places] == [4, 5, 3]
    for model in models:
        trains_alike(twin, model)


def test_depth_and_dropout_together():
    models = [deep(3, rate=0.3), deep(2, 5, norm=True), deep(4, 3, 2, rate=0.5, activation="tanh")]
    twin = twin_of(*models, multiple=8)
    for model in models:
        trains_alike(twin, model, tolerance=1e-3)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "amsgrad": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "adamax": lambda: keras.optimizers.Adamax(0.01),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "lion": lambda: keras.optimizers.Lion(0.001),
    "lamb": lambda: keras.optimizers.Lamb(0.01),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "global_clipnorm": lambda: keras.optimizers.SGD(0.1, global_clipnorm=0.1),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "moving average": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_overwrite_frequency=3),
    "accumulation": lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.Adam(keras.optimizers.schedules.ExponentialDecay(0.1, 3, 0.9)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_leaves_what_is_not_there_at_zero(name, float64):
    """With a sigmoid, whose gradients of outgoing weights would not be 0 without the mask."""
    models = [stacked(layers.Dense(u, activation="sigmoid"), optimizer=OPTIMIZERS[name]()) for u in (3, 5)]
    trains_alike(twin_of(*models), models[0])


def test_optimizers_of_several_kinds_train_in_one_twin(float64):
    kinds = ("nesterov", "adam", "amsgrad", "adagrad", "ftrl", "nadam", "clipnorm", "moving average", "schedule")
    models = [
        stacked(layers.Dense(3 + number % 3, activation="sigmoid"), optimizer=OPTIMIZERS[kind]())
        for number, kind in enumerate(kinds)
    ]
    twin = twin_of(*models)
    assert len(twin.outline.optimizers) == len(kinds)
    for model in models:
        trains_alike(twin, model)


def test_dropout_drops_the_units_that_it_drops_alone():
    models = [
        stacked(layers.Dense(u, activation="relu"), layers.Dropout(rate), layers.Dense(u + 1), layers.Dropout(0.5))
        for u, rate in ((3, 0.3), (5, 0.6))
    ]
    twin = twin_of(*models, multiple=4)
    for model in models:
        trains_alike(twin, model, tolerance=2e-4)


@pytest.mark.parametrize("shape, noise_shape", [((4, 3), None), ((4, 5, 3), None), ((4, 5, 3), (None, 1, None))])
def test_the_masks_are_those_of_keras_to_the_bit(shape, noise_shape):
    own = layers.Dropout(0.4, noise_shape=noise_shape, seed=7)
    model = stacked(layers.Dense(3), own, shape=shape[1:])
    other = stacked(layers.Dense(6), layers.Dropout(0.1, noise_shape=noise_shape), shape=shape[1:])
    twin = twin_of(model, other)
    wide = twin.embedding(model).widen(state_of(model))
    for variable, value in zip(twin.model.non_trainable_variables, wide[1], strict=True):
        variable.assign(value)
    dropout = next(each for each in twin.model.layers if type(each).__name__ == "WideDropout")
    for _ in range(3):
        mask = np.asarray(own(np.ones(shape, "float32"), training=True))
        padded = np.ones((*shape[:-1], 6), "float32")
        np.testing.assert_array_equal(np.asarray(dropout(padded, training=True))[..., :3], mask)
    np.testing.assert_array_equal(own.seed_generator.state.numpy(), dropout.seed_generator.state.numpy())


def test_a_member_without_dropout_trains_beside_one_with():
    without = stacked(layers.Dense(3, activation="tanh"), layers.Dense(4))
    zero = stacked(layers.Dense(4, activation="tanh"), layers.Dropout(0), layers.Dense(2))
    dropping = stacked(layers.Dense(5, activation="tanh"), layers.Dropout(0.5), layers.Dense(4))
    twin = twin_of(without, zero, dropping)
    for model in (without, zero, dropping):
        trains_alike(twin, model, tolerance=2e-4)


def test_activations_are_chosen_by_number(float64):
    models = [stacked(layers.Dense(u, activation=name)) for u, name in ((3, "relu"), (4, "sigmoid"), (5, "tanh"))]
    twin = twin_of(*models)
    for model in models:
        trains_alike(twin, model)


def test_models_of_other_kinds_have_other_outlines():
    plain = stacked(layers.Dense(3))
    kinds = [
        plain,
        stacked(layers.Dense(3), shape=(4,)),
        stacked(layers.Dense(3), out=1),
        stacked(layers.Dense(3), loss="mae"),
        stacked(layers.Dense(3, use_bias=False)),
        stacked(layers.Dense(3, kernel_regularizer="l1")),
        stacked(layers.Dense(3, activation="softmax")),
        stacked(layers.Dense(3, dtype="bfloat16")),
    ]
    assert len({outline(each).kind for each in kinds}) == len(kinds)
    assert outline(plain).kind == outline(stacked(layers.Dense(9))).kind


def test_an_activation_over_all_units_keeps_its_width():
    narrow, wide = (stacked(layers.Dense(u, activation="softmax")) for u in (3, 5))
    assert outline(narrow).kind != outline(wide).kind


@pytest.mark.parametrize("optimizer", ["adafactor", "muon", "loss_scale"])
def test_optimizers_that_look_at_sizes_have_no_twin(optimizer):
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
    chosen = scaled if optimizer == "loss_scale" else optimizer
    assert outline_of(stacked(layers.Dense(3), optimizer=chosen)) is None


def own_activation(x):
    return x


def test_what_the_user_has_written_has_no_twin():
    class Own(keras.layers.Layer):
        def call(self, inputs):
            return inputs

    assert outline_of(stacked(layers.Dense(3), Own())) is None
    assert outline_of(stacked(layers.Dense(3, activation=own_activation))) is None


def test_a_joined_outline_is_rounded_up_and_covers():
    small, large = outline(stacked(layers.Dense(3))), outline(stacked(layers.Dense(20)))
    both = joined([small, large])
    assert both.runs[1].places[0].width == 24 and joined([small]).runs[1].places[0].width == 4
    assert both.covers(small) and both.covers(large) and not small.covers(large)
    assert small.flops == 3 * (3 * 3 + 3 * 2) and both.flops == 3 * (3 * 24 + 24 * 2)


def test_a_training_that_rests_narrow_goes_on_as_if_it_had_not():
    models = [
        stacked(layers.Dense(u, activation="sigmoid"), layers.Dropout(0.3), layers.Dense(u), optimizer=optimizer)
        for u, optimizer in ((3, "adam"), (5, "rmsprop"))
    ]
    twin = twin_of(*models)
    embedding = twin.embedding(models[0])
    start = embedding.widen(state_of(models[0]))
    batches = batches_for(models[0])
    straight, _ = trained(twin.model, start, batches)
    half, _ = trained(twin.model, start, batches[:10])
    stored = tuple(tuple(np.array(value) for value in part) for part in embedding.narrow(half))
    resumed, _ = trained(twin.model, twin.embedding(models[0]).widen(stored), batches[10:])
    for part, others in zip(embedding.narrow(straight), embedding.narrow(resumed), strict=True):
        for one, other in zip(part, others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_no_number_of_the_users_generators_is_drawn():
    model = stacked(layers.Dense(3, activation="tanh"), layers.Dropout(0.5))
    before = generator_states()
    twin_of(model).embedding(model)
    assert not has_drawn(before)


def test_the_page_shows_the_table_of_what_is_data():
    page = (Path(__file__).parents[3] / "docs" / "population.md").read_text(encoding="utf-8")
    assert page.split("embeddings.table() -->\n")[1].split("\n<!-- end")[0] == table()


def test_every_layer_of_the_table_is_tried():
    """By name, in this file. Those of one, two and three axes are one rule."""
    tried = re.findall(r"layers\.(\w+)\(", Path(__file__).read_text(encoding="utf-8"))
    assert {re.sub(r"\dD", "", name) for name in RULES} <= {re.sub(r"\dD", "", name) for name in tried}
