"""`manyfit demo`: from rows to a winner on rows that are made up, so that nothing is downloaded or installed for it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip  # before Keras: it chooses the JAX backend where nobody has chosen one

import keras
import numpy as np

_NUM_CLASSES = 3


def rows(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three arms of a spiral, with noise; two of the eight columns say where on it a row is.

    Args:
        num_rows: how many.
        seed: of the draws.

    Returns:
        x of shape (rows, 8), and y, the number of the arm.
    """
    draws = np.random.default_rng(seed)
    labels = draws.integers(0, _NUM_CLASSES, num_rows)
    # The root: rows lie as densely at the end of an arm as at its beginning.
    radius = np.sqrt(draws.uniform(0.05, 1.0, num_rows))
    angle = 4.0 * radius + 2 * np.pi * labels / _NUM_CLASSES + draws.normal(0.0, 0.35, num_rows)
    x = draws.normal(0.0, 0.5, (num_rows, 8))
    x[:, 0], x[:, 1] = radius * np.cos(angle), radius * np.sin(angle)
    return x.astype("float32"), labels.astype("int32")


def build_model(hp: Any) -> keras.Model:
    """A net of two layers; its width, dropout and learning rate are searched."""
    layers = [
        keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"),
        keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dense(_NUM_CLASSES, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def run(folder: Path | None, seconds: float) -> None:
    """Searches for so long, and prints the winner and what to type to look at the project.

    Args:
        folder: of the project; None: one for temporary files.
        seconds: for all of it.
    """
    folder = Path(tempfile.mkdtemp(prefix="manyfit-demo-")) / "search" if folder is None else folder
    print(f"Demo: which of three arms of a spiral is a row on? 1,500 rows of 8 columns, {seconds:g} s, in {folder}")
    x, y = rows(1500, seed=0)
    tuner = kt.Search(build_model, "val_accuracy", seed=0, directory=str(folder.parent), project_name=folder.name)
    winner = tuner.fit(x, y, max_seconds=seconds)
    print(f"\n{winner}\n\n{winner.evaluate(*rows(1000, seed=1))}\n")
    print(f"manyfit show {folder}\nmanyfit export {folder} --to csv\nmanyfit show {folder} --json")
