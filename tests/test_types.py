"""What an editor and a type checker tell users about their code."""

import inspect
import json
import os
import pydoc
import re
import rlcompleter
import subprocess
import sys
from pathlib import Path

import pytest

import manyfit as kt

ROOT = Path(__file__).parents[1]

# Each line with `# int` and the like behind it is asked for its type; one with `# error` has to be refused.
USER = """
import manyfit as kt

def build_model(hp: kt.HyperParameters) -> object:
    reveal_type(hp.Int("units", 16, 64))  # int
    reveal_type(hp.Float("rate", 1e-4, 1e-1, sampling="log"))  # float
    reveal_type(hp.Boolean("deep"))  # bool
    reveal_type(hp.Choice("optimizer", ["adam", "sgd"]))  # str
    reveal_type(hp.Choice("kernel", [3, 5]))  # int
    reveal_type(hp.Choice("drop", [0.1, 0.5]))  # float
    reveal_type(hp.Fixed("epochs", 3))  # int
    hp.Int("units", "16", 64)  # error
    hp.Float("rate", 1e-4, 1e-1, logarithmic=True)  # error
    hp.Choice("optimizer", 3)  # error
    return None


kt.RandomSearch(build_model, "val_loss", 5, seed=0, overwrite=True, max_seconds=60, scheduler="asha")
kt.BayesianOptimization(build_model, "val_loss", num_initial_points=4, beliefs=[], directory="run", precision="auto")
kt.Hyperband(build_model, "val_loss", max_epochs=27, seed=3, project_name="bands")
kt.Search(build_model, kt.Objective("val_auc", "max"), beliefs=[], executions_per_trial=2)
kt.RandomSearch(build_model, "val_loss", beliefs=[])  # error
kt.RandomSearch(build_model, "val_loss", max_trials="5")  # error
kt.GridSearch(build_model, "val_loss", overwrit=True)  # error
kt.Hyperband(build_model, "val_loss", max_epoch=27)  # error

tuner = kt.Search(build_model, "val_accuracy")
tuner.search([[1.0]], [1.0], epochs=3, batch_size=8, validation_split=0.5, cross_validation=3, verbose=0)
tuner.search([[1.0]], [1.0], epoch=3)  # error
reveal_type(tuner.fit([[1.0]], [1.0], max_seconds=60, predict=[[2.0]]))  # manyfit.fitting.winner.Winner
tuner.fit([[1.0]], [1.0], max_second=60)  # error
tuner.confirm(3, max_rounds=5, batch_size=4)
tuner.confirm(3, max_round=5)  # error
tuner.retrain(2, epochs=5, sample_weight=[1.0])
reveal_type(tuner.ensemble(method="uniform"))  # manyfit.ensemble.ensemble.Ensemble
tuner.ensemble(methods="uniform")  # error
tuner.bag(3, folds=5, metric="accuracy")
tuner.evaluate([[1.0]], [1.0], batch_size=4)
kt.fit(build_model, [[1.0]], [1.0], "val_loss", max_seconds=60, seed=0, max_trials=4)
kt.fit(build_model, [[1.0]], [1.0], "val_loss", max_seconds=60, seeds=0)  # error
"""


def asked_mypy(tmp_path, code):
    pytest.importorskip("mypy", reason="a tool of `make check`")
    file = tmp_path / "user.py"
    file.write_text(code)
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(file)]
    sources = {**os.environ, "MYPYPATH": "src"}  # it does not follow editable installs
    printed = subprocess.run(command, check=False, cwd=ROOT, env=sources, capture_output=True, text=True)
    assert printed.returncode in (0, 1), printed.stderr  # 2: mypy itself failed
    said = {}
    for line, kind, text in re.findall(r"user\.py:(\d+): (note|error): (.*)", printed.stdout):
        said.setdefault(int(line), (kind, text.replace("builtins.", "")))  # the first of a line says it, notes explain
    return said


def asked_pyright(tmp_path, code):
    """What Pylance shows in an editor: the same program without the editor."""
    pytest.importorskip("pyright", reason="a tool of `make check`")
    file = tmp_path / "user.py"
    file.write_text(code)
    (tmp_path / "pyrightconfig.json").write_text(json.dumps({"extraPaths": [str(ROOT / "src")]}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(file)]
    printed = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)
    assert printed.returncode in (0, 1), printed.stderr
    said = {}
    for each in json.loads(printed.stdout)["generalDiagnostics"]:
        kind = {"information": "note"}.get(each["severity"], each["severity"])
        revealed = re.fullmatch(r'Type of ".*" is "(.*)"', each["message"])
        text = f'Revealed type is "{revealed[1]}"' if revealed else each["message"]
        said.setdefault(each["range"]["start"]["line"] + 1, (kind, text))
    return said


@pytest.mark.parametrize("asked", [asked_mypy, asked_pyright])
def test_types_are_those_that_a_user_expects(asked, tmp_path):
    said = asked(tmp_path, USER)
    for number, line in enumerate(USER.splitlines(), start=1):
        code, _, wanted = line.partition("  # ")
        if wanted == "error":
            assert said[number][0] == "error", code
        elif wanted:
            short = wanted.rpartition(".")[2]  # pyright leaves out the module of a class
            assert said[number] in [("note", f'Revealed type is "{name}"') for name in (wanted, short)], code
        else:
            assert number not in said, code


def completions(typed, names):
    """What the Tab key of a Python prompt offers."""
    completer = rlcompleter.Completer(names)
    found = iter(lambda: completer.complete(typed, next(counted)), None)
    counted = iter(range(10_000))
    return [each.rstrip("()") for each in found]


def test_the_tab_key_offers_every_public_name_and_module():
    offered = completions("kt.", {"kt": kt})
    assert {f"kt.{name}" for name in kt.__all__ if not name.startswith("_")} <= set(offered)
    assert {"kt.applications", "kt.brands", "kt.oracles", "kt.plot", "kt.trackers"} <= set(offered)
    assert completions("kt.Bay", {"kt": kt}) == ["kt.BayesianOptimization"]
    assert {"hp.Boolean", "hp.Choice", "hp.Fixed", "hp.Float", "hp.Int"} <= set(
        completions("hp.", {"hp": kt.HyperParameters()})
    )


@pytest.mark.parametrize("tuner", [kt.BayesianOptimization, kt.Hyperband, kt.RandomSearch, kt.GridSearch, kt.Search])
def test_help_of_a_tuner_begins_with_its_arguments_and_says_what_each_is(tuner):
    shown = pydoc.plain(pydoc.render_doc(tuner))
    assert f"class {tuner.__name__}(" in shown and "**options" not in shown.partition("\n\n")[0]
    arguments = inspect.signature(tuner).parameters
    assert {"hypermodel", "objective", "max_trials", "seed", "directory", "overwrite", "max_seconds"} <= set(arguments)
    assert not [each for each in arguments.values() if each.kind is inspect.Parameter.VAR_KEYWORD]
    assert inspect.getdoc(tuner).splitlines()[0].endswith(".")


def test_every_public_method_says_what_it_is_for():
    silent = []
    for name in kt.__all__:
        for method, value in inspect.getmembers(getattr(kt, name)):
            function = value.fget if isinstance(value, property) else value
            ours = getattr(function, "__module__", None) or ""
            if not method.startswith("_") and ours.startswith("manyfit") and callable(function):
                silent += [] if inspect.getdoc(value) else [f"{name}.{method}"]
    assert not silent
