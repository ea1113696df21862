"""Files, under the names of KerasTuner's `backend.io`: on the local file system."""

from __future__ import annotations

import glob as _glob
import os
import shutil
from typing import IO, Any


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    return os.path.exists(path)


def rmtree(path: str) -> None:
    """Deletes a folder and what is in it."""
    shutil.rmtree(path)


def File(filename: str, mode: str) -> IO[Any]:
    """Opens a file."""
    return open(filename, mode)


def glob(path: str) -> list[str]:
    """The paths that match a pattern."""
    return _glob.glob(path)


def makedirs(path: str) -> None:
    """Makes a folder, and those above it."""
    os.makedirs(path, exist_ok=True)


def write_filepath(filepath: str, strategy: Any) -> str:
    """Where this process writes a file; with one process it is the path itself."""
    del strategy
    return filepath


def remove_temp_dir_with_filepath(filepath: str, strategy: Any) -> None:
    """Deletes what only `write_filepath` has made: nothing."""
    del filepath, strategy
