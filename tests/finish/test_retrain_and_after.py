"""From a winner to a folder: retrained on all rows, evaluated once, exported with its story."""

from __future__ import annotations

import csv
import json
import statistics

import keras
import numpy as np
import pytest
import tiny

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.finish.longer import cut_short
from manyfit.finish.schedules import StretchedSchedule
from manyfit.finish.winners import num_epochs

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

RNG = np.random.default_rng(1)
X = RNG.normal(size=(160, 4)).astype("float32")
Y = (X[:, 0] + 0.3 * RNG.normal(size=160) > 0).astype("int32")
TRAIN, VALIDATION, TEST = slice(0, 80), slice(80, 120), slice(120, 160)


def build(hp):
    rate = keras.optimizers.schedules.ExponentialDecay(hp.Float("rate", 0.3, 0.6), decay_steps=10, decay_rate=0.5)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2, "softmax")])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def tuner(tmp_path_factory):
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=3, seed=0, directory=tmp_path_factory.mktemp("finish"))
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=8, batch_size=20, verbose=0)
    tuner.confirm(top=2, max_rounds=5, proof_executions=3)
    yield tuner
    tuner.close()


def test_epochs_are_the_median_best_epoch_of_all_runs_times_the_factor(tuner):
    [best] = tuner.oracle.get_best_trials(1)
    runs = [*best.executions.values(), *(run for kind in best.replicates.values() for run in kind.values())]
    assert len(runs) > 3 and not cut_short(best, tuner.oracle.objective)
    wanted = num_epochs([run.best_epoch for run in runs], 2.0)
    assert wanted == max(1, round(2.0 * statistics.median(run.best_epoch + 1 for run in runs)))
    models = tuner.retrain(1, epochs_factor=2.0, executions=2, verbose=0)
    assert [len(model.history.history["loss"]) for model in models] == [wanted, wanted]
    assert not any(name.startswith("val_") for name in models[0].history.history)
    assert any((a != b).any() for a, b in zip(models[0].get_weights(), models[1].get_weights(), strict=True))
    again = tuner.retrain(1, epochs_factor=2.0, executions=2, verbose=0)
    for one, other in zip(models[1].get_weights(), again[1].get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_schedules_are_stretched_to_the_longer_training_or_left_alone(tuner):
    # 120 rows instead of 80 are 6 steps an epoch instead of 4; and twice the epochs.
    [stretched] = tuner.retrain(1, epochs_factor=2.0, verbose=0)
    [plain] = tuner.retrain(1, epochs_factor=2.0, stretch_schedules=False, verbose=0)
    assert len(stretched.history.history["loss"]) == len(plain.history.history["loss"])
    assert not np.allclose(stretched.get_weights()[0], plain.get_weights()[0])
    rate = keras.optimizers.schedules.ExponentialDecay(1.0, 10, 0.5)
    slow = StretchedSchedule(rate, 3.0)
    assert float(slow(30)) == pytest.approx(float(rate(10))) == pytest.approx(0.5)
    assert float(StretchedSchedule.from_config(slow.get_config())(30)) == pytest.approx(0.5)


def test_curves_that_were_cut_short_get_one_run_with_patience_and_it_is_said(tmp_path, capsys):
    def slow(hp):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, "softmax")])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.02, 0.03)), "sparse_categorical_crossentropy")
        return model

    tuner = kt.RandomSearch(slow, "val_loss", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=3, batch_size=80, verbose=0)
    [model] = tuner.retrain(1, epochs_factor=1.0, verbose=1)
    printed = capsys.readouterr().out
    assert "still improving in their last epoch" in printed and "with patience" in printed
    longer = tuner.oracle.get_best_trials(1)[0].executions_of("longer")[0]
    assert len(model.history.history["loss"]) == longer.best_epoch + 1 > 3
    tuner.retrain(1, epochs_factor=1.0, verbose=1)
    assert "with patience" not in capsys.readouterr().out  # known by now


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"top": 0}, "top"),
        ({"executions": 0}, "executions"),
        ({"epochs_factor": 0}, "epochs_factor"),
        ({"y": Y}, "y without x"),
        ({"x": X[:50], "y": Y[:50]}, "50 rows, while the search trained on 80 and validated on 40"),
        ({"x": X[:100], "y": Y[:99]}, "100 rows and y with 99"),
    ],
)
def test_what_retrain_refuses(tuner, arguments, word):
    with pytest.raises(UsageError, match=word) as error:
        tuner.retrain(**{"verbose": 0, **arguments})
    tiny.four_parts(error.value)


def test_models_are_saved_where_they_are_wanted(tuner, tmp_path):
    tuner.retrain(2, save_best=tmp_path / "models", verbose=0)
    names = sorted(path.name for path in (tmp_path / "models").iterdir())
    assert len(names) == 2 and all(name.startswith("trial-") and name.endswith(".keras") for name in names)
    [model] = tuner.retrain(1, save_best=tmp_path / "one.keras", verbose=0)
    np.testing.assert_allclose(
        keras.models.load_model(tmp_path / "one.keras").predict(X[TEST], verbose=0), model.predict(X[TEST], verbose=0)
    )
    with pytest.raises(UsageError, match="1 paths for 2 models"):
        tuner.retrain(2, save_best=[tmp_path / "a.keras"], verbose=0)


def test_test_rows_are_counted(tuner, tmp_path):
    [model] = tuner.retrain(1, verbose=0)
    first = tuner.evaluate(X[TEST], Y[TEST])
    assert first["accuracy"] == pytest.approx(np.mean(model.predict(X[TEST], verbose=0).argmax(1) == Y[TEST]))
    interval = first.scores[next(iter(first.scores))]["accuracy"]
    assert interval.low < interval.estimate < interval.high and first.times_used == 1 and first.num_rows == 40
    assert tuner.evaluate(X[TEST], Y[TEST]).times_used == 1  # the same models on the same rows: nothing was chosen
    tuner.retrain(1, epochs_factor=3.0, verbose=0)
    second = tuner.evaluate(X[TEST], Y[TEST])
    assert second.times_used == 2 and "2nd look at these 40 rows" in str(second)
    assert "The best of 2 models is lucky by up to about" in str(second)
    card = (tuner.export(tmp_path / "used") / "README.md").read_text()
    [own] = second.scores.values()
    assert str(own["loss"]) in card and "95%, over the rows" in card and "were used for 2 different models" in card
    assert str(first.scores[next(iter(first.scores))]["loss"]) not in card, "of another model"
    assert tuner.evaluate(X[VALIDATION], Y[VALIDATION]).times_used == 1  # other rows
    for wrong in ((X[:0], Y[:0]), (X[TEST], Y[:3])):
        with pytest.raises(UsageError):
            tuner.evaluate(*wrong)


def test_the_exported_folder_tells_the_story(tuner, tmp_path):
    [model] = tuner.retrain(1, verbose=0)
    folder = tuner.export(tmp_path / "winner", model)
    assert {path.name for path in folder.iterdir()} >= {
        "model.keras", "values.json", "seeds.json", "versions.json", "curves.csv", "README.md",
    }  # fmt: skip
    loaded = keras.models.load_model(folder / "model.keras", compile=False)
    np.testing.assert_allclose(loaded.predict(X[TEST], verbose=0), model.predict(X[TEST], verbose=0), rtol=1e-5)
    [best] = tuner.oracle.get_best_trials(1)
    assert json.loads((folder / "values.json").read_text()) == {best.trial_id: best.hyperparameters.values}
    phases = {run["phase"] for run in json.loads((folder / "seeds.json").read_text())["executions"][best.trial_id]}
    assert {"search", "confirm", "proof"} <= phases
    assert json.loads((folder / "versions.json").read_text())["keras"] == keras.__version__
    with (folder / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"trial", "phase", "execution", "epoch", "val_accuracy"} <= set(rows[0]) and len(rows) > 8
    card = (folder / "README.md").read_text()
    for words in ("3 configurations were tried", "val_accuracy", "a model trained afresh will show", "rate"):
        assert words in card
    with pytest.raises(UsageError, match="a folder with files"):
        tuner.export(folder, model)
    with pytest.raises(UsageError, match="did not make"):
        tuner.export(tmp_path / "other", build(kt.HyperParameters()))


def test_a_card_without_a_confirmation_says_that_scores_are_too_good(tmp_path):
    tuner = kt.RandomSearch(build, "val_accuracy", max_trials=2, seed=0, directory=tmp_path)
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=1, verbose=0)
    card = (tuner.export(tmp_path / "out") / "README.md").read_text()
    assert "Nothing was confirmed on fresh seeds" in card and "best of 2 noisy numbers" in card
    assert "No test data have been looked at" in card
