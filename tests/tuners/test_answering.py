"""What competitors carry home: predictions of every trial, rows to be answered, a table to hand in."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import csv

import keras
import numpy as np
import pandas as pd
import pytest
import tiny
from sklearn.linear_model import LogisticRegression

from manyfit.core.errors import UsageError

NUM_ROWS, NUM_ASKED = 60, 7


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(NUM_ROWS + NUM_ASKED, 3)).astype("float32")
    y = (x.sum(axis=1) + 0.5 * rng.normal(size=len(x)) > 0).astype("int32")
    return x[:NUM_ROWS], y[:NUM_ROWS], x[NUM_ROWS:]


def linear(hp):
    return LogisticRegression(C=hp.Float("C", 0.01, 10.0, sampling="log"))


def searched(folder, x, y, *, build=linear, max_trials=2, population=False, **arguments):
    tuner = kt.RandomSearch(
        build, "val_loss", max_trials=max_trials, seed=0, directory=folder, project_name="p", population=population
    )
    tuner.search(x, y, verbose=0, **{"cross_validation": 3, **arguments})
    return tuner


@pytest.mark.parametrize("population", [True, False])
def test_every_network_says_what_it_makes_of_the_rows_to_be_answered(tmp_path, rows, population):
    x, y, asked = rows
    given = {"validation_split": 0.5, "cross_validation": None, "epochs": 1, "predict": asked}
    tuner = searched(tmp_path, x, y, build=tiny.build, population=population, **given)
    table = tuner.predictions(test=True)
    assert table["row_id"].tolist() == list(range(NUM_ASKED))
    for trial_id in tuner.oracle.trials:
        told = tuner.load_model(tuner.oracle.get_trial(trial_id)).predict(asked, verbose=0)[:, 0]
        np.testing.assert_allclose(table[f"trial {trial_id}"], told, rtol=1e-5)


def test_out_of_fold_predictions_of_every_trial_are_a_table(tmp_path, rows):
    x, y, asked = rows
    names = [f"row {number}" for number in range(NUM_ROWS)]
    tuner = searched(tmp_path, x, y, row_id=names, predict=pd.DataFrame(asked, index=range(100, 107)).to_numpy())
    table = tuner.predictions()
    assert table["row_id"].tolist() == names and table["y"].tolist() == y.tolist()
    best = [trial.trial_id for trial in tuner.oracle.get_best_trials(2)]
    assert list(table.columns)[2:] == [f"trial {trial_id}, {column}" for trial_id in best for column in (0, 1)]
    folds = tuner.latest_search.folds.folds
    trial = tuner.oracle.get_best_trials(1)[0]
    for fold in range(3):
        held_out = folds.split(fold).validation
        told = tuner.load_model(trial, fold).predict_proba(x[held_out])[:, 1]
        np.testing.assert_allclose(table[f"trial {trial.trial_id}, 1"][held_out], told, rtol=4e-3)
    answers = tuner.predictions(test=True)[f"trial {trial.trial_id}, 1"]
    told = np.mean([tuner.load_model(trial, fold).predict_proba(asked)[:, 1] for fold in range(3)], axis=0)
    np.testing.assert_allclose(answers, told, rtol=1e-6)
    frame = table.to_frame()
    assert frame.shape == (NUM_ROWS, 6) and "60 rows in all" in str(table)


def test_a_table_of_one_trial_is_a_member_elsewhere(tmp_path, rows):
    x, y, asked = rows
    one = searched(tmp_path / "one", x, y, predict=asked)
    best = one.oracle.get_best_trials(1)[0].trial_id
    oof = one.predictions(best).to_csv(tmp_path / "oof.csv")
    test = one.predictions(best, test=True).to_csv(tmp_path / "test.csv")
    with oof.open() as file:
        assert next(csv.reader(file)) == ["row_id", "0", "1"]
    two = searched(tmp_path / "two", x[:, :1], y, predict=asked[:, :1])
    there = kt.OutsidePredictions(oof, test=test, name="there")
    ensemble = two.ensemble(others=[there], method="uniform")
    assert ensemble.weights["there"] > 0
    table = two.submission(ids=np.arange(500, 507))
    assert table["row_id"].tolist() == list(range(500, 507))
    weights, said = ensemble.weights, {"there": one.predictions(test=True)[f"trial {best}, 1"]}
    for member in ensemble.members:
        if member.models:
            said[member.name] = np.mean([model.predict_proba(asked[:, :1])[:, 1] for model in member.models], axis=0)
    expected = sum(weights[name] * said[name] for name in said)
    np.testing.assert_allclose(table["1"], expected, rtol=1e-5)
    again = kt.RandomSearch(linear, "val_loss", max_trials=2, seed=0, directory=tmp_path / "two", project_name="p")
    np.testing.assert_allclose(again.submission(ensemble)["1"], table["1"], rtol=1e-6)
    with pytest.raises(UsageError, match="neither a model with rows") as caught:
        two.submission(two.ensemble(others=[kt.OutsidePredictions(oof, name="there")], method="uniform"))
    tiny.four_parts(caught.value)


def test_columns_of_a_submission_bear_the_names_of_classes(tmp_path, rows):
    x, y, asked = rows
    frame = pd.DataFrame(asked, index=[f"t{number}" for number in range(NUM_ASKED)])
    tuner = searched(tmp_path, pd.DataFrame(x), np.array(["no", "yes"])[y], predict=frame)
    table = tuner.submission()
    assert list(table.columns) == ["row_id", "no", "yes"] and table["row_id"].tolist() == list(frame.index)
    np.testing.assert_allclose(table["no"] + table["yes"], 1, rtol=1e-6)
    assert tuner.predictions()["y"].tolist() == np.array(["no", "yes"])[y].tolist()
    other = tuner.submission(x=frame.iloc[:2])
    np.testing.assert_allclose(other["yes"], table["yes"][:2], rtol=1e-6)


def test_sklearn_tuners_answer_too(tmp_path, rows):
    x, y, asked = rows
    oracle = kt.oracles.GridSearchOracle(kt.Objective("score", "max"))
    tuner = kt.SklearnTuner(oracle, lambda hp: LogisticRegression(C=hp.Choice("C", [0.1, 1.0])), directory=tmp_path)
    tuner.search(x, y, predict=asked, row_id=range(10, 70), verbose=0)
    assert tuner.predictions()["row_id"].tolist() == list(range(10, 70))
    assert len(tuner.predictions(test=True)) == NUM_ASKED
    np.testing.assert_allclose(tuner.submission()["1"], tuner.get_best_models(1)[0].predict_proba(asked)[:, 1])


def test_answers_to_other_rows_do_not_count(tmp_path, rows):
    x, y, asked = rows
    searched(tmp_path, x, y, max_trials=1, predict=asked).close()
    tuner = searched(tmp_path, x, y, max_trials=2, predict=asked[:3])
    table = tuner.predictions(test=True)
    assert len(table) == 3 and "trial 0, 0" not in table.columns, "the first trial was asked for others"


@pytest.mark.parametrize(
    ("predict", "words"),
    [
        (np.zeros((0, 3)), "no rows"),
        (np.zeros((4, 2)), "shapes"),
        (pd.DataFrame(np.zeros((4, 3)), columns=list("abd")), "columns a, b, d"),
        (iter([np.zeros((4, 3))]), "object of another class"),
    ],
)
def test_rows_that_nobody_can_answer_are_refused_before_training(tmp_path, rows, predict, words):
    x, y, _ = rows
    with pytest.raises(UsageError, match=words) as caught:
        searched(tmp_path, pd.DataFrame(x, columns=list("abc")), y, predict=predict)
    tiny.four_parts(caught.value)


def test_what_was_not_kept_is_said(tmp_path, rows):
    x, y, asked = rows
    tuner = searched(tmp_path, x, y)
    for ask in (
        lambda: tuner.predictions(test=True),
        tuner.submission,
        lambda: tuner.predictions(["9"]),
        lambda: tuner.submission(x=asked, ids=[1, 2]),
        lambda: tuner.submission(x=asked, ids=[1] * NUM_ASKED),
    ):
        with pytest.raises(UsageError) as caught:
            ask()
        tiny.four_parts(caught.value)
    off = kt.RandomSearch(linear, "val_loss", max_trials=1, directory=tmp_path / "off", keep_predictions=False)
    with pytest.raises(UsageError, match="keep_predictions=False") as caught:
        off.search(x, y, predict=asked, verbose=0)
    tiny.four_parts(caught.value)


def test_several_outputs_have_columns_each(tmp_path, rows):
    def two(hp):
        inputs = keras.Input((3,))
        outputs = {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(2)(inputs)}
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
        return model

    x, y, asked = rows
    targets = {"a": y.astype("float32"), "b": x[:, :2]}
    given = {"validation_split": 0.5, "cross_validation": None, "epochs": 1, "predict": asked}
    tuner = searched(tmp_path, x, targets, build=two, max_trials=1, **given)
    assert list(tuner.predictions(test=True).columns) == ["row_id", "trial 0, a", "trial 0, b, 0", "trial 0, b, 1"]


def test_a_winner_hands_in_the_rows_to_be_answered(tmp_path, rows):
    x, y, asked = rows
    tuner = searched(tmp_path, x, np.array(["no", "yes"])[y], predict=asked)
    [model] = tuner.get_best_models(1)
    winner = kt.Winner(model=model, search=tuner)
    frame = winner.to_frame(ids=list("abcdefg"))
    assert list(frame.columns) == ["row_id", "no", "yes"] and frame["row_id"].tolist() == list("abcdefg")
    np.testing.assert_allclose(frame[["no", "yes"]], winner.predict(asked), rtol=1e-6)
    again = kt.load_winner(winner.save(tmp_path / "winner"))
    pd.testing.assert_frame_equal(again.to_frame(asked, ids=list("abcdefg")), frame)
    with pytest.raises(UsageError, match="neither a model with rows"):
        again.to_frame()


def test_fit_asks_for_rows_too(tmp_path, rows):
    x, y, asked = rows
    tuner = kt.RandomSearch(linear, "val_loss", seed=0, directory=tmp_path)
    winner = tuner.fit(x, y, max_trials=2, predict=asked, row_id=range(10, 70), verbose=0)
    frame = winner.to_frame(ids=range(7))
    np.testing.assert_allclose(frame[["0", "1"]], winner.predict(asked), rtol=1e-6)
    assert len(tuner.predictions(test=True)) == NUM_ASKED
    assert set(tuner.predictions()["row_id"].tolist()) == set(range(10, 70))
