"""Trials that fail: what is retried, what is skipped, what ends the search, and where the reasons are.

Run it with `python examples/guides/failed_trials.py [folder]`.
"""

import manyfit as kt  # isort: skip  # before Keras: it chooses JAX

import sys

import keras
import numpy as np

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "guides"
ROWS = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
LABELS = (ROWS.sum(axis=1) > 0).astype("int32")


def build_model(hp):
    """Raises an error in one configuration, and is of no use in another."""
    units = hp.Choice("units", [4, 8, 256])
    if hp.Choice("kind", ["plain", "broken"]) == "broken":
        if units == 4:
            raise kt.FailedTrialError("4 units cannot be broken")  # known to be of no use: no retry, no traceback
        raise ValueError(f"{units} units are broken")
    model = keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(units, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    )
    model.compile("adam", "binary_crossentropy")
    return model


def main():
    """Searches a space that is half broken."""
    tuner = kt.GridSearch(
        build_model,
        "val_loss",
        max_retries_per_trial=1,  # an error may have been bad luck
        max_consecutive_failed_trials=3,  # but not three in a row
        max_model_size=1000,  # larger models are skipped before they train
        overwrite=True,
        directory=FOLDER,
        project_name="failed_trials",
    )
    tuner.search(ROWS, LABELS, validation_split=0.25, epochs=2)

    print("\nWhat became of each trial:")
    for trial in tuner.oracle.trials.values():
        reason = (trial.message or "").strip().splitlines()[-1:] or [f"val_loss {trial.score:.3f}"]
        print(f"  {trial.hyperparameters.values}: {trial.ending}: {reason[0]}")

    def fatal(hp):
        hp.Int("units", 1, 2)
        raise kt.FatalValueError("the data are not mounted")  # no other configuration will do better

    try:
        kt.RandomSearch(fatal, "val_loss", overwrite=True, directory=FOLDER, project_name="fatal")
    except kt.FatalError as error:
        print(f"\nA fatal error ends everything at once: {error}")


if __name__ == "__main__":
    main()
