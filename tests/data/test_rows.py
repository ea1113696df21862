"""Rows of every kind: counted, cut, joined, read; and what a kind cannot do is refused in four parts."""

from __future__ import annotations

import collections
import itertools
import types

import jax.numpy as jnp
import keras
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from tiny import four_parts

from manyfit.core.errors import UsageError
from manyfit.data import kinds
from manyfit.data.kinds import Ability
from manyfit.data.rows import Rows

X = np.arange(24.0).reshape(8, 3)
Y = np.arange(8)
W = np.linspace(1, 2, 8)
PICKED = np.array([6, 0, 3])

Pair = collections.namedtuple("Pair", "left right")


class Tensor:
    """What torch's tensors look like to those who do not import torch."""

    def __init__(self, array):
        self.array = np.asarray(array)
        self.shape = self.array.shape

    def __getitem__(self, rows):
        return Tensor(self.array[rows])

    def detach(self):
        return self

    def cpu(self):
        return self.array


Tensor.__module__ = "torch"

ARRAYS = {
    "array": (X, kinds.NUMPY),
    "frame": (pd.DataFrame(X, index=list("stuvwxyz"), columns=list("abc")), kinds.FRAMES),
    "series": (pd.Series(X[:, 0], index=range(100, 108)), kinds.FRAMES),
    "sparse": (scipy.sparse.csr_matrix(X), kinds.SPARSE),
    "coo": (scipy.sparse.coo_matrix(X), kinds.SPARSE),
    "torch": (Tensor(X), kinds.TORCH),
    "jax": (jnp.asarray(X), kinds.ARRAYS),
    "list": (X[:, 0].tolist(), kinds.NUMBERS),
    "rows of a list": (X.tolist(), kinds.NUMBERS),
}


def numbers(leaf):
    return np.asarray(kinds.kind_of(leaf).as_array(leaf), dtype=float)


@pytest.mark.parametrize(("data", "kind"), ARRAYS.values(), ids=ARRAYS)
def test_arrays_of_every_kind_are_counted_cut_and_joined(data, kind):
    rows, whole = Rows.of(data, Y), numbers(data)
    assert rows.num_rows == 8 and kinds.kind_of(data) is kind and all(map(rows.can, Ability))
    np.testing.assert_array_equal(numbers(rows.take(PICKED).x), whole[PICKED])
    np.testing.assert_array_equal(rows.take(PICKED).y, Y[PICKED])
    np.testing.assert_array_equal(numbers(rows.take(slice(2, None)).x), whole[2:])
    joined = rows.take(slice(0, 5)).join(rows.take(slice(5, None)))
    np.testing.assert_array_equal(numbers(joined.x), whole)
    assert joined.num_rows == 8 and rows.read() is rows


NESTED = {
    "dict": {"b": X, "a": Y},
    "list": [X, Y],
    "tuple": (X, Y),
    "dict in a list": [X, {"deep": Y, "deeper": (X, W)}],
    "ordered": collections.OrderedDict(b=X, a=Y),
    "named": Pair(X, Y),
    "with nothing at a place": [X, None],
    "of kinds": {"frame": ARRAYS["frame"][0], "sparse": ARRAYS["sparse"][0], "array": X},
}


@pytest.mark.parametrize("data", NESTED.values(), ids=NESTED)
def test_nested_arrays_keep_their_structure(data):
    rows = Rows.of(data, {"one": Y, "two": W}, {"one": W, "two": W})
    assert rows.num_rows == 8
    taken = rows.take(PICKED)
    assert type(taken.x) is type(data) and keras.tree.flatten(taken.y).__len__() == 2
    both = taken.join(rows)
    before, after = list(kinds.leaves(data)), list(kinds.leaves(both.x))
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(numbers(other), np.concatenate([numbers(one)[PICKED], numbers(one)]))
    np.testing.assert_array_equal(both.sample_weight["two"], np.concatenate([W[PICKED], W]))


def test_the_order_of_a_dictionary_is_no_matter():
    one, other = Rows.of({"a": X, "b": Y}), Rows.of({"b": Y, "a": X})
    np.testing.assert_array_equal(one.join(other).x["b"], np.concatenate([Y, Y]))


FRAME = ARRAYS["frame"][0]
UNLIKE = {
    "other names": (Rows.of({"a": X}), Rows.of({"b": X})),
    "a list and a dict": (Rows.of({"a": X}), Rows.of([X])),
    "other counts": (Rows.of([X, X]), Rows.of([X])),
    "nested and not": (Rows.of([X]), Rows.of(X)),
    "other columns": (Rows.of(X), Rows.of(X[:, :2])),
    "columns in another order": (Rows.of(FRAME), Rows.of(FRAME[["b", "a", "c"]])),
    "targets in one": (Rows.of(X, Y), Rows.of(X)),
    "weights in one": (Rows.of(X, Y, W), Rows.of(X, Y)),
    "an array and a pipeline": (Rows.of(X, Y), Rows.of(x for x in ())),
}


@pytest.mark.parametrize(("one", "other"), UNLIKE.values(), ids=UNLIKE)
def test_what_does_not_fit_is_not_joined(one, other):
    with pytest.raises(UsageError) as error:
        one.join(other, "retrain()")
    assert four_parts(error.value)[0] == "retrain()"


def test_kinds_that_differ_are_joined_as_arrays():
    joined = Rows.of(FRAME).join(Rows.of(X))
    np.testing.assert_array_equal(joined.x, np.concatenate([X, X]))


class Numbered(keras.utils.PyDataset):
    """Batches of x, y and weights."""

    def __init__(self, num_batches=4):
        super().__init__()
        self.number = num_batches

    @property
    def num_batches(self):
        return self.number

    def __getitem__(self, index):
        part = slice(2 * index % 8, 2 * index % 8 + 2)
        return {"x": X[part]}, Y[part], W[part]


class Loader:
    """What torch's loaders look like."""

    def __iter__(self):
        return ([Tensor(X[start : start + 3]), Tensor(Y[start : start + 3])] for start in range(0, 8, 3))

    def __len__(self):
        return 3


Loader.__name__, Loader.__module__ = "DataLoader", "torch.utils.data.dataloader"


def test_pipelines_are_read_into_arrays():
    read = Rows.of(Numbered()).read()
    np.testing.assert_array_equal(read.x["x"], X)
    np.testing.assert_array_equal(read.y, Y)
    np.testing.assert_array_equal(read.sample_weight, W)
    np.testing.assert_array_equal(Rows(Numbered(None), steps=2).read().y, Y[:4])
    loaded = Rows.of(Loader()).read()
    assert Rows.of(Loader()).kind is kinds.TORCH_LOADER and loaded.sample_weight is None
    np.testing.assert_array_equal(loaded.x, X)
    np.testing.assert_array_equal(loaded.y, Y)


def test_grain_is_read_into_arrays():
    grain = pytest.importorskip("grain", reason="grain has no wheels for Windows")
    dataset = grain.MapDataset.range(8).map(lambda number: (X[number], Y[number])).batch(3)
    for pipeline in (dataset, dataset.to_iter_dataset()):
        rows = Rows.of(pipeline)
        assert rows.kind is kinds.GRAIN and rows.num_rows is None
        np.testing.assert_array_equal(rows.read().y, Y)
    assert not Rows.of(dataset.repeat()).can(Ability.AS_ARRAYS)


def batches():
    yield X, Y


ONCE = {
    "generator": Rows.of(batches()),
    "endless generator": Rows(batches(), steps=2),
    "endless dataset": Rows.of(Numbered(None)),
    "iterator": Rows.of(iter([(X, Y)])),
    "text": Rows.of("rows.csv"),
    "nothing": Rows(),
}


@pytest.mark.parametrize("rows", ONCE.values(), ids=ONCE)
def test_what_cannot_be_read_into_arrays_says_so(rows):
    with pytest.raises(UsageError) as error:
        rows.require(Ability.AS_ARRAYS, "ensemble()")
    where, got, allowed, instead = four_parts(error.value)
    assert where == "ensemble()" and allowed == Ability.AS_ARRAYS.value and instead
    assert rows.kind.name in got or got == "no data"


def test_a_generator_is_read_again_only_where_it_goes_on():
    assert not Rows.of(batches()).can(Ability.READ_AGAIN)
    assert Rows(itertools.chain.from_iterable([]), steps=3).kind is kinds.UNKNOWN  # Keras takes generators only
    assert Rows(batches(), steps=3).can(Ability.READ_AGAIN)
    assert isinstance(batches(), types.GeneratorType)


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        (Rows.of(X, Y[:7]), ("x", "y")),
        (Rows.of({"a": X, "b": X[:3]}), ("x['a']", "x['b']")),
        (Rows.of(X, [Y, Y[1:]]), ("x", "y[1]")),
        (Rows.of(X, Y, W[:2]), ("x", "sample_weight")),
    ],
)
def test_unlike_lengths_are_named(rows, names):
    with pytest.raises(UsageError) as error:
        rows.check_lengths("search(x, y)")
    assert all(name in four_parts(error.value)[1] for name in names)
