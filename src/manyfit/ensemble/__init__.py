"""Ensembles: pools, weights, selection, diversity, and one Keras model out.

Imports core, stats, Keras (lazily), NumPy and SciPy. Knows nothing of tuners, trainers or the store: it takes models,
or predictions with the labels of their rows, and gives back an `Ensemble`.
"""

from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import Pool
from manyfit.ensemble.problem import PredictionTask
from manyfit.ensemble.settings import CostBudget, EnsembleSettings

__all__ = ["CostBudget", "Ensemble", "EnsembleMember", "EnsembleSettings", "Metric", "Pool", "PredictionTask"]
