"""Intervals of held-out scores: whatever the order of rows, inside the bounds of the metric, as wide as is right."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import sklearn.base
import tiny
from scipy import stats

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.data.rows import Rows
from manyfit.finish.measures import Measuring, measures_of

RNG = np.random.default_rng(5)
NUM_ROWS = 240
X = RNG.normal(size=(NUM_ROWS, 3)).astype("float32")
Y = (X[:, :1] + RNG.normal(size=(NUM_ROWS, 1)) > 0.3).astype("float32")


def told(x, **metrics):
    """A model that says of a row what stands in its first column."""
    model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.eye(x.shape[1], 1, dtype="float32")])
    model.compile("sgd", **metrics)
    return model


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    tuner = kt.GridSearch(tiny.build, "val_loss", max_trials=1, directory=tmp_path_factory.mktemp("measures"))
    yield tuner
    tuner.close()


def probabilities(y=Y):
    p = np.clip(0.35 + 0.3 * y[:, 0] + 0.2 * np.random.default_rng(0).normal(size=len(y)), 0.02, 0.98)
    return p.astype("float32")[:, None]


def intervals(tuner, x, y, **metrics):
    [row] = tuner.evaluate(x, y, models=told(x, **metrics)).scores.values()
    return row


class Unweighted(keras.metrics.Precision):
    """A metric that heeds no weights of rows."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred)


BINARY = {
    "loss": "binary_crossentropy",
    "metrics": ["accuracy", keras.metrics.AUC(name="auc")],
}
PRECISE = {"loss": "mse", "metrics": [Unweighted(name="precision")]}  # not known row by row: by groups
VALUES = {"loss": "mse", "metrics": [keras.metrics.R2Score(), keras.metrics.RootMeanSquaredError(name="rmse")]}


@pytest.mark.parametrize(
    ("x", "y", "metrics"),
    [(probabilities(), Y, BINARY), (probabilities(), Y, PRECISE), (X[:, :1], X[:, :1] + X[:, 1:2], VALUES)],
    ids=["classes", "by groups", "values"],
)
def test_the_order_of_rows_changes_no_interval(tuner, x, y, metrics):
    model = told(x, **metrics)
    [plain] = tuner.evaluate(x, y, models=model).scores.values()
    by_class = np.argsort(y[:, 0], kind="stable")
    for order in (by_class, np.random.default_rng(1).permutation(len(y))):
        [row] = tuner.evaluate(x[order], y[order], models=model, batch_size=NUM_ROWS).scores.values()
        for name, interval in row.items():
            wanted = plain[name]
            assert (interval.low, interval.high) == pytest.approx((wanted.low, wanted.high), rel=1e-4), name
            assert wanted.low < wanted.estimate < wanted.high


def test_intervals_are_those_of_the_law(tuner):
    p = probabilities()
    found = intervals(tuner, p, Y, **BINARY)
    hits = int(((p > 0.5) == Y).sum())
    wilson = stats.binomtest(hits, NUM_ROWS).proportion_ci(0.95, method="wilson")
    assert (found["accuracy"].low, found["accuracy"].high) == pytest.approx((wilson.low, wilson.high), abs=3e-3)
    losses = -np.log(np.where(Y == 1, p, 1 - p))[:, 0]
    error = losses.std(ddof=1) / np.sqrt(NUM_ROWS)
    reach = stats.t.ppf(0.975, NUM_ROWS - 1) * error / losses.mean()
    ends = losses.mean() * np.exp([-reach, reach])
    assert (found["loss"].low, found["loss"].high) == pytest.approx(
        tuple(ends), rel=1e-3
    )  # skewness moves them a little
    # A precision is a share of those that are said to be positive: their number is the binomial's.
    said = (p > 0.5)[:, 0]
    share = stats.binomtest(int(Y[said].sum()), int(said.sum())).proportion_ci(0.95, method="wilson")
    precision = intervals(tuner, p, Y, **PRECISE)["precision"]
    assert precision.high - precision.low == pytest.approx(share.high - share.low, rel=0.5)


def test_ends_stay_where_the_metric_can_be(tuner):
    """Near their bounds, on few rows: AUC and accuracy in [0, 1], losses above 0, R2 below 1."""
    y = (np.arange(24) < 12).astype("float32")[:, None]
    p = np.where(y == 1, 0.9, 0.1).astype("float32") + np.float32(0.003) * np.arange(24, dtype="float32")[:, None]
    p[11] = 0.4
    found = intervals(tuner, p, y, **BINARY)
    for name in ("accuracy", "auc"):
        assert 0 <= found[name].low < found[name].estimate <= found[name].high <= 1, name
    assert found["loss"].low > 0
    x = np.linspace(-1, 1, 12, dtype="float32")[:, None]
    noise = np.tile([0.02, -0.3, 0.01], 4).astype("float32")[:, None]
    found = intervals(tuner, x, x + noise, **VALUES)
    assert found["r2_score"].low < found["r2_score"].estimate < found["r2_score"].high < 1
    assert found["rmse"].low > 0


def test_groups_of_rows_that_resemble_each_other_are_what_is_drawn(tuner):
    """Each row four times: as rows the interval is half as wide as it should be; as groups it is that of the rows."""
    p = probabilities()
    four = np.tile(np.arange(NUM_ROWS), 4)
    model = told(p, loss="mse")
    one, rows, groups = (
        tuner.evaluate(x, y, models=model, **more)
        for x, y, more in ((p, Y, {}), (p[four], Y[four], {}), (p[four], Y[four], {"groups": four}))
    )
    width = [each.scores[next(iter(each.scores))]["loss"].half_width for each in (one, rows, groups)]
    assert width[1] == pytest.approx(width[0] / 2, rel=0.05) and width[2] == pytest.approx(width[0], rel=0.02)
    with pytest.raises(UsageError, match="groups") as error:
        tuner.evaluate(p, Y, models=model, groups=four)
    tiny.four_parts(error.value)


# Bad input -------------------------------------------------------------------------------------------------------


def test_five_rows(tuner):
    evaluation = tuner.evaluate(probabilities()[:5], Y[:5], models=told(Y, **BINARY))
    [row] = evaluation.scores.values()
    assert 0 <= row["accuracy"].low < row["accuracy"].high <= 1 and "5 rows only" in str(evaluation)


def test_one_class_has_no_auc_and_it_is_said(tuner):
    p, y = probabilities()[:40], np.ones((40, 1), "float32")
    evaluation = tuner.evaluate(p, y, models=told(p, **BINARY))
    [row] = evaluation.scores.values()
    assert np.isnan(row["auc"].estimate) and "auc: one class only" in str(evaluation)
    assert row["loss"].low < row["loss"].estimate < row["loss"].high


def test_rows_without_a_prediction_count_as_the_worst(tuner):
    p = probabilities()
    whole = intervals(tuner, p, Y, **BINARY)
    broken = p.copy()
    broken[:6] = np.nan
    evaluation = tuner.evaluate(broken, Y, models=told(p, **BINARY))
    [row] = evaluation.scores.values()
    assert "6 rows without a prediction count as the worst" in str(evaluation)
    assert np.isfinite(row["loss"].high) and row["loss"].estimate > whole["loss"].estimate
    assert row["accuracy"].estimate <= whole["accuracy"].estimate


class Subclassed(keras.Model):
    """A model that has layers and no graph of them, so it does not say what shape its answers have."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1, activation="sigmoid")

    def call(self, x):
        return self.dense(x)


def test_a_model_that_is_a_class_of_its_own_has_intervals_too(tuner):
    model = Subclassed()
    model.compile("sgd", **BINARY)
    model.fit(X, Y, epochs=1, verbose=0)
    [row] = tuner.evaluate(X, Y, models=model).scores.values()
    assert all(row[name].low < row[name].estimate < row[name].high for name in ("accuracy", "loss"))


def test_a_constant_metric(tuner):
    y = (np.arange(40) % 2).astype("float32")[:, None]
    evaluation = tuner.evaluate(y, y, models=told(y, loss="mse", metrics=["accuracy"]))
    [row] = evaluation.scores.values()
    assert row["accuracy"].high == 1 and row["accuracy"].low == pytest.approx(0.9072, abs=1e-4)  # Wilson, 40 of 40
    assert "loss: no variation seen" in str(evaluation)
    with pytest.raises(UsageError, match="no test rows") as error:
        tuner.evaluate(y[:0], y[:0], models=told(y, loss="mse"))
    tiny.four_parts(error.value)


def test_a_stream_has_no_interval_and_says_so(tuner):
    p = probabilities()

    def batches():
        for start in range(0, NUM_ROWS, 40):
            yield p[start : start + 40], Y[start : start + 40]

    evaluation = tuner.evaluate(batches(), steps=6, models=told(p, loss="mse"))
    assert "no interval" in str(evaluation) and "rows are unknown" in str(evaluation)


# Coverage --------------------------------------------------------------------------------------------------------


def test_intervals_cover_the_truth_as_often_as_they_say(tuner):
    """AUC and F1 on 120 rows against a million: cover of 300 draws within three Monte Carlo errors of 95 %.

    Sorted by class, as the rows come here, groups of consecutive rows had no interval at all.
    """
    rng = np.random.default_rng(2)

    def draw(size):
        y = np.sort((rng.uniform(size=size) < 0.3).astype("float32"))[:, None]
        return (1 / (1 + np.exp(-(1.4 * y - 0.7 + rng.normal(size=(size, 1)))))).astype("float32"), y

    score, truth = draw(1_000_000)
    positive, negative = score[truth == 1], np.sort(score[truth == 0])
    area = np.searchsorted(negative, positive).mean() / len(negative)
    decided = score > 0.5
    f1 = 2 * (decided & (truth == 1)).sum() / (decided.sum() + truth.sum())

    class Answers(sklearn.base.ClassifierMixin, sklearn.base.BaseEstimator):
        """What an estimator is taken for: it fits, and says probabilities."""

        classes_ = np.array([0, 1])

        def fit(self, x, y):
            return self

        def predict_proba(self, x):
            return np.concatenate([1 - x, x], axis=1)

        def predict(self, x):
            return (x[:, 0] > 0.5).astype(int)

    covered = {"auc": 0, "f1": 0}
    for _ in range(300):
        x, y = draw(120)
        found = measures_of(Answers(), Rows(x, y[:, 0].astype(int)), Measuring(wanted=("f1",)))
        covered["auc"] += area in found["auc"].interval
        covered["f1"] += f1 in found["f1"].interval
    assert all(0.912 <= count / 300 <= 0.988 for count in covered.values()), covered
