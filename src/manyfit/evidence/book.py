"""The book of evidence: who was compared under which rules, what was decided, and what is known of every configuration.

A *family* is a set of contenders that are compared with each other. The first confirmation makes the first one and
fixes its rules; finalists that a later call brings make a family of their own with the standing winners, at half the
error of the one before. Everything in here only grows: decisions are added, nothing is taken back.

It knows neither the store nor trainers: `oracles.book` keeps it, `finish.confirm` feeds it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from manyfit.evidence.decisions import DropDecision
from manyfit.evidence.rules import MIN_CONTENDERS, MIN_MAX_ROUNDS, RaceRules

SEEDS_APART = 1000  # runs under other settings have seeds of their own, so that none replaces another


@dataclasses.dataclass(frozen=True)
class TrialDropped:
    """The fact that a trial was found worse than another."""

    trial_id: str
    rival: str
    round: int
    statistic: float
    p_value: float
    level: float
    difference: float
    by: str

    @classmethod
    def of(cls, decision: DropDecision, trial_ids: Sequence[str]) -> TrialDropped:
        """A decision between numbers, with the trials that they stand for."""
        return cls(trial_ids[decision.contender], trial_ids[decision.rival], **decision.to_dict())

    def among(self, trial_ids: Sequence[str]) -> DropDecision | None:
        """The same between numbers; None where one of the two is not among them."""
        if self.trial_id not in trial_ids or self.rival not in trial_ids:
            return None
        fields = dataclasses.asdict(self)
        del fields["trial_id"], fields["rival"]
        return DropDecision(trial_ids.index(self.trial_id), trial_ids.index(self.rival), **fields)

    def to_dict(self) -> dict[str, Any]:
        """As the store keeps it, beside the trial's id."""
        fields = dataclasses.asdict(self)
        del fields["trial_id"]
        return fields


@dataclasses.dataclass
class RaceFamily:
    """Contenders that are compared with each other.

    Args:
        number: 0, 1, 2, ... in the order in which they were made.
        rules: fixed before their first run.
        protocol: names data and settings: only runs under the same are compared.
        trial_ids: the contenders.
        epochs: trial -> the epoch, from 0, at which its fresh runs are scored; fixed before the first of them.
        first_seed: number of the first fresh seed.
        looks: trial -> rounds up to which its pairs were looked at.
        decisions: who was found worse.
    """

    number: int
    rules: RaceRules
    protocol: str
    trial_ids: tuple[str, ...]
    epochs: dict[str, int]
    first_seed: int = 0
    looks: dict[str, int] = dataclasses.field(default_factory=dict)
    decisions: dict[str, TrialDropped] = dataclasses.field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What the store keeps of it and never changes."""
        return {
            "rules": self.rules.to_dict(),
            "protocol": self.protocol,
            "trial_ids": list(self.trial_ids),
            "epochs": dict(self.epochs),
            "first_seed": self.first_seed,
        }


class EvidenceBook:
    """All families of a project, in the order in which they were made.

    Example:

    >>> book = EvidenceBook()
    >>> first = book.family_for("rows", ["3", "5"], RaceRules(), epochs={"3": 4, "5": 2}, first_seed=0)
    >>> book.families.append(first)
    >>> book.family_for("rows", ["5"], RaceRules(), epochs={}, first_seed=0) is None  # nobody is new
    True
    >>> second = book.family_for("rows", ["5", "8"], RaceRules(), epochs={"8": 3}, first_seed=0)
    >>> second.trial_ids, second.rules.confidence
    (('8', '3', '5'), 0.975)
    """

    def __init__(self) -> None:
        self.families: list[RaceFamily] = []

    def of(self, protocol: str) -> list[RaceFamily]:
        """The families that were compared under the same data and settings."""
        return [family for family in self.families if family.protocol == protocol]

    def contenders(self, protocol: str) -> list[str]:
        """All trials that were compared under a protocol, in the order in which they came."""
        return list(dict.fromkeys(trial_id for family in self.of(protocol) for trial_id in family.trial_ids))

    def dropped(self, protocol: str) -> dict[str, TrialDropped]:
        """Who was found worse, and the decision that said so first."""
        found: dict[str, TrialDropped] = {}
        for family in self.of(protocol):
            for trial_id, decision in family.decisions.items():
                found.setdefault(trial_id, decision)
        return found

    def winners(self, protocol: str) -> list[str]:
        """Who may still be the best."""
        dropped = self.dropped(protocol)
        return [trial_id for trial_id in self.contenders(protocol) if trial_id not in dropped]

    def epoch_of(self, protocol: str, trial_id: str) -> int | None:
        """At which epoch, from 0, the fresh runs of a trial are scored; None: it was never confirmed."""
        return next((one.epochs[trial_id] for one in self.of(protocol) if trial_id in one.epochs), None)

    def family_for(
        self,
        protocol: str,
        trial_ids: Sequence[str],
        rules: RaceRules,
        *,
        epochs: Mapping[str, int],
        first_seed: int,
    ) -> RaceFamily | None:
        """The family that finalists make who were not compared before; None where there are none.

        Args:
            protocol: of this call.
            trial_ids: its finalists.
            rules: that it asks for; they count if it is the first one of the project.
            epochs: of those who are new, where their fresh runs are scored.
            first_seed: of a protocol that is new.
        """
        known = self.contenders(protocol)
        new = [trial_id for trial_id in trial_ids if trial_id not in known]
        if not new:
            return None
        number, earlier = len(self.families), self.of(protocol)
        together = [*new, *self.winners(protocol)]
        if earlier:
            rules, first_seed = earlier[0].rules, earlier[0].first_seed
        allowed = len(together) if earlier else max(MIN_CONTENDERS, len(together))
        rules = dataclasses.replace(rules, max_rounds=max(MIN_MAX_ROUNDS, rules.max_rounds))
        fixed = rules.after(number, allowed)
        own = {trial_id: epochs[trial_id] for trial_id in new}
        return RaceFamily(number, fixed, protocol, tuple(together), own, first_seed)

    def load(
        self,
        families: Iterable[tuple[Mapping[str, Any], Mapping[str, int]]],
        decisions: Iterable[tuple[int, str, Mapping[str, Any]]],
    ) -> None:
        """Takes what the store holds."""
        self.families = []
        for number, (facts, looks) in enumerate(families):
            self.families.append(
                RaceFamily(
                    number,
                    RaceRules.from_dict(facts["rules"]),
                    facts["protocol"],
                    tuple(facts["trial_ids"]),
                    dict(facts["epochs"]),
                    facts["first_seed"],
                    dict(looks),
                )
            )
        for number, trial_id, why in decisions:
            self.families[number].decisions[trial_id] = TrialDropped(trial_id, **why)
