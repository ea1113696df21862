"""Fused steps and compilation, as options of a tuner."""

import keras
import numpy as np
import pytest
from marks import needs_jax, not_on, only_on
from tiny import build, four_parts

import manyfit as kt
from manyfit.core.errors import FatalValueError
from manyfit.training.model_options import ModelOptions

BACKEND = keras.backend.backend()
RNG = np.random.default_rng(5)
X = RNG.normal(size=(64, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


def curves(tmp_path, **options):
    tuner = kt.RandomSearch(build, "loss", max_trials=1, seed=0, directory=tmp_path, overwrite=True, **options)
    tuner.search(X, Y, epochs=2, batch_size=8, shuffle=False, verbose=0)
    return tuner, [point["loss"] for point in tuner.results().curves]


@pytest.mark.backends
@not_on("torch", "Keras runs one step per call on torch: an error, tested below")
def test_fused_steps_change_nothing_but_the_number_of_calls(tmp_path):
    _, one = curves(tmp_path, population=False, steps_per_execution=1)
    tuner, four = curves(tmp_path, population=False, steps_per_execution=4)
    np.testing.assert_allclose(one, four, rtol=1e-5)
    assert tuner.get_best_models()[0].steps_per_execution == 4


@needs_jax
def test_a_population_fuses_whole_epochs_whatever_is_asked(tmp_path):
    _, alone = curves(tmp_path, population=False, steps_per_execution=4)
    tuner, together = curves(tmp_path, steps_per_execution=4)
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert tuner.programs().records[0].members == 1


@needs_jax
def test_what_is_not_to_be_compiled_trains_through_fit(tmp_path):
    tuner, _ = curves(tmp_path, jit_compile=False)
    assert "jit_compile=False" in str(tuner.programs())


@pytest.mark.backends
@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"steps_per_execution": 0}, "at least 1"),
        ({"steps_per_execution": 2.5}, "at least 1"),
        ({"jit_compile": "yes"}, "True, False"),
        ({"devices": 4}, "data_parallel"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_built(wrong, word):
    with pytest.raises(FatalValueError) as error:
        ModelOptions(**wrong)
    assert word in four_parts(error.value)[2]


@pytest.mark.backends
@only_on("torch", "torch only")
def test_torch_has_no_fused_steps_and_says_so():
    with pytest.raises(FatalValueError, match="on torch, where Keras runs one step per call"):
        ModelOptions(steps_per_execution=2)


@pytest.mark.backends
@not_on("jax", "JAX has keras.distribution")
def test_other_backends_have_no_distribution_and_say_what_they_have():
    with pytest.raises(FatalValueError) as error:
        ModelOptions(devices="data_parallel")
    assert ("MirroredStrategy" in four_parts(error.value)[3]) is (BACKEND == "tensorflow")
