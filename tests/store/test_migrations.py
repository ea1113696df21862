"""A project of an earlier version becomes one of this version, step by step, and never loses a row."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from manyfit.core.errors import ProjectError
from manyfit.store import ProjectStore, migrations
from manyfit.store.layout import ProjectLayout
from manyfit.store.schema import TABLES

GOLDEN = Path(__file__).parent / "golden"


def schema(connection):
    """Tables and indices, however their statements are broken into lines."""
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'").fetchall()
    return {(kind, name): " ".join((sql or "").split()) for kind, name, sql in rows}


def contents(connection):
    names = sorted(name for kind, name in schema(connection) if kind == "table")
    return {name: connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in names}


def opened(path):
    return sqlite3.connect(path, isolation_level=None)


@pytest.fixture
def first(tmp_path):
    """The database of a project that 0.1.0 wrote."""
    shutil.copy(ProjectLayout(GOLDEN / "0.1.0" / "bayesian").database, tmp_path / "first.sqlite")
    return tmp_path / "first.sqlite"


@pytest.mark.parametrize("version", sorted(folder.name for folder in GOLDEN.iterdir() if folder.is_dir()))
def test_an_opened_project_has_the_tables_of_a_new_one(version, tmp_path):
    for old in ("bayesian", "hyperband", "asha"):
        shutil.copytree(GOLDEN / version / old, tmp_path / old)
        ProjectStore(tmp_path / old).close()
        ProjectStore(tmp_path / f"new {old}").close()
        layouts = ProjectLayout(tmp_path / old), ProjectLayout(tmp_path / f"new {old}")
        migrated, new = (opened(layout.database) for layout in layouts)
        assert schema(migrated) == schema(new)
        assert migrations.version_of(migrated) == migrations.version_of(new) == migrations.SCHEMA_VERSION
        migrated.close()
        new.close()


def add_costs(connection):
    connection.execute("CREATE TABLE costs (trial_id TEXT PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID")
    connection.execute("INSERT INTO costs SELECT id, 0.0 FROM trials")


def rename_numbers(connection):
    connection.execute("ALTER TABLE trials RENAME COLUMN number TO position")


def first_tables():
    """The statements of 0.1.0: what is added since then is not what these tests are about."""
    with contextlib.closing(opened(ProjectLayout(GOLDEN / "0.1.0" / "bayesian").database)) as connection:
        return [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE type = 'table'")]


STEPS = (add_costs, rename_numbers)
NEWEST = (
    *(table.replace("number     INTEGER", "position     INTEGER") for table in first_tables()),
    "CREATE TABLE costs (trial_id TEXT PRIMARY KEY, seconds REAL NOT NULL) WITHOUT ROWID",
)


def test_steps_lead_to_what_creating_makes(first, tmp_path):
    old, new = opened(first), opened(tmp_path / "new.sqlite")
    before = contents(old)
    migrations.bring_up_to_date(old, "project", steps=STEPS, tables=NEWEST)
    migrations.bring_up_to_date(new, "project", steps=STEPS, tables=NEWEST)
    assert schema(old) == schema(new)
    assert migrations.version_of(old) == migrations.version_of(new) == 1 + len(STEPS)
    after = contents(old)
    assert [row[0] for row in after.pop("costs")] == [row[0] for row in before["trials"]]
    assert {k: v for k, v in after.items() if k != "project"} == {k: v for k, v in before.items() if k != "project"}
    old.close()
    new.close()


def test_a_project_in_between_gets_the_steps_that_it_lacks(first):
    connection = opened(first)
    migrations.bring_up_to_date(connection, "project", steps=STEPS[:1])
    assert migrations.version_of(connection) == 2
    migrations.bring_up_to_date(connection, "project", steps=STEPS)
    migrations.bring_up_to_date(connection, "project", steps=STEPS)  # nothing is left to do
    assert migrations.version_of(connection) == 1 + len(STEPS)
    connection.close()


def test_a_step_that_fails_is_taken_back_and_those_before_it_stay(first):
    def breaks(connection):
        connection.execute("DELETE FROM epochs")
        raise ZeroDivisionError

    connection = opened(first)
    before = contents(connection)
    with pytest.raises(ZeroDivisionError):
        migrations.bring_up_to_date(connection, "project", steps=(add_costs, breaks))
    assert migrations.version_of(connection) == 2
    assert contents(connection)["epochs"] == before["epochs"]
    connection.close()


def test_a_full_disk_is_told(first):
    def fills(connection):
        raise sqlite3.OperationalError("database or disk is full")

    connection = opened(first)
    with pytest.raises(ProjectError, match="disk is full") as caught:
        migrations.bring_up_to_date(connection, "project", steps=(fills,))
    assert "what was finished is kept" in tiny.four_parts(caught.value)[3]
    assert migrations.version_of(connection) == 1
    connection.close()


DIES = """
import os, signal, sqlite3, sys
from manyfit.store import migrations

def step(connection):
    connection.execute("DELETE FROM epochs")
    connection.execute("ALTER TABLE trials RENAME TO old_trials")
    os.kill(os.getpid(), signal.SIGKILL)

connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
migrations.bring_up_to_date(connection, "project", steps=(lambda connection: None, step))
"""


def test_death_in_the_middle_of_a_step_loses_nothing(first):
    connection = opened(first)
    before = contents(connection)
    connection.close()
    died = subprocess.run([sys.executable, "-c", DIES, str(first)], check=False)
    assert died.returncode == -signal.SIGKILL
    connection = opened(first)
    after = contents(connection)
    assert migrations.version_of(connection) == 2  # the step before was whole
    assert after["trials"] == before["trials"] and after["epochs"] == before["epochs"]
    migrations.bring_up_to_date(connection, "project", steps=(lambda connection: None, rename_numbers))
    assert migrations.version_of(connection) == 3
    connection.close()


def test_a_newer_project_is_refused_and_stays_as_it_is(first):
    connection = opened(first)
    before = contents(connection)
    connection.execute("UPDATE project SET value = '99' WHERE name = 'schema_version'")
    with pytest.raises(ProjectError, match="a file of version 99") as caught:
        migrations.bring_up_to_date(connection, "project", steps=STEPS)
    assert "pip install --upgrade manyfit" in tiny.four_parts(caught.value)[3]
    assert contents(connection)["trials"] == before["trials"] and "costs" not in contents(connection)
    connection.close()


def test_what_was_killed_while_it_was_created_is_created_anew(tmp_path):
    """0.1.0 made one table after another, and wrote the version last."""
    (tmp_path / "project").mkdir()
    connection = opened(ProjectLayout(tmp_path / "project").database)
    for table in TABLES[:2]:
        connection.execute(table)
    connection.close()
    store = ProjectStore(tmp_path / "project")
    assert store.get("schema_version") == migrations.SCHEMA_VERSION and store.trials() == []
    store.close()


def test_a_database_of_somebody_else_is_left_alone(tmp_path):
    path = ProjectLayout(tmp_path).database
    connection = opened(path)
    connection.execute("CREATE TABLE cities (name TEXT)")
    connection.execute("INSERT INTO cities VALUES ('Paris')")
    connection.close()
    with pytest.raises(ProjectError, match="cannot be read or written"):
        ProjectStore(tmp_path)
    connection = opened(path)
    assert connection.execute("SELECT * FROM cities").fetchall() == [("Paris",)]
    connection.close()
