"""Oracles: a sampler and a scheduler, with the bookkeeping of trials: ids, retries, limits, memory."""

from typing import Any

from manyfit.oracles.oracle import Oracle as Oracle
from manyfit.oracles.trial import Execution as Execution
from manyfit.oracles.trial import Trial as Trial
from manyfit.oracles.trial import TrialStatus as TrialStatus


def __getattr__(name: str) -> Any:
    """The ready oracles (`RandomSearchOracle` and so on), which bring all samplers with them when they are used."""
    if name.endswith("Oracle"):
        from manyfit.oracles import searches

        if hasattr(searches, name):
            return getattr(searches, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
