"""Rungs and brackets: their arithmetic, in integers only, and who stands where on them.

floor(log(243) / log(3)) is 4 in floating point. A library that computes its rungs so loses one.

| notation | meaning |
|---|---|
| R | `max_epochs`: epochs of a trial that reaches the last rung |
| f | `factor`: of the trials of a rung, about one in f is promoted, and trains f times as long |
| s | number of a bracket: how often it halves; bracket 0 trains everybody to the end |
| r | rung within a bracket, from 0 to s |

Source: Hyperband (Li et al. 2018, Algorithm 1), with KerasTuner's rounding, so that a search spends the trials and
epochs its users know: sizes are rounded up in every rung (the paper rounds the first one up and the others down),
and the share of a bracket is (1 + ceil(log_f R)) / (s + 1) where the paper has floor.

Who stands where is read off the history, never stored. A trial *enters* a rung when its target is at least the rung's
epochs, and *finishes* it when it has trained that long or has ended with a result before: a trial that a callback of
the user ended early cannot go further, so its score stands for all higher rungs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Ending, Progress
from manyfit.schedulers.base import REPLACED_ENDINGS


@dataclasses.dataclass(frozen=True, slots=True)
class Rung:
    """How many trials enter a rung, and up to which epoch they train in it."""

    num_trials: int
    epochs: int


def ceil_div(numerator: int, denominator: int) -> int:
    """The quotient, rounded up.

    Example:

    >>> ceil_div(7, 3), ceil_div(6, 3)
    (3, 2)
    """
    return -(-numerator // denominator)


def ceil_log(number: int, factor: int) -> int:
    """The smallest k with factor^k >= number.

    Example:

    >>> ceil_log(243, 3), ceil_log(244, 3), ceil_log(1, 3)
    (5, 6, 0)
    """
    # Multiplied up, not log(number) / log(factor): that is 4.999... for 243 and 3.
    exponent, power = 0, 1
    while power < number:
        power *= factor
        exponent += 1
    return exponent


def num_brackets(max_epochs: int, factor: int, min_epochs: int = 1) -> int:
    """Brackets whose first rung is at least `min_epochs` long: the largest b with f^(b-1) min_epochs <= R.

    Example:

    >>> num_brackets(243, 3), num_brackets(1000, 10), num_brackets(2, 3)
    (6, 4, 1)
    """
    count, shortest = 0, min_epochs
    while shortest <= max_epochs:
        shortest *= factor
        count += 1
    return count


def rung_epochs(max_epochs: int, factor: int, bracket: int) -> list[int]:
    """Epochs at which the rungs of a bracket end: ceil(R / f^(s - r)).

    Example:

    >>> rung_epochs(100, 3, 4)
    [2, 4, 12, 34, 100]
    """
    return [ceil_div(max_epochs, factor ** (bracket - rung)) for rung in range(bracket + 1)]


def rungs_of(max_epochs: int, factor: int, bracket: int) -> list[Rung]:
    """The rungs of a bracket: ceil((1 + ceil(log_f R)) / (s + 1) * f^(s - r)) trials each.

    Example:

    >>> [(rung.num_trials, rung.epochs) for rung in rungs_of(81, 3, 4)]
    [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)]
    """
    share = 1 + ceil_log(max_epochs, factor)
    return [
        Rung(ceil_div(share * factor ** (bracket - rung), bracket + 1), epochs)
        for rung, epochs in enumerate(rung_epochs(max_epochs, factor, bracket))
    ]


def shrunk(rungs: list[Rung], num_trials: int, factor: int) -> list[Rung]:
    """The bracket when only `num_trials` trials can be had for it: it still halves, and still reaches the end.

    Example:

    >>> [rung.num_trials for rung in shrunk(rungs_of(81, 3, 4), 8, 3)]
    [8, 3, 1, 1, 1]
    """
    return [
        Rung(min(rung.num_trials, ceil_div(num_trials, factor**number)), rung.epochs)
        for number, rung in enumerate(rungs)
    ]


def bracket_numbers(max_epochs: int, factor: int, min_epochs: int, max_trials: int | None) -> list[tuple[int, int]]:
    """The brackets of one Hyperband iteration, most aggressive first, as (number, trials that start in it).

    Where `max_trials` is less than a full iteration starts, there are fewer brackets. With n trials left the next
    bracket is at most number ceil(log_f n), the deepest that still halves in each rung, and takes what it needs.

    Example:

    >>> bracket_numbers(100, 3, 1, None)
    [(4, 98), (3, 41), (2, 18), (1, 9), (0, 6)]
    >>> bracket_numbers(100, 3, 1, 8)
    [(2, 8)]
    """
    plan: list[tuple[int, int]] = []
    number = num_brackets(max_epochs, factor, min_epochs) - 1
    left = max_trials
    while number >= 0 and (left is None or left > 0):
        if left is not None:
            number = min(number, ceil_log(left, factor))
        size = rungs_of(max_epochs, factor, number)[0].num_trials
        if left is not None:
            size = min(size, left)
            left -= size
        plan.append((number, size))
        number -= 1
    return plan


@dataclasses.dataclass(frozen=True)
class RungStanding:
    """One rung: the trials that hold a place in it, best first among those that finished it."""

    finished: list[Progress]
    unfinished: list[Progress]
    promoted: frozenset[str]  # ids of finished trials that hold a place in the next rung

    @property
    def num_places(self) -> int:
        """Places taken."""
        return len(self.finished) + len(self.unfinished)


def entered(progress: Progress, epochs: int) -> bool:
    """Whether the trial was ever sent to a rung that ends at this epoch."""
    return (progress.target_epochs or 0) >= epochs


def failed_before(progress: Progress, epochs: int) -> bool:
    """Whether the trial failed, for a reason that says nothing about its values, before it finished this rung."""
    return progress.ending in REPLACED_ENDINGS and progress.epochs < epochs


def loss_at(progress: Progress, epochs: int) -> float:
    """The loss by which a trial is ranked in a rung: the latest one at the rung's end, from where it would go on.

    A peak that is over is in the trial's score already, and says less about what more epochs would bring. A trial
    that ended before the rung did has nothing but its score, the best of its curve.

    Source: Li et al. 2018, Algorithm 1 (the loss "after" r_i epochs).

    Example:

    >>> overfitted = Progress("0", (0.4, 0.2, 0.3), target_epochs=3)
    >>> loss_at(overfitted, 2), loss_at(overfitted, 3)
    (0.2, 0.3)
    """
    if progress.ending is Ending.DIVERGED:
        return math.inf
    if progress.epochs < epochs:
        return progress.best_loss(epochs)
    logged = [loss for loss in progress.curve[:epochs] if loss == loss]
    return logged[-1] if logged else math.inf


def stand(members: Sequence[Progress], epochs: int, next_epochs: int | None) -> RungStanding:
    """Reads one rung off the history.

    Args:
        members: the trials that hold a place in this rung or failed in it, in the order of their start.
        epochs: where this rung ends.
        next_epochs: where the next one ends; None for the last.

    Raises:
        UsageError: several trials finished the rung, and not one logged its objective in it.
    """
    holding = [p for p in members if not failed_before(p, epochs)]
    finished = [p for p in holding if p.ending is not None or (p.epochs >= epochs and not _still_in(p, epochs))]
    ids = {p.trial_id for p in finished}
    unfinished = [p for p in holding if p.trial_id not in ids]
    _check_logged(finished, epochs)
    # By loss alone, without a clock: ties go to the earlier start, so a restart sees the same order.
    finished.sort(key=lambda p: loss_at(p, epochs))  # stable: of equal losses the earlier start comes first
    promoted: frozenset[str] = frozenset()
    if next_epochs is not None:
        promoted = frozenset(
            p.trial_id for p in finished if entered(p, next_epochs) and not failed_before(p, next_epochs)
        )
    return RungStanding(finished, unfinished, promoted)


def _still_in(progress: Progress, epochs: int) -> bool:
    """Whether a trial at the end of a rung is still being reported by its trainer as running in it."""
    return progress.running and progress.target_epochs == epochs


def _check_logged(finished: Sequence[Progress], epochs: int) -> None:
    trained = [p for p in finished if p.ending is None]
    if len(trained) > 1 and not any(loss == loss for p in trained for loss in p.curve[:epochs]):
        raise UsageError(
            explain(
                "Hyperband, ASHA: a rung",
                f"{len(trained)} trials without a logged objective in their first {epochs} epochs",
                "an objective that is logged before the first rung ends",
                f"Pass min_epochs={epochs + 1} or more, or validate in every epoch (validation_freq=1).",
            )
        )
