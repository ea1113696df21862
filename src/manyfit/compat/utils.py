"""KerasTuner's `utils`, and its `backend.io`: files on the local file system."""

from __future__ import annotations

import glob as _glob
import json
import os
import shutil
from collections.abc import Mapping
from typing import IO, Any, Protocol

from manyfit.core.errors import UsageError, explain
from manyfit.report.terminal import in_notebook


class Configurable(Protocol):
    """An object that says how it was made."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of its constructor."""


def try_clear() -> None:
    """Clears the output of a notebook cell; prints an empty line elsewhere."""
    if not in_notebook():
        print()
        return
    from IPython import display  # only where a notebook runs this, and so has it

    display.clear_output()


def create_directory(path: str | os.PathLike[str], remove_existing: bool = False) -> None:
    """Makes a folder.

    Args:
        path: the folder.
        remove_existing: whether an existing one is deleted with what is in it.
    """
    if remove_existing and os.path.exists(path):
        shutil.rmtree(path)
    os.makedirs(path, exist_ok=True)


def serialize_keras_object(obj: Configurable) -> dict[str, Any]:
    """An object with `get_config` as ``{"class_name": ..., "config": ...}``."""
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


def deserialize_keras_object(
    config: Mapping[str, Any],
    module_objects: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Any:
    """What `serialize_keras_object` described.

    Args:
        config: the description.
        module_objects: class names and classes.
        custom_objects: further ones, which win.

    Raises:
        UsageError: the class is in neither.
    """
    known = {**(module_objects or {}), **(custom_objects or {})}
    cls = known.get(config["class_name"])
    if cls is None:
        raise UsageError(
            explain(
                "deserialize_keras_object",
                f"Unknown object: {config['class_name']!r}",
                f"one of {', '.join(known) or 'no classes'}",
                "Name its class in custom_objects=.",
            )
        )
    return cls.from_config(config["config"]) if hasattr(cls, "from_config") else cls(**config["config"])


def to_list(values: object) -> list[Any]:
    """A list or tuple as a list; anything else as a list of one."""
    return list(values) if isinstance(values, list | tuple) else [values]


def save_json(path: str | os.PathLike[str], obj: object) -> str:
    """Writes an object as JSON, and returns the text."""
    text = json.dumps(obj)
    with open(path, "w") as file:
        file.write(text)
    return text


def load_json(path: str | os.PathLike[str]) -> Any:
    """Reads an object from a JSON file."""
    with open(path) as file:
        return json.load(file)


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


def write_filepath(filepath: str, strategy: object) -> str:
    """Where this process writes a file; with one process it is the path itself."""
    del strategy
    return filepath


def remove_temp_dir_with_filepath(filepath: str, strategy: object) -> None:
    """Deletes what only `write_filepath` has made: nothing."""
    del filepath, strategy
