"""Samplers that do not learn from results: random, grid and quasi-random search.

Random search is the baseline that every other sampler has to beat. Grid search tries every configuration of a finite
space once, in a stable order. Quasi-random search walks through a scrambled Sobol sequence over the unit cube of the
space (Sobol 1967, Owen 1998).
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.base import Sampler
from manyfit.samplers.candidates import draw_new, tried
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
        return draw_new(encoding, tried(encoding, completed, pending), count, rng)


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
        taken = tried(encoding, completed, pending)
        # Lazily: a grid of 10**12 is walked only as far as it is asked for.
        left = (values for values in encoding.enumerate(self.num_continuous) if encoding.key(values) not in taken)
        return list(itertools.islice(left, count))

    def settings(self) -> dict[str, Any]:
        """The name, and how a continuum is cut."""
        return {"name": type(self).__name__, "num_continuous": self.num_continuous}


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
        taken = tried(encoding, completed, pending)
        found: list[dict[str, Value]] = []
        # SciPy has direction numbers for so many dimensions; wider spaces fall to chance below.
        if 0 < len(encoding) <= qmc.Sobol.MAXDIM:
            engine = qmc.Sobol(len(encoding), rng=np.random.default_rng(self.seed))
            with warnings.catch_warnings():  # about sample sizes that are no power of two
                warnings.simplefilter("ignore")
                if completed or pending:
                    # The place is the number of trials, so that nothing has to be stored. Failed trials count: their
                    # points are used.
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
        return found + draw_new(encoding, taken, count - len(found), rng)

    def settings(self) -> dict[str, Any]:
        """Name and seed."""
        return {"name": type(self).__name__, "seed": self.seed}
