"""What is known of a winner that is to be retrained: for how many epochs, and by which call of `fit`, on which rows.

A retraining replays the call that trained the winner in the search. What it changes is named: the rows, which are all
there are; the epochs, by the winner's own curves; and what needs validation rows, which are trained on now.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

from manyfit.core import seeds
from manyfit.core.checks import whole_number_or_none
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import MEASURES, Objective
from manyfit.data.arguments import VALIDATION_ARGUMENTS, joined_rows
from manyfit.data.call import Call
from manyfit.data.kinds import Ability, FitData
from manyfit.data.rows import Rows
from manyfit.finish.longer import LONGER, have_one_fit, scored_runs
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Execution
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.replay import (
    FITTED,
    FITTED_EPOCHS,
    facts_of,
    is_ours,
    may_move_rate,
    rate_of_run,
    reacts_to_validation,
)

_PLATEAU = "ReduceLROnPlateau"


@dataclasses.dataclass(frozen=True)
class RetrainCandidate:
    """A winner to retrain.

    Attributes:
        trial_id: of the winner.
        values: its configuration.
        best_epochs: of its executions (folds and fresh seeds included), counted from 0.
        seeds: one per model that is wanted.
        searched: the call that trained it in the search.
        call: the one that trains it on all rows.
        rates: learning rates of the epochs up to the best one, in the place of callbacks that are left out; None:
            they never moved.
        left_out: the classes of those callbacks.
        has_one_fit: whether a `fit` of the user's calls Keras's once, so that its epochs can be set there.
        fold_rows: of a search with folds, the rows that each of them trained on.
    """

    trial_id: str
    values: HyperParameters
    best_epochs: Sequence[int]
    seeds: Sequence[int]
    searched: Call
    call: Call
    rates: Sequence[float | None] | None = None
    left_out: tuple[str, ...] = ()
    has_one_fit: bool = True
    fold_rows: int | None = None

    @property
    def first_epoch(self) -> int:
        """Where its trainings begin."""
        return int(self.call.get("initial_epoch") or 0)

    @property
    def steps_ratio(self) -> float:
        """Steps per epoch now by those of the search; 1 where rows cannot be counted."""
        before, now = _steps(self.searched, self.searched_rows), _steps(self.call, self.call.num_rows)
        return 1.0 if before is None or now is None else now / before

    @property
    def searched_rows(self) -> int | None:
        """The rows that it was trained on in the search; None where they cannot be counted."""
        counted = self.searched.counted_rows()
        return self.fold_rows or (None if counted is None else counted[0])

    @property
    def changes(self) -> dict[str, tuple[object, object]]:
        """Arguments of `fit` that are others than in the search: name -> then, now; rows are counted."""
        then, now = (dict(facts_of([call])["arguments"]) for call in (self.searched, self.call))
        rows = {} if self.searched_rows is None else {"rows": (self.searched_rows, self.call.num_rows)}
        names = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
        return {**rows, **{name: (then.get(name), now.get(name)) for name in names if name != "epochs"}}


@dataclasses.dataclass(frozen=True)
class EpochRule:
    """For how many epochs a winner is retrained.

    Attributes:
        factor: times the median best epoch. 1: more rows make more steps of each epoch, so as many epochs as in the
            search are longer already (25 % more rows are 25 % more steps).
        exactly: so many epochs, whatever the curves say; None: as they say.
        at_most: no more than so many; None: no such limit.

    Raises:
        UsageError: a factor that is not above 0, or numbers of epochs below 1.
    """

    factor: float = 1.0
    exactly: int | None = None
    at_most: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.factor, bool) or not isinstance(self.factor, int | float) or not self.factor > 0:
            raise UsageError(
                explain("retrain(epochs_factor=...)", self.factor, "more than 0", "Leave it out, or type 1.2, say.")
            )
        for name, value in (("epochs", self.exactly), ("max_epochs", self.at_most)):
            whole_number_or_none(f"retrain({name}=...)", value, least=1, instead="Leave it out.")

    def epochs(self, best_epochs: Sequence[int], first_epoch: int = 0) -> int:
        """Up to which epoch a winner is trained, counted from 1.

        Args:
            best_epochs: of its executions, counted from 0.
            first_epoch: `initial_epoch` of its trainings.
        """
        wanted = self.exactly or num_epochs([epoch - first_epoch for epoch in best_epochs], self.factor)
        return first_epoch + (wanted if self.at_most is None else min(wanted, self.at_most))


def num_epochs(best_epochs: Sequence[int], epochs_factor: float) -> int:
    """Epochs to retrain for: the median best epoch, counted from 1, times a factor.

    Example:

    >>> num_epochs([9, 9, 14], 1.2)
    12
    """
    return max(1, round(statistics.median(epoch + 1 for epoch in best_epochs) * epochs_factor))


def candidate_of(
    trial: Trial,
    searched: Call,
    call: Call,
    oracle: Oracle,
    *,
    executions: int,
    callbacks: Sequence[Any] | None,
    fold_rows: int | None = None,
) -> RetrainCandidate:
    """What is known of a winner. A run with patience outweighs all others, which were cut short.

    Args:
        trial: the winner.
        searched: the call that trained it.
        call: the one that trains it on all rows.
        oracle: objective and seed.
        executions: models that are wanted.
        callbacks: of the retraining; None: those of the search that need no validation rows.
        fold_rows: see `RetrainCandidate`.
    """
    runs = [run for run in trial.executions_of(LONGER).values() if run.best_epoch is not None] or scored_runs(trial)
    best = best_epochs_of(runs, oracle.objective)
    # The first model has the seed that it had before `executions=` existed; asking for more keeps it.
    path = [(trial.trial_id,), *((trial.trial_id, number) for number in range(1, executions))]
    found = RetrainCandidate(
        trial.trial_id,
        trial.hyperparameters,
        best,
        [seeds.seed_of(oracle.seed, "retrain", *names) for names in path],
        searched,
        call.with_(callbacks=callbacks),
        has_one_fit=have_one_fit(runs),
        fold_rows=fold_rows,
    )
    if callbacks is not None:
        return found
    theirs = [one for one in searched.callbacks if not is_ours(one)]
    left_out = [one for one in theirs if reacts_to_validation(one)]
    inside = [run.notes.get(FITTED, {}).get("objects", {}).get("callbacks", "") for run in runs]
    rates = None
    names = [type(one).__name__ for one in left_out]
    # One that a `fit` of the user's makes is known by its name alone; it is left out where that calls Keras's.
    moves_inside = any(_PLATEAU in each for each in inside)
    names += [_PLATEAU] if moves_inside and _PLATEAU not in names else []
    if any(map(may_move_rate, left_out)) or moves_inside:
        # Of the run that speaks for all of them: the one with the median best epoch.
        median = min(runs, key=lambda run: abs((run.best_epoch or 0) - statistics.median(best)))
        rates = rate_of_run(median.history, (median.best_epoch or 0) + 1)
    return dataclasses.replace(
        found,
        call=call.with_(callbacks=[one for one in theirs if one not in left_out]),
        rates=rates and rates[found.first_epoch :],
        left_out=tuple(names),
    )


def best_epochs_of(runs: Sequence[Execution], objective: Objective) -> list[int]:
    """The epochs at which runs were best, counted from 0.

    What is measured on the trained model -- its size, its speed -- is best in no epoch: then all of them count.
    """
    if all(name in MEASURES for name in objective.names):
        return [run.num_epochs - 1 for run in runs]
    inside = [epochs - 1 for run in runs for epochs in run.notes.get(FITTED_EPOCHS, ())]
    return inside or [run.best_epoch for run in runs if run.best_epoch is not None]


def call_for_all_data(searched: Call, x: FitData, y: FitData, **changes: Any) -> Call:
    """The call of a search, turned into that of a retraining; callbacks stay, see `candidate_of`.

    Args:
        searched: the call of the search.
        x: all rows; None joins the search's training and validation rows.
        y: their targets.
        **changes: further arguments of `fit`.

    Raises:
        UsageError: x is None, and the search's data cannot be joined; x has fewer rows than the search trained on; or
            the search weighed its rows, and new ones come without weights.
    """
    steps = changes.get("steps_per_epoch", searched.get("steps_per_epoch"))
    if x is None:
        rows = joined_rows("retrain()", searched)
    else:
        rows = Rows(x, y, changes.get("sample_weight"), steps)
        _check_rows(rows.num_rows, searched.counted_rows())
        _check_weights(searched, rows)
    if rows.x is not None:  # a `fit` of the user's may bring the rows itself
        rows.require(Ability.READ_AGAIN, "retrain()")
    call = searched.with_(rows=rows, without=VALIDATION_ARGUMENTS)
    before = searched.counted_rows()
    if steps and before is not None and before[0] and rows.num_rows is not None:
        call = call.with_(steps_per_epoch=max(1, round(steps * rows.num_rows / before[0])))
    return call.with_(**changes)


def _steps(call: Call, rows: int | None) -> float | None:
    """Steps per epoch, because that is what schedules of learning rates count; None where there is no telling."""
    if steps := call.get("steps_per_epoch"):
        return float(steps)
    return math.ceil(rows / (call.get("batch_size") or 32)) if rows else None


def _check_weights(searched: Call, rows: Rows) -> None:
    if searched.sample_weight is None or rows.sample_weight is not None or rows.kind.is_pipeline:
        return  # a pipeline may bring weights along
    raise UsageError(
        explain(
            "retrain(x, y)",
            "rows without sample weights, while the search weighed its rows",
            "weights for the new rows, too",
            "Type retrain(x=x, y=y, sample_weight=weights), with np.ones(len(y)) to weigh all alike.",
        )
    )


def _check_rows(rows: int | None, searched: tuple[int, int] | None) -> None:
    if rows is None or searched is None or rows >= searched[0]:
        return
    training, validation = searched
    raise UsageError(
        explain(
            "retrain(x=...)",
            f"{rows} rows, while the search trained on {training} and validated on {validation}",
            f"at least {training} rows, best all {training + validation}",
            "Pass training and validation rows, or leave x and y out: those of the search are joined.",
        )
    )
