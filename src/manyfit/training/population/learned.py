"""What a population has learned, which outlives a call of `train`; what is not of the rows outlives them, too."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, MutableMapping

import keras

from manyfit.training.hardware import give_back_freed_memory
from manyfit.training.labels import LabelCheck
from manyfit.training.models import summary_of
from manyfit.training.population.compile import Tier
from manyfit.training.population.families import Family
from manyfit.training.population.kept_rows import Prefixes
from manyfit.training.population.member import Member
from manyfit.training.population.program import SharedPassKey, SharedProgram
from manyfit.training.population.rows_pass import RowsPass
from manyfit.training.population.structure_key import KnownStructures
from manyfit.training.population.trace import Maskings, Trace
from manyfit.training.population.views import View

MANY_MEMBERS = 8
"""Executions that are expected of a program, from which on it is compiled in full at once."""

# What is compiled quickly takes 2 ns longer to change a number, since it does so one by one, in place. In wide dense
# layers that is a quarter to a half of an epoch (row G1); compiling in full takes .4 to .9 processor seconds longer.
MANY_UPDATES = 4e8
"""Numbers times steps that members at hand will train, from which on their program is compiled in full at once."""


MANY_PASSES = 200
"""Compiled ones that are held, at two megabytes and more each; with so many, those are let go of that nobody needs."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """What is known of the structures that train on data of the same kinds: programs stay from call to call.

    Attributes:
        programs: by the key of their steps, and of what serves their short batches.
        structures: what was traced, by what it is recognised by.
        maskings: by the key of their steps, how those of recognised structures serve short batches.
        families: by kind and rows: structures that may share a wide program.
        passes: those that programs share.
        labels: what is known of them.
        prefixes: what was computed once of their rows.
    """

    programs: dict[str, SharedProgram] = dataclasses.field(default_factory=dict)
    structures: KnownStructures = dataclasses.field(default_factory=KnownStructures)
    maskings: dict[str, Maskings] = dataclasses.field(default_factory=dict)
    families: dict[str, Family] = dataclasses.field(default_factory=dict)
    passes: MutableMapping[SharedPassKey, RowsPass] = dataclasses.field(default_factory=weakref.WeakValueDictionary)
    labels: LabelCheck = dataclasses.field(default_factory=LabelCheck)
    prefixes: Prefixes = dataclasses.field(default_factory=Prefixes)

    def for_other_rows(self) -> Learned:
        """What stays known where other rows are trained on: all but what is of the rows, and of streams."""
        programs = {key: program for key, program in self.programs.items() if not program.streams}
        for program in programs.values():
            program.serve(None)  # the rows may be let go
        for family in self.families.values():
            family.serve(None)
        return dataclasses.replace(self, programs=programs, prefixes=Prefixes(), labels=LabelCheck())

    def program_of(
        self, found: Trace, model: keras.Model, view: View, *, together: bool, remaining: int | None, num_steps: int
    ) -> SharedProgram:
        """The program of a trace, made if need be. Members of one program have batches alike, of however many rows.

        Args:
            found: the steps.
            model: whose they are.
            view: what is trained on.
            together: whether several members are expected at the same time.
            remaining: executions that are still to come, if that is known.
            num_steps: that its first member has before it.
        """
        key = f"{found.key} {found.short_batches(view.shapes)} {view.rooms}"
        if key not in self.programs:
            self.programs[key] = SharedProgram(
                found,
                view.data,
                summary_of(model),
                together=together,
                first_tier=self.first_tier(found, num_steps, together=together, remaining=remaining),
                frozen="" if view.frozen is None else view.frozen.words,
                passes=self.passes,
            )
        self.programs[key].serve(view.data)
        return self.programs[key]

    def let_rest(self, busy: Collection[SharedProgram]) -> None:
        """Lets go of what is compiled for programs that have served nobody for the longest time, if there are many.

        Args:
            busy: programs that members train in, or are about to.
        """
        if len(self.passes) < MANY_PASSES:
            return
        idle = [program for program in self.programs.values() if not program.is_at_rest and program not in busy]
        for program in sorted(idle, key=lambda program: program.last_served):
            program.rest()
            if len(self.passes) <= MANY_PASSES * 3 // 4:
                break
        if idle:
            give_back_freed_memory()

    def first_tier(self, found: Trace, num_steps: int, *, together: bool, remaining: int | None) -> Tier:
        """How a new program is compiled first: in full where it is to train many executions, or to do much for some.

        In many short trainings no single one would be worth an exchange.

        Args:
            found: its steps.
            num_steps: that the members have before them that it is made for.
            together: see `program_of`.
            remaining: likewise.
        """
        if found.num_trained * num_steps >= MANY_UPDATES:
            return "full"
        # Each as often as those that have come.
        expected = (remaining or 0) / (len(self.programs) + 1) if together else 0
        return "full" if expected >= MANY_MEMBERS else "quick"

    def family_of(self, member: Member) -> Family:
        """The structures that a member may share a program with."""
        family = self.families.setdefault(member.view.named(member.structure.family), Family())
        family.serve(member.view)
        return family
