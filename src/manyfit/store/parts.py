"""Large arrays in files, written and read some rows at a time: what is in memory at once does not grow with the rows.

The files are the uncompressed archives that NumPy writes and reads, so who wants all of an array may have it by
`numpy.load`.
"""

from __future__ import annotations

import contextlib
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from manyfit.data.kinds import FitData, is_nested, leaves
from manyfit.store.arrays import reading, structure_of

_LOCAL_HEADER = 30  # bytes of an entry of a zip file before its name, where lengths stand at 26 (ZIP 4.3.7)


class StoredArray:
    """An array in an archive, of which rows are read when they are asked for.

    Args:
        path: of the archive.
        name: of the array in it.

    Attributes:
        shape: of all of it.
        dtype: of its numbers.

    Raises:
        ProjectError: the file is not what was written.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        with reading(path), zipfile.ZipFile(path) as archive:
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                self.shape, is_fortran, self.dtype = read(file)
                header = file.tell()
            if entry.compress_type != zipfile.ZIP_STORED or is_fortran or self.dtype.hasobject:
                raise ValueError(f"{name} is not stored row by row")
        # Not mapped into memory: a file that is mapped cannot be replaced on Windows, and a search replaces them.
        with path.open("rb") as plain:
            plain.seek(entry.header_offset + 26)
            self._begin = entry.header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", plain.read(4))) + header

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        each = int(np.prod(self.shape[1:], dtype=np.int64))
        begin = self._begin + start * each * self.dtype.itemsize
        count = max(0, stop - start)
        with reading(self._path):
            found = np.fromfile(self._path, self.dtype, count * each, offset=begin)
            return found.reshape(count, *self.shape[1:])[::step]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[:] if dtype is None else self[:].astype(dtype)


class PartsWriter:
    """Takes nested arrays some rows at a time, and makes an archive of them.

    Args:
        folder: for what is written before the archive.
    """

    def __init__(self, folder: Path) -> None:
        # Files of their own until the end: an archive is written one array after another, and parts come for all.
        self._folder, self._files = folder, contextlib.ExitStack()
        self._parts: list[tuple[IO[bytes], tuple[int, ...]]] = []
        self._structure: np.ndarray | None = None
        self._num_rows = 0

    def __enter__(self) -> PartsWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def add(self, data: FitData) -> None:
        """Takes the next rows; in single precision."""
        parts = [np.ascontiguousarray(leaf, dtype=np.float32) for leaf in leaves(data)]
        if not self._parts:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._structure = structure_of(data) if is_nested(data) else None
            for part in parts:
                self._parts.append((self._files.enter_context(_temporary(self._folder)), part.shape[1:]))
        for part, (target, _) in zip(parts, self._parts, strict=True):
            target.write(part.data)
        self._num_rows += len(parts[0])

    def save(self, path: Path, name: str, others: Mapping[str, np.ndarray]) -> None:
        """Writes the archive.

        Args:
            path: of the archive.
            name: of the nested array, as `named_arrays` has it.
            others: further arrays of the archive.
        """
        is_plain = self._structure is None
        small = dict(others)
        if self._structure is not None:
            small[f"{name}.structure"] = self._structure
        np.savez(path, **small)  # type: ignore[arg-type]  # of `allow_pickle`, which is no array's name here
        with zipfile.ZipFile(path, "a") as archive:
            for number, (file, shape) in enumerate(self._parts):
                entry = name if is_plain else f"{name}.{number}"
                with archive.open(f"{entry}.npy", "w", force_zip64=True) as target:
                    described = {"descr": "<f4", "fortran_order": False, "shape": (self._num_rows, *shape)}
                    np.lib.format.write_array_header_2_0(target, described)
                    file.seek(0)
                    shutil.copyfileobj(file, target)


def _temporary(folder: Path) -> IO[bytes]:
    return tempfile.TemporaryFile(dir=folder)
