"""What stands on the disk while a `fit` goes on: the best epoch of all, not too often, and never something worse."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.objective import create_objective
from manyfit.core.records import Plan
from manyfit.fitting import winner_files
from manyfit.fitting.standing import Pace, Standing
from manyfit.store.layout import ProjectLayout
from manyfit.training.base import BestEpoch

RNG = np.random.default_rng(4)
X = RNG.normal(size=(90, 3)).astype("float32")
Y = (X.sum(axis=1) + RNG.normal(size=90) > 0).astype("int32")
OBJECTIVE = create_objective("val_loss")


class Time:
    """A clock that goes where the test puts it, and a little with each look."""

    def __init__(self, step: float = 0.0) -> None:
        self.at, self.step = 0.0, step

    def __call__(self) -> float:
        self.at += self.step
        return self.at


def standing_in(folder, now=None, *, max_seconds=None, said=None):
    say = (lambda line: None) if said is None else said.append
    return Standing(
        folder, OBJECTIVE, max_seconds=max_seconds, phases=lambda: {"search": 3.0}, say=say, now=now or Time()
    )


def line(slope):
    """A model that answers `slope` times the first number."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("adam", "mse", metrics=["mae"])
    return model, [np.array([[slope], [0.0], [0.0]], dtype="float32")]


SHARED = line(0.0)[0]


def epoch(loss, slope, trial="0", execution=0, phase="search", num_epochs=1):
    model, weights = SHARED, [np.array([[slope], [0.0], [0.0]], dtype="float32")]
    hp = kt.HyperParameters()
    hp.Fixed("slope", slope)
    return BestEpoch(Plan(trial, execution, hp, seed=1, phase=phase), num_epochs, loss, model, lambda: weights)


def slope_on_disk(folder):
    found = winner_files.latest(folder)
    if found is None:
        return None
    model, _ = winner_files.load(found[0])
    return float(model.predict(np.eye(3, dtype="float32")[:1], verbose=0)[0, 0])


def test_the_first_epoch_is_on_disk_at_once_and_a_whole_keras_model_when_time_has_paid_for_it(tmp_path):
    now = Time()
    standing = standing_in(tmp_path, now)
    standing.epochs_ended([epoch(0.5, 2.0, trial="7", num_epochs=3)])
    assert slope_on_disk(tmp_path) == pytest.approx(2.0) and not (tmp_path / "winner.keras").exists()
    told = repr(kt.load_winner(tmp_path / "winner.npz"))
    assert "trial 7: slope=2" in told and "val_loss 0.5 after 3 epochs" in told
    now.at = 60.0
    standing.epochs_ended([epoch(0.4, 2.0, trial="7", num_epochs=3)])
    plain = keras.saving.load_model(tmp_path / "winner.keras", compile=False)
    assert plain.predict(np.eye(3, dtype="float32")[:1], verbose=0) == pytest.approx(2.0)
    told = repr(kt.load_winner(tmp_path / "winner.keras"))
    assert "trial 7: slope=2" in told and "val_loss 0.4 after 3 epochs" in told and "search 3.0 s" in told


def test_only_a_better_epoch_takes_its_place_and_only_of_the_same_rows(tmp_path):
    now = Time()
    standing = standing_in(tmp_path, now)
    standing.epochs_ended([epoch(0.5, 2.0)])
    for place, other in enumerate(
        [
            epoch(0.6, 3.0),  # worse
            epoch(0.1, 4.0, execution=1),  # another fold, or another seed of a configuration: not comparable
            epoch(0.1, 5.0, phase="confirm"),  # what confirms is no choice of epochs
            epoch(float("nan"), 6.0),
        ]
    ):
        now.at = 1000.0 * (place + 1)
        standing.epochs_ended([other])
        assert slope_on_disk(tmp_path) == pytest.approx(2.0)
    now.at = 9000.0
    standing.epochs_ended([epoch(0.4, 7.0, trial="1")])
    assert slope_on_disk(tmp_path) == pytest.approx(7.0)


def test_weights_wait_ten_seconds_and_the_whole_file_a_twentieth_of_the_limit(tmp_path):
    now = Time()
    standing = standing_in(tmp_path, now, max_seconds=1000)
    losses = itertools.count(0, -1)
    written, number = {".keras": [], ".npz": []}, 0
    for second in range(0, 121, 5):
        now.at = float(second)
        standing.epochs_ended([epoch(next(losses), float(second))])
        path, facts = winner_files.latest(tmp_path)
        if facts.number > number:
            written[path.suffix].append(second)
            number = facts.number
    assert written == {".keras": [60, 110], ".npz": [0, 10, 20, 30, 40, 50, 70, 80, 90, 100, 120]}
    assert slope_on_disk(tmp_path) == pytest.approx(120.0)


def test_what_could_not_be_written_then_is_written_when_it_may_be_or_at_the_end(tmp_path):
    now = Time()
    standing = standing_in(tmp_path, now, max_seconds=1000)
    standing.epochs_ended([epoch(0.5, 1.0)])
    now.at = 4.0
    standing.epochs_ended([epoch(0.4, 2.0)])
    assert slope_on_disk(tmp_path) == pytest.approx(1.0)
    now.at = 11.0
    standing.epochs_ended([])  # an epoch of somebody else that was no better
    assert slope_on_disk(tmp_path) == pytest.approx(2.0)
    now.at = 12.0
    standing.epochs_ended([epoch(0.3, 3.0)])
    standing.flush()
    assert slope_on_disk(tmp_path) == pytest.approx(3.0)


def test_it_takes_no_more_than_a_hundredth_of_the_time(tmp_path):
    now = Time(step=0.2)  # each look at the clock is 0.2 s later, so each write takes that long
    standing = standing_in(tmp_path, now, max_seconds=600)
    losses = itertools.count(0, -1)
    while now.at < 600:
        now.at += 1.0
        standing.epochs_ended([epoch(next(losses), 1.0)])
    assert 0 < standing.seconds <= 0.01 * 600 + 0.2  # the first weights are written whatever they take


def test_a_pace_holds_its_interval_and_its_share():
    pace = Pace(10.0, share=0.005)
    pace.note(0.0, seconds=0.01)
    assert not pace.is_due(9.9) and pace.is_due(10.0)
    pace.note(10.0, seconds=1.0)
    assert not pace.is_due(209.0) and pace.is_due(210.0)


def test_weights_that_are_not_finite_are_left_out(tmp_path):
    standing_in(tmp_path).epochs_ended([epoch(0.5, float("inf"))])
    assert winner_files.latest(tmp_path) is None


def test_a_disk_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path):
    (tmp_path / "winner").write_text("in the way")
    said = []
    standing = standing_in(tmp_path / "winner", Time(step=100.0), said=said)
    for loss in (0.5, 0.4, 0.3):
        standing.epochs_ended([epoch(loss, 1.0)])
    assert len(said) == 1 and "the search goes on without them" in said[0]


def test_a_later_process_does_not_replace_what_stands_by_something_worse(tmp_path):
    standing_in(tmp_path).epochs_ended([epoch(0.3, 2.0)])
    again = standing_in(tmp_path)
    again.epochs_ended([epoch(0.4, 5.0)])
    assert slope_on_disk(tmp_path) == pytest.approx(2.0) and again.predictor() is None
    again.epochs_ended([epoch(0.2, 6.0)])
    assert slope_on_disk(tmp_path) == pytest.approx(6.0)


def test_what_a_phase_has_come_to_is_replaced_by_no_single_epoch(tmp_path):
    model, weights = line(8.0)
    model.set_weights(weights)
    standing = standing_in(tmp_path)
    standing.epochs_ended([epoch(0.3, 2.0)])
    standing.put(kt.Winner(model=model, time={"search": 9.0}))
    for each in (standing, standing_in(tmp_path)):
        each.epochs_ended([epoch(-5.0, 6.0)])
        assert slope_on_disk(tmp_path) == pytest.approx(8.0)


def test_an_ensemble_stands_as_a_folder_alone(tmp_path):
    models = []
    for slope in (0.5, -0.5, 2.0):
        model, weights = line(slope)
        model.set_weights(weights)
        models.append(model)
    found = kt.Ensemble.fit(models=models[:2], x=X, y=X[:, 0])
    standing = standing_in(tmp_path)
    standing.epochs_ended([epoch(0.5, 1.0)])
    for _ in range(2):
        standing.put(kt.Winner(ensemble=found))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ensemble-3", "fit.json"]
    np.testing.assert_allclose(winner_files.load(tmp_path / "ensemble-3")[0].predict(X), found.predict(X), atol=1e-6)


def test_the_model_that_trains_on_is_left_as_it_is(tmp_path):
    model, weights = line(3.0)
    found = BestEpoch(Plan("0", 0, kt.HyperParameters(), seed=1), 1, 0.5, model, lambda: weights)
    before = found.model.get_weights()
    standing = standing_in(tmp_path)
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    standing.epochs_ended([found])
    np.testing.assert_array_equal(found.model.get_weights()[0], before[0])
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002  # a search must not depend on what is kept of it
    assert standing.predictor().get_weights()[0][0, 0] == pytest.approx(3.0)


def searching(folder, build=tiny.build, **options):
    tuner = kt.RandomSearch(build, "val_loss", max_trials=3, seed=0, directory=folder, **options)
    return searched(tuner, epochs=3)


def searched(tuner, epochs):
    tuner.standing = standing_in(ProjectLayout.of(tuner.project_dir).winner)
    tuner.search(X[:60], Y[:60], validation_data=(X[60:], Y[60:]), epochs=epochs, verbose=0)
    tuner.standing.flush()
    return tuner


@pytest.mark.parametrize("population", [True, False])
def test_after_a_search_the_best_epoch_of_all_stands(tmp_path, population):
    tuner = searching(tmp_path, population=population)
    best = tuner.get_best_models(1)[0]
    folder = Path(tuner.project_dir)
    tuner.close()
    back = kt.load_winner(folder)
    np.testing.assert_allclose(back.predict(X), best.predict(X, verbose=0), atol=1e-6)
    assert back.evaluate(X, Y)["loss"] == pytest.approx(best.evaluate(X, Y, verbose=0)[0], abs=1e-5)  # compiled alike
    assert repr(kt.load_winner(tmp_path)) == repr(back)  # the folder that one project lies in will do


def test_of_estimators_and_of_trials_that_the_users_code_runs_the_best_stands_too(tmp_path):
    from sklearn.linear_model import LogisticRegression

    tuner = searching(tmp_path / "a", lambda hp: LogisticRegression(C=hp.Float("c", 0.01, 1.0)))
    best = tuner.get_best_models(1)[0]
    np.testing.assert_allclose(
        kt.load_winner(tuner.project_dir).predict(X)[:, -1], best.predict_proba(X)[:, 1], atol=1e-6
    )

    class Own(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            model = self.hypermodel.build(trial.hyperparameters)
            history = model.fit(*args, **kwargs)
            self.save_model(trial.trial_id, model)
            return history

    tuner = searched(Own(tiny.build, "val_loss", max_trials=2, seed=0, directory=tmp_path / "b"), epochs=1)
    best = tuner.get_best_models(1)[0]
    np.testing.assert_allclose(kt.load_winner(tuner.project_dir).predict(X), best.predict(X, verbose=0), atol=1e-6)


def test_overwrite_removes_what_stood(tmp_path):
    tuner = searching(tmp_path)
    folder = ProjectLayout.of(tuner.project_dir).winner
    assert folder.is_dir()
    tuner.close()
    kt.RandomSearch(tiny.build, "val_loss", max_trials=1, directory=tmp_path, overwrite=True).close()
    assert not folder.exists()
