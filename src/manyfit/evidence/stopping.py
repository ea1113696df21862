"""When a search has done enough: conditions on the leader, by what it is expected to show and not by its lucky score.

The best of many noisy scores is too good. A search that ends when its best score is 0.98 ends by luck, the sooner the
more it tries. So conditions ask for the *posterior mean* of the leader: what a model of it that is trained afresh is
expected to show on new rows (`manyfit.stats.posterior`). Where nobody can know that, since nothing was repeated and the
rows are unknown, they take the score, and their sentence says so.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.signatures import checked_arguments

_AN_EXAMPLE = "Type stop_when=kt.Reached(0.98) | kt.NoGain(trials=20), say."


@dataclasses.dataclass(frozen=True)
class Progressed:
    """How far a search has come.

    Attributes:
        metric: the objective's name.
        direction: "max" or "min".
        num_ended: trials that have ended.
        gains: (trials that had ended, what was expected of the leader then): whenever that was better than ever before.
        expected: of the leader now, in the metric's own direction; None: it is too early to tell.
        is_score: whether that is the leader's score, since its luck cannot be known.
    """

    metric: str
    direction: str
    num_ended: int
    gains: Sequence[tuple[int, float]] = ()
    expected: float | None = None
    is_score: bool = False

    def is_better(self, one: float, other: float, by: float = 0.0) -> bool:
        """Whether a value of the metric is better than another one by more than a margin."""
        return one - other > by if self.direction == "max" else other - one > by

    def with_expected(self, expected: float | None, num_ended: int, *, is_score: bool) -> Progressed:
        """The same search, further on."""
        gains = list(self.gains)
        if expected is not None and (not gains or self.is_better(expected, gains[-1][1])):
            gains.append((num_ended, expected))
        return dataclasses.replace(self, num_ended=num_ended, gains=gains, expected=expected, is_score=is_score)


class StopCondition(abc.ABC):
    """When a search ends; `|` is one of two, `&` both of them."""

    @abc.abstractmethod
    def why(self, search: Progressed) -> str | None:
        """Why the search ends now, in words; None: it goes on."""

    def __or__(self, other: object) -> StopCondition:
        return _Either(self, checked(other, f"{self} | ..."))

    def __and__(self, other: object) -> StopCondition:
        return _Both(self, checked(other, f"{self} & ..."))


@checked_arguments()
@dataclasses.dataclass(frozen=True)
class Reached(StopCondition):
    """The leader is expected to show a value of the objective, trained afresh.

    Args:
        value: of the objective, as the metric counts it: 0.98 of an accuracy, 0.1 of a loss.

    Raises:
        UsageError: it is no finite number.

    Example:

    >>> Reached(0.9).why(Progressed("val_accuracy", "max", 8, expected=0.91))
    'val_accuracy 0.91 is expected of the leader, and 0.9 was asked for'
    >>> Reached(0.9).why(Progressed("val_accuracy", "max", 8, expected=0.89)) is None
    True
    """

    value: float

    def __post_init__(self) -> None:
        _check_number("Reached(value)", self.value, "Type kt.Reached(0.98), say.")

    def why(self, search: Progressed) -> str | None:
        """See `StopCondition.why`."""
        if search.expected is None or search.is_better(self.value, search.expected):
            return None
        shown = f"{search.metric} {search.expected:.4g}"
        if search.is_score:
            return f"the leader's {shown} has reached {self.value:g}, by its score: how much is luck is not known"
        return f"{shown} is expected of the leader, and {self.value:g} was asked for"


@checked_arguments()
@dataclasses.dataclass(frozen=True)
class NoGain(StopCondition):
    """So many trials have ended since what is expected of the leader has become better.

    Args:
        trials: in a row.
        least: what counts as better: by more than this, in units of the objective.

    Raises:
        UsageError: `trials` is no whole number of at least 1, or `least` no finite number of at least 0.

    Example:

    >>> NoGain(trials=20).why(Progressed("val_loss", "min", 50, gains=[(8, 0.5), (30, 0.4)]))
    '20 trials have brought no gain'
    """

    trials: int = 20
    least: float = 0.0

    def __post_init__(self) -> None:
        whole_number("NoGain(trials)", self.trials, instead="Type kt.NoGain(trials=20), say.")
        _check_number("NoGain(least)", self.least, "Type kt.NoGain(least=0.001), say.", is_positive=True)

    def why(self, search: Progressed) -> str | None:
        """See `StopCondition.why`."""
        best: tuple[int, float] | None = None
        for gain in search.gains:
            if best is None or search.is_better(gain[1], best[1], by=self.least):
                best = gain
        if best is None or search.num_ended - best[0] < self.trials:
            return None
        by = f" of more than {self.least:g}" if self.least else ""
        return f"{search.num_ended - best[0]} trials have brought no gain{by}"


@dataclasses.dataclass(frozen=True)
class _Either(StopCondition):
    one: StopCondition
    other: StopCondition

    def why(self, search: Progressed) -> str | None:
        return self.one.why(search) or self.other.why(search)


@dataclasses.dataclass(frozen=True)
class _Both(StopCondition):
    one: StopCondition
    other: StopCondition

    def why(self, search: Progressed) -> str | None:
        first, second = self.one.why(search), self.other.why(search)
        return None if first is None or second is None else f"{first}, and {second}"


def checked(condition: object, where: str = "search(stop_when)") -> StopCondition:
    """The condition, once it is known to be one.

    Raises:
        UsageTypeError: it is none.
    """
    if isinstance(condition, StopCondition):
        return condition
    allowed = "kt.Reached(...), kt.NoGain(...), and these joined by | and &"
    raise UsageTypeError(explain(where, f"{condition!r}"[:80], allowed, _AN_EXAMPLE))


def _check_number(where: str, value: object, instead: str, *, is_positive: bool = False) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or (is_positive and value < 0):  # type: ignore[operator]  # a number, then
        raise UsageError(explain(where, repr(value), "a finite number" + " of at least 0" * is_positive, instead))
