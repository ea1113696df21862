"""A search in pictures, beside its trials (`manyfit.report.charts`): what matters, who is real, where the time went."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

from manyfit.report.chart_rows import Row, finalist_rows, finite
from manyfit.report.snapshot import Snapshot
from manyfit.report.vega import DIGITS, GOOD, INK, OTHER, PICKED, Spec, chart, if_picked, layer, name, number, when
from manyfit.report.words import plain

Chart: TypeAlias = dict[str, object]

_MOST_BARS = 12
_BAR = 24  # pixels of each name
_EFFECT, _CHANCE = "an effect", "no more than by chance"
_MOST_BY_CHANCE = 0.05
_CROSS = "M-1,-1L1,1M1,-1L-1,1"
_PARTS = {
    "build": "#8c6bb1", "compile": "#d9730d", "train": "#2f7ed8", "predict": "#41ab5d", "propose": "#c9a227",
    "store": "#999999", "other": "#cccccc",
}  # fmt: skip


def importance(snapshot: Snapshot) -> Chart | None:
    """How much each hyperparameter decides whether a trial is among the best, with 90 % intervals."""
    from manyfit.report.importance import importances  # NumPy and SciPy, which the other charts do without

    rows: list[Row] = [
        {
            "name": plain(one.name, 40),
            **{each: finite(getattr(one, each)) for each in ("share", "low", "high")},
            "seen": _EFFECT if one.by_chance <= _MOST_BY_CHANCE else _CHANCE,
        }
        for one in importances(snapshot)[:_MOST_BARS]
    ]
    if not rows:
        return None
    colors = {"domain": [_EFFECT, _CHANCE], "range": [GOOD, OTHER]}
    legend = {"orient": "top", "columns": 1}
    seen: Spec = {"field": "seen", "type": "nominal", "title": None, "scale": colors, "legend": legend}
    y = name("name")
    x = number("share", "share of the importance", scale={"domain": [0, 1]}, axis={"format": "%", "tickCount": 5})
    tooltip = [{"field": "name"}, *({"field": each, "format": ".0%"} for each in ("share", "low", "high"))]
    return chart(
        "How much each hyperparameter decides whether a trial is among the best (PED-ANOVA), with 90 % intervals.",
        {"importance": rows},
        [
            layer(
                {"type": "rule", "strokeWidth": 2},
                {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": seen},
            ),
            layer(
                {"type": "point", "filled": True, "size": 80, "opacity": 1},
                {"y": y, "x": x, "color": seen, "tooltip": tooltip},
            ),
        ],
        height=_BAR * len(rows),
    )


def finalists(snapshot: Snapshot) -> Chart | None:
    """Where each finalist's score lies, by all that was run; a cross is what the search said."""
    rows = [row for row in finalist_rows(snapshot) if row["expected"] is not None]
    ends = [end for row in rows for key in ("low", "high", "search", "expected") if isinstance(end := row[key], float)]
    if not ends:
        return None
    pad = 0.04 * (max(ends) - min(ends) or 1.0)
    scale = {"zero": False, "nice": False, "domain": [min(ends) - pad, max(ends) + pad]}
    x = number("expected", plain(snapshot.objective, 40), scale=scale, axis={"tickCount": 7})
    y = name("trial", "trial")
    tips = [{"field": each, **DIGITS} for each in ("expected", "low", "high", "search")]
    tooltip = [{"field": "trial"}, {"field": "standing"}, *tips, {"field": "values"}]
    return chart(
        "Where the score of each finalist lies, trained afresh and on new rows; a cross is what the search said.",
        {"finalists": rows},
        [
            layer(
                {"type": "rule", "strokeWidth": 2},
                {
                    "y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": if_picked(PICKED, INK),
                    "tooltip": tooltip,
                },
                transform=[{"filter": "isValid(datum.low) && isValid(datum.high)"}],
            ),
            layer(
                {"type": "point", "size": 90, "opacity": 1, "strokeWidth": 2},
                {
                    "y": y, "x": x, "fill": when("datum.open", GOOD, "transparent"),
                    "stroke": if_picked(PICKED, GOOD), "tooltip": tooltip,
                },
            ),
            layer(
                {"type": "point", "shape": _CROSS, "size": 90, "strokeWidth": 2, "stroke": PICKED, "opacity": 1},
                {"y": y, "x": {**x, "field": "search"}, "tooltip": tooltip},
                transform=[{"filter": "isValid(datum.search)"}],
            ),
        ],
        height=_BAR * len(rows),
    )  # fmt: skip


def time(snapshot: Snapshot) -> Chart | None:
    """Where the seconds went: of the whole search, and of the programs that took most."""
    rows: list[Row] = [
        {"program": "the search", "part": part, "seconds": finite(spent)} for part, spent in snapshot.time().items()
    ]
    programs = snapshot.time_of_programs()
    # Of one program alone the bar would say again what that of the search says.
    dearest = sorted(programs, key=lambda key: -math.fsum(programs[key].values()))[:_MOST_BARS]
    for key in dearest if len(programs) > 1 else ():
        record = snapshot.programs.get(key, {})
        told = plain(record.get("widths") or record.get("structure") or "program", 22)
        label = f"{told} · {plain(key[:4])}"
        rows += [{"program": label, "part": part, "seconds": finite(spent)} for part, spent in programs[key].items()]
    if not rows:
        return None
    color = {
        "field": "part", "type": "nominal", "title": None, "sort": list(_PARTS),
        "legend": {"orient": "top", "columns": 3},
        "scale": {"domain": list(_PARTS), "range": list(_PARTS.values())},
    }  # fmt: skip
    tooltip = [{"field": "program"}, {"field": "part"}, {"field": "seconds", "format": ".3s"}]
    x = number("seconds", "seconds", stack="zero", axis={"tickCount": 6})
    # Stacked in the order of the legend.
    order = {"field": "part", "type": "nominal", "sort": list(_PARTS)}
    bars = layer({"type": "bar"}, {"y": name("program"), "x": x, "color": color, "order": order, "tooltip": tooltip})
    return chart("Where the seconds went.", {"time": rows}, [bars], height=_BAR * len({row["program"] for row in rows}))


def ensemble(snapshot: Snapshot) -> Chart | None:
    """How much each member of the latest ensemble counts; None where there is none."""
    weights: Mapping[str, float] = (snapshot.ensemble or {}).get("weights") or {}
    rows: list[Row] = [
        {"member": plain(member, 40), "trial": member.split()[-1], "weight": finite(weight)}
        for member, weight in sorted(weights.items(), key=lambda item: -item[1])
    ]
    if not rows:
        return None
    bars = layer(
        {"type": "bar"},
        {
            "y": name("member"),
            "x": number("weight", "weight", axis={"tickCount": 6}),
            "color": if_picked(PICKED, GOOD),
            "tooltip": [{"field": "member"}, {"field": "weight", **DIGITS}],
        },
    )
    return chart("How much each member of the ensemble counts.", {"ensemble": rows}, [bars], height=_BAR * len(rows))


def diversity(snapshot: Snapshot) -> Chart | None:
    """How often two members of the latest ensemble decide differently; None where there are none, or one."""
    facts = (snapshot.ensemble or {}).get("diversity")
    if not facts:
        return None
    members = [plain(member, 40) for member in facts["members"]]
    rows: list[Row] = [
        {"member": one, "other": other, "trial": one.split()[-1], "share": finite(share)}
        for one, shares in zip(members, facts["disagreement"], strict=True)
        for other, share in zip(members, shares, strict=True)
        if one != other
    ]
    told = "How often two members decide differently" if facts["decides"] else "How far two members are apart"
    share = {**DIGITS, "format": ".1%"} if facts["decides"] else DIGITS
    cells = {
        "x": name("other", axis={"labelLimit": 90, "labelAngle": -40}),
        "y": name("member"),
        "color": number("share", scale={"scheme": "blues", "zero": True}, legend=None),
    }
    tooltip = [{"field": "member"}, {"field": "other"}, {"field": "share", **share}]
    dark = 0.6 * max(float(row["share"] or 0) for row in rows)
    marks = [
        layer({"type": "rect"}, {**cells, "tooltip": tooltip}),
        layer(
            {"type": "text", "fontSize": 10},
            {**cells, "text": {"field": "share", **share}, "color": when(f"datum.share > {dark}", "white", "#222222")},
        ),
    ]
    unit = "." if facts["decides"] else ", by their own error."
    return chart(told + unit, {"diversity": rows}, marks, height=_BAR * len(members))
