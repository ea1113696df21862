"""What a confirmation found: the record, and what it says in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from manyfit.report.finalists import Finalist, FinalistTable, Numbers


@dataclasses.dataclass(frozen=True)
class Proof:
    """The recommended trial on seeds that no decision has seen: an unbiased score."""

    score: float
    low: float
    high: float
    num_executions: int


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """What fresh seeds said of the finalists. Print it.

    Attributes:
        rows: recommended first, then who may be the best, then who was dropped.
        objective: the metric's name.
        direction: "max" or "min".
        confidence: with which the winning set holds the best finalist.
        verdict: why the race ended, in words.
        settled: whether more executions would be pointless.
        rounds: fresh seeds that those still in the race have run.
        num_executions: training runs, proof runs included.
        seconds: of this call.
        proof: the recommended trial's honest score; None where the budget ended before.
        expected_optimism: by how much the best score of such a search is too good on average, in the metric's units;
            None where the noise is unknown.
        num_trials: completed trials of the search.
    """

    rows: tuple[Finalist, ...]
    objective: str
    direction: str
    confidence: float
    verdict: str
    settled: bool
    rounds: int
    num_executions: int
    seconds: float
    proof: Proof | None
    expected_optimism: float | None
    num_trials: int

    @property
    def recommended(self) -> Finalist:
        """The cheapest of the winning set within noise of its leader."""
        return self.rows[0]

    @property
    def winning_set(self) -> tuple[str, ...]:
        """Ids of the trials that may be the best."""
        return tuple(row.trial_id for row in self.rows if row.in_winning_set)

    @property
    def score(self) -> float | None:
        """The recommended trial's score: of its proof runs, or of the race where there were none."""
        return self.recommended.score if self.proof is None else self.proof.score

    @property
    def optimism(self) -> float | None:
        """How much better the search's score of the recommended trial was than fresh seeds are; None: unknown."""
        if self.score is None or self.recommended.search_score is None:
            return None
        difference = self.recommended.search_score - self.score
        return difference if self.direction == "max" else -difference

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Confirmation:
        """The inverse of `to_dict`."""
        proof = data["proof"]
        rows = tuple(Finalist(**row) for row in data["rows"])
        return cls(**{**data, "rows": rows, "proof": None if proof is None else Proof(**proof)})

    def sentences(self) -> list[str]:
        """The result in words, most important first."""
        return [self._who(), *self._how_good(), self._effort()]

    def _who(self) -> str:
        best, others = self.recommended, self.winning_set[1:]
        if len(self.rows) == 1:
            return f"Trial {best.trial_id} was the only finalist: nothing to compare it with."
        if not others:
            sure = f"with {self.confidence:.0%} confidence"
            return f"Trial {best.trial_id} is the best of {len(self.rows)} finalists, {sure}."
        # The recommended one may be the cheaper of two that are equally good: then it does not lead, and the text says
        # why.
        means = [row.score for row in self.rows if row.in_winning_set and row.score is not None]
        leads = not means or best.score == (max(means) if self.direction == "max" else min(means))
        why = "the one with the best mean" if leads else "the cheapest of those within noise of the best mean"
        names = ", ".join(self.winning_set)
        told_apart = "cannot be told apart" if self.settled else "are not told apart yet"
        return (
            f"The best of {len(self.rows)} finalists is one of {names}, with {self.confidence:.0%} confidence; they "
            f"{told_apart}. Recommended: trial {best.trial_id}, {why}."
        )

    def _how_good(self) -> list[str]:
        best, lines, number = self.recommended, [], self._numbers()
        if self.proof is not None:
            low, high = number(self.proof.low), number(self.proof.high)
            interval = f" [{low}, {high}]" if math.isfinite(self.proof.low) else ""
            lines.append(
                f"Its {self.objective} on {self.proof.num_executions} further seeds, which no decision has seen: "
                f"{number(self.proof.score)}{interval}."
            )
        elif best.score is not None:
            lines.append(
                f"Its {self.objective} in the race: {number(best.score)}. There were no proof runs, so this is a "
                "little too good."
            )
        if self.optimism is not None and best.search_score is not None:
            word = "too good" if self.optimism >= 0 else "too modest"
            line = f"The search had said {number(best.search_score)}: {word} by {abs(self.optimism):.2g}."
            if self.expected_optimism is not None and self.expected_optimism > 0:
                usual = f"the best of {self.num_trials} trials is too good by {self.expected_optimism:.2g} on average"
                line += f" (With this noise, {usual}.)"
            lines.append(line)
        return lines

    def _effort(self) -> str:
        # What the race has saved is told against the plain design: as many seeds for everybody.
        uniform = self.rounds * len(self.rows) + (0 if self.proof is None else self.proof.num_executions)
        saved = (
            f"; the same number of seeds for everybody would have taken {uniform}"
            if uniform > self.num_executions
            else ""
        )
        why = "" if len(self.rows) == 1 else f" The race ended because {self.verdict}."
        return f"{self.num_executions} executions in {self.seconds:.0f} s{saved}.{why}"

    def _numbers(self) -> Numbers:
        ends = [(row.low, row.high) for row in self.rows]
        if self.proof is not None:
            ends.append((self.proof.low, self.proof.high))
        return Numbers([(high - low) / 2 for low, high in ends])

    def _shown(self) -> FinalistTable:
        title = f"Mean {self.objective} on fresh seeds, the same for all"
        return FinalistTable(self.sentences(), title, self.rows, self.confidence, self._numbers())

    def table(self) -> list[dict[str, Any]]:
        """One mapping per finalist, for people."""
        cells = self._shown().cells()
        return [{**each, "values": row.values_in_words()} for each, row in zip(cells, self.rows, strict=True)]

    def __str__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().page()

    def __rich__(self) -> Any:
        return self._shown().rich()
