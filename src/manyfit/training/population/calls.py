"""The call of `fit` that a plan stands for: the task's own, or what a `fit` of the user's makes of it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras

from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.training.base import Task
from manyfit.training.callbacks import CannotCopy, copy_callbacks
from manyfit.training.population.data import is_same
from manyfit.training.population.trace import CannotTrace
from manyfit.training.population.views import of_all_rows
from manyfit.training.rehearsal import Marker, NotOneCall, call_of_fit
from manyfit.training.replay import DATA, FITTED, facts_of

OWN_FIT = "the hypermodel's own `fit`"  # reasons begin with it, and go on with what it does


class MemberCalls:
    """Finds the calls of the members of one session.

    Args:
        task: theirs.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._why_alone: str | None = None  # why a `fit` of the user's is not tried again

    def of(
        self, plan: Plan, values: object, model: keras.Model, own: Sequence[keras.callbacks.Callback]
    ) -> tuple[Call, dict[str, Any]]:
        """The call on all rows, and what is noted of it.

        Args:
            plan: the execution.
            values: what its `fit` is given, where it is the user's.
            model: likewise.
            own: further callbacks, after the user's.

        Raises:
            CannotTrace: a `fit` of the user's does more than one call, or trains on other rows than it is given.
        """
        if self._task.fit is None:
            return self._given(plan, own), {}
        call = self._rehearsed(plan, values, model, own)
        return of_all_rows(self._task, plan, call), {FITTED: facts_of([call])}

    def _given(self, plan: Plan, own: Sequence[keras.callbacks.Callback]) -> Call:
        """The call of `fit` that a plan stands for, on all rows: folds are parts of those that are here already."""
        call = self._task.calls.get(plan.trial_id, self._task.call)
        call = call.with_(callbacks=[*self._copies(plan, call), *own])
        return call if plan.epochs is None else call.with_(epochs=plan.epochs)

    def _rehearsed(
        self, plan: Plan, values: object, model: keras.Model, own: Sequence[keras.callbacks.Callback]
    ) -> Call:
        """The call that the user's own `fit` makes of it.

        Raises:
            CannotTrace: it does more than that, or trains on other rows than it is given.
        """
        assert self._task.fit is not None  # our bug: the caller asks
        if self._why_alone is not None:
            raise CannotTrace(self._why_alone)
        given = self._task.call_of(plan)
        given = given.with_(callbacks=[*self._copies(plan, given), *own, Marker()])
        change = None if self._task.at_fit is None else functools.partial(self._task.at_fit, plan)
        try:
            call = call_of_fit(self._task.fit, values, model, given, change)
        except NotOneCall as error:
            reason = f"{OWN_FIT} {error}"
            # Not again in this search: what the user's code does beside training would be done twice for each trial.
            self._why_alone = reason
            raise CannotTrace(reason) from error
        if self._task.brought_to_light is not None:
            self._task.brought_to_light(values)
        takes_part = self._task.split_for is not None or self._task.part_of(plan) is not None
        rows = DATA if takes_part else ("x", "y") if given.x is not None else ()
        if not all(is_same(call.get(name), given.get(name)) for name in rows):
            raise CannotTrace(f"{OWN_FIT} trains on other rows than it is given")
        return call

    def _copies(self, plan: Plan, call: Call) -> list[keras.callbacks.Callback]:
        """The user's callbacks for one member."""
        try:
            return copy_callbacks(call.callbacks, plan)
        except CannotCopy as error:
            if not self._task.may.share_callbacks:
                raise
            reason = f"callback {error.callback} cannot be copied ({error.__cause__}), so executions share it"
            raise CannotTrace(reason) from error
