"""Makes the projects in this folder with the real KerasTuner 1.4.8: ``KERAS_BACKEND=jax python make.py``.

They are small, and kept as they were written, weights included; `test_old_projects.py` opens copies of them.
"""

import re
import sys
from pathlib import Path

import keras
import keras_tuner as kt
import numpy as np

HERE = Path(__file__).parent


def build(hp):
    """A linear model with a few hyperparameters of all kinds."""
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(hp.Int("units", 1, 3)), keras.layers.Dense(1)])
    kind = hp.Choice("optimizer", ["sgd", "adam"])
    with hp.conditional_scope("optimizer", ["sgd"]):
        hp.Float("momentum", 0.0, 0.9, step=0.3)
    hp.Boolean("flag")
    hp.Fixed("batch", 4)
    optimizer = keras.optimizers.SGD(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"))
    model.compile(optimizer, "mse", metrics=["mae"])
    assert kind in ("sgd", "adam")
    return model


def data():
    """Eight rows to train on, eight to validate on."""
    x = np.linspace(-1, 1, 32).reshape(16, 2)
    y = x.sum(axis=1, keepdims=True)
    return x[:8], y[:8], (x[8:], y[8:])


def search(tuner, **arguments):
    x, y, validation_data = data()
    tuner.search(x, y, validation_data=validation_data, verbose=0, **arguments)
    best = tuner.get_best_models(1)[0]
    loss = best.evaluate(*validation_data, verbose=0, return_dict=True)["loss"]
    print(tuner.project_name, tuner.oracle.get_best_trials(1)[0].trial_id, loss)


class Breaks(kt.RandomSearch):
    """Its trial 1 fails, and the search is interrupted within trial 3."""

    def run_trial(self, trial, *args, **kwargs):
        if trial.trial_id.endswith("1"):
            raise kt.errors.FailedTrialError("made to fail")
        if trial.trial_id.endswith("3"):
            raise KeyboardInterrupt
        return super().run_trial(trial, *args, **kwargs)

    def get_state(self):
        return {"note": "kept by a subclass"}


def main():
    common = {"objective": "val_loss", "directory": HERE, "overwrite": True, "seed": 7}
    search(kt.RandomSearch(build, max_trials=3, executions_per_trial=2, project_name="random", **common), epochs=2)
    search(kt.BayesianOptimization(build, max_trials=4, project_name="bayesian", **common), epochs=1)
    search(kt.GridSearch(build, max_trials=3, project_name="grid", **common), epochs=1)
    search(kt.Hyperband(build, max_epochs=3, project_name="hyperband", **common))
    tuner = Breaks(build, max_trials=6, project_name="interrupted", **common)
    try:
        search(tuner, epochs=1)
    except KeyboardInterrupt:
        print("interrupted")
    for file in HERE.glob("*/trial_*/checkpoint.weights.h5"):  # those of two trials say enough
        if f"{file.parts[-3]}/{file.parts[-2]}" not in ("random/trial_1", "interrupted/trial_0"):
            file.unlink()
    for file in HERE.glob("*/trial_*/trial.json"):  # tracebacks name this machine's folders
        file.write_text(re.sub(r'File \\"/[^"]*/', r'File \\"/', file.read_text()))


if __name__ == "__main__":
    sys.exit(main())
