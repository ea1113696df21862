"""Defects of KerasTuner 1.4.8, each with the test that shows Manyfit without it. Docstrings say the defect."""

from __future__ import annotations

import math
import threading

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import FatalValueError, ProjectError, UsageError, UsageTypeError
from manyfit.core.objective import infer_metric_direction

real_fit = pytest.mark.backends


def history(**curves):
    """What `model.fit` returns, with these curves."""
    made = keras.callbacks.History()
    made.history = {name: list(curve) for name, curve in curves.items()}
    return made


def ran(function, project, **arguments):
    """A search of one trial (unless the arguments say otherwise) that has run."""
    arguments = {"max_trials": 1, "seed": 0, "objective": "loss", **arguments}
    tuner = tiny.numbers(function, **arguments, **project)
    tuner.search(verbose=0)
    return tuner


# The space -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("high", "step", "count"), [(1.0, 0.1, 11), (1.0, 0.2, 6), (0.6, 0.1, 7)])
def test_float_grids_reach_their_end(high, step, count):
    """`Float(0, 1, step=0.1)` has 10 values and never yields 1.0: the number of steps is floor-divided."""
    values = kt.HyperParameters()
    values.Float("x", 0, high, step=step)
    grid = list(values.space[0].values)
    assert len(grid) == count
    assert (grid[0], grid[-1]) == (0.0, high)


def test_values_of_float_grids_encode_as_themselves():
    """0.5 of `Float(0, 1, step=0.1)` sits in the bucket of 0.4, 0.9 in that of 0.8."""
    hp = kt.HyperParameters()
    hp.Float("x", 0, 1, step=0.1)
    grid = hp.space[0]
    for tenth in range(11):
        assert grid.prob_to_value(grid.value_to_prob(tenth / 10)) == tenth / 10


@pytest.mark.parametrize("sampling", ["log", "reverse_log"])
def test_log_integers_stay_within_their_bounds(sampling):
    """`Int(1, 10, sampling="log")` is rounded after sampling and may come out above its maximum."""
    hp = kt.HyperParameters()
    hp.Int("n", 1, 10, sampling=sampling)
    drawn = {hp.space[0].prob_to_value(position) for position in np.linspace(0, 1, 1001)}
    assert drawn == set(range(1, 11))


def test_choices_of_booleans_return_booleans():
    """`Choice([True, False])` returns 1 and 0."""
    hp = kt.HyperParameters()
    assert hp.Choice("flag", [True, False]) is True
    assert {type(value) for value in hp.space[0].values} == {bool}


def test_a_dependent_bound_follows():
    """`hp.Int("b", 0, hp.Int("a", 1, 10))` freezes b at the bound of the first build."""
    built = kt.HyperParameters()
    built.Int("b", 0, built.Int("a", 1, 10))
    for a in (1, 4, 10):
        hp = built.copy()
        hp.values = {"a": a, "b": 1}
        assert hp.Int("b", 0, hp.Int("a", 1, 10)) in range(a + 1)
        assert next(known for known in hp.space if known.name == "b").max_value == a


def test_asking_again_with_other_bounds_is_an_error_that_shows_both():
    """Other bounds for a name that exists are ignored in silence."""
    hp = kt.HyperParameters()
    hp.Int("units", 16, 64)
    with pytest.raises(UsageError) as caught:
        hp.Int("units", 32, 512)
    for bound in ("16", "64", "32", "512"):
        assert bound in str(caught.value)


# The oracle ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuner", [kt.RandomSearch, kt.BayesianOptimization])
def test_zero_is_a_seed(tuner, tmp_path):
    """`seed or randint` takes seed=0 for no seed: two searches with it differ."""
    runs = [
        ran(float_units, {"directory": tmp_path / name}, tuner=tuner, objective=None, max_trials=6) for name in "ab"
    ]
    assert runs[0].oracle.seed == 0
    assert tiny.proposals(runs[0]) == tiny.proposals(runs[1])


def float_units(trial):
    return float(trial.hyperparameters.get("units"))


def test_streams_of_neighbouring_seeds_do_not_overlap(tmp_path):
    """With d hyperparameters seed s + d yields the trials of seed s, shifted by one."""

    def tried(seed):
        tuner = ran(
            float_units, {"directory": tmp_path / f"{seed}"}, objective=None, seed=seed, max_trials=6,
            hyperparameters=tiny.space(units=10**6),
        )  # fmt: skip
        return {values["units"] for values in tiny.proposals(tuner)}

    assert not tried(11) & tried(13)


def test_hyperparameters_that_appear_late_are_reproducible(tmp_path):
    """Values of hyperparameters that a build reveals late come from a generator without a seed."""

    def late(trial):
        kind = trial.hyperparameters.Choice("kind", ["a", "b"])
        with trial.hyperparameters.conditional_scope("kind", ["b"]):
            extra = trial.hyperparameters.Int("extra", 0, 10**6) if kind == "b" else 0
        return float(extra)

    runs = [ran(late, {"directory": tmp_path / name}, objective=None, max_trials=8) for name in "ab"]
    extras = [[values.get("extra") for values in tiny.proposals(run)] for run in runs]
    assert extras[0] == extras[1]
    assert len({extra for extra in extras[0] if extra is not None}) > 2


@pytest.mark.parametrize("tuner", [kt.RandomSearch, kt.BayesianOptimization, kt.QuasiRandomSearch, kt.GridSearch])
def test_finite_spaces_are_exhausted_without_a_duplicate(tuner, project):
    """Random search gives up after 21 collisions ("41 of 48"); the Gaussian process proposes 8 of 8 a hundred times."""
    made = ran(float_units, project, tuner=tuner, objective=None, max_trials=60, hyperparameters=tiny.space(units=8))
    tried = [(values["units"], values["kind"]) for values in tiny.proposals(made)]
    assert sorted(tried) == [(units, kind) for units in range(1, 9) for kind in "ab"]


def test_grid_search_resumes(project):
    """An interrupted grid search dies with a KeyError on its next trial: its order is not stored."""
    whole = [{"units": units, "kind": kind} for units in (1, 2, 3) for kind in "ab"]

    def interrupted(trial):
        if trial.number == 3:
            raise KeyboardInterrupt
        return 1.0

    arguments = {"tuner": kt.GridSearch, "hyperparameters": tiny.space(units=3), "seed": 0}
    first = tiny.numbers(interrupted, **arguments, **project)
    with pytest.raises(KeyboardInterrupt):
        first.search(verbose=0)
    first.close()
    again = tiny.numbers(lambda trial: 1.0, **arguments, **project)
    again.search(verbose=0)
    assert tiny.proposals(again) == whole


def test_a_hyperparameter_that_only_the_run_asks_for_is_searched(project):
    """Where the space is empty at the first question, Hyperband stops with no trial, the others with one."""
    asked = ran(
        lambda trial: float(trial.hyperparameters.Int("n", 1, 4)),
        project,
        tuner=kt.GridSearch,
        objective=None,
        max_trials=10,
        hyperparameters=kt.HyperParameters(),
    )
    assert [values["n"] for values in tiny.proposals(asked)] == [1, 2, 3, 4]


def test_an_exception_in_the_oracle_locks_nobody_out(project):
    """After any exception the oracle's lock stays held: other threads wait for ever."""

    class Stumbles(kt.Oracle):
        calls = 0

        def populate_space(self, trial_id):
            self.calls += 1
            if self.calls == 1:
                raise RuntimeError("stumbled")
            return {"status": "RUNNING", "values": {"units": 1, "kind": "a"}}

    oracle = Stumbles(objective="loss", max_trials=2, hyperparameters=tiny.space())
    with pytest.raises(RuntimeError, match="stumbled"):
        oracle.create_trial("tuner0")
    found = []
    thread = threading.Thread(target=lambda: found.append(oracle.create_trial("tuner1")), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert [trial.status for trial in found] == ["RUNNING"]


def test_another_objective_is_refused(project):
    """A project opened with another objective or direction is accepted: old scores are ranked under the new one."""
    ran(lambda trial: 1.0, project, objective=kt.Objective("score", "max")).close()
    with pytest.raises(ProjectError, match='direction="min"'):
        tiny.numbers(lambda trial: 1.0, objective=kt.Objective("score", "min"), max_trials=1, **project)


def test_a_tuner_id_does_not_disable_resuming(project):
    """State is saved as `<tuner_id>.json` and looked for as `tuner0.json`: the search starts from nothing."""
    ran(lambda trial: 1.0, project, max_trials=2, tuner_id="worker7").close()
    again = tiny.numbers(lambda trial: 1.0, objective="loss", max_trials=2, tuner_id="worker7", **project)
    assert [trial.status for trial in again.oracle.trials.values()] == ["COMPLETED"] * 2


@pytest.mark.parametrize(
    "name",
    ["val_f1_score", "val_r2_score", "val_auc", "val_mean_io_u", "val_binary_io_u", "val_fbeta_score", "val_recall_3"],
)
def test_metrics_to_maximise_are_known(name):
    """Whatever is not in a fixed list is minimised: `val_f1_score` looks for the worst model."""
    assert infer_metric_direction(name) == "max"
    assert kt.Oracle(objective=name).objective.direction == "max"


# Scores --------------------------------------------------------------------------------------------------------


def test_scores_are_means_and_what_they_are_means_of_is_kept(project):
    """Single executions are averaged away: no spread, no curves, no rows."""
    tuner = ran(lambda trial: [history(loss=[3.0, 1.0]), history(loss=[2.0, 4.0])], project)
    [trial] = tuner.oracle.get_best_trials()
    assert trial.score == 1.5
    assert trial.scores == [1.0, 2.0]
    assert trial.spread == pytest.approx(math.sqrt(0.5))
    assert [(row.score, row.best_epoch) for row in tuner.results()] == [(1.0, 1), (2.0, 0)]
    assert [point["loss"] for point in tuner.results().curves] == [3.0, 1.0, 2.0, 4.0]


def test_nan_at_one_epoch_does_not_poison_the_others(project):
    """NaN at epoch 0 makes the whole history NaN: nothing compares as better than it."""
    tuner = ran(lambda trial: history(loss=[math.nan, 0.5, math.inf, 0.7]), project)
    [row] = tuner.results()
    assert (row.status, row.score, row.best_epoch) == ("COMPLETED", 0.5, 1)


@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_wins(value, direction, project):
    """A trial that diverged to infinity is complete, and the Gaussian process takes its score for 0."""
    tuner = ran(
        lambda trial: {"score": value if trial.number == 1 else 1.0},
        project,
        objective=kt.Objective("score", direction),
        max_trials=3,
    )
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED", "FAILED", "COMPLETED"]
    assert "1" not in [trial.trial_id for trial in tuner.oracle.get_best_trials(3)]
    assert [row.ending for row in tuner.results() if row.trial_id == "1"] == ["diverged"]


def test_several_objectives_as_a_dict(project):
    """Several objectives work with a `History` only: a dict needs a literal "multi_objective"."""
    objective = [kt.Objective("error", "min"), kt.Objective("gain", "max")]
    tuner = ran(lambda trial: {"error": 0.25, "gain": 2.0}, project, objective=objective, compat="keras_tuner")
    assert tuner.oracle.get_best_trials()[0].score == 0.25 - 2.0


def test_several_objectives_as_a_number_are_an_error_that_says_what_to_return(project):
    """A number fails every trial with several objectives, for no stated reason."""
    with pytest.raises(FatalValueError, match=r"\['error', 'gain'\]") as caught:
        ran(lambda trial: 1.0, project, objective=[kt.Objective("error", "min"), kt.Objective("gain", "max")])
    assert "Return a dict" in tiny.four_parts(caught.value)[3]


@real_fit
def test_validation_every_second_epoch(project, rows):
    """`validation_freq=2` is a KeyError for 'val_loss' in every trial."""
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, seed=0, population=False, **project)
    tuner.search(*rows, epochs=4, validation_split=0.25, validation_freq=2, verbose=0)
    [row] = tuner.results()
    assert row.status == "COMPLETED" and row.best_epoch in (1, 3)
    assert [point["epoch"] for point in tuner.results().curves if "val_loss" in point] == [1, 3]
    assert row.num_epochs == 4


# Failures ------------------------------------------------------------------------------------------------------


def test_a_trial_that_recovers_counts(project):
    """A trial that scored NaN can never recover: the retry's result is taken for one that was reported before."""
    results = iter([math.nan, 0.5])
    tuner = ran(lambda trial: {"loss": next(results)}, project, max_retries_per_trial=1)
    [trial] = tuner.oracle.trials.values()
    assert (trial.status, trial.score, trial.attempt) == ("COMPLETED", 0.5, 1)


def test_a_failed_trial_is_never_best(project):
    """With fewer completed trials than asked for, failed ones fill the list of the best."""

    def fails_often(trial):
        if trial.number != 1:
            raise ValueError("no")
        return 1.0

    tuner = ran(fails_often, project, objective=None, max_trials=3)
    assert [trial.trial_id for trial in tuner.oracle.get_best_trials(3)] == ["1"]
    assert len(tuner.get_best_hyperparameters(3)) == 1


@real_fit
def test_models_that_are_too_large_do_not_end_the_search(project, rows):
    """Three models in a row above `max_model_size` abort the search."""

    def build(hp):
        return tiny.compiled(
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Choice("units", [50, 60, 70, 80, 1]))])
        )

    tuner = kt.GridSearch(build, "loss", max_model_size=10, population=False, **project)
    tuner.search(rows[0], rows[1], verbose=0)
    assert [trial.ending for trial in tuner.oracle.trials.values()] == ["too large"] * 4 + ["completed"]
    assert tuner.get_best_hyperparameters()[0].get("units") == 1


@real_fit
def test_a_model_that_its_first_batch_builds_has_a_size_too(project, rows):
    """`max_model_size` passes models that are not built: their size counts as 0."""

    def build(hp):
        return tiny.compiled(keras.Sequential([keras.layers.Dense(hp.Choice("units", [50, 1])), keras.layers.Dense(1)]))

    tuner = kt.GridSearch(build, "loss", max_model_size=10, population=False, **project)
    tuner.search(*rows, verbose=0)
    assert [trial.ending for trial in tuner.oracle.trials.values()] == ["too large", "completed"]


# Models --------------------------------------------------------------------------------------------------------


def test_asking_for_models_with_hyperparameters_says_what_to_type(project):
    """`get_best_models(best_hps)` is a TypeError deep inside a slice."""
    tuner = ran(lambda trial: 1.0, project, objective=None)
    with pytest.raises(UsageTypeError) as caught:
        tuner.get_best_models(tuner.get_best_hyperparameters()[0])
    assert "tuner.hypermodel.build(hp)" in tiny.four_parts(caught.value)[3]


@real_fit
def test_a_training_loop_of_ones_own_can_save(project, rows):
    """`Tuner.save_model` raises NotImplementedError, so models of a `run_trial` override are lost."""
    kept = {}

    class Loop(kt.RandomSearch):
        def run_trial(self, trial, x, y):
            model = self.hypermodel.build(trial.hyperparameters)
            loss = float(model.train_on_batch(x, y, return_dict=True)["loss"])
            self.save_model(trial.trial_id, model)
            kept[trial.trial_id] = model.get_weights()
            return loss

    tuner = Loop(tiny.build, max_trials=2, seed=0, **project)
    tuner.search(*rows)
    [best] = tuner.oracle.get_best_trials()
    for found, expected in zip(tuner.get_best_models()[0].get_weights(), kept[best.trial_id], strict=True):
        np.testing.assert_array_equal(found, expected)


# The terminal --------------------------------------------------------------------------------------------------


def test_no_control_codes_on_a_plain_terminal(project, capsys):
    """Where IPython is merely installed, a script is taken for a notebook: codes that clear the screen are printed."""
    tiny.numbers(lambda trial: 1.0, max_trials=2, seed=0, **project).search()
    shown = capsys.readouterr().out
    assert "[2/2] trial 1: " in shown and "\x1b" not in shown
