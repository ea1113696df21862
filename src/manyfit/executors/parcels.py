"""What travels to workers: pickles in which large arrays are only named, and the arrays beside them.

Arrays lie once per machine, in shared memory or in a cluster's object store, and workers map them; arrays that are
files on the disk (`numpy.memmap`) are opened there instead. Functions travel by value where they must (those of a
script, lambdas, closures), which is what cloudpickle adds to pickle.

Back come files of the project, weights say: a worker writes them under the same names in a folder of its own, from
where they travel. It need not see the driver's disk, and no two workers write to the same file: the driver alone does.
"""

from __future__ import annotations

import dataclasses
import io
import mmap
import pickle
import shutil
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import PARTIAL, has_seal, sealed, written_whole
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


def pack(content: object, share: Callable[[np.ndarray], str], *, folder: Path, where: str) -> bytes:
    """Pickles.

    Args:
        content: what travels.
        share: takes a large array and names it.
        folder: paths below it are turned into a worker's own.
        where: the call, for messages.

    Raises:
        UsageError: something in it cannot be pickled; the message names it.
    """
    # The search for a culprit happens only after pickling has failed: it pickles every part once more.
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


def unpack(content: bytes, arrays: Mapping[str, object], place: Callable[[str], Path]) -> Any:
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


def _plainly_picklable(content: object) -> bool:
    try:
        _Pickler(io.BytesIO(), lambda array: "", Path("/")).dump(content)
    except Exception:
        return False
    return True


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, share: Callable[[np.ndarray], str], folder: Path) -> None:
        super().__init__(file, protocol=5)
        self._share, self._folder = share, folder

    def reducer_override(self, content: object) -> Any:
        """Keeps the file of the user's code, which cloudpickle leaves out: it is where a failure happened."""
        if not isinstance(content, types.CodeType):
            return super().reducer_override(content)
        make, arguments = cloudpickle.Pickler.dispatch_table[types.CodeType](content)
        return _code_of_file, (make, arguments, content.co_filename)

    def persistent_id(self, content: object) -> tuple[str, str] | None:
        """Names what does not travel in the pickle."""
        if isinstance(content, Path):
            return ("path", str(content.absolute())) if content.absolute().is_relative_to(self._folder) else None
        # Exactly these classes: a subclass of the user's may carry more than its elements.
        if type(content) not in (np.ndarray, np.memmap):
            return None
        assert isinstance(content, np.ndarray)
        if content.dtype.hasobject:
            return None
        return ("array", self._share(content)) if content.nbytes >= SHARED_FROM_BYTES else None


def _code_of_file(make: Callable[..., types.CodeType], arguments: tuple[Any, ...], file: str) -> types.CodeType:
    return make(*arguments).replace(co_filename=file)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, arrays: Mapping[str, object], place: Callable[[str], Path]) -> None:
        super().__init__(file)
        self._arrays, self._place = arrays, place

    def persistent_load(self, named: tuple[str, str]) -> object:
        """Finds what was named."""
        kind, name = named
        return self._arrays[name] if kind == "array" else self._place(name)


# Arrays, once per machine -------------------------------------------------------------------------------------


class Shelf:
    """Names arrays, and remembers them from one task to the next.

    Example:

    >>> shelf, x = Shelf(), np.zeros(5)
    >>> shelf.begin(lambda array: "somewhere")
    >>> shelf.put(x) == shelf.put(x), shelf.handles()
    (True, {'array-0': 'somewhere'})
    """

    def __init__(self) -> None:
        # id -> name, the array, handle. The array is held so that no other one gets its id.
        self._known: dict[int, tuple[str, np.ndarray, object]] = {}
        self._used: dict[int, tuple[str, np.ndarray, object]] = {}
        self._count = 0
        self._share: Callable[[np.ndarray], object] = lambda array: None

    def begin(self, share: Callable[[np.ndarray], object]) -> None:
        """Begins a task; what neither it nor the one before has used is dropped."""
        self._share = share
        # Two tasks' worth is held: a search and its confirmation use the same rows, and so the same programs.
        self._known, self._used = self._used, {}

    def put(self, array: np.ndarray) -> str:
        """Names an array of this task."""
        entry = self._used.get(id(array)) or self._known.get(id(array))
        if entry is None:
            entry = (f"array-{self._count}", array, on_disk(array) or self._share(array))
            self._count += 1
        self._used[id(array)] = entry
        return entry[0]

    def handles(self) -> dict[str, object]:
        """Name -> where workers find it, for the arrays of this task."""
        return {name: handle for name, _, handle in self._used.values()}


# Files --------------------------------------------------------------------------------------------------------


class Mirror:
    """The worker's side.

    Args:
        root: an empty folder.

    Example:

    >>> import tempfile
    >>> mirror = Mirror(Path(tempfile.mkdtemp()))
    >>> _ = mirror.path("/project/weights/3-0.npz").write_bytes(b"1")
    >>> mirror.collect(), mirror.collect()
    ({'/project/weights/3-0.npz': b'1'}, {})
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, driver_path: str | Path) -> Path:
        """Where a worker writes what goes to an absolute path of the driver. The folder is there."""
        path = self.root.joinpath(*Path(driver_path).parts[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def collect(self) -> dict[str, bytes]:
        """The files that were written since, by their paths on the driver."""
        files = {}
        # What another thread is still writing has its partial name; it travels with the next message.
        for path in self.root.rglob("*"):
            if path.is_file() and not path.name.startswith(PARTIAL):
                files[f"/{path.relative_to(self.root).as_posix()}"] = path.read_bytes()
                path.unlink()
        return files

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.root, ignore_errors=True)


def write_files(files: Mapping[str, bytes], allowed: Iterable[Path]) -> None:
    """The driver's side: puts files where they belong. Each is complete or absent.

    Args:
        files: by their paths.
        allowed: folders below which a worker may have files written; others are left out.

    Raises:
        ProjectError: the disk is full or a file cannot be written.
    """
    folders = [str(folder.absolute()) for folder in allowed]
    for name, content in files.items():
        path = Path(name)
        # A worker runs code of the user's on another machine. It may fill its project's folder, and nothing else.
        if ".." in path.parts or not any(path.is_relative_to(folder) for folder in folders):
            continue
        with written_whole(path, "file") as partial:
            # A worker on another machine has a secret of its own. The driver answers for what its workers write.
            partial.write_bytes(sealed(content) if has_seal(content) else content)
