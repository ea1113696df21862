"""How many trials it takes: regret of search libraries on the LCBench surrogate.

    python benchmarks/search_quality.py                  everything, hours; results in build/search_quality.jsonl
    python benchmarks/search_quality.py run RESULTS manyfit-gp --tasks 0 1 2 --seeds 0 1 2
    python benchmarks/search_quality.py table RESULTS
    python benchmarks/search_quality.py timing

Each run (searcher, version, setting, task, seed) becomes one line of the results file; runs that are there are skipped,
so a table is made of as many short calls as one likes. `--batch 16` asks for 16 configurations at a time; `--noise 0.3`
adds normal noise with a standard deviation of 0.3 times the spread of the best tenth of random configurations.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import time

import conditions
import numpy as np
import rivals
from lcbench import Benchmark, Reference

POINTS = (10, 25, 50, 100)


def read(path: pathlib.Path) -> list[dict]:
    """All runs of a results file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def label(run: dict) -> str:
    """Searcher and setting of a run, as the table shows them."""
    batch = f" asked {run['batch']} at a time" if run["batch"] > 1 else ""
    return f"{run['searcher']}{batch}" + (f" noise {run['noise']}" if run["noise"] else "")


def one_run(benchmark: Benchmark, reference: Reference, arguments: argparse.Namespace, task: int, seed: int) -> dict:
    """Searches once; what it returns is JSON."""
    name, batch = arguments.searcher, arguments.batch
    run_seed = rivals.seed_of(task, seed)
    noise = np.random.default_rng([run_seed, 1])
    searcher = rivals.make(
        name, benchmark.parameters, seed=run_seed, num_trials=arguments.trials, noisy=arguments.noise > 0
    )
    true: list[float] = []
    seconds: list[float] = []
    while len(true) < arguments.trials:
        begin = time.perf_counter()
        asked = searcher.ask(min(batch, arguments.trials - len(true)))
        spent = time.perf_counter() - begin
        accuracy = benchmark.accuracy(benchmark.tasks[task], np.array(asked, dtype=float))
        seen = accuracy + arguments.noise * reference.top_decile_spread * noise.standard_normal(len(asked))
        begin = time.perf_counter()
        searcher.tell(asked, (-seen).tolist())
        spent += time.perf_counter() - begin
        true += accuracy.tolist()
        seconds += [spent / len(asked)] * len(asked)
    returned = benchmark.accuracy(benchmark.tasks[task], np.array([searcher.recommend()], dtype=float))
    curve = reference.regret(np.maximum.accumulate(true))
    return {
        "searcher": name,
        "version": rivals.version(name),
        "batch": batch,
        "noise": arguments.noise,
        "task": task,
        "seed": seed,
        "trials": arguments.trials,
        "regret": np.round(curve, 6).tolist(),
        "returned": float(reference.regret(returned)[0]),
        "seconds": round(sum(seconds), 3),
        "seconds_per_proposal_at_end": round(float(np.mean(seconds[-10:])), 5),
    }


def run(arguments: argparse.Namespace) -> None:
    """Makes the runs that are missing."""
    benchmark = Benchmark()
    path = pathlib.Path(arguments.results)
    path.parent.mkdir(parents=True, exist_ok=True)
    done = {_key(each) for each in read(path)}
    settings = {name: getattr(arguments, name) for name in ("searcher", "batch", "noise", "trials")}
    settings["version"] = rivals.version(arguments.searcher)
    for task in arguments.tasks:
        reference = None
        for seed in arguments.seeds:
            if _key({**settings, "task": task, "seed": seed}) in done:
                continue
            reference = reference or cached_reference(benchmark, task, path)
            result = one_run(benchmark, reference, arguments, task, seed)
            with path.open("a") as file:
                file.write(json.dumps(result) + "\n")
            print(
                label(result),
                f"task {task} seed {seed}:",
                [round(result["regret"][min(n, len(result["regret"])) - 1], 4) for n in POINTS],
                f"returned {result['returned']:.4f}, {result['seconds']:.1f} s",
                flush=True,
            )


def _key(run: dict) -> tuple:
    """What a run is one of a kind by: a new version of a library, or a change of our samplers, makes it run again."""
    return tuple(run[name] for name in ("searcher", "version", "batch", "noise", "task", "seed", "trials"))


def cached_reference(benchmark: Benchmark, task: int, results: pathlib.Path) -> Reference:
    """The reference of a task, kept in a file beside the results: the search for the best takes some seconds."""
    path = results.with_suffix(".reference.json")
    known = json.loads(path.read_text()) if path.exists() else {}
    name = benchmark.tasks[task]
    if name not in known:
        found = benchmark.reference(name)
        known = json.loads(path.read_text()) if path.exists() else {}
        known[name] = [found.best, found.median, found.top_decile_spread]
        path.write_text(json.dumps(known))
    return Reference(*known[name])


def table(arguments: argparse.Namespace) -> None:
    """Prints mean regrets, and twice their standard error over tasks in brackets at the last point."""
    groups: dict[str, list[dict]] = {}
    for each in read(pathlib.Path(arguments.results)):
        groups.setdefault(f"{label(each)} {each['version']}", []).append(each)
    print("| searcher | version | runs | " + " | ".join(f"regret at {n}" for n in POINTS), end="")
    print(" | returned | s per proposal at the end |")
    print("|---" * (len(POINTS) + 5) + "|")
    for name, runs in sorted(groups.items(), key=lambda item: np.mean([r["regret"][-1] for r in item[1]])):
        curves = np.array([r["regret"] for r in runs if len(r["regret"]) == runs[0]["trials"]])
        cells = [f"{curves[:, min(n, curves.shape[1]) - 1].mean():.4f}" for n in POINTS]
        returned = np.mean([r["returned"] for r in runs])
        pace = np.median([r["seconds_per_proposal_at_end"] for r in runs])
        tasks = len({r["task"] for r in runs})
        seeds = len({r["seed"] for r in runs})
        name = label(runs[0])
        print(f"| {name} | {runs[0]['version']} | {tasks} tasks x {seeds} seeds | " + " | ".join(cells), end="")
        print(f" | {returned:.4f} | {pace:.3f} |")


def timing(arguments: argparse.Namespace) -> None:
    """Seconds per proposal of our Gaussian process and Optuna's, in turns, after so many random trials of one task.

    Processor seconds are printed beside those on the clock: with one thread (`OMP_NUM_THREADS=1`) they are what the
    clock would show on a machine with nothing else to do.
    """
    benchmark = Benchmark()
    names = {100: ("manyfit-gp", "optuna-gp"), 500: ("manyfit-gp",)}
    for num_trials, searchers in names.items():
        points = np.random.default_rng(0).random((num_trials, len(benchmark.parameters)))
        known = benchmark.configurations(points)
        losses = (-benchmark.accuracy(benchmark.tasks[0], known)).tolist()
        made = {
            name: rivals.make(name, benchmark.parameters, seed=1, num_trials=1000, noisy=False) for name in searchers
        }
        for searcher in made.values():
            searcher.learn(known.tolist(), losses)
        seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in searchers}
        for _ in range(arguments.repeats):
            for name, searcher in made.items():
                begin = time.perf_counter(), time.process_time()
                asked = searcher.ask(1)
                seconds[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
                accuracy = benchmark.accuracy(benchmark.tasks[0], np.array(asked, dtype=float))
                searcher.tell(asked, (-accuracy).tolist())
        for name, spent in seconds.items():
            clock, processor = np.median(spent, axis=0)
            print(
                f"{num_trials} trials: {rivals.version(name)} {name}: median {clock:.3f} s per proposal, "
                f"processor {processor:.3f} s",
                flush=True,
            )


def everything(arguments: argparse.Namespace) -> None:
    """All rows of the table."""
    plain = ("manyfit-gp", "manyfit-evolution", "random", "optuna-tpe", "smac", "optuna-gp", "kerastuner")
    rows = [(name, 1, 0.0, 100) for name in plain]
    rows += [("manyfit-gp", 16, 0.0, 96)]
    rows += [(name, 1, 0.3, 100) for name in plain if name != "manyfit-evolution"]
    for searcher, batch, noise, trials in rows:
        row = {"searcher": searcher, "batch": batch, "noise": noise, "trials": trials}
        run(argparse.Namespace(results=arguments.results, tasks=range(12), seeds=range(3), **row))
    table(arguments)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers()
    parser.set_defaults(call=everything, results="build/search_quality.jsonl")
    runner = commands.add_parser("run", help="make the runs that are missing")
    runner.add_argument("results")
    runner.add_argument(
        "searcher", help="manyfit-gp, manyfit-evolution, optuna-tpe, optuna-gp, smac, kerastuner, random"
    )
    runner.add_argument("--tasks", type=int, nargs="+", default=list(range(12)))
    runner.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    runner.add_argument("--trials", type=int, default=100)
    runner.add_argument("--batch", type=int, default=1)
    runner.add_argument("--noise", type=float, default=0.0)
    runner.set_defaults(call=run)
    printer = commands.add_parser("table", help="print the table")
    printer.add_argument("results")
    printer.set_defaults(call=table)
    timer = commands.add_parser("timing", help="seconds per proposal, ours and Optuna's Gaussian process in turns")
    timer.add_argument("--repeats", type=int, default=10)
    timer.set_defaults(call=timing)
    arguments = parser.parse_args()
    conditions.show()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
