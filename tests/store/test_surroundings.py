"""What surrounds a project goes wrong: its folder, its disk, its clock, its file system, files beside the database."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import sys
import threading
import time
import traceback
import warnings
from pathlib import Path

import manyfit as kt  # isort: skip

import pytest
import tiny

from manyfit.core import files
from manyfit.core.errors import ProjectError
from manyfit.store import ProjectStore, connecting, requests
from manyfit.store.checksums import Checksums
from manyfit.store.layout import ProjectLayout
from manyfit.store.reading import read_project, token_of

pytestmark = pytest.mark.backends


def measuring(folder, function=lambda trial: 0.5, **arguments):
    return tiny.numbers(
        function, objective="loss", directory=folder, project_name="p", seed=1, **{"max_trials": 4, **arguments}
    )


def completed(folder):
    tuner = measuring(folder)
    ids = [trial.trial_id for trial in tuner.oracle.trials.values() if trial.is_completed]
    tuner.close()
    return ids


# -- the folder ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_put_back", [True, False], ids=["moved and put back", "deleted"])
def test_a_folder_that_goes_during_a_search_loses_nothing(tmp_path, is_put_back):
    calls, folder, away = [], tmp_path / "p", tmp_path / "away"

    def run_trial(trial):
        calls.append(trial.trial_id)
        if len(calls) == 3:
            shutil.move(folder, away)
        return 0.5

    tuner = measuring(tmp_path, run_trial)
    with pytest.raises(ProjectError, match="moved or deleted") as caught:
        tuner.search(verbose=0)
    assert "directory=" in tiny.four_parts(caught.value)[3]
    assert not folder.exists()  # nothing was begun anew where it had been
    if is_put_back:
        shutil.move(away, folder)
    else:
        shutil.rmtree(away)
    tuner.search(verbose=0)
    tuner.close()
    assert calls == ["0", "1", "2", "3"] and completed(tmp_path) == calls


def test_a_folder_that_was_moved_is_a_project_where_it_is_now(tmp_path):
    def run_trial(trial):
        if trial.trial_id == "2":
            shutil.move(tmp_path / "p", tmp_path / "elsewhere" / "p")
        return 0.5

    (tmp_path / "elsewhere").mkdir()
    tuner = measuring(tmp_path, run_trial)
    with pytest.raises(ProjectError):
        tuner.search(verbose=0)
    tuner.close()
    calls = []
    again = measuring(tmp_path / "elsewhere", lambda trial: calls.append(trial.trial_id) or 0.5)
    again.search(verbose=0)
    assert calls == ["2", "3"] and len(again.oracle.get_best_trials(9)) == 4


def test_a_database_that_somebody_has_put_there_is_not_written_to(tmp_path):
    measuring(tmp_path / "other").close()

    def run_trial(trial):
        database = tmp_path / "p" / "manyfit.sqlite"
        database.unlink()
        shutil.copy(tmp_path / "other" / "p" / "manyfit.sqlite", database)
        return 0.5

    tuner = measuring(tmp_path, run_trial)
    with pytest.raises(ProjectError, match="replaced while it was open") as caught:
        tuner.search(verbose=0)
    tiny.four_parts(caught.value)
    tuner.close()
    assert completed(tmp_path) == []


def test_an_empty_database_beside_weights_is_no_new_project(tmp_path):
    store = ProjectStore(tmp_path)
    with files.replaced(store.weights_path("0", 0)) as partial:
        partial.write_bytes(b"1")
    store.close()
    store.layout.database.write_bytes(b"")
    for use in (lambda: ProjectStore(tmp_path), lambda: read_project(tmp_path)):
        with pytest.raises(ProjectError, match="which is empty") as caught:
            use()
        assert "overwrite=True" in tiny.four_parts(caught.value)[3]
    ProjectStore(tmp_path, overwrite=True).close()
    assert not store.weights_path("0", 0).exists()


# -- the disk ------------------------------------------------------------------------------------------------------


def of_sqlite(code):
    error = sqlite3.OperationalError("what SQLite says")
    error.sqlite_errorcode = code
    return error


def test_a_full_disk_is_no_reason_to_start_anew(tmp_path, monkeypatch):
    for code, word in [
        (sqlite3.SQLITE_FULL, "Free some space"),
        (sqlite3.SQLITE_IOERR_WRITE, "Free some space"),
        (sqlite3.SQLITE_READONLY, "Make it writable"),
        (sqlite3.SQLITE_CANTOPEN, "Make it writable"),
        (sqlite3.SQLITE_BUSY, "Close that program"),
    ]:

        def refuse(*args, code=code, **kwargs):
            raise of_sqlite(code)

        with monkeypatch.context() as patched:
            patched.setattr(sqlite3, "connect", refuse)
            with pytest.raises(ProjectError) as caught:
                ProjectStore(tmp_path)
        instead = tiny.four_parts(caught.value)[3]
        assert word in instead and "overwrite" not in instead
    ProjectStore(tmp_path).close()  # the lock was given back each time


def test_a_holder_that_cannot_be_noted_holds_nobody_up(tmp_path, monkeypatch):
    def full(path, *args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        ProjectStore(tmp_path).close()
    ProjectStore(tmp_path).close()


def test_a_file_of_before_does_not_stand_in_for_one_that_could_not_be_written(tmp_path):
    path = tmp_path / "0-0.npz"
    path.write_text("of an earlier epoch")
    with pytest.raises(ProjectError, match="No space left"), files.rewritten(path, "weights"):
        raise OSError(28, "No space left on device")
    assert not path.exists()


def test_what_lasts_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("os.fsync", lambda descriptor: done.append("flushed"))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: done.append("named") or replace(path, target))
    with files.written_whole(tmp_path / "made" / "winner.keras", "winner", lasts=True) as partial:
        partial.write_text("model")
    assert done == ["flushed", "named", "flushed"]


# -- the file system -----------------------------------------------------------------------------------------------

MOUNTS = """\
22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
40 22 0:40 / {folder} rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / {folder}/local rw - tmpfs tmpfs rw
42 22 0:42 / {folder}\\040two rw - cifs //server/share rw
"""


def test_a_network_file_system_is_known_by_its_mount(tmp_path):
    for name in ("shared", "shared/local", "shared two", "sharedalike"):
        (tmp_path / name).mkdir()
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS.format(folder=tmp_path / "shared"))
    kinds = [
        connecting.network_file_system(tmp_path / name, mounts)
        for name in ("shared", "shared/local", "shared two", "sharedalike")
    ]
    assert kinds == ["nfs4", None, "cifs", None]
    assert connecting.network_file_system(tmp_path, tmp_path / "no such file") is None


def test_there_is_no_write_ahead_log_on_a_network_file_system(tmp_path, monkeypatch):
    before = measuring(tmp_path, max_trials=2)
    before.search(verbose=0)
    before.close()
    monkeypatch.setattr(connecting, "network_file_system", lambda folder: "nfs4")
    database = tmp_path / "p" / "manyfit.sqlite"
    seen = []

    def run_trial(trial):
        seen.append((database.with_name("manyfit.sqlite-wal").exists(), len(read_project(tmp_path / "p").trials)))
        return 0.5

    with pytest.warns(UserWarning, match="network file system \\(nfs4\\)"):
        tuner = measuring(tmp_path, run_trial)
    tuner.search(verbose=0)
    tuner.close()
    assert seen == [(False, 3), (False, 4)]


def test_a_journal_of_a_writer_that_was_killed_is_read_from_a_copy(tmp_path, monkeypatch):
    with pytest.warns(UserWarning, match="nfs4"), monkeypatch.context() as patched:
        patched.setattr(connecting, "network_file_system", lambda folder: "nfs4")
        store = ProjectStore(tmp_path)
    store.put(fact=1)
    killed = tmp_path / "killed"
    with contextlib.suppress(ZeroDivisionError), store.transaction() as connection:
        connection.execute("PRAGMA cache_size=1")
        connection.execute("UPDATE project SET value = '2' WHERE name = 'fact'")
        rows = [(f"{number}", json.dumps("x" * 900)) for number in range(200)]
        connection.executemany("INSERT INTO project VALUES (?, ?)", rows)  # spills into the file before the commit
        killed.mkdir()
        for path in tmp_path.glob("manyfit.sqlite*"):
            shutil.copy(path, killed)
        assert (killed / "manyfit.sqlite-journal").stat().st_size > 0
        raise ZeroDivisionError
    store.close()
    assert read_project(killed).facts["fact"] == "1"


# -- the clock -----------------------------------------------------------------------------------------------------


def test_requests_keep_their_order_when_the_clock_goes_back(tmp_path, monkeypatch):
    ProjectStore(tmp_path).close()
    times = iter([5 * 10**18, 3 * 10**18, 4 * 10**18])
    monkeypatch.setattr(time, "time_ns", lambda: next(times))
    for text in ("first", "second", "third"):
        requests.ask(tmp_path, requests.NOTE, trial_id="0", text=text)
    waiting = ProjectLayout.of(tmp_path).waiting_requests()
    assert [requests.read_request(*each).details["text"] for each in waiting.items()] == ["first", "second", "third"]


# -- threads -------------------------------------------------------------------------------------------------------


def test_a_thread_that_saves_reads_and_summarises_while_trials_come_and_go(tmp_path, capsys):
    raised, is_over = [], threading.Event()

    def looks():
        try:
            while not is_over.is_set():
                tuner.results()
                tuner.save()
                tuner.get_best_hyperparameters(3)
                tuner.results_summary(3)
                tuner.oracle.end_order
                kt.open_project(tmp_path / "p").results()
        except BaseException:
            raised.append(traceback.format_exc())

    tuner = measuring(tmp_path, lambda trial: {"loss": float(trial.trial_id)}, max_trials=60)
    thread, interval = threading.Thread(target=looks), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        tuner.search(verbose=0)
    finally:
        is_over.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not raised, raised[0]
    assert len(tuner.oracle.get_best_trials(99)) == 60


# -- files ---------------------------------------------------------------------------------------------------------


def test_checksums_find_what_changed_and_say_it_once(tmp_path):
    known = {}
    checksums = Checksums(tmp_path, known.get)
    path = tmp_path / "weights" / "0-0.npz"
    path.parent.mkdir()
    content = bytes(range(256)) * 8
    path.write_bytes(content)
    assert checksums.is_sound(path)  # of an earlier version: nobody knows better
    known.update(checksums.of([path, path.with_name("1-0.npz")]))
    assert set(known) == {"weights/0-0.npz", "weights/1-0.npz"} and known["weights/1-0.npz"] is None
    checksums.check(path)
    for number, bad in enumerate([b"", bytes(2048), content[:-1], content[:7] + b"x" + content[8:], content + b"x"]):
        path.write_bytes(bad)
        with pytest.raises(ProjectError, match="not the one that was written") as caught:
            checksums.check(path)
        tiny.four_parts(caught.value)
        if number == 0:
            with pytest.warns(UserWarning, match="counts as one that was not kept"):
                assert not checksums.is_sound(path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not checksums.is_sound(path)
    path.unlink()
    checksums.check(path)  # what is not there is told by whoever wants it


def test_half_written_files_of_a_killed_process_go_and_nothing_else_does(tmp_path):
    store = ProjectStore(tmp_path)
    for folder in (store.layout.weights("0", 0).parent, store.layout.predictions, store.layout.winner):
        folder.mkdir()
    own = [
        tmp_path / name
        for name in ("weights/partial-0-0.npz", "predictions/partial-labels.npz", "winner/partial-winner.keras")
    ]
    others = [
        tmp_path / name
        for name in ("partial-thesis.txt", "weights/partial-thesis.npz", "weights/0-0.npz", "winner/mine.keras")
    ]
    for path in (*own, *others):
        path.write_text("")
    second = ProjectStore(tmp_path)  # of this process: somebody may be writing
    assert all(path.exists() for path in own)
    second.close()
    store.close()
    ProjectStore(tmp_path).close()
    assert not any(path.exists() for path in own) and all(path.exists() for path in others)


def test_weights_of_trials_that_fell_behind_go_after_a_kill_too(tmp_path):
    def make():
        return measuring(tmp_path, lambda trial: {"loss": float(trial.trial_id)}, num_kept_models=2)

    tuner = make()
    tuner.search(verbose=0)
    layout = tuner.store.layout
    tuner.close()
    names = ["0-0.npz", "3-0.npz", "3-0.state", "3-confirm-0.npz", "9-0.npz", "mine.npz"]
    layout.weights("0", 0).parent.mkdir()
    for name in names:  # as a process leaves them that is killed before it has deleted any
        (layout.folder / "weights" / name).write_bytes(b"1")
    tuner = make()
    tuner.search(verbose=0)
    left = {path.name for path in (layout.folder / "weights").iterdir()}
    assert left == {"0-0.npz", "3-confirm-0.npz", "9-0.npz", "mine.npz"}
    tuner.close()


# -- whether it has changed ----------------------------------------------------------------------------------------


def test_a_token_changes_when_a_project_does_and_says_whether_it_may_again(tmp_path):
    assert token_of(tmp_path, now=0.0) == "-----~"  # three files that are not there, at the clock's beginning
    assert token_of(tmp_path, now=1e9) == "-----"
    database = ProjectLayout.of(tmp_path).database
    database.write_bytes(b"12345678")
    os.utime(database, ns=(10**18, 10**18))
    calm = token_of(tmp_path, now=1e9 + 60.0)
    assert calm == f"{10**18:x}.8----" and token_of(tmp_path, now=1e9 + 0.01) == f"{calm}~"
    database.write_bytes(b"123456789")
    os.utime(database, ns=(10**18, 10**18))
    assert token_of(tmp_path, now=1e9 + 60.0) == f"{10**18:x}.9----"
