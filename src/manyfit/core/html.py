"""Pieces of HTML for notebooks: sentences first, tables after, in the colours of the page around, light or dark.

Texts are escaped here and nowhere else. Only a table that can be sorted has a script, and it is whole without that.
"""

from __future__ import annotations

import html
import secrets
from collections.abc import Iterable, Mapping, Sequence

MOST_ROWS = 200  # of a table in a notebook
_STYLE = """
.manyfit { font-family: system-ui, sans-serif; line-height: 1.45; max-width: 64rem; }
.manyfit .lead { font-size: 1.15em; font-weight: 600; margin: 0 0 .4em; }
.manyfit p { margin: .25em 0; max-width: 48rem; overflow-wrap: anywhere; }
.manyfit .scroll { overflow: auto; max-height: 26rem; margin: .8em 0 .4em; }
.manyfit table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.manyfit th { font-weight: 600; opacity: .7; }
.manyfit th, .manyfit td { text-align: left; padding: .2em .8em; border: 0; background: none; white-space: nowrap; }
.manyfit th button { all: unset; cursor: pointer; }
.manyfit th button:focus-visible { outline: 2px solid; }
.manyfit tbody tr { border-top: 1px solid rgba(128, 128, 128, .3); }
.manyfit .number { text-align: right; }
.manyfit .note { font-size: .85em; opacity: .7; }
.manyfit .bar { display: inline-block; height: .7em; background: currentColor; opacity: .35; }
"""
# Finds its table by an id of its own: notebooks run scripts of an output wherever they put them.
_SORTING = """
(() => { const table = document.getElementById("ID"); if (!table) return;
table.tHead.addEventListener("click", (event) => { const head = event.target.closest("th"); if (!head) return;
const place = [...head.parentNode.children].indexOf(head), up = head.getAttribute("aria-sort") !== "ascending";
for (const one of head.parentNode.children) one.removeAttribute("aria-sort");
head.setAttribute("aria-sort", up ? "ascending" : "descending");
const key = (row) => row.children[place].textContent, sign = up ? 1 : -1;
table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => { const x = Number(key(a)), y = Number(key(b));
return sign * (key(a) && key(b) && !isNaN(x) && !isNaN(y) ? x - y : (key(a) === "") - (key(b) === "")
|| key(a).localeCompare(key(b))); })); }); })();
"""


def piece(sentences: Sequence[str], body: str, notes: Iterable[str] = ()) -> str:
    """Sentences, a table, and notes.

    Args:
        sentences: texts, the most important first.
        body: HTML.
        notes: texts in small letters.
    """
    lead, *rest = sentences
    return (
        f'<div class="manyfit"><style>{_STYLE}</style><p class="lead">{html.escape(lead)}</p>'
        + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in rest)
        + body
        + "".join(f'<p class="note">{html.escape(note)}</p>' for note in notes)
        + "</div>"
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Iterable[int] = (), sortable: bool = False
) -> str:
    """A table of texts.

    Args:
        heads: of the columns.
        rows: a text per column.
        numeric: the columns of numbers, which stand to the right.
        sortable: whether a click on a heading sorts.
    """
    right = dict.fromkeys(numeric, ' class="number"')
    shown = [f'<button type="button">{html.escape(head)}</button>' if sortable else html.escape(head) for head in heads]
    head = "".join(f"<th{right.get(place, '')}>{one}</th>" for place, one in enumerate(shown))
    body = "".join(
        "<tr>" + "".join(f"<td{right.get(at, '')}>{html.escape(cell)}</td>" for at, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    # Drawn, and not counted: outputs of several processes stand on one page of a notebook.
    name = f"manyfit-{secrets.token_hex(4)}" if sortable else ""
    script = f"<script>{_SORTING.replace('ID', name)}</script>" if sortable else ""
    named = f' id="{name}"' if sortable else ""
    return (
        f'<div class="scroll"><table{named}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{script}'
    )


def bars(amounts: Mapping[str, float]) -> str:
    """A table of names and amounts, the largest first, with a bar for each."""
    most = max(amounts.values(), default=0.0) or 1.0
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="number">{amount:.3f}</td>'
        f'<td><span class="bar" style="width: {180 * max(0.0, amount) / most:.0f}px"></span></td></tr>'
        for name, amount in sorted(amounts.items(), key=lambda item: -item[1])[:MOST_ROWS]
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def cell(value: object, most: int = 60) -> str:
    """A value in a table: three digits of a number, the beginning of a text, nothing for None.

    Example:

    >>> cell(0.0025342859), cell(None), cell("x" * 9, 4), cell(3)
    ('0.00253', '', 'xxx…', '3')
    """
    if value is None:
        return ""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else text[: most - 1] + "…"
