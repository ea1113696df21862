"""Statistical tests of the choice: it refuses when there is nothing, finds what there is, and states it fairly.

Fixed seeds. A red test means a bug: under the stated rates each would fail by chance less than once in 10,000.
"""

import numpy as np

from manyfit.ensemble import Ensemble, Settings
from manyfit.ensemble.choice import folds_of
from manyfit.ensemble.problem import make_problem

FAST = Settings(num_folds=3)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def draw(rng, num_rows, num_members, noise, *, num_classes=3):
    """Labels from one calibrated model; members are that model with noise on its logits."""
    z = rng.normal(size=(num_rows, num_classes)) * 1.5
    y = (softmax(z).cumsum(axis=1) < rng.random((num_rows, 1))).sum(axis=1)
    return [softmax(z + noise * rng.normal(size=z.shape)) for _ in range(num_members)], y


def test_null_refuses():
    """Members are one model plus a whiff of noise: at least 95 % refuse. 20 trials allow one acceptance."""
    refused = 0
    for seed in range(20):
        p, y = draw(np.random.default_rng(seed), 150, 5, 0.05)
        refused += Ensemble.fit(p, y, settings=FAST, seed=seed).refused
    assert refused >= 20 * 0.95


def test_power():
    """Members that err independently give a gain of about 0.2 nats: always proven with 400 rows."""
    for seed in range(5):
        p, y = draw(np.random.default_rng(seed), 400, 6, 1.5)
        assert not Ensemble.fit(p, y, settings=FAST, seed=seed).refused


def test_stated_gain_is_the_gain_on_new_rows():
    """Cross-fitted gains against gains on 4,000 fresh rows: unbiased within four standard errors of their mean. Gains
    on the fitting rows, the naive statement, are off by more than that."""
    stated, naive = [], []
    for seed in range(16):
        p, y = draw(np.random.default_rng(1000 + seed), 4200, 10, 0.6)
        fitted = Ensemble.fit([q[:200] for q in p], y[:200], settings=Settings(num_folds=3, refuse=False), seed=seed)
        single = next(c.pool for c in fitted.choice.candidates if c.name == "single best")

        stacked = np.stack(p)

        def gain(rows, fitted=fitted, single=single, stacked=stacked, y=y):
            score = [
                fitted.evaluate_predictions(pool(stacked[:, rows], fitted.task), y[rows])["log_loss"]
                for pool in (single, fitted.pool)
            ]
            return score[0] - score[1]

        truth = gain(slice(200, None))
        stated.append(fitted.gain.estimate - truth)
        naive.append(gain(slice(0, 200)) - truth)
    error = np.std(stated, ddof=1) / np.sqrt(len(stated))
    assert abs(np.mean(stated)) < 4 * error
    assert error < 0.01
    assert abs(np.mean(naive)) > abs(np.mean(stated))


def test_folds_are_even_and_stratified():
    y = np.repeat([0, 1, 2], [50, 30, 20])
    problem = make_problem(np.full((1, 100, 3), 1 / 3), y)
    fold = folds_of(problem, 5, np.random.default_rng(0))
    for k in range(5):
        assert np.bincount(y[fold == k]).tolist() == [10, 6, 4]


def test_cheapest_within_one_standard_error_wins():
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    good = y + 0.1 * rng.normal(size=300)
    p = [good, *(good + 1e-4 * rng.normal(size=300) for _ in range(5))]
    fitted = Ensemble.fit(p, y, settings=Settings(refuse=False, num_folds=3))
    assert (np.array(list(fitted.weights.values())) != 0).sum() == 1
