"""Small functions of KerasTuner's that programs in the wild import.

Helpers around what `run_trial` and `HyperModel.fit` return; and chief and workers, recognised and answered with what
takes their place; KerasTuner's `utils`; and its `backend.io`, files on the local file system.
"""

from __future__ import annotations

import contextlib
import glob as _glob
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any, NoReturn, Protocol

from manyfit.core import history as histories
from manyfit.core.environment import refuse_chief_and_workers
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective
from manyfit.oracles import Oracle
from manyfit.report.terminal import in_notebook
from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import Float, Int, Numerical
from manyfit.training.outcomes import to_histories

if TYPE_CHECKING:
    import keras  # whoever imports KerasTuner's names has not asked for Keras yet

#: The version of KerasTuner whose interface is served.
KERAS_TUNER_VERSION = "1.4.8"

#: KerasTuner's switch for tracebacks of failed trials; Manyfit always keeps them in `trial.message`.
DEBUG = False


def keras_tuner_export(path: str | list[str]) -> Callable[[Any], Any]:
    """KerasTuner's decorator for what it exports; leaves the class as it is."""
    del path
    return lambda exported: exported


def multi_backend() -> bool:
    """Whether Keras has several backends: Keras 3 has."""
    return True


def maybe_compute_model_size(model: keras.Model) -> int:
    """The trainable parameters of a model; 0 while it is not built."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


class DistributionStrategy(Protocol):
    """What is used of a `tf.distribute.Strategy`."""

    def scope(self) -> AbstractContextManager[Any]:
        """Inside it, variables are made for the strategy's devices."""


@contextlib.contextmanager
def maybe_distribute(distribution_strategy: DistributionStrategy | None) -> Iterator[None]:
    """The scope of a `tf.distribute.Strategy`, or none.

    Args:
        distribution_strategy: the strategy, or None.
    """
    if distribution_strategy is None:
        yield
    else:
        with distribution_strategy.scope():
            yield


def prob_to_index(prob: float, n_index: int) -> int:
    """The bucket, out of `n_index` equal ones, that holds a position of the unit interval."""
    return min(max(math.floor(prob * n_index), 0), n_index - 1)


def index_to_prob(index: int, n_index: int) -> float:
    """The centre of a bucket."""
    return (index + 0.5) / n_index


class Stateful:
    """Something whose state goes to a file as JSON: KerasTuner's base class of tuners, oracles and trials."""

    def get_state(self) -> dict[str, Any]:
        """The state, as JSON."""
        raise NotImplementedError(f"{type(self).__name__}.get_state is abstract: override it.")

    def set_state(self, state: dict[str, Any]) -> None:
        """The inverse of `get_state`."""
        raise NotImplementedError(f"{type(self).__name__}.set_state is abstract: override it.")

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Writes the state to a file."""
        with open(fname, "w") as file:
            json.dump(self.get_state(), file)

    def reload(self, fname: str | os.PathLike[str]) -> None:
        """Reads the state from a file."""
        with open(fname) as file:
            self.set_state(json.load(file))


def average_metrics_dicts(metrics_dicts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means of metrics over executions.

    Example:

    >>> average_metrics_dicts([{"loss": 1.0}, {"loss": 3.0}])
    {'loss': 2.0}
    """
    return histories.mean_metrics(metrics_dicts)


def validate_trial_results(results: object, objective: Objective, func_name: str) -> None:
    """Checks what a user's function returned.

    Args:
        results: what it returned.
        objective: what is ranked.
        func_name: the function's name, for messages.

    Raises:
        FatalTypeError: None, or something of another type.
        FatalValueError: a dict without the objective.
    """
    to_histories(results, objective, func_name)


def convert_to_metrics_dict(results: object, objective: Objective) -> dict[str, float]:
    """The metrics of what a user's function returned: at the best epoch, averaged over a list.

    Example:

    >>> convert_to_metrics_dict([0.25, 0.75], Objective("val_loss", "min"))
    {'val_loss': 0.5}
    """
    rows = []
    for history in to_histories(results, objective, "run_trial()"):
        metrics = histories.at_epoch(history, _best_epoch(history, objective))
        if len(objective.names) > 1 and objective.has_value(metrics):
            metrics[objective.name] = objective.get_value(metrics)
        rows.append(metrics)
    return histories.mean_metrics(rows)


def get_best_step(results: object, objective: Objective) -> int:
    """The best epoch of what a user's function returned, counted from 0; the mean, rounded down, over a list."""
    epochs = [_best_epoch(history, objective) for history in to_histories(results, objective, "run_trial()")]
    # Rounded down, as KerasTuner does: a step has to be an epoch that exists.
    return sum(epochs) // len(epochs)


def _best_epoch(history: histories.History, objective: Objective) -> int:
    # Without a score (all NaN, or not logged) KerasTuner takes the last epoch.
    scored = histories.score(history, objective)
    last = max(map(len, history.values()), default=1) - 1
    return last if scored is None else scored[1]


def convert_hyperparams_to_hparams(
    hyperparams: HyperParameters, hparams_api: ModuleType | None = None
) -> dict[Any, Any]:
    """A trial's values under TensorBoard's HParams.

    Args:
        hyperparams: the trial's.
        hparams_api: the module `tensorboard.plugins.hparams.api`; None imports it.

    Returns:
        `HParam` -> value, for each active hyperparameter.
    """
    if hparams_api is None:
        import importlib

        hparams_api = importlib.import_module("tensorboard.plugins.hparams.api")
    found = {}
    for hp in hyperparams.space:
        if hyperparams.is_active(hp):
            value = hyperparams.values.get(hp.name, hp.default)
            found[hparams_api.HParam(hp.name, _domain(hp, hparams_api))] = value
    return found


def _domain(hp: HyperParameter, api: ModuleType) -> Any:
    # A step other than 1 leaves gaps, which HParams' intervals do not know: then the values are listed.
    stepped = isinstance(hp, Numerical) and hp.step is not None and (isinstance(hp, Float) or hp.step != 1)
    if isinstance(hp, Boolean):
        return api.Discrete([True, False])
    if isinstance(hp, Fixed | Choice) or stepped:
        return api.Discrete(list(hp.values))
    assert isinstance(hp, Numerical)
    interval = api.IntInterval if isinstance(hp, Int) else api.RealInterval
    return interval(hp.min_value, hp.max_value)


def has_chief_oracle() -> bool:
    """Whether KerasTuner's environment variables name a chief."""
    return "KERASTUNER_ORACLE_IP" in os.environ


def is_chief_oracle() -> bool:
    """Whether they say that this process is the chief."""
    return has_chief_oracle() and "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")


def start_server(oracle: Oracle) -> NoReturn:
    """KerasTuner's chief served its oracle to workers.

    Raises:
        UsageError: always; it says what to write instead.
    """
    del oracle
    refuse_chief_and_workers("start_server", always=True)
    raise AssertionError


def exit_chief(oracle: Oracle) -> bool:
    """Whether a chief may end: no trial is running."""
    return not oracle.ongoing_trials


class OracleClient:
    """KerasTuner's worker-side oracle.

    Raises:
        UsageError: always; it says what to write instead.
    """

    def __init__(self, oracle: Oracle) -> None:
        del oracle
        refuse_chief_and_workers("OracleClient", always=True)


def get_proto() -> NoReturn:
    """KerasTuner's messages between chief and workers.

    Raises:
        UsageError: always; it says what to write instead.
    """
    refuse_chief_and_workers("protos", always=True)
    raise AssertionError


get_service = get_service_grpc = get_proto


class Configurable(Protocol):
    """An object that says how it was made."""

    def get_config(self) -> dict[str, Any]:
        """The arguments of its constructor."""


def try_clear() -> None:
    """Clears the output of a notebook cell; prints an empty line elsewhere."""
    if not in_notebook():
        print()
        return
    from IPython import display  # only where a notebook runs this, and so has it

    display.clear_output()


def create_directory(path: str | os.PathLike[str], remove_existing: bool = False) -> None:
    """Makes a folder.

    Args:
        path: the folder.
        remove_existing: whether an existing one is deleted with what is in it.
    """
    if remove_existing and os.path.exists(path):
        shutil.rmtree(path)
    os.makedirs(path, exist_ok=True)


def serialize_keras_object(obj: Configurable) -> dict[str, Any]:
    """An object with `get_config` as ``{"class_name": ..., "config": ...}``."""
    return {"class_name": type(obj).__name__, "config": obj.get_config()}


def deserialize_keras_object(
    config: Mapping[str, Any],
    module_objects: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
) -> Any:
    """What `serialize_keras_object` described.

    Args:
        config: the description.
        module_objects: class names and classes.
        custom_objects: further ones, which win.

    Raises:
        UsageError: the class is in neither.
    """
    known = {**(module_objects or {}), **(custom_objects or {})}
    cls = known.get(config["class_name"])
    if cls is None:
        raise UsageError(
            explain(
                "deserialize_keras_object",
                f"Unknown object: {config['class_name']!r}",
                f"one of {', '.join(known) or 'no classes'}",
                "Name its class in custom_objects=.",
            )
        )
    return cls.from_config(config["config"]) if hasattr(cls, "from_config") else cls(**config["config"])


def to_list(values: object) -> list[Any]:
    """A list or tuple as a list; anything else as a list of one."""
    return list(values) if isinstance(values, list | tuple) else [values]


def save_json(path: str | os.PathLike[str], obj: object) -> str:
    """Writes an object as JSON, and returns the text."""
    text = json.dumps(obj)
    with open(path, "w") as file:
        file.write(text)
    return text


def load_json(path: str | os.PathLike[str]) -> Any:
    """Reads an object from a JSON file."""
    with open(path) as file:
        return json.load(file)


def exists(path: str) -> bool:
    """Whether there is a file or a folder."""
    return os.path.exists(path)


def rmtree(path: str) -> None:
    """Deletes a folder and what is in it."""
    shutil.rmtree(path)


def File(filename: str, mode: str) -> IO[Any]:
    """Opens a file."""
    return open(filename, mode)


def glob(path: str) -> list[str]:
    """The paths that match a pattern."""
    return _glob.glob(path)


def makedirs(path: str) -> None:
    """Makes a folder, and those above it."""
    os.makedirs(path, exist_ok=True)


def write_filepath(filepath: str, strategy: object) -> str:
    """Where this process writes a file; with one process it is the path itself."""
    del strategy
    return filepath


def remove_temp_dir_with_filepath(filepath: str, strategy: object) -> None:
    """Deletes what only `write_filepath` has made: nothing."""
    del filepath, strategy
