"""The odds that a configuration has a score at all, and that it keeps the constraints on its other metrics.

Failed, diverged and too large trials say where not to go, and nothing about the loss there. Giving them the worst
loss seen would bend the surrogate of the loss around them; instead a second process learns success itself, from
labels 0 and 1, and its odds multiply the expected improvement (Gelbart et al. 2014, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyfit.core.records import Observation
from manyfit.samplers.gp.data import Evidence
from manyfit.samplers.gp.kernels import Array, Geometry
from manyfit.samplers.gp.optimise import Score
from manyfit.samplers.gp.score import LogProbabilityBelow
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets
from manyfit.samplers.outcomes import Constraint
from manyfit.space.encoding import Encoding

#: Labels are never certain: the same configuration may fail once and succeed once.
_LABEL_NOISE = NoisePrior(center=math.log(0.05), spread=1.0, lower=math.log(1e-3))
_MAX_LABELS = 200


def log_odds_of_success(geometry: Geometry, evidence: Evidence) -> LogProbabilityBelow | None:
    """Log probability that a point gets a score, as a score to add; None if nothing has failed.

    Args:
        geometry: how points of the space (without fidelity) are compared.
        evidence: what was measured, and what failed.
    """
    if not len(evidence.failed):
        return None
    scored = np.unique(evidence.points[:, : geometry.num_dimensions], axis=0)[-_MAX_LABELS:]
    points = np.concatenate([scored, evidence.failed[-_MAX_LABELS:]])
    # 1 stands for failure: "below the threshold" is what a point has to be.
    labels = np.concatenate([np.zeros(len(scored)), np.ones(len(points) - len(scored))])
    center = labels.mean()
    targets = Targets((labels - center) / 0.5, np.ones(len(labels)))
    likelihood = Likelihood(geometry, points, targets, _LABEL_NOISE)
    theta, _ = likelihood.maximise(likelihood.start(eta=0.05))
    return LogProbabilityBelow(Surrogate(geometry, points, targets, theta), (0.5 - center) / 0.5)


def log_odds_of_constraints(
    geometry: Geometry, encoding: Encoding, completed: Sequence[Observation], constraints: Sequence[Constraint]
) -> list[Score]:
    """Log probability that each constraint holds, as scores to add; none for metrics that nobody logged.

    Args:
        geometry: how points of the space are compared.
        encoding: of the space.
        completed: the history.
        constraints: on metrics of trials.
    """
    found: list[Score] = []
    for constraint in constraints:
        known = [each for each in completed if math.isfinite(each.metrics.get(constraint.metric, math.nan))]
        if not known:
            continue
        points = encoding.encode_many([encoding.adapt(each.values) for each in known])
        excess = np.array([constraint.excess(each.metrics) for each in known])
        found.append(_log_probability_below_zero(geometry, points[-_MAX_LABELS:], excess[-_MAX_LABELS:]))
    return found


def _log_probability_below_zero(geometry: Geometry, points: Array, quantity: Array) -> LogProbabilityBelow:
    """A process of a quantity, and the probability that it is below 0."""
    center, spread = float(quantity.mean()), float(quantity.std()) or 1.0
    targets = Targets((quantity - center) / spread, np.ones(len(quantity)))
    likelihood = Likelihood(geometry, points, targets, NoisePrior())
    theta, _ = likelihood.maximise(likelihood.start())
    return LogProbabilityBelow(Surrogate(geometry, points, targets, theta), -center / spread)
