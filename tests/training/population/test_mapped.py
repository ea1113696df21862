"""Arrays in files are read in place or batch by batch, and train what arrays in memory train."""

import keras
import numpy as np
import pytest
from marks import needs_jax

from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.executors.parcels import open_array
from manyfit.executors.process import ProcessExecutor, ProcessPool
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population, arrays, data
from manyfit.training.population.data import ResidentRows, Stream, read_fit_arguments

pytestmark = [needs_jax]

RNG = np.random.default_rng(3)
X = RNG.normal(size=(80, 16)).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def build(hp):
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp["learning_rate"]), loss="mse")
    return model


def on_disk(folder, array):
    np.save(folder / "x.npy", array)
    return np.load(folder / "x.npy", mmap_mode="r")


def task(x, **arguments):
    return Task(
        build, Call((x, Y), {"epochs": 2, "batch_size": 16, "verbose": 0, **arguments}), Objective("loss", "min")
    )


def curve(x, **arguments):
    supply = ListSupply([Plan("0", 0, {"learning_rate": 0.05}, seed=1)])
    Population(KerasFit()).train(supply, task(x, **arguments))
    return supply.results["0", 0].history["loss"]


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(data, "must_stream", lambda given: arrays.must_stream(given, small_bytes=0))


def test_a_file_of_floats_is_computed_on_in_place(tmp_path, everything_is_large):
    x = on_disk(tmp_path, X)
    rows = read_fit_arguments(task(x).call).training
    assert isinstance(rows, ResidentRows)
    assert rows.leaves[0].unsafe_buffer_pointer() == x.ctypes.data  # the file's own pages: no copy
    assert curve(x) == curve(X)


@pytest.mark.parametrize("change", ["float64", "offset"])
def test_what_would_have_to_be_copied_whole_is_streamed(tmp_path, everything_is_large, change):
    if change == "float64":
        x = on_disk(tmp_path, X.astype("float64"))
    else:
        x = on_disk(tmp_path, np.concatenate([np.zeros((80, 1), "float32"), X], axis=1))[:, 1:]
    assert arrays.is_mapped(x)
    assert isinstance(read_fit_arguments(task(x).call).training, Stream)
    np.testing.assert_allclose(curve(x, shuffle=False), curve(X, shuffle=False), rtol=1e-5)


def test_the_rows_of_a_split_are_still_a_file(tmp_path, everything_is_large):
    found = read_fit_arguments(task(on_disk(tmp_path, X), validation_split=0.2).call)
    assert isinstance(found.training, ResidentRows) and isinstance(
        found.validation, ResidentRows
    )  # 64 rows of 64 bytes: aligned
    assert isinstance(
        read_fit_arguments(task(on_disk(tmp_path, X[:, :15]), validation_split=0.2).call).training, ResidentRows
    )


def test_arrays_in_memory_and_small_files_stay_resident(tmp_path):
    assert not arrays.is_mapped(X) and not arrays.is_mapped(X[3:][:, 2:])
    assert not arrays.must_stream([on_disk(tmp_path, X.astype("float64"))])


def test_arrays_that_begin_where_the_device_wants_them_are_not_copied(tmp_path):
    """So do those that workers find in shared memory, and files; of others in memory there is one copy."""
    memory = np.empty(X.nbytes + 64, "uint8")
    start = -memory.ctypes.data % 64
    aligned = memory[start : start + X.nbytes].view("float32").reshape(X.shape)
    aligned[:] = X
    pool = ProcessPool(ProcessExecutor(workers=1))
    shared = open_array(pool.share(X))
    for x in (aligned, shared):
        rows = read_fit_arguments(task(x).call).training
        assert isinstance(rows, ResidentRows)
        assert rows.leaves[0].unsafe_buffer_pointer() == x.ctypes.data
        np.testing.assert_array_equal(x, X)
    pool.close()
