"""Learning-rate schedules that last longer: the same path, walked more slowly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from manyfit.space.hyperparameters import HyperParameters


# Models that were saved name this module and this class: both have to stay where they are.
class StretchedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule whose step counts are multiplied by a factor.

    Args:
        schedule: the original.
        factor: 2 makes it last twice as long.
    """

    def __init__(self, schedule: keras.optimizers.schedules.LearningRateSchedule, factor: float) -> None:
        self.schedule = schedule
        self.factor = factor

    def __call__(self, step: object) -> object:
        """The original's learning rate at `step / factor`."""
        return self.schedule(keras.ops.cast(step, "float32") / self.factor)

    def get_config(self) -> dict[str, Any]:
        """See Keras."""
        schedule = keras.optimizers.schedules.serialize(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> StretchedSchedule:
        """The inverse of `get_config`."""
        return cls(keras.optimizers.schedules.deserialize(config["schedule"]), config["factor"])


def stretched_build(build: Callable[[Any], Any], factor_of: Callable[[HyperParameters], float]) -> Callable[[Any], Any]:
    """A build function whose models follow stretched schedules.

    Learning rates that are numbers, and `LearningRateScheduler` callbacks (which count epochs), stay as they are.

    Args:
        build: the original.
        factor_of: hyperparameters -> factor.
    """

    def stretched(hyperparameters: HyperParameters) -> object:
        factor = factor_of(hyperparameters)  # before the build, which may settle further values
        model = build(hyperparameters)
        outer = getattr(model, "optimizer", None)
        optimizer = getattr(outer, "inner_optimizer", outer)  # float16 wraps the optimizer for loss scaling
        rate = {} if optimizer is None else optimizer.get_config().get("learning_rate")
        if optimizer is not None and isinstance(rate, dict) and rate:
            schedule = keras.optimizers.schedules.deserialize(rate)
            optimizer.learning_rate = StretchedSchedule(schedule, factor)
        return model

    return stretched
