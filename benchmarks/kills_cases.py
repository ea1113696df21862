"""What is killed: searches, and steps after them, by sampler, scheduler, trainer and step; pairwise, not all of them.

Models have a dozen weights and data 48 rows: what is asked is what a kill leaves behind, not how well anybody learns.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip

import keras
import numpy as np
from sklearn import linear_model

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(48, 3)).astype("float32")
Y = (X[:, 0] + 0.5 * _RNG.normal(size=48) > 0).astype("int32")

SAMPLERS: Mapping[str, Callable[..., Any]] = {
    "random": kt.RandomSearch,
    "grid": kt.GridSearch,
    "quasi-random": kt.QuasiRandomSearch,
    "evolution": kt.Evolution,
    "Bayesian": kt.BayesianOptimization,
    "Optuna": kt.OptunaSearch,
}
#: With the epochs of a full training.
SCHEDULERS: Mapping[str, tuple[Callable[[], Any], int]] = {
    "full": (lambda: None, 2),
    "median": (lambda: kt.MedianRule(3), 3),
    "ASHA": (lambda: kt.ASHA(4, factor=2), 4),
    "Hyperband": (lambda: "hyperband", 4),
    "PBT": (lambda: kt.PopulationBasedTraining(4, 2), 4),
    "RowHalving": (lambda: kt.RowHalving([16]), 2),
}
TRAINERS = ("population", "population of 1", "model.fit", "process", "estimators")
STEPS = ("search", "folds", "fit", "confirm", "bag", "retrain", "ensemble", "export")
_IN_SEARCH = ("search", "folds", "fit")
_PAUSES = ("ASHA", "Hyperband", "PBT")


@dataclasses.dataclass(frozen=True)
class Case:
    """One program that is killed.

    Attributes:
        sampler: of `SAMPLERS`; so for the others.
        scheduler: likewise.
        trainer: likewise.
        step: what is under way when the process is killed.
    """

    sampler: str
    scheduler: str
    trainer: str
    step: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.sampler}, {self.scheduler}, {self.trainer}, {self.step}"

    @property
    def begins_with_a_search(self) -> bool:
        """Whether it is a step after a search, which is not what is killed."""
        return self.step not in _IN_SEARCH

    @property
    def is_possible(self) -> bool:
        """Whether the library says yes to it; what it refuses, and why, stands in its documents."""
        if self.trainer == "estimators" and self.scheduler in (*_PAUSES, "median"):
            return False  # they are fitted in one go
        if self.trainer == "process" and self.scheduler in ("PBT", "RowHalving"):
            return False  # workers do not share what they hold
        if self.step == "folds" and self.scheduler == "RowHalving":
            return False  # parts of rows, or folds
        return not (self.scheduler == "PBT" and (self.sampler == "grid" or self.step == "folds"))


def pairwise(sampler_names: Sequence[str], seed: int = 0) -> list[Case]:
    """Cases in which any two values that go together meet at least once: greedily, the best of many draws each time.

    Args:
        sampler_names: those that can be had here.
        seed: of the draws.
    """
    places = [tuple(sampler_names), tuple(SCHEDULERS), TRAINERS, STEPS]
    possible = [case for values in itertools.product(*places) if (case := Case(*values)).is_possible]
    missing = {pair for case in possible for pair in _pairs(case)}
    draws = random.Random(seed)
    chosen = []
    while missing:
        best = max(draws.sample(possible, len(possible)), key=lambda case: len(missing & _pairs(case)))
        missing -= _pairs(best)
        chosen.append(best)
    return chosen


def _pairs(case: Case) -> set[tuple[tuple[int, str], ...]]:
    return set(itertools.combinations(enumerate(dataclasses.astuple(case)), 2))


def build(hp: kt.HyperParameters) -> keras.Model:
    """A network of two structures."""
    hidden = keras.layers.Dense(hp.Int("units", 2, 3), "tanh")
    model = keras.Sequential([keras.Input((3,)), hidden, keras.layers.Dense(1, "sigmoid")])
    rate = hp.Float("rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "binary_crossentropy", metrics=["accuracy"])
    return model


def build_estimator(hp: kt.HyperParameters) -> Any:
    """A linear classifier; its seed is that of the execution."""
    return linear_model.SGDClassifier("log_loss", alpha=hp.Float("alpha", 1e-4, 1e-1, sampling="log"), max_iter=20)


def make(case: Case, folder: Path) -> Any:
    """The tuner; made again with the same arguments it goes on."""
    scheduler, _ = SCHEDULERS[case.scheduler]
    options: dict[str, Any] = {"max_trials": 4, "seed": 3, "directory": folder, "project_name": "search"}
    options["scheduler"] = scheduler()
    if case.trainer == "model.fit":
        options["population"] = False
    elif case.trainer == "population of 1":
        options["population_size"] = 1
    elif case.trainer == "process":
        options["executor"] = kt.ProcessExecutor(workers=1)
    is_network = case.trainer != "estimators"
    return SAMPLERS[case.sampler](build if is_network else build_estimator, "val_accuracy", **options)


def search(tuner: Any, case: Case) -> None:
    """The search; one that is complete returns at once."""
    tuner.search(*_rows(case), **_arguments(case))


def _rows(case: Case) -> tuple[np.ndarray, np.ndarray]:
    return X[:32], Y[:32]


def _arguments(case: Case) -> dict[str, Any]:
    arguments: dict[str, Any] = {"verbose": 0}
    if case.step == "folds":
        arguments["cross_validation"] = 3
    elif case.step != "fit" or case.scheduler == "RowHalving":
        arguments["validation_data"] = (X[32:], Y[32:])
    if case.trainer != "estimators":
        arguments |= {"epochs": SCHEDULERS[case.scheduler][1], "batch_size": 8}
    return arguments


def run(case: Case, tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    """Searches, or does the step after the search; what comes out, as arrays.

    Args:
        case: what to do.
        tuner: of `make`.
        folder: for what is not of the project.
    """
    if case.step == "fit":
        winner = tuner.fit(*_rows(case), max_trials=4, **_arguments(case))
        return {"winner": predicted(winner)}
    search(tuner, case)
    return AFTER[case.step](tuner, folder) if case.begins_with_a_search else {}


def predicted(model: Any) -> np.ndarray:
    """What a model says of all rows."""
    return np.asarray(model.predict_proba(X) if hasattr(model, "predict_proba") else _of_network(model))


def _of_network(model: Any) -> Any:
    return model.predict(X, verbose=0) if isinstance(model, keras.Model) else model.predict(X)


def _confirm(tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    found = tuner.confirm(top=2, max_executions=11, verbose=0)
    return {"winning set": np.array(sorted(map(int, found.winning_set)))}


def _bag(tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    return {"bag": predicted(tuner.bag(top=2, folds=3, verbose=0))}


def _retrain(tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    models = tuner.retrain(top=2, epochs_factor=1.0, save_best=folder / "retrained", verbose=0)
    return {str(number): predicted(model) for number, model in enumerate(models)}


def _ensemble(tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    ensemble = tuner.ensemble(method="uniform", verbose=0)
    ensemble.save(folder / "ensemble", overwrite=True)
    loaded = kt.Ensemble.load(folder / "ensemble")
    return {"ensemble": predicted(ensemble), "loaded": predicted(loaded)}


def _export(tuner: Any, folder: Path) -> dict[str, np.ndarray]:
    tuner.export(folder / "exported", overwrite=True)
    return {"best": predicted(tuner.get_best_models(1)[0])}


AFTER: Mapping[str, Callable[[Any, Path], dict[str, np.ndarray]]] = {
    "confirm": _confirm,
    "bag": _bag,
    "retrain": _retrain,
    "ensemble": _ensemble,
    "export": _export,
}
