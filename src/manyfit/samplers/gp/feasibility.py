"""The odds that a configuration has a score at all.

Failed, diverged and too large trials say where not to go, and nothing about the loss there. Giving them the worst
loss seen would bend the surrogate of the loss around them; instead a second process learns success itself, from
labels 0 and 1, and its odds multiply the expected improvement (Gelbart et al. 2014, section 3).
"""

from __future__ import annotations

import math

import numpy as np

from manyfit.samplers.gp.data import Evidence
from manyfit.samplers.gp.kernels import Geometry
from manyfit.samplers.gp.score import LogProbabilityBelow
from manyfit.samplers.gp.surrogate import Likelihood, NoisePrior, Surrogate, Targets

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
    likelihood = Likelihood(geometry.squared_differences(points, points), targets, _LABEL_NOISE)
    theta, _ = likelihood.maximise(likelihood.start(eta=0.05))
    return LogProbabilityBelow(Surrogate(geometry, points, targets, theta), (0.5 - center) / 0.5)
