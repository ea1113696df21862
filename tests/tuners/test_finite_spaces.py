"""Eight configurations and a budget of a hundred: each is tried, then the contenders are repeated until settled."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.records import Ending, Result
from manyfit.data.call import Call
from manyfit.tuners.keras_tuner.remote import RunTask, RunTrial


class Noisy(tiny.Formula):
    """Losses of 0, 1, ..., 7 tenths by configuration, with normal noise that the execution's seed decides.

    Args:
        deviation: of the noise.
        gap: between one configuration and the next.
    """

    def __init__(self, deviation: float, gap: float = 0.1) -> None:
        super().__init__(num_epochs=1)
        self.deviation = deviation
        self.gap = gap

    def _finish(self, plan, curve, supply, task):
        self.trained.append((*plan.key, plan.seed))
        values = plan.values.values
        rank = (values["units"] - 1) * 2 + (values["kind"] == "b")
        loss = self.gap * rank + self.deviation * float(np.random.default_rng(plan.seed).standard_normal())
        supply.finish(Result(plan, Ending.COMPLETED, {"loss": [loss]}))


class Killed(Noisy):
    """One whose process is killed after so many executions."""

    def __init__(self, deviation: float, num_runs: int) -> None:
        super().__init__(deviation)
        self.num_runs = num_runs

    def _finish(self, plan, curve, supply, task):
        if len(self.trained) == self.num_runs:
            raise KeyboardInterrupt
        super()._finish(plan, curve, supply, task)


def build(hp):
    """A model for form's sake: it is built once, to find the space, and never trained."""
    layers = [keras.Input((3,)), keras.layers.Dense(hp.Int("units", 1, 4)), keras.layers.Dense(1)]
    return tiny.compiled(keras.Sequential(layers))


def searching(trainer, project, tuner=kt.Search, max_trials=100, **arguments):
    class Untrained(tuner):
        def _get_trainer(self):
            return trainer

    arguments = {"hyperparameters": tiny.space(4), "seed": 0, **arguments}
    return Untrained(build, "loss", max_trials=max_trials, **arguments, **project)


def closing(tuner, capsys):
    tuner.results_summary(1)
    return capsys.readouterr().out.strip().splitlines()[-1]


@pytest.mark.parametrize("tuner", [kt.Search, kt.BayesianOptimization])
def test_the_order_is_settled(project, capsys, tuner):
    trainer = Noisy(0.08)
    tuner = searching(trainer, project, tuner)
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 8
    runs = {trial.hyperparameters.get("units") * 2 + (trial.hyperparameters.get("kind") == "b"): len(trial.scores)
            for trial in tuner.oracle.trials.values()}  # fmt: skip
    assert 8 < sum(runs.values()) < 100
    assert min(runs.values()) < max(runs.values()) and runs[2] == max(runs.values())  # contenders, not everybody
    best = tuner.oracle.get_best_trials()[0]
    assert (best.hyperparameters.get("units"), best.hyperparameters.get("kind")) == (1, "a")
    assert closing(tuner, capsys) == (
        f"All 8 configurations were tried, in {len(trainer.trained)} executions. The order on these "
        f"rows is settled: trial {best.trial_id} is ahead of all others, at 95% confidence over seeds. What other rows "
        "would say is for tuner.confirm() to find."
    )


def test_the_budget_ends_first(project, capsys):
    trainer = Noisy(1.0, gap=0.05)
    tuner = searching(trainer, project, max_trials=20)
    tuner.search(verbose=0)
    assert len(trainer.trained) == 20 and len(tuner.oracle.trials) == 8
    assert "The order is not settled when the budget ended: the best on these rows is one of " in closing(tuner, capsys)


def test_a_search_that_was_killed_goes_on_with_the_contenders(tmp_path):
    whole = searching(Noisy(0.08), {"directory": tmp_path / "whole"})
    whole.search(verbose=0)
    for num_runs in (5, 12, 3):
        parts = searching(Killed(0.08, num_runs), {"directory": tmp_path / "parts"})
        with pytest.raises(KeyboardInterrupt):
            parts.search(verbose=0)
    parts = searching(Noisy(0.08), {"directory": tmp_path / "parts"})
    parts.search(verbose=0)
    assert tiny.scores(parts) == tiny.scores(whole)
    parts.search(verbose=0)  # nothing more to do
    assert tiny.scores(parts) == tiny.scores(whole)


def test_random_search_tries_each_once_and_stops(project):
    trainer = Noisy(0.08)
    tuner = searching(trainer, project, kt.RandomSearch)
    tuner.search(verbose=0)
    assert len(trainer.trained) == len(tuner.oracle.trials) == 8


def by_formula(deviation, values_per_call=1, fail=None):
    """A `run_trial` whose losses are 0, 1, ..., 7 tenths by configuration, with noise from NumPy's global generator."""

    def run_trial(trial):
        values = trial.hyperparameters.values
        rank = (values["units"] - 1) * 2 + (values["kind"] == "b")
        if fail is not None:
            fail(rank)
        noise = deviation * np.random.standard_normal(values_per_call)  # noqa: NPY002 (Manyfit seeds it)
        return [{"loss": 0.1 * rank + float(each)} for each in noise]

    return run_trial


def calling(function, project, tuner=kt.Search, max_trials=100, **arguments):
    arguments = {"objective": kt.Objective("loss", "min"), "seed": 0, "hyperparameters": tiny.space(4), **arguments}
    return tiny.numbers(function, tuner, max_trials=max_trials, **arguments, **project)


@pytest.mark.parametrize("values_per_call", [1, 3])
def test_a_run_trial_of_the_users_is_called_again_until_the_order_is_settled(project, capsys, values_per_call):
    tuner = calling(by_formula(0.05, values_per_call), project)
    tuner.search(verbose=0)
    calls = {trial_id: len(scores) // values_per_call for trial_id, scores in tiny.scores(tuner).items()}
    assert len(calls) == 8 and 8 < sum(calls.values()) < 100 and min(calls.values()) < max(calls.values())
    best = tuner.oracle.get_best_trials()[0]
    assert (best.hyperparameters.get("units"), best.hyperparameters.get("kind")) == (1, "a")
    assert len(set(best.scores)) == len(best.scores)  # each execution with a seed of its own
    assert best.score == pytest.approx(np.mean(best.scores), rel=1e-12)  # pooled
    assert closing(tuner, capsys) == (
        f"All 8 configurations were tried, in {sum(calls.values())} calls of run_trial. The order on these "
        f"rows is settled: trial {best.trial_id} is ahead of all others, at 95% confidence over seeds. What other rows "
        "would say is for tuner.confirm() to find."
    )


def test_calls_end_with_the_budget(project, capsys):
    tuner = calling(by_formula(2.0, 2), project, max_trials=20)
    tuner.search(verbose=0)
    assert sum(map(len, tiny.scores(tuner).values())) == 2 * 20
    assert "in 20 calls of run_trial. The order is not settled when the budget ended" in closing(tuner, capsys)


def test_three_repeats_that_change_nothing_are_enough(project, capsys):
    tuner = calling(by_formula(0.0), project, kt.BayesianOptimization)
    tuner.search()
    best = tuner.oracle.get_best_trials()[0]
    said = (
        "All 8 configurations were tried, in 11 calls of run_trial. 3 repeated runs measured exactly what the first "
        f"ones had, so the order on these rows is settled: trial {best.trial_id} is ahead. What other rows would say "
        "is for tuner.confirm() to find."
    )
    assert said in capsys.readouterr().out.splitlines()  # where the search ends, and in the summary
    assert closing(tuner, capsys) == said


def test_calls_that_were_killed_go_on(tmp_path):
    def killer(num_calls):
        count = iter(range(100))

        def fail(rank):
            if next(count) == num_calls:
                raise KeyboardInterrupt

        return fail

    whole = calling(by_formula(0.08, 2), {"directory": tmp_path / "whole"})
    whole.search(verbose=0)
    parts = {"directory": tmp_path / "parts"}
    for num_calls in (6, 5, 3):
        tuner = calling(by_formula(0.08, 2, killer(num_calls)), parts)
        with pytest.raises(KeyboardInterrupt):
            tuner.search(verbose=0)
        tuner.close()
    tuner = calling(by_formula(0.08, 2), parts)
    tuner.search(verbose=0)
    assert tiny.scores(tuner) == tiny.scores(whole)


def test_a_contender_whose_further_call_fails_has_lost_and_stays_a_trial(project):
    failing = {0}

    def fail(rank):
        if rank in failing and len(seen) >= 8:
            raise RuntimeError("out of luck")
        seen.append(rank)

    seen: list[int] = []
    tuner = calling(by_formula(0.01, 1, fail), project)
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 8
    assert all(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values())
    [winner] = tuner._replication().standing.winning_set
    values = list(tuner.oracle.trials.values())[winner].hyperparameters.values
    assert (values["units"], values["kind"]) == (1, "b")
    [trial] = [
        one for one in tuner.oracle.trials.values() if any(not run.ending.has_score for run in one.executions.values())
    ]
    assert "out of luck" in trial.executions[1].message


class CallsTheDefault(kt.BayesianOptimization):
    """Overrides `run_trial` as KerasTuner's guide does: sets a fit argument, and lets Manyfit train."""

    def run_trial(self, trial, *args, **kwargs):
        return super().run_trial(trial, *args, batch_size=trial.hyperparameters.get("batch_size"), **kwargs)


def test_an_override_that_calls_the_default_trains_anew_each_time(project):
    hp = kt.HyperParameters()
    hp.Choice("batch_size", [8, 16])
    tuner = CallsTheDefault(
        lambda hp: tiny.compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])),
        "loss",
        max_trials=3,
        executions_per_trial=2,
        hyperparameters=hp,
        seed=0,
        **project,
    )
    x = np.random.default_rng(0).random((32, 3), dtype=np.float32)
    tuner.search(x, x[:, 0] > 0.5, epochs=1, verbose=0)
    assert sorted(map(len, tiny.scores(tuner).values())) == [2, 4]
    longest = max(tiny.scores(tuner).values(), key=len)
    assert len(set(longest)) == 4
    seeds = {run.seed for trial in tuner.oracle.trials.values() for run in trial.executions.values()}
    assert len(seeds) == 6
    tuner.get_best_models(2)  # weights of every execution that may be the best are there


def run_in_worker(tuner):
    """Searches as an executor's worker and driver do together, without processes."""
    worker = object.__new__(type(tuner))
    worker.__dict__.update(tuner.__getstate__())
    task = RunTask(build=None, call=Call(), fit=None, objective=tuner.oracle.objective, tuner=worker)
    RunTrial().train(tuner.trial_supply(), task)


def test_workers_repeat_as_this_process_does(tmp_path):
    here = calling(by_formula(0.05, 2), {"directory": tmp_path / "here"})
    here.search(verbose=0)
    there = calling(by_formula(0.05, 2), {"directory": tmp_path / "there"})
    there.verbose = 0
    run_in_worker(there)
    assert tiny.scores(there) == tiny.scores(here)
    assert there._replication().over


def test_workers_take_failures_of_further_calls(project):
    seen: list[int] = []

    def fail(rank):
        seen.append(rank)
        if rank == 0 and len(seen) > 8:
            raise RuntimeError("out of luck")

    tuner = calling(by_formula(0.01, 1, fail), project)
    tuner.verbose = 0
    run_in_worker(tuner)
    winner = tuner._replication().standing.winning_set[0]
    values = list(tuner.oracle.trials.values())[winner].hyperparameters.values
    assert (values["units"], values["kind"]) == (1, "b")
