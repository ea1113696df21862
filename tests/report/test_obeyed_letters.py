"""Names, values and messages with letters that a terminal obeys, or that turn the order of others round, or markup."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3

import manyfit as kt  # isort: skip

import pytest
import tiny

from manyfit import cli
from manyfit.report.colours import trial_line
from manyfit.report.pages import console
from manyfit.store.layout import ProjectLayout

ODD = "\x1b[2J\x1b]0;title\x07\x9b31m\r\u202egnp\u2066 [/bold] <script>alert(1)</script>"
OBEYED = set("\x1b\x07\x9b\r\u202e\u2066")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A project whose names, values, message and folder have such letters, and what its search has printed."""
    folder = tmp_path_factory.mktemp("odd")
    hp = kt.HyperParameters()
    hp.Choice(ODD, [ODD, "b"])

    def run(trial):
        if trial.number == 1:
            raise kt.errors.FailedTrialError(ODD)
        return {"score": 0.5, ODD: 1.0}

    tuner = tiny.numbers(
        run, objective=kt.Objective("score", "max"), max_trials=2, seed=0, directory=folder,
        project_name="odd\x1b[2J\u202e", hyperparameters=hp,
    )  # fmt: skip
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        tuner.search(verbose=1)
        tuner.results_summary()
        tuner.search_space_summary()
        print(tuner.results())
        for trial in tuner.oracle.trials.values():
            trial.display_hyperparameters()
    project = ProjectLayout(folder / tuner.project_name)
    tuner.close()
    connection = sqlite3.connect(project.database)
    with connection:
        connection.execute("UPDATE trials SET status = ? WHERE number = 1", [ODD])
    connection.close()
    return project.folder, printed.getvalue()


def said(*arguments):
    """What the command line prints, on both ways."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        cli.main([*map(str, arguments)])
    return printed.getvalue()


def test_a_search_and_its_summaries_obey_nothing(searched):
    assert "title" in searched[1] and not OBEYED & set(searched[1])


@pytest.mark.parametrize("arguments", [[], ["--trial", "0"], ["--trial", "1"]])
def test_manyfit_show_obeys_nothing(searched, arguments):
    printed = said("show", searched[0], *arguments)
    assert "gnp" in printed and not OBEYED & set(printed)


def test_other_commands_obey_nothing(searched):
    folder, _ = searched
    for arguments in (["ls", folder.parent], ["compare", folder.parent, folder.parent], ["show", folder / ODD[:4]]):
        printed = said(*arguments)
        assert printed and not OBEYED & set(printed)
    printed = said("show", folder, "--json")
    assert not OBEYED & set(printed) and ODD in json.dumps(json.loads(printed), ensure_ascii=False).replace(
        json.dumps(ODD, ensure_ascii=False)[1:-1], ODD
    )


def test_nothing_of_it_is_markup(searched):
    found = kt.open_project(searched[0])
    pieces = [found.results()._repr_html_(), *(trial._repr_html_() for trial in found.trials)]
    assert all("<script>alert" not in piece for piece in pieces)


def test_a_console_and_its_tables_show_brackets_as_they_are(capsys):
    file = io.StringIO()
    console(file, width=200).print(ODD)
    assert "[/bold]" in file.getvalue() and not OBEYED & set(file.getvalue())
    trial_line(
        ODD, {ODD: ODD}, status="FAILED", seconds=1.0, score=None, best=None, objective=ODD, num_ended=1,
        max_trials=None, elapsed_seconds=1.0,
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert "bold" in printed and not OBEYED & set(printed)
