"""Who leads a search, and what is luck in that: the estimates of a confirmation, from the runs of the search alone."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from manyfit.core import seeds
from manyfit.evidence.estimates import Estimate, Estimates, Told, estimates
from manyfit.finish.fresh_runs import FreshRuns
from manyfit.oracles import Oracle, Trial
from manyfit.store.facts import Leader
from manyfit.store.predictions import Archive

_FINALISTS = 16  # who may be the best is asked of so many
_MOST_READ = 64  # trials whose predictions are read: so many know the luck of the rows well enough
_SURE = 0.95  # chance that the best is among the leader and its rivals


def leader_of(oracle: Oracle, archive: Archive | None) -> Leader | None:
    """The best trial by the search, where its score lies, and who may be better just as well.

    Args:
        oracle: of the search.
        archive: its kept predictions; None: the luck of rows is unknown.

    Returns:
        None before a trial has a score, and with several objectives, where no one trial leads.
    """
    ranked = oracle.book.by_search_score()
    if not ranked or len(oracle.objective.terms) > 1:
        return None
    full = _trained_in_full(ranked)
    best = full[0]
    plain = Leader(best.trial_id, _score(best), num_trials=len(ranked))
    runs = FreshRuns(oracle, "", archive, None)
    measured = [(trial, own) for trial in full[:_FINALISTS] if (own := runs.measured(trial)) is not None]
    if not measured or measured[0][0] is not best:
        return plain
    failed = [math.inf for trial in oracle.trials.values() if trial.has_failed]
    found = estimates(
        [*(runs.searched_loss(trial) for trial in full), *failed],
        [each for _, each in measured],
        search_rows=runs.searched_rows(full[:_MOST_READ]),
        places=[full.index(trial) for trial, _ in measured],
        runs_per_trial=int(np.median([max(1, len(runs.of_search(trial))) for trial in full[:_MOST_READ]])),
        told=Told(oracle.objective.direction, runs.scale),
        stopped=len(ranked) - len(full),
        seed=seeds.seed_of(oracle.seed, "leader", "probability"),
    )
    return _described(plain, [trial for trial, _ in measured], found)


def _described(plain: Leader, trials: list[Trial], found: Estimates) -> Leader:
    """The first stays first, as wherever trials are ranked; its chance may be smaller than a rival's."""
    estimate = found.finalists[0]
    interval = estimate.of_a_new_model()
    known = interval is not None and math.isfinite(interval.low) and math.isfinite(interval.high)
    return dataclasses.replace(
        plain,
        expected=estimate.mean if known else None,
        low=interval.low if interval is not None and known else None,
        high=interval.high if interval is not None and known else None,
        confidence=estimate.confidence,
        rivals=tuple(_rivals(trials, found)) if known else (),
        num_rows=estimate.num_rows,
        noise=_known(found.noise),
        luck=None if _known(found.noise) is None else _known(found.luck_of_best),
        finalists=tuple(_where(trial, each) for trial, each in zip(trials, found.finalists, strict=True))
        if known
        else (),
    )


def _where(trial: Trial, estimate: Estimate) -> tuple[str | float, ...]:
    """A trial, what a model of it will score, and the interval of that."""
    interval = estimate.of_a_new_model()
    # As JSON has it: a pair always, of NaN where nobody knows.
    ends = (math.nan, math.nan) if interval is None else (interval.low, interval.high)
    return (trial.trial_id, estimate.mean, *(end if math.isfinite(end) else math.nan for end in ends))


def _known(value: float) -> float | None:
    """Where neither seeds nor rows are known, the estimates say 0."""
    return value if math.isfinite(value) and value > 0 else None


def _rivals(trials: list[Trial], found: Estimates) -> list[str]:
    """The fewest trials that hold nearly all of the chance to be the best, the leader left out."""
    chances = found.probabilities
    held, rivals = chances[0], []
    for place in sorted(range(1, len(trials)), key=lambda place: -chances[place]):
        if held >= _SURE:
            break
        held += chances[place]
        rivals.append(trials[place].trial_id)
    return rivals


def _score(trial: Trial) -> float:
    assert trial.score is not None  # our bug: only trials with one are ranked
    return trial.score


def _trained_in_full(ranked: list[Trial]) -> list[Trial]:
    """Those that trained longest: scores of fewer epochs say another thing, and are lucky in other ways."""
    longest = max((trial.target_epochs or 0 for trial in ranked), default=0)
    return [trial for trial in ranked if trial.target_epochs in (None, longest)] or ranked
