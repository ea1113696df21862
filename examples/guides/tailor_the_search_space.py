"""Someone else's hypermodel, with a search space of one's own: fix, narrow and replace what it tunes.

Run it with `python examples/guides/tailor_the_search_space.py [folder]`.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX

import sys

import keras
import numpy as np

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "guides"
ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
LABELS = (ROWS[:, 0] > 0).astype("int32")


def build_model(hp):
    """A ready-made hypermodel that we do not want to touch."""
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(hp.Int("units", 4, 64, step=4), activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1)),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    optimizer = keras.optimizers.get(hp.Choice("optimizer", ["adam", "sgd"]))
    optimizer.learning_rate = hp.Float("learning_rate", 1e-4, 1e-1, sampling="log")
    model.compile(optimizer, loss=hp.Choice("loss", ["binary_crossentropy", "mse"]), metrics=["accuracy"])
    return model


def search(name, hp, **arguments):
    """Searches with some of the space given, and shows what was tried."""
    tuner = kt.RandomSearch(
        build_model,
        "val_accuracy",
        max_trials=2,
        seed=0,
        hyperparameters=hp,
        overwrite=True,
        directory=FOLDER,
        project_name=name,
        **arguments,
    )
    tuner.search(ROWS, LABELS, validation_split=0.25, epochs=1, verbose=0)
    for trial in tuner.oracle.trials.values():
        print(f"  {trial.hyperparameters.values}")


def main():
    """Four ways to tailor a space."""
    print("Only the learning rate is tuned, the rest stays at its defaults:")
    hp = kt.HyperParameters()
    hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
    search("learning_rate_only", hp, tune_new_entries=False)

    print("The learning rate is fixed, the rest is tuned:")
    hp = kt.HyperParameters()
    hp.Fixed("learning_rate", 1e-3)
    search("learning_rate_fixed", hp)

    print("Fewer units, another optimizer; whatever else comes up is an error:")
    hp = kt.HyperParameters()
    hp.Int("units", 4, 8, step=4)
    hp.Float("dropout", 0.0, 0.5, step=0.1)
    hp.Choice("optimizer", ["rmsprop", "adam"])
    hp.Float("learning_rate", 1e-3, 1e-2, sampling="log")
    hp.Fixed("loss", "binary_crossentropy")
    search("own_ranges", hp, allow_new_entries=False)

    print("Compiled by the tuner, not by the hypermodel:")
    search("own_compilation", None, optimizer=keras.optimizers.Adam(1e-2), loss="mse", metrics=["accuracy"])


if __name__ == "__main__":
    main()
