"""KerasTuner's `engine` names: `manyfit.engine.tuner.Tuner`, `manyfit.engine.trial.Trial` and so on."""

from manyfit.compat.finder import serve

# A `__path__` is what makes a module one that others may lie in. Nothing lies on disk: compat's finder serves them.
__path__: list[str] = []

serve(__name__, "engine")
