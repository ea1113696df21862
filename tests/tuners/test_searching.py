"""Searches through real Keras models: what users may hand in, and what is tried."""

from __future__ import annotations

import time

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import SearchError

pytestmark = pytest.mark.backends


def build(hp):
    """The model of `tiny.build`, run step by step: compiling it for every trial would take most of the time."""
    model = tiny.build(hp)
    model.run_eagerly = True
    return model


class Tiny(kt.HyperModel):
    """The same as a class."""

    def build(self, hp):
        return build(hp)


def searching(project, hypermodel=build, tuner=kt.RandomSearch, objective="val_loss", **arguments):
    arguments = {"max_trials": 2, "seed": 0, "population": False, **arguments}
    return tuner(hypermodel, objective, **arguments, **project)


# What is searched ----------------------------------------------------------------------------------------------


def test_a_function_and_a_class_are_the_same_search(tmp_path, rows):
    tuners = [
        searching({"directory": tmp_path / name}, hypermodel) for name, hypermodel in (("a", build), ("b", Tiny()))
    ]
    for tuner in tuners:
        tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    first, second = tuners
    assert tiny.proposals(first) == tiny.proposals(second)
    assert len({values["learning_rate"] for values in tiny.proposals(first)}) == 2
    assert first.results().curves == second.results().curves  # the same seeds, the same models
    assert all(0.01 <= values["learning_rate"] <= 0.3 for values in tiny.proposals(first))
    assert {values["units"] for values in tiny.proposals(first)} <= {1, 2, 3, 4}


def grid_of_four(hp):
    units = hp.Int("units", 2, 4, step=2)
    activation = hp.Choice("activation", ["relu", "tanh"])
    model = tiny.compiled(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, activation), keras.layers.Dense(1, "sigmoid")])
    )
    model.run_eagerly = True
    return model


def test_grid_search_tries_each_configuration_once_in_its_order(project, rows):
    tuner = searching(project, grid_of_four, kt.GridSearch, max_trials=None)
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert [tuple(values.values()) for values in tiny.proposals(tuner)] == [
        (2, "relu"),
        (2, "tanh"),
        (4, "relu"),
        (4, "tanh"),
    ]
    assert {row.status for row in tuner.results()} == {"COMPLETED"}
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert len(tuner.oracle.trials) == 4, "there is nothing more to try"


def test_max_trials_cuts_a_grid_and_more_trials_go_on_with_it(project, rows):
    first = searching(project, grid_of_four, kt.GridSearch, max_trials=3)
    first.search(*rows, validation_split=0.25, verbose=0)
    first.close()
    again = searching(project, grid_of_four, kt.GridSearch, max_trials=9)
    again.search(*rows, validation_split=0.25, verbose=0)
    assert tiny.proposals(again)[:3] == tiny.proposals(first)
    assert len(again.oracle.trials) == 4


def test_what_a_model_that_is_not_tunable_asks_for_is_not_searched(project, rows):
    tuner = searching(project, Tiny(tunable=False), objective="loss")
    tuner.search(*rows, verbose=0)
    assert tiny.proposals(tuner) == [{}]


def test_declared_hyperparameters_are_known_before_the_first_build(project):
    class Declares(Tiny):
        def declare_hyperparameters(self, hp):
            hp.Choice("batch_size", [8, 4])

        def build(self, hp):
            assert hp.get("batch_size") in (4, 8)
            return build(hp)

    space = searching(project, Declares()).oracle.get_space()
    assert [hp.name for hp in space.space] == ["batch_size", "units", "learning_rate"]


# Users' ranges -------------------------------------------------------------------------------------------------


def only_units():
    hp = kt.HyperParameters()
    hp.Int("units", 2, 3)
    return hp


def test_the_users_ranges_win_and_new_entries_are_searched(project, rows):
    tuner = searching(project, hyperparameters=only_units(), objective="loss", max_trials=6)
    tuner.search(*rows, verbose=0)
    assert {values["units"] for values in tiny.proposals(tuner)} == {2, 3}
    assert len({values["learning_rate"] for values in tiny.proposals(tuner)}) == 6


def test_new_entries_that_are_not_tuned_keep_their_defaults(project, rows):
    tuner = searching(project, hyperparameters=only_units(), tune_new_entries=False, objective="loss", max_trials=6)
    tuner.search(*rows, verbose=0)
    assert sorted(values["units"] for values in tiny.proposals(tuner)) == [2, 3], "that is all there is to search"
    assert {trial.hyperparameters.get("learning_rate") for trial in tuner.oracle.trials.values()} == {0.01}


def test_new_entries_that_are_forbidden_are_named(project):
    with pytest.raises(SearchError, match="learning_rate") as caught:
        searching(project, hyperparameters=only_units(), allow_new_entries=False)
    assert "allow_new_entries=True" in tiny.four_parts(caught.value)[3]


def test_what_is_enqueued_comes_first_and_counts(project, rows):
    tuner = searching(project, objective="loss", max_trials=3)
    tuner.enqueue({"units": 3, "learning_rate": 0.125}, {"units": 1})
    tuner.search(*rows, verbose=0)
    tried = tiny.proposals(tuner)
    assert tried[:2] == [{"units": 3, "learning_rate": 0.125}, {"units": 1, "learning_rate": 0.01}]
    assert len(tried) == 3


# Training in ways of one's own ---------------------------------------------------------------------------------


class TunesFit(Tiny):
    """Tunes the batch size and the epochs."""

    seen: list

    def __init__(self):
        super().__init__()
        self.seen = []

    def fit(self, hp, model, *args, **kwargs):
        history = model.fit(*args, batch_size=hp.Choice("batch_size", [4, 8]), epochs=hp.Int("epochs", 1, 3), **kwargs)
        self.seen.append((hp.get("batch_size"), hp.get("epochs")))
        return history


def test_batch_size_and_epochs_are_tuned_in_fit(project, rows):
    hypermodel = TunesFit()
    fixed = kt.HyperParameters()
    fixed.Fixed("units", 2)
    tuner = searching(project, hypermodel, max_trials=5, hyperparameters=fixed)
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert {"batch_size", "epochs"} <= {hp.name for hp in tuner.oracle.get_space().space}
    tried = [(values["batch_size"], values["epochs"]) for values in tiny.proposals(tuner)[1:]]
    assert tried == hypermodel.seen[1:]  # the first trial brings them to light
    assert len(set(hypermodel.seen)) > 2
    assert [row.num_epochs for row in tuner.results()] == [epochs for _, epochs in hypermodel.seen]


@pytest.mark.parametrize("kind", ["number", "dict", "list"])
def test_fit_may_return_what_it_measured(kind, project, rows):
    class Measures(Tiny):
        def fit(self, hp, model, x, y, **kwargs):
            losses = [float(model.fit(x, y, **kwargs).history["loss"][-1]) for _ in range(2)]
            return {"number": losses[-1], "dict": {"own": losses[-1]}, "list": [{"own": loss} for loss in losses]}[kind]

    objective = None if kind == "number" else kt.Objective("own", "min")
    tuner = searching(project, Measures(), objective=objective, max_trials=1)
    tuner.search(*rows, verbose=0)
    [row] = tuner.results()
    reported = [point["loss"] for point in tuner.results().curves if "loss" in point]
    assert row.status == "COMPLETED"
    assert row.score == pytest.approx(np.mean(reported[-2:]) if kind == "list" else reported[-1])


@pytest.mark.parametrize(
    ("returned", "scores"),
    [
        (lambda history: 0.5, [0.5]),
        (lambda history: np.float32(0.5), [0.5]),
        (lambda history: {"default_objective": 0.25, "extra": 7}, [0.25]),
        (lambda history: [0.5, 1.0, 3.0], [0.5, 1.0, 3.0]),
        (lambda history: [{"default_objective": 2.0}, {"default_objective": 1.0}], [2.0, 1.0]),
    ],
)
def test_what_an_override_of_run_trial_may_return(returned, scores, project):
    tuner = tiny.numbers(lambda trial: returned(None), max_trials=1, seed=0, **project)
    tuner.search(verbose=0)
    [trial] = tuner.oracle.get_best_trials()
    assert trial.scores == scores
    assert trial.score == pytest.approx(sum(scores) / len(scores))


def test_an_override_of_run_trial_may_return_histories(project, rows):
    class Twice(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            model = self.hypermodel.build(trial.hyperparameters)
            return [model.fit(*args, **kwargs), model.fit(*args, **kwargs)]

    tuner = searching(project, tuner=Twice, max_trials=1)
    tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    first, second = tuner.results()
    assert (first.num_epochs, second.num_epochs) == (2, 2)
    assert first.score != second.score
    assert tuner.oracle.get_best_trials()[0].score == pytest.approx((first.score + second.score) / 2)


def test_an_override_of_run_trial_may_change_the_arguments_of_fit(project, rows):
    class OwnEpochs(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            kwargs["epochs"] = trial.hyperparameters.Int("epochs", 2, 4)
            return super().run_trial(trial, *args, **kwargs)

    tuner = searching(project, tuner=OwnEpochs, max_trials=3, executions_per_trial=2)
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert [row.num_epochs for row in tuner.results()] == [row.values["epochs"] for row in tuner.results()]
    assert len(tuner.results()) == 6
    assert len(tuner.get_best_models(1)) == 1


def test_hooks_of_a_subclass_are_called_with_their_trial(project, rows):
    calls = []

    class Hooked(kt.RandomSearch):
        def on_trial_begin(self, trial):
            super().on_trial_begin(trial)
            calls.append(("begin", trial.trial_id))

        def on_epoch_end(self, trial, model, epoch, logs=None):
            calls.append((epoch, trial.trial_id, "val_loss" in logs))

        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            calls.append(("end", trial.trial_id, trial.status))

    tuner = searching(project, tuner=Hooked)
    tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    assert calls == [call for i in "01" for call in (("begin", i), (0, i, True), (1, i, True), ("end", i, "COMPLETED"))]


def test_callbacks_are_copied_so_that_patience_starts_anew(project, rows):
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=1, min_delta=1e9)
    tuner = searching(project, max_trials=3)
    tuner.search(*rows, epochs=9, validation_split=0.25, callbacks=[stopping], verbose=0)
    assert [row.num_epochs for row in tuner.results()] == [2, 2, 2]
    assert stopping.stopped_epoch == 0


def test_an_optimizer_loss_and_metrics_of_the_tuner_replace_those_of_the_model(project, rows):
    built = []

    def remembered(hp):
        built.append(build(hp))
        return built[-1]

    tuner = searching(
        project,
        remembered,
        objective="mae",
        max_trials=2,
        optimizer=keras.optimizers.Adam(0.5),
        loss="mse",
        metrics=["mae"],
    )
    tuner.search(*rows, verbose=0)
    assert all("mae" in row.metrics and "accuracy" not in row.metrics for row in tuner.results())
    optimizers = [model.optimizer for model in built if isinstance(model.optimizer, keras.optimizers.Adam)]
    assert len({id(optimizer) for optimizer in optimizers}) == len(optimizers) >= 2


# Limits --------------------------------------------------------------------------------------------------------


def test_time_that_is_over_ends_the_search_and_what_was_measured_counts(project):
    def slow(trial):
        time.sleep(0.05)
        return 1.0

    tuner = tiny.numbers(slow, max_trials=None, max_seconds=0.3, seed=0, **project)
    started = time.monotonic()
    tuner.search(verbose=0)
    assert time.monotonic() - started >= 0.3  # not less than: a busy machine takes as long as it takes
    assert 1 <= len(tuner.oracle.trials) <= 6
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    spent = len(tuner.oracle.trials)
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == spent, "the seconds of earlier searches of the project count"


def test_a_model_that_is_too_large_is_not_trained(project, rows):
    tuner = searching(project, grid_of_four, kt.GridSearch, max_trials=None, max_model_size=15)
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert [(row.values["units"], row.ending, row.num_epochs) for row in tuner.results()] == [
        (2, "completed", 1),
        (2, "completed", 1),
        (4, "too large", 0),
        (4, "too large", 0),
    ]
    message = tuner.oracle.trials["0003"].message
    assert "Oversized model: 21 parameters" in message and "max_model_size=15" in message


def test_executions_have_their_own_seeds_and_scores_are_their_means(project, rows):
    tuner = searching(project, executions_per_trial=3, max_trials=2)
    tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    assert len({row.seed for row in tuner.results()}) == 6
    for trial in tuner.oracle.trials.values():
        scores = [row.score for row in tuner.results() if row.trial_id == trial.trial_id]
        assert len(set(scores)) == 3
        assert trial.score == pytest.approx(np.mean(scores), rel=1e-12)
        assert trial.spread == pytest.approx(np.std(scores, ddof=1), rel=1e-12)
