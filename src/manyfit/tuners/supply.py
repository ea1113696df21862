"""The tuner's side of training: hands trials out as plans, hears of epochs, and ends trials."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core import seeds
from manyfit.core.errors import ProjectError, UsageError, explain
from manyfit.core.lifecycle import TrialState, is_paused, outcome_of
from manyfit.core.objective import MEASURES
from manyfit.core.records import SHARE, Decision, Ending, Plan, Result
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.executions import Execution, KnownEpochs
from manyfit.oracles.jobs import origin_of, why_paused_for_good
from manyfit.oracles.restarting import put_back
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.layout import state_beside, states_beside
from manyfit.training.origins import inherit


def plans_of(trial: Trial, num_executions: int, oracle: Oracle, weights_path: Callable[[str, int], Path]) -> list[Plan]:
    """The executions of a trial that are still to be run, or continued, each with its own seed.

    One that failed ends its trial, so none of the others is run after it.
    """
    if any(not run.ending.has_score for run in trial.executions.values()):
        return []
    return [
        plan_of(trial, execution, oracle, weights_path)
        for execution in range(num_executions)
        if execution not in trial.executions or _goes_on(trial, trial.executions[execution])
    ]


def _goes_on(trial: Trial, run: Execution) -> bool:
    """Whether an execution waits to be continued, and not for its trial's pause, which a killed process owed it."""
    return is_paused(run) and (trial.target_epochs is None or run.num_epochs < trial.target_epochs)


def plan_of(trial: Trial, execution: int, oracle: Oracle, weights_path: Callable[[str, int], Path]) -> Plan:
    """One execution of a trial."""
    paused, known = trial.executions.get(execution), trial.known.get(execution, KnownEpochs())
    path = weights_path(trial.trial_id, execution)
    # Where a process was killed in the middle of it, the last epoch that is known is reported once more: nobody knows
    # whether what was decided after it was acted upon.
    origin = origin_of(trial, execution)
    begins_at = 0 if origin is None else origin.epoch
    first_epoch = max(begins_at if paused is None else paused.num_epochs, len(known.computed) - 1)
    return Plan(
        trial.trial_id,
        execution,
        trial.hyperparameters.shared_copy(),
        seeds.seed_of(oracle.seed, "execution", trial.trial_id, execution, trial.attempt),
        # On a part of the rows it ends at its target; elsewhere it may pause there.
        epochs=trial.target_epochs if oracle.scheduler.may_restart else oracle.scheduler.max_epochs,
        first_epoch=first_epoch,
        computed=tuple(known.computed),
        state_path=str(state_beside(path)) if oracle.scheduler.may_pause else None,
        weights_path=str(path),
        origin=origin,
        num_rows=trial.num_rows,
    )


class SearchSupply:
    """Feeds a trainer from an oracle.

    The oracle knows trials, a trainer knows executions. In between, this keeps what neither of them does: executions
    that were assigned and not taken yet, which executions of a trial are still to come, and why one was told to stop.
    None of it is stored: after a kill the book says what has ended, and everything else is handed out again.

    Args:
        oracle: what to run, and where results go.
        num_executions: executions per trial.
        weights_path: where the weights of an execution go.
        begin: called with a trial before its first execution is handed out; answers whether it is to be trained, and
            not run by then already.
        end: called with a trial when its executions have ended.
        logs_are_complete: whether every epoch logs all metrics that any epoch will, so that an objective that the
            first one lacks is known to be missing; False where the user's own code adds to the logs.
        notes: what is noted on the executions of a trial.
        repeats: whether the contenders of a finite space that was tried in full are trained again.
        explores: whether the first execution may bring further hyperparameters to light: the first answer is this one
            alone, so that what is proposed next knows of them.
        num_rows: training rows that there are, where some executions have a part of them; else None.

    Attributes:
        let_go: paused executions that somebody has asked to stop.
    """

    def __init__(
        self,
        oracle: Oracle,
        num_executions: int,
        *,
        weights_path: Callable[[str, int], Path],
        begin: Callable[[Trial], bool],
        end: Callable[[Trial], None],
        logs_are_complete: bool = False,
        notes: Callable[[str], Mapping[str, Any]] = lambda trial_id: {},
        repeats: bool = True,
        explores: bool = False,
        num_rows: int | None = None,
    ) -> None:
        self._explores, self._repeats, self._num_rows = explores, repeats, num_rows
        self._notes = notes
        self._oracle = oracle
        self._num_executions = num_executions
        self._weights_path = weights_path
        self._begin = begin
        self._end = end
        self._checks_logs = logs_are_complete
        self._queue: list[Plan] = []
        self._stop_reasons: dict[tuple[str, int], str] = {}  # of executions that were told to stop
        self._open: dict[str, set[int]] = {}  # executions of running trials that have not ended
        self._paused: dict[tuple[str, int], Execution] = {}  # what those were that go on after a pause
        self._has_begun = False  # whether it was asked before
        self.let_go: list[tuple[str, int]] = []
        oracle.requests.ends_trials = True

    @property
    def independent(self) -> bool:
        """See `manyfit.training.base.Supply`."""
        sampler = self._oracle.sampler
        restarts = self._oracle.scheduler.may_restart
        return sampler is not None and not sampler.learns and not restarts and not self._scheduler_decides()

    @property
    def remaining(self) -> int | None:
        """See `manyfit.training.base.Supply`."""
        if self._oracle.scheduler.may_restart:
            return None  # trials that have ended may begin again
        trials = self._oracle.remaining_trials()
        return None if trials is None else trials * self._num_executions + len(self._queue)

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`.

        Trials are asked for whole, and as few as will do, since an oracle that learns should know as much as possible
        when it proposes; what of them was not wanted yet waits in the queue. An empty answer of the oracle means that
        there is nothing for now, which is when a finite space that was tried in full has its contenders repeated.
        """
        self._hear_requests()
        if self._oracle.clock.begins_nothing():
            return []  # what waits in the queue runs in a later search, like what a kill has interrupted
        if self._explores:
            count, self._explores = min(count, 1), False
        if not self._has_begun:
            self._begin_branches()
        while len(self._queue) < count:
            missing = count - len(self._queue)
            # Rounded up: the executions of a trial are handed out together or left in the queue, never half asked for.
            trials = self._oracle.assign(-(-missing // self._num_executions))
            if not trials:
                self._queue += self._replicates(missing)
                break
            for trial in trials:
                self._open_trial(trial)
            # What comes next may rest on what these do, so they come to where they were before anything is asked for.
            if not self.independent and any(plan.is_known(plan.first_epoch) for plan in self._queue):
                break
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    def _begin_branches(self) -> None:
        """Sees that branches of which a process was killed have what they begin with, before their parents go on."""
        self._has_begun = True
        oracle = self._oracle
        for trial_id in oracle.waiting:
            self._inherit(plans_of(oracle.trials[trial_id], self._num_executions, oracle, self._weights_path))

    def _inherit(self, plans: Sequence[Plan]) -> None:
        """Writes what branches begin with. Their parents rest: branches are handed out before anybody goes on."""
        for plan in plans:
            if plan.origin is not None and plan.state_path is not None and plan.first_epoch == plan.origin.epoch:
                # Kept aside as paused states are: without the file it begins with what is in memory.
                with contextlib.suppress(ProjectError):
                    inherit(plan.origin, state_beside(self._weights_path(*plan.origin.key)), plan.state_path)

    def _open_trial(self, trial: Trial) -> None:
        """Puts the executions that a trial still needs into the queue; paused ones go on where they stood."""
        if not self._begin(trial):
            self._end(trial)
            return
        plans = plans_of(trial, self._num_executions, self._oracle, self._weights_path)
        for plan in plans:
            paused, known = trial.executions.pop(plan.execution, None), trial.known.pop(plan.execution, None)
            if paused is not None:
                self._paused[plan.key] = paused
            if (begun := known or paused) is not None:
                # A copy, since the epochs that follow are appended to it.
                trial.running[plan.execution] = {name: list(curve) for name, curve in begun.history.items()}
        self._inherit(plans)
        self._open[trial.trial_id] = {plan.execution for plan in plans}
        self._queue += plans
        if not plans:  # it was interrupted between the execution that decided and its end
            self._end_trial(trial)

    def _replicates(self, count: int) -> list[Plan]:
        """Further executions of the contenders of a finite space that was tried in full."""
        oracle = self._oracle
        # Only when nothing runs: who is a contender changes with every result that is still to come.
        if not self._repeats or self._open or self._queue or not oracle.may_replicate():
            return []
        state = oracle.replication(self._num_executions)
        plans = []
        for trial, execution in [] if state is None else state.next_runs(count):
            self._open.setdefault(trial.trial_id, set()).add(execution)
            plans.append(plan_of(trial, execution, oracle, self._weights_path))
        return plans

    def _give_back(self, plan: Plan) -> None:
        """Takes an execution back that was not trained, since the time was up: it runs in a later search.

        One that was to go on after a pause is again what it was then: its score counts.
        """
        paused = self._paused.pop(plan.key, None)
        trial, waiting = self._oracle.trials[plan.trial_id], self._open[plan.trial_id]
        if paused is None:
            if trial.before is not None:  # what it came to on fewer rows counts again
                waiting.discard(plan.execution)
                if not waiting:
                    put_back(trial, trial.before)
                    self._end_trial(trial)
            return
        trial.running.pop(plan.execution, None)
        trial.executions[plan.execution] = paused
        waiting.discard(plan.execution)
        if not waiting:
            self._end_trial(trial)

    def give_back(self) -> None:
        """Takes back what waits in the queue, once the search is over: the time was up before it was handed out."""
        queue, self._queue = self._queue, []
        for plan in queue:
            self._give_back(plan)

    def end_paused(self) -> None:
        """Ends the trials that were not promoted, once the search is over. Their scores so far count."""
        for trial in self._oracle.book.paused():
            self._stop_paused(trial, why_paused_for_good(trial, self._oracle.trials))
        self._forget_what_a_kill_has_left()

    def _forget_what_a_kill_has_left(self) -> None:
        """Deletes states of trials that have ended: a process may die between that commit and what it deletes then."""
        if not self._oracle.scheduler.may_pause:
            return
        for trial in self._oracle.trials.values():
            for execution in trial.executions if trial.has_ended else ():
                self._forget_states(trial.trial_id, execution)

    def _stop_paused(self, trial: Trial, why: str) -> None:
        for run in self._oracle.book.stop_paused(trial, self._oracle.scheduler.max_epochs, why):
            self._forget_states(trial.trial_id, run.index)
        self._end_trial(trial)

    def _forget_states(self, trial_id: str, execution: int, first: int = 0) -> None:
        for path in states_beside(self._weights_path(trial_id, execution))[first:]:
            path.unlink(missing_ok=True)

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        book = self._oracle.book
        # Committed before anything is decided by it: a decision that rests on an epoch that a kill loses would be
        # another one after the restart.
        book.add_epochs(epochs)
        self._hear_requests()
        # A missing objective stops executions as a time limit does: `finish` then says which metrics there are.
        if self._oracle.clock.is_over() or self._lacks_objective(epochs[0][2]):
            self._stop_reasons.update({plan.key: self._why_over for plan, _, _ in epochs})
            return [Decision.STOP] * len(epochs)
        decisions = self._decide(epochs) if self._scheduler_decides() else [Decision.GO_ON] * len(epochs)
        return self._as_asked(epochs, decisions)

    @property
    def _why_over(self) -> str:
        return self._oracle.clock.halted or "the time was up"

    def _hear_requests(self) -> None:
        """Takes what was asked of the search. Of a trial that is to stop nothing more begins, unless nothing has."""
        self._oracle.requests.look()
        for trial_id in self._oracle.requests.newly_stopped():
            trial, queued = self._oracle.trials[trial_id], {p.execution for p in self._queue if p.trial_id == trial_id}
            if trial.state is TrialState.PAUSED:
                self.let_go += [(trial_id, execution) for execution in trial.executions]
                self._stop_paused(trial, self._oracle.requests.stopping[trial_id])
            elif trial.executions or self._open.get(trial_id, set()) - queued:
                self._queue = [plan for plan in self._queue if plan.trial_id != trial_id]
                self._open.get(trial_id, set()).difference_update(queued)

    def _as_asked(self, epochs: Sequence[tuple[Plan, int, Any]], decisions: Sequence[Decision]) -> list[Decision]:
        """The decisions, but for trials that somebody has asked to stop."""
        # After the scheduler was asked: what it notes of a trial is the same whether somebody stops it or not.
        asked = self._oracle.requests.stopping
        told = []
        for (plan, _, _), decision in zip(epochs, decisions, strict=True):
            if plan.trial_id in asked and not self._oracle.trials[plan.trial_id].has_ended:
                self._stop_reasons[plan.key], decision = asked[plan.trial_id], Decision.STOP
            told.append(decision)
        return told

    def _scheduler_decides(self) -> bool:
        return self._oracle.scheduler.may_pause or self._oracle.scheduler.may_stop

    def _lacks_objective(self, logs: Mapping[str, float]) -> bool:
        """Whether no epoch will ever log the objective: seen after one epoch, not after a whole training."""
        objective = self._oracle.objective
        if not self._checks_logs or objective.has_value(logs):
            self._checks_logs = False
            return False
        # An epoch that was not validated (`validation_freq`) does not tell about what validation measures.
        logged = [name for name in objective.names if name not in MEASURES]
        measured = [name for name in logged if "val_loss" in logs or not name.startswith("val_")]
        return any(name not in logs for name in measured)

    def _decide(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> list[Decision]:
        """What the scheduler says of executions that finished an epoch.

        It decides about trials: to stop one stops all its executions. Where a trial is to pause is no decision of the
        moment but its target, which it was given when it was handed out, so that it pauses at the same epoch after a
        restart.
        """
        scheduler, trials = self._oracle.scheduler, self._oracle.trials
        # Each trial once, in the order of its first execution: the scheduler sees means over executions.
        trial_ids = list(dict.fromkeys(plan.trial_id for plan, _, _ in epochs))
        answers = dict(zip(trial_ids, scheduler.decide(self._oracle.book.progress(), trial_ids), strict=True))
        decisions = []
        for plan, epoch, _ in epochs:
            # Each execution pauses at the target by its own count: one may be ahead of its siblings, whose mean the
            # scheduler sees.
            target = trials[plan.trial_id].target_epochs
            at_target = target is not None and epoch + 1 >= target and target != scheduler.max_epochs
            answer = answers[plan.trial_id]
            if answer is Decision.STOP:
                self._stop_reasons[plan.key] = scheduler.stop_reason
            else:
                answer = Decision.PAUSE if at_target else Decision.GO_ON
            decisions.append(answer)
        return decisions

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`.

        The execution goes into the book first, whatever becomes of its trial. A trial ends with the last of its
        executions that was handed out; one without a score takes those that still wait in the queue with it. A further
        execution of a contender, whose trial has ended long ago, changes its score only.
        """
        trial = self._oracle.trials[result.plan.trial_id]
        if result.is_unbegun:
            self._give_back(result.plan)
            return
        if is_paused(result):
            self._check_measured(result)
        elif result.ending.has_score:
            self._oracle.scoring.check_whole({**result.history, **result.measures})
        self._note_part(result)
        # Trainers know that an execution was told to stop, and only here it is known why.
        result.message = self._why_it_ended(result) or result.message
        self._oracle.book.add_execution(result, **self._notes(trial.trial_id))
        if result.plan.state_path is not None:
            # Of a pause that the store knows of now, the state before it has served.
            self._forget_states(*result.plan.key, first=1 if is_paused(result) else 0)
        trial.hyperparameters, trial.before = self._grown(trial, result.plan), None
        waiting = self._open[trial.trial_id]
        waiting.discard(result.plan.execution)
        if trial.has_ended:  # a further execution of a contender
            if not waiting:
                del self._open[trial.trial_id]
                self._oracle.rescore(trial)
            return
        if not result.ending.has_score:
            # The trial has no score any more, whatever its other executions come to, so they need not start.
            dropped = {plan.execution for plan in self._queue if plan.trial_id == trial.trial_id}
            self._queue = [plan for plan in self._queue if plan.trial_id != trial.trial_id]
            waiting -= dropped
        if not waiting:
            self._end_trial(trial)

    def _note_part(self, result: Result) -> None:
        """Notes of an execution that it has seen a part of the rows: it is none of a training in full."""
        num_rows, all_rows = result.plan.num_rows, self._num_rows
        if num_rows is None or all_rows is None:
            return
        result.notes[SHARE] = num_rows / all_rows
        # Samplers then read it as one that was ended early, which has a score and might have had a better one.
        if result.ending is Ending.COMPLETED:
            result.ending, result.message = Ending.STOPPED, f"trained on {num_rows:,} of {all_rows:,} rows"

    def _why_it_ended(self, result: Result) -> str | None:
        """Why an execution with a score ended before its last epoch; None where it did not."""
        num_epochs, epochs = max(map(len, result.history.values()), default=0), result.plan.epochs
        so_far = f"after {num_epochs} epochs" if epochs is None else f"after {num_epochs} of {epochs} epochs"
        reason = self._stop_reasons.pop(result.plan.key, None)
        reason = reason or (self._why_over if self._oracle.clock.begins_nothing() else None)
        if result.ending is Ending.STOPPED and reason is not None:
            return f"stopped {so_far}: {reason}"
        if result.ending is Ending.COMPLETED and result.message is None and epochs is not None and num_epochs < epochs:
            return f"ended {so_far} by a callback"
        return None

    def _check_measured(self, result: Result) -> None:
        objective, num_epochs = self._oracle.objective, max(map(len, result.history.values()), default=0)
        if not objective.has_value({**result.history, **result.measures}) and "val_loss" not in result.history:
            scheduler = self._oracle.scheduler
            raise UsageError(
                explain(
                    f"search with {type(scheduler).__name__}",
                    f"a first decision after {num_epochs} epochs, when {objective.name} was not measured yet",
                    "a first rung that ends with a measurement",
                    f"Type {scheduler.first_decision}={num_epochs + 1} or more where the tuner is made, or "
                    "validation_freq=1.",
                )
            )
        self._oracle.scoring.check({**result.history, **result.measures})

    @staticmethod
    def _grown(trial: Trial, plan: Plan) -> HyperParameters:
        """The build function may have asked for more hyperparameters, or settled a value that depends on another.

        Values that it did not ask for stay, unless what was built shows that they are inactive.
        """
        built = plan.values
        assert isinstance(built, HyperParameters)  # our bug: `plan_of` puts them there
        known = {hp.name for hp in built.space}
        for name, value in trial.hyperparameters.values.items():
            if name not in built.values and (name not in known or built.is_active(name)):
                built.values[name] = value
        return built

    def _end_trial(self, trial: Trial) -> None:
        """Ends or pauses a trial, as its executions say."""
        self._open.pop(trial.trial_id, None)
        outcome = outcome_of(trial.executions)
        if outcome is None:
            self._oracle.pause_trial(trial)
        else:
            trial.conclude(outcome)
            self._end(trial)
