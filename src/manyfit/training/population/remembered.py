"""The fastest layouts of programs, remembered on disk beside the compiled programs.

The next process then neither measures nor compiles what lost the first time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path

import jax

from manyfit.training.population.persistence import cache_folder
from manyfit.training.population.program import Layout


@dataclasses.dataclass(frozen=True)
class Remembered:
    """What a family's measurements came to.

    Attributes:
        layout: the fastest.
        counts: numbers of slots for which its programs were compiled.
    """

    layout: Layout
    counts: tuple[int, ...]


def recall(family: str, options: tuple[Layout, ...]) -> Remembered | None:
    """What was remembered of a family; None if nothing was, or if its layout is no option any more."""
    path = _path(family)
    if path is None:
        return None
    try:
        found = json.loads(path.read_text())
        layouts = [option for option in options if str(option) == found["layout"]]
        return Remembered(layouts[0], tuple(map(int, found["counts"]))) if layouts else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # nothing there, or of another version


def remember(family: str, found: Remembered) -> None:
    """Writes down what was measured. A folder that cannot be written to costs speed, not the search."""
    path = _path(family)
    if path is None:
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"layout": str(found.layout), "counts": sorted(found.counts)}))
        partial.replace(path)


def _path(family: str) -> Path | None:
    """Where a family's measurements lie: they hold for these devices and this version of JAX."""
    folder = cache_folder()
    if folder is None:
        return None
    devices = jax.local_devices()
    place = f"{family} {jax.__version__} {devices[0].device_kind} {len(devices)} {os.cpu_count()}"
    return folder.with_name("layouts") / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.json"
