"""Arrays in files: nested ones by numbered names, and a file that is not what was written is told in words."""

from __future__ import annotations

import contextlib
import itertools
import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core.errors import ProjectError, explain, first_line
from manyfit.core.untrusted import read_json
from manyfit.data.kinds import FitData, is_nested, leaves, map_leaves

# Files hold arrays by name. Nested ones are numbered there, and one text says what number belongs where.


def structure_of(data: FitData) -> np.ndarray:
    """What `restored` needs to know of nested data: which number belongs where."""
    numbers = itertools.count()
    return np.array(json.dumps(map_leaves(lambda leaf: next(numbers), data)))


def restored(structure: np.ndarray, array: Callable[[int], FitData]) -> FitData:
    """The inverse of `structure_of`; tuples come back as lists."""

    def filled(part: Any) -> FitData:
        if isinstance(part, dict):
            return {name: filled(inner) for name, inner in part.items()}
        if isinstance(part, list):
            return [filled(inner) for inner in part]
        return None if part is None else array(part)

    return filled(read_json(str(structure)))


def named_arrays(name: str, data: FitData) -> dict[str, np.ndarray]:
    """Arrays of a file that hold nested data, or one array, or None."""
    if not is_nested(data):
        return {} if data is None else {name: np.asarray(data)}
    numbered = {f"{name}.{number}": np.asarray(leaf) for number, leaf in enumerate(leaves(data))}
    return {**numbered, f"{name}.structure": structure_of(data)}


def read_nested(name: str, arrays: Mapping[str, np.ndarray]) -> FitData:
    """The inverse of `named_arrays`."""
    if (structure := f"{name}.structure") in arrays:
        return restored(arrays[structure], lambda number: arrays[f"{name}.{number}"])
    return arrays.get(name)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Tells in words that a file is not what was written; pickles are never loaded, whoever put them there."""
    try:
        yield
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ProjectError(
            explain(
                f'kept predictions "{path}"',
                f"a file that is damaged ({first_line(error)})",
                "arrays as Manyfit wrote them",
                "Delete the file, and pass models, x and y to have them predicted now.",
            )
        ) from error
