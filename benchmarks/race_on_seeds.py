"""What `confirm` did at c31c64c, in one page: a race that looks at seeds alone, and Student's interval for five runs.

It is the first column of `truth.py`. Formulas and constants are those of that commit's `stats/racing.py` and
`finish/confirmation.py`: a paired t-test over seeds after each round, at the level of `nominal_level`; an end where
the chance that anybody will be dropped is below .05; then five runs of the recommended finalist on further seeds.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import special

from manyfit.stats.racing import nominal_level

MAX_ROUNDS, NUM_PROOF_RUNS, CONFIDENCE = 30, 5, 0.95
_MIN_ROUNDS, _FUTILITY, _SIGNAL_ERROR = 3, 0.05, 0.2


@dataclasses.dataclass(frozen=True)
class Race:
    """Who is left, lowest mean first, and after how many rounds."""

    left: tuple[int, ...]
    rounds: int
    worse: tuple[tuple[int, int], ...]  # who was dropped, and by whom
    num_executions: int


def race_on_seeds(losses: np.ndarray, confidence: float = CONFIDENCE, max_rounds: int = MAX_ROUNDS) -> Race:
    """Replays a race of finite losses, shape (contenders, seeds)."""
    level = nominal_level(len(losses), confidence, max_rounds)
    active = np.arange(len(losses))
    worse, num_executions = [], 0
    for rounds in range(1, min(max_rounds, losses.shape[1]) + 1):
        num_executions += len(active)
        if rounds < _MIN_ROUNDS:
            continue
        seen = losses[active, :rounds]
        t = _paired_t(seen)
        p_values = special.stdtr(rounds - 1, -t)
        lost = (p_values < level).any(axis=1)
        worse += [(int(active[one]), int(active[p_values[one].argmin()])) for one in np.flatnonzero(lost)]
        active = active[~lost]
        if len(active) == 1:
            break
        seen = losses[active, :rounds]
        if _MIN_ROUNDS + 2 <= rounds < max_rounds and _chance_of_a_drop(seen, level, max_rounds) < _FUTILITY:
            break
    means = losses[active, :rounds].mean(axis=1)
    left = tuple(int(each) for each in active[np.argsort(means, kind="stable")])
    return Race(left, rounds, tuple(worse), num_executions)


def student_interval(losses: np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Low end, mean and high end over runs."""
    half = special.stdtrit(losses.size - 1, (1 + confidence) / 2) * losses.std(ddof=1) / math.sqrt(losses.size)
    return float(losses.mean() - half), float(losses.mean()), float(losses.mean() + half)


def _paired_t(seen: np.ndarray) -> np.ndarray:
    differences = seen[:, None, :] - seen[None, :, :]
    mean, deviation = differences.mean(axis=2), differences.std(axis=2, ddof=1)
    deviation[deviation <= 1e-12 * np.abs(mean)] = 0.0
    t = np.zeros_like(mean)
    np.divide(mean * math.sqrt(seen.shape[1]), deviation, out=t, where=deviation > 0)
    t[(deviation == 0) & (mean > 0)] = np.inf
    t[(deviation == 0) & (mean < 0)] = -np.inf
    return t


def _chance_of_a_drop(seen: np.ndarray, level: float, last: int) -> float:
    """Of the most likely pair, by the predictive law of its t in the last round."""
    contenders, rounds = seen.shape
    means = seen.mean(axis=1)
    rest = seen - means[:, None] - seen.mean(axis=0) + means.mean()
    noise, between = (rest**2).sum() / ((contenders - 1) * (rounds - 1)), rounds * means.var(ddof=1)
    limit = special.fdtri(contenders - 1, (contenders - 1) * (rounds - 1), _SIGNAL_ERROR)
    signal = max(0.0, 1.0 - limit * noise / between) if between > 0 else 0.0
    left = last - rounds
    expected = _paired_t(seen).max() * math.sqrt(last / rounds) * (rounds + left * signal) / last
    deviation = math.sqrt(left / last + signal * left**2 / (rounds * last))
    return float(special.ndtr((expected + special.stdtrit(last - 1, level)) / deviation))
