"""Grid search: every configuration of a finite space once, in a stable order."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers import known
from manyfit.samplers.base import Sampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


class GridSampler(Sampler):
    """Walks through the grid of a space: defaults first, the last hyperparameter varies fastest.

    The order depends on the space alone, and the position in it on which configurations were tried, so an
    interrupted search goes on where it was, and hyperparameters that a build function reveals late are filled in:
    trials that did not know them count as having had their defaults.

    Args:
        num_continuous: how many evenly spread values stand for a continuum, besides its default.

    Raises:
        UsageError: `num_continuous` is below 1.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Choice("units", [16, 32]), space.Boolean("bias")
    >>> GridSampler().propose(space, [], [{"units": 16, "bias": False}], 2, np.random.default_rng(0))
    [{'units': 16, 'bias': True}, {'units': 32, 'bias': False}]
    """

    learns = False

    def __init__(self, num_continuous: int = 10) -> None:
        if num_continuous < 1:
            raise UsageError(
                explain("GridSampler", f"num_continuous={num_continuous}", "at least 1", "Type num_continuous=10.")
            )
        self.num_continuous = num_continuous

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """The next `count` untried configurations of the grid; see `Sampler.propose`."""
        encoding = Encoding(space)
        taken = known.tried(encoding, completed, pending)
        left = (values for values in encoding.enumerate(self.num_continuous) if encoding.key(values) not in taken)
        return list(itertools.islice(left, count))

    def settings(self) -> dict[str, Any]:
        """The name, and how a continuum is cut."""
        return {"name": type(self).__name__, "num_continuous": self.num_continuous}
