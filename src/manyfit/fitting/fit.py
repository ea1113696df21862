"""`fit`: search, combine, bag or confirm, within one limit, and the best of what that has come to.

The steps are those that users call one by one; here they are called for them. What is done when follows from what
trials have cost and how good they were (`phases.py`), and what is in hand is given up only for what is better on the
same rows (`comparison.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from numpy.typing import ArrayLike

from manyfit.core.checks import seconds_or_none, whole_number_or_none
from manyfit.core.clock import Clock
from manyfit.core.costs import Costs
from manyfit.core.errors import ManyfitError, SearchError, UsageError, explain, first_line
from manyfit.core.records import Ending
from manyfit.data.call import Call
from manyfit.data.kinds import Ability
from manyfit.ensemble.choosing.methods import SHRUNK
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.fitting import in_hand, phases
from manyfit.fitting.comparison import difference
from manyfit.fitting.holdout import NUM_FOLDS, HeldOut, hold_out
from manyfit.fitting.length import no_time_for_an_epoch, with_length
from manyfit.fitting.record import FitRecord
from manyfit.fitting.signals import Interruptible, what_is_kept
from manyfit.fitting.standing import Standing
from manyfit.fitting.winner import FittedSearch, Winner
from manyfit.oracles import Trial, endings
from manyfit.oracles.checks import UntypedLimit
from manyfit.report.confirmation import Confirmation
from manyfit.store.facts import LEADER, Leader, from_fact

_ENDED_BY = {
    endings.SearchEnd.SECONDS: "time",
    endings.SearchEnd.TRIALS: "trials",
    endings.SearchEnd.EPOCHS: "trials",
    endings.SearchEnd.SCHEDULE: "trials",
    endings.SearchEnd.EXHAUSTED: "space",
    endings.SearchEnd.ORACLE: "space",
    endings.SearchEnd.STOPPED: "stopped",
}


class FittingTuner(FittedSearch, Protocol):
    """What `fit` asks of a tuner. These are methods that users call, and may have overridden."""

    standing: Standing | None

    @property
    def ended_by(self) -> endings.SearchEnd | None:
        """Why the latest search ended."""

    def limited(self, clock: Clock) -> contextlib.AbstractContextManager[None]:
        """Within it every step ends in time for a clock."""

    def search(self, *args: Any, **kwargs: Any) -> None:
        """Runs trials."""

    def get_best_models(self, num_models: int | None = None) -> list[Any]:
        """The models of the best trials."""

    def ensemble(self, *, verbose: Any = None, **options: Any) -> Ensemble:
        """Combines what the search has made."""

    def confirm(self, top: int = 8, *, max_seconds: float | None, verbose: Any) -> Confirmation:
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
        bag: the tuner's method; None: it has none.
        quickly: a context in which models are built whose weights are loaded: what draws them first need not be dear.
    """

    trains: bool
    in_epochs: bool
    bag: Callable[..., Ensemble] | None = None
    quickly: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


# Models that are there cost nothing to use together, so what is expected to be better is better, by however little.
_AS_EXPECTED = EnsembleSettings(likely=0.6, least_gain=0.0)


class SearchClock(Clock):
    """The clock of a search that is a part of `fit`: over when the rest is needed for what comes afterwards.

    Once over it stays so: what a last trial changes in the forecast does not begin the search again.

    Args:
        whole: of the whole call.
        needed: seconds that what comes afterwards will take.
    """

    def __init__(self, whole: Clock, needed: Callable[[], float]) -> None:
        super().__init__(within=[whole])
        self._needed = needed
        self._was_over = False

    def left(self) -> float:
        """See `Clock.left`."""
        left = 0.0 if self._was_over else super().left()
        if left and not math.isinf(left):
            left = max(0.0, left - self._needed())
        self._was_over = left == 0.0
        return left


def fit(
    tuner: FittingTuner,
    call: Call,
    wishes: Wishes,
    can: CanDo,
    *,
    say: Callable[[str], None],
    now: Callable[[], float] | None = None,
) -> Winner:
    """See `Tuner.fit`.

    Args:
        tuner: that searches.
        call: of `search`.
        wishes: limits, and how rows are held out.
        say: takes one line of text for people.
        can: what the tuner can do.
        now: a time in seconds that never goes back.

    Raises:
        UsageError: several objectives, no limit at all, or as `hold_out` and `search` say.
        SearchError: no trial has a score: all failed, or the time was too short for an epoch of one.
    """
    if can.trains and can.in_epochs:
        call = with_length(call, tuner.oracle, say)
    return _Fit(tuner, wishes, can, say, now=now).run(call)


class _Fit:
    """One call of `fit`."""

    def __init__(
        self,
        tuner: FittingTuner,
        wishes: Wishes,
        can: CanDo,
        say: Callable[[str], None],
        *,
        now: Callable[[], float] | None,
    ) -> None:
        self._tuner, self._oracle = tuner, tuner.oracle
        self._wishes = wishes
        self._say = say
        self._can = can
        self._reasons: list[str] = []
        folder = tuner.store.layout.winner
        self._earlier = FitRecord(folder).read()
        self._time = dict(self._earlier.phases)
        self._phase: tuple[str, float] | None = None  # the one that is under way, and when it began
        self._clock = Clock(self._limit(), spent_seconds=self._earlier.seconds, now=now)
        self._standing = Standing(
            folder, self._oracle.objective, max_seconds=self._limit(), phases=self._phases, say=say, now=now
        )
        self._hand: Ensemble | None = None
        self._planned: phases.Bag | None = None  # what the search makes room for
        self._combining = 0.0  # seconds that it took to combine models
        self._held = HeldOut(Call())

    def run(self, call: Call) -> Winner:
        self._clock.start()
        self._check_objective()
        self._check_limits()
        told = functools.partial(what_is_kept, "fit", self._oracle, self._tuner.project_dir)
        with Interruptible(told, self._say), self._keeping():
            if (winner := self._of_earlier_call()) is not None:
                return winner
            if self._earlier.seconds:
                self._say(f"fit: goes on after {self._earlier.seconds:.0f} s of earlier calls.")
            try:
                self._held = self._hold_out(call)
                ended_by = self._search(self._held)
                with self._tuner.limited(self._clock):
                    winner = self._finished(ended_by, call.get("verbose", 1))
                self._timed("save", self._standing.put, winner)
            except KeyboardInterrupt:  # a second one, while this is handled, is raised
                if (kept := self._interrupted()) is None:
                    raise
                return kept
            self._standing.note(finished=True)
            return winner

    # At every moment -------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Within it the best model so far, and the seconds that were spent, are kept on the disk."""
        self._tuner.standing = self._standing
        try:
            yield
        finally:
            self._tuner.standing = None

    def _phases(self) -> dict[str, float]:
        """Seconds of each phase, those of the one that is under way included; noted, so that a kill leaves them."""
        found = dict(self._time)
        if self._phase is not None:
            name, begun = self._phase
            found[name] = found.get(name, 0.0) + self._clock.spent() - begun
        return found

    def _of_earlier_call(self) -> Winner | None:
        """The winner of a call that came to its end, where nothing is left of the limit; None: it is not there."""
        if not (self._earlier.is_finished and self._clock.is_over()):
            return None
        if (winner := in_hand.on_disk(self._tuner)) is not None:
            limit = self._clock.max_seconds or 0.0
            self._say(
                f"fit: nothing is left of {limit:g} s, so this is the winner of an earlier call. To go on, raise "
                f"max_seconds= ({2 * limit:g}, say)."
            )
        return winner

    def _interrupted(self) -> Winner | None:
        """The best there is when somebody has interrupted; None: there is nothing yet."""
        during = "" if self._phase is None else f" in the phase {self._phase[0]!r}"
        self._reasons.append(f"Interrupted{during}: this was the best so far. The same call of fit goes on.")
        self._standing.flush()
        self._standing.note(finished=False)
        return in_hand.interrupted(self._tuner, self._standing, self._hand, self._phases(), self._reasons)

    def _finished(self, ended_by: str, verbose: Any) -> Winner:
        """What is done with the best trials, and the winner of it."""
        hand = self._hand = self._timed("combine", self._combined, verbose)
        confirmation = None
        if self._clock.halted is not None:  # whoever has stopped the call waits for what there is
            pass
        elif self._may_bag:
            hand = self._hand = self._timed("bag", self._bagged, hand, verbose)
        elif self._can.trains and not self._held.in_folds:
            confirmation = self._timed("confirm", self._confirmed, verbose)
            hand = None if confirmation is not None and hand is not None and hand.refused else hand
        model = None if hand is not None else self._timed("load", self._best_model)
        return Winner(
            model=model,
            ensemble=hand,
            confirmation=confirmation,
            search=self._tuner,
            time=self._time,
            ended_by=ended_by,
            reasons=self._reasons,
        )

    # Before anything is trained --------------------------------------------------------------------------------

    def _limit(self) -> float | None:
        """The smaller one of the limits of constructor and call."""
        known = [each for each in (self._wishes.max_seconds, self._oracle.max_seconds) if each is not None]
        return min(known, default=None)

    def _check_objective(self) -> None:
        if len(self._oracle.objective.terms) > 1:
            names = [term.names[0] for term in self._oracle.objective.terms]
            got = f"the objectives {', '.join(names)}, none of which is traded for another"
            instead = f'Type kt.Search(build, "{names[0]}", ...), or search() for the models that nothing else beats.'
            raise UsageError(explain("fit()", got, "one objective: there is one winner", instead))

    def _check_limits(self) -> None:
        oracle, wishes = self._oracle, self._wishes
        typed = not isinstance(oracle.max_trials, UntypedLimit)
        known = (wishes.max_trials, self._clock.max_seconds, oracle.max_total_epochs)
        if not typed and all(limit is None for limit in known):
            got, allowed = "no limit", "max_seconds=, max_trials= or both"
            raise UsageError(explain("fit()", got, allowed, "Type fit(x, y, max_seconds=600)."))
        if None not in (wishes.max_seconds, oracle.max_seconds) and wishes.max_seconds != oracle.max_seconds:
            self._say(f"fit: two limits of time, {wishes.max_seconds:g} s here and {oracle.max_seconds:g} s where the "
                      f"tuner was made: {self._clock.max_seconds:g} s hold.")  # fmt: skip

    def _max_trials(self) -> int | None:
        """Trials at most: the smaller one of the limits that somebody typed."""
        own = None if isinstance(self._oracle.max_trials, UntypedLimit) else self._oracle.max_trials
        return min((each for each in (own, self._wishes.max_trials) if each is not None), default=None)

    def _hold_out(self, call: Call) -> HeldOut:
        wishes = self._wishes
        if not self._can.trains or call.get("cross_validation") is not None:
            self._refuse_unheeded(call)
            return HeldOut(call)
        names = self._oracle.objective.names
        held = hold_out(
            call, measures=names, groups=wishes.groups, time_ordered=wishes.time_ordered, seed=self._oracle.seed
        )
        if held.said is not None:
            self._say(f"fit: {held.said}")
        return held

    def _refuse_unheeded(self, call: Call) -> None:
        """Refuses what says which rows are held out where something else decides that."""
        asked = "groups" if self._wishes.groups is not None else "time_ordered" if self._wishes.time_ordered else None
        if asked is None:
            return
        decides = "cross_validation=" if call.get("cross_validation") is not None else "a run_trial of one's own"
        instead = "Type cross_validation=kt.CrossValidation(5, groups=groups), or leave it out."
        raise UsageError(explain(f"fit({asked}=...)", f"{decides} besides", "one that decides", instead))

    # The phases ------------------------------------------------------------------------------------------------

    def _timed(self, phase: str, step: Callable[..., Any], *args: Any) -> Any:
        # One that an error has ended is closed here: who is interrupted tells of the phase that was under way.
        self._time, self._phase = self._phases(), (phase, self._clock.spent())
        value = step(*args)
        self._time, self._phase = self._phases(), None
        return value

    def _search(self, held: HeldOut) -> str:
        """Searches for as long as that promises more than what comes afterwards; answers what ended it."""
        folds = {} if held.cross_validation is None else {"cross_validation": held.cross_validation}
        with self._limits():
            try:
                self._timed("search", lambda: self._tuner.search(*held.call.args, **{**held.call.kwargs, **folds}))
            except SearchError as error:
                if not self._completed():
                    raise
                self._reasons.append(f"The search broke off: {first_line(error)}")
        found = self._completed()
        if not found:
            raise no_time_for_an_epoch(self._clock.max_seconds, self._oracle.clock.refused_seconds)
        ended = self._tuner.ended_by
        self._reasons.append(f"{len(found)} of {len(self._oracle.trials)} trials have a score.")
        return "trials" if ended is None else _ENDED_BY.get(ended, "trials")

    @contextlib.contextmanager
    def _limits(self) -> Iterator[None]:
        """Within it the search has the limits of this call, and not its own."""
        oracle = self._oracle
        sampler: Any = oracle.sampler
        before = oracle.max_trials, getattr(sampler, "max_trials", None)
        oracle.max_trials = self._max_trials()
        if hasattr(sampler, "max_trials"):  # one that plans by it
            sampler.max_trials = oracle.max_trials
        clock = SearchClock(self._clock, self._needed_afterwards)
        if clock.is_limited:  # else nothing is gained by what is cheap
            oracle.proposals.mind_costs(clock, beliefs=self._wishes.beliefs)
        try:
            with self._tuner.limited(clock):
                yield
        finally:
            oracle.proposals.mind_costs(None)
            oracle.max_trials = before[0]
            if hasattr(sampler, "max_trials"):
                sampler.max_trials = before[1]

    def _needed_afterwards(self) -> float:
        """Seconds that are kept free of the search."""
        end = self._for_the_end()
        left = self._clock.left() - end
        self._planned = phases.best_bag(self._tried(), left, NUM_FOLDS) if self._may_bag else None
        return end + (0.0 if self._planned is None else self._planned.seconds)

    def _for_the_end(self) -> float:
        return phases.seconds_for_the_end(self._clock.max_seconds, self._combining)

    def _combined(self, verbose: Any) -> Ensemble | None:
        """The ensemble of what the search has made; None where there is none."""
        if len(self._completed()) < 2:
            self._reasons.append("One trial has a score: there is nothing to combine it with.")
            return None
        begun = self._clock.spent()
        try:
            # The steadiest way to weigh them, and by far the quickest: seconds count here.
            with self._can.quickly():
                hand = self._tuner.ensemble(verbose=verbose, method=SHRUNK, settings=_AS_EXPECTED)
        except ManyfitError as error:
            self._reasons.append(f"The models of the search were not combined: {first_line(error)}")
            return None
        self._combining = self._clock.spent() - begun
        if hand.refused:
            self._reasons.append(
                f"Of the models of the search the best one is used: several are not better ({hand.method})."
            )
        else:
            self._reasons.append(f"{len(hand.pool.support)} models of the search are used together ({hand.method}).")
        return hand

    @functools.cached_property
    def _may_bag(self) -> bool:
        """Whether folds of all rows can be trained, and were not trained by the search already."""
        held = self._held
        if self._can.bag is None or not self._can.trains or held.in_order_of_time or held.in_folds:
            return False
        rows, validation = held.call.training_rows(), held.call.validation_rows()
        return rows.can(Ability.TAKEN) and validation is not None and validation.can(Ability.JOINED)

    def _bagged(self, hand: Ensemble | None, verbose: Any) -> Ensemble | None:
        """The bag, if there is time for one and it is better than what is in hand."""
        left = self._clock.left() - self._for_the_end()
        # Else the one that the search has ended for: what it stopped has a score by now, and changes the forecast.
        bag = self._planned or phases.best_bag(self._tried(), left, NUM_FOLDS, or_search=False)
        if bag is None:
            self._reasons.append("No bag: it does not fit into the time that is left.")
            return hand
        try:
            assert self._can.bag is not None  # our bug: `_may_bag` asks
            found = self._can.bag(
                bag.top,
                NUM_FOLDS,
                groups=self._held.groups,
                max_seconds=None if math.isinf(left) else left,
                verbose=verbose,
            )
        except ManyfitError as error:
            self._reasons.append(f"No bag: {first_line(error)}")
            return hand
        if hand is None:
            self._reasons.append(f"The folds of the best configuration, {NUM_FOLDS} models, are used together.")
            return found
        told = difference(hand, found, leader=from_fact(Leader, self._tuner.store.get(LEADER)))
        kept = "is used" if told.favours_second else "is not used"
        self._reasons.append(
            f"A bag of {bag.top} configurations {kept}: it is {told}, against the models of the search."
        )
        return found if told.favours_second else hand

    def _confirmed(self, verbose: Any) -> Confirmation | None:
        """The finalists on fresh seeds, where there is time for it and no bag."""
        left = self._clock.left() - self._for_the_end()
        tried = self._tried()
        top = min(phases.MOST_BAGGED, len(tried))
        seconds = phases.bag_seconds(tried, top, num_folds=2)
        if top < 2 or seconds > left:
            return None
        try:
            found = self._tuner.confirm(top, max_seconds=None if math.isinf(left) else left, verbose=verbose)
        except ManyfitError as error:
            self._reasons.append(f"Not confirmed: {first_line(error)}")
            return None
        best = self._oracle.get_best_trials(1)[0]
        self._reasons.append(f"Of {top} finalists fresh seeds recommend trial {best.trial_id}.")
        return found

    def _best_model(self) -> Any:
        with self._can.quickly():
            return self._tuner.get_best_models(1)[0]

    # What is known ---------------------------------------------------------------------------------------------

    def _completed(self) -> list[Trial]:
        return [trial for trial in self._oracle.trials.values() if trial.is_completed]

    def _tried(self) -> list[phases.Tried]:
        """The trials with a score, the best first."""
        found = [tried_of(trial, self._oracle.objective.loss(trial.score)) for trial in self._completed()]
        return sorted(found, key=lambda one: one.loss)


def tried_of(trial: Trial, loss: float) -> phases.Tried:
    """What phases are decided by, of one trial."""
    runs = list(trial.executions.values())
    costs = Costs.joined(run.costs for run in runs if run.costs is not None) or Costs()
    return phases.Tried(
        loss,
        sum(run.seconds for run in runs) / max(1, len(runs)),
        costs.build,
        costs.compile,
        costs.structure,
        all(run.ending is Ending.COMPLETED for run in runs),
    )
