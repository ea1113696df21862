"""Quick compilation first, full compilation behind it; who gets a core first; what another process finds compiled."""

import json
import os
import subprocess
import sys
import threading
import types

import keras
import numpy as np
import pytest
from marks import needs_a_cpu, needs_jax

import manyfit as kt

pytestmark = [needs_jax, needs_a_cpu]
if keras.backend.backend() == "jax":
    import jax

    from manyfit.training.keras_internals import programs
    from manyfit.training.population.compile import Exchanges, Tiers, compile_function
    from manyfit.training.population.learned import Learned
    from manyfit.training.population.rounds import Cores, Rounds
    from manyfit.training.population.rows_pass import RowsPass
    from manyfit.training.population.session import Session

    _NOTE_TIME = Session._note_time

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 5)).astype("float32")
Y = (X[:, 0] > X[:, 1]).astype("int32")
EPOCHS = 5


def build(hp):
    model = keras.Sequential(
        [keras.layers.Input((5,)), keras.layers.Dense(6, "tanh"), keras.layers.Dense(2, "softmax")]
    )
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def searched(folder, monkeypatch, **options):
    """A tuner after a small search with caches of its own, and how its epochs were computed, in their order."""
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(folder.parent / "cache"))
    facts, original = [], _NOTE_TIME

    def note(self, outcome):
        facts.append(outcome.computed.run)
        original(self, outcome)

    monkeypatch.setattr(Session, "_note_time", note)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory=folder, **options)
    tuner.search(X, Y, epochs=EPOCHS, batch_size=16, validation_split=0.3, verbose=0)
    return tuner, facts


def curves(tuner):
    return [result.score for result in tuner.results()]


@pytest.fixture
def exchanges_at_once(monkeypatch):
    """Every pass is exchanged after its first run, without waiting for work that would pay for it."""

    def begins(self, work_left_seconds):
        assert work_left_seconds > 0 or self.tiers.tier == "full" or not self.tiers.seconds
        if self.tiers.tier == "quick" and self.tiers.seconds:
            self.exchange()
        return False

    monkeypatch.setattr(RowsPass, "begins_exchange", begins)
    monkeypatch.setattr(Tiers, "record", lambda self, tier, seconds: self.seconds.setdefault(tier, seconds))


def test_an_exchange_between_two_epochs_changes_last_bits_only_and_is_remembered(tmp_path, monkeypatch, request):
    quick, facts = searched(tmp_path / "quick", monkeypatch)
    assert all(fact.split()[1:3] == ["quick", "quick"] for fact in facts), "a short training is not worth more"
    assert [record.tier for record in quick.programs().records] == ["quick"]
    request.getfixturevalue("exchanges_at_once")
    exchanged, facts = searched(tmp_path / "exchanged", monkeypatch)
    assert facts[0].split()[1:3] == ["quick", "quick"] and facts[-1].split()[1:3] == ["full", "full"]
    assert [record.tier for record in exchanged.programs().records] == ["full"]
    np.testing.assert_allclose(curves(exchanged), curves(quick), rtol=1e-5)
    _, facts = searched(tmp_path / "again", monkeypatch)
    assert facts[0].split()[1] == "full"


def test_one_member_at_a_time_is_compiled_in_full_from_the_start(tmp_path, monkeypatch, exchanges_at_once):
    """`population_size=1` promises equal bits between runs, so nothing there may depend on timing."""
    _, facts = searched(tmp_path, monkeypatch, population_size=1)
    assert {tuple(fact.split()[1:]) for fact in facts} == {("full", "full", "1")}


def test_what_runs_faster_as_it_was_compiled_quickly_goes_back():
    tiers = Tiers("quick")
    tiers.record("quick", 1.0)
    tiers.tier = "full"
    tiers.record("full", 1.3)
    assert tiers.tier == "full"  # one run may have been disturbed
    tiers.record("full", 1.2)
    assert tiers.tier == "quick"
    faster = Tiers("quick")
    for tier, seconds in (("quick", 1.0), ("full", 0.8), ("full", 0.9)):
        faster.record(tier, seconds)
    assert faster.tier == "full"


def test_exchanges_learn_what_compiling_costs():
    exchanges = Exchanges()
    assert exchanges.pays(20.0, compile_seconds=1.0)
    exchanges.record_cost(quick=1.0, full=4.0)
    assert not exchanges.pays(20.0, compile_seconds=1.0)
    # What was read from a cache took no time, which says nothing of the full compilation.
    assert not exchanges.pays(6.0, compile_seconds=0.001)


def test_what_is_to_train_many_numbers_is_compiled_in_full_at_once():
    steps = types.SimpleNamespace(num_trained=300_000)
    tiers = [Learned().first_tier(steps, epochs * 157, together=True, remaining=0) for epochs in (5, 10)]
    assert tiers == ["quick", "full"]


def test_the_same_function_is_compiled_again_without_a_trace():
    traces = []

    def function(x):
        traces.append(x)
        return jax.numpy.sin(x) * 2

    quick = compile_function(function, (np.ones(8, "float32"),), effort="quick")
    full = quick.again("full")
    assert len(traces) == 1
    np.testing.assert_allclose(full.call(np.ones(8, "float32")), quick.call(np.ones(8, "float32")), rtol=1e-6)


@pytest.mark.parametrize("has_emitters_flag", [True, False])
def test_quick_options_with_and_without_the_older_emitters(monkeypatch, has_emitters_flag):
    lowered = type(jax.jit(abs).lower(0.0))
    honest = lowered.compile

    def asked(self, compiler_options=None):
        if "xla_cpu_use_fusion_emitters" in (compiler_options or {}) and not has_emitters_flag:
            raise RuntimeError("INVALID_ARGUMENT: no such compile option")
        return honest(self, {k: v for k, v in (compiler_options or {}).items() if "emitters" not in k} or None)

    programs.quick_options.cache_clear()
    monkeypatch.setattr(lowered, "compile", asked)
    try:
        found = programs.quick_options("2", "1")
        expected = {"xla_backend_optimization_level": "2", "xla_cpu_use_fusion_emitters": False}
        assert found == (expected if has_emitters_flag else {"xla_backend_optimization_level": "1"})
        assert compile_function(abs, (np.float32(-2.0),), effort="quick").call(np.float32(-2.0)) == 2.0
    finally:
        programs.quick_options.cache_clear()


def test_training_gets_a_core_before_compilations_do():
    cores, order, started = Cores(1), [], []

    def take(rank):
        started.append(rank)
        with cores.taken(rank):
            order.append(rank)

    threads = [threading.Thread(target=take, args=(rank,)) for rank in (2, 1, 0, 1)]
    with cores.taken(0):
        for thread in threads:
            thread.start()
        while cores.num_waiting < len(threads):
            threading.Event().wait(0.001)
        assert not order
    for thread in threads:
        thread.join()
    assert order == [0, 1, 1, 2]


PROGRAM = """
import json, sys
import jax, keras, numpy as np
import manyfit as kt
from manyfit.training.population import compile as compiling

events, wanted = [], []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))
own = compiling.compiled_from
def counted(*arguments, **options):
    before = len(events)
    found = own(*arguments, **options)
    wanted.append("cache_hits" in events[before:])
    return found
compiling.compiled_from = counted
from manyfit.training.population import sharding
def build(hp):
    layers = keras.layers
    model = keras.Sequential([layers.Input((5,)), layers.Dense(6), layers.Dropout(0.2), layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1)), "sparse_categorical_crossentropy")
    return model
x = np.random.default_rng(0).normal(size=(70, 5)).astype("float32")
tuner = kt.RandomSearch(build, "val_loss", max_trials=1, seed=0, directory=sys.argv[1])
tuner.search(x, (x[:, 0] > 0).astype("int32"), epochs=1, batch_size=16, validation_split=0.3, verbose=0)
print(json.dumps(wanted))
"""


def test_another_process_finds_all_programs_compiled(tmp_path):
    """What breaks: where the cache on disk is never hit (jax#38445), a second search compiles everything again."""
    environment = {**os.environ, "KERAS_BACKEND": "jax", "MANYFIT_CACHE_DIR": str(tmp_path / "cache")}
    found = []
    for number in range(2):
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path / str(number))],
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr
        found.append(json.loads(run.stdout.splitlines()[-1]))
    first, second = found
    assert len(first) == len(second) > 1
    assert not any(first) and all(second)


class Due:
    """A pass whose steps are to be compiled in full, which notes what happens to it."""

    def __init__(self, started=None, go_on=None):
        self.heard, self._started, self._go_on = [], started, go_on

    def exchange(self):
        if self._started is not None:
            self._started.set()
            self._go_on.wait(30)
        self.heard.append("exchanged")

    def forgo_exchange(self):
        self.heard.append("forgone")


def test_the_end_of_a_search_waits_for_one_exchange_and_not_for_those_behind_it():
    started, go_on = threading.Event(), threading.Event()
    first, second = Due(started, go_on), Due()
    rounds = Rounds(order_of=lambda member: (0, 0))
    threads = [threading.Thread(target=rounds.exchange, args=(due,)) for due in (first, second)]
    threads[0].start()
    assert started.wait(30)
    threads[1].start()
    rounds.close()
    go_on.set()
    for thread in threads:
        thread.join()
    assert (first.heard, second.heard) == (["exchanged"], ["forgone"])
