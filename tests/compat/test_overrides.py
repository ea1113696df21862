"""Subclasses that were written for KerasTuner's hooks: each hook is called as it was, and what it means is said."""

from __future__ import annotations

import copy

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError

X = np.random.default_rng(0).random((16, 3)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 1.5).astype("float32")
FIT = {"x": X, "y": Y, "validation_data": (X, Y), "epochs": 2}
ONE_BY_ONE = "Trials run one after another, because "


def searched(tuner_class, tmp_path, verbose=0, oracle=None, **arguments):
    """A search of two trials that has run."""
    arguments = {"directory": tmp_path, **arguments}
    if oracle is None:
        arguments = {"objective": "val_loss", "max_trials": 2, "seed": 0, **arguments}
        tuner = tuner_class(tiny.build, **arguments)
    else:
        tuner = tuner_class(oracle, tiny.build, **arguments)
    tuner.search(**FIT, verbose=verbose)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 2
    return tuner


# Tuners --------------------------------------------------------------------------------------------------------


def test_run_trial_that_changes_the_arguments_of_fit(tmp_path, capsys):
    """The recipe for a batch size that is searched."""

    class BatchSize(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            kwargs["batch_size"] = trial.hyperparameters.Int("batch_size", 4, 16, step=4)
            return super().run_trial(trial, *args, **kwargs)

    tuner = searched(BatchSize, tmp_path, verbose=2)
    assert ONE_BY_ONE not in capsys.readouterr().out  # it changes the call and no more, so they train together
    assert all("batch_size" in trial.hyperparameters.values for trial in tuner.oracle.trials.values())
    assert len(tuner.get_best_models(2)) == 2


def test_epoch_hooks_are_called_and_trials_still_train_together(tmp_path, capsys):
    calls = []

    class Epochs(kt.RandomSearch):
        def on_epoch_begin(self, trial, model, epoch, logs=None):
            calls.append(("begin", trial.trial_id, epoch))

        def on_epoch_end(self, trial, model, epoch, logs=None):
            assert isinstance(model, keras.Model) and "val_loss" in logs
            calls.append(("end", trial.trial_id, epoch))

    tuner = searched(Epochs, tmp_path, verbose=2)
    expected = {(when, trial, epoch) for when in ("begin", "end") for trial in "01" for epoch in (0, 1)}
    assert set(calls) == expected and len(calls) == 8
    assert ONE_BY_ONE not in capsys.readouterr().out
    assert "Population" in type(tuner._get_trainer()).__name__


def test_batch_hooks_are_called_and_said(tmp_path, capsys):
    calls = []

    class Batches(kt.RandomSearch):
        def on_batch_begin(self, trial, model, batch, logs=None):
            calls.append(("begin", trial.trial_id, batch))

        def on_batch_end(self, trial, model, batch, logs=None):
            calls.append(("end", trial.trial_id, batch))

    searched(Batches, tmp_path, verbose=2)
    assert calls.count(("begin", "0", 0)) == calls.count(("end", "1", 0)) == 2  # one batch in each of two epochs
    assert f"{ONE_BY_ONE}Batches.on_batch_begin, Batches.on_batch_end are overridden." in capsys.readouterr().out


def test_build_and_fit_model_gets_callbacks_that_keep_the_weights(tmp_path, capsys):
    seen = []

    class Own(kt.RandomSearch):
        def _build_and_fit_model(self, trial, *args, **kwargs):
            seen.append([type(callback).__name__ for callback in kwargs["callbacks"]])
            model = self._try_build(trial.hyperparameters)
            return model.fit(*args, **kwargs)

    tuner = searched(Own, tmp_path, verbose=2, executions_per_trial=2)
    assert seen == [["TunerCallback", "SaveBestEpoch"]] * 4
    assert f"{ONE_BY_ONE}Own._build_and_fit_model is overridden." in capsys.readouterr().out
    best = tuner.oracle.get_best_trials()[0]
    assert best.score == pytest.approx(np.mean(best.scores)) and len(best.scores) == 2
    loss = tuner.get_best_models()[0].evaluate(X, Y, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(min(best.scores), rel=1e-4)


def test_build_and_fit_model_that_calls_the_one_above(tmp_path):
    class Own(kt.RandomSearch):
        def _build_and_fit_model(self, trial, *args, **kwargs):
            kwargs["epochs"] = 1
            return super()._build_and_fit_model(trial, *args, **kwargs)

    tuner = searched(Own, tmp_path)
    assert {row.num_epochs for row in tuner.results()} == {1}


def test_populate_initial_space_may_do_nothing(tmp_path):
    """AutoKeras builds nothing before the search."""

    class Later(kt.RandomSearch):
        def _populate_initial_space(self):
            return None

    tuner = Later(tiny.build, "val_loss", max_trials=3, seed=0, directory=tmp_path)
    assert tuner.oracle.get_space().space == []
    tuner.search(**FIT, verbose=0)
    assert {hp.name for hp in tuner.oracle.get_space().space} == {"units", "learning_rate"}


def test_deepcopy_callbacks_makes_the_copies(tmp_path):
    made = []

    class Stubborn(keras.callbacks.Callback):
        def __deepcopy__(self, memo):
            raise TypeError("cannot be copied")

    class Copies(kt.RandomSearch):
        def _deepcopy_callbacks(self, callbacks):
            made.append([copy.copy(callback) for callback in callbacks])
            return made[-1]

    tuner = Copies(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(**FIT, callbacks=[Stubborn()], verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 2
    assert len(made) == 2 and all(isinstance(copies[0], Stubborn) for copies in made)


def test_trial_and_search_hooks_in_their_order(tmp_path, capsys):
    calls = []

    class Hooks(kt.RandomSearch):
        def on_search_begin(self):
            calls.append("search")

        def on_trial_begin(self, trial):  # without super(), as in KerasTuner's examples
            calls.append(f"begin {trial.trial_id}")

        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            calls.append(f"end {trial.trial_id} {trial.status}")

        def on_search_end(self):
            calls.append("over")

    searched(Hooks, tmp_path, verbose=2)
    assert calls[0] == "search" and calls[-1] == "over"
    assert sorted(calls[1:-1]) == ["begin 0", "begin 1", "end 0 COMPLETED", "end 1 COMPLETED"]
    assert "[2/2] trial " in capsys.readouterr().out


def test_load_model_and_save_model_of_ones_own(tmp_path):
    kept = {}

    class Own(kt.engine.base_tuner.BaseTuner):
        def run_trial(self, trial, **kwargs):
            self.save_model(trial.trial_id, f"model {trial.hyperparameters.get('units')}")
            return float(trial.hyperparameters.get("units"))

        def save_model(self, trial_id, model, step=0):
            kept[trial_id] = model

        def load_model(self, trial):
            return kept[trial.trial_id]

    oracle = kt.oracles.GridSearchOracle(max_trials=3, hyperparameters=tiny.space(units=3))
    tuner = Own(oracle, directory=tmp_path)
    tuner.search(verbose=0)
    assert tuner.get_best_models() == ["model 1"]


def test_weights_that_a_loop_of_ones_own_saved_under_keras_tuners_name(tmp_path):
    class Loop(kt.RandomSearch):
        def run_trial(self, trial, x, y, **kwargs):
            model = self._try_build(trial.hyperparameters)
            loss = float(model.train_on_batch(x, y, return_dict=True)["loss"])
            self.get_trial_dir(trial.trial_id)
            model.save_weights(self._get_checkpoint_fname(trial.trial_id))
            self.weights = model.get_weights()
            return {"val_loss": loss}

    tuner = Loop(tiny.build, "val_loss", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(X, Y, verbose=0)
    for found, expected in zip(tuner.get_best_models()[0].get_weights(), tuner.weights, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_state_of_a_tuner_survives_a_restart(tmp_path):
    class Counts(kt.RandomSearch):
        count = 0

        def run_trial(self, trial):
            self.count += 1
            return 1.0

        def get_state(self):
            return {**super().get_state(), "count": self.count}

        def set_state(self, state):
            super().set_state(state)
            self.count = state["count"]

    arguments = {"hyperparameters": tiny.space(), "max_trials": 3, "directory": tmp_path}
    tuner = Counts(**arguments)
    tuner.search()
    tuner.close()
    again = Counts(**arguments)
    assert again.count == 3
    again.count = 7
    again.reload()
    assert again.count == 3


class Loop(kt.HyperModel):
    """Trains without `compile`; what it keeps in the place of an optimizer is its own affair."""

    def build(self, hp):
        hp.Fixed("units", 3)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        if self.name:
            model.optimizer = self.name
        return model

    def fit(self, hp, model, *args, **kwargs):
        return float(hp.Choice("score", [1, 2]))


@pytest.mark.parametrize("optimizer", [None, "a text"])
def test_a_fit_of_ones_own_needs_no_compiled_model(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr("manyfit.core.environment.written_for_keras_tuner", True)
    tuner = kt.GridSearch(Loop(name=optimizer), objective="score", directory=tmp_path)
    tuner.search(verbose=0)
    assert sorted(trial.score for trial in tuner.oracle.trials.values()) == [1.0, 2.0]


# Oracles -------------------------------------------------------------------------------------------------------


class Listed(kt.Oracle):
    """Tries a list of values, and remembers what it has tried."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.tried = []

    def populate_space(self, trial_id):
        if len(self.tried) >= 2:
            return {"status": "STOPPED", "values": None}
        self.tried.append(trial_id)
        return {"status": "RUNNING", "values": {"units": len(self.tried), "learning_rate": 0.1}}

    def get_state(self):
        return {**super().get_state(), "tried": self.tried}

    def set_state(self, state):
        super().set_state(state)
        self.tried = state["tried"]


def test_an_oracle_of_ones_own_decides_and_remembers(tmp_path):
    oracle = Listed(objective="val_loss", max_trials=9)
    tuner = searched(kt.Tuner, tmp_path, oracle=oracle)
    assert [trial.hyperparameters.get("units") for trial in tuner.oracle.trials.values()] == [1, 2]
    tuner.close()
    again = Listed(objective="val_loss", max_trials=9)
    kt.Tuner(again, tiny.build, directory=tmp_path)
    assert again.tried == ["0", "1"]


def test_score_trial_and_end_trial_of_ones_own(tmp_path):
    ended = []

    class Scores(kt.oracles.RandomSearchOracle):
        def score_trial(self, trial):
            trial.score = trial.metrics.get_best_value("val_accuracy") + 10
            trial.best_step = 1

        @kt.synchronized
        def end_trial(self, trial):
            super().end_trial(trial)
            ended.append((trial.trial_id, trial.status))

    tuner = searched(kt.Tuner, tmp_path, oracle=Scores(objective="val_loss", max_trials=2, seed=0))
    assert sorted(ended) == [("0", "COMPLETED"), ("1", "COMPLETED")]
    assert all(10 <= trial.score <= 11 for trial in tuner.oracle.trials.values())


def test_update_trial_of_ones_own_is_told_the_metrics_and_said(tmp_path, capsys):
    told = []

    class Hears(kt.oracles.RandomSearchOracle):
        def update_trial(self, trial_id, metrics, step=0):
            told.append((trial_id, sorted(metrics)))
            return super().update_trial(trial_id, metrics, step)

    searched(kt.Tuner, tmp_path, oracle=Hears(objective="val_loss", max_trials=2, seed=0), verbose=2)
    assert told == [(trial_id, ["accuracy", "loss", "val_accuracy", "val_loss"]) for trial_id in "01"]
    assert f"{ONE_BY_ONE}Hears.update_trial is overridden." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT"])
def test_variables_of_chief_and_workers_are_answered(name, tmp_path, monkeypatch):
    """KerasTuner starts a chief or a worker; without it each process would run the whole search."""
    monkeypatch.setenv(name, "chief")
    with pytest.raises(UsageError, match=rf"{name}=chief.*executor=") as caught:
        kt.RandomSearch(tiny.build, "val_loss", directory=tmp_path)
    assert "start the program once" in tiny.four_parts(caught.value)[3]
