"""Which executions train together: pure functions from members to batches.

A *batch* is what one program trains for one epoch: members of one structure, the layout that they run in, and a number
of slots. Three questions are answered here, each by a function of its own, for members of one program at a time.

1. In which layout? (`layouts_for`) Usually in the fastest; one core tries the layout that is to be timed.
2. Who begins now? (`parted`) Members that read the same rows share the reading of them and, where their inputs are the
   same, one large matrix product. Once they stand beside members of another epoch, they do so to the end. So a few
   wait for those that will be as far as they are.
3. In which batches of how many slots? (`cut`) Those that read the same rows first, then the rest. A program is
   compiled for a number of slots; fewer slots than that cost a compilation, more of them compute in vain.

On the cores of a CPU the third answer weighs seconds: `slots_on_cores`. It earns its place at the end of row A (idle
slots of the last batch of each of eight structures); `WEIGHS_SLOTS = False` takes the smallest power of two instead.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Hashable, Mapping, Sequence

import numpy as np

from manyfit.core.records import Computed
from manyfit.training.population.arrays import State
from manyfit.training.population.layout import Layout
from manyfit.training.population.member import Member
from manyfit.training.population.program import SharedProgram
from manyfit.training.population.replaying import Ran, Replay

WEIGHS_SLOTS = True
_ALONE = 1.4  # times the seconds of a member that stands side by side with others, on a CPU


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Members that run an epoch in one program: one of them, or several of one structure.

    Idle slots, up to `count`, repeat the last member, and what they bring is thrown away.
    """

    program: SharedProgram
    members: tuple[Member, ...]
    layout: Layout
    count: int
    one_step: bool = False  # a callback has stopped training before the first batch, after which `fit` ends the epoch
    epochs_left: int = 0  # that the members of its program have before them, this one included
    replay: Replay | None = None  # how the epoch was trained before the process was killed, where it was

    @property
    def slots(self) -> list[Member]:
        """A member per slot of the program."""
        return [*self.members, *[self.members[-1]] * (self.count - len(self.members))]

    @property
    def streams(self) -> bool:
        """Whether its data, or those that it validates on, come batch by batch."""
        return self.members[0].view.streams

    @property
    def validates(self) -> bool:
        """Whether this epoch ends with a validation for any of the members."""
        return any(member.is_validated for member in self.members)

    @property
    def splits_tests(self) -> bool:
        """Whether callbacks have to be called between training and validation."""
        return self.validates and any(member.callbacks.split_tests for member in self.members)

    def begin_tests(self) -> None:
        """Lets the callbacks of the members that are validated begin the validation."""
        for member in self.members:
            if member.is_validated and member.failure is None:
                member.begin_test()

    def states(self) -> list[State]:
        """The members' states as the program takes them, one per slot."""
        own = [member.widened() for member in self.members]
        return [*own, *[own[-1]] * (self.count - len(own))]

    def take_over(self, states: Sequence[State]) -> None:
        """Gives the members their new states, once the whole epoch went well: all of them, or none.

        Raises:
            CannotTrace: a wide program has changed what it was not to change.
        """
        # The states of idle slots end here.
        own = [member.narrowed(state) for member, state in zip(self.members, states, strict=False)]
        for member, state in zip(self.members, own, strict=True):
            member.state = state


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What an epoch of a batch brought.

    Attributes:
        batch: the members.
        logs: name -> a number per slot.
        test_logs: likewise, where the epoch ended with a validation.
        seconds: of training and validation, without what was compiled for them.
        sharing: programs that ran at the same time.
        error: why there are no logs.
        awaits_test: that was the training; callbacks are to be called before the validation.
        layouts: those that training went through, with the seconds that the whole epoch would have taken in each.
        ran: what it ran in, in which way.
    """

    batch: Batch
    logs: dict[str, np.ndarray]
    test_logs: dict[str, np.ndarray] | None
    seconds: float
    sharing: int
    error: Exception | None = None
    awaits_test: bool = False
    layouts: Mapping[Layout, float] = dataclasses.field(default_factory=dict)
    ran: Ran = dataclasses.field(default_factory=Ran)

    @functools.cached_property
    def computed(self) -> Computed | None:
        """What trains the epoch again just so; None where nothing does: its last bits may be others then."""
        return self.ran.computed(self.batch.count, self.batch.program.outline)

    @property
    def is_half(self) -> bool:
        """Whether it failed after its training, which the members have taken over already."""
        return self.error is not None and bool(self.logs)


@dataclasses.dataclass(frozen=True)
class Rules:
    """What grouping has to know beside the members.

    Attributes:
        group: most slots of a program.
        workers: programs that run at the same time.
        shuffle: whether the order of the rows changes from epoch to epoch; else all members read the same always.
        shuffle_seed: names the order that members share, where they share one.
        share_order: whether it does; else each member reads its rows in an order of its own, by its seed.
    """

    group: int
    workers: int
    shuffle: bool
    shuffle_seed: int
    share_order: bool

    def order_of(self, member: Member) -> tuple[int, int]:
        """Seed and epoch: what names the order in which a member reads its batches."""
        return self.shuffle_seed if self.share_order else member.plan.seed, member.epoch

    def rows_of(self, member: Member) -> tuple[int, int, int]:
        """Equal for members that read the same rows in the same order in their next epoch."""
        return id(member.view), *self.order_of(member)


def form_batches(
    idle: Sequence[Member], running: Sequence[Batch], waiting: Sequence[Member], rules: Rules
) -> tuple[list[Batch], list[Member]]:
    """Idle members as batches.

    Args:
        idle: members between two epochs.
        running: batches that are under way.
        waiting: members that have not begun; their epochs count where a layout's compilation has to pay.
        rules: of this session.

    Returns:
        The batches that begin now, and the members that wait for others.
    """
    # A fold of one row more may have a batch more, and then its members do not stand beside those of the others.
    alike: dict[tuple[int, tuple[int | None, ...]], list[Member]] = {}
    for member in idle:
        alike.setdefault((id(member.program), member.view.num_steps), []).append(member)
    batches: list[Batch] = []
    later: list[Member] = []
    for members in alike.values():
        program = members[0].program
        beside = [batch for batch in running if batch.program is program]
        others = [member for member in waiting if member.program is program]
        epochs_left = _epochs_left((*members, *others))
        for layout, some in layouts_for(program, members, beside, epochs_left=epochs_left, rules=rules):
            now, wait = parted(some, layout, beside, rules)
            later += wait
            left = epochs_left + sum(_epochs_left(batch.members) for batch in beside)
            begun = cut(program, now, layout, rules) if now else []
            batches += [dataclasses.replace(each, epochs_left=left) for each in begun]
    return batches, later


def _epochs_left(members: Sequence[Member]) -> int:
    return sum(member.last_epoch - member.epoch for member in members)


def layouts_for(
    program: SharedProgram, members: Sequence[Member], running: Sequence[Batch], *, epochs_left: int, rules: Rules
) -> list[tuple[Layout, list[Member]]]:
    """The layouts in which idle members of a program train their next epoch.

    Where each core has a program of its own, one of them tries the layout that is to be timed, and the others go
    on in the best one so far: nobody waits for what may be slower.

    Args:
        program: theirs.
        members: idle ones.
        running: batches of the same program.
        epochs_left: that its members have before them.
        rules: of this session.
    """
    layout, best = program.choice.choose(epochs_left, program.compile_seconds), program.choice.best
    if layout == best or rules.workers == 1:
        return [(layout, list(members))]
    # One program that tries is enough to time a layout, and one core that waits for its compilation.
    num_trying = 0 if any(batch.layout == layout for batch in running) else rules.group
    parts = [(layout, list(members[:num_trying])), (best, list(members[num_trying:]))]
    return [(each, some) for each, some in parts if some]


def as_before(members: Sequence[tuple[Member, Replay]], rules: Rules) -> list[Batch]:
    """Members whose epoch was trained before, in programs, layouts and slots like those.

    Who stands beside whom changes nothing, so those stand together that stood in programs alike, and missing ones are
    copies, as in any idle slot.

    Args:
        members: with what they are to be trained by.
        rules: of this session.
    """
    alike: dict[tuple[Hashable, ...], list[tuple[Member, Replay]]] = {}
    for member, replay in members:
        # Where each read the rows in an order of its own, that of any other will do.
        order = () if "train" in replay.run.own_orders else rules.order_of(member)
        steps = tuple(replay.lift.name(kind) for kind in ("train", "test"))
        key = id(member.program), id(member.view), member.is_validated, steps, str(replay.run), order
        alike.setdefault(key, []).append((member, replay))
    batches = []
    for some in alike.values():
        replay = some[0][1]
        count = replay.run.count
        for start in range(0, len(some), count):
            now = tuple(member for member, _ in some[start : start + count])
            batches.append(Batch(now[0].program, now, replay.run.layouts[0][0], count, replay=replay))
    return batches


def parted(
    members: Sequence[Member], layout: Layout, running: Sequence[Batch], rules: Rules
) -> tuple[list[Member], list[Member]]:
    """Those that begin their next epoch now, and those that wait for others of their program under way.

    Waiting costs a worker's time; beginning apart costs the reading of rows and, side by side, a larger product for the
    rest of the search. So they wait in two cases: until the slots of a program that runs alone can be filled again, and
    for members that will reach the very epoch of the very rows that they would begin now.
    """
    members = list(members)
    if rules.workers == 1:
        # One program at a time: what stands side by side waits until all are back, and fills the same slots again.
        waits = any(batch.layout != layout or layout.members != "sequential" for batch in running)
    else:
        waits = len(members) < rules.group and any(batch.layout != layout for batch in running)
    if waits:
        return [], members
    if rules.workers == 1 or layout.members == "sequential" or not (rules.share_order and rules.shuffle):
        return members, []
    coming = {
        (view, seed, epoch + 1)
        for view, seed, epoch in (rules.rows_of(member) for batch in running for member in batch.members)
    }
    # Those that fill a program wait for nobody.
    full, rest = by_rows(members, rules)
    later = [member for member in rest if rules.rows_of(member) in coming]
    return [*full, *(member for member in rest if member not in later)], later


def cut(program: SharedProgram, members: Sequence[Member], layout: Layout, rules: Rules) -> list[Batch]:
    """Members that begin now, as batches.

    One after another: a slot each. One program at a time, as on an accelerator: all of them in one, those of one epoch
    next to each other. A program per core: full programs of members that read the same rows, then the rest.
    """
    parts: list[tuple[list[Member], int]] = []
    if layout.members == "sequential":
        parts = [(list(members), 1)]
    elif rules.workers == 1:
        parts = [(sorted(members, key=rules.order_of), program.count_for(len(members), rules.group))]
    else:
        epochs = max(member.last_epoch - member.epoch for member in members)
        seconds = program.choice.seconds.get(layout) if WEIGHS_SLOTS else None
        # Full programs and the rest are cut apart, so that members of one epoch do not get separated by others.
        for some in filter(None, by_rows(members, rules)):
            compiled, compile_seconds = program.compiled_counts(layout), program.compile_seconds
            count = slots_on_cores(len(some), rules.group, rules.workers, epochs, seconds, compile_seconds, compiled)
            parts.append((some, count))
    return [
        Batch(program, tuple(some[start : start + count]), layout, count)
        for some, count in parts
        for start in range(0, len(some), count)
    ]


def by_rows(members: Sequence[Member], rules: Rules) -> tuple[list[Member], list[Member]]:
    """Members that fill up programs with others that read the same rows, one such program after another; and the
    rest, those that read the same rows next to each other."""
    same: dict[tuple[int, int, int], list[Member]] = {}
    for member in sorted(members, key=rules.order_of):
        same.setdefault(rules.rows_of(member), []).append(member)
    full: list[Member] = []
    rest: list[Member] = []
    for some in same.values():
        num_full = len(some) // rules.group * rules.group
        full += some[:num_full]
        rest += some[num_full:]
    return full, rest


def slots_on_cores(
    num_members: int,
    group: int,
    workers: int,
    epochs: int,
    seconds: float | None,
    compile_seconds: float,
    compiled: Collection[int],
) -> int:
    """Slots of the programs that train members on the cores of a CPU the soonest, compilation included.

    Args:
        num_members: that are ready.
        group: most slots of a program.
        workers: programs that run at the same time.
        epochs: that the members have left.
        seconds: of one member and epoch, side by side with others, with all workers busy; None: not known.
        compile_seconds: for a further number of slots.
        compiled: numbers of slots that there are programs for.

    Example: one member is not worth a program of its own for one epoch, but for ten.

    >>> [slots_on_cores(1, 4, 2, epochs, 0.1, 1.0, {4}) for epochs in (1, 10)]
    [4, 1]
    """
    powers = [1 << power for power in range(group.bit_length()) if 1 << power < group]
    if num_members >= group or seconds is None:
        return min((count for count in powers if count >= num_members), default=group)

    def cost(count: int) -> float:
        rounds = math.ceil(num_members / (count * workers))
        each = seconds * workers * (_ALONE if count == 1 else 1.0)
        return epochs * rounds * count * each + (0.0 if count in compiled else compile_seconds)

    return min([group, *powers], key=cost)


def members_of(batches: Sequence[Batch]) -> list[Member]:
    return [member for batch in batches for member in batch.members]


def python_logs(logs: Mapping[str, np.ndarray], slot: int) -> dict[str, float | np.ndarray]:
    """The logs of one slot, with Python floats where an entry is one number, as callbacks expect them."""
    of_slot = {name: value[slot] for name, value in logs.items()}
    return {name: float(value) if np.ndim(value) == 0 else np.asarray(value) for name, value in of_slot.items()}
