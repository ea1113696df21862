"""Does every printed number keep its word? Searches with known truth, and real oracles on a simulated surface.

    python benchmarks/truth.py              everything: hours
    python benchmarks/truth.py --quick      everything, small: minutes; too few for a verdict
    python benchmarks/truth.py searches     simulated searches: the interval, the words of proof
    python benchmarks/truth.py calls        confirmations that are repeated and killed
    python benchmarks/truth.py oracles      Bayesian optimisation and ASHA on a simulated surface with curves
    python benchmarks/truth.py api          three kinds of simulated searches through the calls that users type
    python benchmarks/truth.py real         real data: intervals on unseen rows, claimed gains, rivals
    python benchmarks/truth.py null         claims of a gain between equal members

The last three take seconds a draw. `--draws 100` says how many of each kind there are to be; what was drawn is kept in
`cache/truth`, and a run that was broken off goes on.

Truth is always that of *fresh seeds and fresh rows*; a simulated truth is known in closed form or by quadrature. What
stands before an arrow is the procedure of c31c64c on the same runs. `±` is the standard error of the simulation.
"""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import argparse
import dataclasses
import importlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from simulated_searches import Cell
from truth_calls import sequences
from truth_draws import Ledger
from truth_measures import Trust, measure
from truth_oracles import oracles
from truth_procedures import before, now

CHEAP, DEAR = 4000, 1000  # replications where a search has up to 1,000 rows, and above

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
    for cell in cells:
        replications = 20 if quick else CHEAP if cell.num_rows <= 1000 else DEAR
        found[cell] = measure(cell, {"before": before, "now": now}, replications, seed=0)
        print_trust(str(cell), found[cell])
    print_verdict([each["now"] for each in found.values()])


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
        folder = Path(__file__).parent / "cache" / "truth"
        count = DRAWS[0] or (2 if quick else usual)
        getattr(importlib.import_module(module), table)(Ledger(folder / f"{name}.jsonl"), count)

    return print_table


DRAWS: list[int | None] = [None]  # what the command line says


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
    "real": Part("Real data", drawn("real", "truth_real", "real", 100)),
    "null": Part("Equal members", drawn("null", "truth_null", "null", 500)),
}


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help="; ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small: it shows that all runs, not how good it is")
    parser.add_argument("--draws", type=int, help="of each kind, in the parts that keep what they draw")
    options = parser.parse_args()
    DRAWS[0] = options.draws
    for name in options.parts or PARTS:
        started = time.perf_counter()
        print(f"## {PARTS[name].title}\n", flush=True)
        PARTS[name].print_table(options.quick)
        print(f"{time.perf_counter() - started:.0f} s\n", flush=True)


if __name__ == "__main__":
    main()
