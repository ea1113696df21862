"""How a plan becomes a member: built under its seed, traced or recognised, and put into its family."""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Decision, Plan, Result
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.keras_fit import CannotCopy, copy_callbacks
from manyfit.training.models import build_model, check_size
from manyfit.training.population import keras_side
from manyfit.training.population.arrays import State
from manyfit.training.population.callbacks import MemberCallbacks, why_not
from manyfit.training.population.data import FitArguments
from manyfit.training.population.member import STORED_BY, Member, View, Views
from manyfit.training.population.passes import RowsPass
from manyfit.training.population.program import Family
from manyfit.training.population.structure_key import structure_key
from manyfit.training.population.trace import CannotTrace, Trace, check_model, complete, is_complete, trace
from manyfit.training.precision import LossScaleWatch, needs_loss_scale_callback
from manyfit.training.seeding import seeded
from manyfit.training.stored_state import read_state

_MAX_KNOWN = 32  # traces by what models are recognised by: those whose numbers differ are recognised once each
_MAX_RESIDENT = 64  # paused members whose state is on the disk, too, and that are held in memory nevertheless


@dataclasses.dataclass(frozen=True)
class Learned:
    """What is known of the structures that train on the same data: programs stay from call to call.

    Attributes:
        families: known structures and their programs.
        known: what was traced, by what it is recognised by.
        tests: test passes that families share.
    """

    families: dict[str, Family] = dataclasses.field(default_factory=dict)
    known: dict[str, Known] = dataclasses.field(default_factory=dict)
    tests: dict[tuple[Any, ...], RowsPass] = dataclasses.field(default_factory=dict)


class Admission:
    """Turns plans into members.

    Args:
        supply: hears of executions that fail before their first epoch.
        task: how to build them.
        data: what they train on.
        learned: what earlier calls have learned from the same data; it grows.
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
        learned: Learned,
        fallback: Trainer,
        refuse: Callable[[str, Plan | None], None],
        notify: Callable[[str], None],
    ) -> None:
        self.supply, self.task, self.data = supply, task, data
        self.fallback, self.refuse, self.notify = fallback, refuse, notify
        self._views = Views(data, task.split_for)
        self.families, self._known, self._tests = learned.families, learned.known, learned.tests
        self._parked: dict[tuple[str, int], Member] = {}  # in the order of their pauses

    @property
    def num_waiting(self) -> int:
        """Members that wait for a slot."""
        return sum(len(family.waiting) for family in self.families.values())

    @property
    def most_waiting(self) -> int:
        """Members of one family that wait for a slot, of the family with the most."""
        return max((len(family.waiting) for family in self.families.values()), default=0)

    def admit(self, plan: Plan) -> None:
        """Makes a plan a waiting member, trains it in the fallback, or reports that it failed."""
        started = time.perf_counter()
        try:
            member = self._resume(plan) or self._capture(plan)
        except CannotTrace as error:
            self._fall_back(plan, str(error))
            return
        except Exception as error:
            seconds = time.perf_counter() - started
            self.supply.finish(Result.of_failure(plan, failure_of(error), seconds=seconds))
            return
        member.seconds += time.perf_counter() - started
        self._enqueue(member)

    def next_member(self, active: Sequence[Member], group: int, least: float = 1) -> Member | None:
        """A waiting member: one that fills up a program, else one whose program is there and gets full, else of
        the family with the most waiting.

        Args:
            active: members that train, or are about to.
            group: members of one program.
            least: a family's first member joins where so many of it wait.
        """
        training = collections.Counter(id(member.family) for member in active)
        fills = {name: training[id(family)] % group != 0 for name, family in self.families.items()}
        waiting = {name: len(family.waiting) for name, family in self.families.items()}
        names = [name for name, number in waiting.items() if number >= (1 if fills[name] else least)]
        if not names:
            return None
        ready = {name: self.families[name].is_compiled and waiting[name] >= group for name in names}
        family = self.families[max(names, key=lambda name: (fills[name], ready[name], waiting[name]))]
        member = family.waiting.popleft()
        if is_complete(member.trace, member.view.shapes):
            return member
        self._enqueue(member)  # while it waited, a stream brought a batch of another shape
        return self.next_member(active, group, least)

    def _enqueue(self, member: Member) -> None:
        try:
            complete(member.trace, member.model, member.view.shapes)
            member.family.add(member)
        except (CannotTrace, ValueError) as error:
            self.send_back(member, str(error))

    def park(self, member: Member) -> None:
        """Holds a paused member's state until a plan with its key continues it."""
        self._parked[member.plan.key] = member
        stored = [key for key, other in self._parked.items() if other.is_stored]
        for key in stored[:-_MAX_RESIDENT]:
            del self._parked[key]  # if it is promoted after all, its stored state continues it

    def rebuild(self, member: Member) -> None:
        """Puts a member whose epoch did not run back into its family's queue."""
        member.family.waiting.appendleft(member)

    def send_back(self, member: Member, reason: str) -> None:
        """Trains a member in the fallback, from the beginning."""
        self._fall_back(member.plan, reason)

    def _fall_back(self, plan: Plan, reason: str) -> None:
        self.refuse(reason, plan)
        self.fallback.train(_OnePlan(self.supply, plan), self.task)

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
        view = self._views.of(plan)
        with seeded(plan.seed), keras_side.quick_draws():
            model = build_model(self.task.build, values)
            check_size(model, self.task.max_model_size)
            check_model(model)
            own = [] if self.task.callbacks is None else self.task.callbacks(plan)
            callbacks = [*self._copies(plan), *own]
            reason = why_not(callbacks)
            if reason is not None:
                raise CannotTrace(reason)
            stored = read_state(plan, STORED_BY, len(callbacks) - len(own))
            found, state = self._steps_of(model, view, whole=bool(callbacks) or stored is not None)
            stored = stored if stored is not None and stored.fits(state) else None
        check_size(model, self.task.max_model_size)
        key = f"{found.key} {view.sizes}"
        family = self.families.get(key)
        if family is None:
            together = bool(getattr(self.supply, "independent", False))
            summary = keras_side.summary(model)
            family = Family(found, view.data, summary, together=together, tests=self._tests)
            self.families[key] = family
        epochs = self.data.epochs if plan.epochs is None else plan.epochs
        member = Member(
            dataclasses.replace(plan, values=values),  # with what the build has brought to light
            model,
            found,
            family,
            view,
            state,
            epoch=self.data.initial_epoch,
            last_epoch=epochs,
            callbacks=MemberCallbacks(callbacks, model, epochs=epochs, steps=view.training.num_steps, num_own=len(own)),
            loss_scale=LossScaleWatch.of(model.optimizer),
        )
        if stored is not None:
            member.continue_from(stored)
        return member

    def _copies(self, plan: Plan) -> list[Any]:
        """The user's callbacks for one member."""
        try:
            return copy_callbacks(self.data.callbacks, plan)
        except CannotCopy as error:
            if not self.task.shares_callbacks:
                raise
            reason = f"callback {error.callback} cannot be copied ({error.__cause__}), so executions share it"
            raise CannotTrace(reason) from error

    def _steps_of(self, model: Any, view: View, *, whole: bool) -> tuple[Trace, State]:
        """A model's trace and first state.

        A recognised model is not built to the end where nobody will look at its optimizer (not `whole`): its optimizer
        starts where the first model's of this structure started, but for the learning rate. (A loss scale's variables
        come into being with the optimizer's, so a model with one is always built.)
        """
        structure = structure_key(model)
        key = None if structure is None else f"{structure} {view.sizes}"
        known = self._known.pop(key, None) if key is not None else None
        if known is not None:
            self._known[str(key)] = known  # the last one to be dropped
        whole = whole or needs_loss_scale_callback(model)
        batch = view.shapes.first_batch()
        if known is not None and not whole:
            keras_side.build_layers(model, batch[0])
        if known is not None and not whole and keras_side.is_built(model):
            trainable, fixed = model.trainable_variables, model.non_trainable_variables
            first = list(known.optimizer)
            first[known.learning_rate] = model.optimizer.variables[known.learning_rate].value
            return known.trace, (
                tuple(keras_side.values_of(trainable)),
                tuple(keras_side.values_of(fixed)),
                tuple(first),
            )
        keras_side.build_symbolically(model, batch)
        parts = [tuple(keras_side.values_of(part)) for part in keras_side.variables_of(model)[:3]]
        found = self._trace(model, view) if known is None else known.trace
        place = keras_side.place_of_learning_rate(model)
        if key is not None and place is not None:
            self._known.setdefault(key, Known(found, parts[2], place))
            if len(self._known) > _MAX_KNOWN:
                del self._known[next(iter(self._known))]
        return found, (parts[0], parts[1], parts[2])

    def _trace(self, model: Any, view: View) -> Trace:
        found = trace(model, view.shapes)
        family = self.families.get(f"{found.key} {view.sizes}")
        complete(found, model, view.shapes, None if family is None else family.lift.template)
        return found


@dataclasses.dataclass(frozen=True)
class Known:
    """A structure that was traced: its trace, its optimizer's first state and the learning rate's place in it."""

    trace: Trace
    optimizer: tuple[Any, ...]
    learning_rate: int


class _OnePlan:
    """A supply of one plan; the rest is forwarded."""

    def __init__(self, supply: Supply, plan: Plan) -> None:
        self._supply = supply
        self._plans = [plan]
        self.independent = False

    def take(self, count: int) -> Sequence[Plan]:
        del count
        return [self._plans.pop()] if self._plans else []

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        return self._supply.report(epochs)

    def finish(self, result: Result) -> None:
        self._supply.finish(result)
