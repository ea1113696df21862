"""Oracles: a sampler and a scheduler, with the bookkeeping of trials: ids, retries, limits, memory."""

from manyfit.core.lifecycle import TrialStatus as TrialStatus
from manyfit.oracles.oracle import Oracle as Oracle
from manyfit.oracles.searches import BayesianOptimizationOracle as BayesianOptimizationOracle
from manyfit.oracles.searches import EvolutionOracle as EvolutionOracle
from manyfit.oracles.searches import GridSearchOracle as GridSearchOracle
from manyfit.oracles.searches import HyperbandOracle as HyperbandOracle
from manyfit.oracles.searches import OptunaOracle as OptunaOracle
from manyfit.oracles.searches import QuasiRandomSearchOracle as QuasiRandomSearchOracle
from manyfit.oracles.searches import RandomSearchOracle as RandomSearchOracle
from manyfit.oracles.searches import SearchOracle as SearchOracle
from manyfit.oracles.trial import Execution as Execution
from manyfit.oracles.trial import Trial as Trial
