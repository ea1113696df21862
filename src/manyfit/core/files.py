"""Files on the disk: complete or absent, never half written; one sentence for a full disk; the cache folder.

A process may be killed at any moment, and the next one must not read half a file. So everything is written under
another name first, and renamed when it is whole: renaming within a folder happens at once or not at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from manyfit.core.errors import ProjectError, explain

PARTIAL = "partial-"  # how the names of files begin that are being written

#: Values of `MANYFIT_CACHE_DIR` that switch caches off.
_OFF = ("", "0", "off", "none")


@contextlib.contextmanager
def replaced(path: Path, *, is_shared: bool = False) -> Iterator[Path]:
    """Yields another name to write under, and gives the file its own name once it is complete.

    Args:
        path: the file's name; its folder is made.
        is_shared: whether several processes may write the same file at once, as in a cache.

    Raises:
        OSError: as the system says it. See `written_whole` for files of a project.

    Example:

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "made" / "note.txt"
    >>> with replaced(path) as partial:
    ...     _ = partial.write_text("whole")
    >>> path.read_text(), [file.name for file in path.parent.iterdir()]
    ('whole', ['note.txt'])
    """
    # The ending stays: `numpy.savez` would add its own. A project has one writing process, so the name is the same each
    # time, and what a killed process left is written over instead of piling up.
    partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}" if is_shared else f"{PARTIAL}{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def written_whole(path: Path, what: str) -> Iterator[Path]:
    """See `replaced`; a disk that is full, or cannot be written to, is told in words.

    Args:
        path: the file's name; its folder is made.
        what: what is in it, for the message.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    with writing(f'{what} "{path}"'), replaced(path) as partial:
        yield partial


@contextlib.contextmanager
def writing(where: str) -> Iterator[None]:
    """Tells in words what an `OSError` inside means.

    Raises:
        ProjectError: the disk is full or cannot be written to.
    """
    try:
        yield
    except OSError as error:
        raise write_failed(where, error.strerror or str(error)) from error


def write_failed(where: str, why: str) -> ProjectError:
    """The error of a write to the project that the disk did not take.

    Args:
        where: what was written.
        why: in the words of the system.
    """
    return ProjectError(
        explain(
            where,
            f"a write that failed ({why})",
            "a writable disk with free space",
            "Free some space and call search again: what was finished is kept.",
        )
    )


def cache_folder(*parts: str) -> Path | None:
    """Where things lie that can be made again: compiled programs, measured layouts. It is not made.

    Args:
        *parts: a folder in it.

    Returns:
        A folder in `MANYFIT_CACHE_DIR` (None where that says "off"), else in the cache folder that the system has for
        its user: `~/.cache/manyfit` on Linux (or what `XDG_CACHE_HOME` says), `~/Library/Caches/manyfit` on macOS.
    """
    given = os.environ.get("MANYFIT_CACHE_DIR")
    if given is None:
        return platformdirs.user_cache_path("manyfit", appauthor=False).joinpath(*parts)
    return None if given.lower() in _OFF else Path(given).expanduser().joinpath(*parts)
