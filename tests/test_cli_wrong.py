"""Wrong command lines: each refused with an exit code, by an error of four parts; nothing raw, nothing written."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sqlite3

import pytest
import tiny

from manyfit.cli import main

#: What has no options or arguments in common with another: exit code 2, before any folder is looked at.
LINES = """
ls a b
ls one --jsno
ls --json=1 one
ls one --watch
show
show one two
show one --trial
show one --trials 1
show one --wtach
show one --watch --json
show one --watch --trial 0
show one --every 3
show one --keep 3
compare
compare one
compare one two one
compare one two --json
report
report one two
report one --every 0
report one --every -1
report one --every x
report one --every nan
report one --every inf
report one --every
report one -o
report one --to csv
report one --ouput x.html
dashboard
dashboard one two
dashboard one --port x
dashboard one --port -1
dashboard one --port 70000
dashboard one --no-opne
dashboard one --read-onyl
dashboard one --bind x
export
export one two
export one --to xml
export one --to
export one --to csv --name x
export one --name x
export one --to parquet
export one --to optuna
export one --to mlflow --curves
export one --to optuna --curves -o x.db
export one --to wandb --curves
export one -o ""
export one --to optuna -o ""
export one --keep 1
export one --curve
prune
prune one two
prune one --keep 0
prune one --keep -1
prune one --keep x
prune one --keep 1.5
prune one --keep
prune one --yess
prune one --to csv
doctor one
doctor --json
doctor --verbos
demo one
demo --seconds 0
demo --seconds -5
demo --seconds 1
demo --seconds x
demo --seconds nan
demo --seconds inf
demo --second 9
completion
completion tcsh
completion bash zsh
shew one
reprot one
--verson
-x
"""

#: What is found out when it is tried: exit code 1.
TRIED = """
ls nowhere
ls file.txt
ls empty
ls corrupt
ls newer
show nowhere
show file.txt
show empty
show corrupt
show newer
show one --trial 99
show one --trial ../x
show one --trial ""
show one --trial -1
show nowhere --watch
show newer --json
compare one nowhere
compare nowhere one
compare one file.txt
compare one empty
compare corrupt one
compare one newer
compare one one
report nowhere
report file.txt
report empty
report corrupt
report newer
report one -o empty
report one -o file.txt/x.html
report one -o ""
report one -o pipe
dashboard nowhere --no-open
dashboard file.txt --no-open
dashboard one --no-open --host nowhere.invalid
dashboard one --no-open --host ""
dashboard one --no-open --host 192.0.2.1
export nowhere
export file.txt
export empty
export corrupt
export newer
export newer --to optuna -o x.db
export one -o nowhere/x.csv
export one -o empty
export one -o file.txt/x.csv
export one -o pipe
export one --to parquet -o empty
export one --to optuna -o empty
export one --to optuna -o file.txt
export one --to optuna -o nosuch://x/y
export one --to mlflow -o nosuch://x
export one --to wandb -o file.txt
prune nowhere
prune file.txt
prune empty
prune corrupt
prune newer
demo -o file.txt
demo -o file.txt/x
"""

_FOUR_PARTS = re.compile(r"(?s)(Usage: .+?\n\n)?manyfit: .+?: got .+?\. Allowed: .+?\. \S.*")
#: Who held a project last, and the lock: whoever opens one leaves them.
_OF_THE_LOCK = ("manyfit.lock", "manyfit.holder.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("wrong lines")
    for name, seed in (("one", 0), ("two", 1)):
        tuner = tiny.numbers(lambda trial: 1.0, max_trials=2, seed=seed, directory=str(root), project_name=name)
        tuner.search(verbose=0)
        tuner.close()
    (root / "file.txt").write_text("no project")
    (root / "empty").mkdir()
    os.mkfifo(root / "pipe")
    (root / "corrupt").mkdir()
    (root / "corrupt" / "manyfit.sqlite").write_bytes(b"no database " * 99)
    shutil.copytree(root / "one", root / "newer")
    with contextlib.closing(sqlite3.connect(root / "newer" / "manyfit.sqlite")) as newer, newer:
        newer.execute("UPDATE project SET value = '99' WHERE name = 'schema_version'")
    return root


def written(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in _OF_THE_LOCK]
    return {path: path.read_bytes() for path in files}


def answer(line, capsys):
    """The exit code, and what standard error says; an exception is what is looked for."""
    try:
        code = main(shlex.split(line))
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err.strip()
    return code, said


@pytest.mark.parametrize(("table", "code"), [(LINES, 2), (TRIED, 1)], ids=["lines", "tried"])
def test_wrong_lines(table, code, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = written(folder)
    wrong = []
    for line in filter(None, map(str.strip, table.splitlines())):
        found, said = answer(line, capsys)
        if found != code or not _FOUR_PARTS.fullmatch(said):
            wrong.append(f"{line}   ->   {found}: {said}")
        if written(folder) != before:
            wrong.append(f"{line}   ->   something was written")
            before = written(folder)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("show one --wtach", "Did you mean '--watch'?"),
        ("shew one", "Allowed: a command: dashboard, doctor"),
        ("prune one --keep 0", "Allowed: a whole number from 1."),
        ("dashboard one --port 70000", "Allowed: a whole number from 0 to 65535."),
        ("export one --to xml", "Allowed: csv, parquet, optuna, mlflow, wandb."),
        ("show", "Allowed: PROJECT. Type manyfit show --help."),
        ("report one --every nan", "nan is no number of seconds"),
        ("show newer", "newer"),
    ],
)
def test_what_is_said(line, words, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert words in answer(line, capsys)[1]


def test_a_table_that_cannot_be_written_is_told_and_nothing_is_left(folder, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("manyfit.report.files._as_text", full)
    before = written(folder)
    code, said = answer("export one -o table.csv", capsys)
    assert (code, written(folder)) == (1, before) and "No space left on device" in said
    assert _FOUR_PARTS.fullmatch(said)
