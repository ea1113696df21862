"""Mixed precision: the numbers that models compute with, and what float16 needs besides.

Variables, losses, metrics and the outputs of a model stay in float32; only what layers compute in between is shorter
(Micikevicius et al. 2018, *Mixed precision training*). bfloat16 has float32's range and needs nothing else. float16
does not: small gradients vanish and large ones overflow, so the loss is multiplied by a scale that follows the
gradients (Keras's `LossScaleOptimizer`); a step whose gradients overflow is skipped and halves it. Its state is
optimizer state, so in a population each member has its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from manyfit.core.errors import FatalValueError, explain
from manyfit.core.records import Ending
from manyfit.training.hardware import Hardware, hardware
from manyfit.training.keras_internals.building import output_layers

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""Precision -> Keras's dtype policy."""

#: Metrics that trainers add to the logs of models that train with a loss scale.
OVERFLOWS, LOSS_SCALE = "overflows", "loss_scale"

Precision = str | Callable[[Any], str] | None
"""A name, a function of the hyperparameters that returns one, or None for Keras's own settings."""


def check_precision(precision: object) -> None:
    """Checks a name, or lets a function pass.

    Raises:
        FatalValueError: it is neither a function nor one of the names.
    """
    if precision is None or callable(precision) or precision == "auto":
        return
    if not isinstance(precision, str) or precision not in POLICIES:
        by_policy = {policy: name for name, policy in POLICIES.items()}
        meant = by_policy.get(precision, "auto") if isinstance(precision, str) else "auto"
        raise FatalValueError(
            explain(
                "precision",
                precision,
                '"float32", "bfloat16", "float16", "auto", or a function of hp that returns one of them',
                f'Type precision="{meant}"; to search over it, type '
                'precision=lambda hp: hp.Choice("precision", ["float32", "bfloat16"]).',
            )
        )


def best_precision(device: Hardware) -> tuple[str, str]:
    """The precision that `"auto"` stands for on a device, and why.

    Example:

    >>> best_precision(Hardware("gpu", 1, "NVIDIA A100", (8, 0)))
    ('bfloat16', 'NVIDIA A100 computes it several times as fast as float32')
    >>> best_precision(Hardware("gpu", 1, "Tesla T4", (7, 5)))[0]
    'float16'
    """
    if device.kind == "tpu":
        return "bfloat16", "it is what a TPU multiplies"
    if device.kind == "cpu":
        return "float32", "shorter numbers rarely pay on a CPU"
    capability = device.compute_capability
    if capability is None:
        return "float32", f"nothing is known of {device.name}"
    if capability >= (8, 0):
        return "bfloat16", f"{device.name} computes it several times as fast as float32"
    if capability >= (7, 0):
        return "float16", f"{device.name} has fast float16, and no bfloat16"
    return "float32", f"{device.name} has no fast shorter numbers"


def resolve(precision: str) -> str:
    """The precision that a name stands for on this machine."""
    return best_precision(hardware())[0] if precision == "auto" else precision


def sentence(precision: Precision) -> str | None:
    """What is worth saying of a precision before training; None if nothing is."""
    if callable(precision) or precision is None:
        return None
    device = hardware()
    if precision == "auto":
        chosen, reason = best_precision(device)
        return f'precision="auto": {chosen}; {reason}.'
    if device.kind == "cpu" and precision != "float32":
        return f'precision="{precision}" on a CPU: right, but rarely faster than float32 (`manyfit doctor` times both).'
    return None


def built_with(precision: Precision, build: Callable[[Any], Any], hyperparameters: Any) -> Any:
    """Calls a build function under a precision. Keras's global policy is afterwards what it was, whatever happens.

    Args:
        precision: a name, or a function that is asked with the hyperparameters first.
        build: the user's.
        hyperparameters: of the trial.

    Raises:
        FatalValueError: the function returned something that is no precision.
    """
    # Keras's global policy is the only way to a build function that names no dtypes; it is each thread's own.
    before = keras.config.dtype_policy()
    try:
        name = precision(hyperparameters) if callable(precision) else precision
        if name is None:
            return build(hyperparameters)
        check_precision(name)
        policy = POLICIES[resolve(name)]
        keras.config.set_dtype_policy(policy)
        model = build(hyperparameters)
        if policy != "float32" and isinstance(model, keras.Model):
            keep_outputs_in_float32(model)
        return model
    finally:
        keras.config.set_dtype_policy(before)


def keep_outputs_in_float32(model: keras.Model) -> None:
    """Has the layers that make a model's outputs, and every softmax, compute in float32.

    A softmax in float16 cannot tell probabilities below 6e-8 from 0, and its loss is off where a model is sure. Layers
    of the user's own, and those inside attention, are left as Keras made them.
    """
    for layer in [*_output_layers(model), *_softmax_layers(model)]:
        if layer.dtype_policy.name in POLICIES.values():
            layer.dtype_policy = "float32"


def _output_layers(model: keras.Model) -> list[keras.layers.Layer]:
    if isinstance(model, keras.Sequential):
        last = model.layers[-1:]
    else:
        last = output_layers(keras.tree.flatten(_outputs(model)))
    layers = [layer for layer in last if isinstance(layer, keras.layers.Layer)]
    return [
        inner for layer in layers for inner in (_output_layers(layer) if isinstance(layer, keras.Model) else [layer])
    ]


def _outputs(model: keras.Model) -> Any:
    return getattr(model, "outputs", None) or []


def _softmax_layers(model: keras.Model) -> list[keras.layers.Layer]:
    found = []
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            found += _softmax_layers(layer)
        elif isinstance(layer, keras.layers.Softmax) or getattr(layer, "activation", None) is keras.activations.softmax:
            found.append(layer)
    return found


def loss_scale_places(optimizer: object) -> tuple[int, int] | None:
    """Where a loss scale and the number of steps taken stand among an optimizer's variables; None without a scale."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or not optimizer.built:
        return None
    variables = list(optimizer.variables)
    taken = optimizer.inner_optimizer.variables[0]  # "iteration", which every optimizer makes first
    places = {id(variable): place for place, variable in enumerate(variables)}
    return places[id(optimizer.dynamic_scale)], places[id(taken)]


@dataclasses.dataclass
class LossScaleWatch:
    """Counts the steps that one execution loses to overflow, and sees when its loss scale collapses.

    Attributes:
        places: see `loss_scale_places`.
        taken: steps that changed the weights.
        overflows: steps that were skipped.
    """

    places: tuple[int, int]
    taken: int = 0
    overflows: int = 0

    @classmethod
    def of(cls, optimizer: object) -> LossScaleWatch | None:
        """A watch of a built optimizer; None if it has no loss scale."""
        places = loss_scale_places(optimizer)
        return None if places is None else cls(places)

    def observe(self, values: Sequence[Any], num_steps: int) -> tuple[dict[str, float], str | None]:
        """Takes the state of the optimizer at the end of an epoch.

        Args:
            values: of the optimizer's variables, in their order.
            num_steps: steps of the epoch.

        Returns:
            Metrics for the logs, `overflows` counted from the start; and the reason to end the execution, or None.
        """
        scale, taken = (float(np.asarray(values[place])) for place in self.places)
        new = int(taken) - self.taken
        self.taken = int(taken)
        self.overflows += max(0, num_steps - new)
        collapsed = new == 0 and scale < 1.0 and num_steps > 0
        return {OVERFLOWS: float(self.overflows), LOSS_SCALE: scale}, self._reason(scale) if collapsed else None

    def ending(self, ending: Ending) -> Ending:
        """How an execution ended whose loss scale collapsed: one that never took a step has learnt nothing."""
        return Ending.DIVERGED if self.taken == 0 else ending

    def _reason(self, scale: float) -> str:
        return (
            f"the loss scale collapsed to {scale:g}: every step of the epoch overflowed in float16 "
            f'({self.overflows} in all). Type precision="bfloat16", lower the learning rate, or scale the inputs.'
        )


class LossScaleCallback(keras.callbacks.Callback):
    """The watch, for `model.fit`: adds its metrics to the logs, and ends training when the loss scale collapses."""

    def __init__(self) -> None:
        super().__init__()
        self.watch: LossScaleWatch | None = None
        self.reason: str | None = None
        self._steps = 0

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        self._steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self.watch = self.watch or LossScaleWatch.of(self.model.optimizer)
        if self.watch is None:
            return
        metrics, self.reason = self.watch.observe(list(self.model.optimizer.variables), self._steps)
        if logs is not None:
            logs.update(metrics)
        if self.reason is not None:
            self.model.stop_training = True

    def judged(self, ending: Ending, message: str | None) -> tuple[Ending, str | None]:
        """How the execution ended, and why, once a collapse is taken into account."""
        if self.watch is None or self.reason is None:
            return ending, message
        return self.watch.ending(ending), self.reason


def needs_loss_scale_callback(model: object) -> bool:
    """Whether a compiled model trains with a loss scale."""
    return isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer)
