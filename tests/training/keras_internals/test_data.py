"""Keras's private readers of data hand out what `fit` trains on.

A test that fails here names what a new version of Keras has changed, and what would break with it.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest

if keras.backend.backend() != "jax":
    pytest.skip("population training needs the JAX backend", allow_module_level=True)

import jax
import jax.numpy as jnp

from manyfit.training.keras_internals import data


def iterator(x, y=None, sample_weight=None, **arguments):
    given = {"batch_size": 4, "steps_per_epoch": None, "shuffle": False, "class_weight": None, "steps_per_execution": 1}
    return data.epoch_iterator(x, y, sample_weight, **{**given, **arguments})


def ten():
    return np.arange(20, dtype="float64").reshape(10, 2), np.arange(10)


def test_a_pass_is_the_batches_of_an_epoch():
    batches = list(data.one_pass(iterator(*ten())))
    assert [len(batch[0]) for batch in batches] == [4, 4, 2], "`JAXEpochIterator` no longer yields single batches"
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in batches]), np.arange(10))


def test_the_first_batch_can_be_looked_at_without_losing_it():
    read = iterator(*ten())
    first = data.first_batch(read)
    again = next(data.one_pass(read))
    np.testing.assert_array_equal(first[0], again[0], "`reset` no longer starts anew: the first batch would be lost")


def test_a_stream_that_ends_tells_its_length():
    def batches():
        for start in range(3):
            yield np.full((2, 2), start, "float32"), np.zeros(2, "float32")

    read = iterator(batches(), batch_size=None)
    with pytest.warns(UserWarning, match="ran out of data"):  # as `fit` says it
        assert len(list(data.one_pass(read))) == 3
    assert read.num_batches is not None, (
        "`catch_stop_iteration` no longer notes how many batches there were: passes over streams would have no end"
    )


def test_arrays_are_told_from_streams():
    assert data.is_array_adapter(iterator(*ten()).data_adapter), (
        "arrays have another adapter: a population would stream what it could keep on the device"
    )

    def batches():
        yield np.zeros((2, 2), "float32"), np.zeros(2, "float32")

    assert not data.is_array_adapter(iterator(batches(), batch_size=None).data_adapter)


def test_whole_arrays_are_the_batches_put_together():
    x, y = ten()
    weights = np.linspace(0, 1, 10)
    read = iterator({"a": x, "b": x.astype("int64")}, y, weights)
    whole = data.arrays_of(read.data_adapter)
    batches = list(data.one_pass(read))
    together = keras.tree.map_structure(lambda *parts: jnp.concatenate(parts), *batches)
    # As they are on the device: Keras 3.12 leaves it to JAX to shorten integers.
    for one, other in zip(map(jnp.asarray, jax.tree.leaves(whole)), jax.tree.leaves(together), strict=True):
        assert one.dtype == other.dtype, "arrays are converted to other types than their batches"
        np.testing.assert_array_equal(one, other)


def test_parts_that_are_absent_stay_absent():
    whole = data.arrays_of(iterator(*ten()).data_adapter)
    batch = next(data.one_pass(iterator(*ten())))
    assert len(whole) == len(batch) and [part is None for part in whole] == [part is None for part in batch]


@pytest.mark.parametrize(("given", "filled"), [(None, 32), (4, 4)])
def test_keras_fills_in_the_batch_size(given, filled):
    assert data.batch_size_of(iterator(*ten(), batch_size=given).data_adapter) == filled


def test_a_split_takes_the_last_rows():
    (x, y, weight), (held_x, held_y, held_weight) = data.split((*ten(), None), 0.3)
    assert (len(x), len(held_x), weight, held_weight) == (7, 3, None, None)
    np.testing.assert_array_equal(held_y, [7, 8, 9], "`train_validation_split` no longer holds out the last rows")
    np.testing.assert_array_equal(y, np.arange(7))


def test_validation_data_are_taken_apart():
    assert data.unpack((1, 2)) == (1, 2, None) and data.unpack((1, 2, 3)) == (1, 2, 3)
