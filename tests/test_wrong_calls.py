"""Wrong calls over the whole public API: each refused by an error of ours, in four parts; none in silence, none raw."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
import wrong_calls_searched as after
import wrong_calls_written as before
from wrong_calls import WrongCall, counted, generated, rows, written

X, Y = rows()
NOTHING: Mapping[str, Any] = MappingProxyType({})
P = np.stack([np.linspace(0.1, 0.9, 24), np.linspace(0.9, 0.1, 24)], axis=1)


def build(hp: kt.HyperParameters, loss: Any = "sparse_categorical_crossentropy", **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    hp.Int("unit", 1, 4), hp.Choice("kind", ["a", "b"])
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1), "loss": loss, "metrics": ["accuracy"], **compiled})
    return model


def space() -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.Int("unit", 1, 4), hp.Choice("kind", ["a", "b"])
    return hp


def space_of(each: Any) -> kt.HyperParameters:
    return kt.HyperParameters.from_config({"space": [each], "values": {}})


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the calls are made of."""
    root = tmp_path_factory.mktemp("wrong")
    number = itertools.count()

    def tuner(cls: type = kt.RandomSearch, **options: Any) -> Any:
        given = {"hypermodel": build, "objective": "val_loss", "seed": 0, "directory": str(root), "population": False}
        given |= {"max_trials": 2, "project_name": f"p{next(number)}"}
        made = cls(**{**given, **options})
        made.close()
        return made

    def search(*data: Any, make: Any = NOTHING, tuner: Any = NOTHING, **fit: Any) -> None:
        given = {"objective": "val_loss", "max_trials": 1, "seed": 0, "directory": str(root), "population": False}
        given |= {"project_name": f"p{next(number)}"}
        made = kt.RandomSearch(lambda hp: build(hp, **make), **{**given, **tuner})
        with contextlib.closing(made):
            made.search(*(data or (X, Y)), **{"validation_split": 0.25, "verbose": 0, **fit})

    def numbers(value: Any) -> None:
        made = tiny.numbers(
            lambda trial: value,
            objective="val_loss",
            max_trials=1,
            directory=str(root),
            project_name=f"p{next(number)}",
        )
        with contextlib.closing(made):
            made.search(verbose=0)

    searched = kt.RandomSearch(
        build, "val_loss", 2, seed=0, directory=str(root), project_name="searched", population=False
    )
    searched.search(X, Y, validation_split=0.25, epochs=2, verbose=0)
    new = kt.RandomSearch(build, "val_loss", 2, seed=0, directory=str(root), project_name="new", population=False)
    return {
        "kt": kt, "np": np, "nan": float("nan"), "inf": float("inf"), "H": space, "O": kt.Objective, "R": tuner,
        "space_of": space_of, "S": search, "M": numbers, "T": searched, "N": new, "X": X, "Y": Y, "V": (X, Y), "P": P,
        "B": kt.BayesianOptimization, "build": build, "root": str(root), "folder": searched.project_dir,
        "first": next(iter(searched.oracle.trials)),
        "E": lambda predictions, y, **options: kt.Ensemble.fit(predictions=predictions, y=y, **options),
        "ensemble": functools.cache(lambda: kt.Ensemble.fit(predictions=[P, P[::-1]], y=Y, method="uniform")),
    }  # fmt: skip


SIMPLE = [
    kt.ASHA, kt.MedianRule, kt.PopulationBasedTraining, kt.ProcessExecutor, kt.RayExecutor, kt.CrossValidation,
    kt.NoGain, kt.LocalExecutor, kt.trackers.MLflow, kt.trackers.OptunaStudy, kt.trackers.WandB, kt.HyperModel,
]  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "Int": {"min_value": 1, "max_value": 9},
    "Float": {"min_value": 0.0, "max_value": 1.0},
    "Boolean": {},
    "Choice": {"values": ["a"]},
    "Fixed": {"value": 1},
}
STEPS = [
    "confirm", "retrain", "bag", "ensemble", "get_best_models", "get_best_hyperparameters", "results_summary",
    "search_space_summary", "warm_start", "stop_trial", "predictions", "submission", "to_script", "export", "report",
    "load_model", "get_trial_dir",
]  # fmt: skip


def of_classes(tuner: Any) -> Iterator[WrongCall]:
    """Of what is made before a search."""
    for one in SIMPLE:
        yield from generated(f"kt.{one.__name__}", one)
    yield from generated("kt.RowHalving", kt.RowHalving, rows=[8, 16])
    yield from generated("kt.Objective", kt.Objective, name="val_loss", direction="min")
    yield from generated("kt.Constraint", kt.Constraint, metric="val_loss", max=1.0)
    yield from generated("kt.Belief", kt.Belief, name="unit", value=2)
    yield from generated("kt.Reached", kt.Reached, value=0.5)
    yield from generated("kt.Oracle", kt.Oracle, objective="val_loss", max_trials=2)
    for kind, right in KINDS.items():
        yield from generated(f"hp.{kind}", getattr(kt.HyperParameters(), kind), **{"name": "a", **right})
    for ready in tiny.READY:
        make = functools.partial(tuner, ready)
        make.__signature__ = inspect.signature(ready)  # type: ignore[attr-defined]
        yield from generated(f"kt.{ready.__name__}", make)


def of_steps(searched: Any, root: str) -> Iterator[WrongCall]:
    """Of what a tuner and its oracle do."""
    for step in STEPS:
        right = {"folder": f"{root}/export"} if step == "export" else {}
        yield from generated(f"tuner.{step}", getattr(searched, step), **right)
    yield from generated("tuner.search", searched.search, x=X, y=Y, validation_split=0.25, verbose=0)
    yield from generated("tuner.fit", searched.fit, x=X, y=Y, max_seconds=0.5, verbose=0)
    yield from generated("tuner.evaluate", searched.evaluate, x=X, y=Y)
    for step in ["get_trial", "get_recommended_trials", "lineage", "enqueue"]:
        yield from generated(f"oracle.{step}", getattr(searched.oracle, step))


def of_functions(searched: Any) -> Iterator[WrongCall]:
    """Of what needs no tuner."""
    yield from generated("kt.Ensemble.fit", kt.Ensemble.fit, predictions=[P, P], y=Y)
    yield from generated("kt.Ensemble.load", kt.Ensemble.load, path="nowhere")
    yield from generated("kt.fit", kt.fit, hypermodel=build, x=X, y=Y, objective="val_loss", max_seconds=0.5)
    yield from generated("kt.compare", kt.compare, a=searched.project_dir, b=searched.project_dir)
    yield from generated("kt.open_project", kt.open_project)
    yield from generated("kt.load_winner", kt.load_winner, path="nowhere")
    yield from generated("kt.table", kt.table, rows=[{"a": 1}], columns=["a"])
    yield from generated("kt.brands.tabular", kt.brands.tabular, task="classification", y=Y)
    for name in ["history", "slice", "contour"]:
        yield from generated(f"kt.plot.{name}", getattr(kt.plot, name), source=searched)
    images = {"HyperResNet": {"classes": 2}, "HyperXception": {"classes": 2}, "HyperEfficientNet": {"classes": 2}}
    for name, right in {**images, "HyperImageAugment": {"augment_layers": 2}}.items():
        made = getattr(kt.applications, name)
        yield from generated(f"kt.applications.{name}", made, input_shape=(8, 8, 3), **right)


TABLES = {name: text for module in (before, after) for name, text in vars(module).items() if name.isupper()}


def report(answers: dict[str, str]) -> str:
    return "\n".join(f"{typed}   ->   {answer}" for typed, answer in answers.items() if answer != "four parts")


@pytest.mark.parametrize("table", TABLES)
def test_what_people_wrote(table, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers = {call.typed: call.answer() for call in written(TABLES[table], names)}
    assert counted(answers)["four parts"] == len(answers), f"{counted(answers)}\n{report(answers)}"


def test_what_signatures_give(names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = [*of_classes(names["R"]), *of_steps(names["T"], names["root"]), *of_functions(names["T"])]
    answers = {call.typed: call.answer() for call in calls}
    assert counted(answers)["four parts"] == len(answers), f"{counted(answers)}\n{report(answers)}"
