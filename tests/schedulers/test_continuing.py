"""Continuing equals never having stopped: one run of 27 epochs against one that was paused at 3 and at 9."""

from __future__ import annotations

import dataclasses
import pickle

import keras
import numpy as np
import pytest
from marks import not_on, on_jax_only

import manyfit as kt
from manyfit.core.objective import Objective
from manyfit.core.records import Decision, Ending, Plan
from manyfit.data.call import Call
from manyfit.training.base import Permissions, Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.stored_state import is_storable, read_state, stored_by
from manyfit.training.weights import load_weights

pytestmark = [
    pytest.mark.backends,
    pytest.mark.filterwarnings("ignore:__array__ implementation"),
]

RNG = np.random.default_rng(5)
X = RNG.normal(size=(90, 6)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int32")
RUNGS = (3, 9)
BACKEND = keras.backend.backend()
TRAINERS = ["population", "fit"] if BACKEND == "jax" else ["fit"]


def build(hp):
    rate = hp["rate"]
    if hp["schedule"]:
        rate = keras.optimizers.schedules.CosineDecay(rate, 90)
    layers = [keras.layers.Dense(8, "relu"), keras.layers.BatchNormalization(), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


class Rungs:
    """A supply that pauses its executions at rungs; `resumes` hands them out again in the same call of `train`."""

    independent = False
    remaining = None

    def __init__(self, plans, rungs, *, resumes):
        self.waiting, self.rungs, self.resumes = list(plans), rungs, resumes
        self.paused, self.results, self.epochs = [], {}, []

    def take(self, count):
        taken, self.waiting = self.waiting[:count], self.waiting[count:]
        return taken

    def report(self, epochs):
        self.epochs += [epoch for _, epoch, _ in epochs]
        return [Decision.PAUSE if epoch + 1 in self.rungs else Decision.GO_ON for _, epoch, _ in epochs]

    def finish(self, result):
        if result.ending is Ending.PAUSED:
            again = dataclasses.replace(result.plan, first_epoch=len(result.history["loss"]))
            (self.waiting if self.resumes else self.paused).append(again)
        else:
            self.results[result.plan.key] = result


def trainer_of(name):
    if name == "fit":
        return KerasFit()
    from manyfit.training.population import Population

    return Population(KerasFit(), population_size=2, notify=pytest.fail)


def plans_in(folder, values):
    return [
        Plan(
            str(number),
            0,
            {"rate": rate, **values},
            seed=number,
            epochs=27,
            weights_path=str(folder / f"{number}.npz"),
            state_path=str(folder / f"{number}.state"),
        )
        for number, rate in enumerate((0.02,) if BACKEND == "tensorflow" else (0.02, 0.002))
    ]


def callbacks_for(values):
    # They end a run after epoch 9 and before epoch 27 only if patience is counted from the first epoch on.
    chosen = [keras.callbacks.EarlyStopping("val_loss", patience=14, min_delta=0.4, restore_best_weights=True)]
    if not values["schedule"]:
        chosen.append(keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=4, min_delta=0.05))
    return chosen


def run(trainer, values, folder, mode):
    fit = {"epochs": 27, "validation_split": 0.3, "batch_size": 20, "verbose": 0, "callbacks": callbacks_for(values)}
    task = Task(build, Call((X, Y), fit), objective=Objective("val_loss", "min"), may=Permissions(pause=True))
    supply = Rungs(plans_in(folder, values), () if mode == "straight" else RUNGS, resumes=mode == "resident")
    trainer_of(trainer).train(supply, task)
    while supply.paused:  # the process is gone, and with it everything in memory
        supply.waiting, supply.paused = supply.paused, []
        trainer_of(trainer).train(supply, task)
    return supply


@pytest.mark.parametrize(
    ("trainer", "schedule"),
    {
        "jax": [("population", True), ("population", False), ("fit", False)],
        "torch": [("fit", True), ("fit", False)],
        "tensorflow": [("fit", False)],  # it compiles for long
    }[BACKEND],
)
def test_continuing_equals_never_having_stopped(trainer, schedule, tmp_path):
    values = {"schedule": schedule}
    folders = {mode: tmp_path / mode for mode in ("straight", "resident", "stored")}
    supplies = {mode: run(trainer, values, folder, mode) for mode, folder in folders.items()}
    straight = supplies.pop("straight")
    lengths = [len(result.history["loss"]) for result in straight.results.values()]
    assert all(9 < length < 27 for length in lengths)
    for mode, supply in supplies.items():
        assert sorted(supply.epochs) == sorted(epoch for length in lengths for epoch in range(length)), mode
        for key, result in straight.results.items():
            found = supply.results[key]
            assert found.ending is Ending.COMPLETED
            assert set(found.history) == set(result.history)
            for name, curve in result.history.items():
                np.testing.assert_allclose(found.history[name], curve, rtol=1e-5, atol=1e-6, err_msg=f"{mode} {name}")
            models = [build({"rate": 0.1, **values}) for _ in range(2)]
            for model, folder in zip(models, (folders["straight"], folders[mode]), strict=True):
                load_weights(model, folder / f"{key[0]}.npz")
            for one, other in zip(*(model.get_weights() for model in models), strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


class Killed(BaseException):
    """The process is gone."""


class Counter(keras.callbacks.Callback):
    """Counts trained epochs over all copies, and ends the process after so many."""

    trained = 0
    last = None

    def on_epoch_end(self, epoch, logs=None):
        Counter.trained += 1
        if Counter.trained == Counter.last:
            raise Killed


def build_tuned(hp):
    return build({"rate": hp.Float("rate", 1e-4, 1e-1, sampling="log"), "schedule": False})


@not_on("tensorflow", "it compiles for long, and is as in the test above")
@pytest.mark.parametrize("population", [name == "population" for name in TRAINERS])
def test_a_search_that_was_killed_between_rungs_trains_no_epoch_twice(population, tmp_path, monkeypatch):
    fit = {"validation_split": 0.3, "batch_size": 30, "verbose": 0, "callbacks": [Counter()]}

    def search(name):
        tuner = kt.Hyperband(
            build_tuned, "val_loss", max_epochs=9, max_trials=9, seed=4, directory=tmp_path / name,
            population=population, population_size=1 if population else None,
        )  # fmt: skip
        try:
            tuner.search(X, Y, **fit)
            return tuner.results()
        finally:
            tuner.close()

    monkeypatch.setattr(Counter, "trained", 0)
    straight = search("straight")
    total = Counter.trained
    monkeypatch.setattr(Counter, "trained", 0)
    monkeypatch.setattr(Counter, "last", 15)  # 9 trials at 1 epoch each: the promoted ones are on their way
    with pytest.raises(Killed):
        search("killed")
    assert list((tmp_path / "killed" / "untitled_project" / "weights").glob("*.state"))
    monkeypatch.setattr(Counter, "last", None)
    resumed = search("killed")
    # Epochs that were under way when the process ended are trained again, at most one rung of them.
    assert total <= Counter.trained <= total + 6
    assert resumed.epochs_spent == straight.epochs_spent == total
    for one, other in zip(straight, resumed, strict=True):
        assert (one.trial_id, one.num_epochs, one.ending) == (other.trial_id, other.num_epochs, other.ending)
        assert one.score == pytest.approx(other.score, rel=1e-5)
    assert not list((tmp_path / "killed" / "untitled_project" / "weights").glob("*.state"))  # nobody needs them now


@on_jax_only
def test_a_state_that_does_not_fit_is_not_used(tmp_path):
    run("fit", {"schedule": True}, tmp_path, "stored")
    plan = plans_in(tmp_path, {"schedule": True})[0]
    assert read_state(dataclasses.replace(plan, first_epoch=0), stored_by(), 1) is None
    continued = dataclasses.replace(plan, first_epoch=9)
    assert read_state(continued, stored_by(), 1).epoch == 9
    assert read_state(continued, "population", 1) is None  # it reads the data in another order
    assert read_state(continued, stored_by(), 2) is None  # with another callback it is another training
    assert read_state(dataclasses.replace(continued, seed=99), stored_by(), 1) is None
    assert read_state(dataclasses.replace(continued, first_epoch=8), stored_by(), 1) is None
    (tmp_path / "0.state").write_bytes(pickle.dumps("something else"))
    assert read_state(continued, stored_by(), 1) is None
    (tmp_path / "0.state").write_bytes(b"cut off")
    assert read_state(continued, stored_by(), 1) is None


class OwnStep(keras.Sequential):
    def train_step(self, state, data):
        return super().train_step(state, data)


@on_jax_only
def test_what_of_fit_is_storable():
    model, arrays = build({"rate": 0.1, "schedule": False}), Task(build, Call((X, Y)))
    assert is_storable(model, arrays, None)
    assert not is_storable(OwnStep([keras.layers.Dense(1)]), arrays, None)
    for task in (
        Task(build, Call((iter(()),))),
        Task(build, Call((X, Y), {"steps_per_epoch": 2})),  # an epoch begins where the one before it ended
        Task(build, Call((X, Y)), fit=lambda values, model, *args, **kwargs: None),
    ):
        assert not is_storable(model, task, None)


class Unstorable(keras.callbacks.Callback):
    """Keeps what cannot be written to a file."""

    def on_train_begin(self, logs=None):
        self.numbers = (number for number in range(100))


@on_jax_only
@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_cannot_be_stored_trains_again_from_its_start(trainer, tmp_path):
    fit = {"epochs": 6, "validation_split": 0.3, "batch_size": 20, "verbose": 0, "callbacks": [Unstorable()]}
    task = Task(build, Call((X, Y), fit), objective=Objective("val_loss", "min"), may=Permissions(pause=True))
    curves = []
    for rungs in ((), (3,)):
        plans = [dataclasses.replace(plan, epochs=6) for plan in plans_in(tmp_path, {"schedule": True})[:1]]
        supply = Rungs(plans, rungs, resumes=False)
        trainer_of(trainer).train(supply, task)
        if rungs:
            assert not list(tmp_path.glob("*.state"))
            supply.waiting, supply.paused = supply.paused, []
            trainer_of(trainer).train(supply, task)
            assert supply.epochs == list(range(6))  # what is known is not reported again
        curves.append(supply.results["0", 0].history["loss"])
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5)
