"""What `fit` is asked: the wishes of its caller, what the tuner can do, and what is refused before anything trains."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import ArrayLike

from manyfit.core.checks import seconds_or_none, whole_number_or_none
from manyfit.core.clock import Clock
from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.parts import RowParts
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.fitting.describing import FittedSearch
from manyfit.fitting.holdout import HeldOut, hold_out
from manyfit.fitting.standing import Standing
from manyfit.oracles import Oracle, endings
from manyfit.oracles.checks import UntypedLimit
from manyfit.report.confirmation import Confirmation


class FittingTuner(FittedSearch, Protocol):
    """What `fit` asks of a tuner. These are methods that users call, and may have overridden."""

    standing: Standing | None
    row_parts: RowParts | None

    @property
    def ended_by(self) -> endings.SearchEnd | None:
        """Why the latest search ended."""

    def limited(self, clock: Clock) -> contextlib.AbstractContextManager[None]:
        """Within it every step ends in time for a clock."""

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Runs trials."""

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials."""

    def ensemble(self, *, verbose: Any = None, method: str = ..., settings: EnsembleSettings | None = ...) -> Ensemble:
        """Combines what the search has made."""

    # No method: groups and the order of time are handed on where there are any.
    @property
    def confirm(self) -> Callable[..., Confirmation]:
        """Runs finalists on fresh seeds."""


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the caller of `fit` asked for beside the call of `model.fit`: see `Tuner.fit`.

    Raises:
        UsageError: `max_seconds` not above 0, or `max_trials` below 1.
    """

    max_seconds: float | None = None
    max_trials: int | None = None
    groups: ArrayLike | None = None
    time_ordered: bool = False
    beliefs: bool = True

    def __post_init__(self) -> None:
        seconds_or_none("fit(max_seconds=...)", self.max_seconds)
        whole_number_or_none("fit(max_trials=...)", self.max_trials, instead="Leave it out for no limit.")


@dataclasses.dataclass(frozen=True)
class CanDo:
    """What a tuner can do beside searching.

    Attributes:
        trains: whether training is Manyfit's; what a user's own code trains is searched and combined, and no more.
        in_epochs: whether a training has a number of epochs, which is chosen where the caller says nothing.
        in_parts: whether its trainers can be given a part of the rows.
        bag: the tuner's method; None: it has none.
        retrain: the tuner's method; None: it has none.
        go_on: trains the best models of the search further: `go_on(hand, top, max_seconds=, settings=)`; None: no.
        quickly: a context in which models are built whose weights are loaded: what draws them first need not be dear.
    """

    trains: bool
    in_epochs: bool
    in_parts: bool = False
    bag: Callable[..., Ensemble] | None = None
    retrain: Callable[..., list[Any]] | None = None
    go_on: Callable[..., Ensemble] | None = None
    quickly: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


# Limits ----------------------------------------------------------------------------------------------------------


def seconds_of(wishes: Wishes, oracle: Oracle) -> float | None:
    """The smaller one of the limits of time of constructor and call."""
    known = [each for each in (wishes.max_seconds, oracle.max_seconds) if each is not None]
    return min(known, default=None)


def trials_of(wishes: Wishes, oracle: Oracle) -> int | None:
    """Trials at most: the smaller one of the limits that somebody typed."""
    own = None if isinstance(oracle.max_trials, UntypedLimit) else oracle.max_trials
    return min((each for each in (own, wishes.max_trials) if each is not None), default=None)


# Before anything is trained --------------------------------------------------------------------------------------


def check_objective(oracle: Oracle) -> None:
    """Refuses several objectives.

    Raises:
        UsageError: there are several.
    """
    if len(oracle.objective.terms) > 1:
        names = [term.names[0] for term in oracle.objective.terms]
        got = f"the objectives {', '.join(names)}, none of which is traded for another"
        instead = f'Type kt.Search(build, "{names[0]}", ...), or search() for the models that nothing else beats.'
        raise UsageError(explain("fit()", got, "one objective: there is one winner", instead))


def check_limits(wishes: Wishes, oracle: Oracle, say: Callable[[str], None]) -> None:
    """Refuses a call that nothing would end, and says which of two limits holds.

    Raises:
        UsageError: no limit at all.
    """
    typed = not isinstance(oracle.max_trials, UntypedLimit)
    seconds = seconds_of(wishes, oracle)
    if not typed and all(limit is None for limit in (wishes.max_trials, seconds, oracle.max_total_epochs)):
        got, allowed = "no limit", "max_seconds=, max_trials= or both"
        raise UsageError(explain("fit()", got, allowed, "Type fit(x, y, max_seconds=600)."))
    if None not in (wishes.max_seconds, oracle.max_seconds) and wishes.max_seconds != oracle.max_seconds:
        say(f"fit: two limits of time, {wishes.max_seconds:g} s here and {oracle.max_seconds:g} s where the "
            f"tuner was made: {seconds:g} s hold.")  # fmt: skip


def rows_held_out(call: Call, wishes: Wishes, can: CanDo, oracle: Oracle, say: Callable[[str], None]) -> HeldOut:
    """The call of the search, with rows that validate.

    Raises:
        UsageError: as `hold_out` says, or groups or an order of time where something else decides what is held out.
    """
    if not can.trains or call.get("cross_validation") is not None:
        _refuse_unheeded(call, wishes)
        return HeldOut(call)
    names = oracle.objective.names
    held = hold_out(call, measures=names, groups=wishes.groups, time_ordered=wishes.time_ordered, seed=oracle.seed)
    if held.said is not None:
        say(f"fit: {held.said}")
    return held


def _refuse_unheeded(call: Call, wishes: Wishes) -> None:
    """Refuses what says which rows are held out where something else decides that."""
    asked = "groups" if wishes.groups is not None else "time_ordered" if wishes.time_ordered else None
    if asked is None:
        return
    decides = "cross_validation=" if call.get("cross_validation") is not None else "a run_trial of one's own"
    instead = "Type cross_validation=kt.CrossValidation(5, groups=groups), or leave it out."
    raise UsageError(explain(f"fit({asked}=...)", f"{decides} besides", "one that decides", instead))
