"""Proposals that mind what they cost, as `fit` has an oracle make them."""

from __future__ import annotations

import pytest

import manyfit as kt
from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.records import Ending, Plan, Result
from manyfit.oracles.oracle import Oracle
from manyfit.oracles.searches import BayesianOptimizationOracle, RandomSearchOracle, SearchOracle
from manyfit.store import ProjectStore


class Times:
    """A time that only tests move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def space_of_layers() -> kt.HyperParameters:
    space = kt.HyperParameters()
    space.Int("layers", 1, 6)
    space.Float("learning_rate", 1e-5, 1e-1, sampling="log")
    return space


def oracle_of(kind: type[RandomSearchOracle], **arguments: object) -> RandomSearchOracle:
    return kind(objective="loss", max_trials=None, seed=0, hyperparameters=space_of_layers(), **arguments)


def run(oracle: Oracle, times: Times, loss: float) -> kt.Trial:
    """One trial of one second, whose structure has its number of layers; a new one takes 4.5 seconds more."""
    (trial,) = oracle.assign(1)
    layers = trial.hyperparameters.values["layers"]
    is_new = all(other.hyperparameters.values["layers"] != layers for other in list(oracle.trials.values())[:-1])
    times.seconds += 1.0 + 4.5 * is_new
    costs = Costs(f"{layers} layers", compile=4.5, epoch=0.1)
    plan = Plan(trial.trial_id, 0, trial.hyperparameters, 1)
    oracle.book.add_execution(Result(plan, Ending.COMPLETED, {"loss": [loss] * 10}, costs=costs))
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
    return trial


def started(times: Times, max_seconds: float = 60.0) -> Clock:
    clock = Clock(max_seconds, now=times)
    clock.start()
    return clock


@pytest.mark.parametrize("kind", [RandomSearchOracle, BayesianOptimizationOracle, SearchOracle])
def test_a_search_of_a_minute_begins_where_the_table_says_and_opens_two_structures_at_most(kind) -> None:
    oracle, times = oracle_of(kind), Times()
    oracle.proposals.mind_costs(started(times))
    trials = [run(oracle, times, loss) for loss in (0.9, 0.5, 0.6, 0.55, 0.7, 0.6, 0.58, 0.61)]
    values = [trial.hyperparameters.values for trial in trials]
    assert values[0] == {"layers": 2, "learning_rate": 1e-3}
    assert len({each["layers"] for each in values}) <= 2
    assert len({each["learning_rate"] for each in values}) == 8


def test_without_beliefs_it_begins_with_the_defaults_and_still_stays() -> None:
    oracle, times = oracle_of(RandomSearchOracle), Times()
    oracle.proposals.mind_costs(started(times), beliefs=False)
    first, second = (run(oracle, times, 0.5).hyperparameters.values for _ in range(2))
    assert first == {"layers": 1, "learning_rate": 1e-5} and second["layers"] == 1
    assert oracle.proposals.beliefs == []


def test_beliefs_are_told_to_people() -> None:
    oracle = oracle_of(SearchOracle, beliefs=[kt.Belief("layers", 4)])
    assert oracle.proposals.beliefs == []
    oracle.proposals.mind_costs(Clock(60))
    layers, rate = map(str, oracle.proposals.beliefs)
    assert layers == "layers near 4: your belief" and rate.startswith("learning_rate near 0.001: Keras's default")


def test_what_a_proposal_saw_of_time_is_stored_with_its_trial(tmp_path) -> None:
    oracle, times = oracle_of(RandomSearchOracle), Times()
    store = ProjectStore(tmp_path)
    oracle.open(store)
    oracle.proposals.mind_costs(started(times), compile_seconds=3.0)
    oracle.enqueue({"layers": 5})
    for loss in (0.5, 0.6):
        run(oracle, times, loss)
    store.close()
    again, store = oracle_of(RandomSearchOracle), ProjectStore(tmp_path)
    again.open(store)
    own, proposed = again.trials.values()
    store.close()
    assert own.moment is None, "the user's own configuration saw nothing"
    assert proposed.moment == {"seconds": 60.0, "seconds_left": 54.5, "compile_seconds": 3.0}


def test_before_and_after_it_is_the_search_of_today() -> None:
    plain, minding, times = oracle_of(RandomSearchOracle), oracle_of(RandomSearchOracle), Times()
    minding.proposals.mind_costs(started(times))
    minding.proposals.mind_costs(None)
    for _ in range(4):
        assert run(plain, times, 0.5).hyperparameters.values == run(minding, times, 0.5).hyperparameters.values


def test_without_a_limit_only_beliefs_count() -> None:
    oracle, times = oracle_of(RandomSearchOracle), Times()
    oracle.proposals.mind_costs(Clock(now=times))
    layers = {run(oracle, times, 0.5).hyperparameters.values["layers"] for _ in range(8)}
    assert len(layers) > 2
