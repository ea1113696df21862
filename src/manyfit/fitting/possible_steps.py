"""The steps that a `fit` may take with the trials of its search: each comes to an ensemble, or to None and a reason.

Nothing is decided here: which of them are taken, and what is used of what they come to, `afterwards.py` says.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from manyfit.core.errors import ManyfitError, first_line
from manyfit.data.kinds import Ability
from manyfit.ensemble.choosing.methods import SHRUNK
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.settings import EnsembleSettings
from manyfit.finish.continuing import is_further
from manyfit.finish.related import related_rows
from manyfit.fitting import in_hand, retraining
from manyfit.fitting.asked import CanDo, FittingTuner
from manyfit.fitting.holdout import NUM_FOLDS, HeldOut
from manyfit.report.confirmation import Confirmation

# Models that are there cost nothing to use together, so what is expected to be better is better, by however little.
AS_EXPECTED = EnsembleSettings(likely=0.6, least_gain=0.0)
# In the order of time few blocks are left to say so, and the best of the past is often not that of the time to come:
# of nine searches on weather the single best was 5 % worse than several on average, and better twice.
IN_ORDER_OF_TIME = dataclasses.replace(AS_EXPECTED, refuse=False)


class PossibleSteps:
    """What a tuner does for `fit` after a search.

    Args:
        tuner: that has searched.
        can: what it can do.
        held: the call of the search, and how rows are held out.
        verbose: of the call.
        tell: takes a sentence on why a step came to nothing.
    """

    def __init__(
        self, tuner: FittingTuner, can: CanDo, held: HeldOut, *, verbose: Any, tell: Callable[[str], None]
    ) -> None:
        self._tuner, self._can, self._held, self._verbose, self._tell = tuner, can, held, verbose, tell

    def combined(self) -> Ensemble | None:
        """The ensemble of what the search has made."""
        self._note_related_rows()
        settings = IN_ORDER_OF_TIME if self._held.in_order_of_time else AS_EXPECTED

        def combine() -> Ensemble:
            # The steadiest way to weigh them, and by far the quickest: seconds count here.
            with self._can.quickly():
                return self._tuner.ensemble(verbose=self._verbose, method=SHRUNK, settings=settings)

        return self._tried("The models of the search were not combined", combine)

    def _note_related_rows(self) -> None:
        """Keeps with the project which validation rows resemble each other: weights are cross-fitted by them, too."""
        counts = self._held.call.counted_rows()
        if counts is not None and (related := self._held.related()):
            asked = {"groups": None, "time_ordered": False, **related}
            related_rows(self._tuner.store, **asked, num_rows=counts[1], say=self._tell)

    @functools.cached_property
    def may_bag(self) -> bool:
        """Whether folds of all rows can be trained, and were not trained by the search already."""
        held = self._held
        if self._can.bag is None or not self._can.trains or held.in_order_of_time or held.in_folds:
            return False
        rows, validation = held.call.training_rows(), held.call.validation_rows()
        return rows.can(Ability.TAKEN) and validation is not None and validation.can(Ability.JOINED)

    def bagged(self, top: int | Sequence[str], repeats: int, left: float) -> Ensemble | None:
        """The folds of some configurations, or of the best ones, together."""

        def bag() -> Ensemble:
            assert self._can.bag is not None  # our bug: `may_bag` asks
            return self._can.bag(
                top,
                NUM_FOLDS,
                repeats,
                groups=self._held.groups,
                max_seconds=None if math.isinf(left) else left,
                verbose=self._verbose,
            )

        return self._tried("No bag", bag)

    @property
    def may_confirm(self) -> bool:
        """Whether finalists can be trained on fresh seeds, with the rows that validate in the search."""
        return self._can.trains and not self._held.in_folds

    def confirmed(self, top: int, left: float) -> Confirmation | None:
        """Finalists on fresh seeds."""
        limit, related = None if math.isinf(left) else left, self._held.related()
        return self._tried(
            "Not confirmed", lambda: self._tuner.confirm(top, max_seconds=limit, verbose=self._verbose, **related)
        )

    @property
    def may_train_on(self) -> bool:
        """Whether models of the search can be trained further, and compared with what they were."""
        return self._can.go_on is not None and self._can.trains and not self._held.in_folds

    def trained_on(self, hand: Ensemble | None, top: int, left: float) -> Ensemble | None:
        """The best models of the search, trained further, together with what is in hand."""

        def train_on() -> Ensemble:
            assert self._can.go_on is not None  # our bug: `may_train_on` asks
            limit = None if math.isinf(left) else left
            # Built for the weights that they get, so that nobody needs what their initializers draw.
            with self._can.quickly():
                return self._can.go_on(hand, top, max_seconds=limit, settings=AS_EXPECTED)

        return self._tried("Nothing was trained on", train_on)

    def trained_on_earlier(self, hand: Ensemble | None) -> Ensemble | None:
        """What is in hand together with models that an earlier call has trained further; None: there are none."""
        if self._can.go_on is None or hand is None or (winner := in_hand.on_disk(self._tuner)) is None:
            return None
        members = () if winner.ensemble is None else winner.ensemble.members
        further = [member for member in members if member.models and is_further(member.name)]
        if not further:
            return None
        go_on = self._can.go_on
        return self._tried("Models of an earlier call are left out", lambda: go_on(hand, further, settings=AS_EXPECTED))

    @property
    def may_retrain(self) -> bool:
        """Whether a configuration can be trained on all rows, those that validate included."""
        if self._can.retrain is None or not self.may_confirm:
            return False
        rows, validation = self._held.call.training_rows(), self._held.call.validation_rows()
        return rows.can(Ability.JOINED) and validation is not None and validation.can(Ability.JOINED)

    def retrained(self, left: float) -> Any:
        """The model of the best configuration, trained on all rows."""

        def retrain() -> Any:
            assert self._can.retrain is not None  # our bug: `may_retrain` asks
            [model] = self._can.retrain(1, max_seconds=None if math.isinf(left) else left, verbose=self._verbose)
            return model

        return self._tried("Not retrained", retrain)

    def worse_on_held_out_rows(self, model: Any) -> str | None:
        """Why a retrained model is not used; None: it is not worse than the best of the search on held-out rows."""
        rows = self._held.call.validation_rows()
        assert rows is not None  # our bug: `may_retrain` asks
        return retraining.worse_on_rows(model, self.best_model(), rows, self._tuner.oracle.objective)

    def best_model(self) -> Any:
        """The best model of the search."""
        with self._can.quickly():
            return self._tuner.get_best_models(1)[0]

    def _tried(self, otherwise: str, step: Callable[[], Any]) -> Any:
        """What a step comes to; None, and a reason, where it cannot: what is in hand is not lost by an error."""
        try:
            return step()
        except ManyfitError as error:
            self._tell(f"{otherwise}: {first_line(error)}")
            return None
