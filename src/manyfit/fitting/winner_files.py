"""A winner on disk: one Keras file, a folder with a file per model, or the pickle of an estimator; and its card.

What is told of a model travels with it. In a `.keras` file, which is a zip archive, it is one more entry, which Keras
does not look at; beside the others it is a file of JSON. Nothing of a stranger's is run: Keras loads configurations,
and pickles need this user's seal or `trust=True`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyfit.core.errors import ManyfitError, UsageError, explain, warn_user
from manyfit.core.files import (
    digest_of,
    has_right_checksum,
    sealed,
    unsealed,
    with_checksum,
    without_seal,
    written_whole,
)
from manyfit.core.untrusted import archive, check_unpacked, read_json
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.saving import damage_told, load_keras_file, unknown_told, write_model
from manyfit.fitting.card import WinnerCard
from manyfit.report.confirmation import Confirmation
from manyfit.store.layout import ProjectLayout
from manyfit.training.weights import storable

if TYPE_CHECKING:  # loaded with the model, by whoever made it
    import keras

_ENTRY = "manyfit.json"  # in a `.keras` file, and in the folder of an ensemble
ENSEMBLE = "ensemble-"  # how the folders begin of ensembles that have been the winner of a project
_AGAIN = "call winner.save again."
_MANIFEST = "manifest.json"  # what `Ensemble.save` writes in its folder


@dataclasses.dataclass(frozen=True)
class WinnerFacts:
    """What is kept of a winner beside its models.

    Attributes:
        card: what is printed.
        confirmation: of the finalists; None: there was none.
        classes: names of the classes, in the order of the columns of a prediction; None: they are numbers.
        number: of the files of a project the one with the highest is the latest.
        loss: of the objective, by the search alone; None: something better is known of it.
        sha256: of what is told of; None: its file has a checksum of its own, or an earlier version wrote it.
    """

    card: WinnerCard
    confirmation: Confirmation | None = None
    classes: Sequence[str] | None = None
    number: int = 0
    loss: float | None = None
    sha256: str | None = None

    def to_json(self) -> str:
        """As a text."""
        facts: dict[str, Any] = {
            "card": self.card.to_dict(),
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "classes": None if self.classes is None else list(self.classes),
            "number": self.number,
            "loss": self.loss,
            "sha256": self.sha256,
        }
        return json.dumps(with_checksum(json.loads(json.dumps(facts))), indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> WinnerFacts:
        """The inverse of `to_json`.

        Raises:
            UsageError: it is damaged, or of a later version.
        """
        try:
            data = read_json(text)
            if not has_right_checksum(data):
                raise ValueError("it has changed since it was written")
            found = data["confirmation"]
            confirmation = None if found is None else Confirmation.from_dict(found)
            card, number = WinnerCard.from_dict(data["card"]), int(data["number"])
            classes = None if data["classes"] is None else list(data["classes"])
            return cls(card, confirmation, classes, number, data["loss"], data.get("sha256"))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, UsageError):
                raise
            got = f"a file whose {_ENTRY} is damaged ({type(error).__name__})"
            instead = "Copy it again from where it was saved."
            raise UsageError(explain("load_winner", got, "the file as it was saved", instead)) from error


def save(path: Path, model: keras.Model | None, predictor: Any, facts: WinnerFacts) -> Path:
    """Writes a winner: see `Winner.save`.

    Args:
        path: where to.
        model: it as one Keras model; None where it cannot be one.
        predictor: the model, estimator or ensemble itself.
        facts: what is told of it.
    """
    if model is not None:
        if path.suffix not in ("", ".keras"):
            instead = f'Type winner.save("{path.with_suffix(".keras")}").'
            allowed = "a path that ends in .keras, or has no ending"
            raise UsageError(explain("winner.save(path)", f"{path}, for a Keras model", allowed, instead))
        path = path.with_suffix(".keras")
        write_keras(path, model, facts)
        return path
    if isinstance(predictor, Ensemble):
        if path.suffix == ".keras":
            got = f"{path}, for an ensemble that cannot be one Keras model"
            instead = f'Type winner.save("{path.with_suffix("")}").'
            raise UsageError(explain("winner.save(path)", got, "a folder", instead))
        predictor.save(path)
        _write_card(path / _ENTRY, dataclasses.replace(facts, sha256=digest_of(path / _MANIFEST)))
        return path
    path = path.with_suffix(".pickle")
    with written_whole(path, "winner", again=_AGAIN, lasts=True) as partial:
        partial.write_bytes(sealed(pickle.dumps(predictor)))
    _write_card(_beside(path), dataclasses.replace(facts, sha256=_digest_of_told(path)))
    return path


def _write_card(path: Path, facts: WinnerFacts) -> None:
    with written_whole(path, "winner", again=_AGAIN, lasts=True) as partial:
        partial.write_text(facts.to_json())


def write_keras(path: Path, model: keras.Model, facts: WinnerFacts) -> None:
    """Writes a Keras model and its card as one file, which is complete or absent.

    Raises:
        UsageError: Keras cannot write it: a layer of the user's does not tell how it was made.
        ProjectError: the disk is full or cannot be written to.
    """
    with written_whole(path, "winner", again=_AGAIN, lasts=True) as partial:
        write_model(model, partial, where="winner.save")
        with zipfile.ZipFile(partial, "a") as packed:
            packed.writestr(_ENTRY, dataclasses.replace(facts, sha256=_digest_of_entries(packed)).to_json())


def _digest_of_entries(packed: zipfile.ZipFile) -> str:
    """The checksum of all entries of a `.keras` file but the card; reading them checks what the archive knows, too."""
    digest = hashlib.sha256()
    for entry in sorted(packed.infolist(), key=lambda one: one.filename):
        if entry.filename != _ENTRY:
            digest.update(f"{entry.filename}\n{entry.file_size}\n".encode())
            with packed.open(entry) as file:
                while part := file.read(1 << 20):
                    digest.update(part)
    return digest.hexdigest()


def write_weights(path: Path, model: keras.Model, weights: Sequence[Any], facts: WinnerFacts) -> None:
    """Writes what a model is and some weights for it, in a fraction of the time that a whole Keras file takes.

    Args:
        path: ends in `.npz`.
        model: its configuration is written.
        weights: in the order of `model.get_weights()`.
        facts: what is told of it.

    Raises:
        ProjectError: the disk is full or cannot be written to.
    """
    import keras  # loaded by whoever made the model

    config = json.dumps(keras.saving.serialize_keras_object(model))
    arrays = {f"{index:05d}": storable(array) for index, array in enumerate(weights)}
    with written_whole(path, "winner") as partial:
        np.savez(partial, **arrays, model=np.array(config), told=np.array(facts.to_json()))  # type: ignore[arg-type]  # its `allow_pickle` is no array


# Reading ---------------------------------------------------------------------------------------------------------


def load(
    path: Path, *, trust: bool = False, custom_objects: Mapping[str, Any] | None = None
) -> tuple[Any, WinnerFacts | None]:
    """Reads what predicts, and what is told of it: see `load_winner`."""
    with damage_told("kt.load_winner", f"{path}, a winner"):
        return _load(path, custom_objects, trust=trust)


def _load(path: Path, custom_objects: Mapping[str, Any] | None, *, trust: bool) -> tuple[Any, WinnerFacts | None]:
    if path.is_dir() and not (path / _MANIFEST).is_file():
        path = _latest(path) or path
    facts = facts_of(path)
    if path.suffix == ".pickle" and path.is_file():  # before anything else is made of it
        instead = f'If you know who wrote it, type kt.load_winner("{path}", trust=True).'
        content = unsealed(path, "winner", trust=trust, instead=instead)
    if facts is not None and facts.sha256 not in (None, _digest_of_told(path)):
        got, instead = f"{path}, which is not what its card was written for", "Copy it again from where it was saved."
        raise UsageError(explain("kt.load_winner", got, "a winner as it was saved, undamaged", instead))
    if path.suffix == ".keras" and path.is_file():
        return load_keras_file(path, custom_objects, where="kt.load_winner", trust=trust), facts
    if path.suffix == ".npz" and path.is_file():
        return _load_weights(path, custom_objects, trust=trust), facts
    if (path / _MANIFEST).is_file():
        return Ensemble.load(path, trust=trust, custom_objects=custom_objects), facts
    if path.suffix == ".pickle" and path.is_file():
        return pickle.loads(content), facts
    got = f"{path}, which " + ("is no winner" if path.exists() else "is not there")
    allowed = "what winner.save(path) returned, or the folder of a project that fit has worked in"
    raise UsageError(explain("load_winner(path)", got, allowed, 'Type kt.load_winner("winner.keras"), say.'))


def _load_weights(path: Path, custom_objects: Mapping[str, Any] | None, *, trust: bool) -> keras.Model:
    import keras  # heavy, and not needed for the winners of other brands

    with archive(path) as found:
        arrays = [found[name] for name in sorted(found) if name.isdigit()]
        config = read_json(str(found["model"]))
    with unknown_told(f"kt.load_winner, {path.name}", "kt.load_winner(path, "):
        model = keras.saving.deserialize_keras_object(config, custom_objects=custom_objects, safe_mode=not trust)
        model.set_weights(arrays)
    return model


def _digest_of_told(path: Path) -> str | None:
    if path.suffix == ".keras":
        check_unpacked(path)
        with zipfile.ZipFile(path) as packed:
            return _digest_of_entries(packed)
    if path.suffix == ".pickle":  # the seal is another one for each who writes it
        return hashlib.sha256(without_seal(path.read_bytes())).hexdigest()
    return digest_of(path / _MANIFEST if path.is_dir() else path)


def facts_of(path: Path) -> WinnerFacts | None:
    """What is told of a winner in its file or folder; None: nothing, or there is none."""
    if path.suffix == ".keras" and path.is_file():
        check_unpacked(path)
        with zipfile.ZipFile(path) as packed:
            return WinnerFacts.from_json(packed.read(_ENTRY)) if _ENTRY in packed.namelist() else None
    if path.suffix == ".npz" and path.is_file():
        with archive(path) as found:
            return WinnerFacts.from_json(str(found["told"]))
    beside = path / _ENTRY if path.is_dir() else _beside(path)
    return WinnerFacts.from_json(beside.read_text()) if beside.is_file() else None


def latest(folder: Path) -> tuple[Path, WinnerFacts] | None:
    """The latest winner in the folder where a project keeps them, and what is told of it; None: there is none."""
    found = []
    for path in (*folder.glob("winner.*"), *folder.glob(f"{ENSEMBLE}*")):
        if path.suffix != ".json" and (facts := _readable(path)) is not None:
            found.append((facts.number, path, facts))
    return max(found, key=lambda one: one[0])[1:] if found else None


def _readable(path: Path) -> WinnerFacts | None:
    # A folder without it is one that a killed process has not finished.
    if path.is_dir() and not (path / _ENTRY).exists():
        return None
    try:
        with damage_told("kt.load_winner", f"{path}, a winner"):
            return facts_of(path)
    except ManyfitError as error:
        warn_user(f"{error} An earlier winner stands in for it, where there is one.")
        return None


def _latest(folder: Path) -> Path | None:
    """The latest winner of a project, by its folder, or by the one that it lies in alone."""
    if found := latest(ProjectLayout(folder).winner):
        return found[0]
    inside = [found[0] for each in folder.iterdir() if each.is_dir() and (found := latest(ProjectLayout(each).winner))]
    if len(inside) > 1:
        names = ", ".join(sorted(path.parents[1].name for path in inside))
        instead = f'Type kt.load_winner("{inside[0].parents[1]}"), say.'
        raise UsageError(explain("load_winner(path)", f"{folder}, with {names}", "the folder of one project", instead))
    return inside[0] if inside else None


def _beside(path: Path) -> Path:
    """Where the card of an estimator lies."""
    return path.with_suffix(".json")
