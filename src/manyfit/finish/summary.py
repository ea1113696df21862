"""From runs and decisions to the record of a confirmation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from manyfit.core import seeds
from manyfit.evidence.book import RaceFamily
from manyfit.evidence.decisions import RaceEnd, RaceStanding, compare, equal_within
from manyfit.evidence.estimates import Estimate, Estimates, Measured, Told, estimates
from manyfit.evidence.runs import Difference, Runs
from manyfit.evidence.sentences import Rival, listed
from manyfit.finish.fresh_runs import PROOF, RACE, FreshRuns
from manyfit.oracles import Trial
from manyfit.report.confirmation import Confirmation, Proof
from manyfit.report.finalists import Finalist
from manyfit.stats.racing import MIN_ROUNDS

#: Families in which two or more took part in this call, who they were, and where they stand.
Standings = Sequence[tuple[RaceFamily, Sequence[str], RaceStanding]]


@dataclasses.dataclass(frozen=True)
class CallEffort:
    """What a call has spent."""

    seconds: float
    out_of_time: bool
    max_rounds: int  # that it was allowed
    halted: str | None = None  # who ended it although there was time, in words


class _Found:
    """All that is known of the trials that were ever confirmed under a protocol."""

    def __init__(self, runs: FreshRuns) -> None:
        oracle = runs.oracle
        self.runs, self.oracle = runs, oracle
        evidence = runs.evidence
        self.families = evidence.of(runs.protocol)
        self.trials = [oracle.trials[trial_id] for trial_id in evidence.contenders(runs.protocol)]
        self.dropped = evidence.dropped(runs.protocol)
        self.winners = evidence.winners(runs.protocol)
        self.rules = self.families[0].rules
        self.searched = _full_trials(oracle.book.by_search_score(), self.trials)
        # What a scheduler stopped early has a score of fewer epochs: another thing than its fresh runs.
        measured = {one.trial_id: runs.measured(one, searched=one in self.searched) for one in self.trials}
        self.known = [trial_id for trial_id, each in measured.items() if each is not None]
        self.estimates = self._estimates([each for each in measured.values() if each is not None])
        self.table = runs.table(self.trials, self.families[0].first_seed)

    def _estimates(self, measured: Sequence[Measured]) -> Estimates | None:
        if not measured:
            return None
        runs, oracle = self.runs, self.oracle
        rows = None if runs.overlap is not None else runs.searched_rows(self.searched)
        finalists = [oracle.trials[one] for one in self.known]
        failed = [math.inf for trial in oracle.trials.values() if trial.has_failed]
        return estimates(
            [*(runs.searched_loss(trial) for trial in self.searched), *failed],
            measured,
            search_rows=rows,
            places=[self.searched.index(one) if one in self.searched else None for one in finalists],
            runs_per_trial=int(np.median([max(1, len(runs.of_search(trial))) for trial in self.searched])),
            overlap=runs.overlap,
            told=Told(oracle.objective.direction, runs.scale, self.rules.confidence),
            groups=runs.related,
            stopped=len(oracle.book.by_search_score()) - len(self.searched),
            seed=seeds.seed_of(oracle.seed, "confirm", "probability"),
        )

    def estimate(self, trial_id: str) -> Estimate | None:
        """Of one trial; None where no run has a score."""
        if self.estimates is None or trial_id not in self.known:
            return None
        return self.estimates.finalists[self.known.index(trial_id)]

    def in_order(self, trial_ids: Sequence[str]) -> list[str]:
        """By all evidence, the best first; those without any score last."""

        def key(trial_id: str) -> float:
            found = self.estimate(trial_id)
            return math.inf if found is None else self.oracle.objective.loss(found.mean)

        return sorted(trial_ids, key=key)

    @property
    def rounds(self) -> int:
        """Fresh seeds that all who may be the best have run."""
        places = [place for place, trial in enumerate(self.trials) if trial.trial_id in self.winners]
        return int(self.table.has_run[places].min(initial=10**9)) if places else 0


def _full_trials(completed: Sequence[Trial], finalists: Sequence[Trial]) -> list[Trial]:
    """The trials of the search that were trained as long as the finalists: scores of fewer epochs say another thing."""
    targets = {trial.target_epochs for trial in finalists if trial.target_epochs is not None}
    longest = max(targets, default=None)
    return [trial for trial in completed if trial.target_epochs in (None, longest)] or list(completed)


def recommended(runs: FreshRuns, standings: Standings) -> Trial:
    """The best of those who were not found worse, by all evidence; of those that are equal, the cheapest."""
    found = _Found(runs)
    return runs.oracle.trials[_ordered(found, _ending(found, standings))[0]]


def _ordered(found: _Found, ending: str) -> list[str]:
    order, known = found.in_order(found.winners), _costs_of(found)
    if ending == RaceEnd.EQUAL and known:
        order.sort(key=lambda trial_id: known[trial_id])  # stable: of equal cost, the better
    return order


def _costs_of(found: _Found) -> dict[str, float]:
    known = costs(found.trials)
    return {} if known is None else {one.trial_id: cost for one, cost in zip(found.trials, known, strict=True)}


def summarise(runs: FreshRuns, standings: Standings, effort: CallEffort, notes: Sequence[str]) -> Confirmation:
    """Puts what was measured and decided into words and numbers.

    Args:
        runs: of all trials that were ever confirmed with these data and settings.
        standings: of the families that took part in this call.
        effort: that it spent.
        notes: what it asked for and the rules do not allow.
    """
    found = _Found(runs)
    oracle = runs.oracle
    ending = _ending(found, standings)
    order, costs_of = _ordered(found, ending), _costs_of(found)
    best = order[0]
    fresh = {trial.trial_id: _fresh(runs, trial) for trial in found.trials}
    rows = [_row(found, trial_id, best, costs_of.get(trial_id), fresh) for trial_id in [*order, *_worse(found)]]
    searched = oracle.book.by_search_score()
    first = next((one.trial_id for one in searched if one.trial_id in fresh), best)
    luck = math.nan if found.estimates is None else found.estimates.luck_of_best
    return Confirmation(
        rows=tuple(rows),
        objective=oracle.objective.name,
        direction=oracle.objective.direction,
        confidence=found.rules.confidence,
        verdict=_verdict(ending, found, effort),
        settled=ending in (RaceEnd.SETTLED, RaceEnd.EQUAL, RaceEnd.ROWS_ARE_THE_LIMIT),
        rounds=found.rounds,
        num_executions=sum(count for count, _ in fresh.values()),
        seconds=effort.seconds,
        proof=_proof(runs, oracle.trials[best], found.rules.confidence),
        expected_optimism=luck if math.isfinite(luck) else None,
        num_trials=len(searched),
        ending=ending,
        decided_by=_weakest([each.by for each in found.dropped.values()]),
        num_rows=found.table.num_rows,
        margin=_margin(found, best),
        rivals=tuple(_rival(found, best, each) for each in order[1:]),
        first=None if first == best else _rival(found, best, first),
        max_more_seeds=max(0, found.rules.max_rounds - found.rounds),
        seconds_per_seed=_seconds_per_run(found) * len(order) if found.rounds else None,
        notes=(*notes, *_notes(found)),
    )


def _fresh(runs: FreshRuns, trial: Trial) -> tuple[int, int]:
    """Fresh runs of a trial, and how many of them have no score."""
    found = [run for phase in (RACE, PROOF) for run in runs.executions(trial, phase).values()]
    return len(found), sum(not run.ending.has_score for run in found)


def _seconds_per_run(found: _Found) -> float:
    """As they were measured; of members of a population their shares."""
    runs = [run.seconds for trial in found.trials for run in found.runs.executions(trial).values()]
    return float(np.mean(runs))


def _worse(found: _Found) -> list[str]:
    return found.in_order([trial.trial_id for trial in found.trials if trial.trial_id in found.dropped])


def _row(found: _Found, trial_id: str, best: str, cost: float | None, fresh: dict[str, tuple[int, int]]) -> Finalist:
    trial, estimate = found.oracle.trials[trial_id], found.estimate(trial_id)
    interval = None if estimate is None else estimate.of_a_new_model()
    chances = {} if found.estimates is None else dict(zip(found.known, found.estimates.probabilities, strict=True))
    num_fresh, num_failed = fresh[trial_id]
    decision = found.dropped.get(trial_id)
    standing = "recommended" if trial_id == best else "may be the best"
    if decision is not None:
        standing = f"worse than {decision.rival}" if decision.by != "failures" else f"fails more than {decision.rival}"
    return Finalist(
        trial_id,
        dict(trial.hyperparameters.values),
        None if estimate is None else estimate.mean,
        None if interval is None else interval.low,
        None if interval is None else interval.high,
        num_fresh,
        float(chances.get(trial_id, 0.0)),
        trial.score,
        decision is None,
        standing,
        cost,
        estimate,
        num_failed,
    )


def _ending(found: _Found, standings: Standings) -> str:
    if len(found.winners) == 1 and (len(found.trials) == 1 or found.dropped):
        return str(RaceEnd.SETTLED)
    # Of the family that came last: the standing winners are in it.
    last = standings[-1][2].verdict if standings else None
    return "out of budget" if last is None or last is RaceEnd.SETTLED else str(last)


def _verdict(ending: str, found: _Found, effort: CallEffort) -> str:
    reasons = {
        "settled": "one finalist was left",
        "equal": "all finalists that were left are equal within the margin",
        "rows are the limit": "more seeds cannot tell apart who was left: the rows are the limit",
        "no more drops": "further seeds would most likely drop nobody",
        "out of rounds": f"all {found.rules.max_rounds} rounds that the rules allow were run",
    }
    if ending in reasons:
        return reasons[ending]
    if effort.out_of_time:
        return effort.halted or "the time was up"
    if found.rounds >= effort.max_rounds:
        return f"{effort.max_rounds} rounds were run"
    return "the budget of executions was spent"


def _weakest(by: Sequence[str]) -> str:
    """What may be claimed of all decisions together: no more than of the weakest."""
    order = ("seeds", "seeds and splits", "seeds and rows")
    return min((each for each in by if each in order), key=order.index, default="seeds and rows")


def _margin(found: _Found, best: str) -> float:
    estimate = found.estimate(best)
    return 0.0 if estimate is None else equal_within(found.rules, estimate.measured)


def _rival(found: _Found, best: str, other: str) -> Rival:
    """How somebody stands against the recommended one, by the fresh seeds that both have run."""
    ids = [trial.trial_id for trial in found.trials]
    one, two = ids.index(other), ids.index(best)
    rounds = int(min(found.table.has_run[one], found.table.has_run[two]))
    pair = _pair(found.table, one, two, rounds)
    if pair is None:
        return Rival(other, 0.0, None, None, None, None)
    level = found.rules.level
    reach = pair.reach((1 - found.rules.confidence) / 2) if pair.num_seeds >= MIN_ROUNDS else math.nan
    needed = pair.seeds_needed(level) if level > 0 and pair.num_seeds >= MIN_ROUNDS else None
    low, high = (pair.mean - reach, pair.mean + reach) if math.isfinite(reach) else (None, None)
    hidden = pair.hidden_by_rows(level, found.rules.max_rounds)
    more = None if needed is None or hidden else max(1, needed - pair.num_seeds)
    return Rival(other, pair.mean, low, high, more, pair.rows_needed(level) if level > 0 else None)


def _pair(table: Runs, one: int, two: int, rounds: int) -> Difference | None:
    pairs = Runs(table.values[[one, two]], overlap=table.overlap)
    if pairs.common(0, 1, np.arange(rounds)).size < 2:
        return None
    ready = [place for place in range(table.num_contenders) if place in (one, two) or table.has_run[place] >= rounds]
    return compare(table, one, two, rounds=rounds, among=ready)


def _proof(runs: FreshRuns, trial: Trial, confidence: float) -> Proof | None:
    own = runs.proof(trial)
    if own is None or np.asarray(own.values).size < 2:
        return None
    told = Told(runs.oracle.objective.direction, runs.scale, confidence)
    [found] = estimates([], [own], overlap=runs.overlap, told=told, groups=runs.related).finalists
    interval = found.of_a_new_model() if found.rows_error is not None else None
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Proof(found.measured, low, high, found.num_runs)


def _notes(found: _Found) -> list[str]:
    """What has to be said of families that came later, and of runs under other settings."""
    notes = []
    for family in found.families[1:]:
        new = [trial_id for trial_id in family.trial_ids if trial_id in family.epochs]
        sure = f"{100 * family.rules.confidence:.3g} %"
        notes.append(f"{listed(new)} came later: compared with the winners so far, at {sure}.")
    if found.runs.overlap is not None:
        notes.append("Each seed has rows of its own; training rows overlap, which is counted as the error of the rows.")
    others = [one for one in found.runs.evidence.families if one.protocol != found.runs.protocol]
    if others:
        notes.append(
            "Confirmations with other data or settings answer another question: none of their runs counts here."
        )
    return notes


def costs(trials: Sequence[Trial]) -> list[float] | None:
    """What each trial's model costs: its parameters; seconds where a trainer did not count those; None: unknown."""
    sizes = [num_parameters(trial) for trial in trials]
    if all(sizes):
        return [float(size) for size in sizes]
    runs = [list(trial.executions.values()) for trial in trials]
    seconds = [float(np.mean([run.seconds for run in row])) if row else 0.0 for row in runs]
    return seconds if all(seconds) else None


def num_parameters(trial: Trial) -> int:
    """Of a trial's model; 0 where no trainer counted them."""
    return max((run.num_parameters or 0 for run in trial.executions.values()), default=0)
