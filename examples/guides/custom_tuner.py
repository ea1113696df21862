"""A tuner of one's own: `run_trial` with a training loop that is written by hand, and metrics that it measures itself.

Run it with `python examples/guides/custom_tuner.py [folder]`; scikit-learn brings the data.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX

import sys

import keras
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "guides"


def build_model(hp):
    """A small network; the loop below does the training, so nothing but the loss matters of `compile`."""
    model = keras.Sequential(
        [
            keras.Input((30,)),
            keras.layers.Dense(hp.Int("units", 4, 16, step=4), activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")), "binary_crossentropy")
    return model


class LoopTuner(kt.BayesianOptimization):
    """Trains batch by batch, keeps the best epoch's weights, and returns a metric of its own."""

    def run_trial(self, trial, x, y, x_val, y_val, epochs=3):
        hp = trial.hyperparameters
        model = self.hypermodel.build(hp)
        batch_size = hp.Int("batch_size", 32, 64, step=32)
        best = 0.0
        for epoch in range(epochs):
            order = np.random.permutation(len(x))  # noqa: NPY002 - the tuner sets the seed of each trial
            for start in range(0, len(x), batch_size):
                rows = order[start : start + batch_size]
                model.train_on_batch(x[rows], y[rows])
            recall = self.worst_recall(model, x_val, y_val)
            if recall > best:
                best = recall
                self.save_model(trial.trial_id, model, step=epoch)
        return {"worst_recall": best}

    @staticmethod
    def worst_recall(model, x, y):
        """The recall of the class that fares worse: what a clinic would look at."""
        predicted = model.predict(x, verbose=0)[:, 0] > 0.5
        return float(min(np.mean(predicted[y == label] == label) for label in (0, 1)))


def main():
    """Searches by a metric that Keras does not know."""
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x).astype("float32")

    tuner = LoopTuner(
        build_model,
        kt.Objective("worst_recall", "max"),
        max_trials=3,
        seed=0,
        overwrite=True,
        directory=FOLDER,
        project_name="custom_tuner",
    )
    tuner.search(x[:400], y[:400], x[400:], y[400:], epochs=3)

    trial = tuner.oracle.get_best_trials(1)[0]
    model = tuner.get_best_models(1)[0]
    print(f"\nBest recall of the class that fares worse: {trial.score:.1%} with {trial.hyperparameters.values}")
    print(f"Measured again with the weights that were kept: {tuner.worst_recall(model, x[400:], y[400:]):.1%}")


if __name__ == "__main__":
    main()
