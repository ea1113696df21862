"""Two ways to disk: one Keras model out of many, or a folder with a file per member.

The hard part of the one model is that members are whole models with names, states and input structures of their own:
each is copied under another name, all are called on one set of fresh inputs, and what they answer is brought to single
precision and to probabilities before the pool is built on top.

The one model uses Keras's own layers and operations only, so it loads where Manyfit is not installed; pools write
themselves with layers (`Pool.to_keras`).

A folder takes members of every brand: a manifest, one file per model, and a hash for each. The hashes guard against
damage and mix-ups, not against somebody who may write to the folder. Members that are no Keras models are pickles, and
loading a pickle can run any code; that needs an explicit `trust=True`.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pathlib
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

from manyfit.core.errors import ManyfitError, UsageError, explain, first_line
from manyfit.core.untrusted import archive, check_unpacked, read_json
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, is_keras
from manyfit.ensemble.outputs import Outputs
from manyfit.ensemble.pools import POOLS, Pool
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

Inputs: TypeAlias = Any
"""The symbolic inputs of a model, in its own structure: a tensor, or lists and dictionaries of such."""


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


def fused_model(
    members: Sequence[EnsembleMember], pool: Pool, task: PredictionTask, num_outputs: int, outputs: Outputs
) -> keras.Model:
    """Builds one Keras model that predicts what the pool of the members predicts.

    Args:
        members: all members, in the order of the pool's weights; those with weight zero are left out.
        pool: how they are combined.
        task: what they predict.
        num_outputs: columns of a prediction.
        outputs: how predictions are laid out.

    Raises:
        UsageError: a member that is used is no Keras model.
        UsageError: members take inputs of different structure.
    """
    used = [(index, members[index]) for index in pool.support]
    for _, member in used:
        if not member.all_keras:
            raise UsageError(
                explain(
                    'Ensemble.save("....keras")',
                    f"member {member.name!r}, which is no Keras model",
                    "Keras members only",
                    'Save to a folder instead: ensemble.save("winner").',
                )
            )
    import keras

    originals = [model for _, member in used for model in member.models]
    inputs = _inputs_like(originals)
    copies = [
        [_copy(model, f"member_{index}" + (f"_{part}" if part else ""), inputs) for part, model in enumerate(m.models)]
        for index, m in used
    ]
    answers = [[model(inputs) for model in group] for group in copies]
    if outputs.several:
        pooled = _pooled_apart(answers, [member for _, member in used], pool, outputs)
    else:
        answered = [
            [_Answer(answer, model.name, emits_logits(original))
             for answer, model, original in zip(several, group, member.models, strict=True)]
            for several, group, (_, member) in zip(answers, copies, used, strict=True)
        ]  # fmt: skip
        one_column = task.two_class and num_outputs == 1
        pooled = pool.to_keras([_output(group, one_column=one_column) for group in answered], task, num_outputs)
    return keras.Model(inputs, pooled, name="ensemble")


def _pooled_apart(answers: list[list[Any]], members: Sequence[EnsembleMember], pool: Pool, outputs: Outputs) -> Any:
    """The pool of each output, in the members' own structure. Each is a model within the model, since layers are named.

    Args:
        answers: of every model of every member with weight, in the structure of its outputs.
        members: those with weight.
        pool: among all members.
        outputs: how they are laid out.
    """
    import keras

    first = members[0].models[0]
    names = getattr(first, "output_names", None) or outputs.keys
    pooled = []
    for place, (key, name) in enumerate(zip(outputs.keys, names, strict=True)):
        own = [
            _output([
                _Answer(outputs.parts(answer)[place], f"{member_place}_{part}_{name}", emits_logits(model, key))
                for part, (answer, model) in enumerate(zip(group, member.models, strict=True))
            ])
            for member_place, (group, member) in enumerate(zip(answers, members, strict=True))
        ]  # fmt: skip
        fresh = [keras.Input(tensor.shape[1:], dtype="float32") for tensor in own]
        apart = keras.Model(fresh, pool.to_keras(fresh, PredictionTask.REGRESSION, own[0].shape[-1]), name=str(name))
        pooled.append(apart(own))
    return pooled if outputs.names is None else dict(zip(outputs.names, pooled, strict=True))


def _copy(model: keras.Model, name: str, inputs: Inputs) -> keras.Model:
    """A copy under another name: layers of one model need different names."""
    import keras

    from manyfit.training.copies import UncopyableModelError, copy_model  # imports Keras

    try:
        # Copies, since two members may share a layer (a frozen base), and Keras's files know each layer from one place.
        copy = copy_model(model)
        copy.name = name
    except UncopyableModelError:
        # The model itself, inside of another that has the name.
        copy = keras.Model(inputs, model(inputs), name=name)
    return copy


def _inputs_like(models: Sequence[keras.Model]) -> Inputs:
    """Fresh inputs of the kind that all models take.

    Raises:
        UsageError: they take inputs of different structure.
    """
    import keras

    taken = [_inputs_of(model) for model in models]
    shapes = [keras.tree.map_structure(lambda tensor: tuple(tensor.shape[1:]), one) for one in taken]
    if any(shape != shapes[0] for shape in shapes):
        odd = next(index for index, shape in enumerate(shapes) if shape != shapes[0])
        raise UsageError(
            explain(
                "Ensemble.save",
                f"members with inputs {shapes[0]} and {shapes[odd]}",
                "members with the same inputs",
                "Put the reshaping into the models, so that all take the same x.",
            )
        )
    # One member that takes batches of one size only decides for all.
    fixed = [one for one in taken if keras.tree.flatten(one)[0].shape[0] is not None]
    return keras.tree.map_structure(
        lambda tensor: keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name), (fixed or taken)[0]
    )


def _inputs_of(model: keras.Model) -> Inputs:
    """The symbolic inputs of a model, in its own structure. Subclassed models tell the shape of their build."""
    import keras

    if getattr(model, "inputs", None):
        return model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    built = model.get_build_config() or {}
    shape = built.get("input_shape") or next(iter((built.get("shapes_dict") or {"": None}).values()))
    try:
        return _tensors(shape, "input")
    except TypeError:
        raise UsageError(
            explain(
                "Ensemble.save",
                f"model {model.name!r}, whose inputs are not known",
                "Sequential and Functional models, and subclassed ones that take one argument",
                "Call it on a batch before.",
            )
        ) from None


def _tensors(shape: Any, name: str) -> Inputs:
    """Tensors of the shapes that a subclassed model was built with, the rows of any number."""
    import keras

    if isinstance(shape, Mapping):
        return {key: _tensors(part, str(key)) for key, part in shape.items()}
    if any(isinstance(size, list | tuple) for size in shape):
        return [_tensors(part, f"{name}_{place}") for place, part in enumerate(shape)]
    return keras.KerasTensor((None, *shape[1:]), dtype="float32", name=name)


class _Answer(NamedTuple):
    """What a model answers, symbolically."""

    tensor: keras.KerasTensor
    name: str
    logits: bool


def _output(answers: Sequence[_Answer], *, one_column: bool = False) -> keras.KerasTensor:
    """The mean of what the models of a member answer, in single precision and as probabilities."""
    import keras

    parts = []
    for part, name, logits in answers:
        # One step in float32 first: members trained in mixed precision may answer in half precision.
        part = keras.layers.Activation("linear", dtype="float32", name=f"{name}_float32")(part)
        if len(part.shape) == 1:
            part = keras.layers.Reshape((1,), dtype="float32")(part)
        if logits:
            activation = "sigmoid" if part.shape[-1] == 1 else "softmax"
            part = keras.layers.Activation(activation, dtype="float32", name=f"{name}_{activation}")(part)
        if one_column and part.shape[-1] == 2:
            part = part[..., 1:]
        parts.append(part)
    return parts[0] if len(parts) == 1 else keras.layers.Average(dtype="float32")(parts)


def save_file(model: keras.Model, path: pathlib.Path, *, where: str = "Ensemble.save") -> None:
    """Writes one Keras model.

    Args:
        model: to be written.
        path: ends in `.keras`.
        where: who asks, for messages.

    Raises:
        UsageError: Keras cannot write it: a layer of the user's does not tell how it was made.
    """
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
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, member in enumerate(members):
        files = []
        for part, model in enumerate(member.models):
            stem = f"member_{number:03d}_{part}"
            if is_keras(model):
                name = f"{stem}.keras"
                save_file(model, _without_link(folder / name))
            else:
                name = f"{stem}.pickle"
                _without_link(folder / name).write_bytes(pickle.dumps(model))
            files.append({"file": name, "sha256": _digest(folder / name), "logits": emits_logits(model)})
        entries.append({"name": member.name, "files": files})
    buffer = io.BytesIO()
    np.savez(buffer, **pool.arrays())  # type: ignore[arg-type]
    _without_link(folder / "pool.npz").write_bytes(buffer.getvalue())
    manifest = {
        # Versions that do not know several outputs must not read them.
        "format": _FORMAT_OF_SEVERAL if outputs.several else _FORMAT,
        "task": str(task),
        "num_outputs": num_outputs,
        "outputs": outputs.to_json(),
        **told,
        "kind": pool.kind,
        # Versions before 0.2 read both numbers of every pool, so they are written even where they mean nothing.
        **{"parameter": 1.0, "inverse_temperature": 1.0, **pool.numbers()},
        "members": entries,
        "pool": {"file": "pool.npz", "sha256": _digest(folder / "pool.npz")},
    }
    _without_link(folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


@contextlib.contextmanager
def _told_in_words() -> Iterator[None]:
    """Turns what a damaged manifest or file leads to into one error."""
    try:
        yield
    except ManyfitError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(
            explain(
                "Ensemble.load",
                f"a folder with files that are damaged ({type(error).__name__}: {first_line(error)})",
                "the files as they were saved",
                "Copy the folder again from where it was saved.",
            )
        ) from error


@_told_in_words()
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
    pool = POOLS[manifest["kind"]].from_saved(arrays, manifest)  # the numbers lie in the manifest itself
    outputs = Outputs.from_json(manifest["outputs"]) if "outputs" in manifest else None
    return {
        "members": members,
        "pool": pool,
        "task": PredictionTask(manifest["task"]),
        "num_outputs": int(manifest["num_outputs"]),
        "outputs": outputs,
        "classes": manifest.get("classes"),
        "thresholds": manifest.get("thresholds"),
    }


def _without_link(path: pathlib.Path) -> pathlib.Path:
    """The path, where no link is any more that would be written through."""
    if path.is_symlink():
        path.unlink()
    return path


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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
