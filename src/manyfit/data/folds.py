"""Cross-validation: which rows train and which rows validate, as index sets.

A trainer is handed one array of rows and, per execution, a `Split` of its row numbers, so the data lie in memory once.
"""

from __future__ import annotations

import copy
import dataclasses
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from manyfit.core import seeds
from manyfit.core.checks import is_whole
from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.records import Plan
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.data.call import Call
from manyfit.data.kinds import FRAMES, NUMPY, SPARSE, Ability, is_nested, kind_of
from manyfit.data.rows import FitData, Rows, Split

_WHERE = "CrossValidation"


@runtime_checkable
class Splitter(Protocol):
    """A splitter of scikit-learn, or whatever has its two methods."""

    def split(self, x: Any, y: Any = None, groups: Any = None) -> Iterable[tuple[np.ndarray, np.ndarray]]: ...

    def get_n_splits(self) -> int: ...


class Folds:
    """The splits of one data set: an endless row of them, repeat after repeat.

    Args:
        num_splits: splits per repeat.
        make: repeat number -> its splits.
        groups: one label per row; rows with the same label must stay together.
        blocks: one number per row, of rows in the order of time: those that follow each other are alike.

    Attributes:
        related: (rows,) numbers: rows with the same one are not independent of each other; None: all are.
    """

    def __init__(
        self,
        num_splits: int,
        make: Callable[[int], list[Split]],
        groups: np.ndarray | None = None,
        *,
        blocks: np.ndarray | None = None,
    ) -> None:
        self.num_splits = num_splits
        self.related = blocks if groups is None else np.unique(groups, return_inverse=True)[1]
        self._make = make
        self._groups = groups
        self._repeats: dict[int, list[Split]] = {}

    def split(self, index: int) -> Split:
        """The split of this number: fold `index % num_splits` of repeat `index // num_splits`.

        Raises:
            UsageError: a part is empty, the parts overlap, or a group lies in both.
        """
        repeat, fold = divmod(index, self.num_splits)
        # Kept, so that all executions of a search see the same rows, whatever a splitter answers when asked twice.
        if repeat not in self._repeats:
            self._repeats[repeat] = self._make(repeat)
            for split in self._repeats[repeat]:
                self._check_groups(split)
        return self._repeats[repeat][fold]

    @property
    def validation_ratio(self) -> float:
        """Validation rows per training row, the mean over one repeat; for `manyfit.stats.intervals.fold_interval`."""
        splits = [self.split(index) for index in range(self.num_splits)]
        return float(np.mean([len(split.validation) / len(split.training) for split in splits]))

    def _check_groups(self, split: Split) -> None:
        if self._groups is None:
            return
        shared = np.intersect1d(self._groups[split.training], self._groups[split.validation])
        if len(shared):
            got = f"group {shared[0]} in the training and in the validation part"
            instead = "Type kt.CrossValidation(folds, groups=groups), or pass a splitter for groups."
            raise UsageError(explain(f"{_WHERE}(groups=...)", got, "each group in one part", instead))


class CrossValidation:
    """How rows are cut into folds: an argument of `search` and `confirm`.

    Args:
        folds: how many folds, or a splitter of scikit-learn (anything with `split` and `get_n_splits`).
        repeats: how often the rows are cut anew, each time in another order.
        stratify: keep the shares of the classes in each fold. None does so where y holds class numbers with enough
            rows of each, True insists, False does not; an array holds the classes of the rows.
        groups: one label per row; rows with the same label stay in one fold.
        time_series: train on the past, validate on what comes next; rows are in the order of time.
        seed: of the order of the rows; trials of one search share it, so that they are compared on the same folds.

    Raises:
        UsageError: fewer than 2 folds, no repeats, or settings that exclude each other.

    Example:

    >>> splits = CrossValidation(3, stratify=True).resolve(np.zeros((6, 1)), np.array([0, 0, 0, 1, 1, 1]))
    >>> [len(splits.split(fold).validation) for fold in range(3)]
    [2, 2, 2]
    """

    @checked_arguments(skip=("folds",), seed=at_least(0))
    def __init__(
        self,
        folds: int | Splitter = 5,
        repeats: int = 1,
        *,
        stratify: bool | ArrayLike | None = None,
        groups: ArrayLike | None = None,
        time_series: bool = False,
        seed: int = 0,
    ) -> None:
        self.splitter = folds if isinstance(folds, Splitter) else None
        if self.splitter is None and not (is_whole(folds) and folds >= 2):
            got = f"folds={folds!r}"
            raise UsageError(explain(_WHERE, got, "2 folds or more, or a splitter", "Type kt.CrossValidation(5)."))
        if not (is_whole(repeats) and repeats >= 1):
            raise UsageError(explain(_WHERE, f"repeats={repeats!r}", "1 or more", "Leave repeats= out for 1."))
        if isinstance(stratify, str):
            got, allowed = f"stratify={stratify!r}", "True, False, None or an array of classes"
            raise UsageError(explain(_WHERE, got, allowed, "Type stratify=True, or pass the classes of the rows."))
        stratified = stratify is not None and stratify is not False
        if stratified + (groups is not None) + time_series > 1:
            got = "two of stratify, groups and time_series"
            instead = "For two at once pass a splitter, for instance sklearn.model_selection.StratifiedGroupKFold(5)."
            raise UsageError(explain(_WHERE, got, "one of them", instead))
        if time_series and repeats > 1:
            raise UsageError(explain(_WHERE, f"time_series with repeats={repeats}", "repeats=1", "Time runs once."))
        self.folds = None if self.splitter is not None else operator.index(folds)  # type: ignore[arg-type]  # checked above
        self.repeats = int(repeats)
        self.stratify = stratify
        self.groups = None if groups is None else np.asarray(groups)
        self.time_series = time_series
        self.seed = seed

    @classmethod
    def of(cls, given: object) -> CrossValidation:
        """Understands a `CrossValidation`, a number of folds, or a splitter of scikit-learn.

        Raises:
            UsageTypeError: something else.
        """
        if isinstance(given, CrossValidation):
            return given
        if isinstance(given, Splitter) or is_whole(given):
            return cls(given)  # type: ignore[arg-type]  # `is_whole` says so
        raise UsageTypeError(
            explain(
                "cross_validation=",
                given,
                "kt.CrossValidation(...), a number or a splitter",
                "Type kt.CrossValidation(5).",
            )
        )

    def __repr__(self) -> str:
        words = [repr(self.splitter or self.folds)] + ([f"repeats={self.repeats}"] if self.repeats > 1 else [])
        words += ["time_series=True"] if self.time_series else []
        words += ["groups=..."] if self.groups is not None else []
        words += (
            [] if self.stratify is None else [f"stratify={self.stratify if isinstance(self.stratify, bool) else '...'}"]
        )
        return f"CrossValidation({', '.join(words)}, seed={self.seed})"

    def resolve(self, x: FitData, y: FitData) -> Folds:
        """The folds of a data set.

        Args:
            x: an array of rows, or a list or dict of arrays.
            y: the targets of the rows.

        Raises:
            UsageError: x is no array, more folds than rows, rows of a class, or groups; a group in several folds.
        """
        given = Rows.of(x, y)
        given.require(Ability.TAKEN, _WHERE)
        given.check_lengths(_WHERE)
        rows = given.num_rows or 0
        if self.groups is not None and len(self.groups) != rows:
            got = f"{len(self.groups)} groups for {rows} rows"
            raise UsageError(
                explain(f"{_WHERE}(groups=...)", got, "one group per row", "Pass the groups of all rows of x.")
            )
        if self.splitter is not None:
            expected = getattr(self.splitter, "test_fold", None)  # a fold for each row, written down before
            if expected is not None and len(expected) != rows:
                raise self._refused_by_splitter(
                    f"it was made for data of another length, {len(expected)} and not {rows}"
                )
            return self._from_splitter(rows, x, y)
        assert self.folds is not None  # our bug: __init__ sets it where there is no splitter
        if self.time_series:
            splits = _time_series(rows, self.folds)
            return Folds(self.folds, lambda repeat: splits, blocks=blocks_of_time(rows))
        fold_of = self._assignment(rows, y, self.folds)
        return Folds(self.folds, lambda repeat: _splits(fold_of(self._generator(repeat)), rows), self.groups)

    def _generator(self, repeat: int) -> np.random.Generator:
        return seeds.generator(self.seed, "folds", repeat)

    def _assignment(self, rows: int, y: FitData, folds: int) -> Callable[[np.random.Generator], np.ndarray]:
        """Generator -> the fold of each row."""
        if folds > rows:
            raise UsageError(
                explain(_WHERE, f"{folds} folds of {rows} rows", "at most as many folds as rows", "Use fewer folds.")
            )
        if self.groups is not None:
            return lambda rng: by_groups(np.asarray(self.groups), folds, rng)
        classes = self._classes(rows, y, folds)
        return lambda rng: _dealt(classes, folds, rng)

    def _classes(self, rows: int, y: FitData, folds: int) -> np.ndarray:
        """The class of each row; one class for all where nothing is to be kept in proportion.

        Stratification is the default where y looks like labels, and then it must never refuse what would work without
        it: whatever does not fit means one class for all. Where the user asked for it, the same things are errors.
        """
        everybody = np.zeros(rows, dtype=int)
        if self.stratify is False:
            return everybody
        insists = self.stratify is not None
        labels = np.asarray(y if self.stratify is None or self.stratify is True else self.stratify)
        if labels.ndim == 2 and labels.shape[1] > 1 and insists:
            labels = labels.argmax(axis=1)  # one-hot
        labels = labels.reshape(rows) if labels.size == rows else labels
        if not insists and (labels.shape != (rows,) or labels.dtype.kind not in "biuUSO"):
            return everybody
        if labels.shape != (rows,):
            got = f"classes of shape {labels.shape} for {rows} rows"
            raise UsageError(explain(f"{_WHERE}(stratify=...)", got, "one class per row", "Pass stratify=labels."))
        names, classes, counts = np.unique(labels, return_inverse=True, return_counts=True)
        # Stratification that nobody asked for must not refuse what works without it.
        if counts.min() < folds:
            if not insists:
                return everybody
            got = f"{folds} folds, and class {names[counts.argmin()]} with {counts.min()} rows"
            instead = f"Type folds={max(2, counts.min())}, or stratify=False."
            raise UsageError(
                explain(f"{_WHERE}(stratify=...)", got, "at least one row of each class per fold", instead)
            )
        return classes

    def _from_splitter(self, rows: int, x: FitData, y: FitData) -> Folds:
        assert self.splitter is not None  # our bug: the caller asks
        # Most splitters number rows, and what is in them matters to none; some of a user's look at a column.
        table = np.arange(rows) if is_nested(x) or kind_of(x) not in (NUMPY, FRAMES, SPARSE) else x
        labels = None if y is None or is_nested(y) else np.asarray(y)
        if labels is not None and labels.ndim == 2 and labels.shape[1] > 1:
            labels = labels.argmax(axis=1)  # one-hot
        splits: list[Split] = []
        for repeat in range(self.repeats):
            splitter = self._seeded_splitter(repeat)
            try:
                found = [tuple(map(np.asarray, parts)) for parts in splitter.split(table, labels, self.groups)]
            except (ValueError, TypeError) as error:
                raise self._refused_by_splitter(str(error)) from error
            if max((int(part.max()) for parts in found for part in parts if part.size), default=0) >= rows:
                raise self._refused_by_splitter(f"it has rows behind the last one of {rows}")
            splits += [Split(np.sort(training), np.sort(validation)) for training, validation in found]
        return Folds(len(splits) // self.repeats, lambda repeat: _repeat_of(splits, repeat, self.repeats), self.groups)

    def _seeded_splitter(self, repeat: int) -> Splitter:
        """The splitter; one that would draw from NumPy's global generator draws the same folds after a restart."""
        if getattr(self.splitter, "random_state", 0) is not None:
            return self.splitter  # type: ignore[return-value]  # the caller asks whether there is one
        copied = copy.copy(self.splitter)
        copied.random_state = seeds.seed_of(self.seed, "splitter", repeat) % 2**31  # type: ignore[union-attr]  # it has one
        return copied  # type: ignore[return-value]  # likewise

    def _refused_by_splitter(self, why: str) -> UsageError:
        name = type(self.splitter).__name__
        if self.groups is None and "groups" in why:
            got, allowed = f"{name} without groups", "one group per row, for a splitter that keeps groups together"
            instead = f"Type cross_validation=kt.CrossValidation({name}(...), groups=groups)."
        else:
            got, allowed = f"{name}, which cannot split these rows: {why}", "a splitter that fits the rows"
            instead = "Type cross_validation=5, or give the splitter fewer folds."
        return UsageError(explain("cross_validation=", got, allowed, instead))


@dataclasses.dataclass(frozen=True)
class FoldPlan:
    """The folds of a search: execution number `e` of each trial runs on split `e % num_splits`."""

    folds: Folds
    num_splits: int  # folds times repeats
    numbers: Mapping[tuple[str, int], int] | None = None  # splits of executions that are not numbered like them, by key

    def split_for(self, plan: Plan) -> Split:
        """The rows of an execution."""
        if self.numbers is not None:
            return self.folds.split(self.numbers[plan.key])
        # Further executions of a contender begin again with the first fold, so that trials are compared on the same
        # rows.
        return self.folds.split(plan.execution % self.num_splits)


def fold_plan(given: object, call: Call) -> FoldPlan:
    """What `search(cross_validation=...)` means for its data.

    Raises:
        UsageError: validation data besides, or folds that the rows do not allow.
        UsageTypeError: `given` is no cross-validation.
    """
    for name in ("validation_data", "validation_split"):
        if call.get(name):
            raise UsageError(
                explain(
                    "search(cross_validation=...)",
                    f"{name} besides",
                    "one of the two",
                    f"Leave {name} out: folds validate.",
                )
            )
    cross_validation = CrossValidation.of(given)
    folds = cross_validation.resolve(call.x, call.y)
    repeats = cross_validation.repeats
    for index in range(folds.num_splits * repeats):
        folds.split(index)  # refuses bad folds before anything is trained
    return FoldPlan(folds, folds.num_splits * repeats)


def random_splits(rows: int, num_validation: int, seed: int) -> Folds:
    """A fresh random split for every index, each with so many validation rows."""

    def make(repeat: int) -> list[Split]:
        order = seeds.generator(seed, "random split", repeat).permutation(rows)
        return [Split(np.sort(order[num_validation:]), np.sort(order[:num_validation]))]

    return Folds(1, make)


def _splits(fold_of: np.ndarray, rows: int) -> list[Split]:
    positions = np.arange(rows)
    return [Split(positions[fold_of != fold], positions[fold_of == fold]) for fold in range(int(fold_of.max()) + 1)]


def _dealt(classes: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled, sorted by class, dealt like cards: sizes of folds, and of classes in them, differ by one at most."""
    order = rng.permutation(len(classes))
    # A stable sort leaves the shuffled order within a class as it is; dealing then spreads each class evenly.
    order = order[np.argsort(classes[order], kind="stable")]
    fold_of = np.empty(len(classes), dtype=int)
    fold_of[order] = np.arange(len(classes)) % folds
    return fold_of


def by_groups(groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """The fold of each row, groups together: largest group first, each to the smallest fold so far.

    Args:
        groups: (rows,) labels.
        folds: how many.
        rng: shuffles groups of one size.

    Raises:
        UsageError: more folds than groups.
    """
    names, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < folds:
        got, instead = f"{folds} folds of {len(names)} groups", f"Type folds={len(names)}."
        raise UsageError(explain(f"{_WHERE}(groups=...)", got, "at most as many folds as groups", instead))
    sizes = np.zeros(folds, dtype=int)
    fold_of_group = np.empty(len(names), dtype=int)
    order = rng.permutation(len(names))
    # The usual greedy rule for equal shares. Ties fall as they were shuffled, so that repeats differ.
    for group in order[np.argsort(-counts[order], kind="stable")]:
        fold_of_group[group] = sizes.argmin()
        sizes[fold_of_group[group]] += counts[group]
    return fold_of_group[group_of]


def blocks_of_time(num_rows: int) -> np.ndarray:
    """(rows,) numbers of blocks of rows that follow each other, as long as the cube root of their number, at least two.

    Longer than that no dependence is looked for: it is what the moving-block bootstrap takes (Kunsch 1989).

    Example:

    >>> blocks_of_time(8).tolist()
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    return np.arange(num_rows) // max(2, round(num_rows ** (1 / 3)))


def _time_series(rows: int, folds: int) -> list[Split]:
    """Blocks of equal length at the end of the rows, each after all that it is trained on."""
    block = rows // (folds + 1)
    if block == 0:
        got = f"{folds} folds of {rows} rows"
        raise UsageError(explain(f"{_WHERE}(time_series=True)", got, f"at least {folds + 1} rows", "Use fewer folds."))
    # Rows that do not fill a block are the oldest ones, which all folds train on.
    starts = range(rows - folds * block, rows, block)
    return [Split(np.arange(start), np.arange(start, start + block)) for start in starts]


def _repeat_of(splits: list[Split], repeat: int, repeats: int) -> list[Split]:
    """The splitter's own repeats, over and over: it may not be asked for more than it was made for."""
    size = len(splits) // repeats
    start = (repeat % repeats) * size
    return splits[start : start + size]
