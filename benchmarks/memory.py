"""Resident memory of one process over a search of 300 trials: flat, or a leak?

    python benchmarks/memory.py            # a few minutes
    python benchmarks/memory.py --trials 100

Trials differ in their structure (8 of them) and in scalars; each has two executions whose weights are kept. The figure
is the memory after the last trial against the memory after trial 50, by when every structure has its program.
Run it with `KERAS_BACKEND=jax`.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

import manyfit as kt


def resident_bytes() -> int:
    """Memory of this process that is in use, by the kernel (Linux)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["VmRSS"].split()[0]) * 1024


def build(hp: Any) -> keras.Model:
    """An MLP with a structure and scalars to search."""
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation=hp.Choice("activation", ["relu", "tanh"])),
            keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(keras.optimizers.AdamW(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Watched(kt.RandomSearch):
    """Notes the memory as trials end."""

    curve: list[int]

    def on_trial_end(self, trial: Any) -> None:
        """See `Tuner`."""
        super().on_trial_end(trial)
        gc.collect()
        self.curve = [*getattr(self, "curve", ()), resident_bytes()]


def main() -> None:
    """Prints the curve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=300)
    trials = parser.parse_args().trials
    rng = np.random.default_rng(0)
    x, y = rng.random((4000, 64)).astype("float32"), rng.integers(0, 10, 4000)
    with tempfile.TemporaryDirectory() as folder:
        tuner = Watched(build, "val_loss", max_trials=trials, executions_per_trial=2, seed=0, directory=folder)
        tuner.search(x, y, epochs=2, batch_size=128, validation_split=0.2, verbose=0)
    for number in range(25, len(tuner.curve) + 1, 25):
        print(f"after trial {number:4d}: {tuner.curve[number - 1] / 2**20:7.1f} MiB", flush=True)
    ratio = tuner.curve[-1] / tuner.curve[min(49, len(tuner.curve) - 1)]
    print(f"after the last trial: {ratio:.3f} times the memory after trial 50 (goal 1.10)")


if __name__ == "__main__":
    main()
