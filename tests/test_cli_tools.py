"""`manyfit --version`, `completion`, `demo`, `export` to other tools: what is loaded and printed, and exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import manyfit as kt  # isort: skip

import pytest
import tiny

from manyfit import demo
from manyfit.cli import main

HEAVY = ("keras", "jax", "numpy", "scipy", "tensorflow", "torch", "pandas", "sklearn", "rich", "IPython", "mlflow")


def in_a_process(*command, **environment):
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, check=False)


def test_the_version_and_completion_load_next_to_nothing():
    code = (
        "import sys\nfrom manyfit.cli import main\n"
        "assert main(['--version']) == main(['completion', 'bash']) == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)\n"
    )
    done = in_a_process(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (0, "[]\n")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_completes_commands_is_the_shells_own_language(shell, capsys):
    assert main(["completion", shell]) == 0
    page = capsys.readouterr().out
    assert (
        "_MANYFIT_COMPLETE" in page and {"bash": "complete -o", "zsh": "compdef", "fish": "complete --"}[shell] in page
    )


def test_a_shell_is_told_the_commands():
    asked = {"_MANYFIT_COMPLETE": "bash_complete", "COMP_WORDS": "manyfit ex", "COMP_CWORD": "1"}
    done = in_a_process(sys.executable, "-m", "manyfit", **asked)
    assert (done.returncode, done.stdout) == (0, "plain,export\n")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    tuner = tiny.numbers(lambda trial: 1.0, max_trials=2, seed=0, directory=str(folder), project_name="search")
    tuner.search(verbose=0)
    tuner.close()
    return tuner.project_dir


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "parquet"], "needs -o"),
        (["--to", "optuna"], "needs -o"),
        (["--to", "mlflow", "--curves"], "--curves is for csv and parquet"),
        (["--to", "csv", "--name", "x"], "--name for the others"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, words, searched, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["export", searched, *arguments])
    assert ended.value.code == 2 and words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["parquet", "optuna", "mlflow", "wandb"])
def test_a_tool_that_is_not_installed_is_told_with_its_extra(kind, searched, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", searched, "--to", kind, "-o", str(tmp_path / "x")]) == 1
    assert f"pip install manyfit[{kind}]" in capsys.readouterr().err


def test_the_demo_ends_with_what_to_type(tmp_path, capsys, monkeypatch):
    class Stub:
        def evaluate(self, x, y):
            assert x.shape == (1000, 8) and set(y) == {0, 1, 2}
            return "held-out scores"

        def __str__(self):
            return "the winner"

    def fit(self, x, y, max_seconds):
        assert x.shape == (1500, 8) and max_seconds == 6.0
        return Stub()

    monkeypatch.setattr(kt.Search, "fit", fit)
    assert main(["demo", "--seconds", "6", "-o", str(tmp_path / "search")]) == 0
    page = capsys.readouterr().out
    assert "the winner\n\nheld-out scores\n" in page and f"manyfit show {tmp_path / 'search'}" in page


def test_rows_of_the_demo_are_told_apart_by_two_columns_alone():
    """Outside witness: the neighbours of a row, in the plane, have its label far more often than a third."""
    from sklearn.neighbors import KNeighborsClassifier

    (x, y), (x_test, y_test) = demo.rows(1500, seed=0), demo.rows(500, seed=1)
    assert KNeighborsClassifier(15).fit(x[:, :2], y).score(x_test[:, :2], y_test) > 0.9
    assert KNeighborsClassifier(15).fit(x[:, 2:], y).score(x_test[:, 2:], y_test) < 0.45
