"""What still fits into the time of a session: builds, compilations, epochs, predictions, by what they took before."""

from __future__ import annotations

import math
from collections.abc import Sequence

from manyfit.core.clock import Clock
from manyfit.stats.costs import Step
from manyfit.training.known_costs import ANY, KnownCosts
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.grouping import Batch, Outcome
from manyfit.training.population.member import Member
from manyfit.training.population.program import SharedProgram

_GRACE_SECONDS = 1.0  # for predictions of what has been trained when the time is up
_MOST_RESERVED = 0.25  # of the time of a session, for predictions at its end


class SessionTime:
    """Notes what the steps of a session take, and says what still fits.

    Args:
        costs: of this trainer, from this process and earlier ones.
        clock: of the task.
    """

    def __init__(self, costs: KnownCosts, clock: Clock) -> None:
        self._costs, self._clock = costs, clock
        self._most_reserved = _MOST_RESERVED * clock.left()
        self._compiled: set[SharedProgram] = set()  # whose price is known

    def fits(self, batch: Batch) -> bool:
        """Whether an epoch of a batch fits, and what has to be compiled for it; the clock is told where it does not."""
        if not self._clock.is_limited:
            return True
        program = batch.program
        steps: dict[Step, int] = {"epoch": batch.count}
        if batch.count not in program.compiled_counts(batch.layout):
            steps["compile"] = 1
        rows, parameters = _size_of(batch.members[0])
        return self._costs.fits(self._clock, steps, program.structure, rows=rows, parameters=parameters)

    @property
    def goes_ahead(self) -> bool:
        """Whether models may be built long before they train: the time is not limited, or an epoch has ended."""
        return bool(self._compiled) or not self._clock.is_limited

    def has_room_for_build(self) -> bool:
        """Whether another model can be built in time; the clock is told where it cannot."""
        return not self._clock.begins_nothing() and self._costs.fits(self._clock, {"build": 1}, ANY)

    def predict_seconds(self, members: Sequence[Member]) -> float:
        """What the predictions of those will take that train now: kept free at the end."""
        if not self._clock.is_limited:
            return 0.0
        needed = 0.0
        for member in members:
            rows, parameters = _size_of(member)
            needed += self._costs.expected("predict", _name_of(member), rows=rows, parameters=parameters)
        return min(needed, self._most_reserved)

    def allows_predictions(self, members: Sequence[Member]) -> bool:
        """Whether models may predict what is kept of them: also a moment after the end."""
        return self.predict_seconds(members) <= max(_GRACE_SECONDS, self._clock.left())

    def note_epoch(self, outcome: Outcome) -> None:
        """Takes the time of an epoch, and of what was compiled for the first one."""
        batch = outcome.batch
        name, (rows, parameters) = batch.program.structure, _size_of(batch.members[0])
        size = {"rows": rows, "parameters": parameters}
        self._costs.note("epoch", name, outcome.seconds / batch.count, **size)
        if batch.program not in self._compiled:
            self._compiled.add(batch.program)
            self._costs.note("compile", name, batch.program.price_seconds, **size)
            for member in batch.members:
                self._costs.note("build", ANY, member.build_seconds)

    def note_predictions(self, members: Sequence[Member]) -> None:
        """Takes the time of kept predictions."""
        for member in members:
            rows, parameters = _size_of(member)
            self._costs.note("predict", _name_of(member), member.predict_seconds, rows=rows, parameters=parameters)


def _name_of(member: Member) -> str:
    return ANY if member.seat is None else member.program.structure


def _size_of(member: Member) -> tuple[int, int]:
    """Rows of its training, and its parameters; of a stream its batches."""
    training = member.view.training
    rows = training.num_rows if isinstance(training, ResidentRows) else training.num_steps or 1
    return rows, sum(math.prod(leaf.shape) for leaf in member.state[0])
