"""What Keras itself says of an ensemble: the loss and the metrics that its members were compiled with.

The prediction of the pool is there already, so a model that answers its input is compiled like a member and evaluates
that prediction. All that Keras knows of losses and metrics then holds as it is: strings, functions, classes of the
user's, one for each output, with weights and without.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from manyfit.core.history import numbers_of
from manyfit.data.rows import Rows
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, fixed_batch, is_keras, unlinked
from manyfit.ensemble.outputs import Outputs
from manyfit.ensemble.pools import LinearPool, Pool

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

_MEASURING = ("loss", "loss_weights", "metrics", "weighted_metrics")
_STEPS = ("test_step", "compute_loss", "compute_metrics")
_LEFT_OUT = -1e9  # what stands for a step that a mask leaves out; no layer of a user's answers it
# Keras's own. Where a mask leaves steps out, or a loss of the user's is no mean over rows, the number depends on it.
_BATCH = 32


def compiled_alike(model: keras.Model, source: keras.Model) -> keras.Model:
    """Compiles `model` as `source` is, with a fresh optimizer; a source that is not compiled leaves it so."""
    arguments = _measuring(source)
    if arguments:
        model.compile(optimizer=type(source.optimizer).from_config(source.optimizer.get_config()), **arguments)
    return model


def compiled_on_probabilities(model: keras.Model, source: Model) -> keras.Model:
    """Compiles `model`, which answers probabilities, with the loss and metrics of `source`, which may take logits."""
    import keras

    arguments = _measuring(source) if is_keras(source) else {}
    if arguments:
        told = keras.tree.map_structure(_on_probabilities, arguments)
        # An optimizer without slots: any other warns at loading that its slots were never filled.
        model.compile(optimizer="sgd", **told)
    return model


def compiled_like(copy: keras.Model, model: keras.Model) -> keras.Model:
    """Compiles a copy of a model with what that was compiled with; the optimizer is a fresh one of the same kind."""
    from manyfit.training.keras_internals.building import compile_arguments  # imports Keras

    arguments = compile_arguments(model)
    if arguments:
        optimizer = arguments["optimizer"]
        fresh = type(optimizer).from_config(optimizer.get_config()) if hasattr(optimizer, "get_config") else optimizer
        copy.compile(**{**arguments, "optimizer": fresh})
    return copy


def _measuring(source: keras.Model) -> dict[str, Any]:
    """Arguments of `compile` that say what is measured, as they were given; empty if the model was not compiled.

    Metrics stay the objects that they are. A copy would be made of what `get_config` tells, which for a class of the
    user's without one is less than it was made with; and a model resets its metrics before it measures.
    """
    from manyfit.training.keras_internals.building import compile_arguments  # imports Keras

    arguments = compile_arguments(source)
    if arguments.get("loss") is None and arguments.get("metrics") is None:
        return {}
    return {name: arguments.get(name) for name in _MEASURING}


def _on_probabilities(thing: object) -> object:
    """A loss or metric that takes probabilities, where `thing` takes logits."""
    config = thing.get_config() if hasattr(thing, "get_config") else {}
    if not getattr(thing, "from_logits", False) and not config.get("from_logits"):
        return thing
    return type(thing).from_config({**config, "from_logits": False})  # type: ignore[attr-defined]  # a loss or metric


def compiled_metrics(
    members: Sequence[EnsembleMember], pool: Pool, prediction: Any, rows: Rows, batch_size: int | None
) -> dict[str, float]:
    """The loss and metrics that the members with weight were compiled with, of what they predict together.

    Args:
        members: those with weight; the first that is made of Keras models says what is measured.
        pool: among all members.
        prediction: of the pool, in the structure of a member's outputs; probabilities where members answer logits.
        rows: what was predicted, with labels and weights as the members' `evaluate` takes them; without x, if only the
            predictions are here.
        batch_size: as the members' `evaluate` takes it.

    Returns:
        Numbers by Keras's names. Empty where no member is a compiled Keras model, and where several have a `test_step`
        (or `compute_loss`, `compute_metrics`) of their own: that measures one model and nothing else.
    """
    source = next((member.models[0] for member in members if member.all_keras), None)
    if not is_keras(source) or not (arguments := _measuring(source)):
        return {}
    size = fixed_batch(source) or batch_size or _BATCH
    if rows.x is not None and _is_one_model(members, pool):
        # Its own answer, with penalties on activities and a `test_step` of the user's.
        told = source.evaluate(*rows.parts[:2], size, 0, rows.sample_weight, return_dict=True)
        return numbers_of(told)
    if any(getattr(type(source), step).__module__.startswith("keras.") is False for step in _STEPS):
        return {}
    told = _judged(source, arguments, prediction, rows, size)
    if "loss" in told:
        told["loss"] += _penalties(members, pool)
    return told


def _is_one_model(members: Sequence[EnsembleMember], pool: Pool) -> bool:
    if len(members) != 1 or len(members[0].models) != 1 or not isinstance(pool, LinearPool):
        return False
    return pool.inverse_temperature == 1.0 and pool.member_inverse_temperatures is None


def _judged(
    source: keras.Model, arguments: Mapping[str, Any], prediction: Any, rows: Rows, batch_size: int
) -> dict[str, float]:
    """What `source` would say of a prediction that were its own."""
    import keras

    from manyfit.training.keras_internals.building import output_masks  # imports Keras

    class Judge(keras.Model):
        """Answers what it is asked."""

        def __init__(self, masked: bool) -> None:
            super().__init__(dtype="float32")
            # For the names of metrics: those of a functional model have the names of its outputs in front.
            self.output_names = getattr(source, "output_names", None)
            self.masking = keras.layers.Masking(_LEFT_OUT, dtype="float32") if masked else None

        def call(self, x: Any) -> Any:
            return x if self.masking is None else self.masking(x)

    prediction = _as_answered(prediction, source)
    mask = None if rows.x is None or not isinstance(prediction, np.ndarray) else output_masks(source, rows.x)
    if mask is not None:
        prediction = np.where(mask[..., None], prediction, np.float32(_LEFT_OUT))
    judge = Judge(mask is not None)
    judge.compile(optimizer="sgd", **arguments)
    told = judge.evaluate(prediction, rows.y, batch_size, 0, rows.sample_weight, return_dict=True)
    return numbers_of(told)


def _as_answered(prediction: Any, source: keras.Model) -> Any:
    """Probabilities as the logits that a model answers: its metrics may look at logits as its loss does."""
    if isinstance(prediction, np.ndarray):
        return unlinked(prediction) if emits_logits(source) else prediction
    outputs = Outputs.of(prediction)
    parts = [
        unlinked(part) if emits_logits(source, key) else part
        for key, part in zip(outputs.keys, outputs.parts(prediction), strict=True)
    ]
    return parts if outputs.names is None else dict(zip(outputs.names, parts, strict=True))


def _penalties(members: Sequence[EnsembleMember], pool: Pool) -> float:
    """What regularizers of weights add to the loss: the members' own, each with its share."""
    shares = np.abs(pool.weights[pool.support])
    total = 0.0
    for member, share in zip(members, shares / shares.sum(), strict=True):
        nets = [model for model in member.models if is_keras(model)]
        own = [float(v.regularizer(v)) for net in nets for v in net.trainable_variables if v.regularizer is not None]
        total += share * sum(own) / max(len(nets), 1)
    return float(total)
