"""The contract of schedulers: how long to train.

A scheduler is asked two questions. `assign`: a slot is free, what shall run in it? `decide`: these trials have
finished an epoch, shall they go on? Both answers are pure functions of the recorded history, so a search that was
killed goes on as if nothing had happened.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.core.records import PARENT_EPOCH as PARENT_EPOCH
from manyfit.core.records import ROWS as ROWS
from manyfit.core.records import Decision, Ending, Progress, Value, Values
from manyfit.core.records import num_inherited as num_inherited
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters

#: Endings that say nothing about how well a configuration trains. A rung replaces such trials by new ones.
#: A diverged trial is not among them: divergence is a result, the worst one, and it keeps its place.
REPLACED_ENDINGS = frozenset({Ending.FAILED, Ending.TOO_LARGE, Ending.OUT_OF_MEMORY, Ending.TOO_SLOW})

# KerasTuner's names, readable in a trial's values; `ITERATION` is ours.
EPOCHS = "tuner/epochs"
INITIAL_EPOCH = "tuner/initial_epoch"
BRACKET = "tuner/bracket"
ROUND = "tuner/round"
TRIAL_ID = "tuner/trial_id"
ITERATION = "tuner/iteration"
# Of trials that were trained anew on more rows: the epochs of their trainings on fewer.
EARLIER_EPOCHS = "tuner/earlier_epochs"
# Likewise ours, of branches: whose state one began with, after how many epochs (`PARENT_EPOCH`), and whose place it
# took.
PARENT = "tuner/parent"
REPLACES = "tuner/replaces"


@dataclasses.dataclass(frozen=True, slots=True)
class Start:
    """A new trial, with values from the sampler, trained from its first epoch up to `target_epochs`."""

    target_epochs: int | None  # None: as the user's fit arguments say
    tags: Mapping[str, Value] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Resume:
    """A paused trial that continues where it stood, up to `target_epochs`."""

    trial_id: str
    target_epochs: int
    tags: Mapping[str, Value] = dataclasses.field(default_factory=dict)  # replace the trial's tags of the same name


@dataclasses.dataclass(frozen=True, slots=True)
class Branch:
    """A new trial that goes on from where a paused one stands, with values of its own (`Scheduler.explore`).

    It takes no start of the limits: it needs nothing of the sampler, and trains what another one does not train.
    """

    parent_id: str  # paused at `parent_epoch`
    parent_epoch: int
    target_epochs: int
    replaces: str  # whose place it takes: a trial that will not go on
    tags: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    @property
    def lineage(self) -> dict[str, Value]:
        """The tags that say where it comes from."""
        return {PARENT: self.parent_id, PARENT_EPOCH: self.parent_epoch, REPLACES: self.replaces}


@dataclasses.dataclass(frozen=True, slots=True)
class Restart:
    """A trial that has ended on a part of the rows, trained anew on more of them, with other seeds.

    Anew, and not from the weights that it has: so what it comes to is what `model.fit` comes to on these rows, with
    schedules and callbacks from their beginning, and models that go on from a part of the rows generalise worse than
    fresh ones (Ash and Adams 2020). Nothing is compiled for it, since numbers of rows are no part of a program.
    """

    trial_id: str
    target_epochs: int | None
    num_rows: int | None  # None: all
    tags: Mapping[str, Value] = dataclasses.field(default_factory=dict)


Job: TypeAlias = Start | Resume | Branch | Restart


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """What the whole search may spend; the oracle knows it, and passes it at each call."""

    max_trials: int | None = None  # every started trial counts, failed ones too; branches of others do not
    max_total_epochs: int | None = None  # a trial's epochs count once, however many executions it has
    num_configurations: int | None = None  # different configurations of the space; None: infinitely many, or unknown
    exhausted: bool = False  # the sampler has nothing new: `Start` cannot be served any more

    def __post_init__(self) -> None:
        for name in ("max_trials", "max_total_epochs", "num_configurations"):
            limit = getattr(self, name)
            if limit is not None and limit < 0:
                raise UsageError(explain(f"Limits({name}=...)", limit, "0 or more, or None", "Leave it out for none."))

    @property
    def max_starts(self) -> int | None:
        """Most trials that can ever be started; None: no limit."""
        return min((n for n in (self.max_trials, self.num_configurations) if n is not None), default=None)


class Room:
    """What is left of the limits, counted down while one answer of `assign` is put together.

    A running trial is charged up to its target, as if it had trained that far, so that `max_total_epochs` is
    never passed by trials that run at the same time.

    Args:
        history: every trial that was started.
        limits: of the search.
        count: free slots.
        has_branches: whether trials may have branched off from others; those are no starts.
    """

    def __init__(self, history: Sequence[Progress], limits: Limits, count: int, *, has_branches: bool = True):
        self.slots = count
        self._starts: int | None = None
        if limits.exhausted:
            self._starts = 0
        elif limits.max_starts is not None:
            # A search of thousands of trials without branches counts them without going through them.
            num_started = sum(PARENT not in one.tags for one in history) if has_branches else len(history)
            self._starts = max(0, limits.max_starts - num_started)
        self._epochs: int | None = None
        if limits.max_total_epochs is not None:
            self._epochs = limits.max_total_epochs - sum(_charge(progress) for progress in history)

    @property
    def can_start(self) -> bool:
        """Whether the limits on trials allow another one (free slots and epochs apart)."""
        return self._starts is None or self._starts > 0

    def affords(self, num_epochs: int | None) -> bool:
        """Whether enough epochs are left for a job of so many more."""
        return self._epochs is None or (num_epochs is not None and num_epochs <= self._epochs)

    def fits(self, num_epochs: int | None) -> bool:
        """Whether there is a slot for a job of so many more epochs, and enough epochs are left."""
        return self.slots > 0 and self.affords(num_epochs)

    def take(self, num_epochs: int | None, *, start: bool) -> None:
        """Takes a slot, and these epochs, out of the room."""
        self.slots -= 1
        if self._epochs is not None and num_epochs is not None:
            self._epochs -= num_epochs
        if start and self._starts is not None:
            self._starts -= 1


def _charge(progress: Progress) -> int:
    epochs = progress.epochs
    if progress.running and progress.target_epochs is not None:
        # To its target, although it may stop earlier: what is promised to a running trial cannot be given to another.
        epochs = max(progress.target_epochs, epochs)
    return max(0, epochs - num_inherited(progress.tags)) + int(progress.tags.get(EARLIER_EPOCHS, 0))


class Scheduler(abc.ABC):
    """Decides how long trials train: a pure function of the recorded history.

    A scheduler holds its settings and nothing else. It decides without values, models and clocks, so any sampler can be
    joined with any scheduler; values are shown to `explore` alone, which makes those of a branch.
    """

    #: Why `decide` answers `STOP`, for people.
    stop_reason: str = "the scheduler ended it"
    #: Epochs of a trial that is trained to its end; None: as the user's fit arguments say.
    max_epochs: int | None
    #: Whether `decide` may answer `PAUSE`. Pauses cost: `model.fit` runs in a thread of its own, data are put into an
    #: order that another process can repeat, and models that are fitted in one go are refused.
    may_pause: bool = True
    #: Whether `decide` may answer `STOP`. One that neither pauses nor stops is not asked, and its trials can be handed
    #: out far ahead.
    may_stop: bool = True
    #: The argument that says after how many epochs it decides first, for messages.
    first_decision: str = "min_epochs"
    #: Whether `assign` may answer with a `Branch`. It needs states at rest that another execution can begin with.
    may_branch: bool = False
    #: Whether `assign` may answer with a `Restart`, so that trials that have ended may begin again.
    may_restart: bool = False

    @abc.abstractmethod
    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """Fills up to `count` free slots.

        The caller hands out the jobs in their order. When its sampler cannot serve a `Start`, it drops that job,
        asks again with `limits.exhausted`, and the paused trials are promoted among themselves.

        Args:
            history: every trial that was started, in the order of its start.
            count: free slots, at least 1.
            limits: what the search may spend.

        Returns:
            At most `count` jobs, all of which the limits allow (`Room` counts). An empty list while trials are
            running means: wait. An empty list while none is running means: the search has ended, which it does not do
            before one trial has its full length, as long as the limits allow that and not all trials failed.
        """

    def decide(self, history: Sequence[Progress], trial_ids: Sequence[str]) -> list[Decision]:
        """Answers for trials that have just finished an epoch, which `history` already includes.

        Args:
            history: as in `assign`.
            trial_ids: running trials, usually a whole population.

        Returns:
            One decision each. `PAUSE`: the target is reached and more may follow. A trial at its last epoch is
            answered `GO_ON`: it ends by itself, as completed.
        """
        by_id = {progress.trial_id: progress for progress in history}
        return [self._at_target(by_id[trial_id]) for trial_id in trial_ids]

    def explore(self, space: HyperParameters, values: Values, rng: np.random.Generator) -> dict[str, Value]:
        """The values of a `Branch`, from those of its parent.

        Args:
            space: what there is to choose.
            values: of the parent, without tags.
            rng: the only randomness, addressed by the branch's number.
        """
        del space, rng
        return dict(values)

    def explored(self, space: HyperParameters) -> Sequence[HyperParameter]:
        """The hyperparameters that `explore` changes."""
        del space
        return []

    def _at_target(self, progress: Progress) -> Decision:
        target = progress.target_epochs
        # At its last epoch a trial completes by itself: a pause there would keep its state for nobody.
        if target is None or progress.epochs < target or target == self.max_epochs:
            return Decision.GO_ON
        return Decision.PAUSE

    def settings(self) -> dict[str, Any]:
        """Name and arguments, as JSON. The name is stored with the project, and compared when it is reopened."""
        return {"name": type(self).__name__}


def check_count(where: str, name: str, value: object, *, low: int, hint: str) -> int:
    """Returns an integer setting of at least `low`.

    Raises:
        UsageError: it is no integer, or below `low`.
    """
    allowed = f"an integer of {low} or more"
    return whole_number(f"{where}({name}=...)", value, least=low, allowed=allowed, instead=hint)
