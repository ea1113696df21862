"""Programs that were written for KerasTuner run on Manyfit, unchanged.

Either at the top of a program:

>>> import manyfit.compat
>>> manyfit.compat.install()
>>> import keras_tuner as kt
>>> from keras_tuner.src.engine.tuner_utils import TunerCallback
>>> import manyfit
>>> kt.HyperParameters is manyfit.HyperParameters
True
>>> manyfit.compat.uninstall()

or from outside, without touching the program: ``python -m manyfit.compat train.py --its --arguments``.

`keras_tuner.*`, `keras_tuner.src.*`, the module paths from before KerasTuner 1.4 and the legacy name `kerastuner`
resolve to Manyfit's own classes, each of which exists once. docs/from-keras-tuner.md lists the deliberate differences.
"""

from manyfit.compat.finder import install as install
from manyfit.compat.finder import uninstall as uninstall
