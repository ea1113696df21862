"""The life of a trial: allowed steps, what executions make of their trial, what an exception means."""

import itertools
import pickle
import re
from types import SimpleNamespace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

import manyfit as kt
from manyfit.core import errors
from manyfit.core.lifecycle import (
    OversizedModelError,
    TrialOutcome,
    TrialState,
    failure_of,
    is_paused,
    may_step,
    outcome_of,
    stand_in,
    step,
)
from manyfit.core.records import Ending, Plan, Result

QUEUED, RUNNING, PAUSED, ENDED = TrialState
ALLOWED = {
    (QUEUED, RUNNING),
    (RUNNING, QUEUED),
    (RUNNING, PAUSED),
    (RUNNING, ENDED),
    (PAUSED, RUNNING),
    (PAUSED, ENDED),
    (ENDED, ENDED),
    (ENDED, QUEUED),
}
SCORED = [Ending.COMPLETED, Ending.STOPPED]
UNSCORED = [ending for ending in Ending if not ending.has_score]
STATUSES = [value for name, value in vars(kt.TrialStatus).items() if name.isupper()]


def run(ending, message=None, final=False):
    return SimpleNamespace(ending=ending, message=message, final=final)


# States ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("now", "to"), sorted(ALLOWED, key=str))
def test_an_allowed_step_leads_there(now, to):
    assert may_step(now, to)
    assert step(now, to) is to


@pytest.mark.parametrize(("now", "to"), sorted(set(itertools.product(TrialState, repeat=2)) - ALLOWED, key=str))
def test_any_other_step_is_a_bug(now, to):
    assert not may_step(now, to)
    with pytest.raises(AssertionError, match=f"from {now.value} to {to.value}"):
        step(now, to)


def test_every_state_can_be_reached_and_left():
    assert {now for now, _ in ALLOWED} == set(TrialState) == {to for _, to in ALLOWED}


# What executions make of their trial -----------------------------------------------------------------------------


def test_nothing_has_ended_before_an_execution_has():
    assert outcome_of({}) is None


@pytest.mark.parametrize("first", list(Ending))
@pytest.mark.parametrize("second", list(Ending))
def test_two_executions(first, second):
    outcome = outcome_of({0: run(first, "a"), 1: run(second, "b")})
    if not first.has_score:
        assert outcome == TrialOutcome(first, "a", decided_by=(0,))
    elif not second.has_score:
        assert outcome == TrialOutcome(second, "b", decided_by=(1,))
    elif Ending.PAUSED in (first, second):
        assert outcome is None
    elif first is second:
        assert outcome == TrialOutcome(first, "a", decided_by=(0, 1))
    else:
        stopped = [first, second].index(Ending.STOPPED)
        assert outcome == TrialOutcome(Ending.STOPPED, "ab"[stopped], decided_by=(stopped,))


def test_a_message_of_any_execution_is_better_than_none():
    outcome = outcome_of({0: run(Ending.COMPLETED, "ended after 3 of 9 epochs by a callback"), 1: run(Ending.STOPPED)})
    assert outcome == TrialOutcome(Ending.STOPPED, "ended after 3 of 9 epochs by a callback", decided_by=(1,))


def test_a_failure_without_a_retry_goes_before_one_with():
    outcome = outcome_of({0: run(Ending.FAILED, "a"), 1: run(Ending.TOO_LARGE, "b", final=True)})
    assert outcome == TrialOutcome(Ending.TOO_LARGE, "b", final=True, decided_by=(1,))
    assert not outcome.may_be_retried


@pytest.mark.parametrize("ending", list(Ending))
def test_only_what_has_no_score_may_be_retried(ending):
    assert TrialOutcome(ending).may_be_retried == (ending in UNSCORED)
    assert not TrialOutcome(ending, final=True).may_be_retried


runs = st.builds(run, st.sampled_from(list(Ending)), st.none() | st.text(max_size=3), st.just(False))


@given(st.dictionaries(st.integers(0, 9), runs, min_size=1), st.randoms())
def test_the_order_in_which_executions_ended_does_not_matter(executions, random):
    shuffled = list(executions.items())
    random.shuffle(shuffled)
    assert outcome_of(dict(shuffled)) == outcome_of(executions)


@given(st.dictionaries(st.integers(0, 9), runs, min_size=1))
def test_the_outcome_is_that_of_executions_it_names(executions):
    outcome = outcome_of(executions)
    endings = {each.ending for each in executions.values()}
    if outcome is None:
        assert Ending.PAUSED in endings and not endings & set(UNSCORED)
        return
    assert {executions[index].ending for index in outcome.decided_by} == {outcome.ending}
    assert outcome.ending.has_score == (not endings & set(UNSCORED))


@pytest.mark.parametrize("ending", list(Ending))
def test_what_is_paused(ending):
    assert is_paused(Result(Plan("0", 0, {}, 1), ending, {})) == (ending is Ending.PAUSED)


# What an exception means -----------------------------------------------------------------------------------------


class XlaRuntimeError(RuntimeError):
    """Named as JAX's."""


class ResourceExhaustedError(Exception):
    """Named as TensorFlow's."""


class FailedOfMine(errors.FailedTrialError):
    """A user's own class."""


class FatalOfMine(errors.FatalRuntimeError):
    """A user's own class."""

    def __init__(self, one, two):
        super().__init__(f"{one} {two}")

    def __reduce__(self):
        raise TypeError("cannot be pickled")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 68719476736 bytes."),
        XlaRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request for 4.0GiB on device ordinal 0"),
        ResourceExhaustedError("{{function_node __wrapped__Mul}} failed to allocate memory"),
        ResourceExhaustedError("OOM when allocating tensor with shape[65536,65536] and type float"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB (GPU 0; 139.72 GiB total capacity)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ... oom"),
    ],
)
def test_memory_that_runs_out_is_told_from_other_failures(error):
    failure = failure_of(error)
    assert failure.ending is Ending.OUT_OF_MEMORY and not failure.final


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a room with a zoom"),
        RuntimeError("INVALID_ARGUMENT: shapes differ"),
        errors.SearchError("new entries"),
        errors.UsageError("a value"),
        errors.UsageKeyError("a name"),
    ],
)
def test_any_other_exception_fails_the_trial_and_leaves_a_retry(error):
    failure = failure_of(error)
    assert (failure.ending, failure.final, failure.error) == (Ending.FAILED, False, error)


@pytest.mark.parametrize("error", [errors.FailedTrialError("no"), FailedOfMine("no")])
def test_what_the_user_gives_up_is_not_retried(error):
    failure = failure_of(error)
    assert (failure.ending, failure.final) == (Ending.FAILED, True)
    assert failure.line == f"{type(error).__name__}: no"


def test_a_model_that_is_too_large_is_not_retried():
    failure = failure_of(OversizedModelError("9 parameters"))
    assert (failure.ending, failure.final) == (Ending.TOO_LARGE, True)


@pytest.mark.parametrize(
    "error",
    [
        errors.FatalError("stop"),
        errors.FatalValueError("stop"),
        errors.FatalTypeError("stop"),
        errors.FatalRuntimeError("out of memory"),
        FatalOfMine(1, 2),
        errors.ProjectError("the disk is full"),
        KeyboardInterrupt(),
        SystemExit(1),
    ],
)
def test_what_ends_the_search_is_raised_again(error):
    with pytest.raises(type(error)) as caught:
        failure_of(error)
    assert caught.value is error


def test_a_failure_tells_the_way_that_led_to_it():
    def build():
        raise ValueError("bad")

    try:
        build()
    except ValueError as error:
        failure = failure_of(error)
    assert failure.message.startswith("Traceback") and "in build" in failure.message
    assert failure.message.strip().splitlines()[-1] == failure.line
    assert re.fullmatch(r'ValueError: bad \(test_lifecycle\.py:\d+: raise ValueError\("bad"\)\)', failure.line)


def test_a_result_takes_its_failure():
    plan, failure = Plan("0", 0, {}, 1), failure_of(errors.FailedTrialError("no"))
    result = Result(plan, Ending.COMPLETED, {"loss": [1.0]})
    assert not result.final
    result.fail(failure)
    assert (result.ending, result.message, result.final) == (Ending.FAILED, failure.message, True)
    assert result.history == {"loss": [1.0]}
    early = Result.of_failure(plan, failure, seconds=2.0)
    assert (early.history, early.seconds, early.final) == ({}, 2.0, True)


@pytest.mark.parametrize(
    "error",
    [
        FatalOfMine(1, 2),
        errors.ProjectError("full"),
        OversizedModelError("big"),
        FailedOfMine("no"),
        ValueError("bad"),
        MemoryError("no room, out of memory"),
    ],
)
def test_a_stand_in_travels_and_means_the_same(error):
    again = pickle.loads(pickle.dumps(stand_in(error)))
    assert str(error) in str(again)
    try:
        expected = failure_of(error)
    except Exception:
        with pytest.raises((errors.FatalError, errors.ProjectError)):
            failure_of(again)
    else:
        found = failure_of(again)
        assert (found.ending, found.final) == (expected.ending, expected.final)


# KerasTuner's statuses, as a view --------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(STATUSES), min_size=1, max_size=6))
def test_a_status_reads_as_it_was_set(statuses):
    trial = kt.Trial(tiny.space())
    for status in statuses:
        trial.status = status
        assert trial.status == status
        assert trial.has_ended or status not in ("COMPLETED", "FAILED")
        assert trial.is_completed == trial.has_ended == True or status != "COMPLETED"  # noqa: E712


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ((), "RUNNING"),
        ((RUNNING,), "RUNNING"),
        ((RUNNING, PAUSED), "RUNNING"),
        ((RUNNING, TrialOutcome(Ending.COMPLETED)), "COMPLETED"),
        ((RUNNING, PAUSED, TrialOutcome(Ending.STOPPED)), "COMPLETED"),
        ((RUNNING, TrialOutcome(Ending.FAILED)), "INVALID"),
        ((RUNNING, TrialOutcome(Ending.FAILED, final=True)), "FAILED"),
        ((RUNNING, TrialOutcome(Ending.FAILED), ENDED), "FAILED"),
        ((RUNNING, TrialOutcome(Ending.FAILED), QUEUED, RUNNING), "RUNNING"),
    ],
)
def test_the_status_follows_from_state_and_outcome(steps, status):
    trial = kt.Trial(tiny.space())
    for each in steps:
        if isinstance(each, TrialOutcome):
            trial.conclude(each)
        else:
            trial.move(each)
    assert trial.status == status
    again = kt.Trial.from_row(trial.row(), tiny.space())
    # A process that died before the oracle decided about a retry leaves an attempt that simply runs again.
    assert again.status == ("RUNNING" if status == "INVALID" else status)


def test_what_ran_when_the_process_died_is_queued_and_what_was_paused_is_paused():
    running, paused = kt.Trial(tiny.space()), kt.Trial(tiny.space())
    for trial in (running, paused):
        trial.move(RUNNING)
    paused.move(PAUSED)
    assert kt.Trial.from_row(running.row(), tiny.space()).state is QUEUED
    assert kt.Trial.from_row(paused.row(), tiny.space()).state is PAUSED


def test_a_row_of_an_earlier_version_is_read():
    """Its outcome knows `is_running` and the ending, and no state."""
    row = kt.Trial(tiny.space(), "0").row()

    def read(status, ending=None, is_running=False, attempt=0):
        outcome = {**row["outcome"], "ending": ending, "is_running": is_running}
        return kt.Trial.from_row({**row, "status": status, "attempt": attempt, "outcome": outcome}, tiny.space())

    assert read("RUNNING", is_running=True).state is QUEUED
    assert read("RUNNING").state is PAUSED
    assert (read("INVALID", attempt=1).state, read("INVALID", attempt=1).status) == (QUEUED, "INVALID")
    completed, failed = read("COMPLETED", "stopped"), read("FAILED", "out of memory")
    assert (completed.state, completed.ending) == (ENDED, Ending.STOPPED)
    assert (failed.state, failed.ending, failed.status) == (ENDED, Ending.OUT_OF_MEMORY, "FAILED")
