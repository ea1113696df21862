"""KerasTuner's module tree as a table: which names each of its modules serves, and where Manyfit defines them.

A module's entry is a text of names. `name` alone is looked up in `HOMES`; `name=module:attribute` says where it is;
`*module` serves everything that this module has. Modules are named without the leading `keras_tuner.` and `src.`.
"""

from __future__ import annotations

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
