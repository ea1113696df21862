"""Long searches: whether the last hundred of 2,000 trials take as much time and memory as trials 100 to 200.

Tiny models on 64 rows, three epochs each, of 8 structures or of 40: what is compiled for a structure stays, up to a
limit, so memory grows for as long as new ones come. Nearly all that is timed is what a search does
around training: proposals, building, the book, commits. Seconds are of the processor, since other work on the machine
counts in those of a clock; memory is what the process holds. The last columns are of the finished project: what its
database takes per trial, and seconds to open it again, to read a snapshot of it, and for its results as rows.

    python benchmarks/long_run.py                          # both searches of 8 structures, in a process each
    python benchmarks/long_run.py --layers 2               # of 40
    python benchmarks/long_run.py --sampler random --trials 500 --trainer none   # no models: the bookkeeping alone
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip  # before Keras: it chooses the backend

import keras
import numpy as np

from manyfit.core.limits import held_bytes
from manyfit.report.snapshot import Snapshot

X = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
Y = (X.sum(axis=1, keepdims=True) > 0).astype("float32")
SEARCHES = {"random": kt.RandomSearch, "bayesian": kt.BayesianOptimization}
_WINDOW = 100


def build(hp: kt.HyperParameters, most_layers: int = 1) -> keras.Model:
    """A small classifier of several structures."""
    activation = hp.Choice("activation", ["relu", "tanh"])
    layers = [
        keras.layers.Dense(hp.Int(f"units_{number}", 4, 16, step=4), activation=activation)
        for number in range(hp.Int("layers", 1, most_layers))
    ]
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(1, activation="sigmoid")])
    rate, momentum = hp.Float("rate", 1e-4, 1e-1, sampling="log"), hp.Float("momentum", 0.0, 0.95)
    model.compile(keras.optimizers.SGD(rate, momentum=momentum), "binary_crossentropy")
    return model


def watched(search: type[kt.Tuner], marks: list[tuple[float, int]], *, trains: bool) -> type[Any]:
    """The tuner's class, which notes processor seconds and memory whenever a trial ends."""

    class Watched(search):  # type: ignore[valid-type,misc]
        def on_trial_end(self, trial: kt.Trial) -> None:
            super().on_trial_end(trial)
            marks.append((time.process_time(), held_bytes()))

    class OfFormulas(Watched):
        def run_trial(self, trial: kt.Trial, *args: Any, **kwargs: Any) -> float:
            hp = trial.hyperparameters
            width = sum(hp.Int(f"units_{number}", 4, 16, step=4) for number in range(hp.Int("layers", 1, 2)))
            bent = 0.1 * (hp.Choice("activation", ["relu", "tanh"]) == "tanh")
            rate, momentum = hp.Float("rate", 1e-4, 1e-1, sampling="log"), hp.Float("momentum", 0.0, 0.95)
            return (np.log10(rate) + 2) ** 2 + (momentum - 0.5) ** 2 + bent + abs(width - 20) / 100

    return Watched if trains else OfFormulas


def run(sampler: str, trials: int, trainer: str, most_layers: int, folder: str) -> dict[str, Any]:
    """One search; answers a row of the table."""
    marks: list[tuple[float, int]] = []
    kind = watched(SEARCHES[sampler], marks, trains=trainer != "none")
    options = {"directory": folder, "project_name": "long", "seed": 0, "display": "plain"}

    def make() -> Any:
        builder = functools.partial(build, most_layers=most_layers)
        return kind(builder, "val_loss" if trainer != "none" else None, trials, population=trainer != "fit", **options)

    tuner = make()
    tuner.search(X, Y, validation_data=(X, Y), epochs=3, verbose=0)
    database = sum(path.stat().st_size for path in Path(tuner.project_dir).glob("*.sqlite*"))
    tuner.close()
    seconds = [later[0] - earlier[0] for earlier, later in itertools.pairwise(marks)]
    held = [bytes_ for _, bytes_ in marks]
    first, last = slice(_WINDOW, 2 * _WINDOW), slice(-_WINDOW, None)
    project = tuner.project_dir
    return {
        "search": f"{sampler}, {trainer}, {8 if most_layers == 1 else 40}",
        "trials": len(marks),
        "cpu_seconds_early": statistics.mean(seconds[first]),
        "cpu_seconds_late": statistics.mean(seconds[last]),
        "megabytes_early": statistics.mean(held[first]) / 2**20,
        "megabytes_late": statistics.mean(held[last]) / 2**20,
        "database_bytes_per_trial": database / max(1, len(marks)),
        "reopen_seconds": timed(lambda: make().close()),
        "snapshot_seconds": timed(lambda: Snapshot.of(project)),
        "results_seconds": timed(lambda: make().results()),
        "curve": [
            (
                start,
                statistics.mean(seconds[start : start + _WINDOW]),
                statistics.mean(held[start : start + _WINDOW]) / 2**20,
            )
            for start in range(0, len(seconds) - _WINDOW + 1, max(_WINDOW, trials // 10))
        ],
    }


def timed(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def shown(row: dict[str, Any]) -> str:
    """A row of the table."""
    slower = row["cpu_seconds_late"] / row["cpu_seconds_early"]
    more = row["megabytes_late"] / row["megabytes_early"]
    return (
        f"{row['search']:<22} {row['trials']:>6} {1e3 * row['cpu_seconds_early']:>9.1f} "
        f"{1e3 * row['cpu_seconds_late']:>9.1f} {slower:>6.2f} {row['megabytes_early']:>8.0f} "
        f"{row['megabytes_late']:>8.0f} {more:>6.3f} {row['database_bytes_per_trial']:>9.0f} "
        f"{row['reopen_seconds']:>7.2f} {row['snapshot_seconds']:>8.2f} {row['results_seconds']:>8.2f}"
    )


HEAD = (
    "                              cpu ms per trial           megabytes held          database  cpu seconds to\n"
    "search                 trials   100-200  last 100  ratio  100-200 last 100  ratio bytes/trial "
    "reopen snapshot results"
)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sampler", choices=SEARCHES, help="one of them, in this process")
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--trainer", choices=("population", "fit", "none"), default="population")
    parser.add_argument("--layers", type=int, choices=(1, 2), default=1, help="at most: 8 structures, or 40")
    options = parser.parse_args()
    if options.trials < 2 * _WINDOW:
        parser.error(f"--trials: at least {2 * _WINDOW}, two windows that are compared")
    if options.sampler is None:
        print(HEAD, flush=True)
        for sampler in SEARCHES:  # a process each: memory of one search is none of the other's
            given = ["--sampler", sampler, "--trials", str(options.trials), "--trainer", options.trainer]
            given += ["--layers", str(options.layers)]
            found = subprocess.run([sys.executable, __file__, *given], check=True, capture_output=True, text=True)
            print(shown(json.loads(found.stdout.splitlines()[-1])), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MANYFIT_CACHE_DIR", str(Path(folder) / "cache"))
        row = run(options.sampler, options.trials, options.trainer, options.layers, folder)
    print(HEAD, file=sys.stderr)
    print(shown(row), file=sys.stderr)
    print(json.dumps(row))


if __name__ == "__main__":
    main()
