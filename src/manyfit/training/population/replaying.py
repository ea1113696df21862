"""How an epoch was computed, written down; and what trains it again just so after a process was killed.

Timing decides in which program, layouts and number of slots an epoch runs, and how well that is compiled. The last
bits of a member's numbers depend on these, and on nothing else that timing decides: not on who stands in the other
slots, nor on its own place (`test_replaying` compares them all). So each epoch is reported with a `Computed`, and that
is stored with it; a member that goes on in another process trains the epochs that are known by theirs. On the same
machine and with the same versions its numbers are then the same, bit for bit, and all that was decided by them stays
true.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import jax
import keras

from manyfit.core.records import Computed
from manyfit.training.hardware import num_cores
from manyfit.training.keras_internals.programs import version_of_xla
from manyfit.training.population.compile import Tier
from manyfit.training.population.layout import Layout
from manyfit.training.population.lift import Lift
from manyfit.training.population.outlines import Outline
from manyfit.training.population.rows_pass import RowsPass
from manyfit.training.population.trace import Trace

_KINDS = ("train", "test")

Machine: TypeAlias = tuple[tuple[str, str], ...]
"""By name, all that the last bits of a program's numbers depend on beside its steps: processor, versions, options."""


@functools.cache
def machine() -> Machine:
    """Of this process."""
    first = jax.local_devices()[0]
    name = f"{first.device_kind} ({first.client.platform_version})" if first.platform != "cpu" else _processor()
    return (
        ("processor", f"{name} x {jax.local_device_count()}"),
        ("cores", str(num_cores())),
        ("jax", jax.__version__),
        ("XLA", version_of_xla()),
        ("keras", keras.__version__),
        ("manyfit", sys.modules["manyfit"].__version__),  # not imported: the package stands above its parts
        ("XLA_FLAGS", os.environ.get("XLA_FLAGS", "")),
    )


def _processor() -> str:
    """The processor with its instruction sets, for which XLA compiles."""
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        return f"{platform.processor()} {platform.machine()}"
    told = {name.strip(): value.strip() for name, _, value in lines}
    flags = told.get("flags", told.get("Features", ""))
    return f"{told.get('model name', platform.machine())} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def is_exact() -> bool:
    """Whether equal programs give equal bits here: an accelerator's libraries choose algorithms by timing them."""
    return jax.default_backend() == "cpu"


@dataclasses.dataclass(frozen=True)
class EpochRun:
    """How an epoch ran in its program. As text: "scan/sequential@3+host/sequential quick quick 1".

    Attributes:
        layouts: that training went through, each with the turn up to which it went.
        tiers: of training and validation; None where there was none.
        count: slots.
        own_orders: "train", "test": where each member read the rows in an order of its own.

    Example:

    >>> run = EpochRun.read("scan/sequential@3+host/sequential@30 quick full 1 train")
    >>> [str(layout) for layout, _ in run.layouts], run.tiers, run.own_orders
    (['scan/sequential', 'host/sequential'], ('quick', 'full'), ('train',))
    >>> str(run)
    'scan/sequential@3+host/sequential@30 quick full 1 train'
    """

    layouts: tuple[tuple[Layout, int], ...]
    tiers: tuple[Tier | None, Tier | None]
    count: int
    own_orders: tuple[str, ...] = ()

    def __str__(self) -> str:
        layouts = "+".join(f"{layout}@{stop}" for layout, stop in self.layouts)
        return " ".join([layouts, *(tier or "-" for tier in self.tiers), str(self.count), *self.own_orders])

    @classmethod
    def read(cls, text: str) -> EpochRun:
        """The inverse of `str`."""
        layouts, train, test, count, *own_orders = text.split()
        parts = [part.split("@") for part in layouts.split("+")]
        tiers: list[Tier | None] = [
            None if tier == "-" else "full" if tier == "full" else "quick" for tier in (train, test)
        ]
        found = tuple((Layout.read(name), int(stop)) for name, stop in parts)
        return cls(found, (tiers[0], tiers[1]), int(count), tuple(own_orders))

    def tier(self, kind: str) -> Tier | None:
        """The tier of a pass of one kind ("train" or "test")."""
        return self.tiers[_KINDS.index(kind)]

    # As `LayoutChoice`, for who runs an epoch in parts:

    def next_part(
        self, layout: Layout, *, turns_done: int, num_turns: int, compile_seconds: float
    ) -> tuple[Layout, int]:
        """The layout that comes next, and for how many turns."""
        del layout, compile_seconds
        for each, stop in self.layouts:
            if turns_done < stop:
                return each, min(stop, num_turns) - turns_done
        return self.layouts[-1][0], num_turns - turns_done

    def record_steps(self, layout: Layout, seconds: float) -> None:
        """What is timed here decides nothing."""


@dataclasses.dataclass(frozen=True)
class Replay:
    """What trains an epoch as it was trained before.

    Attributes:
        run: how it ran in its program.
        lift: what was an input of that.
    """

    run: EpochRun
    lift: Lift


@dataclasses.dataclass(frozen=True)
class Ran:
    """What an epoch ran in.

    Attributes:
        passes: "train" and, where there was a validation, "test" -> the pass.
        tiers: likewise, how it was compiled.
        layouts: see `EpochRun`.
        is_one: whether the passes are of one version of their program.
    """

    passes: Mapping[str, RowsPass] = dataclasses.field(default_factory=dict)
    tiers: Mapping[str, Tier] = dataclasses.field(default_factory=dict)
    layouts: Sequence[tuple[Layout, int]] = ()
    is_one: bool = True

    def with_pass(self, kind: str, found: RowsPass, tier: Tier) -> Ran:
        """And in this pass."""
        return dataclasses.replace(self, passes={**self.passes, kind: found}, tiers={**self.tiers, kind: tier})

    def computed(self, count: int, outline: Outline | None) -> Computed | None:
        """The record of the epoch; None where no record says how to train it again.

        Args:
            count: slots.
            outline: of a program that is wider than its members; None: it is of their structure.
        """
        holes: dict[str, tuple[int, ...]] = {}
        for each in self.passes.values():
            if any(holes.get(form, found) != found for form, found in each.lift.holes.items()):
                return None
            holes.update(each.lift.holes)
        if not self.layouts or not self.is_one:
            return None
        own_orders = tuple(kind for kind, each in self.passes.items() if each.own_order)
        run = EpochRun(tuple(self.layouts), (self.tiers.get("train"), self.tiers.get("test")), count, own_orders)
        steps = tuple((kind, each.steps_name) for kind, each in self.passes.items())
        return Computed(_program(steps, tuple(sorted(holes.items())), outline, machine()), str(run))


@functools.lru_cache(maxsize=256)  # thousands of epochs have it in common
def _program(
    steps: tuple[tuple[str, str], ...],
    holes: tuple[tuple[str, tuple[int, ...]], ...],
    outline: Outline | None,
    computes: Machine,
) -> str:
    told = {
        "machine": dict(computes),
        "steps": dict(steps),
        "lifted": dict(holes),
        "outline": None if outline is None else outline.told(),
    }
    return json.dumps(told)


@dataclasses.dataclass(frozen=True)
class Program:
    """What a `Computed` says of its program.

    Attributes:
        machine: that it was compiled for, and the versions, by name.
        steps: "train" and "test" -> the name of what was compiled.
        holes: form name -> numbers of its lifted holes.
        outline: see `computed_by`.
    """

    machine: Mapping[str, str]
    steps: Mapping[str, str]
    holes: Mapping[str, tuple[int, ...]]
    outline: Outline | None

    @classmethod
    @functools.lru_cache(maxsize=256)
    def read(cls, text: str) -> Program:
        """The inverse of what `computed_by` writes."""
        told = json.loads(text)
        outline = None if told["outline"] is None else Outline.of(told["outline"])
        holes = {form: tuple(found) for form, found in told["lifted"].items()}
        return cls(told["machine"], told["steps"], holes, outline)

    def lift(self, trace: Trace) -> Lift | None:
        """What was an input of it, for the steps of a member; None where these are not what it was compiled from."""
        lift = Lift(trace, self.holes)
        is_same = self.holes.keys() <= trace.forms.keys()
        is_same = is_same and all(lift.only(kind).name(kind) == name for kind, name in self.steps.items())
        return lift if is_same else None

    def differences(self) -> str:
        """What is not as it was, for people; empty where nothing is."""
        now = dict(machine())
        return "; ".join(
            f"{name} {self.machine.get(name, 'unknown')} then, {value} now"
            for name, value in now.items()
            if self.machine.get(name) != value
        )
