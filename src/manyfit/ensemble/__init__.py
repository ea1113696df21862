"""Ensembles: pools, weights, selection, diversity, and one Keras model out.

Imports core, stats, Keras (lazily, through the gate of training/keras_internals where a name is private), NumPy and
SciPy. Knows nothing of tuners, trainers or the store: it takes models, or predictions with the labels of their rows,
and gives back an `Ensemble`.

`ensemble` is what users see. `members` and `problem` bring what they gave into one form, `fitting` keeps it,
`choosing/` finds a method for it, with the weights of `weights/` and the pools of `pools/`; `prediction`, `saving` and
`distillation` are what becomes of the result, `explaining` and `diversity` say why it is what it is.
"""

from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import PredictionTask
from manyfit.ensemble.settings import CostBudget, EnsembleSettings, RowCuts

__all__ = [
    "CostBudget",
    "Ensemble",
    "EnsembleMember",
    "EnsembleSettings",
    "Metric",
    "Pool",
    "PredictionTask",
    "RowCuts",
]
