"""What a confirmation found, as records, as text and as a table for notebooks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core import seeds
from manyfit.finish import confirmation_views as views
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Confirmed
from manyfit.stats import racing
from manyfit.stats.intervals import mean_interval
from manyfit.stats.ranking import noise_deviation, optimism_of_best, probability_best


@dataclasses.dataclass(frozen=True)
class Finalist:
    """One row of a confirmation. Scores are in the metric's own direction."""

    trial_id: str
    values: Mapping[str, Any]
    score: float | None  # mean over the race's seeds; None: none was run, or one diverged
    low: float  # ends of Student's interval for that mean
    high: float
    num_executions: int  # that the race looked at
    probability_best: float
    search_score: float | None
    in_winning_set: bool
    standing: str  # in words
    cost: float | None  # parameters; seconds where they are unknown


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

    def confirmed(self) -> dict[str, Confirmed]:
        """What is noted on each trial."""
        notes = {}
        for rank, row in enumerate(self.rows):
            found: Any = self.proof if rank == 0 and self.proof is not None else row
            if found.num_executions == 0:
                continue
            notes[row.trial_id] = Confirmed(
                found.score, found.low, found.high, self.confidence, found.num_executions, rank,
                row.in_winning_set, row.probability_best,
            )  # fmt: skip
        return notes

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
        best, lines, number = self.recommended, [], views.numbers_of(self)
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
        uniform = self.rounds * len(self.rows) + (0 if self.proof is None else self.proof.num_executions)
        saved = (
            f"; the same number of seeds for everybody would have taken {uniform}"
            if uniform > self.num_executions
            else ""
        )
        why = "" if len(self.rows) == 1 else f" The race ended because {self.verdict}."
        return f"{self.num_executions} executions in {self.seconds:.0f} s{saved}.{why}"

    def table(self) -> list[dict[str, Any]]:
        """One mapping per finalist, for people."""
        return [
            {**cells, "values": views.values_of(row)} for cells, row in zip(views.table(self), self.rows, strict=True)
        ]

    def __str__(self) -> str:
        return views.text(self)

    def _repr_html_(self) -> str:
        return views.page(self)

    def __rich__(self) -> Any:
        return views.rich(self)


def summarise(
    trials: Sequence[Trial],
    oracle: Oracle,
    standing: racing.Standing,
    *,
    race: np.ndarray,
    proof: np.ndarray,
    out_of_time: bool,
    seconds: float,
    costs: Sequence[float] | None,
) -> Confirmation:
    """Puts what was measured into words and numbers.

    Args:
        trials: the finalists.
        oracle: objective, seed and all trials.
        standing: what the race said.
        race: losses of shape (finalists, seeds).
        proof: losses of the recommended finalist's proof runs.
        out_of_time: whether the time limit ended it.
        seconds: that it took.
        costs: one number per finalist, or None.
    """
    num_executions = int((~np.isnan(race)).sum() + (~np.isnan(proof)).sum())
    race = _looked_at(race, standing)
    rng = seeds.generator(oracle.seed, "confirm", "probability")
    probabilities = probability_best(race, rng=rng) if len(trials) > 1 else np.ones(1)
    members = set(standing.winning_set)
    means = [_mean(row) for row in race]
    dropped = sorted(set(range(len(trials))) - members, key=lambda row: (means[row], row))
    order = [standing.recommended, *(row for row in standing.winning_set if row != standing.recommended), *dropped]
    rows = tuple(
        _finalist(
            row, trials, oracle, standing, race[row], float(probabilities[row]), None if costs is None else costs[row]
        )
        for row in order
    )
    return Confirmation(
        rows=rows,
        objective=oracle.objective.name,
        direction=oracle.objective.direction,
        confidence=standing.confidence,
        verdict=_verdict(standing, out_of_time),
        settled=standing.settled,
        rounds=standing.rounds,
        num_executions=num_executions,
        seconds=seconds,
        proof=_proof(proof, oracle, standing.confidence),
        expected_optimism=_expected_optimism(oracle, race),
        num_trials=len(oracle.book.by_search_score()),
    )


def _looked_at(race: np.ndarray, standing: racing.Standing) -> np.ndarray:
    """The losses that the race decided by; runs ahead of the last look would make its order look wrong."""
    if standing.rounds == 0:
        return race
    lasts = np.array([standing.rounds if after is None else after for after in standing.dropped_after])
    return np.where(np.arange(race.shape[1]) < lasts[:, None], race, np.nan)


def _finalist(
    row: int,
    trials: Sequence[Trial],
    oracle: Oracle,
    standing: racing.Standing,
    losses: np.ndarray,
    probability: float,
    cost: float | None,
) -> Finalist:
    trial, run = trials[row], losses[~np.isnan(losses)]
    low, mean, high = _bounds(run, oracle, standing.confidence)
    return Finalist(
        trial.trial_id,
        dict(trial.hyperparameters.values),
        mean,
        low,
        high,
        int(run.size),
        probability,
        trial.score,
        row in standing.winning_set,
        _words(row, trials, standing, run),
        cost,
    )


def _words(row: int, trials: Sequence[Trial], standing: racing.Standing, run: np.ndarray) -> str:
    after, by = standing.dropped_after[row], standing.dropped_by[row]
    diverged = np.flatnonzero(np.isinf(run))
    if len(diverged):
        return f"failed on seed {diverged[0] + 1}"
    if after is not None:
        return "dropped" if by is None else f"worse than {trials[by].trial_id}"
    if row == standing.recommended:
        return "recommended"
    return "may be the best"


def _bounds(losses: np.ndarray, oracle: Oracle, confidence: float) -> tuple[float, float | None, float]:
    """Lower end, mean and upper end in the metric's own direction; no mean where a run diverged or none was made."""
    if losses.size == 0 or not np.isfinite(losses).all():
        return -math.inf, None, math.inf
    interval = mean_interval([oracle.objective.value(loss) for loss in losses], confidence)
    return interval.low, interval.estimate, interval.high


def _proof(losses: np.ndarray, oracle: Oracle, confidence: float) -> Proof | None:
    run = losses[~np.isnan(losses)]
    low, mean, high = _bounds(run, oracle, confidence)
    return None if mean is None else Proof(mean, low, high, int(run.size))


def _mean(losses: np.ndarray) -> float:
    run = losses[~np.isnan(losses)]
    return float(run.mean()) if run.size else math.inf


def _expected_optimism(oracle: Oracle, race: np.ndarray) -> float | None:
    searched = oracle.book.by_search_score()
    noise = noise_deviation(np.where(np.isinf(race), np.nan, race)) if race.size else math.nan
    losses = [oracle.objective.loss(trial.score) for trial in searched]
    if not math.isfinite(noise) or len(losses) < 2 or not np.isfinite(losses).all():
        return None
    runs = float(np.median([max(1, len(trial.scores)) for trial in searched]))
    return optimism_of_best(losses, noise / math.sqrt(runs)).optimism


def _verdict(standing: racing.Standing, out_of_time: bool) -> str:
    reasons = {
        racing.Verdict.ONE_LEFT: "one finalist was left",
        racing.Verdict.CANNOT_BE_TOLD_APART: "further runs would most likely drop nobody",
        racing.Verdict.OUT_OF_ROUNDS: f"all {standing.rounds} rounds were run",
    }
    if standing.verdict is not None:
        return reasons[standing.verdict]
    return "the time was up" if out_of_time else "the budget of executions was spent"
