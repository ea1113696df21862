"""What each procedure makes of a simulated search: whom it names, what it calls proven, the interval that it prints."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from race_on_seeds import MAX_ROUNDS, NUM_PROOF_RUNS, race_on_seeds, student_interval
from simulated_searches import Cell, SimulatedSearch

TOP = 8
NEW_ROWS = 2000  # on which somebody scores a new training of the winner


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a procedure says at its end. Losses: lower is better."""

    winner: int  # the trial that it names
    proven: bool  # it says that this one is the best of the finalists
    settled: bool  # it says that more runs are pointless
    low: float  # of the interval for what the winner is worth on fresh seeds and fresh rows
    estimate: float
    high: float
    low_new: float  # of the interval for one new training, scored on `NEW_ROWS` new rows
    high_new: float
    num_runs: int  # of the winner, in that interval
    num_executions: int  # of all finalists


class FreshRuns:
    """Runs of the finalists on fresh seeds, the same for every procedure; made when first asked for."""

    def __init__(self, search: SimulatedSearch, top: int = TOP) -> None:
        self.search = search
        self.finalists = search.finalists(top)
        self._known: dict[int, np.ndarray] = {}

    def of(self, finalist: int, stop: int) -> np.ndarray:
        """Losses of the first runs of a finalist, by its place, shape (stop, rows)."""
        known = self._known.get(finalist)
        have = 0 if known is None else len(known)
        if have < stop:
            more = self.search.runs(int(self.finalists[finalist]), have, stop)
            self._known[finalist] = more if known is None else np.concatenate([known, more])
        return self._known[finalist][:stop]


def before(runs: FreshRuns) -> Answer:
    """The procedure of c31c64c."""
    count = len(runs.finalists)
    losses = np.array([runs.of(place, MAX_ROUNDS).mean(axis=1, dtype=float) for place in range(count)])
    race = race_on_seeds(losses)
    winner = race.left[0]
    proof = runs.of(winner, MAX_ROUNDS + NUM_PROOF_RUNS)[MAX_ROUNDS:].mean(axis=1, dtype=float)
    low, mean, high = student_interval(proof)
    settled = len(race.left) == 1 or race.rounds < MAX_ROUNDS
    return Answer(
        int(runs.finalists[winner]), len(race.left) == 1, settled, low, mean, high, low, high,
        num_runs=NUM_PROOF_RUNS, num_executions=count * race.rounds + NUM_PROOF_RUNS,
    )  # fmt: skip


def oracle_half_width(cell: Cell, num_runs: int) -> float:
    """Half of the interval of somebody who knows all variances, for a mean of so many runs on the same rows."""
    parts = cell.variances
    of_rows = (parts["common"] + parts["luck"]) / cell.num_rows
    return 1.959964 * math.sqrt(of_rows + (parts["seed"] + parts["rest"] / cell.num_rows) / num_runs)
