"""What a search needs whose trials begin on a part of the rows: which rows a part is, and whether there can be one."""

from __future__ import annotations

from manyfit.core.errors import UsageError, explain
from manyfit.data.call import Call
from manyfit.data.parts import RowParts, why_no_parts
from manyfit.fitting.holdout import classes_of
from manyfit.oracles import Oracle
from manyfit.schedulers import RowHalving


def parts_of(call: Call, seed: int) -> RowParts:
    """Parts of a call's training rows in which classes keep their shares."""
    return RowParts.by_class(call.training_rows().num_rows or 0, classes_of(call.training_rows().y, 2), seed)


def check_parts(oracle: Oracle, call: Call, own_training: str | None, *, has_folds: bool) -> None:
    """Refuses searches whose trials could not begin on a part of the rows.

    Args:
        oracle: of the search.
        call: of `fit`.
        own_training: what trains in place of Manyfit; None: nothing does.
        has_folds: whether the search has a cross-validation.

    Raises:
        UsageError: rows that come as a stream, folds, code of the user's that trains, or parts that are not smaller
            than all rows.
    """
    scheduler = oracle.scheduler
    got = own_training or why_no_parts(call) or ("folds, of which each has rows of its own" if has_folds else None)
    allowed, instead = "arrays, and models that Manyfit trains in this process", 'Type scheduler="asha" instead.'
    count = call.training_rows().num_rows if got is None else None
    if isinstance(scheduler, RowHalving) and count is not None and scheduler.rows[-1] >= count:
        got, allowed = f"rows={scheduler.rows} of {count:,} training rows", "parts that are smaller than all rows"
        instead = f"Type rows=[{max(1, count // 9):_}, {max(2, count // 3):_}], say."
    if got is not None:
        raise UsageError(explain(f"search() with {type(scheduler).__name__}", got, allowed, instead))
