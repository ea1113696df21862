"""Runs the small programs of `programs.txt`, each alone, and tells what they printed or raised."""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import os
import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def programs() -> dict[str, str]:
    """Name -> source."""
    parts = re.split(r"^### (\w+)\n", (HERE / "programs.txt").read_text(), flags=re.M)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def namespace(folder: str) -> dict[str, Any]:
    """What programs may use without saying so."""
    kt = importlib.import_module("keras_tuner")
    hyperparameters = importlib.import_module("keras_tuner.src.engine.hyperparameters")

    def space():
        hp = kt.HyperParameters()
        hp.Int("x", 1, 1000)
        return hp

    def small():
        hp = kt.HyperParameters()
        hp.Choice("a", ["p", "q"])
        hp.Int("b", 1, 3)
        return hp

    def fixed():
        hp = kt.HyperParameters()
        hp.Fixed("width", 64)
        hp.Fixed("kind", "abcdefghijklmnopqrst")
        hp.Fixed("rate", 0.123456789)
        return hp

    def kinds():
        hp = kt.HyperParameters()
        hp.Int("i", 1, 9)
        hp.Float("f", 0.5, 1.5, step=0.25)
        hp.Choice("c", ["a", "b"])
        hp.Boolean("b")
        hp.Fixed("x", 3)
        return hp

    def oracle(**arguments):
        made = kt.oracles.RandomSearchOracle(
            objective=kt.Objective("score", "max"), hyperparameters=space(), seed=1, **arguments
        )
        made.verbose = 0
        made._set_project_dir(folder, "oracle")
        return made

    class Run(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            return self.function(trial)

    def tuner(function, **arguments):
        made = Run(**{"hyperparameters": space(), "directory": folder, "seed": 1, **arguments})
        made.function = function
        return made

    return {
        "kt": kt, "H": hyperparameters, "hp": kt.HyperParameters(), "d": folder, "p": print, "space": space,
        "small": small, "fixed": fixed, "kinds": kinds, "oracle": oracle, "tuner": tuner, "Run": Run,
    }  # fmt: skip


def outcome(source: str) -> str:
    """What a program printed; for an exception, the built-in class that KerasTuner's users catch it by."""
    printed = io.StringIO()
    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        os.chdir(folder)
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                exec(compile(source, "program", "exec"), namespace(os.path.realpath(folder)))
            except Exception as error:
                print(
                    "raised", next(cls.__name__ for cls in type(error).__mro__ if cls.__module__ == builtins.__name__)
                )
            finally:
                os.chdir(before)
    return printed.getvalue().replace(os.path.realpath(folder), "FOLDER").replace("./untitled", "untitled")
