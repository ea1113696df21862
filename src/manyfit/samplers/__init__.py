"""What to try next: one sampler, one file. Pure functions of the recorded history; see `base`."""

from manyfit.samplers.base import Sampler as Sampler
from manyfit.samplers.grid import GridSampler as GridSampler
from manyfit.samplers.random_search import RandomSampler as RandomSampler
