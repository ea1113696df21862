"""What workers do to the order of a search: nothing to the set, and what learns can be replayed."""

from __future__ import annotations

import threading

import pytest
import tiny

import manyfit as kt
from manyfit.core.records import Ending, Plan, Result
from manyfit.testing.executors import ThreadExecutor

BOTH_RUN = threading.Barrier(2)


def space() -> kt.HyperParameters:
    hp = kt.HyperParameters()
    hp.Float("a", 0.0, 1.0)
    hp.Float("b", 0.0, 1.0)
    return hp


def loss_of(values) -> float:
    return (values["a"] - 0.3) ** 2 + (values["b"] - 0.6) ** 2


class Recorded(kt.BayesianOptimization):
    """Trials of a formula; remembers which began and ended when. The first ends after the second one has begun."""

    def __init__(self, *args, **kwargs):
        self.events: list[tuple[str, str]] = []
        super().__init__(*args, **kwargs)

    def run_trial(self, trial, *args, **kwargs):
        if trial.trial_id in ("0", "1"):
            BOTH_RUN.wait(200)
        return {"loss": loss_of(trial.hyperparameters.values)}

    def on_trial_begin(self, trial):
        self.events.append(("begin", trial.trial_id))
        super().on_trial_begin(trial)

    def on_trial_end(self, trial):
        super().on_trial_end(trial)
        self.events.append(("end", trial.trial_id))


def recorded(directory, name, executor=None):
    return Recorded(
        objective="loss",
        max_trials=8,
        num_initial_points=4,
        seed=3,
        hyperparameters=space(),
        directory=directory,
        project_name=name,
        executor=executor,
    )


def test_a_search_that_learns_can_be_replayed_from_the_order_of_its_events(tmp_path):
    tuner = recorded(tmp_path, "workers", ThreadExecutor(3))
    tuner.search(verbose=0)
    tuner.close()
    events = list(tuner.events)
    assert len(events) == 16 and events != sorted(events, key=lambda event: event[1]), "trials overlapped"
    replayed = recorded(tmp_path, "replayed")
    supply = replayed.trial_supply()
    for kind, trial_id in events:
        if kind == "begin":
            [plan] = supply.take(1)
            assert plan.trial_id == trial_id
            continue
        trial = replayed.oracle.trials[trial_id]
        history = {"loss": [loss_of(trial.hyperparameters.values)]}
        plan = Plan(trial_id, 0, trial.hyperparameters, 0)
        supply.finish(Result(plan, Ending.COMPLETED, {}, histories=[history]))
    assert tiny.proposals(replayed) == tiny.proposals(tuner)
    assert replayed.oracle.end_order == tuner.oracle.end_order


@pytest.mark.parametrize("kind", [kt.RandomSearch, kt.QuasiRandomSearch, kt.GridSearch])
def test_methods_that_do_not_learn_try_the_same_set(tmp_path, kind):
    hp = kt.HyperParameters()
    hp.Float("a", 0.0, 1.0, step=0.25)
    found = []
    for name, executor in (("here", None), ("there", ThreadExecutor(3))):
        tuner_class = type(
            "Formula", (kind,), {"run_trial": lambda self, trial: {"loss": trial.hyperparameters.get("a")}}
        )
        tuner = tuner_class(
            objective="loss",
            max_trials=5,
            seed=1,
            hyperparameters=hp.copy(),
            directory=tmp_path,
            project_name=name,
            executor=executor,
        )
        tuner.search()
        tuner.close()
        found.append(sorted(map(str, tiny.proposals(tuner))))
    assert found[0] == found[1] and len(set(found[0])) == 5
