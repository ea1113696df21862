"""What a tuner of Keras models does after its search: confirm, retrain, ensemble, evaluate, export.

The steps themselves stand in `finish/` and `ensemble/`, which know no tuner. Here they get what they work on: the
trials, the data of the latest search, a trainer, the models that were kept. The methods that users call, with what they
take and return, are documented at `Tuner`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import keras
import numpy as np

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.data.arguments import check_retrain
from manyfit.data.folds import FoldPlan
from manyfit.data.rows import FitData, Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import model_predictions
from manyfit.finish import confirm as confirming
from manyfit.finish import cross_validation as crossing
from manyfit.finish import evaluation as evaluating
from manyfit.finish import export as exporting
from manyfit.finish import retrain as retraining
from manyfit.oracles import Trial
from manyfit.report.confirmation import Confirmation
from manyfit.store import ProjectStore
from manyfit.training.base import Permissions, Task, Trainer
from manyfit.training.model_options import ModelOptions
from manyfit.training.precision import sentence
from manyfit.tuners import ensembling
from manyfit.tuners.together import LatestSearch

SaveTo: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""Where models are saved: a folder, a path that ends in `.keras`, one such path per model, or nowhere."""

Named: TypeAlias = Mapping[str, Any]
"""Keras models, estimators or ensembles by the name that tables show."""


@dataclasses.dataclass(frozen=True)
class Training:
    """How a tuner trains what is not part of its search."""

    make_task: Callable[..., Task]  # (fit_args, fit_kwargs, model options or None for the tuner's)
    trainer: Callable[[], Trainer]  # of whole data sets
    trainer_for: Callable[[Task], Trainer]  # one that follows the task's folds


@dataclasses.dataclass(frozen=True)
class RetrainSettings:
    """How `retrain` trains: see `Tuner.retrain`.

    Raises:
        UsageError: `executions` below 1.
    """

    epochs_factor: float = 1.2
    executions: int = 1
    callbacks: list[Any] | None = None
    stretch_schedules: bool = True
    save_best: SaveTo = None

    def __post_init__(self) -> None:
        whole_number("retrain(executions=...)", self.executions, instead="Leave it out for 1.")


class FinishedTuner(ensembling.SearchedTuner, Protocol):
    """What finishing asks of a tuner; `Tuner` is one. These are methods that users may have overridden."""

    store: ProjectStore
    model_options: ModelOptions
    latest_search: LatestSearch | None

    def searched_task(self, where: str) -> Task:
        """The task of the latest search."""

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials."""

    def retrain(self, top: int | Sequence[str], *, executions: int, **options: Any) -> list[Any]:
        """Trains configurations anew."""


class Finish:
    """The part of a tuner that begins where the search ends.

    Args:
        tuner: whose models and trials these are.
        training: how it trains.
        say: takes one line of text for people.

    Attributes:
        final: by name, what was made last by `retrain` or `ensemble`: what `evaluate` and `export` take by default.
    """

    def __init__(self, tuner: FinishedTuner, training: Training, say: Callable[[str], None]) -> None:
        self.final: dict[str, Any] = {}
        self._tuner = tuner
        self._oracle = tuner.oracle
        self._training = training
        self._say = say
        self.project = ensembling.SearchedProject(tuner, self._retrain_for_ensemble)

    def confirm(
        self,
        top: int,
        settings: confirming.ConfirmSettings,
        *,
        cross_validation: object,
        new_splits: bool,
    ) -> Confirmation:
        """See `Tuner.confirm`."""
        trials = confirming.finalists(self._oracle, top)
        task, protocol = crossing.resplit(
            self._tuner.searched_task("confirm()"), cross_validation, new_splits, self._oracle.seed
        )
        trainer = self._training.trainer_for(task)
        layout = self._tuner.store.layout
        return confirming.confirm(trials, self._oracle, task, trainer, settings, layout=layout, protocol=protocol)

    def retrain(
        self,
        top: int | Sequence[str],
        x: FitData,
        y: FitData,
        *,
        settings: RetrainSettings,
        model_options: Mapping[str, Any],
        fit_kwargs: Mapping[str, Any],
    ) -> list[keras.Model]:
        """See `Tuner.retrain`.

        Two tasks take part: that of the search tells where curves that were cut short have their best epoch, on the
        rows that were validated then; the other trains on all rows, where nothing is left to be ranked or stopped by.
        """
        check_retrain(top, x, y)
        trials = self._trials_to_retrain(top)
        latest = self._tuner.latest_search
        searched = self._training.make_task((), {}) if latest is None else latest.task
        # Without a search in this process there are no data to join: then x and y have to be given.
        call = retraining.call_for_all_data(searched.call, x, y, settings.callbacks)
        options = self._tuner.model_options.replaced(**model_options)
        precision = model_options.get("precision")
        if precision is not None and (said := sentence(precision)):
            self._say(said)
        # None, where nothing was changed: the compiled programs of the search serve again.
        own = None if options == self._tuner.model_options else options
        task = dataclasses.replace(
            self._training.make_task(call.args, {**call.kwargs, **fit_kwargs}, own),
            objective=None, max_model_size=None, callbacks=None,
            may=Permissions(share_callbacks=searched.may.share_callbacks),
        )  # fmt: skip
        retraining.train_longer(trials, self._oracle, searched, self._training.trainer_for(searched), say=self._say)
        # With `trainer` and not `trainer_for`: there are no folds on all rows, and its programs are there already.
        models = retraining.retrain(
            retraining.candidates_of(trials, self._oracle.seed, settings.executions),
            task,
            self._training.trainer(),
            epochs_factor=settings.epochs_factor,
            steps_ratio=retraining.steps_ratio(searched.call, task.call) if settings.stretch_schedules else None,
        )
        self._take_retrained(models, trials, settings)
        return models

    def _trials_to_retrain(self, top: int | Sequence[str]) -> list[Trial]:
        if isinstance(top, Sequence):
            trials = [self._oracle.get_trial(trial_id) for trial_id in top]
        else:
            trials = self._oracle.get_best_trials(top)
        if not trials:
            raise UsageError(
                explain(
                    "retrain()", "a project without completed trials", "at least one", "Call tuner.search(...) first."
                )
            )
        return trials

    def _take_retrained(self, models: Sequence[Any], trials: Sequence[Trial], settings: RetrainSettings) -> None:
        """Notes where models come from, makes them the final ones, and saves them if that was asked for."""
        executions = settings.executions
        origins = [trial.trial_id for trial in trials for _ in range(executions)]
        self._tuner.model_origins.update(zip(models, origins, strict=True))
        names = [f"trial {trial_id}" for trial_id in origins]
        if executions > 1:
            names = [f"{name} ({number % executions + 1})" for number, name in enumerate(names)]
        self.final = dict(zip(names, models, strict=True))
        if settings.save_best is not None:
            files = [name.replace("(", "").replace(")", "").replace(" ", "-") for name in names]
            retraining.save_models(models, files, settings.save_best)

    def _retrain_for_ensemble(self, trial_ids: Sequence[str], *, executions: int, **options: Any) -> list[Any]:
        """Retrains members of an ensemble. They belong to it: the final models of the tuner stay those of before."""
        # `retrain` is called on the tuner, and not on this part: a subclass may have overridden it.
        made_before = self.final
        models = self._tuner.retrain(trial_ids, executions=executions, **options)
        self.final = made_before
        return models

    def ensemble(
        self,
        models: Sequence[Any] | None,
        x: FitData,
        y: FitData,
        *,
        others: Sequence[ensembling.SearchedProject],
        options: Mapping[str, Any],
    ) -> Ensemble:
        """See `Tuner.ensemble`.

        What the search kept is asked first: it costs nothing and needs no data. Only where nothing was kept, or where
        the caller names models or rows, are models loaded and asked to predict.
        """
        options = {"seed": self._oracle.seed, **options}
        ensemble = None
        if x is None and models is None:
            ensemble = ensembling.ensemble_of_searches([self.project, *others], **options)
        elif others:
            got = "models= or x= besides"
            raise UsageError(
                explain("ensemble(others)", got, "the predictions that searches kept", "Leave models, x and y out.")
            )
        if ensemble is None:
            # Five: more models are more to load and to predict with, for less and less gain.
            models = self._tuner.get_best_models(5) if models is None else list(models)
            predictions, y, weight = self._predictions_of(models, x, y)
            options = {"sample_weight": weight, **options}
            ensemble = Ensemble.fit(predictions=predictions, y=y, models=models, **options)
            origins = [(self.project, self._tuner.model_origins[model]) for model in models]
            ensemble = ensemble.with_retrainer(ensembling.retrainer_of(origins))
        self.final["ensemble"] = ensemble
        return ensemble

    def _predictions_of(
        self, models: Sequence[Any], x: FitData, y: FitData
    ) -> tuple[Mapping[str, np.ndarray], Any, Any]:
        """Predictions by search-time models on rows that they did not train on, with y and sample weights."""
        latest = self._tuner.latest_search
        if x is None:
            kept = ensembling.kept_predictions(self._tuner, models)
            if kept is not None:
                return kept
            # Rows of a fold were trained on by the other folds' models, so each is predicted by its own only.
            if latest is not None and latest.folds is not None:
                return self._out_of_fold_predictions(models, latest.task, latest.folds)
        task = None if latest is None else latest.task
        x, y, weight = Rows.of(x, y).read("ensemble(x)").parts if x is not None else ensembling.validation_data(task)

        def predict(trial_id: str) -> np.ndarray:
            return model_predictions(self._tuner.load_model(self._oracle.get_trial(trial_id)), x, 1024)

        return ensembling.member_predictions(models, self._tuner.model_origins, predict), y, weight

    def _out_of_fold_predictions(
        self, models: Sequence[Any], task: Task, folds: FoldPlan
    ) -> tuple[Mapping[str, np.ndarray], Any, Any]:
        covered, y, weights = crossing.out_of_fold(folds, task.call)
        x = task.call.x

        def predict(trial_id: str) -> np.ndarray:
            trial = self._oracle.get_trial(trial_id)
            load = lambda execution: self._tuner.load_model(trial, execution)  # noqa: E731
            return crossing.predict_out_of_fold(folds, load, sorted(trial.executions), x, covered)

        return ensembling.member_predictions(models, self._tuner.model_origins, predict), y, weights

    def evaluate(
        self, x: FitData, y: FitData, models: object, *, confidence: float, options: Mapping[str, Any]
    ) -> evaluating.Evaluation:
        """See `Tuner.evaluate`."""
        named = self._named_models(models)
        return evaluating.evaluate(named, x, y, self._tuner.store, confidence=confidence, **options)

    def export(self, folder: str | os.PathLike[str], model: exporting.Savable | None, *, overwrite: bool) -> Path:
        """See `Tuner.export`."""
        if model is None:
            named = self._named_models(None)
            model = named.get("ensemble", next(iter(named.values())))
        trials = [self._oracle.get_trial(trial_id) for trial_id in self._trials_in(model)]
        uses = evaluating.test_uses(self._tuner.store)
        return exporting.export(folder, model, trials, self._oracle, test_uses=uses, overwrite=overwrite)

    def _named_models(self, models: object) -> Named:
        """Names for a model, a list of them or a mapping; None: what was made last, else the search's best."""
        origins = self._tuner.model_origins
        if models is None:
            return self.final or {f"trial {origins[one]}": one for one in self._tuner.get_best_models(1)}
        if isinstance(models, Mapping):
            return dict(models)
        several = list(models) if isinstance(models, list | tuple) else [models]
        known = [one in origins if isinstance(one, keras.Model) else False for one in several]
        names = [
            f"trial {origins[one]}" if of_trial else type(one).__name__.lower()
            for one, of_trial in zip(several, known, strict=True)
        ]
        return {
            name if names.count(name) == 1 else f"{name} ({number + 1})": one
            for number, (name, one) in enumerate(zip(names, several, strict=True))
        }

    def _trials_in(self, model: object) -> list[str]:
        """The trials whose configurations a model was made of: of an ensemble, those of its members with weight.

        Raises:
            UsageError: a model that this tuner did not make.
        """
        origins = self._tuner.model_origins
        if isinstance(model, Ensemble):
            parts = [one for name, one in zip(model.weights, model.members, strict=True) if model.weights[name] > 0]
            ids = [origins.get(one) for member in parts for one in member.models]
        else:
            ids = [origins.get(model)]
        if None in ids:
            raise UsageError(
                explain(
                    "export(model)",
                    "a model that this tuner did not make",
                    "one from tuner.retrain(), tuner.get_best_models() or tuner.ensemble()",
                    "Save other models with model.save(path).",
                )
            )
        return list(dict.fromkeys(trial_id for trial_id in ids if trial_id is not None))
