"""What a confirmation found: the record, and what it says in words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.untrusted import shown
from manyfit.evidence import sentences as say
from manyfit.evidence.decisions import RaceEnd
from manyfit.evidence.estimates import Estimate
from manyfit.evidence.sentences import Rival
from manyfit.report.finalists import Finalist, FinalistTable, Numbers
from manyfit.stats.intervals import Interval, Scale


@dataclasses.dataclass(frozen=True)
class Proof:
    """The recommended trial on further seeds of its own, which no decision has seen."""

    score: float
    low: float | None  # ends of the interval for new seeds and new rows; None: one run, or rows unknown
    high: float | None
    num_executions: int


@dataclasses.dataclass(frozen=True)
class Confirmation:
    """What fresh seeds said of the finalists. Print it.

    Attributes:
        rows: recommended first, then who may be the best, then who was found worse. All that were ever confirmed with
            these data and settings are there, whatever this call asked for.
        objective: the metric's name.
        direction: "max" or "min".
        confidence: of the decisions, as it was fixed at the first confirmation; of the intervals.
        verdict: why this call ended, in words.
        settled: whether something is found that more seeds would not change: one is left, or all that are left are
            equal, or the rows are the limit (`ending` says which).
        rounds: fresh seeds that those still in the race have run.
        num_executions: training runs on fresh seeds, of all calls.
        seconds: of this call.
        proof: the recommended trial on further seeds; None where fewer than two were run.
        expected_optimism: by how much the best score of such a search is too good on average, in the metric's units;
            None where the noise is unknown.
        num_trials: completed trials of the search.
        ending: "settled", "equal", "rows are the limit", "no more drops", "out of rounds", or "out of budget".
        decided_by: what the weakest decision rests on: "seeds and rows", "seeds and splits" or "seeds".
        num_rows: validation rows; None: unknown.
        margin: within which finalists count as equal.
        rivals: who may be the best besides the recommended one, and what would settle that.
        first: how the search's best trial stands against the recommended one; None: it is the recommended one, or too
            little was run.
        max_more_seeds: that the rules allow.
        seconds_per_seed: what one more seed for all who are left takes; None: unknown.
        notes: what this call asked for and the rules do not allow, and what else has to be said.
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
    ending: str = "out of budget"
    decided_by: str = "seeds"
    num_rows: int | None = None
    margin: float = 0.0
    rivals: tuple[Rival, ...] = ()
    first: Rival | None = None
    max_more_seeds: int = 0
    seconds_per_seed: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def recommended(self) -> Finalist:
        """The best of the winning set by all evidence; of those that are equal, the cheapest."""
        return self.rows[0]

    @property
    def winning_set(self) -> tuple[str, ...]:
        """Ids of the trials that may be the best."""
        return tuple(row.trial_id for row in self.rows if row.in_winning_set)

    @property
    def score(self) -> float | None:
        """What a model of the recommended trial that is trained afresh scores, by all runs."""
        return self.recommended.score

    @property
    def optimism(self) -> float | None:
        """How much better the search's score of the recommended trial was than that; None: unknown."""
        if self.score is None or self.recommended.search_score is None:
            return None
        difference = self.recommended.search_score - self.score
        return difference if self.direction == "max" else -difference

    def interval(self, rows: float | None = None, *, trial_id: str | None = None) -> Interval | None:
        """Where a freshly trained model of a finalist will score.

        Args:
            rows: on so many new rows; None: the expected score, over fresh trainings and new rows without end.
            trial_id: of the finalist; None: the recommended one.

        Returns:
            None where there was one run and the rows are unknown.

        Raises:
            UsageError: it is no finalist, or `rows` where the rows are unknown.
        """
        found = next((row for row in self.rows if trial_id in (None, row.trial_id)), None)
        if found is None:
            names = ", ".join(row.trial_id for row in self.rows)
            raise UsageError(explain("interval(trial_id)", trial_id, f"a finalist: {names}", "Leave it out."))
        return None if found.estimate is None else found.estimate.interval(self.confidence, rows=rows)

    def methods_paragraph(self) -> str:
        """What was done and found, ready to paste: seeds, rows, the test, the estimate."""
        best = self.recommended
        return say.methods(
            objective=self.objective,
            num_trials=self.num_trials,
            num_finalists=len(self.rows),
            num_executions=self.num_executions,
            rows=say.which_rows(self.num_rows, None if best.estimate is None else best.estimate.num_groups),
            confidence=self.confidence,
            found=[self._who(), *([] if best.estimate is None else [self._how_good()[0]])],
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Confirmation:
        """The inverse of `to_dict`; what 0.1.0 wrote is read, too."""
        proof, first = data["proof"], data.get("first")
        return cls(
            **{
                **data,
                "rows": tuple(_finalist(row) for row in data["rows"]),
                "proof": None if proof is None else Proof(**proof),
                "rivals": tuple(Rival(**rival) for rival in data.get("rivals", ())),
                "first": None if first is None else Rival(**first),
                "notes": tuple(data.get("notes", ())),
            }
        )

    # In words ----------------------------------------------------------------------------------------------------

    def sentences(self) -> list[str]:
        """The result in words, most important first."""
        return [self._who(), *self._overruled(), *self._how_good(), *self._failures(), *self.notes, self._effort()]

    def _who(self) -> str:
        best, names = self.recommended.trial_id, self.winning_set
        if len(self.rows) == 1:
            return f"Trial {best} was the only finalist: nothing to compare it with."
        if len(names) == 1:
            return say.settled(best, len(self.rows), self.confidence, self.decided_by)
        if self.rounds < 3:
            return say.too_few(self.rounds, names)
        if self.ending == RaceEnd.EQUAL:
            costs = [row.cost for row in self.rows if row.in_winning_set]
            return say.equal(names, self.margin, costs)
        undecided = say.undecided(best, self.rivals, self.num_rows, self.max_more_seeds, self.seconds_per_seed)
        return f"{undecided} Recommended by all evidence: {best}."

    def _overruled(self) -> list[str]:
        if self.first is None or self.rounds < 3:
            return []
        dropped = self.first.trial_id not in self.winning_set
        if self.ending == RaceEnd.EQUAL and not dropped:
            return [say.as_good_and_cheaper(self.first.trial_id, self.recommended.trial_id)]
        number = self._numbers()
        return [say.overruled(self.first.trial_id, self.recommended.trial_id, self.first, number, is_dropped=dropped)]

    def _how_good(self) -> list[str]:
        best, number = self.recommended, self._numbers()
        if best.estimate is None:
            return []
        lines = [say.sources(self.objective, best.estimate, number)]
        if best.search_score is not None and best.score is not None and self.optimism is not None:
            lines.append(say.search_said(best.search_score, self.num_trials, self.optimism, best.score, number))
        return lines

    def _failures(self) -> list[str]:
        failed = [row for row in self.rows if row.num_failed]
        return [say.failures(row.trial_id, row.num_failed, row.num_executions, self.confidence) for row in failed]

    def _effort(self) -> str:
        why = "" if len(self.rows) == 1 else f" This call ended because {self.verdict}."
        return f"{self.num_executions} executions on fresh seeds; this call took {self.seconds:.0f} s.{why}"

    def _numbers(self) -> Numbers:
        ends = [(row.low, row.high) for row in self.rows]
        return Numbers([(high - low) / 2 for low, high in ends if low is not None and high is not None])

    def _shown(self) -> FinalistTable:
        title = f"{self.objective} of a model that is trained afresh, by all runs"
        return FinalistTable(self.sentences(), title, self.rows, self.confidence, self._numbers())

    def table(self) -> list[dict[str, Any]]:
        """One mapping per finalist, for people."""
        cells = self._shown().cells()
        return [{**each, "values": row.values_in_words()} for each, row in zip(cells, self.rows, strict=True)]

    def __str__(self) -> str:
        return shown(self._shown().text())

    def _repr_html_(self) -> str:
        return self._shown().page()

    def __rich__(self) -> Any:
        return self._shown().rich()


def _finalist(row: Mapping[str, Any]) -> Finalist:
    estimate = row.get("estimate")
    known = None if estimate is None else Estimate(**{**estimate, "scale": Scale(estimate["scale"])})
    ends = {name: row[name] if row[name] is not None and math.isfinite(row[name]) else None for name in ("low", "high")}
    return Finalist(**{**row, **ends, "estimate": known})
