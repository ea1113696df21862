"""The table of finalists for people: as text of 80 columns, as HTML for notebooks, and for a rich terminal.

It is told what to show, sentences and all, and knows nothing of the confirmation that they come from.
"""

from __future__ import annotations

import dataclasses
import html
import math
import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from manyfit.core.records import Value, Values
from manyfit.evidence.estimates import Estimate
from manyfit.report import terminal

_COLUMNS = 80
_FOOTNOTE = (
    "Intervals are for one new training and new rows; the race decides by paired differences, which are sharper."
)
_LEGEND = "Line: interval. Dot: expected score, filled where the trial may be the best. Cross: the search's score."
_PLOT = "plot"  # the column of it
_NUMERIC = {"expected", "best with", "runs", "search said"}
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


@dataclasses.dataclass(frozen=True)
class Finalist:
    """One row of a confirmation. Scores are in the metric's own direction."""

    trial_id: str
    values: Values
    score: float | None  # of a model that is trained afresh, by all runs; None: no run has a score
    low: float | None  # ends of the interval for such a model on new rows; None: nobody knows
    high: float | None
    num_executions: int  # on fresh seeds
    probability_best: float
    search_score: float | None
    in_winning_set: bool
    standing: str  # in words
    cost: float | None  # parameters; seconds where they are unknown
    estimate: Estimate | None = None  # what score and interval come from
    num_failed: int = 0  # of the fresh runs

    def values_in_words(self) -> str:
        """The configuration in one line."""
        return ", ".join(f"{name}={_short(value)}" for name, value in self.values.items())


class Numbers:
    """Writes scores with as many decimals as their intervals are worth: two digits of a usual half width.

    Args:
        half_widths: of the intervals; infinite ones say nothing.

    Example:

    >>> Numbers([0.0072, 0.0051, 0.02])(0.951), Numbers([])(0.95123)
    ('0.9510', '0.9512')
    """

    def __init__(self, half_widths: Sequence[float]) -> None:
        # The median: one finalist with two wild runs must not take the decimals from all others.
        known = [width for width in half_widths if math.isfinite(width) and width > 0]
        self._decimals = max(0, 1 - math.floor(math.log10(statistics.median(known)))) if known else None

    def __call__(self, value: float | None) -> str:
        if value is None or not math.isfinite(value):
            return "-"
        if self._decimals is None or self._decimals > 6 or abs(value) >= 1e6:
            return f"{value:.4g}"
        return f"{value:.{self._decimals}f}"


@dataclasses.dataclass(frozen=True)
class FinalistTable:
    """What is shown of a confirmation.

    Args:
        sentences: the result in words, the most important first.
        title: what the means are of.
        rows: the finalists in the order of the table.
        confidence: of the intervals.
        number: writes scores.
    """

    sentences: Sequence[str]
    title: str
    rows: Sequence[Finalist]
    confidence: float
    number: Numbers

    def cells(self) -> list[dict[str, str | int]]:
        """One mapping per finalist, its values apart."""
        number = self.number
        return [
            {
                "trial": row.trial_id,
                "expected": number(row.score),
                f"{self.confidence:.0%} interval": _interval(row, number),
                "best with": _chance(row.probability_best),
                "runs": row.num_executions,
                "search said": number(row.search_score),
                "standing": row.standing,
            }
            for row in self.rows
        ]

    def text(self) -> str:
        """80 columns, as far as names and numbers allow."""
        paragraphs = ["\n".join(textwrap.wrap(sentence, _COLUMNS)) for sentence in self.sentences]
        cells = self.cells()
        width = max(len(row.trial_id) for row in self.rows) + 2
        # Values stand below the table and not in it: a configuration is as wide as all the other columns together.
        values = [
            textwrap.fill(
                f"{row.trial_id:<{width}}{row.values_in_words() or 'default configuration'}",
                _COLUMNS,
                subsequent_indent=" " * width,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for row in self.rows
        ]
        footnote = "\n".join(textwrap.wrap(_FOOTNOTE, _COLUMNS))
        listed = terminal.table(cells, list(cells[0]))
        return "\n".join([*paragraphs, "", f"{self.title}:", "", listed, "", *values, "", footnote])

    def page(self) -> str:
        """A piece of HTML without scripts; colours are those of the page around it, light or dark."""
        cells = self.cells()
        lead, *rest = self.sentences
        axis = _Axis(self.rows, self.number)
        head = "".join(
            f"<th{_kind(name)}>{axis.scale() if name == _PLOT else html.escape(name)}</th>"
            for name in _in_html(cells[0])
        )
        body = "".join(
            _row(row, {**shown, _PLOT: axis.drawn(row)}, is_first=place == 0)
            for place, (row, shown) in enumerate(zip(self.rows, cells, strict=True))
        )
        return (
            f'<div class="manyfit-confirmation"><style>{_STYLE}</style><p class="lead">{html.escape(lead)}</p>'
            + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in rest)
            + f'<div class="scroll"><table><caption>{html.escape(self.title)}</caption><thead><tr>{head}</tr></thead>'
            f'<tbody>{body}</tbody></table></div><p class="note">{_LEGEND}</p><p class="note">{_FOOTNOTE}</p></div>'
        )

    def rich(self) -> object:
        """What `rich.print` shows; rich is there, since it asks."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        cells = self.cells()
        shown = Table(title=self.title, title_justify="left", box=None, pad_edge=False)
        for name in cells[0]:
            shown.add_column(name, justify="right" if name in _NUMERIC else "left", no_wrap=True)
        values = []
        for place, (row, finalist) in enumerate(zip(cells, self.rows, strict=True)):
            style = "bold" if place == 0 else "" if finalist.in_winning_set else "dim"
            shown.add_row(*map(str, row.values()), style=style)
            values.append(Text(f"{finalist.trial_id}: {finalist.values_in_words()}", style=style))
        lead, *rest = map(Text, self.sentences)
        lead.stylize("bold")
        return Group(lead, *rest, "", shown, "", *values)


class _Axis:
    """Scores to pixels: a common scale for the intervals of all finalists."""

    def __init__(self, rows: Sequence[Finalist], number: Numbers) -> None:
        self._number = number
        # One scale for all rows, the scores of the search included: how far luck had carried them is to be seen.
        seen = [value for row in rows for value in (row.low, row.high, row.score, row.search_score)]
        known = [value for value in seen if value is not None and math.isfinite(value)]
        self._low, self._high = (min(known), max(known)) if known else (0.0, 1.0)

    def _at(self, value: float) -> str:
        share = 0.5 if self._high == self._low else (value - self._low) / (self._high - self._low)
        return f"{8 + share * (_PLOT_WIDTH - 16):.1f}"

    def scale(self) -> str:
        """Its two ends, in words."""
        low, high = self._number(self._low), self._number(self._high)
        return f'<span class="scale"><span>{low}</span><span>{high}</span></span>'

    def drawn(self, row: Finalist) -> str:
        """The interval of a finalist."""
        shapes = []
        if row.low is not None and row.high is not None:
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
        mean, interval = self._number(row.score), _interval(row, self._number)
        label = html.escape(f"trial {row.trial_id}: expected {mean}, interval {interval}")
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


def _row(row: Finalist, cells: Mapping[str, str | int], *, is_first: bool) -> str:
    kind = "first" if is_first else "" if row.in_winning_set else "dropped"
    names = _in_html(name for name in cells if name != _PLOT)
    written = "".join(
        f"<td{_kind(name)}>{cells[name] if name == _PLOT else html.escape(str(cells[name]))}</td>" for name in names
    )
    values = f'<td></td><td colspan="{len(names) - 1}">{html.escape(row.values_in_words())}</td>'
    return f'<tr class="{kind}">{written}</tr><tr class="{kind} values">{values}</tr>'


def _interval(row: Finalist, number: Numbers) -> str:
    return "-" if row.low is None else f"[{number(row.low)}, {number(row.high)}]"


def _chance(probability: float) -> str:
    # A posterior is never sure: 100 % beside a race that goes on would contradict it.
    return ">99%" if probability > 0.995 else "<1%" if probability < 0.005 else f"{probability:.0%}"


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
