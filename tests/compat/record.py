"""Records what the programs do on KerasTuner 1.4.8: ``KERAS_BACKEND=jax python record.py`` where it is installed."""

import json

import keras_tuner
from programs import HERE, outcome, programs

if __name__ == "__main__":
    assert keras_tuner.__version__ == "1.4.8" and "site-packages" in keras_tuner.__file__
    recorded = {name: outcome(source) for name, source in programs().items()}
    (HERE / "recorded.json").write_text(json.dumps(recorded, indent=1) + "\n")
    print(len(recorded), "programs")
