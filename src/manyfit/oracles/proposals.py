"""What to try next: the user's own configurations, then the sampler's, settled by the build function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.environment import one_thread
from manyfit.core.errors import UsageError, explain
from manyfit.core.lifecycle import TrialStatus
from manyfit.core.records import Observation, Values
from manyfit.oracles.book import TrialBook
from manyfit.oracles.commits import Store
from manyfit.oracles.warm_start import EarlierTrials
from manyfit.samplers.base import Sampler
from manyfit.samplers.beliefs import Held, usual_beliefs
from manyfit.samplers.candidates import tried
from manyfit.samplers.costed import Moment, minding_costs
from manyfit.samplers.structures import USUAL_COMPILE_SECONDS
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


class Proposer(Protocol):
    """What the queue needs of its oracle. Read at every call: users set these attributes between searches."""

    hyperparameters: HyperParameters
    sampler: Sampler | None
    seed: int
    book: TrialBook
    earlier: EarlierTrials

    def populate_space(self, trial_id: str) -> Mapping[str, Any]:
        """KerasTuner's question what to try in a trial."""

    def new_id(self, number: int) -> str:
        """The id of the trial of this number."""


class ProposalQueue:
    """Configurations in the order in which they are to be tried.

    The user's own come first, then those of the sampler or, where the user has written one, of `populate_space`. What
    the build function makes of a proposal may be another configuration (a bound that depends on another value), one
    that was tried already even; so proposals are *settled* by a build before they become trials.

    Args:
        oracle: whose trials these become.
        is_overridden: whether a user's `populate_space` decides instead of a sampler.

    Attributes:
        settle: set by tuners: the values that the build function makes of a proposal.
        has_dependent_bounds: whether builds have shown that a bound depends on another value.
        is_idle: whether the user's `populate_space` has answered "ask again later".
        is_exhausted: whether there was nothing new to try when it was asked last.
    """

    def __init__(self, oracle: Proposer, *, is_overridden: bool) -> None:
        self._oracle = oracle
        self._is_overridden = is_overridden
        self._enqueued: list[Values] = []  # configurations of the user's, to be tried first
        self.settle: Callable[[Values], Values] | None = None
        self.has_dependent_bounds = False
        self.is_idle = False
        self.is_exhausted = False
        self._settled_away: list[Values] = []  # proposals that the build function turned into others
        self._moment: Moment | None = None  # what the latest proposals saw of time, where they mind it
        self._clock: Clock | None = None  # by which proposals mind what they cost
        self._holds_beliefs = False
        self._compile_seconds = USUAL_COMPILE_SECONDS

    def mind_costs(
        self, clock: Clock | None, *, beliefs: bool = True, compile_seconds: float = USUAL_COMPILE_SECONDS
    ) -> None:
        """Has proposals count what they cost from now on, whichever sampler makes them.

        They begin with the defaults, stay in structures that are compiled, and open another where it earns its seconds
        (`samplers.costed`). A `populate_space` of the user's is not touched.

        Args:
            clock: of the search; None: as before, costs count no more, nor does the table of beliefs.
            beliefs: whether usual names begin with, and first look near, the values of `samplers.beliefs`.
            compile_seconds: what a structure is expected to take to compile, until a trial of this search tells.
        """
        self._clock, self._holds_beliefs, self._compile_seconds = clock, beliefs, compile_seconds

    @property
    def beliefs(self) -> list[Held]:
        """What proposals believe of the space as it is known now, for people: where good values are expected, and why.

        Nothing before `mind_costs`, and where beliefs are turned off.
        """
        sampler = self._oracle.sampler
        if self._clock is None or not self._holds_beliefs or sampler is None:
            return []
        return usual_beliefs(self._oracle.hyperparameters, sampler.beliefs)

    def facts(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "enqueued": list(self._enqueued),
            "settled_away": list(self._settled_away),
            "has_dependent_bounds": self.has_dependent_bounds,
        }

    def load(self, store: Store) -> None:
        """The inverse of `facts`."""
        self._enqueued = [dict(values) for values in store.get("enqueued", [])]
        self._settled_away = store.get("settled_away", [])
        self.has_dependent_bounds = store.get("has_dependent_bounds", False)
        self.is_exhausted = False

    def enqueue(self, values: Values) -> None:
        """Has a configuration tried before the sampler is asked.

        Args:
            values: hyperparameter names and values; missing ones get their defaults.

        Raises:
            UsageError: an unknown name, or a value outside of its range.
        """
        self._oracle.book.put(**self.add_first(values))

    def add_first(self, values: Values) -> dict[str, Any]:
        """See `enqueue`; what it has changed is for the caller to commit.

        Raises:
            UsageError: likewise.
        """
        # `adapt` clips and completes; what it had to change is what the user has to be told.
        encoding = Encoding(self._oracle.hyperparameters)
        complete = encoding.adapt(values)
        changed = [name for name, value in values.items() if complete.get(name) != value]
        if changed:
            names = ", ".join(hp.name for hp in self._oracle.hyperparameters.space)
            raise UsageError(
                explain(
                    "enqueue(values)",
                    f"{', '.join(f'{name}={values[name]!r}' for name in changed)}",
                    f"active hyperparameters within their ranges ({names})",
                    "See tuner.search_space_summary().",
                )
            )
        self._enqueued.append(complete)
        self.is_exhausted = False  # there is something to try, whatever the sampler has said
        return {"enqueued": list(self._enqueued)}

    def begin_with(self, starts: Sequence[Values]) -> None:
        """Has configurations tried before the sampler is asked, unless they are waiting already.

        Args:
            starts: as `enqueue` takes them.
        """
        encoding = Encoding(self._oracle.hyperparameters)
        for values in starts:
            if encoding.adapt(values) not in self._enqueued:
                self.enqueue(values)

    def next(self, count: int) -> list[Values]:
        """Up to `count` configurations; fewer when nothing new is left, or nothing that fits into the time."""
        self._moment = None
        first: list[Values] = list(self._enqueued[:count])
        del self._enqueued[:count]
        return first + (self._ask(count - len(first)) if len(first) < count else [])

    def _ask(self, count: int) -> list[Values]:
        # In rounds, since a proposal may settle to something that was tried, and the sampler then owes another one. It
        # ends: what was settled away counts as pending, so no proposal comes twice.
        found: list[Values] = []
        while len(found) < count:
            answers = self._ask_again(count - len(found), found)
            if not answers:
                break
            for values in answers:
                settled = self._settled(values, found)
                if settled is not None:
                    found.append(settled)
        return found

    def settled(self, values: Values) -> Values:
        """What the build function makes of values that do not come from a sampler."""
        return values if self.settle is None or not self.has_dependent_bounds else dict(self.settle(values))

    def _settled(self, values: Values, found: Sequence[Values]) -> Values | None:
        """The values that a proposal comes to; None where that was tried already.

        With ``hp.Int("b", 0, hp.Int("a", 1, 3))`` the space knows b up to 3, and the build function turns a=1, b=3 into
        a=1, b=1. The sampler keeps being told of what it proposed, or it would propose it again.
        """
        settled = self.settled(values)
        if settled == values:
            return values
        self._settled_away.append(dict(values))
        encoding = Encoding(self._oracle.hyperparameters)
        pending = [*self._oracle.book.pending(), *found]
        taken = tried(encoding, self._oracle.book.observations(), pending)
        return None if encoding.key(encoding.adapt(settled)) in taken else settled

    def _ask_again(self, count: int, found: Sequence[Values]) -> list[Values]:
        pending = [*self._oracle.book.pending(), *self._settled_away, *found]
        # A sampler that learns is asked for a batch: it spreads its proposals. Others are asked for one at a time, each
        # with the generator of its own trial, so that they do not depend on how many trials are started together.
        first = len(self._oracle.book.trials) + len(found)
        if self._is_overridden or (self._oracle.sampler and not self._oracle.sampler.learns):
            return self._propose_one_by_one(count, first, pending)
        return list(self.of_sampler(count, number=first, pending=pending))

    def _propose_one_by_one(self, count: int, first: int, pending: list[Values]) -> list[Values]:
        proposals: list[Values] = []
        self.is_idle = False
        for number in range(first, first + count):
            if self._is_overridden:
                reply = self._oracle.populate_space(self._oracle.new_id(number))
                self.is_idle = reply["status"] == TrialStatus.IDLE
                answer = [reply["values"] or {}] if reply["status"] == TrialStatus.RUNNING else []
            else:
                answer = list(self.of_sampler(1, number=number, pending=pending + proposals))
            if not answer:
                break
            proposals += answer
        return proposals

    def of_sampler(self, count: int, *, number: int, pending: Sequence[Values]) -> Sequence[Values]:
        """The sampler's answer, for the trial of this number."""
        oracle = self._oracle
        if oracle.sampler is None:
            raise NotImplementedError(f"{type(oracle).__name__} has no sampler: override populate_space.")
        # By the trial's number and not by a running generator: after a restart the same trial gets the same values.
        rng = seeds.generator(oracle.seed, "sampler", number)
        space, sampler = oracle.hyperparameters.copy(), oracle.sampler
        if self._clock is not None:
            self._moment = self._now(self._clock)
            sampler = minding_costs(sampler, space, self._moment, holds_beliefs=self._holds_beliefs)
        with one_thread():
            return sampler.propose(space, self.history(), pending, count, rng)

    def moment_facts(self) -> dict[str, float] | None:
        """What the latest proposals saw of time, as the store keeps it with their trials."""
        return None if self._moment is None else self._moment.facts()

    def _now(self, clock: Clock) -> Moment | None:
        if not clock.is_limited:
            return None
        left = clock.left()
        return Moment(clock.spent() + left, left, self._compile_seconds)

    def history(self) -> list[Observation]:
        """What the sampler knows: trials of earlier searches where it can use them, then those of this one."""
        oracle = self._oracle
        uses_earlier = oracle.sampler is not None and oracle.sampler.uses_earlier
        return [*(oracle.earlier.observations if uses_earlier else ()), *oracle.book.observations()]
