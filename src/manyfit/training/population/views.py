"""What rows a member reads: all of the task's, or those of its own fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from manyfit.core.records import Plan
from manyfit.data.rows import Split
from manyfit.training.population.capture import Shapes
from manyfit.training.population.data import FitArguments, Rows, Stream


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The rows of a member, and what a step must know of them.

    Attributes:
        data: the fit arguments, with the member's own rows.
        shapes: of the batches that occur.
        sizes: rows to train and to validate on; members of one program have the same.
    """

    data: FitArguments
    shapes: Shapes
    sizes: tuple[int, int]

    @property
    def training(self) -> Rows | Stream:
        """The rows to train on, or the stream that everybody reads."""
        return self.data.training

    @property
    def validation(self) -> Rows | Stream | None:
        """The rows to validate on, if there are any."""
        return self.data.validation


class Views:
    """Plan -> view. Members of one fold share one, so that they can share the order of their batches.

    Args:
        data: the fit arguments with all rows.
        split_for: the rows of a plan; None: everybody reads everything.
    """

    def __init__(self, data: FitArguments, split_for: Callable[[Plan], Split] | None) -> None:
        self._data = data
        self._split_for = split_for
        self._views: dict[int | None, tuple[Any, View]] = {}  # by id of the split, which is held as well

    def of(self, plan: Plan) -> View:
        """The view of a plan."""
        split = None if self._split_for is None else self._split_for(plan)
        key = None if split is None else id(split)
        if key not in self._views:
            self._views[key] = split, _view(self._data, split)
        return self._views[key][1]


def _view(data: FitArguments, split: Split | None) -> View:
    training, validation = data.training, data.validation
    if split is not None:
        assert isinstance(training, Rows) and isinstance(
            validation, Rows
        )  # our bug: `read_fit_arguments` sees to it where a task has splits
        training, validation = training.part(split.training), validation.part(split.validation)
        data = dataclasses.replace(data, training=training, validation=validation)
    sizes = [source.num_rows if isinstance(source, Rows) else 0 for source in (training, validation)]
    return View(data, Shapes(training, validation), (sizes[0], sizes[1]))
