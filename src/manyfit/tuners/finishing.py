"""What a tuner of Keras models does after its search: confirm, retrain, ensemble, evaluate, export. It forwards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.data.arguments import check_retrain
from manyfit.data.folds import FoldPlan
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import model_predictions
from manyfit.finish import confirm as confirming
from manyfit.finish import cross_validation as crossing
from manyfit.finish import evaluation as evaluating
from manyfit.finish import export as exporting
from manyfit.finish import retrain as retraining
from manyfit.oracles import Oracle, Trial
from manyfit.report.confirmation import Confirmation
from manyfit.store import ProjectStore
from manyfit.training.base import Permissions, Task, Trainer
from manyfit.training.model_options import ModelOptions
from manyfit.training.precision import sentence
from manyfit.tuners import ensembling
from manyfit.tuners.ensembling import member_predictions, validation_data


class Finishing:
    """The part of `Tuner` that begins where the search ends."""

    oracle: Oracle
    store: ProjectStore
    _task: Task | None  # of the latest search: its data are those of what follows
    model_options: ModelOptions
    _fold_plan: FoldPlan | None  # of the latest search
    _trial_of_model: MutableMapping[Any, str]
    _final: dict[str, Any]  # name -> model: what was made last by `retrain` or `ensemble`

    def confirm(
        self,
        top: int = 8,
        *,
        confidence: float = 0.95,
        max_executions: int | None = None,
        max_seconds: float | None = None,
        cross_validation: Any = None,
        new_splits: bool = False,
        **settings: Any,
    ) -> Confirmation:
        """Runs the best trials on fresh seeds, the same for all, until it is settled which of them may be the best.

        A race: who cannot win any more is dropped, and the runs go to who might. A fresh seed moves initial weights
        and the order of the data; `cross_validation` or `new_splits` moves the validation rows, too. Afterwards
        confirmed scores replace those of the search wherever trials are ranked or shown, and the recommended trial is
        the first that `get_best_hyperparameters`, `retrain` and the others take. A confirmation that was interrupted
        goes on where it was when it is called again.

        Args:
            top: how many finalists, the best by the score of the search.
            confidence: with which the winning set holds the best finalist.
            max_executions: training runs at most; None: as many as it takes, up to `max_rounds` per finalist.
            max_seconds: stop after so many seconds.
            cross_validation: `kt.CrossValidation(...)`, a number of folds or a splitter of scikit-learn: each seed
                comes with a fold of its own.
            new_splits: each seed comes with a fresh random split of training and validation rows.
            **settings: `max_rounds=30`, `proof_executions=5`, `keep_weights=False`: see
                `manyfit.finish.confirm.ConfirmSettings`.

        Returns:
            A `Confirmation`: print it.

        Raises:
            UsageError: nothing was searched in this process, the budget is too small, or folds do not fit the rows.
            SearchError: every run of every finalist failed.
        """
        options = confirming.ConfirmSettings(confidence, max_executions, max_seconds, **settings)
        trials = confirming.finalists(self.oracle, top)
        task, protocol = crossing.resplit(
            self._searched_task("confirm()"), cross_validation, new_splits, self.oracle.seed
        )
        trainer = self._trainer_for(task)
        return confirming.confirm(
            trials, self.oracle, task, trainer, options, layout=self.store.layout, protocol=protocol
        )

    def retrain(
        self,
        top: int | Sequence[str] = 1,
        x: Any = None,
        y: Any = None,
        *,
        epochs_factor: float = 1.2,
        executions: int = 1,
        callbacks: list[Any] | None = None,
        stretch_schedules: bool = True,
        save_best: Any = None,
        precision: Any = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        devices: Any = None,
        **fit_kwargs: Any,
    ) -> list[keras.Model]:
        """Trains the best configurations anew on all data, for as long as their own curves call for.

        The number of epochs is the median best epoch of a configuration's executions (folds and confirmation runs
        included) times `epochs_factor`: there is more data per epoch, so the same number of epochs would stop a
        little early. Where the curves were still improving in their last epoch, one run with patience on the rows of
        the search is made first, and said.

        Args:
            top: how many of the best configurations, or the ids of trials.
            x: training and validation rows; None joins those of the latest `search`. Test rows have no place here.
            y: their targets.
            epochs_factor: 1 keeps the best epoch.
            executions: models per configuration, each with its own seed.
            callbacks: None keeps those of the search that watch no metric.
            stretch_schedules: a learning-rate schedule of the optimizer is walked more slowly, so that it ends where
                it was at the best epoch; False leaves its steps as they are. Callbacks that set learning rates count
                epochs, and stay as they are.
            save_best: where the models go: a folder, a path that ends in `.keras`, or one such path per model.
            precision: as in `Tuner`; None keeps what the search trained with. So for the next three.
            steps_per_execution: as in `Tuner`.
            jit_compile: as in `Tuner`.
            devices: as in `Tuner`.
            **fit_kwargs: further arguments of `model.fit`; those of the search are kept.

        Returns:
            Trained Keras models, best configuration first; `model.history.history` holds the curves.

        Raises:
            UsageError: nothing has been searched, `top` or `executions` is below 1, x and y do not fit, x has fewer
                rows than the search trained on, or there is no data.
        """
        check_retrain(top, x, y)
        whole_number("retrain(executions=...)", executions, instead="Leave it out for 1.")
        if isinstance(top, Sequence):
            trials = [self.oracle.get_trial(trial_id) for trial_id in top]
        else:
            trials = self.oracle.get_best_trials(top)
        if not trials:
            raise UsageError(
                explain(
                    "retrain()", "a project without completed trials", "at least one", "Call tuner.search(...) first."
                )
            )
        searched = self._task or self._make_task((), {})
        call = retraining.call_for_all_data(searched.call, x, y, callbacks)
        given = {"precision": precision, "steps_per_execution": steps_per_execution, "jit_compile": jit_compile}
        options = self.model_options.replaced(**given, devices=devices)
        if precision is not None and (said := sentence(precision)):
            self._say(said)
        own = None if options == self.model_options else options  # None: the programs of the search serve again
        task = dataclasses.replace(
            self._make_task(call.args, {**call.kwargs, **fit_kwargs}, own), objective=None, max_model_size=None,
            callbacks=None, may=Permissions(share_callbacks=searched.may.share_callbacks),
        )  # fmt: skip
        retraining.train_longer(trials, self.oracle, searched, self._trainer_for(searched), say=self._say)
        models = retraining.retrain(
            retraining.candidates_of(trials, self.oracle.seed, executions),
            task,
            self._get_trainer(),
            epochs_factor=epochs_factor,
            steps_ratio=retraining.steps_ratio(searched.call, task.call) if stretch_schedules else None,
        )
        origins = [trial.trial_id for trial in trials for _ in range(executions)]
        self._trial_of_model.update(zip(models, origins, strict=True))
        names = [f"trial {trial_id}" for trial_id in origins]
        if executions > 1:
            names = [f"{name} ({number % executions + 1})" for number, name in enumerate(names)]
        self._final = dict(zip(names, models, strict=True))
        if save_best is not None:
            retraining.save_models(
                models, [name.replace("(", "").replace(")", "").replace(" ", "-") for name in names], save_best
            )
        return models

    def ensemble(
        self,
        models: Sequence[Any] | None = None,
        x: Any = None,
        y: Any = None,
        *,
        others: Sequence[Any] = (),
        **options: Any,
    ) -> Ensemble:
        """Combines models; weights are learned on rows that no search-time model trained on.

        The search kept every trial's predictions of its validation rows (or of the rows its folds held out), so
        nothing is trained, and only models that get weight are loaded. It works in a later process, too, without data.

        Args:
            models: from `retrain` or `get_best_models`; None takes the best trials whose models were kept, all seeds of
                each.
            x: rows to learn the weights from; None takes the rows whose predictions the search kept.
            y: their labels.
            others: further tuners whose models compete for weight: other brands, other projects. Their searches must
                have validated on the same rows, in any order.
            **options: see `Ensemble.fit`: `method` ("auto", "uniform", "nelder-mead", ...), `metric`, `sample_weight`.

        Returns:
            The ensemble. When no gain over the single best member is proven, it is that member, and says so. Its
            `refit()` retrains the members with weight on all data.

        Raises:
            UsageError: a model that this tuner did not make, no validation rows, or members that predicted different
                rows.
        """
        options = {"seed": self.oracle.seed, **options}
        ensemble = None
        if x is None and models is None:
            ensemble = ensembling.ensemble_of_searches([self, *others], **options)  # type: ignore[list-item]
        elif others:
            got = "models= or x= besides"
            raise UsageError(
                explain("ensemble(others)", got, "the predictions that searches kept", "Leave models, x and y out.")
            )
        if ensemble is None:
            models = self.get_best_models(5) if models is None else list(models)
            predictions, y, weight = self._predictions_of(models, x, y)
            options = {"sample_weight": weight, **options}
            ensemble = Ensemble.fit(predictions=predictions, y=y, models=models, **options)
            origins = [(self, self._trial_of_model[model]) for model in models]
            ensemble = ensemble.with_retrainer(ensembling.retrainer_of(origins))  # type: ignore[arg-type]
        self._final["ensemble"] = ensemble
        return ensemble

    def _predictions_of(self, models: Sequence[Any], x: Any, y: Any) -> tuple[Mapping[str, Any], Any, Any]:
        """Predictions by search-time models on rows that they did not train on, with y and sample weights."""
        if x is None:
            kept = ensembling.kept_predictions(self, models)  # type: ignore[arg-type]
            if kept is not None:
                return kept
            if self._fold_plan is not None:
                return self._out_of_fold_predictions(models)
        x, y, weight = (x, y, None) if x is not None else validation_data(self._task)
        predict = lambda trial_id: model_predictions(self.load_model(self.oracle.get_trial(trial_id)), x, 1024)  # noqa: E731
        return member_predictions(models, self._trial_of_model, predict), y, weight

    def _out_of_fold_predictions(self, models: Sequence[keras.Model]) -> tuple[Mapping[str, Any], Any, Any]:
        plan, task = self._fold_plan, self._task
        assert plan is not None and task is not None  # our bug: the caller asks
        covered, y, weights = crossing.out_of_fold(plan, task.call)
        x = task.call.x

        def predict(trial_id: str) -> Any:
            trial = self.oracle.get_trial(trial_id)
            load = lambda execution: self.load_model(trial, execution)  # noqa: E731
            return crossing.predict_out_of_fold(plan, load, sorted(trial.executions), x, covered)

        return member_predictions(models, self._trial_of_model, predict), y, weights

    def evaluate(self, x: Any, y: Any = None, *, models: Any = None, confidence: float = 0.95, **options: Any) -> Any:
        """The held-out score of the final models. Call it once, at the end.

        Every use of test data is written down with the project: when another choice is measured on the same rows, the
        result says so.

        Args:
            x: test rows.
            y: their targets.
            models: a model, a list, or a dictionary by name; None takes what `retrain` and `ensemble` made last, or
                else the best model of the search.
            confidence: of the intervals.
            **options: `batch_size`, `sample_weight`.

        Returns:
            An `Evaluation`: print it, or read `evaluation["accuracy"]` and `evaluation.scores`.

        Raises:
            UsageError: no models or rows, x and y of different length, or a confidence outside (0, 1).
        """
        return evaluating.evaluate(self._named_models(models), x, y, self.store, confidence=confidence, **options)

    def export(self, folder: Any, model: Any = None, *, overwrite: bool = False) -> Path:
        """Writes a final model with its values, seeds, versions, curves and a model card (`README.md`).

        Args:
            folder: where to; it is made.
            model: None takes the ensemble if there is one, else the first model of `retrain`, else the search's best.
            overwrite: whether files in the folder may be replaced.

        Returns:
            The folder.

        Raises:
            UsageError: the folder has files, or a model that this tuner did not make.
        """
        if model is None:
            named = self._named_models(None)
            model = named.get("ensemble", next(iter(named.values())))
        trials = [self.oracle.get_trial(trial_id) for trial_id in self._trials_in(model)]
        uses = evaluating.test_uses(self.store)
        return exporting.export(folder, model, trials, self.oracle, test_uses=uses, overwrite=overwrite)

    def _named_models(self, models: Any) -> dict[str, Any]:
        if models is None:
            return self._final or {f"trial {self._trial_of_model[m]}": m for m in self.get_best_models(1)}
        if isinstance(models, Mapping):
            return dict(models)
        several = list(models) if isinstance(models, list | tuple) else [models]
        known = [one in self._trial_of_model if isinstance(one, keras.Model) else False for one in several]
        origins = [
            f"trial {self._trial_of_model[one]}" if of_trial else type(one).__name__.lower()
            for one, of_trial in zip(several, known, strict=True)
        ]
        return {
            name if origins.count(name) == 1 else f"{name} ({number + 1})": one
            for number, (name, one) in enumerate(zip(origins, several, strict=True))
        }

    def _trials_in(self, model: Any) -> list[str]:
        if isinstance(model, Ensemble):
            parts = [one for name, one in zip(model.weights, model.members, strict=True) if model.weights[name] > 0]
            ids = [self._trial_of_model.get(one) for member in parts for one in member.models]
        else:
            ids = [self._trial_of_model.get(model)]
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

    def _searched_task(self, where: str) -> Task:
        """The task of the latest search.

        Raises:
            UsageError: there was none in this process, or the user's own code trains.
        """
        if self._task is None or not self._trains_itself():
            got = "a tuner whose run_trial is overridden" if self._task is not None else "no search in this process"
            raise UsageError(
                explain(
                    where,
                    got,
                    "a search that Manyfit trained, with its data",
                    "Call tuner.search(...) with the same arguments first: a search that is complete returns at once.",
                )
            )
        return self._task

    if TYPE_CHECKING:  # of `Tuner`, which this is mixed into

        def load_model(self, trial: Trial, execution: int | None = None) -> keras.Model: ...
        def get_best_models(self, num_models: int | None = None) -> list[keras.Model]: ...
        def _make_task(
            self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any], options: ModelOptions | None = None
        ) -> Task: ...
        def _get_trainer(self) -> Trainer: ...
        def _trainer_for(self, task: Task) -> Trainer: ...
        def _trains_itself(self) -> bool: ...
        def _say(self, text: str) -> None: ...
