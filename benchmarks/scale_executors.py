"""Scale: what an executor costs, and what it survives. Run by `make bench-scale`; the table goes to `results`.

Trials are functions that sleep for 0.1 s, so everything beyond that is overhead. "Ideal" is the sleeping, shared out
evenly. Ray Tune runs the same function, with its defaults but for the number of processors.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import conditions

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import manyfit as kt  # isort: skip

from manyfit.executors.ray import RayPool

WORKERS, SECONDS = 2, 0.1
RESULTS = Path(__file__).parent / "results" / "scale_executors.md"


class Sleeping(kt.RandomSearch):
    """Trials that sleep, and measure a formula."""

    def run_trial(self, trial, *args, **kwargs):
        time.sleep(SECONDS)
        return {"loss": trial.hyperparameters.get("a")}


def space() -> kt.HyperParameters:
    """One number."""
    hp = kt.HyperParameters()
    hp.Float("a", 0.0, 1.0)
    return hp


def tuner_of(executor: Any, num_trials: int, folder: str) -> Sleeping:
    """A random search over `space`."""
    return Sleeping(
        objective="loss", max_trials=num_trials, seed=0, hyperparameters=space(), directory=folder, executor=executor
    )


def search_seconds(executor: Any, num_trials: int) -> float:
    """Seconds of a search whose workers are there already."""
    with tempfile.TemporaryDirectory() as folder:
        tuner = tuner_of(executor, num_trials + 2 * WORKERS, folder)
        tuner.oracle.max_trials = 2 * WORKERS
        tuner.search(verbose=0)
        tuner.oracle.max_trials = num_trials + 2 * WORKERS
        started = time.perf_counter()
        tuner.search(verbose=0)
        seconds = time.perf_counter() - started
        if len(tuner.oracle.trials) != num_trials + 2 * WORKERS:
            raise SystemExit(f"{len(tuner.oracle.trials)} trials were run")
        tuner.close()
    return seconds


def overhead(num_trials: int) -> list[str]:
    """Rows: this process, processes, Ray, and the ideal."""
    lines = []
    ideal = num_trials * SECONDS
    local = search_seconds(None, num_trials)
    lines.append(row("this process", num_trials, local, ideal))
    of_local = local - ideal
    for name, executor in (
        ("ProcessExecutor(workers=2)", kt.ProcessExecutor(workers=WORKERS)),
        ("RayExecutor(max_workers=2)", kt.RayExecutor(max_workers=WORKERS, **small_ray())),
    ):
        seconds = search_seconds(executor, num_trials)
        lines.append(row(name, num_trials, seconds, ideal / WORKERS))
        executor.close()
        per_trial = (seconds * WORKERS - ideal - of_local) / num_trials
        lines.append(f"| {name}: overhead per trial over this process | | {1000 * per_trial:.1f} ms | |")
    return lines


def row(name: str, num_trials: int, seconds: float, ideal: float) -> str:
    """One line of the table."""
    return f"| {name} | {num_trials} | {seconds:.2f} s | {ideal / seconds:.0%} of ideal ({ideal:.1f} s) |"


def small_ray() -> dict[str, Any]:
    """A Ray that fits on a small machine."""
    return {"num_cpus": WORKERS, "object_store_memory": 150 << 20}


def ray_tune(num_trials: int) -> list[str]:
    """The same function trials through Ray Tune, without its start."""
    import ray
    from ray import tune

    def objective(config: dict[str, float]) -> dict[str, float]:
        time.sleep(SECONDS)
        return {"loss": config["a"]}

    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **small_ray())
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(objective, {"cpu": 1}),
            param_space={"a": tune.uniform(0, 1)},
            tune_config=tune.TuneConfig(num_samples=num_trials, metric="loss", mode="min"),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        )
        started = time.perf_counter()
        results = tuner.fit()
        seconds = time.perf_counter() - started
    if len(results) != num_trials:
        raise SystemExit(f"Ray Tune ran {len(results)} trials")
    ray.shutdown()
    return [row(f"Ray Tune {ray.__version__}", num_trials, seconds, num_trials * SECONDS / WORKERS)]


def faults(num_trials: int, num_kills: int) -> list[str]:
    """Kills random workers while a search runs, and counts what came of its trials."""
    executor = kt.RayExecutor(max_workers=WORKERS, **small_ray())
    process_ids: dict[str, int] = {}
    killed: list[int] = []
    over = threading.Event()

    def watch(pool_class: Any) -> Any:
        read = pool_class._read

        def reading(pool: Any, worker: str) -> Any:
            message = read(pool, worker)
            if hasattr(message, "process_id"):
                process_ids[worker] = message.process_id
            if type(message).__name__ == "Lost":
                process_ids.pop(worker, None)
            return message

        pool_class._read = reading
        return read

    def kill() -> None:
        choice = random.Random(0)
        while len(killed) < num_kills and not over.wait(choice.uniform(0.05, 0.55)):
            alive = list(process_ids.items())
            if alive:
                worker, process_id = choice.choice(alive)
                process_ids.pop(worker, None)
                try:
                    os.kill(process_id, signal.SIGKILL)
                except ProcessLookupError:
                    continue
                killed.append(process_id)

    original = watch(RayPool)
    thread = threading.Thread(target=kill, daemon=True)
    with tempfile.TemporaryDirectory() as folder:
        tuner = tuner_of(executor, num_trials, folder)
        thread.start()
        tuner.search(verbose=0)
        over.set()
        trials = list(tuner.oracle.trials.values())
        completed = sum(trial.status == "COMPLETED" for trial in trials)
        doubled = (
            sum(len(trial.executions) > 1 for trial in trials)
            + len(tuner.oracle.end_order)
            - len(set(tuner.oracle.end_order))
        )
        lost = num_trials - len({trial.trial_id for trial in trials})
        tuner.close()
    thread.join()
    RayPool._read = original
    executor.close()
    return [
        f"| RayExecutor: {len(killed)} workers killed at random times | {num_trials} | "
        f"{completed} finished, {lost} lost, {doubled} doubled | goal: {num_trials}, 0, 0 |"
    ]


def main() -> None:
    """Prints the table and writes it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--tune-trials", type=int, default=100, help="0: without Ray Tune")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=["overhead", "tune", "faults"], default=None)
    given = parser.parse_args()
    conditions.show()
    lines: list[str] = []
    if given.only in (None, "overhead"):
        lines += overhead(given.trials)
    if given.only in (None, "faults"):
        lines += faults(60, given.kills)
    if given.only in (None, "tune") and given.tune_trials:
        lines += ray_tune(given.tune_trials)
    table = "\n".join(["| what | trials | measured | |", "|---|---|---|---|", *lines])
    print(table)
    if given.only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(f"# Scale: executors\n\nPrinted by `make bench-scale`.\n\n{table}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
