"""Ready search spaces for models of other brands: "above all be diverse, best of all different brands".

`tabular` gives search spaces for tables, one per brand, or all in one search. What a space builds is an estimator in
scikit-learn's manner, or a Keras model; every tuner takes both.

One function per brand: hyperparameters in, an untrained model out. Ranges are those that tabular benchmarks search
(Grinsztajn, Oyallon and Varoquaux 2022, appendix; McElfresh et al. 2023), cut where they only cost time. Defaults are
those of the library, and a search begins with them, so that it cannot end worse. Numbers of rounds are upper bounds:
boosting stops early on the validation rows. `TableEncoder` in front of each estimator takes texts, dates and gaps.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core.errors import UsageError, explain
from manyfit.core.signatures import checked_arguments
from manyfit.data.rows import Rows
from manyfit.space.hyperparameters import HyperParameters

__all__ = ["Brand", "Tabular", "tabular"]

#: A build function: hyperparameters in, a Keras model or an estimator out.
Build: TypeAlias = Callable[[HyperParameters], Any]

_TASKS = ("binary", "multiclass", "multilabel", "regression")
_MAX_ROUNDS = 1000
_NONE = 1e-6  # the lowest strength of a penalty means none, which a logarithmic range does not reach

# Keras, scikit-learn (and `training.tables`, which needs it), LightGBM, XGBoost and CatBoost are imported in functions
# that build with them, and nowhere else: `import manyfit.brands` has to work, and be quick, where only some of them
# are installed.


def mlp(hp: HyperParameters, task: str, num_outputs: int, target: tuple[Any, Any]) -> Any:
    """A multi-layer perceptron in Keras, with batch normalisation of its inputs in place of a scaler.

    Args:
        hp: the `HyperParameters`.
        task: "binary", "multiclass", "multilabel" or "regression".
        num_outputs: columns of the prediction.
        target: mean and scale of the values, for regression.
    """
    import keras

    layers: list[Any] = [keras.layers.BatchNormalization(center=False, scale=False)]
    width, rate = hp.Int("units", 32, 256, sampling="log", default=128), hp.Float("dropout", 0.0, 0.5)
    for _ in range(hp.Int("layers", 1, 3, default=2)):
        layers += [keras.layers.Dense(width, activation="relu"), keras.layers.Dropout(rate)]
    activation = {"multiclass": "softmax", "regression": "linear"}.get(task, "sigmoid")
    layers.append(keras.layers.Dense(num_outputs, activation=activation))
    if task == "regression":
        mean, scale = (np.asarray(part, dtype=float).tolist() for part in target)
        # The network predicts standardised values and this layer puts them back, so no caller has to scale targets.
        layers.append(keras.layers.Rescaling(scale, mean))
    model = keras.Sequential(layers)
    loss = {"multiclass": "sparse_categorical_crossentropy", "regression": "mse"}.get(task, "binary_crossentropy")
    optimizer = keras.optimizers.AdamW(
        hp.Float("learning_rate", 3e-4, 1e-2, sampling="log", default=1e-3),
        weight_decay=hp.Float("weight_decay", 1e-6, 1e-2, sampling="log"),
    )
    model.compile(optimizer, loss, metrics=["mse", "mae"] if task == "regression" else ["accuracy"])
    return model


def gradient_boosting(hp: HyperParameters, task: str) -> Any:
    """scikit-learn's histogram gradient boosting."""
    from sklearn import ensemble, multioutput

    kind = ensemble.HistGradientBoostingRegressor if task == "regression" else ensemble.HistGradientBoostingClassifier
    model = kind(
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log", default=0.1),
        max_leaf_nodes=hp.Int("leaves", 7, 63, sampling="log", default=31),
        min_samples_leaf=hp.Int("leaf_rows", 2, 60, sampling="log", default=20),
        l2_regularization=_penalty(hp, default=_NONE),
        max_features=hp.Float("features", 0.3, 1.0, default=1.0),
        categorical_features="from_dtype",
        max_iter=_MAX_ROUNDS if task != "multilabel" else 100,  # one that several labels share is not stopped early
        early_stopping=False,
    )
    return _for_tables(multioutput.MultiOutputClassifier(model) if task == "multilabel" else model, native=True)


def random_forest(hp: HyperParameters, task: str) -> Any:
    """scikit-learn's random forest."""
    from sklearn import ensemble

    kind = ensemble.RandomForestRegressor if task == "regression" else ensemble.RandomForestClassifier
    features: float | str
    if task == "regression":
        features = hp.Float("features", 0.1, 1.0, default=1.0)
    else:
        rule = features = hp.Choice("feature_rule", ["sqrt", "share"])
        with hp.conditional_scope("feature_rule", ["share"]):
            if rule == "share":
                features = hp.Float("features", 0.1, 1.0)
    model = kind(
        n_estimators=200,
        max_features=features,
        min_samples_leaf=hp.Int("leaf_rows", 1, 16, sampling="log"),
        max_samples=hp.Float("rows", 0.4, 1.0, default=1.0),
    )
    return _for_tables(model)


def linear(hp: HyperParameters, task: str) -> Any:
    """Logistic or ridge regression on standardised features."""
    from sklearn import linear_model, multioutput, preprocessing

    strength = hp.Float("strength", 1e-4, 1e3, sampling="log", default=1.0)
    if task == "regression":
        model: Any = linear_model.Ridge(alpha=strength)
    else:
        model = linear_model.LogisticRegression(C=1.0 / strength, max_iter=2000)
        model = multioutput.MultiOutputClassifier(model) if task == "multilabel" else model
    return _for_tables(preprocessing.StandardScaler(), model, fill=True)


def k_nearest(hp: HyperParameters, task: str) -> Any:
    """Nearest neighbours on standardised features."""
    from sklearn import neighbors, preprocessing

    kind = neighbors.KNeighborsRegressor if task == "regression" else neighbors.KNeighborsClassifier
    model = kind(
        n_neighbors=hp.Int("neighbors", 2, 40, sampling="log", default=5),
        weights=hp.Choice("weighting", ["uniform", "distance"]),
        p=hp.Choice("power", [1, 2], default=2),
    )
    return _for_tables(preprocessing.StandardScaler(), model, fill=True)


def lightgbm(hp: HyperParameters, task: str) -> Any:
    """LightGBM."""
    import lightgbm as library

    kind = library.LGBMRegressor if task == "regression" else library.LGBMClassifier
    model = kind(
        n_estimators=_MAX_ROUNDS,
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log", default=0.1),
        num_leaves=hp.Int("leaves", 7, 127, sampling="log", default=31),
        min_child_samples=hp.Int("leaf_rows", 2, 60, sampling="log", default=20),
        colsample_bytree=hp.Float("features", 0.3, 1.0, default=1.0),
        subsample=hp.Float("rows", 0.5, 1.0, default=1.0),
        subsample_freq=1,
        reg_lambda=_penalty(hp, default=_NONE),
        verbose=-1,
    )
    return _for_tables(model, native=True)


def xgboost(hp: HyperParameters, task: str) -> Any:
    """XGBoost."""
    import xgboost as library

    kind = library.XGBRegressor if task == "regression" else library.XGBClassifier
    model = kind(
        n_estimators=_MAX_ROUNDS,
        learning_rate=hp.Float("learning_rate", 0.02, 0.3, sampling="log", default=0.3),
        max_depth=hp.Int("depth", 2, 10, default=6),
        min_child_weight=hp.Float("leaf_weight", 1e-2, 30.0, sampling="log", default=1.0),
        colsample_bytree=hp.Float("features", 0.3, 1.0, default=1.0),
        subsample=hp.Float("rows", 0.5, 1.0, default=1.0),
        reg_lambda=_penalty(hp, default=1.0),
        enable_categorical=True,
    )
    return _for_tables(model, native=True)


def catboost(hp: HyperParameters, task: str) -> Any:
    """CatBoost."""
    import catboost as library

    kind = library.CatBoostRegressor if task == "regression" else library.CatBoostClassifier
    rate = None  # CatBoost chooses by the number of rows
    automatic = hp.Boolean("automatic_learning_rate", default=True)
    with hp.conditional_scope("automatic_learning_rate", [False]):
        if not automatic:
            rate = hp.Float("learning_rate", 0.02, 0.3, sampling="log")
    model = kind(
        iterations=_MAX_ROUNDS,
        learning_rate=rate,
        depth=hp.Int("depth", 3, 8, default=6),
        l2_leaf_reg=hp.Float("l2", 0.5, 30.0, sampling="log", default=3.0),
        random_strength=hp.Float("random_strength", 0.1, 10.0, sampling="log", default=1.0),
        allow_writing_files=False,
        verbose=False,
    )
    return _for_tables(model, native=True)


def _penalty(hp: HyperParameters, *, default: float) -> float:
    """The strength of a quadratic penalty."""
    strength = hp.Float("l2", _NONE, 10.0, sampling="log", default=default)
    return 0.0 if strength <= _NONE else strength


def _for_tables(*steps: Any, native: bool = False, fill: bool = False) -> Any:
    """A pipeline of these steps that takes tables."""
    from sklearn import pipeline

    from manyfit.training.tables import TableEncoder  # imports scikit-learn, an optional library

    return pipeline.make_pipeline(TableEncoder(native, fill), *steps)


_ALWAYS: dict[str, Callable[..., Any]] = {
    "gradient boosting": gradient_boosting,
    "random forest": random_forest,
    "linear": linear,
    "k-nearest": k_nearest,
}
_WHERE_INSTALLED: dict[str, Callable[..., Any]] = {
    "lightgbm": lightgbm,
    "xgboost": xgboost,
    "catboost": catboost,
}


@dataclasses.dataclass(frozen=True)
class Brand:
    """The build function of one brand. A search begins with the defaults of its library.

    Attributes:
        name: of the brand.
        make: hyperparameters and `arguments` -> an untrained model.
        arguments: of `make`.
        starts: values to begin a search with; what is missing has its default.
    """

    # A class and not a function inside another: workers in other processes get it by pickle.
    name: str
    make: Callable[..., Any]
    arguments: Mapping[str, Any]
    starts: tuple[Mapping[str, Any], ...] = ({},)

    def __call__(self, hp: HyperParameters) -> Any:
        """Builds an untrained model."""
        return self.make(hp, **self.arguments)

    def check_rows(self, rows: Rows) -> None:
        """Refuses rows that models of this brand cannot take.

        Raises:
            UsageError: a network, and texts, categories, dates or gaps in x.
        """
        if self.name != "mlp" or rows.kind.is_pipeline:
            return
        try:
            from manyfit.training.tables import gaps_or_texts  # imports scikit-learn, an optional library
        except ImportError:  # no scikit-learn: then the network is all there is, and Keras says what it cannot take
            return
        if (found := gaps_or_texts(rows.x)) is not None:
            raise UsageError(
                explain(
                    "search(x) with the brand 'mlp'",
                    f"x with {found}",
                    "numbers without gaps, for a network in Keras; the other brands take such tables",
                    f"Type kt.brands.tabular({self.arguments['task']!r}, brands={list(_ALWAYS)}), or encode x first.",
                )
            )


class Tabular(Mapping[str, Build]):
    """Build functions by brand; itself a build function that searches the brand as well. Made by `tabular`.

    Attributes:
        starts: the defaults of each brand, to begin a search with.
    """

    def __init__(self, builds: Mapping[str, Brand]) -> None:
        self._builds = dict(builds)
        self.starts = tuple({"brand": name} for name in self._builds)

    def check_rows(self, rows: Rows) -> None:
        """Refuses rows that models of one of the brands cannot take.

        Raises:
            UsageError: see `Brand.check_rows`.
        """
        for build in self._builds.values():
            build.check_rows(rows)

    def __getitem__(self, name: str) -> Build:
        if name not in self._builds:
            raise KeyError(f"{name!r}; brands: {', '.join(self._builds)}")
        return self._builds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builds)

    def __len__(self) -> int:
        return len(self._builds)

    def __call__(self, hp: HyperParameters) -> Any:
        """Builds a model of the brand that `hp` chooses; each brand's hyperparameters are active only with it."""
        chosen = hp.Choice("brand", list(self._builds))
        # Every brand's scope is opened, and only the chosen one builds in it: from scopes that did not hold, discovery
        # knows that there is more to explore.
        model = None
        for name, build in self._builds.items():
            with hp.conditional_scope("brand", [name]), hp.name_scope(name):
                if name == chosen:
                    model = build(hp)
        return model


@checked_arguments()
def tabular(
    task: str, y: ArrayLike | None = None, *, num_outputs: int | None = None, brands: Sequence[str] | None = None
) -> Tabular:
    """Search spaces for tables: MLP, gradient boosting, random forest, linear, k-nearest; and LightGBM, XGBoost and
    CatBoost where they are installed.

    Args:
        task: "binary", "multiclass", "multilabel" or "regression".
        y: training targets; the MLP takes the number of its outputs, and the scale of values, from them.
        num_outputs: of the MLP, where y is not given: classes, labels or values.
        brands: which ones; None takes all that are installed.

    Returns:
        A mapping from the brand to its build function, for one search each; and a build function itself, for one
        search over all of them.

    Raises:
        UsageError: an unknown task or brand, a brand that is not installed, or an MLP of unknown size.

    Example:

    >>> import manyfit as kt
    >>> spaces = tabular("binary", brands=["linear", "k-nearest"])
    >>> list(spaces), type(spaces["linear"](kt.HyperParameters())).__name__
    (['linear', 'k-nearest'], 'Pipeline')
    """
    if task not in _TASKS:
        raise UsageError(explain("tabular(task)", repr(task), ", ".join(_TASKS), 'Type tabular("multiclass"), say.'))
    known = ["mlp", *_ALWAYS, *_WHERE_INSTALLED]
    installed = [name for name in known if name not in _WHERE_INSTALLED or importlib.util.find_spec(name) is not None]
    if task == "multilabel":  # their wrappers for several labels stop nothing early
        installed = [name for name in installed if name not in _WHERE_INSTALLED]
    wanted = installed if brands is None else list(brands)
    unknown = [name for name in wanted if name not in installed]
    if unknown or not wanted:
        got = "no brands" if not wanted else repr(unknown[0])
        missing = f"pip install {unknown[0]}" if unknown and unknown[0] in _WHERE_INSTALLED else "Leave brands out."
        raise UsageError(explain("tabular(brands)", got, ", ".join(installed), missing))
    builds: dict[str, Brand] = {}
    for name in wanted:
        if name == "mlp":
            size, target = _outputs(task, y, num_outputs)
            builds[name] = Brand(name, mlp, {"task": task, "num_outputs": size, "target": target})
        else:
            builds[name] = Brand(name, _ALWAYS.get(name) or _WHERE_INSTALLED[name], {"task": task})
    return Tabular(builds)


def _outputs(task: str, y: ArrayLike | None, num_outputs: int | None) -> tuple[int, tuple[Any, Any]]:
    """Columns of the MLP's prediction, and mean and scale of values.

    Trees find both out by themselves while they are fitted; a network is built before it sees a row. So they are read
    from y where it is given, and where it is not, only a task that leaves no choice can be served.
    """
    array = None if y is None else np.asarray(y)
    # A column of labels is meant as labels.
    if array is not None and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    mean, scale = (0.0, 1.0)
    if array is not None and task == "regression":
        # A constant target has scale 0, which would leave nothing to learn from.
        mean, scale = array.mean(axis=0), np.maximum(array.std(axis=0), 1e-12)
    if num_outputs is None and array is not None:
        if task == "multiclass" and array.ndim == 1:
            names = array.dtype.kind not in "biuf"
            num_outputs = len(np.unique(array.astype(str))) if names else int(array.max()) + 1
        else:
            num_outputs = array.size // len(array)
    if num_outputs is None and task in ("binary", "regression"):
        num_outputs = 1
    if num_outputs is None:
        raise UsageError(
            explain(
                f"tabular({task!r})",
                "an MLP of unknown size",
                "y= or num_outputs=",
                f"Type tabular({task!r}, y_train), or leave the MLP out: brands=[...].",
            )
        )
    return num_outputs, (mean, scale)
