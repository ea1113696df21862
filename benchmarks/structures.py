"""Spaces in which every trial has another structure: rows G1 to G5 of `speed.py`, and what a structure costs.

    python benchmarks/speed.py G1 G2           # or: python benchmarks/structures.py G1 G2
    python benchmarks/structures.py programs   # programs of 30 trials, over ten spaces
    python benchmarks/structures.py --python torch=other/bin/python tensorflow=other/bin/python

Each measurement is a process of its own: Manyfit's with an empty cache for compiled programs, KerasTuner's once on each
backend that an interpreter at hand has, of which the table keeps the fastest. Seconds are those of `search` with
everything, wall clock and CPU; processes are started one after another, and the load is the machine's when a row began.
KerasTuner trains with the values that Manyfit drew, in a few of the trials (of even ranks by the number of parameters,
the middle one first, and no new one once `--seconds-of-rival` have passed), scaled to all of them; it displays nothing.

G2b: both train the same six configurations. `--seconds-of-rival` says how long the rival shall take for them, and so
for how many epochs both train, 30 at most; what counts is when Manyfit has reached the rival's best loss, to 2 %.
`total` sums G1 to G4, and compares them with the same searches once more in the same process, all programs compiled.
`unseen` is CPU time until the first epoch of a structure is done, less that of a later epoch, in a process that has
searched already. `epoch` is the fastest epoch of one CNN (16, 32 and 64 filters, 3,000 rows).

Data: `mnist.npz` in the folder named by MANYFIT_DATA (default `../shared/data`); `typical_spaces.py` draws the rest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import typical_spaces as spaces
from typical_spaces import SPACES

MEASURED = Path(__file__).resolve().parent / "measured.py"
BACKENDS = ("jax", "torch", "tensorflow")
GOALS = {"A": 27.9, "G1": 4, "G1-60": 6, "G2": 3, "G2b": 2, "G3": 10, "G4": 4, "G5": 10, "epoch": 1.5}
MOST = {"total": 1.6, "folds": 4, "MLP": 2.2, "LSTM": 2.2, "CNN": 3.0, "one that joins": 0.3}
TOLERANCE = 1.02  # of the rival's loss: of the same configurations, but with other seeds


class Children:
    """Asks processes of their own, one after another.

    Args:
        pythons: backend -> interpreter; the running one for those that are not named.
        patience: most seconds of one process.
        share: of the rows and epochs of each measurement, for a quick look.
        script: what the processes run.
        environment: of the processes, besides this one's.
    """

    def __init__(
        self,
        pythons: dict[str, str] | None = None,
        patience: float = 600.0,
        share: float = 1.0,
        script: Path = MEASURED,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._pythons = dict.fromkeys(BACKENDS, sys.executable) | (pythons or {})
        self._patience = patience
        self.share = share
        self._script = script
        self._environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **(environment or {})}
        self.until = math.inf  # the clock's, by `time.monotonic`: what is asked later is answered with an error
        self._folder = tempfile.TemporaryDirectory()

    def ask(self, question: str, on: str = "jax", **what: Any) -> dict[str, Any]:
        """The answer of a process; one with an `error` where there was none."""
        patience = min(self._patience, self.until - time.monotonic())
        if patience <= 0:
            return {"error": "no time left"}
        environment = {**self._environment, "KERAS_BACKEND": on}
        environment |= {spaces.SHARED: self._folder.name, "MANYFIT_BENCH_SHARE": str(self.share)}
        command = [self._pythons[on], str(self._script), json.dumps([question, what])]
        with tempfile.TemporaryDirectory(prefix="manyfit-programs-") as cache:
            environment["MANYFIT_CACHE_DIR"] = cache
            try:
                done = subprocess.run(
                    command, env=environment, capture_output=True, text=True, timeout=patience, check=False
                )
            except subprocess.TimeoutExpired:
                return {"error": f"not done after {patience:.0f} s"}
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1]}
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer

    def rivals(self) -> list[str]:
        """The backends that KerasTuner runs on here."""
        return [name for name in BACKENDS if "error" not in self.ask("backend", on=name)]


@dataclasses.dataclass
class Bench:
    """The rows, and what they share.

    Attributes:
        children: who measures.
        limit: seconds after which a rival begins no further trial, on each backend.
        trials: of Manyfit's searches, in place of the spaces' own.
        warm: whether Manyfit searches twice.
        backends: of the rival; None: those that are found.
    """

    children: Children
    limit: float = 25.0
    trials: int | None = None
    warm: bool = False
    backends: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.backends = self.children.rivals() if self.backends is None else self.backends
        self.mine: dict[str, dict[str, Any]] = {}
        self.theirs: dict[str, tuple[str, dict[str, Any]]] = {}

    def manyfit(self, name: str, trials: int | None = None) -> dict[str, Any]:
        """Manyfit's search through a space; measured once per run."""
        trials = self.trials or trials or SPACES[name].trials
        row = f"{name}, {trials} trials"
        if row not in self.mine:
            warm = self.warm and trials == (self.trials or SPACES[name].trials)
            self.mine[row] = {"trials": trials, **self.children.ask("search", name=name, trials=trials, warm=warm)}
        return self.mine[row]

    def rival(self, name: str, values: list[dict[str, Any]]) -> tuple[str, dict[str, Any]]:
        """The fastest backend for a space, and its search; measured once per run."""
        if name not in self.theirs:
            chosen = _spread(values, SPACES[name].of_rival)
            answers = {
                on: self.children.ask("search_keras_tuner", on=on, name=name, values=chosen, limit=self.limit)
                for on in self.backends
            }
            self.theirs[name] = _fastest(answers, lambda answer: answer["seconds"] / answer["trials"])
        return self.theirs[name]

    def search(self, row: str) -> list[str]:
        """G1 to G5."""
        name, _, trials = row.partition("-")
        mine = self.manyfit(name, int(trials) if trials else None)
        if "error" in mine:
            return [row, mine["error"]]
        on, theirs = self.rival(name, mine["values"])
        if "error" in theirs:
            return [row, f"{mine['seconds']:.1f}", f"{mine['cpu']:.1f}", theirs["error"]]
        share = mine["trials"] / theirs["trials"]
        seconds, cpu = theirs["seconds"] * share, theirs["cpu"] * share
        return [
            f"{row}, {mine['trials']} trials", f"{mine['seconds']:.1f}", f"{mine['cpu']:.1f}", f"{mine['memory']:.0f}",
            f"{mine['programs']}", f"{on}, {theirs['trials']} trials", f"{seconds:.1f}", f"{cpu:.1f}",
            f"{seconds / mine['seconds']:.1f}", f">= {GOALS[row]}",
        ]  # fmt: skip

    def to_a_loss(self, row: str = "G2b") -> list[str]:
        """G2b: seconds to the rival's final loss."""
        trials = self.trials or SPACES[row].trials
        paces = {
            on: self.children.ask("search_keras_tuner", on=on, name=row, values=[{}], epochs=1) for on in self.backends
        }
        on, pace = _fastest(paces, lambda answer: answer["seconds"])
        if "error" in pace:
            return [row, pace["error"]]
        most = max(1, round(SPACES[row].epochs * self.children.share))
        epochs = min(most, max(1, round(self.limit * 2 / trials / pace["seconds"])))
        mine = self.children.ask("search", name=row, trials=trials, epochs=epochs, watch=True)
        if "error" in mine:
            return [row, mine["error"]]
        shared = {"name": row, "values": mine["values"], "epochs": epochs, "watch": True}
        theirs = self.children.ask("search_keras_tuner", on=on, **shared)
        if "error" in theirs:
            return [row, theirs["error"]]
        best = min(loss for _, loss in theirs["reached"])
        first = min(at for at, loss in theirs["reached"] if loss == best)
        at = min((at for at, loss in mine["reached"] if loss <= best * TOLERANCE), default=None)
        shown = f"not in {mine['seconds']:.1f}" if at is None else f"{at:.1f} of {mine['seconds']:.1f}"
        return [
            f"{row}, {trials} trials of {epochs} epochs, loss {best:.4f}", shown, f"{mine['cpu']:.1f}",
            f"{mine['memory']:.0f}", f"{mine['programs']}", f"{on}, all trials; had its best after {first:.1f} s",
            f"{theirs['seconds']:.1f}", f"{theirs['cpu']:.1f}",
            "-" if at is None else f"{theirs['seconds'] / at:.1f}", f">= {GOALS[row]}",
        ]  # fmt: skip

    def total(self, row: str = "total") -> list[str]:
        """G1 to G4 against the same searches with all programs compiled."""
        found = [self.manyfit(name) for name in ("G1", "G2", "G3", "G4")]
        errors = [one["error"] for one in found if "error" in one]
        if errors:
            return [row, *errors]
        cold = [sum(one[what] for one in found) for what in ("seconds", "cpu")]
        warm = [sum(one["warm"][what] for one in found) for what in ("seconds", "cpu")]
        return [
            "total of G1 to G4", f"{cold[0]:.1f}", f"{cold[1]:.1f}", "", f"{sum(one['programs'] for one in found)}",
            "Manyfit, all compiled", f"{warm[0]:.1f}", f"{warm[1]:.1f}", f"{cold[0] / warm[0]:.2f}", f"<= {MOST[row]}",
        ]  # fmt: skip

    def folds(self, row: str = "folds") -> list[str]:
        """A cross-validated search."""
        mine = self.children.ask("folds")
        if "error" in mine:
            return [row, mine["error"]]
        return [
            "4 configurations, 5 folds", f"{mine['seconds']:.1f}", f"{mine['cpu']:.1f}", "",
            f"{mine['programs']}, compiled {mine['compiled']}", "", "", "", f"{mine['programs']}", f"<= {MOST[row]}",
        ]  # fmt: skip

    def unseen(self, kind: str) -> list[str]:
        """A structure that is new, before its first epoch is done."""
        mine = self.children.ask("unseen", kind=kind)
        if "error" in mine:
            return [f"unseen {kind}", mine["error"]]
        later = f"later epochs {mine['epoch']:.2f}"
        return [f"unseen: {kind}", "", f"{mine['cpu']:.2f}", "", later, "", "", "", "", f"<= {MOST[kind]} CPU s"]

    def epoch(self, row: str = "epoch") -> list[str]:
        """One epoch of a CNN against each backend's `model.fit`."""
        mine = self.children.ask("epoch")
        if "error" in mine:
            return [row, mine["error"]]
        answers = {on: self.children.ask("epoch", on=on, fit=True) for on in self.backends}
        paces = {on: answer["seconds"] for on, answer in answers.items() if "error" not in answer}
        told = ", ".join(f"{on} {seconds:.2f}" for on, seconds in paces.items())
        others = min((seconds for on, seconds in paces.items() if on != "jax"), default=None)
        return [
            "an epoch of a CNN", f"{mine['seconds']:.2f}", "", "", "", f"model.fit: {told}",
            "-" if others is None else f"{others:.2f}", "",
            "-" if others is None else f"{others / mine['seconds']:.2f}", f">= {GOALS[row]}",
        ]  # fmt: skip

    def lines(self, row: str) -> Iterator[list[str]]:
        """The lines of a row."""
        if row == "unseen":
            yield from map(self.unseen, ("MLP", "LSTM", "CNN", "one that joins"))
            return
        others = {"G2b": self.to_a_loss, "total": self.total, "folds": self.folds, "epoch": self.epoch}
        yield others.get(row, self.search)(row)


def _spread(values: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Values of even ranks, the middle ones first, so that fewer than asked for are still typical."""
    count = min(count, len(values))
    ranks = [int((place + 0.5) * len(values) / count) for place in range(count)]
    return [values[rank] for rank in sorted(ranks, key=lambda rank: abs(rank - len(values) / 2))]


def _fastest(answers: dict[str, dict[str, Any]], seconds: Any) -> tuple[str, dict[str, Any]]:
    """The backend that took the fewest seconds; an error where none has an answer."""
    good = {on: answer for on, answer in answers.items() if "error" not in answer}
    if not good:
        return "", {"error": f"no rival: {answers}"}
    on = min(good, key=lambda on: seconds(good[on]))
    return on, good[on]


ROWS = ("G1", "G1-60", "G2", "G2b", "G3", "G4", "G5", "total", "folds", "unseen", "epoch")
HEADER = ("row", "Manyfit s", "CPU s", "MiB", "programs", "rival", "s", "CPU s", "ratio", "goal", "load")


def print_rows(rows: Sequence[str], bench: Bench) -> None:
    """The table, a line as soon as it is known."""
    print(f"{os.cpu_count()} cores, keras {keras.__version__}; KerasTuner on {', '.join(bench.backends) or 'nothing'}")
    print_header()
    for row in rows:
        load = os.getloadavg()[0]
        for line in bench.lines(row):
            print_line(line, load)


def print_header() -> None:
    """The names of the columns."""
    print(f"| {' | '.join(HEADER)} |\n|{'---|' * len(HEADER)}", flush=True)


def print_line(line: Sequence[str], load: float) -> None:
    """One line of the table, filled up, with the load when it was begun."""
    cells = [*line, *[""] * (len(HEADER) - 1 - len(line)), f"{load:.1f}"]
    print(f"| {' | '.join(cells)} |", flush=True)


def print_programs(children: Children, trials: int) -> None:
    """Programs of a search through each of ten spaces: tiny data, one epoch."""
    print(f"| space, {trials} trials | programs | compiled | CPU s |\n|---|---|---|---|")
    for name in spaces.OF_PROGRAMS:
        found = children.ask("programs", name=name, trials=trials)
        told = found.get("error") or f"{found['programs']} | {found['compiled']} | {found['cpu']:.1f}"
        print(f"| {name} | {told} |", flush=True)


def interpreters(pairs: Sequence[str]) -> dict[str, str]:
    """BACKEND=PATH, as `--python` takes them."""
    return dict(pair.split("=", 1) for pair in pairs)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What can be said of the rows, here and in `speed.py`."""
    parser.add_argument("--python", nargs="*", default=[], metavar="BACKEND=PATH", help="interpreters of the rivals")
    parser.add_argument("--seconds-of-rival", type=float, default=25.0, help="no further trial after so many")
    parser.add_argument("--trials", type=int, help="of Manyfit's searches in G1 to G5, for a quick look")
    parser.add_argument("--patience", type=float, default=600.0, help="most seconds of one process")


def children(options: argparse.Namespace) -> Children:
    """Who measures."""
    return Children(interpreters(options.python), options.patience, options.share)


def bench(options: argparse.Namespace) -> Bench:
    """The rows that were asked for."""
    return Bench(children(options), options.seconds_of_rival, options.trials, warm="total" in options.rows)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", default=list(ROWS), help=f"of {', '.join(ROWS)} (all of them), or programs")
    parser.add_argument("--share", type=float, default=1.0, help="share of the rows and epochs, for a quick look")
    add_options(parser)
    options = parser.parse_args()
    conditions.show()
    if options.rows == ["programs"]:
        print_programs(children(options), options.trials or 30)
    else:
        print_rows(options.rows, bench(options))


if __name__ == "__main__":
    main()
