"""From rows to a winner on handwritten digits: one call, one limit, one look at the test rows.

python examples/workflow.py                                   # the digits that ship with scikit-learn
python examples/workflow.py --data mnist [--data-dir FOLDER]  # MNIST: Keras's, or FOLDER/mnist.npz
python examples/workflow.py --seconds 300
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
        optimizer=hp.Choice("optimizer", ["adam", "rmsprop"]),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-dir", help="folder with mnist.npz")
    parser.add_argument("--seconds", type=float, default=60, help="from the call to the winner")
    parser.add_argument("--directory", default="demo_project")
    arguments = parser.parse_args()

    mnist = arguments.data == "mnist"
    (x, y), (x_test, y_test) = load_mnist(arguments.data_dir) if mnist else load_digits()
    print(f"{arguments.data}: {len(x)} rows, and {len(x_test)} test rows that nothing looks at before the end")

    tuner = kt.Search(
        build_model,
        "val_accuracy",
        seed=0,
        directory=arguments.directory,
        project_name=arguments.data,
        overwrite=True,
    )
    tuner.search_space_summary()
    winner = tuner.fit(x, y, max_seconds=arguments.seconds, batch_size=128 if mnist else 32, verbose=0)
    tuner.results_summary(num_trials=4)
    print(f"\n{winner}\n")

    # The one look at the test rows, at the one model that comes out. What was chosen before was chosen without them.
    print(winner.evaluate(x_test, y_test))
    path = winner.save(pathlib.Path(arguments.directory) / "winner.keras")
    print(f"\nSaved {path}: it loads without manyfit, and kt.load_winner({str(path)!r}) knows what is printed above.")


if __name__ == "__main__":
    main()
