"""Why an ensemble is what it is, in words and numbers."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.html import bars, cell, piece
from manyfit.ensemble.choosing.choice import BASELINES, MethodChoice
from manyfit.ensemble.diversity import (
    COPIES,
    Decomposition,
    Diversity,
    diversity,
    heat_map,
    log_decomposition,
    squared_decomposition,
)
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.metrics import Metric
from manyfit.ensemble.pools import LinearPool, Pool, TemperedPool, sharpened
from manyfit.ensemble.problem import EnsembleProblem
from manyfit.ensemble.weights.exact import log_loss_weights, squared_error_weights
from manyfit.ensemble.weights.greedy import own_losses
from manyfit.stats.pareto import non_dominated

MOST_COMPARED = 12  # members whose pairs are kept: beyond that nobody reads a table


class Explained:
    """What can be explained: a notebook shows its sentences, and how much each member counts."""

    @property
    def weights(self) -> dict[str, float]:
        """How much each member counts."""
        raise NotImplementedError

    def summary(self) -> str:
        """In words."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        lead, *rest = self.summary().splitlines() or [""]
        used = {cell(name): float(weight) for name, weight in self.weights.items() if weight}
        # The lines are those of a table of one width, which they are read as.
        lines = html.escape("\n".join(rest))
        return piece([lead], bars(used) + (f"<pre>{lines}</pre>" if rest else ""))


@dataclasses.dataclass(frozen=True)
class MemberFacts:
    """What is known of one member, on the rows the weights were learned from."""

    name: str
    weight: float
    score: float  # alone; NaN if its predictions are not finite
    without: float | None  # score of the ensemble without it, other weights scaled up; None if it has no weight
    copies: tuple[str, ...]
    seeds: tuple[str, ...]  # members with the same configuration
    num_bytes: int
    reason: str


@dataclasses.dataclass(frozen=True)
class FrontPoint:
    """A method that none beats in score and in all costs that are known."""

    method: str
    num_members: int
    score: float  # cross-fitted
    gain: float  # over the single best member, positive when better
    num_bytes: int | None  # None where a member with weight has no model
    seconds_per_row: float | None  # None where latency was not measured


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation:
    """Everything that `summary` says, as data."""

    members: tuple[MemberFacts, ...]
    decompositions: tuple[Decomposition, ...]
    diversity: Diversity
    names: tuple[str, ...]  # of the rows and columns of `diversity`
    optimality_gap: float | None  # of the convex weights, in the unit of the surrogate; None if others were chosen
    front: tuple[FrontPoint, ...]  # what each cost buys at best, cheapest first
    choice: MethodChoice
    metric: Metric
    notes: tuple[str, ...]
    pool_text: str

    def heat_map(self, measure: str = "q_statistic") -> str:
        """One measure of `diversity` as SVG: "q_statistic", "error_correlation" or "disagreement"."""
        matrix = getattr(self.diversity, measure)
        if matrix is None:
            measure, matrix = "error_correlation", self.diversity.error_correlation
        return heat_map(matrix, list(self.names), measure.replace("_", " "))

    def text(self) -> str:
        """The summary."""
        return "\n".join([*_headline(self), *_diversity_lines(self), *_member_lines(self), *_front_lines(self)])


@dataclasses.dataclass(frozen=True, eq=False)
class FittedParts:
    """What an explanation is made of: the parts of an ensemble that was fitted here."""

    members: Sequence[EnsembleMember]
    pool: Pool  # among all members
    problem: EnsembleProblem  # of all members; NaN where predictions could not be used
    choice: MethodChoice
    metric: Metric
    notes: Sequence[str]
    seconds_per_row: np.ndarray | None  # (M,), NaN where it was not measured


def fitted_here(problem: EnsembleProblem | None, choice: MethodChoice | None) -> tuple[EnsembleProblem, MethodChoice]:
    """The two, which are there where an ensemble was not loaded from a folder.

    Raises:
        UsageError: it was, so the rows it was fitted on are not here.
    """
    if problem is not None and choice is not None:
        return problem, choice
    got = "an ensemble that was loaded from disk"
    instead = "Fit again, or keep the text of summary() beside the saved ensemble."
    raise UsageError(explain("Ensemble.explanation", got, "a freshly fitted ensemble", instead))


def explain_fit(parts: FittedParts) -> Explanation:
    """Makes the explanation of a fitted ensemble."""
    problem, result = parts.problem, parts.choice
    flat = problem.predictions.reshape(problem.num_members, -1)
    finite = np.flatnonzero(np.isfinite(flat).all(axis=1))
    seen = problem.members(finite)
    names = tuple(parts.members[index].name for index in finite.tolist())
    measured = diversity(seen)
    return Explanation(
        members=tuple(_facts(parts, finite, measured)),
        decompositions=tuple(_decompositions(seen, parts.pool, finite)),
        diversity=measured,
        names=names,
        optimality_gap=_gap(seen, parts.metric, parts.pool, result, finite),
        front=_front(parts),
        choice=result,
        metric=parts.metric,
        notes=tuple(parts.notes),
        pool_text=parts.pool.describe(),
    )


def _decompositions(problem: EnsembleProblem, pool: Pool, finite: np.ndarray) -> list[Decomposition]:
    # The identities need weights on the simplex. Those of stacking may be negative: what is shown for it is the
    # decomposition of an average with its positive weights.
    weights = np.maximum(pool.weights[finite], 0.0)
    if weights.sum() <= 0 or (weights > 0).sum() < 2:
        return []
    weights = weights / weights.sum()
    if isinstance(pool, TemperedPool) and pool.member_inverse_temperatures is not None:
        betas = pool.member_inverse_temperatures[finite]
        problem = dataclasses.replace(problem, predictions=sharpened(problem.predictions, betas, problem.task))
    if not problem.task.probabilistic:
        return [squared_decomposition(problem, weights)]
    return [log_decomposition(problem, weights, geometric=pool.averages_logs)]


def how_different(problem: EnsembleProblem | None, pool: Pool, names: Sequence[str]) -> dict[str, Any] | None:
    """How far apart the members with weight are, and what that gives back, as facts for whoever looks at a project.

    Args:
        problem: of all members.
        pool: among them.
        names: of the members.

    Returns:
        "members", the heaviest `MOST_COMPARED`; "disagreement", a row for each: in which share of the rows two decide
        differently, or for values how far apart they are by their error; "decides", whether it is the former; "loss",
        "alone" and "gives_back": the members' mean loss, and what their differences take off it. None: one has weight.
    """
    used = np.flatnonzero(pool.weights)
    if problem is None or len(used) < 2 or not np.isfinite(problem.predictions[used]).all():
        return None
    split = next(iter(_decompositions(problem.members(used), pool, used)), None)
    heaviest = used[np.argsort(-np.abs(pool.weights[used]), kind="stable")][:MOST_COMPARED]
    apart = diversity(problem.members(heaviest)).disagreement
    return {
        "members": [names[index] for index in heaviest.tolist()],
        "disagreement": [[float(share) for share in row] for row in apart],
        "decides": problem.task.probabilistic,
        "loss": None if split is None else split.loss,
        "alone": None if split is None else split.members,
        "gives_back": None if split is None else split.diversity,
    }


def _gap(
    problem: EnsembleProblem, metric: Metric, pool: Pool, result: MethodChoice, finite: np.ndarray
) -> float | None:
    if not result.method.startswith("convex") or not isinstance(pool, LinearPool):
        return None
    if problem.task.probabilistic and metric.name == "log_loss":
        return log_loss_weights(problem.true_probability, problem.entry_weight, tolerance=1e-9).gap
    if metric.exact:
        return squared_error_weights(problem.residual, problem.residual_weight).gap
    return None


def _facts(parts: FittedParts, finite: np.ndarray, measured: Diversity) -> list[MemberFacts]:
    problem, metric, pool = parts.problem, parts.metric, parts.pool
    own = np.full(problem.num_members, np.nan)
    own[finite] = own_losses(problem.members(finite), metric)
    whole = metric.loss(pool(problem.predictions, problem.task), problem)
    answer = []
    for index, member in enumerate(parts.members):
        place = np.flatnonzero(finite == index)
        near = finite[np.flatnonzero(measured.copies[place[0]])] if len(place) else np.array([], dtype=int)
        without = _loss_without(pool, index, problem, metric)
        seeds = [
            other.name
            for other in parts.members
            if other is not member and member.configuration is not None and other.configuration == member.configuration
        ]
        weight = float(pool.weights[index])
        answer.append(
            MemberFacts(
                member.name,
                weight,
                metric.to_score(float(own[index]), problem),
                None if without is None else metric.to_score(without, problem),
                tuple(parts.members[k].name for k in near.tolist()),
                tuple(seeds),
                member.num_bytes,
                _reason(parts, index, own, whole, without, near),
            )
        )
    return answer


def _loss_without(pool: Pool, index: int, problem: EnsembleProblem, metric: Metric) -> float | None:
    if pool.weights[index] == 0 or len(pool.support) < 2:
        return None
    other = pool.without(index)
    return None if other is None else metric.loss(other(problem.predictions, problem.task), problem)


def _reason(
    parts: FittedParts,
    index: int,
    own: np.ndarray,
    whole: float,
    without: float | None,
    near: np.ndarray,
) -> str:
    """Why a member has its weight, in the words of whoever asks "why is my best model not in it?".

    For a member with weight: what the loss would be without it. For one without: the first reason that holds, from the
    most telling to the least.
    """
    weights = parts.pool.weights
    if not np.isfinite(own[index]):
        return "its predictions are not all finite"
    best = int(np.nanargmin(own))
    if weights[index] != 0:
        if len(parts.pool.support) == 1:
            return "the best member alone" if index == best else "the only member that was chosen"
        if without is None:
            return parts.pool.why_not_without
        return f"without it the loss would change by {without - whole:+.3g}"
    # From the most telling reason to the least: a copy explains the weight zero whatever else holds.
    used = [int(k) for k in near if weights[k] != 0]
    if used:
        return f"a copy of {parts.members[used[0]].name}, which is in already"
    if parts.choice.refused:
        return "no gain from several members is proven"
    step = _loss_with(parts.pool, index, parts.problem, parts.metric)
    difference = own[index] - own[best]
    worse = f"alone {difference:.3g} worse than {parts.members[best].name}" if difference else "alone as good as any"
    if step is not None and step > whole:
        return f"{worse}; a 5 % share of it would cost {step - whole:.3g}"
    return (
        f"{worse}; a 5 % share of it would change the loss by {(step or whole) - whole:+.2g}, too little to pay for it"
    )


def _loss_with(pool: Pool, index: int, problem: EnsembleProblem, metric: Metric, share: float = 0.05) -> float | None:
    other = pool.with_share(index, share)
    return None if other is None else metric.loss(other(problem.predictions, problem.task), problem)


def _front(parts: FittedParts) -> tuple[FrontPoint, ...]:
    """What a loss costs: the candidates that no other beats in members, bytes, latency and loss at once.

    Several methods find the same subset with nearly the same weights, so points are told apart by number of members and
    loss. Bytes or seconds that are unknown of one candidate are left out of the comparison for all.
    """
    result = parts.choice
    num_bytes = np.array([member.num_bytes if member.models else np.nan for member in parts.members])
    seconds = parts.seconds_per_row
    seconds = np.full(len(num_bytes), np.nan) if seconds is None else seconds
    # Candidates were fitted on the members whose predictions could be used.
    usable = np.flatnonzero(np.isfinite(parts.problem.predictions).all(axis=(1, 2)))
    groups = [usable[candidate.pool.support] for candidate in result.candidates]
    costs = np.array([[len(part), num_bytes[part].sum(), seconds[part].sum()] for part in groups])
    # A cost that is not known of everybody cannot decide who dominates whom.
    known = np.isfinite(costs).all(axis=0)
    losses = np.array([[candidate.loss] for candidate in result.candidates])
    first = non_dominated(np.hstack([costs[:, known], losses]))
    direction = 1 if parts.metric.maximise else -1
    alone = next(candidate.score for candidate in result.candidates if candidate.name == BASELINES[0])
    points = {
        (len(part), candidate.loss): FrontPoint(
            candidate.name,
            len(part),
            candidate.score,
            direction * (candidate.score - alone),
            int(cost[1]) if known[1] else None,
            float(cost[2]) if known[2] else None,
        )
        for candidate, part, cost, kept in zip(result.candidates, groups, costs, first, strict=True)
        if kept
    }
    return tuple(points[key] for key in sorted(points))


def _headline(told: Explanation) -> list[str]:
    result, metric = told.choice, told.metric
    percent = "cross-fitted, each fold without its models" if result.model_folds else "cross-fitted"
    gain = f"{result.gain.estimate:+.4g} [{result.gain.low:+.4g}, {result.gain.high:+.4g}]"
    scores = f"{metric.name} {result.baseline_score:.4g} -> {result.score:.4g}"
    if len(told.members) == 1:
        first = f"One member, so there is nothing to combine: {told.pool_text}."
    elif result.refused:
        first = (
            f"No gain from several members is proven, so this is the single best one"
            f"{' with a temperature' if result.method == BASELINES[1] else ''}."
        )
    else:
        used = sum(1 for member in told.members if member.weight != 0)
        first = f"{result.method}: {told.pool_text} of {used} of {len(told.members)} members."
    lines = [first, f"{percent}, choice included: {scores}, gain over the single best {gain}."]
    if result.thresholds is not None:
        at = ", ".join(f"{one:.2g}" for one in result.thresholds[:5]) + ", ..." * (len(result.thresholds) > 5)
        lines.append(f"Yes from a probability of {at} on, instead of 0.5: learned on other folds than those it scores.")
    if not result.refused and len(told.members) > 1 and not result.ensembling_gain.proven:
        lines.append("That several members gain is likely, not proven (95 %).")
    if told.optimality_gap is not None:
        lines.append(f"Its weights are within {max(told.optimality_gap, 0):.1g} of the best possible on these rows.")
    return lines


def _diversity_lines(told: Explanation) -> list[str]:
    lines = [
        f"{d.loss}: members average {d.members:.4g}, diversity gives back {d.diversity:.4g}."
        for d in told.decompositions
    ]
    q = told.diversity.q_statistic
    if q is not None and len(q) > 1:
        mean = float(q[np.triu_indices(len(q), 1)].mean())
        alike = mean > COPIES and told.choice.refused
        lines.append(f"Mean Q between members: {mean:.2f}" + (", near-copies: expect little." if alike else "."))
    return lines + list(told.notes)


def _member_lines(told: Explanation) -> list[str]:
    width = max(len(member.name) for member in told.members)
    lines = ["", f"{'member':<{width}}  weight   {told.metric.name}  why"]
    for member in sorted(told.members, key=lambda m: -abs(m.weight)):
        extra = f" (copy of {', '.join(member.copies[:3])})" if member.copies else ""
        if member.seeds:
            extra += f" (another seed of the configuration of {', '.join(member.seeds[:3])})"
        lines.append(f"{member.name:<{width}}  {member.weight:6.3f}  {member.score:8.4g}  {member.reason}{extra}")
    return lines


def _front_lines(told: Explanation) -> list[str]:
    lines = ["", f"What cost buys ({told.metric.name}, cross-fitted; gain over the single best member):"]
    for point in told.front:
        text = f"  {point.num_members:3d} member{'s' if point.num_members > 1 else ' '}"
        text += "" if point.num_bytes is None else f"  {point.num_bytes / 1e3:10,.1f} kB"
        text += "" if point.seconds_per_row is None else f"  {1e6 * point.seconds_per_row:10,.1f} µs per row"
        lines.append(f"{text}  {point.score:.4g}  {point.gain:+.3g}  {point.method}")
    return lines
