"""How XLA compiles, and where JAX keeps what was compiled: settings whose names belong to XLA and JAX."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jaxlib
from jax._src import compiler
from jax.experimental.compilation_cache import compilation_cache

from manyfit.core.files import cache_folder
from manyfit.training.keras_internals import Swapped

ONE_THREAD: dict[str, str | bool] = {"xla_cpu_multi_thread_eigen": False}
"""Compile option: a program on a CPU hands no parts of its steps to other threads."""


@functools.cache
def quick_options(level: str = "0", level_alone: str = "0") -> dict[str, str | bool]:
    """Options with which XLA compiles for a CPU in less time: less optimisation, and the older emitters.

    The newer emitters of fused loops spend most of a small program's compile time. At level 0 it takes a fifth of the
    time, and what is compiled runs several times as long; at level 2 half to two thirds, and it runs about as long.

    Args:
        level: of LLVM's optimisation, "0" to "3".
        level_alone: likewise, where XLA has no older emitters any more.
    """
    plain: dict[str, str | bool] = {"xla_backend_optimization_level": level_alone}
    both: dict[str, str | bool] = {"xla_backend_optimization_level": level, "xla_cpu_use_fusion_emitters": False}
    try:
        # Asked rather than looked up by version: an XLA without that choice refuses its name.
        jax.jit(lambda x: x).lower(0.0).compile(compiler_options=both)
    except (RuntimeError, ValueError):
        return plain
    return both


def version_of_xla() -> str:
    """The version of what compiles: it comes in a package of its own, which may be newer or older than JAX."""
    return str(jaxlib.__version__)


def bytes_of(memory: object) -> int:
    """Memory that a compiled program takes: arguments, outputs and what lies between.

    Args:
        memory: what `compiled.memory_analysis()` answers; a backend without an analysis answers None.
    """
    names = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    return sum(int(getattr(memory, name, 0) or 0) for name in names)


def sizes_of_scan(parameters: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the inputs of a `scan` in a jaxpr are constants, and how many are carried; the others are cut.

    Args:
        parameters: `equation.params` of the scan.
    """
    if "num_consts" in parameters:  # JAX below 0.11
        return parameters["num_consts"], parameters["num_carry"]
    constants, carried, _ = parameters["ft_in"].unpack()
    return len(constants), len(carried)


_FOLDER = "jax_compilation_cache_dir"
# A small program is worth keeping, too: it takes longer to compile than to load.
_KEEP_ALL = {"jax_persistent_cache_min_compile_time_secs": 0.0, "jax_persistent_cache_min_entry_size_bytes": -1}


class _Keeping:
    """Where those inside of `kept_on_disk` keep programs, and what JAX's settings were before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.folders: list[str] = []  # of each that is inside, in the order in which they came
        self.before: dict[str, object] = {}
        self.ours: dict[str, object] = {}


_keeping = _Keeping()


@contextlib.contextmanager
def kept_on_disk(folder: Path) -> Iterator[None]:
    """What JAX compiles inside is kept in a folder, and read from there by the next process.

    JAX's settings are afterwards what they were. While at least one thread is inside they hold for the process: JAX
    has one such cache, and a population compiles in threads of its own. The folder is that of the thread which came
    last. A user who has chosen a folder for JAX keeps it, and everything else about it.

    Args:
        folder: exists.
    """
    entered = _enter(str(folder))
    try:
        yield
    finally:
        if entered:
            _leave(str(folder))


@contextlib.contextmanager
def programs_kept() -> Iterator[None]:
    """What JAX compiles inside is kept on disk, unless the user keeps it elsewhere or nowhere; see `kept_on_disk`."""
    folder = cache_folder("programs")
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield  # a home that cannot be written to costs speed, not the search
        return
    with kept_on_disk(folder):
        yield


@contextlib.contextmanager
def kept_until_compiled() -> Iterator[None]:
    """What is kept on disk outside is so inside to its end: of a compilation that goes on when everybody has left."""
    with _keeping.lock:
        kept = _keeping.folders[-1:]
        _keeping.folders += kept
    try:
        yield
    finally:
        for folder in kept:
            _leave(folder)


Compilation: TypeAlias = Callable[[], Any]
"""Compiles one program and answers it."""

_compiled_by: contextvars.ContextVar[Callable[[Compilation], Any] | None] = contextvars.ContextVar(
    "compiled_by", default=None
)


def _compiled_elsewhere(own: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(own)
    def compile_or_get_cached(*args: Any, **kwargs: Any) -> Any:
        def compilation() -> Any:
            with kept_until_compiled():
                return own(*args, **kwargs)

        run = _compiled_by.get()
        return own(*args, **kwargs) if run is None else run(compilation)

    return compile_or_get_cached


_compiling = Swapped((compiler, "compile_or_get_cached", _compiled_elsewhere))


@contextlib.contextmanager
def compiled_by(run: Callable[[Compilation], Any]) -> Iterator[None]:
    """What this thread has JAX compile inside is compiled by a function of ours: in another thread, say.

    That is XLA's part alone: the program has been traced by then, and nothing of the thread's is in it any more.

    Args:
        run: calls what it is given, and answers what that answers.
    """
    token = _compiled_by.set(run)
    try:
        with _compiling.inside():
            yield
    finally:
        _compiled_by.reset(token)


def setting(name: str) -> object:
    """A setting of JAX's; None for one that this JAX lacks."""
    return getattr(jax.config, name, None)


def _enter(folder: str) -> bool:
    with _keeping.lock:
        if not _keeping.folders:
            if setting(_FOLDER):
                return False
            _keeping.ours = {_FOLDER: folder, **_KEEP_ALL}
            _keeping.before = {name: setting(name) for name in _keeping.ours}
            for name, value in _keeping.ours.items():
                jax.config.update(name, value)
        _keeping.folders.append(folder)
        _keep_in(folder)
        return True


def _leave(folder: str) -> None:
    with _keeping.lock:
        _keeping.folders.remove(folder)
        if _keeping.folders:
            _keep_in(_keeping.folders[-1])
            return
        for name, value in _keeping.before.items():
            # What somebody set meanwhile, a build function say, is theirs.
            if setting(name) == _keeping.ours[name]:
                jax.config.update(name, value)
        # JAX opens the folder once and then asks no setting any more: without this, what the user compiles afterwards
        # would go to our folder, and a folder that the user chooses afterwards would stay empty.
        compilation_cache.reset_cache()


def _keep_in(folder: str) -> None:
    if setting(_FOLDER) == _keeping.ours[_FOLDER] != folder:
        jax.config.update(_FOLDER, folder)
        _keeping.ours[_FOLDER] = folder
        compilation_cache.reset_cache()
