"""Members as one compiled program: equal to `model.predict`, with a way back where that cannot be."""

import keras
import numpy as np
import pytest
from marks import only_on

from manyfit.ensemble import prediction, together
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.pools.means import LinearPool
from manyfit.ensemble.prediction import EnsembleProgram
from manyfit.ensemble.problem import PredictionTask

pytestmark = only_on("jax", "one program for all members needs JAX")

X = np.random.default_rng(0).normal(size=(300, 6)).astype("float32")


def network(seed, *layers, inputs=(6,)):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.layers.Input(inputs), *layers, keras.layers.Dense(3, "softmax")])


def dense(seed, units=5):
    dropout = keras.layers.Dropout(0.1 * (seed + 1))
    return network(seed, keras.layers.Dense(units, "relu"), keras.layers.BatchNormalization(), dropout)


def check(models, x, batch_size=64):
    program = EnsembleProgram([EnsembleMember(f"m{k}", model=model) for k, model in enumerate(models)])
    outputs = program.predict(x, batch_size=batch_size)
    for output, model in zip(outputs, models, strict=True):
        np.testing.assert_allclose(output, model.predict(x, verbose=0), atol=1e-6)
    return program


def test_one_structure_is_one_stack():
    """Names, seeds and dropout rates do not matter at prediction."""
    program = check([dense(seed) for seed in range(4)], X)
    assert program.compiled
    assert program.group_sizes == [4]


def test_other_structures_run_beside_it():
    program = check([dense(0), dense(1), dense(2, units=7)], X)
    assert sorted(program.group_sizes) == [1, 2]


@pytest.mark.parametrize("num_rows", [1, 2, 63, 64, 65, 300])
def test_any_number_of_rows(num_rows):
    check([dense(0), dense(1)], X[:num_rows])


def test_layers_with_state_beyond_their_variables_are_not_stacked():
    models = []
    for seed in range(2):
        adapted = keras.layers.Normalization()
        adapted.adapt(X * (seed + 2) + seed)
        models.append(network(0, adapted))
    program = check(models, X)
    assert program.compiled
    assert not program.stacked


def test_convolutions_run_side_by_side_on_a_cpu():
    layers = lambda: (keras.layers.Conv2D(3, 3), keras.layers.Flatten())  # noqa: E731
    models = [network(seed, *layers(), inputs=(6, 6, 1)) for seed in range(2)]
    program = check(models, np.random.default_rng(0).normal(size=(10, 6, 6, 1)).astype("float32"))
    assert program.group_sizes == [1, 1]


def test_weights_that_change_are_noticed():
    models = [dense(0), dense(1)]
    program = check(models, X)
    models[1].set_weights([w + 0.1 for w in models[1].get_weights()])
    np.testing.assert_allclose(program.predict(X, batch_size=64)[1], models[1].predict(X, verbose=0), atol=1e-6)


def test_double_precision_and_other_rows_than_arrays():
    check([dense(0), dense(1)], X.astype("float64"))
    models = [dense(0), dense(1)]
    program = EnsembleProgram([EnsembleMember(f"m{k}", model=model) for k, model in enumerate(models)])
    tensor = keras.ops.convert_to_tensor(X)
    np.testing.assert_allclose(program.predict(tensor, batch_size=64)[0], models[0].predict(X, verbose=0), atol=1e-6)


def test_inputs_within_inputs():
    def deep(seed):
        keras.utils.set_random_seed(seed)
        one, other, third = keras.Input((6,)), keras.Input((6,)), keras.Input((6,), name="c")
        joined = keras.layers.Concatenate()([one, other, third])
        return keras.Model({"deep": {"a": one, "b": [other]}, "c": third}, keras.layers.Dense(2)(joined))

    program = check([deep(seed) for seed in range(3)], {"deep": {"a": X, "b": [2 * X]}, "c": X.astype("float64")})
    assert program.compiled and program.group_sizes == [3]


def test_layers_that_cannot_be_traced_run_by_themselves():
    @keras.saving.register_keras_serializable("manyfit_tests")
    class Stubborn(keras.layers.Layer):
        def compute_output_spec(self, inputs):
            return keras.KerasTensor(inputs.shape, inputs.dtype)

        def call(self, inputs):
            return inputs * float(np.asarray(keras.ops.sum(inputs[:1]) * 0 + 1))

    models = [network(seed, Stubborn()) for seed in range(2)]
    for model in models:
        model.compile(run_eagerly=True)
    program = check(models, X[:8])
    assert not program.compiled


def test_many_rows_are_predicted_in_parts(monkeypatch):
    members = [EnsembleMember(f"m{k}", model=dense(k)) for k in range(3)]
    ensemble = Ensemble(members, LinearPool(np.array([0.5, 0.25, 0.25])), PredictionTask.MULTICLASS, num_outputs=3)
    x = np.random.default_rng(1).normal(size=(1000, 6)).astype("float32")
    whole = ensemble.predict(x, batch_size=64)
    rows = []
    predict = EnsembleProgram.predict

    def counted(program, some, **options):
        rows.append(len(some))
        return predict(program, some, **options)

    monkeypatch.setattr(EnsembleProgram, "predict", counted)
    monkeypatch.setattr(together, "_MOST_BYTES", 130 * 3 * 3 * 4)  # the answers of three members for 130 rows
    np.testing.assert_allclose(ensemble.predict(x, batch_size=64), whole, rtol=1e-6)
    # One batch tells how much an answer takes; then two batches each, and the rest is never less than one.
    assert rows == [64, *[128] * 6, 168]


def test_no_more_than_a_few_batches_are_on_the_device_at_once():
    waiting = []

    class Answer:
        def __init__(self, rows):
            self.rows = rows
            waiting.append(self)

        def __array__(self, dtype=None, copy=None):
            if self in waiting:
                waiting.remove(self)
            return self.rows[None]

    most = []

    def run(rows):
        answers = [Answer(rows)]
        most.append(len(waiting))
        return answers

    batches = (np.full((4, 2), float(number)) for number in range(50))
    [found] = prediction._in_batches(run, batches, 199)
    assert max(most) == prediction._AHEAD + 1
    np.testing.assert_array_equal(found[0, :, 0], np.repeat(np.arange(50.0), 4)[:199])
