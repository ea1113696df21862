"""What a stranger does first, with nothing but what `pip install` brought: run by `make test-package`, outside of the
repository, in an environment that holds the built wheel, or what the sdist builds, alone.

python installed.py [--quickly]     quickly: no search, only what a package may lack
"""

import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile

import manyfit as kt  # isort: skip  # before Keras: it chooses the JAX backend where nobody has chosen one

import keras
import numpy as np


def build_model(hp):
    model = keras.Sequential(
        [keras.layers.Dense(hp.Int("units", 4, 16, step=4), activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-3, 1e-1, sampling="log")), "mse")
    return model


def main():
    package = pathlib.Path(kt.__file__).parent
    assert "site-packages" in package.parts, f"{package}: not what the wheel has installed"
    assert (package / "py.typed").is_file(), "type checkers would not look into it"
    version = importlib.metadata.version("manyfit")
    manyfit = pathlib.Path(sys.executable).parent / "manyfit"
    said = subprocess.run([manyfit, "--version"], check=True, capture_output=True, text=True).stdout
    assert version in said, said
    told = importlib.metadata.metadata("manyfit")
    assert told["License-Expression"] == "Apache-2.0" and told["Requires-Python"] == ">=3.11", told
    files = {str(file) for file in importlib.metadata.files("manyfit")}
    assert any(file.endswith("licenses/LICENSE") for file in files), "without its licence"
    assert not any("tests" in file or "benchmarks" in file for file in files), "with what is no part of it"
    templates = [file for file in files if "templates" in file]
    assert templates, "reports and the dashboard have no pages"
    if "--quickly" in sys.argv:
        print(f"manyfit {version}: installed, {len(files)} files")
        return
    subprocess.run([manyfit, "doctor"], check=True)

    x = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
    y = x @ np.array([1.0, -2.0, 0.5, 0.0], "float32")
    with tempfile.TemporaryDirectory() as folder:
        tuner = kt.RandomSearch(build_model, "val_loss", max_trials=4, seed=0, directory=folder)
        tuner.search(x[:200], y[:200], epochs=5, validation_data=(x[200:], y[200:]), verbose=0)
        assert len(tuner.oracle.trials) == 4
        subprocess.run([manyfit, "show", tuner.project_dir], check=True)
        tuner.close()
    print(f"manyfit {version} on {keras.backend.backend()}: installed, searched, shown")


if __name__ == "__main__":
    main()
