"""The `Winner`: what `fit` returns, and `load_winner`, which brings one back in another process."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.untrusted import shown
from manyfit.data.kinds import FitData
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import is_keras, model_predictions
from manyfit.ensemble.outputs import Prediction
from manyfit.finish import evaluation as evaluating
from manyfit.finish.artefacts import Artefacts, weights_hash
from manyfit.finish.evaluation import Evaluation
from manyfit.finish.prediction_table import PredictionTable
from manyfit.finish.submitting import submission
from manyfit.fitting import winner_files
from manyfit.fitting.card import WinnerCard
from manyfit.fitting.describing import FittedSearch, described, quality_of
from manyfit.fitting.winner_files import WinnerFacts
from manyfit.report.confirmation import Confirmation

if TYPE_CHECKING:  # loaded with the model, by whoever made it
    import keras

MOST_FUSED_BYTES = 1 << 30
"""Of the weights of an ensemble that becomes one Keras model: what is larger stays a folder with a file per model."""


class Winner:
    """The best model that a `fit` came to, ready to predict; print it.

    Args:
        model: a Keras model or an estimator.
        ensemble: several models as one; where there is one, it is what predicts.
        confirmation: of the finalists on fresh seeds; None: there was no time for one.
        search: the tuner.
        time: seconds of each phase, in order.
        ended_by: "time", "trials", "space", "schedule", "failures", "nothing better", "stopped" or "interrupted".
        reasons: what was chosen and why, in the order in which it was.

    Attributes:
        ensemble: the ensemble, or None.
        estimator: an estimator that is the winner by itself, or None.
        confirmation: as given.
        search: the tuner; None for a winner that was loaded from its file.
        time: as given.
        ended_by: as given.
        reasons: as given.
        card: what is printed.

    Raises:
        UsageError: neither a model nor an ensemble, or an unknown reason for the end.

    Example:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> winner = Winner(model=model, time={"search": 3.0}, ended_by="trials")
    >>> print(winner)
    Winner: a Keras model with 3 parameters.
    How good it is, nobody has measured yet: call winner.evaluate(x_test, y_test).
    Time: search 3.0 s (100 %); 3.0 s in all. It ended because max_trials was reached.
    """

    def __init__(
        self,
        *,
        model: Any = None,
        ensemble: Ensemble | None = None,
        confirmation: Confirmation | None = None,
        search: FittedSearch | None = None,
        time: Mapping[str, float] = MappingProxyType({}),
        ended_by: str = "time",
        reasons: Sequence[str] = (),
    ) -> None:
        if model is None and ensemble is None:
            raise UsageError(explain("Winner", "neither a model nor an ensemble", "one of them", "Give model=..."))
        self.ensemble, self.confirmation, self.search = ensemble, confirmation, search
        self.time, self.ended_by, self.reasons = MappingProxyType(dict(time)), ended_by, tuple(reasons)
        self.estimator = None if ensemble is not None or is_keras(model) else model
        self._predictor = model if ensemble is None else ensemble
        # Now, and not when it is printed: what the project comes to know later is not of this winner.
        quality = quality_of(self._predictor, confirmation, search)
        self.card = WinnerCard(described(self._predictor, search), quality, dict(time), ended_by, self.reasons)
        # Of a winner without its project: looks at test rows are counted as long as it lives.
        self._facts = InMemory({})

    @functools.cached_property
    def model(self) -> keras.Model | None:
        """One Keras model that predicts what the winner does; None for estimators and what is too large to be one.

        An ensemble of Keras models is built into one when this is asked for first. Its answers are probabilities, where
        its members answer with logits.
        """
        if self.ensemble is None:
            return self._predictor if is_keras(self._predictor) else None
        used = [self.ensemble.members[index] for index in self.ensemble.pool.support]
        if sum(member.num_bytes for member in used) > MOST_FUSED_BYTES:
            return None
        try:
            fused = self.ensemble.to_keras()
        except UsageError:  # estimators among them, or members that take different inputs
            return None
        if self.search is not None:  # so that looks at test rows with it are looks with the ensemble
            artefacts = Artefacts(self.search.store)
            artefacts.note_file(weights_hash(fused), artefacts.of(self.ensemble))
            self.search.counted(fused)
        return fused

    def predict(self, x: FitData, *, batch_size: int = 1024) -> Prediction:
        """Predicts rows.

        Args:
            x: rows, as the models take them.
            batch_size: rows per batch.

        Returns:
            (n, C) in float32: values, or probabilities, also where a model was compiled with a loss that takes logits.
            (n, ..., C) for models that answer for every pixel or step, a list or a dictionary for several outputs.
        """
        if self.ensemble is not None:
            return self.ensemble.predict(x, batch_size=batch_size)
        return model_predictions(self._predictor, x, batch_size)

    def submission(self, x: FitData = None, *, ids: Any = None) -> PredictionTable:
        """What it says of the rows to be answered, as a table: print it, `.to_csv(path)`, `.to_frame()`.

        Args:
            x: rows; None: those of `fit(predict=...)`.
            ids: a name for each row; None: the index of their frame, or 0, 1, 2, ...

        Returns:
            A `PredictionTable`: `row_id`, and a column for each output; columns of classes bear their names.

        Raises:
            UsageError: no rows; ids of another number, there twice or missing.
        """
        return submission(self._predictor, self.search, x, ids, classes=self.facts.classes)

    def to_frame(self, x: FitData = None, *, ids: Any = None) -> Any:
        """`submission` as a `pandas.DataFrame`.

        Raises:
            UsageError: see `submission`.
            ImportError: pandas is not installed: `pip install manyfit[pandas]`, or `submission(...).to_csv(path)`.
        """
        return self.submission(x, ids=ids).to_frame()

    def evaluate(self, x: FitData, y: FitData = None, **options: Any) -> Evaluation:
        """The held-out score. Call it once, at the end: it counts as a look at test rows (see `Tuner.evaluate`).

        Args:
            x: test rows.
            y: their targets.
            **options: of `Tuner.evaluate`: `groups`, `confidence`, `batch_size`, `sample_weight`.

        Returns:
            An `Evaluation` with an interval for each metric: print it, or read `evaluation["accuracy"]`.

        Raises:
            UsageError: no rows, or x and y of different length.
        """
        named: dict[str, Any] = {"winner": self._predictor}
        if self.search is not None:
            return self.search.evaluate(x, y, models=named, **options)
        return evaluating.evaluate(named, x, y, self._facts, **options)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Saves it, with what is printed of it, for `load_winner`.

        Args:
            path: `something.keras` for one Keras model, which `keras.saving.load_model` loads without Manyfit. A path
                without an ending: a `.keras` file where it can be one, else a folder with a file per model. An
                estimator becomes a `.pickle` file, whatever the ending.

        Returns:
            Where it lies.

        Raises:
            UsageError: a `.keras` file was asked for, and it cannot be one Keras model.
            ProjectError: the disk is full or cannot be written to.
        """
        return winner_files.save(Path(path), self.model, self._predictor, self.facts)

    @property
    def facts(self) -> WinnerFacts:
        """What is kept of it beside its models."""
        classes = None if self.search is None else self.search.store.get("classes")
        return WinnerFacts(self.card, self.confirmation, self._facts.get("classes") if classes is None else classes)

    @classmethod
    def of_files(cls, predictor: Any, kept: WinnerFacts | None) -> Winner:
        """A winner that was saved, without its project; `kept` is None for a model that somebody else saved."""
        is_ensemble = isinstance(predictor, Ensemble)
        whole = {"ensemble": predictor} if is_ensemble else {"model": predictor}
        if kept is None:
            return cls(**whole)
        facts = InMemory({} if kept.classes is None else {"classes": list(kept.classes)})
        return cls(**whole, confirmation=kept.confirmation).again(None, kept.card, facts)

    def again(self, search: FittedSearch | None, card: WinnerCard, facts: InMemory | None = None) -> Winner:
        """The same models, of a tuner or of none, and what is told of them."""
        same = Winner(
            model=None if self.ensemble is not None else self._predictor,
            ensemble=self.ensemble,
            confirmation=self.confirmation,
            search=search,
            time=card.time,
            ended_by=card.ended_by,
            reasons=card.reasons,
        )
        same.card, same._facts = card, facts or self._facts
        return same

    def __repr__(self) -> str:
        return shown(self.card.text())

    def _repr_html_(self) -> str:
        return self.card.page("" if self.confirmation is None else self.confirmation._repr_html_())


class InMemory:
    """Facts of a project, for a winner that has none: they are gone with it.

    Example:

    >>> facts = InMemory({})
    >>> facts.put(looks=1)
    >>> facts.get("looks"), facts.get("rows", 0)
    (1, 0)
    """

    def __init__(self, facts: dict[str, object]) -> None:
        self._facts = facts

    def get(self, name: str, default: object = None) -> Any:
        """A fact by its name."""
        return self._facts.get(name, default)

    def put(self, **facts: object) -> None:
        """Keeps facts."""
        self._facts.update(facts)


def load_winner(
    path: str | os.PathLike[str], *, trust: bool = False, custom_objects: Mapping[str, Any] | None = None
) -> Winner:
    """Brings back a winner that was saved, or that an interrupted `fit` has left in its project's folder.

    Neither project nor data have to be there; the build function need not be, either.

    Args:
        path: what `winner.save` returned, a `.keras` file, or the folder of a project (`directory/project_name`, or
            `directory` where one project lies in it).
        trust: load it whoever wrote it, and run whatever code is in it: pickles of estimators that you did not write on
            this machine, `Lambda` layers.
        custom_objects: classes and functions of your own by name; those registered with Keras need not be named.

    Returns:
        The winner; `winner.search` is None.

    Raises:
        UsageError: nothing is there, or a class that nobody knows; the message names it.
        ProjectError: a pickle of somebody else's, without `trust=True`.
    """
    predictor, kept = winner_files.load(Path(path), trust=trust, custom_objects=custom_objects)
    return Winner.of_files(predictor, kept)
