"""Trials on their way through an oracle, with any order of events, and a process that may die between any two."""

import pytest
import tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manyfit.core.lifecycle import TrialOutcome, TrialState, outcome_of
from manyfit.core.records import Ending, Plan, Result
from manyfit.oracles import RandomSearchOracle
from manyfit.store import ProjectStore

EVENTS = ["assign", "epoch", "complete", "fail", "give up", "diverge", "pause", "kill", "interrupt"]


class Project:
    """An oracle, its store, and what is known to hold of them after each event."""

    def __init__(self, folder):
        self.folder = folder
        self.settled = {}  # of trials that ended: what they ended as
        self.open()

    def open(self):
        self.store = ProjectStore(self.folder)
        self.oracle = RandomSearchOracle(
            "loss",
            max_trials=6,
            seed=0,
            hyperparameters=tiny.space(),
            max_retries_per_trial=1,
            max_consecutive_failed_trials=100,
        )
        self.oracle.open(self.store)

    def trial(self, state, choice):
        found = [trial for trial in self.oracle.trials.values() if trial.state is state]
        return found[choice % len(found)] if found else None

    def do(self, event, choice):
        oracle = self.oracle
        if event == "assign":
            oracle.assign(1 + choice % 2)
        elif event == "kill":
            before = {trial.trial_id: (trial.state, trial.attempt) for trial in oracle.trials.values()}
            self.store.close()
            self.open()
            for trial_id, (state, attempt) in before.items():
                again = self.oracle.trials[trial_id]
                assert again.attempt == attempt
                assert again.state is (TrialState.QUEUED if state is TrialState.RUNNING else state)
        elif event == "interrupt":
            oracle.start_clock()
            oracle.stop_clock()
            assert self.trial(TrialState.RUNNING, 0) is None
        elif (trial := self.trial(TrialState.RUNNING, choice)) is not None:
            self.happen(event, trial)

    def happen(self, event, trial):
        plan = Plan(trial.trial_id, 0, trial.hyperparameters, 1)
        book = self.oracle.book
        if event == "epoch":
            known = trial.running.get(0, {"loss": []})
            book.add_epochs([(plan, len(known["loss"]), {"loss": 1.0})])
            return
        if event == "pause":
            book.add_execution(Result(plan, Ending.PAUSED, {"loss": [1.0]}))
            assert outcome_of(trial.executions) is None
            self.oracle.pause_trial(trial)
            return
        if event == "give up":
            trial.conclude(TrialOutcome(Ending.TOO_LARGE, "large", final=True))
        else:
            ending = {"complete": Ending.COMPLETED, "fail": Ending.FAILED, "diverge": Ending.DIVERGED}[event]
            book.add_execution(Result(plan, ending, {"loss": [1.0]}))
            trial.conclude(outcome_of(trial.executions))
        attempt = trial.attempt
        self.oracle.end_trial(trial)
        retried = event in ("fail", "diverge") and attempt == 0
        assert trial.state is (TrialState.QUEUED if retried else TrialState.ENDED)
        if not retried:
            self.settled[trial.trial_id] = "COMPLETED" if event == "complete" else "FAILED"

    def check(self):
        oracle = self.oracle
        trials = list(oracle.trials.values())
        queued = [trial.trial_id for trial in trials if trial.state is TrialState.QUEUED]
        assert sorted(oracle.waiting) == sorted(queued)
        assert {trial.trial_id: trial.status for trial in trials if trial.has_ended} == self.settled
        assert len(oracle.book.observations()) == len(self.settled)
        assert len(oracle.book.pending()) == len(trials) - len(self.settled)
        for trial, progress in zip(trials, oracle.book.progress(), strict=True):
            assert progress.paused == (trial.state is TrialState.PAUSED)
            assert progress.running == (trial.state in (TrialState.QUEUED, TrialState.RUNNING))
            assert (progress.ending is None) == (not trial.has_ended)


@pytest.fixture
def folders(tmp_path):
    return iter(tmp_path / str(number) for number in range(10_000))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(0, 5)), min_size=1, max_size=25))
def test_whatever_happens_states_agree_and_survive_the_process(folders, events):
    project = Project(next(folders))
    try:
        for event, choice in events:
            project.do(event, choice)
            project.check()
    finally:
        project.store.close()
