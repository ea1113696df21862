"""Getting started: a search space, a search, its best model, and what else can be tuned: batch size and epochs.

Run it with `python examples/guides/getting_started.py [folder]`; scikit-learn brings the data.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX
# With `import keras_tuner as kt` here, run it under `python -m manyfit.compat`.

import sys

import keras
import numpy as np
from sklearn.datasets import load_digits

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "guides"


def load():
    """The digits of scikit-learn, 8 by 8 pixels: training, validation and test rows."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32")
    return (images[:1000], labels[:1000]), (images[1000:1400], labels[1000:1400]), (images[1400:], labels[1400:])


def build_model(hp):
    """A network whose depth, width and learning rate are open."""
    model = keras.Sequential([keras.Input((64,))])
    for layer in range(hp.Int("num_layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Int(f"units_{layer}", 16, 32, step=16), activation="relu"))
    if hp.Boolean("dropout"):
        model.add(keras.layers.Dropout(0.25))
    model.add(keras.layers.Dense(10, activation="softmax"))
    model.compile(
        keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


class TunedTraining(kt.HyperModel):
    """A `HyperModel` can tune how it is trained, too."""

    def build(self, hp):
        return build_model(hp)

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.Choice("batch_size", [32, 64]), **kwargs)


def main():
    """Searches, then trains the best configuration on all rows but the test rows."""
    train, validation, test = load()

    tuner = kt.RandomSearch(
        build_model, "val_accuracy", max_trials=3, seed=1, overwrite=True, directory=FOLDER, project_name="started"
    )
    tuner.search_space_summary()
    tuner.search(*train, epochs=3, validation_data=validation, verbose=0)
    tuner.results_summary(2)

    best = tuner.get_best_models(1)[0]
    _, accuracy = best.evaluate(*test, verbose=0)
    print(f"\nThe best model of the search, on test rows: {accuracy:.1%} correct")

    model = build_model(tuner.get_best_hyperparameters(1)[0])
    x, y = np.concatenate([train[0], validation[0]]), np.concatenate([train[1], validation[1]])
    model.fit(x, y, epochs=3, verbose=0)
    print(f"Its configuration, trained on all other rows: {model.evaluate(*test, verbose=0)[1]:.1%} correct")

    tuner = kt.RandomSearch(
        TunedTraining(), "val_accuracy", max_trials=2, seed=2, overwrite=True, directory=FOLDER, project_name="training"
    )
    tuner.search(*train, epochs=2, validation_data=validation, verbose=0)
    print(f"With the batch size tuned as well: {tuner.get_best_hyperparameters(1)[0].values}")


if __name__ == "__main__":
    main()
