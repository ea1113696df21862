"""Arrays of an archive that are read some rows at a time."""

import numpy as np
import pytest

from manyfit.core.errors import ProjectError
from manyfit.store.parts import StoredArray


@pytest.fixture
def rows():
    return np.arange(60, dtype="float32").reshape(10, 3, 2)


def test_any_rows_are_those_that_were_stored(tmp_path, rows):
    np.savez(tmp_path / "some.npz", other=np.zeros(3), rows=rows)
    stored = StoredArray(tmp_path / "some.npz", "rows")
    assert (len(stored), stored.shape, stored.dtype) == (10, (10, 3, 2), rows.dtype)
    for part in (slice(None), slice(2, 7), slice(2, 9, 3), slice(-3, None), slice(7, 2), slice(5, 99)):
        np.testing.assert_array_equal(stored[part], rows[part])


def test_it_is_an_array_where_one_is_asked_for(tmp_path, rows):
    np.savez(tmp_path / "some.npz", rows=rows)
    stored = StoredArray(tmp_path / "some.npz", "rows")
    whole, double = np.asarray(stored), np.asarray(stored, dtype="float64")
    assert (whole.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(whole, rows)
    np.testing.assert_array_equal(double, rows)


@pytest.mark.parametrize(
    "write",
    [
        lambda path, rows: np.savez_compressed(path, rows=rows),
        lambda path, rows: np.savez(path, rows=np.asfortranarray(rows)),
        lambda path, rows: np.savez(path, rows=np.array([{}, None], dtype=object)),
        lambda path, rows: path.write_bytes(b"no archive"),
    ],
    ids=["compressed", "by columns", "objects", "cut"],
)
def test_what_cannot_be_read_by_rows_is_refused(tmp_path, rows, write):
    write(tmp_path / "some.npz", rows)
    with pytest.raises(ProjectError):
        StoredArray(tmp_path / "some.npz", "rows")
