"""Ready search spaces for models of other brands: "above all be diverse, best of all different brands".

What a space builds is an estimator in scikit-learn's manner, or a Keras model; every tuner takes both.
"""

from manyfit.brands.tabular import Tabular, tabular

__all__ = ["Tabular", "tabular"]
