"""How long to train, through the tuners: rungs continue, budgets hold, and what was saved is told."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import manyfit as kt
from manyfit.core.errors import UsageError

pytestmark = pytest.mark.backends

RNG = np.random.default_rng(5)
X = RNG.normal(size=(96, 6)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")


def build(hp):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(2, "softmax")]
    )
    model.compile(
        keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def fit_arguments(**more):
    return {"x": X, "y": Y, "validation_split": 0.25, "batch_size": 24, "verbose": 0, **more}


@pytest.mark.parametrize("population", [True, False])
def test_promoted_trials_equal_those_that_never_stopped(population, tmp_path):
    if population and keras.backend.backend() != "jax":
        pytest.skip("a population needs the JAX backend")
    callbacks = [
        keras.callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=2, min_delta=0.02),
        keras.callbacks.EarlyStopping(monitor="loss", patience=20),
    ]
    tuner = kt.Hyperband(
        build,
        "val_loss",
        max_epochs=27,
        factor=3,
        seed=1,
        directory=tmp_path / "a",
        population=population,
        max_trials=9,
    )
    tuner.search(**fit_arguments(callbacks=callbacks))
    promoted = [trial for trial in tuner.oracle.trials.values() if trial.hyperparameters.values["tuner/round"] == 2]
    full = [trial for trial in promoted if trial.executions[0].num_epochs == 27]
    assert full, "nobody was promoted at 3 and 9"

    # TensorFlow's own order of the data belongs to schedulers that cannot pause; this one could, but has a single rung.
    scheduler = kt.ASHA(27, min_epochs=27) if keras.backend.backend() == "tensorflow" else None
    straight = kt.RandomSearch(
        build, "val_loss", max_trials=len(tuner.oracle.trials), seed=1, directory=tmp_path / "b", population=population,
        scheduler=scheduler,
    )  # fmt: skip
    for trial in tuner.oracle.trials.values():
        straight.enqueue({"learning_rate": trial.hyperparameters.values["learning_rate"]})
    straight.search(**fit_arguments(callbacks=callbacks, epochs=27))
    twins = {t.hyperparameters.values["learning_rate"]: t for t in straight.oracle.trials.values()}
    for trial in full:
        run = trial.executions[0]
        twin = twins[trial.hyperparameters.values["learning_rate"]].executions[0]
        if run.seed != twin.seed:  # ids have as many digits as max_trials, and seeds follow ids
            continue
        for name, curve in twin.history.items():
            np.testing.assert_allclose(run.history[name], curve, rtol=2e-4, atol=2e-5, err_msg=name)
        return
    pytest.fail("no promoted trial has a twin of the same seed")


def test_epochs_spent_and_saved_are_told(tmp_path, capsys):
    tuner = kt.Hyperband(build, "val_loss", max_epochs=9, factor=3, seed=0, directory=tmp_path)
    tuner.search(**fit_arguments())
    results = tuner.results()
    spent = sum(run.num_epochs for trial in tuner.oracle.trials.values() for run in trial.executions.values())
    assert results.epochs_spent == spent < results.epochs_full == 9 * len(results)
    tuner.results_summary(1)
    assert f"Epochs: {spent} trained; {9 * len(results)} without the scheduler." in capsys.readouterr().out
    stopped = [row for row in results if row.ending == "stopped"]
    assert stopped and all(row.message.endswith("of 9 epochs: not promoted") for row in stopped)
    assert str(results).count("not promoted") == len(stopped)
    worst = tuner.oracle.trials[stopped[0].trial_id]
    assert stopped[0].message in worst.summary_lines()


def test_a_trial_says_what_ended_it(tmp_path):
    early = keras.callbacks.EarlyStopping("val_loss", min_delta=1e9, patience=1)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=1, seed=0, directory=tmp_path / "a", scheduler="median")
    tuner.search(**fit_arguments(epochs=9, callbacks=[early]))
    assert tuner.results()[0].message == "ended after 2 of 9 epochs by a callback"
    rule = kt.MedianRule(9, grace_epochs=1, min_trials=1)
    tuner = kt.RandomSearch(
        build, "val_loss", max_trials=8, seed=0, directory=tmp_path / "b", scheduler=rule, population_size=1
    )
    tuner.search(**fit_arguments())
    stopped = [row for row in tuner.results() if row.ending == "stopped"]
    assert stopped and all(
        f"stopped after {row.num_epochs} of 9 epochs: its best was worse" in row.message for row in stopped
    )


@pytest.mark.parametrize("scheduler", ["asha", "median", kt.MedianRule(grace_epochs=2)])
def test_any_sampler_joins_any_scheduler(scheduler, tmp_path):
    tuner = kt.BayesianOptimization(build, "val_loss", max_trials=12, seed=0, directory=tmp_path, scheduler=scheduler)
    for rate in (0.02, 0.025, 0.03, 0.035, 0.04, 1e-4):  # the last one lags behind the others whatever the seed
        tuner.enqueue({"learning_rate": rate})
    tuner.search(**fit_arguments(epochs=9))
    assert len(tuner.oracle.trials) == 12
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert max(row.num_epochs for row in tuner.results()) == 9
    assert tuner.results().epochs_spent < 12 * 9


def test_executions_continue_themselves(tmp_path):
    tuner = kt.Hyperband(
        build, "val_loss", max_epochs=4, factor=2, seed=0, directory=tmp_path, executions_per_trial=2, max_trials=4
    )
    tuner.search(**fit_arguments())
    for trial in tuner.oracle.trials.values():
        first, second = trial.executions[0], trial.executions[1]
        assert first.seed != second.seed and first.num_epochs == second.num_epochs
        assert first.history["loss"] != second.history["loss"]
        assert all(len(curve) == first.num_epochs for curve in first.history.values())


@pytest.mark.parametrize(
    "wrong", [{"factor": 1}, {"max_epochs": 0}, {"min_epochs": 5, "max_epochs": 3}, {"hyperband_iterations": -1}]
)
def test_wrong_rungs_are_refused_before_anything_is_built(wrong, tmp_path):
    with pytest.raises(UsageError):
        kt.Hyperband(build, "val_loss", directory=tmp_path, **wrong)


def test_an_objective_that_is_logged_every_second_epoch(tmp_path):
    arguments = {"max_epochs": 8, "factor": 2, "seed": 0, "max_trials": 6}
    tuner = kt.Hyperband(build, "val_loss", directory=tmp_path / "short", **arguments)
    with pytest.raises(UsageError, match="min_epochs=2"):
        tuner.search(**fit_arguments(validation_freq=2))
    tuner = kt.Hyperband(build, "val_loss", directory=tmp_path / "long", min_epochs=2, **arguments)
    tuner.search(**fit_arguments(validation_freq=2))
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert max(row.num_epochs for row in tuner.results()) == 8


def test_caps_of_hyperband(tmp_path):
    arguments = {"max_epochs": 9, "factor": 3, "hyperband_iterations": 0, "seed": 0}
    tuner = kt.Hyperband(build, "val_loss", directory=tmp_path / "epochs", max_total_epochs=20, **arguments)
    tuner.search(**fit_arguments())
    assert 11 < tuner.results().epochs_spent <= 20
    tuner = kt.Hyperband(build, "val_loss", directory=tmp_path / "seconds", max_seconds=0.5, **arguments)
    tuner.search(**fit_arguments())  # without the cap it would never end
    assert tuner.ended_by == "max_seconds"
    # What had no epoch behind it when the time was up is left for the next search.
    ended = [trial for trial in tuner.oracle.trials.values() if trial.executions]
    assert {trial.status for trial in ended} <= {"COMPLETED"}


def test_eight_configurations_are_tried_once_and_kerastuners_values_are_readable(tmp_path):
    def build_of_eight(hp):
        hp.Int("number", 1, 8)
        return build(hp)

    space = kt.HyperParameters()
    space.Int("number", 1, 8)
    tuner = kt.Hyperband(
        build_of_eight, "val_loss", max_epochs=9, factor=3, seed=0, directory=tmp_path, hyperparameters=space,
        tune_new_entries=False,
    )  # fmt: skip
    tuner.search(**fit_arguments())
    trials = list(tuner.oracle.trials.values())
    assert sorted(trial.hyperparameters.values["number"] for trial in trials) == list(range(1, 9))
    assert sorted(trial.executions[0].num_epochs for trial in trials)[-1] == 9  # it halves, and reaches the end
    promoted = [trial for trial in trials if trial.hyperparameters.values["tuner/round"] > 0]
    assert 0 < len(promoted) < 8
    for trial in promoted:
        values = trial.hyperparameters.values
        assert values["tuner/trial_id"] == trial.trial_id and values["tuner/bracket"] >= values["tuner/round"]
        assert values["tuner/initial_epoch"] < values["tuner/epochs"] == trial.target_epochs
