"""What to change about the rows: those of validation that are trained on, and whether more of them would help."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterator

from manyfit.report import words
from manyfit.report.snapshot import Snapshot
from manyfit.report.words import plain
from manyfit.stats.students import student_quantile
from manyfit.store.facts import REPEATED

_FEWEST = 10  # trials before it is said what nobody has tried
_FEW_ROWS = 40  # of which parts would teach nothing
_MOST_REPEATED = 0.01  # of validation rows; fewer move no score
_FEW_DISTINCT = 0.25  # of the training rows: then rows are alike by their nature
_CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Check:
    """Something that a project shows.

    Attributes:
        title: what it is, in a few words.
        evidence: what shows it, in a sentence or two.
        line: what to type; None where there is nothing to type.
    """

    title: str
    evidence: str
    line: str | None = None


def repeated(snapshot: Snapshot) -> Iterator[Check]:
    """Rows of validation that are among those that are trained on."""
    facts = snapshot.facts.get(REPEATED)
    in_folds = any(
        "folds" in (run.outcome.get("notes") or {}) for trial in snapshot.trials[:1] for run in trial.searched
    )
    if not facts or not (facts["is_held_out"] or in_folds):
        return
    count, num_rows = facts["num_repeated"], facts["num_rows"]
    if count < _MOST_REPEATED * num_rows or not count:
        return
    told = f"{count:,} of {num_rows:,}"
    if facts["is_held_out"]:
        title = "Validation rows are trained on"
        found = f"{told} validation rows ({count / num_rows:.0%}) have the features of a training row"
    else:
        title = "Rows are there twice, in several folds"
        found = f"{told} rows ({count / num_rows:.0%}) have the features of an earlier one"
    also = f", {facts['num_same_target']:,} its target, too"
    evidence = f"{found}{also}: what a model remembers of them counts as if it had been learned."
    if facts["num_distinct"] <= _FEW_DISTINCT * facts["num_training"]:
        distinct = f"only {facts['num_distinct']:,} of {facts['num_training']:,} training rows differ"
        evidence += f" It may be their nature: {distinct}."
    line = "_, first = np.unique(x, axis=0, return_index=True); x, y = x[first], y[first]  # before rows are held out"
    yield Check(title, evidence, line)


def more_rows(snapshot: Snapshot) -> Iterator[Check]:
    """What more rows would bring, by trials that were trained on three parts of them or more."""
    known = [dict(trial.by_rows) for trial in snapshot.trials if len(trial.by_rows) >= 3 and trial.is_completed]
    shares = sorted(set.intersection(*map(set, known)))[-3:] if known else []
    if len(shares) < 3 or shares[-1] != 1.0:
        yield from _unknown(snapshot)
        return
    sign = 1.0 if snapshot.direction == "max" else -1.0
    first, last = (
        [sign * (scores[more] - scores[few]) / math.log2(more / few) for scores in known]
        for few, more in itertools.pairwise(shares)
    )
    before, now = statistics.fmean(first), statistics.fmean(last)
    # A doubling brings less than the one before; where it does not, the luck of few trials is what is seen.
    fades = max(0.0, min(1.0, now / before)) if before > 0 else 1.0
    gain, error = fades * now, fades * _error(last)
    rose, rise = ("rose", "rise") if sign > 0 else ("fell", "fall")
    parts = ", ".join(f"{share:.3g}" for share in shares[:-1])
    on = f"{words.counted(len(known), 'trial')} trained on {parts} and all of the rows"
    name = plain(snapshot.objective, 40)
    told = f"{on}: {name} {rose} by {words.number(before, error)} and then {words.number(now, error)} per doubling"
    if not math.isfinite(error):
        yield Check(
            "What more rows would bring is not known", f"{told}. One trial does not tell how sure that is.", None
        )
        return
    expected = words.interval(gain, gain - error, gain + error)
    if gain - error > 0:
        title = f"Twice as many rows would let {name} {rise} by {expected}"
    else:
        title = f"That more rows would help is not seen: {expected} for twice as many"
    forecast = "The forecast takes the next doubling to fade as much again; its interval is that of these trials"
    yield Check(title, f"{told}. {forecast}, which went on for being good on fewer rows.", None)


def _error(gains: list[float]) -> float:
    """Half of the interval of the mean; infinite for one."""
    if len(gains) < 2:
        return math.inf
    quantile = student_quantile(len(gains) - 1, (1 + _CONFIDENCE) / 2)
    return quantile * statistics.stdev(gains) / math.sqrt(len(gains))


def _unknown(snapshot: Snapshot) -> Iterator[Check]:
    facts = snapshot.facts.get(REPEATED)
    trained = any(run.costs for trial in snapshot.best(1) for run in trial.searched)
    # Nothing is said where nobody could try it: a loop of somebody's own, rows that cannot be counted, or few of them.
    if not facts or facts["num_training"] < _FEW_ROWS or not trained or len(snapshot.best()) < _FEWEST:
        return
    quarter, half = facts["num_training"] // 4, facts["num_training"] // 2
    yield Check(
        "What more rows would bring is not known",
        "No three parts of the rows were trained on. A small search on a quarter, a half and all of them tells, with "
        "an interval.",
        f"kt.RandomSearch(build_model, {snapshot.objective!r}, max_trials=12, "
        f"scheduler=kt.RowHalving([{quarter}, {half}], factor=2))",
    )
