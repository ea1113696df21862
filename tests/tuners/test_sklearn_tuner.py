"""`SklearnTuner`: folds, weights, groups, forms of data, the estimator that comes back; scikit-learn is the witness."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import ensemble, linear_model, metrics, model_selection, neighbors, pipeline, preprocessing
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris

import manyfit as kt
from manyfit.core.errors import FatalTypeError, UsageError, UsageTypeError
from manyfit.oracles.searches import GridSearchOracle, RandomSearchOracle

X, Y = load_iris(return_X_y=True)
X, Y = X[::3], Y[::3]  # 50 rows of three classes
WEIGHTS = np.where(Y == 1, 5.0, 0.5)


def build_ridge(hp):
    return linear_model.RidgeClassifier(alpha=hp.Float("alpha", 1e-3, 10.0, sampling="log"))


def build_pipeline(hp):
    return pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.RidgeClassifier(alpha=hp.Choice("alpha", [0.01, 1.0]))
    )


def grid(objective=None):
    return GridSearchOracle(objective or kt.Objective("score", "max"))


def random(max_trials=2, **kwargs):
    return RandomSearchOracle(kt.Objective("score", "max"), max_trials=max_trials, seed=0, **kwargs)


@pytest.fixture
def make(project):
    def make(build=build_ridge, oracle=None, **kwargs):
        return kt.SklearnTuner(oracle or random(), build, **{**project, **kwargs})

    return make


def fold_scores(tuner, trial):
    return [row.score for row in tuner.results() if row.trial_id == trial.trial_id]


def test_folds_and_scores_are_those_of_scikit_learn(make):
    tuner = make()
    tuner.search(X, Y, verbose=0)
    for trial in tuner.oracle.get_best_trials(2):
        expected = model_selection.cross_val_score(
            build_ridge(trial.hyperparameters), X, Y, cv=model_selection.KFold(5, shuffle=True, random_state=1)
        )
        assert fold_scores(tuner, trial) == pytest.approx(list(expected))
        assert trial.score == pytest.approx(expected.mean())


def test_sample_weights_reach_fit_and_score(make):
    tuner = make(cv=model_selection.KFold(4))
    order = np.argsort(np.arange(len(X)) % 7)  # so that each unshuffled fold has all classes
    x, y, weights = X[order], Y[order], WEIGHTS[order]
    tuner.search(x, y, sample_weight=weights, verbose=0)
    trial = tuner.oracle.get_best_trials(1)[0]
    expected = []
    for training, testing in model_selection.KFold(4).split(x):
        model = build_ridge(trial.hyperparameters).fit(x[training], y[training], sample_weight=weights[training])
        expected.append(model.score(x[testing], y[testing], sample_weight=weights[testing]))
    assert fold_scores(tuner, trial) == pytest.approx(expected)


def test_the_best_model_is_trained_on_all_rows_with_their_weights(make):
    tuner = make()
    tuner.search(X, Y, sample_weight=WEIGHTS, verbose=0)
    hp = tuner.get_best_hyperparameters()[0]
    expected = build_ridge(hp).fit(X, Y, sample_weight=WEIGHTS)
    np.testing.assert_allclose(tuner.get_best_models()[0].coef_, expected.coef_)
    without = build_ridge(hp).fit(X, Y)
    assert not np.allclose(without.coef_, expected.coef_, rtol=0.01)  # the weights make a difference


def test_the_last_step_of_a_pipeline_gets_the_weights(make):
    tuner = make(build_pipeline, grid())
    tuner.search(X, Y, sample_weight=WEIGHTS, verbose=0)
    model = tuner.get_best_models()[0]
    expected = build_pipeline(tuner.get_best_hyperparameters()[0])
    expected.fit(X, Y, ridgeclassifier__sample_weight=WEIGHTS)
    np.testing.assert_allclose(model[-1].coef_, expected[-1].coef_)


def test_an_estimator_without_weights_says_so(make):
    tuner = make(lambda hp: neighbors.KNeighborsClassifier(hp.Choice("k", [1, 3])), grid())
    with pytest.warns(UserWarning, match="KNeighborsClassifier.*takes no weights"):
        tuner.search(X, Y, sample_weight=WEIGHTS, verbose=0)
    assert len(tuner.get_best_models(2)) == 2


seen: list[set[float]] = []


class Spy(ClassifierMixin, BaseEstimator):
    """Notes the first column of the rows that it is trained on."""

    def fit(self, x, y):
        seen.append({row[0] for row in x})
        self.classes_ = np.unique(y)
        return self

    def predict(self, x):
        return np.zeros(len(x), int)


class NeedsNames(linear_model.RidgeClassifier):
    """Insists on a DataFrame."""

    def fit(self, x, y, sample_weight=None):
        assert list(x.columns) == list("abcd")
        return super().fit(x, y, sample_weight)


def test_groups_stay_together(make):
    seen.clear()
    groups = np.arange(50) // 10
    tuner = make(lambda hp: Spy(), random(1), cv=model_selection.GroupKFold(5))
    tuner.search(np.c_[groups, X], Y, groups=groups, verbose=0)
    assert [len(labels) for labels in seen] == [4] * 5 + [5]  # five folds without one group each, then all rows


@pytest.mark.parametrize(
    "x, y",
    [
        (X.tolist(), Y.tolist()),
        (pd.DataFrame(X, index=range(100, 150)), pd.Series(Y, index=range(100, 150))),
        (scipy.sparse.csr_matrix(X), Y),
        (scipy.sparse.coo_array(X), list(Y)),
    ],
    ids=["lists", "pandas", "sparse matrix", "sparse array"],
)
def test_every_form_of_data_gives_the_scores_of_arrays(make, x, y):
    tuner = make(build_pipeline_sparse, grid(), cv=3)
    tuner.search(x, y, sample_weight=list(WEIGHTS), verbose=0)
    expected = make(build_pipeline_sparse, grid(), cv=3, project_name="arrays")
    expected.search(X, Y, sample_weight=WEIGHTS, verbose=0)
    assert [row.score for row in tuner.results()] == pytest.approx([row.score for row in expected.results()])


def build_pipeline_sparse(hp):
    return pipeline.make_pipeline(
        preprocessing.MaxAbsScaler(), linear_model.RidgeClassifier(alpha=hp.Choice("alpha", [0.01, 1.0]))
    )


def test_a_data_frame_stays_one(make):
    tuner = make(lambda hp: NeedsNames(alpha=hp.Choice("alpha", [1.0])))
    tuner.search(pd.DataFrame(X, columns=list("abcd")), pd.Series(Y), verbose=0)
    assert list(tuner.get_best_models()[0].feature_names_in_) == list("abcd")


def test_a_number_of_folds_is_stratified_for_classifiers(make):
    tuner = make(build_fixed, random(1), cv=3)
    tuner.search(X, Y, verbose=0)  # sorted by class: three plain folds would each lack a class in training
    assert [row.score for row in tuner.results()] == pytest.approx(
        list(model_selection.cross_val_score(linear_model.RidgeClassifier(alpha=0.5), X, Y, cv=3))
    )


def build_fixed(hp):
    return linear_model.RidgeClassifier(alpha=hp.Fixed("alpha", 0.5))


def test_splits_may_be_listed(make):
    splits = list(model_selection.KFold(2, shuffle=True, random_state=3).split(X))
    tuner = make(cv=iter(splits))
    tuner.search(X, Y, verbose=0)
    assert len(tuner.results()) == 4  # two trials of two folds, although the iterator ends after one


def test_scoring_and_metrics(make):
    tuner = make(
        lambda hp: linear_model.Ridge(hp.Choice("alpha", [0.1, 10.0])),
        grid(kt.Objective("mean_squared_error", "min")),
        scoring="neg_mean_absolute_error",
        metrics=[metrics.mean_squared_error, metrics.max_error],
    )
    tuner.search(X[:, :3], X[:, 3], sample_weight=WEIGHTS, verbose=0)  # max_error takes no weights
    best = tuner.oracle.get_best_trials(1)[0]
    assert set(best.metrics) == {"score", "mean_squared_error", "max_error"}
    folds = model_selection.KFold(5, shuffle=True, random_state=1)
    errors = []
    for training, testing in folds.split(X):
        model = linear_model.Ridge(best.hyperparameters.get("alpha"))
        model.fit(X[training, :3], X[training, 3], sample_weight=WEIGHTS[training])
        predicted = model.predict(X[testing, :3])
        errors.append(metrics.mean_squared_error(X[testing, 3], predicted, sample_weight=WEIGHTS[testing]))
    assert best.score == pytest.approx(np.mean(errors))
    assert best.metrics["score"] < 0


def test_a_scorer_of_ones_own(make):
    tuner = make(scoring=metrics.make_scorer(metrics.f1_score, average="macro"))
    tuner.search(X, Y, verbose=0)
    trial = tuner.oracle.get_best_trials(1)[0]
    expected = model_selection.cross_val_score(
        build_ridge(trial.hyperparameters), X, Y, cv=tuner.cv, scoring="f1_macro"
    )
    assert trial.score == pytest.approx(expected.mean())


def test_the_space_is_known_before_the_search(make):
    def build(hp):
        kind = hp.Choice("kind", ["linear", "forest"])
        with hp.conditional_scope("kind", "forest"):
            trees = hp.Int("trees", 2, 4)
        return linear_model.RidgeClassifier() if kind == "linear" else ensemble.RandomForestClassifier(trees)

    assert [hp.name for hp in make(build).oracle.get_space().space] == ["kind", "trees"]


def test_estimators_without_a_random_state_are_reproducible(make):
    def build(hp):
        return ensemble.RandomForestClassifier(hp.Int("trees", 1, 3))

    first, second = make(build), make(build, project_name="again")
    for tuner in (first, second):
        tuner.search(X, Y, verbose=0)
    assert [row.score for row in first.results()] == [row.score for row in second.results()]


def test_a_search_goes_on_and_brings_back_the_models_of_before(make):
    tuner = make()
    tuner.search(X, Y, verbose=0)
    first = tuner.results().rows
    tuner.close()
    again = make(oracle=random(max_trials=3))
    assert again.get_best_models()[0].score(X, Y) > 0.8  # without data: it was kept
    again.search(X, Y, verbose=0)
    assert again.results().rows[: len(first)] == first
    assert len(again.oracle.trials) == 3


def test_only_the_best_estimators_are_kept(make, tmp_path):
    tuner = make(oracle=random(max_trials=6), num_kept_models=2)
    tuner.search(X, Y, verbose=0)
    best = {trial.trial_id for trial in tuner.oracle.get_best_trials(2)}
    assert {path.parent.name.removeprefix("trial_") for path in tmp_path.glob("search/trial_*/*")} == best
    assert len(tuner.get_best_models(2)) == 2
    with pytest.raises(UsageError, match="num_kept_models"):
        tuner.get_best_models(3)


def test_a_failing_estimator_is_a_failed_trial(make):
    def build(hp):
        return linear_model.RidgeClassifier(alpha=-1.0 if hp.Boolean("broken") else 1.0)

    tuner = make(build, grid())
    tuner.search(X, Y, verbose=0)
    assert sorted(trial.status for trial in tuner.oracle.trials.values()) == ["COMPLETED", "FAILED"]
    assert any("InvalidParameterError" in (trial.message or "") for trial in tuner.oracle.trials.values())


def test_run_trial_may_be_overridden(project):
    class OneSplit(kt.SklearnTuner):
        def run_trial(self, trial, x, y, sample_weight=None, groups=None):
            model = self.hypermodel.build(trial.hyperparameters).fit(x[::2], y[::2])
            self.save_model(trial.trial_id, model)
            return {"score": model.score(x[1::2], y[1::2])}

    tuner = OneSplit(random(), build_ridge, **project)
    tuner.search(X, Y, verbose=0)
    assert len(tuner.results()) == 2
    assert tuner.get_best_models()[0].score(X[1::2], Y[1::2]) == tuner.oracle.get_best_trials(1)[0].score


@pytest.mark.parametrize(
    "arguments, error, match",
    [
        ({"hypermodel": None}, UsageError, "hypermodel=None"),
        ({"scoring": "acuracy"}, UsageError, "get_scorer_names"),
        ({"scoring": 3}, UsageTypeError, "scorer"),
        ({"metrics": ["accuracy"]}, UsageTypeError, "sklearn.metrics"),
        ({"cv": 2.5}, UsageTypeError, "splitter"),
        ({"num_kept_models": 0}, UsageError, "num_kept_models"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments(project, arguments, error, match):
    with pytest.raises(error, match=match):
        kt.SklearnTuner(**{"oracle": random(), "hypermodel": build_ridge, **arguments, **project})


def test_an_objective_that_nothing_measures(make):
    with pytest.raises(UsageError, match=r"val_accuracy.*Objective\(\"score\", \"max\"\)"):
        make(oracle=grid("val_accuracy"))


def test_rows_of_different_number(make):
    with pytest.raises(UsageError, match=r"search.*inconsistent numbers"):
        make().search(X, Y[:-1], verbose=0)


def test_folds_without_groups(make):
    with pytest.raises(UsageError, match="groups"):
        make(cv=model_selection.GroupKFold(3)).search(X, Y, verbose=0)


def test_a_build_function_that_returns_no_estimator(make):
    with pytest.raises(FatalTypeError, match="estimator"):
        make(lambda hp: hp.Int("a", 1, 2)).search(X, Y, verbose=0)


def test_more_models_than_a_number(make):
    with pytest.raises(UsageTypeError, match="whole number"):
        make().get_best_models("2")


def test_trials_on_further_processes_are_those_of_this_one(make):
    here = make()
    here.search(X, Y, verbose=0)
    there = make(project_name="there", executor=kt.ProcessExecutor(workers=1))
    there.search(X, Y, verbose=0)
    assert [row.score for row in there.results()] == [row.score for row in here.results()]
    assert there.get_best_models()[0].alpha == here.get_best_models()[0].alpha


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A search over named classes, one kind of which only decides."""

    def build(hp):
        alpha = hp.Choice("alpha", [0.01, 1.0])
        if hp.Boolean("probabilities"):
            return linear_model.LogisticRegression(C=1 / alpha, max_iter=500)
        return linear_model.RidgeClassifier(alpha=alpha)

    scoring = metrics.make_scorer(metrics.f1_score, labels=["species 1"], average="macro", zero_division=0)
    tuner = kt.SklearnTuner(grid(), build, directory=tmp_path_factory.mktemp("finished"), cv=3, scoring=scoring)
    names = np.array([f"species {number}" for number in Y])
    tuner.search(X[::2], names[::2], verbose=0)
    return tuner, names, scoring


def test_confirm_runs_on_the_folds_of_the_search_and_scores_as_it_did(finished):
    tuner, *_ = finished
    confirmation = tuner.confirm(2, max_executions=11)
    trial = tuner.oracle.get_trial(confirmation.recommended.trial_id)
    fresh = [run.score for kind in trial.replicates.values() for run in kind.values()]
    assert set(np.round(fresh, 9)) <= set(np.round(trial.scores, 9)), (
        "nothing is drawn: the same folds, the same scores"
    )


def test_retrain_evaluate_and_export(finished, tmp_path):
    tuner, names, scoring = finished
    [model] = tuner.retrain(save_best=tmp_path / "models")
    assert set(model.predict(X[1::2])) <= set(names)
    found = tuner.evaluate(X[1::2], names[1::2])
    assert found["score"] == pytest.approx(scoring(model, X[1::2], names[1::2]))
    assert found["accuracy"] == pytest.approx(model.score(X[1::2], names[1::2]))
    [saved] = (tmp_path / "models").iterdir()
    folder = tuner.export(tmp_path / "export", model)
    for path in (saved, folder / "model.pickle"):
        assert pickle.loads(path.read_bytes()).predict(X).tolist() == model.predict(X).tolist()


def test_what_folds_held_out_is_ensembled(finished):
    tuner, _, _ = finished
    ensemble = tuner.ensemble(method="uniform")
    assert len(ensemble.problem.target) == 25, "out of fold: all rows"
    assert ensemble.predict(X[:4]).shape == (4, 3)


def test_steps_after_a_search_without_its_rows_say_what_to_do(make):
    with pytest.raises(UsageError, match="a search that is complete returns at once"):
        make().searched_task("confirm()")
