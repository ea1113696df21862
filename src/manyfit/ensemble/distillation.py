"""Ways out of an ensemble that cost one model at prediction: a soup of weights, or a distilled student."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.kinds import FitData
from manyfit.ensemble.alignment import problem_of
from manyfit.ensemble.evaluating import compiled_alike
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, fixed_batch, is_keras, model_predictions
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.outputs import Outputs, Prediction
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras


@dataclasses.dataclass(frozen=True, eq=False)
class Soup:
    """One model whose weights are the mean of several models' weights."""

    model: keras.Model
    ingredients: tuple[int, ...]  # indices of the models in it, in the order they went in
    score: float  # of the soup on the rows it was made with
    best_score: float  # of the best ingredient alone, on the same rows


def greedy_soup(
    models: Sequence[Model],
    x: object,
    y: FitData,
    metric: Metric,
    *,
    task: PredictionTask | None = None,
    outputs: Outputs | None = None,
) -> Soup:
    """Averages the weights of models that share a start (Wortsman et al. 2022, greedy soup).

    The best model goes in first; each further model, best first, stays in only if the average is no worse with it.
    For models that were trained from different starts the average is usually poor, and the soup stays the best
    model alone. The statistics of batch normalization are averaged like weights.

    Args:
        models: Keras models of one structure.
        x: rows that none of them was trained on.
        y: their labels.
        metric: what to improve.
        task: what they predict; None finds it from the numbers.
        outputs: how predictions are laid out; None for one output.

    Raises:
        UsageError: fewer than two models, or models of different structure.
    """
    nets = [model for model in models if is_keras(model)]
    shapes = [[tuple(v.shape) for v in net.variables] for net in nets]
    if len(models) < 2 or len(nets) < len(models) or any(shape != shapes[0] for shape in shapes):
        raise UsageError(
            explain(
                "soup",
                "fewer than two models" if len(models) < 2 else "models of different structure",
                "two or more Keras models with the same layers, trained from one start",
                "Ensemble models of different structure instead: Ensemble.fit(models, y, x=x).",
            )
        )

    def problem_for(net: keras.Model) -> EnsembleProblem:
        return problem_of(model_predictions(net, x, 1024), y, outputs or Outputs(()), task)

    def loss(net: keras.Model) -> float:
        problem = problem_for(net)
        return metric.loss(problem.predictions[0], problem)

    own = [loss(net) for net in nets]
    order = [int(index) for index in np.argsort(own, kind="stable")]
    from manyfit.training.copies import copy_model  # imports Keras

    soup = compiled_alike(copy_model(nets[order[0]]), nets[order[0]])  # a copy: the ingredients keep their weights
    values, best, inside = nets[order[0]].get_weights(), own[order[0]], [order[0]]
    for index in order[1:]:
        size = len(inside)
        trial = [
            ((a * size + b) / (size + 1)).astype(a.dtype)
            for a, b in zip(values, nets[index].get_weights(), strict=True)
        ]
        soup.set_weights(trial)
        tried = loss(soup)
        # No worse is enough: an average of more models is the safer one on new rows.
        if tried <= best:
            values, best = trial, tried
            inside.append(index)
    soup.set_weights(values)
    rows = problem_for(nets[0])  # a score such as R^2 needs the labels to turn a loss back
    return Soup(soup, tuple(inside), metric.to_score(best, rows), metric.to_score(own[order[0]], rows))


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A model that was trained to predict like an ensemble."""

    model: keras.Model
    scores: dict[str, float]  # of "ensemble", "student" and "best member" on the labelled rows; empty without labels
    difference: float  # mean absolute difference between its predictions and the ensemble's on `x`

    @property
    def loss_in_score(self) -> float:
        """Score of the ensemble minus score of the student; NaN without labels."""
        if not self.scores:
            return float("nan")
        return self.scores["ensemble"] - self.scores["student"]


class Teacher(Protocol):
    """What a student is compared with: an `Ensemble`."""

    metric: Metric
    task: PredictionTask
    outputs: Outputs

    def best_used(self) -> EnsembleMember:
        """The best member."""

    def predict(self, x: FitData) -> Prediction:
        """Predicts rows."""

    def evaluate_predictions(self, prediction: Any, y: FitData) -> dict[str, float]:
        """Measures predictions."""


def distilled(
    teacher: Teacher,
    x: Any,
    y: FitData,
    *,
    x_test: Any,
    student: keras.Model | None,
    settings: Mapping[str, int],
) -> Student:
    """See `Ensemble.distill`.

    Args:
        teacher: the ensemble.
        x: rows whose soft labels are learned.
        y: labels of `x_test`, or of `x`; None: no scores.
        x_test: rows to measure on, or None.
        student: a model, or None for a copy of the best member.
        settings: of `train_student`.
    """
    best = teacher.best_used()
    net = student_like(best) if student is None else student
    soft = teacher.predict(x)
    train_student(net, x, soft, teacher.task, teacher.outputs, **settings)
    apart = distance(model_predictions(net, x, 1024), soft)
    scores = {} if y is None else scores_of(teacher, net, best, x if x_test is None else x_test, y)
    return Student(net, scores, apart)


def scores_of(teacher: Teacher, student: keras.Model, best: EnsembleMember, x: FitData, y: FitData) -> dict[str, float]:
    """The metric of an ensemble, of its student and of its best member.

    Args:
        teacher: the ensemble.
        student: the model that was trained to predict like it.
        best: the member to be compared with.
        x: rows.
        y: their labels.
    """
    told = {
        "ensemble": teacher.predict(x),
        "student": model_predictions(student, x, 1024),
        "best member": best.predict(x),
    }
    return {name: teacher.evaluate_predictions(one, y)[teacher.metric.name] for name, one in told.items()}


def train_student(
    student: keras.Model,
    x: object,
    soft: Prediction,
    task: PredictionTask,
    outputs: Outputs,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> keras.Model:
    """Trains `student` on soft labels for the rows `x` (Hinton, Vinyals and Dean 2015).

    Args:
        student: a Keras model; it is compiled anew: Adam, and cross-entropy or squared error against soft labels.
        x: rows, labelled or not.
        soft: what the teacher predicts of them.
        task: what is predicted, where there is one output.
        outputs: how predictions are laid out.
        epochs: of training.
        batch_size: rows per step.
        seed: of Keras's global seed, which shuffling and dropout draw from.
    """
    import keras

    if outputs.several:
        losses = [
            _soft_loss(one.task, emits_logits(student, key))
            for key, one in zip(outputs.keys, outputs.tasks, strict=True)
        ]
        loss: Any = losses if outputs.names is None else dict(zip(outputs.names, losses, strict=True))
    else:
        loss = _soft_loss(task, emits_logits(student))
    # Keras draws dropout and shuffling from global generators; there is no other way to seed them.
    keras.utils.set_random_seed(seed)
    student.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    student.fit(x, soft, epochs=epochs, batch_size=fixed_batch(student) or batch_size, verbose=0)
    return student


def _soft_loss(task: PredictionTask | str | None, logits: bool) -> keras.losses.Loss:
    import keras

    if task == PredictionTask.MULTICLASS:
        return keras.losses.CategoricalCrossentropy(from_logits=logits)
    if task == PredictionTask.REGRESSION:
        return keras.losses.MeanSquaredError()
    return keras.losses.BinaryCrossentropy(from_logits=logits)


def distance(prediction: Prediction, other: Prediction) -> float:
    """Mean absolute difference of two predictions, over all numbers of all outputs."""
    outputs = Outputs.of(other)
    if not outputs.several:
        return float(np.abs(np.asarray(prediction) - np.asarray(other)).mean())
    return float(np.abs(outputs.flat(prediction) - outputs.flat(other)).mean())


def student_like(member: EnsembleMember) -> keras.Model:
    """A fresh copy of a member's first model, to be taught.

    Raises:
        UsageError: it is no Keras model.
    """
    model = next(iter(member.models), None)
    if not is_keras(model) or not member.all_keras:
        raise UsageError(
            explain(
                "Ensemble.distill",
                "no student, and a best member that is no Keras model",
                "a Keras model as student",
                "Pass student=, a small Keras model with the same inputs and outputs.",
            )
        )
    return fresh_copy(model)


def fresh_copy(model: keras.Model) -> keras.Model:
    """A model of the same structure with weights drawn anew, adapted layers excepted; compiled loss included.

    Raises:
        UncopyableModelError: a layer cannot be made again; the message names its class.
    """
    from manyfit.training.copies import fresh_model  # imports Keras

    copy = fresh_model(model)
    if getattr(model, "loss", None) is not None:
        copy.compile(optimizer="sgd", loss=model.loss)
    return copy
