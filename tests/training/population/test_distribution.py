"""With dropout and shuffling, what a population and `model.fit` reach over 50 seeds is one distribution."""

import dataclasses

import keras
import numpy as np
import pytest
from marks import needs_jax
from populations import NoFallback, refuse, train
from scipy import stats

from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.training.base import Permissions, Task
from manyfit.training.population import Population
from manyfit.training.seeding import seeded

pytestmark = needs_jax

SEEDS, EPOCHS, ALPHA = 50, 3, 1e-4
RNG = np.random.default_rng(1)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X[:, :1] * X[:, 1:2] + 0.3 * RNG.normal(size=(96, 1))).astype("float32")
FIT = {"batch_size": 16, "epochs": EPOCHS, "validation_data": (X[64:], Y[64:]), "verbose": 0}


def build(hp):
    model = keras.Sequential(
        [
            keras.layers.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(hp["rate"]),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.03), loss="mse")
    return model


@pytest.fixture(scope="module")
def through_fit():
    """Final training and validation losses of `model.fit`, seed by seed; one model, so that it compiles once."""
    model = build({"rate": 0.4})
    model.optimizer.build(model.trainable_variables)
    start = [np.array(variable) for variable in model.optimizer.variables]
    found = []
    for seed in range(SEEDS):
        with seeded(seed):
            fresh = build({"rate": 0.4})
            for variable, value in zip(model.variables, fresh.variables, strict=False):
                if variable.shape == value.shape and "optimizer" not in variable.path:
                    variable.assign(value)
            for variable, value in zip(model.optimizer.variables, start, strict=True):
                variable.assign(value)
            history = model.fit(X[:64], Y[:64], **FIT).history
        found.append((history["loss"][-1], history["val_loss"][-1]))
    return np.array(found)


def through_population(rate, *, own_order):
    task = Task(build, Call((X[:64], Y[:64]), FIT), objective=Objective("val_loss", "min"))
    task = dataclasses.replace(task, may=Permissions(share_order=not own_order))
    plans = [Plan(str(seed), 0, {"rate": rate}, seed=seed) for seed in range(SEEDS)]
    supply = train(Population(NoFallback(), notify=refuse), task, plans)
    histories = [supply.results[plan.key].history for plan in plans]
    return np.array([(history["loss"][-1], history["val_loss"][-1]) for history in histories])


@pytest.mark.parametrize("own_order", [False, True], ids=["one order", "an order for each seed"])
def test_distributions_agree(own_order, through_fit):
    found = through_population(0.4, own_order=own_order)
    for column in range(2):
        assert stats.ks_2samp(found[:, column], through_fit[:, column]).pvalue > ALPHA
        # The same spread, too: a population that gave all members one mask would have less of it.
        assert 0.5 < found[:, column].std() / through_fit[:, column].std() < 2
    assert len(np.unique(found[:, 0])) == SEEDS


def test_the_comparison_would_see_another_dropout_rate(through_fit):
    found = through_population(0.05, own_order=True)
    assert stats.ks_2samp(found[:, 0], through_fit[:, 0]).pvalue < ALPHA
