"""`kt.brands.tabular`: search spaces for tables, one per brand, or all in one search."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.brands import spaces
from manyfit.core.errors import UsageError, explain

_TASKS = ("binary", "multiclass", "multilabel", "regression")
_ALWAYS: dict[str, Callable[..., Any]] = {
    "gradient boosting": spaces.gradient_boosting,
    "random forest": spaces.random_forest,
    "linear": spaces.linear,
    "k-nearest": spaces.k_nearest,
}
_WHERE_INSTALLED: dict[str, Callable[..., Any]] = {
    "lightgbm": spaces.lightgbm,
    "xgboost": spaces.xgboost,
    "catboost": spaces.catboost,
}


class Tabular(Mapping[str, Callable[[Any], Any]]):
    """Build functions by brand; itself a build function that searches the brand as well. Made by `tabular`."""

    def __init__(self, builds: Mapping[str, Callable[[Any], Any]]) -> None:
        self._builds = dict(builds)

    def __getitem__(self, name: str) -> Callable[[Any], Any]:
        if name not in self._builds:
            raise KeyError(f"{name!r}; brands: {', '.join(self._builds)}")
        return self._builds[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builds)

    def __len__(self) -> int:
        return len(self._builds)

    def __call__(self, hp: Any) -> Any:
        """Builds a model of the brand that `hp` chooses; each brand's hyperparameters are active only with it."""
        chosen = hp.Choice("brand", list(self._builds))
        model = None
        for name, build in self._builds.items():
            with hp.conditional_scope("brand", [name]), hp.name_scope(name):
                if name == chosen:
                    model = build(hp)
        return model


def tabular(
    task: str, y: Any = None, *, num_outputs: int | None = None, brands: Sequence[str] | None = None
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
    builds: dict[str, Callable[[Any], Any]] = {}
    for name in wanted:
        if name == "mlp":
            size, target = _outputs(task, y, num_outputs)
            builds[name] = functools.partial(spaces.mlp, task=task, num_outputs=size, target=target)
        else:
            builds[name] = functools.partial(_ALWAYS.get(name) or _WHERE_INSTALLED[name], task=task)
    return Tabular(builds)


def _outputs(task: str, y: Any, num_outputs: int | None) -> tuple[int, tuple[Any, Any]]:
    """Columns of the MLP's prediction, and mean and scale of values."""
    array = None if y is None else np.asarray(y)
    if array is not None and array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    mean, scale = (0.0, 1.0)
    if array is not None and task == "regression":
        mean, scale = array.mean(axis=0), np.maximum(array.std(axis=0), 1e-12)
    if num_outputs is None and array is not None:
        numbered = task == "multiclass" and array.ndim == 1
        num_outputs = int(array.max()) + 1 if numbered else array.size // len(array)
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
