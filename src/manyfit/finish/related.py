"""Validation rows that resemble each other: rows of one patient, neighbours in a series.

What is drawn anew for other rows is a whole group then, or a block of time, so the error of the rows is that of groups.
Which rows belong together is said once, at the first confirmation or by `fit`, and kept with the project: evidence that
counted rows one by one in one call and in groups in the next would contradict itself. Weights of ensembles are
cross-fitted by the same groups: neighbours on both sides of a cut would vouch for each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.data.classes import ProjectFacts
from manyfit.data.folds import blocks_of_time

FEWEST_GROUPS = 6  # with fewer nobody can say how much groups differ
_FACT = "related_rows"  # where the project keeps them


def related_rows(
    facts: ProjectFacts, groups: Any, *, time_ordered: bool, num_rows: int | None, say: Callable[[str], None]
) -> np.ndarray | None:
    """(rows,) the group of each validation row, as the first confirmation was told; None: rows are independent.

    Args:
        facts: of the project.
        groups: what this call was told, or None.
        time_ordered: rows are in the order of time, which makes blocks of neighbours.
        num_rows: validation rows; None: unknown.
        say: takes one line of text for people.

    Raises:
        UsageError: groups and an order of time at once; groups of another length, or fewer than six; an order of rows
            that nobody can count, or of fewer than six blocks.
    """
    kept = facts.get(_FACT)
    given = _labels(groups, time_ordered, num_rows)
    if kept is None:
        if given is not None:
            facts.put(**{_FACT: given.tolist()})
        return given
    known = np.array(kept)
    if given is not None and not np.array_equal(given, known):
        say("confirm: rows belong together as they did in the first confirmation, not as this call says.")
    return known


def known_groups(facts: ProjectFacts, num_rows: int) -> np.ndarray | None:
    """(rows,) the group of each validation row, where that was said once; None: nobody has, or of other rows.

    Args:
        facts: of the project.
        num_rows: validation rows.
    """
    kept = facts.get(_FACT)
    return np.array(kept) if kept is not None and len(kept) == num_rows else None


def _labels(groups: Any, time_ordered: bool, num_rows: int | None) -> np.ndarray | None:
    if groups is None and not time_ordered:
        return None
    where = "confirm(groups=...)" if groups is not None else "confirm(time_ordered=True)"
    if groups is not None and time_ordered:
        instead = "Keep what makes rows resemble each other."
        raise UsageError(explain("confirm()", "groups= and time_ordered=True", "one of the two", instead))
    if groups is None:
        if num_rows is None:
            got, allowed = "validation rows that nobody can count", "validation_data= as arrays"
            raise UsageError(explain(where, got, allowed, "Leave it out: rows of a stream are unknown anyway."))
        labels = blocks_of_time(num_rows)
    else:
        labels = np.asarray(groups)
        if labels.ndim != 1 or (num_rows is not None and len(labels) != num_rows):
            got = f"groups of shape {labels.shape} for {num_rows} validation rows"
            raise UsageError(explain(where, got, "one label per validation row", "Type groups=patient_of_row, say."))
    found = np.unique(labels, return_inverse=True)[1].reshape(-1)
    if (count := int(found.max(initial=-1)) + 1) < FEWEST_GROUPS:
        got, allowed = f"{count} groups", f"{FEWEST_GROUPS} or more: how much groups differ is seen in them"
        instead = "Validate on more groups, or leave it out: then nothing holds for other groups."
        raise UsageError(explain(where, got, allowed, instead))
    return found
