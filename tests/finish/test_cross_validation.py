"""Cross-validation through the tuners: no fold leaks, out-of-fold predictions, intervals, confirming on folds."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn import model_selection

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.data.call import Call
from manyfit.finish.cross_validation import out_of_fold, predict_out_of_fold
from manyfit.stats.intervals import fold_interval

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

RNG = np.random.default_rng(0)
NUM_ROWS, FOLDS = 150, 3
LABELS = RNG.integers(0, 2, NUM_ROWS)


def leaky_features(cross_validation):
    """Column k holds the labels of fold k's held-out rows, and nothing elsewhere: only a leak can make use of it."""
    folds = cross_validation.resolve(np.zeros(NUM_ROWS), LABELS)
    x = np.zeros((NUM_ROWS, FOLDS), dtype="float32")
    for fold in range(FOLDS):
        rows = folds.split(fold).validation
        x[rows, fold] = 2 * LABELS[rows] - 1
    return x


def build(hp):
    model = keras.Sequential([keras.Input((FOLDS,)), keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")])
    model.compile(keras.optimizers.Adam(hp.Float("rate", 0.05, 0.2)), "binary_crossentropy", metrics=["accuracy"])
    return model


def search(project, cross_validation, population=True, x=None, **more):
    tuner = kt.RandomSearch(
        build, "val_accuracy", max_trials=2, seed=0, overwrite=True, population=population, **project, **more
    )
    x = leaky_features(cross_validation) if x is None else x
    tuner.search(x, LABELS, epochs=12, batch_size=32, verbose=0, cross_validation=cross_validation)
    return tuner, x


@pytest.mark.parametrize("population", [True, False])
def test_a_feature_that_copies_the_labels_of_a_fold_is_of_no_use(population, project):
    cross_validation = kt.CrossValidation(FOLDS, seed=2)
    tuner, x = search(project, cross_validation, population)
    for trial in tuner.oracle.trials.values():
        assert len(trial.executions) == FOLDS
        for run in trial.executions.values():
            assert run.history["accuracy"][-1] == 1.0  # the columns of the other folds are there to learn from
            assert max(run.history["val_accuracy"]) < 0.65  # and of no use here: sigmoid(bias) for every row
    best = tuner.oracle.get_best_trials(1)[0]
    plan = tuner.latest_search.folds
    covered, y, _ = out_of_fold(plan, Call((x, LABELS)))
    predicted = predict_out_of_fold(plan, lambda fold: tuner.load_model(best, fold), range(FOLDS), x, covered)
    assert covered.tolist() == list(range(NUM_ROWS))
    assert np.mean((predicted[:, 0] > 0.5) == y) < 0.65
    # A model that has seen all rows makes full use of them: the features do copy the labels.
    [model] = tuner.retrain(1, verbose=0)
    assert model.evaluate(x, LABELS, verbose=0, return_dict=True)["accuracy"] == 1.0


def test_folds_train_as_one_population_and_their_mean_has_a_proper_interval(project, capsys):
    tuner, _ = search(project, kt.CrossValidation(FOLDS))
    assert sum(record.members for record in tuner.programs().records) == 2 * FOLDS  # none trained through model.fit
    trial = tuner.oracle.get_best_trials(1)[0]
    assert trial.score == pytest.approx(np.mean(trial.scores))
    tuner.results_summary(1)
    assert f"Folds: {fold_interval(trial.scores, 1 / (FOLDS - 1))}" in capsys.readouterr().out


def test_repeats_and_splitters(project):
    x = RNG.normal(size=(NUM_ROWS, FOLDS)).astype("float32")
    splitter = model_selection.RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
    tuner, _ = search(project, splitter, x=x, executions_per_trial=1)
    assert {len(trial.executions) for trial in tuner.oracle.trials.values()} == {4}


def test_confirming_on_folds_and_on_fresh_splits(project):
    x = np.random.default_rng(0).normal(size=(NUM_ROWS, FOLDS)).astype("float32")
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, **project)
    tuner.search(x, LABELS, epochs=1, batch_size=NUM_ROWS, verbose=0, validation_split=0.2)
    trial = tuner.oracle.get_best_trials(1)[0]
    scores = {}
    for name, options in {"same": {}, "fresh": {"new_splits": True}, "folds": {"cross_validation": 3}}.items():
        tuner.confirm(top=1, max_executions=4, max_rounds=4, proof_executions=3, **options)
        scores[name] = np.std([run.score for run in trial.executions_of("proof").values()])
    # Initial weights are zero, and one batch holds all rows: on the same rows nothing but rounding is left to chance.
    assert scores["same"] < 1e-5 and scores["fresh"] > 1e-3
    assert len(set(scores.values())) == 3  # executions under one protocol do not count for another
    with pytest.raises(UsageError, match="one of the two"):
        tuner.confirm(cross_validation=3, new_splits=True)


def test_validation_data_besides_folds_are_refused(project):
    tuner = kt.RandomSearch(build, "val_loss", max_trials=1, **project)
    with pytest.raises(UsageError, match="folds validate"):
        tuner.search(np.zeros((9, FOLDS)), np.zeros(9), cross_validation=3, validation_split=0.2)
