"""Eight configurations and a budget of a hundred: each is tried, then the contenders are repeated until settled."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.records import Ending, Result


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
        f"All 8 configurations were tried, in {len(trainer.trained)} executions. The order is settled: "
        f"trial {best.trial_id} is the best, at 95% confidence."
    )


def test_the_budget_ends_first(project, capsys):
    trainer = Noisy(1.0, gap=0.05)
    tuner = searching(trainer, project, max_trials=20)
    tuner.search(verbose=0)
    assert len(trainer.trained) == 20 and len(tuner.oracle.trials) == 8
    assert "The order is not settled when the budget ended: the best is one of " in closing(tuner, capsys)


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


def test_where_the_user_trains_nothing_is_claimed(project):
    tuner = tiny.numbers(lambda trial: {"loss": 1.0}, kt.Search, objective="loss", hyperparameters=tiny.space(4),
                         max_trials=100, seed=0, **project)  # fmt: skip
    tuner.search(verbose=0)
    assert len(tuner.oracle.trials) == 8
    assert "when the search ended" in tuner.oracle.replication(1).sentence()
