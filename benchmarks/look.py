"""What looking at a project costs, and whether its first sentence is true.

    python benchmarks/look.py             # seconds and megabytes of reports of 300 and 5,000 trials
    python benchmarks/look.py --truth     # how often the headline's interval covers the truth, over 200 projects
    python benchmarks/look.py --display   # the share of a search's time that its progress takes

The projects of the first table are records without a search behind them (`tests/drawn_projects.py`). Those of the
second are searches with a known truth (`simulated_searches.py`): per-row losses that are skewed, shared between
configurations, and none of what the estimates assume. Each is estimated as `manyfit.finish.leader` does, written as a
project, opened, and its interval is read out of the sentence that the report begins with. The truth is what the leader
shows that is trained once more, on 20,000 new rows.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import os
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import conditions
import numpy as np
from simulated_searches import Cell, SimulatedSearch

from manyfit.evidence.estimates import Measured, Told, estimates
from manyfit.finish import leader as leading
from manyfit.report.drawing import scripts_of_vega
from manyfit.report.page import page
from manyfit.report.snapshot import Snapshot
from manyfit.report.words import verdict
from manyfit.stats.intervals import Scale
from manyfit.store import ProjectStore
from manyfit.store.facts import Leader, to_fact

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import drawn_projects

NUM_PROJECTS, NEW_ROWS = 200, 20_000
CELLS = (
    Cell("normal", 20, 400, metric="accuracy"),
    Cell("equal", 50, 400, metric="accuracy"),
    Cell("normal", 50, 1000),
    Cell("terrible", 20, 400),
    Cell("exponential", 100, 1000, lucky_rows=True),
    Cell("three", 20, 1000, seeds="t3"),
)
SIZES = ((300, 3, 30), (5000, 1, 30))


def headline(cell: Cell, seed: int, folder: Path) -> tuple[float, float, float]:
    """The interval that one project's first sentence says, and what is true: low, high, truth."""
    rng = np.random.default_rng([seed, 1])
    search = SimulatedSearch(cell, np.random.default_rng([seed, 0]))
    top = search.finalists(leading._FINALISTS)
    is_accuracy = cell.metric == "accuracy"
    told = Told("max", Scale.WILSON) if is_accuracy else Told("min", Scale.LOG)
    # Inside lower is better: an error e is told as the accuracy 1 - e, whose loss is e - 1.
    shift = -1.0 if is_accuracy else 0.0
    known = search.search_rows + shift
    kept = np.isfinite(known).all(axis=1)
    order = [*top, *(i for i in np.argsort(search.search_losses, kind="stable") if i not in set(top) and kept[i])]
    losses = search.search_losses + shift
    found = estimates(
        [*losses[order], *([math.inf] * int((~kept).sum()))],
        [Measured(losses[[trial]], known[[trial]]) for trial in top],
        search_rows=known[order[: leading._MOST_READ]],
        places=list(range(len(top))),
        told=told,
        seed=seed,
    )
    plain = Leader(str(top[0]), told.score(losses[top[0]]), num_trials=len(order))
    leader = leading._described(plain, [SimpleNamespace(trial_id=str(trial)) for trial in top], found)
    store_of(folder, cell, told, losses, order, leader)
    [sentence, *_] = verdict(Snapshot.of(folder))
    low, high = map(float, re.search(r"\[(.+?), (.+?)\]", sentence).groups())
    fresh = search.fresh_score(int(top[0]), NEW_ROWS, rng)
    return low, high, told.score(fresh + shift)


def store_of(folder: Path, cell: Cell, told: Told, losses: np.ndarray, order: list[int], leader: Leader) -> None:
    """Writes the project."""
    store = ProjectStore(folder)
    rows = [
        {
            "id": str(trial), "number": int(trial), "status": "COMPLETED", "attempt": 0,
            "values": {"place": int(trial)}, "started_at": drawn_projects.START, "ended_at": drawn_projects.START + 1,
            "outcome": {"score": told.score(float(losses[trial])), "message": None, "ending": "completed"},
        }
        for trial in order
    ]  # fmt: skip
    text = f'Objective(name="val_{cell.metric}", direction="{told.direction}")'
    store.save_trials(rows, search={"objective": text}, leader=to_fact(leader))
    store.close()


def print_truth(num_projects: int) -> None:
    """How often the interval covers the truth, by kind of search and in all."""
    covered: dict[str, list[bool]] = defaultdict(list)
    for seed in range(num_projects):
        cell = CELLS[seed % len(CELLS)]
        with tempfile.TemporaryDirectory() as folder:
            low, high, truth = headline(cell, seed, Path(folder) / "one")
        covered[str(cell)].append(low <= truth <= high)
    every = [one for several in covered.values() for one in several]
    for cell, several in covered.items():
        print(f"{cell:<50} {sum(several):>3} of {len(several)}")
    print(f"{'in all':<50} {sum(every):>3} of {len(every)}: {np.mean(every):.1%}")


def print_costs() -> None:
    """Seconds (processor, this thread's and its helpers') and size of reports."""
    start = time.perf_counter()
    scripts_of_vega()
    print(f"the scripts of Vega, once per process: {time.perf_counter() - start:.2f} s")
    print("| trials | executions | epochs | read s | page s | MB |\n|---|---|---|---|---|---|")
    for trials, executions, epochs in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            drawn = drawn_projects.Drawn(trials=trials, executions=executions, epochs=epochs, failed=trials // 30)
            project = drawn_projects.write(Path(folder) / "one", drawn)
            start = time.perf_counter()
            seen = Snapshot.of(project)
            middle = time.perf_counter()
            text = page(seen)
            end = time.perf_counter()
        spent = f"{middle - start:.2f} | {end - middle:.2f} | {len(text.encode()) / 1e6:.2f}"
        print(f"| {trials} | {executions} | {epochs} | {spent} |")


class Terminal(io.StringIO):
    """Standard output that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def print_display() -> None:
    """Processor seconds of a search of 16 small nets, and those of its progress on a terminal among them."""
    import keras
    from rich.live import Live

    import manyfit as kt
    from manyfit.tuners.display import TrialDisplay

    spent = 0.0

    def counted(method):
        def call(*args, **kwargs):
            nonlocal spent
            start = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                spent += time.thread_time() - start

        return call

    def build(hp):
        layers = [keras.layers.Dense(32, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
        model = keras.Sequential([keras.Input((20,)), *layers])
        model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-4, 1e-1, sampling="log")), "binary_crossentropy")
        return model

    # All that is displayed begins in one of these two: what is heard, and what is drawn by rich's own thread.
    TrialDisplay.hear, Live.refresh = counted(TrialDisplay.hear), counted(Live.refresh)
    x = np.random.default_rng(0).normal(size=(3000, 20)).astype("float32")
    y = (x[:, :5].sum(axis=1) > 0).astype("int32")
    os.environ.setdefault("TERM", "xterm")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(Terminal()):
        tuner = kt.RandomSearch(build, "val_loss", max_trials=16, seed=0, directory=folder)
        start, begun = time.process_time(), time.perf_counter()
        tuner.search(x, y, epochs=100, validation_split=0.3)
        whole, seconds = time.process_time() - start, time.perf_counter() - begun
    # Draws go by the clock: on a machine that others use, too, they are a larger share of the processor's seconds.
    shares = f"{spent / seconds:.1%} of the time, {spent / whole:.1%} of the processor seconds"
    print(f"16 trials of 100 epochs: {seconds:.1f} s, {whole:.1f} processor seconds; shown: {spent:.2f}, {shares}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", action="store_true")
    parser.add_argument("--display", action="store_true")
    parser.add_argument("--projects", type=int, default=NUM_PROJECTS)
    arguments = parser.parse_args()
    conditions.show()
    if arguments.truth:
        print_truth(arguments.projects)
    elif arguments.display:
        print_display()
    else:
        print_costs()
