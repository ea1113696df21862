"""A winner on disk: one Keras file, a folder with a file per model, or the pickle of an estimator; and its card.

What is told of a model travels with it. In a `.keras` file, which is a zip archive, it is one more entry, which Keras
does not look at; beside the others it is a file of JSON. Nothing of a stranger's is run: Keras loads configurations,
and pickles need this user's seal or `trust=True`.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import unsealed, writing, written_whole
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.saving import load_keras_file, save_file
from manyfit.fitting.card import WinnerCard
from manyfit.report.confirmation import Confirmation
from manyfit.training.estimators import write_estimator

if TYPE_CHECKING:  # loaded with the model, by whoever made it
    import keras

_ENTRY = "manyfit.json"  # in a `.keras` file, and in the folder of an ensemble
_MANIFEST = "manifest.json"  # what `Ensemble.save` writes in its folder


@dataclasses.dataclass(frozen=True)
class WinnerFacts:
    """What is kept of a winner beside its models.

    Attributes:
        card: what is printed.
        confirmation: of the finalists; None: there was none.
        classes: names of the classes, in the order of the columns of a prediction; None: they are numbers.
    """

    card: WinnerCard
    confirmation: Confirmation | None = None
    classes: Sequence[str] | None = None

    def to_json(self) -> str:
        """As a text."""
        confirmation = None if self.confirmation is None else self.confirmation.to_dict()
        classes = None if self.classes is None else list(self.classes)
        return json.dumps({"card": self.card.to_dict(), "confirmation": confirmation, "classes": classes}, indent=2)

    @classmethod
    def from_json(cls, text: str | bytes) -> WinnerFacts:
        """The inverse of `to_json`.

        Raises:
            UsageError: it is damaged, or of a later version.
        """
        try:
            data = json.loads(text)
            found = data["confirmation"]
            confirmation = None if found is None else Confirmation.from_dict(found)
            return cls(WinnerCard.from_dict(data["card"]), confirmation, data["classes"])
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, UsageError):
                raise
            got = f"a file whose {_ENTRY} is damaged ({type(error).__name__})"
            instead = "Copy it again from where it was saved."
            raise UsageError(explain("load_winner", got, "the file as it was saved", instead)) from error


def save(path: Path, model: keras.Model | None, predictor: Any, kept: WinnerFacts) -> Path:
    """Writes a winner: see `Winner.save`.

    Args:
        path: where to.
        model: it as one Keras model; None where it cannot be one.
        predictor: the model, estimator or ensemble itself.
        kept: what is told of it.
    """
    if model is not None:
        if path.suffix not in ("", ".keras"):
            instead = f'Type winner.save("{path.with_suffix(".keras")}").'
            allowed = "a path that ends in .keras, or has no ending"
            raise UsageError(explain("winner.save(path)", f"{path}, for a Keras model", allowed, instead))
        path = path.with_suffix(".keras")
        write_keras(path, model, kept)
        return path
    if isinstance(predictor, Ensemble):
        if path.suffix == ".keras":
            got = f"{path}, for an ensemble that cannot be one Keras model"
            instead = f'Type winner.save("{path.with_suffix("")}").'
            raise UsageError(explain("winner.save(path)", got, "a folder", instead))
        with writing(f'winner "{path}"'):
            predictor.save(path)
            (path / _ENTRY).write_text(kept.to_json())
        return path
    path = path.with_suffix(".pickle")
    write_estimator(path, predictor)
    with written_whole(_beside(path), "winner") as partial:
        partial.write_text(kept.to_json())
    return path


def write_keras(path: Path, model: keras.Model, kept: WinnerFacts) -> None:
    """Writes a Keras model and its card as one file, which is complete or absent.

    Raises:
        UsageError: Keras cannot write it: a layer of the user's does not tell how it was made.
        ProjectError: the disk is full or cannot be written to.
    """
    with written_whole(path, "winner") as partial:
        save_file(model, partial, where="winner.save")
        with zipfile.ZipFile(partial, "a") as archive:
            archive.writestr(_ENTRY, kept.to_json())


def load(path: Path, *, trust: bool, custom_objects: Mapping[str, Any] | None) -> tuple[Any, WinnerFacts | None]:
    """Reads what predicts, and what is told of it: see `load_winner`."""
    if path.suffix == ".keras" and path.is_file():
        model = load_keras_file(path, custom_objects, where="kt.load_winner", trust=trust)
        with zipfile.ZipFile(path) as archive:
            kept = archive.read(_ENTRY) if _ENTRY in archive.namelist() else None
        return model, None if kept is None else WinnerFacts.from_json(kept)
    if (path / _MANIFEST).is_file():
        return Ensemble.load(path, trust=trust, custom_objects=custom_objects), _told_in(path / _ENTRY)
    if path.suffix == ".pickle" and path.is_file():
        instead = f'If you know who wrote it, type kt.load_winner("{path}", trust=True).'
        return pickle.loads(unsealed(path, "winner", trust=trust, instead=instead)), _told_in(_beside(path))
    got = f"{path}, which " + ("is no winner" if path.exists() else "is not there")
    allowed = "what winner.save(path) returned, or the folder of a project that fit has worked in"
    raise UsageError(explain("load_winner(path)", got, allowed, 'Type kt.load_winner("winner.keras"), say.'))


def _told_in(path: Path) -> WinnerFacts | None:
    return WinnerFacts.from_json(path.read_text()) if path.is_file() else None


def _beside(path: Path) -> Path:
    """Where the card of an estimator lies."""
    return path.with_suffix(".json")
