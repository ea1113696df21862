"""Diversity: how different members are, and what their differences give back.

An ensemble gains exactly what its members' differences are worth: the loss of the pool is the mean loss of the members
minus a term that measures how far they are apart. This file computes the two terms, so that a gain can be told from
good members and from different ones, and the pairwise measures that show which members are copies.

Notation: l_i the loss of member i, w weights summing to one, p_i predictions, p the pool.

  (1) (p - y)^2 = sum_i w_i (p_i - y)^2 - sum_i w_i (p_i - p)^2            Krogh and Vedelsby 1995; linear pool
  (2) -log q_y = sum_i w_i (-log p_iy) - sum_i w_i KL(q || p_i),  q the geometric pool     Heskes 1998
  (3) -log p_y = sum_i w_i (-log p_iy) - sum_i w_i log(p_y / p_iy),  p the linear pool     its last term is no longer a
      divergence for each row, but its mean is not negative, by Jensen's inequality
  (4) Q = (ad - bc) / (ad + bc),  a both right, d both wrong, b and c one of them          Yule 1900
Each identity holds exactly, row by row: "members average 0.301, diversity gives back 0.028".
Diversity explains a gain; it does not predict one (arXiv 2307.08364), so nothing here is used to choose members.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from manyfit.ensemble.metrics import log_losses, squared_errors
from manyfit.ensemble.pools import log_clipped, softmax
from manyfit.ensemble.problem import EnsembleProblem, two_columns

COPIES = 0.95  # Q above this, between members whose losses go together too, means copies


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """A loss of a pool, split: `pooled` = `members` - `diversity`."""

    loss: str
    pooled: float
    members: float  # weighted mean of the members' own losses
    diversity: float  # what their differences give back


def squared_decomposition(problem: EnsembleProblem, weights: np.ndarray) -> Decomposition:
    """Equation (1), mean over rows and outputs; `weights` sum to one."""
    used = np.flatnonzero(weights)
    predictions = problem.predictions[used].astype(np.float64)
    pooled = np.tensordot(weights[used], predictions, axes=1)
    own = np.stack([squared_errors(prediction, problem) for prediction in predictions])
    spread = problem.per_row(((predictions - pooled) ** 2).mean(axis=-1))
    return _decomposition("squared error", squared_errors(pooled, problem), own, spread, weights[used], problem)


def log_decomposition(problem: EnsembleProblem, weights: np.ndarray, *, geometric: bool) -> Decomposition:
    """Equation (2) for the geometric pool, (3) for the linear pool, mean over rows and labels."""
    used = np.flatnonzero(weights)
    predictions = problem.predictions[used].astype(np.float64)
    if problem.task.two_class:
        predictions = two_columns(predictions)
        truth = (problem.target.reshape(-1) > 0.5).astype(np.int64)
    else:
        truth = problem.target
    logs = log_clipped(predictions)
    # The identities hold for distributions; clipping and half precision leave sums a little off one.
    logs -= np.log(np.exp(logs).sum(axis=-1, keepdims=True))  # members as distributions, exactly
    own = -logs[:, np.arange(len(truth)), truth]
    if geometric:
        pool = softmax(np.tensordot(weights[used], logs, axes=1))
        back = (pool * (np.log(pool) - logs)).sum(axis=-1)
    else:
        pool = np.tensordot(weights[used], np.exp(logs), axes=1)
        back = np.log(pool[np.arange(len(truth)), truth]) + own
    pooled = -np.log(pool[np.arange(len(truth)), truth])
    name = "log loss, geometric pool" if geometric else "log loss"
    weight = weights[used]
    entry = problem.entry_weight
    return Decomposition(name, float(entry @ pooled), float(weight @ (own @ entry)), float(weight @ (back @ entry)))


def _decomposition(
    name: str, pooled: np.ndarray, own: np.ndarray, back: np.ndarray, weights: np.ndarray, problem: EnsembleProblem
) -> Decomposition:
    rows = problem.row_weight
    return Decomposition(name, float(rows @ pooled), float(weights @ (own @ rows)), float(weights @ (back @ rows)))


@dataclasses.dataclass(frozen=True, eq=False)
class Diversity:
    """Pairwise measures, each (M, M) and symmetric."""

    disagreement: np.ndarray  # share of rows with different decisions; for values, rms difference over rms error
    q_statistic: np.ndarray | None  # equation (4), of right and wrong decisions; None for values
    error_correlation: np.ndarray  # of the losses per row (classes) or of the errors (values)

    @property
    def copies(self) -> np.ndarray:
        """(M, M) whether two members are near-copies."""
        alike = self.error_correlation > COPIES
        if self.q_statistic is not None:
            alike &= self.q_statistic > COPIES
        return alike & ~np.eye(len(alike), dtype=bool)


def diversity(problem: EnsembleProblem) -> Diversity:
    """Measures how different the members' predictions are on the rows of `problem`."""
    if not problem.task.probabilistic:
        return _value_diversity(problem)
    losses = np.stack([log_losses(prediction, problem) for prediction in problem.predictions])
    decisions = _decisions(problem)
    right = _right(problem, decisions)
    # Weighted counts of Yule's table, for all pairs at once.
    weight = problem.entry_weight
    both = np.einsum("in,jn,n->ij", right, right, weight)
    wrong = np.einsum("in,jn,n->ij", 1 - right, 1 - right, weight)
    one = np.einsum("in,jn,n->ij", right, 1 - right, weight)
    plus, minus = both * wrong + one * one.T, both * wrong - one * one.T
    # Without a mistake of either, or without a row where they differ, the table says "copies" as far as it can.
    q = np.where(plus > 0, minus / np.where(plus > 0, plus, 1), 1.0)  # nobody errs, or the two never differ
    return Diversity(_disagreement(decisions, weight), q, _correlation(losses, problem.row_weight))


def _decisions(problem: EnsembleProblem) -> np.ndarray:
    if problem.task.two_class:
        return (problem.predictions > 0.5).reshape(problem.num_members, -1).astype(np.int64)
    return problem.predictions.argmax(axis=-1)


def _right(problem: EnsembleProblem, decisions: np.ndarray) -> np.ndarray:
    truth = (problem.target.reshape(-1) > 0.5).astype(np.int64) if problem.task.two_class else problem.target
    return (decisions == truth).astype(np.float64)


def _disagreement(decisions: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.stack([(decisions != row).astype(np.float64) @ weight for row in decisions])


def _correlation(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    centered = rows - (rows @ weight)[:, None]
    covariance = (centered * weight) @ centered.T
    # A member with the same loss on every row has no correlation; the floor makes it zero, not NaN.
    spread = np.sqrt(np.maximum(np.diag(covariance), 1e-300))
    answer = np.clip(covariance / np.outer(spread, spread), -1, 1)
    np.fill_diagonal(answer, 1.0)
    return answer


def _value_diversity(problem: EnsembleProblem) -> Diversity:
    errors = problem.residual.T
    weight = problem.residual_weight
    # |a - b|^2 = |a|^2 + |b|^2 - 2 ab: all pairs from one product, and no (M, M, n) array.
    power = (errors * weight) @ errors.T
    square = np.diag(power)
    apart = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * power, 0))
    typical = np.sqrt(np.maximum((square[:, None] + square[None]) / 2, 1e-300))
    return Diversity(apart / typical, None, _correlation(errors, weight))


def heat_map(matrix: np.ndarray, names: list[str], title: str) -> str:
    """A symmetric matrix as a self-contained SVG picture; members that are alike stand together.

    Colours run from the smallest to the largest pair, since good members are all alike: on one scale from -1 to 1 the
    picture would be one patch.

    Example:

    >>> heat_map(np.eye(2), ["a", "b"], "Q").startswith("<svg")
    True
    """
    import html

    cell, margin = 34, 90
    size = margin + cell * len(names) + 40
    # The diagonal is one always and would squeeze the scale.
    pairs = matrix[~np.eye(len(matrix), dtype=bool)]
    pairs = pairs[np.isfinite(pairs)]
    low, high = (float(pairs.min()), float(pairs.max())) if len(pairs) else (0.0, 1.0)
    caption = html.escape(f"{title}, colours from {low:.2f} to {high:.2f}")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}" font-family="sans-serif" '
        f'font-size="11" role="img" aria-label="{caption}">',
        f'<text x="8" y="18" font-size="13">{caption}</text>',
    ]
    order = _grouped(matrix)
    for place, i in enumerate(order):
        middle = margin + cell * place + cell / 2
        short = html.escape(names[i] if len(names[i]) <= 12 else names[i][:11] + "…")
        parts.append(f'<text x="{margin - 6}" y="{middle + 24}" text-anchor="end">{short}</text>')
        parts.append(
            f'<text transform="translate({middle + 4},{margin + 14}) rotate(-60)" text-anchor="start">{short}</text>'
        )
        for column, j in enumerate(order):
            value = float(matrix[i, j])
            strength = (value - low) / (high - low) if high > low and i != j and np.isfinite(value) else 0.0
            x, y = margin + cell * column, margin + 20 + cell * place
            parts.append(
                f'<rect x="{x}" y="{y}" width="{cell - 1}" height="{cell - 1}" fill="{_colour(strength)}">'
                f"<title>{html.escape(names[i])}, {html.escape(names[j])}: {value:.3f}</title></rect>"
            )
            if i != j:
                ink, across, down = "#fff" if strength > 0.45 else "#222", x + cell / 2, y + cell / 2 + 4
                parts.append(f'<text x="{across}" y="{down}" text-anchor="middle" fill="{ink}">{value:.2f}</text>')
    return "".join([*parts, "</svg>"])


def _grouped(matrix: np.ndarray) -> list[int]:
    """Rows in the order of a tree that joins what is alike, by average linkage."""
    if len(matrix) < 3:
        return list(range(len(matrix)))
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import, and only for pictures

    rows, columns = np.triu_indices(len(matrix), 1)
    apart = 1.0 - np.nan_to_num(matrix[rows, columns])
    return leaves_list(linkage(np.maximum(apart, 0.0), "average", optimal_ordering=True)).tolist()


def _colour(strength: float) -> str:
    """White at zero, dark blue at one."""
    return "rgb({},{},{})".format(*(round(255 + strength * (dark - 255)) for dark in (8, 48, 107)))
