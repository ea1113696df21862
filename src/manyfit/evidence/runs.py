"""Fresh runs of several contenders on common seeds, and what the difference of two of them is known by.

| notation | meaning |
|---|---|
| l_isj | loss of contender i with seed s on validation row j |
| D_sj | l_isj - l_ksj of a pair (i, k), over the n seeds that both have finished and the N rows that all share |
| S^2 | variance over seeds of the mean over rows of D |
| B | variance over rows of the mean over seeds of D |

The mean of D estimates the difference on *new* seeds and *new* rows, with variance S^2 / n + B / N. That is
(MS_S + MS_R) / (n N) of the crossed layout; subtracting MS_E would make it unbiased, and now and then negative. Both
are needed: seeds alone say that one configuration fits these rows better, as is so of equals in every second race.

Where rows come in groups that resemble each other (patients; blocks of a series), groups are what is drawn anew: the
square of a row's deviation is replaced by that of a group's sum, as in `stats.components`, and there are as many
degrees of freedom as groups.

Where each seed has rows of its own (folds, new splits), the seeds hold the luck of the rows, and training sets overlap:
the variance is (1 / n + validation rows / training rows) S^2 (Nadeau and Bengio 2003).
"""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from manyfit.core.errors import UsageError, explain
from manyfit.stats.components import row_squares
from manyfit.stats.intervals import score_table
from manyfit.stats.noise import moderated

_CHUNK_ROWS = 20_000  # of the products over rows: what they need stays small, however many rows there are


@dataclasses.dataclass(frozen=True)
class Difference:
    """How much more one contender loses than another: negative where it is better."""

    mean: float
    seeds_variance: float  # S^2: of a single seed's difference
    rows_variance: float | None  # B / N: of the mean, by the rows; None: unknown
    rows_at_best: float  # what B / N becomes with ever more seeds; 0 where the rows are unknown
    num_seeds: int
    num_rows: int | None
    overlap: float | None
    degrees: float  # of S^2
    rows_degrees: float = math.nan  # of B; NaN: as many as rows, less 1

    @property
    def variance(self) -> float:
        """Of the mean, for new seeds and new rows (as far as the rows are known)."""
        return self.variance_after(self.num_seeds)

    def variance_after(self, num_seeds: int) -> float:
        """What the variance becomes with so many seeds."""
        if self.overlap is not None:
            return self.seeds_variance * (1 / num_seeds + self.overlap)
        if self.rows_variance is None:
            return self.seeds_variance / num_seeds
        shrinks = max(0.0, self.rows_variance - self.rows_at_best) * self.num_seeds / num_seeds
        return self.seeds_variance / num_seeds + self.rows_at_best + shrinks

    @property
    def variance_at_best(self) -> float:
        """What no number of seeds takes away."""
        return self.rows_at_best if self.overlap is None else self.seeds_variance * self.overlap

    @property
    def variance_of_free_degrees(self) -> float:
        """Satterthwaite's degrees of freedom of `variance`."""
        variance = self.variance
        if variance <= 0:
            return self.degrees
        seeds = self.seeds_variance * (1 / self.num_seeds + (self.overlap or 0.0))
        parts = seeds**2 / self.degrees
        if self.rows_variance is not None and self.num_rows is not None:
            parts += self.rows_variance**2 / self._degrees_of_rows
        return float(variance**2 / parts)

    @property
    def _degrees_of_rows(self) -> float:
        return self.rows_degrees if math.isfinite(self.rows_degrees) else max(1.0, (self.num_rows or 2) - 1.0)

    @property
    def statistic(self) -> float:
        """The mean in standard errors; infinite where all differences are the same, and no noise is seen."""
        # Rounding alone leaves a deviation of about 1e-16 for equal differences; it is no noise.
        if self.variance <= (1e-12 * self.mean) ** 2:
            return 0.0 if self.mean == 0 else float(np.sign(self.mean) * np.inf)
        return float(self.mean / np.sqrt(self.variance))

    @property
    def p_value(self) -> float:
        """The chance of so large a difference between equals: one-sided, small where the first is worse."""
        if np.isinf(self.statistic):
            return 0.0 if self.statistic > 0 else 1.0
        return float(special.stdtr(self.variance_of_free_degrees, -self.statistic))

    def reach(self, level: float) -> float:
        """Half the width of the interval that leaves `level` on each side."""
        if self.variance == 0:
            return 0.0
        return float(-special.stdtrit(self.variance_of_free_degrees, level) * np.sqrt(self.variance))

    def rows_needed(self, level: float) -> int | None:
        """Rows at which the difference, if it stays, would stand out of their luck alone; None: unknown or none.

        Of rows in groups it takes as many more groups of the same size.
        """
        if self.num_rows is None or self.rows_variance is None or self.mean == 0:
            return None
        t = -special.stdtrit(self._degrees_of_rows, level)
        return int(np.ceil(self.num_rows * t**2 * self.rows_variance / self.mean**2))

    def hidden_by_rows(self, level: float, num_seeds: int) -> bool:
        """Whether the luck of the rows alone would hide it, also after so many seeds."""
        if self.num_rows is None or self.rows_variance is None:
            return False
        rows = self.variance_after(num_seeds) - self.seeds_variance / num_seeds
        t = -special.stdtrit(self._degrees_of_rows, level) if level > 0 else np.inf
        return bool(abs(self.mean) < t * np.sqrt(rows))

    def seeds_needed(self, level: float) -> int | None:
        """Seeds at which the difference, if it stays, would be settled; None: no number of seeds settles it."""
        t = -special.stdtrit(self.variance_of_free_degrees, level)
        room = (self.mean / t) ** 2 - self.variance_at_best
        shrinks = self.num_seeds * (self.variance - self.variance_at_best)
        return None if room <= 0 else max(self.num_seeds, int(np.ceil(shrinks / room)))


@dataclasses.dataclass
class Pairs:
    """The differences of all pairs of some contenders, as matrices; see `Difference` for what each holds."""

    runs: Runs
    ids: np.ndarray  # the contenders, in order
    mean: np.ndarray  # (contenders, contenders) loss of the first less that of the second
    seeds_variance: np.ndarray
    rows_variance: np.ndarray  # NaN: unknown
    rows_at_best: np.ndarray
    num_seeds: np.ndarray
    degrees: np.ndarray

    def moderate(self, most_degrees: float) -> None:
        """Lets variances over seeds borrow degrees of freedom from each other.

        Args:
            most_degrees: that all pairs know together; they share contenders, so it is less than their sum.
        """
        upper = np.triu(self.num_seeds >= 2, k=1) & (self.seeds_variance > 0)
        if upper.sum() < 2:
            return
        calm = moderated(self.seeds_variance[upper], self.degrees[upper])
        own = self.degrees[upper]
        for matrix, values in (
            (self.seeds_variance, calm.variances),
            (self.degrees, np.maximum(own, np.minimum(calm.degrees, most_degrees))),
        ):
            matrix[upper] = values
            matrix.T[upper] = values

    def p_values(self) -> np.ndarray:
        """(contenders, contenders): small where the first is worse; 1 with fewer than two common seeds, or itself."""
        overlap = 0.0 if self.runs.overlap is None else self.runs.overlap
        with np.errstate(invalid="ignore", divide="ignore"):
            seeds = self.seeds_variance * (1 / self.num_seeds + overlap)
            rows = np.nan_to_num(self.rows_variance) if self.runs.overlap is None else np.zeros_like(seeds)
            variance = seeds + rows
            parts = seeds**2 / self.degrees + rows**2 / self.runs.rows_degrees
            p = special.stdtr(variance**2 / parts, -self.mean / np.sqrt(variance))
        noiseless = variance <= (1e-12 * self.mean) ** 2
        p = np.where(noiseless, np.where(self.mean > 0, 0.0, 1.0), p)
        return np.where((self.num_seeds >= 2) & ~np.eye(len(self.ids), dtype=bool), p, 1.0)

    def difference(self, one: int, other: int) -> Difference:
        """Of two contenders, by their numbers."""
        i, j = np.searchsorted(self.ids, [one, other])
        rows = float(self.rows_variance[i, j])
        known = bool(np.isfinite(rows))
        return Difference(
            float(self.mean[i, j]),
            float(self.seeds_variance[i, j]),
            rows if known else None,
            float(self.rows_at_best[i, j]),
            int(self.num_seeds[i, j]),
            self.runs.num_rows if known else None,
            self.runs.overlap,
            float(self.degrees[i, j]),
            self.runs.rows_degrees,
        )


class Runs:
    """The table that decisions are made from.

    Args:
        values: losses, shape (contenders, seeds), lower is better; NaN: not run, +inf: diverged or failed.
        rows: losses of each validation row, shape (contenders, seeds, rows), whose means are the values; NaN for a
            run whose rows are unknown. Of a metric that is no mean, the value plus the row's influence. None: the rows
            have no identity, or were not kept.
        overlap: where each seed has rows of its own: validation rows by training rows.
        groups: (rows,) a label per row, where rows of one group resemble each other; None: rows are independent.

    Raises:
        UsageError: values that are no table, rows of another shape, or groups of another number of rows.

    Example:

    >>> values = np.array([[0.30, 0.32], [0.41, 0.40]])
    >>> rows = values[:, :, None] + np.array([-0.1, 0.0, 0.1])
    >>> round(Runs(values, rows).difference(1, 0, [0, 1]).mean, 3)
    0.095
    """

    def __init__(
        self,
        values: ArrayLike,
        rows: ArrayLike | None = None,
        *,
        overlap: float | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        self.values = score_table("runs(values)", values)
        self.overlap = overlap
        self._rows = None if rows is None or overlap is not None else np.asarray(rows)
        if self._rows is not None and (self._rows.ndim != 3 or self._rows.shape[:2] != self.values.shape):
            got = f"rows of shape {self._rows.shape} for values of shape {self.values.shape}"
            raise UsageError(explain("runs(rows)", got, "shape (contenders, seeds, rows)", "Leave rows out."))
        enough = self._rows is not None and self._rows.shape[2] > 1
        self.num_rows = self._rows.shape[2] if self._rows is not None and enough else None
        self._squares, self.rows_degrees = row_squares(self.num_rows or 2, groups if self.num_rows else None, None)
        if self.rows_degrees <= 0:  # one group only: nobody can say anything of others
            self._rows, self.num_rows, self.rows_degrees = None, None, 1.0

    @property
    def num_contenders(self) -> int:
        """Rows of the table."""
        return self.values.shape[0]

    @functools.cached_property
    def has_run(self) -> np.ndarray:
        """For each contender, the seeds that it has run without a gap."""
        return np.asarray(np.cumprod(~np.isnan(self.values), axis=1).sum(axis=1))

    @functools.cached_property
    def failed(self) -> np.ndarray:
        """(contenders, seeds) which runs have no score."""
        return np.isinf(self.values)

    @functools.cached_property
    def _known(self) -> np.ndarray:
        """(contenders, seeds) the runs whose rows are known."""
        if self._rows is None or self.num_rows is None:
            return np.zeros(self.values.shape, dtype=bool)
        return np.asarray(np.isfinite(self._rows).all(axis=2) & np.isfinite(self.values))

    @functools.cached_property
    def _products(self) -> np.ndarray:
        """(runs, runs) sums over rows of products of deviations from each run's mean: all that differences need.

        Of the runs whose rows are known; what all runs have in common with a row is taken out first, as it would only
        cost digits: it cancels in every difference. Of groups they are sums of products of the groups' own sums, on
        the scale of those of rows.
        """
        assert self._rows is not None
        known = self._known.ravel()
        table = self._rows.reshape(-1, self._rows.shape[2])[known]
        products = self._of_groups(table) if self._squares.labels is not None else _of_rows(table)
        full = np.full((known.size, known.size), np.nan)
        full[np.ix_(known, known)] = products
        return full

    def _of_groups(self, table: np.ndarray) -> np.ndarray:
        """(runs, runs) products of the sums of groups, times what makes (N - 1) N of their variance of a mean."""
        labels, size = self._squares.labels, table.shape[1]
        assert labels is not None  # our bug: asked where rows have no groups
        sizes = np.bincount(labels)
        sums = np.stack([np.bincount(labels, row.astype(np.float64)) for row in table])
        sums -= sums.mean(axis=0)
        sums -= sums.sum(axis=1, keepdims=True) * sizes / size
        products: np.ndarray = sums @ sums.T * (len(sizes) / (len(sizes) - 1) * (size - 1) / size)
        return products

    def common(self, one: int, other: int, seeds: ArrayLike) -> np.ndarray:
        """Those of the seeds that both have finished with a score."""
        chosen = np.asarray(seeds, dtype=int)
        return chosen[np.isfinite(self.values[[one, other]][:, chosen]).all(axis=0)]

    def pairs(self, ids: ArrayLike, rounds: int) -> Pairs:
        """The differences of all pairs of some contenders over their common seeds among the first rounds."""
        chosen = np.sort(np.asarray(ids, dtype=int))
        x, known = self.values[chosen, :rounds], self._known[chosen, :rounds]
        if not np.isfinite(x).all() or (known.any() and not known.all()):
            return self._pairs_one_by_one(chosen, rounds)
        count, n = x.shape
        d = x[:, None, :] - x[None, :, :]
        mean = d.mean(axis=2)
        seeds = d.var(axis=2, ddof=1) if n > 1 else np.full((count, count), np.nan)
        # Rounding alone leaves a variance for equal differences; it is no noise.
        seeds[seeds <= (1e-12 * mean) ** 2] = 0.0
        rows, at_best = np.full((count, count), np.nan), np.zeros((count, count))
        if self.num_rows is not None and known.all() and n:
            width, size = self.values.shape[1], self.num_rows
            places = (chosen[:, None] * width + np.arange(n)).ravel()
            products = self._products[np.ix_(places, places)].reshape(count, n, count, n)
            between = np.maximum(_squared_distances(products.sum(axis=(1, 3))), 0.0) / n**2
            rows = between / (size - 1) / size
            if n > 1:
                all_of_it = _squared_distances(np.einsum("isjs->ij", products))
                rest = np.maximum(all_of_it - n * between, 0.0) / ((n - 1) * (size - 1))
                at_best = np.maximum(rows - rest / n / size, 0.0)
        shape = (count, count)
        return Pairs(self, chosen, mean, seeds, rows, at_best, np.full(shape, n), np.full(shape, max(1.0, n - 1.0)))

    def _pairs_one_by_one(self, ids: np.ndarray, rounds: int) -> Pairs:
        """Where runs failed, each pair has seeds of its own."""
        count, seeds = len(ids), np.arange(rounds)
        found = [[self.difference(int(one), int(other), seeds) for other in ids] for one in ids]
        columns = [
            np.array([[getattr(each, name) for each in row] for row in found], dtype=float).reshape(count, count)
            for name in ("mean", "seeds_variance", "rows_variance", "rows_at_best", "num_seeds", "degrees")
        ]
        return Pairs(self, ids, *columns)

    def difference(self, one: int, other: int, seeds: ArrayLike) -> Difference:
        """The losses of `one` less those of `other`.

        Args:
            one: the first contender.
            other: the second.
            seeds: that both have run; those in which one of them failed are left out.
        """
        common = self.common(one, other, seeds)
        d = self.values[one, common] - self.values[other, common]
        n = common.size
        mean = float(d.mean()) if n else 0.0
        seeds_variance = float(d.var(ddof=1)) if n > 1 else np.nan
        if n > 1 and seeds_variance <= (1e-12 * mean) ** 2:
            seeds_variance = 0.0
        rows, at_best = self._row_parts(one, other, common)
        known = rows is not None
        num_rows, degrees = self.num_rows if known else None, max(1.0, n - 1.0)
        return Difference(mean, seeds_variance, rows, at_best, n, num_rows, self.overlap, degrees, self.rows_degrees)

    def _row_parts(self, one: int, other: int, common: np.ndarray) -> tuple[float | None, float]:
        """B / N, and what it tends to with ever more seeds; None where no common seed has rows."""
        if self.num_rows is None:
            return None, 0.0
        seeds = common[self._known[[one, other]][:, common].all(axis=0)]
        n, num_rows = seeds.size, self.num_rows
        if n == 0:
            return None, 0.0
        width = self.values.shape[1]
        mine, theirs = one * width + seeds, other * width + seeds
        c = self._products
        products = c[np.ix_(mine, mine)] + c[np.ix_(theirs, theirs)] - c[np.ix_(mine, theirs)] - c[np.ix_(theirs, mine)]
        between = max(0.0, float(products.sum())) / n**2  # sum over rows of squares of the means over seeds
        rows = between / (num_rows - 1) / num_rows
        if n == 1:
            return rows, 0.0
        rest = max(0.0, float(np.trace(products)) - n * between) / ((n - 1) * (num_rows - 1))  # MS_E
        return rows, max(0.0, rows - rest / n / num_rows)


def _of_rows(table: np.ndarray) -> np.ndarray:
    """(runs, runs) products of deviations, over chunks of rows."""
    size = len(table)
    products, sums = np.zeros((size, size)), np.zeros(size)
    for start in range(0, table.shape[1], _CHUNK_ROWS):
        part = table[:, start : start + _CHUNK_ROWS].astype(np.float64)
        part -= part.mean(axis=0)
        products += part @ part.T
        sums += part.sum(axis=1)
    products -= np.outer(sums, sums) / table.shape[1]
    return products


def _squared_distances(products: np.ndarray) -> np.ndarray:
    """|a_i - a_j|^2 from the products a_i a_j."""
    own = np.diag(products)
    distances: np.ndarray = own[:, None] + own[None, :] - 2 * products
    return distances
