"""Words of Vega-Lite that charts are made of, and how all of them look.

Text and axes are drawn in the colour of the text around them, so that a chart fits light pages, dark ones and paper.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from manyfit.report.chart_rows import Row

Spec: TypeAlias = Mapping[str, object]

INK = "currentColor"
PICKED, GOOD, OTHER, FAILED = "#d9730d", "#2f7ed8", "#999999", "#cc3333"
DIGITS = {"format": ".4~g"}

_SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"  # a name, nobody asks for it
_LABEL_PIXELS = 140
_WIDTH, _HEIGHT = 520, 240


def number(field: str, title: str | None = None, **more: object) -> Spec:
    """A channel for a number."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def name(field: str, title: str | None = None, **more: object) -> Spec:
    """A channel for names, in the order of the rows."""
    label: Spec = {"axis": {"labelLimit": _LABEL_PIXELS}}
    return {"field": field, "type": "nominal", "title": title, "sort": None, **label, **more}


def when(test: str, value: object, otherwise: object) -> Spec:
    """A channel that has one value where a test holds, and else another one."""
    return {"condition": {"test": test, "value": value}, "value": otherwise}


def if_picked(value: object, otherwise: object) -> Spec:
    """A channel that shows which trial is picked."""
    return when("datum.trial === picked", value, otherwise)


def layer(mark: Spec, encoding: Spec, *, data: str | None = None, transform: Sequence[Spec] = ()) -> Spec:
    """Marks of one kind.

    Args:
        mark: what is drawn.
        encoding: where, and how.
        data: the rows' name; None: the chart's.
        transform: of the rows.
    """
    made: dict[str, object] = {"mark": mark, "encoding": encoding}
    if data is not None:
        made["data"] = {"name": data}
    if transform:
        made["transform"] = list(transform)
    return made


def chart(
    told: str,
    datasets: Mapping[str, Sequence[Row]],
    layers: Sequence[Spec],
    *,
    params: Sequence[Spec] = (),
    transform: Sequence[Spec] = (),
    height: int = _HEIGHT,
) -> dict[str, object]:
    """A whole chart.

    Args:
        told: what it shows, for those who do not see it.
        datasets: rows by name; the first ones are those of layers that name none.
        layers: from back to front.
        params: further parameters besides `picked`.
        transform: of the rows of all layers.
        height: in pixels.
    """
    made: dict[str, object] = {
        "$schema": _SCHEMA,
        "description": told,
        "width": _WIDTH,
        "height": height,
        "datasets": {key: list(rows) for key, rows in datasets.items()},
        "data": {"name": next(iter(datasets))},
        "params": [{"name": "picked", "value": ""}, *params],
        "layer": list(layers),
        "config": config(),
    }
    if transform:
        made["transform"] = list(transform)
    return made


def config(ink: str = INK) -> Spec:
    """How charts look.

    Args:
        ink: the colour of text and axes; the default is that of the text around.
    """
    text = {f"{part}Color": ink for part in ("label", "title")} | {f"{part}FontSize": 11 for part in ("label", "title")}
    lines = {f"{part}Color": ink for part in ("grid", "domain", "tick")}
    faint = {"gridOpacity": 0.12, "domainOpacity": 0.3, "tickOpacity": 0.3}
    return {
        "background": None,
        "font": "system-ui, sans-serif",
        "view": {"stroke": None},
        "axis": {**text, **lines, **faint, "titleFontWeight": "normal"},
        "legend": {**text, "symbolStrokeColor": ink},
        "rule": {"color": ink},
    }
