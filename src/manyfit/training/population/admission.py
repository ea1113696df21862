"""How a plan becomes a member: built under its seed, traced or recognised, and queued for its program.

A plan goes one of four ways. It was paused in this process: its member is still here. It trains with others: a model is
built, and it waits for a slot. It cannot: the fallback trains it at once, and the user reads one line of reason. Or it
fails before its first epoch: that is its result. A member that waits has a program; or, where several structures may
share one (`families`), that is decided when members are to train, with all in view that wait.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence

import keras

from manyfit.core.causes import cause_of
from manyfit.core.clock import Clock
from manyfit.core.lifecycle import failure_of
from manyfit.core.records import Ending, Plan, Result
from manyfit.training.base import Bookkeeping, OnePlan, Supply, Task, Trainer
from manyfit.training.keras_internals import building
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.models import averages_weights, build_model, check_size, check_unshared
from manyfit.training.population import families
from manyfit.training.population.arrays import State, build_layers, copied, values_of, variables_of
from manyfit.training.population.callbacks import MemberCallbacks, why_not
from manyfit.training.population.calls import MemberCalls
from manyfit.training.population.covers import ProgramCosts
from manyfit.training.population.data import Sources
from manyfit.training.population.families import Family, WideProgram, wide_program
from manyfit.training.population.learned import Learned
from manyfit.training.population.member import STORED_BY, Member, ProgramSeat, Structure
from manyfit.training.population.outlines import Outline
from manyfit.training.population.program import SharedProgram
from manyfit.training.population.replaying import EpochRun, Program, Replay, is_exact
from manyfit.training.population.structure_key import KnownStructure, structure_key
from manyfit.training.population.trace import CannotTrace, build_variables, check_model, is_complete
from manyfit.training.population.views import View, Views
from manyfit.training.precision import LossScaleWatch, needs_loss_scale_callback
from manyfit.training.seeding import seeded
from manyfit.training.stored_state import read_state
from manyfit.training.tensorboard import watch_boards

_MAX_RESIDENT = 64  # paused members whose state is on the disk, too, and that are held in memory nevertheless


class Admission:
    """Turns plans into members.

    Args:
        supply: hears of executions that fail before their first epoch.
        task: how to build them.
        sources: what they train on.
        learned: what earlier calls have learned from the same data; it grows.
        fallback: trains what cannot join.
        refuse: hears the reason, and the plan.
        notify: takes a line for the user.
        aside: what is kept beside trainings.
        widens: whether members of several structures may train in one program.
    """

    def __init__(
        self,
        supply: Supply,
        task: Task,
        sources: Sources,
        *,
        learned: Learned,
        fallback: Trainer,
        refuse: Callable[[str, Plan | None], None],
        notify: Callable[[str], None],
        aside: Bookkeeping,
        widens: bool,
    ) -> None:
        self.supply, self.task = supply, task
        self.fallback, self.refuse, self.notify = fallback, refuse, notify
        self.aside, self._may_widen = aside, widens
        self._views = Views(sources, task)
        self._calls = MemberCalls(task)
        self._clock = task.clock or Clock()
        self.programs = learned.programs
        self._learned = learned
        self._waiting: dict[int, collections.deque[Member]] = {}  # by id of their program
        self._undecided: dict[Family, list[Member]] = {}  # those without a program
        self._said: set[str] = set()  # of how trials go on that were under way
        self._parked: dict[tuple[str, int], Member] = {}  # in the order of their pauses

    @property
    def num_waiting(self) -> int:
        """Members that wait for a slot."""
        return sum(map(len, (*self._waiting.values(), *self._undecided.values())))

    def take_waiting(self) -> list[Member]:
        """Members that wait for a slot, or for a program; nobody waits afterwards."""
        taken = [member for members in (*self._waiting.values(), *self._undecided.values()) for member in members]
        self._waiting, self._undecided = {}, {}
        return taken

    @property
    def waiting(self) -> list[Member]:
        """Members that wait for a slot of a program, those of one in the order in which they will get one."""
        return [member for members in self._waiting.values() for member in members]

    def waiting_for(self, program: SharedProgram) -> Sequence[Member]:
        """Members of one program that wait for a slot."""
        return self._waiting.get(id(program), ())

    def let_rest(self, active: Sequence[Member]) -> None:
        """Lets programs rest in which none of the active members trains, and nobody waits, if there are many."""
        self._learned.let_rest({member.program for member in (*active, *self.waiting)})

    @property
    def most_waiting(self) -> int:
        """Members that wait, of the program with the most."""
        return max(map(len, self._waiting.values()), default=0)

    def admit(self, plan: Plan, *, may_wait: bool = False) -> bool:
        """Makes a plan a waiting member, trains it in the fallback, or reports that it failed.

        Args:
            plan: to be built.
            may_wait: whether others train, whose memory may do for it once they have ended.

        Returns:
            False where there was no memory for it, and it may wait: nothing has become of it.
        """
        started = time.perf_counter()
        try:
            member = self._resume(plan) or self._build(plan)
        except CannotTrace as error:
            self._fall_back(plan, str(error))
        except Exception as error:
            failure = failure_of(error)
            if may_wait and failure.ending is Ending.OUT_OF_MEMORY:
                return False
            self.supply.finish(Result.of_failure(plan, failure, seconds=time.perf_counter() - started))
        else:
            member.note_built(time.perf_counter() - started)
            self._wait(member)
        return True

    def decide(self, least: int, then: Callable[[], None] = lambda: None) -> None:
        """Gives members a program that wait without one.

        Args:
            least: only where so many of one family wait.
            then: called after each program, whose members wait for a slot now.
        """
        remaining = self.supply.remaining
        coming = 0 if least == 1 or remaining is None else remaining
        for family, members in list(self._undecided.items()):
            if not family.is_ready(members, least, remaining=coming):
                continue
            del self._undecided[family]
            left = float(len(members) if remaining is None else remaining)  # as many again, where nobody knows
            for share in family.shares(members, self.costs, remaining=left):
                if self._clock.is_over():  # tracing takes time, too: these go on waiting
                    self._undecided.setdefault(family, []).extend(share.members)
                    continue
                outline, program = share.outline, share.program
                program = program if outline is None else self._open(family, outline, share.members)
                for member in share.members:
                    self._seat(member, program)
                then()

    def replay_of(self, member: Member) -> Replay | None:
        """What trains a member's next epoch as before a kill, in a seat for that; None: nothing can, or has to."""
        computed = member.plan.computed[member.epoch] if member.is_behind else None
        if computed is None:
            return None
        told = Program.read(computed.program)
        why, lift = told.differences(), None
        if not why:
            with contextlib.suppress(CannotTrace, ValueError):  # these come up again, and are told then
                if member.seat is None or member.program.outline != told.outline:
                    member.seat = self._seat_like(member, told.outline)
                    member.program.add(member.trace, member.state)
                lift = told.lift(member.trace)
        if lift is None:
            self._say(f"equal to float32 rounding ({why or 'their steps are others now'})")
            return None
        self._say("bit for bit" if is_exact() else "equal to float32 rounding (on a CPU it is bit for bit)")
        member.program.include(lift)
        return Replay(EpochRun.read(computed.run), lift)

    def _say(self, how: str) -> None:
        if how not in self._said:
            self._said.add(how)
            self.notify(f"trials that were under way are trained again to where they were: {how}")

    def _seat_like(self, member: Member, outline: Outline | None) -> ProgramSeat:
        """A seat in a wide program of just this outline, or where there is none in a program of its own structure."""
        if outline is None:
            return self._own_seat(member)
        family = self._learned.family_of(member)
        found = [one for one in family.wide if (one.outline, one.mismatch) == (outline, None)]
        program = next((one for one in found if one.has_batches_of(member)), None)
        program = program or self._open(family, outline, [member])
        return self._own_seat(member) if program is None else program.seat_of(member)

    def outgrow(self, member: Member) -> None:
        """Moves a member between two epochs to a program of its own, if padding would waste more than that costs."""
        is_padded = member.seat is not None and member.seat.embedding is not None
        if is_padded and self._learned.family_of(member).outgrown(member, self.costs):
            with contextlib.suppress(CannotTrace, ValueError):  # then it stays, and takes longer
                seat = self._own_seat(member)
                seat.program.add(seat.trace, member.state)
                member.seat = seat

    @property
    def costs(self) -> ProgramCosts:
        """What a program and an epoch cost, by what was measured."""
        work = [timed for family in self._learned.families.values() for timed in family.work()]
        return ProgramCosts.measured(self.programs.values(), work)

    def next_member(self, active: Sequence[Member], group: int, least: float = 1) -> Member | None:
        """A waiting member, chosen so that no slot of a program computes in vain.

        First one that fills up a program that others train in; else one whose program is compiled and gets full; else
        one of the program with the most waiting.

        Args:
            active: members that train, or are about to.
            group: members of one program.
            least: a program's first member joins where so many of it wait.
        """
        training = collections.Counter(id(member.program) for member in active)
        waiting = {name: found for name, program in self.programs.items() if (found := len(self.waiting_for(program)))}
        fills = {name: training[id(self.programs[name])] % group != 0 for name in waiting}
        names = [name for name, number in waiting.items() if number >= (1 if fills[name] else least)]
        if not names:
            return None
        ready = {name: self.programs[name].is_compiled and waiting[name] >= group for name in names}
        chosen = max(names, key=lambda name: (fills[name], ready[name], waiting[name]))
        member = self._waiting[id(self.programs[chosen])].popleft()
        if is_complete(member.trace, member.view.shapes):
            return member
        self._enqueue(member)  # while it waited, a stream brought a batch of another shape
        return self.next_member(active, group, least)

    def _wait(self, member: Member) -> None:
        if member.seat is None:
            self.replay_of(member)  # it has one in the program that has trained it before
        if member.seat is None:
            self._undecided.setdefault(self._learned.family_of(member), []).append(member)
        else:
            self._enqueue(member)

    def _enqueue(self, member: Member) -> None:
        try:
            member.complete_trace()
            member.program.add(member.trace, member.state)
        except (CannotTrace, ValueError) as error:
            self.send_back(member, str(error))
        except Exception as error:  # its program holds a copy of its state, for which there may be no memory
            self.supply.finish(member.failed(failure_of(error)))
        else:
            self._queue_of(member).append(member)

    def _queue_of(self, member: Member) -> collections.deque[Member]:
        return self._waiting.setdefault(id(member.program), collections.deque())

    def park(self, member: Member) -> None:
        """Holds a paused member's state until a plan with its key continues it."""
        self._parked[member.plan.key] = member
        # What is not on the disk must be kept, however many they are: its training would be lost.
        stored = [key for key, other in self._parked.items() if other.is_stored]
        for key in stored[:-_MAX_RESIDENT]:
            del self._parked[key]  # if it is promoted after all, its stored state continues it

    def rebuild(self, member: Member) -> None:
        """Puts a member whose epoch did not run back to the front of its queue."""
        self._queue_of(member).appendleft(member)

    def send_back(self, member: Member, reason: str, *, as_it_is: bool = False) -> None:
        """Trains a member elsewhere than in its program.

        One of a wide program waits for one of its own structure, since it may be the padding's fault. Any other trains
        in the fallback, from the beginning; epochs that were reported are not reported again.

        Args:
            member: between two epochs, or in the middle of one.
            reason: for the user.
            as_it_is: whether it is between two epochs.
        """
        if member.seat is not None and member.seat.embedding is not None and as_it_is:
            self._refuse_padding(self._learned.family_of(member), reason)
            member.seat = None
            self._wait(member)
            return
        known = max(member.plan.first_epoch, member.epoch)
        self._fall_back(dataclasses.replace(member.plan, first_epoch=known), reason)

    def _fall_back(self, plan: Plan, reason: str) -> None:
        self.refuse(reason, plan)
        self.fallback.train(OnePlan(self.supply, plan), self.task)

    def _resume(self, plan: Plan) -> Member | None:
        member = None if plan.goes_on_otherwise else self._parked.pop(plan.key, None)
        # At another epoch than the plan says: what is stored, or the beginning, is right, and this member is not.
        if member is None or member.epoch != plan.first_epoch:
            return None
        member.plan = plan
        if plan.epochs is not None and self.task.fit is None:  # else its `fit` has said
            member.last_epoch = plan.epochs
        if member.seat is not None and member.seat.embedding is not None:
            member.seat = None  # with more epochs before it, another program may be worth compiling
        return member

    def _build(self, plan: Plan) -> Member:
        # Equal models must have equal names of layers, or none would be recognised.
        building.forget_names()
        values = plan.values.copy() if hasattr(plan.values, "copy") else plan.values
        with seeded(plan.seed), quick_draws():
            model = build_model(self.task.build, values)
            check_unshared(model, plan)
            check_size(model, self.task.max_model_size)
            own = [] if self.task.callbacks is None else self.task.callbacks(plan)
            watch_boards(own, self.aside)
            call, notes = self._calls.of(plan, values, model, own)
            view, callbacks = self._views.of(plan, call), call.callbacks
            check_model(model)
            if self.task.fit is None:  # else the user's code may have made other labels of them
                self._learned.labels.check(model, call)
            reason = why_not(callbacks)
            if reason is not None:
                raise CannotTrace(reason)
            stored = read_state(plan, STORED_BY, len(callbacks) - len(own))
            structure, state = self._first_state(model, view, whole=bool(callbacks) or stored is not None)
            stored = stored if stored is not None and stored.fits(state) else None
        check_size(model, self.task.max_model_size)  # again: without an input layer it has parameters only now
        epochs = call.get("epochs", 1)
        params = {"verbose": call.get("verbose", "auto"), "epochs": epochs, "steps": view.training.num_steps}
        member = Member(
            dataclasses.replace(plan, values=values),  # with what the build has brought to light
            model,
            structure,
            view,
            state,
            epoch=call.get("initial_epoch", 0),
            last_epoch=epochs,
            callbacks=MemberCallbacks(callbacks, model, params=params, own=own),
            notes=notes,
            loss_scale=LossScaleWatch.of(model.optimizer),
        )
        if plan.origin is not None and (stored is None or stored.is_origin):
            forgets = self._parked.pop if plan.goes_on_otherwise else self._parked.get
            member.branch_off(forgets(plan.origin.key, None), stored)
        elif stored is not None:
            member.continue_from(stored)
        if structure.outline is None or not self._widens(plan, member):
            member.seat = self._own_seat(member)
        return member

    def _widens(self, plan: Plan, member: Member) -> bool:
        """Whether an execution may train in a program that is wider than its model.

        Not what proves something: those numbers are of the user's model alone, to the last bit.
        """
        return families.WIDENS and self._may_widen and plan.phase == "search" and not member.view.streams

    def _first_state(self, model: keras.Model, view: View, *, whole: bool) -> tuple[Structure, State]:
        """What a model is by its configuration, and its first state, for the least work that gives both.

        Building a model to the end traces its losses and metrics, tracing it takes longer still; both for what is known
        already where a model of equal configuration has been here.

        A model is not built to the end where nobody will look at its optimizer (not `whole`): a recognised one's starts
        where the first model's of this structure started, but for the learning rate. (A loss scale's variables come
        into being with the optimizer's, and moving averages are read from it at the end, so models with one of these
        are always built.)
        """
        # An optimizer that has been at work has a state of its own.
        key = None if self.task.fit is not None and model.optimizer.built else structure_key(model)
        known = self._learned.structures.find(None if key is None else view.named(key))
        batch = view.shapes.first_batch()
        if not (whole or needs_loss_scale_callback(model) or averages_weights(model)):
            build_layers(model, keras.utils.unpack_x_y_sample_weight(batch)[0])
            if building.is_built(model):
                structure = Structure.of(model, key)
                trainable, fixed = (tuple(values_of(part)) for part in variables_of(model)[:2])
                if known is not None:
                    rate = model.optimizer.variables[known.learning_rate].value
                    return structure, (trainable, fixed, known.first_state(rate))
                if structure.outline is not None:
                    model.optimizer.build(model.trainable_variables)
                    return structure, (trainable, fixed, tuple(values_of(model.optimizer.variables)))
        build_variables(model, batch)
        parts = [tuple(values_of(part)) for part in variables_of(model)[:3]]
        return Structure.of(model, key), (parts[0], parts[1], parts[2])

    def _own_seat(self, member: Member) -> ProgramSeat:
        """A seat in the program of a member's own structure, whose steps are recognised or traced.

        Raises:
            CannotTrace: a step that JAX cannot trace.
        """
        model, view = member.model, member.view
        key = None if member.structure.key is None else view.named(member.structure.key)
        known = self._learned.structures.find(key)
        found = member.own_trace(self._learned.maskings) if known is None else known.trace
        place = building.place_of_learning_rate(model)
        is_first = (
            member.stored is None and not member.history and member.plan.origin is None
        )  # its optimizer's state is what it starts from
        if known is None and key is not None and place is not None and is_first:
            self._learned.structures.keep(key, KnownStructure(found, member.state[2], place))
        # With the frozen weights that it really begins with.
        found, member.view = self._learned.prefixes.cut(found, member.state, view, member.state[1])
        if found.idle:  # no pass replaces them: a model of others that has them, too, may give its arrays away
            member.state = (member.state[0], copied(member.state[1]), member.state[2])
        together, remaining = self.supply.independent, self.supply.remaining
        program = self._learned.program_of(
            found, model, member.view, together=together, remaining=remaining, num_steps=families.steps_left(member)
        )
        if member.structure.outline is not None:
            self._learned.family_of(member).own[member.structure.identity] = program, member.structure.outline
        return ProgramSeat(program, found, model)

    def _seat(self, member: Member, program: WideProgram | None) -> None:
        """Lets a member wait for a slot of a wide program, or of the program of its own structure."""
        try:
            if program is None or not program.has_batches_of(member):
                member.seat = self._own_seat(member)
            else:
                member.seat = program.seat_of(member)
        except CannotTrace as error:
            self.send_back(member, str(error))
        except Exception as error:
            self.supply.finish(member.failed(failure_of(error)))
        else:
            self._enqueue(member)

    def _open(self, family: Family, outline: Outline, members: Sequence[Member]) -> WideProgram | None:
        """A new wide program for members; None where there cannot be one."""
        short = self.supply.independent and families.are_short(members)
        try:
            program = wide_program(
                outline,
                members,
                together=self.supply.independent,
                first_tier=functools.partial(self._learned.first_tier, together=short, remaining=self.supply.remaining),
                passes=self._learned.passes,
                maskings=self._learned.maskings,
            )
        # Whatever it was, it is no member's: each has a program of its own, as if there were no wide ones.
        except Exception as error:
            self._refuse_padding(family, f"a wide program could not be made ({cause_of(error).words})")
            return None
        # Two outlines may have the same steps: what one member has in a place may be another's in the next.
        self.programs[f"{members[0].view.named(program.key)} wide {len(self.programs)}"] = program
        family.wide.append(program)
        return program

    def _refuse_padding(self, family: Family, reason: str) -> None:
        if family.refused is None:
            self.notify(f"population training: {reason}; trials of that kind train without padding")
        family.refuse(reason)
