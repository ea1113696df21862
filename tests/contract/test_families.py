"""Nobody forgets: every sampler and every scheduler of the package is in its conformance suite."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest

import manyfit.samplers
import manyfit.schedulers
from manyfit.samplers.base import Sampler
from manyfit.schedulers.base import Scheduler

TESTS = Path(__file__).parents[1]


def family(package, base: type) -> set[str]:
    """Names of the classes of a package that can be made and have this base."""
    names = set()
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for name, found in inspect.getmembers(importlib.import_module(module.name), inspect.isclass):
            public = not name.startswith("_") and found.__module__.startswith(package.__name__)
            if public and issubclass(found, base) and not inspect.isabstract(found):
                names.add(name)
    return names


def made_in_suites(suite: str, *files: str) -> set[str]:
    """Names of what is called in the methods `make` of this suite's subclasses. Read, not run: some need an extra."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse((TESTS / file).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == suite for b in node.bases):
                calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
                names |= {called.id for called in calls if isinstance(called, ast.Name)}
    return names


@pytest.mark.parametrize(
    ("package", "base", "suite", "files"),
    [
        (
            manyfit.samplers,
            Sampler,
            "SamplerSuite",
            ["contract/test_samplers.py", "contract/test_optuna_adapter.py"],
        ),
        (manyfit.schedulers, Scheduler, "SchedulerSuite", ["schedulers/test_conformance.py"]),
    ],
)
def test_every_member_is_in_the_suite(package, base, suite, files):
    members = family(package, base)
    assert len(members) >= 4, "the walk finds them"
    assert members <= made_in_suites(suite, *files)
