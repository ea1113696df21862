"""The user's real Keras callbacks do for a member what they do in `model.fit`."""

import csv
import dataclasses

import numpy as np
import pytest
from keras import callbacks
from marks import needs_jax
from populations import NoFallback, dense_model, make_task, refuse, train

from manyfit.core.records import Ending, Plan
from manyfit.training.base import Permissions
from manyfit.training.keras_fit import KerasFit
from manyfit.training.population import Population
from manyfit.training.population.callbacks import why_not

pytestmark = needs_jax

RNG = np.random.default_rng(2)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = X[:, :1] * X[:, 1:2]
PLANS = [Plan(str(n), 0, {"learning_rate": rate, "rate": 0.9}, seed=n) for n, rate in enumerate((0.01, 0.3))]


class Notes(callbacks.Callback):
    """Writes down what a callback can see; copies share the notes."""

    def __init__(self, notes):
        super().__init__()
        self.notes = notes

    def __deepcopy__(self, memory):
        return type(self)(self.notes)

    def note(self, what, value=None):
        weights = [np.round(weight, 3).tolist() for weight in self.model.get_weights()]
        rate = float(np.round(self.model.optimizer.learning_rate, 6))
        self.notes.append((what, value, rate, float(np.round(np.sum(np.abs(weights[0])), 1))))

    def on_train_begin(self, logs=None):
        assert self.params["epochs"] == 6 and self.params["steps"] == 3
        self.note("train begins")

    def on_epoch_begin(self, epoch, logs=None):
        self.note("epoch begins", epoch)

    def on_test_end(self, logs=None):
        self.note("test ends", sorted(logs))

    def on_epoch_end(self, epoch, logs=None):
        self.note("epoch ends", (epoch, sorted(logs)))

    def on_train_end(self, logs=None):
        self.note("train ends", sorted(logs or ()))


def fit_arguments(*used):
    return {"epochs": 6, "batch_size": 8, "shuffle": False, "validation_data": (X[:8], Y[:8]), "callbacks": list(used)}


def both(make, plans=PLANS):
    """Trains through a population and through `model.fit`; answers the two supplies."""
    population = Population(NoFallback(), notify=refuse)
    ours = train(population, make_task(dense_model, lambda: (X, Y), fit_arguments(*make()), "val_loss"), plans)
    theirs = train(KerasFit(), make_task(dense_model, lambda: (X, Y), fit_arguments(*make()), "val_loss"), plans)
    for key, result in theirs.results.items():
        assert set(result.history) == set(ours.results[key].history)
        for name, curve in result.history.items():
            np.testing.assert_allclose(ours.results[key].history[name], curve, rtol=2e-3, atol=1e-4)
    return ours, theirs


def test_hooks_see_the_members_model():
    ours, theirs = [], []
    for notes, trainer in ((ours, Population(NoFallback(), notify=refuse)), (theirs, KerasFit())):
        task = make_task(dense_model, lambda: (X, Y), fit_arguments(Notes(notes)))
        train(trainer, task, PLANS[:1])
    assert ours == theirs


class Predicts(callbacks.Callback):
    """Predicts and evaluates wherever it is called: Keras donates the arrays that it does so with."""

    def look(self, *_, **__):
        assert np.isfinite(self.model.predict(X, verbose=0)).all()
        self.model.evaluate(X, Y, verbose=0)

    on_train_begin = on_epoch_begin = on_epoch_end = on_train_end = look


def test_callbacks_may_predict_and_evaluate_with_the_members_model(tmp_path):
    weights = []
    for name, trainer in (("ours", Population(NoFallback(), notify=refuse)), ("theirs", KerasFit())):
        plans = [  # they differ in a lifted number, so the program is probed
            Plan(str(n), 0, {"learning_rate": 0.01, "rate": rate}, n, weights_path=str(tmp_path / f"{name}-{n}.npz"))
            for n, rate in enumerate((0.9, 0.5))
        ]
        supply = train(trainer, make_task(dense_model, lambda: (X, Y), fit_arguments(Predicts()), "val_loss"), plans)
        assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}
        weights.append([array for plan in plans for array in _arrays_in(plan.weights_path)])
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-4)


def _arrays_in(path):
    with np.load(path) as archive:
        return [archive[name] for name in sorted(archive.files) if archive[name].dtype.kind == "f"]


def test_early_stopping_restores_the_best_weights():
    ours, theirs = [], []
    stop = [callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)]
    for notes, trainer in ((ours, Population(NoFallback(), notify=refuse)), (theirs, KerasFit())):
        train(trainer, make_task(dense_model, lambda: (X, Y), fit_arguments(*stop, Notes(notes))), PLANS[1:])
    assert ours[-1][0] == "train ends" and ours == theirs
    assert len(ours) < 6 * 3 + 2  # it did stop early
    assert ours[-1][3] != ours[-2][3]  # and it did restore


def test_rates_follow_plateaus_and_schedules():
    ours, _theirs = both(
        lambda: [
            callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9),
            callbacks.ReduceLROnPlateau(monitor="val_loss", patience=0, factor=0.1, min_delta=1.0),
        ]
    )
    rates = [result.history["learning_rate"] for result in ours.results.values()]
    assert all(curve[-1] < curve[0] / 50 for curve in rates)  # both have acted


def test_files_of_loggers_and_checkpoints(tmp_path):
    for name, trainer in (("ours", Population(NoFallback(), notify=refuse)), ("theirs", KerasFit())):
        folder = tmp_path / name
        folder.mkdir()
        used = [
            callbacks.CSVLogger(str(folder / "log.csv")),
            callbacks.ModelCheckpoint(str(folder / "{epoch:02d}-{val_mae:.2f}.weights.h5"), save_weights_only=True),
        ]
        train(trainer, make_task(dense_model, lambda: (X, Y), fit_arguments(*used)), PLANS)
    ours, theirs = ({path.name for path in (tmp_path / name).iterdir()} for name in ("ours", "theirs"))
    assert ours == theirs and len(ours) == 2 + 12
    assert {"log-0-0.csv", "log-1-0.csv"} < ours  # members do not write into each other's file
    for name in ours:
        paths = [tmp_path / side / name for side in ("ours", "theirs")]
        if name.endswith(".csv"):
            rows = [list(csv.DictReader(path.read_text().splitlines())) for path in paths]
            assert len(rows[0]) == 6
            np.testing.assert_allclose(*([float(row["val_loss"]) for row in side] for side in rows), rtol=1e-3)
            continue
        models = [dense_model(PLANS[0].values) for _ in paths]
        for model, path in zip(models, paths, strict=True):
            model.optimizer.build(model.trainable_variables)
            model.load_weights(path)
        for one, other in zip(*(model.get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-2, atol=1e-4)


def test_a_lambda_and_the_end_of_a_member_that_diverges():
    ended = []
    used = [callbacks.TerminateOnNaN(), callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: ended.append(epoch))]
    wild = Plan("wild", 0, {"learning_rate": float("inf"), "rate": 0.9}, seed=0)
    task = make_task(dense_model, lambda: (X, Y), fit_arguments(*used))
    supply = train(Population(NoFallback(), notify=refuse), task, [wild, PLANS[0]])
    assert supply.results["wild", 0].ending is Ending.DIVERGED
    assert len(supply.results["wild", 0].history["loss"]) == 1
    assert sorted(ended) == [0, 0, 1, 2, 3, 4, 5]


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorflow", reason="Keras writes TensorBoard's files through TensorFlow")
    both(lambda: [callbacks.TensorBoard(str(tmp_path))], PLANS[:1])
    assert list(tmp_path.rglob("events*"))


def test_tensorboard_is_served_unless_it_writes_batches():
    assert why_not([callbacks.TensorBoard("logs", histogram_freq=1)]) is None
    assert "works on batches" in (why_not([callbacks.TensorBoard("logs", update_freq="batch")]) or "")


class Unique(callbacks.Callback):
    """Cannot be copied, like an open file."""

    def __deepcopy__(self, memory):
        raise TypeError("there is only one of me")


class CountsBatches(callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (CountsBatches, "callback CountsBatches works on batches (on_train_batch_end)"),
        (lambda: callbacks.ModelCheckpoint("x.keras", save_freq=3), "works on batches as it is set"),
        (lambda: callbacks.BackupAndRestore("backup"), "begins at another epoch"),
        (Unique, "callback Unique cannot be copied (there is only one of me), so executions share it"),
    ],
)
def test_what_needs_more_than_epochs_trains_through_model_fit(make, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = []
    population = Population(KerasFit(), notify=told.append)
    task = make_task(dense_model, lambda: (X, Y), fit_arguments(make()))
    supply = train(population, dataclasses.replace(task, may=Permissions(share_callbacks=True)), PLANS)
    assert len(told) == 1 and words in told[0] and "model.fit" in told[0]
    assert {result.ending for result in supply.results.values()} == {Ending.COMPLETED}
    assert words in str(population.programs())


def test_an_execution_does_not_go_on_from_the_backup_of_another(tmp_path):
    used = [callbacks.BackupAndRestore(str(tmp_path / "backup"), delete_checkpoint=False)]
    supply = train(KerasFit(), make_task(dense_model, lambda: (X, Y), fit_arguments(*used)), PLANS)
    assert [supply.results[plan.key].num_epochs for plan in PLANS] == [6, 6]
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {"0-0", "1-0"}
    again = train(KerasFit(), make_task(dense_model, lambda: (X, Y), {**fit_arguments(*used), "epochs": 7}), PLANS[:1])
    assert [epoch for _, epoch, _ in again.reports] == [6]
