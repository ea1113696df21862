"""Ensembles of a tuner's models: what was kept is asked first, then models and rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.checks import check_names
from manyfit.core.errors import UsageError, explain
from manyfit.data.classes import Classes
from manyfit.data.folds import FoldPlan
from manyfit.data.kinds import FitData, is_nested
from manyfit.data.rows import Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import model_predictions
from manyfit.ensemble.outputs import Prediction
from manyfit.ensemble.outside import OutsidePredictions
from manyfit.finish import cross_validation as crossing
from manyfit.training.base import Task
from manyfit.tuners import ensembling
from manyfit.tuners.finished import FinishedTuner
from manyfit.tuners.keeping import ModelOrigins
from manyfit.tuners.options import CombineOptions
from manyfit.tuners.searched import SearchedProject


class Combining:
    """The part of a tuner that makes ensembles.

    Args:
        project: the tuner's, as an ensemble of several searches takes it.
        tuner: whose models and trials these are.

    Attributes:
        retrained: models that were trained anew, and not by the search: weights learned from the search's models are
            carried over to them.
    """

    def __init__(self, project: SearchedProject, tuner: FinishedTuner) -> None:
        self.retrained = ModelOrigins()
        self._project = project
        self._tuner = tuner
        self._oracle = tuner.oracle

    def ensemble(
        self,
        models: Sequence[Any] | None,
        x: FitData,
        y: FitData,
        *,
        others: Sequence[SearchedProject],
        outside: Sequence[OutsidePredictions] = (),
        options: Mapping[str, Any],
    ) -> Ensemble:
        """See `Tuner.ensemble`.

        What the search kept is asked first: it costs nothing and needs no data. Only where nothing was kept, or where
        the caller names models or rows, are models loaded and asked to predict.
        """
        options = {"seed": self._oracle.seed, **options}
        check_names("ensemble(...)", options, tuple(CombineOptions.__annotations__))
        if x is None and y is not None:
            instead = "Type ensemble(x=x_val, y=y_val)."
            raise UsageError(explain("ensemble(x, y)", "y without x", "both or neither", instead))
        if models is not None and not list(models):
            got, instead = "no models", "Leave models out for the best trials of the search."
            raise UsageError(explain("ensemble(models)", got, "one model or more", instead))
        ensemble, preferred = None, ensembling.metric_of(self._oracle.objective)
        if x is None and models is None:
            ensemble = ensembling.ensemble_of_searches(
                [self._project, *others], outside, preferred=preferred, **options
            )
        elif others or outside:
            got = "models= or x= besides"
            raise UsageError(
                explain("ensemble(others)", got, "the predictions that searches kept", "Leave models, x and y out.")
            )
        if ensemble is None:
            # Five: more models are more to load and to predict with, for less and less gain.
            models = self._tuner.get_best_models(5) if models is None else list(models)
            rows = self._predictions_of(models, x, y)
            known: dict[str, Any] = {"sample_weight": rows.sample_weight, "cuts": rows.cuts}
            # Weights of search-time models, for models that were trained anew.
            known["retrained"] = any(model in self.retrained for model in models)
            if preferred is not None and not is_nested(rows.y):
                known["metric"] = preferred
            ensemble = Ensemble.fit(predictions=rows.predictions, y=rows.y, models=models, **known | options)
            origins = [(self._project, self._tuner.model_origins[model]) for model in models]
            ensemble = ensemble.with_retrainer(ensembling.retrainer_of(origins))
        return ensembling.with_class_names(ensemble, self._tuner.store)

    def numbered(self, where: str, y: FitData) -> FitData:
        """Targets with numbers in place of names, where the classes of this project have names."""
        classes = Classes.of_project(self._tuner.store)
        return y if classes is None else classes.numbers(where, y)

    def _predictions_of(self, models: Sequence[Any], x: FitData, y: FitData) -> ensembling.LearnedFrom:
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
        y = self.numbered("ensemble(x, y)", y)

        def predict(trial_id: str) -> Prediction:
            return model_predictions(self._tuner.load_model(self._oracle.get_trial(trial_id)), x, 1024)

        return ensembling.LearnedFrom(
            ensembling.member_predictions(models, self._tuner.model_origins, predict), y, weight
        )

    def _out_of_fold_predictions(self, models: Sequence[Any], task: Task, folds: FoldPlan) -> ensembling.LearnedFrom:
        covered, y, weights = crossing.out_of_fold(folds, task.call)
        x = task.call.x

        def predict(trial_id: str) -> Prediction:
            trial = self._oracle.get_trial(trial_id)
            load = lambda execution: self._tuner.load_model(trial, execution)  # noqa: E731
            return crossing.predict_out_of_fold(folds, load, sorted(trial.executions), x, covered)

        predictions = ensembling.member_predictions(models, self._tuner.model_origins, predict)
        return ensembling.LearnedFrom(predictions, y, weights)
