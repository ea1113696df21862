"""What somebody else may have written: texts, JSON, archives. Reading it ends, fits into memory, and acts on nothing.

A file that arrives by mail or from a download can be made to do harm without any code in it: brackets within brackets
until Python's stack is full, a small archive that unpacks to terabytes, a pipe in the place of a file, for which one
waits for ever, and letters that a terminal obeys instead of showing them. Each is refused here, for all readers.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # who only looks at a project does not wait for it
    import numpy as np

UNPACKED_BYTES = 1 << 28
"""An archive may hold so much, whatever its size on disk."""
UNPACKED_TIMES = 200
"""Beyond, so many times its size; what is packed well, as masks that are nearly empty, reaches 100."""
_MOST_ENTRIES = 1_000_000

#: Letters that a terminal obeys (colours, cursor, clipboard), and those that turn the order of others round.
_UNSEEN = {
    code: "\N{REPLACEMENT CHARACTER}"
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x61C,
        0x200E,
        0x200F,
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
    )
    if chr(code) not in "\n\t"
}


def shown(text: str) -> str:
    """A text as it may be shown: what a terminal would obey, or would show in another order, is replaced.

    Example:

    >>> shown("units\\x1b[2J 64") == "units\\ufffd[2J 64", shown("two\\nlines")
    (True, 'two\\nlines')
    """
    return text if text.isascii() and text.isprintable() else text.translate(_UNSEEN)


def read_json(text: str | bytes) -> Any:
    """What a text of JSON says.

    Raises:
        ValueError: it is none, or nested too deeply to be read.

    Example:

    >>> read_json('{"units": 64}')
    {'units': 64}
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("brackets within brackets, too deep to be read") from None


def plain_file(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be read to its end.

    Raises:
        OSError: there is none.
        ValueError: it is a folder, a pipe or a device.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("no plain file")
    return Path(path)


@contextlib.contextmanager
def archive(content: str | os.PathLike[str] | bytes) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an archive of NumPy's, by name; each is read when it is asked for. No pickle is loaded.

    Args:
        content: the path of the archive, or what is in it.

    Raises:
        OSError: there is no file.
        ValueError: an array is none of numbers or texts, tells of another size than it has, or there is more in it
            than `UNPACKED_BYTES` and `UNPACKED_TIMES` allow.
        zipfile.BadZipFile: it is no archive.
    """
    import numpy as np  # see above

    file = io.BytesIO(content) if isinstance(content, bytes) else plain_file(content).open("rb")
    with file:
        check_unpacked(file, arrays=True)
        with np.load(file, allow_pickle=False) as arrays:
            yield arrays


def check_unpacked(file: str | os.PathLike[str] | io.IOBase, *, arrays: bool = False) -> None:
    """Checks that an archive does not unpack to more than its size lets expect.

    Args:
        file: the archive, or its path.
        arrays: whether its entries are arrays, each of which has to be as long as it says.

    Raises:
        ValueError: it would.
        zipfile.BadZipFile: it is no archive.
    """
    if not isinstance(file, io.IOBase):
        with plain_file(file).open("rb") as opened:
            return check_unpacked(opened, arrays=arrays)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    with zipfile.ZipFile(file) as packed:
        entries = packed.infolist()
        total = sum(entry.file_size for entry in entries)
        if len(entries) > _MOST_ENTRIES or total > max(UNPACKED_BYTES, UNPACKED_TIMES * size):
            raise ValueError(f"{size:,} bytes that unpack to {total:,}")
        for entry in entries if arrays else ():
            _check_array(packed, entry)
    file.seek(0)
    return None


def _check_array(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    import numpy as np  # see above

    # NumPy makes room for what the header says before it looks for the numbers.
    with packed.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        length = dtype.itemsize
        for axis in shape:
            length *= int(axis)
        if dtype.hasobject or min(shape, default=0) < 0 or file.tell() + length != entry.file_size:
            raise ValueError(f"{entry.filename}, which is not of the shape {shape} and type {dtype} that it tells")
