"""What travels to workers: pickles in which large arrays are only named, and the arrays beside them.

Arrays lie once per machine, in shared memory or in a cluster's object store, and workers map them; arrays that are
files on the disk (`numpy.memmap`) are opened there instead. Functions travel by value where they must (those of a
script, lambdas, closures), which is what cloudpickle adds to pickle.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.executors.blame import blame

SHARED_FROM_BYTES = 1 << 16  # smaller arrays travel in the pickle


@dataclasses.dataclass(frozen=True)
class ArrayFile:
    """An array in a file, or in shared memory that looks like one.

    Attributes:
        path: of the file.
        dtype: of the elements.
        shape: of the array.
        offset: bytes before its first element.
        is_memmap: whether it was a `numpy.memmap` of the user's, and has to stay one.
    """

    path: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0
    is_memmap: bool = False


def pack(content: Any, share: Callable[[np.ndarray], str], *, folder: Path, where: str) -> bytes:
    """Pickles.

    Args:
        content: what travels.
        share: takes a large array and names it.
        folder: paths below it are turned into a worker's own.
        where: the call, for messages.

    Raises:
        UsageError: something in it cannot be pickled; the message names it.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, share, folder.absolute()).dump(content)
    except Exception as error:
        found = blame(content, _plainly_picklable)
        raise UsageError(
            explain(
                where,
                f"{found}, which cannot be sent to a worker ({type(error).__name__}: {error})",
                "a build function, callbacks and data that can be pickled",
                "Make such things inside the build function or the callback, or load the data in HyperModel.fit.",
            )
        ) from error
    return buffer.getvalue()


def unpack(content: bytes, arrays: Mapping[str, Any], place: Callable[[str], Path]) -> Any:
    """The inverse of `pack`.

    Args:
        content: what `pack` made.
        arrays: by name.
        place: takes a path of the driver, returns one to write to.
    """
    return _Unpickler(io.BytesIO(content), arrays, place).load()


def on_disk(array: np.ndarray) -> ArrayFile | None:
    """Where a `numpy.memmap`, or a contiguous part of one, lies on the disk; None for every other array."""
    if not isinstance(array, np.memmap) or array.filename is None or not array.flags.c_contiguous:
        return None
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    if not isinstance(root, np.memmap) or not isinstance(root.base, mmap.mmap):
        return None  # computed from one, and in memory
    begin = array.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    return ArrayFile(str(array.filename), array.dtype, array.shape, root.offset + begin, is_memmap=True)


def open_array(file: ArrayFile) -> np.ndarray:
    """Maps an array without reading it.

    Raises:
        UsageError: the file is not on this machine.
    """
    try:
        # Writes stay with the writer: a worker that shuffles in place does not disturb the others.
        mapped: np.ndarray = np.memmap(file.path, file.dtype, "c", file.offset, file.shape)
    except FileNotFoundError as error:
        raise UsageError(
            explain(
                "search(x)",
                f'an array in the file "{file.path}", which a worker cannot find',
                "files that every machine sees under the same path",
                "Put the file on a shared disk, or load it into memory first.",
            )
        ) from error
    return mapped if file.is_memmap else np.asarray(mapped)


def _plainly_picklable(content: Any) -> bool:
    try:
        _Pickler(io.BytesIO(), lambda array: "", Path("/")).dump(content)
    except Exception:
        return False
    return True


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, share: Callable[[np.ndarray], str], folder: Path) -> None:
        super().__init__(file, protocol=5)
        self._share, self._folder = share, folder

    def persistent_id(self, content: Any) -> tuple[str, str] | None:
        """Names what does not travel in the pickle."""
        if isinstance(content, Path):
            return ("path", str(content.absolute())) if content.absolute().is_relative_to(self._folder) else None
        if type(content) not in (np.ndarray, np.memmap) or content.dtype.hasobject:
            return None
        return ("array", self._share(content)) if content.nbytes >= SHARED_FROM_BYTES else None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Mapping[str, Any], place: Callable[[str], Path]) -> None:
        super().__init__(file)
        self._arrays, self._place = arrays, place

    def persistent_load(self, named: tuple[str, str]) -> Any:
        """Finds what was named."""
        kind, name = named
        return self._arrays[name] if kind == "array" else self._place(name)
