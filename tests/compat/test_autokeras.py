"""AutoKeras, the largest program written against KerasTuner, searches on Manyfit: `make test-autokeras`."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

PROGRAM = """
import manyfit.compat

manyfit.compat.install()

import autokeras as ak
import keras_tuner
import manyfit as kt
import numpy as np

assert keras_tuner.Tuner is kt.Tuner
rows = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
labels = (rows.sum(axis=1) > 0).astype(int)
classifier = ak.StructuredDataClassifier(max_trials=2, directory="search", seed=1, overwrite=True)
classifier.fit(rows, labels, epochs=2, verbose=0)
assert isinstance(classifier.tuner, kt.Tuner)
statuses = [trial.status for trial in classifier.tuner.oracle.trials.values()]
assert statuses == ["COMPLETED"] * 2, statuses
assert classifier.predict(rows, verbose=0).shape == (80, 1)
loss, accuracy = classifier.evaluate(rows, labels, verbose=0)
assert 0 <= accuracy <= 1 and loss > 0
assert classifier.export_model().count_params() > 0
print("searched on", kt.__name__)
"""


@pytest.mark.skipif(importlib.util.find_spec("autokeras") is None, reason="needs AutoKeras: make test-autokeras")
def test_autokeras_searches_on_manyfit(tmp_path):
    # A process of its own, because AutoKeras binds KerasTuner's names when it is imported.
    run = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "searched on manyfit" in run.stdout
