"""The choice of Keras's backend, asked of fresh interpreters without Keras."""

import json
import os
import subprocess
import sys

import pytest

CODE = "import os, manyfit; print(os.environ.get('KERAS_BACKEND'))"


def _chosen(tmp_path, backend=None, config=None):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    if backend is not None:
        environment["KERAS_BACKEND"] = backend
    if config is not None:
        (tmp_path / "keras.json").write_text(config)
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("backend", "config", "chosen"),
    [
        (None, None, "jax"),
        ("torch", None, "torch"),
        (None, json.dumps({"backend": "tensorflow"}), "jax"),  # Keras writes this by itself
        (None, json.dumps({"backend": "torch"}), "None"),  # the file decides
        (None, "{not json", "jax"),
    ],
)
def test_jax_unless_the_user_has_chosen(tmp_path, backend, config, chosen):
    assert _chosen(tmp_path, backend, config) == chosen
