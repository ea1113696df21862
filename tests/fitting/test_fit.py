"""`fit` as users type it: one call, a winner."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest

from manyfit.core.errors import SearchError, UsageError
from manyfit.fitting.holdout import FEWEST_ROWS_OF_ONE_PART

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(
        keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 1.0, sampling="log")),
        "binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def tuner_of(folder, kind=kt.RandomSearch, **options):
    return kind(build, "val_accuracy", seed=0, directory=folder, **options)


def fitted(folder, *data, **options):
    options = {"max_trials": 2, "epochs": 2, "verbose": 0, **options}
    return tuner_of(folder).fit(*(data or (X, Y)), **options)


TUNERS = {
    "random": (kt.RandomSearch, {}),
    "grid": (kt.GridSearch, {}),
    "evolution": (kt.Evolution, {}),
    "bayesian": (kt.BayesianOptimization, {}),
    "picks": (kt.Search, {}),
    "hyperband": (kt.Hyperband, {"max_epochs": 2}),
    "asha": (kt.RandomSearch, {"scheduler": "asha"}),
}


@pytest.mark.parametrize("kind", TUNERS)
def test_every_tuner_has_it(kind, tmp_path):
    tuner, options = TUNERS[kind]
    winner = tuner_of(tmp_path, tuner, **options).fit(X, Y, max_trials=2, epochs=2, verbose=0)
    assert winner.predict(X).shape == (60, 1)
    assert len(winner.search.oracle.trials) == 2 and winner.ended_by == "trials"
    assert next(iter(winner.time)) == "search" and winner.reasons
    assert winner.evaluate(X, Y)["accuracy"] > 0.5


def test_one_call_without_a_tuner(tmp_path):
    winner = kt.fit(build, X, Y, "val_accuracy", max_trials=1, epochs=1, verbose=0, seed=3, directory=tmp_path)
    assert winner.search.oracle.seed == 3 and winner.predict(X).shape == (60, 1)
    assert list(tmp_path.iterdir())


def test_a_default_number_of_trials_does_not_bind(tmp_path):
    """Of twelve configurations `search` tries ten, as KerasTuner's does, and `fit` all."""

    def twelve(hp):
        hp.Int("number", 1, 12)
        return build_fixed()

    def build_fixed():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile("sgd", "binary_crossentropy", metrics=["accuracy"])
        return model

    options = {"seed": 0, "directory": tmp_path}
    searched = kt.RandomSearch(twelve, "val_accuracy", project_name="searched", **options)
    searched.search(X, Y, validation_split=0.2, verbose=0)
    tuner = kt.RandomSearch(twelve, "val_accuracy", project_name="fitted", **options)
    winner = tuner.fit(X, Y, validation_split=0.2, epochs=1, max_seconds=600, verbose=0)
    assert (len(searched.oracle.trials), len(tuner.oracle.trials), winner.ended_by) == (10, 12, "space")
    assert tuner.oracle.max_trials == 10  # a search that follows is one of KerasTuner's again


def test_a_scheduler_that_is_through_says_so(tmp_path):
    tuner = kt.Hyperband(build, "val_accuracy", max_epochs=1, seed=0, directory=tmp_path)
    winner = tuner.fit(X, Y, validation_split=0.2, max_seconds=600, verbose=0)
    assert winner.ended_by == "schedule" and "scheduler had nothing more to run" in str(winner)


def test_a_number_of_trials_that_was_typed_binds(tmp_path):
    winner = tuner_of(tmp_path, max_trials=2).fit(X, Y, max_trials=5, epochs=1, verbose=0)
    assert len(winner.search.oracle.trials) == 2


def test_the_smaller_limit_of_time_holds_and_is_said_once(tmp_path, capsys):
    winner = tuner_of(tmp_path, max_seconds=300).fit(X, Y, max_seconds=600, max_trials=1, epochs=1)
    assert capsys.readouterr().out.count("300 s hold") == 1
    assert winner.search.oracle.max_seconds == 300


def test_without_epochs_patience_ends_a_training_and_is_told(tmp_path, capsys):
    tuner = tuner_of(tmp_path)
    tuner.fit(X, Y, validation_split=0.2, max_trials=1)
    assert "a training ends 10 epochs after its best val_accuracy, or after 200" in capsys.readouterr().out
    [run] = next(iter(tuner.oracle.trials.values())).executions.values()
    assert 10 < run.num_epochs < 200 and run.num_epochs - 1 - run.best_epoch == 10


def test_epochs_are_a_cap(tmp_path):
    winner = fitted(tmp_path, epochs=3)
    runs = [run for trial in winner.search.oracle.trials.values() for run in trial.executions.values()]
    assert {run.num_epochs for run in runs} == {3}


def test_few_rows_are_folded_many_are_held_out_and_bagged(tmp_path):
    few = fitted(tmp_path / "few")
    assert {len(trial.executions) for trial in few.search.oracle.trials.values()} == {5}
    x = rng.normal(size=(FEWEST_ROWS_OF_ONE_PART, 3)).astype("float32")
    y = (x[:, 0] + rng.normal(size=len(x)) > 0).astype("int32")
    many = fitted(tmp_path / "many", x, y, batch_size=500)
    assert {len(trial.executions) for trial in many.search.oracle.trials.values()} == {1}
    assert "bag" in many.time and any(reason.startswith("A bag of 2") for reason in many.reasons)
    # A call with a raised limit compares the bag with what it comes to, and trains its folds no second time.
    before = {name: trial.executions_of("fold") for name, trial in many.search.oracle.trials.items()}
    many.search.store.put(fit_bag={"trials": list(before), "repeats": 1})  # whether or not it was the better one
    again = fitted(tmp_path / "many", x, y, batch_size=500, max_trials=3)
    assert any(reason.startswith("The bag of an earlier call is") for reason in again.reasons)
    after = {name: again.search.oracle.trials[name].executions_of("fold") for name in before}
    assert {name: len(runs) for name, runs in after.items()} == dict.fromkeys(before, 5)


def test_rows_in_the_order_of_time_are_confirmed_and_not_folded(tmp_path):
    winner = fitted(tmp_path, time_ordered=True)
    rows = winner.search.latest_search.task.call.validation_rows()
    assert np.array_equal(rows.x, X[48:])
    assert winner.confirmation is not None and "bag" not in winner.time
    blocks = winner.search.ensemble(verbose=0).problem.groups
    assert blocks.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], "weights are cross-fitted by blocks of time"


def test_all_that_search_takes_is_taken(tmp_path):
    weights = np.ones(60)
    winner = fitted(tmp_path / "weights", sample_weight=weights, batch_size=7, shuffle=False)
    assert winner.search.latest_search.task.call.get("batch_size") == 7
    fold = fitted(tmp_path / "folds", cross_validation=3)
    assert {len(trial.executions) for trial in fold.search.oracle.trials.values()} == {3}


def test_several_inputs(tmp_path):
    def two(hp):
        left, right = keras.Input((3,), name="left"), keras.Input((3,), name="right")
        both = keras.layers.Concatenate()([left, right])
        model = keras.Model({"left": left, "right": right}, keras.layers.Dense(1, activation="sigmoid")(both))
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.1, 1.0)), "binary_crossentropy", metrics=["accuracy"])
        return model

    tuner = kt.RandomSearch(two, "val_accuracy", seed=0, directory=tmp_path)
    winner = tuner.fit({"left": X, "right": X}, Y, max_trials=2, epochs=1, verbose=0)
    assert winner.predict({"left": X, "right": X}).shape == (60, 1)


def test_a_stream_with_validation_rows(tmp_path):
    tf = pytest.importorskip("tensorflow")
    batches = tf.data.Dataset.from_tensor_slices((X, Y)).batch(10)
    winner = fitted(tmp_path, batches, validation_data=batches)
    assert winner.predict(X).shape == (60, 1)


def test_of_a_stream_nothing_can_be_held_out(tmp_path):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            return X[10 * index : 10 * index + 10], Y[10 * index : 10 * index + 10]

    with pytest.raises(UsageError, match=r"fit\(x\) without validation_data.*validation_data=\.\.\."):
        fitted(tmp_path, Batches())


def test_a_run_trial_of_the_users_is_called_with_what_was_passed(tmp_path):
    seen = []

    class Own(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            seen.append((len(args), sorted(kwargs)))
            return super().run_trial(trial, *args, **kwargs)

    data = (X[48:], Y[48:])
    winner = tuner_of(tmp_path, Own).fit(X, Y, validation_data=data, epochs=1, max_trials=2, verbose=0)
    assert winner.predict(X).shape == (60, 1) and seen[0] == (2, ["epochs", "validation_data", "verbose"])


def test_estimators_of_scikit_learn(tmp_path):
    from sklearn.linear_model import LogisticRegression

    oracle = kt.oracles.RandomSearchOracle(kt.Objective("score", "max"), seed=0)
    tuner = kt.SklearnTuner(oracle, lambda hp: LogisticRegression(C=hp.Float("C", 0.01, 10)), directory=tmp_path)
    winner = tuner.fit(X, Y, max_trials=3, verbose=0)
    assert len(tuner.oracle.trials) == 3 and len(winner.predict(X)) == 60


def test_several_objectives_are_refused_before_training(tmp_path):
    tuner = kt.RandomSearch(build, ["val_accuracy", "val_loss"], directory=tmp_path)
    with pytest.raises(UsageError, match=r'one objective: there is one winner.*"val_accuracy"'):
        tuner.fit(X, Y, max_trials=2)
    assert not tuner.oracle.trials


@pytest.mark.parametrize("seconds", [0, -1, "60"])
def test_a_limit_that_is_none_is_refused(seconds, tmp_path):
    with pytest.raises(UsageError, match=r"fit\(max_seconds=...\).*a number above 0"):
        tuner_of(tmp_path).fit(X, Y, max_seconds=seconds)


def test_no_limit_at_all_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"no limit.*Type fit\(x, y, max_seconds=600\)"):
        tuner_of(tmp_path).fit(X, Y)


def test_when_all_trials_fail_the_error_says_why(tmp_path):
    def failing(hp):
        if hp.Float("a", 0, 1) >= 0 and len(seen) > 3:
            raise ValueError("no such layer")
        seen.append(1)
        return build(hp)

    seen: list[int] = []
    tuner = kt.RandomSearch(failing, "val_accuracy", directory=tmp_path)
    seen += [1] * 10
    with pytest.raises(SearchError, match="no such layer"):
        tuner.fit(X, Y, max_trials=2, epochs=1, verbose=0)


def test_one_class_and_ten_rows(tmp_path):
    winner = fitted(tmp_path, X[:10], np.zeros(10, dtype="int32"))
    assert winner.predict(X).shape == (60, 1)
