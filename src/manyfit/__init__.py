"""Manyfit: fit many models at once, keep what really wins.

A **tuner** asks an **oracle** what to try and for how long, and hands the trials to a **trainer**, which trains them
together as a **population**, on an **executor**: this process, or a cluster. The **store** remembers every fact.
**Finish** confirms the finalists on fresh seeds and retrains the winners; an **ensemble** combines them; a **report**
shows what is real and what is luck.

Names are loaded when they are first used: importing Manyfit imports neither Keras nor JAX. It does choose JAX as
Keras's backend where nobody has chosen one, so import it before Keras, or set `KERAS_BACKEND`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from manyfit.core.environment import prefer_jax

__version__ = "0.2.0.dev0"

_MODULES = frozenset({"brands", "plot", "trackers"})  # public modules, loaded like names
# Public name -> module that defines it.
_HOMES = {
    "ASHA": "manyfit.schedulers.asha",
    "PopulationBasedTraining": "manyfit.schedulers.population_based",
    "RowHalving": "manyfit.schedulers.row_halving",
    "MedianRule": "manyfit.schedulers.full_length",
    "Hyperband": "manyfit.tuners.searches",
    "BayesianOptimization": "manyfit.tuners.searches",
    "Evolution": "manyfit.tuners.searches",
    "GridSearch": "manyfit.tuners.searches",
    "QuasiRandomSearch": "manyfit.tuners.searches",
    "RandomSearch": "manyfit.tuners.searches",
    "Search": "manyfit.tuners.searches",
    "OptunaSearch": "manyfit.tuners.searches",
    "Belief": "manyfit.samplers.base",
    "Constraint": "manyfit.samplers.base",
    "CrossValidation": "manyfit.data.folds",
    "BaseTuner": "manyfit.tuners.keras_tuner.base_tuner",
    "NoGain": "manyfit.evidence.stopping",
    "Reached": "manyfit.evidence.stopping",
    "Ensemble": "manyfit.ensemble.ensemble",
    "FailedTrialError": "manyfit.core.errors",
    "FatalError": "manyfit.core.errors",
    "FatalRuntimeError": "manyfit.core.errors",
    "FatalTypeError": "manyfit.core.errors",
    "FatalValueError": "manyfit.core.errors",
    "HyperModel": "manyfit.tuners.keras_tuner.hypermodel",
    "HyperParameter": "manyfit.space.hyperparameter",
    "HyperParameters": "manyfit.space.hyperparameters",
    "LocalExecutor": "manyfit.executors.base",
    "MultiObjective": "manyfit.core.objective",
    "ParetoObjective": "manyfit.core.objective",
    "Objective": "manyfit.core.objective",
    "Oracle": "manyfit.oracles.oracle",
    "OutsidePredictions": "manyfit.ensemble.outside",
    "Trial": "manyfit.oracles.trial",
    "TrialStatus": "manyfit.core.lifecycle",
    "SklearnTuner": "manyfit.tuners.sklearn_tuner",
    "ProcessExecutor": "manyfit.executors.process",
    "RayExecutor": "manyfit.executors.ray",
    "synchronized": "manyfit.oracles.keras_tuner.synchronized",
    "Winner": "manyfit.fitting.winner",
    "compare": "manyfit.finish.compare",
    "open_project": "manyfit.report.project",
    "load_winner": "manyfit.fitting.winner",
    "fit": "manyfit.tuners.searches",
    "table": "manyfit.report.terminal",
    "Tuner": "manyfit.tuners.tuner",
}

if TYPE_CHECKING:
    from manyfit.core.errors import FailedTrialError as FailedTrialError
    from manyfit.core.errors import FatalError as FatalError
    from manyfit.core.errors import FatalRuntimeError as FatalRuntimeError
    from manyfit.core.errors import FatalTypeError as FatalTypeError
    from manyfit.core.errors import FatalValueError as FatalValueError
    from manyfit.core.lifecycle import TrialStatus as TrialStatus
    from manyfit.core.objective import MultiObjective as MultiObjective
    from manyfit.core.objective import Objective as Objective
    from manyfit.core.objective import ParetoObjective as ParetoObjective
    from manyfit.data.folds import CrossValidation as CrossValidation
    from manyfit.ensemble.ensemble import Ensemble as Ensemble
    from manyfit.ensemble.outside import OutsidePredictions as OutsidePredictions
    from manyfit.evidence.stopping import NoGain as NoGain
    from manyfit.evidence.stopping import Reached as Reached
    from manyfit.executors.base import LocalExecutor as LocalExecutor
    from manyfit.executors.process import ProcessExecutor as ProcessExecutor
    from manyfit.executors.ray import RayExecutor as RayExecutor
    from manyfit.finish.compare import compare as compare
    from manyfit.fitting.winner import Winner as Winner
    from manyfit.fitting.winner import load_winner as load_winner
    from manyfit.oracles.keras_tuner.synchronized import synchronized as synchronized
    from manyfit.oracles.oracle import Oracle as Oracle
    from manyfit.oracles.trial import Trial as Trial
    from manyfit.report.project import open_project as open_project
    from manyfit.report.terminal import table as table
    from manyfit.samplers.base import Belief as Belief
    from manyfit.samplers.base import Constraint as Constraint
    from manyfit.schedulers.asha import ASHA as ASHA
    from manyfit.schedulers.full_length import MedianRule as MedianRule
    from manyfit.schedulers.population_based import PopulationBasedTraining as PopulationBasedTraining
    from manyfit.schedulers.row_halving import RowHalving as RowHalving
    from manyfit.space.hyperparameter import HyperParameter as HyperParameter
    from manyfit.space.hyperparameters import HyperParameters as HyperParameters
    from manyfit.tuners.keras_tuner.base_tuner import BaseTuner as BaseTuner
    from manyfit.tuners.keras_tuner.hypermodel import HyperModel as HyperModel
    from manyfit.tuners.searches import BayesianOptimization as BayesianOptimization
    from manyfit.tuners.searches import Evolution as Evolution
    from manyfit.tuners.searches import GridSearch as GridSearch
    from manyfit.tuners.searches import Hyperband as Hyperband
    from manyfit.tuners.searches import OptunaSearch as OptunaSearch
    from manyfit.tuners.searches import QuasiRandomSearch as QuasiRandomSearch
    from manyfit.tuners.searches import RandomSearch as RandomSearch
    from manyfit.tuners.searches import Search as Search
    from manyfit.tuners.searches import fit as fit
    from manyfit.tuners.sklearn_tuner import SklearnTuner as SklearnTuner
    from manyfit.tuners.tuner import Tuner as Tuner

prefer_jax()

# Parts that KerasTuner's programs reach as attributes: `kt.oracles.RandomSearchOracle`, `kt.errors.FatalError`.
_PARTS = frozenset({"applications", "compat", "engine", "errors", "oracles", "tuners"})

__all__ = [*sorted(_HOMES), "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES or name in _PARTS:
        return importlib.import_module(f"manyfit.{name}")
    raise AttributeError(f"module 'manyfit' has no attribute {name!r}. Public names: {', '.join(sorted(_HOMES))}.")


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *_PARTS})
