"""The rules of a comparison on fresh seeds: fixed before its first run, kept with the project, and never changed.

A test that is repeated after every round keeps its promise only if the number of contenders, the rounds and the level
were stated beforehand. So a *family* (contenders that are compared with each other) takes its rules once; what later
calls ask for decides what is spent, and nothing else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.stats.intervals import confidence_level
from manyfit.stats.racing import level_of_one_pair, nominal_level

MIN_CONTENDERS, MIN_MAX_ROUNDS = 8, 20
"""What the first family's rules allow for at least, so that a small first call does not bind a larger second one."""

EQUAL_WITHIN = 0.01  # of the leader's loss: the margin within which two configurations are called equal
_LEAST_ERROR = 1e-4  # the simulation of the levels knows smaller errors by too few paths


@dataclasses.dataclass(frozen=True)
class RaceRules:
    """How contenders are compared.

    Args:
        num_contenders: at most so many are compared with each other.
        max_rounds: fresh seeds for each, at most: looks at the comparison.
        confidence: that no configuration is called worse wrongly, at any look, from 0.7 to below 1.
        margin: two configurations whose losses differ by less are equal; None: 1 % of the leader's loss.

    Raises:
        UsageError: a number out of its range.

    Example:

    >>> RaceRules(num_contenders=8, max_rounds=20).level < RaceRules(num_contenders=2, max_rounds=20).level < 0.05
    True
    """

    num_contenders: int = MIN_CONTENDERS
    max_rounds: int = MIN_MAX_ROUNDS
    confidence: float = 0.95
    margin: float | None = None

    def __post_init__(self) -> None:
        confidence_level("rules", self.confidence)
        if self.confidence < 0.7:
            got, allowed = f"confidence={self.confidence!r}", "0.7 <= confidence < 1"
            raise UsageError(explain("rules", got, allowed, "Below 0.7 a comparison says little; type 0.95."))
        whole_number("rules(max_rounds)", self.max_rounds, instead="Type for instance 20.")
        whole_number("rules(num_contenders)", self.num_contenders, instead="Type for instance 8.")
        if self.margin is not None and not self.margin > 0:
            raise UsageError(
                explain("rules(margin)", self.margin, "a number above 0", "Leave it out for 1 % of the leader's loss.")
            )

    @property
    def level(self) -> float:
        """The one-sided p-value below which one contender is worse than another, at any look; 0: nothing to test.

        A wrong word about any of them breaks the promise, not only one about the best: there are K (K - 1) of these
        tests. They share contenders, so that about half as many count. With this level something was called worse
        among 2, 3 and 8 equal contenders in 2 to 4 % of 800 simulated races; with that of K - 1 tests, in 6 to 14 %.
        """
        num_tests = self.num_contenders * (self.num_contenders - 1) // 2 + 1
        return nominal_level(num_tests + 1, self.confidence, self.max_rounds) if self.num_contenders > 1 else 0.0

    @property
    def level_of_equality(self) -> float:
        """The one-sided level of each of the two tests that show two contenders to be equal.

        All pairs have to pass, so that their number needs no correction; looks do.
        """
        return level_of_one_pair(max(_LEAST_ERROR, 1 - self.confidence), self.max_rounds)

    def after(self, families: int, num_contenders: int) -> RaceRules:
        """RaceRules of a family that comes after others: each spends half the error of the one before.

        Args:
            families: that came before.
            num_contenders: of the new one.

        Example:

        >>> RaceRules(confidence=0.9).after(1, 3)
        RaceRules(num_contenders=3, max_rounds=20, confidence=0.95, margin=None)
        """
        error = max(_LEAST_ERROR, (1 - self.confidence) * 0.5**families)
        return dataclasses.replace(self, num_contenders=num_contenders, confidence=round(1 - error, 12))

    def to_dict(self) -> dict[str, Any]:
        """As the store keeps them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RaceRules:
        """The inverse of `to_dict`."""
        return cls(**data)
