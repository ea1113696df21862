"""A search in TensorBoard: one run per execution, and all hyperparameters in the HParams dashboard.

Run it with `python examples/guides/visualize_tuning.py [folder]`, then `tensorboard --logdir guides/logs`. It needs
`pip install manyfit[tensorboard]`.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX

import sys
from pathlib import Path

import keras
from sklearn.datasets import load_digits

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "guides")


def build_model(hp):
    """A network with a choice, a number and a switch, so that the dashboard has something to show."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(16, activation=hp.Choice("activation", ["relu", "tanh"])),
            keras.layers.Dropout(0.2 if hp.Boolean("dropout") else 0.0),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def main():
    """Searches with a TensorBoard callback, and says what lies where."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    logs = FOLDER / "logs"
    tuner = kt.RandomSearch(
        build_model, "val_accuracy", max_trials=3, seed=0, overwrite=True, directory=FOLDER, project_name="visualize"
    )
    tuner.search(
        x[:1000],
        y[:1000],
        validation_data=(x[1000:], y[1000:]),
        epochs=3,
        callbacks=[keras.callbacks.TensorBoard(logs)],
        verbose=0,
    )
    for trial in tuner.oracle.get_best_trials(3):
        runs = sorted(path.name for path in (logs / trial.trial_id / "execution0").iterdir() if path.is_dir())
        print(
            f"{logs}/{trial.trial_id}/execution0 ({', '.join(runs)}): {trial.score:.3f} {trial.hyperparameters.values}"
        )
    print(f"Look at them with: tensorboard --logdir {logs}")


if __name__ == "__main__":
    main()
