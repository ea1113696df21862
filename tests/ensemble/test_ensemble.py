"""The `Ensemble` from the outside: tasks, bad input, methods, what it says."""

import numpy as np
import pytest

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.ensemble import CostBudget, Ensemble, EnsembleMember, EnsembleSettings, PredictionTask
from manyfit.ensemble.choosing.methods import METHODS

QUICK = EnsembleSettings(num_folds=3)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def classes(num_members=4, num_rows=300, num_classes=3, seed=0):
    """Members that err independently: an ensemble is better."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, num_classes, num_rows)
    z = rng.normal(size=(num_members, num_rows, num_classes))
    z[:, np.arange(num_rows), y] += 1.2
    return list(softmax(z)), y


def values(num_members=4, num_rows=300, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=num_rows)
    return [y + rng.normal(size=num_rows) for _ in range(num_members)], y


def test_it_is_public():
    assert kt.Ensemble is Ensemble


def test_members_that_err_independently_are_combined():
    p, y = classes()
    ensemble = Ensemble.fit(p, y, settings=QUICK)
    assert ensemble.task is PredictionTask.MULTICLASS
    assert not ensemble.refused
    assert ensemble.gain.low > 0
    assert sum(weight > 0 for weight in ensemble.weights.values()) >= 3
    held_out, labels = classes(num_rows=4000, seed=1)
    pooled = ensemble.pool(np.stack(held_out), ensemble.task)
    best = max(ensemble.evaluate_predictions(q, labels)["log_loss"] for q in held_out)
    assert ensemble.evaluate_predictions(pooled, labels)["log_loss"] < best - ensemble.gain.low


@pytest.mark.parametrize("method", [name for name in METHODS if name != "rank"])
def test_every_method_fits_classes(method):
    p, y = classes()
    ensemble = Ensemble.fit(p, y, method=method, settings=QUICK)
    assert ensemble.method.startswith(method)
    assert not ensemble.refused
    assert ensemble.choice.score <= ensemble.choice.baseline_score + 0.02


@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("rank", "geometric", "power")])
def test_every_method_fits_values(method):
    p, y = values()
    ensemble = Ensemble.fit(p, y, method=method, settings=QUICK)
    assert ensemble.task is PredictionTask.REGRESSION
    assert ensemble.choice.score <= ensemble.choice.baseline_score * 1.05


@pytest.mark.parametrize("metric", ["log_loss", "accuracy", "auc", "brier", "f1"])
@pytest.mark.parametrize("task", ["binary", "multilabel"])
def test_two_class_tasks_and_metrics(task, metric):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (90, 1 if task == "binary" else 3))
    p = [1 / (1 + np.exp(-(2 * y - 1 + rng.normal(size=y.shape) * 1.5))) for _ in range(3)]
    ensemble = Ensemble.fit(p, y, metric=metric, settings=QUICK)
    assert ensemble.task == task
    assert ensemble.gain.estimate > 0
    pooled = ensemble.pool(np.stack(p), ensemble.task)
    assert pooled.shape == y.shape
    assert set(ensemble.evaluate_predictions(pooled, y)) == {metric}


def test_several_outputs_and_quantiles():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(300, 2))
    p = [y + rng.normal(size=(300, 2)) for _ in range(3)]
    assert Ensemble.fit(p, y, settings=QUICK).gain.proven
    levels = (0.1, 0.5, 0.9)
    truth = rng.normal(size=(400, 1))
    spread = np.array([-1.28, 0, 1.28])
    quantiles = [truth + rng.normal(size=(400, 1)) + spread for _ in range(3)]
    fitted = Ensemble.fit(
        quantiles, np.repeat(truth, 3, axis=1), settings=EnsembleSettings(quantiles=levels, num_folds=3)
    )
    assert fitted.metric.name == "pinball"
    assert fitted.gain.estimate > 0


@pytest.mark.parametrize("metric", ["mae", "rmse", "r2"])
def test_metrics_of_values(metric):
    p, y = values()
    ensemble = Ensemble.fit(p, y, metric=metric, settings=QUICK)
    assert ensemble.gain.proven
    better = (ensemble.choice.score - ensemble.choice.baseline_score) * (1 if metric == "r2" else -1)
    assert better == pytest.approx(ensemble.gain.estimate)  # the stated unit is the metric's own


def test_sample_weights_count():
    p, y = values(2, 400)
    weight = np.r_[np.ones(200), np.zeros(200)]
    p[0][:200] = y[:200] + 0.01
    p[1][200:] = y[200:] + 0.01
    ensemble = Ensemble.fit(p, y, sample_weight=weight, settings=QUICK)
    assert ensemble.weights["m0"] > 0.9


def test_seeds_decide():
    p, y = classes(num_rows=120)
    one, two = (Ensemble.fit(p, y, method="random search", seed=0) for _ in range(2))
    assert one.weights == two.weights
    assert Ensemble.fit(p, y, method="random search", seed=1).weights != one.weights


# Bad input: clear errors or right answers.


def test_one_member_is_itself():
    p, y = classes(1)
    ensemble = Ensemble.fit(p, y, settings=EnsembleSettings(temperature=False))
    assert ensemble.refused
    assert ensemble.weights == {"m0": 1.0}
    assert "One member" in str(ensemble)


def test_identical_members_are_refused_and_called_copies():
    p, y = classes(1)
    ensemble = Ensemble.fit([p[0]] * 4, y, settings=EnsembleSettings(num_folds=3, temperature=False))
    assert ensemble.refused
    assert ensemble.gain.estimate == pytest.approx(0, abs=1e-12)
    assert all(len(member.copies) == 3 for member in ensemble.explanation().members)
    assert "copy of" in str(ensemble)


def test_probabilities_of_exactly_zero_and_one():
    y = np.array([0, 1] * 100)
    sure = np.eye(2)[y]
    wrong = sure.copy()
    wrong[:20] = wrong[:20, ::-1]
    ensemble = Ensemble.fit([wrong, sure], y, settings=QUICK)
    assert ensemble.weights == {"m0": 0.0, "m1": 1.0}
    assert np.isfinite(ensemble.pool(np.stack([wrong, sure]), ensemble.task)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_members_with_broken_predictions_get_no_weight(bad):
    p, y = classes()
    p[1] = p[1].copy()
    p[1][7, 0] = bad
    ensemble = Ensemble.fit(p, y, settings=QUICK)
    assert ensemble.weights["m1"] == 0
    assert "m1: 1 predictions are NaN or inf" in str(ensemble)
    assert np.isfinite(ensemble.pool(np.stack(p), ensemble.task)).all()  # inf with weight 0 does no harm
    with pytest.raises(UsageError, match="every member"):
        Ensemble.fit([p[1]], y)


def test_classes_missing_from_the_validation_rows():
    p, y = classes(num_classes=4)
    keep = y < 3
    ensemble = Ensemble.fit([q[keep] for q in p], y[keep], settings=QUICK)
    assert ensemble.num_outputs == 4
    for metric in ("auc", "f1", "balanced_accuracy"):
        few = np.flatnonzero(keep)[:60]
        fitted = Ensemble.fit([q[few] for q in p[:2]], y[few], metric=metric, method="greedy", settings=QUICK)
        assert np.isfinite(fitted.choice.score)


def test_integer_labels_one_hot_rows_and_columns_are_the_same():
    p, y = classes(num_rows=150)
    fitted = [Ensemble.fit(p, labels, method="convex", settings=QUICK) for labels in (y, np.eye(3)[y], y[:, None])]
    assert fitted[0].weights == fitted[1].weights == fitted[2].weights


def test_half_precision_is_enough():
    p, y = classes()
    full = Ensemble.fit(p, y, method="convex", settings=QUICK)
    half = Ensemble.fit([q.astype(np.float16) for q in p], y, method="convex", settings=QUICK)
    np.testing.assert_allclose(list(half.weights.values()), list(full.weights.values()), atol=5e-3)


def test_different_output_shapes_are_an_error_or_aligned():
    p, y = classes()
    with pytest.raises(UsageError, match=r"m1.*2 columns where 'm0' has 3"):
        Ensemble.fit([p[0], p[1][:, :2]], y)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    q = [1 / (1 + np.exp(-(2 * labels - 1 + rng.normal(size=200)))) for _ in range(2)]
    mixed = Ensemble.fit([q[0], np.stack([1 - q[1], q[1]], axis=1)], labels, method="convex", settings=QUICK)
    plain = Ensemble.fit(q, labels, method="convex", settings=QUICK)
    assert mixed.weights == pytest.approx(plain.weights, abs=1e-6)


def test_misaligned_rows_are_an_error():
    p, y = classes()
    ids = np.arange(len(y))
    with pytest.raises(UsageError, match="row identities that differ"):
        Ensemble.fit(
            [
                EnsembleMember("a", predictions=p[0], row_ids=ids),
                EnsembleMember("b", predictions=p[1], row_ids=ids[::-1]),
            ],
            y,
        )
    with pytest.raises(UsageError, match="predictions of 299 rows where 'm0' has 300"):
        Ensemble.fit([p[0], p[1][1:]], y)
    with pytest.raises(UsageError, match="299 labels for 300 predicted rows"):
        Ensemble.fit(p, y[1:])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"y": None}, "no labels"),
        ({"members": []}, "no members"),
        ({"method": "voodoo"}, "'voodoo'"),
        ({"task": "clustering"}, "'clustering'"),
        ({"metric": "mae"}, "for a multiclass task"),
        ({"y": np.array(["a", "b", "c"] * 100)}, "labels of type"),
        ({"y": np.full(300, 3)}, "labels between 3 and 3"),
        ({"y": np.full(300, -1)}, "labels between -1 and -1"),
        ({"y": np.full((300, 3), 1 / 3), "task": "multiclass"}, "class indices"),
        ({"y": np.full(300, np.nan), "task": "multiclass"}, "NaN or inf"),
        ({"sample_weight": -np.ones(300)}, "unusable weights"),
        ({"y": [0, 1], "members": [np.eye(2)]}, "at least three rows"),
        ({"sample_weight": np.ones(3)}, "3 weights for 300 rows"),
        ({"task": "multiclass", "members": [np.full((300, 3), 5.0)]}, "no probabilities"),
        ({"members": [np.zeros((300, 3, 2))]}, "shape"),
        ({"models": [None]}, "1 models for 4 predictions"),
        ({"settings": EnsembleSettings(budget=CostBudget(max_latency_seconds=1e-3))}, "cannot be timed"),
    ],
)
def test_what_cannot_work_is_said(arguments, text):
    p, y = classes()
    with pytest.raises(UsageError, match=text):
        Ensemble.fit(**{"members": p, "y": y, **arguments})


def test_names_must_differ():
    p, y = classes()
    with pytest.raises(UsageError, match="two members named 'a'"):
        Ensemble.fit([EnsembleMember("a", predictions=p[0]), EnsembleMember("a", predictions=p[1])], y)


def test_predicting_without_models_is_an_error():
    p, y = classes()
    with pytest.raises(UsageError, match="no model"):
        Ensemble.fit(p, y, settings=QUICK).predict(np.zeros((2, 3)))


def test_few_rows_prove_nothing():
    p, y = classes(num_rows=4)
    assert Ensemble.fit(p, y, settings=EnsembleSettings(temperature=False)).refused


# What it says.


def test_summary_says_what_was_done_and_why():
    p, y = classes()
    p[3] = softmax(np.random.default_rng(0).normal(size=p[3].shape) * 4)  # useless
    members = {"first": p[0], "second": p[1], "third": p[2], "useless": p[3]}
    ensemble = Ensemble.fit(members, y, method="convex", settings=EnsembleSettings(num_folds=3, temperature=False))
    told = ensemble.explanation()
    text = ensemble.summary()
    assert told.optimality_gap < 1e-8
    assert "within" in text
    assert "gain over the single best +" in text
    assert "members average" in text
    useless = told.members[3]
    assert useless.weight == 0
    assert "worse than" in useless.reason
    for member in told.members[:3]:
        assert member.without > ensemble.choice.score - 0.05
        assert "without it the loss would change by +" in member.reason
    assert told.heat_map().startswith("<svg")
    sizes, scores = [point.num_members for point in told.front], [point.score for point in told.front]
    assert sizes == sorted(set(sizes)) and scores == sorted(scores, reverse=True), "each member more buys something"
    alone = next(c.score for c in ensemble.choice.candidates if c.name == "single best")
    assert [point.gain for point in told.front] == pytest.approx([alone - score for score in scores])


def test_seeds_of_one_configuration_are_flagged():
    p, y = classes()
    members = [
        EnsembleMember(f"t{k}", predictions=q, configuration={"units": 8 if k < 2 else k}) for k, q in enumerate(p)
    ]
    told = Ensemble.fit(members, y, method="uniform", settings=QUICK).explanation()
    assert [member.seeds for member in told.members] == [("t1",), ("t0",), (), ()]


def test_budget_on_members():
    p, y = classes(8)
    for limit in (1, 2, 3):
        ensemble = Ensemble.fit(p, y, settings=EnsembleSettings(num_folds=3, budget=CostBudget(max_members=limit)))
        assert sum(weight != 0 for weight in ensemble.weights.values()) <= limit
        for candidate in ensemble.choice.candidates:
            assert candidate.num_members <= limit


class Known:
    """An estimator that answers with stored numbers: row number -> probabilities."""

    def __init__(self, table, size=10):
        self.table = np.asarray(table)
        self.ballast = b"x" * size

    def predict_proba(self, x):
        return self.table[np.asarray(x).astype(int).ravel()]


def test_budget_on_bytes_and_latency():
    p, y = classes(3)
    x = np.arange(len(y))[:, None]
    models = [Known(p[0]), Known(p[1]), Known(p[2], size=10**6)]
    roomy = EnsembleSettings(num_folds=3, budget=CostBudget(max_bytes=10**6))
    ensemble = Ensemble.fit(models, y, x=x, settings=roomy)
    assert ensemble.weights["m2"] == 0
    with pytest.raises(UsageError, match="a budget that no member fits"):
        Ensemble.fit(models, y, x=x, settings=EnsembleSettings(budget=CostBudget(max_bytes=10)))
    timed = EnsembleSettings(num_folds=3, budget=CostBudget(max_latency_seconds=10.0))
    assert not Ensemble.fit(models, y, x=x, settings=timed).refused


def test_the_front_counts_every_cost_that_is_known():
    p, y = classes(4)
    x = np.arange(len(y))[:, None]
    models = [Known(p[0], size=10**6), *(Known(part) for part in p[1:])]
    ensemble = Ensemble.fit(models, y, x=x, settings=EnsembleSettings(num_folds=3))
    assert {point.seconds_per_row for point in ensemble.explanation().front} == {None}
    measured = ensemble.measure_latency(x)
    assert "µs per row" not in ensemble.summary()  # a finished ensemble does not change
    ensemble = ensemble.with_latency(measured)
    front = ensemble.explanation().front
    assert set(measured) == set(ensemble.weights) and all(seconds > 0 for seconds in measured.values())
    assert all(point.num_bytes > 0 and point.seconds_per_row > 0 for point in front)
    for one in front:  # nobody is beaten in every respect
        for other in front:
            costs = [(b.num_members, b.num_bytes, b.seconds_per_row, b.score) for b in (one, other)]
            assert one is other or any(mine < theirs for mine, theirs in zip(*costs, strict=True))
    assert "kB" in ensemble.summary() and "µs per row" in ensemble.summary()


def test_weights_learned_from_predictions_are_applied_to_models():
    """Point 7: learned out of sample from search-time predictions, used by models retrained on all data."""
    p, y = classes(3)
    x = np.arange(len(y))[:, None]
    retrained = [Known(np.roll(q, 1, axis=0)) for q in p]
    ensemble = Ensemble.fit(predictions=p, y=y, models=retrained, method="convex", settings=QUICK)
    assert ensemble.weights == Ensemble.fit(p, y, method="convex", settings=QUICK).weights
    expected = ensemble.pool(np.stack([np.roll(q, 1, axis=0) for q in p]), ensemble.task)
    np.testing.assert_allclose(ensemble.predict(x), expected, atol=1e-6)
    np.testing.assert_allclose(
        ensemble.with_models([Known(q) for q in p]).predict(x), np.roll(expected, -1, 0), atol=1e-6
    )
    with pytest.raises(UsageError, match="2 models for 3 members"):
        ensemble.with_models(retrained[:2])


def test_folds_of_a_member_are_averaged_and_collapse_on_refit():
    p, y = classes(4)
    x = np.arange(len(y))[:, None]
    members = {"bagged": [Known(p[0]), Known(p[1])], "plain": Known(p[2])}
    ensemble = Ensemble.fit(
        members, y, x=x, method="uniform", settings=EnsembleSettings(num_folds=3, temperature=False)
    )
    assert ensemble.weights == {"bagged": 0.5, "plain": 0.5}
    np.testing.assert_allclose(ensemble.predict(x), (p[0] + p[1]) / 4 + p[2] / 2, atol=1e-6)
    trained = []

    def train(member):
        trained.append(member.name)
        return Known(p[3])

    single = ensemble.refit(train)
    assert trained == ["bagged", "plain"]
    assert [len(member.models) for member in single.members] == [1, 1]
    np.testing.assert_allclose(single.predict(x), p[3], atol=1e-6)
    assert single.weights == ensemble.weights
