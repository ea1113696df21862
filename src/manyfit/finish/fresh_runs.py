"""What was measured of finalists, as tables: fresh runs for decisions, all runs for estimates, row by row if known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyfit.evidence.book import EvidenceBook
from manyfit.evidence.estimates import Measured
from manyfit.evidence.runs import Runs
from manyfit.finish.fold_runs import SharedFolds
from manyfit.finish.row_losses import at_value, losses_of_predictions
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import PROOF, RACE, Execution
from manyfit.stats.curves import loss_at_best
from manyfit.stats.influence import metric_name
from manyfit.stats.intervals import Array, Scale
from manyfit.store.predictions import Archive, Labels, RowLosses, name_of_rows

_MOST_NUMBERS = 20_000_000  # of the search's row losses that are held at once


class FreshRuns:
    """What was measured of finalists, row by row where that is known.

    Args:
        oracle: objective and trials.
        protocol: names data and settings: only executions under the same protocol are compared.
        archive: the predictions of the search and the row losses of fresh runs.
        overlap: where each seed has rows of its own: validation rows by training rows.
        related: (rows,) the group of each validation row; None: rows are independent.
        folds: of the first seeds, where each has a fold of its own that others may have trained; None: nothing is
            shared.
    """

    def __init__(
        self,
        oracle: Oracle,
        protocol: str,
        archive: Archive | None,
        overlap: float | None,
        related: Array | None = None,
        folds: SharedFolds | None = None,
    ) -> None:
        self.oracle, self.protocol, self.overlap = oracle, protocol, overlap
        self.related = related if overlap is None else None
        self.folds = folds if overlap is not None else None
        self._archive = archive
        self._rows: dict[tuple[str, str, int], RowLosses | None] = {}
        self._searched: dict[str, list[tuple[float, Array | None]]] = {}
        self._labels: Labels | None = None
        self._scale: Scale | None = None
        self._rows_are: str | None = None

    @property
    def evidence(self) -> EvidenceBook:
        """Families and decisions."""
        return self.oracle.book.evidence

    def executions(self, trial: Trial, phase: str = RACE) -> dict[int, Execution]:
        """The executions of a trial that count, by index."""
        runs = trial.executions_of(phase).items()
        own = {index: run for index, run in runs if run.notes.get("protocol") == self.protocol}
        families = self.evidence.of(self.protocol)
        if phase != RACE or self.folds is None or not families:
            return own
        # A bag's runs took no part in choosing finalists, so they are as fresh as those of this protocol.
        first = families[0].first_seed
        return {first + number: run for number, run in self.folds.runs(trial).items()} | own

    def loss(self, trial: Trial, run: Execution) -> float:
        """Of a fresh run, at the epoch that was fixed before: its own best one would be too good."""
        if not run.ending.has_score:
            return math.inf
        losses = self.oracle.objective.epoch_losses(run.history)
        epoch = self.evidence.epoch_of(self.protocol, trial.trial_id)
        if epoch is None or not losses or not set(self.oracle.objective.names) <= set(run.history):
            return self.oracle.objective.loss(run.score)
        measured = [loss for loss in losses[: epoch + 1] if not math.isnan(loss)]
        return measured[-1] if measured else self.oracle.objective.loss(run.score)

    def table(self, trials: Sequence[Trial], first_seed: int) -> Runs:
        """Losses of fresh runs on common seeds, for decisions."""
        found = [self.executions(trial) for trial in trials]
        width = max((max(runs, default=first_seed - 1) for runs in found), default=first_seed - 1) + 1 - first_seed
        values = np.full((len(trials), max(1, width)), np.nan)
        for place, (trial, runs) in enumerate(zip(trials, found, strict=True)):
            for index, run in runs.items():
                if index >= first_seed:
                    values[place, index - first_seed] = self.loss(trial, run)
        if self.overlap is not None:
            return Runs(values, overlap=self.overlap)
        known = {
            (place, index - first_seed): rows
            for place, trial in enumerate(trials)
            for index, run in found[place].items()
            if index >= first_seed and (rows := self._rows_of(trial, index, run)) is not None
        }
        if not known:
            return Runs(values)
        rows = np.full((*values.shape, next(iter(known.values())).size), np.nan, dtype=np.float32)
        for where, of_run in known.items():
            rows[where] = of_run if of_run.size == rows.shape[2] else np.nan
        return Runs(values, rows, groups=self.related)

    def _rows_of(self, trial: Trial, index: int, run: Execution) -> Array | None:
        """Row losses of a fresh run; where they were not kept, the search's own stand in for them.

        They hold one run's noise, which does not average out over seeds that all borrow it: a pair needs more to be
        told apart, never less.
        """
        own, loss = self._of_fresh(trial, index), self.loss(trial, run)
        borrowed = self._first_rows(trial) if own is None and math.isfinite(loss) else None
        return own if borrowed is None else (borrowed + np.float32(loss - borrowed.mean(dtype=np.float64)))

    def _of_fresh(self, trial: Trial, index: int, phase: str = RACE) -> Array | None:
        if self.overlap is not None:  # each seed has rows of its own: they are not compared
            return None
        run = trial.executions_of(phase)[index]
        kept = self._kept(trial, phase, index)
        loss = self.loss(trial, run)
        return None if kept is None or not math.isfinite(loss) else self._signed(kept, loss)

    def _kept(self, trial: Trial, phase: str, index: int) -> RowLosses | None:
        key = trial.trial_id, phase, index
        # Files of runs that are being trained come later: what is not there yet is asked for again.
        if self._rows.get(key) is None and self._archive is not None:
            self._rows[key] = self._archive.losses(*key)
        return self._rows.get(key)

    def _signed(self, kept: RowLosses, loss: float) -> Array | None:
        """Rows as losses, around a run's loss."""
        objective = self.oracle.objective
        # Runs are compared row by row: those of a process that had other rows know nothing of these.
        self._rows_are = self._rows_are or kept.rows_are
        if kept.rows_are != self._rows_are or (self.related is not None and kept.rows.size != self.related.size):
            return None
        rows = at_value(kept, objective.value(loss), penalised=objective.name == "val_loss")
        if rows is None:  # of another metric than the objective: its scale says nothing here
            return None
        self._scale = self._scale or Scale(kept.scale)
        return -rows if objective.direction == "max" else rows

    # What is known of a trial from all its runs ------------------------------------------------------------------

    @property
    def scale(self) -> Scale:
        """On which scale intervals of the objective are symmetric, as the rows that were asked for have told."""
        return self._scale or Scale.PLAIN

    def searched_loss(self, trial: Trial) -> float:
        """A trial's loss by the search, each run at its best epoch without that epoch's luck."""
        losses = [loss for loss, _ in self.of_search(trial)]
        return float(np.mean(losses)) if losses else math.inf

    def searched_rows(self, trials: Sequence[Trial]) -> Array | None:
        """(trials, rows) losses of one run of those trials whose predictions were kept; None: of fewer than two."""
        found: list[Array] = []
        for trial in trials:
            rows = self._first_rows(trial)
            found += [] if rows is None else [rows]
            # So many know the rows' luck well enough; the best come first, and the hopeless say least of it.
            if sum(each.size for each in found) > _MOST_NUMBERS and len(found) > 1:
                break
        most = max((rows.size for rows in found), default=0)
        same = [rows for rows in found if rows.size == most]
        return np.stack(same) if len(same) > 1 else None

    def _first_rows(self, trial: Trial) -> Array | None:
        return next((rows for _, rows in self.of_search(trial) if rows is not None), None)

    def measured(self, trial: Trial, *, searched: bool = True) -> Measured | None:
        """All runs of a trial: the search's first, then the fresh ones; None where none has a score.

        Args:
            trial: that is measured.
            searched: whether the search trained it to the end, so that its runs count.
        """
        fresh = [
            (self.loss(trial, run), self._of_fresh(trial, index, phase))
            for phase in (RACE, PROOF)
            for index, run in sorted(self.executions(trial, phase).items())
        ]
        of_search = self.of_search(trial) if searched else []
        runs = [(loss, rows) for loss, rows in [*of_search, *fresh] if math.isfinite(loss)]
        if not runs:
            return None
        values = np.array([loss for loss, _ in runs])
        known = [rows for _, rows in runs if rows is not None]
        if not known or self.overlap is not None:
            return Measured(values)
        size = known[-1].size
        table = [rows if rows is not None and rows.size == size else np.full(size, np.nan) for _, rows in runs]
        return Measured(values, np.stack(table))

    def proof(self, trial: Trial) -> Measured | None:
        """The further runs of a recommended trial; None where none has a score."""
        found = sorted(self.executions(trial, PROOF).items())
        runs = [(self.loss(trial, run), self._of_fresh(trial, index, PROOF)) for index, run in found]
        runs = [(loss, rows) for loss, rows in runs if math.isfinite(loss)]
        known = [rows for _, rows in runs if rows is not None]
        whole = len(known) == len(runs) > 0 and self.overlap is None
        return Measured(np.array([loss for loss, _ in runs]), np.stack(known) if whole else None) if runs else None

    def of_search(self, trial: Trial) -> list[tuple[float, Array | None]]:
        """Loss and row losses of each run of the search; all folds of a trial are one run, on all rows."""
        if trial.trial_id not in self._searched:
            self._searched[trial.trial_id] = self._of_search(trial)
        return self._searched[trial.trial_id]

    def _of_search(self, trial: Trial) -> list[tuple[float, Array | None]]:
        if trial.num_rows is not None:
            return []  # a training on a part of the rows is no evidence of what the configuration does on all of them
        runs = {index: run for index, run in sorted(trial.executions.items()) if run.ending.has_score}
        if not runs:
            loss = self.oracle.objective.loss(trial.score)
            return [(loss, None)] if math.isfinite(loss) else []
        smooth = {index: self._smoothed(run) for index, run in runs.items()}
        scores = {index: self.oracle.objective.loss(run.score) for index, run in runs.items()}
        # A row that several folds held out is predicted by all of them: one run on all rows.
        groups = [list(runs)] if trial.validation_ratio is not None else [[index] for index in runs]
        found = []
        for group in groups:
            loss = float(np.mean([smooth[index] for index in group]))
            rows = self._from_predictions(trial, group, float(np.mean([scores[index] for index in group])))
            moved = None if rows is None else (rows + np.float32(loss - rows.mean(dtype=np.float64)))
            found.append((loss, moved))
        return found

    def _smoothed(self, run: Execution) -> float:
        """At the best epoch without its luck: the lowest of many is too good."""
        objective = self.oracle.objective
        curve = objective.epoch_losses(run.history) if set(objective.names) <= set(run.history) else []
        best = loss_at_best(curve) if curve else math.nan
        return best if math.isfinite(best) else objective.loss(run.score)

    def _from_predictions(self, trial: Trial, executions: Sequence[int], score: float) -> Array | None:
        """Row losses from the predictions that the search kept, around its score; None where they are not its."""
        if self._archive is None:
            return None
        self._labels = self._labels or self._archive.labels()
        kept = self._archive.get(trial.trial_id, executions) if self._labels is not None else None
        if kept is None or self._labels is None or not isinstance(self._labels.y, np.ndarray):
            return None
        y, value = self._labels.y[kept.rows], self.oracle.objective.value(score)
        found = [
            losses
            for metric in self._candidates()
            if (losses := losses_of_predictions(metric, y, kept.predictions, rows_are=name_of_rows(kept.row_ids)))
        ]
        # A `val_loss` may hold a penalty on the weights, so a metric that is smaller may be it: the nearest is.
        for losses in sorted(found, key=lambda each: abs(each.value - value)):
            if (rows := self._signed(losses, score)) is not None:
                return rows
        return None

    def _candidates(self) -> tuple[str, ...]:
        """Metrics that the objective may be: what it is called, or what a `val_loss` was found to be."""
        plain = metric_name(self.oracle.objective.name)
        if plain is not None:
            return (plain,)
        known = {rows.metric for rows in self._rows.values() if rows is not None and rows.metric}
        return tuple(known) or ("log_loss", "mse", "mae")
