"""What an editor and a type checker tell users about their code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mypy", reason="a tool of `make check`")

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


def asked(tmp_path, code):
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


def test_hyperparameters_have_the_type_of_their_values(tmp_path):
    said = asked(tmp_path, USER)
    for number, line in enumerate(USER.splitlines(), start=1):
        code, _, wanted = line.partition("  # ")
        if wanted == "error":
            assert said[number][0] == "error", code
        elif wanted:
            assert said[number] == ("note", f'Revealed type is "{wanted}"'), code
        else:
            assert number not in said, code
