"""`manyfit ls`, `show`, `compare`, `prune`, `export`: what a user types, what is printed, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import manyfit as kt  # isort: skip

import drawn_projects
import pytest
import tiny

from manyfit.cli import main
from manyfit.core.errors import SearchError
from manyfit.trackers.base import TrackedEpoch

HEAVY = ("keras", "jax", "numpy", "scipy", "tensorflow", "torch", "pandas", "sklearn")


def searched(folder, name, function=None, seed=0, **arguments):
    def run(trial):
        return {"score": trial.hyperparameters["units"] / 50}

    tuner = tiny.numbers(
        function or run,
        **{"objective": kt.Objective("score", "max"), "max_trials": 6, "seed": seed} | arguments,
        directory=str(folder),
        project_name=name,
    )
    tuner.search(verbose=0)
    return tuner


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two projects, and one below a folder of its own; nobody has them open."""
    path = tmp_path_factory.mktemp("projects")
    for name, seed in (("one", 0), ("two", 1), ("deeper/three", 2)):
        searched(path, name, seed=seed).close()
    return path


def printed(capsys, *arguments):
    assert main([str(one) for one in arguments]) == 0
    return capsys.readouterr().out


def test_version(capsys):
    assert printed(capsys, "--version") == f"manyfit, version {kt.__version__}\n"


def test_ls_has_a_line_for_each_project(folder, capsys):
    lines = printed(capsys, "ls", folder).splitlines()
    assert [line.split()[:2] for line in lines[1:] if re.match("(one|two|deeper)", line)] == [
        ["deeper/three", "6"], ["one", "6"], ["two", "6"],
    ]  # fmt: skip


def test_show_begins_with_a_sentence(folder, capsys):
    page = printed(capsys, "show", folder / "one")
    lines = page.splitlines()
    assert lines[1].startswith("at rest, last written")
    best = kt.open_project(folder / "one").best()[0]
    assert lines[3].startswith(f"Trial {best.trial_id} leads with score")
    assert "luck is not known" in " ".join(lines[3:5])
    assert "6 ended" in page and "\x1b" not in page
    assert max(map(len, lines)) <= 80


def test_no_surface_shows_sixteen_digits(tmp_path, capsys):
    searched(tmp_path, "long", lambda trial: {"score": 0.9832477841515216 - trial.number / 3000}).close()
    for arguments in (("show", tmp_path / "long"), ("show", tmp_path / "long", "--trial", "0"), ("ls", tmp_path)):
        assert not re.search(r"\d\.\d{6,}", printed(capsys, *arguments))


def test_one_trial(folder, capsys):
    page = printed(capsys, "show", folder / "one", "--trial", "2")
    assert page.startswith("trial 2  completed, score") and re.search(r"units +\d+", page)


def test_json_is_what_the_docs_say(folder, capsys):
    facts = json.loads(printed(capsys, "show", folder / "one", "--json"))
    assert facts["schema"] == 1 and facts["objective"] == "score" and not facts["state"]["running"]
    assert facts["best"] == [one.trial_id for one in kt.open_project(folder / "one").best()]
    documented = (Path(__file__).parents[1] / "docs" / "looking.md").read_text(encoding="utf-8")
    for name in (*facts, *facts["trials"][0], *facts["trials"][0]["runs"][0], *facts["state"]):
        assert f"`{name}`" in documented, name
    one = json.loads(printed(capsys, "show", folder / "one", "--trial", "0", "--json"))
    assert one["runs"][0]["curves"]["score"] == [one["score"]]


def test_a_list_as_json_is_what_the_docs_say(folder, tmp_path, capsys):
    listed = json.loads(printed(capsys, "ls", folder, "--json"))
    assert listed["schema"] == 1 and [one["name"] for one in listed["projects"]] == ["deeper/three", "one", "two"]
    documented = (Path(__file__).parents[1] / "docs" / "looking.md").read_text(encoding="utf-8")
    shown = json.loads(printed(capsys, "show", folder / "one", "--json"))
    for name, value in listed["projects"][1].items():
        assert f"`{name}`" in documented and (name in ("name", "error") or value == shown[name]), name
    assert listed["projects"][1]["counts"] == {"trials": 6, "ended": 6, "failed": 0}
    # One that cannot be read stands beside the others; all of them are an error, and the list is printed all the same.
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manyfit.sqlite").write_bytes(b"no database " * 99)
    assert main(["ls", str(tmp_path), "--json"]) == 1
    [odd] = json.loads(capsys.readouterr().out)["projects"]
    assert odd["name"] == "odd" and "cannot be read" in odd["error"] and "verdict" not in odd


def test_numbers_that_json_lacks_are_null(tmp_path, capsys):
    searched(tmp_path, "odd", lambda trial: {"score": 1.0 if trial.number else float("nan")}).close()
    json.loads(printed(capsys, "show", tmp_path / "odd", "--json"), parse_constant=pytest.fail)


def test_export_writes_a_row_per_execution_and_a_row_per_epoch(folder, tmp_path, capsys):
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "export", folder / "one"))))
    assert [row["trial_id"] for row in rows] == list("012345")
    assert [float(row["score"]) for row in rows] == [row.score for row in kt.open_project(folder / "one").results()]
    assert printed(capsys, "export", folder / "one", "--curves", "-o", tmp_path / "curves.csv") == ""
    curves = list(csv.DictReader(io.StringIO((tmp_path / "curves.csv").read_text())))
    assert len(curves) == 6 and set(curves[0]) >= {"trial_id", "execution", "epoch", "score"}
    assert main(["export", str(folder / "one"), "-o", str(tmp_path / "missing" / "x.csv")]) == 1


def test_compare_says_the_difference_with_an_interval(tmp_path, capsys):
    for seed in range(3):
        searched(tmp_path, f"a/{seed}", seed=seed).close()
        searched(tmp_path, f"b/{seed}", lambda trial: {"score": 0.1}, seed=seed).close()
    page = printed(capsys, "compare", tmp_path / "a", tmp_path / "b")
    assert re.search(r"search score of 3 repetitions: [\d.]+ .*[\d.]+", page)


def kept(folder):
    return {path.name: path.stat().st_size for kind in ("weights", "predictions") for path in (folder / kind).iterdir()}


def test_prune_keeps_the_files_of_the_best_and_says_how_much_it_frees(tmp_path, capsys):
    searched(tmp_path, "full").close()
    folder = tmp_path / "full"
    for kind in ("weights", "predictions"):
        (folder / kind).mkdir(exist_ok=True)
        for trial in range(6):
            (folder / kind / f"{trial}-0.npz").write_bytes(bytes(500_000))
        (folder / kind / "mine.txt").write_text("a user's own")
    (folder / "predictions" / "labels.npz").write_bytes(bytes(10))
    best = [trial.trial_id for trial in kt.open_project(folder).best(2)]
    before = kept(folder)
    assert printed(capsys, "prune", folder, "--keep", 2, "--yes") == (
        "8 files, 4.0 MB, of trials behind the best 2.\nDeleted 4.0 MB.\n"
    )
    assert set(before) - set(kept(folder)) == {f"{trial}-0.npz" for trial in range(6) if str(trial) not in best}
    assert printed(capsys, "prune", folder, "--keep", 2) == "0 files, 0.0 MB, of trials behind the best 2.\n"


def test_prune_asks_first(tmp_path, capsys, monkeypatch):
    searched(tmp_path, "full").close()
    (tmp_path / "full" / "weights").mkdir(exist_ok=True)
    [worst] = [trial.trial_id for trial in kt.open_project(tmp_path / "full").best()][-1:]
    path = tmp_path / "full" / "weights" / f"{worst}-0.npz"
    path.write_bytes(bytes(10))
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert "Delete them?" in printed(capsys, "prune", tmp_path / "full", "--keep", 1) and path.exists()


def test_prune_deletes_nothing_where_nobody_answers(tmp_path, capsys, monkeypatch):
    searched(tmp_path, "full").close()
    path = tmp_path / "full" / "weights" / "0-0.npz"
    path.parent.mkdir(exist_ok=True)
    for trial in range(6):
        path.with_name(f"{trial}-0.npz").write_bytes(bytes(10))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(["prune", str(tmp_path / "full"), "--keep", "1"]) == 1
    assert "Nothing was deleted" in capsys.readouterr().err and path.exists()


def test_runs_have_one_name_for_people_and_are_counted_from_0_for_programs(tmp_path, capsys):
    """As in the lines of a search, `07/2`, and in trackers, "run2/": see `TrackedEpoch.prefix`."""
    folder = drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=8, executions=2))
    trial = kt.open_project(folder).trial("7")
    assert [run.name for run in trial.runs] == ["search 1", "search 2"]
    page = printed(capsys, "show", folder, "--trial", "7")
    assert re.findall(r"^search \d", page, re.MULTILINE) == ["search 1", "search 2"] and page.startswith("trial 7 ")
    assert "<td>search 2</td>" in trial._repr_html_()
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "export", folder))))
    assert [(row["trial_id"], row["execution"]) for row in rows[-2:]] == [("7", "0"), ("7", "1")]
    told = json.loads(printed(capsys, "show", folder, "--trial", "7", "--json"))
    assert [run["execution"] for run in told["runs"]] == [0, 1]
    assert [TrackedEpoch("7", run.phase, run.execution, 0, {}).prefix for run in trial.runs] == ["", "run2/"]


def test_what_computes_loads_numpy_and_nothing_that_is_slower(tmp_path):
    """A report with importances, and two methods of two seeds each, whose interval needs quantiles."""
    pytest.importorskip("vl_convert", reason="the extra manyfit[report] is not installed")
    for method in ("a", "b"):
        for seed in (0, 1):
            drawn = drawn_projects.Drawn(trials=12, facts={"seed": seed})
            drawn_projects.write(tmp_path / method / str(seed), drawn, seed=seed + 2 * (method == "b"))
    lines = [["report", "a/0", "-o", "r.html"], ["compare", "a", "b"]]
    slow = (*(name for name in HEAVY if name != "numpy"), "numpy.ma", "threadpoolctl", "rich")
    code = (
        "import sys\nfrom manyfit.cli import main\n"
        f"assert [main(line) for line in {lines!r}] == [0, 0]\n"
        f"print([name for name in {slow!r} if name in sys.modules], file=sys.stderr)\n"
    )
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=settings, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert re.search(r"P\(a > b\) = .* \[.*\]", done.stdout)
    assert 'data-chart="importance"' in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_a_project_that_somebody_has_open_is_shown_and_not_pruned(tmp_path, capsys):
    tuner = searched(tmp_path, "open")
    assert "6 ended" in printed(capsys, "show", tuner.project_dir)
    done = in_a_process("prune", tuner.project_dir, "--yes")
    assert done.returncode == 1 and "one process at a time" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["ls", "nowhere"], 1, "no folder"),
        (["show", "nowhere"], 1, "got no folder"),
        (["show", "one", "--trial", "99"], 1, "a trial of it: 0, 1"),
        (["compare", "one", "nowhere"], 1, "and 0 of b"),
        (["shew"], 2, "No such command"),
        (["prune", "one", "--keep", "0"], 2, "Invalid value"),
        (["export", "one", "--to", "xml"], 2, "'csv'"),
        (["show", "one", "--watch", "--json"], 2, "leave out"),
    ],
)
def test_exit_codes(arguments, code, words, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    try:
        found = main(arguments)
    except SystemExit as ended:
        found = ended.code
    captured = capsys.readouterr()
    assert found == code and words in captured.err and "Traceback" not in captured.err


def in_a_process(*arguments, **environment):
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    command = [sys.executable, "-m", "manyfit", *map(str, arguments)]
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def test_looking_loads_nothing_heavy(folder):
    lines = [
        ["ls", "."],
        ["ls", ".", "--json"],
        ["show", "one"],
        ["show", "one", "--json"],
        ["show", "one", "--trial", "0"],
    ]
    lines += [["export", "one"], ["export", "one", "--curves"], ["prune", "one"], ["dashboard", "--help"]]
    code = (
        "import sys\nfrom manyfit.cli import main\n"
        f"assert [main(line) for line in {lines!r}] == [0] * {len(lines)}\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=settings, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]\n")


def test_names_of_others_are_neither_markup_nor_commands_to_the_terminal(tmp_path, capsys):
    """A metric, a hyperparameter, a value and a folder that would colour the terminal, clear it, or be markup."""
    hp = kt.HyperParameters()
    hp.Choice("[bold]<script>\x1b[31m", ["\x1b]0;owned\x07", "y" * 200])
    metric = "[red]score[/red] \x1b[2J"
    tuner = searched(
        tmp_path, "a [b]project[/b] " + "n" * 60, lambda trial: {metric: 1.0},
        hyperparameters=hp, objective=kt.Objective(metric, "max"), max_trials=2,
    )  # fmt: skip
    tuner.close()
    for arguments in (("show", tuner.project_dir), ("show", tuner.project_dir, "--trial", "0"), ("ls", tmp_path)):
        page = printed(capsys, *arguments)
        assert not [letter for letter in page if not (letter.isprintable() or letter == "\n")]
        assert max(map(len, page.splitlines())) <= 80
    assert "[red]score[/red]" in printed(capsys, "show", tuner.project_dir, "--trial", "0")


def test_forty_columns_and_nothing_to_show(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    tuner = tiny.numbers(lambda trial: 1.0, objective="loss", max_trials=1, directory=str(tmp_path), project_name="new")
    page = printed(capsys, "show", tuner.project_dir)
    assert "No trial has a score yet." in page and max(map(len, page.splitlines())) <= 40


def test_all_trials_failed(tmp_path, capsys):
    def fail(trial):
        raise ValueError("no such [layer]")

    with pytest.raises(SearchError):
        searched(tmp_path, "failed", fail, max_consecutive_failed_trials=99)
    page = printed(capsys, "show", tmp_path / "failed")
    assert "No trial has a score: 6 trials failed." in page and "no such [layer]" in page
