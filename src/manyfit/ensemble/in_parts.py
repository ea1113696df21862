"""What several models say of many rows, some rows at a time: memory does not grow with the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from manyfit.data.kinds import Ability, FitData, leaves
from manyfit.data.rows import Rows
from manyfit.ensemble.outputs import Prediction
from manyfit.ensemble.prediction import Forward

MOST_NUMBERS = 1 << 24
"""Of predictions that are held at once: 64 MiB in single precision."""
_BATCH = 1024  # rows; parts end where batches do, so that no further shape is compiled


class InParts:
    """Predicts rows with several models of one task, in parts that hold `MOST_NUMBERS` together.

    How many numbers an answer to a row has is known once some rows have been predicted, and remembered: what is not
    more than one part comes as a whole from then on.

    Args:
        forward: what predicts.
    """

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self._numbers: int | None = None

    def __call__(self, models: Sequence[object], x: FitData) -> Iterator[tuple[slice, list[Prediction]]]:
        """Predicts.

        Args:
            models: Keras models or estimators.
            x: rows; what cannot be cut is predicted at once.

        Yields:
            Which rows, and what each model says of them.
        """
        rows = Rows.of(x)
        count = rows.num_rows if rows.can(Ability.TAKEN) else None
        if count is None or count <= self._rows_at_once(len(models)):
            found = self._forward.predict_several(models, x)  # the very same rows: they may be on the device by now
            self._note(found, count)
            yield slice(0, count), found
            return
        # A short first part tells how large an answer is; models of several outputs say that nowhere else.
        start = 0
        while start < count:
            part = slice(start, min(count, start + self._rows_at_once(len(models))))
            found = self._forward.predict_several(models, rows.take(part).x)
            self._note(found, part.stop - part.start)
            yield part, found
            start = part.stop

    def numbers_of(self, models: Sequence[object], x: FitData) -> int:
        """How many numbers the answer of one model to one row has; a row is predicted where nobody knows."""
        if self._numbers is None:
            self._note(self._forward.predict_several(models[:1], Rows.of(x).take(slice(0, 1)).x), 1)
        return self._numbers or 1

    def _note(self, found: Sequence[Prediction], num_rows: int | None) -> None:
        each = max(sum(np.size(leaf) for leaf in leaves(one)) for one in found)
        self._numbers = max(1, math.ceil(each / (num_rows or len(next(leaves(found[0]))))))

    def _rows_at_once(self, num_models: int) -> int:
        if self._numbers is None:
            return _BATCH
        return max(1, MOST_NUMBERS // (self._numbers * num_models) // _BATCH) * _BATCH
