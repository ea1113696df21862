"""A project in sentences: how good its best trial is and how sure that is, what failed, where the time went, what next.

The first thing that anybody reads is a sentence with an interval. A number that one run has measured is shown with as
many digits as its luck leaves, or called what it is.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.causes import reason_of
from manyfit.report.snapshot import RecordedRun, RecordedTrial, Snapshot

_MOST_NAMED = 6  # trials by name in a sentence
_FEWEST_TO_JUDGE = 5  # trials before luck can be told from skill (`manyfit.stats.posterior.MIN_TRIALS`)
_CONFIRMED = 8  # finalists of `tuner.confirm()`, and
_ROUNDS = 3  # fresh seeds of each before anything can be said


def plain(text: object, most: int = 60) -> str:
    """A text from a project on one line, shortened: nothing in it may move the cursor, colour a terminal or fill it.

    Example:

    >>> plain("a\\x1b[31mb\\nc"), plain("x" * 100, 10)
    ('a�[31mb�c', 'xxxxxxxxx…')
    """
    letters = "".join(letter if letter.isprintable() else "�" for letter in str(text))
    return letters if len(letters) <= most else letters[: max(1, most - 1)] + "…"


def number(value: float, error: float | None = None) -> str:
    """A score with the digits that its error leaves; three significant ones where nobody knows it.

    Args:
        value: the score.
        error: half the width of its interval.

    Example:

    >>> number(0.9832477841515216, 0.015), number(0.9832477841515216), number(1234567.0), number(0.00001234)
    ('0.983', '0.983', '1.23e+06', '1.23e-05')
    """
    if not math.isfinite(value):
        return str(value)
    if error is None or not math.isfinite(error) or error <= 0 or not 1e-6 < error < 1e6:
        return f"{value:.3g}"
    return f"{value:.{max(0, 1 - math.floor(math.log10(error)))}f}"


def interval(value: float, low: float, high: float) -> str:
    """A score with its interval.

    Example:

    >>> interval(0.8014, 0.7594, 0.8377)
    '0.801 [0.759, 0.838]'
    """
    error = (high - low) / 2
    return f"{number(value, error)} [{number(low, error)}, {number(high, error)}]"


def values(configuration: Mapping[str, object], most: int = 12) -> str:
    """A configuration on one line.

    Example:

    >>> values({"units": 64, "rate": 0.0025342859, "tuner/epochs": 3})
    'units 64, rate 0.00253'
    """
    shown = [(plain(name, 30), value) for name, value in configuration.items() if not name.startswith("tuner/")]
    told = [
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {plain(value, 30)}" for name, value in shown
    ]
    return ", ".join(told[:most]) + (", …" if len(told) > most else "")


def seconds(value: float) -> str:
    """A time in the two units that matter.

    Example:

    >>> seconds(0.26), seconds(9.73), seconds(75), seconds(4000), seconds(200_000)
    ('0.3 s', '9.7 s', '1 min 15 s', '1 h 6 min', '2 d 7 h')
    """
    if value < 59.5:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    whole = round(value)
    for size, name, part, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {small}"
    return f"{whole} s"


def ago(then: float, now: float) -> str:
    """How long ago something was.

    Example:

    >>> ago(100.0, 103.2), ago(0.0, 7300.0)
    ('3 s ago', '2 h ago')
    """
    past = max(0.0, now - then)
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if past >= size:
            return f"{past // size:.0f} {name} ago"
    return f"{past:.0f} s ago"


def counted(count: int, noun: str) -> str:
    """A number of things.

    Example:

    >>> counted(1, "trial"), counted(1200, "trial")
    ('1 trial', '1,200 trials')
    """
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def verdict(snapshot: Snapshot) -> list[str]:
    """How good the best trial is and how sure that is, most important first."""
    best = snapshot.best(1)
    if not best:
        failed = len(snapshot.failed)
        return [f"No trial has a score: {counted(failed, 'trial')} failed." if failed else "No trial has a score yet."]
    [first] = best
    if first.confirmed is not None and first.confirmed.get("score") is not None:
        return _confirmed(snapshot, first)
    leader, name = snapshot.leader, plain(snapshot.objective)
    assert first.score is not None  # our bug: `best` ranks those that have one
    if leader is None or leader.trial_id != first.trial_id or leader.low is None or leader.high is None:
        return [_unsure(snapshot, first.trial_id, first.score)]
    expected = first.score if leader.expected is None else leader.expected
    found = f"Trained afresh, trial {first.trial_id} should show {name} {interval(expected, leader.low, leader.high)}"
    on = "on these rows" if leader.num_rows is None else "on new rows"
    others = _others(leader.rivals, leader.num_trials)
    lines = [f"{found} {on}. {others}"]
    # What was said and what is expected stand one above the other: the luck is what lies between them.
    better = 1 if snapshot.direction == "max" else -1
    error = (leader.high - leader.low) / 2
    luck = number(better * (leader.score - expected), error)
    if float(luck) > 0:
        said = f"The search said {number(leader.score, error)}, by {luck} too good"
        lines.append(f"{said}: the best of {leader.num_trials:,} noisy scores is lucky.")
    return lines


def _confirmed(snapshot: Snapshot, first: RecordedTrial) -> list[str]:
    facts = first.confirmed or {}
    low, high = facts.get("low"), facts.get("high")
    known = low is not None and high is not None and math.isfinite(low) and math.isfinite(high)
    score = interval(facts["score"], low, high) if known else number(facts["score"])  # type: ignore[arg-type]  # known
    rivals = [one.trial_id for one in snapshot.best() if one.confirmed and one.confirmed["in_winning_set"]]
    others = _others([one for one in rivals if one != first.trial_id], len(snapshot.best()))
    seeds = counted(facts.get("num_executions", 0), "fresh seed")
    lines = [
        f"Trained afresh, trial {first.trial_id} should show {plain(snapshot.objective)} {score}, by {seeds}. {others}"
    ]
    better = 1 if snapshot.direction == "max" else -1
    luck = better * ((first.score or 0.0) - facts["score"])
    if known and luck > 0:
        error = (high - low) / 2  # type: ignore[operator]  # both are known
        lines.append(f"The search said {number(first.score or 0.0, error)}: by {number(luck, error)} too good.")
    return lines


def _unsure(snapshot: Snapshot, trial_id: str, score: float) -> str:
    leader, name = snapshot.leader, plain(snapshot.objective)
    if leader is not None and leader.noise is not None:
        error = 2 * leader.noise
        found = f"{name} {number(score, error)} ±{number(error, error)}"
        return f"Trial {trial_id} leads with {found}: so much is the luck of one run."
    few = len(snapshot.best()) < _FEWEST_TO_JUDGE
    why = (
        f"fewer than {_FEWEST_TO_JUDGE} trials have ended" if few else "nothing was repeated, and the rows are unknown"
    )
    return f"Trial {trial_id} leads with {name} {number(score)}; how much of it is luck is not known: {why}."


def _others(rivals: Sequence[str], num_trials: int) -> str:
    if not rivals:
        return "No other trial is likely to be better." if num_trials > 1 else "It is the only trial."
    shown = ", ".join(rivals[:_MOST_NAMED]) + (", …" if len(rivals) > _MOST_NAMED else ".")
    return f"{counted(len(rivals), 'more trial')} may be as good: {shown}"


def run_cells(run: RecordedRun) -> tuple[str, ...]:
    """A run in a table: which, how it ended, its score, its best epoch, its epochs, its seconds."""
    best = run.outcome.get("best_epoch")
    return (
        run.name,
        run.ending or "runs",
        "" if run.score is None else number(run.score),
        "" if best is None else str(best + 1),
        str(run.num_epochs),
        seconds(float(run.outcome.get("seconds") or 0.0)),
    )


def failures(trials: Sequence[RecordedTrial]) -> list[str]:
    """Trials without a score by their cause, the most frequent first."""
    causes = Counter(plain(reason_of(trial.message) or trial.ending, 100) for trial in trials)
    return [f"{counted(count, 'trial')} failed: {cause}" for cause, count in causes.most_common()]


def programs_line(snapshot: Snapshot) -> str | None:
    """What was compiled, for how many trials, and what fell back; None where nothing is known."""
    records = [one for one in snapshot.programs.values() if one.get("members")]
    lines = []
    if records:
        members = sum(one["members"] for one in records)
        compiled = math.fsum(one["compile_seconds"] for one in snapshot.programs.values())
        as_many = counted(len(records), "program")
        lines.append(f"{counted(members, 'execution')} trained as {as_many}, compiled in {seconds(compiled)}")
    for why, ids in snapshot.fallbacks.items():
        lines.append(f"{len(ids) or 'all'} with model.fit: {plain(why, 80)}")
    return "; ".join(lines) or None


def time_line(parts: Mapping[str, float], total: float) -> str:
    """Where the time went, the largest part first; parts under a hundredth are left out.

    Parts that overlap, such as programs that are compiled behind the training, are shares of their sum.

    Example:

    >>> time_line({"train": 6.0, "compile": 3.0, "store": 0.01, "other": 1.0}, 10.01)
    '10 s: train 60 %, compile 30 %, other 10 %'
    """
    whole = max(total, math.fsum(parts.values()))
    shown = sorted(((part, name) for name, part in parts.items() if part >= 0.01 * whole > 0), reverse=True)
    told = ", ".join(f"{name} {100 * part / whole:.0f} %" for part, name in shown)
    return seconds(total) + (f": {told}" if told else "")


def state(snapshot: Snapshot, now: float | None = None) -> str:
    """Whether somebody works on it: "a search runs, process 17, last written 3 s ago"."""
    now = time.time() if now is None else now
    step, written = snapshot.activity, ago(snapshot.written_at, now)
    if step is None or step.until is not None:
        return f"at rest, last written {written}"
    if snapshot.has_died:
        return f"{step.what} died {written}: run the same script to go on"
    where = "" if step.has_died(lambda pid: True) is not None else f" on {plain(step.host)}"
    return f"{step.what} runs, process {step.pid}{where}, last written {written}"


def next_step(snapshot: Snapshot) -> str | None:
    """What to type next, with its price; None while somebody works on it, or where there is nothing to confirm."""
    working = snapshot.activity is not None and snapshot.activity.until is None
    best = snapshot.best()
    if working or len(best) < 2 or best[0].confirmed is not None:
        return None
    runs = [run for one in best[:_CONFIRMED] for run in one.searched]
    if not any(run.costs for run in runs):  # a loop of somebody's own has trained them, which cannot be confirmed
        return None
    taken = [float(run.outcome.get("seconds") or 0.0) for run in runs]
    price = f", about {seconds(statistics.fmean(taken) * _ROUNDS * min(_CONFIRMED, len(best)))}" if any(taken) else ""
    return f"tuner.confirm() tells them apart on fresh seeds{price}"


def diversity(facts: Mapping[str, Any] | None) -> list[str]:
    """How different the members of an ensemble are, and what that is worth (`manyfit.ensemble.explaining`).

    Args:
        facts: as they are kept; None: of one member, or of an earlier version, nothing is known.

    Example:

    >>> facts = {"disagreement": [[0, 0.06], [0.06, 0]], "decides": True, "gives_back": None}
    >>> diversity(facts)
    ['Two members decide differently on 6 % of the rows, in the mean.']
    """
    if not facts:
        return []
    rows = facts["disagreement"]
    pairs = [share for place, row in enumerate(rows) for share in row[:place]]
    lines = []
    if pairs and facts["decides"]:
        lines.append(
            f"Two members decide differently on {100 * statistics.fmean(pairs):.2g} % of the rows, in the mean."
        )
    elif pairs:
        lines.append(f"Two members are {statistics.fmean(pairs):.2g} times their own error apart, in the mean.")
    if facts["gives_back"] is not None:
        alone, back = number(facts["alone"]), number(facts["gives_back"])
        lines.append(
            f"{plain(facts['loss'])}: members average {alone} alone, and their differences give back {back} of it."
        )
    return lines


def name_of(folder: Path) -> str:
    """A project's folder, for a title."""
    return plain(folder, 60)
