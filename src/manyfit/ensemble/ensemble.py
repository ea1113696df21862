"""The `Ensemble`: weights learned on rows that no member was trained on, one prediction, one file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import at_least, checked_arguments, checked_methods
from manyfit.data.classes import Classes
from manyfit.data.kinds import Ability, FitData
from manyfit.data.rows import Rows
from manyfit.ensemble import distillation, fusing, saving
from manyfit.ensemble.alignment import problem_of, require_labels, usual_metric
from manyfit.ensemble.choosing.choice import Gain, MethodChoice
from manyfit.ensemble.choosing.thresholds import decisions, moved
from manyfit.ensemble.evaluating import compiled_metrics, compiled_on_probabilities
from manyfit.ensemble.explaining import Explained, Explanation, FittedParts, explain_fit, fitted_here
from manyfit.ensemble.fitting import Fitting, Offered
from manyfit.ensemble.members import EnsembleMember, Model, class_names, make_members, measure_latency, members_with
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.outputs import Outputs, Prediction
from manyfit.ensemble.pools import Pool, spread
from manyfit.ensemble.prediction import EnsembleProgram
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask
from manyfit.ensemble.settings import EnsembleSettings, RowCuts
from manyfit.ensemble.together import in_parts
from manyfit.ensemble.weights.greedy import own_losses

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

Witness: TypeAlias = Callable[["Ensemble", Rows, Mapping[str, float]], None]
"""Is told of each evaluation: of which ensemble, on which rows, with which result."""

Retrainer: TypeAlias = Callable[..., dict[int, Model]]
"""From indices of members, and options of `tuner.retrain`, to their models trained on all data."""


@checked_methods("__init__", "load", "save", "predict", "with_models", "with_classes", "refit", "distill")
class Ensemble(Explained):
    """Several models as one.

    Make it with `Ensemble.fit`. Weights are learned from predictions on rows that the members were not trained on:
    validation rows, or out-of-fold predictions. It does not change afterwards: `with_models` and `refit` give another.

    Args:
        members: all, those without weight included.
        pool: among all members.
        task: what they predict.
        num_outputs: columns of a prediction.
        outputs: how predictions are laid out, where they are more than (n, num_outputs).
        choice: how it was chosen; None if it was not fitted here.
        problem: the rows it was fitted on; None if they are not here.
        metric: what `evaluate` measures; None for the usual one of the task.
        settings: what it was fitted with.
        notes: what `summary` says beside the numbers.
        seconds_per_row: (M,) that each member takes to predict, NaN where it was not measured.
        retrain: what `refit` calls when it is given nothing else.
        classes: their names, in the order of the columns of a prediction; None where classes are numbers.
        fitting: how it was fitted, for `refit`; None if it was not fitted here.
        witness: what is told of each `evaluate`.
        thresholds: from which probability on each column is decided as positive; None for one half.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=400)
    >>> ensemble = Ensemble.fit([y + rng.normal(size=400), y + rng.normal(size=400), rng.normal(size=400)], y)
    >>> ensemble.weights["m0"] > 0.3, ensemble.weights["m2"] < 0.2, ensemble.refused
    (True, True, False)
    """

    def __init__(
        self,
        members: Sequence[EnsembleMember],
        pool: Pool,
        task: PredictionTask,
        *,
        num_outputs: int,
        outputs: Outputs | None = None,
        choice: MethodChoice | None = None,
        problem: EnsembleProblem | None = None,
        metric: Metric | None = None,
        settings: EnsembleSettings | None = None,
        notes: Sequence[str] = (),
        seconds_per_row: np.ndarray | None = None,
        retrain: Retrainer | None = None,
        classes: Sequence[str] | None = None,
        fitting: Fitting | None = None,
        witness: Witness | None = None,
        thresholds: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        self.members = tuple(members)
        self.pool, self.task, self.num_outputs = pool, task, num_outputs
        self.outputs = outputs or Outputs(((num_outputs,),))
        self.choice, self.problem = choice, problem
        self.metric = metric if metric is not None else usual_metric(task, self.outputs)
        self.settings = settings or EnsembleSettings()
        self.notes = tuple(notes)
        self.seconds_per_row, self.fitting = seconds_per_row, fitting
        self.retrain, self.witness = retrain, witness
        self.classes = None if classes is None else tuple(classes)
        self.thresholds = None if thresholds is None else tuple(map(float, thresholds))
        self._program = EnsembleProgram(self._used())

    @classmethod
    @checked_arguments(num_shown=at_least(1), seed=at_least(0))
    def fit(
        cls,
        members: object = None,
        y: FitData = None,
        *,
        predictions: object = None,
        models: object = None,
        x: object = None,
        sample_weight: FitData = None,
        metric: object = None,
        method: str = "auto",
        task: PredictionTask | str | None = None,
        settings: EnsembleSettings | None = None,
        cuts: RowCuts | None = None,
        retrained: bool = False,
        num_shown: int | None = None,
        seed: int = 0,
    ) -> Ensemble:
        """Learns how to combine members.

        Args:
            members: models, or predictions of shape (rows,) or (rows, columns), or `EnsembleMember` objects; a list,
                or a dictionary by name. Predictions of pixels and steps have shape (rows, ..., columns); those of
                models with several outputs are a list or a dictionary of arrays.
            y: labels of the rows: class indices (names, where the `classes_` of models are names), one-hot rows, 0/1
                labels, or values; one for every pixel or step. A list or a dictionary for several outputs.
            predictions: what each member predicted on rows it was not trained on. With `models`, the weights are
                learned from these and given to those: the way to combine models retrained on all data.
            models: the models that use the weights, in the order of `predictions`.
            x: rows to predict with the models, where no predictions are given.
            sample_weight: (rows,) weights.
            metric: what to improve: a name, a Keras loss or metric, a scikit-learn metric, or a callable
                ``(y_true, y_pred) -> float``. None: log loss for probabilities, squared error for values. For several
                outputs None sums these, and a dictionary names the outputs that count, each with its metric.
            method: "auto", or one of `methods.METHODS`: "uniform", "greedy", "convex", "geometric", "nelder-mead", ...
            task: "binary", "multiclass", "multilabel" or "regression"; None finds it from the numbers.
            settings: fine points: folds, confidence, budget.
            cuts: which rows belong together: groups, and folds that have models of their own.
            retrained: the weights are for `models` that were trained anew, with the configurations of those that made
                `predictions`: then learned weights count half at most, there is no temperature, and the stated gain is
                that of weights which are carried over so.
            num_shown: so many members, the first ones, may be used; the others were left out because of these rows,
                which is cross-fitted as well. None: all.
            seed: of folds and random searches. 0 is a seed.

        Returns:
            The ensemble. When no gain over the single best member is proven, it is that member, and says so.

        Raises:
            UsageError: members, labels, rows or metric do not fit together; the message says how.
        """
        settings, cuts = settings or EnsembleSettings(), cuts or RowCuts()
        require_labels(y)
        everyone = make_members(members, predictions=predictions, models=models, x=x, batch_size=settings.batch_size)
        classes = class_names(everyone)
        y = y if classes is None else classes.numbers("Ensemble.fit(y)", y)
        shown = everyone[: len(everyone) if num_shown is None else num_shown]
        offered = Offered(everyone, y, sample_weight, metric, task, cuts, len(shown))
        fitting = offered.fitting(method, settings, seed, x=x)
        told, result = fitting.told, fitting.choice(retrained=retrained)
        usable = told.usable[told.usable < len(shown)]
        problem = told.problem.members(np.arange(len(usable)))
        seconds = fitting.costs.latency_seconds
        return cls(
            shown,
            result.pool.expand(usable, len(shown)),
            problem.task,
            num_outputs=problem.num_outputs,
            outputs=told.outputs,
            choice=result,
            problem=problem.among(usable, len(shown)),
            metric=told.metric,
            settings=settings,
            notes=told.notes,
            seconds_per_row=None if seconds is None else spread(seconds, usable, len(shown), empty=np.nan),
            classes=None if classes is None else classes.names.tolist(),
            fitting=fitting,
            thresholds=result.thresholds,
        )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of every member by name."""
        return {member.name: float(weight) for member, weight in zip(self.members, self.pool.weights, strict=True)}

    @property
    def method(self) -> str:
        """The method that was chosen."""
        return self.choice.method if self.choice is not None else self.pool.kind

    @property
    def refused(self) -> bool:
        """Whether ensembling was refused because no gain was proven; the single best member predicts then."""
        return self.choice is not None and self.choice.refused

    @property
    def gain(self) -> Gain | None:
        """The cross-fitted gain of choosing and fitting over the single best member, in the metric's own unit."""
        return self.choice.gain if self.choice is not None else None

    def predict(self, x: FitData, *, batch_size: int | None = None) -> Prediction:
        """Predicts rows.

        On the JAX backend all Keras members run as one compiled program; elsewhere one after another.

        Returns:
            (n, C) in float32, as `model.predict` of a Keras member would give: probabilities or values. (n, ..., C) for
            members that answer for every pixel or step, and a list or a dictionary for several outputs. Columns are in
            the order of `classes`; one column for two classes is the probability of the second.

        Raises:
            UsageError: a member with weight has no model; x is a pipeline that cannot be read again for each member.
        """
        if (rows := Rows.of(x)).kind.is_pipeline:
            rows.require(Ability.AS_ARRAYS, "ensemble.predict(x)")
        return in_parts(
            self._program, x, batch_size=self.settings.batch_size if batch_size is None else batch_size,
            pool=self.pool, task=self.task, outputs=self.outputs, num_outputs=self.num_outputs,
        )  # fmt: skip

    def decide(self, x: FitData, *, batch_size: int | None = None) -> np.ndarray:
        """(n,) classes of rows, by their names if they have some, or (n, C) zeros and ones of several labels.

        Thresholds are learned where the metric is of yes or no (accuracy, F1, balanced accuracy of two classes or of
        several labels); elsewhere it is one half, or the likeliest class. `predict` does not heed them.

        Raises:
            UsageError: the ensemble predicts values.
        """
        return decisions(self.predict(x, batch_size=batch_size), self.task, self.thresholds, self.classes)

    def evaluate(
        self, x: FitData, y: FitData = None, *, sample_weight: FitData = None, batch_size: int | None = None
    ) -> dict[str, float]:
        """Measures the ensemble.

        Args:
            x: rows, or a pipeline that brings labels along and ends: it is read once, into arrays.
            y: their labels, as the members' `evaluate` takes them; names, where `classes` has some.
            sample_weight: as the members' `evaluate` takes it.
            batch_size: rows per batch.

        Returns:
            The metric it was fitted for, by name, of what `decide` decides; and, if the members are compiled Keras
            models, "loss" and their metrics, as `model.evaluate(..., return_dict=True)` would give them of what the
            members predict together.
            Members with a `test_step` of their own measure one model only: of several of them there is but the first.

        Raises:
            UsageError: labels do not fit the predictions, or there are none; x is a pipeline that cannot be read.
        """
        rows = Rows.of(x, y, sample_weight).read("ensemble.evaluate(x)")
        if rows.y is None:
            rows.require(Ability.LABELLED, "ensemble.evaluate(x, y)")
        found = self._measured(self.predict(rows.x, batch_size=batch_size), rows, batch_size)
        if self.witness is not None:
            self.witness(self, rows, found)
        return found

    def evaluate_predictions(self, prediction: Any, y: FitData, *, sample_weight: FitData = None) -> dict[str, float]:
        """Like `evaluate`, for predictions that are there already; a mask, which only rows tell, is not heeded."""
        return self._measured(prediction, Rows.of(None, y, sample_weight))

    def _measured(self, prediction: Any, rows: Rows, batch_size: int | None = None) -> dict[str, float]:
        if self.classes is not None:
            rows = dataclasses.replace(rows, y=Classes(self.classes).numbers("ensemble.evaluate(y)", rows.y))
        problem = problem_of(prediction, rows.y, self.outputs, self.task, rows.sample_weight)
        decided = moved(problem.predictions[0], None if self.thresholds is None else np.array(self.thresholds))
        answer = {self.metric.name: self.metric.score(decided, problem)}
        told = compiled_metrics(self._used(), self.pool, prediction, rows, batch_size)
        # Keras's metric of the same name knows one half only.
        return {**answer, **told} if self.thresholds is None else {**answer, **told, **answer}

    def _used(self) -> list[EnsembleMember]:
        return [self.members[index] for index in self.pool.support]

    def with_models(self, models: Sequence[Model | Sequence[Model] | None], *, retrained: bool = False) -> Ensemble:
        """The same weights for other models.

        Args:
            models: one per member, in the order of `members`; None keeps a member's model.
            retrained: they were trained anew, on all data, say: weights and stated gain are those of `for_retrained`.

        Raises:
            UsageError: another number of models than members.
        """
        members = members_with(models, self.members)
        whole = self.for_retrained() if retrained else self
        return whole._with(members=members)  # noqa: SLF001  # another object of the same class

    def for_retrained(self) -> Ensemble:
        """The ensemble that gives weights to models which are trained anew, with the configurations of its members.

        Learned weights are pulled at least half way to equal ones, temperatures are dropped, and the choice is made
        again under that rule: `gain` is what weights gain that were learned from some models and are used by others.
        """
        if self.fitting is None:  # loaded from a folder: the rows are not here
            return self._with(pool=self.pool.carried(0.5), choice=None, problem=None, thresholds=None)
        result = self.fitting.choice(retrained=True)
        usable = self.fitting.told.usable
        pool = result.pool.expand(usable[usable < len(self.members)], len(self.members))
        return self._with(pool=pool, choice=result, thresholds=result.thresholds)

    def with_classes(self, names: Sequence[str]) -> Ensemble:
        """The same ensemble, whose classes have names, in the order of the columns."""
        return self._with(classes=names)

    def with_witness(self, witness: Witness) -> Ensemble:
        """The same ensemble, which tells of each `evaluate`."""
        return self._with(witness=witness)

    def with_retrainer(self, retrain: Retrainer, *, notes: Sequence[str] = ()) -> Ensemble:
        """The same ensemble, whose `refit` knows how to retrain members, and which has something more to say.

        Args:
            retrain: takes indices of members and options, gives back their models.
            notes: lines for `summary`.
        """
        return self._with(retrain=retrain, notes=(*self.notes, *notes))

    def refit(self, train: Callable[[EnsembleMember], Model] | None = None, **options: object) -> Ensemble:
        """Retrains every member that has weight on all data, and gives the weights to the new models.

        A member made of the k models of a cross-validation collapses to one model. Weights are those of
        `for_retrained`: what was luck of the models before is not carried over, nor is a temperature.

        Args:
            train: takes an `EnsembleMember`, gives back its model trained on all data; None for members of a search,
                whose tuner retrains them.
            **options: of `tuner.retrain`: x, y, epochs_factor, ...

        Raises:
            UsageError: no `train`, and members that are of no search.
        """
        if train is None and self.retrain is None:
            allowed = "a function from a Member to its model, unless tuner.ensemble() made the ensemble"
            instead = "For instance ensemble.refit(lambda member: build_and_fit(member.configuration))."
            raise UsageError(explain("Ensemble.refit(train)", "nothing that trains", allowed, instead))
        whole = self.for_retrained()
        used = whole.pool.support.tolist()
        retrain = self.retrain or (lambda used, **options: {})  # asked above
        models = retrain(used, **options) if train is None else {index: train(self.members[index]) for index in used}
        return whole.with_models([models.get(index) for index in range(len(self.members))])

    def _with(self, **changes: Any) -> Ensemble:
        same = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return Ensemble(**same | changes)

    def measure_latency(self, x: object) -> dict[str, float]:
        """Times every member that has a model.

        Args:
            x: rows; a batch of them is predicted a few times.

        Returns:
            Seconds per row by the member's name; `with_latency` takes them.
        """
        return {member.name: measure_latency(member, x) for member in self.members if member.models}

    def with_latency(self, seconds_per_row: Mapping[str, float]) -> Ensemble:
        """The same ensemble, whose `summary` shows what latency buys.

        Args:
            seconds_per_row: by the member's name, from `measure_latency`; members that are not named are not known.
        """
        seconds = np.array([seconds_per_row.get(member.name, np.nan) for member in self.members])
        return self._with(seconds_per_row=seconds)

    def to_keras(self) -> keras.Model:
        """One Keras model, equal to the ensemble, compiled with the members' loss and metrics; the pool is made of
        standard layers.

        The members in it are copies, of their own classes, registered or not. One that cannot be copied, since a layer
        of it has no `get_config`, takes part itself: what trains the answer trains it as well.

        Raises:
            UsageError: a member with weight is no Keras model, or members take different inputs.
        """
        model = fusing.fused_model(self.members, self.pool, self.task, self.num_outputs, self.outputs)
        return compiled_on_probabilities(model, self._used()[0].models[0])

    def save(self, path: str | pathlib.Path) -> None:
        """Saves the ensemble.

        Args:
            path: ``something.keras``: one Keras model, which loads and predicts without Manyfit, by
                ``keras.saving.load_model``. Anything else: a folder, for `Ensemble.load`; it takes members of
                every brand.

        Raises:
            UsageError: a ``.keras`` file was asked for, and a member with weight is no Keras model, or is one that
                Keras cannot save.
            UsageError: a member with weight has no model.
        """
        path = pathlib.Path(path)
        if path.suffix == ".keras":
            saving.save_file(self.to_keras(), path)
        else:
            told, used = {"classes": self.classes, "thresholds": self.thresholds}, self._used()
            saving.save_folder(path, used, self.pool, self.task, self.num_outputs, self.outputs, told)

    @classmethod
    def load(
        cls, path: str | pathlib.Path, *, trust: bool = False, custom_objects: Mapping[str, Any] | None = None
    ) -> Ensemble:
        """Loads an ensemble that was saved to a folder; every file is checked against its hash.

        Args:
            path: the folder.
            trust: allow pickles and the code of `Lambda` layers, which can run anything when they are loaded. Needed
                for members that are no Keras models, and for functions without a name.
            custom_objects: the user's own classes and functions by name, as `keras.saving.load_model` takes them; those
                registered with Keras need not be named.

        Raises:
            UsageError: no manifest, a changed or missing file, or pickles without `trust=True`.
            UsageError: a class that is neither registered nor among `custom_objects`; the message names it.
        """
        return cls(**saving.load_folder(pathlib.Path(path), trust=trust, custom_objects=custom_objects))

    def soup(self, x: object, y: FitData) -> distillation.Soup:
        """One model whose weights are the mean of members' weights, for members that were trained from one start.

        Args:
            x: rows that no member was trained on.
            y: their labels.

        Raises:
            UsageError: fewer than two members are used, or they differ in structure.
        """
        models = [model for member in self._used() for model in member.models]
        return distillation.greedy_soup(models, x, y, self.metric, task=self.task, outputs=self.outputs)

    def distill(
        self,
        x: object,
        y: FitData = None,
        *,
        x_test: object = None,
        student: keras.Model | None = None,
        epochs: int = 30,
        batch_size: int = 128,
        seed: int = 0,
    ) -> distillation.Student:
        """Trains one model to predict like the ensemble, and says what that costs in score.

        Args:
            x: rows whose soft labels are learned; more rows help, and they need no labels.
            y: labels of `x_test`, or of `x` if there is none; None reports no scores.
            x_test: rows to measure on, best ones that nobody was trained on.
            student: a Keras model; None takes a fresh copy of the best member with weight.
            epochs: of training.
            batch_size: rows per step.
            seed: of weights' use in training: shuffling and dropout.

        Raises:
            UsageError: no student was given and the best member is no Keras model.
        """
        settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
        return distillation.distilled(self, x, y, x_test=x_test, student=student, settings=settings)

    def best_used(self) -> EnsembleMember:
        """Of the members with weight the one with the smallest loss; the first, where the rows are not here."""
        own = None if self.problem is None else own_losses(self.problem.members(self.pool.support), self.metric)
        return self._used()[0 if own is None else int(np.argmin(own))]

    def explanation(self) -> Explanation:
        """Why the weights are what they are, how diverse the members are, and what each costs.

        Raises:
            UsageError: the ensemble was loaded from disk, so the rows it was fitted on are not here.
        """
        problem, choice = fitted_here(self.problem, self.choice)
        seconds = self.seconds_per_row
        return explain_fit(FittedParts(self.members, self.pool, problem, choice, self.metric, self.notes, seconds))

    def summary(self) -> str:
        """A text that says what was chosen, what it gains, and why each member has its weight."""
        return self.explanation().text() if self.choice is not None else f"{self!r}: {self.pool.describe()}."

    __str__ = summary

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self.pool.support)} of {len(self.members)} members, {self.method}>"
