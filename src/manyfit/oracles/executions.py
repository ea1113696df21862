"""Training runs of a trial, as the book keeps them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from manyfit.core import history as histories
from manyfit.core.costs import Costs
from manyfit.core.records import SHARE, Computed, Ending, Value


@dataclasses.dataclass
class Execution:
    """One training run of a trial, with its own seed."""

    index: int
    seed: int
    ending: Ending
    history: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0
    message: str | None = None
    score: float | None = None
    best_epoch: int | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)  # at the best epoch
    num_parameters: int | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)  # further facts, for instance what data it saw
    # Last, and with a default: rows of earlier versions do not have it.
    final: bool = False  # it failed in a way that forbids a retry of its trial
    costs: Costs | None = None  # None: not measured

    def outcome(self) -> dict[str, Any]:
        """What the store keeps of it, besides the history."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        del fields["index"], fields["history"]
        costs = None if self.costs is None else self.costs.to_dict()
        return {**fields, "ending": str(self.ending), "costs": costs, "num_epochs": self.num_epochs}

    @classmethod
    def of_row(cls, index: int, history: dict[str, list[float | None]], row: Mapping[str, Any]) -> Execution:
        """The inverse of `outcome`, whose ending is read and whose number of epochs was looked at already."""
        costs = row.get("costs")
        for value in row.get("metrics", {}).values():
            float(value)  # a stranger's may be none
        return cls(index, history=history, **{**row, "costs": None if costs is None else Costs.from_dict(costs)})

    @property
    def num_epochs(self) -> int:
        """Epochs that were trained."""
        return max((len(curve) for curve in self.history.values()), default=0)

    @property
    def share(self) -> float:
        """Of the training rows that there are, those that it was trained on."""
        return float(self.notes.get(SHARE, 1.0))


@dataclasses.dataclass
class KnownEpochs:
    """What an execution had reported that was under way when a process was killed, or that waits after a pause.

    Attributes:
        history: its curves.
        computed: how each of the epochs was computed.
    """

    history: dict[str, list[float | None]] = dataclasses.field(default_factory=dict)
    computed: list[Computed | None] = dataclasses.field(default_factory=list)

    def add(self, logs: Mapping[str, float], epoch: int, computed: Computed | None) -> None:
        """Takes an epoch, in their order."""
        histories.put(self.history, logs, epoch)
        self.computed += [None] * (epoch + 1 - len(self.computed))
        self.computed[epoch] = computed


@dataclasses.dataclass(frozen=True)
class Before:
    """What a trial was before it was trained anew on more rows."""

    executions: Mapping[int, Execution]
    tags: Mapping[str, Value]
    attempt: int


@dataclasses.dataclass(frozen=True)
class Confirmed:
    """What fresh seeds said of a trial."""

    score: float | None  # of a model that is trained afresh, in the metric's own direction; None: no run has a score
    low: float | None  # ends of the interval for such a model on new rows; None: nobody knows
    high: float | None
    confidence: float
    num_executions: int  # on fresh seeds
    rank: int  # 0: the recommended trial
    in_winning_set: bool  # whether it may be the best
    probability_best: float

    def line(self) -> str:
        """One line for people."""
        if self.score is None:
            return "Confirmed: no run on a fresh seed has a score"
        place = "recommended" if self.rank == 0 else ("may be the best" if self.in_winning_set else "not the best")
        known = self.low is not None and self.high is not None and math.isfinite(self.low)
        ends = f", {self.confidence:.0%} interval [{self.low:.4g}, {self.high:.4g}]" if known else ""
        return f"Confirmed: {self.score:.4g} after {self.num_executions} fresh seeds{ends}, {place}"
