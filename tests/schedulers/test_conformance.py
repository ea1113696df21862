"""The shipped suite, run on every scheduler."""

import pytest

from manyfit.schedulers import ASHA, FullBudget, HyperbandScheduler, MedianRule, PopulationBasedTraining, RowHalving
from manyfit.testing.schedulers import SchedulerSuite


class TestFullBudget(SchedulerSuite):
    def make(self):
        return FullBudget(9)


class TestFullBudgetOfUnknownLength(SchedulerSuite):
    def make(self):
        return FullBudget()


class TestHyperband(SchedulerSuite):
    def make(self):
        return HyperbandScheduler(9, 3, hyperband_iterations=2)


class TestEndlessHyperbandByTwos(SchedulerSuite):
    def make(self):
        return HyperbandScheduler(8, 2, hyperband_iterations=None)


class TestASHA(SchedulerSuite):
    def make(self):
        return ASHA(9, 3)


class TestRowHalving(SchedulerSuite):
    def make(self):
        return RowHalving([10, 30], 3, max_epochs=9)


class TestRowHalvingOfUnknownLength(SchedulerSuite):
    def make(self):
        return RowHalving([10], 2)


class TestASHALateFirstRung(SchedulerSuite):
    def make(self):
        return ASHA(8, 2, min_epochs=2)


class TestMedianRule(SchedulerSuite):
    def make(self):
        return MedianRule(9, grace_epochs=2)


class TestPopulationBasedTraining(SchedulerSuite):
    def make(self):
        return PopulationBasedTraining(9, 2, population_size=60)


class TestPopulationBasedTrainingOfFewTrials(SchedulerSuite):
    def make(self):
        return PopulationBasedTraining(9, population_size=12, factor=2)


def test_the_suite_catches_a_scheduler_that_remembers():
    class Forgetful(FullBudget):
        calls = 0

        def assign(self, history, count, limits):
            Forgetful.calls += 1
            return super().assign(history, count, limits) if Forgetful.calls % 3 else []

    class Suite(SchedulerSuite):
        def make(self):
            return Forgetful(9)

    with pytest.raises((AssertionError, ValueError)):
        Suite().test_max_trials_is_never_passed_and_the_search_ends()
        Suite().test_asking_twice_gives_one_answer()
