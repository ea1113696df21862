"""What `fit` does with the trials of its search, and with the seconds that are left then.

First its models are combined: that is what is in hand. Then whatever promises most in the seconds that are left is done
(`phases.py`), a bag, a larger one, training on, more of the search, until nothing fits or promises anything any more.
What is in hand is given up only for what is better on the same rows (`comparison.py`, `retraining.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from manyfit.core.costs import Costs
from manyfit.core.records import Ending
from manyfit.ensemble.ensemble import Ensemble
from manyfit.fitting import phases, retraining
from manyfit.fitting.asked import FittingTuner
from manyfit.fitting.comparison import Lead, difference
from manyfit.fitting.holdout import NUM_FOLDS
from manyfit.fitting.phase_times import PhaseTimes
from manyfit.fitting.possible_steps import PossibleSteps
from manyfit.fitting.winner import Winner
from manyfit.oracles import Trial
from manyfit.report.confirmation import Confirmation
from manyfit.store.facts import LEADER, Leader, from_fact

NOTHING_BETTER = "nothing better"
_BAGGED = "fit_bag"  # fact: the bag that is in hand, for a call that goes on: its trials, and repeats of its folds


class Afterwards:
    """What one call of `fit` does once its search is over, and what of its time has to be left for that.

    Args:
        tuner: that searches.
        steps: what it can do.
        times: of the call.
        reasons: what was chosen and why; sentences are added.

    Attributes:
        hand: the ensemble that is in hand; None: there is none yet, or one model is better.
    """

    def __init__(self, tuner: FittingTuner, steps: PossibleSteps, *, times: PhaseTimes, reasons: list[str]) -> None:
        self._tuner, self._oracle, self._steps = tuner, tuner.oracle, steps
        self._times, self._clock, self._reasons = times, times.clock, reasons
        self._planned: phases.Bag | None = None  # what the search makes room for
        self._made: phases.Made | None = None
        self._bagged: tuple[str, ...] = ()  # trials of the latest bag
        self._pace = 1.0  # what a bag has taken, by what was foretold: its folds train together
        self._combining = 0.0  # seconds that it took to combine models
        self._may_search = self._may_train_on = False
        self._has_bag = False  # in hand
        self.hand: Ensemble | None = None

    def needed_seconds(self) -> float:
        """Seconds that are kept free of the search; infinite, where neither it nor anything else can gain any more."""
        tried, end = self._tried(), self._for_the_end()
        # As long as all have seen a part of the rows only, the search has something better to do than to end.
        if any(one.share < 1.0 for one in tried):
            return end
        if self._clock.is_limited and phases.is_over(tried):
            return math.inf
        # Asked before every epoch: whoever has become the best meanwhile may call for another bag, or for none.
        self._planned = None
        if self._steps.may_bag and (self._made is None or self._is_another_best()):
            self._planned = self._best_bag(or_search=True)
        return end + (0.0 if self._planned is None else self._planned.seconds)

    def winner(self, ended_by: str, search_again: Callable[[], str]) -> Winner:
        """What is done with the best trials, and the winner of it.

        Args:
            ended_by: what ended the search.
            search_again: goes on searching; answers what has ended that.
        """
        self._combine()
        self._take_earlier()
        confirmation = model = None
        self._may_search, self._may_train_on = ended_by == "time", self._steps.may_train_on
        if self._clock.halted is not None:
            self._reasons.append(f"Nothing more was trained after the search: {self._clock.halted}.")
        elif self._clock.is_limited and phases.is_over(self._tried()):
            ended_by = NOTHING_BETTER
            self._reasons.append("The better half of the trials is equally good, to the last digit: nothing is left.")
        else:
            if self._steps.may_bag:
                self._bag_the_best()
            elif self._steps.may_confirm:
                confirmation, model = self._confirm()
            if self._clock.is_limited and model is None:
                ended_by = self._use_what_is_left(ended_by, search_again)
        if confirmation is not None and self.hand is not None and self.hand.refused:
            self.hand = None
        if self.hand is None and model is None:
            model = self._times.timed("load", self._steps.best_model)
        return Winner(
            model=model if self.hand is None else None,
            ensemble=self.hand,
            confirmation=confirmation,
            search=self._tuner,
            time=self._times.seconds(),
            ended_by=ended_by,
            reasons=self._reasons,
        )

    # What is decided -------------------------------------------------------------------------------------------

    def _use_what_is_left(self, ended_by: str, search_again: Callable[[], str]) -> str:
        """Does what promises most, as long as something fits; answers what has ended the call."""
        while self._clock.halted is None:
            tried, left = self._tried(), self._left()
            larger = on = None
            # Only beside a bag that was made: a first one that did not fit does not fit later, either.
            if self._made is not None:
                larger = phases.larger_bag(
                    tried, left, NUM_FOLDS, self._made, pace=self._pace, may_search=self._may_search
                )
            if self._may_train_on and not self._has_bag:
                on = phases.training_on(tried, left, may_search=self._may_search)
            if larger is not None and (on is None or larger.gain >= on.gain):
                self._bag(larger)
            elif on is not None:
                self._train_on(on)
            elif self._may_search and left > min(one.seconds for one in tried):
                ended_by = self._search_on(search_again)
            else:
                return NOTHING_BETTER if phases.is_over(tried) else ended_by
        return ended_by

    def _search_on(self, search_again: Callable[[], str]) -> str:
        """More of the search, and what its models come to now; another bag, where another trial is the best."""
        before = len(self._oracle.trials)
        ended_by = search_again()
        if len(self._oracle.trials) == before:
            self._may_search = False  # there was no time for another one
            return ended_by
        # There are other best models now, which have not trained on yet.
        self._may_search, self._may_train_on = ended_by == "time", self._steps.may_train_on
        self._combine()
        if self._steps.may_bag:
            self._bag_the_best()
        return ended_by

    def _bag_the_best(self) -> None:
        """A bag, unless the best trial is in one already."""
        if self._made is None or self._is_another_best():
            self._made = None
            # Else the one that the search has ended for: what it stopped has a score by now, and changes the forecast.
            self._bag(self._planned or self._best_bag(or_search=False))

    def _best_bag(self, *, or_search: bool) -> phases.Bag | None:
        bag = phases.best_bag(self._tried(), self._left() / self._pace, NUM_FOLDS, or_search=or_search)
        return None if bag is None else dataclasses.replace(bag, seconds=self._pace * bag.seconds)

    def _is_another_best(self) -> bool:
        """Whether the best trial is none of those that were bagged."""
        best = self._oracle.get_best_trials(1)
        return bool(best) and best[0].trial_id not in self._bagged

    def _take(self, found: Ensemble | None, what: str, *, against: str, plural: bool = False) -> Lead | None:
        """Puts something in the place of what is in hand, if it is better on the same rows, and says why."""
        if found is None:
            return None
        verb, they = ("are", "they are") if plural else ("is", "it is")
        if self.hand is None:
            self.hand = found
            self._reasons.append(f"{what} {verb} used.")
            return None
        told = difference(self.hand, found, leader=from_fact(Leader, self._tuner.store.get(LEADER)))
        kept = "used" if told.favours_second else "not used"
        self._reasons.append(f"{what} {verb} {kept}: {they} {told}, against {against}.")
        if told.favours_second:
            self.hand, self._has_bag = found, False  # who takes a bag says so
        return told

    # The steps -------------------------------------------------------------------------------------------------

    def _combine(self) -> None:
        begun = self._clock.spent()
        if len(self._tried()) < 2:
            self._times.timed("combine", int)
            self._reasons.append("One trial has a score: there is nothing to combine it with.")
            return
        found = self._times.timed("combine", self._steps.combined)
        self._combining = self._clock.spent() - begun
        if found is None:
            return
        if self.hand is not None:
            self._take(found, "The models of the longer search", against="what was in hand", plural=True)
            return
        self.hand = found
        if found.refused:
            said = f"Of the models of the search the best one is used: several are not better ({found.method})."
        else:
            said = f"{len(found.pool.support)} models of the search are used together ({found.method})."
        self._reasons.append(said)

    def _bag(self, bag: phases.Bag | None) -> None:
        if bag is None:
            if (said := "No bag: it does not fit into the time that is left.") not in self._reasons:
                self._reasons.append(said)
            return
        begun = self._clock.spent()
        found = self._times.timed("bag", self._steps.bagged, bag.top, bag.repeats, self._left())
        if found is None:
            self._made = None
            return
        count = bag.repeats * NUM_FOLDS
        used = len(found.pool.support)
        share = f"; {used} {'has' if used == 1 else 'have'} all the weight" if used < bag.top else ""
        what = f"A bag of {bag.top} configurations ({count} models of each{share})"
        told = self._take(found, what, against="what was in hand" if self._made else "the models of the search")
        is_used = self.hand is found
        # Members bear the names of trials, and `bag` may have taken others than the best: those that differ most.
        seconds = self._clock.spent() - begun
        self._pace *= min(2.0, max(0.1, seconds / bag.seconds)) if bag.seconds > 0 else 1.0
        self._made = phases.Made(bag, 0.0 if told is None else told.estimate, is_used)
        self._bagged = tuple(member.name.removeprefix("trial ") for member in found.members)
        if is_used:
            self._has_bag = True
            self._tuner.store.put(**{_BAGGED: {"trials": list(self._bagged), "repeats": bag.repeats}})

    def _take_earlier(self) -> None:
        """What an earlier call had in hand: its models are there, and held-out rows tell what is better now."""
        further = self._times.timed("combine", self._steps.trained_on_earlier, self.hand)
        self._take(further, "With what an earlier call trained on, the ensemble", against="the models of the search")
        # Its folds are in the project, so this trains nothing; where files are gone they are trained again.
        fact = self._tuner.store.get(_BAGGED)
        if fact is None or not self._steps.may_bag:
            return
        trials, repeats = fact["trials"], fact["repeats"]
        found = self._times.timed("bag", self._steps.bagged, trials, repeats, self._left())
        if found is None:
            return
        told = self._take(found, "The bag of an earlier call", against="the models of the search")
        bag, self._has_bag = phases.Bag(len(trials), 0.0, 0.0, repeats), self.hand is found
        self._made = phases.Made(bag, 0.0 if told is None else told.estimate, self._has_bag)
        self._bagged = tuple(trials)

    def _train_on(self, step: phases.TrainingOn) -> None:
        self._may_train_on = False  # once for each set of best models
        found = self._times.timed("train on", self._steps.trained_on, self.hand, step.top, self._left())
        models = "1 model" if step.top == 1 else f"{step.top} models"
        what = f"What {models} of the search came to by training on at a tenth of the rate"
        self._take(found, what, against="what was in hand")

    def _confirm(self) -> tuple[Confirmation | None, Any]:
        """The finalists on fresh seeds, where there is time for it, and the best of them on all rows."""
        tried = self._tried()
        top = min(phases.MOST_BAGGED, len(tried))
        if top < 2 or phases.bag_seconds(tried, top, num_folds=2) > self._left():
            return None, None
        found = self._times.timed("confirm", self._steps.confirmed, top, self._left())
        if found is None:
            return None, None
        best = self._oracle.get_best_trials(1)[0]
        self._reasons.append(f"Of {top} finalists fresh seeds recommend trial {best.trial_id}.")
        return found, self._retrained(best)

    def _retrained(self, best: Trial) -> Any:
        """The recommended configuration on all rows, where one model is in hand; None where that is the better one."""
        seconds = phases.bag_seconds([self._tried_of(best)], 1, num_folds=1) * (1 + 1 / (NUM_FOLDS - 1))
        if not (self._steps.may_retrain and (self.hand is None or self.hand.refused) and seconds <= self._left()):
            return None
        leader = from_fact(Leader, self._tuner.store.get(LEADER))
        if (why_not := retraining.recipe_fails(best, self._oracle.objective, leader)) is not None:
            self._reasons.append(f"Not retrained on all rows: {why_not}.")
            return None
        found = self._times.timed("retrain", self._steps.retrained, self._left())
        if found is None:
            return None
        why_not = self._steps.worse_on_held_out_rows(found)
        used = "is used: its recipe is as good on fresh seeds" if why_not is None else f"is not used: {why_not}"
        self._reasons.append(f"Trial {best.trial_id}, retrained on all rows, {used}.")
        return found if why_not is None else None

    # What is known ---------------------------------------------------------------------------------------------

    def _left(self) -> float:
        return self._clock.left() - self._for_the_end()

    def _for_the_end(self) -> float:
        return phases.seconds_for_the_end(self._clock.max_seconds, self._combining)

    def _tried(self) -> list[phases.Tried]:
        """The trials with a score, the best first."""
        found = [self._tried_of(trial) for trial in self._oracle.book.by_search_score()]
        return sorted(found, key=lambda one: one.loss)

    def _tried_of(self, trial: Trial) -> phases.Tried:
        return tried_of(trial, self._oracle.objective.loss(trial.score))


def tried_of(trial: Trial, loss: float) -> phases.Tried:
    """What phases are decided by, of one trial."""
    runs = list(trial.executions.values())
    share = min((run.share for run in runs), default=1.0)  # of the rows: what follows trains on all of them
    costs = Costs.joined(run.costs for run in runs if run.costs is not None) or Costs()
    # By its epochs where they were measured: its seconds have those in which it was built, and compiled, as well.
    seconds = [
        run.num_epochs * run.costs.epoch if run.costs is not None and run.costs.epoch > 0 else run.seconds
        for run in runs
    ]
    return phases.Tried(
        loss,
        sum(seconds) / max(1, len(runs)) / share,
        costs.build,
        costs.compile,
        costs.structure,
        all(run.ending is Ending.COMPLETED for run in runs),
        share,
    )
