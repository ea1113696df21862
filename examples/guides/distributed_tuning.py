"""Distributed tuning: further processes of this machine, or a cluster, are one argument; nothing else changes.

KerasTuner started a chief and its workers by hand, told apart by environment variables. Here one program runs: it keeps
the project, and hands trials to its workers. On a Ray cluster the argument is `executor=kt.RayExecutor("auto")`.

Run it with `python examples/guides/distributed_tuning.py [folder]`; scikit-learn brings the data.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX

import sys

import keras
from sklearn.datasets import load_digits

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "guides"


def build_model(hp):
    """A build function as everywhere: workers get it sent."""
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"),
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
    """The same search in this process and on two workers: the same trials with the same seeds."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    scores = {}
    for name, executor in {"this process": None, "two workers": kt.ProcessExecutor(workers=2)}.items():
        tuner = kt.RandomSearch(
            build_model,
            "val_accuracy",
            max_trials=2,
            seed=0,
            executor=executor,
            overwrite=True,
            directory=FOLDER,
            project_name=name.replace(" ", "_"),
        )
        tuner.search(x[:1000], y[:1000], validation_data=(x[1000:], y[1000:]), epochs=2, verbose=0)
        scores[name] = {trial.trial_id: round(trial.score, 3) for trial in tuner.oracle.trials.values()}
        print(f"{name}: {scores[name]}")
    print(f"The best trial: {tuner.get_best_hyperparameters(1)[0].values}")


if __name__ == "__main__":
    main()
