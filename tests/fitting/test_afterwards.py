"""What `fit` does with the seconds after its search, with steps that only take time: nothing is trained here."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.records import Ending
from manyfit.fitting import afterwards as module
from manyfit.fitting.afterwards import Afterwards
from manyfit.fitting.comparison import Lead
from manyfit.fitting.phase_times import PhaseTimes

BETTER, WORSE = Lead(0.2, 0.1, 100, "mse"), Lead(-0.2, 0.1, 100, "mse")


class Ensemble(SimpleNamespace):
    """As much of one as is looked at."""

    method, refused = "equal weights", False

    def __init__(self, name, trials=()):
        members = [SimpleNamespace(name=f"trial {one}", models=(1,)) for one in trials]
        super().__init__(name=name, members=members, pool=SimpleNamespace(support=list(range(3))))


class Project:
    """A tuner that has searched, its steps, and the time that they take."""

    may_bag, may_confirm, may_train_on = True, False, True
    standing = None

    def __init__(self, losses, *, seconds=1.0, limit=100.0, spent=40.0, bag_pace=1.0):
        self.time, self.done, self.facts, self.bag_pace = 0.0, [], {}, bag_pace
        self.seconds, self.best_first = seconds, losses
        self.trials = {}
        for loss in losses:
            self.add(loss)
        self.oracle = self.book = self
        self.store = SimpleNamespace(get=self.facts.get, put=self.facts.update)
        self.objective = SimpleNamespace(loss=lambda score: score)
        clock = Clock(limit, spent_seconds=spent, now=lambda: self.time)
        clock.start()
        self.times, self.reasons = PhaseTimes(clock, {"search": spent}), []
        self.afterwards = Afterwards(self, self, times=self.times, reasons=self.reasons)

    def add(self, loss):
        costs = Costs("one", epoch=self.seconds / 10)
        run = SimpleNamespace(costs=costs, seconds=self.seconds, num_epochs=10, share=1.0, ending=Ending.COMPLETED)
        name = f"{len(self.trials):04d}"
        self.trials[name] = SimpleNamespace(trial_id=name, score=loss, is_completed=True, executions={0: run})

    def get_best_trials(self, count):
        return sorted(self.trials.values(), key=lambda trial: trial.score)[:count]

    def by_search_score(self):
        return list(self.trials.values())

    def take(self, name, seconds, trials=()):
        self.done.append(name)
        self.time += seconds
        return Ensemble(name, trials)

    def combined(self):
        return self.take("combine", 0.1)

    def bagged(self, top, repeats, left):
        count = top if isinstance(top, int) else len(top)
        seconds = self.bag_pace * 5 * count * repeats * self.seconds
        assert seconds <= left + 1e-9
        best = [trial.trial_id for trial in self.get_best_trials(count)] if isinstance(top, int) else top
        return self.take(f"bag {count} x {repeats}", seconds, best)

    def trained_on(self, hand, top, left):
        return self.take(f"train on {top}", top * self.seconds)

    def trained_on_earlier(self, hand):
        return None

    def best_model(self):
        return "the best model"

    def search_again(self, loss=None, ended_by="time"):
        self.done.append("search")
        while self.times.clock.left() - self.afterwards.needed_seconds() >= self.seconds:
            self.time += self.seconds
            self.add(1.0 if loss is None else loss)
        return ended_by

    def winner(self, ended_by="time", **options):
        return self.afterwards.winner(ended_by, lambda: self.search_again(**options))


@pytest.fixture(autouse=True)
def outcome(monkeypatch):
    """What comparisons say, and a winner that is what it was given."""
    told = {}
    monkeypatch.setattr(module, "difference", lambda one, two, leader: told.get(two.name, WORSE))
    monkeypatch.setattr(module, "Winner", SimpleNamespace)
    return told


LOSSES = [0.1 + 0.01 * number for number in range(40)]


def test_what_is_left_after_a_bag_is_used(outcome):
    """The bag takes a tenth of what was foretold; a search that has to end for it would idle for the rest."""
    project = Project(LOSSES, limit=60.0, bag_pace=0.1)
    outcome["bag 3 x 1"] = BETTER
    winner = project.winner()
    assert project.done[:2] == ["combine", "bag 3 x 1"]
    assert project.done[2:4] == ["bag 3 x 2", "search"]  # a larger one of that pace, and more trials
    assert winner.ensemble.name == "bag 3 x 1"  # what came later was not better
    assert project.times.clock.left() < 5.0 and winner.ended_by == "time"


def test_what_is_worse_replaces_nothing_and_the_reasons_say_so(outcome):
    project = Project(LOSSES, limit=60.0)
    winner = project.winner()
    assert winner.ensemble.name == "combine"
    [said] = [reason for reason in winner.reasons if reason.startswith("A bag of 3")]
    assert "is not used: it is worse by 0.2 ± 0.1 in mse on 100 rows, against the models of the search" in said
    assert any("training on at a tenth of the rate is not used" in reason for reason in winner.reasons)


def test_training_on_is_tried_once_and_not_where_a_bag_is_in_hand(outcome):
    project = Project(LOSSES, limit=90.0)
    project.winner(ended_by="trials")
    assert project.done.count("train on 3") == 1
    outcome["bag 3 x 1"] = BETTER
    bagged = Project(LOSSES, limit=60.0)
    bagged.winner(ended_by="trials")
    assert "train on 3" not in bagged.done


def test_a_better_trial_of_the_longer_search_is_bagged_again(outcome):
    project = Project(LOSSES, limit=100.0, bag_pace=0.2)
    outcome["bag 3 x 1"] = BETTER
    project.winner(loss=0.05)
    again = project.done[project.done.index("search") :]
    assert "bag 3 x 1" in again
    assert project.done.count("search") < 5


def test_a_search_that_is_over_by_its_trials_is_not_gone_on_with():
    project = Project(LOSSES, limit=200.0)
    assert project.winner(ended_by="space").ended_by == "space"
    assert "search" not in project.done


def test_a_search_without_time_for_another_trial_ends():
    project = Project(LOSSES, seconds=3.0, limit=45.0, spent=40.0)
    project.add = lambda loss: None  # what it begins does not end in time
    assert project.winner().ended_by == "time"
    assert project.done.count("search") <= 1


def test_where_all_are_equally_good_nothing_is_better():
    project = Project([0.0] * 12)
    assert project.afterwards.needed_seconds() == float("inf")  # which ends the search
    winner = project.winner()
    assert winner.ended_by == "nothing better" and project.done == ["combine"]
    assert "equally good" in winner.reasons[-1]


def test_without_a_limit_of_time_one_bag_is_made():
    project = Project(LOSSES, limit=None)
    project.winner(ended_by="trials")
    assert project.done == ["combine", "bag 3 x 1"]


def test_the_bag_of_an_earlier_call_is_compared_with_what_a_longer_search_has_come_to(outcome):
    first = Project(LOSSES, limit=60.0)
    outcome["bag 3 x 1"] = BETTER
    first.winner(ended_by="trials")
    assert first.facts["fit_bag"] == {"trials": ["0000", "0001", "0002"], "repeats": 1}
    second = Project([*LOSSES, 0.05], limit=None)
    second.facts.update(first.facts)
    winner = second.winner(ended_by="trials")
    assert any(reason.startswith("The bag of an earlier call is used") for reason in winner.reasons)
    assert winner.ensemble.name == "bag 3 x 1"
    # Its best trial is a new one, so there is another bag, which has to be better than that.
    assert second.done == ["combine", "bag 3 x 1", "bag 3 x 1"]


def test_costs_of_epochs_are_counted_once():
    run = SimpleNamespace(
        costs=Costs("one", build=2.0, compile=4.0, epoch=0.5),
        seconds=12.0,
        num_epochs=10,
        share=1.0,
        ending=Ending.COMPLETED,
    )
    found = module.tried_of(SimpleNamespace(executions={0: run}), 0.3)
    assert (found.seconds, found.build_seconds, found.compile_seconds) == (5.0, 2.0, 4.0)
    unmeasured = dataclasses.replace(run.costs, epoch=0.0)
    run.costs = unmeasured
    assert module.tried_of(SimpleNamespace(executions={0: run}), 0.3).seconds == 12.0
    run.share = 0.25  # of the rows: what follows trains on all of them
    assert module.tried_of(SimpleNamespace(executions={0: run}), 0.3).seconds == 48.0
