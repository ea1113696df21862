"""What a GPU makes of a search: one table, in six minutes at most.

    python benchmarks/gpu.py                      # needs an accelerator; on a CPU it runs, and proves nothing
    python benchmarks/gpu.py --minutes 2 --rows A G1

Rows A and G1 to G5 are whole searches against KerasTuner on Keras's JAX backend (`structures.py` says how; further
backends with `--python`), with few trials: `--trials` of Manyfit's, and of the rival's what fits into `--seconds-of-
rival`, scaled. Below them, on a drawn table of 10,000 rows and 100 columns:

* so many members of one structure side by side: how many times as fast per member as one alone;
* members of widths from 32 to 512 units, against as many of 512 units each: programs, and seconds per member and epoch;
* mixed precision: an epoch of a network of 2 x 1,024 units against float32's;
* how many members train at once where nobody says so: the sizes that were tried, in order, and which is left;
* memory that runs out: models of which 32 need twice the memory there is, all trained all the same.

Each line is a process of its own, with an empty cache for compiled programs; what is not reached in time is said.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import measured
import structures
import typical_spaces as spaces
from keras import layers
from typical_spaces import Space

WAYS_TO_COUNT = (1, 8, 32, 128)
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
COLUMNS = 100
PATIENCE = 45.0  # most seconds of one process
NUM_TOO_MANY, SHARE_OF_MEMORY = 32, "0.03"  # members that need twice of this share of the device's memory


# -- in a process of its own ----------------------------------------------------------------------------------------


def data() -> Callable[[], spaces.Split]:
    """The table of all parts."""
    return spaces.table(rows=10_000, columns=COLUMNS, held_out=1000)


def network(*units: int) -> Callable[[Any], keras.Model]:
    """A build function: dense layers of these widths, a learning rate."""

    def build(hp: Any) -> keras.Model:
        parts = [layers.Dense(width, activation="relu") for width in units]
        model = keras.Sequential([layers.Input((COLUMNS,)), *parts, layers.Dense(2, activation="softmax")])
        return spaces.compiled(model, spaces.adam(hp))

    return build


def widths(hp: Any) -> keras.Model:
    """Two layers of 32 to 512 units each."""
    return network(*[hp.Int(f"units_{number}", 32, 512, step=32) for number in range(2)])(hp)


def run(build: Callable[[Any], keras.Model], trials: int, epochs: int, **options: Any) -> tuple[measured.Cost, Any]:
    """A search on the table, in large batches."""
    space = Space(build, data(), epochs, batch_size=256)
    return measured.of_manyfit(space, trials, measured.arguments(space, space.data(), None), **options)


def seconds_of(tuner: Any) -> float:
    """Seconds per member and epoch, of all programs of a search together."""
    records = tuner.programs().records
    times = [(record.members, min(record.epoch_seconds.values())) for record in records if record.epoch_seconds]
    return sum(count * seconds for count, seconds in times) / sum(count for count, _ in times)


def device() -> dict[str, Any]:
    """What there is to compute on."""
    import jax

    return {"device": jax.devices()[0].device_kind, "jax": jax.__version__}


def members(count: int) -> dict[str, Any]:
    """So many members of one structure at once."""
    cost, tuner = run(network(128, 64), count, 4, population_size=count)
    (record,) = tuner.programs().records
    return {"seconds": cost.seconds, "cpu": cost.cpu, "each": seconds_of(tuner), "layout": record.layout}


def mixed_widths(count: int, widest: bool) -> dict[str, Any]:
    """So many members of drawn widths, or all of the widest."""
    cost, tuner = run(network(512, 512) if widest else widths, count, 4, population_size=count)
    return {
        "seconds": cost.seconds, "cpu": cost.cpu, "each": seconds_of(tuner), "programs": len(tuner.programs().records),
    }  # fmt: skip


def precision(policy: str) -> dict[str, Any]:
    """Wide models in one of Keras's policies."""
    keras.config.set_dtype_policy(policy)
    try:
        cost, tuner = run(network(1024, 1024), 4, 4, population_size=4)
    finally:
        keras.config.set_dtype_policy("float32")
    best = tuner.oracle.get_best_trials(1)[0].score
    return {"seconds": cost.seconds, "cpu": cost.cpu, "each": seconds_of(tuner), "best": best}


@contextlib.contextmanager
def sizes_watched() -> Iterator[list[tuple[int, float]]]:
    """The sizes of a population that were timed, and seconds of an epoch of all members."""
    from manyfit.training.population.sizing import Sizing

    seen: list[tuple[int, float]] = []
    honest = Sizing.record

    def record(self: Any, program: str, count: int, seconds: float, *more: Any, **named: Any) -> None:
        seen.append((count, seconds))
        honest(self, program, count, seconds, *more, **named)

    Sizing.record = record  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        Sizing.record = honest  # type: ignore[method-assign]


def sizing(trials: int) -> dict[str, Any]:
    """A search that finds out by itself how many members train at once."""
    with sizes_watched() as seen:
        cost, _ = run(network(128, 64), trials, 4)
    best: dict[int, float] = {}
    for count, seconds in seen:
        best[count] = min(seconds, best.get(count, seconds))
    return {"seconds": cost.seconds, "cpu": cost.cpu, "sizes": list(best.items()), "last": seen[-1][0]}


def out_of_memory() -> dict[str, Any]:
    """A search whose members need twice the memory that the device has; on a CPU they are small, and fit."""
    from manyfit.training.population.sizing import free_bytes

    on_cpu = device()["device"] == "cpu"
    # Weights, Adam's two slots and gradients, of four bytes each.
    parameters = 64**2 if on_cpu else 2 * free_bytes() / NUM_TOO_MANY / 16
    units = max(64, int((parameters / 2) ** 0.5))
    trials = 2 if on_cpu else NUM_TOO_MANY
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        cost, _ = run(network(units, units, units), trials, 2, population_size=trials)
    lines = [line.strip() for line in told.getvalue().splitlines() if "out of memory" in line]
    return {"seconds": cost.seconds, "cpu": cost.cpu, "units": units, "trials": trials, "told": lines}


QUESTIONS = {one.__name__: one for one in (device, members, mixed_widths, precision, sizing, out_of_memory)}


# -- the table ------------------------------------------------------------------------------------------------------


class Asked(Protocol):
    """Who measures: `structures.Children`, or the running process in a test."""

    def ask(self, question: str, on: str = "jax", **what: Any) -> dict[str, Any]: ...


class Parts:
    """The lines below the searches.

    Args:
        children: who measures.
        with_little: who measures on a small share of the device's memory.
        counts: of members side by side.
        widths: members of different widths.
        trials: of the search that chooses its size.
    """

    def __init__(
        self,
        children: Asked,
        with_little: Asked,
        counts: Sequence[int] = WAYS_TO_COUNT,
        widths: int = 32,
        trials: int = 256,
    ) -> None:
        self._ask, self._ask_with_little = children.ask, with_little.ask
        self._counts, self._widths, self._trials = counts, widths, trials

    def lines(self) -> Iterator[list[str]]:
        """All of them; one whose process failed says so."""
        for part in (self.members, self.mixed_widths, self.precision, self.sizing, self.out_of_memory):
            yield from part()

    def members(self) -> Iterator[list[str]]:
        """Members against seconds."""
        alone = None
        for count in self._counts:
            found = self._ask("members", count=count)
            row = f"{count} members of one structure"
            if "error" in found:
                yield [row, found["error"]]
                continue
            alone = alone or found["each"]
            beside = f"{found['layout']}; an epoch of all {count * found['each']:.3f} s"
            yield self._line(row, found, "1", beside, alone, alone / found["each"], ">= 1")

    def mixed_widths(self) -> Iterator[list[str]]:
        """Members of all widths under one roof."""
        row = f"{self._widths} members of widths 32 to 512"
        mixed, wide = (self._ask("mixed_widths", count=self._widths, widest=widest) for widest in (False, True))
        if errors := [found["error"] for found in (mixed, wide) if "error" in found]:
            yield [row, errors[0]]
            return
        beside = f"all of 512: {wide['seconds']:.1f} s"
        yield self._line(row, mixed, str(mixed["programs"]), beside, wide["each"], wide["each"] / mixed["each"], "")

    def precision(self) -> Iterator[list[str]]:
        """Keras's policies."""
        full = None
        for policy in POLICIES:
            found = self._ask("precision", policy=policy)
            if "error" in found:
                yield [policy, found["error"]]
                continue
            full = full or found["each"]
            yield self._line(policy, found, "", f"best loss {found['best']:.4f}", full, full / found["each"], "")

    def sizing(self) -> Iterator[list[str]]:
        """How many members a search takes by itself."""
        found = self._ask("sizing", trials=self._trials)
        row = f"{self._trials} trials, size found by itself"
        if "error" in found:
            yield [row, found["error"]]
            return
        sizes = ", ".join(f"{count}: {seconds:.3f} s" for count, seconds in found["sizes"])
        yield [row, f"{found['seconds']:.1f}", f"{found['cpu']:.1f}", "", "", f"{sizes}; last {found['last']}"]

    def out_of_memory(self) -> Iterator[list[str]]:
        """Memory that runs out."""
        found = self._ask_with_little("out_of_memory")
        if "error" in found:
            yield ["out of memory", found["error"]]
            return
        told = "; ".join(found["told"]) or "it did not run out"
        row = f"{found['trials']} members of 3 x {found['units']:,} units"
        yield [row, f"{found['seconds']:.1f}", f"{found['cpu']:.1f}", "", "", told]

    @staticmethod
    def _line(
        row: str, found: dict[str, Any], programs: str, beside: str, other: float, ratio: float, goal: str
    ) -> list[str]:
        mine = f"{found['seconds']:.1f}; a member's epoch {found['each']:.4f}"
        return [row, mine, f"{found['cpu']:.1f}", "", programs, beside, f"{other:.4f}", "", f"{ratio:.2f}", goal]


def print_table(bench: structures.Bench, rows: Sequence[str], parts: Parts) -> None:
    """One table: whole searches first, then the rest."""
    structures.print_header()
    for row in rows:
        for line in bench.lines(row):
            structures.print_line(line, os.getloadavg()[0])
    for line in parts.lines():
        structures.print_line(line, os.getloadavg()[0])


def main() -> None:
    """Prints the table, or answers one question."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="*", default=["A", "G1", "G2", "G3", "G4", "G5"], help="whole searches")
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything")
    parser.add_argument("--trials", type=int, default=16, help="of Manyfit's searches")
    parser.add_argument("--seconds-of-rival", type=float, default=6.0, help="no further trial after so many")
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows and epochs, for a quick look")
    parser.add_argument("--python", nargs="*", default=[], metavar="BACKEND=PATH", help="further backends of the rival")
    options = parser.parse_args()
    conditions.show()
    pythons = structures.interpreters(options.python)
    until = time.monotonic() + 60 * options.minutes
    # Memory is taken as it is needed, so that a process can be given little of it.
    plenty = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    little = {**plenty, "XLA_PYTHON_CLIENT_MEM_FRACTION": SHARE_OF_MEMORY}
    here = Path(__file__).resolve()
    searches, own, with_little = (
        structures.Children(pythons, PATIENCE, options.share, script, environment)
        for script, environment in ((structures.MEASURED, plenty), (here, plenty), (here, little))
    )
    searches.until = own.until = with_little.until = until
    print(f"{os.cpu_count()} cores, {own.ask('device')}, keras {keras.__version__}", flush=True)
    rivals = list(dict.fromkeys(["jax", *pythons]))
    bench = structures.Bench(searches, options.seconds_of_rival, options.trials, backends=rivals)
    print_table(bench, options.rows, Parts(own, with_little))


if __name__ == "__main__":
    if len(sys.argv) > 1 and sys.argv[1].startswith("["):
        measured.answer(QUESTIONS)
    else:
        main()
