"""Row counts are data: folds, winners and other data of another size train in programs that are there."""

import keras
import numpy as np
import pytest
from keras import layers
from marks import needs_jax
from populations import NoFallback

import manyfit as kt
from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task
from manyfit.training.population import families, learned
from manyfit.training.population.arrays import rounded_up, with_room
from manyfit.training.population.program import SharedProgram
from manyfit.training.population.trainer import Population

pytestmark = needs_jax

RNG = np.random.default_rng(0)
X = RNG.normal(size=(103, 5)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int32")

ACTIVATIONS = ["relu", "tanh", "elu", "gelu", "softplus"]


def model_of(dropout, learning_rate):
    """One structure."""
    model = keras.Sequential(
        [
            layers.Input((5,)),
            layers.Dense(4, activation="relu"),
            layers.Dropout(dropout),
            layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(learning_rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build(hp):
    """Trials differ in a number of their steps and in one of their states."""
    return model_of(hp.Float("dropout", 0.1, 0.5), hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))


def search(folder, **options):
    return kt.RandomSearch(build, "val_loss", max_trials=4, seed=0, directory=folder, project_name="rows", **options)


def compilations(tuner):
    return sum(record.compilations for record in tuner.programs().records)


def test_folds_of_several_sizes_share_a_program(tmp_path):
    tuner = search(tmp_path)
    tuner.search(X, Y, epochs=2, batch_size=16, verbose=0, cross_validation=5)  # 103 rows: folds of 20 and 21
    (record,) = tuner.programs().records
    assert record.members == 20 and record.versions == 1
    assert record.compilations <= 2  # one for all slots of a core, and one for what is left at the end


def test_a_structure_is_compiled_once_for_search_confirmation_and_retraining(tmp_path):
    tuner = search(tmp_path, population_size=1)
    tuner.search(X, Y, epochs=2, batch_size=16, verbose=0, validation_split=0.2)
    assert compilations(tuner) == 1
    tuner.confirm(1, max_executions=8)
    tuner.retrain(1)  # on all rows, without a validation
    assert compilations(tuner) == 1
    assert all(record.versions == 1 for record in tuner.programs().records)


def trained(population, x, y, **arguments):
    """The losses of one execution."""
    supply = ListSupply([Plan("0", 0, {"dropout": 0.3, "learning_rate": 0.01}, seed=3)])
    call = Call((x, y), {"epochs": 2, "batch_size": 16, "verbose": 0, **arguments})
    population.train(supply, Task(lambda values: model_of(**values), call, objective=Objective("loss", "min")))
    return supply.results["0", 0].history["loss"]


def test_other_data_of_the_same_kind_train_in_the_program_that_is_there():
    population = Population(NoFallback(), population_size=1)
    first = trained(population, X, Y)
    other = trained(population, X[:97], Y[:97])  # a last batch of one row; before, it had seven
    (record,) = population.programs().records
    assert (record.members, record.compilations) == (2, 1)
    fresh = [trained(Population(NoFallback(), population_size=1), x, y) for x, y in ((X, Y), (X[:97], Y[:97]))]
    np.testing.assert_allclose([first, other], fresh, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 100, 1000, 60_000])
def test_arrays_are_an_eighth_longer_at_most(count):
    room = rounded_up(count)
    assert count <= room <= count * 1.125
    (longer,) = with_room([np.arange(count, dtype="float32").reshape(count, 1)], room)
    assert longer.shape == (room, 1) and longer[:count, 0].tolist() == list(range(count))


def test_programs_that_nobody_needs_rest_and_are_read_again(tmp_path, monkeypatch):
    """Structures come and come again: with few passes held at a time the scores are those of a search with all."""

    def build_one_of_several(hp):
        model = keras.Sequential([layers.Input((5,)), layers.Dense(4, activation=hp.Choice("activation", ACTIVATIONS))])
        model.add(layers.Dense(2, activation="softmax"))
        rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
        return model

    def searched(name):
        options = {"population_size": 1, "seed": 0, "directory": tmp_path, "project_name": name}
        tuner = kt.RandomSearch(build_one_of_several, "val_loss", 12, **options)
        tuner.search(X, Y, epochs=2, batch_size=16, verbose=0, validation_data=(X[:20], Y[:20]))
        return tuner

    at_rest = []
    monkeypatch.setattr(families, "WIDENS", False)  # a program per structure
    held = searched("all are held")
    monkeypatch.setattr(learned, "MANY_PASSES", 2)
    rest = SharedProgram.rest
    monkeypatch.setattr(SharedProgram, "rest", lambda program: (at_rest.append(program.key), rest(program)))
    tuner = searched("few are held")
    assert len(set(at_rest)) >= 3 and len(at_rest) > len(set(at_rest))  # some have been called for again
    scores, others = ([t.score for t in each.oracle.trials.values()] for each in (held, tuner))
    np.testing.assert_allclose(scores, others, rtol=1e-6)
    records, other_records = (each.programs().records for each in (held, tuner))
    assert [record.members for record in records] == [record.members for record in other_records]
    assert all(record.versions == 1 for record in other_records)
