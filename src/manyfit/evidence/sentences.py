"""What evidence is printed as: sentences that claim what was tested, and say what was not.

"Is the best" and "worse" are said of fresh seeds and fresh rows only. Where the rows are unknown it is said of these
rows; where too little was run it is said what more would settle.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from scipy import special

from manyfit.evidence.estimates import Estimate

Number = Callable[[float | None], str]
"""Writes a score with as many decimals as it is worth."""


@dataclasses.dataclass(frozen=True)
class Rival:
    """Somebody who may be the best, too, against the one who is recommended.

    Attributes:
        behind: by how much its score is worse, in the metric's units; below 0 where it is better.
        low: of the interval of that.
        high: its other end.
        more_seeds: further fresh seeds that may settle it, if the difference stays as it is; None: no number of them.
        rows_needed: validation rows that would; None: unknown.
    """

    trial_id: str
    behind: float
    low: float | None
    high: float | None
    more_seeds: int | None
    rows_needed: int | None


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names in a row.

    Example:

    >>> listed(["12", "7", "3"]), listed(["12"])
    ('12, 7 and 3', '12')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def settled(best: str, num_finalists: int, confidence: float, by: str) -> str:
    """One is left.

    Example:

    >>> settled("12", 8, 0.95, "seeds and rows")
    'Trial 12 is the best of 8 (95 %): every other is worse on fresh seeds and fresh rows.'
    """
    sure = f"{100 * confidence:.3g} %"
    if by == "seeds":
        return (
            f"Trial {best} is ahead of all {num_finalists - 1} others on these rows ({sure} over fresh seeds). "
            "Rows unknown: nobody can tell whether it is on others."
        )
    where = "other splits" if by == "seeds and splits" else "fresh rows"
    return f"Trial {best} is the best of {num_finalists} ({sure}): every other is worse on fresh seeds and {where}."


def too_few(rounds: int, order: Sequence[str]) -> str:
    """Under three fresh runs each nothing can be compared.

    Example:

    >>> too_few(1, ["12", "7"])
    'One fresh run each: too few to compare. Order by all evidence: 12, 7.'
    """
    runs = ("No fresh run of all", "One fresh run each", "Two fresh runs each")[min(rounds, 2)]
    return f"{runs}: too few to compare. Order by all evidence: {', '.join(order)}."


def equal(names: Sequence[str], margin: float, costs: Sequence[float | None]) -> str:
    """All that are left are equal, so the cheapest is taken.

    Args:
        names: of the trials, the recommended one first.
        margin: within which they are equal.
        costs: of the trials, in parameters or seconds.

    Example:

    >>> equal(["7", "12"], 0.004, [1000.0, 3000.0])
    '7 and 12 are equal within 0.004; 7 is the cheapest, at 0.33 of the cost of 12.'
    """
    same = f"{listed(names)} are equal within {margin:.3g}"
    known = [cost for cost in costs if cost]
    if len(known) < len(names) or min(known) == max(known):
        return f"{same}."
    dearest = names[known.index(max(known))]
    share = f"{known[0] / max(known):.2g}"
    return f"{same}; {names[0]} is the cheapest, at {share} of the cost of {dearest}."


def undecided(
    best: str, rivals: Sequence[Rival], num_rows: int | None, max_more_seeds: int, seconds_per_seed: float | None
) -> str:
    """Several may be the best: what more seeds may settle, and what only more rows would.

    Args:
        best: the recommended trial.
        rivals: who may be the best, too.
        num_rows: validation rows; None: unknown.
        max_more_seeds: that the rules allow.
        seconds_per_seed: what one more fresh seed for all who are left takes; None: unknown.

    Example:

    >>> rivals = [Rival("7", 0.001, -0.01, 0.012, None, 2600), Rival("3", 0.01, -0.001, 0.021, 6, 500)]
    >>> print(undecided("12", rivals, 400, 15, 7.0))  # doctest: +NORMALIZE_WHITESPACE
    One of 12, 7 and 3. 6 more seeds (about 42 s) may drop 3; 12 and 7 differ by less than these 400 rows can show
    (about 2,600 would).
    """
    in_reach = [each for each in rivals if each.more_seeds is not None and each.more_seeds <= max_more_seeds]
    parts = []
    if in_reach:
        most = max(rival.more_seeds or 0 for rival in in_reach)
        takes = "" if seconds_per_seed is None else f" (about {max(1, round(most * seconds_per_seed)):,} s)"
        seeds = "1 more seed" if most == 1 else f"{most:,} more seeds"
        # Of a pair, the one that is behind now.
        names = [rival.trial_id if rival.behind >= 0 else best for rival in in_reach]
        parts.append(f"{seeds}{takes} may drop {listed(list(dict.fromkeys(names)))}")
    for rival in rivals:
        pair = f"{best} and {rival.trial_id}"
        if rival.more_seeds is None and num_rows is not None and rival.rows_needed is not None:
            would = f"about {_round(rival.rows_needed):,} would"
            parts.append(f"{pair} differ by less than these {num_rows:,} rows can show ({would})")
        elif rival.more_seeds is None:
            parts.append(f"no number of seeds would tell {pair} apart")
    beyond = [each for each in rivals if each.more_seeds is not None and each not in in_reach]
    if beyond:
        least = min(each.more_seeds or 0 for each in beyond)
        parts.append(
            f"{best} is too close to {listed([each.trial_id for each in beyond])} for the {max_more_seeds} seeds that "
            f"the rules still allow (it would take about {_round(least):,})"
        )
    told = "; ".join(parts)
    return f"One of {listed([best, *(rival.trial_id for rival in rivals)])}. {told[:1].upper()}{told[1:]}."


def overruled(first: str, best: str, rival: Rival, number: Number, *, is_dropped: bool) -> str:
    """The search's best is not the one that is recommended.

    Example:

    >>> overruled("5", "12", Rival("5", 0.012, 0.004, 0.020, 0, None), lambda x: f"{x:g}", is_dropped=True)
    "The search put 5 first; on fresh seeds 12 is ahead by 0.012 [0.004, 0.02]; 5's lead was luck."
    """
    start = f"The search put {first} first; on fresh seeds {best} is "
    if rival.behind < 0:  # then the interval is told from the other side, too
        ends = _ends(None if rival.high is None else -rival.high, None if rival.low is None else -rival.low, number)
        return f"{start}behind by {number(-rival.behind)}{ends}, which settles nothing yet."
    told = f"{start}ahead by {number(rival.behind)}{_ends(rival.low, rival.high, number)}"
    return f"{told}; {first}'s lead was luck." if is_dropped else f"{told}, which settles nothing yet."


def as_good_and_cheaper(first: str, best: str) -> str:
    """The search's best is not the one that is recommended, since the two are equal.

    Example:

    >>> as_good_and_cheaper("5", "12")
    'The search put 5 first; it is one of the equals, and 12 the cheapest of them.'
    """
    return f"The search put {first} first; it is one of the equals, and {best} the cheapest of them."


def _ends(low: float | None, high: float | None, number: Number) -> str:
    return "" if low is None or high is None else f" [{number(low)}, {number(high)}]"


def sources(name: str, estimate: Estimate, number: Number) -> str:
    """The three kinds of luck in a score, and what is left when they are taken out.

    Example:

    >>> one = Estimate(0.912, 0.906, 0.0001, 30.0, 0.004, 0.014, 0.006, False, 5, 400, 0.0001, 0.08)
    >>> print(sources("accuracy", one, lambda x: f"{x:.3f}"))  # doctest: +NORMALIZE_WHITESPACE
    accuracy 0.912: ±0.004 by seeds (5 runs), ±0.014 by rows (400 rows), ±0.006 by the choice; a model trained afresh
    will show 0.906 [0.877, 0.935] on new rows.
    """
    runs = "1 run" if estimate.num_runs == 1 else f"{estimate.num_runs} runs"
    seeds = (
        "seeds unknown (1 run)"
        if estimate.seeds_error is None
        else f"±{number(estimate.seeds_error)} by seeds ({runs})"
    )
    if estimate.rows_error is None:
        rows = "rows unknown"
    else:
        where = "the splits" if estimate.num_rows is None else _rows(estimate.num_rows, estimate.num_groups)
        rows = f"±{number(estimate.rows_error)} by rows ({where})"
    bound = "up to " if estimate.choice_is_bound else ""
    choice = "" if not math.isfinite(estimate.choice) else f", {bound}±{number(abs(estimate.choice))} by the choice"
    found = f"{name} {number(estimate.measured)}: {seeds}, {rows}{choice}"
    interval = estimate.of_a_new_model()
    if interval is None:
        return f"{found}; with one run and rows unknown, nobody can tell what a model trained afresh will show."
    on = "on these rows" if estimate.rows_error is None else "on new rows"
    ends = f"[{number(interval.low)}, {number(interval.high)}]"
    return f"{found}; a model trained afresh will show {number(estimate.mean)} {ends} {on}."


def search_said(score: float, num_trials: int, optimism: float, expected: float, number: Number) -> str:
    """By how much the search's own number is too good.

    Args:
        score: that the search gave the recommended trial.
        num_trials: among which it is one of the best.
        optimism: how much better that is than what a model that is trained afresh will show.
        expected: what such a model will show.
        number: writes scores.

    Example:

    >>> print(search_said(0.931, 60, 0.011, 0.920, lambda x: f"{x:.3f}"))
    The search said 0.931. The best of 60 noisy scores is lucky: by about 0.011 here. Expect 0.920.
    """
    if optimism > 0 and num_trials > 1:
        luck = f"The best of {num_trials:,} noisy scores is lucky: by about {number(optimism)} here."
    else:
        luck = f"It was unlucky there, by about {number(abs(optimism))}."
    return f"The search said {number(score)}. {luck} Expect {number(expected)}."


def failures(trial_id: str, failed: int, runs: int, confidence: float = 0.95) -> str:
    """A rate of failures, which is no score: Clopper and Pearson's interval.

    Example:

    >>> failures("5", 1, 13)
    'Trial 5 diverged or failed in 1 of 13 fresh runs (8 %, between 0 and 36 %): those are in no mean.'
    """
    tail = (1 - confidence) / 2
    low = 0.0 if failed == 0 else float(special.betaincinv(failed, runs - failed + 1, tail))
    high = 1.0 if failed == runs else float(special.betaincinv(failed + 1, runs - failed, 1 - tail))
    rate = f"{failed / runs:.0%}, between {100 * low:.0f} and {high:.0%}".replace("%", " %")
    return f"Trial {trial_id} diverged or failed in {failed} of {runs} fresh runs ({rate}): those are in no mean."


_UNKNOWN = "validation rows without identity"


def which_rows(num_rows: int | None, num_groups: int | None) -> str:
    """What runs are scored on.

    Example:

    >>> which_rows(400, None), which_rows(400, 40)
    ('the same 400 validation rows', 'the same 400 validation rows in 40 groups, which are drawn together')
    """
    if num_rows is None:
        return _UNKNOWN
    together = "" if num_groups is None else ", which are drawn together"
    return f"the same {_rows(num_rows, num_groups, 'validation rows')}{together}"


def _rows(num_rows: int, num_groups: int | None, what: str = "rows") -> str:
    return f"{num_rows:,} {what}" + ("" if num_groups is None else f" in {num_groups:,} groups")


def methods(
    *,
    objective: str,
    num_trials: int,
    num_finalists: int,
    num_executions: int,
    rows: str,
    confidence: float,
    found: Sequence[str],
) -> str:
    """What was done, for the section on methods of a report.

    Args:
        objective: the metric.
        num_trials: that the search completed.
        num_finalists: that were confirmed.
        num_executions: trainings on fresh seeds.
        rows: what each run was scored on, see `which_rows`.
        confidence: of the decisions.
        found: sentences of the result.
    """
    errors = "seeds alone, since the rows are unknown" if rows == _UNKNOWN else "seeds and of rows"
    return (
        f"Of {num_trials:,} configurations, the {num_finalists} with the best {objective} in the search were trained "
        f"again on fresh seeds, the same for all: {num_executions} trainings, each scored on {rows} at an epoch that "
        f"was fixed before. A configuration was dropped when a one-sided paired test with the error of {errors} found "
        "it worse than another (two-way random model, Satterthwaite's degrees of freedom, variances over seeds "
        "moderated as in Smyth 2004), at a constant nominal level for repeated looks (Pocock 1977), with "
        f"{100 * confidence:.3g} % confidence over all pairs and looks. Scores are posterior means of a hierarchical "
        "model of all runs, of the search and of the fresh seeds, with the worse half of the search's trials censored. "
        + " ".join(found)
    )


def _round(count: int) -> int:
    """Two digits: a number that is extrapolated has no more."""
    digits = max(0, len(str(count)) - 2)
    return int(round(count, -digits))
