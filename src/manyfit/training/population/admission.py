"""How a plan becomes a member: built under its seed, traced or recognised, and put into its family."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from manyfit.core.errors import FatalError
from manyfit.core.records import Decision, Plan, Result
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.keras_fit import copy_callbacks
from manyfit.training.models import build_model, check_size, ending_of
from manyfit.training.population import keras_side
from manyfit.training.population.callbacks import MemberCallbacks, why_not
from manyfit.training.population.capture import CannotTrace, Shapes, Trace, check_model, shapes_of, trace
from manyfit.training.population.data import FitArguments, Rows
from manyfit.training.population.family import Family
from manyfit.training.population.member import Member
from manyfit.training.population.recognition import structure_key
from manyfit.training.seeding import seeded


class Admission:
    """Turns plans into members.

    Args:
        supply: hears of executions that fail before their first epoch.
        task: how to build them.
        data: what they train on.
        fallback: trains what cannot join.
        refuse: hears the reason, and the plan.
        notify: takes a line for the user.
    """

    def __init__(
        self,
        supply: Supply,
        task: Task,
        data: FitArguments,
        *,
        fallback: Trainer,
        refuse: Callable[[str, Plan | None], None],
        notify: Callable[[str], None],
    ) -> None:
        self.supply, self.task, self.data = supply, task, data
        self.fallback, self.refuse, self.notify = fallback, refuse, notify
        assert isinstance(data.training, Rows)
        validation = None if data.validation is None else shapes_of(data.validation)
        self.shapes = Shapes(shapes_of(data.training), validation)
        self.families: dict[str, Family] = {}
        self._traces: dict[str, Trace] = {}
        self._parked: dict[tuple[str, int], Member] = {}

    @property
    def num_waiting(self) -> int:
        """Members that wait for a slot."""
        return sum(len(family.waiting) for family in self.families.values())

    def admit(self, plan: Plan) -> None:
        """Makes a plan a waiting member, trains it in the fallback, or reports that it failed."""
        started = time.perf_counter()
        try:
            member = self._resume(plan) or self._capture(plan)
        except FatalError:
            raise
        except CannotTrace as error:
            self.refuse(str(error), plan)
            self.fallback.train(_OnePlan(self.supply, plan), self.task)
            return
        except Exception as error:
            result = Result(plan, ending_of(error), {}, message=traceback.format_exc(), extra={"error": error})
            result.seconds = time.perf_counter() - started
            self.supply.finish(result)
            return
        member.seconds += time.perf_counter() - started
        member.family.add(member)

    def next_member(self, active: Sequence[Member]) -> Member | None:
        """A waiting member, of a family that already trains if possible, else of the one with the most waiting."""
        training = {id(member.family) for member in active}
        waiting = [family for family in self.families.values() if family.waiting]
        if not waiting:
            return None
        return max(waiting, key=lambda family: (id(family) in training, len(family.waiting))).waiting.popleft()

    def park(self, member: Member) -> None:
        """Holds a paused member's state until a plan with its key continues it."""
        self._parked[member.plan.key] = member

    def rebuild(self, member: Member) -> None:
        """Puts a member whose epoch did not run back into its family's queue."""
        member.family.waiting.appendleft(member)

    def _resume(self, plan: Plan) -> Member | None:
        member = self._parked.pop(plan.key, None)
        if member is None or member.epoch != plan.first_epoch:
            return None
        member.plan = plan
        member.last_epoch = self.data.epochs if plan.epochs is None else plan.epochs
        return member

    def _capture(self, plan: Plan) -> Member:
        keras_side.forget_names()
        values = plan.values.copy() if hasattr(plan.values, "copy") else plan.values
        tree, batches = self.shapes.training
        with seeded(plan.seed):
            model = build_model(self.task.build, values)
            check_size(model, self.task.max_model_size)
            check_model(model)
            keras_side.build_symbolically(model, jax.tree.unflatten(tree, batches[0]))
        check_size(model, self.task.max_model_size)
        own = [] if self.task.callbacks is None else self.task.callbacks(plan)
        callbacks = [*copy_callbacks(self.data.callbacks), *own]
        reason = why_not(callbacks)
        if reason is not None:
            raise CannotTrace(reason)
        found = self._trace(model)
        family = self.families.get(found.key)
        if family is None:
            family = self.families[found.key] = Family(found, self.data, keras_side.summary(model))
        state = tuple(tuple(keras_side.values_of(part)) for part in keras_side.variables_of(model)[:3])
        epochs = self.data.epochs if plan.epochs is None else plan.epochs
        assert isinstance(self.data.training, Rows)
        steps = self.data.training.num_steps
        return Member(
            plan,
            model,
            found,
            family,
            state,  # type: ignore[arg-type]
            epoch=plan.first_epoch or self.data.initial_epoch,
            last_epoch=epochs,
            callbacks=MemberCallbacks(callbacks, model, epochs=epochs, steps=steps),
        )

    def _trace(self, model: Any) -> Trace:
        key = structure_key(model)
        if key is None:
            return trace(model, self.shapes)
        if key not in self._traces:
            self._traces[key] = trace(model, self.shapes)
        return self._traces[key]


class _OnePlan:
    """A supply of one plan; the rest is forwarded."""

    def __init__(self, supply: Supply, plan: Plan) -> None:
        self._supply = supply
        self._plans = [plan]

    def take(self, count: int) -> Sequence[Plan]:
        del count
        return [self._plans.pop()] if self._plans else []

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        return self._supply.report(epochs)

    def finish(self, result: Result) -> None:
        self._supply.finish(result)
