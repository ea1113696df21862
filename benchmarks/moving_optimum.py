"""Tasks on which the best learning rate falls in the course of a training: population-based training, ASHA and random
search at equal epochs.

    python benchmarks/moving_optimum.py                    # both tables; the second takes minutes
    python benchmarks/moving_optimum.py quadratic --runs 200
    python benchmarks/moving_optimum.py digits RESULTS --seeds 0 1

`quadratic`: SGD on a noisy quadratic of 20 curvatures from .01 to 1, 60 epochs of 10 steps, in NumPy. Far from the
minimum the largest stable rate is best, near it the noise of the gradients counts, so the best rate falls. What is
searched is the rate (.001 to 2). Scores are expected losses, without noise of their own: nobody is lucky.

`digits`: scikit-learn's 1,797 images of 8 x 8, an MLP of 64 units, SGD with momentum, 60 epochs; a tenth of the
training labels are wrong. What is searched is the rate (.001 to 1) and dropout (0 to .5). Validation rows choose; the
model that they choose is scored on test rows, once.

Each searcher spends 1,200 epochs, which are 20 full trainings. "random, cosine" is random search with a rate that
falls to 0 by a cosine: what a practitioner does without any search over time.
"""

from __future__ import annotations

import argparse
import json
import math
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import conditions
import numpy as np

import manyfit as kt  # before Keras: it chooses JAX

import keras  # isort: skip
from sklearn.datasets import load_digits

from manyfit.core.records import Progress
from manyfit.schedulers import ASHA, FullBudget, Limits, PopulationBasedTraining, Scheduler
from manyfit.schedulers.base import PARENT, PARENT_EPOCH
from manyfit.space.encoding import Encoding
from manyfit.testing.schedulers import FakeOracle

EPOCHS, TRAININGS = 60, 20
BATCH = 32
STEPS = 10  # of an epoch of the quadratic
CURVATURES = np.geomspace(0.01, 1.0, 20)
NOISE = 0.1  # of each entry of a gradient


class Quadratic:
    """Trainings on the noisy quadratic, each with a rate of its own; the expected loss needs no sampling.

    The mean and the variance of the distance to the minimum follow the rate r: m <- (1 - r h) m, and
    v <- (1 - r h)^2 v + r^2 s^2 for curvature h and noise s; the expected loss is the mean of h (m^2 + v) / 2.

    Args:
        seed: of the draws.
        falls: whether rates fall to 0 by a cosine.
        scheduler: says what a branch's rate is.
    """

    def __init__(self, seed: int, scheduler: Callable[[], Scheduler], *, falls: bool = False) -> None:
        self.space = kt.HyperParameters()
        self.space.Float("rate", 1e-3, 2.0, sampling="log")
        self.seed, self.falls, self.scheduler = seed, falls, scheduler
        self.rates: list[float] = []
        self.states: dict[tuple[int, int], np.ndarray] = {}  # (mean, variance) per curvature, by trial and epoch
        limits = Limits(max_total_epochs=EPOCHS * TRAININGS)
        self.oracle = FakeOracle(limits, curve=self.train, fit_epochs=EPOCHS, slots=4)

    def train(self, trial: int, epoch: int) -> float:
        """The loss of a trial after an epoch, from 1."""
        history: list[Progress] = self.oracle.history
        if trial >= len(self.rates):
            self.rates += [self.first_rate(number, history) for number in range(len(self.rates), trial + 1)]
        tags = history[trial].tags
        if (trial, epoch - 1) in self.states:
            mean, variance = self.states[trial, epoch - 1]
        elif PARENT in tags:
            mean, variance = self.states[int(tags[PARENT]), int(tags[PARENT_EPOCH])]
        else:
            mean, variance = np.ones((2, len(CURVATURES))) * [[1.0], [0.0]]
        for step in range(STEPS * (epoch - 1), STEPS * epoch):
            share = 0.5 * (1 + math.cos(math.pi * step / (EPOCHS * STEPS))) if self.falls else 1.0
            rate = self.rates[trial] * share
            kept = 1 - rate * CURVATURES
            mean, variance = kept * mean, kept**2 * variance + (rate * NOISE) ** 2
        self.states[trial, epoch] = np.array([mean, variance])
        return float(np.mean(CURVATURES * (mean**2 + variance)) / 2)

    def first_rate(self, trial: int, history: list[Progress]) -> float:
        """The rate of a new trial: drawn, or explored from its parent's."""
        rng = np.random.default_rng([self.seed, trial])
        parent = history[trial].tags.get(PARENT)
        if parent is None:
            return float(Encoding(self.space).random(rng)["rate"])
        return float(self.scheduler().explore(self.space, {"rate": self.rates[int(parent)]}, rng)["rate"])

    def best(self) -> float:
        """The lowest loss of a whole search."""
        return min(progress.best_loss() for progress in self.oracle.run(self.scheduler))


def population(**options: Any) -> Callable[[], Scheduler]:
    """Makes a population-based scheduler of these settings."""
    return lambda: PopulationBasedTraining(EPOCHS, **{"interval_epochs": 5, **options})


ON_QUADRATIC: dict[str, tuple[Callable[[], Scheduler], bool]] = {
    "random": (lambda: FullBudget(EPOCHS), False),
    "random, cosine": (lambda: FullBudget(EPOCHS), True),
    "ASHA": (lambda: ASHA(EPOCHS, 3), False),
    "ASHA, cosine": (lambda: ASHA(EPOCHS, 3), True),
    "population, as it comes": (population(), False),
    "population, steps of 2": (population(interval_epochs=2), False),
    "population, steps of 10": (population(interval_epochs=10), False),
    "population, no draws": (population(resample_probability=0.0), False),
    "population, x 0.5 or 2": (population(perturbation=(0.5, 2.0)), False),
    "population, no draws, x 0.5 or 2": (population(resample_probability=0.0, perturbation=(0.5, 2.0)), False),
    "population, a third gives way": (population(factor=3), False),
}


def quadratic(runs: int) -> None:
    """Prints the table of the quadratic."""
    print(f"\nNoisy quadratic, {runs} searches of {EPOCHS * TRAININGS:,} epochs each; expected loss x 1,000")
    print("| searcher | median | lower and upper quartile | below ASHA's |")
    print("|---|---|---|---|")
    found = {
        name: np.array([Quadratic(seed, make, falls=falls).best() for seed in range(runs)]) * 1000
        for name, (make, falls) in ON_QUADRATIC.items()
    }
    for name, losses in found.items():
        low, middle, high = np.quantile(losses, [0.25, 0.5, 0.75])
        won = f"{np.mean(losses < found['ASHA']):.0%}" if name != "ASHA" else ""
        print(f"| {name} | {middle:.4f} | {low:.4f} to {high:.4f} | {won} |")


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


def digits_table(results: list[dict[str, Any]]) -> None:
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


def digits(path: pathlib.Path, seeds: list[int], searchers: list[str]) -> None:
    """Makes the runs that are missing, and prints the table of the digits."""
    text = path.read_text() if path.exists() else ""
    results = [json.loads(line) for line in text.splitlines()]
    done = {(each["searcher"], each["seed"]) for each in results}
    for seed in seeds:
        for name in searchers:
            if (name, seed) not in done:
                results.append(run(name, seed))
                with path.open("a") as file:
                    file.write(json.dumps(results[-1]) + "\n")
    print("\nDigits")
    digits_table(results)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", choices=["quadratic", "digits", "both"], default="both")
    parser.add_argument("results", nargs="?", default="moving_optimum.jsonl", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--searchers", nargs="+", default=list(SEARCHERS))
    arguments = parser.parse_args()
    conditions.show()
    if arguments.task != "digits":
        quadratic(arguments.runs)
    if arguments.task != "quadratic":
        digits(arguments.results, arguments.seeds, arguments.searchers)


if __name__ == "__main__":
    main()
