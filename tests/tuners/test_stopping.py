"""`stop_when=` ends a search by what is expected of its leader, and `stop()` ends a `fit` with a winner."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.core.events import TrialEnded
from manyfit.evidence.stopping import Progressed
from manyfit.store.facts import Leader
from manyfit.tuners.stopping import StopsWhen


def searched(folder, function, stop_when, direction="max", **arguments):
    arguments = {"max_trials": 40, "seed": 0, "hyperparameters": tiny.space(units=1000), **arguments}
    objective = kt.Objective("score", direction)
    tuner = tiny.numbers(function, objective=objective, directory=str(folder), project_name="p", **arguments)
    tuner.oracle.clock._now = iter(range(10**9)).__next__
    tuner.search(stop_when=stop_when, verbose=0)
    return tuner


@pytest.fixture
def patient(monkeypatch):
    """Looks after each trial, however long that takes."""
    monkeypatch.setattr("manyfit.tuners.stopping._MOST_OF_TIME", np.inf)


def noisy(truth):
    """Three runs of each trial, with a luck of 0.1 each; the seed is the trial's number."""

    def run(trial):
        rng = np.random.default_rng(trial.number)
        return [{"score": truth(trial) + 0.1 * luck} for luck in rng.normal(size=3)]

    return run


def test_luck_does_not_end_a_search(tmp_path, patient):
    tuner = searched(tmp_path, noisy(lambda trial: 0.5), kt.Reached(0.58), max_trials=20)
    assert max(trial.score for trial in tuner.oracle.trials.values()) > 0.58
    assert len(tuner.oracle.trials) == 20 and tuner.ended_by == "max_trials"


def test_what_is_really_better_ends_it(tmp_path, patient, capsys):
    tuner = searched(tmp_path, noisy(lambda trial: 0.5 + 0.4 * (trial.number == 12)), kt.Reached(0.6))
    assert len(tuner.oracle.trials) == 13 and tuner.ended_by == "stopped"
    said = kt.open_project(tuner.project_dir).ended_by
    assert "stop_when is met: score 0." in said and said.endswith("is expected of the leader, and 0.6 was asked for.")


def test_a_loss_is_reached_from_above_and_without_noise_by_its_score(tmp_path, patient):
    tuner = searched(tmp_path, lambda trial: {"score": 1 / (1 + trial.number)}, kt.Reached(0.11), "min")
    assert len(tuner.oracle.trials) == 10
    assert "by its score: how much is luck is not known" in kt.open_project(tuner.project_dir).ended_by


def test_no_gain_counts_on_after_a_restart(tmp_path, patient):
    def run(trial):
        return {"score": min(trial.number, 7) / 10}

    tuner = searched(tmp_path, run, kt.NoGain(trials=6), max_trials=10)
    assert (len(tuner.oracle.trials), tuner.ended_by) == (10, "max_trials")
    tuner.close()
    again = searched(tmp_path, run, kt.NoGain(trials=6))
    assert (len(again.oracle.trials), again.ended_by) == (14, "stopped")  # the eighth trial was the last gain


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        (kt.Reached(0.5), True),
        (kt.Reached(0.7), False),
        (kt.NoGain(trials=10), True),
        (kt.NoGain(trials=11), False),
        (kt.NoGain(trials=15, least=0.15), True),
        (kt.Reached(0.7) | kt.NoGain(trials=10), True),
        (kt.Reached(0.7) & kt.NoGain(trials=10), False),
        (kt.Reached(0.5) & kt.NoGain(trials=10), True),
        (kt.Reached(0.7) | kt.Reached(0.5) & kt.NoGain(trials=11), False),
    ],
)
def test_conditions(condition, met):
    found = Progressed("score", "max", 30, gains=[(5, 0.3), (15, 0.5), (20, 0.6)], expected=0.6)
    assert (condition.why(found) is not None) is met
    mirrored = Progressed("loss", "min", 30, gains=[(5, -0.3), (15, -0.5), (20, -0.6)], expected=-0.6)
    if isinstance(condition, kt.Reached):
        condition = kt.Reached(-condition.value)
        assert (condition.why(mirrored) is not None) is met


def test_before_anything_is_known_nothing_is_met():
    early = Progressed("score", "max", 3)
    assert kt.Reached(0.0).why(early) is None and kt.NoGain(1).why(early) is None


def test_looks_take_a_small_part_of_the_time(tmp_path):
    """A look of a second is repeated after fifty."""
    times, looks = [0.0], []

    def leader():
        times[0] += 1.0
        looks.append(times[0])
        return Leader("0", 0.5, num_trials=9, expected=0.5)

    tuner = tiny.numbers(lambda trial: 0.5, objective=kt.Objective("score", "max"), directory=str(tmp_path))
    stops = StopsWhen(kt.Reached(0.9), tuner.oracle, leader, now=lambda: times[0])
    for _ in range(200):
        times[0] += 1.0
        stops.hear(TrialEnded("0", 0.5, None))
    assert looks == [2.0, 52.0, 102.0, 152.0, 202.0]


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: kt.Reached("0.9"), "'0.9'"),
        (lambda: kt.Reached(float("nan")), "nan"),
        (lambda: kt.Reached(True), "True"),
        (lambda: kt.NoGain(trials=0), "0"),
        (lambda: kt.NoGain(trials=2.5), "2.5"),
        (lambda: kt.NoGain(least=-1), "-1"),
        (lambda: kt.Reached(0.9) | 3, "3"),
        (lambda: kt.Reached(0.9) & None, "None"),
    ],
)
def test_wrong_conditions_are_refused_where_they_are_made(make, got):
    with pytest.raises((UsageError, UsageTypeError)) as raised:
        make()
    assert tiny.four_parts(raised.value)[1] == got


def test_what_is_no_condition_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UsageTypeError, match="Allowed: kt") as raised:
        searched(tmp_path, lambda trial: pytest.fail("trained"), 0.98)
    tiny.four_parts(raised.value)
    tuner = tiny.numbers(
        lambda trial: 1.0, objective=[kt.Objective("a", "max"), kt.Objective("b", "min")], directory=str(tmp_path)
    )
    with pytest.raises(UsageError, match="2 objectives"):
        tuner.search(stop_when=kt.Reached(1), verbose=0)


def test_fit_takes_both_and_has_a_winner(tmp_path, rows, patient):
    """A `stop` that was asked for of whatever thread ends all of it; `stop_when` ends the search in it."""
    x, y = rows

    class Tuner(kt.RandomSearch):
        def run_trial(self, trial, x, y, **kwargs):
            if trial.trial_id == stops_at:
                self.stop()
            model = self.hypermodel.build(trial.hyperparameters)
            self.save_model(trial.trial_id, model)
            return {"val_loss": 0.5}

    def fitted(name, **options):
        tuner = Tuner(tiny.build, "val_loss", seed=0, directory=str(tmp_path), project_name=name)
        winner = tuner.fit(x, y, max_trials=12, verbose=0, **options)
        return len(tuner.oracle.trials), winner.ended_by, str(winner).replace("\n", " ")

    stops_at = "01"
    number, ended_by, card = fitted("stopped")
    assert (number, ended_by) == (2, "stopped") and "because the search was told to stop." in card
    stops_at = None
    assert fitted("met", stop_when=kt.Reached(0.6))[:2] == (5, "stopped")
