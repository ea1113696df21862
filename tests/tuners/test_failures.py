"""Failures are endings: recorded with their reason, retried as asked, never counted as good."""

from __future__ import annotations

import random

import manyfit as kt  # isort: skip

import keras
import pytest
import tiny

from manyfit.core.errors import FailedTrialError, FatalError, FatalRuntimeError, SearchError


def failing(function, project, **arguments):
    """A tuner (not run yet) over four trials; `function(trial)` raises or returns the loss."""
    arguments = {"max_trials": 4, "seed": 0, **arguments}
    return tiny.numbers(function, **arguments, **project)


def raising(errors):
    """A `run_trial` that raises what is listed for a trial's number, attempt by attempt, and returns 1.0 after that."""

    def run(trial):
        listed = errors.get(trial.number, [])
        if trial.attempt < len(listed):
            raise listed[trial.attempt]
        return 1.0 + trial.number

    return run


def statuses(tuner):
    return [trial.status for trial in tuner.oracle.trials.values()]


# What is recorded ----------------------------------------------------------------------------------------------


def test_an_exception_is_recorded_with_its_traceback_and_the_search_goes_on(project):
    tuner = failing(raising({1: [ValueError("a strange layer")]}), project)
    tuner.search(verbose=0)
    assert statuses(tuner) == ["COMPLETED", "FAILED", "COMPLETED", "COMPLETED"]
    failed = tuner.oracle.trials["1"]
    assert failed.ending == "failed" and failed.score is None
    assert failed.message.startswith("Traceback") and "ValueError: a strange layer" in failed.message


def test_failed_trials_are_in_the_results_and_nowhere_among_the_best(project, capsys):
    tuner = failing(raising({0: [ValueError("a strange layer")]}), project)
    tuner.search(verbose=0)
    assert [trial.trial_id for trial in tuner.oracle.get_best_trials(9)] == ["1", "2", "3"]
    assert len(tuner.get_best_hyperparameters(9)) == 3
    row = tuner.results()[0]
    assert (row.status, row.ending, row.score) == ("FAILED", "failed", None)
    assert "a strange layer" in row.message
    tuner.results_summary()
    shown = capsys.readouterr().out
    assert shown.index("Trial 3 summary") < shown.index("Trial 0 summary") < shown.index("a strange layer")


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes"), "out of memory"),
        (RuntimeError("OOM when allocating tensor with shape[8]"), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory"),
        (ValueError("room for one more"), "failed"),
        (RuntimeError("the bedroom is zoomed"), "failed"),
    ],
)
def test_memory_that_ran_out_is_told_from_other_errors(error, ending, project):
    tuner = failing(raising({0: [error]}), project, max_trials=2)
    tuner.search(verbose=0)
    assert tuner.oracle.trials["0"].ending == ending


def test_what_failed_is_still_known_to_the_next_process(project):
    first = failing(raising({1: [ValueError("a strange layer")]}), project)
    first.search(verbose=0)
    first.close()
    again = failing(raising({}), project)
    assert statuses(again) == statuses(first)
    assert again.oracle.trials["1"].message == first.oracle.trials["1"].message
    again.search(verbose=0)
    assert len(again.oracle.trials) == 4


def test_the_sampler_hears_of_failures_and_does_not_propose_them_again(project):
    tuner = failing(
        raising({number: [ValueError("no")] for number in (0, 2, 4)}),
        project,
        max_trials=None,
        hyperparameters=tiny.space(units=3),
    )
    tuner.search(verbose=0)
    tried = [tuple(values.values()) for values in tiny.proposals(tuner)]
    assert len(tried) == len(set(tried)) == 6
    assert [observed.loss for observed in tuner.oracle.book.observations()].count(float("inf")) == 3


# Retries -------------------------------------------------------------------------------------------------------


def test_a_trial_that_recovers_counts(project):
    tuner = failing(raising({0: [ValueError("once"), ValueError("twice")]}), project, max_retries_per_trial=2)
    tuner.search(verbose=0)
    trial = tuner.oracle.trials["0"]
    assert (trial.status, trial.attempt, trial.score) == ("COMPLETED", 2, 1.0)
    assert tuner.oracle.get_best_trials()[0] is trial
    assert trial.message is None, "a trial that recovered has nothing to complain of"


def test_retries_have_seeds_of_their_own_and_end(project):
    drawn = []

    def unlucky(trial):
        drawn.append(random.random())
        raise ValueError("always")

    tuner = failing(unlucky, project, max_trials=1, max_retries_per_trial=3)
    with pytest.raises(SearchError):
        tuner.search(verbose=0)
    assert len(set(drawn)) == len(drawn) == 4
    assert tuner.oracle.trials["0"].attempt == 3


def test_a_trial_that_says_it_failed_is_not_retried(project):
    tuner = failing(raising({0: [FailedTrialError("no such shape")]}), project, max_retries_per_trial=3)
    tuner.search(verbose=0)
    trial = tuner.oracle.trials["0"]
    assert (trial.status, trial.attempt, trial.message) == ("FAILED", 0, "FailedTrialError: no such shape")


def test_a_fatal_error_ends_the_search_at_once(project):
    tuner = failing(raising({1: [FatalRuntimeError("the disk is on fire")]}), project, max_retries_per_trial=3)
    with pytest.raises(FatalError, match="the disk is on fire"):
        tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 2
    assert tuner.oracle.get_best_trials()[0].trial_id == "0"


# When to give up -----------------------------------------------------------------------------------------------


def test_the_search_gives_up_after_failures_in_a_row(project):
    tuner = failing(
        raising({number: [ValueError(f"cause {number % 2}")] for number in range(1, 9)}),
        project,
        max_trials=9,
        max_consecutive_failed_trials=4,
    )
    with pytest.raises(SearchError, match="exceeded the limit of 4") as caught:
        tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 5
    assert "2 x failed: ValueError: cause 0" in str(caught.value)
    assert "2 x failed: ValueError: cause 1" in str(caught.value)


def test_failures_that_are_not_in_a_row_do_not_add_up(project):
    tuner = failing(
        raising({number: [ValueError("no")] for number in (0, 1, 3, 4, 6, 7)}),
        project,
        max_trials=9,
        max_consecutive_failed_trials=3,
    )
    tuner.search(verbose=0)
    assert statuses(tuner).count("COMPLETED") == 3


def test_when_all_failed_one_error_groups_and_counts_the_causes(project):
    errors = {0: [ValueError("shapes")], 1: [MemoryError("8 GiB")], 2: [ValueError("shapes")], 3: [KeyError("units")]}
    tuner = failing(raising(errors), project, max_consecutive_failed_trials=9)
    with pytest.raises(SearchError) as caught:
        tuner.search(verbose=0)
    lines = [line.split(" (")[0] for line in str(caught.value).splitlines()]  # without the line of code
    assert "all 4 trials failed" in lines[0]
    assert lines[1] == "2 x failed: ValueError: shapes"
    assert set(lines[2:4]) == {"1 x out of memory: MemoryError: 8 GiB", "1 x failed: KeyError: 'units'"}
    assert "tuner.results()" in lines[4] and "overwrite=True" in lines[4]


def test_failures_and_what_is_left_of_retries_are_shown(project, capsys):
    tuner = failing(raising({0: [ValueError("no")] * 2}), project, max_trials=2, max_retries_per_trial=1)
    tuner.search()
    shown = capsys.readouterr()
    assert shown.out.count("Trial 0 failed 1 times. 1 retries left.") == 1  # in KerasTuner's words
    lines = shown.err.splitlines()
    assert len(lines) == 2 and all(
        line.startswith("Trial 0 failed: ValueError: no (test_failures.py:") for line in lines
    )


def test_a_silent_search_is_silent_about_failures(project, quiet):
    failing(raising({0: [ValueError("no")]}), project).search(verbose=0)


# Through a trainer ---------------------------------------------------------------------------------------------


def test_one_failed_execution_fails_its_trial_and_saves_the_others_the_work(project):
    def fails(plan):
        return ValueError("unlucky seed") if plan.key == ("1", 1) else None

    trainer = tiny.Formula(fail=fails)
    tuner = tiny.searched(trainer, max_trials=3, executions_per_trial=3, seed=0, **project)
    tuner.search(verbose=0)
    assert statuses(tuner) == ["COMPLETED", "FAILED", "COMPLETED"]
    assert [(trial, execution) for trial, execution, _ in trainer.trained].count(("1", 2)) == 0
    assert [row.ending for row in tuner.results() if row.trial_id == "1"] == ["completed", "failed"]


def test_a_retry_runs_all_executions_again_with_seeds_of_its_own(project):
    failed = []

    def fails_once(plan):
        if plan.key == ("0", 1) and not failed:
            failed.append(plan)
            return ValueError("unlucky seed")
        return None

    trainer = tiny.Formula(fail=fails_once)
    tuner = tiny.searched(trainer, max_trials=1, executions_per_trial=2, max_retries_per_trial=1, seed=0, **project)
    tuner.search(verbose=0)
    assert [key[:2] for key in trainer.trained] == [("0", 0), ("0", 1)] * 2
    assert len({seed for _, _, seed in trainer.trained}) == 4
    assert [row.seed for row in tuner.results()] == [seed for _, _, seed in trainer.trained[2:]]


# Through model.fit ---------------------------------------------------------------------------------------------


def explodes_at(rate):
    """A build function whose model diverges at large learning rates."""

    def build(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Choice("learning_rate", [0.01, rate])), "mse")
        return model

    return build


@pytest.mark.backends
def test_divergence_is_an_ending_and_no_number_of_it_is_a_score(project, rows):
    tuner = kt.GridSearch(explodes_at(1e30), "val_loss", seed=0, population=False, **project)
    tuner.search(*rows, epochs=3, batch_size=4, validation_split=0.25, verbose=0)
    assert [trial.ending for trial in tuner.oracle.trials.values()] == ["completed", "diverged"]
    assert tuner.oracle.trials["0001"].message == "val_loss was never finite"
    assert [hp.get("learning_rate") for hp in tuner.get_best_hyperparameters(2)] == [0.01]
    assert len(tuner.get_best_models(2)) == 1


@pytest.mark.backends
def test_a_build_function_that_fails_for_some_values(project, rows):
    def build(hp):
        if hp.Choice("shape", ["flat", "odd", "deep"]) == "odd":
            raise ValueError("odd will not do")
        hp.Fixed("learning_rate", 0.1)
        return tiny.compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]))

    tuner = kt.GridSearch(build, "loss", seed=0, population=False, max_retries_per_trial=1, **project)
    tuner.search(*rows, verbose=0)
    assert [(trial.hyperparameters.get("shape"), trial.status) for trial in tuner.oracle.trials.values()] == [
        ("flat", "COMPLETED"),
        ("odd", "FAILED"),
        ("deep", "COMPLETED"),
    ]
    assert "odd will not do" in tuner.oracle.trials["0001"].message


@pytest.mark.backends
def test_weights_of_failed_trials_are_not_kept(project, rows):
    tuner = kt.GridSearch(explodes_at(1e30), "loss", seed=0, population=False, **project)
    tuner.search(*rows, epochs=2, batch_size=4, verbose=0)
    weights = tuner.store.weights_path
    kept = {trial.trial_id: weights(trial.trial_id, 0).exists() for trial in tuner.oracle.trials.values()}
    assert kept == {"0000": True, "0001": False}


@pytest.mark.parametrize("first", ["fails", "is too large"])
def test_a_round_in_which_no_trial_can_train_does_not_end_the_search(first, project, rows):
    # A sampler that learns is asked for few trials at a time, so all of a round may be refused.
    built = []

    def build(hp):
        built.append(None)
        units = hp.Int("units", 1, 64)
        if 1 < len(built) < 9:  # the first build finds the space
            if first == "fails":
                raise ValueError("no such model")
            units = 1000
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    tuner = kt.BayesianOptimization(
        build, "val_loss", max_trials=8, max_model_size=500, max_consecutive_failed_trials=9, seed=0, **project
    )
    tuner.search(*rows, validation_split=0.25, verbose=0)
    assert len(tuner.oracle.trials) == 8
    assert any(trial.score is not None for trial in tuner.oracle.trials.values())


class Broken(kt.MedianRule):
    """Raises when it is asked about the second epoch."""

    def decide(self, history, trial_ids):
        if max(progress.epochs for progress in history) > 1:
            raise ZeroDivisionError("a rule of its own")
        return super().decide(history, trial_ids)


@pytest.mark.backends
@pytest.mark.parametrize("population", [True, False])
def test_a_scheduler_that_raises_ends_the_search_and_no_trial_is_to_blame(population, project, rows):
    tuner = kt.RandomSearch(
        tiny.build, "loss", max_trials=3, seed=0, scheduler=Broken(), population=population, **project
    )
    with pytest.raises(ZeroDivisionError, match="a rule of its own"):
        tuner.search(*rows, epochs=3, verbose=0)
    assert "FAILED" not in statuses(tuner)
