"""The search loop and the tuners that users construct."""

from typing import Any

from manyfit.tuners.keras_tuner.base_tuner import BaseTuner as BaseTuner
from manyfit.tuners.searches import BayesianOptimization as BayesianOptimization
from manyfit.tuners.searches import Evolution as Evolution
from manyfit.tuners.searches import GridSearch as GridSearch
from manyfit.tuners.searches import Hyperband as Hyperband
from manyfit.tuners.searches import QuasiRandomSearch as QuasiRandomSearch
from manyfit.tuners.searches import RandomSearch as RandomSearch
from manyfit.tuners.searches import Search as Search
from manyfit.tuners.tuner import Tuner as Tuner


def __getattr__(name: str) -> Any:
    """`SklearnTuner`, which needs scikit-learn, is loaded when it is used."""
    if name == "SklearnTuner":
        # Not at the top: scikit-learn is an extra, and slow to load.
        from manyfit.tuners.sklearn_tuner import SklearnTuner

        return SklearnTuner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
