"""Chooses Keras's backend before Keras is loaded: JAX, unless the user has chosen."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

#: Who has chosen Keras's backend, as far as this process can tell.
chosen_by = "Keras's configuration file"


def prefer_jax() -> None:
    """Sets `KERAS_BACKEND=jax` for this process and its children, where nobody has chosen a backend.

    The user has chosen when the variable is set, when Keras is loaded, or when Keras's configuration file names
    another backend than TensorFlow. "tensorflow" in that file is no choice: Keras writes it there by itself when it
    is first imported, installed or not.
    """
    global chosen_by
    if "KERAS_BACKEND" in os.environ:
        chosen_by = "KERAS_BACKEND"
    elif "keras" not in sys.modules and _configured_backend() in (None, "tensorflow"):
        os.environ["KERAS_BACKEND"] = "jax"
        chosen_by = "default"


def _configured_backend() -> str | None:
    keras_home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
    try:
        configured: str | None = json.loads((keras_home / "keras.json").read_text()).get("backend")
        return configured
    except (OSError, ValueError):
        return None
