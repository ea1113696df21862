"""Trials: their summaries, and their way into the store and back."""

import json
import math

import pytest
import tiny

import manyfit as kt
from manyfit.core.objective import Objective
from manyfit.core.records import Ending
from manyfit.oracles.scoring import Ranking
from manyfit.oracles.trial import Execution, Trial


def trial_with(*executions):
    trial = Trial(tiny.space(), "07")
    for index, (curve, ending) in enumerate(executions):
        finite = [value for value in curve if value is not None and math.isfinite(value)]
        score = min(finite, default=None) if ending.has_score else None
        trial.executions[index] = Execution(index, 5 + index, ending, {"loss": list(curve)}, score=score)
    return trial


def test_a_row_comes_back():
    trial = trial_with(([2.0, 1.0], Ending.COMPLETED))
    trial.status, trial.score, trial.best_step, trial.ending = "COMPLETED", 1.0, 1, Ending.COMPLETED
    trial.number, trial.attempt, trial.tags, trial.message = 7, 2, {"rung": 1}, "text"
    trial.hyperparameters.values = {"units": 9, "kind": "b"}
    row = json.loads(json.dumps(trial.row()))
    again = Trial.from_row(row, tiny.space())
    assert again.row() == trial.row()
    assert again.hyperparameters.get("units") == 9 and again.ending is Ending.COMPLETED


def test_an_observation_is_what_a_sampler_may_know():
    trial = trial_with(([3.0, 1.0], Ending.COMPLETED), ([5.0, 2.0, 9.0], Ending.COMPLETED))
    trial.ending = Ending.COMPLETED
    observation = trial.observation(Objective("loss", "min"))
    assert observation.losses == (1.0, 2.0) and observation.loss == 1.5
    assert observation.curve == (4.0, 1.5)  # means, up to the shorter one
    assert observation.epochs == 3 and observation.full
    assert trial.observation(Objective("loss", "max")).losses == (-1.0, -2.0)


def test_a_failed_trial_is_observed_as_the_worst():
    trial = trial_with(([1.0], Ending.FAILED))
    trial.ending = Ending.FAILED
    observation = trial.observation(Objective("loss", "min"))
    assert observation.loss == math.inf and observation.ending is Ending.FAILED


def test_a_trial_that_was_stopped_early_is_not_full():
    trial = trial_with(([1.0], Ending.STOPPED))
    trial.ending = Ending.STOPPED
    assert not trial.observation(Objective("loss", "min")).full


def test_no_spread_from_one_execution():
    assert trial_with(([1.0], Ending.COMPLETED)).spread is None
    assert trial_with(([1.0], Ending.COMPLETED), ([2.0], Ending.COMPLETED)).spread == pytest.approx(math.sqrt(0.5))


def test_the_summary_has_keras_tuners_lines_and_the_spread(capsys):
    trial = trial_with(([1.0], Ending.COMPLETED), ([2.0], Ending.COMPLETED))
    trial.hyperparameters.values = {"units": 9, "kind": "b"}
    trial.score, trial.message = 1.5, "a message"
    trial.summary()
    assert capsys.readouterr().out.splitlines() == [
        "Trial 07 summary",
        "Hyperparameters:",
        "units: 9",
        "kind: b",
        "Score: 1.5",
        "Spread: 0.7071 (standard deviation over 2 executions)",
        "a message",
    ]


def test_a_trial_without_values_has_the_default_configuration(capsys):
    Trial(kt.HyperParameters()).display_hyperparameters()
    assert capsys.readouterr().out == "default configuration\n"


def test_the_state_has_keras_tuners_keys():
    state = trial_with().get_state()
    assert {"trial_id", "hyperparameters", "score", "best_step", "status", "message"} <= set(state)
    assert set(state["hyperparameters"]) == {"space", "values"}


def test_ranking_computes_no_means_where_no_constraint_asks_for_them(monkeypatch):
    # Trials are ranked several times for each that ends: means of all of them took nine tenths of a search's own time.
    trials = [trial_with(([score], Ending.COMPLETED)) for score in (0.1, 0.3, 0.2)]
    for trial in trials:
        trial.score = trial.executions[0].score
    monkeypatch.setattr(Trial, "measured", property(lambda trial: pytest.fail("a mean was computed")))
    ranked = Ranking(Objective("val_accuracy", "max")).order(trials)
    assert [trial.score for trial in ranked] == [0.3, 0.2, 0.1]


def test_a_row_says_how_a_trial_ended():
    trial = trial_with()
    assert trial.row()["outcome"]["ending"] is None and Trial.from_row(trial.row(), tiny.space()).ending is None
    trial.ending = Ending.DIVERGED
    assert json.loads(json.dumps(trial.row()))["outcome"]["ending"] == "diverged"


def test_trials_that_break_no_constraint_are_kept_in_their_order():
    trials = [trial_with(([loss], Ending.COMPLETED)) for loss in (0.3, 0.7, 0.1)]
    for trial in trials:
        trial.executions[0].metrics = {"loss": trial.executions[0].score}
    ranking = Ranking(Objective("loss", "min"), [kt.Constraint("loss", max=0.5)])
    assert ranking.keeping(trials) == [trials[0], trials[2]] and ranking.broken(trials[1])
