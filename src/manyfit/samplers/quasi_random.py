"""Quasi-random search: a scrambled Sobol sequence over the unit cube of the space (Sobol 1967, Owen 1998)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers import known
from manyfit.samplers.base import Sampler
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

_MAX_SKIPPED = 256  # duplicates in a row before chance takes over


class QuasiRandomSampler(Sampler):
    """Spreads trials more evenly than chance does: the n-th trial is the n-th point of a Sobol sequence.

    The place in the sequence is the number of trials that exist, so nothing needs to be remembered. Points that
    decode to a configuration that is known are passed over; once a finite space has few left, chance finds them.

    Args:
        seed: of the scramble; searches with the same seed walk through the same points.

    Raises:
        UsageError: a negative seed.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Float("dropout", 0.0, 0.5), space.Int("layers", 1, 3)
    >>> proposals = QuasiRandomSampler().propose(space, [], [], 4, np.random.default_rng(0))
    >>> sorted(int(each["dropout"] / 0.125) for each in proposals)
    [0, 1, 2, 3]
    """

    learns = False

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise UsageError(explain("QuasiRandomSampler", f"seed={seed}", "at least 0", "Type seed=0."))
        self.seed = seed

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """The next `count` new configurations of the sequence; see `Sampler.propose`."""
        encoding = Encoding(space)
        taken = known.tried(encoding, completed, pending)
        found: list[dict[str, Value]] = []
        if 0 < len(encoding) <= qmc.Sobol.MAXDIM:
            engine = qmc.Sobol(len(encoding), rng=np.random.default_rng(self.seed))
            with warnings.catch_warnings():  # about sample sizes that are no power of two
                warnings.simplefilter("ignore")
                if completed or pending:
                    engine.fast_forward(len(completed) + len(pending))
                points = engine.random(count + _MAX_SKIPPED)
            for point in points:
                values = encoding.decode(point)
                key = encoding.key(values)
                if key not in taken:
                    taken.add(key)
                    found.append(values)
                if len(found) == count:
                    return found
        return found + known.draw_new(encoding, taken, count - len(found), rng)

    def settings(self) -> dict[str, Any]:
        """Name and seed."""
        return {"name": type(self).__name__, "seed": self.seed}
