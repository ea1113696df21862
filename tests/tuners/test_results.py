"""What comes back from a search: summaries, the best, models, rows and curves."""

from __future__ import annotations

import subprocess
import sys

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import ProjectError, UsageError

pytestmark = pytest.mark.backends


def build(hp):
    """The model of `tiny.build`, run step by step: compiling it for every trial would take most of the time."""
    model = tiny.build(hp)
    model.run_eagerly = True
    return model


@pytest.fixture(scope="module")
def searched(tmp_path_factory, rows):
    """A random search of four trials with two executions each, three epochs, best three kept; tests only read it."""
    tuner = kt.RandomSearch(
        build,
        "val_loss",
        max_trials=4,
        seed=5,
        executions_per_trial=2,
        num_kept_models=3,
        population=False,
        directory=tmp_path_factory.mktemp("results"),
        project_name="read_only",
    )
    tuner.search(*rows, epochs=3, validation_split=0.25, verbose=0)
    return tuner


def ran(function, project, **arguments):
    tuner = tiny.numbers(function, **{"max_trials": 3, "seed": 0, **arguments}, **project)
    tuner.search(verbose=0)
    return tuner


# Summaries -----------------------------------------------------------------------------------------------------


def test_the_summary_of_the_space_has_a_name_and_the_settings_of_each(project, capsys):
    kt.RandomSearch(tiny.build, "loss", **project).search_space_summary()
    assert capsys.readouterr().out.splitlines() == [
        "Search space summary",
        "Default search space size: 2",
        "units (Int)",
        "{'default': None, 'conditions': [], 'min_value': 1, 'max_value': 4, 'step': 1, 'sampling': 'linear'}",
        "learning_rate (Float)",
        "{'default': 0.01, 'conditions': [], 'min_value': 0.01, 'max_value': 0.3, 'step': None, 'sampling': 'linear'}",
    ]


def test_the_summary_of_results_shows_the_best_first(project, capsys):
    tuner = ran(lambda trial: 3.0 - trial.number, project)
    tuner.results_summary(2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "Results summary",
        f"Results in {tuner.project_dir}",
        "Showing 2 best trials",
        'Objective(name="default_objective", direction="min")',
        "",
    ]
    best = tuner.oracle.trials["2"].hyperparameters
    assert lines[5:11] == [
        "Trial 2 summary",
        "Hyperparameters:",
        f"units: {best.get('units')}",
        f"kind: {best.get('kind')}",
        "Score: 1.0",
        "",
    ]
    assert lines[11] == "Trial 1 summary" and "Trial 0 summary" not in lines


def test_the_spread_over_executions_is_shown(searched, capsys):
    searched.results_summary(1)
    best = searched.oracle.get_best_trials()[0]
    assert f"Spread: {best.spread:.4g} (standard deviation over 2 executions)" in capsys.readouterr().out


def test_the_progress_of_a_search_in_keras_tuners_words(project, capsys):
    tuner = tiny.numbers(lambda trial: 2.0 - trial.number, max_trials=2, seed=0, display="plain", **project)
    tuner.search()
    shown = capsys.readouterr().out
    first, second = tiny.proposals(tuner)
    assert "Search: Running Trial #1\n" in shown
    assert f"{first['units']:<18}|{first['units']:<18}|units\n" in shown
    assert f"{second['units']:<18}|{first['units']:<18}|units\n" in shown
    assert "Trial 2 Complete [00h 00m 00s]\ndefault_objective: 1.0\n\nBest default_objective So Far: 1.0\n" in shown


def test_a_silent_search_prints_nothing(project, rows, quiet):
    kt.RandomSearch(build, "loss", max_trials=1, seed=0, population=False, **project).search(*rows, verbose=0)


# The best ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("direction", "best"), [("min", "120"), ("max", "021")])
def test_the_best_hyperparameters_follow_the_direction(direction, best, project):
    scores = [3.0, 1.0, 2.0]
    tuner = ran(lambda trial: {"score": scores[trial.number]}, project, objective=kt.Objective("score", direction))
    expected = [tuner.oracle.trials[trial_id].hyperparameters.values for trial_id in best]
    assert [hp.values for hp in tuner.get_best_hyperparameters(3)] == expected
    assert [hp.values for hp in tuner.get_best_hyperparameters()] == expected[:1]
    assert len(tuner.get_best_hyperparameters(99)) == 3


def test_the_best_hyperparameters_build_the_model(searched):
    [best] = searched.get_best_hyperparameters()
    model = searched.hypermodel.build(best)
    assert model.layers[0].units == best.get("units")
    assert float(model.optimizer.learning_rate) == pytest.approx(best.get("learning_rate"))


def test_the_best_models_have_the_weights_of_their_recorded_score(searched, rows):
    x, y = (data[18:] for data in rows)  # the validation rows of validation_split=0.25
    models = searched.get_best_models(3)
    trials = searched.oracle.get_best_trials(3)
    assert len(models) == 3
    for model, trial in zip(models, trials, strict=True):
        run = min(trial.executions.values(), key=lambda run: run.score)
        found = model.evaluate(x, y, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(run.score, rel=1e-5)
        assert found["accuracy"] == pytest.approx(run.metrics["val_accuracy"])


def test_the_weights_are_those_of_the_best_epoch_and_not_of_the_last(project, rows):
    def overshoots(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 0.9, 1.0)), "mse", run_eagerly=True)
        return model

    tuner = kt.RandomSearch(overshoots, "val_loss", max_trials=1, seed=0, population=False, **project)
    tuner.search(*rows, epochs=8, validation_split=0.25, verbose=0)
    [row] = tuner.results()
    last = [point["val_loss"] for point in tuner.results().curves][-1]
    assert row.best_epoch < 7 and row.score < last
    [model] = tuner.get_best_models()
    assert model.evaluate(rows[0][18:], rows[1][18:], verbose=0) == pytest.approx(row.score, rel=1e-5)


def test_a_metric_to_maximise_brings_back_its_best_epoch_too(project, rows):
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=3, seed=1, population=False, **project)
    tuner.search(*rows, epochs=4, validation_split=0.25, verbose=0)
    best = tuner.oracle.get_best_trials()[0]
    curves = [point["val_accuracy"] for point in tuner.results().curves]
    assert best.score == max(curves)
    found = tuner.get_best_models()[0].evaluate(rows[0][18:], rows[1][18:], verbose=0, return_dict=True)
    assert found["accuracy"] == pytest.approx(best.score)


def test_weights_are_kept_for_the_best_and_deleted_for_the_rest(searched):
    best = [trial.trial_id for trial in searched.oracle.get_best_trials(3)]
    for trial_id in searched.oracle.trials:
        paths = [searched.store.weights_path(trial_id, execution) for execution in (0, 1)]
        assert [path.exists() for path in paths] == [trial_id in best] * 2
    assert len(searched.get_best_models(3)) == 3


def test_asking_for_more_models_than_were_kept_says_how_to_get_them(searched):
    with pytest.raises(UsageError, match="not kept") as caught:
        searched.get_best_models(4)
    assert "num_kept_models=" in tiny.four_parts(caught.value)[3]


def test_the_next_process_gets_the_same_models(searched, rows):
    [model] = searched.get_best_models()
    again = kt.RandomSearch(
        build, "val_loss", max_trials=4, seed=5, directory=searched.directory, project_name=searched.project_name
    )
    [same] = again.get_best_models()
    for found, expected in zip(same.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [row.flat() for row in again.results()] == [row.flat() for row in searched.results()]
    assert again.results().curves == searched.results().curves


# Rows and curves -----------------------------------------------------------------------------------------------


def test_there_is_one_row_per_execution_with_everything_measured(searched):
    results = searched.results()
    assert [(row.trial_id, row.execution) for row in results] == [(str(i), j) for i in range(4) for j in range(2)]
    for row in results:
        assert (row.status, row.ending, row.num_epochs, row.message) == ("COMPLETED", "completed", 3, None)
        assert set(row.metrics) == {"loss", "accuracy", "val_loss", "val_accuracy"}
        assert row.score == row.metrics["val_loss"]
        assert set(row.values) == {"units", "learning_rate"}
        assert row.seconds > 0
    assert len({row.seed for row in results}) == 8


def test_curves_have_a_point_per_epoch_and_rows_are_their_best(searched):
    results = searched.results()
    assert len(results.curves) == 8 * 3
    for row in results:
        curve = [
            point["val_loss"]
            for point in results.curves
            if (point["trial_id"], point["execution"]) == (row.trial_id, row.execution)
        ]
        assert row.score == min(curve) == curve[row.best_epoch]


def test_rows_and_curves_load_into_pandas(searched):
    pandas = pytest.importorskip("pandas")
    frame, curves = searched.results().to_pandas(), searched.results().curves_to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.shape[0] == 8
    assert {"units", "learning_rate", "val_loss", "accuracy", "score", "seed", "best_epoch"} <= set(frame.columns)
    means = frame.groupby("trial_id")["score"].mean()
    for trial in searched.oracle.trials.values():
        assert means[trial.trial_id] == pytest.approx(trial.score, rel=1e-12)
    assert curves.groupby(["trial_id", "execution"])["val_loss"].min().tolist() == frame["score"].tolist()


def test_without_pandas_the_error_says_what_to_install(searched, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pip install manyfit\[pandas\]"):
        searched.results().to_pandas()


def test_rows_are_a_sequence_and_print_as_a_table(searched):
    results = searched.results()
    assert len(results) == 8 and results[-1] is results.rows[-1] and list(results) == results.rows
    lines = str(results).splitlines()
    assert len(lines) == 9
    assert {"trial_id", "units", "learning_rate", "score", "val_loss"} <= set(lines[0].split())


def test_a_metric_and_a_value_of_one_name_stay_apart(project):
    tuner = ran(lambda trial: {"score": 1.0, "units": 7.0}, project, objective=kt.Objective("score", "max"))
    row = tuner.results()[0]
    flat = row.flat()
    assert flat["units"] == row.values["units"] and flat["metric/units"] == 7.0
    assert flat["score"] == flat["metric/score"] == 1.0


def test_a_trial_that_is_still_running_has_a_row_too(project):
    tuner = tiny.numbers(lambda trial: 1.0, max_trials=1, **project)
    tuner.oracle.create_trial("tuner0")
    [row] = tuner.results()
    assert (row.status, row.score, row.num_epochs) == ("RUNNING", None, 0)


# One process ---------------------------------------------------------------------------------------------------

HOLD = """
import sys
import manyfit as kt
class Numbers(kt.RandomSearch):
    def run_trial(self, trial): return 1.0
tuner = Numbers(directory=sys.argv[1], project_name="search")
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_told_who_has_the_project(project):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, project["directory"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "open\n"
        for overwrite in (False, True):
            with pytest.raises(ProjectError, match=f"process {process.pid} on ") as caught:
                tiny.numbers(lambda trial: 1.0, overwrite=overwrite, **project)
            assert "project_name=" in tiny.four_parts(caught.value)[3]
        process.stdin.close()
        process.wait()
    assert tiny.numbers(lambda trial: 1.0, **project).oracle.trials == {}


def test_names_that_are_made_of_layers_names_are_those_of_the_search(project, rows):
    """AutoKeras names hyperparameters after layers, which Keras numbers ("dense", "dense_1") since it was cleared."""

    def build(hp):
        layer = keras.layers.Dense(1, activation="sigmoid")
        units = hp.Int(f"{layer.name}/units", 2, 5)
        return tiny.compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), layer]))

    tuner = kt.RandomSearch(build, "val_loss", max_trials=3, seed=1, **project)
    tuner.search(*rows, validation_data=rows, verbose=0)
    units = [model.layers[0].units for model in tuner.get_best_models(3)]
    assert units == [next(iter(hp.values.values())) for hp in tuner.get_best_hyperparameters(3)]
