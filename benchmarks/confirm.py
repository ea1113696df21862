"""What confirming costs: executions that races save, and the wall clock. Whether 95 % is 95 %: see truth.py.

    python benchmarks/confirm.py            # both, without arguments
    python benchmarks/confirm.py fcnet      # 20 contenders, noise of 1 % as in FCNet: executions saved
    python benchmarks/confirm.py mnist      # the demo's 8 configurations on MNIST against model.fit one by one

`mnist` (KERAS_BACKEND=jax) trains up to 20 executions of each configuration. `model.fit` is timed on a few executions,
build and compilation included, and scaled to as many as the race took; the table says so.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from importlib import metadata

import conditions
import numpy as np
from lcbench import data_folder

from manyfit.evidence.decisions import decide
from manyfit.evidence.rules import RaceRules
from manyfit.evidence.runs import Runs


def fcnet(options: argparse.Namespace) -> None:
    """Prints the executions that races of 20 contenders save against uniform replication.

    Losses are those of well-trained configurations of FCNet (Klein and Hutter 2019) in shape: relative gaps to the
    best are exponential, here with means of 1 % and 5 %, and seeds move a loss by 1 % of itself.
    """
    print(f"20 contenders, noise 1 %, {options.searches} races each, up to {options.rounds} rounds")
    for gap in (0.01, 0.05):
        rng = np.random.default_rng([options.seed, round(1000 * gap)])
        shares, saved, covered = [], [], []
        for _ in range(options.searches):
            truths = 1 + np.concatenate([[0.0], rng.exponential(gap, 19)])
            losses = truths[:, None] * (1 + 0.01 * rng.standard_normal((20, options.rounds)))
            rules = RaceRules(20, max_rounds=options.rounds, confidence=options.confidence)
            standing = decide(Runs(losses), rules)
            used = [standing.dropped[one].round if one in standing.dropped else standing.rounds for one in range(20)]
            shares.append(sum(used) / losses.size)
            saved.append(1 - sum(used) / (20 * standing.rounds))
            covered.append(0 in standing.winning_set)
        print(
            f"gaps of {gap:.0%}: {np.median(shares):.2f} of {20 * options.rounds} executions (median), "
            f"{np.median(saved):.0%} saved against all 20 up to the race's own last round, "
            f"the best in the set in {np.mean(covered):.3f}"
        )


def build(hp):
    """The demo's space: 4 widths, 2 optimizers."""
    import keras

    model = keras.Sequential(
        [
            keras.layers.Input((784,)),
            keras.layers.Dense(hp.Int("units", 16, 64, step=16), activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(hp.Choice("optimizer", ["rmsprop", "adam"]), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def mnist(options: argparse.Namespace) -> None:
    """Prints the wall clock of confirming 8 configurations against `model.fit` one by one."""
    import keras

    import manyfit as kt

    with np.load(data_folder().parent / "mnist.npz") as archive:
        x, y = (archive["x_train"] / 255).astype("float32").reshape(-1, 784), archive["y_train"].astype("int32")
    data = (x[:50_000], y[:50_000])
    fit = {"validation_data": (x[50_000:], y[50_000:]), "batch_size": 128, "epochs": options.epochs, "verbose": 0}
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.RandomSearch(build, "val_accuracy", max_trials=8, seed=options.seed, directory=folder)
        tuner.search(*data, **fit)
        begin = time.perf_counter()
        confirmation = tuner.confirm(top=8, max_rounds=options.rounds)
        seconds = time.perf_counter() - begin
        values = [trial.hyperparameters for trial in tuner.oracle.trials.values()]
        tuner.close()
    print(confirmation)
    single = []
    for number in range(options.singles):
        keras.utils.clear_session()
        begin = time.perf_counter()
        build(values[number * 3 % len(values)].copy()).fit(*data, **fit)
        single.append(time.perf_counter() - begin)
    rival = float(np.mean(single)) * confirmation.num_executions
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("manyfit", "keras", "jax"))
    print(f"\nMNIST, {options.epochs} epochs each; {packages}, {os.cpu_count()} cores")
    print(f"confirm: {confirmation.num_executions} executions in {seconds:.1f} s")
    print(f"model.fit: {np.mean(single):.2f} s each (mean of {len(single)}), so {rival:.0f} s for as many (scaled)")
    print(f"ratio: {rival / seconds:.1f}")


def everything(options: argparse.Namespace) -> None:
    """Both tables."""
    for table in (fcnet, mnist):
        table(options)
        print()


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=everything)
    commands = parser.add_subparsers()
    parsers = [parser]
    for name, call in (("fcnet", fcnet), ("mnist", mnist)):
        command = commands.add_parser(name, help=call.__doc__)
        command.set_defaults(run=call)
        parsers.append(command)
    for command in parsers:
        command.add_argument("--searches", type=int, default=1000)
        command.add_argument("--rounds", type=int, default=20)
        command.add_argument("--confidence", type=float, default=0.95)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--epochs", type=int, default=5, help="of an execution on MNIST")
        command.add_argument("--singles", type=int, default=4, help="executions through model.fit that are timed")
    options = parser.parse_args()
    conditions.show()
    options.run(options)


if __name__ == "__main__":
    main()
