"""What the steps after a search ask of the tuner that has searched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core.clock import Clock
from manyfit.data.call import Call
from manyfit.data.rows import Rows
from manyfit.oracles import Oracle, Trial
from manyfit.store import ProjectStore
from manyfit.training.base import Task, Trainer
from manyfit.training.model_options import ModelOptions
from manyfit.tuners.searched import SearchedTuner
from manyfit.tuners.together import LatestSearch


@dataclasses.dataclass(frozen=True)
class Training:
    """How a tuner trains what is not part of its search."""

    make_task: Callable[..., Task]  # (fit_args, fit_kwargs, model options or None for the tuner's)
    trainer: Callable[[], Trainer]  # of whole data sets
    trainer_for: Callable[[Task], Trainer]  # one that follows the task's folds
    keep_predictions: bool = True  # of rows that a model did not train on
    measure: Callable[[Any, Rows], Mapping[str, float]] | None = None  # what `evaluate` measures of estimators as well


class FinishedTuner(SearchedTuner, Protocol):
    """What finishing asks of a tuner; `Tuner` is one. These are methods that users may have overridden."""

    store: ProjectStore
    model_options: ModelOptions
    latest_search: LatestSearch | None
    verbose: int | str | bool
    trust: bool

    def searched_task(self, where: str, trials: Sequence[Trial] = ()) -> Task:
        """The task of the latest search."""

    def trained_by(self, trial: Trial) -> Call:
        """The call of `fit` that a trial was trained by."""

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials."""

    # No method: what a caller of `Ensemble.refit` asks for besides is handed on as it comes.
    @property
    def retrain(self) -> Callable[..., list[Any]]:
        """Trains configurations anew."""


@contextlib.contextmanager
def working(oracle: Oracle, step: str, clock: Clock) -> Iterator[None]:
    """Within it a step works on the project: nobody else writes, and requests are taken between its epochs.

    Args:
        oracle: of the search.
        step: its name, "confirmation" say.
        clock: of the step.

    Raises:
        ProjectError: another tuner of this process, or another thread of this one, works on the project.
    """
    oracle.book.begin_work(f"a {step}")
    try:
        with oracle.requests.during(f"the {step}", clock):
            yield
    finally:
        oracle.book.end_work()
