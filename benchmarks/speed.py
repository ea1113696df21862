"""Speed of a search: `tuner.search` of Manyfit against KerasTuner's, all pairs in one run.

    python benchmarks/speed.py            # the table, about an hour on two cores
    python benchmarks/speed.py A D --share 0.2 --repeats 1
    python benchmarks/speed.py A B --repeats 3 --repeats-of A=1
    python benchmarks/speed.py A G1 G2 G3 G4 total --python torch=other/bin/python

Rows A, B and C are wall-clock seconds of `search` with everything: proposals, building, compiling, training,
validation, checkpoints, store, display (KerasTuner's is off, which is faster; Manyfit's is on). The rival is
KerasTuner's random search on Keras's JAX backend, timed on a tenth of the trials and scaled; the table says so. The
compilation cache is empty at the start of each cold search, and the warm one follows it. `model.fit` alone, on the
same trials, shows what of the gain is not KerasTuner's own overhead.
For A and B a line says what the matrix products alone would take.
Row D is the time per member and epoch of A, nothing compiled, against a hand-written JAX scan of the same steps.
Row E is the time per execution outside of training, with a trainer that does nothing, at 200 trials of a random search.
Row F is an epoch of one member that trains alone, of models of several kinds, against an epoch of `model.fit`.
Rows G1 to G5, `total`, `folds`, `unseen` and `epoch`, of spaces in which every trial has another structure, are
`structures.py`'s, each in a process of its own.
Medians of the repeats; for D and F, whose epochs are short, also the range, since a neighbour on the machine moves a
single one by a tenth. Run it with `KERAS_BACKEND=jax`.
Data: `mnist.npz` in the folder named by MANYFIT_DATA (default `../shared/data`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import conditions
import jax
import jax.numpy as jnp
import keras
import numpy as np
import structures
from jax.experimental.compilation_cache import compilation_cache
from typical_spaces import DATA, build_a, mlp

import manyfit as kt
from manyfit.core.records import Ending, Result
from manyfit.training.base import Trainer


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """60,000 images in [0, 1] as rows of 784 pixels, and their labels."""
    with np.load(DATA / "mnist.npz") as archive:
        images = (archive["x_train"] / 255).astype("float32").reshape(-1, 784)
        return images, archive["y_train"].astype("int32")


def build_b(hp: Any) -> keras.Model:
    """An MLP in which scalars vary only."""
    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.AdamW(
            hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"),
            weight_decay=hp.Float("weight_decay", 1e-5, 1e-2, sampling="log"),
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=hp.Float("smoothing", 0.01, 0.2)),
        metrics=["accuracy"],
    )
    return model


def build_c(hp: Any) -> keras.Model:
    """A small CNN."""
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(hp.Float("dropout", 0.1, 0.5)),
            layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(optimizer=keras.optimizers.Adam(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


GOALS = {"A cold": 20.0, "A": 25.0, "B": 25.0, "C": 1.5, "D": 1.1, "E": 5.0}


def work(name: str) -> dict[str, Any]:
    """Build function, trials, executions, epochs and data of a row of the table."""
    x, y = mnist()
    if name in "ADE":
        return {"build": build_a, "trials": 100, "executions": 2, "epochs": 1, "x": x, "y": y, "rows": 50_000}
    if name == "B":
        one_hot = np.eye(10, dtype="float32")[y]
        return {"build": build_b, "trials": 40, "executions": 1, "epochs": 10, "x": x, "y": one_hot, "rows": 50_000}
    images = x.reshape(-1, 28, 28, 1)[:10_000]
    return {"build": build_c, "trials": 12, "executions": 1, "epochs": 2, "x": images, "y": y[:10_000], "rows": 8_000}


def fit_arguments(row: dict[str, Any]) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """What both sides pass to `search`."""
    cut = row["rows"]
    return (row["x"][:cut], row["y"][:cut]), {
        "batch_size": 128, "epochs": row["epochs"], "validation_data": (row["x"][cut:], row["y"][cut:]),
    }  # fmt: skip


@contextlib.contextmanager
def project() -> Any:
    """A folder for a tuner, and silence: what is displayed goes to a buffer."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        yield {"directory": folder, "project_name": "speed", "seed": 0, "overwrite": True}


def time_manyfit(row: dict[str, Any], trials: int, **options: Any) -> tuple[float, kt.RandomSearch]:
    """Seconds that `search` takes for so many trials, and the tuner."""
    args, kwargs = fit_arguments(row)
    with project() as place:
        started = time.perf_counter()
        tuner = kt.RandomSearch(
            row["build"], "val_accuracy", max_trials=trials, executions_per_trial=row["executions"], **place, **options
        )
        tuner.search(*args, **kwargs)
        seconds = time.perf_counter() - started
    ended = [execution.ending for trial in tuner.oracle.trials.values() for execution in trial.executions.values()]
    if ended != [Ending.COMPLETED] * trials * row["executions"]:
        raise RuntimeError(f"not every execution completed: {ended}")
    return seconds, tuner


def time_keras_tuner(row: dict[str, Any], trials: int) -> float:
    """Seconds that KerasTuner's random search takes for so many trials, checkpoints included."""
    import keras_tuner

    args, kwargs = fit_arguments(row)
    with project() as place:
        started = time.perf_counter()
        tuner = keras_tuner.RandomSearch(
            row["build"], "val_accuracy", max_trials=trials, executions_per_trial=row["executions"], **place
        )
        tuner.search(*args, **kwargs, verbose=0)
        return time.perf_counter() - started


@contextlib.contextmanager
def empty_cache() -> Any:
    """An empty folder for compiled programs and measured layouts, which the searches inside fill and use."""
    with tempfile.TemporaryDirectory(prefix="manyfit-programs-") as folder:
        os.environ["MANYFIT_CACHE_DIR"] = folder
        jax.config.update("jax_compilation_cache_dir", None)
        try:
            yield
        finally:
            os.environ["MANYFIT_CACHE_DIR"] = "off"
            jax.config.update("jax_compilation_cache_dir", None)
            compilation_cache.reset_cache()  # else JAX would go on with a folder that is gone, for the rival, too


def print_searches(name: str, repeats: int, share: float) -> None:
    """Rows A, B and C: whole searches."""
    row = work(name)
    trials = max(2, round(row["trials"] * share))
    few = max(2, round(row["trials"] / 10 * share))
    seconds: dict[str, list[float]] = {"cold": [], "warm": [], "KerasTuner": [], "model.fit": []}
    tuner: Any = None
    for _ in range(repeats):
        with empty_cache():
            for kind in ("cold", "warm"):
                jax.clear_caches()
                found, tuner = time_manyfit(row, trials)
                seconds[kind].append(found)
        seconds["KerasTuner"].append(time_keras_tuner(row, few) * trials / few)
        seconds["model.fit"].append(time_manyfit(row, few, population=False)[0] * trials / few)
    for kind in ("cold", "warm"):
        mine = statistics.median(seconds[kind])
        goal = GOALS.get(f"{name} {kind}", GOALS[name])
        for rival in ("KerasTuner", "model.fit"):
            other = statistics.median(seconds[rival])
            wanted = f" (goal {goal:g})" if rival == "KerasTuner" else ""
            print(
                f"{name}: search ({kind} cache) {mine:8.1f} s, {rival} {other:8.1f} s (extrapolated from {few} of "
                f"{trials} trials): {other / mine:5.1f} times faster{wanted}",
                flush=True,
            )
    if name in "AB":
        floor = products_seconds(row, tuner)
        bound = statistics.median(seconds["KerasTuner"]) / floor
        print(
            f"{name}: the matrix products alone, at the pace of large ones on all cores: {floor:.1f} s, so "
            f"{bound:.1f} times is the most that float32 allows here",
            flush=True,
        )
    print(tuner.programs(), flush=True)


def products_seconds(row: dict[str, Any], tuner: kt.RandomSearch) -> float:
    """What the two-layer MLPs of a search must take: their matrix products at the pace of a large one on all cores."""
    large = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(jnp.matmul)
    paces = []
    for _ in range(6):
        started = time.perf_counter()
        jax.block_until_ready(product(large, large))
        paces.append(2 * 2048**3 / (time.perf_counter() - started))
    held_out = len(row["x"]) - row["rows"]
    total = 0
    for trial in tuner.oracle.trials.values():
        units = trial.hyperparameters.values.get("units", 64)
        first, second = 2 * 784 * units, 2 * units * 10  # per row; backwards the first layer's inputs need no gradient
        total += row["rows"] * (2 * first + 3 * second) + held_out * (first + second)
    return total * row["executions"] * row["epochs"] / max(paces)


def hand_written_epoch(x: Any, y: Any, rows: int, units: int = 64) -> Callable[[Any, Any], Any]:
    """What an expert would write for A with Adam: one jitted epoch, batches gathered by number, then the validation."""

    def loss_of(weights: Any, xs: Any, ys: Any) -> tuple[Any, Any]:
        hidden = jax.nn.relu(xs @ weights[0] + weights[1])
        logits = hidden @ weights[2] + weights[3]
        losses = -jnp.take_along_axis(jax.nn.log_softmax(logits), ys[:, None], axis=1)
        return losses.mean(), (losses.sum(), (logits.argmax(axis=1) == ys).sum())

    def step(carry: Any, numbers: Any) -> tuple[Any, Any]:
        weights, first, second, count = carry
        (_, sums), gradients = jax.value_and_grad(loss_of, has_aux=True)(weights, x[numbers], y[numbers])
        count = count + 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
        second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
        rate = 1e-3 * jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = [w - rate * m / (jnp.sqrt(v) + 1e-7) for w, m, v in zip(weights, first, second, strict=True)]
        return (weights, first, second, count), sums

    def epoch(carry: Any, order: Any) -> Any:
        full = rows // 128 * 128
        carry, sums = jax.lax.scan(step, carry, order[:full].reshape(-1, 128))
        carry, last = step(carry, order[full:])
        test = jnp.arange(rows, x.shape[0] - (x.shape[0] - rows) % 128).reshape(-1, 128)
        held_out = jax.lax.map(lambda numbers: loss_of(carry[0], x[numbers], y[numbers])[1], test)
        tail = loss_of(carry[0], x[test.size + rows :], y[test.size + rows :])[1]
        return carry, jax.tree.map(lambda a, b: a.sum() + b, (sums, held_out), (last, tail))

    keys = jax.random.split(jax.random.key(0), 2)
    weights = [
        jax.random.normal(keys[0], (784, units)) / 28, jnp.zeros(units),
        jax.random.normal(keys[1], (units, 10)) / 8, jnp.zeros(10),
    ]  # fmt: skip
    zeros = [jnp.zeros_like(weight) for weight in weights]
    start = (weights, zeros, zeros, jnp.zeros(()))
    return jax.jit(epoch), start


def of_64_units(hp: Any) -> keras.Model:
    """One structure of A."""
    return mlp(64, "adam", hp.Float("learning_rate", 1e-4, 1e-2, sampling="log"))


def print_steps(repeats: int, epochs: int = 12) -> None:
    """Row D: an epoch of one member, nothing compiled, against the hand-written one; the fastest epoch of each."""
    row = work("D")
    x, y = jnp.asarray(row["x"]), jnp.asarray(row["y"])
    epoch, carry = hand_written_epoch(x, y, row["rows"])
    orders = [np.random.default_rng(n).permutation(row["rows"]).astype("int32") for n in range(epochs + 1)]
    ratios, shown = [], ""
    for _ in range(repeats):
        times = []
        for order in orders:
            started = time.perf_counter()
            carry = jax.block_until_ready(epoch(carry, order))[0]
            times.append(time.perf_counter() - started)
        row |= {"build": of_64_units, "epochs": epochs, "executions": 1}
        _, tuner = time_manyfit(row, 1, population_size=1)
        (record,) = tuner.programs().records
        mine, theirs = min(record.epoch_seconds.values()), min(times[1:])
        ratios.append(mine / theirs)
        shown = f"{mine:.4f} s per member and epoch ({record.layout}), hand-written scan {theirs:.4f} s"
    print(f"D: {shown}; {_spread(ratios)} times its time (goal {GOALS['D']:g})", flush=True)


def _spread(ratios: list[float]) -> str:
    """The median of some ratios, and where they lie."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def architectures() -> dict[str, Callable[[Any], keras.Model]]:
    """One model each of the common kinds, for images of 28 x 28."""
    layers = keras.layers

    def of(*parts: Any) -> Callable[[Any], keras.Model]:
        def build(hp: Any) -> keras.Model:
            made = [part() for part in parts]
            model = keras.Sequential([layers.Input((28, 28)), *made, layers.Dense(10, activation="softmax")])
            rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
            model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
            return model

        return build

    def attention() -> keras.Model:
        x = layers.Input((28, 28))
        mixed = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 14)(x, x))
        return keras.Model(x, layers.Flatten()(mixed + layers.Dense(28, activation="relu")(mixed)))

    def convolution() -> Any:
        return layers.Conv2D(16, 3, activation="relu")

    return {
        "MLP, 64 units": of(layers.Flatten, lambda: layers.Dense(64, activation="relu")),
        "MLP, 2 x 1,024 units": of(layers.Flatten, *[lambda: layers.Dense(1024, activation="relu")] * 2),
        "two convolutions": of(
            lambda: layers.Reshape((28, 28, 1)), convolution, layers.MaxPooling2D, convolution, layers.Flatten
        ),
        "LSTM, 32 units": of(lambda: layers.LSTM(32)),
        "attention": of(attention),
    }


class EpochSeconds(keras.callbacks.Callback):
    """Notes how long the epochs of `fit` take."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.seconds: list[float] = []
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        now = time.perf_counter()
        self.seconds.append(now - self.begin)
        self.begin = now


def print_alone(repeats: int, epochs: int = 8) -> None:
    """Row F: an epoch of a member that trains alone against one of `model.fit`; the fastest epoch of each."""
    x, y = mnist()
    args = (x[:8000].reshape(-1, 28, 28), y[:8000])
    kwargs = {
        "batch_size": 128,
        "epochs": epochs,
        "validation_data": (x[8000:10000].reshape(-1, 28, 28), y[8000:10000]),
    }
    for name, build in architectures().items():
        ratios = []
        for _ in range(repeats):
            watch = EpochSeconds()
            build(kt.HyperParameters()).fit(*args, **kwargs, verbose=0, callbacks=[watch])
            with project() as place:
                tuner = kt.RandomSearch(build, "val_accuracy", max_trials=1, population_size=1, **place)
                tuner.search(*args, **kwargs)
            (record,) = tuner.programs().records
            ratios.append(min(watch.seconds) / min(record.epoch_seconds.values()))
        shown = f"F: {name}: {_spread(ratios)} times as fast as model.fit per epoch, alone"
        print(f"{shown} ({record.layout})", flush=True)


class Instant(Trainer):
    """Trains nothing: what a search with it takes is everything else."""

    def train(self, supply: Any, task: Any) -> None:
        while plans := supply.take(8):
            logs = {"loss": 0.5, "accuracy": 0.9, "val_loss": 0.5, "val_accuracy": 0.9}
            supply.report([(plan, 0, logs) for plan in plans])
            for plan in plans:
                history: dict[str, list[float | None]] = {name: [value] for name, value in logs.items()}
                supply.finish(Result(plan, Ending.COMPLETED, history))


def print_overhead(repeats: int, trials: int = 200) -> None:
    """Row E: milliseconds per execution of a search whose trainer does nothing."""
    row = work("E")
    args, kwargs = fit_arguments(row)
    found = []
    for _ in range(repeats):
        with project() as place:
            tuner = kt.RandomSearch(
                row["build"], "val_accuracy", max_trials=trials, executions_per_trial=row["executions"], **place
            )
            instant = Instant()
            tuner._get_trainer = lambda instant=instant: instant
            started = time.perf_counter()
            tuner.search(*args, **kwargs)
            found.append(time.perf_counter() - started)
    each = statistics.median(found) / trials / row["executions"] * 1e3
    print(f"E: {each:.2f} ms per execution outside of training, {trials} trials x {row['executions']} executions "
          f"(goal {GOALS['E']:g})", flush=True)  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=["A", "B", "C", "D", "E", "F", *structures.ROWS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--repeats-of", nargs="*", default=[], metavar="ROW=N", help="repeats of single rows")
    parser.add_argument("--share", type=float, default=1.0, help="share of the trials of A, B and C, for a quick look")
    structures.add_options(parser)
    options = parser.parse_args()
    conditions.show()
    os.environ["MANYFIT_CACHE_DIR"] = "off"  # but for the warm searches
    repeats = {name: int(number) for name, number in (pair.split("=") for pair in options.repeats_of)}
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}; "
          f"keras {keras.__version__}, jax {jax.__version__}")  # fmt: skip
    for name in [row for row in options.rows if row not in structures.ROWS]:
        number = repeats.get(name, options.repeats)
        if name == "D":
            print_steps(number)
        elif name == "E":
            print_overhead(number)
        elif name == "F":
            print_alone(number)
        else:
            print_searches(name, number, options.share)
    if rows := [row for row in options.rows if row in structures.ROWS]:
        structures.print_rows(rows, structures.bench(options))


if __name__ == "__main__":
    main()
