"""Small functions of KerasTuner's that programs in the wild import."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

#: The version of KerasTuner whose interface is served.
KERAS_TUNER_VERSION = "1.4.8"

#: KerasTuner's switch for tracebacks of failed trials; Manyfit always keeps them in `trial.message`.
DEBUG = False


def keras_tuner_export(path: str | list[str]) -> Callable[[Any], Any]:
    """KerasTuner's decorator for what it exports; leaves the class as it is."""
    del path
    return lambda exported: exported


def multi_backend() -> bool:
    """Whether Keras has several backends: Keras 3 has."""
    return True


def maybe_compute_model_size(model: Any) -> int:
    """The trainable parameters of a model; 0 while it is not built."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


@contextlib.contextmanager
def maybe_distribute(distribution_strategy: Any) -> Iterator[None]:
    """The scope of a `tf.distribute.Strategy`, or none.

    Args:
        distribution_strategy: the strategy, or None.
    """
    if distribution_strategy is None:
        yield
    else:
        with distribution_strategy.scope():
            yield


def prob_to_index(prob: float, n_index: int) -> int:
    """The bucket, out of `n_index` equal ones, that holds a position of the unit interval."""
    return min(max(math.floor(prob * n_index), 0), n_index - 1)


def index_to_prob(index: int, n_index: int) -> float:
    """The centre of a bucket."""
    return (index + 0.5) / n_index


class Stateful:
    """Something whose state goes to a file as JSON: KerasTuner's base class of tuners, oracles and trials."""

    def get_state(self) -> dict[str, Any]:
        """The state, as JSON."""
        raise NotImplementedError(f"{type(self).__name__}.get_state is abstract: override it.")

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        raise NotImplementedError(f"{type(self).__name__}.set_state is abstract: override it.")

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Writes the state to a file."""
        with open(fname, "w") as file:
            json.dump(self.get_state(), file)

    def reload(self, fname: str | os.PathLike[str]) -> None:
        """Reads the state from a file."""
        with open(fname) as file:
            self.set_state(json.load(file))
