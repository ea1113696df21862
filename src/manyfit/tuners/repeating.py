"""Calls of a user's `run_trial`: the trial's own one, and where a finite space was tried in full, those of contenders.

What is left of the budget of such a space goes to further calls with other seeds, as long as these tell who is best.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from manyfit.core import seeds
from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Plan, Result
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.replication import CALL, Replication, first_index
from manyfit.training.seeding import seeded
from manyfit.tuners.speaker import Speaker


class Repeating(Speaker):
    """The base of tuners that knows of each call of `run_trial` which executions it makes."""

    _recorded: Any = None  # what the default `run_trial` returned in this call: its executions are in the book already
    _num_runs = 0  # how often the default `run_trial` was called in this call of an override
    _first_execution = 0  # the index of the first execution that this call makes
    _notes: Mapping[str, Any] = MappingProxyType({})  # on all of its executions

    if TYPE_CHECKING:
        oracle: Oracle
        run_trial: Any
        _after_trial: Any
        _take_histories: Any

    def _prepare_call(self, first_execution: int = 0, call: int = 0) -> None:
        """Forgets what the last call of `run_trial` left.

        Args:
            first_execution: the index of the first execution that the next call makes.
            call: its number within the trial.
        """
        self._recorded, self._num_runs = None, 0
        self._first_execution, self._notes = first_execution, {CALL: call} if call else {}

    def _replication(self) -> Replication | None:
        """Where the repetition of contenders stands; None where nothing is repeated."""
        if not self.oracle.ends_with_contenders():
            return None
        return self.oracle.replication(self._num_executions if self._trains_itself() else None)

    @property
    def _num_executions(self) -> int:
        """Executions per trial, where Manyfit trains."""
        return 1

    def _trains_itself(self) -> bool:
        """Whether training is Manyfit's: a user's `run_trial` runs trials one by one."""
        return False

    def _next_repeats(self, count: int) -> list[tuple[Trial, int]]:
        """Up to `count` trials whose `run_trial` is to be called again, and the numbers of these calls."""
        if not self.oracle.may_replicate() or self.oracle.overrides("create_trial"):
            return []
        state = self._replication()
        return [] if state is None else state.next_runs(count)

    def _plan_of_repeat(self, trial: Trial, call: int) -> Plan:
        """The first execution of a further call of `run_trial`."""
        first = first_index(trial, call)
        seed = seeds.seed_of(self.oracle.seed, "execution", trial.trial_id, first, trial.attempt)
        return Plan(trial.trial_id, first, trial.hyperparameters, seed, attempt=trial.attempt)

    def _repeat_contenders(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        """Calls `run_trial` of the contenders until their order is settled or the budget ends."""
        while repeats := self._next_repeats(1):
            [(trial, call)] = repeats
            plan = self._plan_of_repeat(trial, call)
            self._prepare_call(plan.execution, call)
            try:
                with seeded(plan.seed):
                    returned = self.run_trial(trial, *fit_args, **fit_kwargs)
            except Exception as error:
                self._take_failed_repeat(Result.of_failure(plan, failure_of(error)))
            else:
                self._take_histories(trial, returned, plan.seed)
            self._end_repeat(trial, call)

    def _take_failed_repeat(self, result: Result) -> None:
        """Takes a call that ended with an exception: a contender that fails has lost the race, and stays a trial."""
        self.oracle.book.forget_executions(self.oracle.trials[result.plan.trial_id], result.plan.execution)
        self.oracle.book.add_execution(result, **self._notes)

    def _end_repeat(self, trial: Trial, call: int) -> None:
        self.oracle.rescore(trial)
        self._after_trial(trial)
        self._say(
            f"Trial {trial.trial_id} again, call {call + 1}: {self.oracle.objective.name} {trial.score:.5g} so far"
        )
