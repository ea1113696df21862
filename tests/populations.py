"""What tests of population training share."""

import keras
import numpy as np

from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task, Trainer
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population


class NoFallback(Trainer):
    """Fails the test when something is not trained as a population."""

    def train(self, supply, task):
        raise AssertionError("fell back")


def refuse(line):
    """Takes the population's lines to the user: there must be none."""
    raise AssertionError(line)


def train(trainer, task, plans, **options):
    """Trains plans and answers the supply, with its reports and results."""
    supply = ListSupply(plans, **options)
    trainer.train(supply, task)
    return supply


def compare(ours, theirs, tolerance=2e-4):
    """Checks that two histories are equal to float32 accuracy."""
    assert set(ours) == set(theirs)
    for name, curve in theirs.items():
        np.testing.assert_allclose(
            np.array(ours[name], float), np.array(curve, float), rtol=tolerance, atol=tolerance, err_msg=name
        )


def equals_model_fit(build, data, fit_arguments, values, *, tolerance=2e-4, objective="loss"):
    """Trains plans as a population and through `model.fit`, checks that the curves agree; answers the population.

    Args:
        build: the build function.
        data: called for each of the two, answers the positional arguments of `fit`: a generator is spent once.
        fit_arguments: keyword arguments of `fit`.
        values: a plan each.
        tolerance: of the curves.
        objective: any that is logged.
    """
    plans = [Plan(str(n), 0, value, seed=5 + n) for n, value in enumerate(values)]
    population = Population(NoFallback(), notify=refuse)
    supply = train(population, make_task(build, data, fit_arguments, objective), plans)
    for plan in plans:
        # One by one: each `fit` has the data to itself, as each member has.
        alone = train(KerasFit(), make_task(build, data, fit_arguments, objective), [plan])
        result = supply.results[plan.key]
        assert result.ending.has_score, result.message
        compare(result.history, alone.results[plan.key].history, tolerance)
    return population


def make_task(build, data, fit_arguments, objective="loss"):
    arguments = {key: value() if callable(value) else value for key, value in fit_arguments.items()}
    return Task(build, Call(data(), {"verbose": 0, **arguments}), objective=Objective(objective, "min"))


def dense_model(hp, *, shape=(6,)):
    model = keras.Sequential(
        [keras.layers.Input(shape), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(hp["learning_rate"], beta_1=hp["rate"]), loss="mse", metrics=["mae"])
    return model
