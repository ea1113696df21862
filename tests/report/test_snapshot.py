"""A project seen from outside: what a snapshot says is what the tuner says, whoever writes, and nothing is touched."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
from marks import needs_jax

from manyfit.core.errors import ProjectError, UsageKeyError
from manyfit.store.facts import Activity, to_fact
from manyfit.store.layout import DATABASE_NAME
from manyfit.store.migrations import SCHEMA_VERSION

GOLDEN = Path(__file__).parents[1] / "store" / "golden"


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(
        keras.optimizers.SGD(hp.Float("rate", 0.001, 1.0, sampling="log")), "binary_crossentropy", metrics=["acc"]
    )
    return model


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """Eight trials of three epochs, and an ensemble of them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)).astype("float32")
    y = (x.sum(axis=1) + rng.normal(size=80) > 0).astype("int32")
    folder = tmp_path_factory.mktemp("snapshot")
    tuner = kt.RandomSearch(build, "val_acc", max_trials=8, seed=1, directory=folder, project_name="search")
    tuner.search(x, y, epochs=3, validation_split=0.5, verbose=0)
    tuner.ensemble()
    return tuner


def by_numbers(function, project, **arguments):
    tuner = tiny.numbers(
        function, **{"objective": kt.Objective("score", "max"), "max_trials": 4, "seed": 0} | arguments, **project
    )
    tuner.search(verbose=0)
    return tuner


def copied(tuner, to):
    """The files of a project as a kill would leave them: the log of the newest transactions is not emptied."""
    shutil.copytree(tuner.project_dir, to)
    return to


@needs_jax
def test_it_says_what_the_tuner_says(searched):
    seen = kt.open_project(searched.project_dir)
    assert (seen.objective, seen.direction) == ("val_acc", "max")
    assert [one.trial_id for one in seen.best()] == [one.trial_id for one in searched.oracle.get_best_trials(8)]
    assert seen.results().rows == searched.results().rows
    assert seen.results().curves == searched.results().curves
    run = seen.trial("3").searched[0]
    assert run.curves == searched.oracle.trials["3"].executions[0].history
    assert (seen.plan.max_trials, seen.plan.max_epochs, seen.plan.executions_per_trial) == (8, 3, 1)
    assert seen.environment["packages"]["keras"] == keras.__version__
    assert seen.ended_by == "The search ended after 8 trials: max_trials=8 is reached."
    assert seen.varied == ["rate"]


@needs_jax
def test_programs_come_with_their_members_and_seconds(searched):
    seen = kt.open_project(searched.project_dir)
    [known] = searched.programs().records
    assert [(one["members"], one["compilations"]) for one in seen.programs.values()] == [(8, known.compilations)]
    assert list(seen.programs) == [known.program]
    assert seen.fallbacks == {}


@needs_jax
def test_the_ensemble_is_there_with_its_weights(searched):
    kept = kt.open_project(searched.project_dir).ensemble
    assert sum(kept["weights"].values()) == pytest.approx(1.0)
    assert kept["metric"] == "acc" or kept["metric"] == "accuracy"


@needs_jax
def test_the_leader_has_the_interval_of_a_confirmation_without_fresh_runs(searched):
    """Outside witness: 40 validation rows, so the error of an accuracy p by rows is sqrt(p (1 - p) / 40) or more."""
    leader = kt.open_project(searched.project_dir).leader
    best = searched.oracle.get_best_trials(1)[0]
    assert (leader.trial_id, leader.score, leader.num_trials, leader.num_rows) == (best.trial_id, best.score, 8, 40)
    assert leader.low < leader.expected < leader.high <= 1.0
    by_rows = (leader.expected * (1 - leader.expected) / 40) ** 0.5
    assert leader.high - leader.low > 2 * 1.5 * by_rows
    assert set(leader.rivals) < set(searched.oracle.trials) and leader.trial_id not in leader.rivals
    assert leader.luck > 0


@needs_jax
def test_a_loss_of_values_is_known_row_by_row_and_its_interval_ends_above_zero(project):
    """Two hopeless trials and two good ones: what the rows do to a squared error is no matter for its logarithm alone.

    Outside witness: squared errors of the kept weights' own predictions, and their standard error.
    """

    def build_line(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Choice("rate", [1e-4, 1e-3, 0.1, 0.2])), "mse")
        return model

    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)).astype("float32")
    y = (3 * x.sum(axis=1) + rng.normal(size=120)).astype("float32")
    tuner = kt.GridSearch(build_line, "val_loss", seed=0, **project)
    tuner.search(x[:60], y[:60], validation_data=(x[60:], y[60:]), epochs=8, verbose=0)
    leader = kt.open_project(tuner.project_dir).leader
    assert leader.num_rows == 60 and 0 < leader.low < leader.expected < leader.high
    squares = (tuner.get_best_models(1)[0].predict(x[60:], verbose=0)[:, 0] - y[60:]) ** 2
    assert leader.score == pytest.approx(squares.mean(), rel=1e-3)
    by_rows = squares.std(ddof=1) / 60**0.5
    assert 2 * by_rows < leader.high - leader.low < 8 * by_rows


def test_it_is_read_while_a_search_writes(project):
    seen = []

    def look(trial):
        seen.append(kt.open_project(Path(project["directory"]) / "search"))
        return {"score": trial.hyperparameters["units"]}

    by_numbers(look, project)
    assert [len(one.running) for one in seen] == [1, 1, 1, 1]
    assert [len(one.best()) for one in seen] == [0, 1, 2, 3]
    assert seen[2].activity.what == "a search" and seen[2].activity.until is None and not seen[2].has_died
    assert seen[2].seconds(now=seen[2].activity.since + 60) == pytest.approx(60)
    after = kt.open_project(Path(project["directory"]) / "search")
    assert after.activity.until is not None and not after.running
    assert set(after.facts["seconds"]) == {"propose", "store"}


def test_looking_leaves_no_file_and_a_project_of_a_killed_process_is_whole(project, tmp_path):
    tuner = by_numbers(lambda trial: {"score": 1.0}, project)
    for left_out in ((), ("-shm",)):
        killed = copied(tuner, tmp_path / f"killed{len(left_out)}")
        for ending in left_out:
            (killed / f"{DATABASE_NAME}{ending}").unlink()
        assert (killed / f"{DATABASE_NAME}-wal").stat().st_size > 0
        before = {path.name: path.read_bytes() for path in killed.iterdir() if not path.name.endswith("-shm")}
        assert len(kt.open_project(killed).best()) == 4
        assert {p.name: p.read_bytes() for p in killed.iterdir() if not p.name.endswith("-shm")} == before
    tuner.close()
    names = set(os.listdir(tuner.project_dir))
    assert len(kt.open_project(tuner.project_dir).best()) == 4
    assert set(os.listdir(tuner.project_dir)) == names


@pytest.mark.skipif("os.name == 'nt' or os.geteuid() == 0", reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_is_read(project, tmp_path):
    killed = copied(by_numbers(lambda trial: {"score": 1.0}, project), tmp_path / "killed")
    killed.chmod(0o500)
    try:
        assert len(kt.open_project(killed).best()) == 4
    finally:
        killed.chmod(0o700)


def test_a_process_that_is_gone_is_told_from_one_that_works(project):
    tuner = by_numbers(lambda trial: {"score": 1.0}, project)
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
    )
    died = Activity.here("a search", 5.0)
    died = Activity(died.what, int(done.stdout), died.host, died.since)
    tuner.oracle.book.put(activity=to_fact(died))
    seen = kt.open_project(tuner.project_dir)
    assert seen.has_died and seen.seconds() == pytest.approx(tuner.oracle.clock.spent() + seen.written_at - 5.0)


def test_failures_and_constraints(project):
    def run(trial):
        if trial.number == 1:
            raise ValueError("no such layer")
        return {"score": trial.number, "size": trial.number}

    tuner = by_numbers(run, project, constraints=[kt.Constraint("size", max=2)], max_consecutive_failed_trials=9)
    seen = kt.open_project(tuner.project_dir)
    assert [trial.trial_id for trial in seen.failed] == ["1"] and "no such layer" in seen.failed[0].message
    assert [trial.trial_id for trial in seen.best()] == [one.trial_id for one in tuner.oracle.get_best_trials(9)]


@pytest.mark.parametrize("name", ["bayesian", "hyperband", "asha"])
def test_projects_of_earlier_versions_are_shown_and_stay_as_they_are(name, tmp_path):
    version = sorted(path for path in GOLDEN.iterdir() if (path / "recorded.json").exists())[0]
    shutil.copytree(version, tmp_path / "golden")
    [database] = [path for path in (tmp_path / "golden").rglob(DATABASE_NAME) if path.parent.name == name]
    before = database.read_bytes()
    seen = kt.open_project(database.parent)
    recorded = json.loads((version / "recorded.json").read_text())[name]
    # A paused trial that had gone on stands where it was paused, as in `tests/store/test_golden.py`.
    rows = [row.trial_id for row in seen.results()]
    assert rows == [row["trial_id"] for row in recorded["rows"]]
    assert [row.score for row in seen.results()] == [row["score"] for row in recorded["rows"]]
    assert seen.plan is None and seen.leader is None and database.read_bytes() == before


def test_what_is_no_project_is_an_error_with_advice(project, tmp_path):
    tuner = by_numbers(lambda trial: {"score": 1.0}, project)
    tuner.close()
    with pytest.raises(ProjectError, match=r"got a folder without a project\. Allowed: .* manyfit ls"):
        kt.open_project(tmp_path)
    damaged = copied(tuner, tmp_path / "damaged")
    (damaged / DATABASE_NAME).write_bytes(b"no database at all" * 500)
    with pytest.raises(ProjectError, match=r"cannot be read \(file is not a database\)\. Allowed: .* Restore"):
        kt.open_project(damaged)
    newer = copied(tuner, tmp_path / "newer")
    with sqlite3.connect(newer / DATABASE_NAME) as connection:
        connection.execute("UPDATE project SET value = ? WHERE name = 'schema_version'", (str(SCHEMA_VERSION + 1),))
    connection.close()
    with pytest.raises(ProjectError, match="Update Manyfit"):
        kt.open_project(newer)
    strange = copied(tuner, tmp_path / "strange")
    with sqlite3.connect(strange / DATABASE_NAME) as connection:
        connection.execute("CREATE VIEW more AS SELECT 1")
    connection.close()
    with pytest.raises(ProjectError, match="a database with the view 'more'"):
        kt.open_project(strange)
    odd = copied(tuner, tmp_path / "odd")
    with sqlite3.connect(odd / DATABASE_NAME) as connection:
        connection.execute("UPDATE trials SET outcome = '[]'")
    connection.close()
    with pytest.raises(ProjectError, match="rows that cannot be read"):
        kt.open_project(odd)
    with pytest.raises(UsageKeyError, match="a trial of it: 0, 1, 2, 3"):
        kt.open_project(tuner.project_dir).trial("17")


def test_neither_keras_nor_jax_nor_numpy_is_loaded(project):
    tuner = by_numbers(lambda trial: {"score": 1.0}, project)
    tuner.close()
    code = (
        "import sys, manyfit as kt\n"
        f"seen = kt.open_project({tuner.project_dir!r})\n"
        "assert len(seen.best()) == 4 and len(str(seen.results()).splitlines()) == 5\n"
        "print([name for name in ('keras', 'jax', 'numpy', 'scipy', 'tensorflow', 'torch') if name in sys.modules])\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_a_commit_of_another_tuner_is_no_commit_of_ours(project):
    """Looking takes no lock: the tuner that has the project open goes on."""
    tuner = by_numbers(lambda trial: {"score": 1.0}, project)
    seen = kt.open_project(tuner.project_dir)
    tuner.enqueue({"units": 3, "kind": "b"})
    assert "enqueued" in kt.open_project(tuner.project_dir).facts and len(seen.best()) == 4
    with pytest.raises(ProjectError):
        subprocess_opens(tuner.project_dir)


def subprocess_opens(folder):
    code = f"from manyfit.store import ProjectStore; ProjectStore({folder!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ProjectError(done.stderr)
