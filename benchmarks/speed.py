"""Speed of a search: Manyfit's population training against KerasTuner, all pairs in one run.

    python benchmarks/speed.py            # the table, about half an hour on two cores
    python benchmarks/speed.py A --share 0.1 --repeats 1

Rows A, B and C are wall-clock seconds of as many trials, epochs and rows, by trainers alone: no store, no display.
`model.fit` trains the same trials, KerasTuner draws its own from the same space. Rivals are timed on a tenth of
the trials and scaled; the table says so. The compilation cache is empty at the start of each cold row. Run it with
`KERAS_BACKEND=jax`.
Data: `mnist.npz` in the folder named by MANYFIT_DATA (default `../shared/data`).
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import keras
import numpy as np

from manyfit.core.objective import Objective
from manyfit.core.records import Plan
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population

DATA = Path(os.environ.get("MANYFIT_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))


def mnist() -> tuple[np.ndarray, np.ndarray]:
    """60,000 images in [0, 1] as rows of 784 pixels, and their labels."""
    with np.load(DATA / "mnist.npz") as archive:
        images = (archive["x_train"] / 255).astype("float32").reshape(-1, 784)
        return images, archive["y_train"].astype("int32")


def build_a(hp: Any) -> keras.Model:
    """The demo's two-layer MLP, with a learning rate."""
    units, optimizer = hp.Int("units", 16, 64, step=16), hp.Choice("optimizer", ["rmsprop", "adam"])
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(units, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    chosen = {"rmsprop": keras.optimizers.RMSprop, "adam": keras.optimizers.Adam}[optimizer]
    model.compile(optimizer=chosen(rate), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


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


class Drawn:
    """Stands in for a tuner's hyperparameters: answers each question from a generator, once."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._values: dict[str, Any] = {}

    def Int(self, name: str, low: int, high: int, step: int) -> int:
        return self._once(name, lambda: int(self._rng.choice(np.arange(low, high + 1, step))))

    def Choice(self, name: str, options: list[str]) -> str:
        return self._once(name, lambda: str(self._rng.choice(options)))

    def Float(self, name: str, low: float, high: float, sampling: str = "linear") -> float:
        if sampling == "log":
            return self._once(name, lambda: float(np.exp(self._rng.uniform(np.log(low), np.log(high)))))
        return self._once(name, lambda: float(self._rng.uniform(low, high)))

    def _once(self, name: str, draw: Callable[[], Any]) -> Any:
        if name not in self._values:
            self._values[name] = draw()
        return self._values[name]


def work(name: str) -> dict[str, Any]:
    """Build function, trials, executions, epochs and data of a row of the table."""
    x, y = mnist()
    if name == "A":
        return {"build": build_a, "trials": 100, "executions": 2, "epochs": 1, "x": x, "y": y, "rows": 50_000}
    if name == "B":
        one_hot = np.eye(10, dtype="float32")[y]
        return {"build": build_b, "trials": 40, "executions": 1, "epochs": 10, "x": x, "y": one_hot, "rows": 50_000}
    images = x.reshape(-1, 28, 28, 1)[:10_000]
    return {"build": build_c, "trials": 12, "executions": 1, "epochs": 2, "x": images, "y": y[:10_000], "rows": 8_000}


def fit_arguments(row: dict[str, Any]) -> tuple[tuple[Any, Any], dict[str, Any]]:
    """What both sides pass to `fit`."""
    cut = row["rows"]
    validation = (row["x"][cut:], row["y"][cut:])
    return (row["x"][:cut], row["y"][:cut]), {
        "batch_size": 128, "epochs": row["epochs"], "verbose": 0, "validation_data": validation,
    }  # fmt: skip


def plans(row: dict[str, Any], trials: int, folder: str) -> Iterator[Plan]:
    """The executions of the first `trials` trials."""
    for trial in range(trials):
        for execution in range(row["executions"]):
            path = f"{folder}/{trial}-{execution}.npz"
            yield Plan(str(trial), execution, Drawn(trial), seed=1000 * trial + execution, weights_path=path)


def time_trainer(row: dict[str, Any], trainer: Any, trials: int) -> float:
    """Seconds that a trainer takes for the first `trials` trials, weights written."""
    args, kwargs = fit_arguments(row)
    task = Task(row["build"], args, kwargs, objective=Objective("val_accuracy", "max"))
    with tempfile.TemporaryDirectory() as folder:
        supply = ListSupply(list(plans(row, trials, folder)))
        started = time.perf_counter()
        trainer.train(supply, task)
        seconds = time.perf_counter() - started
    failed = [result.message for result in supply.results.values() if not result.ending.has_score]
    if failed:
        raise RuntimeError(failed[0])
    return seconds


def time_keras_tuner(row: dict[str, Any], trials: int) -> float:
    """Seconds that KerasTuner's random search takes for `trials` trials, checkpoints included."""
    import keras_tuner

    args, kwargs = fit_arguments(row)
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.RandomSearch(
            row["build"], objective="val_accuracy", max_trials=trials, executions_per_trial=row["executions"],
            seed=0, directory=folder, project_name="rival",
        )  # fmt: skip
        started = time.perf_counter()
        tuner.search(*args, **kwargs)
        return time.perf_counter() - started


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=["A", "B", "C"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="share of the trials, for a quick look")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}; "
          f"keras {keras.__version__}, jax {jax.__version__}")  # fmt: skip
    for name in options.rows:
        row = work(name)
        trials = max(2, round(row["trials"] * options.share))
        few = max(2, round(row["trials"] / 10 * options.share))
        ours: dict[str, list[float]] = {"cold": [], "warm": []}
        rivals: dict[str, list[float]] = {"KerasTuner": [], "model.fit": []}
        population = Population(KerasFit())
        for repeat in range(options.repeats):
            jax.config.update("jax_compilation_cache_dir", tempfile.mkdtemp(prefix=f"manyfit-{name}{repeat}-"))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.05)
            for kind in ours:
                jax.clear_caches()
                population = Population(KerasFit())
                ours[kind].append(time_trainer(row, population, trials))
            jax.config.update("jax_compilation_cache_dir", None)
            rivals["KerasTuner"].append(time_keras_tuner(row, few) * trials / few)
            rivals["model.fit"].append(time_trainer(row, KerasFit(), few) * trials / few)
        for kind, seconds in ours.items():
            mine = statistics.median(seconds)
            for rival, theirs in rivals.items():
                other = statistics.median(theirs)
                print(
                    f"{name}: population ({kind} cache) {mine:8.1f} s, {rival} {other:8.1f} s "
                    f"(extrapolated from {few} of {trials} trials): {other / mine:5.1f} times faster",
                    flush=True,
                )
        print(population.programs(), flush=True)


if __name__ == "__main__":
    main()
