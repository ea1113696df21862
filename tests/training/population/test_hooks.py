"""Hooks of callbacks in a population: their order, their arguments and what they see are `model.fit`'s.

Recorded from both and compared; the table in docs/population.md is written from the same runs.
"""

import collections
import csv
import itertools
from pathlib import Path

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
from keras import callbacks
from marks import needs_jax
from populations import NoFallback, refuse, train

from manyfit.core.objective import Objective
from manyfit.core.records import Ending, Plan
from manyfit.data.call import Call
from manyfit.training.base import Task
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population

pytestmark = needs_jax

RNG = np.random.default_rng(3)
X = RNG.normal(size=(20, 4)).astype("float32")  # batches of 8, 8 and 4
Y = X[:, :1] * X[:, 1:2]
HELD_OUT = (X[:8], Y[:8])
HOOKS = (
    "on_train_begin",
    "on_epoch_begin",
    "on_test_begin",
    "on_test_end",
    "on_epoch_end",
    "on_train_end",
)


def small(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "tanh"), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(hp["rate"]), "mse", metrics=["mae"])
    return model


def averaging(hp):
    model = small(hp)
    model.compile(keras.optimizers.SGD(hp["rate"], use_ema=True, ema_momentum=0.8), "mse", metrics=["mae"])
    return model


class Recorder(callbacks.Callback):
    """Writes down every hook, what it was given, and what it saw; copies share the notes."""

    def __init__(self, notes, stop_in=None, at=0):
        super().__init__()
        self.notes, self.stop_in, self.at = notes, stop_in, at

    def __deepcopy__(self, memory):
        return type(self)(self.notes, self.stop_in, self.at)

    def set_params(self, params):
        super().set_params(params)
        self.notes.append(("set_params", dict(params), {}, {}))

    def set_model(self, model):
        super().set_model(model)
        self.notes.append(("set_model", type(model).__name__, {}, {}))

    def note(self, hook, number, logs):
        model = self.model
        seen = {
            "weights": [float(np.abs(weight).sum()) for weight in model.get_weights()],
            "rate": float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
            "steps": int(keras.ops.convert_to_numpy(model.optimizer.iterations)),
            "stop": float(model.stop_training),
            "history": [value for curve in model.history.history.values() for value in curve],
        }
        self.notes.append((hook, number, dict(logs or {}), seen))
        if hook == self.stop_in and (number is None or number >= self.at):
            model.stop_training = True

    def on_train_begin(self, logs=None):
        self.note("on_train_begin", None, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.note("on_epoch_begin", epoch, logs)

    def on_test_begin(self, logs=None):
        self.note("on_test_begin", None, logs)

    def on_test_end(self, logs=None):
        self.note("on_test_end", None, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.note("on_epoch_end", epoch, logs)
        logs["added"] = 7.0  # seen by whoever comes later in this hook, and by nobody else

    def on_train_end(self, logs=None):
        self.note("on_train_end", None, logs)


PLAN = Plan("0", 0, {"rate": 0.05}, seed=4)


@pytest.fixture(scope="module")
def populations():
    """One population per build function: what it has compiled serves every test of this file."""
    return {build: Population(NoFallback(), notify=refuse) for build in (small, averaging)}


def recorded(trainer, build, make=list, *, data=(X, Y), stop_in=None, at=0, plan=PLAN, **arguments):
    """Trains one execution; answers what was recorded, and the result."""
    notes = []
    given = {"epochs": 4, "batch_size": 8, "shuffle": False, "validation_data": HELD_OUT, "verbose": 0, **arguments}
    call = Call(data() if callable(data) else data, {**given, "callbacks": [*make(), Recorder(notes, stop_in, at)]})
    supply = train(trainer, Task(build, call, objective=Objective("loss", "min")), [plan])
    return notes, supply.results[plan.key]


def same(populations, build=small, make=list, **arguments):
    """Checks that a population calls hooks as `model.fit` does; answers what it recorded."""
    ours, result = recorded(populations[build], build, make, **arguments)
    theirs, expected = recorded(KerasFit(), build, make, **arguments)
    assert [note[:2] for note in ours] == [note[:2] for note in theirs]
    for one, other in zip(ours, theirs, strict=True):
        for given, wanted in zip(one[2:], other[2:], strict=True):
            assert list(given) == list(wanted), one[0]
            for name, value in wanted.items():
                np.testing.assert_allclose(given[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{one[0]} {name}")
    assert (result.ending, result.message) == (expected.ending, expected.message)
    return ours


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"validation_freq": 2},
        {"validation_freq": [1, 4], "initial_epoch": 2},
        {"validation_data": None},
        {"validation_data": None, "validation_split": 0.3},
        {"batch_size": 64},  # the short batch is the only one
    ],
    ids=str,
)
def test_hooks_are_those_of_fit(populations, arguments):
    notes = same(populations, **arguments)
    assert notes[-1][0] == "on_train_end"


def test_hooks_of_a_stream(populations):
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return X[index * 8 : index * 8 + 8], Y[index * 8 : index * 8 + 8]

    for stop_in in (None, "on_epoch_begin"):
        same(populations, data=(Batches(),), batch_size=None, stop_in=stop_in, at=1)
    endless = lambda: (((X[:8], Y[:8]) for _ in itertools.count()),)  # noqa: E731  # a fresh one for each of the two
    same(populations, data=endless, batch_size=None, steps_per_epoch=2, epochs=2)


def stops(populations, hook):
    """How far a training gets in which a hook has set `stop_training`, in its second epoch where hooks have epochs."""
    notes = same(populations, stop_in=hook, at=1)
    epochs = sum(note[0] == "on_epoch_end" for note in notes)
    steps = notes[-1][3]["steps"] - 3 * (epochs - 1)
    return epochs, steps


WHERE = {
    "on_train_begin": "after the first batch of the first epoch",
    "on_epoch_begin": "after the first batch of the epoch",
    "on_test_begin": "at the end of the epoch",
    "on_test_end": "at the end of the epoch",
    "on_epoch_end": "at the end of the epoch",
    "on_train_end": "too late",
}


def test_stop_training_takes_effect_where_it_does_in_fit(populations):
    found = {hook: stops(populations, hook) for hook in HOOKS}
    assert found == {
        "on_train_begin": (1, 1),
        "on_epoch_begin": (2, 1),
        "on_test_begin": (1, 3),  # it has no number, so it was set in the first
        "on_test_end": (1, 3),
        "on_epoch_end": (2, 3),
        "on_train_end": (4, 3),
    }
    page = Path(__file__).parents[3] / "docs" / "population.md"
    lines = page.read_text().splitlines()
    notes = same(populations, validation_freq=2)
    for hook in HOOKS:
        times = sum(note[0] == hook for note in notes)
        logs = {name for note in notes if note[0] == hook for name in note[2]} - {"added"}
        given = ", ".join([*(["epoch"] if hook.startswith("on_epoch") else []), *(["logs"] if logs else [])]) or "none"
        assert f"| `{hook}` | {times} | {given} | {WHERE[hook]} |" in lines


def plateau(epoch, rate):
    return rate * 0.5 if epoch else rate


BUILT_IN = {
    "EarlyStopping": lambda folder: [callbacks.EarlyStopping("val_loss", min_delta=9.0, patience=1)],
    "EarlyStopping(restore_best_weights, start_from_epoch)": lambda folder: [
        callbacks.EarlyStopping("loss", min_delta=9.0, restore_best_weights=True, start_from_epoch=1)
    ],
    "EarlyStopping(baseline)": lambda folder: [callbacks.EarlyStopping("val_mae", baseline=1e-9, patience=2)],
    "ReduceLROnPlateau": lambda folder: [
        callbacks.ReduceLROnPlateau("val_loss", patience=1, min_delta=9.0, cooldown=1)
    ],
    "LearningRateScheduler": lambda folder: [callbacks.LearningRateScheduler(plateau)],
    "those that neither stop nor change anything": lambda folder: [
        callbacks.ModelCheckpoint(str(folder / "best.weights.h5"), save_best_only=True, save_weights_only=True),
        callbacks.CSVLogger(str(folder / "log.csv")),
        callbacks.TerminateOnNaN(),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(own=float(epoch))),
        callbacks.History(),
        callbacks.ProgbarLogger(),
    ],
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_callbacks_do_what_they_do_in_fit(populations, name, tmp_path):
    same(populations, make=lambda: BUILT_IN[name](tmp_path))
    for path in tmp_path.glob("*.csv"):
        assert len(list(csv.DictReader(path.read_text().splitlines()))) >= 4


def test_a_remote_monitor_is_sent_what_fit_sends(populations, monkeypatch):
    module = pytest.importorskip("keras.src.callbacks.remote_monitor")
    sent = []

    class Requests:
        class exceptions:  # as the package has it
            RequestException = OSError

        @staticmethod
        def post(root, data, headers):
            sent.append((root, sorted(data)))

    monkeypatch.setattr(module, "requests", Requests)
    same(populations, make=lambda: [callbacks.RemoteMonitor()])
    assert len(sent) == 8 and sent[:4] == sent[4:]


@pytest.mark.parametrize("swap", [None, False, True])
def test_moving_averages_are_swapped_and_finalised_as_in_fit(populations, swap, tmp_path):
    make = list if swap is None else lambda: [callbacks.SwapEMAWeights(swap_on_epoch=swap)]
    notes = same(populations, averaging, make)
    # In `on_train_end` the averages have taken the weights' place.
    assert notes[-1][3]["weights"] != notes[-2][3]["weights"] or swap
    kept = []
    for name, trainer in (("ours", populations[averaging]), ("theirs", KerasFit())):
        for ranked in ("val_loss", None):
            path = tmp_path / f"{name}-{ranked}.npz"
            plan = Plan("0", 0, {"rate": 0.05}, seed=4, weights_path=str(path))
            given = {"epochs": 4, "batch_size": 8, "shuffle": False, "validation_data": HELD_OUT, "verbose": 0}
            call = Call((X, Y), {**given, "callbacks": make()})
            objective = None if ranked is None else Objective(ranked, "min")
            result = train(trainer, Task(averaging, call, objective=objective), [plan]).results[plan.key]
            with np.load(path) as archive:
                weights = [archive[each] for each in sorted(archive.files) if archive[each].dtype.kind == "f"]
            kept.append(weights)
            if ranked:  # what is kept has the score that it is ranked by
                model = averaging({"rate": 0.05})
                model.set_weights(weights)
                if swap is not None:
                    score = model.evaluate(*HELD_OUT, verbose=0)[0]
                    np.testing.assert_allclose(score, min(result.history["val_loss"]), rtol=1e-4)
    for one, other in zip(kept[0] + kept[1], kept[2] + kept[3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


class Raises(callbacks.Callback):
    """Raises in one hook, for the members with a high rate."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, *_, **__):
        if float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)) > 0.5:
            raise ZeroDivisionError("a callback broke")

    def __deepcopy__(self, memory):
        return type(self)(next(name for name in vars(self) if name.startswith("on_")))


@pytest.mark.parametrize(
    ("trained", "hook"), [*(("population", hook) for hook in HOOKS), ("fit", "on_test_begin"), ("fit", "on_train_end")]
)
def test_what_a_hook_raises_ends_its_own_trial_only(populations, hook, trained):
    trainer = populations[small] if trained == "population" else KerasFit()
    plans = [Plan(str(n), 0, {"rate": rate}, seed=4) for n, rate in enumerate((0.05, 0.9, 0.1))]
    given = {"epochs": 2, "batch_size": 8, "shuffle": False, "validation_data": HELD_OUT, "verbose": 0}
    task = Task(small, Call((X, Y), {**given, "callbacks": [Raises(hook)]}), objective=Objective("loss", "min"))
    supply = train(trainer, task, plans)
    endings = [supply.results[plan.key].ending for plan in plans]
    assert endings == [Ending.COMPLETED, Ending.FAILED, Ending.COMPLETED]
    assert "a callback broke" in supply.results["1", 0].message
    epochs = {"on_train_end": 2}.get(hook, 0)
    assert supply.results["1", 0].num_epochs == epochs
    assert sum(plan.trial_id == "1" for plan, _, _ in supply.reports) == epochs


class RaisesOnce(callbacks.Callback):
    """Raises when the first trial trains for the first time; copies share the count."""

    seen: collections.Counter[float] = collections.Counter()

    def on_epoch_end(self, epoch, logs=None):
        rate = round(float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)), 3)
        self.seen[rate] += 1
        if rate == 0.1 and self.seen[rate] == 1:
            raise ZeroDivisionError("a callback broke")


@pytest.mark.parametrize("population", [True, False])
def test_a_trial_whose_callback_raised_is_tried_again(population, tmp_path):
    def build(hp):
        return small({"rate": hp.Choice("rate", [0.1, 0.05])})

    RaisesOnce.seen.clear()
    place = {"directory": tmp_path, "project_name": "p"}
    tuner = kt.GridSearch(build, "val_loss", max_retries_per_trial=1, population=population, **place)
    tuner.search(X, Y, validation_data=HELD_OUT, epochs=2, verbose=0, callbacks=[RaisesOnce()])
    assert {trial.status for trial in tuner.oracle.trials.values()} == {"COMPLETED"}
    assert RaisesOnce.seen == {0.1: 3, 0.05: 2}


def test_an_error_that_is_fatal_ends_the_search(populations):
    class Fatal(callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            raise kt.errors.FatalError("stop everything")

    for trainer in (populations[small], KerasFit()):
        with pytest.raises(kt.errors.FatalError, match="stop everything"):
            recorded(trainer, small, lambda: [Fatal()])
