"""Whom `minutes.py` compares: each one as its documentation recommends, told how many seconds there are.

A contestant is called with the rows in memory and the clock running, before it has imported anything, and returns what
predicts. None of the rivals has a limit of its own for everything; a callback ends what trains when the time is up, and
what is returned then is the best there is, so that none is late for want of one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from minutes_tasks import NUM_WORDS, Rows, Task

Predict = Callable[[np.ndarray], np.ndarray]
BACKENDS = {"dense": "jax", "convolution": "tensorflow", "recurrent": "tensorflow"}
PATIENCE = 10


@dataclasses.dataclass
class Start:
    """What a contestant is given.

    Attributes:
        task: with its build function.
        rows: to train on; test rows are not among them.
        seconds: from `began` on.
        seed: of everything.
        began: by `time.monotonic`.
        folder: an empty one.
        told: what it says of itself, for the table.
    """

    task: Task
    rows: Rows
    seconds: float
    seed: int
    began: float
    folder: str
    told: dict[str, Any] = dataclasses.field(default_factory=dict)

    def left(self, share: float = 1.0) -> float:
        """Seconds until a share of the limit."""
        return self.began + share * self.seconds - time.monotonic()

    def halves(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Rows to train on and a fifth to validate on, as all who need them cut them."""
        count = len(self.rows.x) * 4 // 5
        return self.rows.x[:count], self.rows.y[:count], self.rows.x[count:], self.rows.y[count:]


def _until(start: Start, share: float, error: type[Exception] | None = None) -> Any:
    """A callback that ends the training, or everything by an error, when a share of the time is gone."""
    import keras

    class Until(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if start.left(share) <= 0:
                self.model.stop_training = True
                if error is not None:
                    raise error("the time is up")

    return Until()


def _patient(start: Start) -> Any:
    import keras

    task = start.task
    return keras.callbacks.EarlyStopping(
        task.objective, patience=PATIENCE, mode=task.direction, restore_best_weights=True
    )


def _of_keras(model: Any) -> Predict:
    return lambda x: np.asarray(model.predict(x, verbose=0, batch_size=512))


def keras_tuner(start: Start) -> Predict:
    """Its Bayesian search, then the best values for 1.2 times their best epoch on all rows, as its guides do it."""
    import keras
    import keras_tuner

    class TimeIsUp(keras_tuner.errors.FatalError):
        pass

    tuner = keras_tuner.BayesianOptimization(
        lambda hp: start.task.build(hp, start.rows),
        keras_tuner.Objective(start.task.objective, start.task.direction),
        max_trials=10_000,
        seed=start.seed,
        directory=start.folder,
    )
    x, y, x_held_out, y_held_out = start.halves()
    options = {"batch_size": start.task.batch_size, "verbose": 0}
    with contextlib.suppress(TimeIsUp):
        tuner.search(
            x, y, epochs=100, validation_data=(x_held_out, y_held_out), **options,
            callbacks=[_patient(start), _until(start, 0.65, TimeIsUp)],
        )  # fmt: skip
    done = [trial for trial in tuner.oracle.trials.values() if trial.score is not None]
    start.told["trials"] = len(done)
    if done:
        best = tuner.oracle.get_best_trials(1)[0]
        values, epochs = best.hyperparameters, math.ceil(1.2 * (best.best_step + 1))
    else:
        values, epochs = keras_tuner.HyperParameters(), 100
    model = start.task.build(values, start.rows)
    keras.utils.set_random_seed(start.seed)
    model.fit(start.rows.x, start.rows.y, epochs=epochs, callbacks=[_until(start, 0.95)], **options)
    return _of_keras(model)


def optuna(start: Start) -> Predict:
    """Its sampler and pruner by default, the best model of all trials kept."""
    import keras
    import optuna as library

    library.logging.set_verbosity(library.logging.ERROR)
    x, y, x_held_out, y_held_out = start.halves()
    sign = -1.0 if start.task.direction == "max" else 1.0
    found: list[tuple[float, Any]] = []

    class Hyperparameters:
        """KerasTuner's words for what a trial suggests."""

        def __init__(self, trial: Any) -> None:
            self._trial = trial

        def Float(
            self, name: str, low: float, high: float, *, step: Any = None, sampling: Any = None, **_: Any
        ) -> float:
            return float(self._trial.suggest_float(name, low, high, step=step, log=sampling == "log"))

        def Int(self, name: str, low: int, high: int, *, step: int = 1, default: Any = None) -> int:
            del default
            return int(self._trial.suggest_int(name, low, high, step=step))

        def Choice(self, name: str, options: Any) -> Any:
            return self._trial.suggest_categorical(name, options)

        def Boolean(self, name: str) -> bool:
            return bool(self._trial.suggest_categorical(name, [False, True]))

    def objective(trial: Any) -> float:
        model = start.task.build(Hyperparameters(trial), start.rows)

        class Report(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                trial.report(logs[start.task.objective], epoch)
                if trial.should_prune():
                    raise library.TrialPruned

        history = model.fit(
            x, y, epochs=100, batch_size=start.task.batch_size, validation_data=(x_held_out, y_held_out), verbose=0,
            callbacks=[_patient(start), Report(), _until(start, 0.95)],
        )  # fmt: skip
        values = history.history[start.task.objective]
        best = min(sign * value for value in values)
        if not found or best < found[0][0]:
            found[:] = [(best, model)]
        return sign * best

    study = library.create_study(
        direction="maximize" if sign < 0 else "minimize", sampler=library.samplers.TPESampler(seed=start.seed)
    )
    study.optimize(objective, timeout=max(start.left(0.9), 1.0))
    start.told["trials"] = len(study.trials)
    return _of_keras(found[0][1])


def autokeras(start: Start) -> Predict:
    """Its own models and its greedy search; the best one of the trials that were done."""
    import autokeras as library
    import keras
    import keras_tuner

    class TimeIsUp(keras_tuner.errors.FatalError):
        pass

    common = {"max_trials": 1_000, "directory": start.folder, "seed": start.seed, "overwrite": True}
    x, y = start.rows.x, start.rows.y
    if start.task.kind == "convolution":
        model = library.ImageClassifier(**common)
    elif x.dtype.kind == "i":
        heard = library.Input()
        read = library.DenseBlock()(library.Embedding(max_features=NUM_WORDS)(heard))
        model = library.AutoModel(heard, library.ClassificationHead()(read), **common)
    elif x.ndim == 3:
        heard = library.Input()
        model = library.AutoModel(heard, library.RegressionHead()(library.RNNBlock()(heard)), **common)
    elif start.task.is_regression:
        model = library.StructuredDataRegressor(**common)
    else:
        model = library.StructuredDataClassifier(**common)
    with contextlib.suppress(TimeIsUp):
        model.fit(
            x, y.reshape(-1, 1), validation_split=0.2, verbose=0, batch_size=start.task.batch_size,
            callbacks=[keras.callbacks.EarlyStopping(patience=PATIENCE), _until(start, 0.92, TimeIsUp)],
        )  # fmt: skip
    done = [trial for trial in model.tuner.oracle.trials.values() if trial.score is not None]
    start.told["trials"] = len(done)
    best = model.tuner.get_best_model()
    return _of_keras(best)


def default_model(start: Start) -> Predict:
    """One model, as its build function makes it by default, trained until it stops getting better."""
    import keras
    import keras_tuner

    keras.utils.set_random_seed(start.seed)
    model = start.task.build(keras_tuner.HyperParameters(), start.rows)
    x, y, x_held_out, y_held_out = start.halves()
    history = model.fit(
        x, y, epochs=10_000, batch_size=start.task.batch_size, validation_data=(x_held_out, y_held_out), verbose=0,
        callbacks=[_patient(start), _until(start, 0.95)],
    )  # fmt: skip
    start.told["epochs"] = len(history.epoch)
    return _of_keras(model)


def linear(start: Start) -> Predict:
    """Logistic or ridge regression, its penalty by folds."""
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.model_selection import GridSearchCV

    def flat(x: np.ndarray) -> np.ndarray:
        if x.dtype.kind != "i":
            return x.reshape(len(x), -1)
        counts = np.zeros((len(x), NUM_WORDS), "float32")
        np.add.at(counts, (np.arange(len(x))[:, None], x), 1.0)
        return counts[:, 1:]

    x, y = flat(start.rows.x), start.rows.y
    if start.task.is_regression:
        ridge = RidgeCV(np.logspace(-3, 4, 15)).fit(x, y)
        return lambda rows: ridge.predict(flat(rows))
    # Images and words have many columns: where folds would take the time of all, one fit has to do.
    one = LogisticRegression(max_iter=100, C=0.1)
    began = time.monotonic()
    one.fit(x, y)
    if 5 * 3 * (time.monotonic() - began) > start.left(0.8):
        return lambda rows: one.predict_proba(flat(rows))
    search = GridSearchCV(one, {"C": [0.01, 0.1, 1.0]}, scoring="neg_log_loss", cv=5).fit(x, y)
    return lambda rows: search.predict_proba(flat(rows))


def manyfit(start: Start) -> Predict:
    """One call."""
    import manyfit as kt  # isort: skip
    from manyfit.fitting.record import FitRecord

    tuner = kt.Search(
        lambda hp: start.task.build(hp, start.rows),
        kt.Objective(start.task.objective, start.task.direction),
        seed=start.seed,
        directory=start.folder,
    )
    winner = tuner.fit(
        start.rows.x, start.rows.y, max_seconds=max(start.left(), 1.0), batch_size=start.task.batch_size,
        time_ordered=start.task.in_order, verbose=0,
    )  # fmt: skip
    records = getattr(tuner.programs(), "records", ())
    start.told |= {
        "trials": len(tuner.oracle.trials),
        "phases": {phase: round(seconds, 1) for phase, seconds in winner.time.items()},
        "per program": sum(record.members for record in records) / len(records) if records else None,
        "reasons": list(winner.reasons),
        "ended by": winner.ended_by,
        "keeping": FitRecord(tuner.store.layout.winner).read().keeping_seconds,
    }
    return lambda x: np.asarray(winner.predict(x))


CONTESTANTS: dict[str, Callable[[Start], Predict]] = {
    "Manyfit": manyfit,
    "KerasTuner": keras_tuner,
    "Optuna": optuna,
    "AutoKeras": autokeras,
    "default model": default_model,
    "linear": linear,
}


def main() -> None:
    """Plays one contestant: name of the task, of the contestant, rows, seconds, seed, where the answer goes."""
    task_name, name, rows_path, seconds, seed, answer = sys.argv[1:]
    import json

    from minutes_tasks import TASKS, scores

    task, rows = TASKS[task_name], Rows.load(Path(rows_path))
    hidden = Rows(rows.x, rows.y, rows.x[:0], rows.y[:0])
    told: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        cpu = time.process_time()
        start = Start(task, hidden, float(seconds), int(seed), time.monotonic(), folder, told)
        predict = CONTESTANTS[name](start)
        told["took"] = time.monotonic() - start.began
        told["cpu"] = time.process_time() - cpu
        told["score"] = scores(task, rows.y_test, predict(rows.x_test))
    Path(answer).write_text(json.dumps(told))


if __name__ == "__main__":
    main()
    # What still compiles in a thread of its own has nothing to say any more.
    sys.stdout.flush()
    os._exit(0)
