"""A winner on disk: one Keras file, a folder with a file per model, or the pickle of an estimator; and its card.

What is told of a model travels with it. In a `.keras` file, which is a zip archive, it is one more entry, which Keras
does not look at; beside the others it is a file of JSON. Nothing of a stranger's is run: Keras loads configurations,
and pickles need this user's seal or `trust=True`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from manyfit.core.errors import ManyfitError, UsageError, explain, first_line
from manyfit.core.files import unsealed, writing, written_whole
from manyfit.core.untrusted import archive, check_unpacked, read_json
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.saving import load_keras_file, save_file, unknown_told
from manyfit.fitting.card import WinnerCard
from manyfit.report.confirmation import Confirmation
from manyfit.store.layout import ProjectLayout
from manyfit.training.estimators import write_estimator
from manyfit.training.weights import storable

if TYPE_CHECKING:  # loaded with the model, by whoever made it
    import keras

_ENTRY = "manyfit.json"  # in a `.keras` file, and in the folder of an ensemble
ENSEMBLE = "ensemble-"  # how the folders begin of ensembles that have been the winner of a project
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
    """

    card: WinnerCard
    confirmation: Confirmation | None = None
    classes: Sequence[str] | None = None
    number: int = 0
    loss: float | None = None

    def to_json(self) -> str:
        """As a text."""
        facts = {
            "card": self.card.to_dict(),
            "confirmation": None if self.confirmation is None else self.confirmation.to_dict(),
            "classes": None if self.classes is None else list(self.classes),
            "number": self.number,
            "loss": self.loss,
        }
        return json.dumps(facts, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> WinnerFacts:
        """The inverse of `to_json`.

        Raises:
            UsageError: it is damaged, or of a later version.
        """
        try:
            data = read_json(text)
            found = data["confirmation"]
            confirmation = None if found is None else Confirmation.from_dict(found)
            return cls(
                WinnerCard.from_dict(data["card"]), confirmation, data["classes"], int(data["number"]), data["loss"]
            )
        except (ValueError, KeyError, TypeError) as error:
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
        with writing(f'winner "{path}"'):
            predictor.save(path)
            (path / _ENTRY).write_text(facts.to_json())
        return path
    path = path.with_suffix(".pickle")
    write_estimator(path, predictor)
    with written_whole(_beside(path), "winner") as partial:
        partial.write_text(facts.to_json())
    return path


def write_keras(path: Path, model: keras.Model, facts: WinnerFacts) -> None:
    """Writes a Keras model and its card as one file, which is complete or absent.

    Raises:
        UsageError: Keras cannot write it: a layer of the user's does not tell how it was made.
        ProjectError: the disk is full or cannot be written to.
    """
    with written_whole(path, "winner") as partial:
        save_file(model, partial, where="winner.save")
        with zipfile.ZipFile(partial, "a") as packed:
            packed.writestr(_ENTRY, facts.to_json())


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
    try:
        return _load(path, trust=trust, custom_objects=custom_objects)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, ManyfitError):
            raise
        got = f"{path}, which is damaged ({first_line(error)})"
        raise UsageError(explain("load_winner", got, "the file as it was saved", "Copy it again.")) from error


def _load(path: Path, *, trust: bool, custom_objects: Mapping[str, Any] | None) -> tuple[Any, WinnerFacts | None]:
    if path.is_dir() and not (path / _MANIFEST).is_file():
        path = _latest(path) or path
    facts = facts_of(path)
    if path.suffix == ".keras" and path.is_file():
        return load_keras_file(path, custom_objects, where="kt.load_winner", trust=trust), facts
    if path.suffix == ".npz" and path.is_file():
        return _load_weights(path, custom_objects, trust=trust), facts
    if (path / _MANIFEST).is_file():
        return Ensemble.load(path, trust=trust, custom_objects=custom_objects), facts
    if path.suffix == ".pickle" and path.is_file():
        instead = f'If you know who wrote it, type kt.load_winner("{path}", trust=True).'
        return pickle.loads(unsealed(path, "winner", trust=trust, instead=instead)), facts
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
    with contextlib.suppress(ManyfitError, OSError, ValueError, KeyError, zipfile.BadZipFile):
        return facts_of(path)
    return None  # a folder that a killed process has not finished


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
