"""Chooses Keras's backend before Keras is loaded: JAX, unless the user has chosen."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def prefer_jax() -> None:
    """Sets `KERAS_BACKEND=jax` for this process and its children, where nobody has chosen a backend.

    The user has chosen when the variable is set, when Keras is loaded, or when Keras's configuration file names
    another backend than TensorFlow. "tensorflow" in that file is no choice: Keras writes it there by itself when it
    is first imported, installed or not.
    """
    if "keras" not in sys.modules and _configured_backend() in (None, "tensorflow"):
        os.environ.setdefault("KERAS_BACKEND", "jax")


def _configured_backend() -> str | None:
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        return json.loads((keras_home / "keras.json").read_text()).get("backend")
    except (OSError, ValueError):
        return None
