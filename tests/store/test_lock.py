"""One process per project."""

import json
import os
import subprocess
import sys

import pytest
import tiny

from manyfit.core.errors import ProjectError
from manyfit.store import ProjectStore, lock

HOLD = """
import sys
from manyfit.store import ProjectStore
store = ProjectStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has the project open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_a_second_process_is_told_who_the_first_is(tmp_path, holder):
    with pytest.raises(ProjectError, match=f"process {holder.pid} on ") as caught:
        ProjectStore(tmp_path)
    assert "project_name=" in tiny.four_parts(caught.value)[3]


def test_not_even_overwriting_takes_a_project_from_another_process(tmp_path, holder):
    with pytest.raises(ProjectError, match=str(holder.pid)):
        ProjectStore(tmp_path, overwrite=True)
    assert (tmp_path / "manyfit.sqlite").exists()


def test_the_lock_dies_with_its_holder(tmp_path, holder):
    holder.kill()
    holder.wait()
    store = ProjectStore(tmp_path)
    assert store.get("schema_version") is not None
    store.close()


def test_a_lost_note_makes_the_message_poorer_and_nothing_else(tmp_path, holder):
    (tmp_path / "manyfit.holder.json").write_text("{")
    with pytest.raises(ProjectError, match="while another process has it open"):
        ProjectStore(tmp_path)


def test_tuners_of_one_process_share_the_lock(tmp_path):
    first, second = ProjectStore(tmp_path), ProjectStore(tmp_path)
    first.put(fact=1)
    assert second.get("fact") == 1
    first.close()
    assert json.loads((tmp_path / "manyfit.holder.json").read_text())["pid"] == os.getpid()
    assert _another_process_is_refused(tmp_path)
    second.close()
    assert not _another_process_is_refused(tmp_path)


def _another_process_is_refused(folder):
    code = "import sys; from manyfit.store import ProjectStore; ProjectStore(sys.argv[1])"
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    return run.returncode != 0 and "one process at a time" in run.stderr


def test_giving_back_what_was_never_taken_is_harmless(tmp_path):
    lock.release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_project_by_a_relative_path_gives_back_its_own_lock_from_wherever_it_is_closed(tmp_path, monkeypatch):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "first")
    first = ProjectStore("project")
    monkeypatch.chdir(tmp_path / "second")
    second = ProjectStore("project")
    first.close()
    second.begin_work("a search")  # whose lock is still there
    second.close()
