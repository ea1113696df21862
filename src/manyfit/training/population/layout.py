"""Which layout a program's passes run in: decided by timing real epochs, so that no measurement is thrown away.

Every candidate is tried on epochs that have to be trained anyway; all that it costs is its compilation. A candidate
is tried only where the work that is left could pay for that. What was found is remembered on disk beside the compiled
programs: the next process then neither measures nor compiles what lost the first time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Literal

import jax

from manyfit.core.files import cache_folder, replaced
from manyfit.training.population.arrays import num_devices
from manyfit.training.population.compile import Tier
from manyfit.training.population.trace import Trace

# A candidate must be able to save this much: guessed gain of an untried layout, as a share of the work that is left.
HOPED_GAIN = 0.2  # of the second most promising one
HOPED_GAIN_OF_OTHERS = 0.05
_ENOUGH = 4  # timed epochs after which a layout is judged: while members are built, the first ones take longer
_HOPELESS = 1.5  # times the best one's seconds: one epoch tells
_LONGEST_PART = 20  # steps by which a layout is judged within its first epoch
# Processor seconds of an epoch and a member, four side by side against one alone: with 51,000 numbers .035 and .049,
# with 102,000 .080 and .072, with 407,000 .341 and .236 (6,400 rows); LSTM of 96 units: .75 and .52 (2,000 rows).
_MANY_NUMBERS = 100_000  # that train
_SLOWER = 1.1  # times another one's seconds a step: less may be chance
CHUNK = 8
"""Steps that a program of layout "chunk" holds."""


@dataclasses.dataclass(frozen=True, order=True)
class Layout:
    """How a program runs its members and its steps.

    Attributes:
        steps: "scan" runs an epoch inside the program; "chunk" calls the program once for several steps, written out
            one after another; "host" calls it once per step.
        members: "unrolled" writes the members side by side into the program, "vmap" adds an axis for them, "sequential"
            runs a program for one member once per member, on as many threads as there are cores.
    """

    steps: Literal["scan", "chunk", "host"]
    members: Literal["unrolled", "vmap", "sequential"]

    def __str__(self) -> str:
        return f"{self.steps}/{self.members}"

    @classmethod
    def read(cls, text: str) -> Layout:
        """The inverse of `str`."""
        steps, members = text.split("/")
        return cls(steps, members)  # type: ignore[arg-type]


def num_workers() -> int:
    """Programs that run at the same time: one per core on a CPU, one on an accelerator, and one over all devices."""
    if jax.default_backend() != "cpu" or num_devices() > 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def candidates(trace: Trace, *, streams: bool = False, together: bool = False) -> tuple[Layout, ...]:
    """Layouts worth trying on this machine, the most promising first.

    On a CPU each core runs a program of its own. A few members side by side in each share the reading of rows, one
    large matrix product where their inputs are the same, and what a step costs beside arithmetic: half the time of
    a small model, a tenth of a larger one's. Convolutions gain nothing side by side: as convolutions of groups they
    take twice as long (2.4 against 1.1 s an epoch of 3,000 images and a member, four members, in the axis of `vmap`).
    Nor do models whose states fall out of a core's cache side by side, or that loop inside a step: rows G1 and G4.
    Those whose axes stand in an unusual order are ten times and more slower inside a loop than outside, where XLA
    turns them. On an accelerator members side by side are nearly free.

    Args:
        trace: a member's steps.
        streams: whether batches come one by one, so that each step is a call.
        together: whether several members of this program are expected at the same time.
    """
    cpu = jax.default_backend() == "cpu" and num_devices() == 1
    # "sequential" would leave all devices but one without work.
    if num_devices() > 1:  # all of them run one program: members stand side by side on each
        several = ("host",) if streams else ("scan", "chunk")
        return tuple(Layout(steps, members) for steps in several for members in ("vmap", "unrolled"))  # type: ignore[arg-type]
    if streams:
        order = ("sequential", "vmap", "unrolled") if cpu else ("vmap", "unrolled", "sequential")
        return tuple(Layout("host", members) for members in order)  # type: ignore[arg-type]
    if not cpu:
        return (
            Layout("scan", "vmap"), Layout("scan", "unrolled"), Layout("chunk", "vmap"), Layout("scan", "sequential"),
        )  # fmt: skip
    if has_convolutions(trace):
        loop, calls = Layout("scan", "sequential"), Layout("host", "sequential")
        return (calls, Layout("chunk", "sequential"), loop) if loops_are_slow(trace) else (loop, calls)
    alone, fused = Layout("scan", "sequential"), Layout("scan", "vmap")
    # Where members come one by one there is nobody to stand beside.
    gains = together and trace.num_trained < _MANY_NUMBERS and not trace.loops
    scans = (fused, alone) if gains else (alone, fused)
    return (*scans, Layout("chunk", "sequential"), Layout("host", "sequential"))


def has_convolutions(trace: Trace) -> bool:
    """Whether a training step convolves."""
    return bool(_convolutions(trace))


def loops_are_slow(trace: Trace) -> bool:
    """Whether a training step has convolutions that XLA turns into quick ones on a CPU outside of loops only.

    Keras's are written as quick ones from the start (`quick_convolutions`). A user's own, and kinds for which there is
    no such form, are not.
    """
    return any(not any(order in line for order in _USUAL_ORDERS) for line in _convolutions(trace))


def _convolutions(trace: Trace) -> list[str]:
    return [line for line in trace.forms["train 0"].lines if "conv_general_dilated" in line]


def _usual_order(num_axes: int) -> str:
    """How a form writes: batch, space, channels; the kernel space, channels, filters; and no groups of the batch."""
    space = [str(axis) for axis in range(1, num_axes + 1)]
    image = ",".join(["0", str(num_axes + 1), *space])
    kernel = ",".join([str(num_axes + 1), str(num_axes), *(str(axis) for axis in range(num_axes))])
    return f"batch_group_count=1 dimension_numbers=(({image}),({kernel}),({image}))"


_USUAL_ORDERS = tuple(map(_usual_order, (1, 2, 3)))


@dataclasses.dataclass
class LayoutChoice:
    """Chooses a program's layout from the seconds per member and epoch that were measured.

    Args:
        options: candidates, the most promising first.
    """

    options: tuple[Layout, ...]

    def __post_init__(self) -> None:
        self.seconds: dict[Layout, float] = {}
        self.timed: dict[Layout, int] = {}
        self.step_seconds: dict[Layout, float] = {}  # of training, from parts of epochs, too

    @property
    def epochs_timed(self) -> int:
        """Epochs that the measurements come from."""
        return sum(self.timed.values())

    @property
    def best(self) -> Layout:
        """The fastest so far; the most promising where nothing was measured."""
        return min(self.seconds, key=self.seconds.__getitem__) if self.seconds else self.options[0]

    def choose(self, epochs_left: int, compile_seconds: float) -> Layout:
        """The layout for the next epoch.

        Four timed epochs of the most promising one; then the next candidate, if a guess of what it may save, over all
        that is left to train, is more than its compilation costs; else the fastest. What is far behind after one epoch
        is not timed again, and where members that stand in one way are far behind, other programs in which they stand
        so are not tried.

        Args:
            epochs_left: member epochs that this program still has to train.
            compile_seconds: what compiling the layout of the first epoch took.
        """
        if not self.seconds:
            return self.options[0]
        best = self.best
        for option, seconds in self.seconds.items():
            if self.timed[option] < _ENOUGH and seconds < _HOPELESS * self.seconds[best]:
                return option
        work_left_seconds = epochs_left * self.seconds[best]
        far_behind = {
            option.members for option, seconds in self.seconds.items() if seconds >= _HOPELESS * self.seconds[best]
        } - {best.members}
        for rank, option in enumerate(self.options):
            gain = HOPED_GAIN if rank <= 1 else HOPED_GAIN_OF_OTHERS
            # Trying costs a compilation whatever comes of it, so what is left to train has to be worth the hope.
            is_new = option not in self.seconds and option.members not in far_behind
            if is_new and work_left_seconds * gain > compile_seconds:
                return option
        return best

    def next_part(
        self, layout: Layout, *, turns_done: int, num_turns: int, compile_seconds: float
    ) -> tuple[Layout, int]:
        """How an epoch of training goes on: in which layout, and for how many of its turns.

        What was never timed runs a tenth of an epoch, and is left there if another one is faster a step. Where nothing
        else was timed it is compared with the step outside of loops, as `model.fit` runs it, if the rest of this epoch
        is long enough for that to be compiled. Only layouts in which members stand alike take over in the middle of an
        epoch: they go on with the same carry.

        Args:
            layout: that the epoch is in.
            turns_done: steps of the epoch that are behind it.
            num_turns: of the whole epoch.
            compile_seconds: what compiling the layout has taken.
        """
        left, part = num_turns - turns_done, min(max(1, num_turns // 10), _LONGEST_PART)
        # A chunk's steps are one call.
        part = part if layout.steps != "chunk" else -(-part // CHUNK) * CHUNK
        alike = [option for option in self.options if option.members == layout.members]
        is_known = layout in self.step_seconds
        # Whole epochs decide once a layout is known (see `choose`), and where nothing could take over.
        if len(alike) < 2 or (is_known and not turns_done):
            return layout, left
        if not is_known:
            return layout, min(part, left)
        seconds = {option: self.step_seconds[option] for option in alike if option in self.step_seconds}
        plain = Layout("host", layout.members)
        rest_seconds = seconds[layout] * left
        if len(seconds) == 1 and plain in alike and plain != layout and rest_seconds * HOPED_GAIN > compile_seconds:
            return plain, min(part, left)
        fastest = min(seconds, key=seconds.__getitem__)
        return (fastest if seconds[layout] > _SLOWER * seconds[fastest] else layout), left

    def record_steps(self, layout: Layout, seconds: float) -> None:
        """Takes the seconds per member and step of a part of an epoch."""
        self.step_seconds[layout] = min(seconds, self.step_seconds.get(layout, math.inf))

    def record(self, layout: Layout, seconds: float) -> None:
        """Takes the seconds per member of an epoch; the first of a layout (it compiles) must not be recorded."""
        # The fastest epoch, not the mean: what else runs on the machine makes an epoch longer, never shorter.
        self.seconds[layout] = min(seconds, self.seconds.get(layout, math.inf))
        self.timed[layout] = self.timed.get(layout, 0) + 1


@dataclasses.dataclass(frozen=True)
class Remembered:
    """What a program's measurements came to.

    Attributes:
        layout: the fastest.
        counts: numbers of slots for which its programs were compiled.
        tier: that its training was compiled in at the end.
    """

    layout: Layout
    counts: tuple[int, ...]
    tier: Tier = "quick"


def recall(name: str, options: tuple[Layout, ...]) -> Remembered | None:
    """What was remembered of a program; None if nothing was, or if its layout is no option any more."""
    path = place_of_memory(name)
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
        # Nothing else is checked: a memory that is wrong by now costs time, and no results.
        layouts = [option for option in options if str(option) == found["layout"]]
        tier: Tier = "full" if found["tier"] == "full" else "quick"
        return Remembered(layouts[0], tuple(map(int, found["counts"])), tier) if layouts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing there, or of another version


def remember(name: str, found: Remembered) -> None:
    """Writes down what was measured. A folder that cannot be written to costs speed, not the search."""
    path = place_of_memory(name)
    if path is None:
        return
    with contextlib.suppress(OSError), replaced(path, is_shared=True) as partial:
        text = {"layout": str(found.layout), "counts": sorted(found.counts), "tier": found.tier}
        partial.write_text(json.dumps(text))


def place_of_memory(name: str) -> Path | None:
    """Where lies what was found out of a program: it holds for these devices and this version of JAX."""
    folder = cache_folder("layouts")
    if folder is None:
        return None
    devices = jax.local_devices()
    place = f"{name} {jax.__version__} {devices[0].device_kind} {len(devices)} {os.cpu_count()}"
    return folder / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
