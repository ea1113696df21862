"""Files that somebody has made to do harm by being read: to hang, to fill the memory, to delete, to compute."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import struct
import zipfile

import manyfit as kt  # isort: skip

import h5py
import keras
import numpy as np
import pytest
import tiny
from hanging import nothing_hangs

from manyfit.core.errors import ManyfitError, ProjectError
from manyfit.core.untrusted import archive, check_unpacked, plain_file, read_json, shown
from manyfit.store.layout import PredictionFiles, ProjectLayout
from manyfit.store.predictions import Archive
from manyfit.store.schema import check_harmless
from manyfit.training.weights import load_keras_weights, load_weights

DEEP = "[" * 100_000 + "]" * 100_000
needs_posix = pytest.mark.skipif(os.name != "posix", reason="pipes in folders, and alarms, are those of POSIX")


def opened(folder, **arguments):
    arguments = {"objective": kt.Objective("score", "max"), "max_trials": 2, "seed": 0, **arguments}
    return tiny.numbers(lambda trial: 0.5, directory=folder, project_name="p", **arguments)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """The folder of a finished search without a model."""
    folder = tmp_path_factory.mktemp("searched")
    tuner = opened(folder)
    tuner.search(verbose=0)
    tuner.close()
    statement = "INSERT OR IGNORE INTO epochs VALUES ('0', 'search', 0, 0, 0, '{\"score\": 0.5}', NULL, NULL)"
    changed(ProjectLayout(folder / "p"), statement)
    return folder / "p"


@pytest.fixture
def project(tmp_path, searched):
    """A copy of it: the stranger's, who then changes it."""
    return ProjectLayout(shutil.copytree(searched, tmp_path / "p"))


def changed(layout, statement, *arguments):
    connection = sqlite3.connect(layout.database)
    with connection:
        connection.execute(statement, arguments)
    connection.close()


def refused(call):
    """The text of the error that a call ends with, which has to be one of ours, of four parts."""
    with nothing_hangs(), pytest.raises(ManyfitError) as caught:
        call()
    tiny.four_parts(caught.value)
    return str(caught.value)


# -- databases -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET outcome = ?",
        "UPDATE trials SET trial_values = ?",
        "UPDATE executions SET outcome = ?",
        "UPDATE project SET value = ? WHERE name = 'space'",
        "UPDATE project SET value = ? WHERE name = 'search'",
        "UPDATE project SET value = ? WHERE name = 'schema_version'",
    ],
)
def test_brackets_within_brackets_are_told_in_words(project, statement):
    changed(project, statement, DEEP)
    assert "too deep" in refused(lambda: opened(project.folder.parent))
    assert "too deep" in refused(lambda: kt.open_project(project.folder))


def test_an_epoch_of_brackets_is_told_in_words_by_whoever_asks_for_its_curve(project):
    changed(project, "UPDATE epochs SET logs = ?", DEEP)
    assert "too deep" in refused(lambda: opened(project.folder.parent))
    found = kt.open_project(project.folder)
    assert "too deep" in refused(lambda: found.trials[0].searched[0].curves)
    assert "too deep" in refused(found.results)


@pytest.mark.parametrize("epoch", [10**9, 10**15, -1, "one"])
def test_an_epoch_of_a_high_number_makes_no_list_as_long(project, epoch):
    changed(project, "UPDATE epochs SET epoch = ?", epoch)
    assert repr(epoch) in refused(lambda: opened(project.folder.parent))
    assert repr(epoch) in refused(lambda: kt.open_project(project.folder))


@pytest.mark.parametrize("column", ["number", "attempt"])
def test_numbers_of_trials_have_a_limit(project, column):
    changed(project, f"UPDATE trials SET {column} = 1000000000000")
    assert "1000000000000" in refused(lambda: opened(project.folder.parent))


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE project SET value = '-1' WHERE name = 'search'",
        "UPDATE project SET name = '0' WHERE name = 'search'",
        "UPDATE project SET value = '[]' WHERE name = 'seed'",
        "UPDATE project SET value = '7' WHERE name = 'space'",
        "UPDATE trials SET trial_values = (SELECT json_group_object(key, null) FROM json_each(trial_values))",
    ],
)
def test_facts_of_another_kind_are_told_in_words_before_anything_is_made_of_them(project, statement):
    changed(project, statement)
    assert "overwrite=True" in refused(lambda: opened(project.folder.parent))


@pytest.mark.parametrize("version", ["-5", "0", "99", "NaN", "[1]", "null", "1" * 5000, '"x"'])
def test_a_version_that_is_none_is_told_in_words(project, version):
    changed(project, "UPDATE project SET value = ? WHERE name = 'schema_version'", version)
    assert "version" in refused(lambda: opened(project.folder.parent))
    assert "version" in refused(lambda: kt.open_project(project.folder))


@pytest.mark.parametrize(
    "change", ["status = x'00'", "started_at = 'x'", "ended_at = 'y'", "outcome = json_set(outcome, '$.score', 'x')"]
)
def test_columns_of_another_kind_are_told_in_words(project, change):
    changed(project, f"UPDATE trials SET {change}")
    assert "trial" in refused(lambda: kt.open_project(project.folder))


def test_a_value_of_a_hundred_megabytes_is_not_read(project):
    changed(project, "UPDATE project SET value = zeroblob(100000000) WHERE name = 'space'")
    assert "too big" in refused(lambda: opened(project.folder.parent))
    assert "too big" in refused(lambda: kt.open_project(project.folder))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a INTEGER, b AS (hex(a)))",
        "CREATE TABLE t (a INTEGER CHECK (abs(a) > 1))",
        "CREATE TABLE t (a TEXT DEFAULT (hex(randomblob(9))))",
        "CREATE TABLE t (a TEXT REFERENCES trials (id) ON DELETE CASCADE)",
        "CREATE TABLE t (a TEXT PRIMARY KEY ON CONFLICT IGNORE)",
        "CREATE INDEX i ON trials (abs(number))",
        "CREATE INDEX i ON trials (number) WHERE number > 1",
        "CREATE VIRTUAL TABLE t USING fts5(a)",
        "ALTER TABLE trials ADD COLUMN late TEXT AS (hex(number))",
    ],
)
def test_a_schema_that_computes_is_refused(project, statement):
    try:
        changed(project, statement)
    except sqlite3.OperationalError as error:  # a build of SQLite without that kind of table
        pytest.skip(str(error))
    assert "a database with the" in refused(lambda: opened(project.folder.parent))
    assert "a database with the" in refused(lambda: kt.open_project(project.folder))


def test_the_name_of_the_objective_is_looked_for_in_one_go(project):
    changed(
        project, "UPDATE project SET value = ? WHERE name = 'search'", json.dumps({"objective": 'name="' * 200_000})
    )
    with nothing_hangs():  # it took hours: from each beginning to the end of the text
        assert kt.open_project(project.folder).objective == "score"


def journal_that_names(database, other):
    """A journal as SQLite leaves it where it has died while it wrote to this database and to others at once."""
    content = database.read_bytes()
    size = struct.unpack(">H", content[16:18])[0]
    second, magic = content[size : 2 * size], bytes.fromhex("d9d505f920a163d7")
    total = sum(second[place] for place in range(size - 200, 0, -200))
    head = magic + struct.pack(">5I", 1, 0, len(content) // size, 512, size)
    name = os.fsencode(other)
    page = struct.pack(">I", 2) + second + struct.pack(">I", total)
    end = struct.pack(">I", 0x40000000 // size + 1) + name + struct.pack(">2I", len(name), sum(name)) + magic
    return head.ljust(512, b"\0") + page + end


def test_a_journal_deletes_no_other_file(project, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    connection = sqlite3.connect(project.database)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    content = journal_that_names(project.database, precious)
    # SQLite itself does delete it.
    copy = tmp_path / "copy" / project.database.name
    copy.parent.mkdir()
    copy.write_bytes(project.database.read_bytes())
    copy.with_name(f"{copy.name}-journal").write_bytes(content)
    with contextlib.closing(sqlite3.connect(copy)) as connection:
        connection.execute("SELECT * FROM trials").fetchall()
    assert not precious.exists()
    precious.write_text("mine")
    project.database.with_name(f"{project.database.name}-journal").write_bytes(content)
    assert "names another file" in refused(lambda: opened(project.folder.parent))
    kt.open_project(project.folder)
    assert precious.read_text() == "mine"
    opened(project.folder.parent, overwrite=True).close()
    assert precious.read_text() == "mine"


# -- files of KerasTuner's -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["brackets", "pipe"])
def test_a_project_of_keras_tuners_that_cannot_be_read_is_told_in_words(tmp_path, kind):
    folder = tmp_path / "p"
    folder.mkdir()
    if kind == "brackets":
        (folder / "oracle.json").write_text(DEEP)
    elif os.name == "posix":
        os.mkfifo(folder / "oracle.json")
    else:
        pytest.skip("pipes in folders are those of POSIX")
    assert "oracle.json" in refused(lambda: opened(tmp_path))


# -- archives of arrays --------------------------------------------------------------------------------------------


def array_file(shape, content, kind="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def archive_of(path, content, *, packed=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", packed) as file:
        file.writestr("00000.npy", content)
    return path


@pytest.fixture(scope="module")
def model():
    return tiny.build(kt.HyperParameters())


@pytest.mark.parametrize("shape", [(10**14,), (10**8,), (2**62, 4), (-1,), (3, -4), (7,)])
def test_an_array_that_tells_of_another_size_takes_no_memory(tmp_path, model, shape):
    path = archive_of(tmp_path / "0-0.npz", array_file(shape, b"\0" * 64))
    assert "not of the shape" in refused(lambda: load_weights(model, path))
    with pytest.raises(ValueError, match="not of the shape"), archive(path.read_bytes()):
        pass


def test_a_small_archive_that_unpacks_to_much_is_not_unpacked(tmp_path, model, monkeypatch):
    monkeypatch.setattr("manyfit.core.untrusted.UNPACKED_BYTES", 1 << 20)  # a quarter of a gigabyte takes seconds
    path = archive_of(tmp_path / "0-0.npz", array_file((1 << 20,), b"\0" * (1 << 23)))
    assert 200 * path.stat().st_size < 1 << 23
    assert "unpack to" in refused(lambda: load_weights(model, path))
    files = PredictionFiles(tmp_path / "predictions")
    files.folder.mkdir()
    for name in (files.of("0", 0), files.labels):
        name.write_bytes(path.read_bytes())
    kept = Archive(files.folder)
    for read in (kept.labels, lambda: kept.get("0", [0]), lambda: kept.losses("0", "search", 0)):
        assert "unpack to" in refused(read)
    with pytest.raises(ValueError, match="unpack to"):
        check_unpacked(path)


def test_what_is_packed_as_manyfit_packs_it_is_read(tmp_path):
    path = tmp_path / "arrays.npz"
    arrays = {
        "zeros": np.zeros((1000, 1000)),
        "texts": np.array(["a", "bc"]),
        "none": np.zeros((0, 3)),
        "one": np.array(1),
    }
    np.savez_compressed(path, **arrays)
    with archive(path) as found:
        assert sorted(found) == sorted(arrays)
        assert all(np.array_equal(found[name], array) for name, array in arrays.items())


@needs_posix
def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(tmp_path, model):
    files = PredictionFiles(tmp_path / "predictions")
    files.folder.mkdir()
    places = [tmp_path / "0-0.npz", tmp_path / "checkpoint.weights.h5", files.of("0", 0), files.labels]
    for place in places:
        os.mkfifo(place)
    kept = Archive(files.folder)
    calls = [lambda: load_weights(model, places[0]), lambda: load_keras_weights(model, places[1])]
    for call in [*calls, lambda: kept.get("0", [0]), kept.labels]:
        assert "no plain file" in refused(call)
    with pytest.raises(ValueError, match="no plain file"):
        plain_file(tmp_path)


@pytest.mark.filterwarnings("ignore")  # Keras says what it did not find
def test_weights_of_keras_that_tell_of_terabytes_take_no_memory(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="only")])
    path = tmp_path / "checkpoint.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        [name] = [name for name in ("layers/only/vars/0", "layers/dense/vars/0") if name in file]
        del file[name]
        file.create_dataset(name, (10**13,), "f8", chunks=(10**6,), compression="gzip")
        file["loop"] = h5py.SoftLink("/loop")
        file["again"] = file["/"]
    assert "weights" in refused(lambda: load_keras_weights(model, path))


# -- texts ---------------------------------------------------------------------------------------------------------


def test_letters_that_a_terminal_obeys_are_replaced_and_others_stay():
    obeyed = ["\x1b", "\x9b", "\x07", "\r", "\b", "\x7f", "\0", "\u202e", "\u2066", "\u200f", "\u061c", "\u2028"]
    assert shown("".join(obeyed)) == "\N{REPLACEMENT CHARACTER}" * len(obeyed)
    kept = "a\tb\nc … é 値 👩‍🔬 שלום"
    assert shown(kept) == kept


def test_json_is_what_python_reads():
    assert read_json(b'{"a": [1, NaN]}')["a"][0] == 1
    for text in ("{", DEEP):
        with pytest.raises(ValueError):
            read_json(text)


def test_an_error_obeys_no_letter_of_what_it_tells(tmp_path):
    with pytest.raises(ProjectError) as caught:
        kt.open_project(tmp_path / "\x1b[2J\u202e")
    assert "\x1b" not in str(caught.value) and "\u202e" not in str(caught.value)


def test_an_index_that_sqlite_makes_by_itself_is_harmless():
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE plain (name TEXT UNIQUE)")
        check_harmless(connection, "here")
        connection.execute("CREATE INDEX short ON plain (substr(name, 1))")
        with pytest.raises(ProjectError, match="index 'short'"):
            check_harmless(connection, "here")
