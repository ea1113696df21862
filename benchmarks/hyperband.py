"""How long to train: regret at equal epochs on the LCBench surrogate, schedulers against each other and peers.

    python benchmarks/hyperband.py                     # everything, some hours on two cores
    python benchmarks/hyperband.py run RESULTS asha+gp --tasks 0 1 2 --seeds 0 1
    python benchmarks/hyperband.py table RESULTS
    python benchmarks/hyperband.py mnist               # wall clock of a real search against KerasTuner's

Each run (searcher, task, seed) is one line of the results file; runs that are there are skipped. One trial trains at
a time, up to 50 epochs each (2 to 51 of the surrogate), 1,000 epochs in all. The regret after so many epochs is that
of the best validation accuracy seen by then, at whatever epoch. Searchers that draw at random get the same draws.

`mnist` (KERAS_BACKEND=jax) times kt.Hyperband of both libraries on the same brackets: an MLP over learning rate,
dropout, weight decay and units, 27 epochs, factor 3. With `--rival extrapolated` KerasTuner trains three trials of one
epoch and three of five; seconds per trial and per epoch follow from these, and those of its schedule from both. It is
said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata

import conditions
import numpy as np
import rivals
from lcbench import NAMES, Benchmark, Reference, data_folder
from search_quality import cached_reference, read

from manyfit.core.records import Ending, Observation, Progress
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.schedulers import ASHA, FullBudget, HyperbandScheduler, Limits, MedianRule
from manyfit.schedulers.base import Scheduler
from manyfit.schedulers.rungs import num_brackets, rungs_of
from manyfit.space.hyperparameters import HyperParameters
from manyfit.testing.schedulers import FakeOracle

FULL_EPOCHS = 50
FIRST_EPOCH = 2  # of the surrogate: its epoch 1 is the untrained network
BUDGETS = (5, 10, 20)  # in full trainings
MAX_TOTAL_EPOCHS = FULL_EPOCHS * BUDGETS[-1]
REAL_EPOCHS = 27  # of the search on MNIST
SEARCHERS = ("hyperband+random", "keras-tuner", "asha+gp", "hyperband+gp", "sha", "optuna", "screen at 3")

SCHEDULERS: dict[str, Callable[[], Scheduler]] = {
    "full": lambda: FullBudget(FULL_EPOCHS),
    "median": lambda: MedianRule(FULL_EPOCHS),
    "hyperband": lambda: HyperbandScheduler(FULL_EPOCHS, 3, None),
    "asha": lambda: ASHA(FULL_EPOCHS, 3),
    "asha-min6": lambda: ASHA(FULL_EPOCHS, 3, min_epochs=6),
}


class Problem(Benchmark):
    """One task, epoch by epoch; it notes what was seen after each epoch that was spent."""

    def select(self, task: int, seed: int) -> None:
        """Starts a new search."""
        self.task = self.tasks[task]
        self.draws = np.random.default_rng([task, seed, 7])
        self.curves: list[np.ndarray] = []
        self.configurations_tried: list[list[float]] = []
        self.seen: list[float] = []

    def add(self, configuration: list[float]) -> int:
        """A new trial; returns its number."""
        epochs = np.arange(FIRST_EPOCH, FIRST_EPOCH + FULL_EPOCHS)[:, None]
        inputs = {
            "x_cat": np.full((FULL_EPOCHS, 1), self._codes[self.task], np.int32),
            "x_cont": np.concatenate([epochs, np.tile(configuration, (FULL_EPOCHS, 1))], 1).astype(np.float32),
        }
        self.curves.append(self._session.run(None, inputs)[0][:, 1].astype(float) / 100.0)
        self.configurations_tried.append(configuration)
        return len(self.curves) - 1

    def draw(self) -> int:
        """A new trial with random values."""
        return self.add(self.configurations(self.draws.random((1, len(NAMES))))[0].tolist())

    def train(self, trial: int, epoch: int) -> float:
        """The loss of a trial after an epoch, from 1; spends that epoch."""
        accuracy = float(self.curves[trial][epoch - 1])
        self.seen.append(accuracy)
        return -accuracy

    @property
    def over(self) -> bool:
        """Whether all epochs are spent."""
        return len(self.seen) >= MAX_TOTAL_EPOCHS


def manyfit_search(problem: Problem, scheduler_name: str, sampler_name: str, seed: int) -> None:
    """One of our schedulers with random draws or our Gaussian process."""
    scheduler = SCHEDULERS[scheduler_name]()
    space = _space(problem)
    sampler = GaussianProcessSampler()

    def curve(trial: int, epoch: int) -> float:
        if trial == len(problem.curves) and sampler_name == "gp":
            rng = np.random.default_rng([seed, trial])
            [values] = sampler.propose(space, _observations(problem, oracle.history[:trial]), [], 1, rng)
            problem.add([float(values[name]) for name in NAMES])
        elif trial == len(problem.curves):
            problem.draw()
        return problem.train(trial, epoch)

    oracle = FakeOracle(Limits(max_total_epochs=MAX_TOTAL_EPOCHS), curve=curve, fit_epochs=FULL_EPOCHS)
    oracle.run(lambda: scheduler)


def _space(problem: Problem) -> HyperParameters:
    space = HyperParameters()
    for each in problem.parameters:
        sampling = "log" if each.log else "linear"
        default = math.sqrt(each.lower * each.upper) if each.log else (each.lower + each.upper) / 2
        if each.whole:
            space.Int(each.name, int(each.lower), int(each.upper), sampling=sampling, default=round(default))
        else:
            space.Float(each.name, each.lower, each.upper, sampling=sampling, default=default)
    return space


def _observations(problem: Problem, history: list[Progress]) -> list[Observation]:
    """What the oracle tells a sampler: paused trials are results at fewer epochs."""
    whole = {each.name for each in problem.parameters if each.whole}
    return [
        Observation(
            progress.trial_id,
            {name: int(value) if name in whole else value for name, value in zip(NAMES, configuration, strict=True)},
            Ending.COMPLETED if progress.epochs == FULL_EPOCHS else Ending.STOPPED,
            losses=(progress.best_loss(),),
            epochs=progress.epochs,
            full=progress.epochs == FULL_EPOCHS,
            curve=progress.curve,
        )
        for progress, configuration in zip(history, problem.configurations_tried, strict=False)
    ]


def keras_tuner_hyperband(problem: Problem, seed: int) -> None:
    """KerasTuner's own oracle, one worker; promoted trials are taken to continue, which is generous."""
    import keras_tuner
    from keras_tuner.src.tuners.hyperband import HyperbandOracle

    class Replay(HyperbandOracle):
        def _random_values(self) -> dict[str, int]:
            return {"draw": problem.draw()}

    space = keras_tuner.HyperParameters()
    space.Int("draw", 0, 10**6)
    oracle = Replay(
        keras_tuner.Objective("loss", "min"),
        max_epochs=FULL_EPOCHS,
        hyperband_iterations=100,
        hyperparameters=space,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        oracle._set_project_dir(folder, "replay")
        while not problem.over:
            trial = oracle.create_trial("worker")
            values = trial.hyperparameters.values
            for epoch in range(values["tuner/initial_epoch"], values["tuner/epochs"]):
                if not problem.over:
                    loss = problem.train(values["draw"], epoch + 1)
                    oracle.update_trial(trial.trial_id, {"loss": loss}, step=epoch)
            trial.status = "COMPLETED"
            oracle.end_trial(trial)


def successive_halving(problem: Problem, seed: int) -> None:
    """The paper's most aggressive bracket, over and over: 27, 9, 3, 1 trials at 2, 6, 17, 50 epochs."""
    while not problem.over:
        trials, done = [problem.draw() for _ in range(27)], 0
        for target in (2, 6, 17, FULL_EPOCHS):
            for trial in trials:
                for epoch in range(done, target):
                    if problem.over:
                        return
                    problem.train(trial, epoch + 1)
            trials.sort(key=lambda trial: -problem.curves[trial][target - 1])
            trials, done = trials[: max(1, len(trials) // 3)], target


def screening(problem: Problem, budget: int) -> None:
    """Three epochs each for 60 % of the budget, then the best ones to their end, one after another."""
    total, screened = budget * FULL_EPOCHS, []
    while len(problem.seen) + 3 <= 0.6 * total:
        trial = problem.draw()
        screened.append((min(problem.train(trial, epoch) for epoch in (1, 2, 3)), trial))
    for _, trial in sorted(screened):
        for epoch in range(4, FULL_EPOCHS + 1):
            if len(problem.seen) < total:
                problem.train(trial, epoch)


def optuna_hyperband(problem: Problem, seed: int) -> None:
    """Optuna's TPE with its HyperbandPruner, both with default settings apart from the epochs and factor 3."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=FULL_EPOCHS, reduction_factor=3),
    )
    while not problem.over:
        trial = study.ask()
        number = problem.add([_suggest(trial, parameter) for parameter in problem.parameters])
        state = optuna.trial.TrialState.COMPLETE
        for epoch in range(1, FULL_EPOCHS + 1):
            if problem.over:
                return
            trial.report(-problem.train(number, epoch), epoch)
            if epoch < FULL_EPOCHS and trial.should_prune():
                state = optuna.trial.TrialState.PRUNED
                break
        value = float(problem.curves[number][:epoch].max())
        study.tell(trial, None if state is optuna.trial.TrialState.PRUNED else value, state=state)


def _suggest(trial, parameter) -> float:
    if parameter.whole:
        return trial.suggest_int(parameter.name, int(parameter.lower), int(parameter.upper), log=parameter.log)
    return trial.suggest_float(parameter.name, parameter.lower, parameter.upper, log=parameter.log)


def search(problem: Problem, name: str, task: int, seed: int) -> list[float]:
    """Runs one searcher; returns the best accuracy at each budget."""
    run_seed = rivals.seed_of(task, seed)
    found: list[float] = []
    for budget in BUDGETS:
        if name == "screen at 3":
            problem.select(task, seed)
            screening(problem, budget)
        elif not found:
            problem.select(task, seed)
            peers = {"keras-tuner": keras_tuner_hyperband, "sha": successive_halving, "optuna": optuna_hyperband}
            if name in peers:
                peers[name](problem, run_seed)
            else:
                manyfit_search(problem, *name.split("+"), run_seed)
        found.append(max(problem.seen[: budget * FULL_EPOCHS]))
    return found


def run(arguments: argparse.Namespace) -> None:
    """Makes the runs that are missing."""
    problem = Problem()
    path = pathlib.Path(arguments.results)
    done = {(each["searcher"], each["task"], each["seed"]) for each in read(path)}
    for task, seed in _pairs(arguments):
        if (arguments.searcher, task, seed) in done:
            continue
        reference = cached_reference(problem, task, path)
        begin = time.perf_counter()
        best = search(problem, arguments.searcher, task, seed)
        result = {
            "searcher": arguments.searcher,
            "task": task,
            "seed": seed,
            "trials": len(problem.curves),
            "regret": regrets(reference, best),
            "seconds": round(time.perf_counter() - begin, 2),
        }
        with path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(result, flush=True)


def regrets(reference: Reference, best: list[float]) -> list[float]:
    """Normalised regrets, rounded for the file."""
    return np.round(reference.regret(np.array(best)), 6).tolist()


def everything(arguments: argparse.Namespace) -> None:
    """All searchers on all tasks, their table, and the real search."""
    arguments.results = arguments.results or "hyperband.jsonl"
    for arguments.searcher in SEARCHERS:
        run(arguments)
    table(arguments)
    mnist(arguments)


def build_mlp(hp):
    """784 pixels, one hidden layer, 10 classes; works with either library's `hp`."""
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(hp.Int("units", 32, 128, step=32), activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5)),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    decay = hp.Float("weight_decay", 1e-5, 1e-2, sampling="log")
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=decay), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    return model


def mnist(arguments: argparse.Namespace) -> None:
    """Prints the wall clock of both libraries' Hyperband on MNIST."""
    with np.load(data_folder().parent / "mnist.npz") as archive:
        x, y = (archive["x_train"] / 255).astype("float32").reshape(-1, 784), archive["y_train"].astype("int32")
    fit = {"validation_data": (x[50_000:], y[50_000:]), "batch_size": 128, "verbose": 0}
    os.environ.setdefault("MANYFIT_CACHE_DIR", "off")  # every program is compiled in the measured time
    print(f"MNIST, 50,000 + 10,000 rows, MLP, max_epochs={REAL_EPOCHS}, factor 3, one iteration; {versions()}")
    import keras_tuner  # noqa: F401  # its import, and Keras's, are in nobody's time

    import manyfit
    import manyfit.training.population

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        ours = manyfit.Hyperband(build_mlp, "val_accuracy", REAL_EPOCHS, 3, directory=folder, seed=0)
        ours.search(x[:50_000], y[:50_000], **fit)
        seconds = time.perf_counter() - begin
        trials, epochs = len(ours.oracle.trials), ours.results().epochs_spent
        best = ours.oracle.get_best_trials(1)[0].score
        ours.close()
    print(f"Manyfit: {seconds:.1f} s, {trials} trials, {epochs} epochs, best val_accuracy {best:.4f}")
    data = (x[:50_000], y[:50_000], fit)
    rival, said = rival_extrapolated(*data) if arguments.rival == "extrapolated" else rival_in_full(*data)
    print(f"KerasTuner: {rival:.1f} s ({said})\nratio: {rival / seconds:.1f}")


def rival_in_full(x, y, fit: dict) -> tuple[float, str]:
    """Seconds of KerasTuner's Hyperband."""
    import keras_tuner

    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        tuner = keras_tuner.Hyperband(build_mlp, "val_accuracy", REAL_EPOCHS, 3, directory=folder, seed=0)
        tuner.search(x, y, **fit)
        seconds = time.perf_counter() - begin
    return seconds, f"measured, {len(tuner.oracle.trials)} runs"


def rival_extrapolated(x, y, fit: dict) -> tuple[float, str]:
    """Seconds that KerasTuner's schedule takes, from trials of 1 and of 5 epochs."""
    import keras_tuner

    seconds = {}
    for epochs in (1, 5):
        with tempfile.TemporaryDirectory() as folder:
            tuner = keras_tuner.RandomSearch(build_mlp, "val_accuracy", max_trials=3, directory=folder, seed=0)
            begin = time.perf_counter()
            tuner.search(x, y, epochs=epochs, **fit)
            seconds[epochs] = (time.perf_counter() - begin) / 3
    per_epoch = (seconds[5] - seconds[1]) / 4
    per_run = seconds[1] - per_epoch
    brackets = [rungs_of(REAL_EPOCHS, 3, number) for number in range(num_brackets(REAL_EPOCHS, 3))]
    num_runs = sum(rung.num_trials for rungs in brackets for rung in rungs)
    before = [[0, *(rung.epochs for rung in rungs)] for rungs in brackets]
    num_epochs = sum(
        rung.num_trials * (rung.epochs - done)
        for rungs, ends in zip(brackets, before, strict=True)
        for rung, done in zip(rungs, ends, strict=False)
    )
    said = f"extrapolated: {num_runs} runs of {per_run:.2f} s and {num_epochs} epochs of {per_epoch:.2f} s"
    return num_runs * per_run + num_epochs * per_epoch, said


def versions() -> str:
    """Libraries and machine, for the printed tables."""
    names = ("manyfit", "keras", "jax", "keras-tuner", "optuna", "numpy")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names) + f", {os.cpu_count()} cores"


def _pairs(arguments: argparse.Namespace) -> Iterator[tuple[int, int]]:
    for seed in arguments.seeds:
        for task in arguments.tasks:
            yield task, seed


def table(arguments: argparse.Namespace) -> None:
    """Prints mean regrets at each budget, with the standard error over runs."""
    groups: dict[str, list[dict]] = {}
    for each in read(pathlib.Path(arguments.results)):
        if each["seed"] in arguments.seeds:
            groups.setdefault(each["searcher"], []).append(each)
    print("| searcher | runs | trials | " + " | ".join(f"B = {budget}" for budget in BUDGETS) + " |")
    print("|---|---|---|" + "---|" * len(BUDGETS))
    for name, runs in sorted(groups.items(), key=lambda item: np.mean([each["regret"][-1] for each in item[1]])):
        values = np.array([each["regret"] for each in runs])
        errors = values.std(axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else np.zeros(len(BUDGETS))
        cells = " | ".join(f"{mean:.4f} ± {error:.4f}" for mean, error in zip(values.mean(0), errors, strict=True))
        print(f"| {name} | {len(runs)} | {np.mean([each['trials'] for each in runs]):.0f} | {cells} |")


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(call=everything, results=None, tasks=list(range(12)), seeds=list(range(5)), rival="measured")
    commands = parser.add_subparsers()
    real = commands.add_parser("mnist")
    real.add_argument("--rival", choices=["measured", "extrapolated"], default="measured")
    real.set_defaults(call=mnist)
    runner = commands.add_parser("run")
    runner.add_argument("results")
    runner.add_argument("searcher", help="SCHEDULER+random, SCHEDULER+gp, keras-tuner, optuna, sha, 'screen at 3'")
    runner.set_defaults(call=run)
    printer = commands.add_parser("table")
    printer.add_argument("results")
    printer.set_defaults(call=table)
    for command in (runner, printer):
        command.add_argument("--tasks", type=int, nargs="+", default=list(range(12)))
        command.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    arguments = parser.parse_args()
    conditions.show()
    arguments.call(arguments)


if __name__ == "__main__":
    main()
