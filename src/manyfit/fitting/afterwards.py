"""What `fit` does with the trials of its search: combine them, and bag or confirm the best.

What is in hand is given up only for what is better on the same rows (`comparison.py`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

from manyfit.core.costs import Costs
from manyfit.core.errors import ManyfitError, first_line
from manyfit.core.records import Ending
from manyfit.data.kinds import Ability
from manyfit.ensemble.choosing.methods import SHRUNK
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.fitting import phases
from manyfit.fitting.asked import CanDo, FittingTuner
from manyfit.fitting.comparison import difference
from manyfit.fitting.holdout import NUM_FOLDS, HeldOut
from manyfit.fitting.phase_times import PhaseTimes
from manyfit.fitting.winner import Winner
from manyfit.oracles import Trial
from manyfit.report.confirmation import Confirmation
from manyfit.store.facts import LEADER, Leader, from_fact

# Models that are there cost nothing to use together, so what is expected to be better is better, by however little.
_AS_EXPECTED = EnsembleSettings(likely=0.6, least_gain=0.0)


class Afterwards:
    """What one call of `fit` does once its search is over, and what of its time has to be left for that.

    Args:
        tuner: that searches.
        can: what it can do.
        held: the call of the search, and how rows are held out.
        times: of the call.
        reasons: what was chosen and why; sentences are added.

    Attributes:
        hand: the ensemble that is in hand; None: there is none yet, or one model is better.
    """

    def __init__(
        self, tuner: FittingTuner, can: CanDo, held: HeldOut, *, times: PhaseTimes, reasons: list[str]
    ) -> None:
        self._tuner, self._oracle, self._can, self._held = tuner, tuner.oracle, can, held
        self._times, self._clock, self._reasons = times, times.clock, reasons
        self._planned: phases.Bag | None = None  # what the search makes room for
        self._combining = 0.0  # seconds that it took to combine models
        self.hand: Ensemble | None = None

    def needed_seconds(self) -> float:
        """Seconds that are kept free of the search."""
        end = self._for_the_end()
        left = self._clock.left() - end
        tried = self._tried() if self._may_bag else []
        # As long as all have seen a part of the rows only, the search has something better to do than to end.
        is_early = any(one.share < 1.0 for one in tried)
        self._planned = None if is_early else phases.best_bag(tried, left, NUM_FOLDS)
        return end + (0.0 if self._planned is None else self._planned.seconds)

    def winner(self, ended_by: str, verbose: Any) -> Winner:
        """What is done with the best trials, and the winner of it."""
        timed = self._times.timed
        hand = self.hand = timed("combine", self._combined, verbose)
        confirmation = None
        if self._clock.halted is not None:
            self._reasons.append(f"Nothing more was trained after the search: {self._clock.halted}.")
        elif self._may_bag:
            hand = self.hand = timed("bag", self._bagged, hand, verbose)
        elif self._can.trains and not self._held.in_folds:
            confirmation = timed("confirm", self._confirmed, verbose)
            hand = None if confirmation is not None and hand is not None and hand.refused else hand
        model = None if hand is not None else timed("load", self._best_model)
        return Winner(
            model=model,
            ensemble=hand,
            confirmation=confirmation,
            search=self._tuner,
            time=self._times.seconds(),
            ended_by=ended_by,
            reasons=self._reasons,
        )

    # The steps -------------------------------------------------------------------------------------------------

    def _for_the_end(self) -> float:
        return phases.seconds_for_the_end(self._clock.max_seconds, self._combining)

    def _combined(self, verbose: Any) -> Ensemble | None:
        """The ensemble of what the search has made; None where there is none."""
        if len(self._tried()) < 2:
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
        if top < 2 or phases.bag_seconds(tried, top, num_folds=2) > left:
            return None
        try:
            seconds_left = None if math.isinf(left) else left
            found = self._tuner.confirm(top, max_seconds=seconds_left, verbose=verbose, **self._held.related())
        except ManyfitError as error:
            self._reasons.append(f"Not confirmed: {first_line(error)}")
            return None
        best = self._oracle.get_best_trials(1)[0]
        self._reasons.append(f"Of {top} finalists fresh seeds recommend trial {best.trial_id}.")
        return found

    def _best_model(self) -> Any:
        with self._can.quickly():
            return self._tuner.get_best_models(1)[0]

    def _tried(self) -> list[phases.Tried]:
        """The trials with a score, the best first."""
        compared = self._oracle.book.by_search_score()
        found = [tried_of(trial, self._oracle.objective.loss(trial.score)) for trial in compared]
        return sorted(found, key=lambda one: one.loss)


def tried_of(trial: Trial, loss: float) -> phases.Tried:
    """What phases are decided by, of one trial."""
    runs = list(trial.executions.values())
    share = min((run.share for run in runs), default=1.0)  # of the rows: what follows trains on all of them
    costs = Costs.joined(run.costs for run in runs if run.costs is not None) or Costs()
    return phases.Tried(
        loss,
        sum(run.seconds for run in runs) / max(1, len(runs)) / share,
        costs.build,
        costs.compile,
        costs.structure,
        all(run.ending is Ending.COMPLETED for run in runs),
        share,
    )
