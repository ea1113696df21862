"""What tuners are made of: one class each, one base each; and what of a tuner goes to workers."""

from __future__ import annotations

import itertools
import pickle
import re

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.tuners import keras_tuner, searches


def test_no_ready_tuner_is_another():
    assert not [(one, other) for one, other in itertools.permutations(tiny.READY, 2) if issubclass(one, other)]


def test_a_bayesian_optimisation_is_no_random_search(project):
    tuner = kt.BayesianOptimization(tiny.build, "val_loss", **project)
    assert isinstance(tuner, kt.Tuner) and not isinstance(tuner, kt.RandomSearch)


@pytest.mark.parametrize("tuner_class", [*tiny.READY, kt.SklearnTuner, searches.ReadySearch])
def test_each_class_has_one_base(tuner_class):
    assert all(len(each.__bases__) == 1 for each in tuner_class.__mro__[:-1])


def test_what_may_be_overridden_is_there():
    """The room that tells of overrides names methods that exist."""
    named = {name for name in re.findall(r"`(\w+)\(", keras_tuner.__doc__) if name not in ("super",)}
    assert {"run_trial", "_build_and_fit_model", "on_trial_end", "_populate_initial_space"} <= named
    missing = [name for name in named if not hasattr(kt.Tuner, name) and not hasattr(kt.HyperModel, name)]
    assert not missing


class Weighed(kt.RandomSearch):
    """A subclass with a fact of its own."""

    def __init__(self, *args, **kwargs):
        self.weights = [1, 2]
        super().__init__(*args, **kwargs)


def test_a_tuner_travels_with_its_subclasses_facts_and_without_its_data(tmp_path):
    x = np.random.default_rng(0).random((16, 3), dtype=np.float32)
    tuner = Weighed(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x, x[:, 0] > 0.5, validation_split=0.5, epochs=1, verbose=0)
    assert tuner.latest_search is not None and tuner.get_best_models(1)
    packed = pickle.dumps(tuner)
    assert x.tobytes()[:64] not in packed
    copy = pickle.loads(packed)
    assert copy.weights == [1, 2] and copy.hypermodel is not None and copy.executions_per_trial == 1
    assert copy.latest_search is None and copy.executor is None and len(copy.model_origins) == 0
    assert copy.oracle.trials == {} and copy.oracle.get_best_trials() == []
    assert copy.oracle.objective.name == "val_loss" and copy.oracle.seed == tuner.oracle.seed
