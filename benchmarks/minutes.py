"""Rows and some seconds: whose final model is the best? Each contestant alone, in a process of its own, on two cores.

    python benchmarks/minutes.py                          # quick: 60 s, one seed, the tasks that are not held back
    python benchmarks/minutes.py --final                  # 60 s with three seeds, 300 s with one, all tasks
    python benchmarks/minutes.py churn --contestants Manyfit "default model" --seconds 20
    python benchmarks/minutes.py --table runs.jsonl       # prints what was measured before
    python benchmarks/minutes.py --python AutoKeras=other/bin/python
    python benchmarks/minutes.py jobs --dry --seconds 30  # whether everything runs, on a busy machine; nothing is kept

The clock starts with the rows in memory; imports count. What a contestant returns is scored once, on rows that it has
not seen, after its clock has stopped. Who takes a fifth longer than allowed is last, and so is who returns nothing. A
run begins when the machine is idle (a load of at most 1.2 before the first one). Rivals that use Keras do so on the
backend that was their fastest for that kind of model in `structures.py`. Results are appended to a file, one line a
run, and what it has is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from minutes_contestants import BACKENDS, CONTESTANTS
from minutes_tasks import TASKS, named

HERE = Path(__file__).resolve().parent
US = "Manyfit"
MOST_LOAD = 1.2
MOST_BUSY = 0.1  # share of the processors
LATE = 1.2  # of the seconds: last
TIE = 1e-9


def wait_for_idle(patience: float, *, first: bool) -> float:
    """The share of the processors that others use, as soon as it is low.

    Before the first run the load has to be low. Afterwards that is still the load of the run before, for a minute, so
    what is used at the moment counts.

    Raises:
        SystemExit: it does not become so.
    """
    until = time.monotonic() + patience
    while (busy := os.getloadavg()[0] / MOST_LOAD if first else _busy_share() / MOST_BUSY) > 1:
        if time.monotonic() > until:
            sys.exit(f"The machine is busy: {busy:.1f} times as much as allowed (a load of {MOST_LOAD}).")
        time.sleep(2)
    return _busy_share()


def _busy_share(seconds: float = 1.0) -> float:
    def times() -> tuple[float, float]:
        numbers = [float(each) for each in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        return sum(numbers), numbers[3] + numbers[4]  # idle, and waiting for a disk

    before = times()
    time.sleep(seconds)
    total, idle = (now - then for now, then in zip(times(), before, strict=True))
    return 1.0 - idle / total if total else 0.0


def play(task: str, contestant: str, seconds: float, seed: int, python: str) -> dict[str, Any]:
    """One run in a process of its own: what it told, or an error."""
    backend = "jax" if contestant in (US, "AutoKeras") else BACKENDS[TASKS[task].kind]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        # An empty cache for compiled programs and for what a machine remembers: nobody starts with an earlier run.
        environment |= {"XDG_CACHE_HOME": folder}
        rows, answer = Path(folder) / "rows.npz", Path(folder) / "answer.json"
        TASKS[task].rows().save(rows)
        command = [python, str(HERE / "minutes_contestants.py"), task, contestant, str(rows)]
        try:
            done = subprocess.run(
                [*command, str(seconds), str(seed), str(answer)], env=environment, capture_output=True, text=True,
                timeout=3 * seconds + 120, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return {"error": f"not done after {3 * seconds + 120:g} s"}
        if not answer.exists():
            return {"error": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
        return json.loads(answer.read_text())


def ranks(runs: Sequence[dict[str, Any]], contestants: Sequence[str]) -> np.ndarray:
    """(contests, contestants): who came where, 1 the best; equal ones share their places."""
    contests: dict[tuple[str, float, int], dict[str, float]] = {}
    for run in runs:
        late = run.get("took", np.inf) > LATE * run["seconds"]
        cost = np.inf if late else run.get("score", np.inf)
        contests.setdefault((run["task"], run["seconds"], run["seed"]), {})[run["contestant"]] = cost
    table = []
    for costs in contests.values():
        if set(contestants) <= set(costs):
            found = np.array([costs[name] for name in contestants])
            below = (found[None, :] < found[:, None] - TIE).sum(axis=1)
            # Who returned nothing, or was late, is last together with others who did.
            equal = np.isclose(found[None, :], found[:, None], atol=TIE)
            table.append(1 + below + (equal.sum(axis=1) - 1) / 2)
    return np.array(table).reshape(-1, len(contestants))


def print_table(runs: Sequence[dict[str, Any]], contestants: Sequence[str]) -> None:
    """Scores by task, then ranks and pairs."""
    for seconds in sorted({run["seconds"] for run in runs}):
        here = [run for run in runs if run["seconds"] == seconds]
        print(f"\n**{seconds:g} seconds** (median over seeds; small is good; seconds in brackets)\n")
        print("| task | scored by | " + " | ".join(contestants) + " | gap closed |")
        print("|" + "---|" * (len(contestants) + 3))
        for task in dict.fromkeys(run["task"] for run in here):
            of_task = [run for run in here if run["task"] == task]
            texts = [_cell([run for run in of_task if run["contestant"] == name]) for name in contestants]
            print(f"| {task} | {TASKS[task].score} | " + " | ".join(texts) + f" | {_gap(of_task)} |")
        _print_ranks(ranks(here, contestants), contestants)
        _print_phases([run for run in here if run["contestant"] == US])
        _print_keeping([run for run in here if run["contestant"] == US])


def _cell(runs: Sequence[dict[str, Any]]) -> str:
    done = [run for run in runs if "score" in run]
    if not done:
        return runs[0]["error"][:40] if runs else ""
    took = max(run["took"] for run in done)
    late = " late" if took > LATE * done[0]["seconds"] else ""
    return f"{np.median([run['score'] for run in done]):.4f} ({took:.0f}{late})"


def _gap(runs: Sequence[dict[str, Any]]) -> str:
    """The share of the way from the default model to the best contestant that Manyfit has gone."""
    medians = {}
    for run in runs:
        if "score" in run:
            medians.setdefault(run["contestant"], []).append(run["score"])
    costs = {name: float(np.median(each)) for name, each in medians.items()}
    if US not in costs or "default model" not in costs:
        return ""
    way = costs["default model"] - min(costs.values())
    return f"{(costs['default model'] - costs[US]) / way:.2f}" if way > 0 else "-"


def _print_ranks(table: np.ndarray, contestants: Sequence[str]) -> None:
    if not len(table):
        return
    rng = np.random.default_rng(0)
    means = table[rng.integers(len(table), size=(2000, len(table)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    print(f"\n| contestant | mean rank of {len(table)} | 95 % | {US} won-lost |\n|---|---|---|---|")
    for place in np.argsort(table.mean(axis=0)):
        ours = table[:, contestants.index(US)] if US in contestants else np.full(len(table), np.nan)
        pair = f"{(ours < table[:, place]).sum()}-{(ours > table[:, place]).sum()}"
        print(f"| {contestants[place]} | {table[:, place].mean():.2f} | {low[place]:.2f}-{high[place]:.2f} | {pair} |")


def _print_phases(runs: Sequence[dict[str, Any]]) -> None:
    phases = list(dict.fromkeys(phase for run in runs for phase in run.get("phases", {})))
    if not phases:
        return
    print(f"\n| {US} | trials | members per program | " + " | ".join(f"{phase} s" for phase in phases) + " | why |")
    print("|" + "---|" * (len(phases) + 4))
    for run in runs:
        if "phases" in run:
            spent = " | ".join(f"{run['phases'].get(phase, 0):.1f}" for phase in phases)
            per = run["per program"]
            reasons = "; ".join(run["reasons"])
            print(f"| {run['task']} {run['seed']} | {run['trials']} | {per and round(per, 1)} | {spent} | {reasons} |")


def _print_keeping(runs: Sequence[dict[str, Any]]) -> None:
    """What it costs that there is a winner on the disk at every moment."""
    shares = [run["keeping"] / run["took"] for run in runs if "keeping" in run]
    if shares:
        print(f"\n| {US}, a winner on the disk while it searches | median | most |\n|---|---|---|")
        print(f"| share of the time | {np.median(shares):.2%} | {max(shares):.2%} |")


def main() -> None:
    """Plays what is not played yet, and prints everything."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--contestants", nargs="*", default=list(CONTESTANTS), help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--final", action="store_true", help="all tasks, 60 s with three seeds and 300 s with one")
    parser.add_argument("--runs", type=Path, default=HERE / "results" / "minutes.jsonl", help="where runs are kept")
    parser.add_argument("--table", type=Path, help="prints what this file has, and runs nothing")
    parser.add_argument("--python", nargs="*", default=[], metavar="CONTESTANT=PATH", help="interpreters of their own")
    parser.add_argument("--dry", action="store_true", help="whatever the load; seconds say nothing, nothing is kept")
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for an idle machine")
    options = parser.parse_args()
    if options.table:
        print_table([json.loads(line) for line in options.table.read_text().splitlines()], options.contestants)
        return
    pythons = dict(each.split("=", 1) for each in options.python)
    tasks = list(TASKS) if options.final else list(named(options.tasks))
    plan = [(60.0, seed) for seed in range(3)] + [(300.0, 0)] if options.final else [
        (options.seconds, seed) for seed in range(options.seeds)
    ]  # fmt: skip
    if options.dry:
        options.runs = Path(tempfile.mkdtemp()) / "minutes.jsonl"
    known = [json.loads(line) for line in options.runs.read_text().splitlines()] if options.runs.exists() else []
    done = {(run["task"], run["contestant"], run["seconds"], run["seed"]) for run in known}
    first = True
    for seconds, seed in plan:
        for task in tasks:
            for name in options.contestants:
                if (task, name, seconds, seed) in done:
                    continue
                what = {"task": task, "contestant": name, "seconds": seconds, "seed": seed}
                what["busy"] = None if options.dry else round(wait_for_idle(options.patience, first=first), 2)
                first = False
                what |= play(task, name, seconds, seed, pythons.get(name, sys.executable))
                known.append(what)
                with options.runs.open("a") as file:
                    file.write(json.dumps(what) + "\n")
                print(json.dumps(what), file=sys.stderr, flush=True)
    print_table(known, options.contestants)


if __name__ == "__main__":
    main()
