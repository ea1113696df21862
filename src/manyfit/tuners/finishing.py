"""What a tuner of Keras models does after its search: confirm, retrain, ensemble, evaluate, export.

The steps themselves stand in `finish/` and `ensemble/`, which know no tuner. Here they get what they work on: the
trials, the data of the latest search, a trainer, the models that were kept. The methods that users call, with what they
take and return, are documented at `Tuner`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import keras

from manyfit.core.checks import check_names, seconds_or_none, whole_number
from manyfit.core.clock import Clock
from manyfit.core.errors import ManyfitError, UsageError, explain, first_line
from manyfit.core.limits import NO_LIMITS
from manyfit.data.arguments import check_call, check_retrain
from manyfit.data.call import FIT_PARAMETERS, Call
from manyfit.data.classes import Classes
from manyfit.data.rows import FitData, Rows
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.outside import OutsidePredictions
from manyfit.finish import confirm as confirming
from manyfit.finish import cross_validation as crossing
from manyfit.finish import evaluation as evaluating
from manyfit.finish import export as exporting
from manyfit.finish import longer
from manyfit.finish import retrain as retraining
from manyfit.finish.lineages import replaying
from manyfit.finish.prediction_table import PredictionTable, table_of_answers, table_of_validation
from manyfit.finish.related import related_rows
from manyfit.finish.script import script_of
from manyfit.finish.submitting import submission
from manyfit.finish.winners import EpochRule, RetrainCandidate, call_for_all_data, candidate_of
from manyfit.oracles import Trial
from manyfit.report.confirmation import Confirmation
from manyfit.store.answers import Answers
from manyfit.training.base import Permissions, Task
from manyfit.training.labels import LabelCheck, LabelsError
from manyfit.training.precision import sentence
from manyfit.training.replay import DATA
from manyfit.tuners import ensembling
from manyfit.tuners.bags import Bagging, BagSettings
from manyfit.tuners.combining import Combining
from manyfit.tuners.continuing import Continuing
from manyfit.tuners.final_models import FinalModels, names_of
from manyfit.tuners.finished import FinishedTuner, Training, working
from manyfit.tuners.recording import record_ensemble
from manyfit.tuners.searched import SearchedProject

SaveTo: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
"""Where models are saved: a folder, a path that ends in `.keras`, one such path per model, or nowhere."""


@dataclasses.dataclass(frozen=True)
class RetrainSettings:
    """How `retrain` trains: see `Tuner.retrain`.

    Raises:
        UsageError: `executions` below 1, or `max_seconds` not above 0.
    """

    rule: EpochRule
    executions: int = 1
    callbacks: list[Any] | None = None
    stretch_schedules: bool = True
    save_best: SaveTo = None
    max_seconds: float | None = None
    diverse: bool = False

    def __post_init__(self) -> None:
        whole_number("retrain(executions=...)", self.executions, instead="Leave it out for 1.")
        seconds_or_none("retrain(max_seconds=...)", self.max_seconds)


#: What `confirm` takes beside its own arguments: settings of the race, and arguments of `fit` that are no rows.
_OF_CONFIRM = tuple(field.name for field in dataclasses.fields(confirming.ConfirmSettings))[3:]
_OF_FIT = tuple(name for name in FIT_PARAMETERS if name not in (*DATA, "validation_split", "initial_epoch", "verbose"))


def confirm_settings(
    given: Mapping[str, Any], confidence: float, max_executions: int | None, max_seconds: float | None
) -> tuple[confirming.ConfirmSettings, dict[str, Any]]:
    """The settings of a confirmation, and the arguments of `fit` that its runs have of their own.

    Raises:
        UsageError: an argument that nobody knows, or as `ConfirmSettings` says.
    """
    check_names("confirm()", given, [*_OF_CONFIRM, *_OF_FIT])
    check_call(Call((), {name: value for name, value in given.items() if name in _OF_FIT}), "confirm")
    own = {name: value for name, value in given.items() if name not in _OF_FIT}
    settings = confirming.ConfirmSettings(confidence, max_executions, max_seconds, **own)
    return settings, {name: value for name, value in given.items() if name in _OF_FIT}


class Finish:
    """The part of a tuner that begins where the search ends.

    Args:
        tuner: whose models and trials these are.
        training: how it trains.
        say: takes one line of text for people.

    Attributes:
        final: the models that users are given.
    """

    def __init__(self, tuner: FinishedTuner, training: Training, say: Callable[[str], None]) -> None:
        self.final = FinalModels(tuner, say)
        self._tuner = tuner
        self._oracle = tuner.oracle
        self._say = say
        self._training = training = self._replaying(training)
        self.project = SearchedProject(tuner, self._retrain_for_ensemble)
        self._combining = Combining(self.project, tuner)
        self._bagging = Bagging(self.project, tuner, training, say)
        self._continuing = Continuing(self.project, tuner, training)

    def _replaying(self, training: Training) -> Training:
        """How lineages of branches are trained anew; what is no branch trains as ever."""
        return dataclasses.replace(
            training,
            trainer=lambda: replaying(training.trainer(), self._oracle.trials, self._say),
            trainer_for=lambda task: replaying(training.trainer_for(task), self._oracle.trials, self._say),
        )

    def _clock(self, max_seconds: float | None) -> Clock:
        """The clock of a step that begins now; it is over with the calls that the step is a part of, too."""
        return Clock.started(max_seconds, within=self._tuner.limits)

    def confirm(
        self,
        top: int,
        settings: confirming.ConfirmSettings,
        *,
        cross_validation: object,
        new_splits: bool,
        fit_kwargs: Mapping[str, Any],
    ) -> Confirmation:
        """See `Tuner.confirm`."""
        clock = self._clock(settings.max_seconds)
        trials = confirming.finalists(self._oracle, top, self._say)
        task = self._tuner.searched_task("confirm()", trials)
        calls = {trial_id: call.with_(**fit_kwargs) for trial_id, call in task.calls.items()}
        task = dataclasses.replace(task, call=task.call.with_(**fit_kwargs), calls=calls)
        settings = self._with_related_rows(settings, task, cross_validation, new_splits)
        split = crossing.resplit(task, cross_validation, new_splits, self._oracle.seed)
        kept = confirming.ConfirmFiles(self._tuner.store.layout, self._tuner.predictions_archive, split.folds)
        with working(self._oracle, "confirmation", clock):
            return confirming.confirm(
                trials,
                self._oracle,
                split.task,
                self._training.trainer_for(split.task),
                settings,
                kept=kept,
                clock=clock,
                protocol=split.name,
                has_own_epochs="epochs" in fit_kwargs,
            )

    def _with_related_rows(
        self, settings: confirming.ConfirmSettings, task: Task, cross_validation: object, new_splits: bool
    ) -> confirming.ConfirmSettings:
        """The settings with the groups of the first confirmation, or those of this one, where it is the first."""
        own_rows = new_splits or cross_validation is not None or task.split_for is not None
        told = settings.groups is not None or settings.time_ordered
        if own_rows and told:
            got = "groups= or time_ordered=True where each seed has validation rows of its own"
            allowed = "the same validation rows for all seeds"
            instead = "Type cross_validation=kt.CrossValidation(5, groups=groups): folds keep groups together."
            raise UsageError(explain("confirm()", got, allowed, instead))
        if own_rows:
            return settings
        counts = task.call.counted_rows()
        related = related_rows(
            self._tuner.store,
            settings.groups,
            time_ordered=settings.time_ordered,
            num_rows=None if counts is None else counts[1] or None,
            say=self._say,
        )
        return dataclasses.replace(settings, groups=related, time_ordered=False)

    def retrain(
        self,
        top: int | Sequence[str],
        x: FitData,
        y: FitData,
        *,
        settings: RetrainSettings,
        model_options: Mapping[str, Any],
        fit_kwargs: Mapping[str, Any],
    ) -> retraining.RetrainedModels:
        """See `Tuner.retrain`.

        Two tasks take part: that of the search tells where curves that were cut short have their best epoch, on the
        rows that were validated then; the other trains on all rows, where nothing is left to be ranked or stopped by.
        """
        clock = self._clock(settings.max_seconds)
        latest = self._tuner.latest_search
        check_call(Call((), fit_kwargs), "retrain", takes_more=latest is not None and latest.task.fit is not None)
        searched = self._training.make_task((), {}) if latest is None else latest.task
        given = Rows.of(x, y) if searched.fit is None else Rows()  # a `fit` of one's own takes what it likes
        texts, estimators = keras.backend.backend() == "tensorflow", self._tuner.store.get("estimators", False)
        check_retrain(top, given, estimators=estimators, takes_texts=texts)
        y = self._combining.numbered("retrain(x, y)", y)
        trials = self._trials_to_retrain(top, diverse=settings.diverse)
        trained_by = {trial.trial_id: self._tuner.trained_by(trial) for trial in trials}
        if x is None and not (latest is not None and searched.fit is not None):  # a `fit` of one's own may bring rows
            _check_data(trained_by.values(), has_searched=latest is not None)
        folds = None if latest is None else latest.folds
        # One for all that were trained by the same: the rows of the search are joined once.
        distinct = {id(call): call_for_all_data(call, x, y, **fit_kwargs) for call in trained_by.values()}
        calls = {trial_id: distinct[id(call)] for trial_id, call in trained_by.items()}
        options = self._tuner.model_options.replaced(**model_options)
        precision = model_options.get("precision")
        if precision is not None and (said := sentence(precision)):
            self._say(said)
        self._train_longer(trials, searched, trained_by, calls, settings, clock)
        candidates = [
            candidate_of(
                trial,
                trained_by[trial.trial_id],
                calls[trial.trial_id],
                self._oracle,
                executions=settings.executions,
                callbacks=settings.callbacks,
                fold_rows=None if folds is None else len(folds.folds.split(0).training),
            )
            for trial in trials
        ]
        self._say_what_changes(candidates)
        # None, where nothing was changed: the compiled programs of the search serve again.
        own = None if options == self._tuner.model_options else options
        task = dataclasses.replace(
            self._training.make_task(candidates[0].call.args, dict(candidates[0].call.kwargs), own),
            objective=None, max_model_size=None, limits=NO_LIMITS, callbacks=None,
            may=Permissions(share_callbacks=searched.may.share_callbacks), clock=clock,
        )  # fmt: skip
        try:
            # With `trainer` and not `trainer_for`: there are no folds on all rows, and its programs are there already.
            with working(self._oracle, "retraining", clock):
                models = retraining.retrain(
                    candidates,
                    task,
                    self._training.trainer(),
                    rule=settings.rule,
                    stretch_schedules=settings.stretch_schedules,
                    tell=self._oracle.book.events.tell,
                )
        except (retraining.RetrainInterrupted, retraining.RetrainFailed) as error:
            self._take_retrained(error.models, settings)  # nothing that is finished is lost
            raise
        self._take_retrained(models, settings)
        self._say_what_is_missing(models, candidates, clock.halted or "the time was up")
        return models

    def _train_longer(
        self,
        trials: Sequence[Trial],
        searched: Task,
        trained_by: Mapping[str, Call],
        calls: Mapping[str, Call],
        settings: RetrainSettings,
        clock: Clock,
    ) -> None:
        """Finds the best epochs of curves that were cut short, on the rows that were validated then."""
        if settings.rule.exactly is not None:
            return  # nobody asks for them
        own = {trial_id: call for trial_id, call in trained_by.items() if call is not searched.call}
        task = dataclasses.replace(searched, calls=trained_by if own else {}, clock=clock)
        ratios = [_rows_ratio(trained_by[trial_id], call) for trial_id, call in calls.items()]
        ratio = settings.executions * max(ratios)
        with working(self._oracle, "retraining", clock):
            longer.train_longer(
                trials,
                self._oracle,
                task,
                self._training.trainer_for(task),
                limits=longer.TrainingLimits(settings.rule.at_most, clock),
                epochs_after=lambda best: ratio * settings.rule.epochs([best - 1]),
                say=self._say,
            )

    def _say_what_changes(self, candidates: Sequence[RetrainCandidate]) -> None:
        left_out = list(dict.fromkeys(name for one in candidates for name in one.left_out))
        if left_out:
            replayed = any(one.rates is not None for one in candidates)
            rates = " The learning rates that they have set in the search are set again." if replayed else ""
            self._say(
                f"retrain: {', '.join(left_out)} left out, since all rows are trained on and none validate.{rates}"
            )

    def _say_what_is_missing(
        self, models: retraining.RetrainedModels, candidates: Sequence[RetrainCandidate], why: str
    ) -> None:
        for one in models.retrainings:
            if one.epochs < one.planned_epochs:
                self._say(f"retrain: trial {one.trial_id} ended after {one.epochs} of {one.planned_epochs} epochs.")
        missing = sum(len(one.seeds) for one in candidates) - len(models)
        if missing:
            self._say(f"retrain: {missing} models were not begun, since {why}.")

    def _trials_to_retrain(self, top: int | Sequence[str], *, diverse: bool) -> list[Trial]:
        if isinstance(top, Sequence):
            if diverse:
                raise UsageError(
                    explain("retrain(diverse=True)", f"top={list(top)}", "a number of trials", "Type top=4, say.")
                )
            return [self._named_trial(trial_id, "retrain(top=[...])") for trial_id in top]
        if diverse:
            trials, notes = ensembling.diverse_trials(self._tuner, top)
            for note in notes:
                self._say(f"retrain: {note}")
        else:
            trials = self._oracle.get_best_trials(top)
        if not trials:
            raise UsageError(
                explain(
                    "retrain()", "a project without completed trials", "at least one", "Call tuner.search(...) first."
                )
            )
        if len(trials) < top:
            self._say(f"retrain: {len(trials)} instead of {top}, since no more trials were completed.")
        return trials

    def _named_trial(self, trial_id: str, where: str) -> Trial:
        trial = self._oracle.trials.get(trial_id)
        if trial is not None and trial.is_completed:
            return trial
        got = f'"{trial_id}", which ' + ("is no trial" if trial is None else "was not completed")
        known = [one.trial_id for one in self._oracle.get_best_trials(3)]
        raise UsageError(
            explain(where, got, "ids of completed trials", f"Type {where.replace('[...]', repr(known))}, say.")
        )

    def _take_retrained(self, models: retraining.RetrainedModels, settings: RetrainSettings) -> None:
        """Notes where models come from, makes them the final ones, and saves them if that was asked for."""
        if not models:
            return
        origins = [one.trial_id for one in models.retrainings]
        self._tuner.model_origins.update(zip(models, origins, strict=True))
        self._combining.retrained.update(zip(models, origins, strict=True))
        names = names_of(models.retrainings, settings.executions)
        self.final.latest = dict(zip(names, map(self.final.counted, models), strict=True))
        if settings.save_best is not None:
            files = [name.replace("(", "").replace(")", "").replace(" ", "-") for name in names]
            retraining.save_models(models, files, settings.save_best)
        self.final.note_retrained(zip(models, models.retrainings, strict=True))

    def _retrain_for_ensemble(self, trial_ids: Sequence[str], *, executions: int, **options: Any) -> list[Any]:
        """Retrains members of an ensemble. They belong to it: the final models of the tuner stay those of before."""
        # `retrain` is called on the tuner, and not on this part: a subclass may have overridden it.
        made_before = self.final.latest
        models = self._tuner.retrain(trial_ids, executions=executions, **options)
        self.final.latest = made_before
        return models

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
        """See `Tuner.ensemble`."""
        combined = self._combining.ensemble(models, x, y, others=others, outside=outside, options=options)
        found = self.final.counted(combined)
        self.final.latest["ensemble"] = found
        record_ensemble(self._oracle.book, found)
        return found

    def predictions(self, trials: str | Sequence[str] | None, *, test: bool) -> PredictionTable:
        """See `Tuner.predictions`."""
        if trials is None:
            chosen = self._oracle.get_best_trials(max(1, len(self._oracle.trials)))
        else:
            chosen = [
                self._named_trial(one, "predictions([...])")
                for one in ([trials] if isinstance(trials, str) else trials)
            ]
        archive, classes = self._tuner.predictions_archive, Classes.of_project(self._tuner.store)
        titled = not isinstance(trials, str)
        if test:
            return table_of_answers(chosen, Answers.beside(archive), classes, titled=titled)
        return table_of_validation(chosen, archive, classes, titled=titled)

    def to_script(self, trial_id: str | None) -> str:
        """See `Tuner.to_script`."""
        where, store = "to_script(trial)", self._tuner.store
        if store.get("estimators", False):
            instead = "Type tuner.get_best_models(1)[0], and see its get_params()."
            raise UsageError(explain(where, "a search of estimators", "a search of Keras models", instead))
        best = self._trials_to_retrain(1, diverse=False) if trial_id is None else [self._named_trial(trial_id, where)]
        task, latest = self._tuner.searched_task(where, best), self._tuner.latest_search
        folds = None if latest is None else latest.folds
        return script_of(best[0], task, folds, self._oracle.objective)

    def submission(self, model: Any, x: FitData, ids: Any) -> PredictionTable:
        """See `Tuner.submission`."""
        if model is None:
            model = self.final.last()
        return submission(model, self._tuner, x, ids, classes=self._tuner.store.get("classes"))

    def bag(self, settings: BagSettings, options: Mapping[str, Any]) -> Ensemble:
        """See `Tuner.bag`."""
        found = self.final.counted(self._bagging.bag(settings, options))
        self.final.latest["ensemble"] = found
        self.final.note_bag(found)
        record_ensemble(self._oracle.book, found)
        return found

    def go_on(self, hand: Ensemble | None, top: int, *, max_seconds: float | None = None, **options: Any) -> Ensemble:
        """The best models of the search, trained further, and what they were: see `Continuing.go_on`."""
        return self.final.counted(self._continuing.go_on(hand, top, max_seconds=max_seconds, options=options))

    def evaluate(
        self, x: FitData, y: FitData, models: object, *, confidence: float, groups: FitData, options: Mapping[str, Any]
    ) -> evaluating.Evaluation:
        """See `Tuner.evaluate`."""
        named = self.final.named(models)
        also, objective = self._training.measure, self._oracle.objective
        asked = {"confidence": confidence, "groups": groups, "objective": objective, "also": also, **options}
        with self.final.counting():
            try:
                for model in named.values():
                    if isinstance(model, keras.Model) and model.compiled:
                        LabelCheck().check(model, Call((x, self._combining.numbered("evaluate(x, y)", y))))
                return evaluating.evaluate(named, x, y, self._tuner.store, **asked)
            except LabelsError as error:
                raise UsageError(str(error).replace("search(", "evaluate(", 1)) from None
            except (TypeError, ValueError) as error:
                if isinstance(error, ManyfitError):
                    raise
                got = f"what the models cannot answer: {first_line(error)}".rstrip(".")
                instead = "Compare x.shape and y.shape with those of search(x, y)."
                raise UsageError(explain("evaluate(x, y)", got, "rows as the search had them", instead)) from error

    def export(self, folder: str | os.PathLike[str], model: exporting.Savable | None, *, overwrite: bool) -> Path:
        """See `Tuner.export`."""
        if model is None:
            model = self.final.last()
        artefact = self.final.artefact(model)
        return exporting.export(folder, model, artefact, self._oracle, store=self._tuner.store, overwrite=overwrite)


def _check_data(calls: Iterable[Call], *, has_searched: bool) -> None:
    """Refuses a retraining without rows, before anything is trained."""
    if all(call.x is not None for call in calls):
        return
    raise UsageError(
        explain(
            "retrain()",
            "no x and y" + ("" if has_searched else ", in a process that has not searched"),
            "training and validation rows, or a search in this process whose rows are joined",
            "Type tuner.retrain(x=x_full, y=y_full), or call tuner.search(...) with the same arguments first: a search "
            "that is complete returns at once.",
        )
    )


def _rows_ratio(before: Call, now: Call) -> float:
    """Rows of a retraining by those of the search; 1 where they cannot be counted."""
    counted, rows = before.counted_rows(), now.num_rows
    return 1.0 if counted is None or rows is None or not counted[0] else rows / counted[0]
