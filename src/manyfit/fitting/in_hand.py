"""What a `fit` has in hand when it is interrupted, or when nothing is left of its limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from manyfit.core.errors import ManyfitError
from manyfit.ensemble.ensemble import Ensemble
from manyfit.fitting import winner_files
from manyfit.fitting.card import WinnerCard
from manyfit.fitting.describing import FittedSearch
from manyfit.fitting.standing import Standing
from manyfit.fitting.winner import Winner


def interrupted(
    tuner: FittedSearch, standing: Standing, hand: Ensemble | None, time: Mapping[str, float], reasons: Sequence[str]
) -> Winner | None:
    """The winner of a call that was interrupted: an ensemble, the best epoch of this call, or what is on the disk.

    Args:
        tuner: that was fitted.
        standing: what has watched its epochs.
        hand: the ensemble that a phase has come to; None: there is none.
        time: seconds of each phase.
        reasons: what was chosen and why.

    Returns:
        None where there is nothing yet.
    """
    if hand is not None:
        return Winner(ensemble=hand, search=tuner, time=time, ended_by="interrupted", reasons=reasons)
    best, model = standing.best, standing.predictor()
    if best is None:
        found = on_disk(tuner)
        return None if found is None else found.again(tuner, _interrupted(found.card, time, reasons))
    tuner.model_origins[model] = best.trial_id
    tuner.counted(model)
    # Its trial may not have ended, so that only whoever watched it knows how good it was.
    card = _interrupted(standing.card(best), time, reasons)
    return Winner(model=model, search=tuner).again(tuner, card)


def _interrupted(card: WinnerCard, time: Mapping[str, float], reasons: Sequence[str]) -> WinnerCard:
    return dataclasses.replace(card, time=dict(time), ended_by="interrupted", reasons=tuple(reasons))


def on_disk(tuner: FittedSearch) -> Winner | None:
    """The winner that an earlier call has left in the project; None: there is none, or it cannot be read."""
    try:
        found = winner_files.latest(tuner.store.layout.winner)
        if found is None:
            return None
        predictor, facts = winner_files.load(found[0], trust=tuner.trust)
    except (ManyfitError, OSError):  # classes of the user's that are not registered, say
        return None
    winner = Winner.of_files(predictor, facts)
    return winner.again(tuner, winner.card)
