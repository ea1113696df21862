"""The tuner of Keras models that users construct: it searches, and goes from the search to a final model."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import Any, Unpack

import keras
from numpy.typing import ArrayLike

from manyfit.core.signatures import Allowed, above, at_least, checked_arguments
from manyfit.data.call import Call
from manyfit.data.rows import FitData
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.outside import OutsidePredictions
from manyfit.finish.confirm import ConfirmSettings
from manyfit.finish.retrain import RetrainedModels
from manyfit.finish.winners import EpochRule
from manyfit.fitting import fit as fitting
from manyfit.fitting.asked import CanDo, Wishes
from manyfit.fitting.winner import Winner
from manyfit.oracles import Oracle
from manyfit.report.confirmation import Confirmation
from manyfit.training.devices import Devices
from manyfit.training.model_options import ModelOptions
from manyfit.training.precision import Precision
from manyfit.tuners.bags import BagSettings
from manyfit.tuners.finishing import Finish, RetrainSettings, SaveTo, Training, confirm_settings
from manyfit.tuners.handing import HandingTuner
from manyfit.tuners.keras_tuner.base_tuner import BaseTuner
from manyfit.tuners.keras_tuner.hypermodel import BuildFunction, HyperModel
from manyfit.tuners.keras_tuner.overrides import Strategy
from manyfit.tuners.options import (
    CallArguments,
    CombineOptions,
    ConfirmArguments,
    ProjectOptions,
    RetrainArguments,
    StepArguments,
    described_by,
    spelled_out,
)
from manyfit.tuners.trainers import exploring_builds

_STRATEGY = Allowed("a tf.distribute.Strategy, or None", lambda value: value is None or hasattr(value, "scope"))


@described_by(BaseTuner)
class Tuner(HandingTuner):
    """Searches the hyperparameters of Keras models.

    Args:
        oracle: decides what is tried.
        hypermodel: a function that takes `HyperParameters` and returns a compiled model, or a `HyperModel`.
        max_model_size: most trainable parameters; larger models end as "too large" without training.
        optimizer: recompiles each built model with it.
        loss: likewise.
        metrics: likewise.
        distribution_strategy: a `tf.distribute.Strategy` in whose scope models are built (TensorFlow backend).
        directory: where projects lie.
        project_name: the project's folder in it.
        logger: deprecated, not used.
        tuner_id: names this tuner, as in KerasTuner.
        overwrite: delete an earlier search of that name instead of going on with it.
        executions_per_trial: training runs per configuration, each with its own seed; scores are their means.
        num_kept_models: weights are kept for so many best trials, and deleted for the rest.
        population: train trials together as one compiled program where that is possible (JAX backend); False trains
            them one after another through `model.fit`.
        population_size: most members that train together; None: found by measurement.
        precision: "float32", "bfloat16", "float16", "auto" (by device, and says which), or a function of `hp` that
            returns one of these: `lambda hp: hp.Choice("precision", ["float32", "bfloat16"])`.
        steps_per_execution: batches per call of the compiled step where models train through `model.fit`.
        jit_compile: whether steps are compiled; None: as the build function says.
        devices: None: the trials of a search are spread over all devices; "data_parallel" or a `keras.distribution`:
            each model is.
        keep_predictions: keep every trial's predictions of the rows that it did not train on, for `ensemble`.
        **project: `executor`, `max_seconds_per_trial`, `max_memory`, `trust`, `display` and `keras_tuner_files`, see
            `BaseTuner`.

    Raises:
        UsageError: no `hypermodel` while `run_trial` is not overridden, or a number out of its range.
        FatalValueError: an option that is not allowed, or that the backend cannot follow.
        FatalTypeError: the build function returned something that is no compiled Keras model.

    Example: `kt.Tuner(kt.Oracle("val_loss", max_trials=20, sampler=...), build_model)`.
    """

    @spelled_out(ProjectOptions, BaseTuner)
    @checked_arguments(
        skip=("oracle", "executor", "hypermodel", "display", "precision", "devices", "jit_compile"),
        max_model_size=at_least(1, 1_000_000),
        population_size=at_least(1, 8),
        distribution_strategy=_STRATEGY,
    )
    def __init__(
        self,
        oracle: Oracle,
        hypermodel: HyperModel | BuildFunction | None = None,
        max_model_size: int | None = None,
        optimizer: object = None,
        loss: object = None,
        metrics: object = None,
        distribution_strategy: Strategy | None = None,
        directory: str | os.PathLike[str] | None = None,
        project_name: str | None = None,
        logger: object = None,
        tuner_id: str | None = None,
        overwrite: bool = False,
        executions_per_trial: int = 1,
        *,
        num_kept_models: int = 10,
        population: bool = True,
        population_size: int | None = None,
        precision: Precision = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        devices: Devices = None,
        keep_predictions: bool = True,
        **project: Unpack[ProjectOptions],
    ) -> None:
        self.tuner_id = tuner_id or self.tuner_id
        super().__init__(
            oracle,
            hypermodel,
            max_model_size=max_model_size,
            optimizer=optimizer,
            loss=loss,
            metrics=metrics,
            distribution_strategy=distribution_strategy,
            executions_per_trial=executions_per_trial,
            num_kept_models=num_kept_models,
            population=population,
            population_size=population_size,
            keep_predictions=keep_predictions,
            model_options=ModelOptions(precision, steps_per_execution, jit_compile, devices),
            directory=directory,
            project_name=project_name,
            overwrite=overwrite,
            logger=logger,
            **project,
        )
        # Last, since it works on what all classes above have set up.
        training = Training(self._make_task, self._get_trainer, self._trainer_for, keep_predictions)
        self._finish = Finish(self, training, self._display.say)

    def stand_ins(self) -> dict[str, object]:
        """See `BaseTuner`. The final models stay here."""
        return {**super().stand_ins(), "_finish": None}

    @described_by(CallArguments, RetrainArguments, StepArguments)
    @spelled_out(CallArguments, keras.Model.fit)
    @checked_arguments(max_seconds=above(0, 60))
    def fit(
        self,
        x: FitData = None,
        y: FitData = None,
        *args: Any,
        max_seconds: float | None = None,
        max_trials: int | None = None,
        groups: ArrayLike | None = None,
        time_ordered: bool = False,
        beliefs: bool = True,
        epochs: int | None = None,
        **arguments: Unpack[CallArguments],
    ) -> Winner:
        """The best model that there is after some seconds: search, combine, bag or confirm, within one limit.

        Where no validation rows are given some are held out: five folds of few rows, a part of many, labels in
        proportion. The search goes on as long as another trial promises more than what is done with the best ones
        afterwards. `print(winner)` says what was done, why, and where the time went; see docs/minutes.md.

        Args:
            x: rows, as `model.fit` takes them.
            y: their targets.
            *args: further arguments of `model.fit` by their places.
            max_seconds: the limit, from the call to the return. The smaller one holds where the tuner has one, too.
            max_trials: configurations at most; None: as the tuner was told. A default of its class does not count.
            groups: one label per row; rows with the same one are held out together.
            time_ordered: rows are in the order of time: the last ones are held out, and folds are not drawn.
            beliefs: hyperparameters of usual names begin with, and first look near, usual values.
            epochs: of one training at most; None: a training ends ten epochs after its best one.
            **arguments: all else that `search` takes, `predict=x_test` and `row_id=` among it.

        Returns:
            The winner: print it. `predict`, `evaluate` and `save` are what people want of it.

        Raises:
            UsageError: several objectives, no limit at all, data of which nothing can be held out, or as `search` says.
            SearchError: all trials failed, or the time was too short for one epoch.

        Example: `tuner.fit(x, y, max_seconds=600)`; docs/minutes.md runs one.
        """
        self.refresh()
        given = {**arguments, **({} if epochs is None else {"epochs": epochs})}
        call = Call((x, y, *args) if y is not None or args else (x,) if x is not None else (), given)
        wishes = Wishes(max_seconds, max_trials, groups, time_ordered, beliefs)
        quickly = functools.partial(exploring_builds, self._fuses())
        in_epochs = not self._estimators
        go_on = self._finish.go_on if in_epochs else None
        can = CanDo(
            trains=self._trains_itself(),
            in_epochs=in_epochs,
            in_parts=self.executor is None,
            bag=self.bag,
            retrain=self.retrain,
            go_on=go_on,
            quickly=quickly,
        )
        with self._display.showing("a fit", call.get("verbose")):
            return fitting.fit(self, call, wishes, can, say=self._display.say)

    @described_by(ConfirmArguments, StepArguments, ConfirmSettings)
    @spelled_out(ConfirmArguments, ConfirmSettings)
    @checked_arguments(max_seconds=above(0, 60))
    def confirm(
        self,
        top: int = 8,
        *,
        confidence: float = 0.95,
        max_executions: int | None = None,
        max_seconds: float | None = None,
        cross_validation: object = None,
        new_splits: bool = False,
        verbose: int | str | None = None,
        **settings: Unpack[ConfirmArguments],
    ) -> Confirmation:
        """Runs the best trials on fresh seeds, the same for all, until it is settled which of them may be the best.

        Who is worse on fresh seeds and fresh rows is dropped, and the runs go to who might be the best. Rules
        (finalists, rounds, confidence) are those of the first call; a later one, or one after an interruption, spends
        more and decides more, and never takes back what was decided. Estimates come from all runs of search, folds and
        confirmations; they replace the scores of the search wherever trials are ranked or shown, and the recommended
        trial is the first that `get_best_hyperparameters`, `retrain` and the others take.

        Args:
            top: how many finalists, the best by the score of the search.
            confidence: that no finalist is called worse wrongly; fixed by the first call.
            max_executions: training runs at most; None: as many as it takes, up to `max_rounds` per finalist.
            max_seconds: stop after so many seconds.
            cross_validation: `kt.CrossValidation(...)`, a number of folds or a splitter of scikit-learn: each seed
                comes with a fold of its own.
            new_splits: each seed comes with a fresh random split of training and validation rows.
            verbose: 0 prints nothing; None: as in the search. So for `retrain`, `ensemble` and `evaluate`.
            batch_size: rows of a step. This and all that `model.fit` takes is as in the search unless given.

        Returns:
            A `Confirmation`: print it.

        Raises:
            UsageError: nothing was searched in this process, the budget is too small, folds do not fit the rows, or an
                argument that nobody knows.
            SearchError: every run of every finalist failed.

        Example: `tuner.confirm(top=4, max_rounds=12)`; docs/confirm.md runs one.
        """
        self.refresh()
        options, fit_kwargs = confirm_settings(settings, confidence, max_executions, max_seconds)
        fit_kwargs |= {} if verbose is None else {"verbose": verbose}
        with self._display.showing("a confirmation", verbose), self.interruptible("confirm"):
            return self._finish.confirm(
                top, options, cross_validation=cross_validation, new_splits=new_splits, fit_kwargs=fit_kwargs
            )

    @described_by(RetrainArguments, StepArguments)
    @spelled_out(RetrainArguments)
    @checked_arguments(max_seconds=above(0, 60))
    def retrain(
        self,
        top: int | Sequence[str] = 1,
        x: FitData = None,
        y: FitData = None,
        *,
        diverse: bool = False,
        epochs_factor: float | None = None,
        epochs: int | None = None,
        max_epochs: int | None = None,
        max_seconds: float | None = None,
        executions: int = 1,
        callbacks: list[Any] | None = None,
        stretch_schedules: bool = True,
        save_best: SaveTo = None,
        precision: Precision = None,
        steps_per_execution: int | None = None,
        jit_compile: bool | None = None,
        devices: Devices = None,
        verbose: int | str | None = None,
        **further: Unpack[RetrainArguments],
    ) -> RetrainedModels:
        """Trains the best configurations anew on all data, for as long as their own curves call for.

        The number of epochs is the median best epoch of a configuration's executions (folds and confirmation runs
        included): more rows make more steps of each epoch, so the training is longer by itself. Where the curves were
        still improving in their last epoch, one run with patience on the rows of the search is made first: up to 100
        epochs, or 5 times the search's, that end 10 epochs (or a fifth of the search's) after the best one. What that
        may cost is said.

        A training replays the call of `fit` that trained its trial, whatever a `HyperModel.fit` or a `run_trial` made
        of the search's: batch size, weights, callbacks, `initial_epoch`. What has to change is printed by the result:
        rows, epochs, `steps_per_epoch` with the rows, and callbacks that look at validation rows, which are left out;
        the learning rates that they have set are set again.

        Args:
            top: how many of the best configurations, or the ids of trials.
            x: training and validation rows; None joins those of the latest `search`. Test rows have no place here.
            y: their targets.
            diverse: not the best ones, but those whose predictions add most to each other.
            epochs_factor: times the best epoch; None: 1, and 1.2 for rounds of boosting, which do not grow with rows.
            epochs: exactly so many, whatever the curves say.
            max_epochs: no training is longer, runs with patience included.
            max_seconds: for all of it: runs with patience end in time for the rest, and what still trains then ends
                where it is, which is said.
            executions: models per configuration, each with its own seed.
            callbacks: None keeps those of the search that need no validation rows.
            stretch_schedules: a learning-rate schedule of the optimizer is walked more slowly, so that it ends where
                it was at the best epoch; False leaves its steps as they are. Callbacks that set learning rates count
                epochs, and stay as they are.
            save_best: where the models go: a folder, a path that ends in `.keras`, or one such path per model.
            precision: as in `Tuner`; None keeps what the search trained with. So for the next three.
            steps_per_execution: as in `Tuner`.
            jit_compile: as in `Tuner`.
            devices: as in `Tuner`.
            verbose: 0 prints nothing; None: as in the search.
            batch_size: rows of a step. This and all that `model.fit` takes is as in the search unless given.
            sample_weight: one weight per row of x, or per row and output.

        Returns:
            Trained Keras models, best configuration first; print the list to see how they were trained.
            `model.history.history` holds the curves.

        Raises:
            UsageError: nothing has been searched, a number below 1, ids of no completed trial, x and y do not fit, x
                has fewer rows than the search trained on, or no weights where the search had some, or there is no data.
            SearchError: a training failed; the models of the others are kept for `evaluate` and `export`.

        Example: `tuner.retrain(top=1, executions=2)`; docs/confirm.md runs one.
        """
        self.refresh()
        options = {"precision": precision, "steps_per_execution": steps_per_execution, "jit_compile": jit_compile}
        fit_kwargs = {**further, **({} if verbose is None else {"verbose": verbose})}
        # Steps of a net grow with the rows; what boosting fits in one round are all rows, however many there are.
        usual = 1.2 if self.store.get("estimators", False) else 1.0
        factor = usual if epochs_factor is None else epochs_factor
        with self._display.showing("a retraining", verbose), self.interruptible("retrain"):
            return self._finish.retrain(
                top,
                x,
                y,
                settings=RetrainSettings(
                    EpochRule(factor, epochs, max_epochs),
                    executions,
                    callbacks,
                    stretch_schedules,
                    save_best,
                    max_seconds,
                    diverse,
                ),
                model_options={**options, "devices": devices},
                fit_kwargs=fit_kwargs,
            )

    @described_by(Ensemble.fit)
    @spelled_out(CombineOptions)
    @checked_arguments(max_seconds=above(0, 60))
    def bag(
        self,
        top: int | Sequence[str] = 3,
        folds: object = None,
        repeats: int = 1,
        *,
        groups: Any = None,
        diverse: bool = True,
        max_seconds: float | None = None,
        verbose: int | str | None = None,
        **options: Unpack[CombineOptions],
    ) -> Ensemble:
        """Trains configurations on folds of all rows, and uses all fold models together: a member per configuration.

        Each row is predicted by models that did not train on it, so all rows train, and all tell what weights are
        worth. Callbacks that stop early or set rates see the rows of their own fold. What folds were trained already,
        by `search(cross_validation=...)` or another bag, is not trained again; a bag that was interrupted goes on. All
        that is missing trains as one population.

        Weights are pulled towards equal ones as far as the rows do not speak against it, and are judged by leaving out
        models together with their rows. With `repeats` of two or more the mean of the repeats tells what averaging
        gains: then score and gain are those of the bags, and there is a temperature where one is called for.

        Args:
            top: how many configurations, or the ids of trials.
            folds: a number, `kt.CrossValidation(...)` or a splitter of scikit-learn; None: those of the search, or 5.
            repeats: how often the rows are cut anew; each repeat has models of its own.
            groups: one label per row, training rows first, then validation rows; rows of a group stay together, and
                count as one. None: those of the search.
            diverse: not the best configurations, but those whose predictions add most to each other.
            max_seconds: no training begins later; configurations that lack a fold then are left out, which is said.
            verbose: 0 prints nothing; None: as in the search.
            metric: what to improve, as in `Ensemble.fit`; None: the objective, where it is one of predictions.
            method: None: "shrunk", weights that rows pull away from equal ones; or as in `Ensemble.fit`.
            sample_weight: one weight per row; None: those of the search.
            seed: of folds and random searches; None: that of the search.

        Returns:
            The ensemble: print it. When no gain over the best configuration's bag is likely, it is that bag. `save`,
            `to_keras` and `refit` (one model per configuration, on all rows) work as for others.

        Raises:
            UsageError: nothing was searched in this process, folds that do not fit the rows, or fewer than three.
            SearchError: no configuration has a model of every fold.

        Example: `tuner.bag(top=2, repeats=2)`; docs/ensembling.md runs one.
        """
        self.refresh()
        settings = BagSettings(top, folds, repeats, groups, diverse, max_seconds)
        with self._display.showing("a bag", verbose), self.interruptible("bag"):
            return self._finish.bag(settings, options)

    @described_by(Ensemble.fit)
    @spelled_out(CombineOptions, Ensemble.fit)
    @checked_arguments()
    def ensemble(
        self,
        models: Sequence[Any] | None = None,
        x: FitData = None,
        y: FitData = None,
        *,
        others: Sequence[Any] = (),
        verbose: int | str | None = None,
        **options: Unpack[CombineOptions],
    ) -> Ensemble:
        """Combines models; weights are learned on rows that no search-time model trained on.

        The search kept every trial's predictions of its validation rows (or of the rows its folds held out), so
        nothing is trained, and only models that get weight are loaded. It works in a later process, too, without data.

        Args:
            models: from `retrain` or `get_best_models`; None takes the best trials whose models were kept, all seeds of
                each.
            x: rows to learn the weights from; None takes the rows whose predictions the search kept.
            y: their labels.
            others: what competes for weight beside this search. Further tuners (other brands, other projects), whose
                searches validated on the same rows, in any order, by whatever encoding of x. Predictions of other
                programs: a frame or a CSV file with a column `row_id` and one for each output, or
                `kt.OutsidePredictions`.
            verbose: 0 prints nothing; None: as in the search.
            metric: what to improve, as in `Ensemble.fit`; None: the objective, where it is one of predictions.

        Returns:
            The ensemble. When no gain over the single best member is proven, it is that member, and says so. Its
            `refit()` retrains the members with weight on all data.

        Raises:
            UsageError: a model that this tuner did not make, no validation rows, or members that predicted different
                rows.
            UsageError: predictions of another program without names of rows, with a name twice, without a row of the
                search, with other columns, or with numbers that are not finite.

        Example: `tuner.ensemble()`; docs/ensembling.md runs several.
        """
        # Not the tuners themselves: what an ensemble may ask of a search is written down, and this is all of it.
        tuners = [other for other in others if hasattr(other, "_finish")]
        searches = [other._finish.project for other in tuners]  # noqa: SLF001  # another object of the same class
        outside = OutsidePredictions.of_each(other for other in others if not hasattr(other, "_finish"))
        with self._display.showing("an ensemble", verbose), self.interruptible("ensemble"):
            return self._finish.ensemble(models, x, y, others=searches, outside=outside, options=options)
