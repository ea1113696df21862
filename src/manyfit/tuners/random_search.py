"""Random search: the baseline that everything else has to beat."""

from __future__ import annotations

from typing import Any

from manyfit.oracles import Oracle
from manyfit.samplers.random_search import RandomSampler
from manyfit.space.hyperparameters import HyperParameters
from manyfit.tuners.tuner import Tuner


class RandomSearchOracle(Oracle):
    """Draws configurations at random, none twice while a new one is left.

    Args:
        objective: see `Oracle`.
        max_trials: most trials.
        seed: of the whole search; 0 is a seed.
        hyperparameters: see `Oracle`.
        allow_new_entries: see `Oracle`.
        tune_new_entries: see `Oracle`.
        max_retries_per_trial: how often a failed trial runs again.
        max_consecutive_failed_trials: after so many exceptions in a row the search gives up.
        max_seconds: see `Oracle`.
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(
            objective,
            max_trials,
            hyperparameters,
            allow_new_entries,
            tune_new_entries,
            seed,
            max_retries_per_trial,
            max_consecutive_failed_trials,
            sampler=RandomSampler(),
            max_seconds=max_seconds,
        )


class RandomSearch(Tuner):
    """Random search.

    Args:
        hypermodel: a function that takes `HyperParameters` and returns a compiled Keras model, or a `HyperModel`.
        objective: what is optimised: a metric's name (its direction is told from the name), an `Objective`, or a list.
        max_trials: most configurations.
        seed: of the whole search; 0 is a seed.
        hyperparameters: ranges that win over those of the build function.
        tune_new_entries: whether what the build function adds to `hyperparameters` is searched.
        allow_new_entries: whether it may add anything.
        max_retries_per_trial: how often a failed trial runs again.
        max_consecutive_failed_trials: after so many exceptions in a row the search gives up.
        max_seconds: the search ends when it has taken so long.
        **kwargs: see `Tuner`: directory, project_name, overwrite, executions_per_trial, max_model_size, ...

    Example: see the README.
    """

    def __init__(
        self,
        hypermodel: Any = None,
        objective: Any = None,
        max_trials: int | None = 10,
        seed: int | None = None,
        hyperparameters: HyperParameters | None = None,
        tune_new_entries: bool = True,
        allow_new_entries: bool = True,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        max_seconds: float | None = None,
        **kwargs: Any,
    ) -> None:
        oracle = RandomSearchOracle(
            objective,
            max_trials,
            seed,
            hyperparameters,
            allow_new_entries,
            tune_new_entries,
            max_retries_per_trial,
            max_consecutive_failed_trials,
            max_seconds,
        )
        super().__init__(oracle, hypermodel, **kwargs)
