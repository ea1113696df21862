"""A search in a real notebook's kernel: one output in its cell, which does not grow."""

from __future__ import annotations

import json
import os
import sys

import pytest
from marks import needs_jax

CELL = """
import manyfit as kt
import keras, numpy as np

def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.001, 1.0)), "binary_crossentropy", metrics=["accuracy"])
    return model

x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int32")
tuner = kt.RandomSearch(build, "val_accuracy", max_trials=6, seed=1, directory=FOLDER)
tuner.search(x, y, epochs=2, validation_split=0.5)
"""


@needs_jax
def test_a_search_in_a_notebook_is_one_output(tmp_path):
    nbformat, nbclient = (
        pytest.importorskip(name, reason="no notebooks are installed") for name in ("nbformat", "nbclient")
    )
    pytest.importorskip("ipykernel", reason="no notebooks are installed")
    cell = nbformat.v4.new_code_cell(CELL.replace("FOLDER", repr(str(tmp_path))))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    spec = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "here"}
    folder = tmp_path / "kernels" / "here"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps({**spec, "language": "python"}))
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "JUPYTER_PATH": str(tmp_path)}
    client = nbclient.NotebookClient(notebook, kernel_name="here", timeout=300)
    client.km = client.create_kernel_manager()
    client.km.kernel_spec_manager.kernel_dirs.insert(0, str(tmp_path / "kernels"))
    client.execute(env=settings)
    outputs = notebook.cells[0].outputs
    assert len(outputs) == 1, outputs
    [output] = outputs
    assert output.output_type == "display_data"
    lines = output.data["text/plain"].splitlines()
    assert any(line.startswith("The search ended after 6 trials") for line in lines)
    assert lines[-1].startswith("Next: tuner.confirm()") and len(lines) <= 10
    assert output.data["text/html"].startswith("<pre")
