"""What a project keeps for those who only look at it: who works on it, what was planned, who leads, what was compiled.

No search rests on these facts, so they are committed along with others (`manyfit.oracles.commits`), and a project of an
earlier version, which lacks them, is shown without them.
"""

from __future__ import annotations

import dataclasses
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Fact = TypeVar("Fact")

ACTIVITY, PLAN, LEADER = "activity", "plan", "leader"
SECONDS = "seconds"
"""Fact: seconds that parts of the search took which no execution knows of: "propose", "store"."""
ENVIRONMENT = "environment"
"""Fact: versions, backend and machine of the latest search."""
FALLBACKS = "fallbacks"
"""Fact: why executions trained with `model.fit` -> ids of their trials."""
ENSEMBLE = "ensemble"
"""Fact: the latest ensemble: its members with weight, its score, its gain, its summary."""
PROGRAM = "program:"
"""Begins the names of facts that are records of programs, one fact each: a search may have a thousand of them."""
REQUEST = "request:"
"""Begins the names of facts that are answered requests, one fact each (`manyfit.store.requests`)."""
REPEATED = "repeated_rows"
"""Fact: how many rows of validation are among those that are trained on (`manyfit.data.identity.RepeatedRows`)."""
GAINS = "gains"
"""Fact: (trials that had ended, what was expected of the leader then), whenever that was better than ever before."""
ROWS_OF_FIT = "rows_of_fit"
"""Fact: what a `fit` found an epoch to take, and on how many rows its trials train because of that."""
ASKED = "asked"
"""Fact: what requests have changed for good: trials that are to stop, limits that were raised."""


@dataclasses.dataclass(frozen=True)
class Activity:
    """A step on a project: who is in it, and since when.

    Attributes:
        what: "a search", "a confirmation", ...
        pid: the process.
        host: its machine.
        since: seconds since 1970.
        until: likewise, of its end; None: it is under way, or its process died in it.
    """

    what: str
    pid: int
    host: str
    since: float
    until: float | None = None

    @classmethod
    def here(cls, what: str, now: float) -> Activity:
        """A step that this process begins."""
        return cls(what, os.getpid(), platform.node(), now)

    def ended(self, now: float) -> Activity:
        """The same step, over."""
        return dataclasses.replace(self, until=now)

    def has_died(self, exists: Callable[[int], bool]) -> bool | None:
        """Whether its process ended in the middle of it; None: it is another machine's, so nobody here knows.

        Args:
            exists: whether a process is there.

        Example:

        >>> Activity.here("a search", 0.0).has_died(lambda pid: False)
        True
        >>> Activity("a search", 7, "a machine far away", 0.0).has_died(lambda pid: False) is None
        True
        """
        if self.until is not None:
            return False
        return None if self.host != platform.node() else not exists(self.pid)


@dataclasses.dataclass(frozen=True)
class SearchPlan:
    """How far a search is to go.

    Attributes:
        max_trials: most trials; None: no limit. So for the next two.
        max_seconds: of all its runs together.
        max_epochs: of one execution.
        executions_per_trial: with a seed each; one per fold where there are folds.
        constraints: (metric, most, least) that trials have to keep to be ranked among the best.
    """

    max_trials: int | None = None
    max_seconds: float | None = None
    max_epochs: int | None = None
    executions_per_trial: int = 1
    constraints: tuple[tuple[str, float | None, float | None], ...] = ()


@dataclasses.dataclass(frozen=True)
class Leader:
    """The best trial by what the search has measured, and what is luck in that.

    Attributes:
        trial_id: of the leader.
        score: that the search measured.
        expected: what a model of it that is trained afresh will show on new rows; None: nobody knows.
        low: lower end of the interval for that; None: nobody knows.
        high: upper end.
        confidence: of the interval.
        rivals: trials that may be better just as well, likeliest first.
        num_trials: that have a score.
        num_rows: that each was validated on; None: unknown.
        noise: standard deviation of one run, by seeds and rows as far as they are known; None: unknown.
        luck: by how much `score` is too good for having been chosen among `num_trials`; None: unknown.
        finalists: (trial_id, expected, low, high) of the best trials, the leader first, as far as that is known.
    """

    trial_id: str
    score: float
    num_trials: int
    expected: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float = 0.95
    rivals: tuple[str, ...] = ()
    num_rows: int | None = None
    noise: float | None = None
    luck: float | None = None
    finalists: tuple[Sequence[str | float], ...] = ()


def to_fact(record: Activity | SearchPlan | Leader) -> dict[str, Any]:
    """A record as the store keeps it."""
    return dataclasses.asdict(record)


def from_fact(kind: type[Fact], fact: Mapping[str, Any] | None) -> Fact | None:
    """The inverse of `to_fact`; what a later version has added is left out.

    Args:
        kind: of the record.
        fact: None gives None.

    Example:

    >>> from_fact(SearchPlan, {"max_trials": 8, "of a later version": 1})
    SearchPlan(max_trials=8, max_seconds=None, max_epochs=None, executions_per_trial=1, constraints=())
    """
    if fact is None:
        return None
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # the three above
    own = {name: tuple(value) if isinstance(value, list) else value for name, value in fact.items() if name in known}
    return kind(**own)
