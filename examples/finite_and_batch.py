"""Two things to look at: eight configurations with a budget of a hundred, and sixteen proposals at once.

python examples/finite_and_batch.py
"""

from __future__ import annotations

import manyfit as kt  # isort: skip

import tempfile

import keras
import numpy as np

from manyfit.core.records import Ending, Observation
from manyfit.samplers.gp.sampler import GaussianProcessSampler


def build(hp: kt.HyperParameters) -> keras.Model:
    """Two widths, two activations, two learning rates: eight configurations."""
    hidden = keras.layers.Dense(hp.Choice("units", [2, 8]), hp.Choice("activation", ["relu", "tanh"]))
    model = keras.Sequential([keras.Input((2,)), hidden, keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(hp.Choice("learning_rate", [0.002, 0.03])), "binary_crossentropy")
    return model


def eight_configurations() -> None:
    """Each is tried; what is left of the budget goes to the contenders until their order is settled."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (600, 2)).astype("float32")
    y = (np.hypot(*x.T) < 0.75).astype("float32")
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.BayesianOptimization(build, "val_loss", max_trials=100, seed=0, directory=folder)
        tuner.search(x, y, validation_split=0.5, epochs=15, batch_size=32, verbose=0)
        rows = [
            {**trial.hyperparameters.values, "executions": len(trial.scores), "val_loss": trial.score}
            for trial in tuner.oracle.get_best_trials(8)
        ]
        print(kt.table(rows, ["units", "activation", "learning_rate", "executions", "val_loss"]))
        tuner.results_summary(0)


def sixteen_at_once() -> None:
    """Sixteen proposals for a bowl with its minimum at (0.7, 0.35), of which twelve random points are known."""
    space = kt.HyperParameters()
    space.Float("x", 0.0, 1.0)
    space.Float("y", 0.0, 1.0)
    points = np.random.default_rng(2).random((12, 2))
    history = [
        Observation(str(i), {"x": x, "y": y}, Ending.COMPLETED, ((x - 0.7) ** 2 + (y - 0.35) ** 2,))
        for i, (x, y) in enumerate(points.tolist())
    ]
    proposals = GaussianProcessSampler().propose(space, history, [], 16, np.random.default_rng(3))
    picture = [["."] * 41 for _ in range(21)]
    for mark, values in [("o", each.values) for each in history] + [("#", values) for values in proposals]:
        picture[20 - round(20 * float(values["y"]))][round(40 * float(values["x"]))] = mark
    print("\no: known, #: proposed together; the minimum is at x = 0.7, y = 0.35")
    print("\n".join("".join(row) for row in picture))
    print(kt.table(proposals, ["x", "y"]))


if __name__ == "__main__":
    eight_configurations()
    sixteen_at_once()
