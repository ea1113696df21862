"""Folds as members of a population: index sets over the same rows, equal to `model.fit` on each fold."""

import keras
import numpy as np
import pytest
from marks import needs_jax

from manyfit.core.records import Ending, Plan
from manyfit.data.call import Call
from manyfit.data.folds import CrossValidation
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task, Trainer
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population

pytestmark = [
    needs_jax,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

RNG = np.random.default_rng(3)
X = RNG.normal(size=(71, 4)).astype("float32")  # 71 rows in 3 folds: two sizes, and short last batches
Y = (X[:, 0] > 0).astype("int32")


class NoFallback(Trainer):
    def train(self, supply, task):
        raise AssertionError("fell back")


def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(hp["rate"]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def train(trainer, folds, **kwargs):
    plans = [
        Plan(str(trial), fold, {"rate": rate}, seed=fold) for trial, rate in enumerate((0.1, 0.01)) for fold in range(3)
    ]
    supply = ListSupply(plans)
    fit = {"batch_size": 16, "epochs": 3, "shuffle": False, "verbose": 0, **kwargs}
    trainer.train(supply, Task(build, Call((X, Y), fit), split_for=lambda plan: folds.split(plan.execution)))
    return supply.results


@pytest.mark.parametrize(
    "weights", [{}, {"sample_weight": np.linspace(0.5, 2, 71)}, {"class_weight": {0: 1.0, 1: 3.0}}]
)
def test_a_population_of_folds_equals_fit_on_each_fold(weights):
    folds = CrossValidation(3, stratify=False, seed=1).resolve(X, Y)
    found = train(Population(NoFallback(), population_size=6), folds, **weights)
    expected = train(KerasFit(), folds, **weights)
    for key, result in expected.items():
        assert found[key].ending is Ending.COMPLETED
        assert set(found[key].history) == set(result.history)
        for name, curve in result.history.items():
            np.testing.assert_allclose(found[key].history[name], curve, rtol=2e-4, atol=2e-5, err_msg=f"{key} {name}")


def test_shuffled_folds_train_on_their_own_rows_only():
    folds = CrossValidation(3, stratify=False).resolve(X, Y)
    poisoned = Y.copy()
    poisoned[folds.split(0).validation] = 1 - poisoned[folds.split(0).validation]
    straight = train(Population(NoFallback(), population_size=6), folds, shuffle=True)
    supply = ListSupply([Plan("0", 0, {"rate": 0.1}, seed=0)])
    fit = {"batch_size": 16, "epochs": 3, "verbose": 0}
    task = Task(build, Call((X, poisoned), fit), split_for=lambda plan: folds.split(plan.execution))
    Population(NoFallback()).train(supply, task)
    # Labels of the held-out rows are turned around: what was trained on is the same, what was validated on is not.
    np.testing.assert_allclose(supply.results["0", 0].history["loss"], straight["0", 0].history["loss"], rtol=1e-5)
    assert supply.results["0", 0].history["val_accuracy"][-1] == pytest.approx(
        1 - straight["0", 0].history["val_accuracy"][-1], abs=1e-5
    )


def test_the_data_are_on_the_device_once():
    folds = CrossValidation(3, stratify=False).resolve(X, Y)
    population = Population(NoFallback(), population_size=6)
    train(population, folds)
    data = [program.data for program in population.learned.programs.values()]
    leaves = [leaf for each in data for rows in (each.training, each.validation) for leaf in rows.leaves]
    assert len(data) == 1 and len({id(leaf) for leaf in leaves}) == 2  # x and y; two sizes of folds in one program
