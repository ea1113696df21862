"""The kinds of data: what Keras takes as x, y and weights, how each is recognised, and what each of them can do.

One registry, `KINDS`. Every step after the search asks it before it trains (`Rows.require`), and the table in
`docs/data.md` is printed from it, so that what people read and what the product refuses cannot differ. Kinds are
recognised by what they look like, and not by their classes: none of their libraries has to be installed.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

FitData: TypeAlias = Any
"""What Keras takes as x, as y or as sample weights: an array or a DataFrame, lists, tuples and dicts of them, or
something that is read in passes (a generator, a `tf.data` pipeline, a grain loader). There is no type for "whatever
Keras's adapters know": they ask it what it can, and so do the functions of this file."""

Indices: TypeAlias = np.ndarray | slice
"""Which rows: their numbers, or a slice, for which nothing is copied where the array can do without."""


class Ability(enum.Enum):
    """What a step may want of data: the value is what is allowed then, for messages."""

    COUNTED = "arrays, whose rows can be counted"
    TAKEN = "arrays, whose rows can be numbered"
    JOINED = "arrays, whose rows can be joined"
    AS_ARRAYS = "arrays, or a pipeline that ends and can be read again"
    READ_AGAIN = "data that can be read again"
    LABELLED = "rows with targets"


def _taken(array: FitData, rows: Indices) -> FitData:
    # A slice is left to the array: what lies in a file need not be read whole for it.
    return array[rows] if isinstance(rows, slice) else np.asarray(array)[rows]


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """One kind of data.

    Attributes:
        name: as tables and messages have it.
        recognises: whether something is of this kind; the registry is asked in its order.
        can: what it can do.
        instead: what a user may type where something is wanted that it cannot do.
        is_pipeline: whether it is read in passes, and brings y and weights along in its batches.
        take: some rows of an array.
        join: two arrays, one behind the other.
        as_array: a NumPy array with the same rows.
        num_batches: batches of one pass of a pipeline; None: nobody knows; inf: it goes on for ever.
    """

    name: str
    recognises: Callable[[FitData], bool]
    can: frozenset[Ability]
    instead: str
    is_pipeline: bool = False
    take: Callable[[FitData, Indices], FitData] = _taken
    join: Callable[[FitData, FitData], FitData] = lambda one, other: np.concatenate([one, other])
    as_array: Callable[[FitData], np.ndarray] = np.asarray
    num_batches: Callable[[FitData], float | None] = lambda pipeline: None

    def __repr__(self) -> str:
        return f"Kind({self.name})"


# How kinds are recognised and cut -------------------------------------------------------------------------------


def _is_a(name: str, package: str) -> Callable[[FitData], bool]:
    """Whether a class of this name, from this package, is among the classes of something."""

    def recognises(data: FitData) -> bool:
        return any(
            cls.__name__ == name and (cls.__module__ == package or cls.__module__.startswith(f"{package}."))
            for cls in type(data).__mro__
        )

    return recognises


def _one_of(*tests: Callable[[FitData], bool]) -> Callable[[FitData], bool]:
    return lambda data: any(test(data) for test in tests)


def _has_rows(data: FitData) -> bool:
    """Whether it has a shape of one axis or more. Its length may be unknown."""
    shape = getattr(data, "shape", None)
    try:
        return shape is not None and len(shape) > 0
    except (TypeError, ValueError):  # a shape of unknown rank
        return False


def _is_frame(data: FitData) -> bool:
    return _has_rows(data) and hasattr(data, "iloc")


def _join_frames(one: FitData, other: FitData) -> FitData:
    # Keras reads columns by their place, pandas joins them by their name: only where both agree nothing is moved.
    if list(getattr(one, "columns", ())) != list(getattr(other, "columns", ())):
        raise ValueError("columns differ in name or order")
    import pandas  # whoever has a frame has pandas

    return pandas.concat([one, other])


def _is_sparse(data: FitData) -> bool:
    return hasattr(data, "tocsr") and hasattr(data, "nnz")


def _join_sparse(one: FitData, other: FitData) -> FitData:
    import scipy.sparse  # slow to load, and whoever has such a matrix has it

    return scipy.sparse.vstack([one, other], format="csr")


def _tensor_as_array(tensor: FitData) -> np.ndarray:
    return np.asarray(tensor.detach().cpu())  # off the device, and without its gradient


def _length(pipeline: FitData) -> float | None:
    try:
        length = len(pipeline)
    except (TypeError, NotImplementedError):
        return None
    # Grain says "for ever" with the largest number that there is.
    return float("inf") if length >= sys.maxsize // 2 else length


def _cardinality(dataset: FitData) -> float | None:
    number = int(dataset.cardinality())
    return {-1: float("inf"), -2: None}.get(number, number)


def _length_of_pydataset(dataset: FitData) -> float | None:
    try:
        number = dataset.num_batches
    except NotImplementedError:
        return None
    return float("inf") if number is None else number


# The registry -----------------------------------------------------------------------------------------------------

_ARRAY = frozenset(Ability)
_PIPELINE = frozenset({Ability.READ_AGAIN, Ability.AS_ARRAYS, Ability.LABELLED})

NUMPY = Kind(
    "NumPy array",
    lambda data: isinstance(data, np.ndarray),
    _ARRAY,
    "Pass arrays with one row per example.",
    take=lambda array, rows: array[rows],
)
FRAMES = Kind(
    "pandas frame or series",
    _is_frame,
    _ARRAY,
    "Pass frame.to_numpy().",
    take=lambda frame, rows: frame.iloc[rows],  # its [] would take columns
    join=_join_frames,
)
SPARSE = Kind(
    "scipy.sparse matrix",
    _is_sparse,
    _ARRAY,
    "Pass matrix.toarray().",
    take=lambda matrix, rows: matrix.tocsr()[rows],
    join=_join_sparse,
    as_array=lambda matrix: matrix.toarray(),
)
TORCH = Kind(
    "torch tensor",
    _is_a("Tensor", "torch"),
    _ARRAY,
    "Pass tensor.numpy().",
    take=lambda tensor, rows: tensor[rows],
    join=lambda one, other: np.concatenate([_tensor_as_array(one), _tensor_as_array(other)]),
    as_array=_tensor_as_array,
)
ARRAYS = Kind(
    "JAX array, or another that NumPy reads",
    lambda data: _has_rows(data) and hasattr(data, "__array__"),
    _ARRAY,
    "Pass np.asarray(array).",
)
RAGGED = Kind(
    "sparse or ragged tensor",  # of TensorFlow and JAX
    _has_rows,
    frozenset({Ability.READ_AGAIN}),
    "Pass a dense array, or a scipy.sparse matrix.",
)
NUMBERS = Kind(
    "list of numbers or texts",
    lambda data: isinstance(data, list | tuple),
    _ARRAY,
    "Type np.asarray(y).",
    join=lambda one, other: [*one, *other],
)
TF_DATA = Kind(
    "tf.data pipeline",
    _one_of(*(_is_a(name, "tensorflow.python") for name in ("DatasetV2", "DistributedDataset"))),
    _PIPELINE,
    "Pass x=train.concatenate(validation), or arrays.",
    is_pipeline=True,
    num_batches=_cardinality,
)
PYDATASET = Kind(
    "PyDataset",
    _is_a("PyDataset", "keras"),
    _PIPELINE,
    "Pass a PyDataset of all rows, or arrays.",
    is_pipeline=True,
    num_batches=_length_of_pydataset,
)
TORCH_LOADER = Kind(
    "torch loader",
    _is_a("DataLoader", "torch.utils.data"),
    _PIPELINE,
    "Pass a DataLoader of all rows, or arrays.",
    is_pipeline=True,
    num_batches=_length,
)
GRAIN = Kind(
    "grain loader",
    _one_of(*(_is_a(name, "grain") for name in ("MapDataset", "IterDataset", "DataLoader"))),
    _PIPELINE,
    "Pass a grain loader of all rows, or arrays.",
    is_pipeline=True,
    num_batches=_length,
)
ENDLESS_GENERATOR = Kind(
    "endless generator, with steps_per_epoch",
    lambda data: False,  # only the number of steps tells it from the next one
    frozenset({Ability.READ_AGAIN}),  # it goes on: each pass reads its next batches
    "Pass a PyDataset or a tf.data.Dataset, or arrays.",
    is_pipeline=True,
)
GENERATOR = Kind(
    "generator",
    lambda data: isinstance(data, types.GeneratorType),
    frozenset(),
    "Pass a PyDataset, a tf.data.Dataset or arrays; or a generator that goes on for ever, with steps_per_epoch.",
    is_pipeline=True,
)
ADAPTER = Kind(
    "data adapter of Keras",
    lambda data: hasattr(data, "get_jax_iterator"),
    frozenset({Ability.READ_AGAIN}),
    "Pass a tf.data.Dataset, a PyDataset or arrays.",
    is_pipeline=True,
)
#: What there is to choose from, for messages.
KNOWN = "arrays, frames, lists and dicts of them, tf.data, PyDataset, torch and grain loaders, generators"

UNKNOWN = Kind(
    "object of another class",
    lambda data: True,
    frozenset(),
    "Pass arrays, frames, lists or dicts of them, a tf.data.Dataset, a PyDataset, a torch or a grain loader.",
)

#: In the order in which they are asked.
KINDS = (
    NUMPY, FRAMES, SPARSE, TORCH, TF_DATA, PYDATASET, TORCH_LOADER, GRAIN, ENDLESS_GENERATOR, GENERATOR, ADAPTER,
    ARRAYS, RAGGED, NUMBERS, UNKNOWN,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """Something that is done with data, and what they have to be able to."""

    name: str  # as it is typed
    needs: frozenset[Ability] = frozenset()
    otherwise: str = "refused"  # what comes of data that are not


_TOLD_APART = frozenset({Ability.AS_ARRAYS, Ability.LABELLED})

#: What the columns of the table are. `Rows.require` is asked for these abilities by the code of each step.
STEPS = (
    Step("search(...)", frozenset({Ability.READ_AGAIN})),
    Step("search(cross_validation=3)", frozenset({Ability.TAKEN})),
    Step("keep_predictions=True", _TOLD_APART, "none kept"),
    Step("search(...) in another process", frozenset({Ability.READ_AGAIN})),
    Step("confirm()", frozenset({Ability.READ_AGAIN})),
    Step("confirm(cross_validation=3)", frozenset({Ability.TAKEN, Ability.JOINED})),
    Step("retrain()", frozenset({Ability.JOINED})),
    Step("retrain(x, y)", frozenset({Ability.READ_AGAIN})),
    Step("evaluate(x, y)"),
    Step("model.predict(x)"),
    Step("model.save(file)", frozenset({Ability.READ_AGAIN})),
    Step("ensemble()", _TOLD_APART),
    Step("ensemble(models, x, y)", _TOLD_APART),
    Step("ensemble.predict(x)", frozenset({Ability.AS_ARRAYS})),
    Step("ensemble.evaluate(x, y)", _TOLD_APART),
    Step("ensemble.save(folder)", frozenset({Ability.AS_ARRAYS})),
)


#: Arrays of any kind that lack something all the same: `Rows.can` finds it out.
FORMS = {
    "y a dict, list or tuple of several outputs": _ARRAY,
    "x alone, without y": _ARRAY - {Ability.LABELLED},
}


def table() -> str:
    """Kinds of data by steps, as Markdown: what works, and what is refused before anything is trained."""
    shown = {kind.name: kind.can for kind in KINDS if kind not in (NUMBERS, RAGGED, ADAPTER, UNKNOWN)} | FORMS
    lines = [["data", *(f"`{step.name}`" for step in STEPS)], ["---"] * (len(STEPS) + 1)]
    lines += [
        [name, *("yes" if step.needs <= can else step.otherwise for step in STEPS)] for name, can in shown.items()
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def kind_of(data: FitData) -> Kind:
    """The kind of an array, or of whatever else stands at a leaf of x, y or weights.

    Example:

    >>> kind_of(np.zeros(3)), kind_of([1, 0, 1]), kind_of(iter(()))
    (Kind(NumPy array), Kind(list of numbers or texts), Kind(object of another class))
    """
    return next(kind for kind in KINDS if kind.recognises(data))


# Nested data ------------------------------------------------------------------------------------------------------


def is_nested(data: FitData) -> bool:
    """Whether it holds several arrays: a dict, or a list or tuple of arrays. A list of numbers is one array.

    Example:

    >>> is_nested({"a": np.zeros(3)}), is_nested([np.zeros(3)]), is_nested([[1, 2], [3, 4]])
    (True, True, False)
    """
    if isinstance(data, Mapping):
        return True
    if not isinstance(data, list | tuple):
        return False
    first = next((part for part in data if part is not None), None)
    if isinstance(first, Mapping | list | tuple):
        return is_nested(first)
    return first is not None and kind_of(first) is not UNKNOWN


def leaves(data: FitData) -> Iterator[FitData]:
    """The arrays of nested data, in their order; nothing for None."""
    if is_nested(data):
        for part in data.values() if isinstance(data, Mapping) else data:
            yield from leaves(part)
    elif data is not None:
        yield data


def map_leaves(function: Callable[..., FitData], data: FitData, *others: FitData) -> FitData:
    """Nested data of the same structure, with what `function` makes of each array; None stays None.

    Args:
        function: takes an array of `data`, and one at the same place of each of `others`.
        data: arrays, nested or not.
        *others: of the same structure.

    Raises:
        ValueError: another structure.

    Example:

    >>> map_leaves(lambda a, b: a + b, {"a": np.ones(2), "b": None}, {"a": np.ones(2), "b": None})
    {'a': array([2., 2.]), 'b': None}
    """
    if not is_nested(data):
        if any(is_nested(other) or (data is None) != (other is None) for other in others):
            raise ValueError("arrays at other places")
        return None if data is None else function(data, *others)
    if isinstance(data, Mapping):
        if any(not isinstance(other, Mapping) or set(other) != set(data) for other in others):
            raise ValueError(f"other names than {', '.join(map(str, data))}")
        made: Iterable[Any] = (
            (name, map_leaves(function, part, *(other[name] for other in others))) for name, part in data.items()
        )
        return OrderedDict(made) if isinstance(data, OrderedDict) else dict(made)
    if any(isinstance(other, Mapping) or not is_nested(other) or len(other) != len(data) for other in others):
        raise ValueError(f"other numbers of arrays than {len(data)}")
    parts = [map_leaves(function, *together) for together in zip(data, *others, strict=True)]
    return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)  # a named tuple takes its fields


def as_arrays(data: FitData) -> FitData:
    """Nested data of the same structure, with a NumPy array in place of each array.

    Example:

    >>> as_arrays({"a": [1, 2]})
    {'a': array([1, 2])}
    """
    return map_leaves(lambda leaf: kind_of(leaf).as_array(leaf), data)


def unpacked(batch: FitData) -> tuple[FitData, FitData, FitData]:
    """x, y and sample weights of a batch or of validation data, as Keras reads them.

    Raises:
        ValueError: a list or tuple of another length than 1, 2 or 3.

    Example:

    >>> unpacked((1, 2)), unpacked([1]), unpacked({"a": 1})
    ((1, 2, None), (1, None, None), ({'a': 1}, None, None))
    """
    if not isinstance(batch, list | tuple):
        return batch, None, None
    if len(batch) not in (1, 2, 3):
        raise ValueError(f"{len(batch)} parts")
    x, y, weight = [*batch, None, None][:3]
    return x, y, weight
