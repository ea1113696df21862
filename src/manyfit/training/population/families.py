"""Members of different structure in one program: who shares one, and how wide it is.

A program costs seconds to compile, whatever it trains. So a member need not train in a program of its own structure: a
*wide* one, whose layers are at least as wide as the member's, trains it with zeros around its weights (`twins`), for a
few multiplications in vain. Structures that one wide program may serve are a *family*. Its members wait without a
program until some are to train, and then:

1. a program that is there already takes them, if what padding will waste is less than a compilation;
2. the others are covered by new programs: one per structure at first, and the two are put together, again and again,
   whose joint program saves most, compilations and padding weighed in seconds (`cover`);
3. a structure that ends up alone trains in a program of its own, without padding.

What is weighed is measured here, in this process, by the programs so far; first guesses are a small core's.

A member that would waste more than a compilation moves to a program of its own structure between two epochs: its state
at rest has the shapes of its own model, so that is only another program.
"""

from __future__ import annotations

import collections
import dataclasses
import threading
from collections.abc import Callable, MutableMapping, Sequence

from manyfit.training.keras_internals import building
from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.models import summary_of
from manyfit.training.population.arrays import State, copied
from manyfit.training.population.compile import Tier
from manyfit.training.population.covers import ProgramCosts, cover
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.layout import Layout, num_workers
from manyfit.training.population.member import Member, ProgramSeat
from manyfit.training.population.outlines import Outline, class_of_optimizer, joined
from manyfit.training.population.probe import find_padding_mismatch, recalled_verdict, remember_verdict
from manyfit.training.population.program import SharedPassKey, SharedProgram
from manyfit.training.population.rows_pass import RowsPass
from manyfit.training.population.trace import Maskings, Trace, trace_all
from manyfit.training.population.twins import Twin
from manyfit.training.population.views import View
from manyfit.training.program_report import ProgramRecord
from manyfit.training.seeding import seeded

WIDENS = True
ENOUGH_TO_TELL = 2
"""Members of a program by which one can tell what its members differ in."""
_SAMPLE = 12
"""Members of a family by which one can tell how wide its programs should be."""
_FEW_RUNS = 32  # of layers, in models of which a sample is built sooner than one program is compiled
_MANY_TO_COME = 8  # members for each that came: then each structure is worth a program of its own (row A)
_FEW_EPOCHS = 2  # in longer trainings a program is exchanged for one that is compiled in full, while it trains
_ROOM = 0.25  # of a compilation: what padding may cost for members that are still to come
_MULTIPLES = (128, 64, 32)  # of widths, for those; 8 is what a vector unit takes anyway


class WideProgram(SharedProgram):
    """A program in which members of narrower structures train, padded with zeros.

    Nothing is lifted in it: what members differ in is state of the wide model.

    Args:
        twin: the wide model.
        found: its trace.
        view: what the members train on.
        together: see `SharedProgram`.
        first_tier: see `SharedProgram`.
        passes: see `SharedProgram`.
    """

    def __init__(
        self,
        twin: Twin,
        found: Trace,
        view: View,
        *,
        together: bool,
        first_tier: Tier,
        passes: MutableMapping[SharedPassKey, RowsPass],
    ) -> None:
        name = summary_of(twin.model)
        super().__init__(found, view.data, name, together=together, first_tier=first_tier, passes=passes)
        self.twin, self.trace = twin, found
        self._short_batches = found.short_batches(view.shapes)
        self.structures: set[str] = set()  # of the members that it has taken
        self._flops = [0.0, 0.0]  # that members needed, and that were computed
        self._doubt: tuple[Trace, ProgramSeat, State] | None = None
        self._checking = threading.Lock()

    @property
    def outline(self) -> Outline:
        """How wide it is."""
        return self.twin.outline

    @property
    def kind(self) -> str:
        """Of what it covers: what padding is exact for, or is not."""
        return " ".join([self.outline.kind, *self.outline.optimizers])

    def has_batches_of(self, member: Member) -> bool:
        """Whether it serves the short batches of a member: any, where steps are masked; else those it was made for."""
        return self.trace.short_batches(member.view.shapes) == self._short_batches

    def seat_of(self, member: Member) -> ProgramSeat:
        """A seat for a member that this program covers."""
        self.serve(member.view.data)
        self.structures.add(member.structure.identity)
        return ProgramSeat(self, self.trace, self.twin.model, self.twin.embedding(member.model))

    def doubt(self, narrow: Trace, seat: ProgramSeat, state: State) -> None:
        """Has this program compared with a member's own steps before it is trusted.

        Args:
            narrow: the member's own trace.
            seat: the member's seat here.
            state: of the member.
        """
        # A copy: callbacks may predict with the model, and Keras donates the arrays that it predicts with.
        self._doubt = narrow, seat, copied(state)

    def probe(self, layout: Layout, *, wait: bool = True) -> None:
        """See `SharedProgram`; here one step in the wide program is compared with the member's own."""
        if self._doubt is None or not self._checking.acquire(blocking=wait):
            return
        try:
            if self._doubt is None:
                return
            narrow, seat, state = self._doubt
            assert seat.embedding is not None  # our bug: it is a seat of this program
            batch = self.data.training.some_batch()
            found = find_padding_mismatch(narrow, self.trace, state, seat.embedding, batch)
            if found is None:
                remember_verdict(self.kind)
            else:
                self.mismatch = f"a step of program {self.key}, which is wider, is not that of the model: {found}"
            self._doubt = None
        finally:
            self._checking.release()

    def count_epoch(self, members: Sequence[Member]) -> None:
        """Takes note of what an epoch of members needed of what it computed."""
        outlines = [member.structure.outline for member in members]
        self._flops[0] += sum(outline.flops for outline in outlines if outline is not None)
        self._flops[1] += len(members) * self.outline.flops

    def record(self) -> ProgramRecord:
        """See `SharedProgram`."""
        needed, computed = self._flops
        padding = 1 - needed / computed if computed else 0.0
        return dataclasses.replace(
            super().record(), widths=widths_of(self.outline), num_structures=len(self.structures), padding=padding
        )


def wide_program(
    outline: Outline,
    members: Sequence[Member],
    *,
    together: bool,
    first_tier: Callable[[Trace, int], Tier],
    passes: MutableMapping[SharedPassKey, RowsPass],
    maskings: dict[str, Maskings],
) -> WideProgram:
    """A new wide program; where its kind was never compared with models' own steps, it will be.

    Args:
        outline: how wide.
        members: those that it is made for.
        together: see `SharedProgram`.
        first_tier: likewise, by the steps and how many of them these members have before them.
        passes: likewise.
        maskings: of steps that are known, by their keys; these are added.

    Raises:
        CannotTrace: a step that JAX cannot trace.
    """
    narrowest = min(members, key=lambda member: outline_of_member(member).flops)
    view = narrowest.view
    building.forget_names()
    with seeded(narrowest.plan.seed), quick_draws():
        twin = Twin(narrowest.model, outline)
        building.build_symbolically(twin.model, view.shapes.first_batch())
        found = trace_all(twin.model, view.shapes, maskings)
    tier = first_tier(found, sum(map(steps_left, members)))
    program = WideProgram(twin, found, view, together=together, first_tier=tier, passes=passes)
    if not recalled_verdict(program.kind):
        program.doubt(narrowest.own_trace(maskings), program.seat_of(narrowest), narrowest.state)
    return program


@dataclasses.dataclass(frozen=True)
class Share:
    """What members are to train in.

    Attributes:
        members: those of one structure or of several.
        program: a wide program that is there; None: a new one.
        outline: how wide the new one is; None: each structure's own.
    """

    members: tuple[Member, ...]
    program: WideProgram | None = None
    outline: Outline | None = None


class Family:
    """Structures alike, on rows alike: the programs that there are, and who gets into which.

    They are of one kind, or of several that differ in numbers which no wide program has as state, such as a label
    smoothing. Then members of one structure may share a program of their own, in which such numbers are lifted.

    Attributes:
        wide: programs that several structures share.
        own: by identity of the structure: programs of one structure, and their outlines.
        refused: why none may be wide; None: they may.
    """

    def __init__(self) -> None:
        self._view: View | None = None
        self.wide: list[WideProgram] = []
        self.own: dict[str, tuple[SharedProgram, Outline]] = {}
        self.refused: str | None = None
        # By kind and identity, all that came so far: outlines, and the trials of them; by kind, how many members.
        self._seen: dict[str, dict[str, Outline]] = {}
        self._trials: dict[str, dict[str, set[str]]] = {}
        self._num_members: collections.Counter[str] = collections.Counter()
        # By kind and class of the optimizer, how many members have it with which numbers.
        self._numbers: dict[str, dict[str, collections.Counter[str]]] = {}
        self._padded_seconds: dict[str, float] = {}  # by identity: what was agreed to so far

    def serve(self, view: View | None) -> None:
        """Takes rows like those of its members; None: lets go of them, until others come."""
        self._view = view

    def is_ready(self, members: Sequence[Member], least: int, *, remaining: int) -> bool:
        """Whether members that wait are enough to decide on their program.

        Args:
            members: of this family.
            least: so many are, at least. Fewer are where they are of one structure, as far as one can tell by two
                trials. Of several structures more are waited for, where models are built in less than a moment.
            remaining: that are still to come for certain.
        """
        if len({member.structure.identity for member in members}) == 1:
            # The executions of one trial are alike in any space.
            num_trials = len({member.plan.trial_id for member in members})
            return len(members) >= least or num_trials >= ENOUGH_TO_TELL
        # By the layers, not by the clock: what shares a program shall not depend on what else the machine does.
        is_small = len(outline_of_member(members[0]).runs) <= _FEW_RUNS
        return len(members) >= (max(least, min(_SAMPLE, len(members) + remaining)) if is_small else least)

    def refuse(self, reason: str) -> None:
        """Lets no member train in a wide program from now on."""
        self.refused = reason
        for program in self.wide:
            program.mismatch = program.mismatch or reason

    def work(self) -> list[tuple[float, int, float]]:
        """Flops, steps and a core's seconds of an epoch in those of its programs that were timed."""
        if self._view is None:
            return []
        rows, steps = size_of(self._view)
        programs = [(program, program.outline) for program in self.wide]
        return [
            (outline.flops * rows, steps, _core_seconds(program))
            for program, outline in (*programs, *self.own.values())
            if program.choice.seconds
        ]

    def shares(self, members: Sequence[Member], costs: ProgramCosts, *, remaining: float) -> list[Share]:
        """Where members are to train that wait without a program.

        Args:
            members: of this family.
            costs: of compiling and training.
            remaining: that may still come, for whom a new program may be a little wider.
        """
        structures: dict[tuple[str, ...], list[Member]] = {}
        for member in members:
            outline = outline_of_member(member)
            key = member.structure.identity, outline.kind, *outline.optimizers
            structures.setdefault(key, []).append(member)
        shares: list[Share] = []
        rest: list[list[Member]] = []
        for (identity, *_), alike in structures.items():
            outline = outline_of_member(alike[0])
            self._seen.setdefault(outline.kind, {})[identity] = outline
            trials = self._trials.setdefault(outline.kind, {}).setdefault(identity, set())
            trials.update(member.plan.trial_id for member in alike)
            self._num_members[outline.kind] += len(alike)
            for text in outline.optimizers:
                numbers = self._numbers.setdefault(outline.kind, {})
                numbers.setdefault(class_of_optimizer(text), collections.Counter())[text] += len(alike)
            has_many = self._weight(outline, remaining) >= _MANY_TO_COME
            if self.refused is not None or identity in self.own or has_many:
                shares.append(Share(tuple(alike)))
                continue
            program = self._one_that_takes(identity, alike, costs, remaining)
            if program is None:
                rest.append(alike)
            else:
                shares.append(Share(tuple(alike), program))
        return [*shares, *self._new(rest, costs, remaining)]

    def padding(self, member: Member, program: WideProgram, costs: ProgramCosts) -> float:
        """Seconds that the epochs a member has left would waste in a wide program."""
        own, wide = (epoch_seconds(each, member.view, costs) for each in (outline_of_member(member), program.outline))
        # What was measured knows more of the machine than the count of multiplications; their ratio is the better part
        # of what that knows.
        measured = _core_seconds(program) if program.choice.seconds else wide
        return epochs_left(member) * measured * max(0.0, 1 - own / wide)

    def outgrown(self, member: Member, costs: ProgramCosts) -> bool:
        """Whether a member of a wide program has so much before it that one of its own is worth compiling."""
        program = member.program
        if not isinstance(program, WideProgram):
            return False
        if member.structure.identity in self.own:
            return self.padding(member, program, costs) > _ROOM * costs.compile_seconds
        return self.padding(member, program, costs) > costs.compile_seconds

    def _one_that_takes(
        self, identity: str, alike: Sequence[Member], costs: ProgramCosts, remaining: float
    ) -> WideProgram | None:
        """The program with the least padding for members of one structure, if that is less than a compilation."""
        outline = outline_of_member(alike[0])
        covering = [
            program
            for program in self.wide
            if program.mismatch is None and program.outline.covers(outline) and program.has_batches_of(alike[0])
        ]
        wasted = {program: sum(self.padding(each, program, costs) for each in alike) for program in covering}
        best = min(wasted, key=wasted.__getitem__, default=None)
        # Members of a structure come one after another: together they are worth a program, though none of them is.
        before = self._padded_seconds.get(identity, 0.0)
        if best is None or before + self._weight(outline, remaining) * wasted[best] >= costs.compile_seconds:
            return None
        self._padded_seconds[identity] = before + wasted[best]
        return best

    def _new(self, structures: Sequence[Sequence[Member]], costs: ProgramCosts, remaining: float) -> list[Share]:
        if not structures:
            return []
        view = structures[0][0].view
        outlines = [outline_of_member(alike[0]) for alike in structures]
        weights = [self._weight(outline, remaining) for outline in outlines]
        left = [sum(map(epochs_left, alike)) for alike in structures]
        epochs = [round(weight * number) for weight, number in zip(weights, left, strict=True)]
        groups = cover(
            outlines,
            epochs,
            seconds=lambda outline: epoch_seconds(outline, view, costs),
            join=lambda one, other: joined([one, other]) if one.joins(other) else None,
            compile_seconds=costs.compile_seconds,
        )
        shares = []
        for places, outline in groups:
            members = tuple(member for place in places for member in structures[place])
            some = sum(epochs[place] for place in places)
            wide = None
            if self._expected(outline, remaining) >= 1:
                wide = self._with_room(outline, some, view, costs)
            shares.append(Share(members, outline=wide or (None if len(places) == 1 else outline)))
        return shares

    def _expected(self, outline: Outline, remaining: float) -> float:
        """Structures that a wide program might serve, that are still to come, and have not been seen.

        The next one is new about as often as those were that were seen once (Good 1953, "The population frequencies of
        species and the estimation of population parameters"). Where nothing else was seen, nothing else is expected.
        Its optimizer's numbers are new likewise, and no wide program takes two of one class that differ in them: where
        momentum or a weight decay is searched, each trial has its own.
        """
        numbers = [len(trials) for trials in self._trials[outline.kind].values()]
        if len(numbers) == 1:
            return 0.0
        differing = [found for found in self._numbers[outline.kind].values() if len(found) > 1]
        seen_once = sum(list(found.values()).count(1) for found in differing)
        known_numbers = 1 - seen_once / self._num_members[outline.kind]
        return known_numbers * remaining * numbers.count(1) / sum(numbers)

    def _weight(self, outline: Outline, remaining: float) -> float:
        """How many members each one that came stands for: itself, and those to come of structures that were seen."""
        return 1 + (remaining - self._expected(outline, remaining)) / self._num_members[outline.kind]

    def _with_room(self, outline: Outline, epochs: int, view: View, costs: ProgramCosts) -> Outline | None:
        """A wider outline, for the like of what came before, where that costs its first members little."""
        whole = outline
        for seen in self._seen[outline.kind].values():
            whole = joined([whole, seen]) if whole.joins(seen) else whole
        seconds = epoch_seconds(outline, view, costs)
        for multiple in _MULTIPLES:
            wider = joined([whole], multiple=multiple, alike=True)
            if epochs * (epoch_seconds(wider, view, costs) - seconds) < _ROOM * costs.compile_seconds:
                return wider
        return None


def _core_seconds(program: SharedProgram) -> float:
    """Seconds that one core takes for a member's epoch in a program that was timed, with all cores at work.

    Of a core, as the seconds that compiling takes are.
    """
    return num_workers() * min(program.choice.seconds.values())


def widths_of(outline: Outline) -> str:
    """The widths that are not the same for all that a program of an outline serves, as text."""
    widths = [str(place.width) for run in outline.runs if run.is_wide for place in run.places]
    return f"widths up to {', '.join(widths)}"


def outline_of_member(member: Member) -> Outline:
    """The outline of a member that may train in a wide program."""
    assert member.structure.outline is not None  # our bug: the others are in no family
    return member.structure.outline


def are_short(members: Sequence[Member]) -> bool:
    """Whether none of them has many epochs before it."""
    return max(map(epochs_left, members)) <= _FEW_EPOCHS


def epochs_left(member: Member) -> int:
    """Epochs that a member has before it."""
    return max(0, member.last_epoch - member.epoch)


def steps_left(member: Member) -> int:
    """Training steps that a member has before it; 0 where nobody knows, in a stream."""
    rows = member.view.training
    return epochs_left(member) * rows.num_steps if isinstance(rows, ResidentRows) else 0


def size_of(view: View) -> tuple[float, int]:
    """Rows and steps of an epoch, in training steps: a validation step is a third of one."""
    rows, steps = 0.0, 0
    for source, share in ((view.training, 1.0), (view.validation, 1 / 3)):
        if isinstance(source, ResidentRows):
            rows, steps = rows + share * source.num_rows, steps + source.num_steps
    return rows, steps


def epoch_seconds(outline: Outline, view: View, costs: ProgramCosts) -> float:
    """Guess of the seconds of one member's epoch."""
    rows, steps = size_of(view)
    return costs.epoch(flops=outline.flops, rows=rows, steps=steps)
