"""Ready spaces against their own libraries: `kt.brands` in a few trials, and the library's defaults.

For each brand and data set: test and validation loss of the library's own class with its defaults (boosting: up to
1,000 rounds, until 50 of them bring no gain on the validation rows), and of the best of so many trials of Manyfit on
the same rows. Rows are cut anew several times; the table has means over the cuts, and in how many of them the search
was not worse on the validation rows, by which it chooses.

Data: California housing in the folder MANYFIT_DATA (default ``../shared/data``), and scikit-learn's breast cancer and
wine. Needs ``pip install manyfit[brands]``; prints a table, which is kept in ``results/estimators.md``.
"""

from __future__ import annotations

import os

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import manyfit as kt  # isort: skip

import numpy as np
from sklearn import datasets, ensemble, linear_model, metrics, neighbors, pipeline, preprocessing

DATA = Path(os.environ.get("MANYFIT_DATA", Path(__file__).resolve().parents[1] / "../shared/data"))
BRANDS = ("gradient boosting", "random forest", "linear", "k-nearest", "lightgbm", "xgboost", "catboost")


def tables(most_rows: int) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
    """Name, task, x, y."""
    housing = np.load(DATA / "california_housing.npz")
    rows = np.random.default_rng(0).permutation(len(housing["x"]))[:most_rows]
    yield "California housing", "regression", housing["x"][rows], housing["y"][rows]
    for name, load, task in (
        ("breast cancer", datasets.load_breast_cancer, "binary"),
        ("wine", datasets.load_wine, "multiclass"),
    ):
        yield name, task, *load(return_X_y=True)


def by_library(brand: str, regression: bool, parts: dict[str, np.ndarray]) -> Any:
    """The library's own class, fitted with its defaults; boosting with early stopping on the validation rows."""
    x, y, held_out = parts["x"], parts["y"], (parts["x_val"], parts["y_val"])
    if brand == "gradient boosting":
        kind = ensemble.HistGradientBoostingRegressor if regression else ensemble.HistGradientBoostingClassifier
        model = kind(max_iter=1000, early_stopping=True, n_iter_no_change=50, random_state=0)
        return model.fit(x, y, X_val=held_out[0], y_val=held_out[1])
    if brand == "lightgbm":
        import lightgbm

        model = (lightgbm.LGBMRegressor if regression else lightgbm.LGBMClassifier)(n_estimators=1000, verbose=-1)
        return model.fit(x, y, eval_set=[held_out], callbacks=[lightgbm.early_stopping(50, verbose=False)])
    if brand == "xgboost":
        import xgboost

        kind = xgboost.XGBRegressor if regression else xgboost.XGBClassifier
        return kind(n_estimators=1000, early_stopping_rounds=50).fit(x, y, eval_set=[held_out], verbose=False)
    if brand == "catboost":
        import catboost

        kind = catboost.CatBoostRegressor if regression else catboost.CatBoostClassifier
        model = kind(verbose=False, allow_writing_files=False)
        return model.fit(x, y, eval_set=held_out, early_stopping_rounds=50)
    plain: dict[str, Callable[[], Any]] = {
        "random forest": lambda: (ensemble.RandomForestRegressor if regression else ensemble.RandomForestClassifier)(
            random_state=0
        ),
        "linear": lambda: linear_model.Ridge() if regression else linear_model.LogisticRegression(max_iter=2000),
        "k-nearest": neighbors.KNeighborsRegressor if regression else neighbors.KNeighborsClassifier,
    }
    scaled = brand in ("linear", "k-nearest")
    model = pipeline.make_pipeline(preprocessing.StandardScaler(), plain[brand]()) if scaled else plain[brand]()
    return model.fit(x, y)


def by_search(brand: str, task: str, trials: int, seed: int, parts: dict[str, np.ndarray]) -> Any:
    """The best of so many trials."""
    build = kt.brands.tabular(task, brands=[brand])[brand]
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.BayesianOptimization(build, "val_loss", max_trials=trials, seed=seed, directory=folder)
        held_out = (parts["x_val"], parts["y_val"])
        tuner.search(parts["x"], parts["y"], validation_data=held_out, verbose=0)
        model = tuner.get_best_models(1)[0]
        tuner.close()
    return model


def loss(model: Any, regression: bool, x: np.ndarray, y: np.ndarray) -> float:
    """Root mean squared error, or log loss."""
    if regression:
        return float(np.sqrt(metrics.mean_squared_error(y, np.asarray(model.predict(x)).reshape(-1))))
    return float(metrics.log_loss(y, model.predict_proba(x), labels=model.classes_))


def cut(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Half of the rows to train on, a quarter each to validate and to test."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, validation, test = np.split(order, [len(x) // 2, 3 * len(x) // 4])
    named = {"x": x[train], "y": y[train], "x_val": x[validation], "y_val": y[validation]}
    return {**named, "x_test": x[test], "y_test": y[test]}


def main() -> None:
    """Runs the cuts and prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cuts", type=int, default=3)
    parser.add_argument("--most-rows", type=int, default=2000)
    parser.add_argument("--brands", nargs="+", default=BRANDS)
    options = parser.parse_args()
    conditions.show()
    print(
        f"{options.trials} trials, {options.cuts} cuts, at most {options.most_rows} rows; test loss, lower is better\n"
    )
    print("| data | brand | test: library | Manyfit | validation: library | Manyfit | not worse there |")
    print("|---|---|---|---|---|---|---|")
    for name, task, x, y in tables(options.most_rows):
        for brand in options.brands:
            found = []
            for seed in range(options.cuts):
                parts, regression = cut(x, y, seed), task == "regression"
                models = by_library(brand, regression, parts), by_search(brand, task, options.trials, seed, parts)
                found.append(
                    [
                        loss(model, regression, parts[f"x_{rows}"], parts[f"y_{rows}"])
                        for rows in ("test", "val")
                        for model in models
                    ]
                )
            means, wins = np.mean(found, axis=0), sum(row[3] <= row[2] + 1e-9 for row in found)
            numbers = " | ".join(f"{mean:.4f}" for mean in means)
            print(f"| {name} | {brand} | {numbers} | {wins} of {options.cuts} |", flush=True)


if __name__ == "__main__":
    main()
