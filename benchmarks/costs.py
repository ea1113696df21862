"""A minute in which compiling counts: samplers that mind what proposals cost against the same ones that do not.

    python benchmarks/costs.py                       all, about half an hour
    python benchmarks/costs.py --tasks 0 3 --seeds 0 --samplers random

The landscape is LCBench's (12 development tasks, seven hyperparameters of an MLP), the seconds are simulated, so that
nothing depends on the machine: a configuration trains for ten epochs of .1 s, and one whose structure was not there
before waits 4.5 s for its program. Defaults are the lowest corner, as where nobody types any.

Two kinds of programs: one for each batch size, depth and width; and wide ones, which differ in the batch size alone.
What is shown is the regret of the best configuration of the search (0: the best known, 1: the median of random ones),
the mean over tasks and seeds, how it differs from the same sampler left alone (with the standard error of the mean
difference over tasks), and how many trials and structures there were.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence

import conditions
import numpy as np
from lcbench import Benchmark, Parameter, Reference

from manyfit.core import seeds
from manyfit.core.costs import Costs
from manyfit.core.environment import one_thread
from manyfit.core.records import Ending, Observation, Value, Values
from manyfit.samplers.base import Sampler
from manyfit.samplers.costed import Moment, minding_costs
from manyfit.samplers.evolution import EvolutionSampler
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.non_adaptive import RandomSampler
from manyfit.space.hyperparameters import HyperParameters

SECONDS, COMPILE, EPOCH, EPOCHS, BUILD = 60.0, 4.5, 0.1, 10, 0.1
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "random": RandomSampler,
    "evolution": EvolutionSampler,
    "gp": GaussianProcessSampler,
}
PROGRAMS: dict[str, tuple[str, ...]] = {
    "a program per batch size, depth and width": ("batch_size", "num_layers", "max_units"),
    "wide programs, one per batch size": ("batch_size",),
}
WAYS = ("alone", "minding costs", "minding costs, with beliefs")


@dataclasses.dataclass(frozen=True)
class Found:
    """What one search came to."""

    regret: float
    num_trials: int
    num_structures: int


def space_of(parameters: Sequence[Parameter]) -> HyperParameters:
    """The space as a user writes it, without defaults."""
    space = HyperParameters()
    for each in parameters:
        sampling = "log" if each.log else "linear"
        if each.whole:
            space.Int(each.name, int(each.lower), int(each.upper), sampling=sampling)
        else:
            space.Float(each.name, each.lower, each.upper, sampling=sampling)
    return space


def proposer(sampler: Sampler, space: HyperParameters, way: str, spent: float) -> Sampler:
    """Who proposes after so many seconds."""
    if way == "alone":
        return sampler
    moment = Moment(SECONDS, SECONDS - spent, COMPILE)
    return minding_costs(sampler, space, moment, holds_beliefs=way.endswith("beliefs"))


def searched(
    sampler: Sampler, space: HyperParameters, loss: Callable[[Values], float], opens: Sequence[str], way: str, seed: int
) -> tuple[list[float], int]:
    """One search of a minute: the losses of the trials that ended in it, and how many structures were compiled."""
    spent, history, compiled = 0.0, list[Observation](), set[str]()
    while True:
        number = len(history)
        rng = seeds.generator(seed, "sampler", number)
        proposals = proposer(sampler, space, way, spent).propose(space, history, [], 1, rng)
        if not proposals:
            return [each.loss for each in history], len(compiled)
        values: dict[str, Value] = proposals[0]
        structure = json.dumps([values[name] for name in opens])
        spent += BUILD + EPOCHS * EPOCH + COMPILE * (structure not in compiled)
        if spent > SECONDS:
            return [each.loss for each in history], len(compiled)
        compiled.add(structure)
        costs = Costs(structure, build=BUILD, compile=COMPILE, epoch=EPOCH)
        ended = (f"{number:04d}", values, Ending.COMPLETED, (loss(values),))
        history.append(Observation(*ended, epochs=EPOCHS, costs=costs))


def found(
    benchmark: Benchmark, reference: Reference, task: str, name: str, opens: Sequence[str], way: str, seed: int
) -> Found:
    """What a search on a task came to."""
    names = [each.name for each in benchmark.parameters]

    def loss(values: Values) -> float:
        return -float(benchmark.accuracy(task, np.array([[values[each] for each in names]], dtype=float))[0])

    space = space_of(benchmark.parameters)
    with one_thread():
        losses, num_structures = searched(SAMPLERS[name](), space, loss, opens, way, seed)
    return Found(float(reference.regret(np.array([-min(losses)]))[0]), len(losses), num_structures)


def line(way: str, runs: Sequence[Sequence[Found]], alone: Sequence[Sequence[Found]]) -> str:
    """One row of the table: runs by task and seed."""

    def means(of: Sequence[Sequence[Found]]) -> np.ndarray:
        return np.array([np.mean([each.regret for each in task]) for task in of])

    gain = means(runs) - means(alone)
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else float("nan")
    difference = "" if way == "alone" else f"{gain.mean():+.3f} ± {error:.3f}"
    every = [each for task in runs for each in task]
    trials, structures = (np.mean([getattr(each, name) for each in every]) for name in ("num_trials", "num_structures"))
    return f"| {way} | {means(runs).mean():.3f} | {difference} | {trials:.0f} | {structures:.1f} |"


def main() -> None:
    """Prints a table per kind of program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, nargs="*", default=range(12))
    parser.add_argument("--seeds", type=int, nargs="*", default=range(3))
    parser.add_argument("--samplers", nargs="*", choices=list(SAMPLERS), default=list(SAMPLERS))
    arguments = parser.parse_args()
    conditions.show()
    benchmark = Benchmark()
    tasks = [benchmark.tasks[number] for number in arguments.tasks]
    references = [benchmark.reference(task) for task in tasks]
    for title, opens in PROGRAMS.items():
        for name in arguments.samplers:
            print(f"\n**{name}**, {title}\n")
            print("| | regret | against alone | trials | structures |")
            print("|---|---|---|---|---|")
            alone: list[list[Found]] = []
            for way in WAYS:
                runs = [
                    [
                        found(benchmark, reference, task, name, opens, way, seeds.seed_of(seed, task))
                        for seed in arguments.seeds
                    ]
                    for task, reference in zip(tasks, references, strict=True)
                ]
                alone = alone or runs
                print(line(way, runs, alone), flush=True)


if __name__ == "__main__":
    main()
