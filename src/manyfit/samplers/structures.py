"""Which configurations need a program of their own, and what that costs: learned from the trials so far.

Nobody tells a sampler what the build function does with a value. What trials have cost tells: those of one structure
were trained by one program, so what they differ in needs no other; where a trial opened a structure, something that it
differed in did. From that each hyperparameter gets a rate, the share of its changes that opened a structure:

(1) rate = (w prior + sum of blame) / (w + changes),  w = 1/2
(2) P(a configuration opens one) = min over trials of 1 - prod (1 - rate of each hyperparameter that differs)
(3) blame = rate / P(a trial opens one), for what differed in a trial that did

(3) is the expectation step of a noisy or: of several that differed one has opened the structure, nobody knows which.

The prior is what is nearly always so: a fractional number (a learning rate, a dropout) is lifted into a program's
arguments, so its changes open nothing; but a rate of zero may mean that a layer is not there. That, whole numbers,
names and switches are assumed to open one each time, until they are seen not to. Wide programs, which train many
widths, show as changes that opened nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
from collections.abc import Iterable, Sequence

from manyfit.core.records import Observation, Value, Values
from manyfit.samplers.candidates import settled
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameter import HyperParameter

#: Seconds that a structure takes to compile, before anything was measured: 4 to 4.7 on two cores, for small models.
USUAL_COMPILE_SECONDS = 4.5

_OPENS, _IS_LIFTED = 1.0, 0.02  # priors of (1)
_PRIOR_WEIGHT = 0.5
_RATIONED = 0.5  # of a training: what opens a structure at less than that, expected, need not be thought about
_LEAST_RATE = 0.1  # nor what opens one so rarely, however short trainings are
_LEAST_OF_FRACTIONS = 0.5  # of fractional numbers: what is left to vary where all else stays as it is


@dataclasses.dataclass(frozen=True)
class Opened:
    """A structure that was compiled, or is about to be.

    Attributes:
        values: of its first trial.
        trials: that ended in it, in the order of their start.
        pending: values of the others.
    """

    values: Values
    trials: tuple[Observation, ...] = ()
    pending: tuple[Values, ...] = ()


class Structures:
    """What the trials so far tell of structures and their costs.

    Args:
        encoding: of the space.
        completed: the history; trials of earlier searches do not count, nor do those whose costs nobody measured.
        pending: values of trials without a result.
        compile_seconds: what compiling is expected to take, as long as no trial of this search has told.

    Attributes:
        rates: by the name of a hyperparameter, the share of its changes that opened a structure, eq. (1).
        compile_seconds: what opening one takes.
        training_seconds: what a trial takes in a program that is compiled; None: no trial has told.
        spent_seconds: compiling so far, that of pending trials included.
    """

    def __init__(
        self,
        encoding: Encoding,
        completed: Sequence[Observation],
        pending: Sequence[Values] = (),
        *,
        compile_seconds: float = USUAL_COMPILE_SECONDS,
    ) -> None:
        self._encoding = encoding
        fractions = [each.hyperparameter for each in encoding.dimensions if is_fractional(each.hyperparameter)]
        self._fractions = {each.name for each in fractions}
        self._with_zero = {each.name for each in fractions if each.contains(0.0)}
        own = [each for each in completed if not each.earlier]
        self._num_ended = len(own)
        self._timed = [each for each in own if each.costs is not None]
        self._seen = [(each, self._features(each.values)) for each in self._timed]
        self._counts: dict[str, list[float]] = {}  # blame for openings, and changes
        self._priors = _priors(encoding)
        self.rates = dict(self._priors)
        self._learn()
        self.compile_seconds = self._mean_compile_seconds(compile_seconds)
        self.training_seconds = _training_seconds(self._timed)
        self.opened = self._opened(own, pending)
        begun = [opened for opened in self.opened if not opened.trials]
        self.spent_seconds = math.fsum(self._paid()) + len(begun) * self.compile_seconds

    def _learn(self) -> None:
        """Goes through the trials in their order, each compared with those before it, eq. (1)."""
        before: list[tuple[str, dict[str, Value]]] = []
        for each, values in self._seen:
            structure = None if each.costs is None else each.costs.structure
            if structure is None:
                continue
            same = [earlier for known, earlier in before if known == structure]
            # What it shares a program with says what opens none; where it shares one with nobody, whatever was nearest
            # says what may have opened this one.
            nearest = self._nearest(values, same or [earlier for _, earlier in before])
            before.append((structure, values))
            if nearest is None:
                continue
            names = [name for name in differing(values, nearest) if name in self.rates]
            some = self._odds(values, nearest)
            for name in names:
                counts = self._counts.setdefault(name, [0.0, 0.0])
                counts[0] += 0.0 if same else self.rates[name] / some
                counts[1] += 1.0
            for name in names:
                openings, changes = self._counts[name]
                self.rates[name] = (_PRIOR_WEIGHT * self._priors[name] + openings) / (_PRIOR_WEIGHT + changes)

    def _features(self, values: Values) -> dict[str, Value]:
        """A configuration as today's space has it, and of its fractional numbers whether they are zero."""
        adapted = self._encoding.adapt(values)
        return {**adapted, **{_zero(name): adapted[name] == 0 for name in self._with_zero if name in adapted}}

    def _nearest(self, values: Values, others: Sequence[Values]) -> Values | None:
        return min(others, key=lambda other: self._odds(values, other), default=None)

    def _odds(self, one: Values, other: Values) -> float:
        """The probability that two configurations are of two structures."""
        # What is not a dimension has one value: it differs only where something else does.
        return 1.0 - math.prod(1.0 - self.rates.get(name, 0.0) for name in differing(one, other))

    def _paid(self) -> list[float]:
        """What each structure took to compile, and each trial that shares its program with nobody."""
        by_structure: dict[object, float] = {}
        for number, each in enumerate(self._timed):
            if each.costs is not None:
                by_structure.setdefault(each.costs.structure or number, each.costs.compile)
        return list(by_structure.values())

    def _mean_compile_seconds(self, expected: float) -> float:
        paid = self._paid()
        return statistics.fmean(paid) if paid else expected

    @functools.cached_property
    def rationed(self) -> tuple[str, ...]:
        """Names of the hyperparameters whose changes are dear, by what opening a structure takes beside a training.

        None where every trial pays anew, since then no choice of ours spares anything; nor where trials have ended and
        nobody has measured one.
        """
        if self._num_ended and all(each.costs is None or each.costs.structure is None for each in self._timed):
            return ()
        least = max(_RATIONED * (self.training_seconds or 0.0), _LEAST_RATE * self.compile_seconds)
        return tuple(
            name
            for name, rate in self.rates.items()
            if rate * self.compile_seconds > least and not (name in self._fractions and rate <= _LEAST_OF_FRACTIONS)
        )

    @property
    def num_compiled(self) -> int:
        """Programs so far, those of pending trials included: at least one, and no more than there are structures."""
        known = {each.costs.structure for each in self._timed if each.costs is not None}
        return max(1, len(known) + sum(not opened.trials for opened in self.opened))

    def chance_to_open(self, values: Values) -> float:
        """The probability that a configuration needs a structure that is not there yet, eq. (2)."""
        features = self._features(values)
        return min((self._odds(features, self._features(each.values)) for each in self.opened), default=1.0)

    def is_there(self, values: Values) -> bool:
        """Whether a configuration has all its dear values in common with a structure that is there."""
        return any(self.signature(values) == self.signature(opened.values) for opened in self.opened)

    def signature(self, values: Values) -> frozenset[tuple[str, Value]]:
        """The dear values of a configuration: what tells structures apart, as far as is known."""
        features = self._features(values)
        return frozenset((name, features[name]) for name in self.rationed if name in features)

    def _opened(self, own: Sequence[Observation], pending: Sequence[Values]) -> list[Opened]:
        ended: dict[frozenset[tuple[str, Value]], list[Observation]] = {}
        running: dict[frozenset[tuple[str, Value]], list[Values]] = {}
        first: dict[frozenset[tuple[str, Value]], Values] = {}
        for each, (values, _) in zip(own, settled(self._encoding, own), strict=True):
            ended.setdefault(self.signature(values), []).append(each)
            first.setdefault(self.signature(values), values)
        for each_values in pending:
            values = self._encoding.adapt(each_values)
            running.setdefault(self.signature(values), []).append(values)
            first.setdefault(self.signature(values), values)
        return [Opened(first[key], tuple(ended.get(key, ())), tuple(running.get(key, ()))) for key in first]


def differing(one: Values, other: Values) -> list[str]:
    """Names of which two configurations have different values, or which one of them lacks.

    Example:

    >>> differing({"rate": 0.1, "layers": 2}, {"rate": 0.1, "layers": 3, "bias": True})
    ['layers', 'bias']
    """
    return [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]


def _priors(encoding: Encoding) -> dict[str, float]:
    """By name, how likely a change is to open a structure; nothing of what never changes."""
    priors: dict[str, float] = {}
    for dimension in encoding.dimensions:
        if is_fractional(dimension.hyperparameter) and dimension.hyperparameter.contains(0.0):
            priors[_zero(dimension.name)] = _OPENS
        prior = _IS_LIFTED if is_fractional(dimension.hyperparameter) else _OPENS
        priors[dimension.name] = max(prior, priors.get(dimension.name, 0.0))
    return priors


def _zero(name: str) -> str:
    """What tells whether a fractional number is zero, among the features of a configuration."""
    return f"{name} is 0"


def is_fractional(hyperparameter: HyperParameter) -> bool:
    """Whether its values are fractional numbers."""
    return isinstance(hyperparameter.default, float)


def _training_seconds(timed: Iterable[Observation]) -> float | None:
    """Build, epochs and kept predictions of a trial in full: the median, with as many epochs as the longest had."""
    known = [each for each in timed if each.epochs]
    epochs = max((each.epochs or 0 for each in known), default=0)
    return statistics.median(seconds_of(each, epochs=epochs) for each in known) if known else None


def seconds_of(trial: Observation, otherwise: float = 0.0, *, epochs: int | None = None) -> float:
    """What a trial took in a compiled program.

    Args:
        trial: that ended.
        otherwise: the answer where nobody measured it.
        epochs: as if it had trained for so many; None: for those that it did.
    """
    if trial.costs is None:
        return otherwise
    epochs = trial.epochs or 0 if epochs is None else epochs
    return trial.costs.build + epochs * trial.costs.epoch + trial.costs.predict
