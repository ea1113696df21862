"""TensorBoard callbacks in a search: folders, sessions and curves, read back by TensorBoard's own reader."""

from __future__ import annotations

import importlib.util
import sys

import keras
import pytest
from tiny import build as small

import manyfit as kt
from manyfit.core.errors import UsageError

pytest.importorskip("tensorboard", reason="needs tensorboard (pip install manyfit[tensorboard])")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

WITHOUT_TENSORFLOW = importlib.util.find_spec("tensorflow") is None


def build(hp):
    model = small(hp)
    hp.Boolean("flag")
    hp.Choice("kind", ["plain", "fancy"])
    hp.Int("number", 1, 5)
    return model


def sessions(folder):
    """(start, end) of an execution's folder."""
    found = EventAccumulator(str(folder)).Reload().SummaryMetadata(metadata.SESSION_START_INFO_TAG)
    start = metadata.parse_session_start_info_plugin_data(found.plugin_data.content)
    found = EventAccumulator(str(folder)).Reload().SummaryMetadata(metadata.SESSION_END_INFO_TAG)
    return start, metadata.parse_session_end_info_plugin_data(found.plugin_data.content)


def curve(folder, tag):
    return [event.value for event in EventAccumulator(str(folder)).Reload().Scalars(tag)]


@pytest.mark.parametrize("population", [True, False])
def test_each_execution_has_a_folder_with_its_values_and_curves(tmp_path, rows, population):
    if not WITHOUT_TENSORFLOW:
        pytest.skip("TensorFlow writes the curves as tensors")
    tuner = kt.RandomSearch(
        build, "val_loss", max_trials=2, executions_per_trial=2, seed=0, directory=tmp_path, population=population
    )
    board = keras.callbacks.TensorBoard(tmp_path / "logs")
    tuner.search(*rows, validation_data=rows, epochs=3, callbacks=[board], verbose=0)
    assert board.log_dir == str(tmp_path / "logs")  # the user's own callback stays as it is
    folders = sorted(path.relative_to(tmp_path / "logs") for path in tmp_path.glob("logs/*/*"))
    assert [str(folder) for folder in folders] == [f"{t}/execution{e}" for t in "01" for e in "01"]
    for trial in tuner.oracle.trials.values():
        for index, run in trial.executions.items():
            folder = tmp_path / "logs" / trial.trial_id / f"execution{index}"
            start, end = sessions(folder)
            values = {name: getattr(value, value.WhichOneof("kind")) for name, value in dict(start.hparams).items()}
            assert values == trial.hyperparameters.values
            assert isinstance(values["flag"], bool) and isinstance(values["kind"], str)
            assert start.group_name == trial.trial_id
            assert end.end_time_secs >= start.start_time_secs > 0
            assert curve(folder / "train", "epoch_loss") == pytest.approx(run.history["loss"])
            assert curve(folder / "validation", "epoch_loss") == pytest.approx(run.history["val_loss"])
            assert len(curve(folder / "train", "epoch_learning_rate")) == 3


def test_run_trial_overrides_and_user_fits_have_folders_too(tmp_path, rows):
    class Doubled(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            return super().run_trial(trial, *args, **kwargs)

    class Own(kt.HyperModel):
        def build(self, hp):
            return small(hp)

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, batch_size=hp.Int("batch", 4, 8), **kwargs)

    for name, tuner_class, hypermodel in (("run_trial", Doubled, small), ("fit", kt.RandomSearch, Own())):
        tuner = tuner_class(hypermodel, "val_loss", max_trials=1, directory=tmp_path, project_name=name)
        board = keras.callbacks.TensorBoard(tmp_path / f"logs_{name}")
        tuner.search(*rows, validation_data=rows, epochs=1, callbacks=[board], verbose=0)
        start, _ = sessions(tmp_path / f"logs_{name}" / "0" / "execution0")
        assert set(start.hparams) >= {"learning_rate"}


def test_other_callbacks_are_called_as_before(tmp_path, rows):
    seen = []
    counter = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
    tuner = kt.RandomSearch(small, "val_loss", max_trials=1, directory=tmp_path)
    callbacks = [counter, keras.callbacks.TensorBoard(tmp_path / "logs")]
    tuner.search(*rows, validation_data=rows, epochs=2, callbacks=callbacks, verbose=0)
    assert seen == [0, 1]


def test_what_only_tensorflow_can_write(tmp_path, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.setattr("manyfit.training.tensorboard._has_tensorflow", lambda: False)
    tuner = kt.RandomSearch(small, "val_loss", max_trials=1, directory=tmp_path)
    board = keras.callbacks.TensorBoard(tmp_path / "logs", histogram_freq=1)
    with pytest.raises(UsageError, match=r"histogram_freq.*manyfit\[tensorflow\]"):
        tuner.search(*rows, validation_data=rows, callbacks=[board], verbose=0)


def test_without_tensorboard_the_extra_is_named(tmp_path, rows, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *args: None if name == "tensorboard" else find(name, *args)
    )
    tuner = kt.RandomSearch(small, "val_loss", max_trials=1, directory=tmp_path)
    with pytest.raises(ImportError, match=r"manyfit\[tensorboard\]"):
        tuner.search(*rows, validation_data=rows, callbacks=[keras.callbacks.TensorBoard(tmp_path)], verbose=0)
    assert not tuner.oracle.trials
