"""What each procedure makes of a simulated search: whom it names, what it calls proven, the interval that it prints."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from race_on_seeds import MAX_ROUNDS, NUM_PROOF_RUNS, race_on_seeds, student_interval
from simulated_searches import Cell, SimulatedSearch

from manyfit.evidence.decisions import RaceStanding, decide
from manyfit.evidence.estimates import Estimates, Measured, Told, estimates
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs
from manyfit.stats.intervals import Interval, Scale

TOP = 8
NEW_ROWS = 2000  # on which somebody scores a new training of the winner


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a procedure says at its end. Losses: lower is better."""

    winner: int  # the trial that it names
    proven: bool  # it says that this one is the best of the finalists
    settled: bool  # it says that more runs would change nothing
    worse: tuple[tuple[int, int], ...]  # it says that the first of these trials is worse than the second
    low: float  # of the interval for what the winner is worth on fresh seeds and fresh rows
    estimate: float
    high: float
    low_new: float  # of the interval for one new training, scored on `NEW_ROWS` new rows
    high_new: float
    num_runs: int  # of the winner, in that interval
    num_executions: int  # of all finalists, the search's not counted


class FreshRuns:
    """Runs of the finalists on fresh seeds, the same for every procedure; made when first asked for."""

    def __init__(self, search: SimulatedSearch, top: int = TOP) -> None:
        self.search = search
        self.finalists = search.finalists(top)
        self._known: dict[int, np.ndarray] = {}

    def of(self, place: int, stop: int) -> np.ndarray:
        """Losses of the first runs of a finalist, by its place among them, shape (stop, rows)."""
        known = self._known.get(place)
        have = 0 if known is None else len(known)
        if have < stop:
            more = self.search.runs(int(self.finalists[place]), have, stop)
            self._known[place] = more if known is None else np.concatenate([known, more])
        return self._known[place][:stop]


def before(runs: FreshRuns) -> Answer:
    """The procedure of c31c64c."""
    count = len(runs.finalists)
    losses = np.array([runs.of(place, MAX_ROUNDS).mean(axis=1, dtype=float) for place in range(count)])
    race = race_on_seeds(losses)
    winner = race.left[0]
    proof = runs.of(winner, MAX_ROUNDS + NUM_PROOF_RUNS)[MAX_ROUNDS:].mean(axis=1, dtype=float)
    low, mean, high = student_interval(proof)
    settled = len(race.left) == 1 or race.rounds < MAX_ROUNDS
    worse = tuple((int(runs.finalists[one]), int(runs.finalists[rival])) for one, rival in race.worse)
    return Answer(
        int(runs.finalists[winner]), len(race.left) == 1 < count, settled, worse, low, mean, high, low, high,
        num_runs=NUM_PROOF_RUNS, num_executions=race.num_executions + NUM_PROOF_RUNS,
    )  # fmt: skip


def now(runs: FreshRuns) -> Answer:
    """What `tuner.confirm` does: `evidence.decide` under the rules of a first call, then `evidence.estimates`."""
    rules = RaceRules()
    rows = np.stack([runs.of(place, rules.max_rounds) for place in range(len(runs.finalists))])
    standing = decide(Runs(rows.mean(axis=2, dtype=float), rows), rules)
    counts = runs_of_each(standing, len(rows))
    found = estimated(runs.search, runs.finalists, [table[:count] for table, count in zip(rows, counts, strict=True)])
    winner = min(standing.winning_set, key=lambda place: found.finalists[place].mean)
    best = found.finalists[winner]
    interval, new = known(best.interval()), known(best.interval(rows=NEW_ROWS))
    worse = tuple((int(runs.finalists[one.contender]), int(runs.finalists[one.rival])) for one in standing.decisions)
    return Answer(
        int(runs.finalists[winner]), standing.settled and len(rows) > 1,
        standing.verdict is not None and standing.verdict.is_a_finding, worse,
        interval.low, best.mean, interval.high, new.low, new.high,
        num_runs=best.num_runs, num_executions=sum(counts),
    )  # fmt: skip


def known(interval: Interval | None) -> Interval:
    """An interval, which is there wherever the rows are known."""
    if interval is None:
        raise RuntimeError("no interval, though all rows are known")
    return interval


def runs_of_each(standing: RaceStanding, count: int) -> list[int]:
    """How many fresh runs each finalist has had: those that were found worse ran no further."""
    dropped = standing.dropped
    return [dropped[place].round if place in dropped else standing.rounds for place in range(count)]


def estimated(search: SimulatedSearch, finalists: np.ndarray, fresh: list[np.ndarray]) -> Estimates:
    """From the search's own run of each finalist and its fresh ones."""
    tables = [
        np.concatenate([search.search_rows[trial][None], table]).astype(float)
        for trial, table in zip(finalists, fresh, strict=True)
    ]
    return estimates(
        search.search_losses,
        [Measured(table.mean(axis=1), table) for table in tables],
        search_rows=search.search_rows,
        places=[int(trial) for trial in finalists],
        told=Told(scale=Scale.WILSON if search.cell.metric == "accuracy" else Scale.LOG),
    )


def oracle_half_width(cell: Cell, num_runs: int) -> float:
    """Half of the interval of somebody who knows all variances, for a mean of so many runs on the same rows."""
    parts = cell.variances
    of_rows = (parts["common"] + parts["luck"]) / cell.num_rows
    return 1.959964 * math.sqrt(of_rows + (parts["seed"] + parts["rest"] / cell.num_rows) / num_runs)
