"""Does every printed number keep its word? Searches with known truth, and real oracles on a simulated surface.

    python benchmarks/truth.py              everything: hours
    python benchmarks/truth.py --quick      everything, small: minutes; too few for a verdict
    python benchmarks/truth.py searches     simulated searches: the interval, the words of proof
    python benchmarks/truth.py calls        confirmations that are repeated and killed
    python benchmarks/truth.py oracles      Bayesian optimisation and ASHA on a simulated surface with curves
    python benchmarks/truth.py api          three kinds of simulated searches through the calls that users type
    python benchmarks/truth.py real         real data: intervals on unseen rows, claimed gains, rivals
    python benchmarks/truth.py null         claims of a gain between equal members

    python benchmarks/truth.py --minutes 20 as much of all that is missing as fits, and the tables of what there is

What is drawn is kept in `cache/truth` (calls and oracles apart), and a run that was broken off goes on: the whole proof
is `--minutes 20` again and again, whenever the machine is idle. `--draws 100` says how many of each kind there are to
be; of simulated searches a draw is a hundred of them.

Truth is always that of *fresh seeds and fresh rows*; a simulated truth is known in closed form or by quadrature. What
stands before an arrow is the procedure of c31c64c on the same runs. `±` is the standard error of the simulation.
"""

from __future__ import annotations

import os

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")

import argparse
import dataclasses
import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from simulated_searches import Cell
from truth_calls import sequences
from truth_draws import Draw, Ledger
from truth_measures import Trust, measure, records_of, summary
from truth_oracles import oracles
from truth_procedures import before, now

CHEAP, DEAR = 4000, 1000  # replications where a search has up to 1,000 rows, and above
PIECE = 100  # of them, that are kept as one draw

#: Rows, trials, laws of truths and seeds, both metrics: 30 kinds of searches.
CELLS = (
    *(Cell(truths, trials, rows) for truths in ("normal", "equal") for trials in (5, 50, 200) for rows in (100, 1000)),
    *(Cell(truths, 50, rows) for truths in ("exponential", "three", "terrible") for rows in (100, 1000)),
    Cell("terrible", 200, 1000, "t3"),
    Cell("terrible", 20, 1000, "skew"),
    Cell("normal", 20, 1000, spread=4),
    Cell("normal", 50, 1000, lucky_rows=True),
    Cell("equal", 50, 1000, lucky_rows=True),
    Cell("normal", 50, 1000, metric="accuracy"),
    Cell("equal", 50, 1000, metric="accuracy"),
    Cell("terrible", 50, 100, metric="accuracy"),
    Cell("exponential", 200, 1000, metric="accuracy"),
    Cell("normal", 50, 10_000, "t3"),
    Cell("equal", 50, 10_000, "skew"),
    Cell("three", 50, 10_000),
)
QUICK_CELLS = tuple(cell for cell in CELLS if cell.num_rows == 100 and cell.num_trials <= 50)


def searches(quick: bool) -> None:
    """Simulated searches, one confirmation each: coverage, words of proof, width, bias."""
    cells = QUICK_CELLS if quick else CELLS
    found: dict[Cell, dict[str, Trust]] = {}
    heading = ("search", "covers", "covers a new model", "settled", "search's winner", "wrong words", "false proof")
    print_row((*heading, "width", "bias", "regret", "runs"))
    print_row(["---"] * (len(heading) + 4))
    if not quick:
        make_pieces(cells)
    for cell in cells:
        found[cell] = measure(cell, PROCEDURES, 20, seed=0) if quick else kept(cell)
        if found[cell]:
            print_trust(f"{cell} ({found[cell]['now'].cover.total:,})", found[cell])
    print_verdict([each["now"] for each in found.values() if each])


def make_pieces(cells: Sequence[Cell]) -> None:
    """Makes what is missing, in turn over the kinds of searches, as far as the time allows."""
    wanted = {cell: DRAWS[0] or (CHEAP if cell.num_rows <= 1000 else DEAR) // PIECE for cell in cells}
    for count in range(1, max(wanted.values()) + 1):
        for cell in (cell for cell in cells if count <= wanted[cell]):

            def make(name: str, number: int, cell: Cell = cell) -> Draw:
                return dict(records_of(cell, PROCEDURES, range(number * PIECE, (number + 1) * PIECE), seed=0))

            for _ in ledger_of(cell).fill([str(cell)], count, make):
                pass


def ledger_of(cell: Cell) -> Ledger:
    """Where a kind of searches is kept."""
    return Ledger(FOLDER / "searches" / f"{str(cell).replace(', ', '-').replace(' ', '_')}.jsonl", ENDS[0])


def kept(cell: Cell) -> dict[str, Trust]:
    """Of all searches of a kind that were made; empty where there are none."""
    draws = ledger_of(cell).draws()
    return {name: summary([each for draw in draws for each in draw[name]]) for name in PROCEDURES if draws}


PROCEDURES = {"before": before, "now": now}


def print_trust(name: str, trusts: dict[str, Trust]) -> None:
    """One row: before and now in each cell."""

    def both(text: Callable[[Trust], str]) -> str:
        return " → ".join(text(trust) for trust in trusts.values())

    print_row(
        (
            name,
            both(lambda one: str(one.cover)),
            both(lambda one: str(one.cover_new)),
            both(lambda one: str(one.cover_settled)),
            both(lambda one: str(one.cover_first)),
            both(lambda one: str(one.wrong)),
            both(lambda one: f"{100 * one.false_proofs.value:.1f} of {100 * one.proofs.value:.1f}"),
            both(lambda one: f"{one.width:.2f}"),
            both(lambda one: f"{one.bias:+.2f}"),
            both(lambda one: f"{one.regret:.2f}"),
            both(lambda one: f"{one.executions:.0f}"),
        )
    )


def print_row(cells: Iterable[str]) -> None:
    """One row of a table, as soon as it is known."""
    print("| " + " | ".join(cells) + " |", flush=True)


def print_verdict(trusts: Sequence[Trust]) -> None:
    """What was to be reached, and what was."""
    good = sum(one.cover.value >= 0.93 - 2 * one.cover.error for one in trusts)
    widths = sorted(one.width for one in trusts)
    print(
        f"""
{good} of {len(trusts)} cells cover at least 93 % less two errors (to reach: 9 of 10); the lowest \
{min(one.cover.value for one in trusts):.1%} (90 %).
Wrong words at most {max(one.wrong.value for one in trusts):.1%}, false proofs at most \
{max(one.false_proofs.value for one in trusts):.1%} (5 %).
Width against an oracle's: median {widths[len(widths) // 2]:.2f} (1.5), largest {widths[-1]:.2f} (2.5).
Largest bias {max(abs(one.bias) for one in trusts):.2f} of a run's noise (0.4).
"""
    )


def calls(quick: bool) -> None:
    """Random sequences of calls on one project each."""
    cells = (Cell("equal", 50, 100), Cell("normal", 20, 1000, spread=3), Cell("three", 50, 1000, "t3"))
    print_row(("search", "calls", "contradictions", "sequences with a wrong word", "other after a kill"))
    print_row(["---"] * 5)
    for cell in cells[: 1 if quick else None]:
        found = sequences(cell, 10 if quick else 1000, seed=0)
        said = f" ({'; '.join(found.which)})" if found.which else ""
        print_row(
            (str(cell), str(found.calls), f"{found.contradictions}{said}", str(found.wrong), str(found.interrupted))
        )
    print()


def drawn(name: str, module: str, table: str, usual: int) -> Callable[[bool], None]:
    """A part whose draws are kept; its module is loaded when it is asked for, since it trains models.

    Args:
        name: of the file that keeps them.
        module: that draws.
        table: its function of a ledger and a number.
        usual: draws of each kind.
    """

    def print_table(quick: bool) -> None:
        count = DRAWS[0] or (2 if quick else usual)
        getattr(importlib.import_module(module), table)(Ledger(FOLDER / f"{name}.jsonl", ENDS[0]), count)

    return print_table


FOLDER = Path(__file__).parent / "cache" / "truth"
DRAWS: list[int | None] = [None]  # what the command line says
ENDS: list[float | None] = [None]  # when nothing more is begun


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the tables."""

    title: str
    print_table: Callable[[bool], None]


PARTS = {
    "searches": Part("Simulated searches", searches),
    "calls": Part("Repeated and killed confirmations", calls),
    "oracles": Part("Real oracles on a simulated surface", oracles),
    "api": Part("Simulated searches through tuner.confirm", drawn("api", "truth_api", "through_calls", 300)),
    "real": Part("Real data", drawn("real", "truth_real", "real", 95)),
    "null": Part("Equal members", drawn("null", "truth_null", "null", 500)),
}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help="; ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small: it shows that all runs, not how good it is")
    parser.add_argument("--draws", type=int, help="of each kind, in the parts that keep what they draw")
    parser.add_argument(
        "--minutes", type=float, help="begin nothing after so many; parts that keep nothing are left out"
    )
    options = parser.parse_args()
    conditions.show()
    DRAWS[0] = options.draws
    parts = options.parts or list(PARTS)
    if options.minutes is not None:
        parts = [name for name in parts if name not in ("calls", "oracles")]
    begun = time.monotonic()
    for number, name in enumerate(parts, 1):
        # Each part has its share of the minutes, and what those before it have left.
        ENDS[0] = None if options.minutes is None else begun + 60 * options.minutes * number / len(parts)
        started = time.perf_counter()
        print(f"## {PARTS[name].title}\n", flush=True)
        PARTS[name].print_table(options.quick)
        print(f"{time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
