"""Data that come batch by batch: one pass feeds every member, and each curve is `model.fit`'s."""

import keras
import numpy as np
import pytest
from marks import needs_jax
from populations import NoFallback, dense_model, equals_model_fit, make_task, refuse, train

from manyfit.core.records import Ending, Plan
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population
from manyfit.training.population import data as data_module

pytestmark = needs_jax

RNG = np.random.default_rng(11)
X = RNG.normal(size=(38, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
VALUES = [
    {"learning_rate": 0.01, "rate": 0.9},
    {"learning_rate": 0.03, "rate": 0.8},
    {"learning_rate": 0.02, "rate": 0.7},
]
HELD_OUT = (X[:9], Y[:9])


class Sequence(keras.utils.PyDataset):
    """Batches of 8, the last one short; counts how often it is read."""

    def __init__(self, rows=38):
        super().__init__()
        self.rows, self.reads = rows, 0

    def __len__(self):
        return (self.rows + 7) // 8

    def __getitem__(self, index):
        self.reads += 1
        rows = slice(8 * index, min(self.rows, 8 * index + 8))
        return X[rows], Y[rows]


def endless():
    while True:
        for start in range(0, 32, 8):
            yield X[start : start + 8], Y[start : start + 8]


def test_py_dataset_with_a_short_batch_and_streamed_validation():
    population = equals_model_fit(
        dense_model,
        lambda: (Sequence(),),
        {"epochs": 3, "shuffle": False, "validation_data": lambda: Sequence(20), "validation_freq": 2},
        VALUES,
    )
    (record,) = population.programs().records
    assert record.members == 3


def test_endless_generator():
    equals_model_fit(
        dense_model,
        lambda: (endless(),),
        {"epochs": 2, "steps_per_epoch": 3, "validation_data": HELD_OUT, "shuffle": False},
        VALUES[:2],
    )


def test_steps_per_epoch_goes_on_through_the_rows():
    equals_model_fit(
        dense_model,
        lambda: (X[:32], Y[:32]),
        {"epochs": 4, "batch_size": 4, "steps_per_epoch": 2, "shuffle": False, "validation_data": HELD_OUT,
         "validation_steps": 1},
        VALUES[:2],
    )  # fmt: skip


def test_resident_rows_with_streamed_validation_and_class_weights():
    y = (Y > 0).astype("int32")

    class Labels(Sequence):
        def __getitem__(self, index):
            x, _ = super().__getitem__(index)
            return x, y[8 * index : 8 * index + len(x)]

    def build(hp):
        model = dense_model(hp)
        model.compile(keras.optimizers.SGD(hp["learning_rate"]), loss="binary_crossentropy")
        return model

    equals_model_fit(
        build,
        lambda: (X, y),
        {"epochs": 2, "batch_size": 8, "shuffle": False, "class_weight": {0: 1.0, 1: 3.0}, "validation_data": Labels},
        VALUES[:2],
    )


def test_arrays_too_large_for_the_device_stream(monkeypatch):
    monkeypatch.setattr(data_module, "free_bytes", lambda: 100)
    equals_model_fit(
        dense_model,
        lambda: (X, Y),
        {"epochs": 2, "batch_size": 8, "shuffle": False, "validation_split": 0.2},
        VALUES[:2],
    )


def test_one_pass_feeds_every_member():
    dataset = Sequence(32)
    task = make_task(dense_model, lambda: (dataset,), {"epochs": 3, "shuffle": False})
    plans = [Plan(str(n), 0, VALUES[n % 3], seed=n) for n in range(6)]
    supply = train(Population(NoFallback(), population_size=6, notify=refuse), task, plans)
    assert len(supply.results) == 6
    # 4 batches x 3 epochs, and the one that Keras looks at beforehand: not six times as many.
    assert dataset.reads <= 4 * 3 + 2 + dataset.max_queue_size


def test_a_shape_that_comes_up_late_joins_members_that_wait():
    class Growing(Sequence):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x[: 8 - index], y[: 8 - index]

    task = make_task(dense_model, lambda: (Growing(24),), {"epochs": 2, "shuffle": False})
    plans = [Plan(str(n), 0, VALUES[n % 3], seed=n) for n in range(5)]
    supply = train(Population(NoFallback(), population_size=2, notify=refuse), task, plans)
    assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}


def test_a_spent_generator_says_what_to_pass_instead():
    once = ((X[start : start + 8], Y[start : start + 8]) for start in (0, 8))
    task = make_task(dense_model, lambda: (once,), {"epochs": 3, "steps_per_epoch": 2, "shuffle": False})
    with pytest.warns(UserWarning, match="ran out of data"):
        supply = train(Population(NoFallback(), notify=refuse), task, [Plan("0", 0, VALUES[0], seed=1)])
    result = supply.results["0", 0]
    assert result.ending is Ending.FAILED
    assert "PyDataset" in result.message


@pytest.mark.parametrize("times", [1, 100])
def test_an_error_of_the_data_ends_those_that_meet_it_alone(times):
    failures = []

    class Broken(Sequence):
        def __getitem__(self, index):
            if index == 2 and len(failures) < times:
                failures.append(index)
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    told = []
    task = make_task(dense_model, lambda: (Broken(),), {"epochs": 2, "shuffle": False})
    plans = [Plan(str(n), 0, VALUES[n], seed=1) for n in range(2)]
    supply = train(Population(KerasFit(), notify=told.append), task, plans)
    assert len(told) == 1 and "the disk is gone" in told[0]
    for result in supply.results.values():
        if times == 1:  # nobody's fault: each is trained alone, and does not meet it
            assert result.ending is Ending.COMPLETED and result.num_epochs == 2
        else:
            assert result.ending is Ending.FAILED and "the disk is gone" in result.message


def test_an_error_of_a_generator_ends_all_that_read_it():
    def batches():
        yield X[:8], Y[:8]
        yield X[:8], Y[:8]
        raise OSError("the disk is gone")

    task = make_task(dense_model, lambda: (batches(),), {"epochs": 2, "steps_per_epoch": 2, "shuffle": False})
    plans = [Plan(str(n), 0, VALUES[n], seed=1) for n in range(2)]
    supply = train(Population(NoFallback(), notify=refuse), task, plans)
    for result in supply.results.values():
        assert result.ending is Ending.FAILED and "the disk is gone" in result.message
        assert result.num_epochs == 1


def test_tf_data_with_a_short_batch():
    tf = pytest.importorskip("tensorflow", reason="tf.data is TensorFlow's")
    equals_model_fit(
        dense_model,
        lambda: (tf.data.Dataset.from_tensor_slices((X, Y)).batch(8),),
        {
            "epochs": 2,
            "shuffle": False,
            "validation_data": lambda: tf.data.Dataset.from_tensor_slices(HELD_OUT).batch(4),
        },
        VALUES[:2],
    )
