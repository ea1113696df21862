"""Projects that the tests of this folder look at."""

from __future__ import annotations

import os
import platform
import shutil
import time

import manyfit as kt  # isort: skip

import pytest
import tiny
from browsers import MARKUP, Browser, change

from manyfit.store.layout import ProjectLayout


def searched(folder, name, shift=0.0, **arguments):
    hp = kt.HyperParameters()
    hp.Int("units", 1, 50)
    hp.Choice(f"{MARKUP} of {'x' * 180}", ["a", "<b>"])

    def run(trial):
        if trial.number == 3:
            raise ValueError(f"{MARKUP} exploded")
        return [{"score": trial.hyperparameters["units"] / 500 + shift + luck / 1000} for luck in (0, trial.number, 3)]

    arguments = {"objective": kt.Objective("score", "max"), "max_trials": 9, "seed": 0, **arguments}
    tuner = tiny.numbers(run, hyperparameters=hp, directory=str(folder), project_name=name, **arguments)
    tuner.search(verbose=0)
    tuner.close()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Projects that nobody changes: two, an odd name, a corrupt one, one of the future, one whose writer died."""
    folder = tmp_path_factory.mktemp("projects")
    searched(folder, "one")
    searched(folder, "two", shift=0.5)
    shutil.copytree(folder / "one", folder / f"deeper/{MARKUP.replace('/', '')} {'x' * 200}")
    (folder / "corrupt").mkdir()
    ProjectLayout(folder / "corrupt").database.write_text("no database")
    for name in ("newer", "died"):
        shutil.copytree(folder / "one", folder / name)
    change(folder / "newer", "schema_version", 99)
    change(folder / "died", "activity", {"what": "a search", "pid": 2**22 + 5, "host": platform.node(), "since": 1.0})
    outside = tmp_path_factory.mktemp("outside")
    searched(outside, "secret")
    (folder / "link").symlink_to(outside / "secret")
    (folder / "file").mkdir()
    ProjectLayout(folder / "file").database.symlink_to(ProjectLayout(outside / "secret").database)
    return folder


@pytest.fixture
def running(made, tmp_path):
    """A project that this process searches, as its records have it."""
    shutil.copytree(made / "one", tmp_path / "run")
    activity = {"what": "a search", "pid": os.getpid(), "host": platform.node(), "since": time.time()}
    change(tmp_path / "run", "activity", activity)
    return tmp_path / "run"


@pytest.fixture(scope="session")
def browser(made):
    return Browser(made)
