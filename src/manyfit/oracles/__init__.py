"""Oracles: a sampler and a scheduler, with the bookkeeping of trials: ids, retries, limits, memory."""

from manyfit.oracles.oracle import Oracle as Oracle
from manyfit.oracles.trial import Execution as Execution
from manyfit.oracles.trial import Trial as Trial
from manyfit.oracles.trial import TrialStatus as TrialStatus
