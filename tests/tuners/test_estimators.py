"""Estimators through a whole project: names of classes, weights of pipelines, splits, evaluation; scikit-learn is the
witness."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn import datasets, linear_model, metrics, model_selection, neighbors, pipeline, preprocessing

from manyfit.core.errors import UsageError
from manyfit.store.predictions import Archive

X, Y = (part[::2] for part in datasets.load_iris(return_X_y=True))
ORDER = np.random.default_rng(0).permutation(len(X))
X, Y = X[ORDER], Y[ORDER]
NAMES = np.array(["setosa", "versicolor", "virginica"], dtype=object)[Y]
TRAIN, TEST = slice(None, 50), slice(50, None)


def build(hp):
    """One with probabilities, one that only decides, and a network."""
    kind = hp.Choice("kind", ["logistic", "ridge", "network"])
    if kind == "logistic":
        return pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    if kind == "ridge":
        return linear_model.RidgeClassifier()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    tuner = kt.GridSearch(build, "val_accuracy", seed=0, directory=tmp_path_factory.mktemp("named"))
    tuner.search(X[TRAIN], pd.Series(NAMES[TRAIN]).astype("category"), cross_validation=3, verbose=0)
    return tuner


def by_kind(tuner, models):
    kinds = [tuner.oracle.get_trial(tuner.model_origins[model]).hyperparameters.get("kind") for model in models]
    return dict(zip(kinds, models, strict=True))


@pytest.fixture(scope="module")
def models(searched):
    return by_kind(searched, searched.retrain(top=3, verbose=0))


def test_names_of_classes_are_searched_and_come_back_in_predictions(models):
    expected = build(tiny_values("logistic")).fit(X[TRAIN], NAMES[TRAIN])
    logistic = models["logistic"]
    assert logistic.predict(X[TEST]).tolist() == expected.predict(X[TEST]).tolist()
    np.testing.assert_allclose(logistic.predict_proba(X[TEST]), expected.predict_proba(X[TEST]), rtol=1e-6)
    assert logistic.classes_.tolist() == expected.classes_.tolist()
    assert logistic.score(X[TEST], NAMES[TEST]) == expected.score(X[TEST], NAMES[TEST])
    assert logistic.named_steps["logisticregression"].C == 1.0, "what the estimator has is there"
    assert set(models["ridge"].predict(X[TEST])) <= set(NAMES)
    assert models["network"].predict(X[TEST], verbose=0).shape == (25, 3)


def tiny_values(kind):
    hp = kt.HyperParameters()
    hp.values["kind"] = kind
    return hp


def test_evaluate_measures_estimators_as_scikit_learn_does(searched, models):
    found = searched.evaluate(X[TEST], list(NAMES[TEST]), models=models)
    logistic = models["logistic"]
    right = metrics.accuracy_score(NAMES[TEST], logistic.predict(X[TEST]))
    assert found.scores["logistic"]["accuracy"].estimate == pytest.approx(right)
    assert found.scores["logistic"]["loss"].estimate == pytest.approx(
        metrics.log_loss(NAMES[TEST], logistic.predict_proba(X[TEST])), rel=1e-4
    )
    network = models["network"].evaluate(X[TEST], Y[TEST], verbose=0, return_dict=True)
    assert found.scores["network"]["accuracy"].estimate == pytest.approx(network["accuracy"])
    assert list(found.scores["ridge"]) == ["accuracy"]
    again = searched.evaluate(X[TEST], list(NAMES[TEST]), models=models)
    assert again.times_used == found.times_used, "the same models: not another choice"


def test_named_classes_are_ensembled(searched):
    ensemble = searched.ensemble(method="uniform")
    assert ensemble.num_outputs == 3
    [found] = searched.evaluate(X[TEST], NAMES[TEST], models={"all": ensemble}).scores.values()
    assert found["accuracy"].estimate > 0.6, "the objective of the search"
    of_models = searched.ensemble(searched.get_best_models(2), X[TEST], NAMES[TEST], method="uniform")
    assert of_models.num_outputs == 3
    with pytest.raises(UsageError, match="'rose'"):
        ensemble.evaluate(X[TEST], ["rose"] * 25)


def test_an_ensemble_answers_for_named_classes_as_its_members_do(searched, tmp_path):
    fitted = [
        pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression(C=strength)).fit(
            X[TRAIN], NAMES[TRAIN]
        )
        for strength in (0.1, 1.0)
    ]
    of_models = kt.Ensemble.fit(fitted, NAMES[TEST], x=X[TEST], method="uniform")
    options = {"method": "uniform", "metric": "log_loss"}
    of_search = searched.ensemble(searched.get_best_models(2), X[TEST], NAMES[TEST], **options)
    of_search.save(tmp_path / "saved")
    loaded = kt.Ensemble.load(tmp_path / "saved", trust=True)
    for ensemble in (of_models, of_search, searched.ensemble(method="uniform"), loaded):
        assert ensemble.classes == tuple(sorted(set(NAMES)))
    for ensemble in (of_models, of_search, loaded):
        [(name, found)] = [pair for pair in ensemble.evaluate(X[TEST], NAMES[TEST]).items() if pair[0] == "log_loss"]
        told = ensemble.predict(X[TEST]).astype(float)
        told /= told.sum(axis=1, keepdims=True)  # in single precision they sum to almost one
        right = metrics.log_loss(NAMES[TEST], told, labels=list(ensemble.classes))
        assert found == pytest.approx(right, rel=1e-4)
        answers = np.array(ensemble.classes)[ensemble.predict(X[TEST]).argmax(axis=1)]
        assert metrics.accuracy_score(NAMES[TEST].astype(str), answers) > 0.85
        assert ensemble.evaluate(X[TEST], Y[TEST])[name] == found, "numbers of classes are taken as they were"


@pytest.mark.parametrize(
    ("y", "text"),
    [
        (np.where(Y == 0, None, NAMES), "something else: None"),
        (np.where(Y == 0, 3, NAMES), "of type int"),
        (np.stack([NAMES, NAMES], axis=1), "one class per row"),
    ],
)
def test_what_is_no_name_of_a_class_is_refused_before_anything_is_trained(tmp_path, y, text):
    tuner = kt.GridSearch(build, "val_accuracy", directory=tmp_path)
    with pytest.raises(UsageError, match=text) as caught:
        tuner.search(X, y, verbose=0)
    tiny.four_parts(caught.value)
    assert not tuner.oracle.trials


def test_a_class_that_the_search_did_not_have_is_refused(searched):
    with pytest.raises(UsageError, match="the class 'tulip'") as caught:
        searched.evaluate(X[TEST], ["tulip"] * 25)
    tiny.four_parts(caught.value)


def test_values_are_evaluated_and_the_objective_by_its_own_name(tmp_path):
    tuner = kt.RandomSearch(
        lambda hp: linear_model.Ridge(hp.Float("alpha", 0.1, 1.0)),
        kt.Objective("val_neg_median_absolute_error", "max"),
        max_trials=1,
        directory=tmp_path,
    )
    tuner.search(X[TRAIN, :3], X[TRAIN, 3], cross_validation=3, verbose=0)
    [model] = tuner.retrain(verbose=0)
    found = tuner.evaluate(X[TEST, :3], X[TEST, 3])
    predicted = model.predict(X[TEST, :3])
    assert found["r2"] == pytest.approx(metrics.r2_score(X[TEST, 3], predicted))
    assert found["mse"] == pytest.approx(metrics.mean_squared_error(X[TEST, 3], predicted))
    expected = -metrics.median_absolute_error(X[TEST, 3], predicted)
    assert found["neg_median_absolute_error"] == pytest.approx(expected)


def test_the_last_step_of_a_pipeline_gets_the_weights(tmp_path):
    weights = np.where(Y == 1, 5.0, 0.5)
    tuner = kt.GridSearch(
        lambda hp: pipeline.make_pipeline(
            preprocessing.StandardScaler(), linear_model.Ridge(hp.Choice("alpha", [1.0]))
        ),
        "val_loss",
        directory=tmp_path,
    )
    tuner.search(X[:, :3], X[:, 3], sample_weight=weights, validation_split=0.2, verbose=0)
    expected = tuner.hypermodel.build(tuner.get_best_hyperparameters()[0])
    expected.fit(X[:60, :3], X[:60, 3], ridge__sample_weight=weights[:60])
    np.testing.assert_allclose(tuner.get_best_models()[0][-1].coef_, expected[-1].coef_)


GROUPS = np.arange(75) // 5


def predefined(folds: int) -> model_selection.PredefinedSplit:
    return model_selection.PredefinedSplit(np.arange(75) % folds)


@pytest.mark.parametrize(
    ("splitter", "groups"),
    [
        (model_selection.GroupKFold(3), GROUPS),
        (model_selection.StratifiedGroupKFold(3), GROUPS),
        (model_selection.GroupShuffleSplit(2, random_state=0), GROUPS),
        (model_selection.LeaveOneGroupOut(), GROUPS // 5),
        (model_selection.LeavePGroupsOut(2), GROUPS // 5),
        (model_selection.TimeSeriesSplit(3), None),
        (predefined(4), None),
        (model_selection.ShuffleSplit(2, random_state=0), None),
        (model_selection.StratifiedShuffleSplit(2, random_state=0), None),
        (model_selection.RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0), None),
        (model_selection.KFold(3), None),
    ],
    ids=lambda one: type(one).__name__,
)
def test_splitters_of_scikit_learn(tmp_path, splitter, groups):
    tuner = kt.GridSearch(
        lambda hp: neighbors.KNeighborsClassifier(hp.Choice("k", [3])), "val_accuracy", directory=tmp_path
    )
    given = splitter if groups is None else kt.CrossValidation(splitter, groups=groups)
    tuner.search(pd.DataFrame(X), NAMES, cross_validation=given, verbose=0)
    expected = model_selection.cross_val_score(neighbors.KNeighborsClassifier(3), X, NAMES, cv=splitter, groups=groups)
    [trial] = tuner.oracle.trials.values()
    assert trial.scores == pytest.approx(list(expected))


class ByColumn:
    """A splitter that looks at x by name."""

    def get_n_splits(self, X=None, y=None, groups=None):
        return 2

    def split(self, X, y=None, groups=None):
        early = X["year"].to_numpy() < 2020
        yield np.flatnonzero(early), np.flatnonzero(~early)
        yield np.flatnonzero(~early), np.flatnonzero(early)


def test_a_splitter_that_looks_at_x_sees_it():
    frame = pd.DataFrame({"year": np.arange(2010, 2030)})
    folds = kt.CrossValidation(ByColumn()).resolve(frame, np.zeros(20))
    assert folds.split(0).validation.tolist() == list(range(10, 20))


@pytest.mark.parametrize(
    ("splitter", "text"),
    [
        (model_selection.GroupKFold(3), "kt.CrossValidation(GroupKFold(...), groups=groups)"),
        (model_selection.LeaveOneGroupOut(), "kt.CrossValidation(LeaveOneGroupOut(...), groups=groups)"),
        (model_selection.StratifiedGroupKFold(3), "groups=groups"),
        (model_selection.KFold(100), "Cannot have number of splits"),
        (predefined(2), "another length"),
    ],
)
def test_what_a_splitter_needs_is_said_before_anything_is_trained(tmp_path, splitter, text):
    tuner = kt.GridSearch(build, "val_accuracy", directory=tmp_path)
    with pytest.raises(UsageError, match="cross_validation=") as caught:
        tuner.search(X[:60], NAMES[:60], cross_validation=splitter, verbose=0)
    assert text in str(caught.value)
    tiny.four_parts(caught.value)
    assert not tuner.oracle.trials


class Unwritable(linear_model.LogisticRegression):
    """Holds something that cannot be written, such as a connection."""

    def fit(self, x, y):
        self.connection = lambda: None
        return super().fit(x, y)


@pytest.mark.parametrize("lacks", ["estimators", "predictions"])
def test_what_cannot_be_kept_of_an_estimator_fails_no_trial(tmp_path, monkeypatch, capsys, lacks):
    def no_room(*_):
        raise OSError("no space left on device")

    def build(hp):
        kind = Unwritable if lacks == "estimators" else linear_model.LogisticRegression
        return kind(C=hp.Choice("strength", [0.1, 1.0]))

    if lacks == "predictions":
        monkeypatch.setattr(Archive, "keep", no_room)
    tuner = kt.GridSearch(build, "val_accuracy", seed=0, directory=tmp_path)
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[TEST], Y[TEST]))
    assert [trial.ending for trial in tuner.oracle.trials.values()] == ["completed"] * 2
    assert capsys.readouterr().out.count(f"{lacks} could not be kept") == 1
    assert len(tuner.results()) == 2 and (tuner.predictions_archive.labels() is not None)
