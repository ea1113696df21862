"""Ensembles in a folder: a manifest, one file per model, and a hash for each.

The hashes guard against damage and mix-ups, not against somebody who may write to the folder. Members that are no
Keras models are pickles, and loading a pickle can run any code; that needs an explicit `trust=True`.
"""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.ensemble.fuse import load_saved
from manyfit.ensemble.members import Member, emits_logits, is_keras
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import Task

_FORMAT = 1
_MANIFEST = "manifest.json"


def save(folder: pathlib.Path, members: Sequence[Member], pool: Pool, task: Task, num_outputs: int) -> None:
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
                model.save(folder / name)
            else:
                name = f"{stem}.pickle"
                (folder / name).write_bytes(pickle.dumps(model))
            files.append({"file": name, "sha256": _digest(folder / name), "logits": emits_logits(model)})
        entries.append({"name": member.name, "files": files})
    (folder / "pool.npz").write_bytes(_pool_arrays(pool))
    manifest = {
        "format": _FORMAT,
        "task": str(task),
        "num_outputs": num_outputs,
        "kind": pool.kind,
        "parameter": pool.parameter,
        "inverse_temperature": pool.inverse_temperature,
        "members": entries,
        "pool": {"file": "pool.npz", "sha256": _digest(folder / "pool.npz")},
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def load(folder: pathlib.Path, *, trust: bool = False) -> tuple[list[Member], Pool, Task, int]:
    """Reads what `save` wrote.

    Raises:
        UsageError: there is no manifest, or one of another format.
        UsageError: a file is missing or is not the one that was saved.
        UsageError: a member is a pickle and `trust` is False.
    """
    path = folder / _MANIFEST
    if not path.is_file():
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
        Member(entry["name"], model=[_model(folder, file, trust) for file in entry["files"]])
        for entry in manifest["members"]
    ]
    pool = _pool(manifest, dict(arrays), len(members))
    return members, pool, Task(manifest["task"]), int(manifest["num_outputs"])


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _checked(folder: pathlib.Path, entry: dict[str, Any]) -> bytes:
    path = folder / pathlib.PurePath(entry["file"]).name  # a manifest cannot point outside its folder
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise UsageError(
            explain(
                "Ensemble.load",
                f"{entry['file']}, which is {'changed' if content else 'missing'}",
                "the files as they were saved",
                "Copy the folder again from where it was saved.",
            )
        )
    return content


def _model(folder: pathlib.Path, entry: dict[str, Any], trust: bool) -> Any:
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


def _pool_arrays(pool: Pool) -> bytes:
    used = pool.support
    arrays: dict[str, np.ndarray] = {"weights": pool.weights[used]}
    if pool.class_weights is not None and pool.bias is not None:
        arrays |= {"class_weights": pool.class_weights[used], "bias": pool.bias}
    if pool.member_inverse_temperatures is not None:
        arrays["member_inverse_temperatures"] = pool.member_inverse_temperatures[used]
    if pool.knots is not None and pool.heights is not None:
        for position, member in enumerate(used):
            for column, (knots, heights) in enumerate(zip(pool.knots[member], pool.heights[member], strict=True)):
                arrays[f"knots_{position}_{column}"] = knots
                arrays[f"heights_{position}_{column}"] = heights
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _pool(manifest: dict[str, Any], arrays: dict[str, np.ndarray], num_members: int) -> Pool:
    columns = range(int(manifest["num_outputs"]))

    def steps(name: str) -> tuple[tuple[np.ndarray, ...], ...] | None:
        if f"{name}_0_0" not in arrays:
            return None
        return tuple(tuple(arrays[f"{name}_{member}_{column}"] for column in columns) for member in range(num_members))

    return Pool(
        manifest["kind"],
        arrays["weights"],
        parameter=manifest["parameter"],
        inverse_temperature=manifest["inverse_temperature"],
        member_inverse_temperatures=arrays.get("member_inverse_temperatures"),
        class_weights=arrays.get("class_weights"),
        bias=arrays.get("bias"),
        knots=steps("knots"),
        heights=steps("heights"),
    )
