"""The programs of docs/guides-side-by-side.md: as written for KerasTuner, by manyfit.compat, and as they become."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

import manyfit.compat

PAGE = Path(__file__).parents[1] / "docs" / "guides-side-by-side.md"
PROGRAMS = re.findall(r"^```diff\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)


def side(program: str, dropped: str) -> str:
    """One side of a difference: without the lines that begin with a sign, and without the first column."""
    return "".join(line[1:] + "\n" for line in program.splitlines() if not line.startswith(dropped))


@pytest.fixture
def keras_tuner():
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "keras_tuner"}
    manyfit.compat.install()
    yield
    manyfit.compat.uninstall()
    sys.modules.update(before)


def run(source: str, folder: Path) -> dict:
    path = folder / "program.py"
    path.write_text(source, encoding="utf-8")
    return runpy.run_path(str(path))


def test_there_are_three_and_the_import_is_what_must_change():
    assert len(PROGRAMS) == 3
    for program in PROGRAMS:
        assert program.startswith("-import keras_tuner\n+import manyfit as keras_tuner\n import keras\n")


@pytest.mark.parametrize("number", range(3))
def test_they_run_once_they_are_changed(number, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run(side(PROGRAMS[number], "-"), tmp_path)
    endings = [trial.status for trial in names["tuner"].oracle.trials.values()]
    assert endings == (["COMPLETED"] * 3 + ["FAILED"] if number == 2 else ["COMPLETED"] * 3)
    assert number == 2 or names["model"].count_params() > 0


def test_one_that_nobody_has_changed_runs(tmp_path, monkeypatch, keras_tuner):
    monkeypatch.chdir(tmp_path)
    tuner = run(side(PROGRAMS[2], "+"), tmp_path)["tuner"]
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 3 + ["FAILED"]
