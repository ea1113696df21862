"""A sampler that minds the seconds: it keeps another one within the programs that are there, and opens few.

A new structure takes as long to compile as dozens of epochs, so where a search has minutes, most of its trials should
train in programs that are there. The rule:

1. begin with the defaults, where beliefs say otherwise with what they say; a first batch beside it is a scrambled Sobol
   sequence through the beliefs, in the same structure;
2. otherwise the inner sampler proposes within structures that are there, the one first whose next trial promises most;
3. at most one proposal of a batch opens a structure, and only if (3) of `stats.opening` holds: it is expected to gain
   more than the resident ones would in the seconds that it takes;
4. compilations may take half of the time; none is begun in the last third, nor one that does not fit;
5. each opening is followed by one, later by two batches in structures that are there, its own first.

Where all trials cost the same, and where there is no limit of time, it is the inner sampler and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import qmc

from manyfit.core.records import Ending, Observation, Value, Values
from manyfit.samplers.base import Belief, Sampler
from manyfit.samplers.beliefs import Prior, first_values, usual_beliefs
from manyfit.samplers.candidates import tried
from manyfit.samplers.evolution import mutate
from manyfit.samplers.gp.sampler import LogBelief
from manyfit.samplers.structures import USUAL_COMPILE_SECONDS, Opened, Structures, seconds_of
from manyfit.space.categorical import Fixed
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameter import HyperParameter
from manyfit.space.hyperparameters import HyperParameters
from manyfit.stats.opening import StructureGains, gain_per_second, seconds_to_earn

_COMPILE_SHARE = 0.5  # of the time of a search: benchmarks/results/costs.md
_LAST_SHARE = 1 / 3  # of the time of a search, in which nothing is opened
_LONGEST_VISIT = 2  # batches: likewise
_LEAST_GAIN = 0.01  # of the best loss, over all the time that is left
_NUM_ASKED = 16  # proposals of a sampler that knows no beliefs, for each that these choose
_FULL_BELIEF = 10  # trials until beliefs begin to fade, or are over where the sampler learns
_LEAST_BATCH = 2  # trials: one says nothing of a structure
_LARGE_BATCH = 4  # proposals, of which two can be spared for what no model has a say in
_DIVERGES = 2  # trials that diverge until their structure is held to be the reason


@dataclasses.dataclass(frozen=True)
class Moment:
    """What a proposal saw of time. It is recorded with the trial, since no history tells it.

    Attributes:
        seconds: of the whole search.
        seconds_left: of these.
        compile_seconds: what a structure is expected to take, as long as no trial of this search has told.
    """

    seconds: float
    seconds_left: float
    compile_seconds: float = USUAL_COMPILE_SECONDS

    def facts(self) -> dict[str, float]:
        """As the store keeps it; only where there is a limit of time does it exist."""
        return dataclasses.asdict(self)


def minding_costs(
    inner: Sampler, space: HyperParameters, moment: Moment | None, *, holds_beliefs: bool = True
) -> CostedSampler:
    """A sampler as `fit` uses it: defaults and beliefs first, and mindful of what its proposals cost.

    Args:
        inner: of the search.
        space: as known so far.
        moment: what is known of time; None: there is no limit.
        holds_beliefs: whether the table of usual hyperparameters counts (`samplers.beliefs`).
    """
    held = usual_beliefs(space, inner.beliefs) if holds_beliefs else []
    return CostedSampler(inner, moment, beliefs=[each.belief for each in held], first=first_values(space, held))


class CostedSampler(Sampler):
    """Keeps a sampler within structures that are compiled, and opens others where they earn their seconds.

    A pure function of the recorded history, and of the moment, which is recorded, too.

    Args:
        inner: proposes; any sampler.
        moment: what is known of time; None: there is no limit, and nothing is rationed.
        beliefs: where good values are expected, besides the beliefs of the inner sampler.
        first: what to try first, instead of the defaults, as far as the space has it.

    Example: after a trial of one structure, with little time left, proposals have that structure.

    >>> from manyfit.core.costs import Costs
    >>> from manyfit.core.records import Ending
    >>> from manyfit.samplers.non_adaptive import RandomSampler
    >>> space = HyperParameters()
    >>> _ = space.Int("layers", 1, 9), space.Float("rate", 1e-4, 1e-1, sampling="log")
    >>> costs = Costs("a", compile=4.0, epoch=0.1)
    >>> history = [Observation("0", {"layers": 3, "rate": 1e-3}, Ending.COMPLETED, (0.5,), epochs=5, costs=costs)]
    >>> sampler = CostedSampler(RandomSampler(), Moment(seconds=60, seconds_left=15))
    >>> proposals = sampler.propose(space, history, [], 4, np.random.default_rng(0))
    >>> [values["layers"] for values in proposals]
    [3, 3, 3, 3]
    """

    def __init__(
        self,
        inner: Sampler,
        moment: Moment | None = None,
        *,
        beliefs: Sequence[Belief] = (),
        first: Mapping[str, Value] | None = None,
    ) -> None:
        self.inner, self.moment, self.beliefs = inner, moment, tuple(beliefs)
        self.first = dict(first or {})
        self.learns, self.uses_earlier = inner.learns, inner.uses_earlier

    def settings(self) -> dict[str, Any]:
        """The inner sampler's, and what it is told."""
        return {
            "name": type(self).__name__,
            "inner": self.inner.settings(),
            "moment": None if self.moment is None else self.moment.facts(),
            "beliefs": [dataclasses.asdict(each) for each in self.beliefs],
            "first": self.first,
        }

    def with_beliefs(self, beliefs: Sequence[Belief]) -> CostedSampler:
        """See `Sampler.with_beliefs`."""
        return CostedSampler(self.inner, self.moment, beliefs=(*self.beliefs, *beliefs), first=self.first)

    def rank(self, space: HyperParameters, completed: Sequence[Observation]) -> list[Observation]:
        """As the inner sampler ranks them."""
        return self.inner.rank(space, completed)

    def propose(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """Up to `count` new configurations; see `Sampler.propose`.

        An empty list also means that what is left to try does not fit into the time that is left.
        """
        if self.moment is None or math.isinf(self.moment.seconds_left):
            return self._unrationed(space, completed, pending, count, rng)
        rationing = _Rationing(self, self.moment, space, completed, pending, rng)
        if not rationing.structures.rationed:
            return self._unrationed(space, completed, pending, count, rng)
        return rationing.propose(count)

    def _unrationed(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        first = self.begin(space, completed, pending)[:count]
        if len(first) == count:
            return first
        return first + self.ask(space, completed, [*pending, *first], count - len(first), rng)

    def begin(
        self, space: HyperParameters, completed: Sequence[Observation], pending: Sequence[Values]
    ) -> list[dict[str, Value]]:
        """The first configuration of a search, where it is known; nothing later."""
        if not self.first or pending or any(not each.earlier for each in completed):
            return []
        return [Encoding(space).adapt(self.first)]

    def ask(
        self,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        count: int,
        rng: np.random.Generator,
    ) -> list[dict[str, Value]]:
        """What the inner sampler proposes, steered by the beliefs."""
        # What names tell is for the beginning; one that learns then knows better. What its user believes it has itself.
        knows_better = self.learns and len(completed) >= _FULL_BELIEF
        if not self.beliefs or knows_better:
            return self.inner.propose(space, completed, pending, count, rng)
        steered = self.inner.with_beliefs(self.beliefs)
        if steered is not self.inner:
            return steered.propose(space, completed, pending, count, rng)
        # It knows no beliefs: of several proposals for each that is wanted those are likely that are believed in.
        offered = self.inner.propose(space, completed, pending, _NUM_ASKED * count, rng)
        encoding = Encoding(space)
        if len(offered) <= count or not len(encoding):
            return offered[:count]
        believed = LogBelief(encoding, self.beliefs, max(len(completed) + len(pending), _FULL_BELIEF))
        odds = believed(encoding.encode_many(offered))
        # Gumbel noise on logarithms: a draw without replacement, each as likely as its weight (Kool et al. 2019).
        chosen = np.argsort(-(odds + rng.gumbel(size=len(offered))), kind="stable")[:count]
        return [offered[i] for i in chosen]


class _Rationing:
    """One call of `propose` where structures are dear.

    Args:
        sampler: whose call it is.
        moment: what is known of time.
        space: the space as known so far.
        completed: the history.
        pending: values of trials without a result.
        rng: the source of randomness.

    Attributes:
        structures: what the history tells of structures; those of proposals just found among them.
    """

    def __init__(
        self,
        sampler: CostedSampler,
        moment: Moment,
        space: HyperParameters,
        completed: Sequence[Observation],
        pending: Sequence[Values],
        rng: np.random.Generator,
    ) -> None:
        self._sampler, self._moment, self._space, self._rng = sampler, moment, space, rng
        self._completed, self._pending = completed, pending
        self._own = [each for each in completed if not each.earlier]
        self._encoding = Encoding(space)
        self._found: list[dict[str, Value]] = []
        self.structures = self._learned()

    def _learned(self) -> Structures:
        pending = [*self._pending, *self._found]
        expected = self._moment.compile_seconds
        return Structures(self._encoding, self._completed, pending, compile_seconds=expected)

    def propose(self, count: int) -> list[dict[str, Value]]:
        """Up to `count` proposals, at most one of which opens a structure."""
        is_first = not self._own and not self._pending
        self._take(self._sampler.begin(self._space, self._completed, self._pending))
        if not self._usable():
            self._take(self._anywhere())
        elif not self._found and self._may_open(count):
            self._take([values for values in self._anywhere() if self._earns_its_seconds(values, count)])
        if is_first and len(self._found) < count:
            self._take(self._spread(self._usable()[0], count - len(self._found)))
        elif self._sampler.learns and count >= _LARGE_BATCH:
            self._take(self._varied(self._best_first(count)[0]))
        while len(self._found) < count:
            missing = count - len(self._found)
            inside = (self._inside(opened, missing) for opened in self._best_first(count))
            # Where nothing is left inside, anything that fits is better than nothing.
            further = next((proposals for proposals in inside if proposals), None) or self._anywhere()
            if not further:
                break
            self._take(further)
        return self._found[:count]

    def _take(self, proposals: Sequence[dict[str, Value]]) -> None:
        if proposals:
            self._found += proposals
            self.structures = self._learned()

    def _usable(self) -> list[Opened]:
        """Structures that are there, and in which trials have a score or may get one."""
        return [opened for opened in self.structures.opened if not has_failed(opened)]

    # Opening another -------------------------------------------------------------------------------------------

    def _may_open(self, count: int) -> bool:
        """Whether a further structure is to be thought about: by time, and by the visit."""
        structures, moment = self.structures, self._moment
        newest = structures.opened[-1]
        if not newest.trials or moment.seconds_left < _LAST_SHARE * moment.seconds:
            return False
        first = next(i for i, each in enumerate(self._own) if each is newest.trials[0])
        batches = min(1 << (structures.num_compiled - 1), _LONGEST_VISIT)
        return len(self._own) - first + len(self._pending) >= max(count, _LEAST_BATCH) * batches

    def _anywhere(self) -> list[dict[str, Value]]:
        """What the inner sampler likes best in the whole space; nothing where that does not fit into the time."""
        pending = [*self._pending, *self._found]
        proposals = self._sampler.ask(self._space, self._completed, pending, 1, self._rng)
        return [values for values in proposals if not self._own or self._fits(values)]

    def _opening_seconds(self, values: Values) -> float:
        return self.structures.chance_to_open(values) * self.structures.compile_seconds

    def _fits(self, values: Values) -> bool:
        return self._opening_seconds(values) + (self.structures.training_seconds or 0.0) <= self._moment.seconds_left

    def _earns_its_seconds(self, values: Values, count: int) -> bool:
        """(3) of `stats.opening`, within what may be compiled; what is there already earns whatever it gives."""
        structures, left, opening = self.structures, self._moment.seconds_left, self._opening_seconds(values)
        if structures.is_there(values):
            return True
        if structures.spent_seconds + opening > _COMPILE_SHARE * self._moment.seconds:
            return False
        training = structures.training_seconds or 0.0
        recent = 2 * max(count, _LEAST_BATCH)
        losses = [each.loss for each in self._own]
        best = min(losses, default=math.inf)
        least = _LEAST_GAIN * abs(best) / left if math.isfinite(best) else 0.0
        rate = gain_per_second(losses, [seconds_of(each, training) for each in self._own], recent, least=least)
        return bool(self._gains().of_new > rate * seconds_to_earn(left, opening, training))

    def _gains(self) -> StructureGains:
        return StructureGains([[each.loss for each in opened.trials] for opened in self.structures.opened])

    # Within those that are there ---------------------------------------------------------------------------------

    def _best_first(self, count: int) -> list[Opened]:
        """Structures that are there: the newest until it had a batch, then those whose next trial promises most."""
        gains = dict(zip(map(id, self.structures.opened), self._gains().of_opened, strict=True))
        usable = self._usable()

        def promise(opened: Opened) -> float:
            num_trials = len(opened.trials) + len(opened.pending)
            is_new = opened is usable[-1] and num_trials < max(count, _LEAST_BATCH)
            return math.inf if is_new else gains[id(opened)]

        return sorted(usable, key=lambda opened: -promise(opened))

    def _inside(self, opened: Opened, count: int) -> list[dict[str, Value]]:
        """What the inner sampler proposes in one structure."""
        there = [values for values in self._within(opened, count) if self.structures.is_there(values)]
        if there:
            return there
        # All of them had a dear value after all: a dropout of zero, say, which is where models like to look. So a few
        # are drawn; where none of those is new, there is hardly anything left.
        encoding = Encoding(self._space_of(opened))
        if not len(encoding):
            return []
        prior = Prior(encoding, self._sampler.beliefs)
        return self._new(encoding, prior.through(self._rng.random((_NUM_ASKED, len(encoding)))))[:count]

    def _within(self, opened: Opened, count: int) -> list[dict[str, Value]]:
        """What the inner sampler proposes where the dear hyperparameters have the values of a structure.

        Trials with other values are to it what trials of earlier searches are: they say where to look, how much is
        learned from the data, and none of them was tried there.
        """
        dear = self._dear(opened)

        def is_here(values: Values) -> bool:
            adapted = self._encoding.adapt(values)
            return all(adapted.get(name) == value for name, value in dear.items())

        here = [each for each in self._own if is_here(each.values)]
        known = set(map(id, here))
        others = [each for each in self._completed if id(each) not in known] if self._sampler.uses_earlier else []
        history = [*(dataclasses.replace(each, earlier=True) for each in others), *here]
        pending = [values for values in (*self._pending, *self._found) if is_here(values)]
        return self._sampler.ask(self._space_of(opened), history, pending, count, self._rng)

    def _dear(self, opened: Opened) -> dict[str, Value]:
        return {name: opened.values[name] for name in self.structures.rationed if name in opened.values}

    def _space_of(self, opened: Opened) -> HyperParameters:
        return fixed_at(self._space, self._dear(opened), defaults=opened.values)

    def _spread(self, opened: Opened, count: int) -> list[dict[str, Value]]:
        """The first batch: a scrambled Sobol sequence through the beliefs, in one structure."""
        encoding = Encoding(self._space_of(opened))
        if not 0 < len(encoding) <= qmc.Sobol.MAXDIM:
            return []
        sequence = qmc.Sobol(len(encoding), rng=self._rng)
        points = sequence.random_base2(max(1, math.ceil(math.log2(count + 1))))
        return self._new(encoding, Prior(encoding, self._sampler.beliefs).through(points))[:count]

    def _varied(self, opened: Opened) -> list[dict[str, Value]]:
        """Two of a large batch that no model has a say in: the best trial with a step, and a draw from the beliefs."""
        encoding = Encoding(self._space_of(opened))
        scored = [each for each in opened.trials if math.isfinite(each.loss)]
        if not len(encoding) or not scored:
            return []
        best = encoding.encode(encoding.adapt(min(scored, key=lambda each: each.loss).values))
        anywhere = Prior(encoding, self._sampler.beliefs).through(self._rng.random((1, len(encoding))))
        return self._new(encoding, np.concatenate([[mutate(encoding, best, self._rng)], anywhere]))

    def _new(self, encoding: Encoding, points: np.ndarray) -> list[dict[str, Value]]:
        """The configurations at points, less those that were tried, or would open a structure."""
        taken = tried(self._encoding, self._completed, [*self._pending, *self._found])
        found: list[dict[str, Value]] = []
        for values in encoding.decode_many(points):
            key = self._encoding.key(values)
            if key not in taken and self.structures.is_there(values):
                taken.add(key)
                found.append(values)
        return found


def has_failed(opened: Opened) -> bool:
    """Whether a structure gave no score, and will not: it failed once, or diverged twice."""
    if opened.pending or any(math.isfinite(each.loss) for each in opened.trials):
        return False
    num_diverged = sum(each.ending is Ending.DIVERGED for each in opened.trials)
    return len(opened.trials) > num_diverged or num_diverged >= _DIVERGES


def fixed_at(
    space: HyperParameters, values: Mapping[str, Value], *, defaults: Mapping[str, Value] | None = None
) -> HyperParameters:
    """A space in which some hyperparameters have one value.

    Args:
        space: the whole one.
        values: the hyperparameters that have one value.
        defaults: of the others, so that a sampler that begins with defaults does not begin anew in each structure.

    Example:

    >>> space = HyperParameters()
    >>> _ = space.Int("layers", 1, 9), space.Float("rate", 0.0, 1.0)
    >>> encoding = Encoding(fixed_at(space, {"layers": 3}, defaults={"rate": 0.25}))
    >>> encoding.decode([0.5]), encoding.defaults()
    ({'layers': 3, 'rate': 0.5}, {'layers': 3, 'rate': 0.25})
    """
    narrow = HyperParameters()
    parts: list[HyperParameter] = []
    for each in space.space:
        default = (defaults or {}).get(each.name)
        if each.name in values:
            each = Fixed(each.name, values[each.name], each.conditions)
        elif default is not None and each.num_values != 1 and each.contains(default):
            each = type(each).from_config({**each.get_config(), "default": default})
        parts.append(each)
    narrow.merge(parts)
    return narrow
