"""The rows behind the charts: trials with what they were tried with, and curves, of five digits each and no more."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import TypeAlias

from manyfit.core.records import Ending
from manyfit.report.ranges import remembered, searched_ranges
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.report.words import plain, values

Cell: TypeAlias = bool | int | float | str | None
Row: TypeAlias = dict[str, Cell]

MOST_CURVES = 200
_MOST_POINTS = 60  # of a curve
_TERM = re.compile(r'name="(.+?)", direction="(max|min)"')


def finite(value: object, digits: int = 5) -> float | None:
    """A number with five digits, for a file; None for what is none.

    Example:

    >>> finite(0.9832477841515216), finite(float("nan")), finite(None)
    (0.98325, None, None)
    """
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def objective_names(snapshot: Snapshot) -> list[tuple[str, str]]:
    """The objectives, each with "max" or "min"; one unless none is traded for another."""
    text = (snapshot.facts.get("search") or {}).get("objective", "")
    found = [(name, way) for name, way in _TERM.findall(text)]
    return found if text.startswith("Pareto") and found else [(snapshot.objective, snapshot.direction)]


@remembered
def axis_names(snapshot: Snapshot) -> dict[str, str]:
    """Hyperparameter -> the column it has in the rows of trials: names of users may hold anything."""
    return {each.name: f"h{number}" for number, each in enumerate(searched_ranges(snapshot))}


@remembered
def best_half(snapshot: Snapshot) -> tuple[float, float]:
    """The ends of an axis on which the better half of the trials can be told apart, and the winner's band is whole."""
    scores = sorted(score for trial in snapshot.trials if (score := _score(trial)) is not None)
    if not scores:
        return 0.0, 1.0
    half = scores[len(scores) // 2 :] if snapshot.direction == "max" else scores[: len(scores) // 2 + 1]
    # One terrible trial must not press all others into a line.
    ends = [*half, *(end for row in winners_band(snapshot) for end in row.values() if isinstance(end, float))]
    low, high = min(ends), max(ends)
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def winners_band(snapshot: Snapshot) -> list[Row]:
    """Where the winner's score lies: one row of low and high, or none where nobody knows."""
    leader = snapshot.leader
    ends = [(row["low"], row["high"]) for row in finalist_rows(snapshot)[:1]]
    ends += [] if leader is None or ends else [(finite(leader.low), finite(leader.high))]
    return [{"low": low, "high": high} for low, high in ends if low is not None and high is not None]


@remembered
def finalist_rows(snapshot: Snapshot) -> list[Row]:
    """One row per finalist, best first: of the latest confirmation, else what the search alone says of its best."""
    if snapshot.confirmation is not None:
        return [
            {
                "trial": str(row["trial_id"]),
                "expected": finite(row["score"]),
                "low": finite(row["low"]),
                "high": finite(row["high"]),
                "search": finite(row["search_score"]),
                "open": bool(row["in_winning_set"]),
                "standing": plain(row["standing"]),
                "runs": int(row["num_executions"]),
                "values": values(row["values"]),
            }
            for row in snapshot.confirmation["rows"]
        ]
    leader = snapshot.leader
    known = {trial.trial_id: trial for trial in snapshot.trials}
    rows: list[Row] = []
    for trial_id, expected, low, high in () if leader is None else leader.finalists:
        trial = known.get(str(trial_id))
        if trial is None or leader is None:
            continue
        leads, may = trial.trial_id == leader.trial_id, trial.trial_id in leader.rivals
        rows.append(
            {
                "trial": trial.trial_id,
                "expected": finite(expected),
                "low": finite(low),
                "high": finite(high),
                "search": finite(trial.score),
                "open": leads or may,
                "standing": "leads" if leads else "may be as good" if may else "",
                "runs": 0,
                "values": values(trial.values),
            }
        )
    return rows


@remembered
def trial_rows(snapshot: Snapshot, most: int, *, best_too: bool = True) -> list[Row]:
    """One row per trial in the order of their start.

    Args:
        snapshot: the project.
        most: rows; of more trials the best half of that, and an even sample of the others.
        best_too: else an even sample of all.

    Returns:
        Rows of trial, number (from 1), seconds and epochs until it ended, score, best (score so far), state, standing,
        and a column per hyperparameter (`axis_names`).
    """
    ranges = searched_ranges(snapshot)
    leader = snapshot.best(1)[0].trial_id if snapshot.best(1) else None
    rivals = set(_rivals(snapshot))
    kept = _kept(snapshot, most, most // 2 if best_too else 0)
    began = min((trial.started_at for trial in snapshot.trials), default=0.0)
    rows: list[Row] = []
    best: float | None = None
    epochs = 0
    better = max if snapshot.direction == "max" else min
    for number, trial in enumerate(snapshot.trials, 1):
        epochs += sum(len(run.logs) for run in trial.searched)
        score = _score(trial)
        is_best = score is not None and (best is None or better(score, best) != best)
        best = score if is_best else best
        # The line of the best so far has to be right, whatever is left out.
        if trial.trial_id not in kept and not (is_best and best_too):
            continue
        is_leader = trial.trial_id == leader
        row: Row = {
            "trial": trial.trial_id,
            "number": number,
            "seconds": finite((trial.ended_at or trial.started_at) - began),
            "epochs": epochs,
            "score": finite(score),
            "best": finite(best),
            "state": state_of(trial),
            "standing": "leads" if is_leader else "may be as good" if trial.trial_id in rivals else "",
        }
        for place, each in enumerate(ranges):
            value = each.value(trial)
            row[f"h{place}"] = finite(value) if each.is_number else value
        rows.append(row)
    return rows


def state_of(trial: RecordedTrial) -> str:
    """How a trial stands, in a word."""
    if trial.is_completed:
        endings = {run.ending for run in trial.searched}
        return str(Ending.STOPPED) if Ending.STOPPED in endings else "completed"
    return "running" if trial.ended_at is None else str(trial.ending or trial.status.lower())


def _rivals(snapshot: Snapshot) -> Sequence[str]:
    found = snapshot.confirmation
    if found is not None:
        return [str(row["trial_id"]) for row in found["rows"] if row["in_winning_set"]]
    return () if snapshot.leader is None else snapshot.leader.rivals


def _kept(snapshot: Snapshot, most: int, num_best: int) -> set[str]:
    ids = [trial.trial_id for trial in snapshot.trials]
    if len(ids) <= most:
        return set(ids)
    # Even and not drawn: the same project gives the same picture, and early trials have their share. In the order of
    # their places' bits read backwards, of which any beginning is even: a small chart's trials are in larger ones, too.
    best = {trial.trial_id for trial in snapshot.best(num_best)}
    width = len(ids).bit_length()
    spread = sorted(range(len(ids)), key=lambda place: f"{place:0{width}b}"[::-1])
    others = (ids[place] for place in spread if ids[place] not in best)
    return best | set(itertools.islice(others, most - len(best)))


def _score(trial: RecordedTrial) -> float | None:
    known = trial.is_completed and trial.score is not None and math.isfinite(trial.score)
    return trial.score if known else None


class CurveTable:
    """The curves of a project: those of the best trials one by one, of the others where most of them lie.

    Args:
        snapshot: the project.

    Attributes:
        curves: rows of trial, epoch (from 1), value: means over the runs of a trial.
        ends: rows of trial, epoch, value, end: those that were stopped, or are paused.
        others: rows of epoch, low, high: between which nine tenths of the other curves lie.
        best: the best trial of all.
        num_shown: curves that are drawn.
        num_others: those that are not.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        ranked = snapshot.best()
        known = {trial.trial_id for trial in ranked}
        ranked += [trial for trial in snapshot.trials if trial.trial_id not in known]
        self.best = ranked[0].trial_id if ranked else ""
        self.curves: list[Row] = []
        self.ends: list[Row] = []
        self.num_shown = self.num_others = 0
        self._direction = snapshot.direction
        left: dict[int, list[float]] = {}
        for trial in ranked:
            curve = mean_curve(trial, snapshot.objective)
            if not curve:
                continue
            if self.num_shown >= MOST_CURVES:
                self.num_others += 1
                for epoch, value in curve:
                    left.setdefault(epoch, []).append(value)
                continue
            self.num_shown += 1
            # A curve of a thousand epochs has no more to show on a few hundred pixels.
            step = -(-len(curve) // _MOST_POINTS)
            drawn = [*curve[:-1:step], curve[-1]]
            self.curves += [{"trial": trial.trial_id, "epoch": epoch, "value": finite(value)} for epoch, value in drawn]
            self._mark_end(trial, curve[-1])
        step = -(-len(left) // _MOST_POINTS) or 1
        self.others = [self._spread(epoch, left[epoch]) for epoch in sorted(left)[::step]]

    def _mark_end(self, trial: RecordedTrial, end: tuple[int, float]) -> None:
        for why in (Ending.PAUSED, Ending.STOPPED):
            if any(run.ending == why for run in trial.searched):
                self.ends.append({"trial": trial.trial_id, "epoch": end[0], "value": finite(end[1]), "end": str(why)})
                return

    @staticmethod
    def _spread(epoch: int, values: Sequence[float]) -> Row:
        ordered = sorted(values)
        low, high = (ordered[round(share * (len(ordered) - 1))] for share in (0.05, 0.95))
        return {"epoch": epoch, "low": finite(low), "high": finite(high)}

    def domain(self) -> tuple[float, float]:
        """The ends of an axis on which the better half of the curves can be told apart in their second half."""
        by_trial: dict[Cell, list[float]] = {}
        for row in self.curves:
            by_trial.setdefault(row["trial"], []).append(float(row["value"] or 0.0))
        sign = 1 if self._direction == "max" else -1
        ranked = sorted(by_trial.values(), key=lambda curve: -max(sign * value for value in curve))
        late = sorted(value for curve in ranked[: len(ranked) // 2 + 1] for value in curve[len(curve) // 2 :])
        # One epoch that fell out of line must not decide the axis.
        few = len(late) // 20
        kept = late[few:] if sign > 0 else late[: len(late) - few]
        low, high = min(kept), max(kept)
        pad = 0.1 * (high - low) or 0.05 * abs(high) or 1.0
        return (low - 2 * pad, high + pad) if sign > 0 else (low - pad, high + 2 * pad)


def mean_curve(trial: RecordedTrial, metric: str) -> list[tuple[int, float]]:
    """A metric per epoch (from 1), the mean over the trial's runs of the search; epochs without it are left out."""
    sums: dict[int, list[float]] = {}
    for run in trial.searched:
        for epoch, value in enumerate(run.curves.get(metric, ()), 1):
            if value is not None and math.isfinite(value):
                sums.setdefault(epoch, []).append(value)
    return [(epoch, math.fsum(values) / len(values)) for epoch, values in sorted(sums.items())]
