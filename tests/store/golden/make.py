"""Makes the projects in `golden/<version>/` with the Manyfit that is installed: ``KERAS_BACKEND=jax python make.py``.

Run once per release, by hand, from the released code; what it wrote is never written again. `test_golden.py` opens
copies of every version's projects, compares them with the numbers in `recorded.json`, and lets the searches go on.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import sys
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np

HERE = Path(__file__).parent

#: Epochs that began, in order. The interrupted search dies when there are so many of them.
BEGUN: list[int] = []
EPOCHS_UNTIL_DEATH: list[int] = []


class Epochs(keras.callbacks.Callback):
    """Writes down which epochs are trained; stands for a callback of the user, whose attributes are stored."""

    def __init__(self):
        super().__init__()
        self.num_batches = 0

    def on_epoch_begin(self, epoch, logs=None):
        BEGUN.append(epoch)
        if EPOCHS_UNTIL_DEATH and len(BEGUN) > EPOCHS_UNTIL_DEATH[0]:
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch, logs=None):
        self.num_batches += 1


def build(hp):
    """A classifier with hyperparameters of all kinds, one of them under a condition; some configurations fail."""
    units = hp.Int("units", 1, 6)
    if units == 2:
        raise kt.errors.FailedTrialError("two units never work")
    layers = [keras.Input((3,)), keras.layers.Dense(units, activation=hp.Choice("activation", ["relu", "tanh"]))]
    if hp.Boolean("dropout"):
        layers.append(keras.layers.Dropout(0.1))
    model = keras.Sequential([*layers, keras.layers.Dense(hp.Fixed("outputs", 1), activation="sigmoid")])
    rate, momentum = hp.Float("learning_rate", 1e-2, 0.3, sampling="log"), 0.0
    kind = hp.Choice("optimizer", ["sgd", "adam"])
    with hp.conditional_scope("optimizer", ["sgd"]):
        if kind == "sgd":
            momentum = hp.Float("momentum", 0.0, 0.9, step=0.3)
    optimizer = keras.optimizers.Adam(rate) if kind == "adam" else keras.optimizers.SGD(rate, momentum)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    return model


def data():
    """32 rows to train on, 16 to validate on."""
    x = np.random.default_rng(5).normal(size=(48, 3)).astype("float32")
    y = (x[:, 0] * x[:, 1] > 0).astype("int32")
    return {"x": x[:32], "y": y[:32], "validation_data": (x[32:], y[32:]), "verbose": 0}


def bayesian(folder, **arguments):
    """Two executions per trial; configurations that fail (2 units) and that are too large (6 units)."""
    settings = {
        "max_trials": 8,
        "num_initial_points": 4,
        "executions_per_trial": 2,
        "max_model_size": 30,
        "seed": 27,
        "population": False,
    }
    settings |= {"max_consecutive_failed_trials": 8, "num_kept_models": 3, **arguments}
    return kt.BayesianOptimization(build, "val_loss", directory=folder, project_name="bayesian", **settings)


def hyperband(folder, **arguments):
    """Trials train one after another; interrupted, with paused ones."""
    settings = {"max_epochs": 9, "factor": 3, "max_trials": 6, "seed": 3, "population": False, **arguments}
    return kt.Hyperband(build, "val_loss", directory=folder, project_name="hyperband", **settings)


def asha(folder, **arguments):
    """Trials train in a population; interrupted, with paused ones."""
    settings = {"max_trials": 9, "seed": 4, "population_size": 2, "scheduler": kt.ASHA(9, 3), **arguments}
    return kt.RandomSearch(build, "val_loss", directory=folder, project_name="asha", **settings)


def facts(tuner):
    """What a project says of its search, for comparison."""
    return {
        "rows": [row.flat() | {"message": last_line(row.message)} for row in tuner.results()],
        "curves": tuner.results().curves,
        "trials": {
            trial_id: [trial.status, str(trial.ending or ""), trial.score, trial.best_step, last_line(trial.message)]
            for trial_id, trial in tuner.oracle.trials.items()
        },
        "ranking": [trial.trial_id for trial in tuner.oracle.get_best_trials(20)],
        "best values": [dict(hp.values) for hp in tuner.get_best_hyperparameters(3)],
    }


def last_line(message):
    """Of a message that may be a traceback."""
    return message and message.strip().splitlines()[-1]


def evaluated(tuner):
    """The loss of the best model, loaded from its kept weights."""
    loss = tuner.get_best_models(1)[0].evaluate(*data()["validation_data"], verbose=0, return_dict=True)["loss"]
    return float(loss)


def interrupted(tuner, **arguments):
    """A search that dies; what had been paused stays paused."""
    try:
        tuner.search(**data(), **arguments)
    except KeyboardInterrupt:
        return
    raise AssertionError("the search came to its end")


class Dies:
    """A build function that dies when it is called too often."""

    def __init__(self, num_calls):
        self.left = num_calls

    def __call__(self, hp):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return build(hp)


def without_paths(file):
    """Cuts the folders of this machine from tracebacks that a project has stored."""
    connection = sqlite3.connect(file)
    for table, key in (("trials", "id"), ("executions", "trial_id, phase, attempt, execution")):
        for *row, outcome in connection.execute(f"SELECT {key}, outcome FROM {table}").fetchall():
            where = " AND ".join(f"{name} = ?" for name in key.split(", "))
            short = re.sub(r'File \\"/[^"]*/', r'File \\"/', outcome)
            connection.execute(f"UPDATE {table} SET outcome = ? WHERE {where}", (short, *row))
    connection.commit()
    connection.execute("VACUUM")
    connection.close()


def main():
    version = kt.__version__
    folder = HERE / version
    if folder.exists():
        sys.exit(f"{folder} is there, and stays as it was written.")
    recorded = {"versions": {"manyfit": version, "keras": keras.__version__}}
    tuner = bayesian(folder)
    tuner.search(**data(), epochs=3)
    confirmation = tuner.confirm(2, max_executions=12)
    recorded["confirmation"] = {
        "recommended": confirmation.recommended.trial_id,
        "score": confirmation.score,
        "rounds": confirmation.rounds,
        "executions": confirmation.num_executions,
        "rows": [[row.trial_id, row.score, row.num_executions, row.in_winning_set] for row in confirmation.rows],
    }
    recorded["bayesian"] = facts(tuner) | {"best model": evaluated(tuner)}
    ensemble = tuner.ensemble(tuner.get_best_models(2), method="uniform")
    ensemble.save(folder / "ensemble")
    recorded["ensemble"] = np.asarray(ensemble.predict(data()["x"])).tolist()
    tuner.close()

    tuner = hyperband(folder)
    EPOCHS_UNTIL_DEATH.append(9)
    interrupted(tuner, callbacks=[Epochs()])
    EPOCHS_UNTIL_DEATH.clear()
    tuner.close()
    tuner = hyperband(folder)  # what was running when it died is told as a later process sees it
    recorded["hyperband"] = facts(tuner)
    tuner.close()

    tuner = asha(folder)
    tuner.hypermodel.build = Dies(6)
    interrupted(tuner)
    tuner.close()
    tuner = asha(folder)
    recorded["asha"] = facts(tuner)
    tuner.close()

    for name in ("manyfit.lock", "manyfit.holder.json"):  # they name this machine
        for file in folder.glob(f"*/{name}"):
            file.unlink()
    for file in folder.glob("*/manyfit.sqlite"):
        without_paths(file)
    (folder / "recorded.json").write_text(json.dumps(recorded, separators=(",", ":")) + "\n")
    for file in sorted(folder.rglob("*")):
        print(file.relative_to(folder), file.stat().st_size)


if __name__ == "__main__":
    shutil.rmtree(HERE / kt.__version__, ignore_errors=True) if "--again" in sys.argv else None
    main()
