import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.stats.components import crossed
from manyfit.stats.influence import METRICS, components_of, influence_of, mean_influence, metric_name
from manyfit.stats.intervals import Scale

NUM_ROWS, NUM_CLASSES = 60, 3
rng = np.random.default_rng(0)
BINARY = rng.integers(2, size=NUM_ROWS)
P = np.clip(np.round(0.5 + 0.25 * (BINARY - 0.5) + rng.normal(0, 0.2, NUM_ROWS), 1), 0.05, 0.95)  # with ties
CLASSES = rng.integers(NUM_CLASSES, size=NUM_ROWS)
Q = rng.dirichlet(np.ones(NUM_CLASSES), NUM_ROWS) * 0.6 + 0.4 * np.eye(NUM_CLASSES)[CLASSES]
Q[::7] = np.roll(Q[::7], 1, axis=1)
REAL = rng.normal(size=(NUM_ROWS, 2))
GUESS = REAL + rng.normal(0, 0.7, (NUM_ROWS, 2))
BOTH = REAL, GUESS
ONE = REAL[:, 0], GUESS[:, 0]
LABELS = rng.integers(2, size=(NUM_ROWS, 3))
LABEL_P = np.clip(0.5 + 0.3 * (LABELS - 0.5) + rng.normal(0, 0.2, LABELS.shape), 0.01, 0.99)
DECIDED = LABELS, LABEL_P > 0.5
WEIGHT = rng.uniform(0.2, 3.0, NUM_ROWS)
M = sklearn.metrics
ONE_HOT = np.eye(NUM_CLASSES)[CLASSES]

#: Name, truths, predictions, settings, and scikit-learn's metric of weights.
CASES = {
    "log_loss": (BINARY, P, {}, lambda w: M.log_loss(BINARY, P, sample_weight=w)),
    "log_loss of classes": (CLASSES, Q, {}, lambda w: M.log_loss(CLASSES, Q, sample_weight=w)),
    "mse": (REAL, GUESS, {}, lambda w: M.mean_squared_error(REAL, GUESS, sample_weight=w)),
    "mae": (REAL, GUESS, {}, lambda w: M.mean_absolute_error(REAL, GUESS, sample_weight=w)),
    "mape": (REAL, GUESS, {}, lambda w: 100 * M.mean_absolute_percentage_error(REAL, GUESS, sample_weight=w)),
    "rmse": (*ONE, {}, lambda w: M.mean_squared_error(*ONE, sample_weight=w) ** 0.5),
    "r2": (REAL, GUESS, {}, lambda w: M.r2_score(REAL, GUESS, sample_weight=w)),
    "pinball": (REAL, GUESS, {"quantiles": 0.9}, lambda w: M.mean_pinball_loss(*BOTH, alpha=0.9, sample_weight=w)),
    "accuracy": (BINARY, P, {}, lambda w: M.accuracy_score(BINARY, P > 0.5, sample_weight=w)),
    "accuracy of classes": (CLASSES, Q, {}, lambda w: M.accuracy_score(CLASSES, Q.argmax(1), sample_weight=w)),
    "top_k": (CLASSES, Q, {"k": 2}, lambda w: M.top_k_accuracy_score(CLASSES, Q, k=2, sample_weight=w)),
    "balanced_accuracy": (BINARY, P, {}, lambda w: M.balanced_accuracy_score(BINARY, P > 0.5, sample_weight=w)),
    "balanced_accuracy of classes": (
        CLASSES, Q, {}, lambda w: M.balanced_accuracy_score(CLASSES, Q.argmax(1), sample_weight=w),
    ),
    "auc": (BINARY, P, {}, lambda w: M.roc_auc_score(BINARY, P, sample_weight=w)),
    "auc of classes": (
        ONE_HOT, Q, {}, lambda w: M.roc_auc_score(ONE_HOT, Q, sample_weight=w),
    ),
    "f1": (BINARY, P, {}, lambda w: M.f1_score(BINARY, P > 0.5, sample_weight=w)),
    "f1 of classes": (CLASSES, Q, {}, lambda w: M.f1_score(CLASSES, Q.argmax(1), average="macro", sample_weight=w)),
    "precision": (BINARY, P, {}, lambda w: M.precision_score(BINARY, P > 0.5, sample_weight=w)),
    "precision of labels": (
        LABELS, LABEL_P, {}, lambda w: M.precision_score(*DECIDED, average="micro", sample_weight=w),
    ),
    "recall": (BINARY, P, {}, lambda w: M.recall_score(BINARY, P > 0.5, sample_weight=w)),
    "recall of labels": (LABELS, LABEL_P, {}, lambda w: M.recall_score(*DECIDED, average="micro", sample_weight=w)),
    "f1 of labels": (LABELS, LABEL_P, {}, lambda w: M.f1_score(*DECIDED, average="macro", sample_weight=w)),
}  # fmt: skip


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", CASES)
def test_value_and_influences_are_scikit_learns_and_its_derivatives(case, weighted):
    truth, prediction, settings, theirs = CASES[case]
    weight = WEIGHT if weighted else np.ones(NUM_ROWS)
    found = influence_of(case.split()[0], truth, prediction, sample_weight=WEIGHT if weighted else None, **settings)
    assert found.value == pytest.approx(theirs(weight), abs=1e-6)
    assert found.rows.mean() == pytest.approx(0, abs=1e-9)
    step = 1e-5
    for row in range(NUM_ROWS):
        more, less = weight.copy(), weight.copy()
        more[row] += step
        less[row] -= step
        derivative = NUM_ROWS * weight[row] * (theirs(more) - theirs(less)) / (2 * step)
        assert found.rows[row] == pytest.approx(derivative, abs=1e-4)


def test_the_variance_of_auc_is_delongs():
    # DeLong, DeLong and Clarke-Pearson 1988: S10 / n_pos + S01 / n_neg with placements by brute force.
    positive, negative = P[BINARY == 1], P[BINARY == 0]
    above = (positive[:, None] > negative).astype(float) + 0.5 * (positive[:, None] == negative)
    delong = above.mean(1).var(ddof=1) / len(positive) + above.mean(0).var(ddof=1) / len(negative)
    found = influence_of("auc", BINARY, P)
    assert (found.rows**2).sum() / NUM_ROWS**2 == pytest.approx(delong, rel=0.05)
    assert found.rare_rows == min(len(positive), len(negative))


def test_a_row_without_a_prediction_counts_as_the_worst():
    prediction = P.copy()
    prediction[[3, 5]] = np.nan
    wrong = P.copy()
    wrong[[3, 5]] = 1.0 - BINARY[[3, 5]]
    for name in ("accuracy", "balanced_accuracy", "f1", "precision", "recall"):
        found = influence_of(name, BINARY, prediction)
        assert found.value == influence_of(name, BINARY, wrong).value and found.num_missing == 2
    wrong[[3, 5]] += 1 - 2 * BINARY[[3, 5]]  # beyond all others
    assert influence_of("auc", BINARY, prediction).value == pytest.approx(M.roc_auc_score(BINARY, wrong))
    classes = Q.copy()
    classes[4] = np.nan
    assert influence_of("accuracy", CLASSES, classes).losses[4] == 0.0
    guess = GUESS.copy()
    guess[9] = np.nan
    losses = np.delete(((GUESS - REAL) ** 2).mean(axis=1), 9)
    assert influence_of("mse", REAL, guess).value == pytest.approx((losses.sum() + losses.max()) / NUM_ROWS)
    assert influence_of("r2", REAL, guess).value < influence_of("r2", REAL, GUESS).value


@pytest.mark.parametrize(
    ("name", "truth", "prediction", "reason"),
    [
        ("auc", np.ones(5), np.linspace(0, 1, 5), "one class"),
        ("balanced_accuracy", np.zeros(5), np.linspace(0, 1, 5), "one class"),
        ("f1", np.zeros(5), np.zeros(5), "no positive"),
        ("recall", np.zeros(5), np.ones(5), "no positive"),
        ("precision", np.ones(5), np.zeros(5), "no row is predicted positive"),
        ("r2", np.ones(5), np.zeros(5), "the same"),
        ("mse", np.ones(5), np.full(5, np.nan), "no row"),
        ("log_loss", np.linspace(-1, 2, 5), np.full(5, 0.5), "no probabilities"),
        ("log_loss", np.ones(5), np.linspace(-2, 3, 5), "no probabilities"),
    ],
)
def test_what_rows_cannot_say_has_a_reason(name, truth, prediction, reason):
    found = influence_of(name, truth, prediction)
    assert np.isnan(found.value) and reason in found.reason
    with pytest.raises(UsageError, match=reason):
        components_of([found])


def test_all_right_is_not_certain():
    sure = components_of([influence_of("accuracy", np.ones(40), np.ones(40))] * 3).interval()
    assert sure.high == 1.0 and 0.85 < sure.low < 0.95
    # As many rows as the rarer class has: 4 of 100.
    truth = (np.arange(100) < 4).astype(int)
    area = components_of([influence_of("auc", truth, truth * 1.0)] * 3).interval()
    assert area.high == 1.0 and area.low < 0.6


def test_five_rows_are_enough_for_an_interval():
    found = components_of([influence_of("mse", np.zeros(5), np.arange(1.0, 6.0))])
    assert found.degrees_rows == 4
    assert 0 < found.interval().low < 11 < found.interval().high


@given(st.sampled_from(sorted(METRICS)), st.integers(0, 1000))
def test_every_interval_stays_in_bounds(name, seed):
    own = np.random.default_rng(seed)
    truth = np.r_[0, 1, own.integers(2, size=10)]
    runs = [influence_of(name, truth, np.round(own.uniform(size=12), 1)) for _ in range(2)]
    if any(run.reason for run in runs):
        return
    found = components_of(runs).interval()
    assert found.low <= found.estimate <= found.high
    assert found.high <= 1 or runs[0].scale is Scale.LOG
    assert found.low >= 0 or runs[0].scale is Scale.LOG1M


def test_names_of_keras_and_scikit_learn():
    assert [metric_name(name) for name in ("val_auc", "neg_log_loss", "F1 macro", "mine")] == [
        "auc", "log_loss", "f1", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "call",
    [
        lambda: influence_of("mine", BINARY, P),
        lambda: influence_of("mse", BINARY[:-1], P),
        lambda: influence_of("mse", REAL, GUESS[:, :1]),
        lambda: influence_of("accuracy", CLASSES + 1, Q),
        lambda: influence_of("mse", BINARY, P, sample_weight=-WEIGHT),
        lambda: influence_of("pinball", REAL, GUESS, quantiles=1.0),
        lambda: mean_influence(REAL),
        lambda: components_of([]),
    ],
)
def test_what_cannot_be_is_said(call):
    with pytest.raises(UsageError, match=r"got .* Allowed: "):
        call()


# -- what the procedure is worth -------------------------------------------------------------------------------------


def test_an_accuracy_near_one_keeps_its_word():
    """Rows of Beta(3, .05) difficulty: 98.4 % right. 500 draws, an error of a point; the plain interval misses half."""
    own, truth, held, plain = np.random.default_rng(8), 3 / 3.05, 0, 0
    for _ in range(500):
        right = (own.random((3, 40)) < own.beta(3, 0.05, 40)).astype(float)
        held += truth in crossed(right, scale=Scale.WILSON).interval()
        plain += truth in crossed(right).interval()
    assert held / 500 > 0.92 and plain / 500 < 0.85


def test_auc_with_few_positive_rows_keeps_its_word():
    """Four positives of 100, AUC .921: with the degrees of freedom of all rows the interval holds it in 88 %."""
    own, held = np.random.default_rng(10), 0
    labels = (np.arange(100) < 4).astype(int)
    for _ in range(300):
        row = own.normal(0, 0.6**0.5, 100)
        runs = [influence_of("auc", labels, 2 * labels + row + own.normal(0, 0.4**0.5, 100)) for _ in range(3)]
        held += 0.9213504 in components_of(runs).interval()
    assert held / 300 > 0.93


def test_auc_and_f1_keep_their_word():
    own, held = np.random.default_rng(9), {"auc": 0, "f1": 0}
    # Two classes, normal scores two apart: AUC = Phi(sqrt 2); at a threshold of 1, half of the rows positive.
    area, miss = 0.9213504, 0.1586553
    truth = {"auc": area, "f1": (1 - miss)}
    for _ in range(300):
        labels = own.integers(2, size=80)
        row = own.normal(0, 0.8, 80)
        scores = [2 * labels + row + own.normal(0, 0.6, 80) for _ in range(2)]
        for name, value in truth.items():
            found = components_of([influence_of(name, labels, score, threshold=1.0) for score in scores])
            held[name] += value in found.interval()
    assert held["auc"] / 300 > 0.92 and held["f1"] / 300 > 0.92
