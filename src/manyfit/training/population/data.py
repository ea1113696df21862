"""What `model.fit` was given, as a population reads it: resident arrays with batches of row numbers, or a stream.

Which of the two it is decides much: over resident rows an epoch is a few calls of a program, in threads; a stream is
read on the calling thread, which runs the user's code, and costs a call per batch. So whatever can be resident is. The
order of the batches follows the seed and the epoch alone, never who trains beside whom: an execution that is paused,
killed and continued reads what it would have read.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from manyfit.core.seeds import generator, seed_of
from manyfit.data.call import Call
from manyfit.data.kinds import RAGGED, SPARSE
from manyfit.data.order import FIT_SIGNATURE
from manyfit.training.base import Task
from manyfit.training.keras_internals import data as keras_data
from manyfit.training.population.arrays import (
    ArrayTree,
    Order,
    must_stream,
    on_every_device,
    rounded_up,
    shape_of,
    shapes_of,
    with_room,
)
from manyfit.training.population.sizing import free_bytes
from manyfit.training.seeding import seeded

_streams = itertools.count()

_MOST_OF_MEMORY = 0.5  # arrays that take more of what is free are streamed: members need memory, too
_BATCH_SIZE = 32  # Keras's default

_OF_BATCHES = ("batch_size", "validation_batch_size", "shuffle", "validation_freq")
_OF_A_MEMBER = ("callbacks", "epochs", "initial_epoch", "verbose")


@dataclasses.dataclass(frozen=True)
class ResidentRows:
    """Arrays on the device, cut into batches by row numbers.

    Attributes:
        leaves: the arrays, first axis rows, of which those beyond `num_rows` are never read.
        structure: their tree, (x, y, sample_weight) as Keras packs it.
        num_rows: rows in one pass.
        batch_size: rows per full batch.
        num_steps: batches per pass, the short one included.
        numbers: the rows of a pass, where it reads a part of the arrays; None: all of them.
        num_held: rows that the arrays hold, of which a pass may read a part.
    """

    leaves: tuple[jax.Array, ...]
    structure: jax.tree_util.PyTreeDef
    num_rows: int
    batch_size: int
    num_steps: int
    numbers: np.ndarray | None = None
    num_held: int | None = None

    def in_batches(self, batch_size: int) -> ResidentRows:
        """The same arrays in batches of another size."""
        return dataclasses.replace(self, batch_size=batch_size, num_steps=-(-self.num_rows // batch_size))

    def part(self, numbers: np.ndarray) -> ResidentRows:
        """A part of the rows, without a copy of them.

        Args:
            numbers: of the rows, in the order of a pass without shuffling.
        """
        steps = -(-len(numbers) // self.batch_size)
        numbers = np.asarray(numbers, dtype=np.int32)
        return dataclasses.replace(self, num_rows=len(numbers), num_steps=steps, numbers=numbers)

    @property
    def room(self) -> int:
        """Length of the arrays: rows, and what they are filled up with."""
        return int(self.leaves[0].shape[0])

    @property
    def rows_per_batch(self) -> int:
        """Rows of the first batch: fewer than `batch_size` where there are fewer in all."""
        return min(self.batch_size, self.num_rows)

    @property
    def tail_size(self) -> int:
        """Rows in a last batch that is shorter than the others, 0 if there is none."""
        return self.num_rows % self.rows_per_batch

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        return sum(leaf.nbytes for leaf in self.leaves)

    def some_batch(self) -> tuple[jax.Array, ...]:
        """The first rows, as many as the first shape has."""
        return tuple(
            leaf.addressable_data(0)[: shape.shape[0]] for leaf, shape in zip(self.leaves, self.shapes[0], strict=True)
        )

    @property
    def shapes(self) -> list[list[jax.ShapeDtypeStruct]]:
        """Shapes of the batches that occur: the full one, then the short one."""
        return [self.batch_shapes(size) for size in (self.rows_per_batch, self.tail_size) if size]

    @property
    def numbered_shapes(self) -> list[tuple[int, list[jax.ShapeDtypeStruct]]]:
        """The shapes with their numbers, see `Shapes.numbers`."""
        return list(zip((0, self.tail_size), self.shapes, strict=False))

    def batch_shapes(self, size: int) -> list[jax.ShapeDtypeStruct]:
        """Shapes and types of the leaves of a batch of `size` rows."""
        return [shape_of((size, *leaf.shape[1:]), leaf.dtype) for leaf in self.leaves]

    def in_order(self) -> Order:
        """One pass in the order of the data."""
        return self._cut(np.arange(self.num_rows, dtype=np.int32))

    def shuffled(self, mode: bool | str, seed: int, epoch: int) -> Order:
        """One pass in an order that depends on the seed and the epoch only.

        Shuffled on the host: a permutation inside the program would add seconds to its compilation.
        """
        rng = generator(seed, "batch order", epoch)
        if mode != "batch":
            return self._cut(rng.permutation(self.num_rows).astype(np.int32))
        rows = np.arange(self.num_rows, dtype=np.int32)
        for start in range(0, self.num_rows, self.batch_size):
            rng.shuffle(rows[start : start + self.batch_size])
        return self._cut(rows)

    def _cut(self, rows: np.ndarray) -> Order:
        rows = rows if self.numbers is None else self.numbers[rows]
        size, tail = self.rows_per_batch, self.tail_size
        # The short batch, over and over: whoever masks what is too much needs rows there that could be real ones.
        filling = np.resize(rows[len(rows) - tail :], size - tail) if tail else rows[:0]
        return Order(self.leaves, np.concatenate([rows, filling]).reshape(-1, size), np.int32(len(rows)))


class Stream:
    """Batches that come one by one, from `tf.data`, a PyDataset, a generator or arrays too large for the device.

    Each pass over them feeds every member: a batch is read, converted and moved to the device once.

    Args:
        iterator: Keras's epoch iterator, as `fit` uses it.
        restarts: whether every pass begins anew, as a validation does; else `steps_per_epoch` goes on where the
            pass before it ended.
        seed: names the order of what Keras shuffles.

    Attributes:
        structure: the tree of a batch, (x, y, sample_weight) as Keras packs it.
        number: another one for each stream of this process.
        shapes: shapes of the batches that have come so far, by their numbers.
    """

    def __init__(self, iterator: keras_data.JAXEpochIterator, *, restarts: bool, seed: int) -> None:
        self._iterator, self._restarts, self._seed = iterator, restarts, seed
        self._num_passes = 0
        # Looking at the first batch draws from the global generators if the user's code does; a seed of its own leaves
        # no trace.
        with seeded(generator_seed(seed, 0)):
            first = keras_data.first_batch(iterator)
        leaves, structure = jax.tree.flatten(first)
        self.structure: jax.tree_util.PyTreeDef = structure
        self.number = next(_streams)
        self.shapes: list[list[jax.ShapeDtypeStruct]] = []
        self._first = tuple(map(on_every_device, leaves))
        self._number_of(self._first)

    num_bytes = 0
    """Nothing of a stream stays on the device."""

    def some_batch(self) -> tuple[jax.Array, ...]:
        """The batch that came first."""
        return tuple(leaf.addressable_data(0) for leaf in self._first)

    @property
    def numbered_shapes(self) -> list[tuple[int, list[jax.ShapeDtypeStruct]]]:
        """The shapes with their numbers, see `Shapes.numbers`."""
        return list(enumerate(self.shapes))

    @property
    def num_steps(self) -> int | None:
        """Batches per pass; None until the first pass has shown it."""
        return self._iterator.num_batches

    def batches(self) -> Iterator[tuple[int, tuple[jax.Array, ...]]]:
        """One pass: the number of each batch's shape, and its leaves on the device.

        Raises:
            ValueError: a batch of another structure than the first one's.
        """
        self._num_passes += 1
        if self._restarts:
            self._iterator.reset()
        read = keras_data.one_pass(self._iterator)
        with seeded(generator_seed(self._seed, self._num_passes)):  # Keras draws the order with the first batch
            batch = next(read, None)
        while batch is not None:
            leaves, structure = jax.tree.flatten(batch)
            if structure != self.structure:
                raise ValueError(f"a batch of structure {structure}, the first one had {self.structure}")
            arrays = tuple(map(on_every_device, leaves))
            yield self._number_of(arrays), arrays
            batch = next(read, None)

    def _number_of(self, leaves: Sequence[jax.Array]) -> int:
        shapes = shapes_of(leaves)
        if shapes not in self.shapes:
            self.shapes.append(shapes)
        return self.shapes.index(shapes)


@dataclasses.dataclass(frozen=True)
class Shapes:
    """The data whose batches a step takes: their tree, and the shapes that occur. A stream's may become more."""

    training: ResidentRows | Stream
    validation: ResidentRows | Stream | None

    def sources(self) -> Iterator[tuple[str, ResidentRows | Stream]]:
        """What there is to read: for "train", and for "test" if there is a validation."""
        yield "train", self.training
        if self.validation is not None:
            yield "test", self.validation

    def numbers(self) -> Iterator[tuple[str, int]]:
        """The steps that there are: "train" or "test", and the number of a shape.

        A stream's shapes are counted. Of rows in arrays the full batch's is 0 and a short one's is its size, so that
        the steps of a model for short batches of several sizes can stand side by side.
        """
        for kind, source in self.sources():
            for number, _ in source.numbered_shapes:
                yield kind, number

    def first_batch(self) -> ArrayTree:
        """A training batch of shapes in place of arrays, as Keras packs it."""
        return jax.tree.unflatten(self.training.structure, self.training.shapes[0])


def generator_seed(seed: int, number: int) -> int:
    """The seed of the global generators while pass `number` of a stream is begun."""
    return seed_of(seed, "stream", number)


@dataclasses.dataclass(frozen=True)
class FitArguments:
    """What a call of `fit` reads: its rows, in which batches and which order, and when it validates."""

    training: ResidentRows | Stream
    validation: ResidentRows | Stream | None
    shuffle: bool | str
    validation_freq: int | Collection[int]
    can_be_read_again: bool = True  # a generator cannot

    @property
    def num_bytes(self) -> int:
        """Memory that the data take on the device."""
        return self.training.num_bytes + (0 if self.validation is None else self.validation.num_bytes)

    def validates_at(self, epoch: int) -> bool:
        """Whether epoch `epoch` (from 0) ends with a validation, as `fit` counts."""
        if self.validation is None:
            return False
        if isinstance(self.validation_freq, int):
            return (epoch + 1) % self.validation_freq == 0
        return epoch + 1 in self.validation_freq


class Sources:
    """What the calls of one training read. Rows are put on the device once, whatever batches calls cut them into.

    Args:
        has_splits: whether members train and validate on parts of the rows.
        seed: names the order of what is shuffled while it streams.
    """

    def __init__(self, *, has_splits: bool, seed: int) -> None:
        self._has_splits, self._seed = has_splits, seed
        self._first: tuple[Call, FitArguments] | None = None
        self._cuts: dict[tuple[object, ...], FitArguments] = {}

    def of(self, call: Call) -> FitArguments | None:
        """What a call reads, the same answer for calls that read the same.

        Returns:
            None for other rows than those of the first call, and for a stream in other batches.

        Raises:
            TypeError: arguments that `model.fit` does not know.
            ValueError: data that Keras's adapters refuse.
        """
        given = _bound(call)
        batches = tuple(_hashable(given[name]) for name in _OF_BATCHES)
        if self._first is None:
            self._first = call, read_fit_arguments(call, has_splits=self._has_splits, seed=self._seed)
            self._cuts[batches] = self._first[1]
        first, data = self._first
        if not reads_the_same(first, call, but=_OF_BATCHES):
            return None
        if batches not in self._cuts:
            cut = _cut_otherwise(data, _bound(first), given)
            if cut is None:
                return None
            self._cuts[batches] = cut
        return self._cuts[batches]


def _cut_otherwise(data: FitArguments, first: Mapping[str, Any], given: Mapping[str, Any]) -> FitArguments | None:
    """What was read by the `first` arguments, in the batches of others; None where it is read in its own ones only."""
    data = dataclasses.replace(data, shuffle=given["shuffle"], validation_freq=given["validation_freq"])
    if all(first[name] == given[name] for name in ("batch_size", "validation_batch_size", "shuffle")):
        return data
    training, validation = data.training, data.validation
    # A stream is in batches as it comes, and steps are counted in batches of one size.
    if isinstance(training, Stream) or isinstance(validation, Stream):
        return None
    batch_size = given["batch_size"] or _BATCH_SIZE
    validated_at_once = given["validation_batch_size"] or batch_size
    is_counted = given["steps_per_epoch"] or given["validation_steps"]
    if is_counted and (first["batch_size"], first["validation_batch_size"]) != (
        given["batch_size"],
        given["validation_batch_size"],
    ):
        return None
    return dataclasses.replace(
        data,
        training=training.in_batches(batch_size),
        validation=None if validation is None else validation.in_batches(validated_at_once),
    )


def why_not_read(call: Call) -> str | None:
    """Why a population cannot train on the rows of a call; None if it can."""
    if call.x is None:
        return "there is no x to train on"
    # Keras's sparse batches are of another size each, and a program is compiled for one.
    return "the data are sparse or ragged" if {SPARSE, RAGGED} & call.kinds else None


def read_fit_arguments(call: Call, *, has_splits: bool = False, seed: int = 0) -> FitArguments:
    """Reads the arguments of `fit` and puts arrays on the device.

    Args:
        call: of `fit`.
        has_splits: whether members train and validate on parts of the rows.
        seed: names the order of what is shuffled while it streams.

    Raises:
        TypeError: arguments that `model.fit` does not know.
        ValueError: data that Keras's adapters refuse.
    """
    given = _bound(call)
    x, y, sample_weight = given["x"], given["y"], given["sample_weight"]
    validation_data = given["validation_data"]
    # As Keras has it: data that are given win over a share that is given.
    if given["validation_split"] and validation_data is None:
        (x, y, sample_weight), validation_data = keras_data.split((x, y, sample_weight), given["validation_split"])
    # With room for both, where that costs no memory: winners may be trained on all of them.
    num_all = _num_rows(x) + _num_rows(validation_data) if jax.default_backend() == "cpu" else 0
    training = _source(
        (x, y, sample_weight),
        {
            "batch_size": given["batch_size"],
            "steps_per_epoch": given["steps_per_epoch"],
            "class_weight": given["class_weight"],
            "shuffle": given["shuffle"],
        },
        restarts=False,
        seed=seed,
        num_all=num_all,
    )
    validation: ResidentRows | Stream | None = None
    batch_size = given["validation_batch_size"] or given["batch_size"]
    if has_splits and isinstance(training, ResidentRows):
        validation = _held_out(
            training, (x, y, sample_weight), batch_size=batch_size, weighted=bool(given["class_weight"])
        )
    elif validation_data is not None:
        validation = _source(
            keras_data.unpack(validation_data),
            {"batch_size": batch_size, "steps_per_epoch": given["validation_steps"], "shuffle": False},
            restarts=True,
            seed=seed,
            num_all=num_all,
        )
    spent = any(isinstance(source, Iterator) for source in (given["x"], given["validation_data"]))
    return FitArguments(training, validation, given["shuffle"], given["validation_freq"], can_be_read_again=not spent)


def _bound(call: Call) -> Mapping[str, Any]:
    bound = FIT_SIGNATURE.bind(None, *call.args, **call.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _hashable(value: object) -> object:
    return tuple(value) if isinstance(value, Collection) and not isinstance(value, str) else value


def _held_out(
    training: ResidentRows, arrays: tuple[object, object, object], *, batch_size: int | None, weighted: bool
) -> ResidentRows | Stream:
    """The rows that folds validate on: those that they train on, without the weights of classes."""
    if weighted:
        arguments = {"batch_size": batch_size, "steps_per_epoch": None, "shuffle": False}
        return _source(arrays, arguments, restarts=True, seed=0, num_all=training.room)
    # The same arrays: folds cost no memory, whatever their number.
    size = training.batch_size if batch_size is None else batch_size
    return dataclasses.replace(training, batch_size=size, num_steps=-(-training.num_rows // size))


def same_sources(first: Task, second: Task) -> bool:
    """Whether two tasks train the same models on the same rows, so that programs of one serve the other."""
    return (
        first.build == second.build
        and first.fit == second.fit
        and (first.split_for is None) == (second.split_for is None)
        and reads_the_same(first.call, second.call, but=_OF_BATCHES)
    )


def reads_the_same(first: Call, second: Call, *, but: Collection[str] = ()) -> bool:
    """Whether two calls read the very same data alike, whatever their epochs and callbacks.

    Args:
        first: a call.
        second: another one.
        but: arguments that may differ besides.
    """
    parts = [
        {name: value for name, value in call.arguments.items() if name not in (*but, *_OF_A_MEMBER)}
        for call in (first, second)
    ]
    return is_same(*({name: value for name, value in part.items() if value is not None} for part in parts))


def is_same(one: object, other: object) -> bool:
    """Whether two arguments are the same objects, in tuples, lists and mappings that are alike; or the same number."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return set(one) == set(other) and all(is_same(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    # Arrays by identity only: to compare their numbers would read both whole, and an equal copy only costs compiling
    # again.
    return isinstance(one, bool | int | float | str) and one == other


def _num_rows(data: object) -> int:
    """Rows of arrays; 0 for what is read in another way."""
    if isinstance(data, Iterator):
        return 0
    first = next(iter(jax.tree.leaves(data)), None)
    shape = getattr(first, "shape", None)
    return int(shape[0]) if isinstance(shape, tuple) and shape and isinstance(shape[0], int) else 0


def _source(
    data: tuple[object, object, object], arguments: dict[str, Any], *, restarts: bool, seed: int, num_all: int
) -> ResidentRows | Stream:
    """Resident rows where that is possible, else a stream.

    Their arrays have room for more rows, so that other data are no other program: `num_all`, and a little more.
    """
    iterator = keras_data.epoch_iterator(*data, **arguments)
    adapter, steps = iterator.data_adapter, arguments["steps_per_epoch"]
    if keras_data.is_array_adapter(adapter) and not must_stream(jax.tree.leaves(data)):
        leaves, structure = jax.tree.flatten(keras_data.arrays_of(adapter))
        num_rows, size = leaves[0].shape[0], keras_data.batch_size_of(adapter)
        num_batches = -(-num_rows // size)
        # A validation of fewer steps reads the same first batches each time, so it can be resident where a training
        # cannot.
        if steps and restarts:  # every validation reads the same first batches
            # The rest is never read, so it need not be on the device.
            num_rows = min(num_rows, steps * size)
            leaves, steps = [leaf[:num_rows] for leaf in leaves], None
        fits = sum(leaf.nbytes for leaf in leaves) <= _MOST_OF_MEMORY * free_bytes()
        if fits and (not steps or steps == num_batches):
            leaves = with_room(leaves, rounded_up(max(num_rows, num_all)))
            arrays = tuple(map(on_every_device, leaves))
            return ResidentRows(arrays, structure, num_rows, size, -(-num_rows // size), num_held=num_rows)
    return Stream(iterator, restarts=restarts, seed=seed)
