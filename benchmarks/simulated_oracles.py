"""Real oracles (Bayesian optimisation, ASHA) on a simulated surface: curves of 30 epochs, of which the best counts.

What makes it harder than `simulated_searches`: the sampler goes where validation rows were kind, near configurations
share that luck, most trials of ASHA never train to the end, and each score is the lowest of 30 noisy ones.

    l_csj(t) = mu(x_c) g_c(t) (1 + S_cs) (1 + J_cs(t)) D_j F_j(x_c) E_csj(t)

mu is a bowl with ripples over three hyperparameters, g_c falls and, for fast learners, rises again; J_cs(t) is what a
run's weights do from epoch to epoch; log F_j is a smooth random function of x; log E_csj(t) has a lasting part and one
that changes with the epoch. All factors but g have mean 1: the truth at epoch t is mu(x) g(t).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np

from manyfit.core import seeds
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.oracles import Oracle
from manyfit.oracles.searches import BayesianOptimizationOracle, RandomSearchOracle
from manyfit.schedulers.asha import ASHA
from manyfit.space.hyperparameters import HyperParameters
from manyfit.tuners.supply import SearchSupply

NUM_EPOCHS, POPULATION = 30, 8
_NAMES = ("learning_rate", "width", "dropout")
_NUM_FEATURES = 12  # of the smooth functions
_DIFFICULTY, _LUCK, _LASTING, _CHANGING = 1.0, 0.3, 0.4, 0.3  # deviations of logs
_SEED, _WEIGHTS, _MEMORY = math.sqrt(3e-4), 0.01, 0.6  # of S, of J, and how much of J lasts to the next epoch


@dataclasses.dataclass(frozen=True)
class OracleCell:
    """A sampler or scheduler, and how large the search is."""

    search: str  # "bayesian", "asha" or "random"
    num_trials: int
    num_rows: int

    def __str__(self) -> str:
        return f"{self.search}, {self.num_trials} trials, {self.num_rows} rows"

    @property
    def noise(self) -> float:
        """One run's noise at one epoch, as in `simulated_searches`."""
        square = math.exp(_DIFFICULTY**2)
        of_rows = square * math.expm1(_LUCK**2 + _LASTING**2 + _CHANGING**2)
        return math.sqrt(of_rows / self.num_rows + _SEED**2 + _WEIGHTS**2)


class Surface:
    """A task: its rows, and what every configuration is worth.

    Args:
        num_rows: validation rows.
        noise: the unit of differences between configurations.
        rng: the only source of chance.
    """

    def __init__(self, num_rows: int, noise: float, rng: np.random.Generator) -> None:
        self._noise = noise
        self._best = rng.uniform(0.25, 0.75, 3)
        self._seed = int(rng.integers(2**62))
        self._frequencies = 2.5 * rng.standard_normal((_NUM_FEATURES, 3))
        self._phases = rng.uniform(0, 2 * math.pi, _NUM_FEATURES)
        self._ripples = rng.standard_normal(_NUM_FEATURES)
        self._difficulty = _DIFFICULTY * rng.standard_normal(num_rows) - _DIFFICULTY**2 / 2
        self._luck = rng.standard_normal((_NUM_FEATURES, num_rows)).astype(np.float32)

    @property
    def row_level(self) -> float:
        """How difficult these rows are for all configurations alike; 1 on average over draws of rows."""
        return float(np.exp(self._difficulty).mean())

    def _features(self, x: np.ndarray) -> np.ndarray:
        """Their products are what two configurations have in common: 1 for the same one."""
        return math.sqrt(2 / _NUM_FEATURES) * np.cos(self._frequencies @ x + self._phases)

    def expected(self, x: np.ndarray) -> np.ndarray:
        """The truth after each epoch, over all seeds and rows."""
        bowl = 12.0 * float(((x - self._best) ** 2).sum())
        level = 1 + self._noise * (bowl + 0.7 * float(self._ripples @ self._features(x)))
        epochs = np.arange(NUM_EPOCHS)
        falls = np.exp(-epochs / (2 + 8 * (1 - x[0])))
        rises = 0.01 * np.maximum(0, epochs - (30 - 20 * x[0])) / NUM_EPOCHS * 10
        return max(level, 0.2) * (1 + falls + rises)

    def run(self, x: np.ndarray, *names: str | int) -> tuple[np.ndarray, np.ndarray]:
        """One training: losses per epoch and row, and the truth of its weights per epoch, without the seed's luck."""
        rng = seeds.generator(self._seed, *names)
        features = self._features(x)
        log_luck = _LUCK * (features @ self._luck) / math.sqrt(float(features @ features))
        lasting, changing = rng.standard_normal((2, *self._difficulty.shape)), None
        steps = rng.standard_normal((NUM_EPOCHS, len(self._difficulty)), dtype=np.float32)
        # Half of what changes from epoch to epoch comes from the epoch before.
        for epoch in range(1, NUM_EPOCHS):
            steps[epoch] = 0.5 * steps[epoch - 1] + math.sqrt(0.75) * steps[epoch]
        changing = _CHANGING * steps
        logs = (self._difficulty + log_luck + _LASTING * lasting[0] + changing).astype(np.float32)
        logs -= (_LUCK**2 + _LASTING**2 + _CHANGING**2) / 2
        weights = rng.standard_normal(NUM_EPOCHS)
        for epoch in range(1, NUM_EPOCHS):
            weights[epoch] = _MEMORY * weights[epoch - 1] + math.sqrt(1 - _MEMORY**2) * weights[epoch]
        truth = self.expected(x) * (1 + _WEIGHTS * weights)
        level = truth * (1 + _SEED * rng.standard_normal())
        return level[:, None].astype(np.float32) * np.exp(logs), truth


def make_oracle(cell: OracleCell, seed: int) -> Oracle:
    """The real thing, with its own defaults."""
    hp = HyperParameters()
    for name in _NAMES:
        hp.Float(name, 0.0, 1.0)
    arguments = {
        "objective": Objective("val_loss", "min"), "max_trials": cell.num_trials, "seed": seed, "hyperparameters": hp,
    }  # fmt: skip
    if cell.search == "bayesian":
        return BayesianOptimizationOracle(**arguments)
    scheduler = ASHA(NUM_EPOCHS, 3) if cell.search == "asha" else None
    return RandomSearchOracle(scheduler=scheduler, **arguments)


def place(trial_values: dict) -> np.ndarray:
    """A configuration as a point of the unit cube."""
    return np.array([trial_values[name] for name in _NAMES])


def search(oracle: Oracle, surface: Surface) -> None:
    """Runs a search to its end: the trainer's side of `manyfit.training.base.Supply`, with curves instead of nets."""
    supply = SearchSupply(
        oracle, 1, weights_path=lambda trial, execution: Path(f"{trial}-{execution}"),
        begin=lambda trial: True, end=oracle.end_trial,
    )  # fmt: skip
    oracle.start_clock()
    running: dict[tuple[str, int], tuple[Plan, int, np.ndarray]] = {}
    while True:
        for plan in supply.take(POPULATION - len(running)):
            losses, _ = surface.run(place(plan.values.values), "search", plan.trial_id)
            running[plan.key] = (plan, plan.first_epoch, losses.mean(axis=1, dtype=float))
        if not running:
            break
        reports = [(plan, epoch, {"val_loss": float(curve[epoch])}) for plan, epoch, curve in running.values()]
        for (plan, epoch, _), decision in zip(reports, supply.report(reports), strict=True):
            curve = running[plan.key][2]
            last = epoch + 1 == NUM_EPOCHS
            if decision is Decision.GO_ON and not last:
                running[plan.key] = (plan, epoch + 1, curve)
                continue
            del running[plan.key]
            ending = Ending.COMPLETED if last else Ending.PAUSED if decision is Decision.PAUSE else Ending.STOPPED
            supply.finish(Result(plan, ending, {"val_loss": curve[: epoch + 1].tolist()}))
    supply.end_paused()
    oracle.stop_clock()
