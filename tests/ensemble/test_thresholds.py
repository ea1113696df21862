"""Thresholds of decisions: where they lie, and that no score is told of rows that they were learned from."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import f1_score

import manyfit as kt
from manyfit.ensemble.choosing.thresholds import best_thresholds, learned, moved, sharpened_thresholds
from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.problem import EnsembleProblem, PredictionTask, make_problem
from manyfit.ensemble.settings import RowCuts

F1, ACCURACY, BALANCED = named_metric("f1"), named_metric("accuracy"), named_metric("balanced_accuracy")


def rare(count: int, rng: np.random.Generator, *, shift: float = -2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right, of a class that is rare, and what came of them."""
    p = expit(shift + 1.5 * rng.normal(size=count))
    return p, (rng.random(count) < p).astype(int)


def problem_of(p: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> EnsembleProblem:
    return make_problem(p.reshape(1, len(p), -1), y, task=None).grouped(groups)


def test_what_is_above_its_threshold_is_above_one_half() -> None:
    p = np.random.default_rng(0).random((500, 2))
    at = np.array([0.03, 0.7])
    assert ((moved(p, at) > 0.5) == (p > at)).all()
    assert np.allclose(sharpened_thresholds(at, 1.0), at)


def test_thresholds_lie_where_the_metrics_are_best() -> None:
    """The truth by theory: half of the best F1; the share of the class; one half."""
    p, y = rare(20_000, np.random.default_rng(0))
    told = problem_of(p, y)
    best = max(f1_score(y, p > t) for t in np.linspace(0.1, 0.6, 26))
    assert best_thresholds(p[:, None], told, F1)[0] == pytest.approx(best / 2, abs=0.03)
    assert best_thresholds(p[:, None], told, BALANCED)[0] == pytest.approx(y.mean(), abs=0.03)
    assert best_thresholds(p[:, None], told, ACCURACY)[0] == pytest.approx(0.5, abs=0.05)


def test_few_rows_of_the_rarer_class_follow_the_rule() -> None:
    p, y = rare(150, np.random.default_rng(1))
    assert y.sum() < 50
    told = problem_of(p, y)
    at = float(best_thresholds(p[:, None], told, F1)[0])
    assert at == pytest.approx(f1_score(y, p > at) / 2, abs=0.02)
    assert best_thresholds(p[:, None], told, BALANCED)[0] == pytest.approx(y.mean())
    assert best_thresholds(p[:, None], told, ACCURACY)[0] == 0.5


def test_no_threshold_where_one_half_is_as_good() -> None:
    """Probabilities that are right: accuracy has nothing to gain (one standard error is passed in a sixth of them)."""
    found = []
    for seed in range(40):
        p, y = rare(300, np.random.default_rng(seed), shift=0.0)
        fold = np.arange(300) % 5
        found.append(learned(p[:, None], problem_of(p, y), fold, ACCURACY) is not None)
    assert sum(found) <= 13  # binomial(40, 1/6) is above that once in 100 times


def one_search(seed: int, count: int) -> tuple[kt.Ensemble, np.ndarray, np.ndarray, np.ndarray]:
    """An ensemble of two members, labels and pooled probabilities of its rows, and F1 on 20,000 further rows."""
    rng = np.random.default_rng(seed)
    p, y = rare(count, rng)
    new, truth = rare(20_000, rng)
    own, further = np.stack([p, np.sqrt(p * 0.9)])[:, :, None], np.stack([new, np.sqrt(new * 0.9)])[:, :, None]
    cuts = RowCuts(folds=np.arange(count) % 3)
    ensemble = kt.Ensemble.fit(list(own), y, metric="f1", method="uniform", cuts=cuts)
    at = 0.5 if ensemble.thresholds is None else ensemble.thresholds[0]
    actual = f1_score(truth, ensemble.pool(further, PredictionTask.BINARY)[:, 0] > at)
    return ensemble, y, ensemble.pool(own, PredictionTask.BINARY), actual


def test_the_score_that_is_told_is_that_of_further_rows() -> None:
    """One of a threshold that was learned on the rows that score it is too good: so much the test would see."""
    told, chosen_there = [], []
    for seed in range(20):
        ensemble, y, own, actual = one_search(seed, 150)
        told.append(ensemble.choice.score - actual)
        at = best_thresholds(own, problem_of(own, y), F1)[0]
        chosen_there.append(f1_score(y, own[:, 0] > at) - actual)
    errors = [np.std(each, ddof=1) / np.sqrt(len(each)) for each in (told, chosen_there)]
    assert np.mean(told) < 2 * errors[0]
    assert np.mean(chosen_there) > 2 * errors[1]


@pytest.fixture(scope="module")
def ensemble() -> kt.Ensemble:
    """Of a rare class, chosen by F1."""
    return one_search(3, 300)[0]


def test_an_ensemble_says_its_threshold(ensemble: kt.Ensemble) -> None:
    [at] = ensemble.thresholds
    assert 0.2 < at < 0.45
    assert f"Yes from a probability of {at:.2g} on, instead of 0.5" in ensemble.summary()


def test_evaluate_scores_what_is_decided(ensemble: kt.Ensemble) -> None:
    p, y = rare(500, np.random.default_rng(9))
    found = ensemble.evaluate_predictions(p[:, None], y)
    assert found["f1"] == pytest.approx(f1_score(y, p > ensemble.thresholds[0]))
    assert found["f1"] > f1_score(y, p > 0.5)


def test_a_threshold_outlives_a_retraining_only_if_it_was_tried_on_other_models(ensemble: kt.Ensemble) -> None:
    assert ensemble.for_retrained().thresholds is not None  # its folds have models of their own
    p, y = rare(1000, np.random.default_rng(3))
    same_models = kt.Ensemble.fit({"one": p, "other": p**1.05}, y, metric="f1", method="uniform")
    assert same_models.thresholds is not None
    assert same_models.for_retrained().thresholds is None


def test_each_label_has_a_threshold_of_its_own() -> None:
    rng = np.random.default_rng(0)
    (p, y), (q, z) = rare(1500, rng, shift=-2.5), rare(1500, rng, shift=0.5)
    both, truth = np.stack([p, q], 1), np.stack([y, z], 1)
    found = kt.Ensemble.fit({"one": both, "other": both**1.1}, truth, metric="f1", task="multilabel", method="uniform")
    rarer, commoner = found.thresholds
    assert rarer < commoner < 0.5


def test_groups_of_rows_stay_together() -> None:
    """A group whose rows are copies of each other counts once, for the threshold as for the error."""
    p, y = rare(120, np.random.default_rng(2))
    copies = np.repeat(np.arange(120), 5)
    told = problem_of(p[copies], y[copies], copies)
    alone = learned(p[:, None], problem_of(p, y, np.arange(120)), np.arange(120) % 5, F1)
    together = learned(p[copies][:, None], told, copies % 5, F1)
    assert (alone is None) == (together is None)


@pytest.mark.parametrize("metric", ["auc", "log_loss"])
def test_what_decides_nothing_has_no_threshold(metric: str) -> None:
    p, y = rare(150, np.random.default_rng(0))
    assert kt.Ensemble.fit({"one": p, "other": p**1.2}, y, metric=metric, method="uniform").thresholds is None
