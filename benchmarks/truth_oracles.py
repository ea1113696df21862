"""Real oracles on a simulated surface, then a confirmation of their finalists: the same counts as for simple searches.

Fresh runs are scored as `finish.confirm` does it: at an epoch that was fixed by the search; a run of the search at its
best epoch, without that epoch's luck. At c31c64c every run was scored at its own best epoch: its truth
is that of the weights that its proof runs have at those epochs.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from race_on_seeds import MAX_ROUNDS, NUM_PROOF_RUNS, race_on_seeds, student_interval
from simulated_oracles import NUM_EPOCHS, OracleCell, Surface, make_oracle, place, search
from truth_measures import Share
from truth_procedures import TOP, known, runs_of_each

from manyfit.core import seeds
from manyfit.evidence.decisions import decide
from manyfit.evidence.estimates import Measured, Told, estimates
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs
from manyfit.finish.confirm import fixed_epochs
from manyfit.oracles import Oracle, Trial
from manyfit.stats.curves import loss_at_best
from manyfit.stats.intervals import Scale

CELLS = (
    OracleCell("bayesian", 30, 1000),
    OracleCell("bayesian", 30, 100),
    OracleCell("asha", 60, 1000),
    OracleCell("asha", 60, 100),
    OracleCell("random", 60, 1000),
)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What a procedure says of its winner, and what is so."""

    low: float
    estimate: float
    high: float
    truth: float
    proven: bool
    wrong: bool  # something that is no worse was called worse
    row_level: float  # see `Surface`


class Finished:
    """A search that has ended.

    Args:
        cell: which oracle.
        seed: of all that is drawn.
    """

    def __init__(self, cell: OracleCell, seed: int) -> None:
        self.cell = cell
        self.surface = Surface(cell.num_rows, cell.noise, np.random.default_rng([seed, 0]))
        self.oracle: Oracle = make_oracle(cell, seeds.seed_of(seed, "oracle") % 2**31)
        search(self.oracle, self.surface)
        ranked = self.oracle.book.by_search_score()
        self.finalists = ranked[:TOP]
        self.num_stopped = sum(len(self.curve(trial)) < NUM_EPOCHS for trial in ranked)
        self.full = [trial for trial in ranked if len(self.curve(trial)) == NUM_EPOCHS]

    def curve(self, trial: Trial) -> list[float]:
        """The losses that the search saw."""
        return [float(loss) for loss in trial.executions[0].history["val_loss"] if loss is not None]

    def searched_rows(self, trial: Trial) -> np.ndarray:
        """Row losses of the search's run at its best epoch, around the loss without that epoch's luck."""
        curve = self.curve(trial)
        losses, _ = self.surface.run(place(trial.hyperparameters.values), "search", trial.trial_id)
        rows = losses[int(np.argmin(curve))].astype(float)
        return rows - rows.mean() + loss_at_best(curve)

    def fresh(self, trial: Trial, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Losses per epoch and row of a run on a fresh seed, and the truth of its weights per epoch."""
        return self.surface.run(place(trial.hyperparameters.values), "fresh", trial.trial_id, seed)

    def expected(self, trial: Trial, epoch: int) -> float:
        """The truth of a configuration at an epoch."""
        return float(self.surface.expected(place(trial.hyperparameters.values))[epoch])


def now(found: Finished) -> Claim:
    """As `tuner.confirm` does it."""
    rules, finalists = RaceRules(), found.finalists
    fixed = fixed_epochs(finalists, found.oracle, num_epochs=NUM_EPOCHS, has_own_epochs=False)
    epochs = [min(fixed[trial.trial_id], NUM_EPOCHS - 1) for trial in finalists]
    rows = np.stack(
        [
            [found.fresh(trial, seed)[0][epoch] for seed in range(rules.max_rounds)]
            for trial, epoch in zip(finalists, epochs, strict=True)
        ]
    )
    standing = decide(Runs(rows.mean(axis=2, dtype=float), rows), rules)
    counts = runs_of_each(standing, len(finalists))
    searched = {trial.trial_id: found.searched_rows(trial) for trial in {*found.full, *finalists}}
    tables = [
        np.concatenate([searched[trial.trial_id][None], table[:count]]) if trial in found.full else table[:count]
        for trial, table, count in zip(finalists, rows.astype(float), counts, strict=True)
    ]
    of_full = np.stack([searched[trial.trial_id] for trial in found.full])
    places = {trial.trial_id: number for number, trial in enumerate(found.full)}
    result = estimates(
        of_full.mean(axis=1),
        [Measured(table.mean(axis=1), table) for table in tables],
        search_rows=of_full if len(of_full) > 1 else None,
        places=[places.get(trial.trial_id) for trial in finalists],
        told=Told(scale=Scale.LOG),
        stopped=found.num_stopped,
    )
    winner = min(standing.winning_set, key=lambda number: result.finalists[number].mean)
    interval, level = known(result.finalists[winner].interval()), found.surface.row_level
    truths = [found.expected(trial, epoch) for trial, epoch in zip(finalists, epochs, strict=True)]
    wrong = any(truths[one.contender] <= truths[one.rival] for one in standing.decisions)
    return Claim(interval.low, interval.estimate, interval.high, truths[winner], standing.settled, wrong, level)


def before(found: Finished) -> Claim:
    """As it was done at c31c64c."""
    finalists = found.finalists
    losses = np.empty((len(finalists), MAX_ROUNDS))
    for number, trial in enumerate(finalists):
        losses[number] = [found.fresh(trial, seed)[0].mean(axis=1).min() for seed in range(MAX_ROUNDS)]
    race = race_on_seeds(losses)
    winner = finalists[race.left[0]]
    proof, truths = [], []
    for seed in range(MAX_ROUNDS, MAX_ROUNDS + NUM_PROOF_RUNS):
        rows, truth = found.fresh(winner, seed)
        curve = rows.mean(axis=1, dtype=float)
        proof.append(float(curve.min()))
        truths.append(float(truth[int(curve.argmin())]))
    low, mean, high = student_interval(np.array(proof))
    best = [float(found.surface.expected(place(trial.hyperparameters.values)).min()) for trial in finalists]
    wrong = any(best[one] <= best[rival] for one, rival in race.worse)
    truth, level = float(np.mean(truths)), found.surface.row_level
    return Claim(low, mean, high, truth, len(race.left) == 1, wrong, level)


def oracles(quick: bool) -> None:
    """One row per oracle: c31c64c → now."""
    print("| search | covers | says proven | wrong words | bias |\n| --- | --- | --- | --- | --- |")
    for cell in CELLS[2:4] if quick else CELLS:
        claims: dict[str, list[Claim]] = {"before": [], "now": []}
        for number in range(3 if quick else 1000):
            found = Finished(cell, number)
            claims["before"].append(before(found))
            claims["now"].append(now(found))
        cells = [row(each, cell) for each in claims.values()]
        print(f"| {cell} | " + " | ".join(" → ".join(pair) for pair in zip(*cells, strict=True)) + " |", flush=True)
    print()


def row(claims: list[Claim], cell: OracleCell) -> list[str]:
    """What is counted of one procedure."""
    # What rows do to all alike is in every estimate; its mean is 0, and without it there is less noise.
    bias = np.array([(each.estimate / each.row_level - each.truth) / cell.noise for each in claims])

    def share(flags: list[bool]) -> str:
        return str(Share(sum(flags), len(flags)))

    return [
        share([each.low <= each.truth <= each.high for each in claims]),
        share([each.proven for each in claims]),
        share([each.wrong for each in claims]),
        f"{bias.mean():+.2f} ± {bias.std(ddof=1) / len(bias) ** 0.5:.2f}",
    ]
