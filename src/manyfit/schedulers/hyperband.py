"""Hyperband: successive halving in several brackets, from "many trials, short" to "few trials, full length".

Source: Li, Jamieson, DeSalvo, Rostamizadeh and Talwalkar 2018, Algorithm 1; sizes as in `rungs`.

Five things differ from KerasTuner's, on purpose. Promoted trials continue, under their own id. Trials that failed
are replaced, in the first rung by new ones and above by the next best. Where configurations run out, brackets
shrink and go on halving. Nobody is promoted on a wrong bracket number when brackets overlap. And a rung ranks by the
loss at its end, as the paper does, where KerasTuner takes the best epoch within the rung.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Progress
from manyfit.schedulers import base
from manyfit.schedulers.base import Job, Limits, Resume, Room, Scheduler, Start
from manyfit.schedulers.rungs import (
    Rung,
    RungStanding,
    bracket_numbers,
    entered,
    failed_before,
    num_brackets,
    rung_epochs,
    rungs_of,
    shrunk,
    stand,
)


@dataclasses.dataclass(frozen=True)
class _Bracket:
    iteration: int
    number: int
    rungs: list[Rung]
    members: list[Progress]

    @property
    def num_missing(self) -> int:
        """Places of the first rung that nobody holds."""
        first = self.rungs[0]
        return first.num_trials - sum(not failed_before(p, first.epochs) for p in self.members)

    def tags(self, rung: int, initial_epoch: int) -> dict[str, Any]:
        return {
            base.EPOCHS: self.rungs[rung].epochs,
            base.INITIAL_EPOCH: initial_epoch,
            base.BRACKET: self.number,
            base.ROUND: rung,
            base.ITERATION: self.iteration,
        }


class HyperbandScheduler(Scheduler):
    """Successive halving in brackets.

    The rungs of a bracket are decided as soon as they can be: a trial is promoted once so many others are known to
    be worse that it is sure to be among those promoted when its rung is full. So who is promoted does not depend
    on the order in which results arrive, and slots do not wait for stragglers. When a bracket has nothing to hand
    out, the next one begins.

    Args:
        max_epochs: epochs of a trial that reaches the last rung.
        factor: one in so many trials is promoted, and trains so many times as long.
        hyperband_iterations: how often all brackets are run; None: until a limit of the search ends it.
        min_epochs: the shortest first rung that is allowed. More of it means fewer brackets.

    Raises:
        UsageError: an argument that is no integer, `factor` below 2, another below 1, or `min_epochs` above
            `max_epochs`.

    Example:

    >>> from manyfit.schedulers.base import Limits
    >>> jobs = HyperbandScheduler(max_epochs=9, factor=3).assign([], 100, Limits())
    >>> [sum(job.target_epochs == epochs for job in jobs) for epochs in (1, 3, 9)]
    [9, 5, 3]
    """

    def __init__(
        self,
        max_epochs: int = 100,
        factor: int = 3,
        hyperband_iterations: int | None = 1,
        *,
        min_epochs: int = 1,
    ):
        self.max_epochs: int
        self.max_epochs, self.factor, self.min_epochs = check_rungs("Hyperband", max_epochs, factor, min_epochs)
        if hyperband_iterations is not None:
            hint = "Type 1, or None to go on until a limit of the search."
            hyperband_iterations = base.check_count(
                "Hyperband", "hyperband_iterations", hyperband_iterations, low=1, hint=hint
            )
        self.hyperband_iterations = hyperband_iterations

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`."""
        room = Room(history, limits, count)
        jobs: list[Job] = []
        num_seen = 0
        # The shortest first rung of all: when not even that can be paid, nothing further can begin.
        deepest = num_brackets(self.max_epochs, self.factor, self.min_epochs) - 1
        shortest = rung_epochs(self.max_epochs, self.factor, deepest)[0]
        for bracket in self._brackets(history, limits):
            first_epochs = bracket.rungs[0].epochs
            # Failed ones count as missing: the bracket gets the trials that the method asks for, not those that
            # happened to fail.
            missing = bracket.num_missing
            while missing > 0 and room.can_start and room.fits(first_epochs):
                room.take(first_epochs, start=True)
                missing -= 1
                jobs.append(Start(first_epochs, bracket.tags(0, 0)))
            if missing > 0 and not (room.can_start and room.affords(first_epochs)):
                num_got = bracket.rungs[0].num_trials - missing
                # Fewer trials than planned will ever come: with the planned sizes nobody would be sure of promotion,
                # and all would wait for ever.
                bracket = dataclasses.replace(bracket, rungs=shrunk(bracket.rungs, num_got, self.factor))
            jobs += self._promotions(bracket, room)
            num_seen += len(bracket.members)
            nothing_beyond = num_seen == len(history) and not (room.can_start and room.affords(shortest))
            if room.slots == 0 or nothing_beyond:
                break
        return jobs

    def _brackets(self, history: Sequence[Progress], limits: Limits) -> Iterator[_Bracket]:
        """All brackets that were begun or may be begun, in their order."""
        members: dict[tuple[Any, Any], list[Progress]] = {}
        for progress in history:
            key = progress.tags.get(base.ITERATION), progress.tags.get(base.BRACKET)
            members.setdefault(key, []).append(progress)
        # Planned with what the limits allow: a bracket that would be cut in the middle is made smaller from the start.
        left = limits.max_starts
        iterations = itertools.count() if self.hyperband_iterations is None else range(self.hyperband_iterations)
        for iteration in iterations:
            planned = dict(bracket_numbers(self.max_epochs, self.factor, self.min_epochs, left))
            # Brackets of the history that the plan lacks: the limits were others when they were begun.
            begun = {number for key_iteration, number in members if key_iteration == iteration}
            numbers = sorted(planned.keys() | begun, reverse=True)
            if not numbers:
                return
            for number in numbers:
                mine = members.get((iteration, number), [])
                full = rungs_of(self.max_epochs, self.factor, number)
                size = planned.get(number, len(mine))
                rungs = full if size >= full[0].num_trials else shrunk(full, size, self.factor)
                yield _Bracket(iteration, number, rungs, mine)
            if left is not None:
                left = max(0, left - sum(planned.values()))

    def _promotions(self, bracket: _Bracket, room: Room) -> list[Job]:
        jobs: list[Job] = []
        members = bracket.members
        num_coming = max(0, bracket.num_missing)
        for number, rung in enumerate(bracket.rungs[:-1]):
            following = bracket.rungs[number + 1]
            standing = stand(members, rung.epochs, following.epochs)
            chosen = _sure_of_promotion(standing, num_coming, following)
            for progress in chosen:
                more_epochs = following.epochs - progress.epochs
                if progress.paused and progress.trial_id not in standing.promoted and room.fits(more_epochs):
                    room.take(more_epochs, start=False)
                    tags = {**bracket.tags(number + 1, progress.epochs), base.TRIAL_ID: progress.trial_id}
                    jobs.append(Resume(progress.trial_id, following.epochs, tags))
            # Who has a place above: sent there, or ended with a score that stands for it.
            ended = {p.trial_id for p in chosen if p.ending is not None}
            members = [p for p in members if entered(p, following.epochs) or p.trial_id in ended]
            num_holding = sum(not failed_before(p, following.epochs) for p in members)
            num_coming = max(0, following.num_trials - num_holding)
        return jobs

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {
            "name": "Hyperband",  # not the class's name: projects that were written before compare it
            "max_epochs": self.max_epochs,
            "factor": self.factor,
            "hyperband_iterations": self.hyperband_iterations,
            "min_epochs": self.min_epochs,
        }


def _sure_of_promotion(standing: RungStanding, num_coming: int, following: Rung) -> list[Progress]:
    """The finished trials that will be among the best of the full rung, whatever the others turn out to be.

    A place above is taken for good by whoever was promoted. Trials that failed up there hold none, so the next
    best moves up; they are not candidates again.
    """
    chosen: list[Progress] = []
    # Each of these might still turn out better, so each takes a place until it is known.
    num_unknown = len(standing.unfinished) + num_coming
    num_promoted_worse = len(standing.promoted)
    num_better = 0
    for progress in standing.finished:
        if failed_before(progress, following.epochs) and entered(progress, following.epochs):
            continue
        if progress.trial_id in standing.promoted:
            num_promoted_worse -= 1
            chosen.append(progress)
        elif num_unknown + num_better + num_promoted_worse < following.num_trials:
            chosen.append(progress)
        num_better += 1
    return chosen


def check_rungs(where: str, max_epochs: object, factor: object, min_epochs: object) -> tuple[int, int, int]:
    """Returns the three settings of rungs.

    Raises:
        UsageError: one is no integer, `factor` below 2, another below 1, or `min_epochs` above `max_epochs`.
    """
    hint = "Type the epochs of a full training, for instance 100."
    max_epochs = base.check_count(where, "max_epochs", max_epochs, low=1, hint=hint)
    factor = base.check_count(
        where,
        "factor",
        factor,
        low=2,
        hint="Type 3 to keep a third of each rung: factor needs to be a int larger than 1.",
    )
    min_epochs = base.check_count(where, "min_epochs", min_epochs, low=1, hint="Type 1, or leave it out.")
    if min_epochs > max_epochs:
        got = f"min_epochs={min_epochs}, max_epochs={max_epochs}"
        raise UsageError(explain(where, got, "min_epochs <= max_epochs", "Lower min_epochs."))
    return max_epochs, factor, min_epochs
