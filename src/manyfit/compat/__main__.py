"""Runs a program that imports `keras_tuner` on Manyfit: ``python -m manyfit.compat train.py --its --arguments``."""

from __future__ import annotations

import os
import runpy
import sys

from manyfit.compat.finder import install

_USAGE = (
    "usage: python -m manyfit.compat SCRIPT [ARGUMENTS ...]\n       python -m manyfit.compat -m MODULE [ARGUMENTS ...]"
)


def main(arguments: list[str]) -> int:
    """Runs a script (or, after `-m`, a module) as `__main__`, with `keras_tuner` served by Manyfit.

    Returns:
        2 where no script is named; the script's own exit otherwise leaves as it does.
    """
    as_module = arguments[:1] == ["-m"]
    target = arguments[as_module : as_module + 1]
    if not target or target[0] in ("-h", "--help"):
        print(_USAGE, file=sys.stdout if target else sys.stderr)
        return 0 if target else 2
    install()
    sys.argv = [target[0], *arguments[as_module + 1 :]]
    if as_module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(target[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, os.path.dirname(os.path.abspath(target[0])))
        runpy.run_path(target[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
