"""Population training: executions train together as one compiled JAX program. `README.md` walks through the files."""

from manyfit.training.population.trainer import Population, supported
from manyfit.training.program_report import ProgramRecord, Programs

__all__ = ["Population", "ProgramRecord", "Programs", "supported"]
