"""Steps with a limit end in time, with all that was finished; and what trials cost is a fact of history.

Time is told by the tests: a second is what a callback says it is, so that no machine is too slow or too fast.
"""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import pytest
import tiny
from marks import needs_jax

from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.lifecycle import TrialState


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


def tuner_of(project, **arguments):
    arguments = {"max_trials": 3, "seed": 0, **arguments}
    return kt.RandomSearch(tiny.build, kt.Objective("val_loss", "min"), **arguments, **project)


def started(seconds, times):
    clock = Clock(seconds, now=times)
    clock.start()
    return clock


def fit_arguments(callback, epochs=4):
    return {"epochs": epochs, "validation_split": 0.25, "batch_size": 8, "callbacks": [callback], "verbose": 0}


@needs_jax
@pytest.mark.parametrize("population", [True, False])
def test_a_search_within_a_call_ends_with_it_and_keeps_the_epochs_that_it_has(population, project, rows, times):
    tuner = tuner_of(project, population=population, population_size=1 if population else None, max_seconds=1000)
    with tuner.limited(started(6.5, times)):
        tuner.search(*rows, **fit_arguments(Takes(times, epoch=1)))
    assert tuner.ended_by == "max_seconds"
    first = [(run.num_epochs, str(run.ending)) for run in tuner.results() if run.num_epochs]
    # Several that train at the same time each have an epoch that ends with the time.
    assert 7 <= sum(epochs for epochs, _ in first) <= 8
    assert all(ending == ("completed" if epochs == 4 else "stopped") for epochs, ending in first)
    # Afterwards the limit is gone, and what was cut off is not trained anew.
    tuner.search(*rows, **fit_arguments(Takes(times, epoch=1)))
    assert tuner.ended_by == "max_trials"
    endings = [(run.num_epochs, str(run.ending)) for run in tuner.results()]
    assert endings == [*first, *[(4, "completed")] * (3 - len(first))]


@pytest.mark.parametrize(
    ("takes", "seconds"),
    [({"batch": 1.0}, 16.5), ({"test": 3.0}, 17.0)],  # an epoch is three batches of training and one of validation
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
    with tuner.limited(started(0.5, times)):
        tuner.search(*rows, **fit_arguments(TakesInside(times, batch=1)))
    [trial] = tuner.oracle.trials.values()
    assert (trial.state, trial.executions, tuner.ended_by) == (TrialState.RUNNING, {}, "max_seconds")
    tuner.close()
    again = tuner_of(project, population=False, executions_per_trial=2, max_trials=1)
    again.search(*rows, **fit_arguments(TakesInside(times, batch=1)))
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
