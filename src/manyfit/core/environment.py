"""What this process runs in: which backend Keras is to have, whether the program was written for KerasTuner, threads.

Most of it has to be known before Keras is loaded, so nothing here imports it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from manyfit.core.errors import UsageError, explain

if TYPE_CHECKING:
    import threadpoolctl

# Keras's backend ----------------------------------------------------------------------------------------------

#: Who has chosen Keras's backend, as far as this process can tell.
chosen_by = "Keras's configuration file"


def prefer_jax() -> None:
    """Has Keras use JAX, if it is installed, in this process and its children, where nobody has chosen a backend.

    The user has chosen when the variable is set, when Keras is loaded, or when Keras's configuration file names
    another backend than TensorFlow. "tensorflow" in that file is no choice: Keras writes it there by itself when it
    is first imported, installed or not.

    Warns:
        UserWarning: the backend that somebody has chosen is not installed, so that `import keras` will fail.
    """
    global chosen_by
    # Through the environment: Keras reads it when it is first imported, and cannot change its backend afterwards; and
    # workers that are started later inherit it.
    asked = os.environ.get("KERAS_BACKEND")
    if asked is not None:
        chosen_by = "KERAS_BACKEND"
    elif "keras" not in sys.modules:
        asked = _configured_backend()
        if asked in (None, "tensorflow"):
            found = next((name for name in _BACKENDS if is_installed(name)), "jax")
            os.environ["KERAS_BACKEND"] = found
            chosen_by = "default" if found == "jax" else "what is installed"
            return
    if asked in _BACKENDS and not is_installed(asked):
        remedy = "unset it" if chosen_by == "KERAS_BACKEND" else "set KERAS_BACKEND=jax before the program starts"
        warnings.warn(
            f"import keras will fail: {chosen_by} asks for {asked}, which is not installed. Type pip install "
            f"manyfit[{asked}], or {remedy}.",
            stacklevel=3,
        )


#: What Keras can train on, in the order in which it is chosen where nobody has said which.
_BACKENDS = ("jax", "tensorflow", "torch")


def is_installed(package: str) -> bool:
    """Whether a package can be imported, without importing it.

    Example:

    >>> is_installed("numpy"), is_installed("no_such_package")
    (True, False)
    """
    return importlib.util.find_spec(package) is not None


def _configured_backend() -> str | None:
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        named = json.loads((keras_home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
    return None if named is None else str(named)


# Programs for KerasTuner ---------------------------------------------------------------------------------------

#: Whether this process runs a program that was written for KerasTuner: `manyfit.compat.install()` sets it. What is
#: wrong with a build function is then told when the search starts, as there, not when the tuner is made.
written_for_keras_tuner = False


def compat_of(compat: str | None) -> str | None:
    """The mode of a search: what was asked for, else "keras_tuner" in a program that was written for it.

    Args:
        compat: None or "keras_tuner".
    """
    return compat or ("keras_tuner" if written_for_keras_tuner else None)


CHIEF_VARIABLES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")


def refuse_chief_and_workers(where: str, *, always: bool = False) -> None:
    """Refuses KerasTuner's chief and workers, which would otherwise all run the whole search on their own.

    Args:
        where: what is being constructed.
        always: whether to refuse even where no variable is set.

    Raises:
        UsageError: one of the variables is set; the message says what to write instead.

    Example:

    >>> refuse_chief_and_workers("RandomSearch")
    """
    found = [f"{name}={os.environ[name]}" for name in CHIEF_VARIABLES if name in os.environ]
    if not found and not always:
        return
    raise UsageError(
        explain(
            where,
            f"{', '.join(found) or 'a chief'}: KerasTuner's chief and workers",
            "one process that owns the search, and hands its trials to others",
            "Unset these variables and start the program once. On one machine trials train together as it is "
            "(population=True); for processes or machines type executor=kt.ProcessExecutor(...) or kt.RayExecutor().",
        )
    )


# Threads of numerical libraries --------------------------------------------------------------------------------
_changing = threading.Lock()


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """A context in which BLAS and OpenMP use one thread; afterwards as many as before.

    For work on matrices of some hundred rows: BLAS starts all its threads for each of them, and where the other cores
    are busy most of the time goes into waiting for them. With two cores at work a proposal of the Gaussian process
    took 0.8 to 1.5 seconds of processor time, and 0.05 in here.

    Example:

    >>> with one_thread():
    ...     pass
    """
    # The number of threads of BLAS is the process's. Two that lower it and leave in the order in which they came would
    # leave it at what the second one found; so who comes while somebody is inside works with what there is.
    if not _changing.acquire(blocking=False):
        yield
        return
    try:
        with _libraries(len(sys.modules)).limit(limits=1):
            yield
    finally:
        _changing.release()


@functools.lru_cache(maxsize=1)
def _libraries(num_modules: int) -> threadpoolctl.ThreadpoolController:
    """The libraries that are loaded. They come with modules, and looking for them takes some milliseconds."""
    del num_modules
    import threadpoolctl  # slow to load, for each command that looks at a project

    return threadpoolctl.ThreadpoolController()
