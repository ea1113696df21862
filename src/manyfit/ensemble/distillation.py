"""Ways out of an ensemble that cost one model at prediction: a soup of weights, or a distilled student."""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, is_keras, model_predictions
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask, make_problem
from manyfit.ensemble.saving import load_saved

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
    models: Sequence[Model], x: object, y: ArrayLike, metric: Metric, *, task: PredictionTask | None = None
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

    def problem_of(net: keras.Model) -> EnsembleProblem:
        return make_problem(model_predictions(net, x, 1024)[None], y, task=task)

    def loss(net: keras.Model) -> float:
        problem = problem_of(net)
        return metric.loss(problem.predictions[0], problem)

    own = [loss(net) for net in nets]
    order = [int(index) for index in np.argsort(own, kind="stable")]
    # A copy, since the ingredients keep their weights; by way of a file, the only way that copies every kind of state.
    soup = _through_file(nets[order[0]])
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
    rows = problem_of(nets[0])  # a score such as R^2 needs the labels to turn a loss back
    return Soup(soup, tuple(inside), metric.to_score(best, rows), metric.to_score(own[order[0]], rows))


def _through_file(model: keras.Model) -> keras.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.keras"
        model.save(path)
        custom = {type(model).__name__: type(model)} if not type(model).__module__.startswith("keras.") else None
        return load_saved(path, custom)


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


def train_student(
    teacher: Callable[[object], np.ndarray],
    student: keras.Model,
    x: object,
    task: PredictionTask,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
) -> keras.Model:
    """Trains `student` on the soft labels of `teacher` for the rows `x` (Hinton, Vinyals and Dean 2015).

    Args:
        teacher: rows -> (n, C) predictions.
        student: a Keras model; it is compiled anew: Adam, and cross-entropy or squared error against soft labels.
        x: rows, labelled or not.
        task: what is predicted.
        epochs: of training.
        batch_size: rows per step.
        seed: of Keras's global seed, which shuffling and dropout draw from.
    """
    import keras

    logits = emits_logits(student)
    if task is PredictionTask.MULTICLASS:
        loss: keras.losses.Loss = keras.losses.CategoricalCrossentropy(from_logits=logits)
    elif task.probabilistic:
        loss = keras.losses.BinaryCrossentropy(from_logits=logits)
    else:
        loss = keras.losses.MeanSquaredError()
    # Keras draws dropout and shuffling from global generators; there is no other way to seed them.
    keras.utils.set_random_seed(seed)
    student.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    student.fit(x, teacher(x), epochs=epochs, batch_size=batch_size, verbose=0)
    return student


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
    """A model of the same structure with weights drawn anew, adapted layers excepted; compiled loss included."""
    import keras

    copy = keras.models.clone_model(model)
    for ours, theirs in zip(copy.layers, model.layers, strict=True):
        # Adapted layers hold what they saw of the data (a mean, a vocabulary), which a fresh start must not forget.
        # Batch normalization holds what training made of it, which it must.
        if not theirs.trainable_weights and theirs.weights and not isinstance(theirs, keras.layers.BatchNormalization):
            ours.set_weights(theirs.get_weights())
            if hasattr(ours, "finalize_state"):
                ours.finalize_state()
    if getattr(model, "loss", None) is not None:
        copy.compile(optimizer="sgd", loss=model.loss)
    return copy
