"""Trials of an earlier project, as this search's sampler reads them."""

import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.core.objective import Objective, ParetoObjective
from manyfit.core.records import Ending
from manyfit.oracles.warm_start import EarlierTrials, check_learns
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import RandomSampler


class Project:
    """An earlier project: trials by id, with the metrics of their executions and how these ended."""

    def __init__(self, **trials):
        self._trials = trials

    def trials(self):
        return [
            {"id": name, "values": {"units": 3, "tuner/epochs": 2}, "outcome": {"ending": ending}}
            for name, (ending, _) in self._trials.items()
        ]

    def executions(self):
        return [
            {"trial_id": name, "ending": run[0], "phase": run[1], "metrics": run[2]}
            for name, (_, runs) in self._trials.items()
            for run in runs
        ]


class Notes(dict):
    """What was committed."""

    def put(self, **facts):
        self.update(facts)


COMPLETED, STOPPED = str(Ending.COMPLETED), str(Ending.STOPPED)
LOSS, ACCURACY = Objective("loss", "min"), Objective("accuracy", "max")
PROJECT = {
    "full": (COMPLETED, [(COMPLETED, "search", {"loss": 1.0, "accuracy": 0.5})] * 2),
    "other": (COMPLETED, [(COMPLETED, "search", {"loss": 3.0, "accuracy": 0.75})]),
    "short": (STOPPED, [(COMPLETED, "search", {"loss": 0.0, "accuracy": 1.0})]),
    "cut": (COMPLETED, [(STOPPED, "search", {"loss": 0.0, "accuracy": 1.0})]),
    "fold": (COMPLETED, [(COMPLETED, "fold", {"loss": 0.0, "accuracy": 1.0})]),
    "without": (COMPLETED, [(COMPLETED, "search", {"mae": 0.0})]),
}


def test_trials_that_ran_in_full_and_have_the_objective_are_taken():
    earlier = EarlierTrials()
    assert earlier.take(Project(**PROJECT), LOSS, Notes()) == 2
    full, other = earlier.observations
    assert (full.trial_id, full.losses, full.metrics) == ("full", (1.0, 1.0), {"loss": 1.0, "accuracy": 0.5})
    assert (other.trial_id, other.losses, other.vectors) == ("other", (3.0,), ())
    assert all(each.earlier and each.full and each.ending is Ending.COMPLETED for each in (full, other))
    assert dict(full.values) == {"units": 3}  # without the earlier scheduler's notes


def test_they_are_scored_by_the_objective_of_this_search():
    earlier = EarlierTrials()
    earlier.take(Project(**PROJECT), ACCURACY, Notes())
    assert [each.losses for each in earlier.observations] == [(-0.5, -0.5), (-0.75,)]
    both = EarlierTrials()
    both.take(Project(**PROJECT), ParetoObjective([LOSS, ACCURACY]), Notes())
    assert [each.vectors for each in both.observations] == [((1.0, -0.5),) * 2, ((3.0, -0.75),)]


def test_metrics_are_means_over_executions():
    runs = [(COMPLETED, "search", {"loss": loss}) for loss in (1.0, 2.0)]
    earlier = EarlierTrials()
    earlier.take(Project(only=(COMPLETED, runs)), LOSS, Notes())
    assert earlier.observations[0].metrics == {"loss": 1.5} and earlier.observations[0].losses == (1.0, 2.0)


def test_what_was_taken_is_taken_once_and_comes_back():
    earlier, notes = EarlierTrials(), Notes()
    assert [earlier.take(Project(**PROJECT), LOSS, notes) for _ in range(2)] == [2, 0]
    again = EarlierTrials()
    again.load(notes)
    assert again.observations == earlier.observations and len(again.observations) == 2


def test_a_project_without_the_objective_is_refused():
    with pytest.raises(UsageError, match="auc") as caught:
        EarlierTrials().take(Project(**PROJECT), Objective("auc", "max"), Notes())
    assert "tuner.results()" in tiny.four_parts(caught.value)[3]


def test_a_search_that_learns_from_nothing_takes_nothing():
    check_learns(GaussianProcessSampler(), "BayesianOptimization")
    for sampler in (None, RandomSampler()):
        with pytest.raises(UsageError, match="does not learn"):
            check_learns(sampler, "RandomSearch")
