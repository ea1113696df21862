"""Projects and ensembles of strangers: opening one runs no code, and reads and writes nothing outside of it."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import os
import pickle
import sqlite3
import zipfile

import manyfit as kt  # isort: skip

import h5py
import keras
import numpy as np
import pytest
import tiny

from manyfit.core import files
from manyfit.core.errors import ManyfitError, ProjectError, UsageError
from manyfit.core.files import with_checksum
from manyfit.core.records import Plan
from manyfit.oracles import RandomSearchOracle
from manyfit.store import ProjectStore
from manyfit.store.layout import PredictionFiles, ProjectLayout
from manyfit.store.predictions import Archive
from manyfit.training.estimators import load_estimator, write_estimator
from manyfit.training.stored_state import StoredState, read_state, write_state
from manyfit.training.weights import write_weights

pytestmark = pytest.mark.backends


class Bomb:
    """A value whose pickle makes a folder when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """The folder that tells that a stranger's code has run."""
    return tmp_path / "code-has-run"


@pytest.fixture
def bomb(mark):
    """A pickle that must not be loaded."""
    return pickle.dumps(Bomb(mark))


def refused(error, *texts):
    """Whether an error of Manyfit has its four parts, and says this."""
    tiny.four_parts(error)
    assert isinstance(error, ManyfitError) and all(text in str(error) for text in texts), error
    return True


def opened(folder, **arguments):
    """A search with a `run_trial` of its own that keeps the weights of its model."""

    class Searched(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            model = tiny.build(trial.hyperparameters)
            self.save_model(trial.trial_id, model)
            return 0.5

    return Searched(tiny.build, "loss", max_trials=1, seed=0, directory=folder, project_name="p", **arguments)


@pytest.fixture
def project(tmp_path):
    """The folder of a finished search: the stranger's, who then changes it."""
    tuner = opened(tmp_path / "theirs")
    tuner.search(verbose=0)
    tuner.close()
    return ProjectLayout(tmp_path / "theirs" / "p")


def reopened(project, **arguments):
    return opened(project.folder.parent, **arguments)


def test_the_project_opens_as_it_is(project):
    tuner = reopened(project)
    assert len(tuner.get_best_models(1)) == 1
    tuner.close()


# -- code in files of the project ----------------------------------------------------------------------------------


def test_weights_that_are_a_pickle_are_not_loaded(project, bomb, mark):
    project.weights("0", 0).write_bytes(bomb)
    with pytest.raises(ProjectError) as caught:
        reopened(project).get_best_models(1)
    assert refused(caught.value, "weights", "0-0.npz") and not mark.exists()


def test_weights_with_objects_are_not_loaded(project, mark):
    objects = np.array([Bomb(mark)], dtype=object)
    np.savez(project.weights("0", 0), **{"00000": objects})
    with pytest.raises(ProjectError) as caught:
        reopened(project).get_best_models(1)
    assert refused(caught.value, "weights") and not mark.exists()


def test_weights_that_name_files_elsewhere_write_nothing(project, tmp_path):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    with zipfile.ZipFile(project.weights("0", 0), "w") as archive:
        archive.writestr("../../escaped.npy", content.getvalue())
    with pytest.raises(ProjectError) as caught:
        reopened(project).get_best_models(1)
    assert refused(caught.value, "weights") and not list(tmp_path.rglob("escaped*"))


@pytest.mark.parametrize("kind", ["link", "dataset", "virtual", "no file"])
def test_weights_of_keras_that_lie_in_other_files_are_not_read(project, tmp_path, kind):
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["numbers"] = np.arange(4.0)
    project.weights("0", 0).unlink()
    path = project.keras_weights("0")
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w") as file:
        if kind == "link":
            file["layers/vars/0"] = h5py.ExternalLink(str(outside), "numbers")
        elif kind == "dataset":
            file.create_dataset("layers/vars/0", (4,), "f8", external=[(str(outside), 0, h5py.h5f.UNLIMITED)])
        else:
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(outside), "numbers", (4,))
            file.create_virtual_dataset("layers/vars/0", layout)
    if kind == "no file":
        path.write_text("this is no HDF5")
    with pytest.raises(ProjectError) as caught:
        reopened(project).get_best_models(1)
    assert refused(caught.value, "another file" if kind != "no file" else "damaged")


def test_predictions_with_objects_are_not_loaded(project, mark):
    files_ = PredictionFiles(project.predictions)
    files_.folder.mkdir()
    np.savez(files_.of("0", 0), values=np.array([Bomb(mark)], dtype=object))
    np.savez(files_.labels, row_ids=np.array([Bomb(mark)], dtype=object), y=np.zeros(1))
    archive = Archive(files_.folder)
    for read in (archive.labels, lambda: archive.get("0", [0])):
        with pytest.raises(ProjectError) as caught:
            read()
        assert refused(caught.value, "kept predictions")
    assert not mark.exists()


def test_an_estimator_of_somebody_else_needs_trust(project, bomb, mark):
    project.weights("0", 0).unlink()
    project.weights("0", 0).with_suffix(".pickle").write_bytes(bomb)
    with pytest.raises(ProjectError) as caught:
        reopened(project).get_best_models(1)
    assert refused(caught.value, "any code", "trust=True") and not mark.exists()
    with pytest.raises(TypeError, match="weak reference"):  # what the bomb leaves is no estimator
        reopened(project, trust=True).get_best_models(1)
    assert mark.exists()  # the bomb is one


def test_an_estimator_of_a_sklearn_tuner_needs_trust(tmp_path, bomb, mark):
    pytest.importorskip("sklearn")
    from sklearn.linear_model import LogisticRegression

    def make(**arguments):
        oracle = RandomSearchOracle(kt.Objective("score", "max"), max_trials=1)
        build = lambda hp: LogisticRegression(C=hp.Float("C", 0.1, 1.0))  # noqa: E731
        return kt.SklearnTuner(oracle, build, directory=tmp_path, cv=2, **arguments)

    x = np.arange(12.0)[:, None]
    tuner = make()
    tuner.search(x, np.arange(12) % 2, verbose=0)
    tuner.close()
    [path] = tuner.store.layout.all_pickled().values()
    assert len(make().get_best_models(1)) == 1  # one's own goes without saying
    assert pickle.loads(path.read_bytes()).predict(x).shape == (12,)  # and programs of KerasTuner's still read it
    path.write_bytes(bomb)
    stranger = make()
    stranger.store.note_files(path)  # whoever makes the file makes its checksum, too
    stranger.close()
    with pytest.raises(ProjectError) as caught:
        make().get_best_models(1)
    assert refused(caught.value, "any code", "trust=True") and not mark.exists()


def test_a_seal_cannot_be_made_moved_or_kept_by_another_user(tmp_path, bomb, mark, monkeypatch):
    path = tmp_path / "0-0.pickle"
    write_estimator(path, [1, 2])
    assert load_estimator(path) == [1, 2]
    seal = path.read_bytes()[len(pickle.dumps([1, 2])) :]
    write_estimator(path, [3])
    of_mine = path.read_bytes()
    for content in (bomb, bomb + seal, bomb + seal[:-64] + b"0" * 64, files.sealed(bomb)[:-1] + b"?"):
        path.write_bytes(content)
        with pytest.raises(ProjectError):
            load_estimator(path)
    assert not mark.exists()
    path.write_bytes(of_mine)
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path / "another user"))
    with pytest.raises(ProjectError):
        load_estimator(path)
    assert load_estimator(path, trust=True) == [3]


@pytest.mark.skipif(os.name != "posix", reason="rights of files are those of POSIX")
def test_a_secret_that_others_can_read_proves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path / "mine"))
    secret = tmp_path / "mine" / "secret"
    assert files.is_sealed(files.sealed(b"content"))
    assert secret.stat().st_mode & 0o777 == 0o600 and len(secret.read_bytes()) == 32
    known = b"known to all".ljust(32)
    seal = hmac.new(known, b"content", hashlib.sha256).hexdigest().encode()
    for name, rights in (("private", 0o600), ("open", 0o644)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "secret").write_bytes(known)
        (folder / "secret").chmod(rights)
        monkeypatch.setenv("MANYFIT_CACHE_DIR", str(folder))
        own = files.sealed(b"content")
        assert files.is_sealed(own)  # at least within this process
        assert files.is_sealed(own[:-64] + seal) == (name == "private")


# -- states of paused executions -----------------------------------------------------------------------------------


def stored(path, **changes):
    arrays = [np.arange(3.0), np.float32(2.0)]
    facts = {"trainer": "t", "seed": 1, "epoch": 1, "variables": (arrays, [], []), "callbacks": [{"wait": 2}]}
    facts |= {"history": {"loss": [0.5, None]}, "best": arrays, "best_loss": 0.5, **changes}
    write_state(path, StoredState(**facts))
    return path


def read(path):
    return read_state(Plan("0", 0, {}, 1, first_epoch=1, state_path=str(path)), "t", 1)


def test_a_state_of_ones_own_comes_back_whatever_is_in_it(tmp_path):
    path = stored(tmp_path / "0-0.state", callbacks=[{"rates": {1, 2}, "folder": "logs"}])
    assert read(path).callbacks == [{"rates": {1, 2}, "folder": "logs"}]


def test_a_state_of_somebody_else_is_taken_where_it_is_numbers(tmp_path):
    path = stored(tmp_path / "0-0.state", callbacks=[{"wait": 2, "best": np.float32(0.5), "rates": [0.1, None]}])
    path.write_bytes(files.without_seal(path.read_bytes()))
    state = read(path)
    assert state.history == {"loss": [0.5, None]} and state.callbacks[0]["wait"] == 2
    np.testing.assert_array_equal(state.variables[0][0], np.arange(3.0))


@pytest.mark.parametrize(
    "callbacks",
    [[{"rates": {1, 2}}], [{"filepath": "../../.profile"}], [{"paths": {"a": [b"x"]}}], [{"paths": np.array(["x"])}]],
)
def test_a_state_of_somebody_else_with_more_is_trained_again(tmp_path, callbacks):
    path = stored(tmp_path / "0-0.state", callbacks=callbacks)
    path.write_bytes(files.without_seal(path.read_bytes()))
    assert read(path) is None


def test_a_state_with_code_runs_nothing(tmp_path, bomb, mark):
    path = tmp_path / "0-0.state"
    for content in (bomb, pickle.dumps({"a": Bomb(mark)}), pickle.dumps([stored, Bomb(mark)])):
        path.write_bytes(content)
        assert read(path) is None and not mark.exists()
    # Ways around a list of names: attributes of what is on it, and what it imports.
    for name in (b"manyfit.training.stored_state\nStoredState.fits", b"manyfit.training.stored_state\npickle.loads"):
        path.write_bytes(b"\x80\x04c" + name + b"\n.")
        assert read(path) is None


# -- paths ---------------------------------------------------------------------------------------------------------

EVIL_IDS = ["../../x", "/etc/x", "a/b", "..\\x", "..", ".", "", "C:x", "a\0b", "x" * 200, "0-confirm", "~root"]


def changed(project, statement, *arguments):
    connection = sqlite3.connect(project.database)
    with connection:
        connection.execute(statement, arguments)
    connection.close()


@pytest.mark.parametrize("trial_id", EVIL_IDS)
def test_ids_that_lead_elsewhere_are_refused(project, trial_id):
    for path in (project.trial_folder, project.of_models, lambda one: project.weights(one, 0)):
        with pytest.raises(UsageError) as caught:
            path(trial_id)
        assert refused(caught.value, "trial id")
    changed(project, "UPDATE trials SET id = ?", trial_id)
    with pytest.raises(ProjectError) as caught:
        reopened(project)
    assert refused(caught.value, "a trial that is called")


def test_an_oracle_cannot_write_such_ids(tmp_path):
    class Oracle(RandomSearchOracle):
        def new_id(self, number):
            return f"../{number}"

    tuner = kt.Tuner(Oracle("loss", max_trials=1), tiny.build, directory=tmp_path / "a")
    with pytest.raises(UsageError) as caught:
        tuner.search(np.zeros((4, 3)), np.zeros(4), verbose=0)
    assert refused(caught.value, "trial id") and not list(tmp_path.glob("*.npz"))
    store = ProjectStore(tmp_path / "b")
    with pytest.raises(UsageError):
        store.save_trials([{"id": "../0"}])
    store.close()


@pytest.mark.parametrize("table", ["executions", "epochs"])
def test_numbers_that_are_texts_are_refused(project, table):
    changed(project, f"UPDATE {table} SET execution = '../../x'")
    changed(project, f"INSERT OR IGNORE INTO {table} SELECT * FROM {table}")
    with pytest.raises(ProjectError) as caught:
        reopened(project)
    assert refused(caught.value, "../../x")


def test_rows_that_are_no_json_are_told_in_words(project):
    changed(project, "UPDATE trials SET outcome = '{'")
    with pytest.raises(ProjectError) as caught:
        reopened(project)
    assert refused(caught.value, "rows that cannot be read")


def test_links_in_the_places_of_own_files_are_refused_and_nothing_behind_them_is_touched(project, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0-0.npz").write_text("mine")
    (outside / "file").write_text("mine")
    named = [project.database, project.lock, project.holder, project.oracle_file, project.weights("0", 0)]
    named += [project.database.with_name("manyfit.sqlite-wal"), PredictionFiles(project.predictions).of("0", 0)]
    named += [project.keras_weights("0"), project.pickled("0"), project.weights("1", 0).with_suffix(".pickle")]
    folders = [project.weights("0", 0).parent, project.predictions, project.trial_folder("0")]
    for place in [*named, *folders]:
        aside = tmp_path / "aside"
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            place.rename(aside)
        place.symlink_to(outside if place in folders else outside / "file")
        for overwrite in (False, True):
            with pytest.raises(ProjectError) as caught:
                reopened(project, overwrite=overwrite)
            assert refused(caught.value, "a link to", place.name)
        place.unlink()
        if aside.exists():
            aside.rename(place)
    assert {path.name: path.read_text() for path in outside.iterdir()} == {"0-0.npz": "mine", "file": "mine"}
    reopened(project).close()


def test_a_link_in_the_place_of_a_file_that_is_being_written_is_not_followed(tmp_path):
    outside = tmp_path / "outside.npz"
    outside.write_text("mine")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "partial-0-0.npz").symlink_to(outside)
    write_weights(tmp_path / "weights" / "0-0.npz", [np.zeros(2)])
    assert outside.read_text() == "mine" and not (tmp_path / "weights" / "0-0.npz").is_symlink()


# -- databases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON project BEGIN DELETE FROM trials; END",
        "CREATE VIEW v AS SELECT * FROM trials",
    ],
)
def test_a_database_that_acts_is_refused(project, statement):
    changed(project, statement)
    with pytest.raises(ProjectError) as caught:
        reopened(project)
    assert refused(caught.value, "a database with the")
    tuner = reopened(project, overwrite=True)  # the way out that the message names
    assert not tuner.oracle.trials
    tuner.close()


# -- KerasTuner's files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trial_id", ["../../x", "/x", "1"])
def test_a_trial_of_keras_tuners_is_called_as_its_folder(tmp_path, trial_id):
    written = opened(tmp_path, keras_tuner_files=True)
    written.search(verbose=0)
    written.close()
    layout = written.store.layout
    layout.database.unlink()
    state = json.loads(layout.trial_file("0").read_text())
    opened(tmp_path).close()  # as it was written it opens
    layout.database.unlink()
    layout.trial_file("0").write_text(json.dumps({**state, "trial_id": trial_id}))
    with pytest.raises(ManyfitError) as caught:
        opened(tmp_path)
    assert refused(caught.value, trial_id)


# -- ensembles -----------------------------------------------------------------------------------------------------


@pytest.fixture
def ensemble(tmp_path):
    """A folder that `Ensemble.save` wrote, of one Keras model."""
    keras.utils.set_random_seed(0)
    x, y = np.zeros((8, 3), "float32"), np.arange(8) % 2
    model = tiny.build(kt.HyperParameters())
    kt.Ensemble.fit({"a": model}, y, x=x, method="uniform").save(tmp_path / "ensemble")
    return tmp_path / "ensemble"


def rewritten(folder, content, name=None):
    """Puts another file in the place of the member, under any name, with its right hash."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    entry = manifest["members"][0]["files"][0]
    if name is None:
        (folder / entry["file"]).write_bytes(content)
    entry |= {"file": name or entry["file"], "sha256": hashlib.sha256(content).hexdigest()}
    path.write_text(json.dumps(with_checksum(manifest)))  # whoever writes it makes its checksum, too


@pytest.mark.parametrize("kind", ["parent", "absolute", "link"])
def test_members_outside_of_the_folder_are_refused(ensemble, tmp_path, kind):
    [member] = ensemble.glob("*.keras")
    content = member.read_bytes()
    outside = tmp_path / member.name
    member.rename(outside)
    if kind == "link":
        member.symlink_to(outside)
    rewritten(ensemble, content, {"parent": f"../{member.name}", "absolute": str(outside)}.get(kind, member.name))
    with pytest.raises(UsageError) as caught:
        kt.Ensemble.load(ensemble)
    assert refused(caught.value, "Ensemble.load")


def test_a_pickled_member_is_not_loaded_without_trust(ensemble, bomb, mark):
    (ensemble / "member_000_0.pickle").write_bytes(bomb)
    rewritten(ensemble, bomb, "member_000_0.pickle")
    with pytest.raises(UsageError) as caught:
        kt.Ensemble.load(ensemble)
    assert refused(caught.value, "any code", "trust=True") and not mark.exists()


def test_a_lambda_in_a_member_is_not_loaded_without_trust(ensemble, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Lambda(lambda x: x[:, :1], output_shape=(1,))])
    model.save(tmp_path / "lambda.keras")
    rewritten(ensemble, (tmp_path / "lambda.keras").read_bytes())
    with pytest.raises((UsageError, ValueError), match=r"(?i)lambda|safe_mode"):
        kt.Ensemble.load(ensemble)


@pytest.mark.filterwarnings("ignore:Skipping invalid path")  # says Keras
def test_a_member_that_names_files_elsewhere_writes_nothing(ensemble, tmp_path):
    [member] = ensemble.glob("*.keras")
    with zipfile.ZipFile(member, "a") as archive:
        archive.writestr("../../escaped.txt", "x")
        archive.writestr("assets/../../escaped.txt", "x")
    rewritten(ensemble, member.read_bytes())
    kt.Ensemble.load(ensemble)
    assert not list(tmp_path.rglob("escaped*"))


def test_a_manifest_that_is_damaged_is_told_in_words(ensemble):
    path = ensemble / "manifest.json"
    whole = path.read_text()
    for text in ("{", "[]", '{"format": 1}', whole.replace('"sha256"', '"hash"'), whole.replace('"kind"', '"sort"')):
        path.write_text(text)
        with pytest.raises(UsageError) as caught:
            kt.Ensemble.load(ensemble)
        assert refused(caught.value, "Ensemble.load")


def test_saving_an_ensemble_does_not_write_through_links(ensemble, tmp_path):
    loaded = kt.Ensemble.load(ensemble)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    for path in list(ensemble.iterdir()):
        path.unlink()
        path.symlink_to(outside)
    loaded.save(ensemble)
    assert outside.read_text() == "mine" and not [path for path in ensemble.iterdir() if path.is_symlink()]
