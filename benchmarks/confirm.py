"""Does confirming hold what it says? Simulated searches, then races between their finalists.

Each simulated search has 100 trials with known truths, sees them once through noise, and sends its best eight to a
race of `manyfit.stats.racing`. The winner then runs `--proof` further seeds. The table says, per shape:

- coverage: how often the truly best finalist is in the winning set (stated: `--confidence`),
- the size of the winning set, and how often one is left or the rest cannot be told apart,
- executions against uniform replication (all finalists, all rounds, the same test), and how often that decides the
  same: the same winning set,
- the error of three scores of the recommended finalist (score - truth, in standard deviations of the noise): its
  search score, its mean in the race, its mean over the proof runs.

    python benchmarks/confirm.py            # all three, without arguments
    python benchmarks/confirm.py simulate   # the table, about ten seconds per 1,000 searches and shape
    python benchmarks/confirm.py fcnet      # 20 contenders, noise of 1 % as in FCNet: executions saved
    python benchmarks/confirm.py mnist      # the demo's 8 configurations on MNIST against model.fit one by one

`mnist` (KERAS_BACKEND=jax) trains up to 30 executions of each configuration. `model.fit` is timed on a few executions,
build and compilation included, and scaled to as many as the race took; the table says so.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import tempfile
import time
from importlib import metadata

import numpy as np
from lcbench import data_folder

from manyfit.stats.racing import Verdict, race

NUM_TRIALS = 100
NUM_PROOF_REPEATS = 25  # the proof is repeated per search, so that the mean error is known to 1/5 of its s.e.


@dataclasses.dataclass(frozen=True)
class Case:
    """Truths of the trials and the law of the noise."""

    name: str
    finalists: int = 8
    truth_spread: float = 2.0  # in standard deviations of the noise of one execution
    gap: float | None = None  # one winner: all others worse by this much
    tail: float | None = None  # degrees of freedom of t-distributed noise; None: normal
    noise_range: float = 1.0  # standard deviations are log-uniform in [1 / range, range]


CASES = (
    Case("equal means", truth_spread=0.0),
    Case("one winner", truth_spread=0.0, gap=2.0),
    Case("spread", truth_spread=2.0),
    Case("heavy tails", tail=3.0),
    Case("heavy, equal", truth_spread=0.0, tail=3.0),
    Case("heteroscedastic", noise_range=3.0),
    Case("hetero, equal", truth_spread=0.0, noise_range=3.0),
    Case("spread, 20", finalists=20),
)


def draw_noise(case: Case, scales: np.ndarray, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Noise of the finalists plus a part that all runs of a seed share, shape (finalists, seeds)."""
    if case.tail is None:
        own = rng.standard_normal(shape)
    else:
        own = rng.standard_t(case.tail, shape) / math.sqrt(case.tail / (case.tail - 2))
    return scales[:, None] * own + 0.5 * rng.standard_normal((1, shape[1]))


@dataclasses.dataclass
class Tally:
    """What happened in the searches of one case."""

    covered: list[bool] = dataclasses.field(default_factory=list)
    sizes: list[int] = dataclasses.field(default_factory=list)
    verdicts: list[Verdict | None] = dataclasses.field(default_factory=list)
    shares: list[float] = dataclasses.field(default_factory=list)
    same: list[bool] = dataclasses.field(default_factory=list)
    search_errors: list[float] = dataclasses.field(default_factory=list)
    race_errors: list[float] = dataclasses.field(default_factory=list)
    proof_errors: list[float] = dataclasses.field(default_factory=list)
    proof_means: list[float] = dataclasses.field(default_factory=list)


def one_search(case: Case, tally: Tally, options: argparse.Namespace, rng: np.random.Generator) -> None:
    """Simulates a search, its race and the proof of the recommended finalist."""
    truths = case.truth_spread * rng.standard_normal(NUM_TRIALS)
    if case.gap is not None:
        truths = np.where(np.arange(NUM_TRIALS) == 0, 0.0, case.gap)
    scales = np.exp(rng.uniform(-1, 1, NUM_TRIALS) * math.log(case.noise_range))
    seen = truths + draw_noise(case, scales, (NUM_TRIALS, 1), rng)[:, 0]
    if case.gap is not None:
        seen[0] = -math.inf  # the winner is always a finalist; its search score is not used
    finalists = np.argsort(seen, kind="stable")[: case.finalists]
    # Among equal truths the first finalist is "the best", but the search must not have chosen it for its luck.
    best = int(truths[finalists].argmin()) if case.truth_spread or case.gap else int(rng.integers(case.finalists))
    losses = truths[finalists, None] + draw_noise(case, scales[finalists], (case.finalists, options.rounds), rng)
    standing = race(losses, confidence=options.confidence, max_rounds=options.rounds)
    winner = standing.recommended
    tally.covered.append(best in standing.winning_set)
    tally.sizes.append(len(standing.winning_set))
    tally.verdicts.append(standing.verdict)
    tally.shares.append(standing.num_executions / losses.size)
    uniform = race(losses, confidence=options.confidence, max_rounds=options.rounds, futility=0.0)
    tally.same.append(set(uniform.winning_set) == set(standing.winning_set))
    # A search reports its best score.
    if case.gap is None:
        tally.search_errors.append(float(seen[finalists[0]] - truths[finalists[0]]))
    tally.race_errors.append(float(losses[winner, : standing.rounds].mean() - truths[finalists[winner]]))
    own = scales[finalists[winner] : finalists[winner] + 1]
    proofs = [draw_noise(case, own, (1, options.proof), rng).mean() for _ in range(NUM_PROOF_REPEATS)]
    tally.proof_errors.append(float(np.mean(proofs)))
    tally.proof_means.append(float(proofs[0]))


def simulate(options: argparse.Namespace) -> None:
    """Prints the table."""
    print(f"{options.searches} searches per shape, confidence {options.confidence}, up to {options.rounds} rounds,")
    print(f"{options.proof} proof runs; errors in units of the noise, +- one standard error of the simulation\n")
    print(
        f"{'shape':16s} {'coverage':>14s} {'set':>5s} {'one':>5s} {'tied':>5s} {'executions':>11s} {'same':>5s} "
        f"{'search score':>15s} {'race score':>15s} {'proof score':>16s}"
    )
    for number, case in enumerate(CASES):
        rng = np.random.default_rng([options.seed, number])
        tally = Tally()
        for _ in range(options.searches):
            one_search(case, tally, options, rng)
        count = options.searches
        coverage = np.mean(tally.covered)
        tied = np.mean([verdict is Verdict.CANNOT_BE_TOLD_APART for verdict in tally.verdicts])
        one = np.mean([verdict is Verdict.ONE_LEFT for verdict in tally.verdicts])
        # The mean error is averaged over repeated proofs; its yardstick is one proof per search.
        proof_error = np.std(tally.proof_means, ddof=1) / math.sqrt(count)
        print(
            f"{case.name:16s} {coverage:7.3f} +-{math.sqrt(coverage * (1 - coverage) / count):.3f} "
            f"{np.mean(tally.sizes):5.2f} {one:5.2f} {tied:5.2f} {np.median(tally.shares):11.2f} "
            f"{np.mean(tally.same):5.2f} "
            f"{_mean(tally.search_errors):>15s} {_mean(tally.race_errors):>15s} "
            f"{np.mean(tally.proof_errors):+8.4f} +-{proof_error:.4f}",
            flush=True,
        )


def _mean(errors: list[float]) -> str:
    if not errors:
        return "-"
    return f"{np.mean(errors):+.3f} +-{np.std(errors, ddof=1) / math.sqrt(len(errors)):.3f}"


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
            standing = race(losses, confidence=options.confidence, max_rounds=options.rounds)
            shares.append(standing.num_executions / losses.size)
            saved.append(1 - standing.num_executions / (20 * standing.rounds))
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
    """All three tables."""
    for table in (simulate, fcnet, mnist):
        table(options)
        print()


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.set_defaults(run=everything)
    commands = parser.add_subparsers()
    parsers = [parser]
    for name, call in (("simulate", simulate), ("fcnet", fcnet), ("mnist", mnist)):
        command = commands.add_parser(name, help=call.__doc__)
        command.set_defaults(run=call)
        parsers.append(command)
    for command in parsers:
        command.add_argument("--searches", type=int, default=1000)
        command.add_argument("--rounds", type=int, default=30)
        command.add_argument("--proof", type=int, default=10)
        command.add_argument("--confidence", type=float, default=0.95)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--epochs", type=int, default=5, help="of an execution on MNIST")
        command.add_argument("--singles", type=int, default=4, help="executions through model.fit that are timed")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
