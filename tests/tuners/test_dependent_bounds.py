"""Bounds that depend on other values: each configuration that the build function can tell apart is tried once."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import manyfit as kt

EVERY = [(a, b) for a in (1, 2, 3) for b in range(a + 1)]


class Dependent(kt.HyperModel):
    """b reaches as far as a."""

    def __init__(self, stop_after=None):
        super().__init__()
        self.tried = []
        self.stop_after = stop_after

    def build(self, hp):
        hp.Int("b", 0, hp.Int("a", 1, 3))
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    def fit(self, hp, model, *args, **kwargs):
        if len(self.tried) == self.stop_after:
            raise KeyboardInterrupt
        self.tried.append((hp.get("a"), hp.get("b")))
        return float(sum(self.tried[-1]))


def searched(tuner, hypermodel, project, **arguments):
    made = tuner(hypermodel, seed=0, **arguments, **project)
    try:
        made.search(np.zeros((2, 1)), np.zeros(2), verbose=0)
    finally:
        made.close()
    return made


@pytest.mark.parametrize("tuner", [kt.GridSearch, kt.RandomSearch, kt.QuasiRandomSearch, kt.Evolution])
def test_each_configuration_once(tuner, project, capsys):
    hypermodel = Dependent()
    made = searched(tuner, hypermodel, project, max_trials=30)
    assert sorted(hypermodel.tried) == EVERY
    recorded = [
        (trial.hyperparameters.get("a"), trial.hyperparameters.get("b")) for trial in made.oracle.trials.values()
    ]
    assert recorded == hypermodel.tried


def test_interrupted_searches_know_what_proposals_came_to(project, capsys):
    first, second = Dependent(stop_after=5), Dependent()
    with pytest.raises(KeyboardInterrupt):
        searched(kt.GridSearch, first, project)
    searched(kt.GridSearch, second, project)
    assert first.tried + second.tried == EVERY
