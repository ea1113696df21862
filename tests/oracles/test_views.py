"""What a book reads of its trials: what going through all of them would find, without going through them."""

import copy
import math
import pickle
import random

import pytest
import tiny

from manyfit.core.objective import Objective, create_objective
from manyfit.core.records import ROWS, Ending, Observation, Plan, Result
from manyfit.oracles.book import TrialBook
from manyfit.oracles.searches import RandomSearchOracle
from manyfit.oracles.trial import Confirmed, Trial
from manyfit.samplers.base import Constraint

LOSS = Objective("loss", "min")


def ended(book, number, loss):
    """Another trial, which has trained an epoch."""
    trial = Trial(tiny.space(), f"{number:04}")
    book.trials[trial.trial_id] = trial
    book.add_execution(Result(Plan(trial.trial_id, 0, trial.hyperparameters, 1), Ending.COMPLETED, {"loss": [loss]}))
    trial.status, trial.score = "COMPLETED", loss
    return trial


def book_of(count, **arguments):
    book = TrialBook(LOSS, **arguments)
    for number in range(count):
        ended(book, number, (number * 7 % 11) / 10)
    return book


def read(book):
    """All that is asked for whenever a trial begins or ends."""
    return book.observations(), book.progress(), book.pending(), book.paused(), book.kept(3), book.by_search_score()


@pytest.fixture
def looks(monkeypatch):
    """How often it was asked of a trial how it ended or what it scored."""
    seen = []
    for name in ("has_ended", "is_completed", "is_underway", "measured"):
        honest = getattr(Trial, name).fget
        monkeypatch.setattr(Trial, name, property(lambda self, honest=honest: seen.append(1) or honest(self)))
    for name in ("observation", "progress"):
        honest = getattr(Trial, name)
        monkeypatch.setattr(
            Trial, name, lambda self, objective, honest=honest: seen.append(1) or honest(self, objective)
        )
    return seen


def test_a_further_trial_costs_as_many_looks_after_a_thousand_as_after_ten(looks):
    counts = []
    for size in (10, 1000):
        book = book_of(size)
        read(book)
        looks.clear()
        ended(book, size, 0.55)
        read(book)
        counts.append(len(looks))
    assert counts[0] == counts[1] < 30


def test_what_trials_have_measured_is_worked_out_once(looks, monkeypatch):
    worked_out = []
    honest = Trial.measured.fget
    monkeypatch.setattr(Trial, "measured", property(lambda self: worked_out.append(self.trial_id) or honest(self)))
    book = book_of(50, constraints=[Constraint("loss", max=0.5)])
    assert {trial.score <= 0.5 for trial in book.best()} == {True}
    worked_out.clear()
    ended(book, 50, 0.2)
    book.kept(3)
    assert worked_out == ["0050"]
    # But what was reported is the user's, who may add to it at any time.
    trial = book.trials["0003"]
    trial.report({"loss": 0.1}, 0, LOSS)
    book.kept(3)
    worked_out.clear()
    book.kept(3)
    assert set(worked_out) == {"0003"}


def expected(book):
    """The same as `read`, from all trials."""
    trials = list(dict(book.trials).values())
    over = [trial for trial in trials if trial.has_ended]
    open_ = [trial for trial in trials if not trial.has_ended]
    completed = [trial for trial in trials if trial.is_completed]
    whole = [trial for trial in completed if trial.num_rows is None] or completed
    ranked = sorted(whole, key=lambda trial: LOSS.loss(trial.score))
    confirmed = sorted((one for one in ranked if one.confirmed is not None), key=lambda one: one.confirmed.rank)
    best = confirmed + [one for one in ranked if one.confirmed is None]
    kept = best[:3] + [one for one in ranked[:1] if one not in best[:3]]
    return (
        [trial.observation(LOSS) for trial in over],
        [trial.progress(LOSS) for trial in trials],
        [trial.searched_values for trial in open_],
        [trial for trial in open_ if trial.state == "paused" and trial.executions],
        kept,
        ranked,
    )


def test_whatever_is_done_to_trials_by_hand_is_noticed():
    rng, book = random.Random(0), book_of(12)
    numbers = iter(range(100, 10_000))

    def any_trial():
        return rng.choice(list(book.trials.values()))

    def another():
        return ended(book, next(numbers), rng.random())

    def confirm(trial):
        trial.confirmed = Confirmed(0.5, 0.1, 0.9, 0.95, 5, rng.randrange(9), True, 0.5)

    def tag(trial):
        trial.tags = {} if trial.tags else {ROWS: 100}

    def replace(trial):
        other = another()
        del book.trials[other.trial_id]
        other.trial_id = trial.trial_id
        book.trials[trial.trial_id] = other

    changes = [
        lambda: setattr(any_trial(), "score", rng.choice([rng.random(), math.nan, None])),
        lambda: setattr(any_trial(), "status", rng.choice(["RUNNING", "FAILED", "COMPLETED", "INVALID"])),
        lambda: setattr(any_trial(), "ending", Ending.DIVERGED),
        lambda: setattr(any_trial(), "hyperparameters", tiny.space()),
        lambda: confirm(any_trial()),
        lambda: setattr(any_trial(), "confirmed", None),
        lambda: tag(any_trial()),
        lambda: replace(any_trial()),
        another,
        another,
        lambda: book.trials.pop(rng.choice(list(book.trials))),
        lambda: book.trials.pop("none such", None),
        lambda: book.trials.popitem()[0],
        lambda: book.trials.setdefault(any_trial().trial_id, Trial(tiny.space())),
        lambda: book.trials.update({(trial := Trial(tiny.space(), str(next(numbers)))).trial_id: trial}),
        lambda: book.trials.__ior__({any_trial().trial_id: any_trial()}),
        lambda: setattr(book, "trials", dict(reversed(list(book.trials.items())))),
        lambda: any_trial().set_state(another().get_state() | {"trial_id": any_trial().trial_id}),
    ]
    for step in range(600):
        if len(book.trials) < 4:
            another()
        rng.choice(changes)()
        assert read(book) == expected(book), step
    book.trials.clear()
    assert read(book) == ([], [], [], [], [], [])


def test_curves_of_trials_under_way_are_read_as_they_are_now():
    book = book_of(2)
    trial = book.trials["0001"]
    trial.status = "RUNNING"
    trial.executions.clear()
    for epoch in range(3):
        book.add_epochs([(Plan("0001", 0, trial.hyperparameters, 1), epoch, {"loss": 1.0 - epoch / 10})])
        assert book.progress()[1].curve == pytest.approx([1.0, 0.9, 0.8][: epoch + 1])
        assert book.pending() == [trial.searched_values]
    trial.hyperparameters.values["units"] = 5
    assert book.pending() == [trial.searched_values]


def test_copies_of_trials_are_nobodys():
    book = book_of(3)
    for copied in (copy.deepcopy(book.trials), pickle.loads(pickle.dumps(book.trials)), copy.copy(book.trials)):
        assert list(copied) == list(book.trials)
        del copied["0001"]
        assert len(book.completed()) == 3
    alone = copy.deepcopy(book.trials["0001"])
    alone.score = -5.0
    assert book.best(1) != [alone] and alone not in book.by_search_score()


def test_several_objectives_are_ranked_as_without_a_book():
    several = create_objective([Objective("loss", "min"), Objective("size", "min")])
    book = TrialBook(several)
    for number in range(20):
        trial = Trial(tiny.space(), str(number))
        book.trials[trial.trial_id] = trial
        history = {"loss": [(number * 7 % 11) / 10], "size": [float(number * 5 % 13)]}
        book.add_execution(Result(Plan(str(number), 0, trial.hyperparameters, 1), Ending.COMPLETED, history))
        trial.status, trial.score = "COMPLETED", history["loss"][0]
        fresh = TrialBook(several)
        fresh.trials = dict(book.trials)
        assert book.by_search_score() == fresh.by_search_score()
        assert book.front() == fresh.front() and book.kept(2) == fresh.kept(2)


def test_trials_of_a_users_oracle_are_those_of_the_book():
    oracle = RandomSearchOracle("loss", max_trials=5, seed=0, hyperparameters=tiny.space())
    oracle.trials = {"a": Trial(tiny.space(), "a", status="COMPLETED")}
    oracle.trials["a"].score = 1.0
    assert [trial.trial_id for trial in oracle.get_best_trials(3)] == ["a"]
    assert [type(one) for one in oracle.book.observations()] == [Observation]
