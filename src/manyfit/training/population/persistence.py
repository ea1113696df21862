"""Compiled programs on disk, so that the second run of a search compiles nothing."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from manyfit.training.keras_internals.draws import quick_draws
from manyfit.training.keras_internals.programs import kept_on_disk

OFF = ("", "0", "off", "none")


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `MANYFIT_CACHE_DIR` ("off": nowhere), else the user's cache folder."""
    given = os.environ.get("MANYFIT_CACHE_DIR")
    if given is not None:
        return None if given.lower() in OFF else Path(given).expanduser() / "programs"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home()))
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return base / "manyfit" / "programs"


@contextlib.contextmanager
def programs_kept() -> Iterator[None]:
    """What JAX compiles inside is kept on disk, unless the user keeps it elsewhere or nowhere; see `kept_on_disk`."""
    folder = cache_folder()
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield  # a home that cannot be written to costs speed, not the search
        return
    with kept_on_disk(folder):
        yield


@contextlib.contextmanager
def quick_building() -> Iterator[None]:
    """Around the builds that explore a space: drawing weights compiles, so it is quick, and stays for the next run."""
    with programs_kept(), quick_draws():
        yield
