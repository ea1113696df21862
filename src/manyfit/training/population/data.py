"""What `model.fit` was given, as a population reads it: resident arrays with batches of row numbers, or a stream."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import keras
import numpy as np

from manyfit.core.seeds import generator
from manyfit.training.base import Task
from manyfit.training.population import keras_side

_FIT_SIGNATURE = inspect.signature(keras.Model.fit)


@dataclasses.dataclass(frozen=True)
class Rows:
    """Arrays on the device, cut into batches by row numbers.

    Attributes:
        leaves: the arrays, first axis rows.
        structure: their tree, (x, y, sample_weight) as Keras packs it.
        num_rows: rows in one pass.
        batch_size: rows per full batch.
        num_steps: batches per pass, the short one included.
        numbers: the rows of a pass, where it reads a part of the arrays; None: all of them.
    """

    leaves: tuple[jax.Array, ...]
    structure: Any
    num_rows: int
    batch_size: int
    num_steps: int
    numbers: np.ndarray | None = None

    def part(self, numbers: np.ndarray) -> Rows:
        """A part of the rows, without a copy of them.

        Args:
            numbers: of the rows, in the order of a pass without shuffling.
        """
        steps = -(-len(numbers) // self.batch_size)
        numbers = np.asarray(numbers, dtype=np.int32)
        return dataclasses.replace(self, num_rows=len(numbers), num_steps=steps, numbers=numbers)

    @property
    def num_full(self) -> int:
        """Full batches in one pass."""
        return min(self.num_steps, self.num_rows // self.batch_size)

    @property
    def tail_size(self) -> int:
        """Rows in the short last batch, 0 if there is none."""
        return self.num_rows - self.num_full * self.batch_size if self.num_steps > self.num_full else 0

    def batch_shapes(self, size: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and types of the leaves of a batch of `size` rows."""
        return [jax.ShapeDtypeStruct((size, *leaf.shape[1:]), leaf.dtype) for leaf in self.leaves]

    def in_order(self) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of one pass in the order of the data: full batches (steps, rows) and the short one (rows,)."""
        return self._cut(np.arange(self.num_rows, dtype=np.int32))

    def shuffled(self, mode: bool | str, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers of one pass in an order that depends on the seed and the epoch only.

        Shuffled on the host: a permutation inside the program would add seconds to its compilation.
        """
        rng = generator(seed, "batch order", epoch)
        if mode != "batch":
            return self._cut(rng.permutation(self.num_rows).astype(np.int32))
        rows = np.arange(self.num_rows, dtype=np.int32)
        for start in range(0, self.num_rows, self.batch_size):
            rng.shuffle(rows[start : start + self.batch_size])
        return self._cut(rows)

    def _cut(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = rows if self.numbers is None else self.numbers[rows]
        full = self.num_full * self.batch_size
        return rows[:full].reshape(self.num_full, self.batch_size), rows[full : full + self.tail_size]


@dataclasses.dataclass(frozen=True)
class Stream:
    """Batches from `tf.data`, a PyDataset or a generator: one pass feeds every member.

    Attributes:
        adapter: Keras's data adapter.
        steps: batches per epoch, None: until the stream ends.
    """

    adapter: Any
    steps: int | None


@dataclasses.dataclass(frozen=True)
class FitArguments:
    """The arguments of `fit` that are the same for every execution of a search."""

    training: Rows | Stream
    validation: Rows | Stream | None
    epochs: int
    initial_epoch: int
    shuffle: bool | str
    validation_freq: Any
    callbacks: tuple[Any, ...]

    def validates_at(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0) ends with a validation, as `fit` counts."""
        if self.validation is None:
            return False
        if isinstance(self.validation_freq, int):
            return (epoch + 1) % self.validation_freq == 0
        return epoch + 1 in self.validation_freq


def read_fit_arguments(task: Task) -> FitArguments:
    """Reads a task's `fit` arguments and puts arrays on the device.

    Raises:
        TypeError: arguments that `model.fit` does not know.
        ValueError: data that Keras's adapters refuse.
    """
    bound = _FIT_SIGNATURE.bind(None, *task.fit_args, **task.fit_kwargs)
    bound.apply_defaults()
    given: Mapping[str, Any] = bound.arguments
    x, y, sample_weight = given["x"], given["y"], given["sample_weight"]
    validation_data = given["validation_data"]
    if given["validation_split"] and validation_data is None:
        (x, y, sample_weight), validation_data = keras_side.split((x, y, sample_weight), given["validation_split"])
    training = _source(
        x,
        y,
        sample_weight,
        batch_size=given["batch_size"],
        steps=given["steps_per_epoch"],
        class_weight=given["class_weight"],
    )
    validation: Rows | Stream | None = None
    batch_size = given["validation_batch_size"] or given["batch_size"]
    if task.split_for is not None and isinstance(training, Rows):
        validation = _held_out(
            training, x, y, sample_weight, batch_size=batch_size, weighted=bool(given["class_weight"])
        )
    elif validation_data is not None:
        validation = _source(
            *keras_side.unpack(validation_data),
            batch_size=batch_size,
            steps=given["validation_steps"],
            class_weight=None,
        )
    callbacks = given["callbacks"] or ()
    return FitArguments(
        training=training,
        validation=validation,
        epochs=given["epochs"],
        initial_epoch=given["initial_epoch"],
        shuffle=given["shuffle"],
        validation_freq=given["validation_freq"],
        callbacks=tuple(callbacks) if isinstance(callbacks, list | tuple) else (callbacks,),
    )


def _held_out(training: Rows, x: Any, y: Any, sample_weight: Any, *, batch_size: int | None, weighted: bool) -> Any:
    """The rows that folds validate on: those that they train on, without the weights of classes."""
    if weighted:
        return _source(x, y, sample_weight, batch_size=batch_size, steps=None, class_weight=None)
    size = training.batch_size if batch_size is None else batch_size
    return dataclasses.replace(training, batch_size=size, num_steps=-(-training.num_rows // size))


def same_sources(first: Task, second: Task) -> bool:
    """Whether two tasks train the same models on the same batches, so that programs of one serve the other."""
    free = {"callbacks", "epochs", "initial_epoch", "verbose", "shuffle", "validation_freq"}
    parts = [
        [*task.fit_args, *(value for name, value in sorted(task.fit_kwargs.items()) if name not in free)]
        for task in (first, second)
    ]
    names = [sorted(set(task.fit_kwargs) - free) for task in (first, second)]
    return (
        first.build == second.build
        and (first.split_for is None) == (second.split_for is None)
        and names[0] == names[1]
        and len(parts[0]) == len(parts[1])
        and all(one is other for one, other in zip(*parts, strict=True))
    )


def _source(
    x: Any, y: Any, sample_weight: Any, *, batch_size: int | None, steps: int | None, class_weight: Any
) -> Rows | Stream:
    adapter = keras_side.array_adapter(
        x, y, sample_weight, batch_size=batch_size, steps=steps, class_weight=class_weight
    )
    if not keras_side.is_array_adapter(adapter):
        return Stream(adapter, steps)
    arrays = keras_side.arrays_of(adapter)
    leaves, structure = jax.tree.flatten(arrays)
    num_rows = leaves[0].shape[0]
    size = keras_side.batch_size_of(adapter)
    num_batches = -(-num_rows // size)
    if steps and steps < num_batches:
        # `fit` goes on through the same pass in the next epoch; a population begins each epoch anew.
        return Stream(adapter, steps)
    return Rows(tuple(map(jax.device_put, leaves)), structure, num_rows, size, num_batches)


def batches(stream: Stream) -> Iterator[Any]:
    """The batches of one epoch of a stream."""
    for number, batch in enumerate(keras_side.stream_of(stream.adapter)):
        if stream.steps is not None and number >= stream.steps:
            return
        yield batch
