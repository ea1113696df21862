"""What tells one trained model from another, and what is known of each: a card describes the model beside it."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from manyfit.data.classes import ProjectFacts
from manyfit.data.kinds import FitData
from manyfit.ensemble.ensemble import Ensemble

_FACT, _SAME = "artefacts", "artefacts_in_files"  # where the project keeps them


def weights_hash(model: object, x: FitData = None) -> str:
    """SHA-256 of what a model has learned: of the bytes of `model.get_weights()`, one array after another.

    Of an ensemble: of the members with weight and of the pool. An estimator is told by its pickle, or, where it has
    none, by what it predicts for `x`.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    >>> weights_hash(model) == hashlib.sha256(bytes(8)).hexdigest()
    True
    """
    digest = hashlib.sha256()
    for part in _parts(model, x):
        digest.update(part)
    return digest.hexdigest()


def _parts(model: Any, x: FitData) -> Iterator[bytes]:
    if hasattr(model, "get_weights"):
        for weight in model.get_weights():
            yield np.ascontiguousarray(weight).tobytes()
    elif isinstance(model, Ensemble):
        for index in model.pool.support:
            for one in model.members[index].models:
                yield from _parts(one, x)
        yield model.pool.kind.encode()
        for name, array in sorted(model.pool.arrays().items()):
            yield name.encode() + np.ascontiguousarray(array).tobytes()
        yield repr(sorted(model.pool.numbers().items())).encode()
    else:
        try:
            yield pickle.dumps(model)
        except Exception:  # whatever the objects in it raise
            yield np.ascontiguousarray(np.asarray(model.predict(x))).tobytes()


class Artefacts:
    """The models that a project has made, by their hash.

    Args:
        store: of the project.
    """

    def __init__(self, store: ProjectFacts) -> None:
        self._store = store

    def of(self, model: object, x: FitData = None) -> str:
        """The hash of a model; of an ensemble's exported file, that of the ensemble."""
        own = weights_hash(model, x)
        return self._store.get(_SAME, {}).get(own, own) if isinstance(model, keras.Model) else own

    def note(self, made: Iterable[tuple[object, Mapping[str, Any]]]) -> None:
        """Writes down how models were made: of each `trial`, its configuration, and `origin`, a sentence."""
        known = {weights_hash(model): dict(facts) for model, facts in made}
        self._store.put(**{_FACT: {**self._store.get(_FACT, {}), **known}})

    def note_file(self, in_file: str, artefact: str) -> None:
        """Writes down that a file's model, which has another hash, is an artefact."""
        if in_file != artefact:
            self._store.put(**{_SAME: {**self._store.get(_SAME, {}), in_file: artefact}})

    def facts(self, artefact: str) -> Mapping[str, Any] | None:
        """How a model was made; None: not by this project, or it was changed since."""
        return self._store.get(_FACT, {}).get(artefact)
