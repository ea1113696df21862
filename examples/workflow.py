"""The whole workflow on handwritten digits: search, retrain the winners on all data, ensemble, measure once.

python examples/workflow.py                                  # the digits that ship with scikit-learn
python examples/workflow.py --data mnist [--data-dir FOLDER]  # MNIST: Keras's, or FOLDER/mnist.npz
"""

import argparse
import pathlib

import manyfit as kt  # isort: skip  # before Keras: it chooses the JAX backend where nobody has chosen one

import keras
import numpy as np


def load_digits():
    from sklearn.datasets import load_digits as digits

    x, y = digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    return (x[:1437], y[:1437]), (x[1437:], y[1437:])


def load_mnist(folder):
    if folder:
        with np.load(pathlib.Path(folder) / "mnist.npz") as file:
            (x, y), (x_test, y_test) = (file["x_train"], file["y_train"]), (file["x_test"], file["y_test"])
    else:
        (x, y), (x_test, y_test) = keras.datasets.mnist.load_data()
    flat = [(images.reshape(len(images), -1) / 255).astype("float32") for images in (x, x_test)]
    return (flat[0], y.astype("int32")), (flat[1], y_test.astype("int32"))


def build_model(hp):
    model = keras.Sequential(
        [
            keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=hp.Choice("optimizer", ["rmsprop", "adam"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-dir", help="folder with mnist.npz")
    parser.add_argument("--epochs", type=int, help="most epochs of a trial")
    arguments = parser.parse_args()

    mnist = arguments.data == "mnist"
    (x_full, y_full), (x_test, y_test) = load_mnist(arguments.data_dir) if mnist else load_digits()
    num_train = int(len(x_full) * 5 / 6)
    x_train, y_train, x_val, y_val = x_full[:num_train], y_full[:num_train], x_full[num_train:], y_full[num_train:]
    print(f"{arguments.data}: {len(x_train)} training, {len(x_val)} validation, {len(x_test)} test rows")

    tuner = kt.RandomSearch(
        build_model,
        objective="val_accuracy",
        max_trials=100,  # the space has 8 configurations: the search ends when all are tried
        executions_per_trial=2,
        seed=0,
        directory="demo_project",
        project_name=arguments.data,
        overwrite=True,
    )
    tuner.search_space_summary()
    tuner.search(
        x_train,
        y_train,
        epochs=arguments.epochs or (30 if mnist else 100),
        batch_size=128 if mnist else 32,
        validation_data=(x_val, y_val),
        callbacks=[keras.callbacks.EarlyStopping(monitor="val_loss", patience=10)],
        verbose=0,
    )
    tuner.results_summary(num_trials=4)

    models = tuner.retrain(top=4, x=x_full, y=y_full, verbose=0)
    print(f"\nRetrained:\n{models}")
    ensemble = tuner.ensemble(models)  # chooses among many methods, by cross-fitting on the validation rows
    print(f"\n{ensemble}\n")

    # The one look at the test rows, at the one model that comes out. What was chosen before was chosen without them.
    print(tuner.evaluate(x_test, y_test, models={"ensemble": ensemble}))
    folder = tuner.export("demo_project/winner", ensemble, overwrite=True)
    print(f"\nSaved {folder}: model.keras loads without manyfit, README.md is its card.")


if __name__ == "__main__":
    main()
