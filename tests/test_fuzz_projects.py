"""Rows and manifests of any content are read, or refused by an error of ours: `make fuzz` tries more."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sqlite3
import warnings

import manyfit as kt  # isort: skip

import damages
import hypothesis
import numpy as np
import pytest
from hanging import nothing_hangs
from hypothesis import strategies as st
from test_fuzz import MOST, damaged, values

from manyfit.core.errors import ManyfitError
from manyfit.core.files import with_checksum
from manyfit.report import pages
from manyfit.report.page import page as report

pytestmark = pytest.mark.skipif(os.name != "posix", reason="alarms are those of POSIX")

few = hypothesis.settings(
    max_examples=MOST // 2 or 15,
    derandomize=not MOST,
    suppress_health_check=list(hypothesis.HealthCheck),
    deadline=None,
    database=None,
    print_blob=False,
)

#: For columns that hold no JSON.
plain = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
odd = st.sampled_from([-1, 10**9, 10**30, 10**400, 1e308, float("nan"), float("-inf"), "NaN", "../x", "\ud800", [], {}])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A project with all that a project has, a confirmation and a look at test rows among it; and what was saved."""
    folder = tmp_path_factory.mktemp("whole") / "whole"
    damages.make(folder)
    tuner = damages.tuner_of(folder)
    with contextlib.closing(tuner):
        tuner.search(**damages.ROWS, epochs=2, batch_size=20, verbose=0)
        tuner.confirm(top=2, max_executions=11, verbose=0)
        tuner.evaluate(damages.X, damages.Y)
    return folder


@pytest.fixture(scope="module")
def copy(whole, tmp_path_factory):
    """A folder that is a copy of it, anew for each example."""
    folder = tmp_path_factory.mktemp("copies") / "copy"

    def anew():
        shutil.rmtree(folder, ignore_errors=True)
        return shutil.copytree(whole, folder)

    return anew


@contextlib.contextmanager
def only_ours():
    """Nothing is printed, errors of ours are right, and nothing hangs."""
    with (
        nothing_hangs(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
        contextlib.suppress(ManyfitError),
    ):
        yield


def as_json(text):
    try:
        return json.loads(text)
    except (ValueError, TypeError):
        return None


def change(draw, database):
    """Another value in a column of a row."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        table = draw(st.sampled_from(sorted(tables)))
        columns = connection.execute(f"PRAGMA table_info({table})").fetchall()
        key = [column[1] for column in columns if column[5]]
        rows = connection.execute(f"SELECT * FROM {table}").fetchall()
        if not rows:
            return
        row = draw(st.sampled_from(rows))
        place = draw(st.integers(0, len(columns) - 1))
        known = as_json(row[place])
        is_json = isinstance(known, dict | list) or (table == "project" and place == 1)
        value = json.dumps(draw(damaged(known) | odd)) if is_json else draw(plain)
        where = " AND ".join(f"{name} = ?" for name in key)
        names = [column[1] for column in columns]
        with contextlib.suppress(sqlite3.IntegrityError, UnicodeEncodeError):  # SQLite itself refuses it
            connection.execute(
                f"UPDATE {table} SET {columns[place][1]} = ? WHERE {where}",
                [value, *(row[names.index(name)] for name in key)],
            )


def looked_at(folder):
    seen = kt.open_project(folder)
    for read in (
        lambda: [str(row) for row in seen.results()],
        lambda: (seen._repr_html_(), [trial._repr_html_() for trial in seen.trials]),
        lambda: pages.console().print(pages.page(seen)),
        lambda: [pages.console().print(pages.trial_page(seen, trial)) for trial in seen.trials],
        lambda: (pages.as_json(seen), pages.list_of_projects([folder], folder.parent)),
        lambda: report(seen),
    ):
        with only_ours():
            read()


def opened(folder):
    tuner = damages.tuner_of(folder)
    with contextlib.closing(tuner):
        for read in (
            lambda: damages._results(tuner),
            tuner.results_summary,
            tuner.search_space_summary,
            lambda: tuner.get_best_hyperparameters(2),
            lambda: tuner.get_best_models(1),
            lambda: damages._foretold(tuner),
            tuner.to_script,
        ):
            with only_ours():
                read()


@few
@hypothesis.given(data=st.data())
def test_rows_of_a_project(data, copy, whole):
    pytest.importorskip("jinja2", reason="the extra manyfit[report] is not installed")
    folder = copy()
    change(data.draw, folder / "search" / "manyfit.sqlite")
    for read in (
        lambda: looked_at(folder / "search"),
        lambda: opened(folder),
        lambda: kt.compare(folder / "search", whole / "search"),
        lambda: kt.load_winner(folder / "search", trust=True),
    ):
        with only_ours():
            read()


@few
@hypothesis.given(data=st.data())
def test_manifests_of_an_ensemble(data, copy):
    folder = copy() / "ensemble"
    manifest = json.loads((folder / "manifest.json").read_text())
    changed = data.draw(damaged(manifest) | values)
    # Whoever writes a manifest makes its checksum, too.
    with contextlib.suppress(TypeError, AttributeError):
        changed = with_checksum(changed)
    (folder / "manifest.json").write_text(json.dumps(changed))
    with only_ours():
        ensemble = kt.Ensemble.load(folder)
        str(ensemble), repr(ensemble)
        assert np.shape(ensemble.predict(damages.X))[0] == len(damages.X)


@few
@hypothesis.given(data=st.data(), name=st.sampled_from(["pooled/manyfit.json", "estimator.json"]))
def test_cards_of_a_winner(data, name, copy):
    path = copy() / name
    card = json.loads(path.read_text())
    changed = data.draw(damaged(card) | values)
    with contextlib.suppress(TypeError, AttributeError):
        changed = with_checksum({**changed, "sha256": None})
    path.write_text(json.dumps(changed))
    with only_ours():
        winner = kt.load_winner(path.parent if "/" in name else path.with_suffix(".pickle"), trust=True)
        str(winner), repr(winner), winner._repr_html_()
