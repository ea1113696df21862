"""What travels: arrays beside the pickle, arrays that are files, functions by value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny

from manyfit.core import files
from manyfit.core.errors import UsageError
from manyfit.executors.parcels import on_disk, open_array, pack, unpack, write_files
from manyfit.executors.process import ProcessExecutor, ProcessPool, cores_of


def round_trip(content):
    arrays: dict[str, np.ndarray] = {}

    def share(array):
        name = f"a{len(arrays)}"
        arrays[name] = array
        return name

    packed = pack(content, share, folder=Path("/project"), where="search")
    return unpack(packed, arrays, lambda path: Path("/mirror" + path)), packed, arrays


def test_large_arrays_stay_out_of_the_pickle_and_small_ones_do_not():
    large, small = np.ones(100_000), np.ones(3)
    (back, also), packed, arrays = round_trip((large, small))
    assert back is large and also is not small
    assert np.array_equal(also, small) and len(arrays) == 1 and len(packed) < 2_000


def test_arrays_of_objects_travel_in_the_pickle():
    words = np.array(["a", None] * 50_000, dtype=object)
    back, _, arrays = round_trip(words)
    assert list(back[:2]) == ["a", None] and not arrays


def test_paths_in_the_project_become_the_worker_s_own_and_others_stay():
    (inside, outside), _, _ = round_trip((Path("/project/predictions"), Path("/data/rows")))
    assert (str(inside), str(outside)) == ("/mirror/project/predictions", "/data/rows")


def test_a_lambda_and_what_it_closes_over_travel():
    offset = 3
    back, _, _ = round_trip(lambda value: value + offset)
    assert back(4) == 7


@pytest.mark.parametrize("part", [slice(None), slice(10, 20), slice(5, 6)])
def test_a_memory_mapped_array_travels_as_its_file(tmp_path, part):
    path = tmp_path / "rows.dat"
    np.arange(300, dtype=np.int32).reshape(100, 3).tofile(path)
    rows = np.memmap(path, np.int32, "r", offset=12, shape=(99, 3))[part]
    file = on_disk(rows)
    assert file is not None and file.path == str(path)
    back = open_array(file)
    assert isinstance(back, np.memmap) and np.array_equal(back, rows)


def test_every_second_row_of_a_memory_mapped_array_is_no_file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((100, 3)))
    mapped = np.load(path, mmap_mode="r")
    assert on_disk(mapped) is not None
    assert on_disk(mapped[::2]) is None and on_disk(mapped + 1) is None and on_disk(np.zeros(3)) is None


def test_a_file_that_a_worker_cannot_find_is_named(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros((100, 3)))
    file = on_disk(np.load(path, mmap_mode="r"))
    path.unlink()
    with pytest.raises(UsageError, match=r"rows\.npy") as caught:
        open_array(file)
    tiny.four_parts(caught.value)


@pytest.mark.parametrize("array", [np.arange(24.0).reshape(4, 6).T, np.zeros((5, 0)) + 1, np.arange(9, dtype=">i2")])
def test_shared_memory_holds_what_was_put_and_writes_stay_with_the_writer(array):
    pool = ProcessPool(ProcessExecutor(1))
    if array.size:
        handle = pool.share(array)
        first, second = open_array(handle), open_array(handle)
        assert type(first) is np.ndarray and first.dtype == array.dtype and np.array_equal(first, array)
        first.flat[0] = 77
        assert second.flat[0] == array.flat[0]
    pool.close()


def test_cores_are_shared_out_evenly_or_not_at_all(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    assert [cores_of(slot, 2) for slot in (0, 1)] == [[0, 2, 4], [1, 3]]
    assert cores_of(0, 6) == []


def test_the_driver_seals_what_a_worker_on_another_machine_has_sealed(tmp_path, monkeypatch):
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MANYFIT_CACHE_DIR", str(tmp_path / "another machine"))
        content = files.sealed(b"an estimator")
    assert not files.is_sealed(content)
    folder = tmp_path / "project"
    sent = {str(folder / "0-0.pickle"): content, str(folder / "0-0.npz"): b"weights", str(tmp_path / "out"): b"x"}
    write_files(sent, [folder])
    assert files.is_sealed((folder / "0-0.pickle").read_bytes())
    assert (folder / "0-0.npz").read_bytes() == b"weights" and not (tmp_path / "out").exists()
