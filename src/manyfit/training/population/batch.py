"""A batch of members: those that train an epoch in one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from manyfit.training.population.arrays import State
from manyfit.training.population.data import FitArguments
from manyfit.training.population.layout import Layout
from manyfit.training.population.member import Member
from manyfit.training.population.program import Family
from manyfit.training.population.trace import CannotTrace


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Members that run an epoch in one program: one of them, or several of one family.

    Idle slots, up to `count`, repeat the last member, and what they bring is thrown away.
    """

    family: Family
    members: tuple[Member, ...]
    layout: Layout
    count: int

    @property
    def slots(self) -> list[Member]:
        """A member per slot of the program."""
        return [*self.members, *[self.members[-1]] * (self.count - len(self.members))]

    def validates(self, data: FitArguments) -> bool:
        """Whether this epoch ends with a validation for any of the members."""
        return any(data.validates_at(member.epoch) for member in self.members)

    def take_over(self, states: Sequence[State]) -> None:
        """Gives the members their new states, once the whole epoch went well."""
        for member, state in zip(self.members, states, strict=False):
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
    """

    batch: Batch
    logs: dict[str, np.ndarray]
    test_logs: dict[str, np.ndarray] | None
    seconds: float
    sharing: int
    error: Exception | None = None


def trusted(batch: Batch) -> None:
    """Probes the batch's program if that has not been done.

    Raises:
        CannotTrace: a step of it is not that of a member.
    """
    batch.family.verify(batch.layout)
    if batch.family.mismatch is not None:
        raise CannotTrace(batch.family.mismatch)
