"""Population training: executions train together as one compiled JAX program."""

from manyfit.training.population.trainer import Population

__all__ = ["Population"]
