"""A search that dies at each of its commits, whoever trains: nothing is lost, nothing is redone, and no bit differs.

Populations have tests of their own (`training/population/test_replaying.py`), and so have formulas (`test_resume.py`);
`make kills` kills processes.
"""

from __future__ import annotations

import manyfit as kt  # isort: skip

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import tiny
from deaths import Death, Killed
from sklearn import linear_model

from manyfit.store.layout import states_beside
from manyfit.testing.executors import ThreadExecutor

pytestmark = pytest.mark.backends

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = (X.sum(axis=1) > 0).astype("int32")
FIT = {"epochs": 2, "batch_size": 24, "validation_data": (X, Y), "verbose": 0}


def build(hp):
    """Compiling would take most of the time."""
    model = tiny.build(hp)
    model.run_eagerly = True
    return model


def build_estimator(hp):
    return linear_model.SGDClassifier(alpha=hp.Float("alpha", 1e-4, 1e-1, sampling="log"), max_iter=9, tol=None)


TRAINERS = {
    "model.fit": (build, {"population": False}, FIT),
    "estimators": (build_estimator, {}, {"cross_validation": 2, "verbose": 0}),
    "executor": (build, {"population": False, "executor": ThreadExecutor(1)}, FIT),
}


def make(folder, name, trainer):
    function, options, _ = TRAINERS[trainer]
    return kt.RandomSearch(
        function,
        "val_accuracy",
        max_trials=2,
        seed=0,
        directory=folder,
        project_name=name,
        num_kept_models=1,
        **options,
    )


def search(tuner, trainer):
    try:
        tuner.search(X, Y, **TRAINERS[trainer][2])
    finally:
        tuner.close()


def told(folder):
    """Rows of all tables that tell of trainings, with the seconds that these took: one that is redone takes others."""
    with contextlib.closing(sqlite3.connect(folder / "manyfit.sqlite")) as database:
        executions = database.execute("SELECT * FROM executions").fetchall()
        epochs = database.execute("SELECT trial_id, attempt, execution, epoch, logs FROM epochs").fetchall()
        values = database.execute("SELECT id, trial_values FROM trials").fetchall()
    return set(executions), set(epochs), set(values)


def files(folder):
    return {path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("trainer", TRAINERS)
def test_death_at_any_commit(tmp_path, monkeypatch, trainer, capsys):
    search(make(tmp_path, "whole", trainer), trainer)
    _, epochs, values = told(tmp_path / "whole")
    num_deaths = 0
    while True:
        name = f"{num_deaths}"
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            Death(patched, num_deaths, late=num_deaths % 2 == 1)
            search(make(tmp_path, name, trainer), trainer)
            break
        known = told(tmp_path / name) if num_deaths else (set(), set(), set())
        search(make(tmp_path, name, trainer), trainer)
        found = told(tmp_path / name)
        assert known[0] <= found[0], f"lost or redone after commit {num_deaths}"
        assert known[1] <= found[1] == epochs and known[2] <= found[2] == values, f"killed after commit {num_deaths}"
        assert files(tmp_path / name) == files(tmp_path / "whole"), f"killed after commit {num_deaths}"
        num_deaths += 1
    assert num_deaths > 8


def test_states_that_a_kill_has_left_are_deleted_when_the_search_is_called_again(tmp_path):
    """It came between the commit of an end and the deletion of what would have continued the trial."""

    def made():
        return tiny.searched(tiny.Formula(num_epochs=1), scheduler=kt.ASHA(1), max_trials=2, seed=0, directory=tmp_path)

    tuner = made()
    tuner.search(verbose=0)
    tuner.close()
    weights = tuner.store.weights_path("0", 0)
    weights.parent.mkdir()
    left = [*states_beside(weights), weights.with_name("of the user")]
    for path in left:
        path.touch()
    again = made()
    again.search(verbose=0)
    again.close()
    assert [path.exists() for path in left] == [False, False, True]
