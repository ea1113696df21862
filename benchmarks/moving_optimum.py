"""A task on which the best learning rate falls in the course of a training: population-based training, ASHA and random
search at equal epochs.

    python benchmarks/moving_optimum.py RESULTS            # runs what is missing, prints the table
    python benchmarks/moving_optimum.py RESULTS --seeds 0 1

Handwritten digits (scikit-learn's 1,797 images of 8 x 8): an MLP of 64 units, SGD with momentum, 60 epochs. A tenth of
the training labels are wrong, so a rate that is fast at first keeps the model from settling later: a constant one is a
compromise. What is searched is the rate (.001 to 1) and dropout (0 to .5). Each searcher spends 1,200 epochs, which are
20 full trainings. Validation rows choose; the model that they choose is scored on test rows, once.

"random, cosine" is random search over the same values with a rate that falls to 0 by a cosine: what a practitioner does
without any search over time.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import manyfit as kt  # before Keras: it chooses JAX

import keras  # isort: skip
from sklearn.datasets import load_digits

EPOCHS, TRAININGS = 60, 20
BATCH = 32


def data(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows to train, validate and test on; a tenth of the labels of the first are wrong."""
    x, y = load_digits(return_X_y=True)
    rng = np.random.default_rng([seed, 11])
    order = rng.permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order].astype("int32")
    noisy = y.copy()
    wrong = rng.random(len(y)) < 0.1
    noisy[wrong] = rng.integers(0, 10, wrong.sum())
    return {"train": (x[:800], noisy[:800]), "validation": (x[800:1200], y[800:1200]), "test": (x[1200:], y[1200:])}


def build(hp: kt.HyperParameters, *, falls: bool = False) -> keras.Model:
    """The model; with `falls` its rate falls to 0 by a cosine."""
    rate: Any = hp.Float("learning_rate", 1e-3, 1.0, sampling="log")
    if falls:
        rate = keras.optimizers.schedules.CosineDecay(rate, EPOCHS * 25)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, "relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5)),
            keras.layers.Dense(10, "softmax"),
        ]
    )
    model.compile(keras.optimizers.SGD(rate, momentum=0.9), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def build_falling(hp: kt.HyperParameters) -> keras.Model:
    """See `build`."""
    return build(hp, falls=True)


SEARCHERS: dict[str, tuple[Callable[..., Any], int | None, Callable[[], Any]]] = {
    "random": (build, TRAININGS, lambda: None),
    "random, cosine": (build_falling, TRAININGS, lambda: None),
    "asha": (build, None, lambda: kt.ASHA(EPOCHS, 3)),
    "population of 20": (build, 20, lambda: kt.PopulationBasedTraining(EPOCHS, 5)),
    "population of 20, steps of 10": (build, 20, lambda: kt.PopulationBasedTraining(EPOCHS, 10)),
    "population of 20, no draws": (build, 20, lambda: kt.PopulationBasedTraining(EPOCHS, 5, resample_probability=0.0)),
    "population of 20, no draws, x 0.5 or 2": (
        build,
        20,
        lambda: kt.PopulationBasedTraining(EPOCHS, 5, resample_probability=0.0, perturbation=(0.5, 2.0)),
    ),
}


def run(name: str, seed: int) -> dict[str, Any]:
    """One search, and what its best model says of the test rows."""
    make, max_trials, scheduler = SEARCHERS[name]
    rows = data(seed)
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.RandomSearch(
            make, "val_loss", max_trials, seed, scheduler=scheduler(), max_total_epochs=EPOCHS * TRAININGS,
            directory=folder, keep_predictions=False,
        )  # fmt: skip
        x, y = rows["train"]
        tuner.search(x, y, epochs=EPOCHS, batch_size=BATCH, validation_data=rows["validation"], verbose=0)
        best = tuner.oracle.get_best_trials(1)[0]
        [model] = tuner.get_best_models(1)
        loss, accuracy = keras.Model.evaluate(model, *rows["test"], verbose=0)
        found = {
            "searcher": name,
            "seed": seed,
            "val_loss": best.score,
            "test_loss": float(loss),
            "test_accuracy": float(accuracy),
            "trials": len(tuner.oracle.trials),
            "epochs": tuner.results().epochs_spent,
            "rates": [
                (stretch.first_epoch, round(float(stretch.values["learning_rate"]), 5))
                for stretch in tuner.oracle.lineage(best.trial_id)
            ],
        }
        tuner.close()
    return found


def table(results: list[dict[str, Any]]) -> None:
    """Means over seeds with their standard errors, and against ASHA seed by seed."""
    by_searcher = {name: [each for each in results if each["searcher"] == name] for name in SEARCHERS}
    seeds = {each["seed"]: each["test_loss"] for each in by_searcher["asha"]}
    print("| searcher | seeds | epochs | validation loss | test loss | test accuracy | test loss below ASHA's |")
    print("|---|---|---|---|---|---|---|")
    for name, rows in by_searcher.items():
        if not rows:
            continue
        cells = []
        for metric in ("val_loss", "test_loss", "test_accuracy"):
            values = np.array([row[metric] for row in rows])
            cells.append(
                f"{values.mean():.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"
                if len(rows) > 1
                else f"{values[0]:.4f}"
            )
        pairs = [row["test_loss"] < seeds[row["seed"]] for row in rows if row["seed"] in seeds and name != "asha"]
        won = f"{sum(pairs)} of {len(pairs)}" if pairs else ""
        epochs = round(np.mean([row["epochs"] for row in rows]))
        print(f"| {name} | {len(rows)} | {epochs:,} | {' | '.join(cells)} | {won} |")


def main() -> None:
    """Makes the runs that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", default="moving_optimum.jsonl", type=pathlib.Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    arguments = parser.parse_args()
    text = arguments.results.read_text() if arguments.results.exists() else ""
    results = [json.loads(line) for line in text.splitlines()]
    done = {(each["searcher"], each["seed"]) for each in results}
    for seed in arguments.seeds:
        for name in arguments.searchers:
            if (name, seed) not in done:
                results.append(run(name, seed))
                with arguments.results.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    table(results)


if __name__ == "__main__":
    main()
