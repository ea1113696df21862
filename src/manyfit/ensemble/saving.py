"""Two ways to disk: one Keras model out of many (`fusing.py`), or a folder with a file per member.

A folder takes members of every brand: a manifest, one file per model, and a hash for each. The hashes guard against
damage and mix-ups, not against somebody who may write to the folder. Members that are no Keras models are pickles, and
loading a pickle can run any code; that needs an explicit `trust=True`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from manyfit.core.checks import whole_number
from manyfit.core.errors import ManyfitError, UsageError, explain, first_line
from manyfit.core.files import digest_of, has_right_checksum, replaced, with_checksum, writing, written_whole
from manyfit.core.untrusted import archive, check_unpacked, read_json
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, is_keras
from manyfit.ensemble.outputs import Outputs
from manyfit.ensemble.pools import POOLS, Pool
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras


class SavedFile(TypedDict):
    """What the manifest says of one file."""

    file: str
    sha256: str


#: What Keras raises for a model that it cannot make: of its own checks, of Python's, of memory that does not suffice.
_OF_STRANGE_MODELS = (
    *(TypeError, ValueError, LookupError, AttributeError, ImportError, MemoryError),
    *(RuntimeError, OSError, zipfile.BadZipFile),
)
_FORMAT = 1
_FORMAT_OF_SEVERAL = 2  # of members with several outputs
_MANIFEST = "manifest.json"
#: Versions before 0.2 read both numbers of every pool, so they are written even where they mean nothing.
_NUMBERS = {"parameter": 1.0, "inverse_temperature": 1.0}
_MOST_OUTPUTS = 1_000_000  # a prediction of a few rows has room in memory


def save_file(model: keras.Model, path: pathlib.Path, *, where: str = "Ensemble.save") -> None:
    """Writes one Keras model; the file is complete or absent.

    Args:
        model: to be written.
        path: ends in `.keras`.
        where: who asks, for messages.

    Raises:
        UsageError: Keras cannot write it: a layer of the user's does not tell how it was made.
        ProjectError: the disk is full or cannot be written to.
    """
    with written_whole(path, "model", again=f"call {where} again.", lasts=True) as partial:
        write_model(model, partial, where=where)


def write_model(model: keras.Model, path: pathlib.Path, *, where: str) -> None:
    """Has Keras write a model, for `save_file` and others that write more than it."""
    try:
        model.save(path)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise UsageError(
            explain(
                where,
                f"a model that Keras cannot save: {first_line(error)}",
                "what model.save(path) of every member takes",
                "Give the class a get_config() that returns the arguments of its __init__.",
            )
        ) from error


def save_folder(
    folder: pathlib.Path,
    members: Sequence[EnsembleMember],
    pool: Pool,
    task: PredictionTask,
    num_outputs: int,
    outputs: Outputs,
    told: Mapping[str, Sequence[Any] | None],
) -> None:
    """Writes the members that have weight, and how they are combined.

    Args:
        folder: is created; files of an earlier ensemble in it are overwritten.
        members: those of `pool.support`, in that order.
        pool: among all members.
        task: what they predict.
        num_outputs: columns of a prediction.
        outputs: how predictions are laid out.
        told: names of classes and thresholds, where there are some; each is None otherwise.

    Raises:
        UsageError: a member has no model, or the path is a file.
        UsageError: Keras cannot write a member.
        ProjectError: the disk is full or cannot be written to; an ensemble that was there before still is.
    """
    lacking = next((member for member in members if not member.models), None)
    if lacking is not None or folder.is_file():
        raise UsageError(
            explain(
                "Ensemble.save",
                f"{folder} is a file" if lacking is None else f"member {lacking.name!r}, which has no model",
                "a folder, and members with models",
                "Choose another path." if lacking is None else "Give the models to Ensemble.fit(models=...).",
            )
        )
    again = "call ensemble.save again."
    with writing(f'ensemble "{folder}"', again=again), contextlib.ExitStack() as stack:
        # All are written before the first gets its name, and the manifest, begun first, gets it last.
        manifest_file = stack.enter_context(replaced(folder / _MANIFEST, lasts=True))
        entries = [
            {"name": member.name, "files": _saved_models(number, member, folder, stack)}
            for number, member in enumerate(members)
        ]
        pool_file = stack.enter_context(replaced(folder / "pool.npz", lasts=True))
        np.savez(pool_file, **pool.arrays())  # type: ignore[arg-type]
        manifest = {
            # Versions that do not know several outputs must not read them.
            "format": _FORMAT_OF_SEVERAL if outputs.several else _FORMAT,
            "task": str(task),
            "num_outputs": num_outputs,
            "outputs": outputs.to_json(),
            **told,
            "kind": pool.kind,
            **{**_NUMBERS, **pool.numbers()},
            "members": entries,
            "pool": {"file": "pool.npz", "sha256": digest_of(pool_file)},
        }
        manifest_file.write_text(json.dumps(with_checksum(manifest), indent=2) + "\n")


def _saved_models(
    number: int, member: EnsembleMember, folder: pathlib.Path, stack: contextlib.ExitStack
) -> list[dict[str, Any]]:
    """Writes the models of a member, which get their names once the stack ends; what the manifest says of them."""
    files = []
    for part, model in enumerate(member.models):
        name = f"member_{number:03d}_{part}" + (".keras" if is_keras(model) else ".pickle")
        partial = stack.enter_context(replaced(folder / name, lasts=True))
        if is_keras(model):
            write_model(model, partial, where="Ensemble.save")
        else:
            partial.write_bytes(pickle.dumps(model))
        files.append({"file": name, "sha256": digest_of(partial), "logits": emits_logits(model)})
    return files


#: What readers of archives, of HDF5, of JSON and of pickles raise for what they cannot read.
_DAMAGED = (
    KeyError, TypeError, AttributeError, ValueError, IndexError, EOFError, OSError, RuntimeError, RecursionError,
    OverflowError, MemoryError, zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError,
)  # fmt: skip


@contextlib.contextmanager
def damage_told(where: str, what: str = "a folder with files") -> Iterator[None]:
    """Turns what a damaged manifest or file leads to into one error.

    Args:
        where: who reads.
        what: is read.

    Raises:
        UsageError: it is damaged.
    """
    try:
        yield
    except ManyfitError:
        raise
    except _DAMAGED as error:
        got = f"{what} that cannot be read ({type(error).__name__}: {first_line(error)})"
        instead = "Copy it again from where it was saved, or save it again."
        raise UsageError(explain(where, got, "what was saved, undamaged", instead)) from error


@damage_told("Ensemble.load")
def load_folder(
    folder: pathlib.Path, *, trust: bool = False, custom_objects: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Reads what `save_folder` wrote: the arguments of an `Ensemble`.

    Raises:
        UsageError: there is no manifest, or one of another format.
        UsageError: a file is missing or is not the one that was saved.
        UsageError: a member is a pickle, or holds the code of a function, and `trust` is False.
        UsageError: a class of the user's is not known.
    """
    path = folder / _MANIFEST
    if not path.is_file() or path.is_symlink():
        raise UsageError(
            explain(
                "Ensemble.load",
                f"{folder}, which holds no {_MANIFEST}",
                "a folder written by ensemble.save",
                "A .keras file is a Keras model: load it with keras.saving.load_model.",
            )
        )
    manifest = read_json(path.read_text())
    if not has_right_checksum(manifest):
        got, instead = f"{_MANIFEST}, which has changed", "Copy the folder again from where it was saved."
        raise UsageError(explain("Ensemble.load", got, "the files as they were saved", instead))
    if manifest.get("format") not in (_FORMAT, _FORMAT_OF_SEVERAL):
        raise UsageError(
            explain(
                "Ensemble.load",
                f"format {manifest.get('format')}",
                f"format {_FORMAT} or {_FORMAT_OF_SEVERAL}",
                "Update Manyfit, or save again.",
            )
        )
    with archive(_checked(folder, manifest["pool"])) as found:
        arrays = dict(found)
    members = [
        EnsembleMember(
            entry["name"],
            model=[_load_model(folder, file, trust=trust, custom_objects=custom_objects) for file in entry["files"]],
        )
        for entry in manifest["members"]
    ]
    numbers = {name: float(manifest[name]) for name in _NUMBERS if name in manifest}
    if not 0.0 < numbers.get("inverse_temperature", 1.0) < math.inf:
        raise ValueError(f"the inverse temperature {numbers['inverse_temperature']}")
    pool = POOLS[manifest["kind"]].from_saved(arrays, numbers)
    if max(pool.support, default=0) >= len(members):
        raise ValueError(f"weights of {max(pool.support) + 1} members, of which {len(members)} are there")
    outputs = Outputs.from_json(manifest["outputs"]) if "outputs" in manifest else None
    num_outputs = whole_number("Ensemble.load(num_outputs)", manifest["num_outputs"], instead="Save it again.")
    if num_outputs > _MOST_OUTPUTS:
        raise ValueError(f"{num_outputs} columns of a prediction")
    classes, thresholds = manifest.get("classes"), manifest.get("thresholds")
    return {
        "members": members,
        "pool": pool,
        "task": PredictionTask(manifest["task"]),
        "num_outputs": num_outputs,
        "outputs": outputs,
        "classes": None if classes is None else list(classes),
        "thresholds": None if thresholds is None else [float(one) for one in thresholds],
    }


def _checked(folder: pathlib.Path, entry: SavedFile) -> bytes:
    path = folder / entry["file"]
    # Neither a manifest nor a link leads out of the folder.
    is_inside = path.parent == folder and "\\" not in path.name and path.name != ".." and not path.is_symlink()
    # Read once, hashed and then used: a file that is swapped in between cannot get in.
    content = path.read_bytes() if is_inside and path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        found = "changed" if content else "missing" if is_inside else "missing: its name leads out of the folder"
        raise UsageError(
            explain(
                "Ensemble.load",
                f"{entry['file']}, which is {found}",
                "the files as they were saved",
                "Copy the folder again from where it was saved.",
            )
        )
    return content


def _load_model(
    folder: pathlib.Path, entry: SavedFile, *, trust: bool, custom_objects: Mapping[str, Any] | None
) -> Model:
    name = str(entry["file"])
    if not name.endswith(".keras") and not trust:
        raise UsageError(
            explain(
                "Ensemble.load",
                f"{name}, a pickle, which may run any code when it is loaded",
                "trust=True for folders whose origin you know",
                "Call Ensemble.load(path, trust=True).",
            )
        )
    content = _checked(folder, entry)
    if name.endswith(".keras"):
        return load_keras_file(folder / name, custom_objects, where="Ensemble.load", trust=trust)
    return pickle.loads(content)  # trust was given, and the bytes are those that were hashed


def load_keras_file(
    path: pathlib.Path, custom_objects: Mapping[str, Any] | None, *, where: str, trust: bool = False
) -> keras.Model:
    """A Keras model from its file, compiled as it was, with a fresh optimizer.

    `load_model` alone refuses models whose optimizer had no slots yet, as those of a search have.

    Args:
        path: ends in `.keras`.
        custom_objects: classes and functions of the user's by name.
        where: who asks, for messages.
        trust: run the code of `Lambda` layers.

    Raises:
        UsageError: a class that nobody knows, or code without `trust`.
    """
    import keras

    with unknown_told(f"{where}, {path.name}", f"{where}(path, "):
        check_unpacked(path)
        model = keras.saving.load_model(path, custom_objects=custom_objects, compile=False, safe_mode=not trust)
        with zipfile.ZipFile(path) as packed:
            compiled = read_json(packed.read("config.json")).get("compile_config")
        if compiled:
            with keras.saving.custom_object_scope(custom_objects or {}):
                model.compile_from_config(compiled)
    return model


@contextlib.contextmanager
def unknown_told(where: str, call: str) -> Iterator[None]:
    """Turns what Keras raises for classes and code that it may not load into one error; `call` begins what to type."""
    try:
        yield
    except _OF_STRANGE_MODELS as error:
        if isinstance(error, ManyfitError):
            raise
        text = str(error)
        unknown = re.search(r"Could not locate (?:class|function) '([^']+)'", text)
        instead = f"Call {call}custom_objects={{...}}) with it."
        if "safe_mode" in text:
            instead = f"Call {call}trust=True) for folders whose origin you know."
        got = f"{unknown[1]!r}, which nobody knows here" if unknown else first_line(error)
        allowed = "classes of Keras, classes registered with it, and those in custom_objects="
        raise UsageError(explain(where, got, allowed, instead)) from error
