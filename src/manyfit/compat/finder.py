"""Serves the modules of the table under KerasTuner's names."""

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

from manyfit.compat.table import HOMES, MODULES
from manyfit.core import environment
from manyfit.core.errors import UsageError, explain

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
