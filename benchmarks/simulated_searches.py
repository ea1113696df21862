"""Searches with a known truth: what each configuration is worth on fresh seeds *and* fresh rows.

A run of configuration c with seed s has one loss per row j, and its truth is the mean over new seeds and new rows:

    loss:      l_csj = mu_c (1 + S_cs) D_j F_cj E_csj       all factors have mean 1, so the truth is mu_c
    accuracy:  l_csj = 1 if a_c + D_j + F_cj + S_cs + E_csj < 0 else 0; the truth is the mean of that, by quadrature

| notation | meaning | law |
|---|---|---|
| D_j | how difficult a row is, for all configurations | log-normal; Beta(.3, .1) for the share of runs that are right |
| F_cj | the luck of a configuration with a row | two factors that near configurations share, and a part of its own |
| S_cs | the luck of a seed, the same on all rows | normal, Student with 3 degrees of freedom, or exponential (skewed) |
| E_csj | the luck of a run with a row | log-normal; normal for accuracy |

None of this is what the procedures assume: losses are positive, skewed, multiplied rather than added, noisier on
difficult rows and for worse configurations, and rows are not independent between near configurations.

Truths lie around a common value, at distances in units of one run's *noise*: the deviation of what does not cancel
between two runs on the same rows, sqrt((var F + var E) / rows + var S).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from scipy import special

TRUTHS = ("normal", "exponential", "equal", "three", "terrible")
SEEDS = ("normal", "t3", "skew")
METRICS = ("loss", "accuracy")

_DIFFICULTY = 1.0  # deviation of log D
_SHARED_LUCK = 0.7  # share of the two factors in F
_SEED_DEVIATION = math.sqrt(3e-4)  # a third of the noise of 1,000 rows
_TERRIBLE_SHARE, _TERRIBLE = 0.1, 100.0  # every second terrible trial fails, the others are so many units worse
_LATENT_SEED_DEVIATION = 0.08  # of accuracy, on the scale of a_c
_BETA = (0.3, 0.1)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of search.

    Attributes:
        truths: "normal", "exponential" (few are good), "equal", "three" (three equal, the rest 2 units worse),
            "terrible" (normal, and one of ten fails or is 100 units worse).
        num_trials: of the search, one run each.
        num_rows: validation rows, the same for all runs.
        seeds: "normal", "t3" or "skew".
        metric: "loss" or "accuracy".
        spread: scale of the truths, in units of one run's noise.
        lucky_rows: configurations differ more in their luck with rows, runs less: more seeds help less.
    """

    truths: str
    num_trials: int
    num_rows: int
    seeds: str = "normal"
    metric: str = "loss"
    spread: float = 1.0
    lucky_rows: bool = False

    def __str__(self) -> str:
        odd = [self.seeds] * (self.seeds != "normal") + [self.metric] * (self.metric != "loss")
        odd += [f"spread {self.spread:g}"] * (self.spread != 1.0) + ["lucky rows"] * self.lucky_rows
        return ", ".join([self.truths, *odd, f"{self.num_trials} trials", f"{self.num_rows} rows"])

    @property
    def deviations(self) -> tuple[float, float]:
        """Of log F and log E."""
        return (0.5, 0.3) if self.lucky_rows else (0.3, 0.5)

    @functools.cached_property
    def variances(self) -> dict[str, float]:
        """Per row: `common` to all runs, `luck` of a configuration with a row, `rest`; and of the `seed`."""
        if self.metric == "accuracy":
            return _variances_of_accuracy(self.deviations, self.seeds)
        of_f, of_e = (math.expm1(deviation**2) for deviation in self.deviations)
        square = math.exp(_DIFFICULTY**2)
        parts = {"common": square - 1, "luck": square * of_f, "rest": square * (1 + of_f) * of_e}
        return parts | {"seed": _SEED_DEVIATION**2}

    @property
    def noise(self) -> float:
        """One run's noise: the unit of distances between truths."""
        parts = self.variances
        return math.sqrt((parts["luck"] + parts["rest"]) / self.num_rows + parts["seed"])


def seed_luck(law: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draws with mean 0 and variance 1."""
    if law == "t3":
        return rng.standard_t(3, shape) / math.sqrt(3)
    if law == "skew":
        return rng.standard_exponential(shape) - 1
    return rng.standard_normal(shape)


@functools.cache
def _quantiles(law: str) -> np.ndarray:
    """Seeds at equal steps of probability: for the mean over seeds, without a simulation."""
    steps = (np.arange(50) + 0.5) / 50
    if law == "t3":
        return special.stdtrit(3, steps) / math.sqrt(3)
    return -np.log1p(-steps) - 1 if law == "skew" else special.ndtri(steps)


@functools.cache
def _error_curve(law: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth of accuracy: a_c on a grid, and the mean error there, over rows and seeds."""
    rows = special.ndtri(np.clip(special.betaincinv(*_BETA, (np.arange(2000) + 0.5) / 2000), 1e-12, 1 - 1e-12))
    levels = np.linspace(-1.5, 1.5, 121)
    luck = _LATENT_SEED_DEVIATION * _quantiles(law)
    errors = [special.ndtr(-(level + luck[:, None] + rows)).mean() for level in levels]
    return levels, np.array(errors)


def _latents(deviations: tuple[float, float]) -> tuple[float, float]:
    """Deviations of F and E on the latent scale of accuracy, where their squares add up to 1."""
    size = math.hypot(*deviations)
    return deviations[0] / size, deviations[1] / size


@functools.cache
def _variances_of_accuracy(deviations: tuple[float, float], law: str) -> dict[str, float]:
    """By quadrature over rows and the luck of a configuration, at the middle of the truths."""
    of_f, of_e = _latents(deviations)
    rows = special.ndtri(np.clip(special.betaincinv(*_BETA, (np.arange(2000) + 0.5) / 2000), 1e-12, 1 - 1e-12))
    luck = of_f * special.ndtri((np.arange(200) + 0.5) / 200)
    wrong = special.ndtr(-(rows[:, None] + luck) / of_e)  # given the row and the configuration's luck with it
    levels, errors = _error_curve(law)
    slope = float(np.gradient(errors, levels)[len(levels) // 2])
    return {
        "common": float(wrong.mean(axis=1).var()),
        "luck": float(wrong.var(axis=1).mean()),
        "rest": float((wrong * (1 - wrong)).mean()),
        "seed": (slope * _LATENT_SEED_DEVIATION) ** 2,
    }


class SimulatedSearch:
    """One search: its trials with their truths, the rows, and as many runs as one asks for.

    Args:
        cell: what kind of search.
        rng: the only source of chance.

    Attributes:
        truths: what each trial is worth, shape (trials,); lower is better, inf where it always fails.
        search_rows: losses of the search's runs, shape (trials, rows); inf where a trial failed.
        search_losses: their means, shape (trials,).
    """

    def __init__(self, cell: Cell, rng: np.random.Generator) -> None:
        self.cell = cell
        self._seed = int(rng.integers(2**62))
        distances = cell.spread * _distances(cell, rng)
        self._fails = np.isinf(distances)
        distances = np.where(self._fails, 0.0, distances)
        if cell.metric == "accuracy":
            levels, errors = _error_curve(cell.seeds)
            middle = float(np.interp(0.0, levels, errors))
            wanted = np.clip(middle + cell.noise * distances, errors[-1], errors[0])
            self._levels = np.interp(-wanted, -errors, levels)
            truths = np.interp(self._levels, levels, errors)
        else:
            truths = np.maximum(1 + cell.noise * distances, 0.2)
        self.truths = np.where(self._fails, np.inf, truths)
        angles = rng.uniform(0, 2 * math.pi, cell.num_trials)
        self._loadings = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        self._difficulty, self._luck = self._draw_rows(cell.num_rows, np.arange(cell.num_trials), rng)
        self.search_rows = self._draw_runs(np.arange(cell.num_trials), self._difficulty, self._luck, rng)
        self.search_losses = self.search_rows.mean(axis=1, dtype=float)

    def finalists(self, top: int) -> np.ndarray:
        """The trials with the best scores of the search, best first; none that failed."""
        order = np.argsort(self.search_losses, kind="stable")
        return order[np.isfinite(self.search_losses[order])][:top]

    def runs(self, trial: int, first: int, stop: int) -> np.ndarray:
        """Losses of a trial's runs on fresh seeds `first` to `stop` and the same rows, (seeds, rows).

        A run is always the same, whoever asks for it and when.
        """
        rows = [
            self._draw_runs(
                np.array([trial]), self._difficulty, self._luck[trial : trial + 1],
                np.random.default_rng([self._seed, trial, seed]),
            )[0]
            for seed in range(first, stop)
        ]  # fmt: skip
        return np.stack(rows)

    def fresh_score(self, trial: int, num_rows: int, rng: np.random.Generator) -> float:
        """What somebody sees who trains the trial anew and scores it on so many new rows."""
        difficulty, luck = self._draw_rows(num_rows, np.array([trial]), rng)
        return float(self._draw_runs(np.array([trial]), difficulty, luck, rng).mean(dtype=float))

    def _draw_rows(self, num_rows: int, trials: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Difficulty of rows, (rows,), and each trial's luck with them, (trials, rows), with variance 1."""
        if self.cell.metric == "accuracy":
            difficulty = special.ndtri(np.clip(rng.beta(*_BETA, num_rows), 1e-12, 1 - 1e-12))
        else:
            difficulty = _DIFFICULTY * rng.standard_normal(num_rows) - _DIFFICULTY**2 / 2
        shared = self._loadings[trials] @ rng.standard_normal((2, num_rows))
        own = rng.standard_normal((len(trials), num_rows), dtype=np.float32)
        luck = math.sqrt(_SHARED_LUCK) * shared + math.sqrt(1 - _SHARED_LUCK) * own
        return difficulty.astype(np.float32), luck.astype(np.float32)

    def _draw_runs(
        self, trials: np.ndarray, difficulty: np.ndarray, luck: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """One run of each trial, (trials, rows)."""
        of_f, of_e = self.cell.deviations
        seeds = seed_luck(self.cell.seeds, (len(trials), 1), rng).astype(np.float32)
        own = rng.standard_normal(luck.shape, dtype=np.float32)
        if self.cell.metric == "accuracy":
            of_f, of_e = _latents((of_f, of_e))
            level = self._levels[trials, None].astype(np.float32) + _LATENT_SEED_DEVIATION * seeds
            losses = (level + difficulty + of_f * luck + of_e * own < 0).astype(np.float32)
        else:
            logs = difficulty + of_f * luck + of_e * own - (of_f**2 + of_e**2) / 2
            finite = np.where(self._fails[trials], 1.0, self.truths[trials])
            losses = (finite[:, None] * (1 + _SEED_DEVIATION * seeds) * np.exp(logs)).astype(np.float32)
        losses[self._fails[trials]] = np.inf
        return losses


def _distances(cell: Cell, rng: np.random.Generator) -> np.ndarray:
    """Of the truths from the common value, in units of noise, before `spread`; inf where a trial always fails."""
    count = cell.num_trials
    if cell.truths == "equal":
        return np.zeros(count)
    if cell.truths == "three":
        return np.where(rng.permutation(count) < 3, 0.0, 2.0)
    if cell.truths == "exponential":
        return rng.standard_exponential(count)
    distances = rng.standard_normal(count)
    if cell.truths == "terrible":
        bad = rng.permutation(count)[: max(1, round(_TERRIBLE_SHARE * count))]
        distances[bad] = np.where(np.arange(len(bad)) % 2 == 0, _TERRIBLE, np.inf)
    return distances
