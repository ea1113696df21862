"""A confirmation for people: as text of 80 columns, as HTML for notebooks, and for a rich terminal."""

from __future__ import annotations

import html
import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from manyfit.report import terminal

if TYPE_CHECKING:
    from manyfit.finish.confirmation import Confirmation, Finalist

_COLUMNS = 80
_FOOTNOTE = "Intervals are of the race's own runs; the race decides by paired differences, which are sharper."
_LEGEND = "Line: interval of the mean. Dot: mean, filled where the trial may be the best. Cross: the search's score."
_PLOT = "plot"  # the column of it
_NUMERIC = {"mean", "best with", "runs", "search said"}
_PLOT_WIDTH = 180  # of an interval in HTML, in pixels
_STYLE = """
.manyfit-confirmation { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 64rem; }
.manyfit-confirmation .lead { font-size: 1.15em; font-weight: 600; margin: 0 0 .4em; }
.manyfit-confirmation p { margin: .25em 0; max-width: 48rem; }
.manyfit-confirmation .scroll { overflow-x: auto; margin: .8em 0 .4em; }
.manyfit-confirmation table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.manyfit-confirmation th { font-weight: 600; opacity: .7; white-space: nowrap; }
.manyfit-confirmation th, .manyfit-confirmation td { text-align: left; padding: .3em .8em; border: 0;
  background: none; white-space: nowrap; }
.manyfit-confirmation thead th, .manyfit-confirmation tr.values td { border-bottom: 1px solid rgba(128, 128, 128, .3); }
.manyfit-confirmation .number { text-align: right; }
.manyfit-confirmation tr.values td { font-size: .85em; padding-top: 0; white-space: normal; }
.manyfit-confirmation caption { text-align: left; opacity: .7; padding: 0 0 .3em .8em; }
.manyfit-confirmation .scale { display: flex; justify-content: space-between; font-weight: 400; }
.manyfit-confirmation tr.dropped td { opacity: .6; }
.manyfit-confirmation tr.first td { font-weight: 600; }
.manyfit-confirmation tr.first.values td { font-weight: 400; }
.manyfit-confirmation svg { display: block; color: inherit; }
.manyfit-confirmation .note { font-size: .85em; opacity: .7; }
"""


class Numbers:
    """Writes scores with as many decimals as their intervals are worth: two digits of a usual half width.

    Args:
        half_widths: of the intervals; infinite ones say nothing.

    Example:

    >>> Numbers([0.0072, 0.0051, 0.02])(0.951), Numbers([])(0.95123)
    ('0.9510', '0.9512')
    """

    def __init__(self, half_widths: Sequence[float]) -> None:
        known = [width for width in half_widths if math.isfinite(width) and width > 0]
        self._decimals = max(0, 1 - math.floor(math.log10(statistics.median(known)))) if known else None

    def __call__(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "-"
        if self._decimals is None or self._decimals > 6 or abs(value) >= 1e6:
            return f"{value:.4g}"
        return f"{value:.{self._decimals}f}"


def numbers_of(found: Confirmation) -> Numbers:
    """How to write the scores of a confirmation."""
    ends = [(row.low, row.high) for row in found.rows]
    if found.proof is not None:
        ends.append((found.proof.low, found.proof.high))
    return Numbers([(high - low) / 2 for low, high in ends])


def table(found: Confirmation) -> list[dict[str, Any]]:
    """One mapping per finalist, its values apart."""
    number = numbers_of(found)
    return [
        {
            "trial": row.trial_id,
            "mean": number(row.score),
            f"{found.confidence:.0%} interval": _interval(row, number),
            "best with": f"{row.probability_best:.0%}",
            "runs": row.num_executions,
            "search said": number(row.search_score),
            "standing": row.standing,
        }
        for row in found.rows
    ]


def values_of(row: Finalist) -> str:
    """The configuration of a finalist in one line."""
    return ", ".join(f"{name}={_short(value)}" for name, value in row.values.items())


def title(found: Confirmation) -> str:
    """What the table is of."""
    return f"Mean {found.objective} on fresh seeds, the same for all"


def text(found: Confirmation) -> str:
    """80 columns, as far as names and numbers allow."""
    paragraphs = ["\n".join(textwrap.wrap(sentence, _COLUMNS)) for sentence in found.sentences()]
    rows = table(found)
    width = max(len(row["trial"]) for row in rows) + 2
    values = [
        textwrap.fill(
            f"{row.trial_id:<{width}}{values_of(row) or 'default configuration'}",
            _COLUMNS,
            subsequent_indent=" " * width,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for row in found.rows
    ]
    footnote = "\n".join(textwrap.wrap(_FOOTNOTE, _COLUMNS))
    listed = terminal.table(rows, list(rows[0]))
    return "\n".join([*paragraphs, "", f"{title(found)}:", "", listed, "", *values, "", footnote])


def page(found: Confirmation) -> str:
    """A piece of HTML without scripts; colours are those of the page around it, light or dark."""
    rows, number = table(found), numbers_of(found)
    lead, *rest = found.sentences()
    axis = _Axis(found.rows)
    head = "".join(
        f"<th{_kind(name)}>{axis.scale(number) if name == _PLOT else html.escape(name)}</th>"
        for name in _in_html(rows[0])
    )
    body = "".join(
        _row(row, {**cells, _PLOT: axis.drawn(row, number)}, is_first=place == 0)
        for place, (row, cells) in enumerate(zip(found.rows, rows, strict=True))
    )
    return (
        f'<div class="manyfit-confirmation"><style>{_STYLE}</style><p class="lead">{html.escape(lead)}</p>'
        + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in rest)
        + f'<div class="scroll"><table><caption>{html.escape(title(found))}</caption><thead><tr>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="note">{_LEGEND}</p><p class="note">{_FOOTNOTE}</p></div>'
    )


def rich(found: Confirmation) -> Any:
    """What `rich.print` shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    rows = table(found)
    shown = Table(title=title(found), title_justify="left", box=None, pad_edge=False)
    for name in rows[0]:
        shown.add_column(name, justify="right" if name in _NUMERIC else "left", no_wrap=True)
    values = []
    for place, (row, finalist) in enumerate(zip(rows, found.rows, strict=True)):
        style = "bold" if place == 0 else "" if finalist.in_winning_set else "dim"
        shown.add_row(*map(str, row.values()), style=style)
        values.append(Text(f"{finalist.trial_id}: {values_of(finalist)}", style=style))
    lead, *rest = map(Text, found.sentences())
    lead.stylize("bold")
    return Group(lead, *rest, "", shown, "", *values)


class _Axis:
    """Scores to pixels: a common scale for the intervals of all finalists."""

    def __init__(self, rows: Sequence[Finalist]) -> None:
        seen = [value for row in rows for value in (row.low, row.high, row.score, row.search_score)]
        known = [value for value in seen if value is not None and math.isfinite(value)]
        self._low, self._high = (min(known), max(known)) if known else (0.0, 1.0)

    def _at(self, value: float) -> str:
        share = 0.5 if self._high == self._low else (value - self._low) / (self._high - self._low)
        return f"{8 + share * (_PLOT_WIDTH - 16):.1f}"

    def scale(self, number: Numbers) -> str:
        """Its two ends, in words."""
        return f'<span class="scale"><span>{number(self._low)}</span><span>{number(self._high)}</span></span>'

    def drawn(self, row: Finalist, number: Numbers) -> str:
        """The interval of a finalist."""
        shapes = []
        if math.isfinite(row.low):
            shapes.append(
                f'<line x1="{self._at(row.low)}" x2="{self._at(row.high)}" y1="10" y2="10" stroke="currentColor" '
                'stroke-width="2"/>'
            )
        if row.search_score is not None and math.isfinite(row.search_score):
            at = float(self._at(row.search_score))
            shapes.append(f'<path d="M{at - 4:.1f} 6l8 8m0 -8l-8 8" stroke="#d9730d" stroke-width="2" fill="none"/>')
        if row.score is not None:
            fill = "currentColor" if row.in_winning_set else "none"
            shapes.append(
                f'<circle cx="{self._at(row.score)}" cy="10" r="4" fill="{fill}" stroke="currentColor" '
                'stroke-width="2"/>'
            )
        label = html.escape(f"trial {row.trial_id}: mean {number(row.score)}, interval {_interval(row, number)}")
        return (
            f'<svg width="{_PLOT_WIDTH}" height="20" role="img" aria-label="{label}"><title>{label}</title>'
            + "".join(shapes)
            + "</svg>"
        )


def _in_html(columns: Iterable[str]) -> list[str]:
    """The columns as HTML shows them: what matters most comes first, for narrow pages."""
    trial, *middle, standing = columns
    return [trial, standing, _PLOT, *middle]


def _kind(column: str) -> str:
    return ' class="number"' if column in _NUMERIC else ""


def _row(row: Finalist, cells: Mapping[str, Any], *, is_first: bool) -> str:
    kind = "first" if is_first else "" if row.in_winning_set else "dropped"
    names = _in_html(name for name in cells if name != _PLOT)
    written = "".join(
        f"<td{_kind(name)}>{cells[name] if name == _PLOT else html.escape(str(cells[name]))}</td>" for name in names
    )
    values = f'<td></td><td colspan="{len(names) - 1}">{html.escape(values_of(row))}</td>'
    return f'<tr class="{kind}">{written}</tr><tr class="{kind} values">{values}</tr>'


def _interval(row: Finalist, number: Numbers) -> str:
    return f"[{number(row.low)}, {number(row.high)}]" if math.isfinite(row.low) else "-"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
