"""What is counted over many simulated searches, with the error that their number leaves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from simulated_searches import Cell, SimulatedSearch
from truth_procedures import NEW_ROWS, Answer, FreshRuns, oracle_half_width

Procedure = Callable[[FreshRuns], Answer]


@dataclasses.dataclass(frozen=True)
class Share:
    """How often, and of how many."""

    count: int
    total: int

    @property
    def value(self) -> float:
        return self.count / self.total if self.total else math.nan

    @property
    def error(self) -> float:
        """Standard error; of at least one miss, so that a small simulation is not taken for a proof."""
        if not self.total:
            return math.nan
        share = min(max(self.value, 1 / (self.total + 1)), self.total / (self.total + 1))
        return math.sqrt(share * (1 - share) / self.total)

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.error:.1f}" if self.total else "-"


@dataclasses.dataclass(frozen=True)
class Trust:
    """What became of one procedure in one cell."""

    cover: Share  # the interval holds the winner's truth
    cover_new: Share  # the interval for one training scored on new rows holds that score
    cover_settled: Share  # given that it says "settled"
    cover_first: Share  # given that the winner is the search's
    proofs: Share  # it says that one is the best
    false_proofs: Share  # it says so, and another finalist is as good or better
    wrong: Share  # it says of any trial that it is worse than another, and that is not so
    width: float  # median of the ratio to the oracle's
    bias: float  # mean of estimate - truth, in units of one run's noise; negative: too good
    bias_error: float
    regret: float  # mean distance of the winner's truth to that of the best finalist, in the same units
    executions: float  # median


def measure(cell: Cell, procedures: dict[str, Procedure], replications: int, seed: int) -> dict[str, Trust]:
    """Runs all procedures on the same searches."""
    records = records_of(cell, procedures, range(replications), seed)
    return {name: summary(found) for name, found in records.items()}


def records_of(
    cell: Cell, procedures: dict[str, Procedure], numbers: Iterable[int], seed: int
) -> dict[str, list[dict]]:
    """What becomes of each procedure on the searches of some numbers, as JSON keeps it."""
    records: dict[str, list[dict]] = {name: [] for name in procedures}
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        runs = FreshRuns(SimulatedSearch(cell, rng))
        fresh = np.random.default_rng([seed, number, 1])
        scores: dict[int, float] = {}
        for name, procedure in procedures.items():
            answer = procedure(runs)
            if answer.winner not in scores:
                scores[answer.winner] = runs.search.fresh_score(answer.winner, NEW_ROWS, fresh)
            records[name].append(record(runs, answer, scores[answer.winner]))
    return records


def record(runs: FreshRuns, answer: Answer, new_score: float) -> dict:
    """One answer against the truth."""
    search = runs.search
    truths = search.truths[runs.finalists]
    truth = float(search.truths[answer.winner])
    others = np.delete(truths, np.flatnonzero(runs.finalists == answer.winner))
    # What these rows do to all trials alike moves every estimate; its mean is 0, and taking it off leaves less noise.
    tame = np.isfinite(search.truths) & (search.truths < truths.min() + 20 * search.cell.noise)
    shift = float((search.search_losses[tame] - search.truths[tame]).mean())
    found = {
        "cover": answer.low <= truth <= answer.high,
        "cover_new": answer.low_new <= new_score <= answer.high_new,
        "settled": answer.settled,
        "first": answer.winner == runs.finalists[0],
        "proven": answer.proven,
        "false": answer.proven and bool((others <= truth).any()),
        "wrong": any(search.truths[one] <= search.truths[rival] for one, rival in answer.worse),
        "width": (answer.high - answer.low) / 2 / oracle_half_width(search.cell, answer.num_runs),
        "bias": (answer.estimate - truth - shift) / search.cell.noise,
        "regret": (truth - truths.min()) / search.cell.noise,
        "executions": answer.num_executions,
    }
    return {name: bool(value) if isinstance(value, np.bool_) else float(value) for name, value in found.items()}


def summary(records: Sequence[dict]) -> Trust:
    """Of one procedure in one cell."""

    def share(name: str, given: str | None = None) -> Share:
        kept = [each for each in records if given is None or each[given]]
        return Share(sum(bool(each[name]) for each in kept), len(kept))

    bias = np.array([each["bias"] for each in records])
    return Trust(
        cover=share("cover"),
        cover_new=share("cover_new"),
        cover_settled=share("cover", "settled"),
        cover_first=share("cover", "first"),
        proofs=share("proven"),
        false_proofs=share("false"),
        wrong=share("wrong"),
        width=float(np.median([each["width"] for each in records])),
        bias=float(bias.mean()),
        bias_error=float(bias.std(ddof=1) / math.sqrt(len(bias))),
        regret=float(np.mean([each["regret"] for each in records])),
        executions=float(np.median([each["executions"] for each in records])),
    )
