"""Weights of one execution on disk.

One NumPy archive per execution, with the arrays of `model.get_weights()` in their order. Keras's own weight files carry
the optimizer's slots along, of the last epoch next to weights of the best, and take ten times as long to write.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np

from manyfit.core.errors import ProjectError, explain, first_line
from manyfit.core.files import rewritten
from manyfit.core.untrusted import archive, plain_file, read_json

_BUILD_CONFIG = "build_config"


def write_weights(path: str | Path, arrays: Sequence[Any], *, build_config: Mapping[str, Any] | None = None) -> None:
    """Writes weights. A file is complete or absent: it is written under another name and renamed.

    Args:
        path: ends in `.npz`.
        arrays: as `model.get_weights()` returns them.
        build_config: `model.get_build_config()`, for models that take their shapes from the first batch.

    Raises:
        ProjectError: the disk is full or the file cannot be written.
    """
    path = Path(path)
    entries = {f"{index:05d}": storable(array) for index, array in enumerate(arrays)}
    if build_config:
        entries[_BUILD_CONFIG] = np.array(json.dumps(build_config))
    with rewritten(path, "weights") as partial:
        np.savez(partial, **entries)  # type: ignore[arg-type]  # its `allow_pickle` is no array


def load_weights(model: keras.Model, path: str | Path) -> None:
    """Reads weights into a freshly built model.

    Raises:
        ProjectError: the file is damaged, holds something else than numbers, or is of another model.
    """
    try:
        with archive(path) as found:
            arrays = {name: found[name] for name in sorted(found)}
        config = arrays.pop(_BUILD_CONFIG, None)
        if not model.built and config is not None:
            model.build_from_config(read_json(str(config)))
        model.set_weights(list(arrays.values()))
    # Of NumPy, of the archive's format, of JSON and of Keras, which says what does not fit.
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise _unfit(path, error) from error


def load_keras_weights(model: keras.Model, path: str | Path) -> None:
    """Reads a weight file of Keras's own into a freshly built model, as KerasTuner wrote it.

    Args:
        model: one that is not built takes its shapes from `build_config.json` beside the file.
        path: ends in `.weights.h5`.

    Raises:
        ProjectError: the file is damaged, refers to other files, or is of another model.
    """
    shapes = Path(path).with_name("build_config.json")
    try:
        _refuse_references(path)
        if not model.built and shapes.exists():
            model.build_from_config(read_json(plain_file(shapes).read_text()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer's slots of the file have no place in a fresh model
            model.load_weights(path)
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise _unfit(path, error) from error


def _refuse_references(path: str | Path) -> None:
    """Checks that HDF5 finds everything in this file: it can also point into others, wherever they lie.

    Raises:
        ValueError: it does point into another.
    """
    with h5py.File(plain_file(path), "r") as file:
        outside = file.visititems_links(lambda name, link: name if isinstance(link, h5py.ExternalLink) else None)
        outside = outside or file.visititems(
            lambda name, item: name if isinstance(item, h5py.Dataset) and (item.external or item.is_virtual) else None
        )
    if outside:
        raise ValueError(f"{outside} lies in another file")


def _unfit(path: str | Path, error: Exception) -> ProjectError:
    return ProjectError(
        explain(
            f'weights "{path}"',
            f"a file that is damaged, or of another model ({first_line(error)})",
            "the weights of this trial, as they were written",
            "Restore the file, see that the build function is the search's, or call tuner.retrain().",
        )
    )


def storable(array: object) -> np.ndarray:
    """An array as NumPy's files can hold it."""
    array = np.asarray(array)
    # NumPy's format knows no bfloat16; float32 holds all of its values.
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)
