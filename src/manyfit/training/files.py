"""Files that are complete or absent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from manyfit.core.errors import ProjectError, explain


@contextlib.contextmanager
def written_whole(path: Path, what: str) -> Iterator[Path]:
    """Yields another name to write under, and renames the file once it is complete.

    Args:
        path: the file's name; its folder is made.
        what: what is in it, for the message.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    partial = path.with_name(f"partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise ProjectError(
            explain(
                f'{what} "{path}"',
                f"a write that failed ({error.strerror or error})",
                "a writable disk with free space",
                "Free some space and call search again: what was finished is kept.",
            )
        ) from error
