"""Ready spaces for tables: searched by the same tuners, ensembled with Keras models."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import importlib.util
import inspect
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError

pytest.importorskip("sklearn")
BOOSTERS = ("lightgbm", "xgboost", "catboost")


@pytest.fixture(scope="module")
def table():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(150, 4)).astype("float32")
    score = x[:, 0] * x[:, 1] + x[:, 2]
    return x, np.digitize(score, [-0.5, 0.5]), score.astype("float32") * 100 + 1000


def small(build, **values):
    """A build function whose estimators are small enough for a test."""

    def built(hp):
        model = build(hp)
        if not isinstance(model, keras.Model):
            known = {name: name.rpartition("__")[2] for name in model.get_params()}
            model.set_params(**{name: values[last] for name, last in known.items() if last in values})
        return model

    return built


QUICK = {"n_estimators": 15, "max_iter": 40, "iterations": 15}


@pytest.mark.parametrize("name", ["gradient boosting", "random forest", "linear", "k-nearest", *BOOSTERS])
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_every_brand_is_searched_kept_and_ensembled(tmp_path, table, name, task):
    if name in BOOSTERS and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}, an optional extra")
    x, classes, values = table
    y = classes if task == "multiclass" else values
    build = small(kt.brands.tabular(task, brands=[name])[name], **QUICK)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), verbose=0)
    [best] = tuner.oracle.get_best_trials(1)
    model = tuner.get_best_models()[0]
    if task == "multiclass":
        predicted = model.predict_proba(x[100:])
        expected = -np.log(np.clip(predicted[np.arange(50), y[100:]], 1e-7, 1)).mean()
    else:
        predicted = np.asarray(model.predict(x[100:])).reshape(-1, 1)
        expected = ((predicted[:, 0] - y[100:]) ** 2).mean()
    assert best.score == pytest.approx(expected, rel=1e-5)
    kept = tuner.predictions_archive.get(best.trial_id, [0]).predictions
    np.testing.assert_allclose(kept, predicted, rtol=4e-3, atol=2e-3 * predicted.std())
    ensemble = tuner.ensemble(method="uniform")
    assert ensemble.predict(x[:3]).shape == (3, 3 if task == "multiclass" else 1)


def test_estimators_are_cross_validated_where_nothing_else_is_asked_for(tmp_path, table):
    x, y, _ = table
    build = small(kt.brands.tabular("multiclass", brands=["linear"])["linear"])
    tuner = kt.GridSearch(build, "val_accuracy", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x, y, verbose=0)
    for trial in tuner.oracle.trials.values():
        assert len(trial.executions) == 5
        kept = tuner.predictions_archive.get(trial.trial_id, range(5))
        share = np.mean([run.score for run in trial.executions.values()])
        assert share == pytest.approx((kept.predictions.argmax(1) == y).mean(), abs=1e-9), "folds of equal size"
    [retrained] = tuner.retrain(verbose=0)
    assert retrained.predict(x).shape == (150,)


def test_boosting_stops_early_and_is_retrained_for_as_long_as_it_was_good(tmp_path, table):
    from sklearn.ensemble import HistGradientBoostingClassifier

    if "X_val" not in inspect.signature(HistGradientBoostingClassifier.fit).parameters:
        pytest.skip("scikit-learn stops on rows that are given since 1.7")
    x, y, _ = table

    def build(hp):
        return HistGradientBoostingClassifier(learning_rate=hp.Choice("rate", [0.3]), max_iter=200)

    tuner = kt.GridSearch(build, "val_loss", seed=0, directory=tmp_path)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), verbose=0)
    [run] = tuner.oracle.get_best_trials(1)[0].executions.values()
    assert run.num_epochs < 200 and run.best_epoch == run.num_epochs - 1 - 20, "20 rounds of patience"
    [model] = tuner.retrain(verbose=0)
    assert model.n_iter_ == max(1, round((run.best_epoch + 1) * 1.2))


def test_boosting_at_the_end_of_a_pipeline_stops_early(tmp_path, table):
    from sklearn import ensemble, pipeline, preprocessing

    if "X_val" not in inspect.signature(ensemble.HistGradientBoostingClassifier.fit).parameters:
        pytest.skip("scikit-learn stops on rows that are given since 1.7")
    x, y, _ = table

    def build(hp):
        last = ensemble.HistGradientBoostingClassifier(learning_rate=hp.Choice("rate", [0.3]), max_iter=60)
        return pipeline.make_pipeline(preprocessing.StandardScaler(), last)

    tuner = kt.GridSearch(build, "val_loss", seed=0, directory=tmp_path)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), verbose=0)
    [run] = tuner.oracle.get_best_trials(1)[0].executions.values()
    assert run.best_epoch < run.num_epochs - 1 < 59
    [model] = tuner.retrain(verbose=0)
    assert model[-1].n_iter_ == max(1, round((run.best_epoch + 1) * 1.2))
    np.testing.assert_allclose(model[0].mean_, x.mean(axis=0), rtol=1e-5, err_msg="fitted to all rows")


@pytest.mark.parametrize("name", ["gradient boosting", *BOOSTERS])
def test_classes_of_any_number_and_one_that_a_fold_does_not_train_on(tmp_path, table, name):
    if name in BOOSTERS and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}, an optional extra")
    x, y, _ = table
    labels = np.array([-1, 2, 7])[y[:60]]
    labels[0] = 3  # one row: in one of the folds it is not trained on
    build = small(kt.brands.tabular("multiclass", brands=[name])[name], **QUICK)
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(x[:60], labels, cross_validation=kt.CrossValidation(2, stratify=False), verbose=0)
    [trial] = tuner.oracle.get_best_trials(1)
    assert len(trial.scores) == 2
    assert set(np.asarray(tuner.get_best_models()[0].predict(x)).reshape(-1)) <= {-1, 2, 3, 7}


def test_all_brands_in_one_search(tmp_path, table):
    x, y, _ = table
    spaces = kt.brands.tabular("multiclass", y, brands=["mlp", "linear", "k-nearest"])
    tuner = kt.RandomSearch(spaces, "val_loss", max_trials=1, seed=0, directory=tmp_path)
    names = {hp.name for hp in tuner.oracle.get_space().space}
    assert {"brand", "mlp/units", "linear/strength", "k-nearest/neighbors"} <= names
    tuner.oracle.max_trials = 3
    for brand in spaces:
        tuner.enqueue({"brand": brand})
    tuner.search(x[:100], y[:100], epochs=2, validation_data=(x[100:], y[100:]), verbose=0)
    assert [values["brand"] for values in tiny.proposals(tuner)] == list(spaces)
    assert "linear/strength" not in tiny.proposals(tuner)[0]
    kinds = {type(model).__name__ for model in tuner.get_best_models(3)}
    assert kinds == {"Sequential", "Pipeline"}
    ensemble = tuner.ensemble(method="uniform")
    ensemble.save(tmp_path / "folder")
    loaded = kt.Ensemble.load(tmp_path / "folder", trust=True)
    np.testing.assert_allclose(loaded.predict(x[:5]), ensemble.predict(x[:5]), atol=1e-6)


def test_searches_of_different_brands_are_one_pool(tmp_path, table):
    x, y, _ = table
    tuners = []
    for name in ("linear", "k-nearest"):
        build = kt.brands.tabular("multiclass", brands=[name])[name]
        tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory=tmp_path, project_name=name)
        tuner.search(x, y, cross_validation=3, verbose=0)
        tuners.append(tuner)
    ensemble = tuners[0].ensemble(others=tuners[1:], method="uniform")
    assert {name.split(",")[0] for name in ensemble.weights} == {"linear", "k-nearest"}
    assert len(ensemble.problem.target) == 150, "out of fold: all rows"


def test_the_mlp_knows_size_and_scale(table):
    x, y, values = table
    model = kt.brands.tabular("regression", values)["mlp"](kt.HyperParameters())
    assert abs(float(model.predict(x, verbose=0).mean()) - values.mean()) < 3 * values.std()
    assert kt.brands.tabular("multiclass", y)["mlp"](kt.HyperParameters()).layers[-1].units == 3
    assert kt.brands.tabular("multilabel", num_outputs=4)["mlp"](kt.HyperParameters()).layers[-1].units == 4


@pytest.mark.parametrize("name", ["random forest", "linear", "k-nearest", "gradient boosting"])
def test_several_labels(tmp_path, table, name):
    x, y, _ = table
    labels = np.stack([y > 0, y > 1], axis=1).astype(int)
    build = small(kt.brands.tabular("multilabel", brands=[name])[name], **{**QUICK, "max_iter": 10})
    tuner = kt.RandomSearch(build, "val_loss", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(x[:100], labels[:100], validation_data=(x[100:], labels[100:]), verbose=0)
    assert tuner.ensemble().predict(x[:3]).shape == (3, 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"task": "ranking"}, "'ranking'"),
        ({"task": "multiclass"}, "an MLP of unknown size"),
        ({"task": "binary", "brands": ["perceptron"]}, "'perceptron'"),
        ({"task": "binary", "brands": []}, "no brands"),
    ],
)
def test_what_cannot_be_is_said(arguments, text):
    with pytest.raises(UsageError, match=text) as caught:
        kt.brands.tabular(**arguments)
    tiny.four_parts(caught.value)


def test_a_brand_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert list(kt.brands.tabular("binary")) == ["mlp", "gradient boosting", "random forest", "linear", "k-nearest"]
    with pytest.raises(UsageError, match="pip install xgboost"):
        kt.brands.tabular("binary", brands=["xgboost"])


def test_schedulers_are_refused(tmp_path, table):
    x, y, _ = table
    build = kt.brands.tabular("multiclass", brands=["linear"])["linear"]
    tuner = kt.Hyperband(build, "val_loss", max_epochs=3, directory=tmp_path)
    with pytest.raises(UsageError, match="estimators are fitted in one go") as caught:
        tuner.search(x, y, verbose=0)
    tiny.four_parts(caught.value)


def test_importing_the_spaces_imports_no_library():
    program = "import sys, manyfit.brands; print(sorted({'sklearn', 'lightgbm', 'keras'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


NUM_ROWS = 120


@pytest.fixture(scope="module")
def mixed():
    """A table as people have them: numbers with gaps, texts, categories, booleans, dates; names of classes."""
    import pandas as pd

    rng = np.random.default_rng(0)
    city = rng.choice(["Oslo", "Rome", "Lima"], NUM_ROWS)
    age = rng.normal(40, 10, NUM_ROWS)
    y = np.where((city == "Rome") ^ (age > 45), "yes", "no")
    x = pd.DataFrame(
        {
            "age[years]": np.where(rng.random(NUM_ROWS) < 0.1, np.nan, age),
            "city": np.where(rng.random(NUM_ROWS) < 0.1, None, city),
            "grade": pd.Categorical(rng.choice(["low", "high"], NUM_ROWS)),
            "member": rng.random(NUM_ROWS) < 0.5,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, NUM_ROWS), "D"),
            "visits": pd.array(np.where(rng.random(NUM_ROWS) < 0.1, None, rng.integers(0, 9, NUM_ROWS)), "Int64"),
        },
        index=range(1000, 1000 + NUM_ROWS),
    )
    return x, y


@pytest.mark.parametrize("name", ["gradient boosting", "random forest", "linear", "k-nearest", *BOOSTERS])
def test_mixed_tables_and_named_classes_from_search_to_prediction(tmp_path, mixed, name):
    if name in BOOSTERS and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}, an optional extra")
    x, y = mixed
    build = small(kt.brands.tabular("binary", brands=[name])[name], **QUICK)
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(x[:80], y[:80], validation_data=(x[80:100], y[80:100]), verbose=0)
    [model] = tuner.retrain(x=x[:100], y=y[:100], verbose=0)
    new = x[100:].copy()
    new.loc[new.index[0], "city"] = "Cairo"  # not among the training rows
    assert set(model.predict(new)) <= {"yes", "no"}
    if name != "linear" and name != "k-nearest":
        assert (model.predict(x[:100]) == y[:100]).mean() > 0.65, "half of the rows are of either class"
    assert 0 <= tuner.evaluate(x[100:], y[100:])["accuracy"] <= 1
    assert tuner.ensemble(method="uniform").predict(new).shape[0] == 20


def test_a_network_refuses_mixed_tables_before_anything_is_trained(tmp_path, mixed):
    x, y = mixed
    spaces = kt.brands.tabular("binary", y, brands=["linear", "mlp"])
    for build, table, text in (
        (spaces, x, "'age\\[years\\]'"),
        (spaces["mlp"], x[["city"]], "texts or categories in column 'city'"),
        (spaces["mlp"], x[["joined"]], "datetime"),
        (spaces["mlp"], np.array([[1.0], [np.nan]] * 60), "60 missing values"),
    ):
        tuner = kt.RandomSearch(build, "val_loss", max_trials=2, directory=tmp_path, overwrite=True)
        with pytest.raises(UsageError, match=text) as caught:
            tuner.search(table, y, validation_split=0.2, verbose=0)
        tiny.four_parts(caught.value)
        assert not tuner.oracle.trials


@pytest.mark.parametrize("search", [kt.RandomSearch, kt.BayesianOptimization, kt.QuasiRandomSearch])
def test_a_search_begins_with_the_defaults_of_each_brand(tmp_path, table, search):
    x, y, _ = table
    spaces = kt.brands.tabular("multiclass", brands=["linear", "k-nearest"])
    tuner = search(spaces, "val_accuracy", max_trials=3, seed=0, directory=tmp_path)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), verbose=0)
    first, second, _ = tiny.proposals(tuner)
    assert first == {"brand": "linear", "linear/strength": 1.0}
    assert {name: second[f"k-nearest/{name}"] for name in ("neighbors", "weighting", "power")} == {
        "neighbors": 5,
        "weighting": "uniform",
        "power": 2,
    }


#: What a space calls otherwise than the library, or sets for good.
SET = {
    "gradient boosting": {"max_iter", "early_stopping"},
    "random forest": {"n_estimators", "max_samples"},
    "lightgbm": {"n_estimators", "subsample_freq", "verbose"},
    "xgboost": {"n_estimators", "enable_categorical"},
    "catboost": {"iterations", "allow_writing_files", "verbose"},
    "linear": {"max_iter"},
    "k-nearest": set(),
}


@pytest.mark.parametrize("name", list(SET))
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_defaults_are_those_of_the_library(name, task):
    if name in BOOSTERS and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}, an optional extra")
    model = kt.brands.tabular(task, brands=[name])[name](kt.HyperParameters())[-1]
    plain = {k: v for k, v in type(model)().get_params().items() if k not in SET[name]}
    # XGBoost and CatBoost list only what was set, and say None for their own defaults.
    own = {
        "learning_rate": 0.3, "max_depth": 6, "min_child_weight": 1.0, "colsample_bytree": 1.0, "subsample": 1.0,
        "reg_lambda": 1.0, "depth": 6, "l2_leaf_reg": 3.0, "random_strength": 1.0, "loss_function": None,
    }  # fmt: skip
    for key, value in model.get_params().items():
        if key not in SET[name]:
            expected = plain.get(key)
            wanted = own.get(key) if expected is None else expected
            assert value is None or value == wanted or (value != value and wanted != wanted), key
