"""What the last bits of a member's numbers depend on, and that a killed search trains what it knows to the very bit."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import populations
import pytest
from deaths import Death, Killed
from marks import needs_a_cpu, needs_jax

import manyfit as kt
from manyfit.core.records import Plan
from manyfit.store import ProjectStore
from manyfit.testing.fakes import ListSupply
from manyfit.training.population import Population

pytestmark = [needs_jax, needs_a_cpu]
if keras.backend.backend() == "jax":
    import jax  # noqa: F401  # `needs_a_cpu` asks it

    from manyfit.training.population import replaying
    from manyfit.training.population.arrays import Order
    from manyfit.training.population.compile import Tiers
    from manyfit.training.population.grouping import Batch
    from manyfit.training.population.layout import Layout
    from manyfit.training.population.rounds import Rounds
    from manyfit.training.population.rows_pass import RowsPass

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 9)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
FIT = {"epochs": 3, "batch_size": 16, "validation_data": (X[:30], Y[:30]), "verbose": 0}


def build(hp):
    model = keras.Sequential([keras.layers.Input((9,))])
    for number in range(hp.Int("layers", 1, 2)):
        model.add(keras.layers.Dense(hp.Int(f"units {number}", 8, 40, step=16), activation="tanh"))
    model.add(keras.layers.Dense(2, activation="softmax"))
    rate = hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


# What bits depend on ------------------------------------------------------------------------------------------------


class Caught(BaseException):
    """The members are there."""


@pytest.fixture(scope="module")
def members():
    """Four members of one program before their first epoch, and what orders their rows."""
    caught = []

    def start(rounds, batches):
        caught.append((rounds, [member for batch in batches for member in batch.members]))
        raise Caught

    def plain(hp):
        layers = [keras.layers.Dense(40, "relu"), keras.layers.Dropout(0.2), keras.layers.Dense(24, "tanh")]
        model = keras.Sequential([keras.layers.Input((9,)), *layers, keras.layers.Dense(2, "softmax")])
        model.compile(keras.optimizers.Adam(hp["rate"]), "sparse_categorical_crossentropy")
        return model

    with pytest.MonkeyPatch.context() as patched, pytest.raises(Caught):
        patched.setattr(Rounds, "start", start)
        task = populations.make_task(plain, lambda: (X, Y), FIT)
        plans = [Plan(str(n), 0, {"rate": 1e-3 * (n + 1)}, seed=n) for n in range(4)]
        populations.train(Population(populations.NoFallback()), task, plans)
    rounds, found = caught[0]
    return rounds, sorted(found, key=lambda member: member.plan.trial_id)


def trained(rounds, slots, layout, tier, *, own_order=False):
    """The bits of the first member, wherever it stands, after two epochs."""
    first = min(slots, key=lambda member: member.plan.trial_id)
    batch = Batch(first.program, tuple(slots), layout, len(slots))
    states, place = batch.states(), slots.index(first)
    order, _ = rounds._order("train", batch)
    if own_order:
        order = Order(order.leaves, *(np.stack([part] * len(slots)) for part in (order.numbers, order.num_rows)))
    program = first.program.rows_pass("train", layout, len(slots), own_order=own_order)
    lifted = program.lifted([member.trace for member in slots])
    program.prepare(states, lifted, order, tier)
    for _ in range(2):
        states, _ = program.run(states, lifted, order, tier)
    return [np.asarray(leaf).tobytes() for part in states[place] for leaf in part]


@pytest.mark.parametrize(("tier", "own_order"), [("quick", False), ("full", False), ("full", True)])
def test_bits_do_not_depend_on_who_stands_in_the_other_slots_nor_on_the_place(members, tier, own_order):
    rounds, (a, b, c, d) = members
    found = [
        trained(rounds, slots, Layout("scan", "vmap"), tier, own_order=own_order)
        for slots in ([a, b, c, d], [d, c, b, a], [b, a, a, c], [a, a, a, a])
    ]
    assert all(each == found[0] for each in found)


# A search that is killed --------------------------------------------------------------------------------------------


def made(folder, name, **options):
    arguments = {"max_trials": 3, "seed": 0, "directory": str(folder), "project_name": name, **options}
    return kt.RandomSearch(build, "val_loss", **arguments)


def curves(tuner):
    """The numbers of each trial and epoch."""
    histories = {trial_id: trial.executions[0].history for trial_id, trial in tuner.oracle.trials.items()}
    return {
        (trial_id, epoch): {name: curve[epoch] for name, curve in history.items()}
        for trial_id, history in histories.items()
        for epoch in range(len(history["loss"]))
    }


def stored(folder):
    """What a project knows of each trial and epoch: the numbers, what computed them, and how."""
    with contextlib.closing(sqlite3.connect(Path(folder) / "manyfit.sqlite")) as database:
        rows = database.execute("SELECT trial_id, epoch, logs, program, run FROM epochs").fetchall()
        programs = dict(database.execute("SELECT name, text FROM programs").fetchall())
    return {(row[0], row[1]): (json.loads(row[2]), programs.get(row[3]), row[4]) for row in rows}


def exchanges_at_once(patched):
    """Every pass is compiled in full after its first run; without this, trainings so short are compiled quickly."""

    def begins(self, work_left_seconds):
        if self.tiers.tier == "quick" and self.tiers.seconds:
            self.exchange()
        return False

    patched.setattr(RowsPass, "begins_exchange", begins)
    patched.setattr(Tiers, "record", lambda self, tier, seconds: self.seconds.setdefault(tier, seconds))


def two_lives(folder, name, monkeypatch, num_commits):
    """What was known when a search died after so many commits, and its curves after a second life with other timing."""
    with monkeypatch.context() as patched:
        exchanges_at_once(patched)
        Death(patched, num_commits, late=False)
        tuner = None
        with contextlib.suppress(Killed):
            tuner = made(folder, name)
            tuner.search(X, Y, **FIT)
        if tuner is not None:
            tuner.close()
    known = stored(folder / name)
    tuner = made(folder, name)
    tuner.search(X, Y, **FIT)
    found = curves(tuner)
    tuner.close()
    return known, found


def test_death_at_any_commit_changes_no_bit_of_what_is_known(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        exchanges_at_once(patched)
        whole = made(tmp_path, "whole")
        whole.search(X, Y, **FIT)
    told = stored(tmp_path / "whole")
    assert any(record.widths for record in whole.programs().records)
    assert {run.split()[1] for _, _, run in told.values()} == {"quick", "full"} and len(told) == 9
    num_again = 0
    for num_commits in range(1, 30):
        known, found = two_lives(tmp_path, str(num_commits), monkeypatch, num_commits)
        assert known.keys() <= found.keys() and len(found) == 9
        for key, (logs, _, _) in known.items():
            assert found[key] == logs, f"killed after commit {num_commits}"
        after = stored(tmp_path / str(num_commits))
        num_again += sum(1 for key in known if "full" in after[key][2] and after[key] == known[key])
        if len(known) == 9:
            break
    assert num_again


def test_other_versions_are_said(tmp_path, monkeypatch, capsys):
    save = ProjectStore.save_epochs

    def saved(store, rows):
        save(store, rows)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(ProjectStore, "save_epochs", saved)
        tuner = made(tmp_path, "search")
        with pytest.raises(Killed):
            tuner.search(X, Y, **FIT)
        tuner.close()
    now = dict(replaying.machine())
    monkeypatch.setattr(replaying, "machine", lambda: tuple({**now, "jax": "9.9"}.items()))
    capsys.readouterr()
    made(tmp_path, "search").search(X, Y, **{**FIT, "verbose": 1})
    line = f"are trained again to where they were: equal to float32 rounding (jax {now['jax']} then, 9.9 now)"
    assert capsys.readouterr().out.count(line) == 1


SCRIPT = """
import os, signal, sys
import manyfit as kt
from manyfit.store import ProjectStore
import test_replaying

save, left = ProjectStore.save_epochs, [3]

def saved(store, rows):
    save(store, rows)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)

ProjectStore.save_epochs = saved
test_replaying.made(sys.argv[1], "search").search(test_replaying.X, test_replaying.Y, **test_replaying.FIT)
"""


def test_a_process_that_is_killed_leaves_what_it_takes(tmp_path, capsys):
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2]), *filter(None, sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path)],
        env=environment,
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr[-2000:]
    known = stored(tmp_path / "search")
    tuner = made(tmp_path, "search")
    tuner.search(X, Y, **{**FIT, "verbose": 1})
    found = curves(tuner)
    assert len(known) >= 3 and all(found[key] == logs for key, (logs, _, _) in known.items())
    assert capsys.readouterr().out.count("trained again to where they were: bit for bit") == 1


def test_others_wait_until_who_was_under_way_is_where_it_was():
    """Where decisions rest on who is how far; the last epoch that is known is reported once more, for its decision."""
    plans = [
        Plan("0", 0, {"learning_rate": 0.01, "rate": 0.9}, seed=1, first_epoch=2, computed=(None,) * 3),
        Plan("1", 0, {"learning_rate": 0.02, "rate": 0.9}, seed=2),
    ]

    class Counting(ListSupply):
        calls: list[list[tuple[str, int]]]

        def report(self, epochs):
            self.calls.append(sorted((plan.trial_id, epoch) for plan, epoch, _ in epochs))
            return super().report(epochs)

    supply = Counting(plans, independent=False)
    supply.calls = []
    x = RNG.normal(size=(20, 6)).astype("float32")
    task = populations.make_task(populations.dense_model, lambda: (x, x[:, :1]), {"epochs": 5})
    Population(populations.NoFallback(), population_size=2).train(supply, task)
    assert supply.calls[:2] == [[("0", 2)], [("0", 3), ("1", 0)]]
    assert supply.calls[-1] == [("1", 4)]
