"""Real data: does the interval hold the score on rows that nobody has seen, and do ensembles gain what they claim?

A draw takes some hundreds of rows of a data set to train and validate on, and keeps the others, up to 5,000, for the
truth. It searches, confirms, bags and combines, and trains a new model of the recommended configuration, which nobody
has looked at: the interval is for that model on those rows. Rivals answer on the same draw:

*best value*   the best score of the search, which has no interval: how much too good it is
*seeds*        the mean over fresh seeds with Student's interval, as a race over seeds has it (irace; c31c64c)
*five folds*   the mean over five folds and twice its standard error, for the configuration that the search found best
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ensemble_searches import california, mnist
from race_on_seeds import student_interval
from truth_draws import Draw, Ledger, share, slope

import manyfit as kt  # isort: skip

import keras

from manyfit.ensemble import EnsembleSettings
from manyfit.report.confirmation import Confirmation

HERE = Path(__file__).parent
_FOLDER = Path(os.environ.get("MANYFIT_DATA", HERE.parent / "../shared/data"))
DATA = _FOLDER if _FOLDER.exists() else None
TRAINING, VALIDATION, UNSEEN = 400, 200, 5000
TRIALS, EPOCHS, BATCH = 12, 12, 32
Data = tuple[np.ndarray, np.ndarray]


def _digits_of(digits: Sequence[int]) -> Data:
    x, y = mnist(DATA)
    kept = np.isin(y, digits)
    return x[kept].reshape(-1, 784)[:, ::4], (y[kept] - min(digits)).astype("int32")


def _california() -> Data:
    x, y = california(DATA)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


def _digits() -> Data:
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y.astype("int32")


def _dear() -> Data:
    """Whether a district of California is among the dearer half: a table with two classes."""
    x, y = _california()
    return x, (y > np.median(y)).astype("int32")


TASKS: dict[str, Callable[[], Data]] = {
    "digits": _digits,
    "MNIST 0 to 4": lambda: _digits_of(range(5)),
    "MNIST 5 to 9": lambda: _digits_of(range(5, 10)),
    "California": _california,
    "dear districts": _dear,
}
_data = functools.cache(lambda name: TASKS[name]())


def builder(num_columns: int, classes: int) -> Callable[[kt.HyperParameters], keras.Model]:
    """A net of one or two layers; `classes` of 0 means a number."""

    def build(hp: kt.HyperParameters) -> keras.Model:
        model = keras.Sequential([keras.Input((num_columns,))])
        for _ in range(hp.Int("layers", 1, 2)):
            model.add(keras.layers.Dense(hp.Choice("units", [16, 32, 64]), activation="relu"))
            model.add(keras.layers.Dropout(hp.Float("dropout", 0.05, 0.5)))
        model.add(keras.layers.Dense(classes or 1, activation="softmax" if classes else None))
        rate = hp.Float("learning_rate", 1e-3, 3e-2, sampling="log")
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy" if classes else "mse")
        return model

    return build


def loss_of(predictions: np.ndarray, y: np.ndarray) -> float:
    """Log loss, or squared error."""
    if y.dtype.kind == "i":
        return float(-np.log(np.maximum(predictions[np.arange(len(y)), y], 1e-7)).mean())
    return float(((predictions.reshape(len(y)) - y) ** 2).mean())


def draw(name: str, number: int) -> Draw:
    """One search and all that follows."""
    x, y = _data(name)
    order = np.random.default_rng([number, 7]).permutation(len(x))
    seen, unseen = order[: TRAINING + VALIDATION], order[TRAINING + VALIDATION :][:UNSEEN]
    train, held_out = (x[seen[:TRAINING]], y[seen[:TRAINING]]), (x[seen[TRAINING:]], y[seen[TRAINING:]])
    build = builder(x.shape[1], int(y.max()) + 1 if y.dtype.kind == "i" else 0)
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.RandomSearch(build, "val_loss", TRIALS, number, directory=folder)
        tuner.search(*train, validation_data=held_out, epochs=EPOCHS, batch_size=BATCH, verbose=0)
        found = tuner.confirm(top=4, max_rounds=8, verbose=0)
        answer = confirmed(tuner, found, train, (x[unseen], y[unseen]), seed=number)
        answer |= five_folds(tuner, x[seen], y[seen], number) | combined(tuner, x[unseen], y[unseen])
        tuner.close()
    keras.utils.clear_session(free_memory=False)
    return answer


def confirmed(tuner: Any, found: Confirmation, train: Data, unseen: Data, *, seed: int) -> Draw:
    """The interval for a new model on the unseen rows, and what a new model scores there."""
    best = tuner.oracle.trials[found.rows[0].trial_id]
    epoch = tuner.oracle.book.evidence.families[0].epochs[best.trial_id]
    keras.utils.set_random_seed(10_000 + seed)
    model = tuner.hypermodel.build(best.hyperparameters.copy())
    model.fit(*train, epochs=epoch + 1, batch_size=BATCH, verbose=0)
    truth = loss_of(model.predict(unseen[0], verbose=0), unseen[1])
    interval = found.interval(rows=len(unseen[1]))
    fresh = [run.history["val_loss"][epoch] for run in best.executions_of("confirm").values()]
    low, _, high = student_interval(np.array(fresh))
    return {
        "truth": truth,
        "cover": bool(interval.low <= truth <= interval.high),
        "half_width": (interval.high - interval.low) / 2,
        "error": interval.estimate - truth,
        "best_value_error": float(tuner.oracle.get_best_trials(1)[0].score) - truth,
        "seeds_cover": bool(low <= truth <= high),
        "num_rows": found.num_rows,
        "settled": found.settled,
    }


def five_folds(tuner: Any, x: np.ndarray, y: np.ndarray, seed: int) -> Draw:
    """A plain cross-validation of the search's winner, over all rows of the draw."""
    [best] = tuner.oracle.get_best_trials(1)
    fold = np.random.default_rng([seed, 5]).permutation(len(x)) % 5
    scores = []
    for number in range(5):
        keras.utils.set_random_seed(20_000 + 10 * seed + number)
        model = tuner.hypermodel.build(best.hyperparameters.copy())
        model.fit(x[fold != number], y[fold != number], epochs=EPOCHS, batch_size=BATCH, verbose=0)
        scores.append(loss_of(model.predict(x[fold == number], verbose=0), y[fold == number]))
    return {"folds_mean": float(np.mean(scores)), "folds_error": float(np.std(scores, ddof=1) / 5**0.5)}


def combined(tuner: Any, x: np.ndarray, y: np.ndarray) -> Draw:
    """What an ensemble and a bag say that they gain, and what they gain; other final models beside them."""
    settings = EnsembleSettings(refuse=False)
    answer: Draw = {}
    for name, ensemble in (
        ("ensemble", tuner.ensemble(settings=settings)),
        ("bag", tuner.bag(top=3, folds=5, settings=settings)),
    ):
        said = {}
        for place, member in enumerate(ensemble.members):
            # An ensemble loads the models that it uses; the others are judged as well.
            models = member.models or [tuner.load_model(tuner.oracle.trials[member.name.removeprefix("trial ")], 0)]
            said[place] = np.mean([one.predict(x, verbose=0) for one in models], axis=0)
        single = next(one.pool for one in ensemble.choice.candidates if one.name == "single best")
        alone = loss_of(said[int(single.support[0])], y)
        answer |= {
            f"{name}_claimed": ensemble.gain.estimate,
            f"{name}_gain": alone - loss_of(ensemble.predict(x), y),
            f"{name}_low": ensemble.gain.low,
            f"{name}_high": ensemble.gain.high,
            f"{name}_loss": loss_of(ensemble.predict(x), y),
            f"{name}_uniform": loss_of(np.mean(list(said.values()), axis=0), y),
            f"{name}_single": alone,
        }
        answer[f"{name}_cover"] = answer[f"{name}_low"] <= answer[f"{name}_gain"] <= answer[f"{name}_high"]
    [model] = tuner.retrain(verbose=0)
    return answer | {"retrained_loss": loss_of(model.predict(x, verbose=0), y)}


def real(ledger: Ledger, count: int) -> None:
    """Two tables: intervals, and gains."""
    for one in ledger.fill(list(TASKS), count, draw):
        print(f"{one['name']}, draw {one['number']}", flush=True)
    print("\n| data | draws | covers | seeds alone | five folds | error | best value | half width |\n| " + "--- | " * 8)
    groups = {name: ledger.draws(name) for name in TASKS} | {"all": ledger.draws()}
    for name, draws in groups.items():
        if not draws:
            continue
        for one in draws:
            one["folds_cover"] = abs(one["folds_mean"] - one["truth"]) <= 2 * one["folds_error"]
        unit = np.mean([one["truth"] for one in draws]) if name != "all" else np.nan
        errors = [f"{np.mean([one[key] for one in draws]) / unit:+.3f}" for key in ("error", "best_value_error")]
        covers = [share(draws, key) for key in ("cover", "seeds_cover", "folds_cover")]
        half = f"{np.median([one['half_width'] for one in draws]) / unit:.3f}"
        print("| " + " | ".join((name, str(len(draws)), *covers, *errors, half)) + " |")
    print(
        "\n| data | ensembles' gain by claimed | covers | bags' | covers "
        "| losses: single, uniform, ensemble, bag, retrained |"
    )
    print("| " + "--- | " * 6)
    for name, draws in groups.items():
        if not draws:
            continue
        cells = [
            part
            for kind in ("ensemble", "bag")
            for part in (slope(draws, f"{kind}_claimed", f"{kind}_gain"), share(draws, f"{kind}_cover"))
        ]
        keys = ("ensemble_single", "ensemble_uniform", "ensemble_loss", "bag_loss", "retrained_loss")
        losses = ", ".join(f"{np.mean([one[key] for one in draws]):.4f}" for key in keys)
        print("| " + " | ".join((name, *cells, losses if name != "all" else "")) + " |")
    print()
