"""Metrics of which only Keras's object is known: what each row does to them, and the intervals that follow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import sklearn.metrics
from marks import needs_jax

import manyfit as kt
from manyfit.data.rows import Rows
from manyfit.finish.measures import Measuring, measures_of
from manyfit.finish.metric_influence import metric_influence, value_of
from manyfit.finish.row_losses import row_losses
from manyfit.stats.influence import influence_of
from manyfit.stats.intervals import Scale

pytestmark = needs_jax

RNG = np.random.default_rng(0)
Y = RNG.integers(2, size=80)
P = np.clip(0.3 + 0.3 * Y + RNG.normal(0, 0.2, 80), 0.01, 0.99).astype("float32")[:, None]
CLASSES = np.eye(3, dtype="float32")[RNG.integers(3, size=80)]
SHARES = (0.2 * CLASSES + 0.8 * RNG.dirichlet(np.ones(3), 80)).astype("float32")
MASKS = RNG.integers(2, size=(30, 4, 5, 1)).astype("float32")
SEEN = np.clip(0.3 + 0.3 * MASKS + RNG.normal(0, 0.2, MASKS.shape), 0, 1).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Matthews(keras.metrics.Metric):
    """The correlation of decisions with the truth, as a user writes it."""

    def __init__(self, name="matthews", threshold=0.5, **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold
        self.counts = self.add_weight(shape=(2, 2), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        truth = keras.ops.reshape(keras.ops.cast(y_true, "int32"), (-1,))
        decided = keras.ops.reshape(keras.ops.cast(y_pred > self.threshold, "int32"), (-1,))
        both = keras.ops.one_hot(truth, 2)[:, :, None] * keras.ops.one_hot(decided, 2)[:, None, :]
        if sample_weight is not None:
            both = both * keras.ops.reshape(sample_weight, (-1, 1, 1))
        self.counts.assign_add(keras.ops.sum(both, axis=0))

    def result(self):
        c = self.counts
        margins = keras.ops.prod(keras.ops.sum(c, axis=0)) * keras.ops.prod(keras.ops.sum(c, axis=1))
        return (c[0, 0] * c[1, 1] - c[0, 1] * c[1, 0]) / keras.ops.sqrt(margins)

    def get_config(self):
        return super().get_config() | {"threshold": self.threshold}


class Deaf(Matthews):
    """One that takes weights, and counts each row as one."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        super().update_state(y_true, y_pred)


class Unweighted(Matthews):
    """One that takes none."""

    def update_state(self, y_true, y_pred):
        super().update_state(y_true, y_pred)


def by_small_steps(function, size, step=1e-4):
    """N times the slope by the weight of each row, of a function in double precision."""
    slopes = []
    for row in range(size):
        more, less = np.ones(size), np.ones(size)
        more[row] += step
        less[row] -= step
        slopes.append(size * (function(more) - function(less)) / (2 * step))
    return np.array(slopes)


M = sklearn.metrics
DECIDED = P[:, 0] > 0.5
#: A metric of Keras's, its rows, and scikit-learn's function of weights.
WITNESSES = {
    "precision": (keras.metrics.Precision(), Y, P, lambda w: M.precision_score(Y, DECIDED, sample_weight=w)),
    "recall at another threshold": (
        keras.metrics.Recall(thresholds=0.4), Y, P, lambda w: M.recall_score(Y, P[:, 0] > 0.4, sample_weight=w),
    ),
    "precision of a class": (
        keras.metrics.Precision(class_id=1), CLASSES, SHARES,
        lambda w: M.precision_score(CLASSES[:, 1], SHARES[:, 1] > 0.5, sample_weight=w),
    ),
    "F beta of classes": (
        keras.metrics.FBetaScore(average="macro", beta=2.0), CLASSES, SHARES,
        lambda w: M.fbeta_score(CLASSES.argmax(1), SHARES.argmax(1), beta=2, average="macro", sample_weight=w),
    ),
    "intersection over union": (
        keras.metrics.OneHotMeanIoU(3), CLASSES, SHARES,
        lambda w: M.jaccard_score(CLASSES.argmax(1), SHARES.argmax(1), average="macro", sample_weight=w),
    ),
    "pixels": (
        keras.metrics.BinaryIoU(target_class_ids=[1]), MASKS, SEEN,
        lambda w: M.jaccard_score(MASKS.ravel(), SEEN.ravel() > 0.5, sample_weight=np.repeat(w, 20)),
    ),
    "a user's": (Matthews(), Y, P, lambda w: M.matthews_corrcoef(Y, DECIDED, sample_weight=w)),
    "a user's, with a setting": (
        Matthews(threshold=0.3), Y, P, lambda w: M.matthews_corrcoef(Y, P[:, 0] > 0.3, sample_weight=w),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WITNESSES)
def test_influences_are_the_slopes_of_scikit_learns_metric(case):
    metric, y, p, theirs = WITNESSES[case]
    before = [np.asarray(variable) for variable in metric.variables]
    found = metric_influence(metric, y, p)
    assert found.value == pytest.approx(theirs(np.ones(len(y))), abs=1e-5)
    assert found.rows == pytest.approx(by_small_steps(theirs, len(y)), abs=1e-3)
    assert found.rows.mean() == pytest.approx(0, abs=1e-9)
    for one, other in zip(before, metric.variables, strict=True):  # the model's own is left alone
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("metric", "y", "p"),
    [
        (Deaf(), Y, P),
        (Unweighted(), Y, P),
        (keras.metrics.F1Score(), CLASSES, SHARES),
        (keras.metrics.TruePositives(), Y, P),
        (keras.metrics.Precision(), Y, np.zeros_like(P)),
        (Matthews(), np.ones_like(Y), P),
    ],
    ids=["deaf", "unweighted", "three numbers", "a count", "nothing found", "not a number"],
)
def test_what_cannot_be_told_is_not_made_up(metric, y, p):
    assert metric_influence(metric, y, p) is None


def model_with(*metrics, loss="binary_crossentropy"):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.ones((1, 1), "float32")])
    model.compile("sgd", loss, metrics=list(metrics))
    return model


@pytest.mark.parametrize(
    ("metric", "name", "by_formula"),
    [
        (keras.metrics.Precision(), "precision", "precision"),
        (keras.metrics.Precision(thresholds=0.3, name="precision"), "", ""),
        (keras.metrics.AUC(name="auc"), "auc", "auc"),
        (keras.metrics.AUC(curve="PR", name="auc"), "", ""),
        (Matthews(), "", ""),
    ],
    ids=["precision", "at another threshold", "auc", "the other curve", "a user's"],
)
def test_a_formula_is_taken_only_for_the_metric_that_the_model_has(metric, name, by_formula):
    # One positive row in five: the areas under the two curves are far apart.
    rare = (np.arange(80) % 5 == 0).astype(int)
    p = np.clip(0.25 + 0.2 * rare + 0.2 * np.random.default_rng(1).normal(size=80), 0.01, 0.99)[:, None]
    model = model_with(metric)
    model.evaluate(p, rare, verbose=0)
    kept = row_losses(model, f"val_{metric.name}", rare, p, sample_weight=None, rows_are="these")
    assert kept.metric == name
    assert kept.value == pytest.approx(value_of(metric, rare, p), abs=0.02 if by_formula == "auc" else 1e-5)
    if by_formula:
        np.testing.assert_allclose(kept.rows, influence_of(by_formula, rare, p).losses, rtol=1e-5)
    assert kept.rows.mean() == pytest.approx(kept.value, abs=1e-5) and kept.rows.std() > 0


def test_an_evaluation_takes_them_row_by_row():
    model = model_with(Matthews(), keras.metrics.Precision(thresholds=0.3, name="precision"))
    test = Rows(P, Y.astype("float32")[:, None])
    found = measures_of(model, test, Measuring())
    for name in ("matthews", "precision"):
        measure = found[name]
        error = np.sqrt((measure.losses**2).sum()) / len(Y)
        assert measure.interval.low < measure.interval.estimate < measure.interval.high
        assert measure.interval.half_width == pytest.approx(1.99 * error, rel=0.15)


def test_a_confirmation_by_a_users_metric_knows_the_error_of_the_rows(tmp_path):
    def build(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 4, 16, step=4), "relu")])
        model.add(keras.layers.Dense(1, "sigmoid"))
        model.compile(keras.optimizers.Adam(0.03), "binary_crossentropy", metrics=[Matthews()])
        return model

    x = np.random.default_rng(3).normal(size=(200, 3)).astype("float32")
    y = (x[:, 0] + np.random.default_rng(4).normal(size=200) > 0).astype("int32")
    objective = kt.Objective("val_matthews", "max")
    tuner = kt.RandomSearch(build, objective, max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), epochs=3, verbose=0)
    found = tuner.confirm(top=2, max_rounds=1, proof_executions=0)
    assert found.num_rows == 100 and "rows unknown" not in str(found)
    assert found.recommended.estimate.rows_error > 0.02 and np.isfinite(found.interval().half_width)


def test_the_scale_goes_by_the_name():
    assert metric_influence(keras.metrics.Precision(), Y, P).scale is Scale.LOGIT
    assert metric_influence(Matthews(), Y, P).scale is Scale.PLAIN
