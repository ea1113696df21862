"""Two ways to disk: one Keras model out of many, or a folder with a file per member.

The hard part of the one model is that members are whole models with names, states and input structures of their own:
each is copied through a file under another name, all are called on one set of fresh inputs, and what they answer is
brought to single precision and to probabilities before the pool is built on top.

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
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import ManyfitError, UsageError, explain
from manyfit.core.history import numbers_of
from manyfit.ensemble.members import EnsembleMember, Model, emits_logits, is_keras
from manyfit.ensemble.pools import POOLS, Pool
from manyfit.ensemble.problem import PredictionTask

if TYPE_CHECKING:  # Keras takes seconds to load, and fitting on kept predictions does not need it
    import keras

Inputs: TypeAlias = "dict[str, keras.KerasTensor] | list[keras.KerasTensor] | keras.KerasTensor"
"""The symbolic inputs of a model, in the structure in which it takes them."""
InputShapes: TypeAlias = dict[str, tuple[int | None, ...]] | list[tuple[int | None, ...]]
"""The shape of each input without its rows."""


class SavedFile(TypedDict):
    """What the manifest says of one file."""

    file: str
    sha256: str


_FORMAT = 1
_MANIFEST = "manifest.json"


def fused_model(members: Sequence[EnsembleMember], pool: Pool, task: PredictionTask, num_outputs: int) -> keras.Model:
    """Builds one Keras model that predicts what the pool of the members predicts.

    Args:
        members: all members, in the order of the pool's weights; those with weight zero are left out.
        pool: how they are combined.
        task: what they predict.
        num_outputs: columns of a prediction.

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

    with tempfile.TemporaryDirectory() as folder:
        copies = [
            [
                _copy(model, f"member_{index}" + (f"_{part}" if part else ""), folder)
                for part, model in enumerate(m.models)
            ]
            for index, m in used
        ]
    inputs = _inputs_like(copies[0][0], [model for group in copies for model in group])
    outputs = [
        _output(group, member, inputs, task, num_outputs) for group, (_, member) in zip(copies, used, strict=True)
    ]
    pooled = pool.to_keras(outputs, task, num_outputs)
    return keras.Model(inputs, pooled, name="ensemble")


def _copy(model: keras.Model, name: str, folder: str) -> keras.Model:
    """A copy under another name, by way of a file: the only way that brings along state beyond `weights`, such as
    the statistics of an adapted `Normalization` and the vocabulary of a `StringLookup`."""
    import keras

    path = pathlib.Path(folder) / "member.keras"
    model.save(path)
    custom = {type(model).__name__: type(model)} if not type(model).__module__.startswith("keras.") else None
    copy = keras.saving.load_model(path, custom_objects=custom, compile=False)
    # Without compiling: losses and metrics of the members are none of the whole model's business.
    copy.name = name  # layers of one model need different names
    return copy


def load_saved(path: pathlib.Path, custom_objects: Mapping[str, type] | None = None) -> keras.Model:
    """A Keras model from its file, compiled as it was, with a fresh optimizer.

    `load_model` alone refuses models whose optimizer had no slots yet, as those of a search have.
    """
    import keras

    model = keras.saving.load_model(path, custom_objects=custom_objects, compile=False)
    with zipfile.ZipFile(path) as archive:
        compiled = json.loads(archive.read("config.json")).get("compile_config")
    if compiled:
        with keras.saving.custom_object_scope(custom_objects or {}):
            model.compile_from_config(compiled)
    return model


def _inputs_like(model: keras.Model, models: list[keras.Model]) -> Inputs:
    """Fresh inputs of the kind that all models take.

    Raises:
        UsageError: they take inputs of different structure.
    """
    import keras

    shapes = [_structure(other) for other in models]
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
    tensors = _tensors(model)
    if isinstance(tensors, dict):
        return {name: keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=name) for name, tensor in tensors.items()}
    fresh = [keras.Input(tensor.shape[1:], dtype=tensor.dtype, name=f"input_{k}") for k, tensor in enumerate(tensors)]
    return fresh if len(fresh) > 1 else fresh[0]


def _tensors(model: keras.Model) -> dict[str, keras.KerasTensor] | list[keras.KerasTensor]:
    """The symbolic inputs of a model: a dictionary, or a list. Subclassed models tell the shape of their build."""
    import keras

    if getattr(model, "inputs", None):
        by_name = not isinstance(model, keras.Sequential) and isinstance(model.input, dict)
        return dict(model.input) if by_name else list(model.inputs)
    built = model.get_build_config() or {}
    shape = built.get("input_shape") or next(iter((built.get("shapes_dict") or {"": None}).values()))
    if not isinstance(shape, list | tuple) or not shape or not all(n is None or isinstance(n, int) for n in shape):
        raise UsageError(
            explain(
                "Ensemble.save",
                f"model {model.name!r}, whose inputs are not known",
                "Sequential and Functional models, and subclassed ones that take one array",
                'Save to a folder instead: ensemble.save("winner").',
            )
        )
    return [keras.KerasTensor(tuple(shape), dtype="float32")]


def _structure(model: keras.Model) -> InputShapes:
    tensors = _tensors(model)
    if isinstance(tensors, dict):
        return {name: tuple(tensor.shape[1:]) for name, tensor in tensors.items()}
    return [tuple(tensor.shape[1:]) for tensor in tensors]


def _output(
    models: list[keras.Model], member: EnsembleMember, inputs: Inputs, task: PredictionTask, num_outputs: int
) -> keras.KerasTensor:
    import keras

    parts = []
    for model, original in zip(models, member.models, strict=True):
        # One step in float32 first: members trained in mixed precision may answer in half precision.
        part = keras.layers.Activation("linear", dtype="float32", name=f"{model.name}_float32")(model(inputs))
        if part.shape[-1] != 1 and len(part.shape) == 1:
            part = keras.layers.Reshape((1,), dtype="float32")(part)
        if emits_logits(original):
            activation = "sigmoid" if part.shape[-1] == 1 else "softmax"
            part = keras.layers.Activation(activation, dtype="float32", name=f"{model.name}_{activation}")(part)
        if task.two_class and num_outputs == 1 and part.shape[-1] == 2:
            part = part[:, 1:]
        parts.append(part)
    return parts[0] if len(parts) == 1 else keras.layers.Average(dtype="float32")(parts)


def compiled_like(model: keras.Model, source: Model) -> keras.Model:
    """Compiles `model` with the loss and the metrics of the Keras model `source`, on probabilities; returns `model`.

    Without a compiled source the model stays uncompiled. A loss or metric that cannot be copied is left out.
    """
    import keras

    if not is_keras(source) or getattr(source, "loss", None) is None:
        return model
    # Losses that are closures or classes of the user's have no configuration; the object itself does then.
    try:
        config = keras.saving.deserialize_keras_object(source.get_compile_config() or {})
    except (TypeError, ValueError, AttributeError):
        config = {}
    loss = _on_probabilities(config.get("loss") or source.loss)
    metrics = [_on_probabilities(metric) for metric in _flat(config.get("metrics"))]
    # An optimizer without slots: any other warns at loading that its slots were never filled.
    model.compile(optimizer="sgd", loss=loss, metrics=metrics or None)
    return model


def _flat(metrics: object) -> list[object]:
    if metrics is None:
        return []
    if isinstance(metrics, dict):
        metrics = list(metrics.values())
    if not isinstance(metrics, list | tuple):
        return [metrics]
    return [inner for metric in metrics for inner in (metric if isinstance(metric, list | tuple) else [metric])]


def _on_probabilities(thing: object) -> object:
    """A loss or metric that takes probabilities, where `thing` takes logits."""
    config = thing.get_config() if hasattr(thing, "get_config") else {}
    if not getattr(thing, "from_logits", False) and not config.get("from_logits"):
        return thing
    return type(thing).from_config({**config, "from_logits": False})  # type: ignore[attr-defined]  # a loss or metric


def compiled_metrics(
    source: Model | None, prediction: np.ndarray, y: ArrayLike, sample_weight: ArrayLike | None
) -> dict[str, float]:
    """The loss and metrics that the Keras model `source` was compiled with, of `prediction` (n, C).

    Empty if `source` is None or not compiled.
    """
    if source is None or getattr(source, "loss", None) is None:
        return {}
    import keras

    inputs = keras.Input((prediction.shape[1],), dtype="float32")
    # An identity, compiled like the member: Keras itself computes the numbers from the pool's predictions, so they are
    # what `model.evaluate` of the saved model prints.
    judge = compiled_like(keras.Model(inputs, keras.layers.Identity(dtype="float32")(inputs)), source)
    answer = judge.evaluate(
        prediction, np.asarray(y), sample_weight=sample_weight, batch_size=4096, verbose=0, return_dict=True
    )
    return numbers_of(answer)


def save_folder(
    folder: pathlib.Path, members: Sequence[EnsembleMember], pool: Pool, task: PredictionTask, num_outputs: int
) -> None:
    """Writes the members that have weight, and how they are combined.

    Args:
        folder: is created; files of an earlier ensemble in it are overwritten.
        members: those of `pool.support`, in that order.
        pool: among all members.
        task: what they predict.
        num_outputs: columns of a prediction.

    Raises:
        UsageError: a member has no model, or the path is a file.
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
                model.save(_without_link(folder / name))
            else:
                name = f"{stem}.pickle"
                _without_link(folder / name).write_bytes(pickle.dumps(model))
            files.append({"file": name, "sha256": _digest(folder / name), "logits": emits_logits(model)})
        entries.append({"name": member.name, "files": files})
    buffer = io.BytesIO()
    np.savez(buffer, **pool.arrays())  # type: ignore[arg-type]
    _without_link(folder / "pool.npz").write_bytes(buffer.getvalue())
    manifest = {
        "format": _FORMAT,
        "task": str(task),
        "num_outputs": num_outputs,
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
                f"a folder with files that are damaged ({type(error).__name__}: {str(error).partition(chr(10))[0]})",
                "the files as they were saved",
                "Copy the folder again from where it was saved.",
            )
        ) from error


@_told_in_words()
def load_folder(folder: pathlib.Path, *, trust: bool = False) -> tuple[list[EnsembleMember], Pool, PredictionTask, int]:
    """Reads what `save_folder` wrote.

    Raises:
        UsageError: there is no manifest, or one of another format.
        UsageError: a file is missing or is not the one that was saved.
        UsageError: a member is a pickle and `trust` is False.
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
    manifest = json.loads(path.read_text())
    if manifest.get("format") != _FORMAT:
        raise UsageError(
            explain(
                "Ensemble.load",
                f"format {manifest.get('format')}",
                f"format {_FORMAT}",
                "Update Manyfit, or save again.",
            )
        )
    arrays = np.load(io.BytesIO(_checked(folder, manifest["pool"])), allow_pickle=False)
    members = [
        EnsembleMember(entry["name"], model=[_load_model(folder, file, trust=trust) for file in entry["files"]])
        for entry in manifest["members"]
    ]
    pool = POOLS[manifest["kind"]].from_saved(dict(arrays), manifest)  # the numbers lie in the manifest itself
    return members, pool, PredictionTask(manifest["task"]), int(manifest["num_outputs"])


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


def _load_model(folder: pathlib.Path, entry: SavedFile, *, trust: bool) -> Model:
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
        return load_saved(folder / name)
    return pickle.loads(content)  # trust was given, and the bytes are those that were hashed
