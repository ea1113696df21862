"""KerasTuner's module tree as a table, and the finder that serves it under KerasTuner's names.

The table says which names each module serves, and where Manyfit defines them. A module's entry is a text of names.
`name` alone is looked up in `HOMES`; `name=module:attribute` says where it is; `*module` serves everything that this
module has. Modules are named without the leading `keras_tuner.` and `src.`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence
from typing import Any

from manyfit.core import environment
from manyfit.core.errors import UsageError, explain

_SPACE = "manyfit.space"

# Named one by one: a module served whole would show what it happens to import, too.
_FILES = "exists rmtree File glob makedirs write_filepath remove_temp_dir_with_filepath"
_UTILS = "try_clear create_directory serialize_keras_object deserialize_keras_object to_list save_json load_json"

_NAMES_OF = {
    "manyfit": "__version__",
    "manyfit.core.errors": "FailedTrialError FatalError FatalRuntimeError FatalTypeError FatalValueError",
    "manyfit.core.objective": "DefaultObjective MultiObjective Objective create_objective infer_metric_direction",
    f"{_SPACE}.categorical": "Boolean Choice Fixed",
    f"{_SPACE}.conditions": "Condition Parent",
    f"{_SPACE}.hyperparameter": "HyperParameter",
    f"{_SPACE}.hyperparameters": "HyperParameters deserialize serialize",
    f"{_SPACE}.numerical": "Float Int Numerical",
    "manyfit.oracles.metrics_tracking": "MetricHistory MetricObservation MetricsTracker",
    "manyfit.oracles.oracle": "Oracle",
    "manyfit.oracles.searches": "BayesianOptimizationOracle GridSearchOracle HyperbandOracle RandomSearchOracle",
    "manyfit.oracles.keras_tuner.synchronized": "synchronized",
    "manyfit.core.lifecycle": "TrialStatus",
    "manyfit.oracles.trial": "Trial generate_trial_id",
    "manyfit.tuners.keras_tuner.base_tuner": "BaseTuner",
    "manyfit.tuners.keras_tuner.callbacks": "SaveBestEpoch TunerCallback",
    "manyfit.tuners.keras_tuner.hypermodel": "DefaultHyperModel HyperModel get_hypermodel",
    "manyfit.tuners.searches": "BayesianOptimization GridSearch Hyperband RandomSearch",
    "manyfit.tuners.sklearn_tuner": "SklearnTuner",
    "manyfit.tuners.tuner": "Tuner",
    "manyfit.applications": "HyperEfficientNet HyperImageAugment HyperResNet HyperXception",
    "manyfit.compat.helpers": f"{_FILES} {_UTILS} "
    "average_metrics_dicts convert_hyperparams_to_hparams convert_to_metrics_dict exit_chief "
    "get_best_step get_proto get_service get_service_grpc has_chief_oracle is_chief_oracle keras_tuner_export "
    "maybe_compute_model_size maybe_distribute OracleClient start_server Stateful validate_trial_results",
}

#: Name -> the module that defines it.
HOMES = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

_TOP = (
    "HyperModel HyperParameter HyperParameters Objective Oracle synchronized Tuner BayesianOptimization GridSearch "
    "Hyperband RandomSearch SklearnTuner FailedTrialError"
)
_KINDS = "Boolean Choice Fixed Float Int"
_KINDS_AND_BASE = f"{_KINDS} HyperParameter HyperParameters serialize deserialize"
_CONFIGS = "serialize deserialize"

#: Module -> the names it serves.
MODULES = {
    # `__version__` is that of the KerasTuner whose interface is served: programs compare it.
    "": f"{_TOP} __version__=manyfit.compat.helpers:KERAS_TUNER_VERSION",
    "api_export": "keras_tuner_export",
    "applications": "HyperEfficientNet HyperImageAugment HyperResNet HyperXception",
    "applications.augment": "HyperImageAugment",
    "applications.efficientnet": "HyperEfficientNet",
    "applications.resnet": "HyperResNet",
    "applications.xception": "HyperXception",
    "backend": "",
    "backend.config": "backend=keras:backend.backend multi_backend=manyfit.compat.helpers:multi_backend",
    "backend.io": _FILES,
    "backend.keras": "*keras",
    "backend.ops": "*keras.ops",
    "backend.random": "*keras.random",
    "config": "DEBUG=manyfit.compat.helpers:DEBUG",
    "distribute": "",
    "distribute.oracle_chief": "exit_chief start_server",
    "distribute.oracle_client": "OracleClient",
    "distribute.utils": "has_chief_oracle is_chief_oracle",
    "engine": "",
    "engine.base_tuner": "BaseTuner",
    "engine.conditions": "Condition Parent deserialize=manyfit.space.conditions:of_config "
    "serialize=manyfit.space.conditions:to_config",
    "engine.hypermodel": "HyperModel DefaultHyperModel get_hypermodel",
    "engine.hyperparameters": _KINDS_AND_BASE,
    "engine.hyperparameters.hp_types": f"{_KINDS} {_CONFIGS}",
    "engine.hyperparameters.hp_types.boolean_hp": "Boolean",
    "engine.hyperparameters.hp_types.choice_hp": "Choice",
    "engine.hyperparameters.hp_types.fixed_hp": "Fixed",
    "engine.hyperparameters.hp_types.float_hp": "Float",
    "engine.hyperparameters.hp_types.int_hp": "Int",
    "engine.hyperparameters.hp_types.numerical": "Numerical",
    "engine.hyperparameters.hp_utils": "prob_to_index=manyfit.compat.helpers:prob_to_index "
    "index_to_prob=manyfit.compat.helpers:index_to_prob",
    "engine.hyperparameters.hyperparameter": "HyperParameter",
    "engine.hyperparameters.hyperparameters": "HyperParameters",
    "engine.metrics_tracking": "infer_metric_direction MetricHistory MetricObservation MetricsTracker",
    "engine.multi_execution_tuner": "MultiExecutionTuner=manyfit.tuners.tuner:Tuner",
    "engine.objective": "Objective DefaultObjective MultiObjective create_objective",
    "engine.oracle": "Oracle Objective synchronized",
    "engine.stateful": "Stateful",
    "engine.trial": "Trial TrialStatus generate_trial_id",
    "engine.tuner": "Tuner maybe_distribute maybe_compute_model_size",
    "engine.tuner_utils": "TunerCallback SaveBestEpoch average_metrics_dicts convert_hyperparams_to_hparams "
    "convert_to_metrics_dict get_best_step validate_trial_results",
    "errors": "FailedTrialError FatalError FatalRuntimeError FatalTypeError FatalValueError",
    "oracles": "BayesianOptimizationOracle GridSearchOracle HyperbandOracle RandomSearchOracle",
    "protos": "get_proto get_service get_service_grpc",
    "tuners": "Tuner BayesianOptimization GridSearch Hyperband RandomSearch SklearnTuner",
    "tuners.bayesian": "BayesianOptimization BayesianOptimizationOracle",
    "tuners.gridsearch": "GridSearch GridSearchOracle",
    "tuners.hyperband": "Hyperband HyperbandOracle",
    "tuners.randomsearch": "RandomSearch RandomSearchOracle",
    "tuners.sklearn_tuner": "SklearnTuner",
    "utils": _UTILS,
    "version": "__version__=manyfit.compat.helpers:KERAS_TUNER_VERSION",
}

#: Name of a module tree -> the part of the table that it shows. Longer names are looked at first.
_ROOTS = {"keras_tuner.src": "", "keras_tuner": "", "kerastuner": ""}


class AliasFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of some module trees, and fills them with names that are loaded when they are first used.

    Args:
        roots: name of a tree -> the part of the table that it shows ("" is the whole table).
    """

    def __init__(self, roots: dict[str, str]) -> None:
        # Longest first: `keras_tuner.src.x` is found below `keras_tuner.src`, and not as a module `src` of
        # `keras_tuner`.
        self._roots = dict(sorted(roots.items(), key=lambda root: -len(root[0])))

    def entry(self, fullname: str) -> str | None:
        """The table's entry for a module, or None where the table has none."""
        for root, part in self._roots.items():
            if fullname == root or fullname.startswith(f"{root}."):
                below = fullname[len(root) + 1 :]
                entry = ".".join(filter(None, (part, below)))
                return entry if entry in MODULES else None
        return None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        entry = self.entry(fullname)
        if entry is None:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=bool(_children(entry)))

    def exec_module(self, module: types.ModuleType) -> None:
        """Gives the module its lazy names."""
        entry = self.entry(module.__name__)
        assert entry is not None  # our bug: `find_spec` has found it
        if module.__name__ == "kerastuner":
            warnings.warn("`import kerastuner` is deprecated: import keras_tuner.", DeprecationWarning, stacklevel=2)
        fill(module, entry)


def fill(module: types.ModuleType, entry: str) -> None:
    """Makes a module serve an entry of the table, lazily.

    Args:
        module: gets `__getattr__`, `__dir__`, `__all__`.
        entry: a key of `MODULES`.
    """
    places = _places(entry)
    children = _children(entry)
    whole = places.pop("*", None)
    # `keras_tuner` itself has a child `src`, which shows the whole table once more.
    if module.__name__ == "keras_tuner":
        children = [*children, "src"]

    def load(name: str) -> Any:
        if name in places:
            value = _load(*places[name])
        elif name in children:
            value = importlib.import_module(f"{module.__name__}.{name}")
        elif whole is not None and not name.startswith("__"):
            value = getattr(importlib.import_module(whole[0]), name)
        else:
            raise AttributeError(
                f"module {module.__name__!r} has no attribute {name!r}. It serves: "
                f"{', '.join(sorted([*places, *children])) or 'nothing'}."
            )
        # Kept, so that the next access costs nothing. Not where a whole module is shown: its names may change.
        if whole is None:
            setattr(module, name, value)
        return value

    exported = [*places, *children]
    namespace = vars(module)
    namespace["__getattr__"] = load
    namespace["__dir__"] = lambda: sorted({*namespace, *exported, *(dir(_module(whole)) if whole else ())})
    namespace["__doc__"] = namespace["__doc__"] or "Names of KerasTuner, defined by Manyfit: see manyfit.compat."
    if whole is None:
        namespace["__all__"] = [name for name in exported if not name.startswith("_")]


def _module(whole: tuple[str, str]) -> types.ModuleType:
    return importlib.import_module(whole[0])


@functools.cache
def _names(entry: str) -> tuple[tuple[str, str, str], ...]:
    found = []
    for item in MODULES[entry].split():
        name, _, place = item.partition("=")
        if item.startswith("*"):
            found.append(("*", item[1:], ""))
        elif place:
            module, _, attribute = place.partition(":")
            found.append((name, module, attribute))
        else:
            found.append((name, HOMES[name], name))
    return tuple(found)


def _places(entry: str) -> dict[str, tuple[str, str]]:
    """Name -> the module and the attribute that it stands for."""
    return {name: (module, attribute) for name, module, attribute in _names(entry)}


def _load(module: str, attribute: str) -> Any:
    value: Any = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


@functools.cache
def _children(entry: str) -> list[str]:
    """Names of the modules right below an entry."""
    start = f"{entry}." if entry else ""
    below = [key[len(start) :] for key in MODULES if key and key.startswith(start)]
    return [name for name in below if "." not in name]


_finder = AliasFinder(_ROOTS)


def install() -> None:
    """Makes `import keras_tuner`, and every module below it, resolve to Manyfit in this process.

    A KerasTuner that is installed, too, is not touched: it is only not found. Calling it twice does nothing more.

    Raises:
        UsageError: the real KerasTuner has been imported already.
    """
    if _finder in sys.meta_path:
        return
    for root in ("keras_tuner", "kerastuner"):
        known = sys.modules.get(root)
        if known is not None and getattr(known, "__loader__", None) is not _finder:
            raise UsageError(
                explain(
                    "manyfit.compat.install()",
                    f"{root}, imported before from {getattr(known, '__file__', 'elsewhere')}",
                    "install() before the first import of keras_tuner",
                    "Put `import manyfit.compat; manyfit.compat.install()` at the top of the program.",
                )
            )
    # In front: else a KerasTuner that is installed would be found first.
    sys.meta_path.insert(0, _finder)
    environment.written_for_keras_tuner = True


def uninstall() -> None:
    """Takes `install` back: `import keras_tuner` finds what is installed under that name, if anything is."""
    environment.written_for_keras_tuner = False
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
    # A list first: the dict changes while entries are deleted.
    for name in [name for name, module in sys.modules.items() if getattr(module, "__loader__", None) is _finder]:
        del sys.modules[name]


def serve(root: str, entry: str) -> None:
    """Shows a part of the table below one of Manyfit's own packages.

    Args:
        root: the package, which calls this while it is imported.
        entry: the part of the table.
    """
    # At the end: modules that do exist on disk win.
    sys.meta_path.append(AliasFinder({root: entry}))
    fill(sys.modules[root], entry)
