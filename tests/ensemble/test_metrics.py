"""Metrics against scikit-learn and Keras."""

import numpy as np
import pytest
from sklearn import metrics as theirs

from manyfit.core.errors import UsageError
from manyfit.ensemble.foreign_metrics import resolve_metric
from manyfit.ensemble.metrics import binary_auc, pinball
from manyfit.ensemble.problem import PredictionTask, make_problem

RNG = np.random.default_rng(0)
N = 200
WEIGHT = RNG.random(N)


@pytest.fixture(scope="module")
def classes():
    logits = RNG.normal(size=(N, 4))
    y = RNG.integers(0, 4, N)
    logits[np.arange(N), y] += 1
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    return p, y


@pytest.fixture(scope="module")
def binary():
    y = RNG.integers(0, 2, N)
    return np.clip(0.3 * y + RNG.random(N) * 0.7, 0.001, 0.999).round(2), y


def score(spec, p, y, weight=WEIGHT, **options):
    problem = make_problem(p.reshape(1, len(y), -1), y, sample_weight=weight)
    metric = resolve_metric(spec, problem.task, **options)
    return metric.score(problem.predictions[0], problem)


def test_class_metrics_are_those_of_scikit_learn(classes):
    p, y = classes
    decided = p.argmax(axis=1)
    assert score("log_loss", p, y) == pytest.approx(theirs.log_loss(y, p, sample_weight=WEIGHT))
    assert score("accuracy", p, y) == pytest.approx(theirs.accuracy_score(y, decided, sample_weight=WEIGHT))
    assert score("f1", p, y) == pytest.approx(theirs.f1_score(y, decided, average="macro", sample_weight=WEIGHT))
    assert score("balanced_accuracy", p, y) == pytest.approx(
        theirs.balanced_accuracy_score(y, decided, sample_weight=WEIGHT)
    )
    areas = [theirs.roc_auc_score(y == c, p[:, c], sample_weight=WEIGHT) for c in range(4)]
    assert score("auc", p, y) == pytest.approx(np.mean(areas))


def test_binary_metrics_are_those_of_scikit_learn(binary):
    p, y = binary
    assert score("log_loss", p, y) == pytest.approx(theirs.log_loss(y, p, sample_weight=WEIGHT))
    assert score("brier", p, y) == pytest.approx(theirs.brier_score_loss(y, p, sample_weight=WEIGHT))
    assert score("auc", p, y) == pytest.approx(theirs.roc_auc_score(y, p, sample_weight=WEIGHT))
    assert score("f1", p, y) == pytest.approx(theirs.f1_score(y, p > 0.5, sample_weight=WEIGHT))


def test_value_metrics_are_those_of_scikit_learn():
    y, p = RNG.normal(size=(2, N, 2))
    for name, metric in (
        ("mse", theirs.mean_squared_error),
        ("rmse", theirs.root_mean_squared_error),
        ("mae", theirs.mean_absolute_error),
        ("r2", theirs.r2_score),
    ):
        if name in ("rmse", "r2"):  # scikit-learn averages those over outputs; one output says the same
            assert score(name, p[:, :1], y[:, :1]) == pytest.approx(metric(y[:, 0], p[:, 0], sample_weight=WEIGHT))
        else:
            assert score(name, p, y) == pytest.approx(metric(y, p, sample_weight=WEIGHT))
    problem = make_problem(p[None], y)
    expected = np.mean([theirs.mean_pinball_loss(y[:, k], p[:, k], alpha=a) for k, a in enumerate((0.1, 0.8))])
    assert pinball((0.1, 0.8)).loss(p, problem) == pytest.approx(expected)


def test_auc_with_ties_and_missing_classes():
    assert binary_auc(np.array([0.5, 0.5, 0.5]), np.array([0, 1, 1]), np.ones(3)) == 0.5
    assert np.isnan(binary_auc(np.array([0.1, 0.2]), np.array([1, 1]), np.ones(2)))


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (theirs.log_loss, "log_loss"),
        (theirs.accuracy_score, "accuracy"),
        (theirs.balanced_accuracy_score, "balanced_accuracy"),
    ],
)
def test_functions_of_scikit_learn_are_understood(classes, function, name):
    p, y = classes
    assert score(function, p, y) == pytest.approx(score(name, p, y))
    one_hot = np.eye(4)[y]
    assert score(function, p, one_hot) == pytest.approx(score(name, p, y))


@pytest.mark.parametrize("scorer", ["roc_auc_ovr", "neg_brier_score", "matthews_corrcoef"])
def test_scorers_of_scikit_learn_are_understood(classes, scorer):
    p, y = classes
    if scorer == "neg_brier_score":
        p, y = np.clip(p[:, :1] + 0.3, 0, 1), (y == 0).astype(int)
    decided = p.argmax(axis=1)
    expected = {
        "roc_auc_ovr": lambda: theirs.roc_auc_score(y, p, multi_class="ovr"),
        "neg_brier_score": lambda: -theirs.brier_score_loss(y, p[:, 0]),
        "matthews_corrcoef": lambda: theirs.matthews_corrcoef(y, decided),
    }[scorer]()
    assert score(scorer, p, y, weight=None) == pytest.approx(expected)


@pytest.mark.backends
def test_losses_and_metrics_of_keras_are_understood(classes):
    import keras

    p, y = classes
    assert score(keras.losses.SparseCategoricalCrossentropy(), p, y) == pytest.approx(score("log_loss", p, y), rel=1e-5)
    assert score(keras.metrics.SparseCategoricalAccuracy(), p, y) == pytest.approx(score("accuracy", p, y), rel=1e-5)
    top = score(keras.metrics.SparseTopKCategoricalAccuracy(k=2), p, y, weight=None)
    assert top == pytest.approx(theirs.top_k_accuracy_score(y, p, k=2), rel=1e-5)
    f1 = score(keras.metrics.F1Score(average="macro"), p, np.eye(4, dtype="float32")[y], weight=None)
    assert f1 == pytest.approx(theirs.f1_score(y, p.argmax(axis=1), average="macro"), rel=1e-5)


def test_callables_see_what_the_user_gave(classes):
    p, y = classes
    seen = {}

    def share_right_error(y_true, y_pred):
        seen["shapes"] = y_true.shape, y_pred.shape
        return float((y_pred.argmax(1) != y_true).mean())

    assert score(share_right_error, p, y, weight=None) == pytest.approx(1 - score("accuracy", p, y, weight=None))
    assert seen["shapes"] == ((N,), (N, 4))


def test_directions_are_asked_for_when_nobody_knows_them(classes):
    p, y = classes
    with pytest.raises(UsageError, match=r"direction nobody knows.*direction=\"max\""):
        score(lambda a, b: 0.0, p, y)
    assert score(lambda a, b: 0.25, p, y, weight=None, direction="max") == 0.25


@pytest.mark.parametrize("bad", ["no_such_metric", "mae", 3])
def test_metrics_that_do_not_fit_are_refused(bad):
    with pytest.raises(UsageError, match="metric"):
        resolve_metric(bad, PredictionTask.MULTICLASS)


def test_quantiles_must_be_levels():
    with pytest.raises(UsageError, match="between 0 and 1"):
        pinball((0.5, 1.5))
