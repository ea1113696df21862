"""Statistical tests of the choice: it refuses when there is nothing, finds what there is, and states it fairly.

Fixed seeds. A red test means a bug: under the stated rates each would fail by chance less than once in 10,000.
"""

import dataclasses

import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.ensemble import Ensemble, EnsembleSettings, RowCuts
from manyfit.ensemble.choosing.choice import gain_between, log_evidence
from manyfit.ensemble.choosing.crossfit import CrossFit, folds_of
from manyfit.ensemble.choosing.losses import Losses, standard_errors
from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.problem import make_problem

FAST = EnsembleSettings(num_folds=3)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def draw(rng, num_rows, num_members, noise, *, num_classes=3):
    """Labels from one calibrated model; members are that model with noise on its logits."""
    z = rng.normal(size=(num_rows, num_classes)) * 1.5
    y = (softmax(z).cumsum(axis=1) < rng.random((num_rows, 1))).sum(axis=1)
    return [softmax(z + noise * rng.normal(size=z.shape)) for _ in range(num_members)], y


def test_null_refuses():
    """Members are one model plus a whiff of noise: all of ten refuse (of a hundred, 95 at least; see the benchmark)."""
    refused = 0
    for seed in range(10):
        p, y = draw(np.random.default_rng(seed), 150, 5, 0.05)
        refused += Ensemble.fit(p, y, settings=FAST, seed=seed).refused
    assert refused == 10


def test_power():
    """Members that err independently give a gain of about 0.2 nats: always proven with 400 rows."""
    for seed in range(3):
        p, y = draw(np.random.default_rng(seed), 400, 6, 1.5)
        assert not Ensemble.fit(p, y, settings=FAST, seed=seed).refused


def test_stated_gain_is_the_gain_on_new_rows():
    """Cross-fitted gains against gains on 4,000 fresh rows: unbiased within four standard errors of their mean. Gains
    on the fitting rows, the naive statement, are off by more than that."""
    stated, naive = [], []
    for seed in range(8):
        p, y = draw(np.random.default_rng(1000 + seed), 4200, 10, 0.6)
        fitted = Ensemble.fit(
            [q[:200] for q in p], y[:200], settings=EnsembleSettings(num_folds=3, refuse=False), seed=seed
        )
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


def test_the_cheapest_version_of_the_default_wins_where_more_members_add_nothing():
    rng = np.random.default_rng(0)
    y = rng.normal(size=300)
    good = y + 0.1 * rng.normal(size=300)
    p = [good, *(good + 1e-4 * rng.normal(size=300) for _ in range(5))]
    fitted = Ensemble.fit(p, y, settings=EnsembleSettings(refuse=False, num_folds=3))
    assert fitted.method == "bagged convex, best 3"
    assert (np.array(list(fitted.weights.values())) != 0).sum() == 3


def cross_fit(p, y, **settings):
    return CrossFit(make_problem(np.stack(p), y), None, named_metric("log_loss"), EnsembleSettings(**settings), seed=0)


def test_evidence_proves_what_the_mean_of_few_rows_cannot():
    """One row of 200 that the single best member calls impossible: its mean gain is one standard error, whatever its
    size, but the labels of that row's fold are a million times as likely under the others."""
    rng = np.random.default_rng(0)
    p, y = draw(rng, 200, 1, 0.0)
    wrong = p[0].copy()
    wrong[7] = np.where(np.arange(3) == y[7], 1e-6, 0.5)
    run, predictions = cross_fit([wrong], y), {"baseline": wrong, "procedure": p[0]}
    losses = Losses(named_metric("log_loss"), run.problem, [predictions])
    evidence = log_evidence([run], [predictions])
    gain = gain_between(losses, "baseline", "procedure", EnsembleSettings(), evidence=evidence)
    assert gain.estimate / gain.standard_error < 1.2 and gain.proven
    assert not dataclasses.replace(gain, enough=np.inf, bound=0.0).proven
    ratio = p[0][7, y[7]] / 1e-6
    assert gain.evidence == pytest.approx(np.log((ratio + run.num_folds - 1) / run.num_folds), rel=1e-6)
    assert gain.enough == pytest.approx(np.log(20))


def test_folds_that_agree_a_little_are_no_proof_together():
    """Labels twice as likely in each of five folds: each fold's fit has seen the others' labels, so 2, and not 32."""
    y = np.zeros(200, dtype=int)
    alone = np.full((200, 2), 0.5)
    better = np.tile([0.5 * 2 ** (1 / 40), 1 - 0.5 * 2 ** (1 / 40)], (200, 1))
    run = cross_fit([alone], y, num_folds=5)
    assert log_evidence([run], [{"baseline": alone, "procedure": better}]) == pytest.approx(np.log(2))
    assert log_evidence([run], [{"baseline": better, "procedure": better}]) == pytest.approx(
        0
    )  # calibration is no gain


def test_labels_of_grouped_rows_are_no_evidence():
    y = np.zeros(200, dtype=int)
    alone = np.full((200, 2), 0.5)
    run = cross_fit([alone], y)
    run.problem = run.problem.grouped(np.arange(200) // 2)
    assert log_evidence([run], [{"baseline": alone, "procedure": alone}]) == -np.inf


def test_groups_stay_in_one_fold_and_count_as_one_observation():
    """Ten copies of forty rows: the error of a gain is that of forty rows, not of four hundred."""
    p, y = draw(np.random.default_rng(3), 40, 2, 1.0)
    groups = np.repeat([f"g{number}" for number in range(40)], 10)
    copied = make_problem(np.stack(p), y).rows(np.repeat(np.arange(40), 10))
    fold = folds_of(copied.grouped(groups), 4, np.random.default_rng(0))
    assert all(len(set(fold[groups == name])) == 1 for name in set(groups))
    assert sorted(np.bincount(fold)) == [100] * 4
    for metric in map(named_metric, ("log_loss", "auc")):
        few, fooled, honest = (
            Losses(metric, problem, [dict(zip("ab", problem.predictions, strict=True))]).difference("a", "b")
            for problem in (make_problem(np.stack(p), y), copied, copied.grouped(groups))
        )
        assert honest[0] == pytest.approx(few[0])
        assert honest[1] == pytest.approx(few[1], rel=1e-9 if metric.row_losses else 0.2)
        assert fooled[1] < 0.5 * honest[1]
    ungrouped, grouped = (
        Ensemble.fit([q[np.repeat(np.arange(40), 10)] for q in p], y.repeat(10), cuts=cuts, settings=FAST)
        for cuts in (None, RowCuts(groups=groups))
    )
    width = [one.choice.gain.high - one.choice.gain.low for one in (ungrouped, grouped)]
    assert width[1] > 2 * width[0]


def test_groups_that_cannot_be_cut_are_told():
    p, y = draw(np.random.default_rng(3), 40, 2, 1.0)
    wrong = (RowCuts(np.zeros(40)), "1 groups of rows"), (RowCuts(np.zeros(9)), r"shape \(9,\) for 40 rows")
    for cuts, text in wrong:
        with pytest.raises(UsageError, match=text) as caught:
            Ensemble.fit(p, y, cuts=cuts, settings=FAST)
        tiny.four_parts(caught.value)


@pytest.mark.parametrize("draw_rows", ["exponential", "mixture"])
def test_bounds_of_skewed_gains_hold_and_are_sharper_than_students(draw_rows):
    """A one-sided 95 % bound lies above the expectation in at most 5 % of samples, also where rows are skewed."""
    rng, too_high, sharper = np.random.default_rng(1), 0, 0
    for _ in range(400):
        rare = rng.random(200) < 0.05
        rows = rng.exponential(size=200) - 1 if draw_rows == "exponential" else np.where(rare, 3.0, -3.0 * 0.05 / 0.95)
        centred = rows - rows.mean()
        skewness = (centred**3).mean() / (centred**2).mean() ** 1.5
        error = rows.std(ddof=1) / np.sqrt(200)
        too_high += rows.mean() - error * standard_errors(200, 0.95, skewness) > 0
        sharper += standard_errors(200, 0.95, skewness) < standard_errors(200, 0.95)
    assert too_high <= 36, "5 % of 400, and four standard errors"
    assert sharper > 390
