"""What a branch begins with: the state of another execution, which rests at the end of a step.

Variables are copied, all but the learning rate: that is a number of the branch's own. (Other numbers, a rate of dropout
say, are no variables; they are the branch's by its build.) Callbacks begin anew, and so does the list of its best
weights: what was better before is its parent's.

In the process that paused the parent its state is in memory, and copied there. For another process a file is written
before the branch is trained, which lies in its own place: the parent goes on, and writes over its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from manyfit.core.errors import FailedTrialError, explain
from manyfit.core.records import Origin, Plan
from manyfit.training.keras_internals.building import place_of_learning_rate
from manyfit.training.stored_state import state_at, write_state


def inherit(origin: Origin, parent: str | Path, path: str | Path) -> bool:
    """Writes the file that a branch begins with, unless it is there.

    Args:
        origin: whose state, and after how many epochs.
        parent: where the state of that execution lies.
        path: where the branch's goes.

    Returns:
        Whether the branch has a file now. It has none where its parent's state could not be stored.
    """
    if state_at(path, origin.epoch) is not None:
        return True
    state = state_at(parent, origin.epoch)
    if state is None:
        return False
    begun = dataclasses.replace(
        state, callbacks=[], history={}, best=None, best_loss=math.inf, generators=None, seconds=0.0, is_origin=True
    )
    write_state(path, begun)
    return True


def with_own_rate(model: keras.Model, own: Sequence[Any], inherited: Sequence[Any]) -> list[Any]:
    """The optimizer's variables of a branch: its parent's, with the learning rate of its own build.

    Args:
        model: of the branch.
        own: what its optimizer begins with.
        inherited: its parent's.
    """
    values, place = list(inherited), place_of_learning_rate(model)
    if place is not None:  # else it follows a schedule, by the step that it is at
        values[place] = getattr(own[place], "value", own[place])
    return values


def check_shapes(plan: Plan, own: Sequence[Sequence[Any]], inherited: Sequence[Sequence[Any]]) -> None:
    """Checks that a branch's variables can take its parent's values.

    Raises:
        FailedTrialError: they have other shapes: a value that was changed decides about the structure.
    """
    shapes, others = ([[tuple(each.shape) for each in group] for group in groups] for groups in (own, inherited))
    if shapes != others:
        assert plan.origin is not None  # our bug: only branches are asked
        raise FailedTrialError(
            explain(
                f"trial {plan.trial_id}, a branch of trial {plan.origin.trial_id}",
                "a model of other shapes than its parent's: one of the values that were changed decides about them",
                "changes of numbers that a model takes as data",
                'Type PopulationBasedTraining(..., names=["learning_rate"]), without that value.',
            )
        )


def lost(plan: Plan) -> FailedTrialError:
    """What ends a branch whose parent's state, and its own, is gone."""
    assert plan.origin is not None  # our bug: only branches are asked
    return FailedTrialError(
        explain(
            f"trial {plan.trial_id}, a branch of trial {plan.origin.trial_id} after {plan.origin.epoch} epochs",
            "no state to begin with: it was in the memory of a process that has ended, and on no disk",
            "the state that the parent had then",
            "Leave out callbacks that hold open files; see that the disk has room. Another trial takes its place.",
        )
    )
