"""The `Ensemble`: weights learned on rows that no member was trained on, one prediction, one file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble import budgets, choice, exits, folder, fuse, methods, program
from manyfit.ensemble.explain import Explanation, explain_ensemble
from manyfit.ensemble.members import (
    Member,
    emits_logits,
    make_members,
    measure_latency,
    model_predictions,
    stack_predictions,
)
from manyfit.ensemble.metrics import Metric, resolve_metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Problem, Task, make_problem
from manyfit.ensemble.selection import own_losses
from manyfit.ensemble.settings import Settings
from manyfit.ensemble.threads import one_thread


class Ensemble:
    """Several models as one.

    Make it with `Ensemble.fit`. Weights are learned from predictions on rows that the members were not trained on:
    validation rows, or out-of-fold predictions.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> y = rng.normal(size=400)
    >>> ensemble = Ensemble.fit([y + rng.normal(size=400), y + rng.normal(size=400), rng.normal(size=400)], y)
    >>> ensemble.weights["m0"] > 0.3, ensemble.weights["m2"] < 0.2, ensemble.refused
    (True, True, False)
    """

    def __init__(
        self,
        members: Sequence[Member],
        pool: Pool,
        task: Task,
        *,
        num_outputs: int,
        choice: choice.Choice | None = None,
        problem: Problem | None = None,
        metric: Metric | None = None,
    ) -> None:
        self.members = list(members)
        self.pool = pool
        self.task = task
        self.num_outputs = num_outputs
        self.choice = choice
        self.problem = problem
        self.metric = metric if metric is not None else resolve_metric(None, task)
        self.settings = Settings()
        self.notes: list[str] = []
        self.seconds_per_row: np.ndarray | None = None  # (M,) of each member, NaN where it was not measured
        self.retrainer: Callable[..., dict[int, Any]] | None = None  # indices of members -> their retrained models
        self._program: program.Program | None = None

    @classmethod
    def fit(
        cls,
        members: Any = None,
        y: Any = None,
        *,
        predictions: Any = None,
        models: Any = None,
        x: Any = None,
        sample_weight: Any = None,
        metric: Any = None,
        method: str = "auto",
        task: Task | str | None = None,
        settings: Settings | None = None,
        seed: int = 0,
    ) -> Ensemble:
        """Learns how to combine members.

        Args:
            members: models, or predictions of shape (rows,) or (rows, columns), or `Member` objects; a list, or a
                dictionary by name.
            y: labels of the rows: class indices, one-hot rows, 0/1 labels, or values.
            predictions: what each member predicted on rows it was not trained on. With `models`, the weights are
                learned from these and given to those: the way to combine models retrained on all data.
            models: the models that use the weights, in the order of `predictions`.
            x: rows to predict with the models, where no predictions are given.
            sample_weight: (rows,) weights.
            metric: what to improve: a name, a Keras loss or metric, a scikit-learn metric, or a callable
                ``(y_true, y_pred) -> float``. None: log loss for probabilities, squared error for values.
            method: "auto", or one of `methods.METHODS`: "uniform", "greedy", "convex", "geometric", "nelder-mead", ...
            task: "binary", "multiclass", "multilabel" or "regression"; None finds it from the numbers.
            settings: fine points: folds, confidence, budget.
            seed: of folds and random searches. 0 is a seed.

        Returns:
            The ensemble. When no gain over the single best member is proven, it is that member, and says so.

        Raises:
            UsageError: members, labels, rows or metric do not fit together; the message says how.
        """
        settings = settings if settings is not None else Settings()
        if y is None:
            raise UsageError(
                explain(
                    "Ensemble.fit(y)",
                    "no labels",
                    "labels of rows that no member was trained on",
                    "For instance Ensemble.fit(models, y_val, x=x_val).",
                )
            )
        everyone = make_members(members, predictions=predictions, models=models, x=x, batch_size=settings.batch_size)
        stacked = stack_predictions(everyone)
        usable, notes = _usable(stacked, everyone)
        problem = make_problem(stacked[usable], y, task=_task(task, everyone), sample_weight=sample_weight)
        if problem.num_rows < 3:
            raise UsageError(
                explain(
                    "Ensemble.fit(y)",
                    f"{problem.num_rows} rows",
                    "at least three rows: some to learn from, some to choose by, some to measure with",
                    "Give more validation rows; some hundred are good.",
                )
            )
        chosen_metric = resolve_metric(metric, problem.task, quantiles=settings.quantiles, direction=settings.direction)
        costs = budgets.member_costs([everyone[index] for index in usable], settings.budget, x)
        fit = budgets.within(methods.menu_named(method, problem, chosen_metric, settings).fit, settings.budget, costs)
        with one_thread():
            result = choice.choose(problem, fit, chosen_metric, settings, seed, insist=method != "auto")
        pool = result.pool.expand(usable, len(everyone))
        ensemble = cls(
            everyone,
            pool,
            problem.task,
            num_outputs=problem.num_outputs,
            choice=result,
            problem=_with_everyone(problem, usable, len(everyone)),
            metric=chosen_metric,
        )
        ensemble.settings = settings
        ensemble.notes = notes
        if costs.latency_seconds is not None:
            ensemble.seconds_per_row = np.full(len(everyone), np.nan)
            ensemble.seconds_per_row[usable] = costs.latency_seconds
        return ensemble

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
    def gain(self) -> choice.Gain | None:
        """The cross-fitted gain of choosing and fitting over the single best member, in the metric's own unit."""
        return self.choice.gain if self.choice is not None else None

    def predict(self, x: Any, *, batch_size: int | None = None) -> np.ndarray:
        """Predicts rows.

        On the JAX backend all Keras members run as one compiled program; elsewhere one after another.

        Returns:
            (n, C) in float32, as `model.predict` of a Keras member would give: probabilities or values.

        Raises:
            UsageError: a member with weight has no model.
        """
        size = batch_size if batch_size is not None else self.settings.batch_size
        used = [self.members[index] for index in self.pool.support]
        if self._program is None:
            self._program = program.Program(used)
        outputs = self._program.predict(x, batch_size=size)
        if self.task.two_class and self.num_outputs == 1:
            outputs = [output[:, -1:] for output in outputs]
        stacked = np.zeros((len(outputs), len(outputs[0]), self.num_outputs))  # a member may know fewer classes
        for place, output in zip(stacked, outputs, strict=True):
            place[:, : output.shape[1]] = output
        return self.pool.combine(stacked, self.task).astype(np.float32)

    def evaluate(self, x: Any, y: Any, *, sample_weight: Any = None, batch_size: int | None = None) -> dict[str, float]:
        """Measures the ensemble.

        Returns:
            The metric it was fitted for, by name; and, if the members are compiled Keras models, "loss" and their
            metrics, as `model.evaluate(..., return_dict=True)` would give them.

        Raises:
            UsageError: labels do not fit the predictions.
        """
        prediction = self.predict(x, batch_size=batch_size)
        return self.evaluate_predictions(prediction, y, sample_weight=sample_weight)

    def evaluate_predictions(self, prediction: np.ndarray, y: Any, *, sample_weight: Any = None) -> dict[str, float]:
        """Like `evaluate`, for predictions (n, C) that are there already."""
        problem = make_problem(prediction[None], y, task=self.task, sample_weight=sample_weight)
        answer = {self.metric.name: self.metric.score(problem.predictions[0], problem)}
        source = next((m.models[0] for m in self._used() if m.all_keras), None)
        return {**answer, **fuse.compiled_metrics(source, prediction, y, sample_weight)}

    def _used(self) -> list[Member]:
        return [self.members[index] for index in self.pool.support]

    def with_models(self, models: Sequence[Any]) -> Ensemble:
        """The same weights for other models, such as the members retrained on all data.

        Args:
            models: one per member, in the order of `members`; None keeps a member's model.

        Raises:
            UsageError: another number of models than members.
        """
        if len(models) != len(self.members):
            raise UsageError(
                explain(
                    "Ensemble.with_models",
                    f"{len(models)} models for {len(self.members)} members",
                    "one model per member, None to keep a model",
                    "Give them in the order of ensemble.members.",
                )
            )
        members = [
            member if model is None else dataclasses.replace(member, model=model)
            for member, model in zip(self.members, models, strict=True)
        ]
        return self._like(members)

    def refit(self, train: Callable[[Member], Any] | None = None, **options: Any) -> Ensemble:
        """Retrains every member that has weight, once, on all data, and keeps the weights.

        This is how a member made of the k models of a cross-validation collapses to one model.

        Args:
            train: takes a `Member`, gives back its model trained on all data; None for members of a search, whose
                tuner retrains them.
            **options: of `tuner.retrain`: x, y, epochs_factor, ...

        Raises:
            UsageError: no `train`, and members that are of no search.
        """
        used = self.pool.support.tolist()
        if train is None and self.retrainer is None:
            raise UsageError(
                explain(
                    "Ensemble.refit(train)",
                    "nothing that trains",
                    "a function from a Member to its model, unless tuner.ensemble() made the ensemble",
                    "For instance ensemble.refit(lambda member: build_and_fit(member.configuration)).",
                )
            )
        if train is not None:
            models = {index: train(self.members[index]) for index in used}
        else:
            assert self.retrainer is not None
            models = self.retrainer(used, **options)
        return self.with_models([models.get(index) for index in range(len(self.members))])

    def _like(self, members: Sequence[Member]) -> Ensemble:
        other = Ensemble(
            members,
            self.pool,
            self.task,
            num_outputs=self.num_outputs,
            choice=self.choice,
            problem=self.problem,
            metric=self.metric,
        )
        other.settings, other.notes, other.seconds_per_row = self.settings, list(self.notes), self.seconds_per_row
        other.retrainer = self.retrainer
        return other

    def measure_latency(self, x: Any) -> dict[str, float]:
        """Times every member that has a model; `summary` then shows what latency buys.

        Args:
            x: rows; a batch of them is predicted a few times.

        Returns:
            Seconds per row by the member's name.
        """
        seconds = [measure_latency(member, x) if member.models else np.nan for member in self.members]
        self.seconds_per_row = np.array(seconds)
        return {m.name: s for m, s in zip(self.members, seconds, strict=True) if m.models}

    def to_keras(self) -> Any:
        """One Keras model of standard layers, equal to the ensemble, compiled with the members' loss and metrics.

        Raises:
            UsageError: a member with weight is no Keras model, or members take different inputs.
        """
        model = fuse.fused_model(self.members, self.pool, self.task, self.num_outputs)
        return fuse.compiled_like(model, self._used()[0].models[0])

    def save(self, path: str | pathlib.Path) -> None:
        """Saves the ensemble.

        Args:
            path: ``something.keras``: one Keras model, which loads and predicts without Manyfit, by
                ``keras.saving.load_model``. Anything else: a folder, for `Ensemble.load`; it takes members of
                every brand.

        Raises:
            UsageError: a ``.keras`` file was asked for, and a member with weight is no Keras model.
            UsageError: a member with weight has no model.
        """
        path = pathlib.Path(path)
        if path.suffix == ".keras":
            self.to_keras().save(path)
        else:
            folder.save(path, self._used(), self.pool, self.task, self.num_outputs)

    @classmethod
    def load(cls, path: str | pathlib.Path, *, trust: bool = False) -> Ensemble:
        """Loads an ensemble that was saved to a folder; every file is checked against its hash.

        Args:
            path: the folder.
            trust: allow pickles, which can run any code when they are loaded. Needed for members that are no Keras
                models.

        Raises:
            UsageError: no manifest, a changed or missing file, or pickles without `trust=True`.
        """
        members, pool, task, num_outputs = folder.load(pathlib.Path(path), trust=trust)
        return cls(members, pool, task, num_outputs=num_outputs)

    def soup(self, x: Any, y: Any) -> exits.Soup:
        """One model whose weights are the mean of members' weights, for members that were trained from one start.

        Args:
            x: rows that no member was trained on.
            y: their labels.

        Raises:
            UsageError: fewer than two members are used, or they differ in structure.
        """
        models = [model for member in self._used() for model in member.models]
        return exits.greedy_soup(models, x, y, self.metric, task=self.task)

    def distill(
        self,
        x: Any,
        y: Any = None,
        *,
        x_test: Any = None,
        student: Any = None,
        epochs: int = 30,
        batch_size: int = 128,
        seed: int = 0,
    ) -> exits.Student:
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
        best = self._best_used()
        if student is None and not best.all_keras:
            raise UsageError(
                explain(
                    "Ensemble.distill",
                    "no student, and a best member that is no Keras model",
                    "a Keras model as student",
                    "Pass student=, a small Keras model with the same inputs and outputs.",
                )
            )
        student = exits.fresh_copy(best.models[0]) if student is None else student
        settings = {"epochs": epochs, "batch_size": batch_size, "seed": seed}
        exits.train_student(self.predict, student, x, self.task, **settings)
        apart = float(np.abs(model_predictions(student, x, 1024) - self.predict(x)).mean())
        if y is None:
            return exits.Student(student, {}, apart)
        rows = x if x_test is None else x_test
        told = {
            "ensemble": self.predict(rows),
            "student": model_predictions(student, rows, 1024),
            "best member": best.predict(rows),
        }
        scores = {name: self.evaluate_predictions(p, y)[self.metric.name] for name, p in told.items()}
        return exits.Student(student, scores, apart)

    def _best_used(self) -> Member:
        if self.problem is None:
            return self._used()[0]
        used = self.pool.support
        own = own_losses(self.problem.members(used), self.metric)
        return self.members[used[int(np.argmin(own))]]

    def explanation(self) -> Explanation:
        """Why the weights are what they are, how diverse the members are, and what each costs.

        Raises:
            UsageError: the ensemble was loaded from disk, so the rows it was fitted on are not here.
        """
        return explain_ensemble(self)

    def summary(self) -> str:
        """A text that says what was chosen, what it gains, and why each member has its weight."""
        if self.problem is None:
            return f"Ensemble of {len(self.pool.support)} members: {self.pool.describe()}."
        return self.explanation().text()

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        return f"<Ensemble of {len(self.pool.support)} of {len(self.members)} members, {self.method}>"


def _usable(predictions: np.ndarray, members: Sequence[Member]) -> tuple[np.ndarray, list[str]]:
    """Indices of members whose predictions are all finite; the others get weight zero and a note."""
    flat = predictions.reshape(len(predictions), -1)
    bad = np.array([int((~np.isfinite(row)).sum()) for row in flat])
    usable = np.flatnonzero(bad == 0)
    if not len(usable):
        raise UsageError(
            explain(
                "Ensemble.fit(predictions)",
                "NaN or inf in the predictions of every member",
                "at least one member with finite predictions",
                "Leave out members that diverged, and check the preprocessing of x.",
            )
        )
    notes = [
        f"{member.name}: {count} predictions are NaN or inf, so it has weight 0"
        for member, count in zip(members, bad, strict=True)
        if count
    ]
    return usable, notes


def _task(task: Task | str | None, members: Sequence[Member]) -> Task | str | None:
    """The task the user named, or the one that a compiled Keras loss or an estimator's kind makes certain."""
    if task is not None:
        if task not in list(Task):
            raise UsageError(
                explain("Ensemble.fit(task)", repr(task), ", ".join(Task), "Leave it out to have it found.")
            )
        return task
    for member in members:
        for model in member.models:
            loss = getattr(model, "loss", None)
            name = str(getattr(loss, "name", None) or getattr(loss, "__name__", None) or loss).lower()
            if "categorical_crossentropy" in name:
                return Task.MULTICLASS
            if emits_logits(model):
                return None
            if name in ("mse", "mae", "mean_squared_error", "mean_absolute_error", "huber", "log_cosh", "poisson"):
                return None if np.asarray(member.predictions).shape[1] > 1 else Task.REGRESSION
    return None


def _with_everyone(problem: Problem, usable: np.ndarray, num_members: int) -> Problem:
    """The problem with NaN in place of the predictions that could not be used."""
    if len(usable) == num_members:
        return problem
    full = np.full((num_members, *problem.predictions.shape[1:]), np.nan)
    full[usable] = problem.predictions
    return dataclasses.replace(problem, predictions=full)
