"""Weights for models that are not those which made the predictions: what they may keep, and what may be claimed.

Fixed seeds. The simulated models have luck of their own, as trained ones do: how sharp a model is differs from training
to training, and what it learned of a configuration's worth is drawn anew with every model.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from manyfit.ensemble import Ensemble, EnsembleMember, EnsembleSettings, RowCuts
from manyfit.ensemble.choosing.losses import ModelLuck
from manyfit.ensemble.choosing.shrinkage import PATH, reliability, shrunk_weights
from manyfit.ensemble.metrics import default_metric, named_metric
from manyfit.ensemble.pools import LinearPool, PowerPool, StackingPool
from manyfit.ensemble.problem import PredictionTask, make_problem

LOG_LOSS, SQUARED = named_metric("log_loss"), named_metric("mse")
INSIST = EnsembleSettings(num_folds=3, refuse=False)


class World:
    """Rows, labels, and as many models of as many configurations as are asked for."""

    def __init__(self, seed, num_rows, worth=(0.0,) * 4, luck=0.4):
        self.rng = np.random.default_rng(seed)
        self.z = 1.5 * self.rng.normal(size=(num_rows, 3))
        self.y = (softmax(self.z, axis=1).cumsum(axis=1) < self.rng.random((num_rows, 1))).sum(axis=1)
        self.own = [0.4 * self.rng.normal(size=self.z.shape) for _ in worth]
        self.worth, self.luck = worth, luck

    def model(self, configuration):
        """Predictions of one model, of all rows."""
        noise = self.worth[configuration] + self.luck * abs(self.rng.normal())
        logits = self.z + self.own[configuration] + noise * self.rng.normal(size=self.z.shape)
        return softmax(logits * np.exp(0.2 * self.rng.normal()), axis=1)

    def models(self):
        return np.stack([self.model(configuration) for configuration in range(len(self.worth))])


def gain_on(pool, single, predictions, y):
    def loss(one):
        return -np.log(one(predictions, PredictionTask.MULTICLASS)[np.arange(len(y)), y]).mean()

    return loss(single) - loss(pool)


def single_of(ensemble):
    return next(one.pool for one in ensemble.choice.candidates if one.name == "single best")


def test_weights_of_search_time_models_claim_for_retrained_ones_what_these_gain():
    """Twelve draws: what is claimed for retrained models is what they gain, to four standard errors; what the same rows
    claim for the models that they were learned from is far above it."""
    claimed, before, truth = [], [], []
    for seed in range(12):
        world = World(seed, 4200)
        p, again, y = world.models(), world.models(), world.y
        few, rest = slice(0, 200), slice(200, None)
        for retrained, told in ((True, claimed), (False, before)):
            fitted = Ensemble.fit(
                list(p[:, few]), y[few], method="convex", retrained=retrained, settings=INSIST, seed=seed
            )
            told.append(fitted.gain.estimate)
            if retrained:
                assert not fitted.gain.proven and fitted.gain.low <= 0, "one holdout has seen no other models"
                truth.append(gain_on(fitted.pool, single_of(fitted), again[:, rest], y[rest]))
    error = np.std(np.subtract(claimed, truth), ddof=1) / np.sqrt(12)
    assert abs(np.mean(claimed) - np.mean(truth)) < 4 * error
    assert np.mean(truth) > 0.02


def test_carried_weights_are_better_for_retrained_models_than_learned_ones():
    """Configurations of equal worth: what differs between their models is luck, and equal weights are best."""
    ahead = []
    for seed in range(24):
        world = World(100 + seed, 4150)
        p, again, y = world.models(), world.models(), world.y
        fitted = Ensemble.fit(list(p[:, :150]), y[:150], method="convex", settings=INSIST, seed=seed)
        carried = fitted.for_retrained()
        ahead.append(gain_on(carried.pool, fitted.pool, again[:, 150:], y[150:]))
    assert np.mean(ahead) > 3 * np.std(ahead, ddof=1) / np.sqrt(24)


def test_no_temperature_survives_a_retraining_and_learned_weights_count_half_at_most():
    world = World(3, 600, worth=(0.0, 0.5, 0.9, 1.5))
    bold = softmax(2.5 * np.log(world.models()), axis=2)
    fitted = Ensemble.fit(list(bold), world.y, settings=EnsembleSettings(num_folds=3))
    assert fitted.pool.inverse_temperature < 1.0
    again = fitted.refit(lambda member: member)
    weights = again.pool.weights
    used = weights > 0
    assert getattr(again.pool, "inverse_temperature", 1.0) == 1.0
    assert weights.sum() == pytest.approx(1.0)
    assert weights[used].min() >= 0.5 / used.sum() - 1e-9
    assert again.gain != fitted.gain, "what is stated is the carried weights' gain"
    loaded = Ensemble(fitted.members, fitted.pool, fitted.task, num_outputs=3).for_retrained()
    assert loaded.pool.inverse_temperature == 1.0 and loaded.gain is None


@pytest.mark.parametrize(
    "pool",
    [
        LinearPool(np.array([0.9, 0.1, 0.0]), inverse_temperature=1.4),
        PowerPool(np.array([0.9, 0.1, 0.0]), parameter=0.5, member_inverse_temperatures=np.array([1.1, 0.9, 1.0])),
        StackingPool(np.array([0.9, 0.1, 0.0]), class_weights=np.ones((3, 3)), bias=np.ones(3)),
    ],
)
def test_a_carried_pool_is_half_of_what_was_learned_and_half_equal(pool):
    carried = pool.carried(0.5)
    np.testing.assert_allclose(carried.weights, [0.7, 0.3, 0.0])
    assert carried.inverse_temperature == 1.0 and carried.member_inverse_temperatures is None


def fold_models(world, num_folds, num_rows):
    """Predictions of fold models on the rows that they did not train on, and the fold of each row."""
    fold = world.rng.permutation(num_rows) % num_folds
    configurations = range(len(world.worth))
    told = np.stack([[world.model(one)[:num_rows] for _ in range(num_folds)] for one in configurations])
    return told[:, fold, np.arange(num_rows)], fold


def test_folds_of_models_leave_with_their_rows():
    """Configurations of equal worth, one fold of each ruined or not by luck: weights that live on it fail on the models
    that were left out. With rows drawn at random the same models are on both sides, and the loss looks smaller."""
    by_models, by_rows = [], []
    for seed in range(10):
        world = World(200 + seed, 300, luck=1.5)
        p, fold = fold_models(world, 5, 300)
        for cuts, told in ((RowCuts(folds=fold), by_models), (None, by_rows)):
            fitted = Ensemble.fit(list(p), world.y, method="convex", cuts=cuts, settings=INSIST, seed=seed)
            assert fitted.choice.model_folds == (cuts is not None)
            told.append(fitted.choice.score)
    apart = np.subtract(by_models, by_rows)
    assert apart.mean() > 2 * apart.std(ddof=1) / np.sqrt(10)


def test_two_folds_of_models_are_too_few_to_leave_any_out():
    world = World(5, 120)
    p, fold = fold_models(world, 2, 120)
    fitted = Ensemble.fit(list(p), world.y, method="uniform", cuts=RowCuts(folds=fold), settings=INSIST)
    assert not fitted.choice.model_folds
    assert "Fewer than three folds of models" in fitted.summary()


def test_the_choice_of_the_kept_models_is_cross_fitted_as_well():
    """Thirty members of equal worth, of which the three that were luckiest on these rows were kept: with the others at
    hand the single best one is stated to be as good as they are on average, without them as better."""
    with_others, without = [], []
    for seed in range(12):
        world = World(300 + seed, 120, worth=(0.5,) * 30, luck=0.0)
        p, y = world.models(), world.y
        own = -np.log(p[:, np.arange(120), y]).mean(axis=1)
        p = p[np.argsort(own)]
        options = {"method": "uniform", "settings": INSIST, "seed": seed}
        known = Ensemble.fit(list(p), y, num_shown=3, **options)
        assert len(known.members) == 3
        with_others.append(known.choice.baseline_score - own.mean())
        without.append(Ensemble.fit(list(p[:3]), y, **options).choice.baseline_score - own.mean())
    assert abs(np.mean(with_others)) < 3 * np.std(with_others, ddof=1) / np.sqrt(12)
    assert np.mean(without) < -3 * np.std(without, ddof=1) / np.sqrt(12)


def test_a_gain_of_equal_members_is_not_called_proven():
    """Copies that differ by a whiff, forty draws: more than seven claims would come once in 1,000 at one in twenty."""
    proven = 0
    for seed in range(40):
        world = World(400 + seed, 150)
        p = world.model(0)
        copies = [softmax(np.log(p) + 0.05 * world.rng.normal(size=p.shape), axis=1) for _ in range(4)]
        fitted = Ensemble.fit(copies, world.y, method="convex", settings=INSIST, seed=seed)
        proven += fitted.choice.ensembling_gain.proven
    assert proven <= 7


# Shrinkage -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.1, 1.0, 10.0])
def test_shrunk_weights_agree_with_a_generic_minimiser(strength):
    """The penalised losses of the module's head, by SciPy's SLSQP."""
    world = World(6, 80)
    problem = make_problem(world.models(), world.y)
    equal = np.full(4, 0.25)
    v = problem.entry_weight

    def log_posterior(w):
        return -(v @ np.log(problem.true_probability @ w)) - strength * equal @ np.log(w)

    values = make_problem(world.rng.normal(size=(4, 80, 1)) + world.z[None, :, :1], world.z[:, :1])
    s2 = values.residual_weight @ values.residual.mean(axis=1) ** 2

    def ridge(w):
        return values.residual_weight @ (values.residual @ w) ** 2 + strength * s2 * np.sum((w - equal) ** 2)

    for loss, given, metric in ((log_posterior, problem, LOG_LOSS), (ridge, values, SQUARED)):
        constraint = {"type": "eq", "fun": lambda w: w.sum() - 1}
        best = minimize(loss, equal, bounds=[(1e-9, 1)] * 4, constraints=constraint, options={"ftol": 1e-14}).x
        found = shrunk_weights(given, metric, strength, lambda: pytest.fail("there is a formula"))
        np.testing.assert_allclose(found, best, atol=2e-4)


def test_the_rule_takes_equal_weights_where_nothing_tells_members_apart_and_learned_ones_where_much_does():
    equal, apart = World(7, 400), World(7, 400, worth=(0.0, 4.0, 4.0, 4.0), luck=0.0)
    flat, steep = (
        Ensemble.fit(list(world.models()), world.y, method="shrunk", settings=INSIST) for world in (equal, apart)
    )
    assert flat.method == "equal weights"
    assert PATH[steep.method] <= 0.3 and steep.weights["m0"] > 0.6


def test_reliability_is_the_share_of_differences_that_new_rows_show_again():
    """Against the share by construction: means of members with variance t2, rows with noise of their own."""
    rng = np.random.default_rng(8)
    spread, rows = 0.3, 40
    found = []
    for _ in range(200):
        level = 1.0 + spread * rng.normal(size=20)
        noise = rng.normal(size=(20, rows))
        p = np.abs(level[:, None] + 0.2 * noise)[..., None]  # values; the truth is zero, so the loss is their square
        found.append(reliability(make_problem(p, np.zeros(rows), task="regression"), SQUARED))
    draws = np.square(np.abs(1.0 + spread * rng.normal(size=20_000)[:, None] + 0.2 * rng.normal(size=(20_000, 50))))
    between = draws.mean(axis=1).var() - draws.var(axis=1).mean() / 50
    noise = draws.var(axis=1).mean() / rows
    assert np.mean(found) == pytest.approx(between / (between + noise), abs=0.02)
    assert reliability(make_problem(np.ones((2, 5, 1)), np.zeros(5), task="regression"), SQUARED) == 0.0


def test_a_metric_of_few_mistakes_chooses_and_the_loss_learns():
    """Two hundred rows: weights are those of log loss whatever counts, and a member with one mistake less is not taken
    for the best by that alone."""
    world = World(9, 200, worth=(0.0, 0.3, 0.6, 0.9))
    p = list(world.models())
    learned, judged = (
        Ensemble.fit(p, world.y, method="convex", metric=metric, settings=INSIST) for metric in (None, "accuracy")
    )
    assert judged.weights == learned.weights and judged.metric.name == "accuracy"
    many = World(9, 4000, worth=(0.0, 0.3, 0.6, 0.9))
    p = list(many.models())
    learned, judged = (
        Ensemble.fit(p, many.y, method="convex", metric=metric, settings=INSIST) for metric in (None, "accuracy")
    )
    assert judged.weights != learned.weights


def test_repeats_are_judged_each_by_its_own_models():
    world = World(10, 150)
    told = [fold_models(world, 3, 150) for _ in range(2)]
    members = [
        EnsembleMember(
            f"m{one}", predictions=(told[0][0][one] + told[1][0][one]) / 2, repeats=[p[one] for p, _ in told]
        )
        for one in range(4)
    ]
    cuts = RowCuts(folds=np.stack([fold for _, fold in told]))
    fitted = Ensemble.fit(members, world.y, method="shrunk", cuts=cuts, settings=INSIST)
    single = next(one for one in fitted.choice.candidates if one.name == "equal weights")
    losses = [-np.log(p.mean(axis=0)[np.arange(150), world.y]).mean() for p, _ in told]
    assert single.loss == pytest.approx(np.mean(losses)), "the mean over repeats of single models' losses"
    assert default_metric(PredictionTask.MULTICLASS).loss(members[0].predictions, fitted.problem) < np.inf


def test_the_gain_of_bags_is_carried_on_from_two_repeats():
    """Bags of five folds twice, of equal configurations whose models err a lot on their own: what bags gain together is
    far less than what single models do, and is stated to four standard errors."""
    claimed, measured, truth = [], [], []
    for seed in range(10):
        world = World(500 + seed, 2200, worth=(0.6,) * 4, luck=0.0)
        few, rest = slice(0, 200), slice(200, None)
        models = np.stack([[world.model(one) for _ in range(10)] for one in range(4)])
        folds = np.stack([world.rng.permutation(200) % 5 for _ in range(2)])
        repeats = [models[:, 5 * number + folds[number], np.arange(200)] for number in range(2)]
        members = [
            EnsembleMember(
                f"m{one}", predictions=(repeats[0][one] + repeats[1][one]) / 2, repeats=[p[one] for p in repeats]
            )
            for one in range(4)
        ]
        bags, y = models[:, :, rest].mean(axis=1), world.y[rest]
        for num_models, told in ((10, claimed), (None, measured)):
            cuts = RowCuts(folds=folds, num_models=num_models)
            fitted = Ensemble.fit(members, world.y[few], method="shrunk", cuts=cuts, settings=INSIST)
            told.append(fitted.gain.estimate)
            if num_models:
                truth.append(gain_on(fitted.pool, single_of(fitted), bags, y))
                assert fitted.choice.score < fitted.choice.measured
    error = np.std(np.subtract(claimed, truth), ddof=1) / np.sqrt(10)
    assert abs(np.mean(claimed) - np.mean(truth)) < 4 * error
    assert np.mean(measured) > np.mean(truth) + 4 * error


def test_the_gain_of_bags_is_carried_on_from_a_share_of_rows_that_were_predicted_twice():
    """One repeat, and other models' predictions of a third of the rows: right on average, and no proof."""
    claimed, measured, truth = [], [], []
    for seed in range(16):
        world = World(600 + seed, 2300, worth=(0.6,) * 4, luck=0.0)
        few, rest, seen = slice(0, 300), slice(300, None), np.arange(300) < 100
        models = np.stack([[world.model(one) for _ in range(6)] for one in range(4)])
        fold = world.rng.permutation(300) % 5
        p = models[:, fold, np.arange(300)]
        again = np.where(seen[:, None], models[:, 5, few], p)
        members = [EnsembleMember(f"m{one}", predictions=p[one], again=again[one]) for one in range(4)]
        for cuts, told in ((RowCuts(None, fold, 5, seen), claimed), (RowCuts(None, fold, 5), measured)):
            fitted = Ensemble.fit(members, world.y[few], method="shrunk", cuts=cuts, settings=INSIST)
            told.append(fitted.gain.estimate)
            assert not fitted.gain.proven
        truth.append(gain_on(fitted.pool, single_of(fitted), models[:, :5, rest].mean(axis=1), world.y[rest]))
    error = np.std(np.subtract(claimed, truth), ddof=1) / 4
    assert abs(np.mean(claimed) - np.mean(truth)) < 3 * error
    assert np.mean(measured) > np.mean(truth) + 4 * error


def test_the_interval_of_a_gain_holds_what_new_models_gain():
    """Thirty draws of models whose worth is luck: 95 % intervals miss in two of them on average, and by rows alone in
    every second one, since a fold of 60 rows has one model of each configuration."""
    covers, by_rows, half_widths = [], [], []
    for seed in range(30):
        world = World(800 + seed, 2300)
        few, rest = slice(0, 300), slice(300, None)
        p, fold = fold_models(world, 5, 300)
        fitted = Ensemble.fit(
            list(p[:, few]), world.y[few], method="shrunk", cuts=RowCuts(folds=fold), settings=INSIST, seed=seed
        )
        truth = gain_on(fitted.pool, single_of(fitted), world.models()[:, rest], world.y[rest])
        gain = fitted.gain
        covers.append(gain.low <= truth <= gain.high)
        half_widths.append((gain.high - gain.low) / 2)
        rows = -np.log(p[:, np.arange(300), world.y[few]])
        by_rows.append(abs(gain.estimate - truth) < 1.96 * (rows[0] - rows.mean(axis=0)).std() / np.sqrt(300))
    assert np.mean(covers) >= 26 / 30
    assert np.mean(by_rows) < 0.8
    assert np.median(half_widths) < 0.25, "and they are no walls: what is claimed is .06"


def test_luck_of_models_is_what_folds_vary_by_beyond_their_rows():
    rng, rows = np.random.default_rng(0), np.full(5000, 1 / 5000)
    fold = np.arange(5000) % 5
    shift = np.array([0.0, 1.0, -1.0, 0.5, -0.5])
    apart = shift[fold] + 0.01 * rng.standard_normal(5000)
    again, parts = ModelLuck((fold,), one_more=False).variance(apart, rows, [fold])
    expected = shift.var(ddof=1) / 5  # the variance of a mean of five; four degrees leave room for more
    assert expected < again < 1.15 * expected and parts == pytest.approx(expected**2 / 4, rel=0.01)
    fresh, _ = ModelLuck((fold,), one_more=True).variance(apart, rows, [fold])
    assert fresh == pytest.approx(6 * again), "and one model more has the luck of one"
    few = [ModelLuck((fold,), one_more=False).variance(rng.standard_normal(5000), rows, [fold])[0] for _ in range(40)]
    assert 0 < np.mean(few) < 1.0 / 5000, "models without luck: less than the rows' part"


def test_one_prediction_of_each_row_proves_no_gain_of_bags():
    world = World(11, 600, worth=(0.6,) * 4)
    p, fold = fold_models(world, 5, 600)
    fitted = Ensemble.fit(list(p), world.y, method="shrunk", cuts=RowCuts(folds=fold, num_models=5), settings=INSIST)
    of_models = Ensemble.fit(list(p), world.y, method="shrunk", cuts=RowCuts(folds=fold), settings=INSIST)
    # If the same models had predicted all rows, as they are told to have here, their rows would prove it.
    of_rows = Ensemble.fit(list(p), world.y, method="shrunk", settings=INSIST)
    assert of_rows.gain.proven and not of_models.gain.proven and not fitted.gain.proven
    assert fitted.gain.estimate == of_models.gain.estimate and fitted.gain.low <= 0


def test_bags_have_a_temperature_only_where_repeats_tell():
    world = World(12, 1500, luck=0.0)
    told = [fold_models(world, 3, 1500) for _ in range(2)]
    told = [(softmax(2.5 * np.log(p), axis=2), fold) for p, fold in told]
    once = RowCuts(folds=told[0][1], num_models=3)
    twice = RowCuts(folds=np.stack([fold for _, fold in told]), num_models=6)
    single = Ensemble.fit(list(told[0][0]), world.y, method="shrunk", cuts=once, settings=INSIST)
    both = [(told[0][0][one] + told[1][0][one]) / 2 for one in range(4)]
    members = [EnsembleMember(f"m{one}", predictions=both[one], repeats=[p[one] for p, _ in told]) for one in range(4)]
    fitted = Ensemble.fit(members, world.y, method="shrunk", cuts=twice, settings=INSIST)
    assert single.pool.inverse_temperature == 1.0
    assert 0.3 < fitted.pool.inverse_temperature < 0.9
    assert fitted.for_retrained().pool.inverse_temperature == 1.0
