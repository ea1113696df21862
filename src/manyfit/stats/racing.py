"""How small a p-value must be when one looks after every round.

A one-sided paired t-test at level 0.05, repeated after each of 30 rounds, is wrong in more than one comparison of five.
Here each look is made at one smaller *nominal level*, the same at every look (Pocock 1977), chosen so that the chance
of a wrong rejection at *any* look is what was promised. Levels that fall or rise with the round (Wang and Tsiatis 1987)
were tried in simulation: falling ones drop clear losers one round earlier and settle fewer races, rising ones the
reverse; the constant level was in the middle and is the easiest to say.

The level is found by simulation of t-statistics under normal noise, where their law depends on nothing unknown. What is
tested at it, with the error of the rows, is `manyfit.evidence.decisions`.

Sources: racing, Maron and Moore 1994; repeated looks, Pocock 1977, Jennison and Turnbull 1989; the set that holds the
best, Gupta 1965, Hsu 1984.
"""

from __future__ import annotations

import functools

import numpy as np
from scipy import special

from manyfit.core.seeds import generator

MIN_ROUNDS = 3  # at 2 rounds a t-statistic has one degree of freedom: one difference may fit the other by chance
_NUM_PATHS = 100_000
_CHUNK = 20_000
_RESERVE = 0.2  # share of the allowed error that is kept back: noise is not quite normal
_LARGEST_P = 0.3  # p-values above it are not told apart; it bounds the error that can be asked for


@functools.lru_cache(maxsize=16)
def _smallest_p_values(max_rounds: int) -> np.ndarray:
    """Sorted: the smallest one-sided p-value over all looks of a race between two equal contenders, per path."""
    # A fixed address in the seed tree: the level is a constant of the method, and must be the same in every process.
    rng = generator(0, "stats.boundary", max_rounds)
    # The t at which p = _LARGEST_P, per look: `stdtr` costs more than all the rest and is called beyond it only.
    looks = np.arange(MIN_ROUNDS, max_rounds + 1)
    t_start = -special.stdtrit(looks - 1, _LARGEST_P)
    chunks = []
    for _ in range(_NUM_PATHS // _CHUNK):
        smallest = np.ones((2, _CHUNK))  # for rejections upwards and downwards: two samples from each path
        # Running sums instead of all draws: what a chunk needs stays in the processor's cache.
        total, squares = np.zeros(_CHUNK), np.zeros(_CHUNK)
        for n in range(1, max_rounds + 1):
            draw = rng.standard_normal(_CHUNK)
            total += draw
            squares += draw * draw
            if n < MIN_ROUNDS:
                continue
            t = total / np.sqrt(n * (squares - total * total / n) / (n - 1))
            for row, signed in zip(smallest, (t, -t), strict=True):
                far = np.flatnonzero(signed > t_start[n - MIN_ROUNDS])
                row[far] = np.minimum(row[far], special.stdtr(n - 1, -signed[far]))
        chunks.append(smallest.ravel())
    return np.sort(np.concatenate(chunks))


def level_of_one_pair(error: float, max_rounds: int) -> float:
    """The nominal level at which two equal contenders part, one-sided, at any look with this probability.

    Example:

    >>> round(level_of_one_pair(0.05, 30), 3)
    0.007
    """
    # Beyond it the simulated p-values were never computed.
    assert 0 < error < _LARGEST_P, "the caller bounds the confidence"
    smallest = _smallest_p_values(max_rounds)
    return float(smallest[int(error * smallest.size)])


@functools.lru_cache(maxsize=256)
def nominal_level(num_contenders: int, confidence: float, max_rounds: int) -> float:
    """The p-value below which a paired one-sided t-test drops a contender, at any look of a race.

    With at least the stated confidence, the best of the contenders is dropped at no look. The best has
    `num_contenders` - 1 rivals, and none of them may seem better at any look. They are counted as if their
    comparisons were independent, (1 - alpha)^(1 / rivals) each; in truth they share the noise of the best. A fifth
    of alpha is kept in reserve. So the confidence is a little higher than stated: about 96 % for 95 %, whether 2
    contenders are equally good or 20.

    Args:
        num_contenders: contenders at the start of the race.
        confidence: for the whole race, between 0.7 and 1.
        max_rounds: looks at most; the level depends on it weakly.

    Returns:
        The nominal level; 0 when there is nothing to test (one contender, or fewer than 3 rounds).

    Example:

    >>> nominal_level(2, 0.95, 30) > nominal_level(8, 0.95, 30) > 0
    True
    """
    if num_contenders < 2 or max_rounds < MIN_ROUNDS:
        return 0.0
    # The reserve is for noise with heavier tails than the normal draws of the simulation.
    error = (1 - _RESERVE) * (1 - confidence)
    return level_of_one_pair(1 - (1 - error) ** (1 / (num_contenders - 1)), max_rounds)
