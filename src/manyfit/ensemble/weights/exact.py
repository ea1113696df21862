"""Exact convex weights: log loss and squared error of a linear pool over the simplex, with a certificate.

The best weights use few of the members, and which ones is not known beforehand. So both solvers keep a small *active
set*: they solve the problem on it exactly, look at the gradient of everybody, let in those who would help most, and
drop those whose weight became zero. The gradient also bounds how far the loss is above the best that any weights
reach, so the answer comes with a proof of its quality, and a solver that stops early does so knowingly.

Notation: P (N, M) probability of the truth, R (N, M) residuals, v (N,) row weights summing to one, w (M,) weights,
S the active set, s its size, f the loss.

Log loss, f(w) = -sum_j v_j log (P w)_j, is convex, and the classes have dropped out of it:
  (1) G_i = sum_j v_j P_ji / (P w)_j                     minus the gradient
  (2) f(w) - min f <= max_i G_i - 1                      duality gap, the certificate that is printed
  (3) w_i <- w_i G_i                                     multiplicative update (EM), monotone, slow near the end
  (4) min_{z >= 0} z'Hz / 2 - z'(2 G - 1),  H_ik = sum_j v_j P_ji P_jk / (P w)_j^2     Newton step
(4) follows from min f(w) + sum w over w >= 0, whose solution sums to one by itself (Kim, Carbonetto, Stephens,
Anitescu 2020, section 2); H w = G turns the step's linear term into 2 G - 1. Newton runs on a small active set that
grows by the members with the largest G, so a thousand members cost little more than the few that matter.

Squared error, f(w) = w' A w with A = R' diag(v) R since the weights sum to one, is homogeneous:
  (5) min_{z >= 0} z'(A + c 11') z - 2 c 1'z  has the direction of the simplex solution; normalise z
  (6) f(w) - min f <= 2 (w' A w - min_i (A w)_i)         duality gap (Frank and Wolfe 1956)
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.linalg import cholesky, solve_triangular
from scipy.optimize import nnls

# Newton's cost grows with the cube of the set, so a few join at a time; a large set that is still far from the
# optimum would take too many rounds that way, so it grows by half.
_GROWTH = 8  # members that may join a small active set per round; larger sets grow by half
# Never reached on real members; a bound on what copies and rounding might do.
_MAX_ROUNDS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Weights and how good they are known to be."""

    weights: np.ndarray  # (M,), on the simplex
    loss: float
    gap: float  # the loss is at most this far above the best that any weights reach on these rows


def log_loss_weights(
    true_probability: np.ndarray, row_weight: np.ndarray | None = None, *, tolerance: float = 1e-10
) -> Solution:
    """The weights of the linear pool with the smallest log loss.

    Args:
        true_probability: (N, M), positive: the probability each member gave to what was true.
        row_weight: (N,) or None for equal weights.
        tolerance: largest duality gap, in nats.

    Returns:
        Weights that sum to one, most of them zero; the loss in nats; the gap of equation (2).

    Example:

    >>> true = np.array([[0.9, 0.2], [0.2, 0.9], [0.9, 0.2], [0.2, 0.9]])
    >>> log_loss_weights(true).weights.round(6).tolist()
    [0.5, 0.5]
    """
    weight = _normalised(row_weight, len(true_probability))
    # From the best member alone, not from equal weights: the solution uses a few members, and letting them in is
    # cheaper than getting all the others out.
    active = np.array([int(np.argmin(-(weight @ np.log(true_probability))))])
    chosen = np.ones(1)
    gap = np.inf
    for _ in range(_MAX_ROUNDS):
        mixture = _columns(true_probability, active) @ chosen
        attraction = (weight / mixture) @ true_probability  # (1)
        new_gap = float(attraction.max() - 1.0)  # (2)
        # The certificate is over all members, the set or not, so it holds even where the loop ends early.
        joining = _joining(attraction - 1.0, active, tolerance)
        if new_gap <= tolerance or not len(joining):
            gap = min(gap, max(new_gap, 0.0))
            break
        gap = new_gap
        active, chosen = np.r_[active, joining], np.r_[chosen, np.zeros(len(joining))]
        chosen = _newton(_columns(true_probability, active), weight, chosen, tolerance / 4)
        # Members that Newton emptied leave; if they are needed after all, their gradient brings them back.
        active, chosen = active[chosen > 0], chosen[chosen > 0]
    weights = np.zeros(true_probability.shape[1])
    weights[active] = chosen / chosen.sum()
    loss = float(-(weight @ np.log(_columns(true_probability, active) @ weights[active])))
    return Solution(weights, loss, gap)


def _normalised(row_weight: np.ndarray | None, num_rows: int) -> np.ndarray:
    return np.full(num_rows, 1.0 / num_rows) if row_weight is None else row_weight / row_weight.sum()


def _columns(array: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return array.T[chosen].T  # fast where the array lies in memory column by column, as those of a `EnsembleProblem` do


def _joining(violation: np.ndarray, active: np.ndarray, tolerance: float) -> np.ndarray:
    # Members in the set have a gradient of one up to rounding; without this they would be asked to join again.
    violation = violation.copy()
    violation[active] = -np.inf
    count = min(max(_GROWTH, len(active) // 2), len(violation))
    candidates = np.argpartition(-violation, count - 1)[:count]
    return candidates[violation[candidates] > tolerance / 2]


def _newton(probability: np.ndarray, weight: np.ndarray, start: np.ndarray, tolerance: float) -> np.ndarray:
    """Minimises over all weights of a small active set; `probability` is (N, s)."""
    current = start
    for _ in range(100):
        mixture = probability @ current
        scaled = probability * (np.sqrt(weight) / mixture)[:, None]
        attraction = np.sqrt(weight) @ scaled  # (1)
        free = attraction[current > 0]
        if attraction.max() - 1.0 <= tolerance and np.abs(free - 1.0).max() <= max(tolerance, 1e-13):
            break
        # The Hessian is taken where we are, so this is a full Newton step within the bounds, not a projected gradient:
        # a few of them end at the precision of floating point.
        target = nonnegative_minimum(scaled.T @ scaled, 2.0 * attraction - 1.0)  # (4)
        step = target - current
        slope = float((1.0 - attraction) @ step)
        if (
            slope >= -1e-11
        ):  # so close that the loss cannot show progress: trust the step, which converges quadratically
            if slope >= 0 or (probability @ target).min() <= 0:
                break
            current = target
            continue
        # Armijo's rule on f(w) + sum w, which has its minimum on the simplex by itself; the loss alone would fall for
        # ever as the weights grow.
        value = float(weight @ -np.log(mixture)) + current.sum()
        length = 1.0
        while length > 1e-10:
            trial = np.maximum(current + length * step, 0.0)
            inside = probability @ trial
            if inside.min() > 0 and float(weight @ -np.log(inside)) + trial.sum() <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break  # no descent left in floating point
        current = trial
    return current / current.sum()


def nonnegative_minimum(matrix: np.ndarray, linear: np.ndarray) -> np.ndarray:
    """Minimises z'Hz / 2 - z'b over z >= 0, by the active-set method of Lawson and Hanson (1974).

    Args:
        matrix: H (s, s), positive semi-definite.
        linear: b (s,).
    """
    size = len(matrix)
    scale = max(float(np.trace(matrix)) / size, 1e-300)
    # Through least squares, not by a solver for quadratic programs: SciPy's `nnls` is exact and ends, and this is the
    # least-squares problem of the Cholesky factor of H.
    for ridge in (1e-14, 1e-11, 1e-8):  # copies among the members make H singular; a hair of ridge splits them evenly
        try:
            factor = cholesky(matrix + ridge * scale * np.eye(size), lower=True)
        except np.linalg.LinAlgError:
            continue
        try:
            return nnls(factor.T, solve_triangular(factor, linear, lower=True), maxiter=30 * size + 100)[0]
        except RuntimeError:  # it ran out of iterations, as it may on copies
            continue
    raise AssertionError("no ridge made the matrix positive definite")


def squared_error_weights(
    residual: np.ndarray, row_weight: np.ndarray | None = None, *, tolerance: float = 1e-12
) -> Solution:
    """The weights of the linear pool with the smallest squared error.

    Args:
        residual: (N, M) prediction minus truth.
        row_weight: (N,) or None for equal weights.
        tolerance: largest duality gap, relative to the loss of the best member.

    Returns:
        Weights that sum to one; the mean squared error; the gap of equation (6).

    Example:

    >>> squared_error_weights(np.array([[1.0, -1.0], [-1.0, 1.0]])).weights.round(6).tolist()
    [0.5, 0.5]
    """
    weight = _normalised(row_weight, len(residual))
    own = weight @ residual**2
    limit = tolerance * max(float(own.min()), 1e-300)
    active = np.array([int(np.argmin(own))])
    chosen = np.ones(1)
    gap = np.inf
    for _ in range(_MAX_ROUNDS):
        pooled = _columns(residual, active) @ chosen
        gradient = (weight * pooled) @ residual  # (A w)
        loss = float(weight @ pooled**2)
        new_gap = float(max(2.0 * (loss - gradient.min()), 0.0))  # (6)
        # The loss is w'A w, so a member helps where its entry of A w is below the loss.
        joining = _joining(loss - gradient, active, limit)
        # A gap that no longer shrinks is rounding: residuals of near-copies cancel to the last digits.
        if new_gap <= limit or not len(joining) or new_gap > 0.999 * gap:
            gap = min(gap, new_gap)
            break
        gap = new_gap
        active = np.r_[active, joining]
        chosen = _simplex_minimum(_columns(residual, active), weight)
        active, chosen = active[chosen > 0], chosen[chosen > 0]
    weights = np.zeros(residual.shape[1])
    weights[active] = chosen
    return Solution(weights, float(weight @ (_columns(residual, active) @ chosen) ** 2), gap)


def _simplex_minimum(residual: np.ndarray, weight: np.ndarray) -> np.ndarray:
    scaled = residual * np.sqrt(weight)[:, None]
    gram = scaled.T @ scaled
    penalty = max(float(np.trace(gram)) / len(gram), 1e-300)  # any positive number gives the same direction
    solution = nonnegative_minimum(gram + penalty, np.full(len(gram), penalty))  # (5)
    return solution / solution.sum()
