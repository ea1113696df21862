"""Bags: fold models of several configurations, trained once, weighed by rows that they did not train on."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError
from manyfit.finish.fold_runs import FOLD, FoldSupply
from manyfit.oracles.trial import RACE

NUM_ROWS = 90
RNG = np.random.default_rng(4)
X = RNG.normal(size=(NUM_ROWS, 3)).astype("float32")
Y = (X.sum(axis=1) + RNG.normal(size=NUM_ROWS) > 0).astype("int32")
GROUPS = np.arange(NUM_ROWS) // 3


def searched(folder, build=tiny.build, objective="val_loss", epochs=2, **search):
    tuner = kt.RandomSearch(build, objective, max_trials=3, seed=0, directory=folder)
    rows = {"validation_data": (X[60:], Y[60:])} if "cross_validation" not in search else {}
    count = 60 if rows else NUM_ROWS
    tuner.search(X[:count], Y[:count], epochs=epochs, batch_size=32, verbose=0, **rows, **search)
    return tuner


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    return searched(tmp_path_factory.mktemp("bag"))


@pytest.fixture(scope="module")
def bagged(tuner):
    return tuner.bag(top=2, folds=3, settings=kt.ensemble.EnsembleSettings(refuse=False))


def test_trials_may_be_named_and_their_folds_are_taken(tuner, bagged):
    names = [member.name.removeprefix("trial ") for member in bagged.members]
    before = fold_runs(tuner)
    again = tuner.bag(names[::-1], folds=3, settings=kt.ensemble.EnsembleSettings(refuse=False))
    assert [member.name for member in again.members] == [f"trial {name}" for name in names[::-1]]
    assert {name: len(runs) for name, runs in fold_runs(tuner).items()} == {n: len(r) for n, r in before.items()}
    with pytest.raises(kt.errors.UsageError, match=r'"9999", which is no trial.*Type bag\('):
        tuner.bag(["9999"])
    with pytest.raises(kt.errors.UsageError, match=r"bag\(top=...\)"):
        tuner.bag([])


def fold_runs(tuner):
    return {id: run for id, one in tuner.oracle.trials.items() if (run := one.executions_of(FOLD))}


def test_a_member_holds_the_models_of_all_folds_and_was_judged_on_rows_they_did_not_see(tuner, bagged):
    assert [len(member.models) for member in bagged.members] == [3, 3]
    assert bagged.choice.model_folds and bagged.problem.num_rows == NUM_ROWS
    (_, fold) = bagged.fitting.model_folds[0]
    for member in bagged.members:
        for number, model in enumerate(member.models):
            rows = np.flatnonzero(fold == number)
            np.testing.assert_allclose(member.predictions[rows], model.predict(X[rows], verbose=0), rtol=4e-3)
    told = np.mean([[model.predict(X[:9], verbose=0) for model in one.models] for one in bagged.members], axis=1)
    weights = np.array(list(bagged.weights.values()))
    np.testing.assert_allclose(bagged.predict(X[:9]), np.tensordot(weights, told, 1), atol=1e-5)
    assert tuner.model_origins[bagged.members[0].models[0]] == bagged.members[0].name.removeprefix("trial ")


def test_folds_of_all_configurations_train_in_one_program(tuner, bagged):
    del bagged
    assert tuner.programs().records[-1].members >= 6 or sum(record.members for record in tuner.programs().records) >= 9


def test_a_run_that_was_broken_off_has_its_number_again_and_those_of_others_keep_theirs(tuner, bagged):
    trial = tuner.oracle.trials[bagged.members[0].name.removeprefix("trial ")]
    runs = trial.executions_of(FOLD)
    num_runs = len(runs)
    broken_off = runs.pop(1)  # as it is after a kill in the middle of it
    layout = tuner.store.layout
    supply = FoldSupply([(trial, 1), (trial, 4)], [], tuner.oracle, layout, epochs=2, clock=Clock())
    runs[1] = broken_off
    assert supply.splits == {(trial.trial_id, 1): 1, (trial.trial_id, num_runs): 4}


def test_no_fold_is_trained_twice_also_after_the_project_was_reopened(tuner, bagged):
    before = fold_runs(tuner)
    assert {len(runs) for runs in before.values()} == {3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tuner), "_trainer_for", lambda *args: pytest.fail("trained"))
        again = tuner.bag(top=2, folds=3, settings=bagged.settings)
    assert again.weights == bagged.weights
    assert fold_runs(tuner) == before
    later = kt.RandomSearch(tiny.build, "val_loss", max_trials=3, seed=0, directory=tuner.directory)
    later.search(X[:60], Y[:60], epochs=2, batch_size=32, verbose=0, validation_data=(X[60:], Y[60:]))
    more = later.bag(top=2, folds=3, repeats=2, settings=bagged.settings)
    assert {len(runs) for runs in fold_runs(later).values()} == {6}, "three more, of the second repeat"
    assert [len(member.models) for member in more.members] == [6, 6]
    np.testing.assert_allclose(more.members[0].repeats[0], bagged.members[0].predictions)
    assert "Carried on from the means of 2 to bags of 6" in more.summary()
    later.bag(top=2, folds=4, settings=bagged.settings)
    assert {len(runs) for runs in fold_runs(later).values()} == {10}, "other folds have runs of their own"


def test_what_a_search_with_folds_has_trained_is_used(tmp_path):
    tuner = searched(tmp_path, cross_validation=kt.CrossValidation(3, groups=GROUPS))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tuner), "_trainer_for", lambda *args: pytest.fail("trained"))
        ensemble = tuner.bag(top=2)
    assert not fold_runs(tuner) and [len(member.models) for member in ensemble.members] == [3, 3]
    assert np.array_equal(ensemble.problem.groups, GROUPS), "the search's groups"
    more = tuner.bag(top=1, folds=4)
    (_, fold) = more.fitting.model_folds[0]
    assert all(len(set(fold[group == GROUPS])) == 1 for group in set(GROUPS)), "kept together in other folds, too"


def test_bags_and_confirmations_on_folds_train_no_fold_twice(tmp_path):
    tuner = searched(tmp_path)
    first, *others = tuner.oracle.get_best_trials(3)
    tuner.bag(top=1, folds=3)
    found = tuner.confirm(top=3, cross_validation=3, max_rounds=3, proof_executions=0)
    assert found.rounds == 3 and {row.num_executions for row in found.rows} == {3}
    assert len(first.executions_of(FOLD)) == 3 and not first.executions_of(RACE), "those of the bag"
    assert [sorted(one.executions_of(RACE)) for one in others] == [[0, 1, 2]] * 2
    seeds = [sorted(run.seed for run in one.executions_of(RACE).values()) for one in others]
    assert seeds[0] == seeds[1] == sorted(run.seed for run in first.executions_of(FOLD).values()), "pairs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(tuner), "_trainer_for", lambda *args: pytest.fail("trained"))
        assert [len(one.models) for one in tuner.bag(top=3, folds=3).members] == [3, 3, 3]
        assert tuner.confirm(top=3, cross_validation=3, max_rounds=3, proof_executions=0).rounds == 3
    # Other arguments of `fit` make other runs.
    tuner.confirm(top=2, cross_validation=3, max_rounds=3, proof_executions=0, batch_size=16)
    assert len(first.executions_of(RACE)) == 3


def test_a_bag_saves_loads_fuses_and_collapses(tuner, bagged, tmp_path):
    expected = bagged.predict(X)
    bagged.save(tmp_path / "folder")
    np.testing.assert_allclose(kt.Ensemble.load(tmp_path / "folder").predict(X), expected, atol=1e-6)
    bagged.save(tmp_path / "bag.keras")
    one = keras.saving.load_model(tmp_path / "bag.keras")
    np.testing.assert_allclose(one.predict(X, verbose=0), expected, atol=1e-5)
    again = bagged.refit(epochs=1, verbose=0)
    assert {len(again.members[index].models) for index in again.pool.support} == {1}
    assert tuner.evaluate(X, Y, models=bagged).scores


def test_callbacks_see_the_rows_of_their_own_fold(tmp_path):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["val_loss"])

    tuner = searched(tmp_path, epochs=8, callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=0), Look()])
    del seen[:]
    tuner.bag(top=1, folds=3)
    (runs,) = fold_runs(tuner).values()
    curves = [run.history["val_loss"] for run in runs.values()]
    assert len({curve[0] for curve in curves}) == 3, "three folds, three sets of rows"
    assert sorted(loss for curve in curves for loss in curve) == pytest.approx(sorted(seen), rel=1e-4)


def test_one_repeat_proves_no_gain_between_bags(bagged):
    assert not bagged.gain.proven and bagged.gain.low <= 0
    assert "bag(repeats=2) measures how much" in bagged.summary()


def test_rows_that_the_searchs_models_predicted_too_tell_what_averaging_gains(tmp_path):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(X[:30], Y[:30], epochs=2, batch_size=32, verbose=0, validation_data=(X[30:], Y[30:]))
    ensemble = tuner.bag(top=2, folds=3)
    (again, share) = ensemble.fitting.again
    assert share == pytest.approx(60 / 90)
    for member, said in zip(ensemble.members, again.predictions, strict=True):
        trial_id = member.name.removeprefix("trial ")
        kept = tuner.predictions_archive.get(trial_id, [0])
        np.testing.assert_allclose(said[30:], kept.predictions, atol=1e-6)
        np.testing.assert_allclose(said[:30], member.predictions[:30], atol=1e-6)
    assert "rows that the search's models predicted, too" in ensemble.summary() and not ensemble.gain.proven


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": 2}, "2 folds"),
        ({"folds": kt.CrossValidation(3, time_series=True)}, "in the order of time"),
        ({"folds": 200}, "200 folds of 90 rows"),
        ({"groups": np.arange(NUM_ROWS) // 45, "folds": 5}, "5 folds of 2 groups"),
        ({"groups": np.arange(9), "folds": 3}, "9 groups for 90 rows"),
        ({"folds": kt.CrossValidation(3), "repeats": 2}, "beside folds that are no number"),
        ({"top": 0}, "top"),
        ({"repeats": 0}, "repeats"),
        ({"max_seconds": 0}, "max_seconds"),
    ],
)
def test_what_cannot_be_bagged_is_refused_before_anything_is_trained(tuner, options, text):
    tuner.refresh()  # another tuner may have gone on with the project
    before = fold_runs(tuner)
    with pytest.raises(UsageError, match=text) as caught:
        tuner.bag(**options)
    tiny.four_parts(caught.value)
    assert fold_runs(tuner) == before


def test_a_bag_wants_a_search(tmp_path):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, directory=tmp_path)
    with pytest.raises(UsageError, match="without completed trials"):
        tuner.bag()


def test_a_configuration_whose_folds_fail_is_left_out_and_named(tmp_path, capsys):
    fails = []

    def build(hp):
        if hp.values.get("learning_rate") in fails:
            raise ValueError("this rate is broken")
        return tiny.build(hp)

    tuner = searched(tmp_path, build)
    worst = tuner.oracle.get_best_trials(3)[-1]
    fails.append(worst.hyperparameters.values["learning_rate"])
    ensemble = tuner.bag(top=3, folds=3, verbose=1)
    assert f"trial {worst.trial_id}" not in ensemble.weights and len(ensemble.members) == 2
    assert f"trial {worst.trial_id} is left out: ValueError: this rate is broken" in capsys.readouterr().out
    fails += [trial.hyperparameters.values["learning_rate"] for trial in tuner.oracle.trials.values()]
    with pytest.raises(SearchError, match="no configuration has a model of every fold"):
        tuner.bag(top=3, folds=4, diverse=False)


def test_without_time_nothing_is_lost(tmp_path):
    tuner = searched(tmp_path)
    with pytest.raises(SearchError, match="the time was up"):
        tuner.bag(top=1, folds=3, max_seconds=1e-9)
    assert tuner.bag(top=1, folds=3, max_seconds=600).predict(X[:2]).shape == (2, 1)


def test_predictions_that_were_not_kept_are_made_now(tmp_path):
    options = {"max_trials": 1, "seed": 0, "directory": tmp_path}
    tuner = kt.RandomSearch(tiny.build, "val_loss", keep_predictions=False, **options)
    tuner.search(X, Y, epochs=1, verbose=0, validation_split=0.2)
    ensemble = tuner.bag(top=1, folds=3)
    assert ensemble.problem.num_rows == NUM_ROWS and not (tmp_path / "untitled_project" / "predictions").exists()
