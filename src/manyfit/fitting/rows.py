"""Large data in `fit`: where an epoch of all rows is dear, trials begin on a part of them, and the best go on to more.

How dear an epoch is, is measured: of large data the first trials train two epochs of the smallest part, and begin again
when that has told. An epoch of all rows that takes more than 5 % of the limit is dear, and the parts are as many thirds
of thirds as it takes until theirs is not. Then the search is `RowHalving`; and in time for one training on all rows, at
half of the search at the latest, the best of those that wait go on to all rows at once.

What is decided by time is kept with the trial that it is decided about: on how many rows it trains. The parts are a
fact of the project, committed with the first trial on one of them: a process that goes on after a kill has the same.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyfit.core.clock import Clock
from manyfit.core.records import Ending, Progress, Value
from manyfit.data.call import Call
from manyfit.data.kinds import leaves
from manyfit.data.parts import RowParts, why_no_parts
from manyfit.fitting.asked import CanDo
from manyfit.fitting.holdout import HeldOut, classes_of
from manyfit.oracles import Execution, Oracle, Trial
from manyfit.schedulers import FullBudget, Limits, Restart, RowHalving, Scheduler, Start
from manyfit.schedulers.base import ROWS, Job
from manyfit.store.facts import ROWS_OF_FIT

#: An epoch that takes a larger share of the limit is dear. Images of digits in a minute, where an epoch is 2 to 3 % of
#: it: with 0.02 one of four trials saw all rows, and 4.7 % of unseen images were wrong; with this two did, and 2.0 %
#: were (one run each; `benchmarks/minutes.py digits`).
DEAR = 0.05
_FACTOR = 3
#: A smaller part says little of the order of configurations.
FEWEST_ROWS = 1_000
_MOST_RUNGS = 3
#: Numbers in x from which on the first trials find out how dear an epoch is, on a part; else they train on all rows.
MANY_NUMBERS = 1_000_000
_MEASURED_EPOCHS = 2  # the first one may hold what happens once
_VALIDATION = 1 / 3  # of the time that a row takes to train on: forwards only

MEASURES = "tuner/measures_costs"
"""Tag of a trial that trains to find out how long an epoch takes, and begins again afterwards."""


def rungs_for(num_rows: int, epoch_seconds: float, max_seconds: float) -> list[int]:
    """On how many rows trials train before they train on all of them; none where an epoch is not dear.

    Args:
        num_rows: to train on, all of them.
        epoch_seconds: of an epoch of all rows.
        max_seconds: the limit.

    Example:

    >>> rungs_for(60_000, 18.0, 300.0), rungs_for(60_000, 150.0, 300.0), rungs_for(60_000, 5.0, 300.0)
    ([20000], [2223, 6667, 20000], [])
    """
    # Thirds, since one in three goes on: every rung then costs about as much as any other, as in Hyperband.
    rungs: list[int] = []
    part = num_rows
    while epoch_seconds * part / num_rows > DEAR * max_seconds and len(rungs) < _MOST_RUNGS:
        part = -(-num_rows // _FACTOR ** (len(rungs) + 1))
        if part < FEWEST_ROWS:
            break
        rungs.insert(0, part)
    return rungs


def epoch_of_all(run: Execution, num_rows: int, num_validated: int) -> float | None:
    """Seconds of an epoch of all rows, by those of a run; None: it was not measured.

    Args:
        run: on all rows or a part of them.
        num_rows: to train on, all of them.
        num_validated: rows, after each epoch.
    """
    if run.costs is None or run.costs.epoch <= 0.0:
        return None
    validated = _VALIDATION * num_validated
    return run.costs.epoch * (num_rows + validated) / (run.share * num_rows + validated)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows of a search.

    Attributes:
        num_rows: to train on.
        num_validated: to validate on.
        num_epochs: of one training at most.
        is_large: whether the first trials find out on a part of the rows how long an epoch takes.
    """

    num_rows: int
    num_validated: int
    num_epochs: int
    is_large: bool

    @classmethod
    def of(cls, call: Call) -> Sizes:
        """Those of a call."""
        training, validated = call.counted_rows() or (0, 0)
        each = sum(math.prod(getattr(leaf, "shape", (0,))[1:]) for leaf in leaves(call.x))
        return cls(training, validated, call.get("epochs", 1), training * each >= MANY_NUMBERS)


class RowsByCosts(Scheduler):
    """Decides on how many rows the trials of one `fit` train, by what an epoch takes and how much time is left.

    Args:
        full: what trains each trial on all rows.
        oracle: whose trials tell what an epoch takes.
        parts: of the rows.
        sizes: of the rows.
        clock: of the search; `limit` of the whole call.
        limit: seconds.
        say: takes one line of text for people.
    """

    may_pause = may_stop = False
    may_restart = True

    def __init__(
        self,
        full: FullBudget,
        oracle: Oracle,
        parts: RowParts,
        *,
        sizes: Sizes,
        clock: Clock,
        limit: float,
        say: Callable[[str], None],
    ) -> None:
        self._full, self.max_epochs = full, full.max_epochs
        self._oracle, self._parts, self._sizes = oracle, parts, sizes
        self._clock, self._limit, self._say = clock, limit, say
        self._total = clock.left()
        self._rungs: list[int] | None = None  # None: what an epoch takes is not known yet

    @property
    def epoch_seconds(self) -> float | None:
        """Of all rows, by the first trial that has told."""
        return next((s for trial in self._oracle.trials.values() if (s := self._seconds_of(trial))), None)

    def _seconds_of(self, trial: Trial) -> float | None:
        sizes, runs = self._sizes, trial.executions.values()
        return next((s for run in runs if (s := epoch_of_all(run, sizes.num_rows, sizes.num_validated))), None)

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`."""
        rungs = self._known_rungs()
        if rungs is None:
            return self._measuring(history, count, limits)
        measured = [one for one in history if _ended(one) and one.tags.get(MEASURES)]
        if measured:
            num_rows = rungs[0] if rungs else None
            told: Mapping[str, Value] = {MEASURES: False}
            return [Restart(one.trial_id, self.max_epochs, num_rows, told) for one in measured[:count]]
        # By loss, whatever the rung: who has seen fewer rows and is better all the same promises more.
        waiting = sorted((one for one in history if _ended(one) and ROWS in one.tags), key=Progress.best_loss)
        if waiting and (not rungs or self._is_time_for_all(waiting[0])):
            return [Restart(one.trial_id, self.max_epochs, None) for one in waiting[:count]]
        if not rungs:
            return self._full.assign(history, count, limits)
        return RowHalving(rungs, _FACTOR, max_epochs=self.max_epochs).assign(history, count, limits)

    def _measuring(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """The first trials: two epochs of the smallest part that may come into question, if that is worth it."""
        starts = self._full.assign(history, count, limits)
        if not self._sizes.is_large or any(one.ending is not None for one in history):  # else those that failed
            return starts
        if history:
            return []  # they are about to tell
        # As many as there are slots: what is compiled for them serves all that come, numbers of rows being data.
        smallest = max(FEWEST_ROWS, self._sizes.num_rows // _FACTOR**_MOST_RUNGS)
        tags: dict[str, Value] = {ROWS: self._parts.nearest(smallest), MEASURES: True}
        return [Start(min(_MEASURED_EPOCHS, self._sizes.num_epochs), tags) for _ in starts]

    def _known_rungs(self) -> list[int] | None:
        if self._rungs is None:
            self._rungs = self._kept_rungs()
        if self._rungs is None and (seconds := self.epoch_seconds) is not None:
            sizes = self._sizes
            found = [self._parts.nearest(rung) for rung in rungs_for(sizes.num_rows, seconds, self._limit)]
            self._rungs = sorted({rung for rung in found if rung < sizes.num_rows})
            self._oracle.book.note(**{ROWS_OF_FIT: {**self._asked, "rungs": self._rungs}})
            # Once: a search that goes on within the call begins with what is known.
            if self._rungs and not any(trial.num_rows in self._rungs for trial in self._oracle.trials.values()):
                self._say(f"fit: {self._sentence(seconds)}")
        return self._rungs

    @property
    def _asked(self) -> dict[str, Any]:
        return {"limit": self._limit, "num_rows": self._sizes.num_rows}

    def _kept_rungs(self) -> list[int] | None:
        """Those of an earlier process in the same call: which trial tells first is another one after a kill."""
        store = self._oracle.book.store
        kept = None if store is None else store.get(ROWS_OF_FIT)
        if kept is None or {name: kept.get(name) for name in self._asked} != self._asked:
            return None
        return list(map(int, kept["rungs"]))

    def _sentence(self, seconds: float) -> str:
        rungs = self._rungs or []
        onwards = "".join(f", the best third of them on {rung:,}" for rung in rungs[1:])
        return (
            f"an epoch of all {self._sizes.num_rows:,} rows takes {seconds:.2g} s, {seconds / self._limit:.0%} of the "
            f"limit: the first trials train on {rungs[0]:,} rows{onwards}, the best of these on all."
        )

    def _is_time_for_all(self, best: Progress) -> bool:
        """Whether the best of those that wait has to begin now, to be trained on all rows in time."""
        # Never later than at half: what trained on a part has had no more time than that, so it has no more steps.
        each = self._seconds_of(self._oracle.trials[best.trial_id]) or self.epoch_seconds or 0.0
        return self._clock.left() <= min(each * best.epochs, self._total / 2)

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return self._full.settings()


def _ended(progress: Progress) -> bool:
    return progress.ending is not None and progress.ending.has_score


def rows_by_costs(
    held: HeldOut, can: CanDo, oracle: Oracle, *, clock: Clock, limit: float | None, say: Callable[[str], None]
) -> tuple[RowsByCosts, RowParts] | None:
    """What decides on how many rows trials train, and which rows those are; None: all train on all rows.

    Args:
        held: the call of the search.
        can: what the tuner can do.
        oracle: of the search.
        clock: of the search.
        limit: of the whole call; None: there is none, and nothing is dear.
        say: takes one line of text for people.
    """
    call, scheduler = held.call, oracle.scheduler
    if limit is None or not (can.trains and can.in_epochs and can.in_parts) or held.in_folds:
        return None
    # A scheduler of the user's says already how trials begin; and epochs of a part would not be epochs of the limit.
    if type(scheduler) is not FullBudget or oracle.max_total_epochs is not None or why_no_parts(call) is not None:
        return None
    # Where not even a third of the rows says enough, there is nothing to begin with.
    sizes = Sizes.of(call)
    if sizes.num_rows < _FACTOR * FEWEST_ROWS:
        return None
    parts = _parts_of(held, sizes.num_rows, oracle.seed)
    return RowsByCosts(scheduler, oracle, parts, sizes=sizes, clock=clock, limit=limit, say=say), parts


def _parts_of(held: HeldOut, num_rows: int, seed: int) -> RowParts:
    if held.in_order_of_time:
        return RowParts.latest(num_rows)
    if held.groups is not None:
        return RowParts.by_group(held.groups[:num_rows], seed)
    return RowParts.by_class(num_rows, classes_of(held.call.training_rows().y, 2), seed)


def why_all_rows(call: Call, trials: Sequence[Trial], limit: float | None) -> str | None:
    """A sentence where an epoch was dear, and no trial could begin on a part of the rows; else None.

    Args:
        call: of the search.
        trials: of it.
        limit: seconds of the whole call.
    """
    reason = why_no_parts(call)
    runs = (run for trial in trials for run in trial.executions.values())
    dearest = max((run.costs.epoch for run in runs if run.costs is not None), default=0.0)
    if reason is None or limit is None or dearest <= DEAR * limit:
        return None
    share = f"{dearest:.2g} s, {dearest / limit:.0%} of the limit"
    return f"An epoch took {share}, and each trial trained on all rows: {reason}."


def on_how_many_rows(trials: Sequence[Trial], num_rows: int | None) -> str | None:
    """A sentence about the trials of a search that began on a part of the rows; None: none did."""
    whole = [trial for trial in trials if trial.num_rows is None]
    part = [trial for trial in trials if trial.num_rows is not None]
    if not part or num_rows is None:
        return None
    if not whole:
        most = max(trial.num_rows or 0 for trial in part)
        return f"None of them trained on all {num_rows:,} rows, for want of time; {most:,} at most."
    cut = " The time cut off their training." if all(one.ending is Ending.STOPPED for one in whole) else ""
    return f"{len(whole)} of them trained on all {num_rows:,} rows, the others on a part, and are not compared.{cut}"
