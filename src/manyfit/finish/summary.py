"""From the losses of a race to the record of a confirmation, and to what is noted on the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyfit.core import seeds
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Confirmed
from manyfit.report.confirmation import Confirmation, Proof
from manyfit.report.finalists import Finalist
from manyfit.stats import racing
from manyfit.stats.intervals import mean_interval
from manyfit.stats.ranking import noise_deviation, optimism_of_best, probability_best


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
    # Whoever was dropped was dropped by what was known then; later runs of the same trial took no part.
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
    # Over all completed trials, not the finalists: the best is too good because so many took part.
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


def confirmed(confirmation: Confirmation) -> dict[str, Confirmed]:
    """What is noted on each trial."""
    notes = {}
    for rank, row in enumerate(confirmation.rows):
        found: Finalist | Proof = confirmation.proof if rank == 0 and confirmation.proof is not None else row
        if found.num_executions == 0:
            continue
        notes[row.trial_id] = Confirmed(
            found.score, found.low, found.high, confirmation.confidence, found.num_executions, rank,
            row.in_winning_set, row.probability_best,
        )  # fmt: skip
    return notes
