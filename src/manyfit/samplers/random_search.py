"""Random search: the baseline that every other sampler has to beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from manyfit.core.records import Observation, Value, Values
from manyfit.samplers import known
from manyfit.samplers.base import Sampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


class RandomSampler(Sampler):
    """Draws configurations by the space's own distribution, none of them twice.

    A finite space is tried to its last configuration; then the answer is an empty list.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Boolean("bias"), space.Int("layers", 1, 3)
    >>> proposals = RandomSampler().propose(space, [], [], 100, np.random.default_rng(0))
    >>> len(proposals)
    6
    """

    learns = False

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new random configurations; see `Sampler.propose`."""
        encoding = Encoding(space)
        return known.draw_new(encoding, known.tried(encoding, completed, pending), count, rng)
