"""Files are complete or absent, a full disk is told in words, and the cache folder is where the user wants it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny

import manyfit
from manyfit.core import files
from manyfit.core.errors import ProjectError


def test_a_file_that_could_not_be_finished_leaves_the_one_before(tmp_path):
    path = tmp_path / "note.txt"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError), files.replaced(path) as partial:
        partial.write_text("half of wh")
        raise ZeroDivisionError
    assert path.read_text() == "before"
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    (tmp_path / f"{files.PARTIAL}note.txt").write_text("left behind, and longer than what comes now")
    with files.replaced(tmp_path / "note.txt") as partial:
        partial.write_text("whole")
    assert (tmp_path / "note.txt").read_text() == "whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_two_processes_that_share_a_cache_write_under_different_names(tmp_path, monkeypatch):
    names = set()
    for process in (1, 2):
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        with files.replaced(tmp_path / "layout.json", is_shared=True) as partial:
            partial.write_text("{}")
            names.add(partial.name)
    assert len(names) == 2


def test_a_full_disk_is_told(tmp_path):
    full = files.written_whole(tmp_path / "weights.npz", "weights")
    with pytest.raises(ProjectError, match="No space left on device") as caught, full:
        raise OSError(28, "No space left on device")
    where, _, _, instead = tiny.four_parts(caught.value)
    assert "weights.npz" in where and "what was finished is kept" in instead


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    below_a_file = files.written_whole(tmp_path / "file" / "weights.npz", "weights")
    with pytest.raises(ProjectError, match="a write that failed"), below_a_file as partial:
        partial.write_text("")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", str(tmp_path))
    assert files.cache_folder("programs") == tmp_path / "programs"
    monkeypatch.setenv("MANYFIT_CACHE_DIR", "~/caches")
    assert files.cache_folder() == Path.home() / "caches"
    for off in ("off", "OFF", "0", "none", ""):
        monkeypatch.setenv("MANYFIT_CACHE_DIR", off)
        assert files.cache_folder("programs") is None
    monkeypatch.delenv("MANYFIT_CACHE_DIR")
    found = files.cache_folder("programs")
    assert found is not None and found.parts[-2:] == ("manyfit", "programs")


def test_files_are_written_whole_by_one_helper():
    """A second way would forget the partial name that workers leave out, or the message of a full disk."""
    own_ways = re.compile(r"os\.replace\(|os\.rename\(|partial\.replace\(|partial-|write that failed")
    source = Path(manyfit.__file__).parent
    found = [
        f"{path.relative_to(source)}:{number}: {line.strip()}"
        for path in sorted(source.rglob("*.py"))
        if path.relative_to(source).as_posix() != "core/files.py"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if own_ways.search(line)
    ]
    assert not found
