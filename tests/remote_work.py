"""What tests send to workers: a worker imports this module, so it lies where both sides find it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import manyfit as kt  # isort: skip

import keras
import numpy as np
from sklearn.tree import DecisionTreeClassifier

from manyfit.core.limits import held_bytes


def build(hp):
    """A small classifier of three features."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(hp.Int("units", 1, 4), activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 0.3)),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def rows(count: int = 24):
    """Rows of three features, and a label that a line separates."""
    x = np.random.default_rng(0).normal(size=(count, 3)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def space() -> kt.HyperParameters:
    """One number from 0 to 1."""
    hp = kt.HyperParameters()
    hp.Float("a", 0.0, 1.0)
    return hp


class Numbers(kt.RandomSearch):
    """Trials that are a formula, and that wait, leak, kill or raise where a subclass says."""

    def run_trial(self, trial, *args, **kwargs):
        return {"loss": trial.hyperparameters.get("a"), "pid": os.getpid()}


class Devices(Numbers):
    """Says which accelerators a trial may use."""

    def run_trial(self, trial, *args, **kwargs):
        time.sleep(0.3)
        names = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        share = float(os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "0"))
        return {"loss": 0.0, "pid": os.getpid(), "devices": len(names.split(",")), "share": share}


class Leaking(kt.GridSearch):
    """Trials that never give back what they took."""

    held: ClassVar[list[np.ndarray]] = []

    def run_trial(self, trial, *args, **kwargs):
        self.held.append(np.ones(trial.hyperparameters.get("megabytes") << 17))
        if trial.hyperparameters.get("megabytes") >= 1500:
            time.sleep(200)  # until who watches the memory has ended this process
        held = sum(array.nbytes for array in self.held)
        return {"loss": 0.0, "pid": os.getpid(), "held_megabytes": held >> 20}


class Littering(kt.GridSearch):
    """Trials that leave what nobody can reach any more, and say what their process held before and meanwhile."""

    def run_trial(self, trial, *args, **kwargs):
        held = held_bytes()
        megabytes = trial.hyperparameters.get("megabytes")
        cycle: list[object] = [np.ones(megabytes << 16), [bytes(900) for _ in range(megabytes << 9)]]
        cycle.append(cycle)
        used = held_bytes() - held
        return {"loss": 0.0, "pid": os.getpid(), "held_megabytes": held >> 20, "used_megabytes": used >> 20}


class Killing(keras.callbacks.Callback):
    """Kills its process with SIGKILL in an epoch, as often as there are no files yet to remember it.

    Args:
        folder: where it remembers.
        epoch: in which epoch.
        times: how often.
    """

    def __init__(self, folder: str, epoch: int = 1, times: int = 1) -> None:
        super().__init__()
        self.folder, self.epoch, self.times = folder, epoch, times

    def on_epoch_begin(self, epoch, logs=None):
        if epoch != self.epoch:
            return
        for number in range(self.times):
            mark = Path(self.folder) / f"killed-{number}"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)


class WaitingFor(keras.callbacks.Callback):
    """Waits in the middle of every execution until a file is there.

    Args:
        path: of the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def on_epoch_begin(self, epoch, logs=None):
        until = time.monotonic() + 200
        while epoch == 2 and not Path(self.path).exists() and time.monotonic() < until:
            time.sleep(0.1)


class CountingBatches(kt.RandomSearch):
    """Notes in a folder which process trained which trial on how many batches."""

    folder: str = ""

    def on_batch_end(self, trial, model, batch, logs=None):
        with (Path(self.folder) / f"{os.getpid()}-{trial.trial_id}").open("a", encoding="ascii") as file:
            file.write(".")


def estimator(hp):
    """A tree of scikit-learn's."""
    return DecisionTreeClassifier(max_depth=hp.Int("max_depth", 1, 4), random_state=0)
