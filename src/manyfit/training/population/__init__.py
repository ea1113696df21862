"""Population training: executions train together as one compiled JAX program."""

from manyfit.training.population.program_report import ProgramRecord, Programs
from manyfit.training.population.trainer import Population, supported

__all__ = ["Population", "ProgramRecord", "Programs", "supported"]
