"""Members that pass a limit fail by themselves; memory that runs out makes the population smaller first."""

from __future__ import annotations

import threading
import time

import keras
import numpy as np
import pytest
from marks import needs_jax

from manyfit.core.clock import Clock
from manyfit.core.limits import TrialLimits
from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan
from manyfit.data.call import Call
from manyfit.testing.fakes import ListSupply
from manyfit.training.base import Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population
from manyfit.training.population import session as session_module
from manyfit.training.population.rounds import Cores, Rounds

pytestmark = needs_jax

X = np.random.default_rng(3).normal(size=(32, 3)).astype("float32")
Y = X[:, :1] - X[:, 1:2]


def build(hp):
    """Of two structures, so that they train in two programs."""
    layers = [keras.layers.Dense(2, name="hidden")] * hp.get("deep", 0)
    model = keras.Sequential([keras.layers.Input((3,)), *layers, keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp["rate"]), "mse")
    return model


def plans(*deep):
    return [Plan(str(n), 0, {"rate": 0.01 * (n + 1), "deep": one}, seed=n) for n, one in enumerate(deep)]


def trained(work, said=None, build=build, supply=None, epochs=2, **changes):
    call = Call((X, Y), {"epochs": epochs, "batch_size": 16, "validation_data": (X, Y), "verbose": 0})
    supply = supply or ListSupply(work)
    notify = print if said is None else said.append
    trainer = Population(KerasFit(notify), population_size=4, notify=notify)
    trainer.train(supply, Task(build, call, Objective("val_loss", "min"), **changes))
    return [supply.results[plan.key] for plan in work]


def endings(results):
    return [result.ending for result in results]


class HangingTime:
    """Time as it goes, and a long while later once only what hangs is left."""

    def __init__(self):
        self.skipped = 0.0

    def __call__(self):
        return time.monotonic() + self.skipped


def test_a_program_that_does_not_come_back_fails_its_members_and_the_others_go_on(monkeypatch):
    times, released, rest = HangingTime(), threading.Event(), threading.Event()
    honest, left = Rounds._prepared, {"members": 2}

    def prepared(self, kind, batch, states, *rank):
        found = honest(self, kind, batch, states, *rank)
        if batch.members[0].plan.trial_id == "1":
            assert rest.wait(120)
            times.skipped = 1e6
            released.wait(120)
        return found

    class Counting(ListSupply):
        def finish(self, result):
            super().finish(result)
            left["members"] -= 1
            if not left["members"]:
                rest.set()

    monkeypatch.setattr(Rounds, "_prepared", prepared)
    work = plans(0, 1, 0)
    limits = TrialLimits(max_seconds=1e5)
    found = trained(work, supply=Counting(work), limits=limits, clock=Clock(now=times))
    released.set()
    assert endings(found) == [Ending.COMPLETED, Ending.TOO_SLOW, Ending.COMPLETED]
    assert "max_seconds_per_trial=100000" in found[1].message and "in one epoch" in found[1].message


def test_members_count_what_they_took_themselves(monkeypatch):
    """An epoch that is timed as long, of one member: the other trains beside it in the same program."""
    closed = session_module.Session._close_epoch

    def timed(self, member, number, outcome):
        member.seconds += 50.0 if member.plan.trial_id == "1" else 0.0
        return closed(self, member, number, outcome)

    monkeypatch.setattr(session_module.Session, "_close_epoch", timed)
    slow = trained(plans(0, 0, 0), limits=TrialLimits(max_seconds=40.0))
    assert endings(slow) == [Ending.COMPLETED, Ending.TOO_SLOW, Ending.COMPLETED] and slow[1].num_epochs == 1
    fast = trained(plans(0, 0, 0), limits=TrialLimits(max_seconds=120.0))
    assert endings(fast) == [Ending.COMPLETED] * 3


def test_memory_that_runs_out_at_a_build_halves_the_population_before_a_trial_fails():
    said, tried = [], []

    def heavy(hp):
        tried.append(hp["rate"])
        if len(tried) in (3, 4):  # beside others, and once more
            raise MemoryError("no room")
        return build(hp)

    assert endings(trained(plans(0, 0, 0, 0), said, heavy)) == [Ending.COMPLETED] * 4
    assert any("out of memory with" in line for line in said), said

    def hopeless(hp):
        if hp["rate"] > 0.035:
            raise MemoryError("no room")
        return build(hp)

    assert endings(trained(plans(0, 0, 0, 0), None, hopeless)) == [Ending.COMPLETED] * 3 + [Ending.OUT_OF_MEMORY]


@pytest.mark.parametrize("is_hopeless", [False, True], ids=["beside others", "alone"])
def test_a_process_that_holds_too_much_trains_fewer_at_once_and_then_fails_one(is_hopeless, monkeypatch):
    said = []

    class Watch(session_module.MemoryWatch):
        looks = 0

        def start(self):
            pass

        def excess(self):
            type(self).looks += 1
            return 3 << 30 if type(self).looks == 1 or is_hopeless else None

    monkeypatch.setattr(session_module, "MemoryWatch", Watch)
    found = endings(trained(plans(0, 0, 0, 0), said, epochs=4, limits=TrialLimits(max_memory_bytes=2 << 30)))
    assert any(
        "holds 3.0 GiB (max_memory=2.0 GiB) with 4 members at once; from now on at most 2" in line for line in said
    )
    if not is_hopeless:
        assert found == [Ending.COMPLETED] * 4
    else:
        assert Ending.OUT_OF_MEMORY in found and set(found) <= {Ending.COMPLETED, Ending.OUT_OF_MEMORY}


def test_a_core_is_lent_while_somebody_is_at_it_who_is_waited_for_no_more():
    cores = Cores(1)
    with cores.taken(0):
        cores.lend()
        with cores.taken(0):  # would wait for ever
            pass
    with cores.taken(0):
        assert cores.num_waiting == 0 and cores._idle == 0
    assert cores._idle == 1
