"""Twins: members of other widths, activations, depths and so on in one wide model, each as its own model trains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import keras
import numpy as np
import pytest

from manyfit.training.population.arrays import State, values_of, variables_of
from manyfit.training.population.twins import Outline, Twin, joined, outline_of

layers = keras.layers
# Level 0 would compute the backward pass of tanh in another way in each program.
QUICK = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
STEPS, ROWS = 20, 4


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


def compiled(model: keras.Model, optimizer: Any = "adam", loss: str = "mse", **more: Any) -> keras.Model:
    model.compile(optimizer, loss, metrics=["mae"], **more)
    model.optimizer.build(model.trainable_variables)
    return model


def stacked(*inner: keras.layers.Layer, shape: Sequence[int | None] = (3,), out: int = 2, **more: Any) -> keras.Model:
    return compiled(keras.Sequential([keras.Input(shape), *inner, layers.Dense(out)]), **more)


def state_of(model: keras.Model) -> State:
    return tuple(tuple(map(np.asarray, values_of(part))) for part in variables_of(model)[:3])  # type: ignore[return-value]


def trained(model: keras.Model, state: State, batches: Sequence[Any]) -> tuple[State, list[float]]:
    """The state after a step on each batch, and their losses."""

    def step(state: State, metrics: Any, batch: Any) -> Any:
        logs, new = model.train_step((*state, metrics), batch)
        return tuple(map(tuple, new[:3])), new[3], logs["loss"]

    run = jax.jit(step, compiler_options=QUICK)
    model.reset_metrics()
    metrics, losses = list(values_of(model.metrics_variables)), []
    for batch in batches:
        state, metrics, loss = run(state, metrics, batch)
        losses.append(float(loss))
    return state, losses


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


def same(one: State, other: State, tolerance: float) -> None:
    for part, others in zip(one, other, strict=True):
        for a, b in zip(part, others, strict=True):
            scale = np.max(np.abs(a), initial=1e-3)
            np.testing.assert_allclose(np.asarray(b), np.asarray(a), rtol=tolerance, atol=tolerance * scale)


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
    alone, losses = trained(model, start, batches)
    together, wide_losses = trained(twin.model, wide, batches)
    assert not np.isnan(losses).any()
    np.testing.assert_allclose(wide_losses, losses, rtol=tolerance)
    same(alone, embedding.narrow(together), tolerance)
    assert not np.array_equal(alone[0][0], start[0][0])  # it has learned something
    # Weights that are not there are exactly 0, and so is what optimizers keep of their gradients.
    num_weights = len(together[0])
    outside = embedding.outside(together)
    assert not any(np.any(array) for array in outside[:num_weights])
    return together


LAYERS: dict[str, Callable[[int], keras.Model]] = {
    "dense": lambda u: stacked(layers.Dense(u, activation="relu"), layers.Dense(u + 1, activation="tanh")),
    "dense of a sigmoid": lambda u: stacked(layers.Dense(u, activation="sigmoid")),
    "dense of a softplus layer": lambda u: stacked(layers.Dense(u), layers.Activation("softplus")),
    "leaky relu": lambda u: stacked(layers.Dense(u), layers.LeakyReLU(negative_slope=0.1)),
    "flatten": lambda u: stacked(layers.Dense(u, activation="elu"), layers.Flatten(), shape=(2, 3)),
    "no bias, penalties": lambda u: stacked(
        layers.Dense(u, use_bias=False, kernel_regularizer="l2", kernel_constraint=keras.constraints.UnitNorm())
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_narrow_member_trains_as_alone(name, float64):
    narrow, wide = LAYERS[name](3), LAYERS[name](5)
    trains_alike(twin_of(narrow, wide), narrow)


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
    assert both.runs[1].places[0].width == 32 and joined([small]).runs[1].places[0].width == 4
    assert both.covers(small) and both.covers(large) and not small.covers(large)
    assert small.flops == 3 * (3 * 3 + 3 * 2) and both.flops == 3 * (3 * 32 + 32 * 2)
