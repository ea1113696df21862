"""Training goes on from the best weights of the search, at a tenth of the learning rate, and checkpoints are averaged.

At a rate that does not fall, weights end up swinging around a minimum; a lower rate lets them come to rest (the step
that training by hand makes, He et al. 2016), and so does the mean of several points of the path (Izmailov et al. 2018).
Both begin with what is there, so they cost a few epochs where another trial costs all of them. Rows, batches and
validation rows are the search's, so what has become of a model is compared with what it was on the same rows.

These runs are no evidence about a configuration: they begin with weights that were chosen. They are not in the book.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.events import Event
from manyfit.core.limits import NO_LIMITS
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Plan, Result
from manyfit.data.call import Call
from manyfit.finish.retrain import TimedSupply
from manyfit.oracles import Oracle, Trial
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import BestEpoch, Permissions, Task, Trainer
from manyfit.training.devices import distributed, distribution_of
from manyfit.training.models import build_model
from manyfit.training.replay import may_move_rate, reacts_to_validation
from manyfit.training.seeding import seeded
from manyfit.training.weights import load_weights

#: The phase of these runs.
CONTINUED = "continued"
RATE_FACTOR = 0.1
MOST_EPOCHS, PATIENCE = 30, 4
HOW = "continued", "averaged"
_MOST_AVERAGED = 5  # checkpoints, the latest ones


@dataclasses.dataclass(frozen=True, eq=False)
class ContinuedModel:
    """What has become of a model of the search.

    Attributes:
        trial_id: whose configuration, and first weights, it has.
        how: "continued", or "averaged": the mean of the checkpoints on the way.
        model: with its weights.
    """

    trial_id: str
    how: str
    model: keras.Model

    @property
    def name(self) -> str:
        """Of it as a member of an ensemble."""
        return f"trial {self.trial_id}, {self.how}"


def is_further(name: str) -> bool:
    """Whether that is the name of a model that was trained further.

    Example:

    >>> is_further("trial 0003, averaged"), is_further("trial 0003")
    (True, False)
    """
    return name.endswith(tuple(f", {how}" for how in HOW))


def trial_of(name: str) -> str:
    """The trial that a member of an ensemble has its configuration from, trained further or not.

    Example:

    >>> trial_of("trial 0003, averaged"), trial_of("trial 0003")
    ('0003', '0003')
    """
    return name.removeprefix("trial ").partition(",")[0]


class ContinuingSupply(TimedSupply):
    """Ends an execution that gets no better, or when the time is up.

    Args:
        plans: what to train.
        clock: see `TimedSupply`.
        objective: what is to get better.
        tell: see `TimedSupply`.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        clock: Clock,
        objective: Objective,
        tell: Callable[[Event], None] = lambda event: None,
    ) -> None:
        super().__init__(plans, clock, tell)
        self._objective = objective
        self._best: dict[tuple[str, int], tuple[float, int]] = {}

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        decisions = super().report(epochs)
        return [
            Decision.STOP if decision is Decision.STOP or self._is_stuck(*row) else Decision.GO_ON
            for decision, row in zip(decisions, epochs, strict=True)
        ]

    def _is_stuck(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> bool:
        # NaN, where it was not measured, is below nothing.
        loss, (best, since) = self._objective.epoch_loss(logs), self._best.get(plan.key, (math.inf, epoch))
        if loss < best:
            self._best[plan.key] = (loss, epoch)
            return False
        return epoch - since >= PATIENCE


class Checkpoints:
    """Holds the latest epochs of each execution that were its best so far: see `Task.watch`."""

    def __init__(self) -> None:
        self._found: dict[str, collections.deque[list[np.ndarray]]] = {}

    def take(self, found: Sequence[BestEpoch]) -> None:
        """Takes the weights of epochs that have just ended."""
        for one in found:
            if one.plan.phase == CONTINUED:
                weights = one.model.get_weights() if one.weights is None else one.weights()
                kept = self._found.setdefault(one.plan.trial_id, collections.deque(maxlen=_MOST_AVERAGED))
                # Copies: a trainer may go on in the arrays that it answers with.
                kept.append([np.array(array) for array in weights])

    def mean(self, trial_id: str) -> list[np.ndarray] | None:
        """The mean of the checkpoints; None where there is but one. What is no float is that of the latest."""
        kept = self._found.get(trial_id, ())
        if len(kept) < 2:
            return None
        return [
            np.mean(arrays, axis=0, dtype=np.float64).astype(arrays[-1].dtype)
            if arrays[-1].dtype.kind == "f"
            else arrays[-1]
            for arrays in zip(*kept, strict=True)
        ]


def continue_training(
    trials: Sequence[Trial], start: Callable[[Trial], Path], oracle: Oracle, task: Task, trainer: Trainer
) -> list[ContinuedModel]:
    """Trains some models of a search further, all in one go.

    Args:
        trials: whose first executions go on; an execution for each has to have its weights kept.
        start: where these lie.
        oracle: objective and seed.
        task: of the search, with the clock.
        trainer: how.

    Returns:
        Up to two models of each trial; none of those that have failed, or for which there was no time.
    """
    starts = {_key(trial.hyperparameters): start(trial) for trial in trials}
    clock, checkpoints = task.clock or Clock(), Checkpoints()
    with tempfile.TemporaryDirectory() as folder:
        plans = [
            Plan(
                trial.trial_id,
                0,
                trial.hyperparameters.copy(),
                seeds.seed_of(oracle.seed, CONTINUED, trial.trial_id),
                epochs=_num_epochs(trial),
                weights_path=str(Path(folder) / f"{trial.trial_id}.npz"),
                phase=CONTINUED,
            )
            for trial in trials
        ]
        # All at once, so that a population trains them together, in the programs of the search.
        supply = ContinuingSupply(plans, clock, oracle.objective, oracle.book.events.tell)
        further = dataclasses.replace(
            task,
            build=_continued_build(task.build, starts),
            call=_without_what_moves(task.call),
            calls={trial_id: _without_what_moves(call) for trial_id, call in task.calls.items()},
            # Nothing is kept of their predictions: they would be taken for the search's.
            callbacks=None, keep=None, watch=checkpoints.take,
            max_model_size=None, limits=NO_LIMITS,
            may=Permissions(share_callbacks=task.may.share_callbacks),
        )  # fmt: skip
        trainer.train(supply, further)
        return [
            one
            for plan in plans
            if (result := supply.results.get(plan.key)) is not None and result.ending.has_score
            for one in _models_of(result, checkpoints, task)
        ]


def _num_epochs(trial: Trial) -> int:
    """As many as it was trained for so far, within limits."""
    return min(MOST_EPOCHS, max(PATIENCE + 1, trial.executions[0].num_epochs))


def _models_of(result: Result, checkpoints: Checkpoints, task: Task) -> list[ContinuedModel]:
    plan = result.plan

    def built() -> keras.Model:
        with seeded(plan.seed), distributed(distribution_of(task.devices)):
            return build_model(task.build, plan.values.copy())

    found = [ContinuedModel(plan.trial_id, "continued", built())]
    load_weights(found[0].model, str(plan.weights_path))
    if (mean := checkpoints.mean(plan.trial_id)) is not None:
        found.append(ContinuedModel(plan.trial_id, "averaged", built()))
        found[1].model.set_weights(mean)
    return found


def _without_what_moves(call: Call) -> Call:
    """Without callbacks that would end it by the rows that validate, or set the rate."""
    kept = [one for one in call.callbacks if not (reacts_to_validation(one) or may_move_rate(one))]
    return call.with_(callbacks=kept, without=("initial_epoch",))


def _continued_build(build: Callable[[Any], Any], starts: Mapping[str, Path]) -> Callable[[Any], Any]:
    """A build function whose models have the weights of the search, and a tenth of their rate."""

    def continued(hyperparameters: HyperParameters) -> object:
        path = starts[_key(hyperparameters)]  # before the build, which may settle further values
        model = build(hyperparameters)
        load_weights(model, str(path))
        outer = getattr(model, "optimizer", None)
        optimizer = getattr(outer, "inner_optimizer", outer)  # float16 wraps the optimizer for loss scaling
        if optimizer is not None:
            # A schedule begins anew with the model: its first rate is the highest that there was.
            optimizer.learning_rate = RATE_FACTOR * float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        return model

    return continued


def _key(hyperparameters: HyperParameters) -> str:
    return repr(sorted(hyperparameters.values.items()))
