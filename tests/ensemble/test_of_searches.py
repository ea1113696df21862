"""Predictions that searches keep, and ensembles made of nothing else."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import UsageError
from manyfit.tuners.rows_in_common import shared_rows


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(120, 3)).astype("float32")
    return x, (x.sum(axis=1) + 0.5 * rng.normal(size=120) > 0).astype("int32")


def search(folder, data, *, tuner=kt.RandomSearch, build=tiny.build, epochs=2, seed=0, rows=slice(60, 120), **settings):
    x, y = data
    arguments = {"max_trials": 3, "project_name": "search", **settings}
    searched = tuner(build, "val_loss", seed=seed, directory=folder, **arguments)
    searched.search(x[:60], y[:60], epochs=epochs, validation_data=(x[rows], y[rows]), verbose=0)
    return searched


@pytest.mark.parametrize("population", [True, False])
def test_every_finished_trial_leaves_what_its_best_epoch_predicts(tmp_path, data, population):
    tuner = search(tmp_path, data, max_trials=4, num_kept_models=2, population=population)
    archive, loaded = tuner.predictions_archive, 0
    labels = archive.labels()
    np.testing.assert_array_equal(labels.y, data[1][60:])
    for trial in tuner.oracle.trials.values():
        kept = archive.get(trial.trial_id, [0])
        np.testing.assert_array_equal(kept.row_ids, labels.row_ids)
        if tuner.has_model(trial, 0):
            loaded += 1
            told = tuner.load_model(trial).predict(data[0][60:], verbose=0)
            np.testing.assert_allclose(kept.predictions, told, rtol=2e-3)
    assert loaded == 2, "weights of the best two only, predictions of all four"


def test_files_are_half_precision(tmp_path, data):
    tuner = search(tmp_path, data, max_trials=1)
    [path] = tuner.predictions_archive.folder.glob("*-0.npz")
    with np.load(path) as arrays:
        assert arrays["values"].dtype == np.float16


def test_an_ensemble_needs_no_training_no_predicting_and_no_data(tmp_path, data, monkeypatch):
    first = search(tmp_path, data, max_trials=4)
    chosen = first.ensemble(method="uniform")
    first.close()
    later = kt.RandomSearch(tiny.build, "val_loss", max_trials=4, seed=0, directory=tmp_path, project_name="search")
    loaded = []
    real = type(later).load_model
    monkeypatch.setattr(type(later), "load_model", lambda self, *args: loaded.append(args) or real(self, *args))
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "predict", lambda *args, **kwargs: pytest.fail("predicted"))
        patch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("trained"))
        ensemble = later.ensemble(method="uniform")
    assert ensemble.weights == chosen.weights
    assert len(loaded) <= len(ensemble.pool.support) + 1, "the first, which tells the task, and those with weight"
    assert ensemble.predict(data[0][:5]).shape == (5, 1)
    later.close()


def test_out_of_fold_predictions_are_kept_by_place(tmp_path, data):
    x, y = data
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x, y, epochs=2, cross_validation=3, verbose=0)
    for trial in tuner.oracle.trials.values():
        kept = tuner.predictions_archive.get(trial.trial_id, [0, 1, 2])
        np.testing.assert_array_equal(kept.rows, np.arange(len(x)))
        for execution in range(3):
            held_out = tuner.latest_search.folds.folds.split(execution).validation
            told = tuner.load_model(trial, execution).predict(x[held_out], verbose=0)
            np.testing.assert_allclose(kept.predictions[held_out], told, rtol=2e-3)
    ensemble = tuner.ensemble(method="uniform")
    assert {len(member.models) for member in ensemble.members if member.models} == {3}, "the models of the folds"
    collapsed = ensemble.refit(verbose=0)
    assert {len(collapsed.members[index].models) for index in collapsed.pool.support} == {1}
    assert collapsed.weights == ensemble.weights
    assert all(collapsed.members[i].model is not ensemble.members[i].models[0] for i in collapsed.pool.support)
    assert collapsed.predict(x[:5]).shape == (5, 1)


def test_weights_of_search_time_models_go_to_retrained_ones(tmp_path, data):
    tuner = search(tmp_path, data)
    models = tuner.retrain(top=2, verbose=0)
    ensemble = tuner.ensemble(models, method="uniform")
    own = {model: tuner.predictions_archive.get(tuner.model_origins[model], [0]) for model in models}
    for member, model in zip(ensemble.members, models, strict=True):
        assert member.model is model
        np.testing.assert_array_equal(member.predictions, own[model].predictions)


def test_refit_retrains_every_seed_with_weight_and_leaves_the_rest(tmp_path, data):
    tuner = search(tmp_path, data, max_trials=2, executions_per_trial=2)
    ensemble = tuner.ensemble(method="uniform")
    again = ensemble.refit(epochs_factor=1.0, verbose=0)
    used = again.pool.support
    models = [model for index in used for model in again.members[index].models]
    assert len({id(model) for model in models}) == 2 * len(used)
    assert not {id(model) for model in models} & {id(one) for index in used for one in ensemble.members[index].models}
    assert again.weights == ensemble.weights
    with pytest.raises(UsageError, match="a function from a Member"):
        kt.Ensemble.fit([data[1], data[1] + 0.1], data[1]).refit()


def test_stopped_trials_keep_their_predictions_too(tmp_path, data):
    tuner = search(tmp_path, data, scheduler=kt.ASHA(max_epochs=3, min_epochs=1), max_trials=4, epochs=3)
    assert {trial.ending for trial in tuner.oracle.trials.values()} == {"completed", "stopped"}
    assert all(tuner.predictions_archive.get(trial_id, [0]) is not None for trial_id in tuner.oracle.trials)


def test_seeds_of_one_configuration_are_one_member_that_averages_them(tmp_path, data):
    tuner = search(tmp_path, data, max_trials=2, executions_per_trial=2)
    ensemble = tuner.ensemble(method="uniform")
    assert list(ensemble.weights) == [f"trial {trial.trial_id}" for trial in tuner.oracle.get_best_trials(2)]
    for member in ensemble.members:
        if member.models:
            assert len(member.models) == 2
            told = np.mean([model.predict(data[0][60:], verbose=0) for model in member.models], axis=0)
            np.testing.assert_allclose(member.predictions, told, rtol=2e-3)


def test_models_of_folds_leave_with_their_rows_and_groups_stay_together(tmp_path, data):
    """Also in a process that has neither the data nor the groups."""
    x, y = data
    groups = np.arange(120) // 4
    options = {"max_trials": 2, "seed": 0, "directory": tmp_path}
    tuner = kt.RandomSearch(tiny.build, "val_loss", **options)
    tuner.search(x, y, epochs=1, cross_validation=kt.CrossValidation(3, groups=groups), verbose=0)
    tuner.close()
    ensemble = kt.RandomSearch(tiny.build, "val_loss", **options).ensemble(method="uniform")
    assert ensemble.choice.model_folds and "each fold without its models" in ensemble.summary()
    assert np.array_equal(ensemble.problem.groups, groups)
    (_, fold) = ensemble.fitting.model_folds[0]
    for number in range(3):
        assert set(np.flatnonzero(fold == number)) == set(tuner.latest_search.folds.folds.split(number).validation)


def test_rows_in_the_order_of_time_are_judged_in_blocks(tmp_path, data):
    x, y = data
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x, y, epochs=1, cross_validation=kt.CrossValidation(3, time_series=True), verbose=0)
    ensemble = tuner.ensemble(method="uniform")
    assert ensemble.choice.model_folds and np.ptp(np.bincount(ensemble.problem.groups)) == 0
    assert ensemble.problem.groups[:6].tolist() == [0] * 5 + [1]


def test_the_objective_decides_where_it_is_one_of_predictions(tmp_path, data):
    x, y = data
    tuner = kt.RandomSearch(tiny.build, kt.Objective("val_auc", "max"), max_trials=2, seed=0, directory=tmp_path)
    metrics = {"metrics": [keras.metrics.AUC(name="auc")]}
    tuner = kt.RandomSearch(tiny.build, "val_auc", max_trials=2, seed=0, directory=tmp_path, overwrite=True, **metrics)
    tuner.search(x[:60], y[:60], epochs=1, validation_data=(x[60:], y[60:]), verbose=0)
    assert tuner.ensemble(method="uniform").metric.name == "auc"
    assert tuner.ensemble(method="uniform", metric="brier").metric.name == "brier"


def test_all_trials_that_kept_predictions_take_part_in_the_choice_of_those_with_models(tmp_path, data):
    tuner = search(tmp_path, data, max_trials=4, num_kept_models=2)
    ensemble = tuner.ensemble(method="uniform")
    assert len(ensemble.members) == 2 and ensemble.fitting.told.problem.num_members == 4
    assert ensemble.fitting.num_kept == 2


def test_weights_of_search_time_models_are_carried_to_retrained_ones(tmp_path, data):
    tuner = search(tmp_path, data)
    models = tuner.retrain(top=2, epochs=1, verbose=0)
    carried, plain = tuner.ensemble(models, method="convex"), tuner.ensemble(tuner.get_best_models(2), method="convex")
    weights = np.array(list(carried.weights.values()))
    used = weights > 0
    assert weights[used].min() >= 0.5 / used.sum() - 1e-9 and not carried.gain.proven
    assert plain.weights != carried.weights or len(plain.pool.support) == 1


def test_predictions_of_other_rows_are_an_error(tmp_path, data):
    search(tmp_path, data, max_trials=1).close()
    with pytest.warns(UserWarning, match="other validation rows"):
        tuner = search(tmp_path, data, max_trials=2, rows=slice(70, 120))
    with pytest.raises(UsageError, match="kept predictions of other rows") as caught:
        tuner.ensemble()
    tiny.four_parts(caught.value)
    x, y = data
    assert tuner.ensemble(x=x[70:], y=y[70:]).predict(x[:3]).shape == (3, 1), "rows that are given are predicted by all"


def test_several_searches_are_one_pool_whatever_the_order_of_their_rows(tmp_path, data):
    def linear(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.1, 0.5)), "binary_crossentropy")
        return model

    turned = np.arange(119, 59, -1)
    first = search(tmp_path / "a", data, project_name="deep")
    second = search(tmp_path / "b", data, build=linear, rows=turned, project_name="linear")
    ensemble = first.ensemble(others=[second], method="uniform")
    assert {name.split(",")[0] for name in ensemble.weights} == {"deep", "linear"}
    for member in ensemble.members:
        if member.models:
            np.testing.assert_allclose(member.predictions, member.predict(data[0][60:]), rtol=2e-3)
    third = search(tmp_path / "c", data, rows=slice(0, 60), project_name="elsewhere")
    with pytest.raises(UsageError, match="not one, with its target"):
        first.ensemble(others=[third])


def test_searches_that_answer_other_questions_are_refused(tmp_path, data):
    x, y = data
    first = search(tmp_path / "a", data, max_trials=1)
    second = search(tmp_path / "b", (x, 1 - y), max_trials=1)
    with pytest.raises(UsageError, match="not one, with its target"):
        first.ensemble(others=[second])


def test_nothing_is_kept_where_it_is_not_wanted(tmp_path, data):
    tuner = search(tmp_path, data, max_trials=1, keep_predictions=False)
    assert tuner.predictions_archive.labels() is None
    assert tuner.ensemble().predict(data[0][:2]).shape == (2, 1), "predicted when it is asked for"
    other = search(tmp_path / "b", data, max_trials=1)
    with pytest.raises(UsageError, match="keeps no predictions"):
        other.ensemble(others=[tuner])


def test_shared_rows_match_repeated_ones_in_turn():
    first, second = np.array([4, 4, 6, 1]), np.array([6, 4, 9, 4, 4])
    rows = shared_rows([first, second])
    np.testing.assert_array_equal(first[rows[0]], second[rows[1]])
    assert sorted(first[rows[0]].tolist()) == [4, 4, 6]


def two_questions(hp):
    """One dictionary of outputs: a class, and a value."""
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(4, "tanh")(inputs)
    outputs = {"kind": keras.layers.Dense(1, "sigmoid")(hidden), "size": keras.layers.Dense(2)(hidden)}
    model = keras.Model(inputs, outputs)
    losses = {"kind": "binary_crossentropy", "size": "mse"}
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.5)), losses, loss_weights={"kind": 1.0, "size": 0.5})
    return model


@pytest.fixture(scope="module")
def answered(data):
    return data[0], {"kind": data[1], "size": data[0][:, :2]}


@pytest.fixture(scope="module")
def of_two_questions(tmp_path_factory, answered):
    x, y = answered
    tuner = kt.RandomSearch(two_questions, "val_loss", max_trials=3, seed=0, directory=tmp_path_factory.mktemp("two"))
    held_out = {name: part[60:] for name, part in y.items()}
    train = {name: part[:60] for name, part in y.items()}
    tuner.search(x[:60], train, epochs=2, validation_data=(x[60:], held_out), verbose=0)
    return tuner


def test_several_outputs_from_search_to_a_saved_ensemble(of_two_questions, answered, tmp_path, monkeypatch):
    x, y = answered
    tuner = kt.RandomSearch(two_questions, "val_loss", max_trials=3, seed=0, directory=of_two_questions.directory)
    with monkeypatch.context() as patch:  # a reopened project has neither data nor models, but what was kept
        patch.setattr(keras.Model, "predict", lambda *args, **kwargs: pytest.fail("predicted"))
        patch.setattr(keras.Model, "fit", lambda *args, **kwargs: pytest.fail("trained"))
        ensemble = tuner.ensemble(method="uniform")
    used = [(member, ensemble.weights[member.name]) for member in ensemble.members if ensemble.weights[member.name] > 0]
    told, right = ensemble.predict(x), {"kind": 0.0, "size": 0.0}
    for member, weight in used:
        for name, output in member.models[0].predict(x, verbose=0).items():
            np.testing.assert_allclose(member.predictions[name], output[60:], rtol=4e-3, atol=4e-3)
            right[name] = right[name] + weight * output
    for name, output in right.items():
        np.testing.assert_allclose(told[name], output, atol=1e-5)
    loss = keras.losses.BinaryCrossentropy()(y["kind"][:, None], right["kind"])
    loss = loss + 0.5 * keras.losses.MeanSquaredError()(y["size"], right["size"])
    assert ensemble.evaluate(x, y)["loss"] == pytest.approx(float(loss), rel=1e-4)
    ensemble.save(tmp_path / "ensemble")
    again = kt.Ensemble.load(tmp_path / "ensemble").predict(x)
    for name, output in right.items():
        np.testing.assert_allclose(again[name], output, atol=1e-5)


def test_trials_with_several_outputs_that_add_to_each_other_are_retrained(of_two_questions, answered):
    models = of_two_questions.retrain(top=2, diverse=True, epochs=1, verbose=0)
    assert len({of_two_questions.model_origins[model] for model in models}) == 2
    ensemble = of_two_questions.ensemble(models, method="uniform")
    assert [member.model for member in ensemble.members] == models
    assert set(ensemble.predict(answered[0][:4])) == {"kind", "size"}


@pytest.mark.parametrize("keep_predictions", [True, False])
def test_folds_of_models_with_several_outputs(tmp_path, answered, keep_predictions):
    x, y = answered
    options = {"max_trials": 1, "seed": 0, "directory": tmp_path, "keep_predictions": keep_predictions}
    tuner = kt.RandomSearch(two_questions, "val_loss", **options)
    tuner.search(x, y, epochs=1, cross_validation=2, verbose=0)
    (trial,) = tuner.oracle.trials.values()
    (member,) = tuner.ensemble(method="uniform").members
    for execution in range(2):
        held_out = tuner.latest_search.folds.folds.split(execution).validation
        for name, right in tuner.load_model(trial, execution).predict(x[held_out], verbose=0).items():
            np.testing.assert_allclose(member.predictions[name][held_out], right, rtol=4e-3, atol=4e-3)


def test_validation_rows_without_targets_are_called_so(tmp_path, data):
    def mirror(hp):
        model = Mirror()
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)))
        return model

    x = data[0]
    tuner = kt.RandomSearch(mirror, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(x[:60], epochs=1, validation_data=(x[60:],), verbose=0)
    with pytest.raises(UsageError, match="validation rows without targets") as caught:
        tuner.ensemble()
    tiny.four_parts(caught.value)
    models = tuner.get_best_models(2)
    assert tuner.ensemble(models, x=x[60:], y=x[60:]).predict(x[:2]).shape == (2, 3), "what the error says to type"


class Mirror(keras.Model):
    """An autoencoder that compares its answer with x by itself."""

    def __init__(self):
        super().__init__()
        self.inner = keras.layers.Dense(3)

    def call(self, x):
        return self.inner(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        return keras.ops.mean((x - y_pred) ** 2)


def test_a_pipeline_that_only_the_first_member_could_read_is_refused(tmp_path, data):
    ensemble = search(tmp_path, data).ensemble(method="uniform")
    with pytest.raises(UsageError, match=r"ensemble\.predict\(x\)") as caught:
        ensemble.predict(batch for batch in np.split(data[0], 2))
    tiny.four_parts(caught.value)
