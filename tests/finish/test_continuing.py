"""Models of a search that train further, and what is made of their checkpoints."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import dataclasses

import keras
import numpy as np
import pytest

from manyfit.core.records import Plan
from manyfit.finish import continuing
from manyfit.finish.continuing import CONTINUED, Checkpoints
from manyfit.training.base import BestEpoch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(80, 3)).astype("float32")
Y = (X @ [1.0, -2.0, 0.5] + 0.1 * RNG.normal(size=80)).astype("float32")
ROWS = {"validation_data": (X[60:], Y[60:]), "epochs": 2, "batch_size": 20, "verbose": 0}


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 0.02, 0.2)), "mse")
    return model


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory=tmp_path_factory.mktemp("run"))
    tuner.search(X[:60], Y[:60], **ROWS)
    return tuner


def losses_of(ensemble):
    mse = [np.mean((np.ravel(member.predictions) - np.asarray(Y[60:])[:, None].T) ** 2) for member in ensemble.members]
    return dict(zip([member.name for member in ensemble.members], mse, strict=True))


def test_it_begins_with_the_weights_of_the_search_and_ends_better(tuner):
    best = tuner.oracle.get_best_trials(1)[0]
    before = tuner.get_best_models(1)[0].evaluate(X[60:], Y[60:], verbose=0)
    found = losses_of(tuner._finish.go_on(None, 1))
    name = f"trial {best.trial_id}"
    assert list(found) == [name, f"{name}, continued", f"{name}, averaged"]
    assert found[name] == pytest.approx(before, rel=1e-2)  # kept in half precision
    # Two epochs are far from the end: further ones are better, from where the search has left off and not anew.
    assert found[f"{name}, continued"] < before
    assert CONTINUED not in best.replicates  # what begins with chosen weights is no evidence


def test_its_rate_is_a_tenth(tuner):
    trial = tuner.oracle.get_best_trials(1)[0]
    path = tuner.store.layout.weights(trial.trial_id, 0)
    made = continuing._continued_build(build, {continuing._key(trial.hyperparameters): path})(trial.hyperparameters)
    assert float(made.optimizer.learning_rate) == pytest.approx(0.1 * trial.hyperparameters["learning_rate"])
    np.testing.assert_array_equal(made.get_weights()[0], tuner.get_best_models(1)[0].get_weights()[0])


def test_without_time_nothing_is_replaced(tuner):
    with pytest.raises(kt.errors.SearchError, match="no model of the search has trained any further"):
        tuner._finish.go_on(None, 1, max_seconds=1e-6)


def test_the_mean_of_checkpoints_is_theirs_and_whole_numbers_are_the_latest():
    plan, checkpoints = Plan("0", 0, {}, seed=1, phase=CONTINUED), Checkpoints()

    def epoch(weights, plan=plan):
        return BestEpoch(plan, 1, 0.0, None, lambda: weights)

    checkpoints.take([epoch([np.float32([1.0, 3.0]), np.uint32([5])])])
    assert checkpoints.mean("0") is None  # of one there is no mean
    checkpoints.take([epoch([np.float32([9.0, 9.0])], dataclasses.replace(plan, phase="search"))])
    checkpoints.take([epoch([np.float32([2.0, 5.0]), np.uint32([8])])])
    mean = checkpoints.mean("0")
    np.testing.assert_array_equal(mean[0], np.float32([1.5, 4.0]))
    assert mean[1] == 8 and mean[0].dtype == np.float32
