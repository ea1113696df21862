"""When a model that was trained on all rows may take the place of the one in hand: no rows are left to compare them on.

What was scored is its recipe, the configuration and for how long: on fresh seeds, with rows held out. So it may be used
if those runs were as good as the model in hand is expected to be, since more rows make no recipe worse; and if it is
not worse than that model on the very rows that it, unlike that one, has trained on, which only a training that went
wrong can be.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import keras

from manyfit.core.objective import Objective
from manyfit.data.rows import Rows
from manyfit.oracles import Trial
from manyfit.store.facts import Leader

FEWEST_RUNS = 2


def recipe_fails(trial: Trial, objective: Objective, leader: Leader | None) -> str | None:
    """Why the fresh runs of a trial do not vouch for its retraining; None: they do.

    Args:
        trial: whose confirmation has ended.
        objective: what is compared.
        leader: of the search, and its luck in having been chosen.
    """
    runs = [run.score for run in trial.executions_of("confirm").values() if run.score is not None]
    fresh = [objective.loss(score) for score in runs]
    own = [objective.loss(run.score) for run in trial.executions.values() if run.score is not None]
    if len(fresh) < FEWEST_RUNS or not own:
        return f"trial {trial.trial_id} has run on fewer than {FEWEST_RUNS} fresh seeds"
    luck = (leader.luck or 0.0) if leader is not None and leader.trial_id == trial.trial_id else 0.0
    behind = statistics.fmean(fresh) - (statistics.fmean(own) + luck)
    error = statistics.stdev(fresh) / math.sqrt(len(fresh))
    if behind <= error:
        return None
    return f"on fresh seeds trial {trial.trial_id} is worse by {behind:.3g} ± {error:.2g} than the model in hand"


def worse_on_rows(found: Any, hand: Any, rows: Rows, objective: Objective, batch_size: int = 1024) -> str | None:
    """Why a model is not used, by rows that it has trained on and the one in hand has not; None: nothing is wrong.

    Args:
        found: the retrained model.
        hand: the model in hand.
        rows: that validated in the search.
        objective: what is compared.
        batch_size: rows per batch.
    """

    def loss(model: keras.Model) -> float:
        # Not the model's own `evaluate`, which counts as a look at test rows.
        logs = keras.Model.evaluate(
            model, rows.x, rows.y, sample_weight=rows.sample_weight, batch_size=batch_size, verbose=0, return_dict=True
        )
        return objective.epoch_loss({f"val_{name}": value for name, value in logs.items()})

    own, other = loss(found), loss(hand)
    if own <= other:
        return None
    return f"it has trained on the rows that were held out, and is worse on them ({own:.4g} against {other:.4g})"
