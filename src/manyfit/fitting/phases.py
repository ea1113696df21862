"""What the seconds of a `fit` are spent on: pure functions of what trials have cost and of how good they were.

A search gains less with every trial; what is done with its best trials afterwards gains once. So a search goes on as
long as there is time for both, and when there is not, the one is done that promises more.

*Another trial.* Of n trials in no order the next one is the best with probability 1 / (n + 1), and then it leads by
about as much as the best ones lie apart. So s seconds of further trials, of c seconds each, gain about

    spread * log(1 + s / (c * (n + 1))),

where the spread is how far the better half lies behind the best on average. That is the record of draws from an
exponential tail (Renyi 1962), what is good being rare and what is very good rarer still. Proposals that learn do better
than draws, and scores flatter the best: neither is counted.

*A bag.* The models of the folds of a few configurations make errors of their own, which averaging takes away, and each
has trained on rows that the search held out. *Training on* takes the best models of the search a few epochs further, at
a lower rate (`finish/continuing.py`). What these gain was measured, in spreads, over what is in hand when a search has
ended: its models, used together (`benchmarks/results/gains_of_phases.md`). Where a bag has come to less than that, a
larger one is expected to be better than it by the difference, and no more.

Whether a step has come to something better than what is in hand is seen on held-out rows (`comparison.py`), so a
promise that is too high costs time, and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

#: What bags gain, by (configurations, repeats of the folds), and training on: means over five searches, in spreads.
#: Between one, two and three configurations no difference was seen (.34, .43 and .35, each ± .35).
GAIN_OF_BAG = {(1, 1): 0.4, (2, 1): 0.4, (3, 1): 0.4, (3, 2): 0.8}
GAIN_OF_TRAINING_ON = 0.3
#: Configurations that a bag takes at most: further ones add next to nothing (see docs/confirm.md).
MOST_BAGGED = 3
#: Models of the search that train on at most.
MOST_TRAINED_ON = 3
#: Trials that have to be equally good, the better half of them to the last digit, for a search to be over.
FEWEST_TIED = 10
#: Share of the limit for what comes last: combining, and writing the winner.
_SHARE_FOR_THE_END = 0.05
_LEAST_FOR_THE_END = 0.5


@dataclasses.dataclass(frozen=True)
class Tried:
    """What is known of one trial.

    Attributes:
        loss: its score, turned so that lower is better.
        seconds: that one training of it takes.
        build_seconds: that it takes to build.
        compile_seconds: that its program takes to compile, for all trials of one structure together.
        structure: names the program; None: it shares none.
        in_full: whether it trained to its end, and was not stopped by the time.
        share: of the training rows that it has seen.
    """

    loss: float
    seconds: float
    build_seconds: float = 0.0
    compile_seconds: float = 0.0
    structure: str | None = None
    in_full: bool = True
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Bag:
    """A bag that fits into the time.

    Attributes:
        top: how many of the best configurations.
        seconds: that it will take, as far as is known.
        gain: what it promises, in the unit of losses.
        repeats: how often the rows are cut into folds.
    """

    top: int
    seconds: float
    gain: float
    repeats: int = 1


@dataclasses.dataclass(frozen=True)
class TrainingOn:
    """Training on of the best models of the search, where it fits into the time.

    Attributes:
        top: how many.
        seconds: that it will take at most.
        gain: what it promises, in the unit of losses.
    """

    top: int
    seconds: float
    gain: float


def spread_of(losses: Sequence[float]) -> float:
    """How far the better half of some losses lies behind the best of them on average; 0 for fewer than three.

    Example:

    >>> spread_of([0.5, 0.3, 9.0, 0.4])
    0.1
    """
    finite = sorted(loss for loss in losses if math.isfinite(loss))
    if len(finite) < 3:
        return 0.0
    better = finite[: max(2, len(finite) // 2)]
    return round(sum(loss - better[0] for loss in better[1:]) / (len(better) - 1), 12)


def gain_of_search(tried: Sequence[Tried], seconds: float) -> float:
    """What so many seconds of further trials promise; infinite as long as fewer than three tell nothing.

    Args:
        tried: trials so far.
        seconds: for further ones.

    Example:

    >>> four = [Tried(loss, seconds=2.0) for loss in (0.5, 0.3, 9.0, 0.4)]
    >>> round(gain_of_search(four, 10.0), 3), gain_of_search(four[:2], 10.0)
    (0.069, inf)
    """
    if len(tried) < 3:
        return math.inf
    each = (sum(one.seconds + one.build_seconds for one in tried) + _compiling(tried)) / len(tried)
    further = seconds / each if each > 0 else math.inf
    return spread_of([one.loss for one in tried]) * math.log1p(further / (len(tried) + 1))


def bag_seconds(tried: Sequence[Tried], top: int, num_folds: int) -> float:
    """What the folds of the best configurations take to train, if they were trained one after another.

    Each is trained as long as trials that trained to their end, where the time has stopped it.

    Args:
        tried: trials, the best first.
        top: how many of them.
        num_folds: models of each.
    """
    full = [one.seconds for one in tried if one.in_full] or [one.seconds for one in tried]
    usual = sum(full) / len(full)
    best = tried[:top]
    training = sum(one.seconds if one.in_full else max(usual, one.seconds) for one in best)
    # Other numbers of rows than the search's: compiled anew, once for all folds.
    return num_folds * (training + sum(one.build_seconds for one in best)) + _compiling(best)


def _compiling(tried: Sequence[Tried]) -> float:
    """What the programs of some trials take to compile: each structure once."""
    shared = {one.structure: one.compile_seconds for one in tried if one.structure is not None}
    return sum(shared.values()) + sum(one.compile_seconds for one in tried if one.structure is None)


def is_over(tried: Sequence[Tried]) -> bool:
    """Whether nothing promises anything any more: the better half of ten trials or more is equally good.

    Then neither a further trial nor what is done with the best ones has a measure by which it could be better: an
    accuracy of 1, say.

    Example:

    >>> perfect = [Tried(0.0, seconds=1.0)] * 8
    >>> is_over([*perfect, Tried(0.1, 1.0)]), is_over([*perfect, Tried(0.1, 1.0), Tried(0.2, 1.0)])
    (False, True)
    """
    return len(tried) >= FEWEST_TIED and spread_of([one.loss for one in tried]) == 0.0


def best_bag(tried: Sequence[Tried], left: float, num_folds: int, *, or_search: bool = True) -> Bag | None:
    """The bag of most configurations that still fits, if it promises more than a search in these seconds.

    Args:
        tried: trials so far, the best first.
        left: seconds.
        num_folds: models of each configuration.
        or_search: whether the search could go on instead; else what fits is better than nothing.

    Example:

    >>> ten = [Tried(0.3 + 0.01 * number, seconds=1.0) for number in range(10)]
    >>> best_bag(ten, 8.0, num_folds=5) == Bag(top=1, seconds=5.0, gain=GAIN_OF_BAG[1, 1] * 0.025)
    True
    >>> best_bag(ten[:2], 8.0, num_folds=5), best_bag(ten, 3.0, num_folds=5)
    (None, None)
    """
    for bag in _bags(tried, num_folds):
        is_free = math.isinf(left) or not or_search
        if bag.repeats == 1 and bag.seconds <= left and (is_free or bag.gain > gain_of_search(tried, bag.seconds)):
            return bag
    return None


def _bags(tried: Sequence[Tried], num_folds: int) -> Iterable[Bag]:
    """All bags of some trials, the largest first."""
    spread = spread_of([one.loss for one in tried])
    for (top, repeats), gain in sorted(GAIN_OF_BAG.items(), reverse=True):
        if top <= len(tried):
            yield Bag(top, bag_seconds(tried, top, repeats * num_folds), gain * spread, repeats)


@dataclasses.dataclass(frozen=True)
class Made:
    """A bag that was made, of the best configurations as they were.

    Attributes:
        bag: as it was foretold.
        lead: by how much it was better than what was in hand, in the unit of losses; where it is used, it is in hand.
        is_used: whether it was better.
    """

    bag: Bag
    lead: float
    is_used: bool


def larger_bag(
    tried: Sequence[Tried], left: float, num_folds: int, made: Made, *, pace: float = 1.0, may_search: bool = True
) -> Bag | None:
    """A bag of more models than one that was made, which keeps those: what promises most of those that fit.

    Where the first one is not used, the larger one is expected to be better than that by what was measured, and so has
    to make up for what it lacks.

    Args:
        tried: trials so far, the best first; those of the bag among them.
        left: seconds.
        num_folds: models of each configuration and repeat.
        made: the bag that is there.
        pace: what bags have taken, by what was foretold of them.
        may_search: whether the search could go on instead.

    Example: other folds of the same configurations, in half the time that was foretold.

    >>> ten = [Tried(0.3 + 0.01 * number, seconds=1.0) for number in range(10)]
    >>> made = Made(Bag(3, 15.0, 0.01), lead=0.01, is_used=True)
    >>> larger_bag(ten, 8.0, 5, made, pace=0.5, may_search=False).seconds
    7.5
    """
    reached = GAIN_OF_BAG[made.bag.top, made.bag.repeats] * spread_of([one.loss for one in tried])
    known = bag_seconds(tried, made.bag.top, made.bag.repeats * num_folds)
    found = []
    for bag in _bags(tried, num_folds):
        if bag.top >= made.bag.top and bag.repeats >= made.bag.repeats and bag.seconds > known:
            seconds = pace * (bag.seconds - known)
            gain = bag.gain - reached + (0.0 if made.is_used else made.lead)
            if seconds <= left and gain > (gain_of_search(tried, seconds) if may_search else 0.0):
                found.append(dataclasses.replace(bag, seconds=seconds, gain=gain))
    return max(found, key=lambda bag: bag.gain, default=None)


def training_on(tried: Sequence[Tried], left: float, *, may_search: bool = True) -> TrainingOn | None:
    """The training on of most models that still fits, if it promises anything, and more than a search.

    Args:
        tried: trials so far, the best first.
        left: seconds.
        may_search: whether the search could go on instead.

    Example:

    >>> ten = [Tried(0.3 + 0.01 * number, seconds=1.0) for number in range(10)]
    >>> training_on(ten, 2.5, may_search=False).top, training_on(ten, 0.5, may_search=False)
    (2, None)
    """
    gain = GAIN_OF_TRAINING_ON * spread_of([one.loss for one in tried])
    for top in range(min(MOST_TRAINED_ON, len(tried)), 0, -1):
        # The dearest case, as for a bag: a step that is begun has to end in time.
        # At most as long as it has trained so far, and built three times: to train on, and for what comes of it.
        best = tried[:top]
        seconds = sum(one.seconds + 3 * one.build_seconds for one in best) + _compiling(best)
        if seconds <= left and gain > (gain_of_search(tried, seconds) if may_search else 0.0):
            return TrainingOn(top, seconds, gain)
    return None


def seconds_for_the_end(limit: float | None, combining: float = 0.0) -> float:
    """What is kept free of a limit for combining models and for writing the winner.

    Args:
        limit: seconds of the whole call; None: there is none.
        combining: seconds that it is known to take.
    """
    return 0.0 if limit is None else max(_LEAST_FOR_THE_END, _SHARE_FOR_THE_END * limit, combining)
