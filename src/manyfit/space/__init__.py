"""What may be tried: hyperparameters, conditions, encoding to the unit cube, discovery."""

from manyfit.space.categorical import Boolean, Choice, Fixed
from manyfit.space.conditions import Condition, Parent
from manyfit.space.discovery import discover
from manyfit.space.encoding import Dimension, Encoding
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import Float, Int

__all__ = [
    "Boolean",
    "Choice",
    "Condition",
    "Dimension",
    "Encoding",
    "Fixed",
    "Float",
    "HyperParameter",
    "HyperParameters",
    "Int",
    "Parent",
    "discover",
]
