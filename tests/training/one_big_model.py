"""One model over all devices; run as a program, it prints what became of it. Arguments: process, processes, port."""

import json
import sys
import tempfile
from typing import Any

import keras
import numpy as np

import manyfit as kt

RNG = np.random.default_rng(3)
X = RNG.normal(size=(64, 4)).astype("float32")
Y = (X[:, :1] - X[:, 1:2]).astype("float32")
ARGUMENTS: dict[str, Any] = {"epochs": 2, "shuffle": False, "verbose": 0}


def build(hp: kt.HyperParameters) -> keras.Model:
    """A small regression."""
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(8, activation="tanh", name="inner"), keras.layers.Dense(1, name="outer")]
    )
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 0.01, 0.1)), loss="mse")
    return model


def tuner(devices: Any, **options: Any) -> kt.RandomSearch:
    """A search in a new folder of the current one."""
    folder = tempfile.mkdtemp(dir=".")
    return kt.RandomSearch(build, "loss", max_trials=2, seed=0, directory=folder, devices=devices, **options)


def curves(devices: Any, x: Any = X, y: Any = Y, batch_size: int = 16) -> list[float]:
    """Losses of all epochs of a search."""
    found = tuner(devices)
    found.search(x, y, batch_size=batch_size, **ARGUMENTS)
    return [point["loss"] for point in found.results().curves]


def sharded(rule: str) -> Any:
    """A distribution that divides one kernel between four devices."""
    mesh = keras.distribution.DeviceMesh((2, 4), ("batch", "model"), keras.distribution.list_devices())
    layouts = keras.distribution.LayoutMap(mesh)
    layouts[rule] = (None, "model")
    return keras.distribution.ModelParallel(layout_map=layouts, batch_dim_name="batch")


def message(action: Any) -> str:
    """What an action that must fail says."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def on_eight_devices() -> dict[str, Any]:
    """What a process with eight devices finds."""
    found = tuner(None)
    found.search(X, Y, batch_size=16, **ARGUMENTS)
    [model] = found.retrain(1, devices=sharded(".*inner/kernel"), callbacks=[])
    kernel = model.get_layer("inner").kernel.value
    return {
        "alone": [point["loss"] for point in found.results().curves],
        "data_parallel": curves("data_parallel"),
        "model_parallel": curves(sharded(".*inner/kernel")),
        "share": kernel.addressable_shards[0].data.shape,
        "idle rule": message(lambda: curves(sharded("inner/kernel"))),
        "uneven": message(lambda: curves("data_parallel", batch_size=12)),
        "scope": str(keras.distribution.distribution()),
    }


def of_one_process(process: int, processes: int, port: str) -> dict[str, Any]:
    """What one of several processes finds, each with its own part of every batch."""
    import jax

    jax.distributed.initialize(f"127.0.0.1:{port}", processes, process)
    share = 16 // processes
    own = np.concatenate(
        [np.arange(start + process * share, start + (process + 1) * share) for start in range(0, 64, 16)]
    )
    return {"devices": jax.device_count(), "losses": curves("data_parallel", X[own], Y[own], batch_size=share)}


def mirrored() -> dict[str, Any]:
    """What `tf.distribute` makes of the same search."""
    import tensorflow as tf

    cpus = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpus[0], [tf.config.LogicalDeviceConfiguration()] * 2)
    found = {}
    for name, strategy in (("mirrored", tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])), ("alone", None)):
        searched = tuner(None, distribution_strategy=strategy)
        searched.search(X, Y, batch_size=16, **ARGUMENTS)
        [model] = searched.retrain(1, verbose=0)
        variable = type(model.get_layer("inner").kernel.value).__name__
        found[name] = {"losses": [point["loss"] for point in searched.results().curves], "variable": variable}
    return found


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if keras.backend.backend() == "tensorflow":
        answer = mirrored()
    elif arguments:
        answer = of_one_process(int(arguments[0]), int(arguments[1]), arguments[2])
    else:
        answer = on_eight_devices()
    print(json.dumps(answer))
