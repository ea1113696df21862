"""Draws the picture of docs/explanation/together.md: `python docs/pictures/draw.py`.

Plain SVG, since the picture is a dozen boxes: nothing has to be installed, and the file is the same on every machine. A
test holds the file against what this draws.
"""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

HERE = Path(__file__).resolve().parent
FILE = HERE / "together.svg"
WIDTH, HEIGHT = 820, 400
#: Blue, orange, green (Okabe and Ito 2008): apart for colour-blind eyes, too.
COLOURS = ("#0072b2", "#d55e00", "#009e73")
#: Learning rate, dropout and units of the members of one program.
MEMBERS = (("0.001", "0.2", "32"), ("0.013", "0.0", "48"), ("0.090", "0.4", "64"))


def text(x: float, y: float, words: str, *, size: int = 14, anchor: str = "start", colour: str = "#1f2328") -> str:
    """Words at a place."""
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, *, line: str = "#59636e", fill: str = "#ffffff") -> str:
    """A rectangle with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" fill="{fill}" stroke="{line}" '
        'stroke-width="1.5"/>'
    )


def arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    """A line with a head."""
    return (
        f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="#59636e" stroke-width="1.5" '
        'marker-end="url(#head)"/>'
    )


def trials() -> list[str]:
    """On the left: what the search proposes."""
    parts = [text(20, 30, "one function, other values", size=15)]
    for number, ((rate, dropout, units), colour) in enumerate(zip(MEMBERS, COLOURS, strict=True)):
        top = 48 + 78 * number
        parts += [
            box(20, top, 190, 62, line=colour),
            text(32, top + 22, f"trial {number}", colour=colour),
            text(32, top + 40, f"learning_rate {rate}", size=12),
            text(32, top + 54, f"dropout {dropout}, units {units}", size=12),
            arrow(212, top + 31, 274, 150),
        ]
    return [
        *parts,
        box(20, 302, 190, 62),
        text(32, 324, "trial 3"),
        text(32, 342, "prints in its train_step", size=12),
        arrow(212, 333, 274, 333),
    ]


def program() -> list[str]:
    """In the middle: one compiled program, whose numbers are inputs, and weights with an axis more."""
    parts = [
        text(280, 30, "one program, compiled once", size=15),
        box(280, 48, 280, 218, fill="#f6f8fa"),
        text(292, 72, "weights: 3 × 64 × 64", size=13),
        text(548, 72, "a slice per member", size=11, anchor="end", colour="#59636e"),
    ]
    for number, colour in enumerate(COLOURS):
        x, y = 326 + 30 * number, 92 + 12 * number
        # A member is as wide as its own model; the rest of its slice is zero.
        share = (0.5, 0.75, 1.0)[number]
        parts += [
            box(x, y, 100, 60, line=colour),
            f'<rect x="{x:g}" y="{y:g}" width="{100 * share:g}" height="60" rx="6" fill="{colour}" '
            'fill-opacity="0.25"/>',
        ]
    parts += [
        text(292, 202, "rates, dropout: a number per member", size=12),
        text(292, 222, "units: zeros beyond a member's own", size=12),
        text(292, 242, "rows: read once, used by all", size=12),
        text(280, 316, "model.fit, by itself", size=15),
        text(280, 338, "and one line says why", size=12),
    ]
    return parts


def results() -> list[str]:
    """On the right: each member's own results."""
    parts = [text(630, 30, "each as if alone", size=15)]
    for number, colour in enumerate(COLOURS):
        top = 48 + 78 * number
        curve = " ".join(f"{650 + 19 * step},{top + 50 - (4.5 + 3 * number) * step**0.62:.1f}" for step in range(8))
        parts += [
            arrow(562, 150, 624, top + 31),
            box(630, top, 170, 62, line=colour),
            f'<polyline points="{curve}" fill="none" stroke="{colour}" stroke-width="2"/>',
        ]
    return [
        *parts,
        text(630, 300, "curves, weights, callbacks", size=12),
        text(630, 318, "and random numbers are", size=12),
        text(630, 336, "those of model.fit", size=12),
    ]


def drawn() -> str:
    """The picture as a file."""
    head = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="#59636e"/></marker></defs>'
    )
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="system-ui, sans-serif" role="img">',
        "<title>Three trials become one program with a slice of weights each; a fourth trains by itself</title>",
        head,
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *trials(),
        *program(),
        *results(),
        text(20, 388, "Members that end give their slot to the next trial; nothing is compiled again.", size=13),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Writes the file."""
    FILE.write_text(drawn(), encoding="utf-8")


if __name__ == "__main__":
    main()
