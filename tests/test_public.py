"""The public names: all there, documented, and loaded only when they are used."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import manyfit as kt


@pytest.mark.parametrize("name", kt.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(kt, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        assert value.__doc__ and value.__doc__.strip()
        assert value.__name__ == name
    assert name in dir(kt)


def public_methods():
    for name in kt.__all__:
        value = getattr(kt, name)
        if not inspect.isclass(value):
            continue
        for attribute, member in vars(value).items():
            if not attribute.startswith("_") and (inspect.isfunction(member) or isinstance(member, property)):
                yield f"{name}.{attribute}", value, attribute


def test_every_public_method_is_documented():
    missing = [shown for shown, owner, attribute in public_methods() if not inspect.getdoc(getattr(owner, attribute))]
    assert not missing


def test_an_unknown_name_is_an_error_that_lists_the_public_ones():
    with pytest.raises(AttributeError, match="RandomSearch"):
        kt.RandomSerach


def loaded_by(code: str) -> set[str]:
    """The packages that a fresh process has loaded after this code."""
    code += "\nimport sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


HEAVY = {"keras", "jax", "jaxlib", "tensorflow", "torch", "ray", "pandas", "sklearn", "optuna"}


def test_importing_loads_no_framework():
    assert not loaded_by("import manyfit") & HEAVY


def test_spaces_objectives_and_oracles_need_no_framework():
    code = """
import manyfit as kt
hp = kt.HyperParameters()
hp.Int("units", 1, 8)
oracle = kt.Oracle(kt.Objective("loss", "min"), max_trials=1, hyperparameters=hp)
kt.ASHA, kt.MedianRule, kt.Trial, kt.TrialStatus, kt.FailedTrialError, kt.table
"""
    assert not loaded_by(code) & HEAVY


def test_tuners_bring_keras_with_them():
    assert "keras" in loaded_by("import manyfit as kt; kt.RandomSearch")
