"""Several objectives, constraints, and metrics that trainers measure by themselves, through the tuners."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import math

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError


def square(units: int = 20) -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.Float("x", 0.0, 1.0)
    hp.Float("y", 0.0, 1.0)
    return hp


def trade_off(trial):
    """The front is y = 0: there error falls as cost rises, f2 = 1 - sqrt(f1) (Zitzler et al. 2000, ZDT1 with n = 2)."""
    x, y = (trial.hyperparameters.get(name) for name in "xy")
    distance = 1.0 + 9.0 * y
    return {"cost": x, "gain": -distance * (1.0 - math.sqrt(x / distance))}


OBJECTIVES = [kt.Objective("cost", "min"), kt.Objective("gain", "max")]


def searched(project, tuner=kt.RandomSearch, function=trade_off, **arguments):
    arguments = {"objective": OBJECTIVES, "max_trials": 12, "seed": 0, "hyperparameters": square(), **arguments}
    found = tiny.numbers(function, tuner, **arguments, **project)
    found.search(verbose=0)
    return found


def vectors(trials):
    return np.array([[trial.metrics["cost"], -trial.metrics["gain"]] for trial in trials])


def test_the_best_are_the_front(project):
    tuner = searched(project)
    front = tuner.oracle.get_best_trials()
    others = [trial for trial in tuner.oracle.trials.values() if trial not in front]
    assert len(front) > 1 and others
    for trial in others:
        assert any((vectors([best]) <= vectors([trial])).all() for best in front)
    for trial in front:
        assert not any((vectors([best]) <= vectors([trial])).all() for best in front if best is not trial)
    assert [hp.values for hp in tuner.get_best_hyperparameters()] == [trial.hyperparameters.values for trial in front]
    assert [trial.score for trial in front] == sorted(trial.score for trial in front)  # by the leading objective
    assert len(tuner.oracle.get_best_trials(2)) == 2 and len(tuner.oracle.get_best_trials(12)) == 12


def test_the_front_survives_reopening(project):
    front = [trial.trial_id for trial in searched(project).oracle.get_best_trials()]
    again = tiny.numbers(trade_off, objective=OBJECTIVES, max_trials=12, hyperparameters=square(), **project)
    assert [trial.trial_id for trial in again.oracle.get_best_trials()] == front


@pytest.mark.parametrize("tuner", [kt.BayesianOptimization, kt.Evolution])
def test_searches_that_learn_come_closer_to_the_front(project, tuner):
    """Distance to the front is y: one uniform draw in ten has less than 0.1. Evolution needs more trials."""
    num_trials = 18 if tuner is kt.BayesianOptimization else 80
    found = searched(project, tuner, max_trials=num_trials)
    last = [trial.hyperparameters.get("y") for trial in found.oracle.trials.values()][-10:]
    if tuner is kt.BayesianOptimization:
        assert np.mean(np.array(last) < 0.1) >= 0.8
    else:
        assert np.mean(last) < 0.3
    costs = [trial.hyperparameters.get("x") for trial in found.oracle.get_best_trials()]
    assert min(costs) < 0.2 and max(costs) > 0.6  # along the front, not at one of its ends


def test_batches_of_several_objectives_differ(project):
    oracle = searched(project, kt.BayesianOptimization, max_trials=10).oracle
    oracle.max_trials = 18
    batch = [trial.searched_values for trial in oracle.assign(8)]
    assert len({tuple(values.values()) for values in batch}) == 8


def test_the_summary_says_what_dominates_and_what_breaks(project, capsys):
    tuner = searched(project, constraints=[kt.Constraint("cost", max=0.5)])
    tuner.results_summary(12)
    text = capsys.readouterr().out
    assert "(nothing dominates it)" in text and "Objectives: cost " in text
    assert all(trial.metrics["cost"] <= 0.5 for trial in tuner.oracle.get_best_trials(12))
    assert "Breaks the constraint" not in text  # those come only where no trial keeps it


@pytest.mark.parametrize("tuner", [kt.BayesianOptimization, kt.Evolution, kt.RandomSearch])
def test_the_best_keep_the_constraints(project, tuner):
    """The gain alone would have x = 1."""
    arguments = {"objective": kt.Objective("gain", "max"), "constraints": [kt.Constraint("cost", max=0.25)]}
    best = searched(project, tuner, max_trials=12, **arguments).oracle.get_best_trials(3)
    assert all(trial.metrics["cost"] <= 0.25 for trial in best)


def test_where_nothing_keeps_a_constraint_the_nearest_comes_first(project, capsys):
    tuner = searched(project, constraints=[kt.Constraint("cost", max=-1.0)])
    best = tuner.oracle.get_best_trials(1)[0]
    assert best.metrics["cost"] == min(trial.metrics["cost"] for trial in tuner.oracle.trials.values())
    assert tuner.oracle.get_best_trials() == []  # the front is of those that keep it
    tuner.results_summary(1)
    assert "Breaks the constraint cost <= -1: " in capsys.readouterr().out


def test_a_list_is_a_sum_for_who_comes_from_keras_tuner(project):
    tuner = searched(project, compat="keras_tuner")
    best = tuner.oracle.get_best_trials()[0]
    assert best.score == best.metrics["cost"] - best.metrics["gain"]
    assert tuner.oracle.objective.name == "multi_objective"


def test_lists_and_compat_are_checked(project):
    with pytest.raises(UsageError, match="two or more different objectives") as caught:
        searched(project, objective=["val_loss", "val_loss"])
    tiny.four_parts(caught.value)
    with pytest.raises(UsageError, match='"keras_tuner"'):
        searched(project, compat="optuna")


def test_a_missing_objective_is_told(project):
    with pytest.raises(ValueError, match=r"'speed'"):
        searched(project, objective=[*OBJECTIVES, kt.Objective("speed", "max")])


# Measures --------------------------------------------------------------------------------------------------------


def build(hp):
    units = hp.Choice("units", [2, 64])
    dense = keras.layers.Dense(units, "relu")
    return tiny.compiled(keras.Sequential([keras.Input((3,)), dense, keras.layers.Dense(1, "sigmoid")]))


@pytest.mark.parametrize("population", [False, True])
def test_size_and_time_need_no_code(project, rows, population):
    """3 u + u + u + 1 parameters of four bytes."""
    tuner = kt.GridSearch(
        build,
        ["val_loss", "model_bytes"],
        constraints=[kt.Constraint("predict_seconds", max=60.0), kt.Constraint("train_seconds", max=600.0)],
        population=population,
        seed=0,
        **project,
    )
    tuner.search(*rows, validation_split=0.25, epochs=2, verbose=0)
    small, large = tuner.oracle.trials.values()
    assert (small.metrics["model_bytes"], large.metrics["model_bytes"]) == (4.0 * 11, 4.0 * 321)
    assert small in tuner.oracle.get_best_trials()
    for trial in (small, large):
        assert 0.0 < trial.metrics["predict_seconds"] < 60.0
        assert 0.0 < trial.metrics["train_seconds"] < 600.0
    assert [row.metrics["model_bytes"] for row in tuner.results()] == [44.0, 1284.0]
    assert len(tuner.get_best_models()) == len(tuner.oracle.get_best_trials())


def test_a_measure_alone_may_be_the_objective(project, rows):
    tuner = kt.GridSearch(build, "num_parameters", population=False, seed=0, **project)
    tuner.search(*rows, epochs=1, verbose=0)
    assert tuner.oracle.get_best_trials()[0].score == 11.0
    assert tuner.oracle.objective.direction == "min"


def test_a_constraint_on_size_leaves_the_small_model(project, rows):
    tuner = kt.GridSearch(
        build, "val_loss", constraints=[kt.Constraint("num_parameters", max=100)], population=False, seed=0, **project
    )
    tuner.search(*rows, validation_split=0.25, epochs=1, verbose=0)
    assert [trial.hyperparameters.get("units") for trial in tuner.oracle.get_best_trials(2)] == [2]
