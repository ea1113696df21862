"""What to try next: the user's own configurations, then the sampler's, settled by the build function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from manyfit.core import seeds
from manyfit.core.errors import UsageError, explain
from manyfit.core.records import Observation, Values
from manyfit.oracles.book import Store
from manyfit.oracles.trial import TrialStatus
from manyfit.samplers.candidates import tried
from manyfit.space.encoding import Encoding

if TYPE_CHECKING:
    from manyfit.oracles.oracle import Oracle


class Proposals:
    """Asks the sampler of an oracle, or the oracle's own `populate_space`.

    Args:
        oracle: whose trials these become.
        is_overridden: whether a user's `populate_space` decides instead of a sampler.

    Attributes:
        settle: set by tuners: the values that the build function makes of a proposal.
        has_dependent_bounds: whether builds have shown that a bound depends on another value.
        is_idle: whether the user's `populate_space` has answered "ask again later".
    """

    def __init__(self, oracle: Oracle, *, is_overridden: bool) -> None:
        self._oracle = oracle
        self._is_overridden = is_overridden
        self._enqueued: list[Values] = []  # configurations of the user's, to be tried first
        self.settle: Callable[[Values], Values] | None = None
        self.has_dependent_bounds = False
        self.is_idle = False
        self._settled_away: list[Values] = []  # proposals that the build function turned into others

    def facts(self) -> dict[str, Any]:
        """What the store keeps of it."""
        return {
            "enqueued": self._enqueued,
            "settled_away": self._settled_away,
            "has_dependent_bounds": self.has_dependent_bounds,
        }

    def load(self, store: Store) -> None:
        """The inverse of `facts`."""
        self._enqueued = store.get("enqueued", [])
        self._settled_away = store.get("settled_away", [])
        self.has_dependent_bounds = store.get("has_dependent_bounds", False)

    def enqueue(self, values: Values) -> None:
        """Has a configuration tried before the sampler is asked.

        Args:
            values: hyperparameter names and values; missing ones get their defaults.

        Raises:
            UsageError: an unknown name, or a value outside of its range.
        """
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
        if self._oracle.book.store is not None:
            self._oracle.book.store.put(enqueued=self._enqueued)

    def next(self, count: int) -> list[Values]:
        """Up to `count` configurations; fewer when nothing new is left."""
        first: list[Values] = list(self._enqueued[:count])
        del self._enqueued[:count]
        return first + (self._ask(count - len(first)) if len(first) < count else [])

    def _ask(self, count: int) -> list[Values]:
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

    def _settled(self, values: Values, found: Sequence[Values]) -> Values | None:
        """The values that a proposal comes to; None where that was tried already.

        With ``hp.Int("b", 0, hp.Int("a", 1, 3))`` the space knows b up to 3, and the build function turns a=1, b=3 into
        a=1, b=1. The sampler keeps being told of what it proposed, or it would propose it again.
        """
        if self.settle is None or not self.has_dependent_bounds:
            return values
        settled = dict(self.settle(values))
        if settled == values:
            return values
        self._settled_away.append(dict(values))
        encoding = Encoding(self._oracle.hyperparameters)
        pending = [*self._oracle.book.pending(), *found]
        taken = tried(encoding, self._oracle.book.observations(), pending)
        return None if encoding.key(encoding.adapt(settled)) in taken else settled

    def _ask_again(self, count: int, found: Sequence[Values]) -> list[Values]:
        pending = [*self._oracle.book.pending(), *self._settled_away, *found]
        first = len(self._oracle.trials) + len(found)
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
        rng = seeds.generator(oracle.seed, "sampler", number)
        return oracle.sampler.propose(oracle.get_space(), self.history(), pending, count, rng)

    def history(self) -> list[Observation]:
        """What the sampler knows: trials of earlier searches where it can use them, then those of this one."""
        oracle = self._oracle
        uses_earlier = oracle.sampler is not None and oracle.sampler.uses_earlier
        return [*(oracle.earlier.observations if uses_earlier else ()), *oracle.book.observations()]
