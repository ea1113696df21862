"""Steps with a limit end in time, with all that was finished; and what trials cost is a fact of history.

Time is told by the tests: a second is what a callback says it is, so that no machine is too slow or too fast.
"""

from __future__ import annotations

import manyfit as kt  # isort: skip

import json
import threading
from pathlib import Path

import keras
import pytest
from marks import needs_jax

from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.lifecycle import TrialState
from manyfit.training import known_costs
from manyfit.training.known_costs import KnownCosts


class Times:
    """A time that goes when it is told to; executions share it, however often their callbacks are copied."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def __deepcopy__(self, memo):
        return self


class Takes(keras.callbacks.Callback):
    """Each of these takes so many seconds."""

    def __init__(self, times, *, epoch=0.0, batch=0.0, test=0.0):
        super().__init__()
        self.times, self.epoch, self.batch, self.test = times, epoch, batch, test

    def on_epoch_end(self, epoch, logs=None):
        self.times.now += self.epoch


class TakesInside(Takes):
    """Batches take time, too; a population, whose batches nobody sees, does not take such a callback."""

    def on_train_batch_end(self, batch, logs=None):
        self.times.now += self.batch

    def on_test_batch_end(self, batch, logs=None):
        self.times.now += self.test


@pytest.fixture
def times():
    return Times()


@pytest.fixture(autouse=True)
def _nothing_is_remembered(monkeypatch):
    """What is told here of costs stays here, and no test knows of another's."""
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: None)


def build(hp):
    """One structure: what it compiles is there after the first test, and no test is about more than one."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    optimizer = keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 0.3))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


def tuner_of(project, **arguments):
    arguments = {"max_trials": 3, "seed": 0, **arguments}
    return kt.RandomSearch(build, kt.Objective("val_loss", "min"), **arguments, **project)


def started(seconds, times):
    clock = Clock(seconds, now=times)
    clock.start()
    return clock


def fit_arguments(callback, epochs=4):
    return {"epochs": epochs, "validation_split": 0.25, "batch_size": 8, "callbacks": [callback], "verbose": 0}


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_a_search_within_a_call_ends_with_it_and_keeps_the_epochs_that_it_has(population, project, rows, times):
    tuner = tuner_of(project, population=population, population_size=1 if population else None, max_seconds=1e6)
    with tuner.limited(started(6500, times)):
        tuner.search(*rows, **fit_arguments(Takes(times, epoch=1000)))
    assert tuner.ended_by == "max_seconds"
    first = [(run.num_epochs, str(run.ending)) for run in tuner.results() if run.num_epochs]
    # A seventh would not end in time where that is known; of several at the same time each has one that does not.
    assert 6 <= sum(epochs for epochs, _ in first) <= 8
    assert all(ending == ("completed" if epochs == 4 else "stopped") for epochs, ending in first)
    # Afterwards the limit is gone, and what was cut off is not trained anew.
    tuner.search(*rows, **fit_arguments(Takes(times, epoch=1000)))
    assert tuner.ended_by == "max_trials"
    endings = [(run.num_epochs, str(run.ending)) for run in tuner.results()]
    assert endings == [*first, *[(4, "completed")] * (3 - len(first))]


@pytest.mark.parametrize(
    ("takes", "seconds"),
    [
        ({"batch": 1000.0}, 16500.0),
        ({"test": 3000.0}, 17000.0),
    ],  # an epoch is three batches of training and one of validation
    ids=["while it trains", "while it validates"],
)
def test_a_training_is_left_in_the_middle_of_an_epoch(takes, seconds, project, rows, times):
    tuner = tuner_of(project, population=False)
    with tuner.limited(started(seconds, times)):
        tuner.search(*rows, **fit_arguments(TakesInside(times, **takes)))
    assert times.now <= seconds + max(takes.values()), "it has gone on after the end of its time"
    runs = [run for trial in tuner.oracle.trials.values() for run in trial.executions.values()]
    assert [run.num_epochs for run in runs] == [4, 1]
    assert runs[-1].ending == "stopped" and runs[-1].score is not None


def test_what_was_not_trained_for_an_epoch_runs_in_the_next_search(project, rows, times):
    tuner = tuner_of(project, population=False, executions_per_trial=2, max_trials=1)
    with tuner.limited(started(500, times)):
        tuner.search(*rows, **fit_arguments(TakesInside(times, batch=1000)))
    [trial] = tuner.oracle.trials.values()
    assert (trial.state, trial.executions, tuner.ended_by) == (TrialState.RUNNING, {}, "max_seconds")
    tuner.close()
    again = tuner_of(project, population=False, executions_per_trial=2, max_trials=1)
    again.search(*rows, **fit_arguments(TakesInside(times, batch=1000)))
    assert [run.num_epochs for run in again.results()] == [4, 4]


def test_calls_within_calls_end_with_the_first_of_them(project, times):
    tuner = tuner_of(project)
    outer, inner = started(5, times), started(3, times)
    with tuner.limited(outer):
        with tuner.limited(inner):
            assert tuner.oracle.clock.left() == 3
        assert tuner.oracle.clock.left() == 5
    assert not tuner.oracle.clock.is_limited


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_what_trials_cost_is_kept_with_them(population, project, rows):
    tuner = tuner_of(project, population=population, max_trials=2)
    tuner.search(*rows, epochs=3, validation_split=0.25, verbose=0)
    costs = [observation.costs for observation in tuner.oracle.book.observations()]
    for one in costs:
        assert isinstance(one, Costs) and min(one.build, one.compile, one.epoch, one.predict) > 0
        assert (one.structure is not None) is population
    tuner.close()
    again = tuner_of(project, population=population, max_trials=2)
    assert [observation.costs for observation in again.oracle.book.observations()] == costs


class JumpsInside(Times):
    """A time that is over as soon as it was asked so many times: in the middle of whatever goes on then."""

    def __init__(self, questions):
        super().__init__()
        self.questions = questions

    def __call__(self):
        self.questions -= 1
        return 0.0 if self.questions >= 0 else 1e9


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_a_clock_that_ends_anywhere_loses_nothing_that_was_finished(population, project, rows):
    tuner = tuner_of(project, population=population, max_trials=4)
    # The first one ends while nothing is compiled yet, the others where all is known and only training is left.
    for number, questions in enumerate([20, 8, 1, 3, 60], start=1):
        tuner.oracle.max_trials = 4 * number
        with tuner.limited(started(10.0, JumpsInside(questions))):
            tuner.search(*rows, epochs=3, validation_split=0.25, verbose=0)
        reported = {}
        for row in tuner.store.epochs():
            reported.setdefault((row["trial_id"], row["execution"]), []).append(row["epoch"])
        for run in tuner.results():
            epochs = reported.pop((run.trial_id, run.execution), [])
            assert run.num_epochs == len(epochs) and (run.score is not None) is (run.num_epochs > 0)
        assert not reported, "epochs that nobody knows of"
        if (
            any(run.num_epochs < 3 for run in tuner.results()[4 * number - 4 :])
            or len(tuner.oracle.trials) < 4 * number
        ):
            assert tuner.ended_by == "max_seconds"
        # What is missing is trained in the next search.
        tuner.search(*rows, epochs=3, validation_split=0.25, verbose=0)
        assert len(tuner.results()) == 4 * number and all(run.score is not None for run in tuner.results())


@needs_jax
def test_what_compiles_when_the_time_is_up_is_named_and_left(project, rows, times, monkeypatch, capsys):
    from manyfit.training.population.rows_pass import RowsPass

    released, compiled = threading.Event(), []

    def prepare(self, *args):
        times.now = 1e6  # the time is up, and the compilation goes on
        assert released.wait(60)
        compiled.append(self)

    monkeypatch.setattr(RowsPass, "prepare", prepare)
    tuner = tuner_of(project, max_trials=2)
    with tuner.limited(started(0.5, times)):
        tuner.search(*rows, epochs=2, validation_split=0.25)
    assert not compiled and tuner.ended_by == "max_seconds"
    said = capsys.readouterr().out
    assert "the time was up while trials 0" in said and "waited for a program (Dense; " in said
    released.set()
    monkeypatch.undo()
    tuner.search(*rows, epochs=2, validation_split=0.25, verbose=0)
    assert [run.num_epochs for run in tuner.results()] == [2, 2]


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_a_step_that_would_not_fit_is_not_begun(population, project, rows, times, monkeypatch, capsys):
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: Path(project["directory"], *parts))
    # A machine that takes 5,000 seconds for an epoch has been at this before.
    path = KnownCosts("population" if population else "fit").path
    path.parent.mkdir()
    path.write_text(json.dumps([["epoch", "Dense; 4 parameters; SGD", 18, 4, 5000.0]]))
    tuner = tuner_of(project, population=population, max_trials=2)
    with tuner.limited(started(1000, times)):
        tuner.search(*rows, epochs=2, validation_split=0.25, batch_size=8)
    assert tuner.ended_by == "max_seconds" and len(tuner.results()) <= 2
    assert all(run.num_epochs == 0 for run in tuner.results())
    assert "another step, of about" in capsys.readouterr().out
    with tuner.limited(started(100_000, times)):
        tuner.search(*rows, epochs=2, validation_split=0.25, batch_size=8, verbose=0)
    assert [run.num_epochs for run in tuner.results()] == [2, 2]
    if population:  # else nothing takes time here
        assert json.loads(path.read_text())[-1][-1] < 5000, "what was found out is remembered"


def test_an_epoch_that_would_not_end_in_time_is_not_begun(project, rows, times):
    tuner = tuner_of(project, population=False, max_trials=1)
    with tuner.limited(started(3500, times)):  # the fourth would end after 4,000
        tuner.search(*rows, **fit_arguments(TakesInside(times, test=1000.0), epochs=9))
    assert [run.num_epochs for run in tuner.results()] == [3] and times.now == 3000


def test_a_confirmation_begins_only_runs_that_it_can_end(project, rows, times):
    tuner = tuner_of(project, population=False, max_trials=2)
    with tuner.limited(started(1e6, times)):
        tuner.search(*rows, **fit_arguments(TakesInside(times, test=1000.0)))
    begun = times.now
    with tuner.limited(started(7500, times)):  # a run of four epochs takes 4,000
        found = tuner.confirm(2, proof_executions=0)
    assert (found.num_executions, found.verdict, times.now - begun) == (1, "the time was up", 4000)
