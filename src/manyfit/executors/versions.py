"""What driver and workers have to agree on, and where a worker runs."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping

import keras


def versions() -> dict[str, str]:
    """Versions that have to be the same everywhere, by name."""
    python = ".".join(platform.python_version_tuple()[:2])
    return {
        "Manyfit": sys.modules["manyfit"].__version__,  # not imported: the package stands above its parts
        "Keras": keras.__version__,
        "Keras's backend": keras.backend.backend(),
        "Python": python,
    }


def differences(ours: Mapping[str, str], theirs: Mapping[str, str]) -> str:
    """What differs, for people; empty where everything agrees.

    Example:

    >>> differences({"Keras": "3.15.1", "Python": "3.11"}, {"Keras": "3.14.0", "Python": "3.11"})
    'Keras 3.14.0 there, 3.15.1 here'
    """
    return "; ".join(
        f"{name} {theirs.get(name, 'missing')} there, {version} here"
        for name, version in ours.items()
        if theirs.get(name) != version
    )
