"""KerasTuner's `engine` names: `manyfit.engine.tuner.Tuner`, `manyfit.engine.trial.Trial` and so on."""

from manyfit.compat.finder import serve

serve(__name__, "engine")
