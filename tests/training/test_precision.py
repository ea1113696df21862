"""Precision: policies per trial, float32 where it matters, loss scales and what becomes of them."""

import keras
import numpy as np
import pytest
from marks import needs_jax
from tiny import four_parts

import manyfit as kt
from manyfit.core.errors import FatalValueError
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task
from manyfit.training.hardware import Hardware
from manyfit.training.keras_fit import KerasFit
from manyfit.training.precision import best_precision, built_with, check_precision, sentence

JAX = keras.backend.backend() == "jax"
RNG = np.random.default_rng(5)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")


def build(hp):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2, activation="softmax")]
    )
    model.compile(keras.optimizers.SGD(hp["learning_rate"]), "sparse_categorical_crossentropy")
    return model


def half(hp):
    return built_with("float16", build, hp)


def trainers():
    from manyfit.training.population import Population

    return {"fit": KerasFit(), "population": Population(KerasFit())}


def trained(trainer, x, *, epochs=2, seeds=(7,)):
    plans = [Plan(str(seed), 0, {"learning_rate": 1e-5}, seed=seed) for seed in seeds]
    supply = ListSupply(plans)
    arguments = {"epochs": epochs, "batch_size": 16, "shuffle": False, "verbose": 0}
    trainer.train(supply, Task(half, Call((x, Y), arguments), objective=Objective("loss", "min")))
    return [supply.results[plan.key] for plan in plans]


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (Hardware("cpu", 1, "2 cores"), "float32"),
        (Hardware("tpu", 4, "TPU v5e"), "bfloat16"),
        (Hardware("gpu", 1, "NVIDIA H100", (9, 0)), "bfloat16"),
        (Hardware("gpu", 1, "Tesla V100", (7, 0)), "float16"),
        (Hardware("gpu", 1, "Tesla P100", (6, 0)), "float32"),
        (Hardware("gpu", 1, "some GPU"), "float32"),
    ],
)
def test_auto_picks_by_device_and_says_why(device, expected):
    chosen, reason = best_precision(device)
    assert chosen == expected and reason


@pytest.mark.parametrize("wrong", ["mixed_float16", "half", 16])
def test_other_names_are_refused(wrong):
    with pytest.raises(FatalValueError) as error:
        check_precision(wrong)
    instead = four_parts(error.value)[3]
    assert 'precision="float16"' in instead if wrong == "mixed_float16" else "hp.Choice" in instead


@pytest.mark.backends
def test_on_a_cpu_auto_is_float32_and_half_precision_is_allowed_with_a_word():
    assert sentence("auto").startswith('precision="auto": float32')
    assert "rarely faster" in sentence("float16")
    assert sentence("float32") is None and sentence(None) is None


@pytest.mark.backends
def test_the_global_policy_is_what_it_was_whatever_the_build_function_does():
    def sets_it(hp):
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        keras.config.set_dtype_policy("mixed_float16")
        return build(hp)

    built_with("bfloat16", sets_it, {"learning_rate": 0.1})
    assert keras.config.dtype_policy().name == "float32"
    with pytest.raises(KeyError):
        built_with("float16", build, {})
    assert keras.config.dtype_policy().name == "float32"


def _functional():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(4, activation="tanh", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Activation("softmax", name="out")(keras.layers.Dense(2)(hidden)))


def _nested():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="hidden"), _functional()])


@pytest.mark.backends
@pytest.mark.parametrize("make", [_functional, _nested])
def test_outputs_and_softmax_are_float32_and_the_rest_is_not(make):
    model = built_with("float16", lambda hp: make(), None)
    assert keras.backend.standardize_dtype(model(X[:2]).dtype) == "float32"
    assert model.get_layer("hidden").compute_dtype == "float16"
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


@pytest.mark.backends
def test_a_sure_prediction_keeps_its_small_probability():
    model = half({"learning_rate": 0.1})
    model.layers[-1].set_weights([np.zeros((4, 2), "float32"), np.array([0.0, 20.0], "float32")])
    probability = float(model.predict(X[:1], verbose=0)[0, 0])
    assert probability == pytest.approx(np.exp(-20.0), rel=1e-3)  # 2e-9; float16 ends at 6e-8


@needs_jax
def test_float16_in_a_population_is_kerass_own_mixed_precision():
    [alone, together] = [trained(trainer, X, epochs=3)[0] for trainer in trainers().values()]
    np.testing.assert_allclose(together.history["loss"], alone.history["loss"], rtol=2e-3)
    assert together.history["overflows"] == alone.history["overflows"] == [0.0] * 3
    assert together.history["loss_scale"] == alone.history["loss_scale"] == [2.0**15] * 3


def counted_by_hand(x, epochs, seed):
    """Overflows after each epoch, from a loop over `train_on_batch`: the scale halves with each of them."""
    keras.utils.set_random_seed(seed)
    model, counts, count = half({"learning_rate": 1e-5}), [], 0
    for _ in range(epochs):
        for start in range(0, len(x), 16):
            before = float(model.optimizer.dynamic_scale) if model.optimizer.built else 2.0**15
            model.train_on_batch(x[start : start + 16], Y[start : start + 16])
            count += float(model.optimizer.dynamic_scale) < before
        counts.append(float(count))
    return counts


@needs_jax
@pytest.mark.parametrize("name", ["fit", "population"])
def test_overflows_are_counted_per_member(name):
    x = X.copy()
    x[16:32] *= 1e4  # one batch of four, whose gradients overflow until the scale has come down
    x[32:48] *= 1e3
    counts = [counted_by_hand(x, 4, seed) for seed in (7, 8)]
    assert all(0 < count[-1] < 16 for count in counts) and counts[0] != counts[1]
    for result, count in zip(trained(trainers()[name], x, epochs=4, seeds=(7, 8)), counts, strict=True):
        assert result.history["overflows"] == count
        assert result.history["loss_scale"][-1] == 2.0 ** (15 - count[-1])
        assert result.ending is Ending.COMPLETED


@needs_jax
@pytest.mark.parametrize("name", ["fit", "population"])
def test_a_loss_scale_that_collapses_is_an_ending_with_a_reason(name):
    x = X * np.float32(1e6)  # inf in float16
    [result] = trained(trainers()[name], x, epochs=50)
    assert result.ending is Ending.DIVERGED
    assert "loss scale collapsed" in result.message and 'precision="bfloat16"' in result.message
    assert len(result.history["overflows"]) == 4  # of 4 steps each, from 2^15 to below 1 with no step taken


def search(tmp_path, precision, **options):
    def model(hp):
        return build({"learning_rate": hp.Float("learning_rate", 0.01, 0.1)})

    tuner = kt.RandomSearch(
        model,
        "val_loss",
        max_trials=2,
        seed=0,
        directory=tmp_path,
        precision=precision,
        executions_per_trial=1,
        **options,
    )
    tuner.search(X, Y, validation_split=0.25, epochs=1, verbose=0)
    return tuner


def test_precision_is_searchable_and_retraining_may_have_its_own(tmp_path):
    tuner = search(tmp_path, lambda hp: hp.Choice("precision", ["float32", "bfloat16"]))
    tried = [row.values["precision"] for row in tuner.results()]
    assert set(tried) <= {"float32", "bfloat16"} and "precision" in {hp.name for hp in tuner.oracle.get_space().space}
    best = tuner.get_best_models()[0]
    expected = tuner.get_best_hyperparameters()[0]["precision"]
    assert best.layers[0].compute_dtype == expected
    [model] = tuner.retrain(1, precision="float16", verbose=0)
    assert model.layers[0].compute_dtype == "float16" and model.layers[-1].compute_dtype == "float32"
    assert set(model.history.history["overflows"]) == {0.0}
    assert keras.config.dtype_policy().name == "float32"


@pytest.mark.backends
def test_the_policy_that_a_user_has_set_outlives_every_trial(tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        tuner = search(tmp_path, None, population=False, scheduler=kt.ASHA(max_epochs=2))  # pausable: in threads
        assert keras.config.dtype_policy().name == "mixed_bfloat16"
        assert {model.layers[0].compute_dtype for model in tuner.get_best_models(2)} == {"bfloat16"}
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.backends
def test_a_search_in_half_precision_shows_its_overflows(tmp_path):
    tuner = search(tmp_path, "float16")
    assert [row.metrics["overflows"] for row in tuner.results()] == [0.0, 0.0]
    assert "overflows" in str(tuner.results())
