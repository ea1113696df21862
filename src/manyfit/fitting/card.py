"""What is printed of a winner: what it is, how good with what certainty, where the time went, what ended it.

A card is text and numbers, so that it travels in the file of a model and reads the same in another process.
"""

from __future__ import annotations

import dataclasses
import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.errors import UsageError, explain

_COLUMNS = 100
_FORMAT = 1
_MOST_REASONS = 6  # on the terminal, where a winner is a dozen lines
ENDED_BY = {
    "time": "the time was up",
    "trials": "max_trials was reached",
    "space": "every configuration of the space was tried",
    "schedule": "the scheduler had nothing more to run",
    "failures": "too many trials in a row failed",
    "nothing better": "nothing that was left was expected to make it better",
    "stopped": "the search was told to stop",
    "interrupted": "it was interrupted",
}
"""Why a `fit` ended, and how that is said."""

_STYLE = """
.manyfit-winner { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 64rem; }
.manyfit-winner .lead { font-size: 1.15em; font-weight: 600; margin: 0 0 .4em; }
.manyfit-winner p { margin: .25em 0; max-width: 48rem; }
.manyfit-winner ul { margin: .25em 0; padding-left: 1.2em; max-width: 48rem; }
.manyfit-winner table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: .8em 0 .4em; }
.manyfit-winner td { text-align: left; padding: .15em .8em; border: 0; background: none; white-space: nowrap; }
.manyfit-winner td.number { text-align: right; }
.manyfit-winner .bar { display: inline-block; height: .7em; background: currentColor; opacity: .35; }
.manyfit-winner .note { font-size: .85em; opacity: .7; }
"""
_BAR_WIDTH = 180  # of the longest phase in HTML, in pixels


@dataclasses.dataclass(frozen=True)
class WinnerCard:
    """What is told of a winner.

    Attributes:
        what: what it is, in one sentence.
        quality: how good it is, and how sure that is; the most important sentence first.
        time: seconds of each phase, in order.
        ended_by: one of `ENDED_BY`.
        reasons: what was chosen and why, in the order in which it was.

    Example:

    >>> card = WinnerCard("A model.", ("accuracy 0.91 [0.88, 0.94].",), {"search": 8.0, "confirm": 2.0}, "time")
    >>> print(card.text())
    Winner: A model.
    accuracy 0.91 [0.88, 0.94].
    Time: search 8.0 s (80 %), confirm 2.0 s (20 %); 10.0 s in all. It ended because the time was up.
    """

    what: str
    quality: tuple[str, ...]
    time: Mapping[str, float]
    ended_by: str
    reasons: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ended_by not in ENDED_BY:
            raise UsageError(explain("Winner(ended_by)", self.ended_by, f"one of {', '.join(ENDED_BY)}", "Name one."))

    def text(self) -> str:
        """About a dozen lines of at most 100 columns."""
        shown = self.reasons[:_MOST_REASONS]
        more = len(self.reasons) - len(shown)
        lines = [_wrapped(f"Winner: {self.what}"), *map(_wrapped, self.quality), _wrapped(self._effort())]
        lines += ["Why:"] if shown else []
        lines += [_wrapped(reason, first="- ") for reason in shown]
        lines += [f"- and {more} more: see winner.reasons"] if more else []
        return "\n".join(lines)

    def page(self, further: str = "") -> str:
        """A piece of HTML without scripts; colours are those of the page around it, light or dark.

        Args:
            further: HTML that is shown when it is asked for: the table of the finalists.
        """
        longest = max(self.time.values(), default=0.0) or 1.0
        phases = "".join(
            f'<tr><td>{html.escape(name)}</td><td class="number">{_seconds(spent)}</td><td><span class="bar" '
            f'style="width: {_BAR_WIDTH * spent / longest:.0f}px"></span></td></tr>'
            for name, spent in self.time.items()
        )
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        return (
            f'<div class="manyfit-winner"><style>{_STYLE}</style><p class="lead">{html.escape(self.what)}</p>'
            + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.quality)
            + (f"<ul>{reasons}</ul>" if reasons else "")
            + (f"<table><tbody>{phases}</tbody></table>" if phases else "")
            + f'<p class="note">{html.escape(self._ended())}</p>'
            + (f"<details><summary>The finalists</summary>{further}</details>" if further else "")
            + "</div>"
        )

    def _effort(self) -> str:
        total = sum(self.time.values())
        if not total:
            return self._ended()
        parts = [f"{name} {_seconds(spent)} ({100 * spent / total:.0f} %)" for name, spent in self.time.items()]
        return f"Time: {', '.join(parts)}; {_seconds(total)} in all. {self._ended()}"

    def _ended(self) -> str:
        return f"It ended because {ENDED_BY[self.ended_by]}."

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON."""
        return {"format": _FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WinnerCard:
        """The inverse of `to_dict`.

        Raises:
            UsageError: it was written by a later version.
        """
        if data.get("format") != _FORMAT:
            got, instead = f"format {data.get('format')}", "Update Manyfit."
            raise UsageError(explain("load_winner", got, f"format {_FORMAT}", instead))
        texts = {name: tuple(map(str, data[name])) for name in ("quality", "reasons")}
        time = {str(name): float(spent) for name, spent in data["time"].items()}
        return cls(str(data["what"]), texts["quality"], time, str(data["ended_by"]), texts["reasons"])


def values_in_words(values: Mapping[str, object]) -> str:
    """A configuration in one line.

    Example:

    >>> values_in_words({"units": 64, "learning_rate": 0.00123456})
    'units=64, learning_rate=0.001235'
    """
    shown = {name: f"{value:.4g}" if isinstance(value, float) else str(value) for name, value in values.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def shortened(names: Sequence[str], most: int = 4) -> str:
    """Some names, and how many there are besides.

    Example:

    >>> shortened(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _seconds(spent: float) -> str:
    return f"{spent:.1f} s" if spent < 100 else f"{spent:.0f} s"


def _wrapped(sentence: str, *, first: str = "") -> str:
    return textwrap.fill(
        sentence, _COLUMNS, initial_indent=first, subsequent_indent=" " * len(first), break_on_hyphens=False
    )
