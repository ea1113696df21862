"""A checksum of each file beside a project's database that the store knows of, asked for when the file is read.

A file is complete or absent (`core/files.py`), but a power cut may empty it, a disk may flip bits in it, a copy of the
folder may have been made while a search wrote there, and somebody may put the file of another project, or of another
day, in its place. NumPy's archives tell some of that, pickles nothing, and neither tells one whole file from another.

The checksum of an execution's files is committed together with the execution, so what the store says of an execution
and what lies in its files belong together. A file without a checksum, of a project that an earlier version wrote, is
read as it is.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from manyfit.core.errors import ProjectError, explain, warn_user
from manyfit.core.files import digest_of

IsSound = Callable[[Path], bool]
"""Whether a file is what was written, as far as anybody knows."""


def unknown(path: Path) -> bool:
    """Lets every file pass: where no store knows of it."""
    del path
    return True


_ANOTHER = "a file that is not the one that was written: damaged, cut off, or of another time"


class Checksums:
    """The checksums of a project.

    Args:
        folder: the project's.
        known: gives the checksum that the store knows of a file, by its name below the folder; None: of none.
    """

    def __init__(self, folder: Path, known: Callable[[str], str | None]) -> None:
        self._folder, self._known = folder, known
        self._seen: dict[Path, tuple[tuple[int, ...], str]] = {}
        self._told: set[Path] = set()
        self._guard = threading.Lock()

    def of(self, paths: Iterable[Path]) -> dict[str, str | None]:
        """Name and checksum of files; None: it is not there, so that what was known of one counts no more."""
        return {self._name(path): self._digest(path) for path in paths}

    def check(self, path: Path) -> None:
        """Checks that a file is the one that the store knows of.

        Raises:
            ProjectError: it is another one. What cannot be read at all is left to whoever reads it.
        """
        if self._is_another(path):
            allowed = "the file that this project has kept"
            instead = "Restore it from a copy, or train anew: tuner.retrain()."
            raise ProjectError(explain(f'"{path}"', _ANOTHER, allowed, instead))

    def is_sound(self, path: Path) -> bool:
        """Whether a file is the one that the store knows of; where it is another one, that is said once."""
        if not self._is_another(path):
            return True
        with self._guard:
            is_new = path not in self._told
            self._told.add(path)
        if is_new:
            warn_user(f'"{path}" is {_ANOTHER}. It counts as one that was not kept.')
        return False

    def _is_another(self, path: Path) -> bool:
        known = self._known(self._name(path))
        found = None if known is None else self._digest(path)
        return found is not None and found != known

    def _name(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _digest(self, path: Path) -> str | None:
        try:
            found = path.stat()
            state = found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns
            with self._guard:
                seen = self._seen.get(path)
            # Ensembles ask for the same files again and again.
            if seen is None or seen[0] != state:
                seen = state, digest_of(path)
                with self._guard:
                    self._seen[path] = seen
        except OSError:
            return None
        return seen[1]


def save(connection: sqlite3.Connection, digests: dict[str, str | None]) -> None:
    """Writes checksums, within a transaction: see `Checksums.of`."""
    connection.executemany(
        "DELETE FROM files WHERE name = ?", [(name,) for name, one in digests.items() if one is None]
    )
    known = [(name, one) for name, one in digests.items() if one is not None]
    connection.executemany("INSERT OR REPLACE INTO files VALUES (?, ?)", known)
