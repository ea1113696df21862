"""The tuner of scikit-learn's estimators: one execution per fold, and a winner that is trained on all rows."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core import seeds
from manyfit.core.checks import is_whole, whole_number
from manyfit.core.errors import FatalTypeError, UsageError, UsageTypeError, explain, warn_user
from manyfit.core.files import rewritten, sealed, unsealed
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.data.classes import named_classes
from manyfit.data.parts import RowParts
from manyfit.data.row_names import names_of_kept_rows
from manyfit.data.rows import Rows
from manyfit.fitting import fit as fitting
from manyfit.fitting.asked import CanDo, Wishes
from manyfit.fitting.winner import Winner
from manyfit.oracles import Oracle, Trial
from manyfit.space.discovery import discover
from manyfit.store.answers import Answers
from manyfit.store.predictions import Archive
from manyfit.training.base import Bookkeeping, Task
from manyfit.training.model_options import ModelOptions
from manyfit.training.seeding import seeded
from manyfit.tuners import sklearn_folds as folds
from manyfit.tuners.answering import Answering, asked_rows
from manyfit.tuners.finishing import Finish, Training
from manyfit.tuners.keeping import ModelOrigins, keeping
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel
from manyfit.tuners.together import LatestSearch
from manyfit.tuners.tuner import Tuner


class SklearnTuner(BaseTuner):
    """Searches the hyperparameters of scikit-learn's estimators and pipelines, by cross-validation.

    Every fold is an execution, so `results()` has one row per fold, and a trial's score is their mean. Estimators
    that rank among the best `num_kept_models` are trained once more on all rows; `get_best_models` returns those.
    Estimators without a `random_state` of their own draw from the trial's seed. `confirm`, `retrain`, `ensemble`,
    `evaluate` and `export` are those of `Tuner`, on the folds of the search and with its `scoring`.

    Args:
        oracle: decides what is tried; its objective is `kt.Objective("score", "max")`, or the name of one of
            `metrics` with its direction.
        hypermodel: a function that takes `HyperParameters` and returns an estimator or a pipeline, or a `HyperModel`.
        scoring: a scorer as `sklearn.metrics.make_scorer` makes them, or its name; None: the estimator's `score`.
        metrics: functions of `sklearn.metrics`, one or a list, that are measured on every fold as well.
        cv: a splitter of scikit-learn, a number of folds, or a list of (training rows, test rows); None:
            `KFold(5, shuffle=True, random_state=1)`.
        num_kept_models: estimators are kept for so many best trials, and deleted for the rest.
        **kwargs: see `BaseTuner`.

    Raises:
        ImportError: scikit-learn is not installed: `pip install manyfit[sklearn]`.
        UsageError: no `hypermodel`, an objective that nothing measures, or `num_kept_models` below 1.
        UsageTypeError: `scoring` or `metrics` cannot be called.

    Example:

    >>> import tempfile
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from manyfit import Objective
    >>> from manyfit.oracles.searches import GridSearchOracle
    >>> def build(hp):
    ...     return LogisticRegression(C=hp.Choice("C", [0.01, 1.0]), max_iter=500)
    >>> oracle = GridSearchOracle(Objective("score", "max"))
    >>> tuner = SklearnTuner(oracle, build, directory=tempfile.mkdtemp())
    >>> tuner.search(*load_iris(return_X_y=True), verbose=0)
    >>> tuner.get_best_hyperparameters()[0].values
    {'C': 1.0}
    >>> tuner.get_best_models()[0].predict([[5.1, 3.5, 1.4, 0.2]])
    array([0])
    """

    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperModel | BuildFunction | None = None,
        scoring: folds.Metric | str | None = None,
        metrics: folds.Metric | Sequence[folds.Metric] | None = None,
        cv: folds.CrossValidator | None = None,
        *,
        num_kept_models: int = 10,
        **kwargs: Any,
    ) -> None:
        folds.import_sklearn("SklearnTuner")
        if hypermodel is None and type(self).run_trial is SklearnTuner.run_trial:
            raise UsageError(
                explain(
                    "SklearnTuner",
                    "Received `hypermodel=None`",
                    "a hypermodel, or a subclass that overrides run_trial",
                    "Type kt.SklearnTuner(oracle, build_model).",
                )
            )
        whole_number("num_kept_models", num_kept_models, instead="Type 1, say.")
        self.scoring = folds.as_scorer(scoring)
        self.metrics = folds.as_metrics(metrics)
        self.cv = folds.as_splitter(cv)
        self.num_kept_models = num_kept_models
        self._splits: list[tuple[folds.RowNumbers, folds.RowNumbers]] = []
        # What an overridden `run_trial` measures is not known before it has run.
        if isinstance(oracle, Oracle) and type(self).run_trial is SklearnTuner.run_trial:
            self._check_objective(oracle)
        self.model_options = ModelOptions()
        self.model_origins = ModelOrigins()
        self.latest_search: LatestSearch | None = None
        self.row_parts: RowParts | None = None  # never: an estimator is fitted in one go
        self._keep: Callable[[Sequence[tuple[Plan, Any]]], None] | None = None  # predictions of what a fold held out
        self._names: np.ndarray | None = None  # of classes, where they have any
        super().__init__(oracle, hypermodel, **kwargs)
        trainer = folds.ScoringTrainer(self.scoring, self.metrics)
        self._aside = Bookkeeping(self._display.say)
        training = Training(self._make_task, lambda: trainer, lambda task: trainer, measure=self._measure)
        self._finish = Finish(self, training, self._display.say)

    # They ask a tuner for nothing but its `_finish`, which knows the rows and the folds.
    confirm = Tuner.confirm
    retrain = Tuner.retrain
    ensemble = Tuner.ensemble
    evaluate = Tuner.evaluate
    export = Tuner.export
    predictions = Tuner.predictions
    submission = Tuner.submission

    def stand_ins(self) -> dict[str, object]:
        """See `BaseTuner`. What steps after the search need stays here."""
        own: dict[str, object] = {"_finish": None, "latest_search": None, "_keep": None}
        own["_aside"] = Bookkeeping(warn_user)
        return {**super().stand_ins(), "model_origins": ModelOrigins(), **own}

    def _check_objective(self, oracle: Oracle) -> None:
        measured = ["score", *map(folds.name_of, self.metrics)]
        missing = [name for name in oracle.objective.names if name not in measured]
        if missing:
            raise UsageError(
                explain(
                    "SklearnTuner(oracle)",
                    f"an oracle with the objective {missing[0]!r}",
                    f"one of {', '.join(measured)}",
                    'Type objective=kt.Objective("score", "max") where the oracle is made.',
                )
            )

    def _populate_initial_space(self) -> None:
        super()._populate_initial_space()
        if self.hypermodel is not None:
            self.oracle.update_space(discover(self.hypermodel.build, self.oracle.get_space()))

    def search(  # type: ignore[override]  # KerasTuner's signature: this tuner knows what its data are
        self, X: object, y: object = None, sample_weight: object = None, groups: object = None, **kwargs: Any
    ) -> None:
        """Searches by cross-validation.

        Args:
            X: rows: an array, a list, a DataFrame, or a sparse matrix.
            y: their targets: an array, a list, or a Series; None for estimators that need none.
            sample_weight: one weight per row; reaches `fit`, the score and the metrics.
            groups: one label per row, for splitters such as `GroupKFold`.
            **kwargs: `verbose=0` prints nothing; `row_id`, a name for each row, and `predict`, rows to be answered (see
                `Tuner.search`), `trackers` likewise; what else there is goes to `run_trial`.

        Raises:
            UsageError: X, y, weights and groups of different length, or folds that the splitter cannot make of them.
            SearchError: every trial failed, or too many in a row did. What finished before is kept.
        """
        verbose = kwargs.pop("verbose", 1)
        with self._display.showing("a search", verbose, stays=True):
            self._search(X, y, sample_weight, groups, verbose=verbose, **kwargs)

    def _search(
        self, X: object, y: object, sample_weight: object, groups: object, *, verbose: int | str, **kwargs: Any
    ) -> None:
        row_id, predict = kwargs.pop("row_id", None), kwargs.pop("predict", None)
        self._tracking.follow(kwargs.pop("trackers", None))
        X, y, sample_weight, groups = folds.as_rows(X, y, sample_weight, groups)
        if type(self).run_trial is SklearnTuner.run_trial:
            # Once for the whole search, so that all trials are measured on the same folds, also after a restart.
            with seeded(seeds.seed_of(self.oracle.seed, "folds")):
                self._splits = self._split(X, y, groups)
            self._note_rows(X, y, sample_weight, row_id)
            self._note_asked(predict)
        super().search(X, y, sample_weight=sample_weight, groups=groups, verbose=verbose, **kwargs)

    def fit(
        self,
        X: object,
        y: object = None,
        sample_weight: object = None,
        groups: object = None,
        *,
        max_seconds: float | None = None,
        max_trials: int | None = None,
        **kwargs: Any,
    ) -> Winner:
        """The best estimators that there are after some seconds: see `Tuner.fit`. The `cv` says what is held out.

        Args:
            X: rows.
            y: their targets.
            sample_weight: one weight per row.
            groups: one label per row, for splitters such as `GroupKFold`.
            max_seconds: the limit, from the call to the return.
            max_trials: configurations at most; None: as the oracle was told.
            **kwargs: of `search`.

        Returns:
            The winner: an ensemble, or an estimator where one is as good.

        Raises:
            UsageError: several objectives, no limit at all, or as `search` says.
            SearchError: all trials failed.
        """
        parts = {"sample_weight": sample_weight, "groups": groups}
        call = Call((X, y), {**{name: part for name, part in parts.items() if part is not None}, **kwargs})
        own = type(self).run_trial is SklearnTuner.run_trial
        wishes, can = Wishes(max_seconds, max_trials), CanDo(trains=own, in_epochs=False)
        with self._display.showing("a fit", kwargs.get("verbose")):
            return fitting.fit(self, call, wishes, can, say=self._display.say)

    def _note_rows(self, X: object, y: object, sample_weight: object, row_id: object) -> None:
        """Notes rows and folds for the steps after the search, and what keeps predictions for an ensemble."""
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        task = self._make_task((X, y), weights)
        try:
            plan = folds.plan_of_folds(self._splits)
        except UsageError:  # folds that share rows: they are scored, but what they say of rows is no forecast
            self.latest_search = LatestSearch(task, None)
            return
        self.latest_search = LatestSearch(dataclasses.replace(task, split_for=plan.split_for), plan)
        names = None if y is None else named_classes("search(X, y)", y)
        self._names = None if names is None else np.unique(names)
        numbers = y if names is None else np.unique(names, return_inverse=True)[1]
        numbered = dataclasses.replace(task, call=Call((X, numbers), weights))
        known = names_of_kept_rows(row_id, numbered.call, has_folds=True)
        self._keep = keeping(numbered, self.predictions_archive, plan, known).keep

    def _note_asked(self, predict: object) -> None:
        """Notes rows to be answered, and what keeps what is said of them."""
        if predict is None or self.latest_search is None:
            return
        latest = self.latest_search
        asked = asked_rows(predict, latest.task.call, keeps=self._keep is not None)
        self.latest_search = dataclasses.replace(latest, asked=asked)
        self._keep = Answering(Answers.beside(self.predictions_archive), asked, self._keep)

    def _make_task(
        self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any], options: ModelOptions | None = None
    ) -> Task:
        del options  # of Keras models
        build = None if self.hypermodel is None else self.hypermodel.build
        return Task(build, Call(fit_args, fit_kwargs), self.oracle.objective, limits=self.trial_limits)  # type: ignore[arg-type]  # `searched_task` refuses where there is none

    def _measure(self, model: Any, rows: Rows) -> dict[str, float]:
        return folds.measure(model, rows.x, rows.y, rows.sample_weight, scoring=self.scoring, metrics=self.metrics)

    def searched_task(self, where: str, trials: Sequence[Trial] = ()) -> Task:
        """The rows and folds of the latest search.

        Args:
            where: who asks, for the message.
            trials: all are trained alike.

        Raises:
            UsageError: there was none in this process, or `run_trial` is overridden.
        """
        del trials
        if self.latest_search is None:
            raise UsageError(
                explain(
                    where,
                    "no search in this process, or a tuner whose run_trial is overridden",
                    "a search that Manyfit trained, with its data",
                    "Call tuner.search(X, y) with the same arguments first: a search that is complete returns at once.",
                )
            )
        return self.latest_search.task

    def trained_by(self, trial: Trial) -> Call:
        """The rows that a trial was cross-validated on."""
        del trial
        return Call() if self.latest_search is None else self.latest_search.task.call

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""
        return Archive(self.store.layout.predictions, is_sound=self.store.is_sound)

    def _run_trials(self, fit_args: tuple[Any, ...], fit_kwargs: dict[str, Any]) -> None:
        # KerasTuner's signature of `run_trial` has no `verbose`, so overrides of it have none.
        super()._run_trials(fit_args, {name: value for name, value in fit_kwargs.items() if name != "verbose"})

    def _split(self, X: object, y: object, groups: object) -> list[tuple[folds.RowNumbers, folds.RowNumbers]]:
        from sklearn.base import is_classifier  # an optional library: loaded by those who search with it
        from sklearn.model_selection import check_cv

        assert self.hypermodel is not None  # our bug: __init__ checks it
        splitter = self.cv
        if isinstance(splitter, int) or not hasattr(splitter, "split"):
            # A number of folds: stratified where the estimator is a classifier, which only a built one can tell.
            model = self.hypermodel.build(self.oracle.get_space())
            splitter = check_cv(splitter, y, classifier=is_classifier(model))
        try:
            return list(splitter.split(X, y, groups))
        except ValueError as error:
            raise UsageError(
                explain(
                    f"search(...) with cv={splitter!r}",
                    f"rows that it cannot split: {error}",
                    "as many rows and groups as it has folds",
                    "Type cv=3, say, or pass groups=.",
                )
            ) from error

    def run_trial(  # type: ignore[override]  # KerasTuner's signature
        self, trial: Trial, X: object, y: object, sample_weight: object = None, groups: object = None, **kwargs: Any
    ) -> list[dict[str, float]]:
        """Cross-validates one configuration, and trains it on all rows if it ranks among the best.

        Args:
            trial: `trial.hyperparameters` holds the values to use.
            X: rows.
            y: targets.
            sample_weight: weights of the rows, or None.
            groups: groups of the rows, or None; the folds respect them already.
            **kwargs: further keyword arguments of `search`, for overrides.

        Returns:
            One mapping per fold: "score", and the metrics by name.
        """
        del groups, kwargs
        measured = []
        # No splits: an override called this outside of `search`, with rows of its own.
        for fold, (training, testing) in enumerate(self._splits or self._split(X, y, None)):
            model = self._fit(trial, *folds.take(training, X, y, sample_weight))
            rows = folds.take(testing, X, y, sample_weight)
            if self._keep is not None and self.trial_call.number == 0:
                kept = model if self._names is None else folds.InOrder(model, self._names)
                with self._aside.keeping("predictions"):
                    self._keep([(Plan(trial.trial_id, fold, trial.hyperparameters, seed=0), kept)])
            measured.append(folds.measure(model, *rows, scoring=self.scoring, metrics=self.metrics))
        if self._ranks_high(measured):
            model = self._fit(trial, X, y, sample_weight)
            with self._aside.keeping("estimators"):
                self.save_model(trial.trial_id, model)
        return measured

    def _fit(self, trial: Trial, X: object, y: object, sample_weight: object) -> folds.SklearnModel:
        assert self.hypermodel is not None  # our bug: __init__ checks it
        model = self.hypermodel.build(trial.hyperparameters)
        if not hasattr(model, "fit"):
            raise FatalTypeError(
                explain(
                    "hypermodel.build(hp)",
                    f"{model!r} of type {type(model).__name__}",
                    "an estimator or a pipeline of scikit-learn",
                    "End the build function with `return model`.",
                )
            )
        return folds.fit(model, X, y, sample_weight)

    def _ranks_high(self, measured: Iterable[Mapping[str, float]]) -> bool:
        """Whether these folds put a trial among the best that are kept.

        Asked before the trial has ended, so its score is worked out here: an estimator is trained on all rows only
        where somebody may ask for it. With several objectives there is no one score to compare, so all of them are
        trained and `_after_trial` deletes what fell behind.
        """
        objective = self.oracle.objective
        losses = [objective.loss(objective.get_value(fold)) for fold in measured]
        best = self.oracle.get_best_trials(self.num_kept_models)
        if len(best) < self.num_kept_models or best[-1].score is None or len(objective.terms) > 1:
            return True
        return sum(losses) / len(losses) < objective.loss(best[-1].score)

    def _after_trial(self, trial: Trial) -> None:
        # Unlike weights, estimators lie in the trials' folders, as KerasTuner keeps them: programs look for them there.
        kept = {best.trial_id for best in self.oracle.book.kept(self.num_kept_models)}
        for trial_id, path in self.store.layout.all_pickled().items():
            # Of this search's own trials only: a folder may hold others' files.
            if trial_id not in kept and trial_id in self.oracle.trials:
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()

    def save_model(self, trial_id: str, model: object, step: int = 0) -> None:
        """Pickles a trial's estimator into the trial's folder."""
        del step
        with rewritten(self._path(trial_id), "estimator") as partial:
            partial.write_bytes(sealed(pickle.dumps(model)))

    def has_model(self, trial: Trial, execution: int) -> bool:
        """Whether a trial's estimator was kept: one for all of its folds."""
        del execution
        path = self._path(trial.trial_id)
        return path.exists() and self.store.is_sound(path)

    def counted(self, model: Any) -> Any:
        """See `Tuner.counted`; an estimator has no `evaluate` of its own."""
        return self._finish.final.counted(model)

    def load_model(self, trial: Trial, execution: int | None = None) -> Any:
        """A trial's estimator, trained on all rows of the search.

        Args:
            trial: a completed trial.
            execution: all of its folds have one estimator.

        Raises:
            UsageError: its estimator was not kept.
            ProjectError: somebody else wrote it, and the tuner was made without `trust=True`: it is a pickle.
        """
        path = self._path(trial.trial_id)
        self.store.check_files(path)
        if not path.exists():
            raise UsageError(
                explain(
                    f"load_model(trial {trial.trial_id})",
                    "a trial whose estimator was not kept",
                    f"one of the best {self.num_kept_models} trials",
                    "Construct the tuner with a larger num_kept_models=, or fit tuner.hypermodel.build(hp) yourself.",
                )
            )
        estimator = pickle.loads(unsealed(path, "estimator", trust=self.trust))
        self.model_origins[estimator] = trial.trial_id
        return estimator

    def _path(self, trial_id: str) -> Path:
        return self.store.layout.pickled(trial_id)

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The estimators of the best trials, trained on all rows of the search, best first.

        Args:
            num_models: how many, at most `num_kept_models`; fewer come back when fewer trials completed. None: the
                best one, or with several objectives the whole front.

        Raises:
            UsageTypeError: `num_models` is no whole number.
        """
        if num_models is not None and not is_whole(num_models):
            raise UsageTypeError(
                explain(
                    "get_best_models(num_models)",
                    f"{type(num_models).__name__}",
                    "how many estimators are wanted: a whole number",
                    "Type get_best_models(1)[0] for the best one.",
                )
            )
        return super().get_best_models(num_models)
