"""Runs with patience for winners whose curves were cut short: they find a best epoch beyond the search's last one.

A search asks which configuration is best, and short trainings can answer that; a retraining asks for how long the
winner has to be trained, and they cannot. A trial whose runs were best in their last epoch gets one run on the rows of
the search that goes on for as long as it improves. It is told beforehand what that may cost; it ends with the patience,
a callback of the user's, the cap, or the seconds that the caller gave, and what it found is kept in the book, so that
it is made once.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.objective import MEASURES, Objective
from manyfit.core.records import Decision, Ending, Plan, Result
from manyfit.data.call import Call
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Execution
from manyfit.training.base import FixedSupply, Permissions, Task, Trainer
from manyfit.training.replay import FITTED, FITTED_EPOCHS

#: The phase of these runs in the book.
LONGER = "longer"

_CAP_EPOCHS, _CAP_FACTOR = 100, 5  # such a run may have so many epochs, or so many times the longest one so far
_PATIENCE_EPOCHS, _PATIENCE_SHARE = 10, 0.2  # epochs without a better one after which it ends, or this share of those


@dataclasses.dataclass(frozen=True)
class TrainingLimits:
    """How far the trainings of one call of `retrain` may go.

    Attributes:
        max_epochs: of any of them; None: as the curves call for.
        clock: when it is over, the last of them has to be over.
    """

    max_epochs: int | None = None
    clock: Clock = dataclasses.field(default_factory=Clock)

    def cap(self, longest: int) -> int:
        """Epochs that a run with patience may have at most, where the longest run of its trial had so many."""
        own = max(_CAP_EPOCHS, _CAP_FACTOR * longest)
        return own if self.max_epochs is None else min(own, self.max_epochs)


def patience_of(longest: int) -> int:
    """Epochs without a better one after which a run ends, where the longest run of its trial had so many.

    Example:

    >>> patience_of(3), patience_of(200)
    (10, 40)
    """
    return max(_PATIENCE_EPOCHS, math.ceil(_PATIENCE_SHARE * longest))


def scored_runs(trial: Trial) -> list[Execution]:
    """All executions of a trial that have a best epoch, those on fresh seeds included."""
    runs = [*trial.executions.values(), *(run for kind in trial.replicates.values() for run in kind.values())]
    return [run for run in runs if run.best_epoch is not None]


def have_one_fit(runs: Sequence[Execution]) -> bool:
    """Whether a `fit` of the user's called Keras's once in each of these runs, so that its epochs can be set there."""
    return all(run.notes.get(FITTED, {}).get("num_fits", 1) == 1 for run in runs)


def cut_short(trial: Trial, objective: Objective) -> bool:
    """Whether at least half of a trial's runs were best in their last epoch: training on might have been better."""
    runs = [run for run in scored_runs(trial) if FITTED_EPOCHS not in run.notes]  # those say nothing of their curves
    at_the_end = sum(run.best_epoch == run.num_epochs - 1 for run in runs)
    # What is measured on the trained model, its size say, gets no better with more epochs.
    if all(name in MEASURES for name in objective.names):
        return False
    return bool(runs) and not trial.executions_of(LONGER) and 2 * at_the_end >= len(runs)


def seconds_per_epoch(trial: Trial) -> float | None:
    """What an epoch of a trial has cost so far; None where nobody has measured it."""
    runs = [run for run in scored_runs(trial) if run.seconds > 0 and run.num_epochs > 0]
    return sum(run.seconds for run in runs) / sum(run.num_epochs for run in runs) if runs else None


def run_seconds(trial: Trial, num_epochs: int | None) -> float:
    """What a whole run of a trial takes, by what its runs have cost; 0 where nobody has measured it.

    Args:
        trial: which.
        num_epochs: of the run; None: as many as its longest run had.
    """
    runs = [run for run in scored_runs(trial) if run.costs is not None and run.costs.epoch > 0]
    if not runs:
        return 0.0
    epochs = max(run.num_epochs for run in runs) if num_epochs is None else num_epochs
    return statistics.median(run.costs.build + epochs * run.costs.epoch for run in runs if run.costs is not None)


class PatientSupply(FixedSupply):
    """Ends an execution that has not become better for a while, and writes it into the book.

    Args:
        plans: what to run.
        oracle: objective and book.
        patience_epochs: by trial id.
        limits: where time is limited, all of them end while what is left suffices to train for the best epochs found.
        epochs_after: epochs of the retraining that follows -- in those of the search -- by epochs until the best one.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        oracle: Oracle,
        *,
        patience_epochs: Mapping[str, int],
        limits: TrainingLimits,
        epochs_after: Callable[[int], float],
    ) -> None:
        super().__init__(plans)
        self._oracle = oracle
        self._patience = patience_epochs
        self._limits, self._epochs_after = limits, epochs_after
        self._best: dict[tuple[str, int], tuple[float, int]] = {}
        self._open = {plan.key: plan for plan in plans}
        self._started: float | None = None
        self._num_reported = 0
        self.out_of_time = False

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._oracle.book.add_epochs(epochs)
        decisions = [self._decide(*row) for row in epochs]
        # From the first report on, so that what was compiled before it does not count as the pace.
        if self._started is None:
            self._started = self._limits.clock.spent()
        else:
            self._num_reported += len(epochs)
        self.out_of_time = self.out_of_time or not self._limits.clock.allows(self._seconds_after())
        return [Decision.STOP] * len(epochs) if self.out_of_time else decisions

    def _seconds_after(self) -> float:
        """What the retraining for the best epochs found so far would take."""
        if self._started is None or not self._num_reported:
            return 0.0
        pace = (self._limits.clock.spent() - self._started) / self._num_reported
        return pace * sum(self._epochs_after(epoch + 1) for _, epoch in self._best.values())

    def _decide(self, plan: Plan, epoch: int, logs: Mapping[str, float]) -> Decision:
        objective = self._oracle.objective
        loss = objective.epoch_loss(logs)  # NaN, where it was not measured, is below nothing
        best, since = self._best.get(plan.key, (math.inf, -1))
        if loss < best:
            self._best[plan.key] = (loss, epoch)
            return Decision.GO_ON
        return Decision.STOP if epoch - since >= self._patience[plan.trial_id] else Decision.GO_ON

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        return [] if self.out_of_time else super().take(count)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        super().finish(result)
        if result.is_unbegun:
            return
        self._open.pop(result.plan.key, None)
        self._oracle.book.add_execution(result)

    def forget_open(self) -> None:
        """Drops the epochs of runs that were broken off: those that have ended stay, and are not made again."""
        for plan in self._open.values():
            self._oracle.book.forget_epochs(plan)


def train_longer(
    trials: Sequence[Trial],
    oracle: Oracle,
    task: Task,
    trainer: Trainer,
    *,
    limits: TrainingLimits,
    epochs_after: Callable[[int], float],
    say: Callable[[str], None],
) -> None:
    """One run with patience for each trial whose curves were cut short, on the rows of the search.

    Args:
        trials: the winners.
        oracle: objective, seed and book.
        task: of the search.
        trainer: how.
        limits: of epochs and of time.
        epochs_after: see `PatientSupply`.
        say: takes one line of text for people.
    """
    # Only where the curves say so: the run may be many times as long as the longest of the search.
    short = [t for t in trials if cut_short(t, oracle.objective) and trainer.trains_in_epochs(t.hyperparameters, task)]
    short = [t for t in short if have_one_fit(scored_runs(t))]
    longest = {t.trial_id: max(run.num_epochs for run in scored_runs(t)) for t in short}
    short = [t for t in short if limits.cap(longest[t.trial_id]) > longest[t.trial_id]]
    if not short:
        return
    names = ", ".join(trial.trial_id for trial in short)
    if any(task.calls.get(trial.trial_id, task.call).x is None for trial in short) and task.fit is None:
        say(
            f"retrain: trials {names} were still improving in their last epoch; their last epoch is taken for the best."
        )
        return
    caps = {trial_id: limits.cap(epochs) for trial_id, epochs in longest.items()}
    say(
        f"retrain: trials {names} were still improving in their last epoch. Each gets one run of up to "
        f"{max(caps.values())} epochs with patience, on the rows of the search, to find its best epoch"
        f"{_price(short, caps)}."
    )
    plans = [
        Plan(
            trial.trial_id,
            0,
            trial.hyperparameters.copy(),
            seeds.seed_of(oracle.seed, LONGER, trial.trial_id),
            epochs=caps[trial.trial_id],
            phase=LONGER,
        )
        for trial in short
    ]
    patience = {trial_id: patience_of(epochs) for trial_id, epochs in longest.items()}
    supply = PatientSupply(plans, oracle, patience_epochs=patience, limits=limits, epochs_after=epochs_after)
    may = Permissions(share_callbacks=task.may.share_callbacks)
    try:
        # A `fit` of the user's may say for how long by itself: this run is to be longer.
        at_fit = None if task.fit is None else _so_long
        trainer.train(supply, dataclasses.replace(task, callbacks=None, keep=None, may=may, at_fit=at_fit))
    finally:
        supply.forget_open()
    for trial in short:
        say(f"retrain: trial {trial.trial_id} in that run: {_found(trial, caps[trial.trial_id], supply.out_of_time)}.")


def _so_long(plan: Plan, call: Call) -> Call:
    return call.with_(epochs=plan.epochs)


def _price(trials: Sequence[Trial], caps: Mapping[str, int]) -> str:
    """What the runs may cost, in words; nothing where no epoch was measured."""
    paces = [(trial.trial_id, seconds_per_epoch(trial)) for trial in trials]
    seconds = sum(pace * caps[trial_id] for trial_id, pace in paces if pace is not None)
    # With what the search took for compiling among them, so it is rather too much.
    return f": at most {seconds:,.0f} s at the pace of the search" if seconds >= 1 else ""


def _found(trial: Trial, cap: int, out_of_time: bool) -> str:
    run = trial.executions_of(LONGER).get(0)
    if run is None:
        return "not begun, since the time was up"
    if run.best_epoch is None:
        return "failed"
    text = f"best in epoch {run.best_epoch + 1} of {run.num_epochs}"
    if run.num_epochs >= cap and run.best_epoch == run.num_epochs - 1:
        return f"{text}, still improving at its end; type retrain(max_epochs={2 * cap}) for a longer one"
    return f"{text}, when the time was up" if out_of_time and run.ending is Ending.STOPPED else text
