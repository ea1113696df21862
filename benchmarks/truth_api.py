"""Three kinds of simulated searches through `tuner.search` and `tuner.confirm`, with a trainer that trains nothing.

The pure functions are measured with thousands of searches in `truth_procedures`; this says that the calls hand them
what they should: kept predictions, row losses, seeds, epochs.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from simulated_searches import Cell, SimulatedSearch
from truth_draws import Draw, Ledger, share

import manyfit as kt  # isort: skip

import keras

from manyfit.core.records import Ending, Plan, Result
from manyfit.report.confirmation import Confirmation
from manyfit.store.predictions import Archive, Labels, RowLosses, name_of_rows
from manyfit.training.base import Supply, Task, Trainer

CELLS = {str(cell): cell for cell in (Cell("equal", 5, 100), Cell("terrible", 50, 1000), Cell("normal", 200, 1000))}
_PROOF = 10_000  # seeds of proof runs are others than those of the race


class Simulated(Trainer):
    """Answers the losses of a simulated search: trial i is its trial i, and an execution's number is its seed.

    Targets are 0 and predictions are the losses, so that the mean absolute error is the mean loss.
    """

    archive: Archive

    def __init__(self, search: SimulatedSearch) -> None:
        self.search = search
        self._ids = np.arange(search.cell.num_rows, dtype=np.uint64)

    def train(self, supply: Supply, task: Task) -> None:
        while plans := supply.take(8):
            for plan in plans:
                self._run(plan, supply)

    def _run(self, plan: Plan, supply: Supply) -> None:
        trial = int(plan.trial_id)
        seed = plan.execution + (_PROOF if plan.phase == "proof" else 0)
        searching = plan.phase == "search"
        rows = self.search.search_rows[trial] if searching else self.search.runs(trial, seed, seed + 1)[0]
        loss = float(rows.mean(dtype=float))
        if not np.isfinite(loss):
            supply.finish(Result(plan, Ending.FAILED, {"val_mae": []}, message="it always fails"))
            return
        supply.report([(plan, 0, {"val_mae": loss})])
        if searching:
            self.archive.keep(plan.trial_id, plan.execution, rows[:, None], self._ids)
        else:
            kept = RowLosses("mae", loss, rows.astype(np.float32), name_of_rows(self._ids), "log")
            self.archive.keep_losses(plan.trial_id, plan.phase, plan.execution, kept)
        supply.finish(Result(plan, Ending.COMPLETED, {"val_mae": [loss]}))

    def keep_labels(self) -> None:
        """So that kept predictions are losses."""
        self.archive.keep_labels(Labels(self._ids, np.zeros(len(self._ids), np.float32), None))


def draw(name: str, number: int) -> Draw:
    """One search and one confirmation."""
    cell = CELLS[name]
    search = SimulatedSearch(cell, np.random.default_rng([number, 0]))
    trainer = Simulated(search)
    hp = kt.HyperParameters()
    for axis in "xy":
        hp.Float(axis, 0.0, 1.0)

    class Untrained(kt.RandomSearch):
        def _get_trainer(self) -> Trainer:
            return trainer

    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"hyperparameters": hp, "max_consecutive_failed_trials": 10**6}
        tuner = Untrained(_model, "val_mae", cell.num_trials, number, directory=Path(folder), **options)
        trainer.archive = tuner.predictions_archive
        for place in range(cell.num_trials):  # none of them is a near-copy of another
            tuner.enqueue({"x": place % 15 / 15, "y": place // 15 / 15})
        tuner.search(np.zeros((8, 1)), np.zeros(8), validation_data=(np.zeros((2, 1)), np.zeros(2)), verbose=0)
        trainer.keep_labels()
        found = tuner.confirm(verbose=0)
        return of_confirmation(found, search)


def _model(hp: kt.HyperParameters) -> keras.Model:
    """Built to see which hyperparameters it asks for, and never trained."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def of_confirmation(found: Confirmation, search: SimulatedSearch) -> Draw:
    """What it says, against what is so."""
    winner, truths = int(found.rows[0].trial_id), search.truths
    interval = found.interval()
    # What these rows do to all alike is in every estimate; its mean is 0, and without it there is less noise.
    tame = np.isfinite(truths) & (truths < truths.min() + 20 * search.cell.noise)
    shift = float((search.search_losses[tame] - truths[tame]).mean())
    worse = [(int(row.trial_id), int(row.standing.split()[-1])) for row in found.rows if not row.in_winning_set]
    return {
        "cover": bool(interval.low <= truths[winner] <= interval.high),
        "bias": float((interval.estimate - truths[winner] - shift) / search.cell.noise),
        "wrong": any(truths[one] <= truths[rival] for one, rival in worse),
        "settled": found.settled,
        "num_rows": found.num_rows,
    }


def through_calls(ledger: Ledger, count: int) -> None:
    """One row per cell."""
    for _ in ledger.fill(list(CELLS), count, draw):
        pass
    print("| search | draws | covers | bias | wrong words | says settled |\n| --- | --- | --- | --- | --- | --- |")
    for name in CELLS:
        draws = ledger.draws(name)
        bias = f"{np.mean([one['bias'] for one in draws]):+.2f}" if draws else "-"
        cells = [share(draws, "cover"), bias, share(draws, "wrong"), share(draws, "settled")]
        print(f"| {name} | {len(draws)} | " + " | ".join(cells) + " |")
    print()
