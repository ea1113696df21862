"""A winner on disk at every moment of a `fit`: whatever ends the process, the best model so far is there.

While trials train, the best epoch of all is what stands: of one run per configuration (the first), so that folds that
are easier than others are not compared with them. It is written at once, and again whenever a better one comes: as
weights at most every ten seconds, as a whole Keras file from a minute on and at most every 5 % of the limit, and
neither sooner than a share of the time allows. What a later phase has come to with better evidence is put in its place,
and no single epoch replaces that.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core.objective import Objective
from manyfit.core.records import Values
from manyfit.ensemble.evaluating import compiled_like
from manyfit.fitting import winner_files
from manyfit.fitting.card import WinnerCard, values_in_words
from manyfit.fitting.record import FitRecord
from manyfit.fitting.winner import Winner
from manyfit.fitting.winner_files import ENSEMBLE, WinnerFacts
from manyfit.oracles import Trial
from manyfit.training.base import BestEpoch, Bookkeeping
from manyfit.training.copies import copy_model
from manyfit.training.seeding import seeded

MOST_SHARE = 0.01
"""Of the time of a `fit` that may go into keeping its winner on disk."""

_WEIGHTS_SECONDS = 10.0
_WHOLE_SHARE = 0.05  # of the limit, between two whole Keras files
_WITHOUT_LIMIT = 60.0  # seconds between them, where there is no limit
# What the first whole file takes, as far as anybody knows: the model is copied in Python beside whatever compiles.
# Before a share of the time has paid for that, weights have to do, which take a hundredth of it.
_FIRST_WHOLE_SECONDS = 0.3
_WHOLE, _WEIGHTS, _PICKLE = "winner.keras", "winner.npz", "winner.pickle"


class Pace:
    """When something may be written again: an interval after the last time, longer where it was dear.

    Args:
        interval: seconds between two times, at least.
        share: of the time that may go into it.
        first: when it may be written for the first time; None: at once.

    Example:

    >>> pace = Pace(10.0, share=0.01)
    >>> pace.is_due(0.0)
    True
    >>> pace.note(0.0, seconds=0.5)  # so it takes 50 s until it is 1 %
    >>> pace.is_due(20.0), pace.is_due(50.0)
    (False, True)
    """

    def __init__(self, interval: float, *, share: float, first: float | None = None) -> None:
        self._interval, self._share = interval, share
        self._next = -math.inf if first is None else first

    def is_due(self, at: float) -> bool:
        """Whether it may be written at this time."""
        return at >= self._next

    def note(self, at: float, *, seconds: float) -> None:
        """Takes down that it was written at a time, and how long that took."""
        self._next = at + max(self._interval, seconds / self._share)


@dataclasses.dataclass(frozen=True, eq=False)
class Best:
    """The best model of a search so far.

    Attributes:
        loss: of the objective; lower is better.
        trial_id: whose configuration it has.
        values: that configuration.
        model: its Keras model, whose variables may be out of date, or an estimator.
        weights: fetches its weights; None: they are in the model.
        after: how long it has trained, in words.
    """

    loss: float
    trial_id: str
    values: Values
    model: Any
    weights: Callable[[], Sequence[Any]] | None
    after: str = ""

    @classmethod
    def of_epoch(cls, found: BestEpoch) -> Best:
        """An epoch of a run that may still be going on."""
        values: Values = getattr(found.plan.values, "values", {})
        epochs = "1 epoch" if found.num_epochs == 1 else f"{found.num_epochs} epochs"
        rows = "" if found.plan.num_rows is None else f" of {found.plan.num_rows:,} of the rows"
        return cls(found.loss, found.plan.trial_id, values, found.model, found.weights, f" after {epochs}{rows}")


class Standing:
    """Keeps the best model of a `fit` on disk, and is told of epochs by whoever trains (`Task.watch`).

    Args:
        folder: of the project's winner; what stands there from an earlier call stays until something is better.
        objective: what is compared.
        max_seconds: the limit of the call; None: there is none.
        phases: seconds of each phase so far.
        say: takes one line of text, once for each kind of thing that could not be kept.
        now: a time in seconds that never goes back.

    Attributes:
        seconds: that went into keeping it while trials trained.
        best: the best model that was seen by this object; None: none, or something else stands.
    """

    def __init__(
        self,
        folder: Path,
        objective: Objective,
        *,
        max_seconds: float | None,
        phases: Callable[[], Mapping[str, float]],
        say: Callable[[str], None],
        now: Callable[[], float] | None = None,
    ) -> None:
        self._folder, self._objective, self._phases, self._now = folder, objective, phases, now or time.monotonic
        self._aside, self._record = Bookkeeping(say), FitRecord(folder)
        between = _WITHOUT_LIMIT if max_seconds is None else _WHOLE_SHARE * max_seconds
        share = MOST_SHARE / 2
        self._whole = Pace(between, share=share, first=self._now() + _FIRST_WHOLE_SECONDS / share)
        self._weights = Pace(_WEIGHTS_SECONDS, share=share)
        found = winner_files.latest(folder)
        self._number = 0 if found is None else found[1].number
        # What has better evidence than an epoch is not replaced by one.
        self._loss = math.inf if found is None else -math.inf if found[1].loss is None else found[1].loss
        self._told: set[str] = set()
        self._is_written = True  # whether `best` is on the disk
        self._copy: tuple[Any, keras.Model] | None = None
        self.best: Best | None = None
        self.seconds = 0.0

    def epochs_ended(self, found: Sequence[BestEpoch]) -> None:
        """Takes the epochs that are the best of their executions: see `Task.watch`."""
        for one in found:
            if one.plan.phase == "search" and one.plan.execution == 0:
                self._told.add(one.plan.trial_id)
                self._take(Best.of_epoch(one))
        self._write_if_due()
        self.note()

    def trial_ended(self, trial: Trial, load: Callable[[Trial], Any]) -> None:
        """Takes a trial of whose epochs nobody has told: one of an executor, or that the user's own code has run.

        Args:
            trial: that has ended.
            load: brings its model back.
        """
        loss = math.inf if trial.score is None or not trial.is_completed else self._objective.loss(trial.score)
        if trial.trial_id not in self._told and loss < self._loss:
            with self._aside.keeping("the best models so far"):
                self._take(Best(loss, trial.trial_id, trial.hyperparameters.values, load(trial), None))
        self._write_if_due()
        self.note()

    def _take(self, best: Best) -> None:
        if best.loss < self._loss:
            self.best, self._loss, self._is_written = best, best.loss, False

    def put(self, winner: Winner) -> None:
        """Keeps what a phase has come to, on better evidence than that of single epochs, in place of what stood."""
        with self._aside.keeping("winners"):
            facts = dataclasses.replace(winner.facts, number=self._number + 1)
            # An ensemble as a folder, always: to build one model of many takes longer than to write them.
            model = None if winner.ensemble is not None else winner.model
            predictor = winner.ensemble if winner.ensemble is not None else winner.estimator
            path = self._folder / (_WHOLE if winner.ensemble is None else f"{ENSEMBLE}{facts.number}")
            path = winner_files.save(path, model, predictor, facts)
            self._number, self._loss, self.best, self._is_written = facts.number, -math.inf, None, True
            self._remove_all_but(path)

    def _remove_all_but(self, path: Path) -> None:
        """Removes what stood before: nobody shall take it for the winner."""
        for name in (_WHOLE, _WEIGHTS, _PICKLE):
            if name != path.name:
                (self._folder / name).unlink(missing_ok=True)
        for old in self._folder.glob(f"{ENSEMBLE}*"):
            if old != path and old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)

    def note(self, *, finished: bool | None = None) -> None:
        """Notes the seconds that were spent so far, for a process that goes on: see `FitRecord.note`."""
        self._record.note(self._phases(), at=self._now(), finished=finished, keeping=self.seconds)

    def flush(self) -> None:
        """Writes what is not on the disk yet, whatever it takes: the process may end."""
        self._write_if_due(at_once=True)

    def predictor(self) -> Any:
        """The best model so far, ready to predict; None: this object has seen none."""
        best = self.best
        if best is None or not isinstance(best.model, keras.Model):
            return None if best is None else best.model
        return self._model_of(best, self._fetched(best))

    # Writing -------------------------------------------------------------------------------------------------------

    def _write_if_due(self, *, at_once: bool = False) -> None:
        begun = self._now()
        best = self.best
        is_whole = at_once or self._whole.is_due(begun) or not isinstance(getattr(best, "model", None), keras.Model)
        if best is None or self._is_written or not (is_whole or self._weights.is_due(begun)):
            return
        self._is_written = True  # also where it cannot be: the next better one is tried again
        with self._aside.keeping("the best models so far"):
            self._write(best, is_whole=is_whole)
        seconds = self._now() - begun
        self.seconds += seconds
        self._weights.note(begun, seconds=seconds)
        if is_whole:
            self._whole.note(begun, seconds=seconds)

    def _write(self, best: Best, *, is_whole: bool) -> None:
        facts = self._facts(best)
        self._folder.mkdir(parents=True, exist_ok=True)
        if not isinstance(best.model, keras.Model):
            winner_files.save(self._folder / _PICKLE, None, best.model, facts)
        else:
            arrays = self._fetched(best)
            # Such weights predict nothing; their trial is going to end as diverged.
            if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
                return
            if is_whole:
                winner_files.write_keras(self._folder / _WHOLE, self._model_of(best, arrays), facts)
            else:
                winner_files.write_weights(self._folder / _WEIGHTS, best.model, arrays, facts)
        self._number = facts.number

    def _fetched(self, best: Best) -> list[np.ndarray]:
        found = best.model.get_weights() if best.weights is None else best.weights()
        return [np.asarray(array) for array in found]

    def _model_of(self, best: Best, arrays: Sequence[np.ndarray]) -> keras.Model:
        """A copy of the model that has these weights: the model itself goes on training."""
        if self._copy is None or self._copy[0] is not best.model:
            with seeded(0):  # layers that are made draw from the user's generators
                self._copy = best.model, compiled_like(copy_model(best.model), best.model)
        self._copy[1].set_weights(list(arrays))
        return self._copy[1]

    def _facts(self, best: Best) -> WinnerFacts:
        return WinnerFacts(self.card(best), number=self._number + 1, loss=best.loss)

    def card(self, best: Best) -> WinnerCard:
        """What is told of the best model of a search that goes on."""
        is_keras = isinstance(best.model, keras.Model)
        kind = f"a Keras model with {best.model.count_params():,} parameters" if is_keras else type(best.model).__name__
        values = values_in_words(best.values) or "the defaults"
        score = f"{self._objective.name} {self._objective.value(best.loss):.4g}{best.after}"
        return WinnerCard(
            f"{kind}, trial {best.trial_id}: {values}.",
            (f"{score}, the best of a search that was still going on: too good, by an unknown amount.",),
            dict(self._phases()),
            "interrupted",
            ("It was kept while the search went on: nothing was confirmed.",),
        )
