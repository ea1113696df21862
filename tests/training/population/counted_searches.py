"""Three small searches whose work is counted; run as a program, it prints the counts.

It has a process of its own: what this process has compiled before, the number of its cores, and the folders that other
runs have filled would all change the counts. One core, so that no thread decides who trains beside whom.
"""

import collections
import dataclasses
import json
import os
import sqlite3
import sys
from typing import Any

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import keras
import numpy as np

import manyfit as kt
from manyfit.training.population import compile as compiling
from manyfit.training.population import trace as tracing

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 5)).astype("float32")
Y = np.eye(2, dtype="float32")[(X[:, 0] > X[:, 1]).astype("int32")]
#: 60 rows in batches of 16, 21 to validate on: both passes have a short batch at their end.
FIT = {"epochs": 2, "batch_size": 16, "validation_data": (X[:21], Y[:21]), "verbose": 0}
COUNTS: collections.Counter[str] = collections.Counter()


def model_of(hp: kt.HyperParameters, units: int, *middle: keras.layers.Layer) -> keras.Model:
    """Two dense layers and what stands between them."""
    model = keras.Sequential(
        [
            keras.layers.Input((5,)),
            keras.layers.Dense(units, activation="relu"),
            *middle,
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", metrics=["accuracy"])
    return model


def one_structure(hp: kt.HyperParameters) -> keras.Model:
    """Trials differ in a number that is written into the steps, and in one that is state."""
    return model_of(hp, 4, keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5)))


def two_structures(hp: kt.HyperParameters) -> keras.Model:
    """Trials differ in the width of a layer, and in the learning rate, which is state."""
    return model_of(hp, hp.Choice("units", [4, 8]))


def count_everything() -> None:
    """Begins to count: JAX's compilations, the population's programs, their calls and its traces, and commits."""

    def connect(*arguments: Any, original: Any = sqlite3.connect, **options: Any) -> sqlite3.Connection:
        connection = original(*arguments, **options)
        connection.set_trace_callback(lambda statement: COUNTS.update(["commits"] * (statement == "COMMIT")))
        return connection

    def compiled_from(*arguments: Any, original: Any = compiling.compiled_from, **options: Any) -> Any:
        found = original(*arguments, **options)
        COUNTS["programs"] += 1

        def call(*given: Any) -> Any:
            COUNTS["device calls"] += 1
            return found.call(*given)

        return dataclasses.replace(found, call=call)

    def canonical_form(closed: Any, original: Any = tracing.canonical_form) -> Any:
        COUNTS["traces"] += 1
        return original(closed)

    def listen(event: str, seconds: float, **_: Any) -> None:
        COUNTS["compilations of JAX"] += event == "/jax/core/compile/backend_compile_duration"

    sqlite3.connect = connect  # type: ignore[misc, assignment]
    compiling.compiled_from = compiled_from
    tracing.canonical_form = canonical_form
    jax.monitoring.register_event_duration_secs_listener(listen)


def counted(action: Any) -> dict[str, int]:
    """What an action took."""
    COUNTS.clear()
    action()
    return dict(COUNTS)


def main(folder: str) -> dict[str, Any]:
    """Counts of a search over one structure, over two, and of confirming the winners of that one."""
    count_everything()
    found = {}
    for name, build in (("one structure", one_structure), ("two structures", two_structures)):
        tuner = kt.RandomSearch(build, "val_loss", max_trials=16, seed=0, directory=folder, project_name=name)
        found[name] = counted(lambda tuner=tuner: tuner.search(X, Y, **FIT))
        found[f"members of {name}"] = sorted(record.members for record in tuner.programs().records)
    # The least that is allowed: three seeds of each finalist and the runs that prove, whatever the race between them.
    found["confirm"] = counted(lambda: tuner.confirm(3, max_executions=14))
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
