"""What to do with a budget that is left when a finite space is tried in full: repeat the contenders until settled.

A pure function of the recorded executions, so a search that was killed goes on as it would have. Contenders are
compared on their *runs*: a run is one execution or, where the user's own code trains, one call of `run_trial` with all
executions that it returned (folds, say).

The test is that of confirmations (`manyfit.evidence.decisions`). Here it knows seeds only, since an oracle sees scores
and no rows: what it finds is said of the rows that were validated, and of no others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from manyfit.evidence.decisions import RaceEnd, RaceStanding, decide, next_runs
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs
from manyfit.oracles.scoring import Ranking
from manyfit.oracles.trial import Execution, Trial

CONFIDENCE = 0.95
MAX_ROUNDS = 30
CALL = "call"  # the note on an execution that says which call of `run_trial` it belongs to; none: the first

_ROWS = "What other rows would say is for tuner.confirm() to find."

#: So many repeated runs that all measured exactly what the first one had show that the seed does not matter.
_NUM_EQUAL_REPEATS = 3


@dataclasses.dataclass(frozen=True)
class Replication:
    """Where the repetition of contenders stands."""

    trials: tuple[Trial, ...]
    standing: RaceStanding
    losses: np.ndarray  # (trials, runs), NaN: not run
    budget: int | None  # runs that may still be made
    num_equal_repeats: int | None = None  # repeated runs, where all measured exactly what the first one had
    unit: str = "executions"

    @property
    def over(self) -> bool:
        """Whether nothing more is to be run."""
        return self.standing.verdict is not None or self.budget == 0 or self.num_equal_repeats is not None

    def next_runs(self, count: int) -> list[tuple[Trial, int]]:
        """Up to `count` (trial, run) pairs to run now."""
        if self.budget is not None:
            count = min(count, self.budget)
        if count < 1 or self.over:
            return []
        runs = next_runs(Runs(self.losses), self.standing, count=count)
        return [(self.trials[contender], run) for contender, run in runs]

    def sentence(self) -> str:
        """What was found, and how sure it is."""
        start = (
            f"All {len(self.trials)} configurations were tried, in {int((~np.isnan(self.losses)).sum())} {self.unit}."
        )
        if self.num_equal_repeats is not None:
            return f"{start} {self._sentence_of_equals()}"
        winners = [self.trials[contender].trial_id for contender in self.standing.winning_set]
        sure = f"at {CONFIDENCE:.0%} confidence over seeds"
        verdict, names = self.standing.verdict, ", ".join(winners)
        if len(winners) == 1 and verdict is not None:
            found = f"trial {winners[0]} is ahead of all others, {sure}"
            return f"{start} The order on these rows is settled: {found}. {_ROWS}"
        if verdict is RaceEnd.EQUAL:
            return f"{start} The order on these rows is settled: {names} are equal within 1 %, {sure}. {_ROWS}"
        if verdict is RaceEnd.NO_MORE_DROPS:
            return (
                f"{start} The order is not settled, and more runs would hardly change that: the best on these rows is "
                f"one of {names}, {sure}."
            )
        why = f"{MAX_ROUNDS} runs of each were made" if verdict is not None else "the search ended"
        if verdict is None and self.budget == 0:
            why = "the budget ended"
        return f"{start} The order is not settled when {why}: the best on these rows is one of {names}, {sure}."

    def _sentence_of_equals(self) -> str:
        means = np.nanmean(self.losses, axis=1)
        best = [trial.trial_id for trial, mean in zip(self.trials, means, strict=True) if mean == means.min()]
        which = f"trial {best[0]} is ahead" if len(best) == 1 else f"trials {', '.join(best)} are equally good"
        return (
            f"{self.num_equal_repeats} repeated runs measured exactly what the first ones had, so the order on these "
            f"rows is settled: {which}. {_ROWS}"
        )


def replication(
    trials: Sequence[Trial], ranking: Ranking, max_runs: int | None, *, by_call: bool = False
) -> Replication | None:
    """Where the repetition of contenders stands, from what was recorded.

    Args:
        trials: all trials; those without a score, or that break a constraint, are no contenders.
        ranking: of the search.
        max_runs: runs that the whole search may make; None: no limit of its own.
        by_call: a run is a call of `run_trial`, not an execution.

    Returns:
        None when there is nothing to compare.
    """
    contenders = tuple(trial for trial in trials if trial.scores and not ranking.broken(trial))
    if not contenders:
        return None
    runs = {trial.trial_id: runs_of(trial, by_call=by_call) for trial in trials}
    width = max(max(runs[trial.trial_id]) for trial in contenders) + 1
    losses = np.full((len(contenders), width), np.nan)
    for row, trial in zip(losses, contenders, strict=True):
        for number, run in runs[trial.trial_id].items():
            row[number] = np.mean([ranking.objective.loss(each.score) for each in run])
    # A trial without a run has used its place in the budget, too: `max_trials` counts attempts, not successes.
    spent = sum(max(1, len(found)) for found in runs.values())
    rules = RaceRules(len(contenders), max_rounds=MAX_ROUNDS, confidence=CONFIDENCE)
    standing = decide(Runs(losses), rules)
    return Replication(
        contenders,
        standing,
        losses,
        budget=None if max_runs is None else max(0, max_runs - spent),
        num_equal_repeats=_num_equal_repeats([runs[trial.trial_id] for trial in contenders]),
        unit="calls of run_trial" if by_call else "executions",
    )


def runs_of(trial: Trial, *, by_call: bool) -> dict[int, list[Execution]]:
    """The finished runs of a trial, by number.

    A call that was interrupted has fewer executions than the first one, and none that failed: it is to be made again.
    """
    executions = [trial.executions[index] for index in sorted(trial.executions)]
    if not by_call:
        return {each.index: [each] for each in executions}
    calls: dict[int, list[Execution]] = {}
    for each in executions:
        calls.setdefault(each.notes.get(CALL, 0), []).append(each)
    return {
        number: run
        for number, run in calls.items()
        if len(run) >= len(calls.get(0, [])) or any(not each.ending.has_score for each in run)
    }


def first_index(trial: Trial, call: int) -> int:
    """The index of the first execution of a call of `run_trial`: where an interrupted one began, else the next one."""
    begun = [index for index, each in trial.executions.items() if each.notes.get(CALL, 0) == call]
    return min(begun) if begun else max(trial.executions, default=-1) + 1


def _num_equal_repeats(runs: Sequence[dict[int, list[Execution]]]) -> int | None:
    """How many runs were repeats, if all were exactly like the first run of their trial; else None."""
    # Three and not one: with a metric of few distinct values (accuracy on 20 rows) one repeat may agree by chance.
    repeats = [(found[0], run) for found in runs for number, run in found.items() if number > 0 and 0 in found]
    equal = all([each.history for each in first] == [each.history for each in run] for first, run in repeats)
    return len(repeats) if equal and len(repeats) >= _NUM_EQUAL_REPEATS else None
