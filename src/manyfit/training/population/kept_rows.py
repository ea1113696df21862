"""Rows of which a part is computed once: what the prefixes of steps (see `prefix`) gave for every row of the data, and
the rows and steps of the members that train on it.

It is shared by all that train on the same rows with the same frozen weights: the trials of a search, its folds, winners
that are confirmed. Before it is used, a batch is computed a second time with its rows moved by one place: what is kept
of a row must not depend on where it stands. It lies in memory; where that would be too much of what is free, and over a
stream, whose rows have no numbers, nothing is kept, and steps compute everything as `model.fit` does.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from manyfit.training.population.arrays import Array, Arrays, Function, State, on_every_device
from manyfit.training.population.canonical_jaxpr import Mismatch
from manyfit.training.population.compile import Compiled, compile_function
from manyfit.training.population.data import ResidentRows
from manyfit.training.population.masking import Masking
from manyfit.training.population.prefix import Cut, Frozen, Prefix, are_equal, cut_trace
from manyfit.training.population.sizing import free_bytes
from manyfit.training.population.trace import Trace
from manyfit.training.population.views import View

CUTS = True
_SHARE_OF_MEMORY = 0.25  # of what is free, for what one prefix keeps
_MAX_CUTS = 32
# To rounding, since products of other rows may be summed up in another order.
_RELATIVE = 1e-3


@dataclasses.dataclass(frozen=True)
class _Kept:
    """What was computed of all rows.

    Attributes:
        prefix: by which.
        sources: the leaves that it was computed of.
        weights: place among the non-trainable variables -> its value then.
        leaves: what came out, a row for each of the sources'.
        num_rows: of those, which the sources hold; they have room for more.
    """

    prefix: Prefix
    sources: Arrays
    weights: Mapping[int, np.ndarray]
    leaves: Arrays
    num_rows: int

    def is_of(self, prefix: Prefix, sources: Arrays) -> bool:
        """Whether this is what a prefix computes of these rows, if the frozen weights are equal."""
        same = all(one is other for one, other in zip(self.sources, sources, strict=True))
        return self.prefix.key == prefix.key and same


def _frozen(kept: Iterable[_Kept]) -> Frozen:
    several = list({id(each): each for each in kept}.values())  # folds validate on rows that others train on
    weights = {place: value for each in several for place, value in each.weights.items()}
    num_rows = sum(each.num_rows for each in several)
    num_bytes = sum(leaf.nbytes // len(leaf) * each.num_rows for each in several for leaf in each.leaves)
    most = max(each.prefix.multiplications for each in several)
    words = f"a frozen prefix of {_short(most)} multiplications a row is computed once"
    return Frozen(weights, f"{words} ({num_rows:,} rows, {_short(num_bytes)}B)")


def _short(number: float) -> str:
    """A number of three digits or less, and the letter that makes it as large as it is."""
    for letter, unit in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= unit:
            return f"{number / unit:.3g} {letter}"
    return f"{number:.3g} "


class Prefixes:
    """What is kept of prefixes for the executions that train on the same data."""

    def __init__(self) -> None:
        self._cuts: collections.OrderedDict[int, tuple[Trace, Cut | None]] = collections.OrderedDict()
        self._maskings: dict[str, dict[str, Masking | Mismatch]] = {}  # of cut traces, by the key of the whole ones
        self._kept: list[_Kept] = []
        self._compiled: dict[tuple[object, ...], Compiled] = {}
        self._views: dict[tuple[object, ...], tuple[View, View]] = {}

    def cut(self, found: Trace, state: State, view: View, fixed: Sequence[Array]) -> tuple[Trace, View]:
        """A trace and the rows of a member, without what is computed once, or as they are.

        Args:
            found: complete.
            state: of the member, for the shapes.
            view: its rows.
            fixed: the values of the non-trainable variables that it begins with.
        """
        sources = {"train": view.training, "test": view.validation}
        resident = {kind: rows for kind, rows in sources.items() if isinstance(rows, ResidentRows)}
        if not CUTS or "train" not in resident or len(resident) < sum(rows is not None for rows in sources.values()):
            return found, view
        cut = self._cut_of(found, state, resident)
        if cut is None:
            return found, view
        kept = {kind: self._keep(prefix, fixed, resident[kind]) for kind, prefix in cut.prefixes.items()}
        complete = {kind: each for kind, each in kept.items() if each is not None}
        return (cut.trace, self._view(view, resident, complete, cut)) if len(complete) == len(kept) else (found, view)

    def _cut_of(self, found: Trace, state: State, sources: Mapping[str, ResidentRows]) -> Cut | None:
        # By identity, and held: what a recognised model has was cut before.
        if id(found) not in self._cuts:
            cut = cut_trace(found, state, sources, self._maskings.get(found.key, {}))
            self._cuts[id(found)] = found, cut
            if cut is not None:
                self._maskings.setdefault(found.key, cut.trace.maskings)
            if len(self._cuts) > _MAX_CUTS:
                self._cuts.popitem(last=False)
        self._cuts.move_to_end(id(found))
        return self._cuts[id(found)][1]

    def _keep(self, prefix: Prefix, fixed: Sequence[Array], rows: ResidentRows) -> _Kept | None:
        """What a prefix computes of all rows; None where there is no memory for it, or its weights are others'."""
        sources = tuple(rows.leaves[place] for place in prefix.leaves)
        others = [kept for kept in self._kept if kept.is_of(prefix, sources)]
        for kept in others:
            if are_equal(kept.weights, fixed):
                return kept
        num_rows = rows.num_held or rows.num_rows
        if others or prefix.num_bytes * num_rows > _SHARE_OF_MEMORY * free_bytes():
            return None
        # Copies: Keras gives a model's own arrays away when it predicts.
        weights = {place: np.array(fixed[place]) for place in prefix.fixed}
        found = self._computed(prefix, list(weights.values()), sources, size=rows.rows_per_batch, num_rows=num_rows)
        if found is None:
            return None
        kept = _Kept(prefix, sources, weights, tuple(map(on_every_device, found)), num_rows)
        self._kept.append(kept)
        return kept

    def _computed(
        self, prefix: Prefix, fixed: Sequence[Array], sources: Arrays, *, size: int, num_rows: int
    ) -> list[np.ndarray] | None:
        """What is kept of all rows, batch by batch; None where it is not row by row, for all that was shown."""
        at_hand = [np.asarray(leaf.addressable_data(0)) for leaf in sources]

        def batch(start: int) -> list[np.ndarray]:
            numbers = np.arange(start, start + size) % num_rows  # the last batch is filled up with the first rows
            return [leaf[numbers] for leaf in at_hand]

        function = self._function(prefix, (list(fixed), batch(0)))
        one, moved = ([np.asarray(out) for out in function(fixed, batch(start))] for start in (0, 1))
        if not all(map(_moved_along, one, moved)):
            return None
        kept = [np.empty((len(at_hand[0]), *out.shape[1:]), out.dtype) for out in one]
        for start in range(0, num_rows, size):
            for into, out in zip(kept, one if start == 0 else function(fixed, batch(start)), strict=True):
                into[start : min(start + size, num_rows)] = np.asarray(out)[: num_rows - start]
        return kept

    def _function(self, prefix: Prefix, arguments: tuple[list[Array], list[np.ndarray]]) -> Function:
        """The compiled prefix. That of other batches serves as well: a key says what is computed of a row."""
        shapes = [(leaf.shape[1:], str(leaf.dtype)) for leaf in arguments[1]]
        name = (prefix.key, arguments[1][0].shape[0], *shapes)
        if name not in self._compiled:
            self._compiled[name] = compile_function(prefix.values, arguments)
        return self._compiled[name].call

    def _view(self, view: View, sources: Mapping[str, ResidentRows], kept: Mapping[str, _Kept], cut: Cut) -> View:
        """The rows with what is kept; one object for all members that share both, as their orders are named by it."""
        name = (id(view), *map(id, kept.values()), repr(cut.leaves))
        if name not in self._views:
            rows = dict(sources)
            for kind, each in kept.items():  # without the leaves that nobody reads any more
                leaves = (*(sources[kind].leaves[place] for place in cut.leaves[kind]), *each.leaves)
                rows[kind] = dataclasses.replace(sources[kind], leaves=leaves)
            self._views[name] = view, view.with_rows(rows["train"], rows.get("test"), _frozen(kept.values()))
        return self._views[name][1]


def _moved_along(one: np.ndarray, moved: np.ndarray) -> bool:
    """Whether rows that stand one place further up are what they were."""
    a, b = one[1:].astype(np.float64), moved[:-1].astype(np.float64)
    scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
    return np.allclose(a, b, rtol=_RELATIVE, atol=_RELATIVE * scale, equal_nan=True)
