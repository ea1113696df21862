"""Trials in pictures: pure functions from a snapshot to Vega-Lite, which browsers, notebooks and editors draw.

Each chart stands for itself, with its rows in `datasets`; charts that show the same rows share their name, so that a
page writes them once. In every chart a mark of a trial has its id as `trial`, and the parameter `picked` says which
trial is drawn large: a page sets it in all charts when a trial is clicked on. What is not about single trials is in
`manyfit.report.bars`. None is answered where there is nothing to draw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, TypeAlias

from manyfit.report.chart_rows import (
    CurveTable,
    Row,
    axis_names,
    best_half,
    finite,
    objective_names,
    trial_rows,
    winners_band,
)
from manyfit.report.ranges import SearchedRange, searched_ranges
from manyfit.report.snapshot import Snapshot
from manyfit.report.vega import DIGITS, FAILED, GOOD, INK, OTHER, PICKED, Spec, chart, if_picked, layer, name, number
from manyfit.report.words import plain, values

Chart: TypeAlias = dict[str, object]

_MOST_POINTS = 2000  # in one chart; with more the best half of that and an even sample of the others are drawn
_MOST_IN_SLICES, _MOST_IN_SURFACE = 600, 1000
_MOST_IN_TOOLTIP = 12
_GRID = 24  # of the contour, each way
_PICKED, _LEADS, _RIVAL = (
    "datum.trial === picked",
    "datum.standing === 'leads'",
    "datum.standing === 'may be as good'",
)


def history(snapshot: Snapshot, over: str = "trials") -> Chart | None:
    """Each trial's score in the order of trials, the best so far, and where the winner's score lies.

    The axis is that of the better half: the others lie at its edge, and what failed below.

    Args:
        snapshot: the project.
        over: "trials", "seconds" or "epochs"; can be switched where scripts run.
    """
    rows = trial_rows(snapshot, _MOST_POINTS)
    if not any(row["score"] is not None for row in rows):
        return None
    at = "over === 'seconds' ? datum.seconds : over === 'epochs' ? datum.epochs : datum.number"
    x = number(
        "at",
        scale={"zero": False, "nice": False},
        axis={"tickMinStep": 1, "grid": False, "format": "~s", "tickCount": 8},
    )
    y = _score_axis(snapshot)
    tooltip = _tooltip(snapshot)
    # The winner's score is an interval, so the picture is not decided by which point happens to be highest.
    layers = [
        layer({"type": "rect", "fill": GOOD, "opacity": 0.14, "clip": True}, _across(y), data="band"),
        layer(
            {"type": "line", "interpolate": "step-after", "strokeWidth": 1.5, "color": GOOD, "clip": True},
            {"x": x, "y": {**y, "field": "best"}},
            transform=[{"filter": "isValid(datum.best)"}],
        ),
        layer(
            {"type": "point", "filled": True},
            {"x": x, "y": y, **_standing(), "tooltip": tooltip},
            transform=[{"filter": "isValid(datum.score)"}],
        ),
        layer(
            {"type": "tick", "thickness": 2, "size": 10, "orient": "vertical", "yOffset": -6},
            {"x": x, "y": {"value": {"expr": "height"}}, "color": if_picked(PICKED, FAILED), "tooltip": tooltip},
            transform=[{"filter": "!isValid(datum.score) && datum.state !== 'running'"}],
        ),
    ]
    bind = {"input": "radio", "options": ["trials", "seconds", "epochs"], "name": "over"}
    return chart(
        "The score of each trial in their order; the line is the best so far, the band where the winner's score lies.",
        {"trials": rows, "band": winners_band(snapshot)},
        layers,
        params=[{"name": "over", "value": over, "bind": bind}],
        transform=[{"calculate": at, "as": "at"}],
    )


def curves(snapshot: Snapshot) -> Chart | None:
    """Curves of the best 200 trials, where nine tenths of the others lie, and which were stopped or paused."""
    table = CurveTable(snapshot)
    if not table.curves:
        return None
    x = number("epoch", "epoch", scale={"zero": False, "nice": False}, axis={"tickMinStep": 1, "grid": False})
    y = number("value", plain(snapshot.objective, 40), scale={"domain": list(table.domain()), "zero": False})
    marks = {
        "x": x, "y": y,
        "shape": {
            "field": "end", "type": "nominal", "title": None, "legend": {"orient": "top"} if table.ends else None,
            "scale": {"domain": ["stopped", "paused"], "range": ["cross", "diamond"]},
        },
        "color": if_picked(PICKED, INK), "tooltip": [{"field": "trial"}, {"field": "end"}, {"field": "epoch"}],
    }  # fmt: skip
    one = {"x": x, "y": y, "detail": {"field": "trial"}, "tooltip": {"field": "trial"}}
    bold = {"type": "line", "strokeWidth": 2.5, "clip": True}
    # Written as JSON, since an id may hold what ends a text in an expression.
    best = {"filter": f"datum.trial === {json.dumps(table.best)}"}
    told = f"Curves of the best {table.num_shown} trials, each the mean of its runs"
    told += f"; the area holds nine tenths of the other {table.num_others}." if table.num_others else "."
    return chart(
        told,
        {"curves": table.curves, "others": table.others, "ends": table.ends},
        [
            layer(
                {"type": "area", "opacity": 0.15, "color": INK, "clip": True},
                {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
                data="others",
            ),
            layer({"type": "line", "clip": True, "strokeWidth": 1, "opacity": 0.3, "color": INK}, one),
            layer({**bold, "color": GOOD}, one, transform=[best]),
            layer({**bold, "color": PICKED}, one, transform=[{"filter": _PICKED}]),
            layer({"type": "point", "size": 30, "clip": True, "strokeWidth": 1.5}, marks, data="ends"),
        ],
    )


def slice_of(snapshot: Snapshot, hyperparameter: str) -> Chart | None:
    """Scores over one hyperparameter; None where all trials have the same value of it.

    Args:
        snapshot: the project.
        hyperparameter: its name.
    """
    searched = {each.name: each for each in searched_ranges(snapshot)}.get(hyperparameter)
    rows = trial_rows(snapshot, _MOST_IN_SLICES)
    if searched is None or not any(row["score"] is not None for row in rows):
        return None
    field = axis_names(snapshot)[hyperparameter]
    encoding = {
        "x": _axis_of(searched, field), "y": _score_axis(snapshot), **_standing(), "tooltip": _tooltip(snapshot),
    }  # fmt: skip
    if not searched.is_number:  # side by side, so that equal scores are seen
        encoding["xOffset"] = number("jitter", scale={"domain": [-0.6, 1.6]})
    return chart(
        f"Scores over {plain(hyperparameter)}.",
        {"slices": rows},
        [layer({"type": "point", "filled": True}, encoding)],
        transform=[
            {"filter": f"isValid(datum.score) && isValid(datum.{field})"},
            {"calculate": "datum.number * 0.618034 % 1", "as": "jitter"},
        ],
        height=170,
    )


def slices(snapshot: Snapshot, names: Sequence[str] | None = None) -> dict[str, Chart]:
    """A slice for each hyperparameter.

    Args:
        snapshot: the project.
        names: of the hyperparameters; None: all in which trials differ.
    """
    names = [each.name for each in searched_ranges(snapshot)] if names is None else names
    drawn = {each: slice_of(snapshot, each) for each in names}
    return {each: made for each, made in drawn.items() if made is not None}


def contour(snapshot: Snapshot, first: str | None = None, second: str | None = None) -> Chart | None:
    """Scores over two hyperparameters: a smoothed surface where there are trials near, and the trials themselves.

    Args:
        snapshot: the project.
        first: a hyperparameter whose values lie on a scale; None: the first one. So for the other.
        second: another one.
    """
    known = {each.name: each for each in searched_ranges(snapshot) if each.is_number}
    free = [each for each in known if each not in (first, second)]
    first = free.pop(0) if first is None and free else first
    second = free.pop(0) if second is None and free else second
    across, up = known.get(first or ""), known.get(second or "")
    if across is None or up is None or across is up:
        return None
    rows = trial_rows(snapshot, _MOST_IN_SLICES)
    fields = axis_names(snapshot)
    left, below = fields[across.name], fields[up.name]
    # Computed here: Vega would smooth in the page, of thousands of trials, each time that one is picked.
    even = trial_rows(snapshot, _MOST_IN_SURFACE, best_too=False)
    surface = _surface(even, (left, below), (across, up), best_half(snapshot), snapshot.direction)
    if not surface:
        return None
    x, y = _axis_of(across, left, grid=False), _axis_of(up, below, grid=False)
    scale = {
        "scheme": "viridis", "reverse": snapshot.direction == "min", "zero": False,
        "domain": list(best_half(snapshot)), "clamp": True,
    }  # fmt: skip
    cells = {
        "x": {**x, "field": "left"}, "x2": {"field": "right"}, "y": {**y, "field": "bottom"}, "y2": {"field": "top"},
        "color": number("score", plain(snapshot.objective, 20), scale=scale),
        "stroke": number("score", scale=scale, legend=None),  # else the page shines through between cells
    }  # fmt: skip
    there = " && ".join(f"isValid(datum.{each})" for each in ("score", left, below))
    told = f"Scores over {plain(first)} and {plain(second)}, smoothed over the trials around"
    return chart(
        f"{told}; blank where there are none.",
        {"slices": rows, "surface": surface},
        [
            layer({"type": "rect", "clip": True}, cells, data="surface"),
            layer(
                {"type": "point", "filled": True, "stroke": "white", "strokeWidth": 0.7},
                {"x": x, "y": y, **_standing("#222222"), "tooltip": _tooltip(snapshot)},
                transform=[{"filter": there}],
            ),
        ],
        height=260,
    )


def pareto(snapshot: Snapshot) -> Chart | None:
    """The first two of several objectives, with those trials marked that no other one beats in all; None of one."""
    names = objective_names(snapshot)
    rows: list[Row] = []
    losses: list[list[float]] = []
    for trial in snapshot.trials if len(names) > 1 else ():
        at = [finite(trial.metrics.get(each)) for each, _ in names]
        known = [one for one in at if one is not None]
        if trial.is_completed and len(known) == len(names):
            fields: Row = {f"o{place}": one for place, one in enumerate(known)}
            rows.append({"trial": trial.trial_id, "values": values(trial.values), **fields})
            losses.append([-one if way == "max" else one for one, (_, way) in zip(known, names, strict=True)])
    if not rows:
        return None
    for row, loss in zip(rows, losses, strict=True):
        beaten = any(other != loss and all(a <= b for a, b in zip(other, loss, strict=True)) for other in losses)
        row["front"] = not beaten
    x, y = (
        number(f"o{place}", f"{plain(each, 30)} ({way})", scale={"zero": False})
        for place, (each, way) in enumerate(names[:2])
    )
    tips = [{"field": f"o{place}", "title": plain(each, 30), **DIGITS} for place, (each, _) in enumerate(names)]
    front = {"test": "datum.front", "value": GOOD}
    points = {
        "x": x, "y": y, "size": if_picked(200, 45),
        "color": {"condition": [{"test": _PICKED, "value": PICKED}, front], "value": OTHER},
        "tooltip": [{"field": "trial"}, *tips, {"field": "values"}],
    }  # fmt: skip
    order = {"field": "o0", "type": "quantitative"}
    return chart(
        "The objectives of each trial; the line joins those that no other trial beats in all.",
        {"pareto": rows},
        [
            layer(
                {"type": "line", "color": GOOD, "strokeWidth": 1.5},
                {"x": x, "y": y, "order": order},
                transform=[{"filter": "datum.front"}],
            ),
            layer({"type": "point", "filled": True}, points),
        ],
    )


# Parts ------------------------------------------------------------------------------------------------------------


def _score_axis(snapshot: Snapshot) -> Spec:
    # Clamped and not cut off: a trial that is far worse stays to be seen, at the edge, and can be clicked on.
    scale = {"domain": list(best_half(snapshot)), "clamp": True, "zero": False, "nice": False}
    return number("score", plain(snapshot.objective, 30), scale=scale, axis={"tickCount": 6})


def _across(y: Spec) -> Spec:
    return {"y": {**y, "field": "low"}, "y2": {"field": "high"}}


def _standing(others: str = INK) -> dict[str, Spec]:
    """How a trial is drawn: picked, leading, as good as that one perhaps, or another one."""
    good = f"{_LEADS} || {_RIVAL}"
    return {
        "size": {"condition": [{"test": _PICKED, "value": 220}, {"test": _LEADS, "value": 110}], "value": 32},
        "color": {"condition": [{"test": _PICKED, "value": PICKED}, {"test": good, "value": GOOD}], "value": others},
        "opacity": {"condition": {"test": f"{_PICKED} || {good}", "value": 0.95}, "value": 0.35},
    }


def _tooltip(snapshot: Snapshot) -> Any:
    shown = [{"field": "trial"}, {"field": "score", "title": plain(snapshot.objective, 30), **DIGITS}]
    shown += [
        {"field": field, "title": plain(each, 30)}
        for each, field in list(axis_names(snapshot).items())[:_MOST_IN_TOOLTIP]
    ]
    return [*shown, {"field": "state"}]


def _axis_of(searched: SearchedRange, field: str, *, grid: bool = True) -> Spec:
    title = plain(searched.name, 40)
    if not searched.is_number:
        slanted = {"labelAngle": -30 if len(searched.choices) > 4 else 0, "labelLimit": 90}
        return name(field, title, sort=list(searched.choices), axis=slanted)
    kind: Spec = {"type": "log"} if searched.is_log else {"zero": False}
    scale = {**kind, "domain": [searched.low, searched.high], "nice": False, "padding": 6}
    axis = {"format": ".4~g", "tickCount": 4, "labelOverlap": "greedy", "grid": grid}
    return number(field, title, scale=scale, axis=axis)


def _surface(
    rows: Sequence[Row],
    fields: tuple[str, str],
    ranges: tuple[SearchedRange, SearchedRange],
    ends: tuple[float, float],
    direction: str,
) -> list[Row]:
    """A grid of means over the trials around, weighted by their distance; without cells that have no trial near."""
    known: list[tuple[float, float, float]] = []
    for row in rows:
        across, up, score = (row.get(each) for each in (*fields, "score"))
        if isinstance(across, float) and isinstance(up, float) and isinstance(score, float):
            known.append((ranges[0].share(across), ranges[1].share(up), score))
    if len(known) < 6:
        return []
    # What is terrible must not colour all around it: scores are cut off where the colours end.
    cut, worst = (max, ends[0]) if direction == "max" else (min, ends[1])
    narrow = 1 / (2 * (0.25 * len(known) ** (-1 / 6)) ** 2)  # of Scott's rule for two dimensions, half as wide
    cells: list[Row] = []
    for i in range(_GRID):
        for j in range(_GRID):
            x, y = (i + 0.5) / _GRID, (j + 0.5) / _GRID
            weights = [math.exp(-((a - x) ** 2 + (b - y) ** 2) * narrow) for a, b, _ in known]
            total = math.fsum(weights)
            if total < 0.5:
                continue
            score = math.fsum(w * cut(one, worst) for w, (*_, one) in zip(weights, known, strict=True)) / total
            left, right = (finite(ranges[0].at(place / _GRID)) for place in (i, i + 1))
            bottom, top = (finite(ranges[1].at(place / _GRID)) for place in (j, j + 1))
            cells.append({"left": left, "right": right, "bottom": bottom, "top": top, "score": finite(score)})
    return cells
