"""One function per brand: hyperparameters in, an untrained model out.

Ranges are those that tabular benchmarks search (Grinsztajn, Oyallon and Varoquaux 2022, appendix; McElfresh et al.
2023), cut where they only cost time. Numbers of rounds are upper bounds: boosting stops early.
scikit-learn, LightGBM, XGBoost and CatBoost are imported where they are asked for, and nowhere else.
"""

from __future__ import annotations

from typing import Any

import numpy as np

_MAX_ROUNDS = 500


def mlp(hp: Any, task: str, num_outputs: int, target: tuple[Any, Any]) -> Any:
    """A multi-layer perceptron in Keras, with batch normalisation of its inputs in place of a scaler.

    Args:
        hp: the `HyperParameters`.
        task: "binary", "multiclass", "multilabel" or "regression".
        num_outputs: columns of the prediction.
        target: mean and scale of the values, for regression.
    """
    import keras

    layers: list[Any] = [keras.layers.BatchNormalization(center=False, scale=False)]
    width, rate = hp.Int("units", 32, 256, sampling="log"), hp.Float("dropout", 0.0, 0.5)
    for _ in range(hp.Int("layers", 1, 3)):
        layers += [keras.layers.Dense(width, activation="relu"), keras.layers.Dropout(rate)]
    activation = {"multiclass": "softmax", "regression": "linear"}.get(task, "sigmoid")
    layers.append(keras.layers.Dense(num_outputs, activation=activation))
    if task == "regression":
        mean, scale = (np.asarray(part, dtype=float).tolist() for part in target)
        layers.append(keras.layers.Rescaling(scale, mean))
    model = keras.Sequential(layers)
    loss = {"multiclass": "sparse_categorical_crossentropy", "regression": "mse"}.get(task, "binary_crossentropy")
    optimizer = keras.optimizers.AdamW(
        hp.Float("learning_rate", 3e-4, 1e-2, sampling="log"),
        weight_decay=hp.Float("weight_decay", 1e-6, 1e-2, sampling="log"),
    )
    model.compile(optimizer, loss, metrics=["mse", "mae"] if task == "regression" else ["accuracy"])
    return model


def gradient_boosting(hp: Any, task: str) -> Any:
    """scikit-learn's histogram gradient boosting."""
    from sklearn import ensemble, multioutput

    kind = ensemble.HistGradientBoostingRegressor if task == "regression" else ensemble.HistGradientBoostingClassifier
    model = kind(
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log"),
        max_leaf_nodes=hp.Int("leaves", 7, 63, sampling="log"),
        min_samples_leaf=hp.Int("leaf_rows", 2, 60, sampling="log"),
        l2_regularization=hp.Float("l2", 1e-6, 10.0, sampling="log"),
        max_features=hp.Float("features", 0.3, 1.0),
        max_iter=_MAX_ROUNDS if task != "multilabel" else 100,  # one that several labels share is not stopped early
        early_stopping=False,
    )
    return multioutput.MultiOutputClassifier(model) if task == "multilabel" else model


def random_forest(hp: Any, task: str) -> Any:
    """scikit-learn's random forest."""
    from sklearn import ensemble

    kind = ensemble.RandomForestRegressor if task == "regression" else ensemble.RandomForestClassifier
    return kind(
        n_estimators=200,
        max_features=hp.Float("features", 0.1, 1.0),
        min_samples_leaf=hp.Int("leaf_rows", 1, 16, sampling="log"),
        max_samples=hp.Float("rows", 0.4, 1.0),
    )


def linear(hp: Any, task: str) -> Any:
    """Logistic or ridge regression on standardised features."""
    from sklearn import linear_model, multioutput, pipeline, preprocessing

    strength = hp.Float("strength", 1e-4, 1e3, sampling="log")
    if task == "regression":
        model: Any = linear_model.Ridge(alpha=strength)
    else:
        model = linear_model.LogisticRegression(C=1.0 / strength, max_iter=2000)
        model = multioutput.MultiOutputClassifier(model) if task == "multilabel" else model
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


def k_nearest(hp: Any, task: str) -> Any:
    """Nearest neighbours on standardised features."""
    from sklearn import neighbors, pipeline, preprocessing

    kind = neighbors.KNeighborsRegressor if task == "regression" else neighbors.KNeighborsClassifier
    model = kind(
        n_neighbors=hp.Int("neighbors", 2, 40, sampling="log"),
        weights=hp.Choice("weighting", ["uniform", "distance"]),
        p=hp.Choice("power", [1, 2]),
    )
    return pipeline.make_pipeline(preprocessing.StandardScaler(), model)


def lightgbm(hp: Any, task: str) -> Any:
    """LightGBM."""
    import lightgbm as library

    kind = library.LGBMRegressor if task == "regression" else library.LGBMClassifier
    return kind(
        n_estimators=_MAX_ROUNDS,
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log"),
        num_leaves=hp.Int("leaves", 7, 127, sampling="log"),
        min_child_samples=hp.Int("leaf_rows", 2, 60, sampling="log"),
        colsample_bytree=hp.Float("features", 0.3, 1.0),
        subsample=hp.Float("rows", 0.5, 1.0),
        subsample_freq=1,
        reg_lambda=hp.Float("l2", 1e-6, 10.0, sampling="log"),
        verbose=-1,
    )


def xgboost(hp: Any, task: str) -> Any:
    """XGBoost."""
    import xgboost as library

    kind = library.XGBRegressor if task == "regression" else library.XGBClassifier
    return kind(
        n_estimators=_MAX_ROUNDS,
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log"),
        max_depth=hp.Int("depth", 2, 10),
        min_child_weight=hp.Float("leaf_weight", 1e-2, 30.0, sampling="log"),
        colsample_bytree=hp.Float("features", 0.3, 1.0),
        subsample=hp.Float("rows", 0.5, 1.0),
        reg_lambda=hp.Float("l2", 1e-6, 10.0, sampling="log"),
    )


def catboost(hp: Any, task: str) -> Any:
    """CatBoost."""
    import catboost as library

    kind = library.CatBoostRegressor if task == "regression" else library.CatBoostClassifier
    return kind(
        iterations=_MAX_ROUNDS,
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log"),
        depth=hp.Int("depth", 3, 8),
        l2_leaf_reg=hp.Float("l2", 0.5, 30.0, sampling="log"),
        random_strength=hp.Float("random_strength", 0.1, 10.0, sampling="log"),
        allow_writing_files=False,
        verbose=False,
    )
