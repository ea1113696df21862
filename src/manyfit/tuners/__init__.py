"""The search loop and the tuners that users construct."""

from manyfit.tuners.base_tuner import BaseTuner as BaseTuner
from manyfit.tuners.grid_search import GridSearch as GridSearch
from manyfit.tuners.random_search import RandomSearch as RandomSearch
from manyfit.tuners.tuner import Tuner as Tuner
