"""Search spaces as people write them, and data for them: what `structures.py` and `gpu.py` search through.

Nothing of Manyfit is imported here: the build functions run under KerasTuner as well, on each backend of Keras. The
rows G1 to G5 are those of `structures.py`; `OF_PROGRAMS` are ten spaces of public tutorials and repositories, whose
data is tiny, since programs are counted there and nothing is timed.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

DATA = Path(os.environ.get("MANYFIT_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
SHARED = "MANYFIT_BENCH_FOLDER"  # where children of one benchmark find the weights of the frozen backbone
SHARE = float(os.environ.get("MANYFIT_BENCH_SHARE", "1"))  # of the rows and epochs, for a quick look
ACTIVATIONS = ["relu", "tanh"]


@dataclasses.dataclass(frozen=True)
class Split:
    """Rows to train on, and rows to validate on."""

    x: np.ndarray
    y: np.ndarray
    x_held_out: np.ndarray
    y_held_out: np.ndarray

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray, training: int) -> Split:
        """The first rows train, the others are held out."""
        first, last = max(64, round(training * SHARE)), training + max(64, round((len(x) - training) * SHARE))
        return cls(x[:first], y[:first], x[training:last], y[training:last])


@dataclasses.dataclass(frozen=True)
class Space:
    """A search space, and how long a trial of it trains.

    Attributes:
        build: makes a model, as both libraries want it.
        data: makes the rows, the same ones in each process.
        epochs: of a trial; `length` is what a quick look leaves of them.
        trials: of Manyfit's search.
        of_rival: trials of the rival's search, whose seconds are scaled.
        batch_size: of a step.
    """

    build: Callable[[Any], keras.Model]
    data: Callable[[], Split]
    epochs: int
    trials: int = 30
    of_rival: int = 3
    batch_size: int = 64

    @property
    def length(self) -> int:
        """Epochs of a trial in this run."""
        return max(min(2, self.epochs), round(self.epochs * SHARE))


def compiled(model: keras.Model, optimizer: Any, loss: str = "sparse_categorical_crossentropy") -> keras.Model:
    """The model, ready to be trained; accuracy is measured where the targets are classes."""
    model.compile(optimizer, loss, metrics=["accuracy"] if "crossentropy" in loss else None)
    return model


def learning_rate(hp: Any) -> float:
    """The rate that every space has."""
    return float(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))


def adam(hp: Any) -> keras.optimizers.Optimizer:
    """The usual optimizer."""
    return keras.optimizers.Adam(learning_rate(hp))


def one_of(hp: Any, *names: str) -> keras.optimizers.Optimizer:
    """One of several kinds of optimizers."""
    kinds = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop, "sgd": keras.optimizers.SGD}
    return kinds[hp.Choice("optimizer", list(names))](learning_rate(hp))


# -- data -----------------------------------------------------------------------------------------------------------


def mnist(rows: int, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """(n, 28, 28, 1) images in [0, 1], and their labels."""
    with np.load(DATA / "mnist.npz") as archive:
        count = rows + held_out
        return (archive["x_train"][:count, ..., None] / 255).astype("float32"), archive["y_train"][:count].astype(
            "int32"
        )


def images(rows: int, held_out: int = 1000) -> Callable[[], Split]:
    """Digits as images."""
    return lambda: Split.of(*mnist(rows, held_out), rows)


def pixels(rows: int, held_out: int = 1000) -> Callable[[], Split]:
    """Digits as rows of 784 numbers."""

    def make() -> Split:
        x, y = mnist(rows, held_out)
        return Split.of(x.reshape(len(x), -1), y, rows)

    return make


def large_images() -> Split:
    """2,000 digits as coloured images of 64 x 64 for the backbone, and 400 held out: doubled, framed, grey."""
    backbone_weights()  # before any search, whose seeds they would disturb
    x, y = mnist(2000, 400)
    doubled = x.repeat(2, axis=1).repeat(2, axis=2)
    framed = np.pad(doubled, ((0, 0), (4, 4), (4, 4), (0, 0)))
    return Split.of(framed.repeat(3, axis=3), y, 2000)


def table(rows: int = 1000, columns: int = 20, held_out: int = 250) -> Callable[[], Split]:
    """Two classes, told apart by a random network of two layers with a tenth of the labels turned round."""

    def make() -> Split:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rows + held_out, columns)).astype("float32")
        hidden = np.tanh(x @ rng.normal(size=(columns, 8)))
        y = (hidden @ rng.normal(size=8) > 0) ^ (rng.random(len(x)) < 0.1)
        return Split.of(x, y.astype("int32"), rows)

    return make


def series(rows: int = 2000, steps: int = 50, features: int = 8, held_out: int = 400) -> Callable[[], Split]:
    """Two classes of random walks: whether the first feature's mean lies above the second's."""

    def make() -> Split:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(rows + held_out, steps, features)).cumsum(axis=1).astype("float32") / 5
        return Split.of(x, (x[..., 0].mean(axis=1) > x[..., 1].mean(axis=1)).astype("int32"), rows)

    return make


def words(rows: int = 64, held_out: int = 32) -> Callable[[], Split]:
    """Texts of 20 numbered words out of 200, of two classes."""

    def make() -> Split:
        x = np.random.default_rng(0).integers(0, 200, (rows + held_out, 20)).astype("int32")
        return Split.of(x, (x.sum(axis=1) % 2).astype("int32"), rows)

    return make


def prices(rows: int = 64, held_out: int = 32) -> Callable[[], Split]:
    """Random walks of 20 steps, and where they go next."""

    def make() -> Split:
        walk = np.random.default_rng(0).normal(size=(rows + held_out, 21, 1)).cumsum(axis=1).astype("float32")
        return Split.of(walk[:, :20], walk[:, 20], rows)

    return make


# -- the rows A and G1 to G5 ----------------------------------------------------------------------------------------


def mlp(units: int, optimizer: str, learning_rate: float) -> keras.Model:
    """The demo's two-layer MLP."""
    parts = [layers.Input((784,)), layers.Dense(units, activation="relu"), layers.Dense(10, activation="softmax")]
    chosen = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}[optimizer]
    return compiled(keras.Sequential(parts), chosen(learning_rate))


def build_a(hp: Any) -> keras.Model:
    """A, the demo's search space, with a learning rate: 8 structures."""
    return mlp(
        hp.Int("units", 16, 64, step=16),
        hp.Choice("optimizer", ["rmsprop", "adam"]),
        hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"),
    )


def dense(hp: Any) -> keras.Model:
    """G1, the guide of KerasTuner: 1 to 3 layers, 32 to 512 units each, an activation, dropout or not."""
    model = keras.Sequential([layers.Input((784,))])
    for number in range(hp.Int("layers", 1, 3)):
        units = hp.Int(f"units_{number}", 32, 512, step=32)
        model.add(layers.Dense(units, activation=hp.Choice("activation", ACTIVATIONS)))
    if hp.Boolean("dropout"):
        model.add(layers.Dropout(0.25))
    model.add(layers.Dense(10, activation="softmax"))
    return compiled(model, adam(hp))


def cnn(hp: Any) -> keras.Model:
    """G2: 1 or 2 blocks, 8 to 32 filters, kernels of 3 or 5, a dense layer of 32 to 128 units, dropout."""
    model = keras.Sequential([layers.Input((28, 28, 1))])
    for number in range(hp.Int("blocks", 1, 2)):
        filters, kernel = hp.Int(f"filters_{number}", 8, 32, step=8), hp.Choice(f"kernel_{number}", [3, 5])
        model.add(layers.Conv2D(filters, kernel, activation="relu"))
        model.add(layers.MaxPooling2D())
    model.add(layers.Flatten())
    model.add(layers.Dense(hp.Int("units", 32, 128, step=32), activation="relu"))
    model.add(layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1)))
    model.add(layers.Dense(10, activation="softmax"))
    return compiled(model, adam(hp))


def columns_of_a_table(hp: Any) -> keras.Model:
    """G3: 1 to 4 layers, 16 to 128 units each, normalisation or not, dropout or not, two optimizers."""
    model = keras.Sequential([layers.Input((20,))])
    normalised, dropped = hp.Boolean("normalised"), hp.Boolean("dropout")
    for number in range(hp.Int("layers", 1, 4)):
        model.add(layers.Dense(hp.Int(f"units_{number}", 16, 128, step=16), activation="relu"))
        if normalised:
            model.add(layers.BatchNormalization())
        if dropped:
            model.add(layers.Dropout(0.2))
    model.add(layers.Dense(2, activation="softmax"))
    return compiled(model, one_of(hp, "adam", "rmsprop"))


def lstm(hp: Any) -> keras.Model:
    """G4: an LSTM of 32 to 256 units, a dense layer of 32 to 256, two dropouts."""
    model = keras.Sequential([layers.Input((50, 8))])
    model.add(layers.LSTM(hp.Int("lstm", 32, 256, step=32)))
    model.add(layers.Dropout(hp.Float("dropout_0", 0.0, 0.5, step=0.1)))
    model.add(layers.Dense(hp.Int("units", 32, 256, step=32), activation="relu"))
    model.add(layers.Dropout(hp.Float("dropout_1", 0.0, 0.5, step=0.1)))
    model.add(layers.Dense(2, activation="softmax"))
    return compiled(model, adam(hp))


def mobile_net() -> keras.Model:
    """A small convolutional network of Keras, as a function of images of 64 x 64."""
    return keras.applications.MobileNetV2((64, 64, 3), alpha=0.35, include_top=False, weights=None, pooling="avg")


def backbone() -> keras.Model:
    """The network, frozen, with the same weights in each model of each process of a benchmark."""
    network = mobile_net()
    network.load_weights(backbone_weights())
    network.trainable = False
    return network


def backbone_weights() -> Path:
    """Where they lie; they are drawn once."""
    place = Path(os.environ[SHARED]) / "backbone.weights.h5"
    if not place.exists():
        keras.utils.set_random_seed(0)
        mobile_net().save_weights(place)
    return place


def transfer(hp: Any) -> keras.Model:
    """G5: the head on a frozen backbone: a dense layer of 32 to 256 units or none, dropout."""
    inputs = layers.Input((64, 64, 3))
    x = layers.Rescaling(2.0, offset=-1.0)(inputs)
    x = backbone()(x, training=False)
    units = hp.Int("units", 0, 256, step=64)
    if units:
        x = layers.Dense(units, activation="relu")(x)
    x = layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1))(x)
    return compiled(keras.Model(inputs, layers.Dense(10, activation="softmax")(x)), adam(hp))


SPACES = {
    "A": Space(build_a, pixels(50_000, 10_000), epochs=1, trials=100, batch_size=128),
    "G1": Space(dense, pixels(10_000), epochs=5, trials=16),
    "G2": Space(cnn, images(3000), epochs=5, trials=12),
    "G2b": Space(cnn, images(10_000), epochs=30, trials=6, of_rival=6),
    "G3": Space(columns_of_a_table, table(), epochs=30),
    "G4": Space(lstm, series(), epochs=5, trials=12),
    "G5": Space(transfer, large_images, epochs=5, trials=12, of_rival=2),
}


# -- ten spaces whose programs are counted --------------------------------------------------------------------------


def introduction(hp: Any) -> keras.Model:
    """TensorFlow's introduction: one layer of 32 to 512 units."""
    parts = [layers.Input((784,)), layers.Dense(hp.Int("units", 32, 512, step=32), activation="relu")]
    return compiled(keras.Sequential([*parts, layers.Dense(10, activation="softmax")]), adam(hp))


def tutorial_cnn(hp: Any) -> keras.Model:
    """The common CNN tutorial: two convolutions, a dense layer."""
    model = keras.Sequential([layers.Input((28, 28, 1))])
    for number, most in enumerate((128, 64)):
        filters, kernel = hp.Int(f"filters_{number}", 32, most, step=16), hp.Choice(f"kernel_{number}", [3, 5])
        model.add(layers.Conv2D(filters, kernel, activation="relu"))
    model.add(layers.Flatten())
    model.add(layers.Dense(hp.Int("units", 32, 128, step=16), activation="relu"))
    model.add(layers.Dense(10, activation="softmax"))
    return compiled(model, adam(hp))


def dense_block(hp: Any) -> keras.Model:
    """AutoKeras: 1 to 3 layers of chosen widths, normalisation or not, dropout of three kinds, three optimizers."""
    model = keras.Sequential([layers.Input((20,))])
    normalised, dropout = hp.Boolean("normalised"), hp.Choice("dropout", [0.0, 0.25, 0.5])
    for number in range(hp.Int("layers", 1, 3)):
        model.add(layers.Dense(hp.Choice(f"units_{number}", [16, 32, 64, 128, 256, 512])))
        if normalised:
            model.add(layers.BatchNormalization())
        model.add(layers.ReLU())
        if dropout > 0:
            model.add(layers.Dropout(dropout))
    model.add(layers.Dense(2, activation="softmax"))
    return compiled(model, one_of(hp, "adam", "sgd", "rmsprop"))


def small_table(hp: Any) -> keras.Model:
    """A table: one layer of 16 to 128 units, dropout from 0."""
    parts = [
        layers.Input((20,)),
        layers.Dense(hp.Int("units", 16, 128, step=16), activation="relu"),
        layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1)),
    ]
    return compiled(keras.Sequential([*parts, layers.Dense(2, activation="softmax")]), adam(hp))


def text_lstm(hp: Any) -> keras.Model:
    """Texts: an LSTM of 32 to 256 units, a dense layer of 32 to 256, two dropouts from 0."""
    parts = [
        layers.Input((20,)),
        layers.Embedding(200, 16),
        layers.LSTM(hp.Int("lstm", 32, 256, step=32)),
        layers.Dropout(hp.Float("dropout_0", 0.0, 0.5, step=0.1)),
        layers.Dense(hp.Int("units", 32, 256, step=32), activation="relu"),
        layers.Dropout(hp.Float("dropout_1", 0.0, 0.5, step=0.1)),
    ]
    return compiled(keras.Sequential([*parts, layers.Dense(2, activation="softmax")]), adam(hp))


def two_lstms(hp: Any) -> keras.Model:
    """Prices: two LSTMs of 32 to 128 units, two optimizers."""
    parts = [
        layers.Input((20, 1)),
        layers.LSTM(hp.Int("first", 32, 128, step=16), return_sequences=True),
        layers.LSTM(hp.Int("second", 32, 128, step=16)),
    ]
    return compiled(keras.Sequential([*parts, layers.Dense(1)]), one_of(hp, "adam", "rmsprop"), "mse")


def text_convolution(hp: Any) -> keras.Model:
    """Texts: a convolution with one of five activations, two wide dense layers, three optimizers."""
    activation = hp.Choice("activation", ["relu", "tanh", "sigmoid", "elu", "selu"])
    parts = [
        layers.Input((20,)),
        layers.Embedding(200, 16),
        layers.Conv1D(hp.Int("filters", 32, 128, step=32), 5, activation=activation),
        layers.GlobalMaxPooling1D(),
        layers.Dense(hp.Int("first", 512, 1024, step=128), activation=activation),
        layers.Dense(hp.Int("second", 128, 600, step=118), activation=activation),
    ]
    model = keras.Sequential([*parts, layers.Dense(2, activation="softmax")])
    return compiled(model, one_of(hp, "adam", "sgd", "rmsprop"))


def genomics(hp: Any) -> keras.Model:
    """2 to 5 layers of 32 to 512 units, dropout or not after each."""
    model = keras.Sequential([layers.Input((20,))])
    for number in range(hp.Int("layers", 2, 5)):
        model.add(layers.Dense(hp.Int(f"units_{number}", 32, 512, step=32), activation="relu"))
        if hp.Boolean(f"dropout_{number}"):
            model.add(layers.Dropout(0.3))
    model.add(layers.Dense(2, activation="softmax"))
    return compiled(model, adam(hp))


def sensors(hp: Any) -> keras.Model:
    """1 or 2 layers of 4 to 64 units."""
    model = keras.Sequential([layers.Input((20,))])
    for number in range(hp.Int("layers", 1, 2)):
        model.add(layers.Dense(hp.Int(f"units_{number}", 4, 64, step=4), activation="relu"))
    model.add(layers.Dense(2, activation="softmax"))
    return compiled(model, adam(hp))


TINY = {"epochs": 1, "batch_size": 32}
OF_PROGRAMS = {
    "KerasTuner's guide: 1-3 Dense 32-512": Space(dense, pixels(64, 32), **TINY),
    "introduction: one Dense 32-512": Space(introduction, pixels(64, 32), **TINY),
    "CNN tutorial: two convolutions, Dense": Space(tutorial_cnn, images(64, 32), **TINY),
    "AutoKeras: dense block, three optimizers": Space(dense_block, table(64, held_out=32), **TINY),
    "table: Dense 16-128, dropout 0-0.5": Space(small_table, table(64, held_out=32), **TINY),
    "text: LSTM 32-256, Dense 32-256": Space(text_lstm, words(), **TINY),
    "prices: two LSTM 32-128, two optimizers": Space(two_lstms, prices(), **TINY),
    "text: Conv1D, five activations": Space(text_convolution, words(), **TINY),
    "genomics: 2-5 Dense, dropout or not each": Space(genomics, table(64, held_out=32), **TINY),
    "sensors: 1-2 Dense 4-64": Space(sensors, table(64, held_out=32), **TINY),
}
