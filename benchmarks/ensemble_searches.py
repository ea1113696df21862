"""Real searches whose kept predictions the benchmark of ensembling replays. Each runs once; what is there stays.

The large sets predict validation rows, the small ones out of fold. Nothing but the predictions is kept for long.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import manyfit as kt
from manyfit.store.predictions import Archive

TRAINING_ROWS = 5_000
HELD_OUT_ROWS = 15_000


@dataclasses.dataclass(frozen=True, eq=False)
class Replay:
    """What the members of one search said of rows that they did not train on."""

    name: str
    predictions: np.ndarray  # (M, n, C)
    y: np.ndarray  # (n,)

    @property
    def is_regression(self) -> bool:
        return self.predictions.shape[-1] == 1


def mnist(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of MNIST's training set, pixels from 0 to 1."""
    if data_dir is None:
        import keras

        (x, y), _ = keras.datasets.mnist.load_data()
    else:
        with np.load(data_dir / "mnist.npz") as arrays:
            x, y = arrays["x_train"], arrays["y_train"]
    rows = slice(0, TRAINING_ROWS + HELD_OUT_ROWS)
    return (x[rows] / 255).astype("float32"), y[rows].astype("int32")


def california(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
    """California housing: prices in 100,000 dollars, rows shuffled once."""
    if data_dir is None:
        import keras

        (x, y), (x_more, y_more) = keras.datasets.california_housing.load_data(version="large")
        x, y = np.concatenate([x, x_more]), np.concatenate([y, y_more])
    else:
        with np.load(data_dir / "california_housing.npz") as arrays:
            x, y = arrays["x"], arrays["y"]
    order = np.random.default_rng(0).permutation(len(x))
    return x[order].astype("float32"), (y[order] / 1e5).astype("float32")


def build_mlp(hp: Any) -> Any:
    """An MLP for MNIST."""
    import keras

    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Flatten()])
    for _ in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Choice("units", [32, 64, 128]), activation="relu"))
        model.add(keras.layers.Dropout(hp.Float("dropout", 0.05, 0.5)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = hp.Float("learning_rate", 3e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_cnn(hp: Any) -> Any:
    """A small CNN for MNIST."""
    import keras

    model = keras.Sequential([keras.Input((28, 28)), keras.layers.Reshape((28, 28, 1))])
    for _ in range(2):
        model.add(keras.layers.Conv2D(hp.Choice("filters", [8, 16]), 3, strides=2, activation="relu"))
    model.add(keras.layers.Flatten())
    model.add(keras.layers.Dropout(hp.Float("dropout", 0.05, 0.5)))
    model.add(keras.layers.Dense(10, activation="softmax"))
    rate = hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _mnist_search(build: Callable[[Any], Any], trials: int, epochs: int) -> Callable[..., None]:
    def run(folder: Path, name: str, data_dir: Path | None) -> None:
        x, y = mnist(data_dir)
        train, held_out = slice(0, TRAINING_ROWS), slice(TRAINING_ROWS, None)
        tuner = kt.RandomSearch(build, "val_loss", trials, 0, num_kept_models=1, directory=folder, project_name=name)
        validation = (x[held_out], y[held_out])
        tuner.search(x[train], y[train], epochs=epochs, batch_size=64, validation_data=validation, verbose=0)
        tuner.close()

    return run


def _table_search(task: str, load: Callable[[Path | None], Any], trials: int) -> Callable[..., None]:
    def run(folder: Path, name: str, data_dir: Path | None) -> None:
        x, y = load(data_dir)
        spaces = kt.brands.tabular(task, y, brands=["mlp", "gradient boosting", "random forest", "linear", "k-nearest"])
        tuner = kt.RandomSearch(spaces, "val_loss", trials, 0, num_kept_models=1, directory=folder, project_name=name)
        for brand in spaces:
            tuner.enqueue({"brand": brand})
        if len(x) > 2 * TRAINING_ROWS:
            train, held_out = slice(0, TRAINING_ROWS), slice(TRAINING_ROWS, None)
            data = {"x": x[train], "y": y[train], "validation_data": (x[held_out], y[held_out])}
        else:
            data = {"x": x, "y": y, "cross_validation": 3}
        tuner.search(**data, epochs=30, verbose=0)
        tuner.close()

    return run


def _of_sklearn(name: str) -> Callable[[Path | None], Any]:
    def load(data_dir: Path | None) -> tuple[np.ndarray, np.ndarray]:
        del data_dir
        from sklearn import datasets

        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        return x.astype("float32"), y.astype("int32")

    return load


SEARCHES: dict[str, Callable[..., None]] = {
    "wine": _table_search("multiclass", _of_sklearn("wine"), 16),
    "breast cancer": _table_search("binary", _of_sklearn("breast_cancer"), 16),
    "digits": _table_search("multiclass", _of_sklearn("digits"), 16),
    "California housing": _table_search("regression", california, 20),
    "MNIST, MLPs": _mnist_search(build_mlp, 24, 8),
    "MNIST, CNNs": _mnist_search(build_cnn, 12, 5),
}


def replay(name: str, folder: Path, data_dir: Path | None) -> Replay:
    """The kept predictions of a search, which is run if that has not happened yet."""
    slug = "".join(letter if letter.isalnum() else "_" for letter in name.lower())
    done = folder / slug / "done"
    if not done.exists():
        started = time.perf_counter()
        SEARCHES[name](folder, slug, data_dir)
        done.write_text("yes\n")
        print(f"searched {name} in {time.perf_counter() - started:.0f} s", flush=True)
    archive = Archive(folder / slug / "predictions")
    labels = archive.labels()
    if labels is None:
        raise SystemExit(f"{archive.folder} holds no labels; delete the folder above it to search again")
    trials = sorted({path.stem.rpartition("-")[0] for path in archive.folder.glob("*-*.npz")})
    kept = [archive.get(trial, archive.executions(trial)) for trial in trials]
    whole = [one.predictions for one in kept if one is not None and len(one.rows) == len(labels.y)]
    usable = [one for one in whole if np.isfinite(one).all()]
    if {one.shape[1] for one in usable} == {1, 2}:  # one column of a sigmoid, two of `predict_proba`
        usable = [one[:, -1:] for one in usable]
    predictions = np.stack(usable)
    if predictions.shape[-1] == 1 and name != "California housing":
        predictions = np.concatenate([1 - predictions, predictions], axis=-1)  # rivals know probabilities per class
    return Replay(name, predictions, np.asarray(labels.y))
