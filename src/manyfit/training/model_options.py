"""What a tuner does to every model that is built for it: precision, fused steps, compilation, devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from manyfit.core.checks import whole_number
from manyfit.core.errors import FatalValueError, explain
from manyfit.training.devices import Devices, check_devices
from manyfit.training.precision import Precision, built_with, check_precision


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """Options of every tuner and of `retrain`; None leaves the model as the build function made it.

    Attributes:
        precision: "float32", "bfloat16", "float16", "auto" (by device), or a function of the hyperparameters that
            returns one of these: see `manyfit.training.precision`.
        steps_per_execution: batches per call of the compiled program. A population runs whole epochs in one call
            whatever is given here; through `model.fit` it is Keras's.
        jit_compile: whether steps are compiled.
        devices: None: each model on one device, a population's members on all; "data_parallel" or a
            `keras.distribution`: each model on all devices.

    Raises:
        FatalValueError: a value that is not allowed, or that the backend cannot follow.
    """

    precision: Precision = None
    steps_per_execution: int | None = None
    jit_compile: bool | None = None
    devices: Devices = None

    def __post_init__(self) -> None:
        check_precision(self.precision)
        check_devices(self.devices)
        self._check_steps()
        if self.jit_compile not in (None, True, False):
            instead = "Leave it out: Keras then decides by backend and device."
            raise FatalValueError(explain("jit_compile", self.jit_compile, "True, False or None", instead))

    def _check_steps(self) -> None:
        steps, backend = self.steps_per_execution, keras.backend.backend()
        if steps is None:
            return
        instead = "Type steps_per_execution=8, say."
        whole_number("steps_per_execution", steps, instead=instead, error=FatalValueError)
        if backend == "torch" and steps > 1:
            raise FatalValueError(
                explain(
                    "steps_per_execution",
                    f"{steps} on torch, where Keras runs one step per call",
                    "1 on torch; any number on JAX and TensorFlow",
                    "Leave it out, or set KERAS_BACKEND=jax.",
                )
            )

    def built(self, build: Callable[[Any], Any], hyperparameters: Any) -> Any:
        """Calls a build function, and gives its model these options."""
        model = built_with(self.precision, build, hyperparameters)
        if isinstance(model, keras.Model) and model.compiled:
            if self.steps_per_execution is not None:
                model.steps_per_execution = self.steps_per_execution
            if self.jit_compile is not None:
                model.jit_compile = self.jit_compile
        return model

    def replaced(self, **given: Any) -> ModelOptions:
        """These options with those that are not None in `given`."""
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})
