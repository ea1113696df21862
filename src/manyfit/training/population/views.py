"""The rows of each member: all that there are, a part of them, or what was computed once of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.data.rows import Split
from manyfit.training.base import Task
from manyfit.training.population.data import FitArguments, ResidentRows, Shapes, Sources, Stream, why_not_read
from manyfit.training.population.prefix import Frozen
from manyfit.training.population.trace import CannotTrace
from manyfit.training.replay import DATA


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The rows of a member, and what a step must know of them.

    Attributes:
        data: the fit arguments, with the member's own rows.
        shapes: of the batches that occur.
        sizes: types and sizes of the full batches: what members of one program have in common.
        rooms: lengths of the arrays: what members of one program have in common, too.
        num_steps: batches to train and to validate on: what members that stand side by side have in common.
        frozen: what a part of its leaves was computed with, once; None: they are the user's.
    """

    data: FitArguments
    shapes: Shapes
    sizes: str
    rooms: tuple[int, ...]
    num_steps: tuple[int | None, ...]
    frozen: Frozen | None = None

    def with_rows(self, training: ResidentRows, validation: ResidentRows | None, frozen: Frozen) -> View:
        """The same rows in other leaves: what is computed once of them in the place of what it is computed of."""
        data = dataclasses.replace(self.data, training=training, validation=validation)
        return _view_of(data, frozen)

    def named(self, text: str) -> str:
        """A text, and what members of one program have in common of their rows."""
        return f"{text} {self.sizes} {self.rooms}"

    @property
    def training(self) -> ResidentRows | Stream:
        """The rows to train on, or the stream that everybody reads."""
        return self.data.training

    @property
    def validation(self) -> ResidentRows | Stream | None:
        """The rows to validate on, if there are any."""
        return self.data.validation

    @property
    def streams(self) -> bool:
        """Whether either comes batch by batch."""
        return isinstance(self.training, Stream) or isinstance(self.validation, Stream)


class Views:
    """What each member reads. Members of one fold and equal calls share a view, and with it the order of their batches.

    Args:
        sources: the rows of all calls.
        task: says what part of them a plan has.
    """

    def __init__(self, sources: Sources, task: Task) -> None:
        self._sources, self._task = sources, task
        self._views: dict[tuple[int | None, int], tuple[Any, View]] = {}  # what the ids are of is held as well

    def of(self, plan: Plan, call: Call) -> View:
        """The view of a plan that is trained by a call of `fit`.

        Raises:
            CannotTrace: the call reads what cannot be shared with the others.
            TypeError: it has arguments that `model.fit` does not know.
            ValueError: it has data that Keras's adapters refuse.
        """
        if (reason := why_not_read(call)) is not None:
            raise CannotTrace(reason)
        data = self._sources.of(call)
        if data is None:
            raise CannotTrace("trials train on rows of their own, or read a stream in batches of their own")
        split = None if self._task.split_for is None else self._task.split_for(plan)
        part = self._task.part_of(plan)
        if split is not None and isinstance(data.training, Stream):
            raise CannotTrace("the folds' data do not fit on the device")
        if part is not None and isinstance(data.training, Stream):
            raise CannotTrace("the rows do not fit on the device, and a part of them is to be trained on")
        # By identity of the rows, and held with them: an id may be given again once its object is gone.
        rows = part if split is None else split
        key = None if rows is None else id(rows), id(data)
        if key not in self._views:
            self._views[key] = rows, _view(data, split, part)
        return self._views[key][1]


def _view(data: FitArguments, split: Split | None, part: np.ndarray | None) -> View:
    training, validation = data.training, data.validation
    if part is not None:
        assert isinstance(training, ResidentRows)  # our bug: `of` asks
        data = dataclasses.replace(data, training=training.part(part))
    if split is not None:
        assert isinstance(training, ResidentRows) and isinstance(
            validation, ResidentRows
        )  # our bug: `read_fit_arguments` sees to it where a task has splits
        training, validation = training.part(split.training), validation.part(split.validation)
        data = dataclasses.replace(data, training=training, validation=validation)
    return _view_of(data)


def _view_of(data: FitArguments, frozen: Frozen | None = None) -> View:
    shapes = Shapes(data.training, data.validation)
    sizes = " ".join(f"{kind} {source.structure} {source.shapes[0]}" for kind, source in shapes.sources())
    sources = [source for _, source in shapes.sources()]
    # Which further shapes come, and in which order, is each stream's own.
    sizes += "".join(f" stream {source.number}" for source in sources if isinstance(source, Stream))
    rooms = tuple(source.room for source in sources if isinstance(source, ResidentRows))
    return View(data, shapes, sizes, rooms, tuple(source.num_steps for source in sources), frozen)


def of_all_rows(task: Task, plan: Plan, call: Call) -> Call:
    """A call on the rows of a fold, on all rows: folds are parts of those that are here already."""
    searched = task.calls.get(plan.trial_id, task.call)
    if task.split_for is None:
        return call if task.part_of(plan) is None else call.with_(rows=searched.rows)
    whole = {name: searched.get(name) for name in DATA[:-1] if searched.get(name) is not None}
    return call.with_(without=("validation_data", "validation_split"), **whole)
