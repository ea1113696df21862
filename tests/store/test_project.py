"""A project's database and its files."""

import sqlite3

import pytest
import tiny

from manyfit.core.errors import ProjectError
from manyfit.store import ProjectStore
from manyfit.store.layout import DATABASE_NAME, PredictionFiles, state_beside
from manyfit.store.migrations import SCHEMA_VERSION

TRIAL = {
    "id": "0",
    "number": 0,
    "status": "RUNNING",
    "attempt": 0,
    "values": {"units": 16, "kind": "a", "rate": 0.1, "flag": True},
    "outcome": {"score": None},
    "started_at": 1.0,
    "ended_at": None,
}


@pytest.fixture
def store(tmp_path):
    """An open project."""
    store = ProjectStore(tmp_path / "project")
    yield store
    store.close()


def reopened(store):
    store.close()
    return ProjectStore(store.folder)


def test_facts_come_back_with_their_types(store):
    store.put(text="a", number=1, real=0.1, nothing=None, nested={"list": [1, True, None]})
    again = reopened(store)
    assert [again.get(name) for name in ("text", "number", "real", "nothing")] == ["a", 1, 0.1, None]
    assert again.get("nested") == {"list": [1, True, None]}
    assert again.get("absent", "default") == "default"
    again.close()


def test_numbers_that_are_not_finite_come_back(store):
    store.put(numbers=[float("nan"), float("inf"), -float("inf")])
    numbers = store.get("numbers")
    assert numbers[0] != numbers[0] and numbers[1:] == [float("inf"), -float("inf")]


def test_trials_come_back_in_the_order_of_their_start(store):
    store.save_trials([{**TRIAL, "id": "10", "number": 10}, {**TRIAL, "id": "9", "number": 9}, TRIAL], fact=3)
    again = reopened(store)
    assert [row["id"] for row in again.trials()] == ["0", "9", "10"]
    assert again.trials()[0] == TRIAL
    assert again.get("fact") == 3
    again.close()


def test_a_trial_is_changed_in_its_place(store):
    store.save_trials([TRIAL])
    store.save_trials([{**TRIAL, "status": "COMPLETED", "outcome": {"score": 0.5}}])
    assert [(row["status"], row["outcome"]) for row in store.trials()] == [("COMPLETED", {"score": 0.5})]


def test_a_transaction_is_all_or_nothing(store):
    with pytest.raises(TypeError):
        store.save_trials([TRIAL, {**TRIAL, "id": "1", "values": {"bad": object()}}], fact=1)
    assert store.trials() == [] and store.get("fact") is None


def test_a_full_disk_is_said_and_what_was_committed_stays(store):
    store.save_trials([TRIAL])
    store._connection = FullDisk(store._connection)
    with pytest.raises(ProjectError, match="database or disk is full") as caught:
        store.save_trials([{**TRIAL, "status": "COMPLETED"}])
    assert "what was finished is kept" in tiny.four_parts(caught.value)[3]
    store._connection = store._connection.real
    assert [row["status"] for row in store.trials()] == ["RUNNING"]
    store.save_trials([{**TRIAL, "status": "COMPLETED"}])
    assert [row["status"] for row in store.trials()] == ["COMPLETED"]


class FullDisk:
    """A connection whose disk has no room for another commit."""

    def __init__(self, real):
        self.real = real

    def __getattr__(self, name):
        return getattr(self.real, name)

    def execute(self, statement, *arguments):
        if statement.startswith("COMMIT"):
            raise sqlite3.OperationalError("database or disk is full")
        return self.real.execute(statement, *arguments)


def test_a_file_that_is_damaged_meanwhile_is_told_in_words(store):
    store.save_trials([TRIAL])
    store._connection = Damaged(store._connection)
    for step in (store.trials, lambda: store.put(fact=1)):
        with pytest.raises(ProjectError, match="malformed") as caught:
            step()
        tiny.four_parts(caught.value)
    store._connection = store._connection.real


class Damaged(FullDisk):
    """A connection whose file is no database any more."""

    def execute(self, statement, *arguments):
        if statement.startswith(("SELECT", "BEGIN")):
            raise sqlite3.DatabaseError("database disk image is malformed")
        return self.real.execute(statement, *arguments)


def test_a_newer_projects_file_is_refused(store):
    store.put(schema_version=SCHEMA_VERSION + 1)
    store.close()
    with pytest.raises(ProjectError, match=f"version {SCHEMA_VERSION + 1}") as caught:
        ProjectStore(store.folder)
    tiny.four_parts(caught.value)


def test_a_file_that_is_no_database_is_refused_and_the_project_stays_free(tmp_path):
    (tmp_path / DATABASE_NAME).write_text("this is no database, " * 100)
    with pytest.raises(ProjectError, match="cannot be read or written") as caught:
        ProjectStore(tmp_path)
    assert "overwrite=True" in tiny.four_parts(caught.value)[3]
    store = ProjectStore(tmp_path, overwrite=True)
    assert store.trials() == []
    store.close()


@pytest.mark.parametrize("below", ["file/project", "file"])
def test_a_folder_that_cannot_be_made_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("")
    with pytest.raises(ProjectError, match="a folder that cannot be written") as caught:
        ProjectStore(tmp_path / below)
    assert "directory=" in tiny.four_parts(caught.value)[3]


def test_overwriting_starts_from_nothing(store):
    store.save_trials([TRIAL])
    weights = store.weights_path("0", 0)
    weights.parent.mkdir()
    weights.write_text("")
    store.close()
    again = ProjectStore(store.folder, overwrite=True)
    assert again.trials() == [] and not weights.exists()
    again.close()


def test_overwriting_spares_a_folder_that_is_no_project(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ProjectError, match="overwrite=True") as caught:
        ProjectStore(tmp_path, overwrite=True)
    tiny.four_parts(caught.value)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_link_of_the_users_and_its_target_outlive_overwriting(store, tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "data.npy").write_text("")
    (store.folder / "link").symlink_to(tmp_path / "outside")
    store.close()
    ProjectStore(store.folder, overwrite=True).close()
    assert (tmp_path / "outside" / "data.npy").exists() and (store.folder / "link").is_symlink()


def test_overwriting_deletes_what_manyfit_wrote_and_nothing_else(store, tmp_path):
    store.save_trials([TRIAL, {**TRIAL, "id": "10", "number": 1}], written_for_keras_tuner=["tuner0"])
    layout, archive = store.layout, PredictionFiles(store.layout.predictions)
    own = [
        layout.weights("0", 0),
        layout.weights("10", 3, phase="confirm"),
        state_beside(layout.weights("0", 1)),
        layout.weights("0", 2).with_suffix(".pickle"),
        layout.weights("0", 0).with_name("partial-0-0.npz"),  # a process was killed while it wrote
        archive.of("0", 0),
        archive.labels,
        layout.pickled("10"),
        layout.trial_file("0"),
        layout.oracle_file,
        layout.tuner_file("tuner0"),
    ]
    others = [
        store.folder / "thesis.txt",
        store.folder / "notes.json",
        store.folder / "figures" / "curve.png",
        layout.weights("0", 0).with_name("0-best.npz"),
        layout.weights("0", 0).with_name("mine-0.npz"),
        layout.weights("7", 0),  # no trial of this project is called so
        archive.folder / "0-notes.txt",
        layout.trial_folder("0") / "log.csv",
        layout.trial_folder("mine") / "model.pickle",
    ]
    outside = tmp_path / "outside.npz"
    link = layout.trial_folder("10") / "link.npz"
    for path in [*own, *others, outside]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    link.symlink_to(outside)
    store.close()
    again = ProjectStore(store.folder, overwrite=True)
    assert again.trials() == []
    assert not [path for path in own if path.exists()]
    assert not [path for path in [*others, outside, link] if not path.exists()]
    again.close()


def test_overwriting_removes_folders_that_are_empty_then(store):
    store.save_trials([TRIAL])
    paths = [store.weights_path("0", 0), store.layout.pickled("0")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("")
    store.close()
    ProjectStore(store.folder, overwrite=True).close()
    assert not [path for path in paths if path.parent.exists()]


def test_overwriting_a_damaged_project_goes_by_the_names_of_files(store):
    paths = [store.weights_path("3", 0), store.weights_path("mine", 0)]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("")
    store.close()
    store.layout.database.write_text("this is no database, " * 100)
    ProjectStore(store.folder, overwrite=True).close()
    assert [path.exists() for path in paths] == [False, True]


def test_a_project_of_keras_tuners_outlives_overwriting_and_is_not_taken_for_this_one(tmp_path):
    theirs = {
        tmp_path / "oracle.json": '{"theirs": true}',
        tmp_path / "tuner0.json": "{}",
        tmp_path / "trial_0" / "trial.json": "{}",
        tmp_path / "trial_0" / "checkpoint.weights.h5": "",
    }
    for path, text in theirs.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    arguments = {"objective": "loss", "max_trials": 1, "directory": tmp_path.parent, "project_name": tmp_path.name}
    tuner = tiny.numbers(lambda trial: 0.5, overwrite=True, **arguments)
    tuner.search(verbose=0)
    assert not tuner.has_model(tuner.oracle.get_best_trials(1)[0], 0)
    tuner.close()
    assert {path: path.read_text() for path in theirs} == theirs
    assert len(tiny.numbers(lambda trial: 0.5, **arguments).oracle.trials) == 1


def test_weights_that_a_user_put_beside_those_of_a_trial_are_kept(store):
    store.weights_path("1", 0).parent.mkdir()
    paths = [store.weights_path("1", 0), store.weights_path("1", 0).with_name("1-my-notes.txt")]
    for path in paths:
        path.write_text("")
    store.delete_weights(["1"])
    assert [path.exists() for path in paths] == [False, True]


def test_weights_of_a_trial_are_deleted_and_those_of_others_are_not(store):
    paths = [store.weights_path(trial, execution) for trial, execution in (("1", 0), ("1", 1), ("11", 0), ("01", 0))]
    paths[0].parent.mkdir()
    for path in paths:
        path.write_text("")
    store.delete_weights(["1", "2"])
    assert [path.exists() for path in paths] == [False, False, True, True]


def test_closing_twice_is_harmless(store):
    store.close()
    store.close()
    again = ProjectStore(store.folder)
    again.close()
    assert again.trials() == []  # what is there can still be read
    with pytest.raises(ProjectError, match="closed"):
        again.put(fact=1)


def test_a_project_is_where_its_database_is(tmp_path):
    assert not ProjectStore.exists(tmp_path) and not ProjectStore.exists(None)
    ProjectStore(tmp_path).close()
    assert ProjectStore.exists(tmp_path) is True and ProjectStore.exists(str(tmp_path)) is True
