"""KerasTuner's module tree, under all of its names, each class once."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import manyfit as kt  # isort: skip

import pytest

import manyfit.compat
from manyfit.compat.finder import MODULES
from manyfit.core.errors import UsageError

ROOTS = ("keras_tuner", "keras_tuner.src", "kerastuner")

#: Names of each official module of 1.4.8 (its public surface).
PUBLIC = {
    "keras_tuner": "HyperModel HyperParameters Objective Oracle synchronized Tuner BayesianOptimization GridSearch "
    "Hyperband RandomSearch SklearnTuner applications engine errors oracles tuners __version__ "
    "HyperParameter FailedTrialError",
    "keras_tuner.tuners": "Tuner BayesianOptimization GridSearch Hyperband RandomSearch SklearnTuner",
    "keras_tuner.oracles": "BayesianOptimizationOracle GridSearchOracle HyperbandOracle RandomSearchOracle",
    "keras_tuner.errors": "FailedTrialError FatalError FatalValueError FatalTypeError FatalRuntimeError",
    "keras_tuner.applications": "HyperEfficientNet HyperImageAugment HyperResNet HyperXception",
    "keras_tuner.engine.base_tuner": "BaseTuner",
    "keras_tuner.engine.hypermodel": "HyperModel",
    "keras_tuner.engine.hyperparameters": "Boolean Choice Fixed Float Int HyperParameter HyperParameters serialize "
    "deserialize",
    "keras_tuner.engine.metrics_tracking": "infer_metric_direction",
    "keras_tuner.engine.oracle": "Oracle Objective",
    "keras_tuner.engine.trial": "Trial TrialStatus",
    "keras_tuner.engine.tuner": "Tuner maybe_distribute",
}


@pytest.fixture
def installed():
    manyfit.compat.install()
    yield
    manyfit.compat.uninstall()


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there(module, installed):
    found = importlib.import_module(module)
    for name in PUBLIC[module].split():
        assert hasattr(found, name), name


@pytest.mark.parametrize("module", [name for name in PUBLIC if name != "keras_tuner"])
def test_manyfit_serves_the_same_names_itself(module, installed):
    own = kt
    for part in module.split(".")[1:]:
        own = getattr(own, part)
    for name in PUBLIC[module].split():
        assert getattr(own, name) is getattr(importlib.import_module(module), name)


@pytest.mark.filterwarnings("ignore:`import kerastuner` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("entry", MODULES)
def test_every_module_resolves_under_all_names_to_the_same_objects(entry, installed):
    modules = [importlib.import_module(f"{root}.{entry}".rstrip(".")) for root in ROOTS]
    names = getattr(modules[0], "__all__", ["__name__"])
    for name in names:
        objects = [getattr(module, name) for module in modules if hasattr(module, name)]
        if not isinstance(objects[0], types.ModuleType) and not isinstance(objects[0], str):
            assert all(each is objects[0] for each in objects), name


def test_classes_are_manyfits_own(installed):
    import keras_tuner
    from keras_tuner.engine import tuner_utils as before_1_4
    from keras_tuner.src.engine import tuner_utils
    from keras_tuner.src.tuners.randomsearch import RandomSearch, RandomSearchOracle

    assert keras_tuner.Tuner is kt.Tuner and RandomSearch is kt.RandomSearch
    assert RandomSearchOracle is kt.oracles.RandomSearchOracle
    assert before_1_4.TunerCallback is tuner_utils.TunerCallback
    assert keras_tuner.__version__ == "1.4.8"


def test_the_legacy_package_warns_and_knows_its_old_names(installed):
    with pytest.warns(DeprecationWarning, match="import keras_tuner"):
        from kerastuner.engine.multi_execution_tuner import MultiExecutionTuner
    from kerastuner.tuners import Hyperband

    assert MultiExecutionTuner is kt.Tuner and Hyperband is kt.Hyperband


def test_an_unknown_name_is_an_error_that_lists_what_is_there(installed):
    import keras_tuner

    with pytest.raises(AttributeError, match="RandomSearch"):
        keras_tuner.RandomSerach
    with pytest.raises(ImportError):
        importlib.import_module("keras_tuner.engine.nothing")


def test_uninstalled_it_leaves_nothing_behind():
    manyfit.compat.install()
    manyfit.compat.install()  # twice is once
    importlib.import_module("keras_tuner.engine.tuner")
    manyfit.compat.uninstall()
    assert not [name for name in sys.modules if name.partition(".")[0] == "keras_tuner"]


def test_a_keras_tuner_that_was_imported_before_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", types.ModuleType("keras_tuner"))
    with pytest.raises(UsageError, match="before the first import"):
        manyfit.compat.install()


def run(*arguments, code="", folder):
    (folder / "program.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "manyfit.compat", *arguments], capture_output=True, text=True, cwd=folder, check=False
    )


def test_a_script_runs_unchanged(tmp_path):
    code = "import sys, keras_tuner as kt\nprint(kt.RandomSearch.__module__, sys.argv, __name__)\nsys.exit(3)"
    done = run("program.py", "--epochs", "2", code=code, folder=tmp_path)
    assert done.stdout == "manyfit.tuners.searches ['program.py', '--epochs', '2'] __main__\n"
    assert done.returncode == 3


def test_a_module_runs_unchanged(tmp_path):
    done = run("-m", "program", code="import keras_tuner\nprint(keras_tuner.Objective('a', 'min'))", folder=tmp_path)
    assert done.stdout == 'Objective(name="a", direction="min")\n', done.stderr


def test_without_a_script_it_says_how_it_is_used(tmp_path):
    done = run(folder=tmp_path)
    assert done.returncode == 2 and "SCRIPT" in done.stderr


def test_importing_the_tree_loads_no_framework():
    code = "import manyfit.compat, sys; manyfit.compat.install(); import keras_tuner; print('keras' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
