"""How the history becomes evidence."""

from __future__ import annotations

import math

import numpy as np

from manyfit.core.records import Ending, Observation
from manyfit.samplers.gp.data import collect
from manyfit.samplers.gp.model import bend
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def line() -> Encoding:
    space = HyperParameters()
    space.Float("x", 0.0, 1.0)
    return Encoding(space)


def done(x: float, *losses: float) -> Observation:
    return Observation("0", {"x": x}, Ending.COMPLETED, losses)


def test_replicates_are_pooled_within_and_between_trials() -> None:
    evidence = collect(line(), [done(0.2, 1.0, 3.0), done(0.7, 5.0), done(0.2, 5.0)])
    np.testing.assert_allclose(evidence.points, [[0.2], [0.7]])
    np.testing.assert_allclose(evidence.losses, [3.0, 5.0])
    np.testing.assert_allclose(evidence.counts, [3.0, 1.0])
    assert (evidence.within, evidence.degrees) == (8.0, 2)


def test_failures_are_apart_unless_the_configuration_has_a_score() -> None:
    failed = [Observation("1", {"x": x}, Ending.FAILED) for x in (0.4, 0.2, 0.4)]
    evidence = collect(line(), [done(0.2, 1.0), *failed, done(0.9, math.inf)])
    np.testing.assert_allclose(evidence.failed, [[0.4], [0.9]])
    assert len(evidence.losses) == 1


def test_early_stops_are_lower_fidelities_and_full_trials_say_what_they_had_by_then() -> None:
    curve = (5.0, 4.0, 4.5, 3.0, 2.0, 2.5, 1.0, 1.5, 0.5)
    full = Observation("0", {"x": 0.1}, Ending.COMPLETED, (0.5,), epochs=9, curve=curve)
    short = Observation("1", {"x": 0.6}, Ending.STOPPED, (4.2,), epochs=3, full=False, curve=(6.0, 4.2, 4.4))
    evidence = collect(line(), [full, short])
    assert evidence.with_fidelity
    rows = {tuple(point): loss for point, loss in zip(evidence.points.round(6).tolist(), evidence.losses, strict=True)}
    assert rows == {(0.1, 1.0): 0.5, (0.1, 0.5): 4.0, (0.6, 0.5): 4.2}  # log 3 / log 9 = 1/2
    np.testing.assert_allclose(evidence.full, [[0.1]])


def test_if_no_trial_was_full_the_longest_count_as_full() -> None:
    stopped = [
        Observation(str(i), {"x": 0.1 * i}, Ending.STOPPED, (1.0,), epochs=epochs, full=False, curve=(1.0,) * epochs)
        for i, epochs in enumerate([2, 4, 4])
    ]
    evidence = collect(line(), stopped)
    np.testing.assert_allclose(np.sort(evidence.full[:, 0]), [0.1, 0.2])


def test_bending_is_monotone_and_its_slope_is_accounted_for() -> None:
    losses = np.array([0.3, 0.5, 0.9, 1.7, 8.0])
    for softness in (math.inf, 3.0, 0.3):
        bent, log_slope = bend(losses, softness)
        assert (np.diff(bent) > 0).all()
        np.testing.assert_allclose([bent.mean(), bent.std()], [0.0, 1.0], atol=1e-12)
        span = np.median(losses) - losses.min()
        raw = losses if math.isinf(softness) else np.log1p((losses - losses.min()) / (softness * span))
        slope = np.ones(5) if math.isinf(softness) else 1.0 / (softness * span + losses - losses.min())
        np.testing.assert_allclose(log_slope, np.log(slope / raw.std()).sum())


def test_earlier_searches_are_a_fidelity_of_their_own_at_the_level_of_this_one() -> None:
    """Configuration 0.2 ran in both, 100 apart, so 0.6 of the earlier search counts as 103; failures there do not."""

    def trial(x: float, *losses: float, earlier: bool = False) -> Observation:
        ending = Ending.COMPLETED if losses else Ending.FAILED
        return Observation("0", {"x": x}, ending, losses, earlier=earlier)

    history = [trial(0.2, 1.0, 3.0, earlier=True), trial(0.6, 3.0, earlier=True), trial(0.9, earlier=True)]
    evidence = collect(line(), [*history, trial(0.2, 102.0), trial(0.4, 101.0)])
    assert evidence.with_fidelity and not len(evidence.failed)
    rows = sorted(zip(evidence.points.tolist(), evidence.losses.tolist(), strict=True))
    assert rows == [([0.2, -1.0], 102.0), ([0.2, 1.0], 102.0), ([0.4, 1.0], 101.0), ([0.6, -1.0], 103.0)]
    assert evidence.full.tolist() == [[0.2], [0.4]]
