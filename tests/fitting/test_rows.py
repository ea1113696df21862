"""Large data in `fit`: the first trials train on a part of the rows, and what they come to is never taken for more."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from manyfit.core.costs import Costs
from manyfit.core.records import ROWS, Ending
from manyfit.data.call import Call
from manyfit.data.folds import CrossValidation
from manyfit.data.parts import RowParts
from manyfit.finish.fresh_runs import FreshRuns
from manyfit.fitting import rows
from manyfit.fitting.asked import CanDo
from manyfit.fitting.holdout import HeldOut
from manyfit.oracles import Execution
from manyfit.report.snapshot import Snapshot
from manyfit.schedulers import FullBudget, Limits, Restart, Start

rng = np.random.default_rng(0)
X = rng.normal(size=(400, 3)).astype("float32")
Y = (X[:, 0] + 0.3 * rng.normal(size=400) > 0).astype("int32")
FIT = {"validation_split": 0.25, "epochs": 2, "max_trials": 4, "max_seconds": 900}


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(
        keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 1.0, sampling="log")),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


@pytest.fixture
def small_parts(monkeypatch):
    """What is many rows elsewhere is few here."""
    monkeypatch.setattr(rows, "FEWEST_ROWS", 40)


@pytest.fixture(autouse=True)
def dear_from_two_percent_on(monkeypatch):
    """The seconds of these tests are chosen for that."""
    monkeypatch.setattr(rows, "DEAR", 0.02)


def takes(monkeypatch, seconds):
    """An epoch of all rows takes so many seconds, whatever this machine says."""
    monkeypatch.setattr(rows, "epoch_of_all", lambda run, num_rows, num_validated: seconds)


def tuner_in(folder, kind=kt.RandomSearch, **options):
    return kind(build, "val_loss", seed=0, directory=folder, **options)


def on_rows(tuner):
    return [trial.num_rows for trial in tuner.oracle.trials.values()]


LIVES = {**FIT, "max_trials": 6, "verbose": 0}


def life(folder, *callbacks):
    """A `fit` whose trials begin on 100 of 300 rows, as in the tests above, in whatever process."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("MANY_NUMBERS", 100), ("FEWEST_ROWS", 40), ("DEAR", 0.02)):
            patched.setattr(rows, name, value)
        takes(patched, 27.0)
        tuner = tuner_in(folder, population_size=1)
        callbacks = list(callbacks) or [keras.callbacks.Callback()]
        winner = tuner.fit(X, Y, callbacks=callbacks, **LIVES)
        tuner.close()
    return winner.search


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A `life` that nobody interrupts."""
    return life(tmp_path_factory.mktemp("whole"))


# The rule ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "rungs"),
    [(5.9, []), (9.0, [20_000]), (30.0, [6_667, 20_000]), (290.0, [2_223, 6_667, 20_000])],
)
def test_parts_are_thirds_until_an_epoch_is_not_dear(seconds, rungs):
    assert rows.rungs_for(60_000, seconds, 300.0) == rungs


def test_a_part_is_never_too_small_to_tell():
    assert rows.rungs_for(4_000, 250.0, 300.0) == [1_334] and rows.rungs_for(2_900, 250.0, 300.0) == []


def test_an_epoch_of_all_rows_is_known_from_a_part():
    """Rows that only validate cost a third; with none of them twice the rows take twice as long."""
    run = Execution(0, 0, Ending.STOPPED, notes={"share_of_rows": 0.5}, costs=Costs(epoch=2.0))
    assert rows.epoch_of_all(run, 1_000, 0) == pytest.approx(4.0)
    assert rows.epoch_of_all(run, 1_000, 1_500) == pytest.approx(3.0)
    assert rows.epoch_of_all(dataclasses.replace(run, costs=None), 1_000, 0) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cross_validation": CrossValidation(5)}, "folds"),
        ({"call": Call((X, Y), {"validation_data": (X, Y), "steps_per_epoch": 3})}, "steps"),
        ({"call": Call((iter([]),), {"validation_data": (X, Y)})}, "a stream"),
    ],
)
def test_what_has_no_parts_trains_on_all_rows(change, why, tmp_path, small_parts):
    held, oracle = HeldOut(Call((X, Y), {"validation_data": (X, Y)})), tuner_in(tmp_path).oracle
    can, given = CanDo(True, True, in_parts=True), {"clock": oracle.clock, "limit": 60.0, "say": print}
    assert rows.rows_by_costs(held, can, oracle, **given) is not None
    assert rows.rows_by_costs(dataclasses.replace(held, **change), can, oracle, **given) is None, why
    assert rows.rows_by_costs(held, dataclasses.replace(can, in_parts=False), oracle, **given) is None
    oracle.scheduler = kt.ASHA(9)
    assert rows.rows_by_costs(held, can, oracle, **given) is None


def test_a_stream_that_is_dear_is_told(tmp_path):
    trial = kt.Trial(kt.HyperParameters())
    trial.executions[0] = Execution(0, 0, Ending.COMPLETED, costs=Costs(epoch=9.0))
    stream = Call((iter([]),), {})
    told = rows.why_all_rows(stream, [trial], 300.0)
    assert told.startswith("An epoch took 9 s, 3% of the limit, and each trial trained on all rows: rows that come as")
    assert rows.why_all_rows(stream, [trial], 900.0) is None
    assert rows.why_all_rows(Call((X, Y)), [trial], 300.0) is None


# In a search ---------------------------------------------------------------------------------------------------------


def test_the_first_trials_train_on_a_part_and_the_best_on_all(tmp_path, small_parts, monkeypatch, capsys):
    takes(monkeypatch, 27.0)
    winner = tuner_in(tmp_path).fit(X, Y, **FIT)
    said = [line for line in capsys.readouterr().out.splitlines() if "an epoch of all" in line]
    assert said == [
        "fit: an epoch of all 300 rows takes 27 s, 3% of the limit: the first trials train on 100 rows, the best of "
        "these on all."
    ]
    tuner = winner.search
    # What was begun before anybody knew is on all rows; of the others one in three goes on to all.
    assert set(on_rows(tuner)) == {None, 100} and len(on_rows(tuner)) == 4
    best = tuner.oracle.get_best_trials(10)
    assert best and all(trial.num_rows is None for trial in best)
    assert tuner.oracle.scheduler.settings()["name"] == "FullBudget" and tuner.row_parts is None
    assert any("trained on all 300 rows, the others on a part" in reason for reason in winner.reasons)
    parts = [trial for trial in tuner.oracle.trials.values() if trial.num_rows == 100]
    assert {run.message for one in parts for run in one.executions.values()} == {"trained on 100 of 300 rows"}
    assert {run.share for one in parts for run in one.executions.values()} == {100 / 300}
    evidence = FreshRuns(tuner.oracle, "", None, None)
    assert all(evidence.of_search(one) == [] for one in parts) and evidence.of_search(best[0])
    looked = Snapshot.of(tuner.project_dir)
    assert [one.num_rows for one in looked.trials] == on_rows(tuner)
    assert [one.trial_id for one in looked.best()] == [one.trial_id for one in best]


def test_of_much_data_the_first_trials_find_out(tmp_path, small_parts, monkeypatch, capsys):
    """Two epochs of a part, and then anew: on all rows where an epoch is cheap."""
    monkeypatch.setattr(rows, "MANY_NUMBERS", 100)
    takes(monkeypatch, 0.1)
    winner = tuner_in(tmp_path).fit(X, Y, **{**FIT, "epochs": 3, "max_trials": 2})
    assert "an epoch of all" not in capsys.readouterr().out
    trials = winner.search.oracle.trials.values()
    assert on_rows(winner.search) == [None, None]
    assert [run.num_epochs for trial in trials for run in trial.executions.values()] == [3, 3]
    assert trials and next(iter(trials)).attempt == 1 and next(iter(trials)).num_retries == 0


def test_a_fit_that_was_interrupted_goes_on_on_the_same_rows(tmp_path, small_parts, monkeypatch, whole):
    class InterruptAt(keras.callbacks.Callback):
        seen = 0

        def on_train_end(self, logs=None):
            InterruptAt.seen += 1
            if InterruptAt.seen == 5:
                raise KeyboardInterrupt

    monkeypatch.setattr(rows, "MANY_NUMBERS", 100)
    takes(monkeypatch, 27.0)
    first = tuner_in(tmp_path, population_size=1).fit(X, Y, callbacks=[InterruptAt()], **LIVES)
    assert first.ended_by == "interrupted"
    before = {one.trial_id: one.num_rows for one in first.search.oracle.trials.values()}
    first.search.close()
    tuner = tuner_in(tmp_path, population_size=1)
    assert {one.trial_id: one.num_rows for one in tuner.oracle.trials.values()} == before
    winner = tuner.fit(X, Y, callbacks=[keras.callbacks.Callback()], **LIVES)
    assert on_rows(tuner) == on_rows(whole) and winner.ended_by == "trials"
    scores = [[one.score for one in each.oracle.trials.values()] for each in (tuner, whole)]
    np.testing.assert_allclose(*scores, rtol=1e-5)


class DieAt(keras.callbacks.Callback):
    """Kills this process at the end of the first epoch on so many rows, where one is trained like that."""

    def __init__(self, num_rows):
        super().__init__()
        self.num_rows = num_rows

    def on_epoch_end(self, epoch, logs=None):
        if self.params["steps"] == -(-self.num_rows // 32) and epoch == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def lives_that_end(folder, *num_rows):
    """Such a `fit` in processes of their own, one after another, each killed in a training on so many rows."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), *filter(None, sys.path)]
    code = f"import test_rows; test_rows.die_again_and_again({str(folder)!r}, {num_rows})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]


def die_again_and_again(folder, num_rows):
    """In a process that has Keras loaded and JAX not begun: its children need not load them."""
    for each in num_rows:
        child = os.fork()
        if child == 0:
            life(folder, DieAt(each))
            os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL
        shutil.copytree(folder, f"{folder} on {each}")


def ended(folder):
    """What the database says of each execution that has ended, of each attempt."""
    (path,) = Path(folder).rglob("manyfit.sqlite")
    with contextlib.closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT trial_id, attempt, execution, outcome FROM executions").fetchall()
        facts = dict(database.execute("SELECT name, value FROM project").fetchall())
    return {row[:3]: json.loads(row[3]) for row in found}, json.loads(facts["rows_of_fit"])


def test_a_fit_that_is_killed_in_a_part_of_the_rows_and_in_the_training_on_all(tmp_path, whole):
    """Both times nothing that had ended is lost or trained again, and what comes of it is what comes without kills."""
    folder = tmp_path / "killed"
    lives_that_end(folder, 100, 300)
    (in_a_part, facts), (on_all, _) = ended(f"{folder} on 100"), ended(f"{folder} on 300")
    assert facts == {"limit": 900, "num_rows": 300, "rungs": [100]}
    assert on_all.items() >= in_a_part.items() and len(on_all) > len(in_a_part) > 0
    again = life(folder)
    known, its_facts = ended(folder)
    assert known.items() >= on_all.items() and its_facts == facts
    assert known.keys() == ended(whole.project_dir)[0].keys(), "an attempt more was made, or one less"
    told = [
        {one.trial_id: (one.num_rows, one.score, one.executions[0].history) for one in each.oracle.trials.values()}
        for each in (again, whole)
    ]
    assert told[0] == told[1]


def test_the_parts_stay_though_another_trial_is_the_first_to_tell_after_a_kill(tmp_path, small_parts, monkeypatch):
    oracle = tuner_in(tmp_path).oracle
    sizes = rows.Sizes(num_rows=300, num_validated=0, num_epochs=9, is_large=False)

    def parts(seconds, limit=300.0):
        takes(monkeypatch, seconds)
        decides = rows.RowsByCosts(
            FullBudget(), oracle, RowParts.latest(300), sizes=sizes, clock=FakeClock(300.0), limit=limit, say=print
        )
        jobs = decides.assign([], 1, Limits(max_trials=9))
        oracle.book.put()  # as a trial is committed that begins
        return jobs[0].tags.get(ROWS)

    oracle.trials["0"] = kt.Trial(kt.HyperParameters(), "0")
    oracle.trials["0"].executions[0] = Execution(0, 0, Ending.STOPPED)
    assert parts(10.0) == 100 and parts(1.0) == 100
    assert parts(10.0, limit=5000.0) is None  # another call


class FakeClock:
    def __init__(self, left):
        self.seconds = left

    def left(self):
        return self.seconds


def test_in_time_for_one_training_on_all_rows_the_best_begins(tmp_path, small_parts, monkeypatch):
    takes(monkeypatch, 10.0)
    oracle, clock = tuner_in(tmp_path).oracle, FakeClock(300.0)
    sizes = rows.Sizes(num_rows=300, num_validated=0, num_epochs=9, is_large=False)
    decides = rows.RowsByCosts(
        FullBudget(), oracle, RowParts.latest(300), sizes=sizes, clock=clock, limit=300.0, say=print
    )
    for number, loss in enumerate((0.5, 0.3)):
        trial = kt.Trial(kt.HyperParameters(), str(number))
        trial.executions[0] = Execution(0, 0, Ending.STOPPED, {"val_loss": [loss] * 4})
        trial.tags, trial.ending = {ROWS: 100}, Ending.STOPPED
        oracle.trials[str(number)] = trial

    def jobs():
        return decides.assign(oracle.book.progress(), 1, Limits())

    (start,) = jobs()  # of two on a part none goes on yet
    assert isinstance(start, Start) and start.tags == {ROWS: 100}
    clock.seconds = 41.0
    assert isinstance(jobs()[0], Start)
    clock.seconds = 40.0  # four epochs of ten seconds
    assert jobs() == [Restart("1", None, None)]
    takes(monkeypatch, 100.0)
    clock.seconds = 151.0
    assert isinstance(jobs()[0], Start)
    clock.seconds = 150.0  # too long whatever is done: half of the time is for all rows
    assert jobs() == [Restart("1", None, None)]
