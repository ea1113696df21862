"""What befalls one member of a wide program, and only that one; members that leave it, wait, and come back.

Each is compared with the same execution undisturbed: `test_wide_options` and `test_families` say that those are
`model.fit`'s.
"""

import dataclasses

import keras
import numpy as np
import pytest
from marks import needs_jax
from wide_searches import (
    STRUCTURES,
    adam,
    assert_alike,
    assert_same_weights,
    executions,
    network,
    num_wide,
    quickly_compiled,
    searched,
    searched_alone,
    space,
)

import manyfit as kt
from manyfit.core.records import Ending
from manyfit.training.population import families, grouping
from manyfit.training.population.rows_pass import RowsPass

pytestmark = needs_jax


def is_second(model):
    """Whether a model is of the second structure."""
    return model.layers[0].units == STRUCTURES[1][0][0]


def curves(tuner):
    """By trial and execution."""
    return {key: execution.history for key, execution in executions(tuner).items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    tuner = searched(space(), tmp_path_factory.mktemp("undisturbed"))
    assert num_wide(tuner) == len(STRUCTURES)
    return tuner


class Steering(keras.callbacks.Callback):
    """Puts in weights and rates at either end of an epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            kernel = self.model.layers[0].kernel
            kernel.assign(kernel * 1.5)

    def on_epoch_end(self, epoch, logs=None):
        self.model.optimizer.learning_rate = 0.1 / (epoch + 1)
        if epoch == 0:
            self.model.set_weights([weight * 0.9 + 0.01 for weight in self.model.get_weights()])


def test_callbacks_work_on_the_model_of_the_user(tmp_path):
    found = {}
    for name, search in (("wide", searched), ("alone", searched_alone)):
        folder = tmp_path / f"{name} files"
        folder.mkdir()
        callbacks = [
            Steering(),
            keras.callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True),
            keras.callbacks.ReduceLROnPlateau("loss", patience=0, factor=0.5, min_delta=1.0),
            keras.callbacks.ModelCheckpoint(str(folder / "{epoch}.weights.h5"), save_weights_only=True),
        ]
        with quickly_compiled():
            found[name] = search(space(), tmp_path, fit={"epochs": 6, "callbacks": callbacks})
        found[f"{name} files"] = sorted((path.name, path.stat().st_size) for path in folder.iterdir())
    assert num_wide(found["wide"]) == len(STRUCTURES)
    assert_alike(found["wide"], found["alone"])
    assert_same_weights(found["wide"], found["alone"])
    assert found["wide files"] == found["alone files"]
    assert min(len(curve["loss"]) for curve in curves(found["alone"]).values()) < 6  # one was stopped


class Raising(keras.callbacks.Callback):
    """Fails in the second epoch of the second structure."""

    def __init__(self, hook):
        super().__init__()
        setattr(self, hook, self.fail)

    def fail(self, epoch, logs=None):
        if epoch == 1 and is_second(self.model):
            raise RuntimeError("the user's own fault")


@pytest.mark.parametrize("hook", ["on_epoch_begin", "on_epoch_end"])
def test_what_a_callback_raises_ends_its_member_alone(hook, undisturbed, tmp_path):
    tuner = searched(space(), tmp_path, fit={"callbacks": [Raising(hook)]}, max_consecutive_failed_trials=5)
    (first, second), expected = executions(tuner).values(), list(curves(undisturbed).values())
    assert (first.ending, second.ending) == (Ending.COMPLETED, Ending.FAILED)
    assert not tuner.programs().reasons and num_wide(tuner) == 1
    np.testing.assert_allclose(first.history["val_loss"], expected[0]["val_loss"], rtol=1e-5)
    np.testing.assert_allclose(second.history["loss"], expected[1]["loss"][:1], rtol=1e-5)


class Diverging(keras.callbacks.Callback):
    """Lets the second structure's weights become NaN in an epoch; None: in none."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.at and is_second(self.model):
            self.model.layers[0].bias.assign(np.full(6, np.nan))


@pytest.mark.parametrize("at", [0, 2])
def test_a_member_of_nan_changes_no_bit_of_the_others(at, tmp_path, monkeypatch):
    monkeypatch.setattr(grouping, "WEIGHS_SLOTS", False)  # else how many stand side by side depends on seconds
    found = [
        searched(space(), tmp_path, fit={"epochs": at + 1, "callbacks": [Diverging(when)]}, project_name=f"{when}")
        for when in (at, None)
    ]
    (good, bad), (same, _) = (list(executions(tuner).values()) for tuner in found)
    assert all(num_wide(tuner) == len(STRUCTURES) for tuner in found)
    assert good.history == same.history
    assert np.isnan(bad.history["loss"][at]) and np.isfinite(bad.history["loss"][:at]).all()
    assert bad.ending is (Ending.DIVERGED if at == 0 else Ending.COMPLETED)


def test_a_member_moves_to_a_program_of_its_own(undisturbed, tmp_path, monkeypatch):
    """Once padding is said to cost more than compiling, after the first epoch."""
    ended, measured = [], families.ProgramCosts.measured.__func__

    class Noting(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            ended.append(epoch)

    def costs(cls, *facts):
        found = measured(cls, *facts)
        return dataclasses.replace(found, compile_seconds=-1.0) if ended else found

    monkeypatch.setattr(families.ProgramCosts, "measured", classmethod(costs))
    tuner = searched(space(), tmp_path, fit={"callbacks": [Noting()]})
    wide, *own = sorted(tuner.programs().records, key=lambda record: not record.widths)
    assert wide.widths and wide.members == 0 and wide.epochs_timed == 1
    assert [record.members for record in own] == [1, 1]
    assert_alike(tuner, undisturbed)
    assert_same_weights(tuner, undisturbed)


def test_memory_that_runs_out_costs_time_alone(undisturbed, tmp_path, monkeypatch, capsys):
    honest, raised = RowsPass.advance, []

    def scarce(self, *arguments, **parts):
        if not raised:
            raised.append(1)
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.")
        return honest(self, *arguments, **parts)

    monkeypatch.setattr(RowsPass, "advance", scarce)
    tuner = searched(space(), tmp_path, fit={"verbose": 1})
    assert "out of memory with 2 members at once; from now on at most 1" in capsys.readouterr().out
    assert num_wide(tuner) == len(STRUCTURES)
    assert_alike(tuner, undisturbed)


class Interrupting(keras.callbacks.Callback):
    """Ctrl+C in the third epoch of the second structure."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2 and is_second(self.model):
            raise KeyboardInterrupt


def test_a_search_goes_on_where_it_was_interrupted(undisturbed, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        searched(space(), tmp_path, fit={"callbacks": [Interrupting()]})
    tuner = searched(space(), tmp_path)
    assert num_wide(tuner) >= 1
    assert_alike(tuner, undisturbed)


def test_members_that_were_paused_go_on(tmp_path, monkeypatch):
    """A scheduler promotes them to more epochs; they are given a program anew."""

    def build(hp):
        return network(((hp.Int("units", 2, 9),), "sigmoid", False, 0.2), adam())

    options = {"tuner": kt.RandomSearch, "scheduler": kt.ASHA(4, 2), "max_trials": 5}
    wide = searched(build, tmp_path, **options)
    assert max(record.num_structures for record in wide.programs().records if record.widths) >= 2
    monkeypatch.setattr(families, "WIDENS", False)
    own = searched(build, tmp_path, **options, project_name="own")
    assert num_wide(own) == 0
    assert_alike(wide, own)
    assert len({len(curve["loss"]) for curve in curves(own).values()}) > 1


def test_executions_of_a_trial_share_with_those_of_others(tmp_path):
    tuner = searched(space(), tmp_path, executions_per_trial=2, population_size=2)
    assert num_wide(tuner) >= 2  # those of the structure that came second, at least
    alone = searched(space(), tmp_path, executions_per_trial=2, population_size=1, project_name="alone")
    assert num_wide(alone) == 0 and len(executions(alone)) == 4
    assert_alike(tuner, alone)


def test_folds_are_members_of_wide_programs(tmp_path):
    folds = {"cross_validation": 2, "validation_data": None}
    tuner = searched(space(), tmp_path, fit=folds)
    assert num_wide(tuner) >= 2
    assert_alike(tuner, searched(space(), tmp_path, fit=folds, population_size=1, project_name="alone"))


def test_what_is_retrained_is_trained_without_padding(undisturbed, tmp_path):
    before = num_wide(undisturbed)
    (model,) = undisturbed.retrain(1)
    assert num_wide(undisturbed) == before
    best = undisturbed.get_best_hyperparameters()[0]
    assert model.layers[0].units == STRUCTURES[best["kind"]][0][0]


def test_models_that_are_too_large_leave_the_others_alone(undisturbed, tmp_path):
    tuner = searched(space(), tmp_path, max_model_size=40)
    (small, large), (expected, _) = executions(tuner).values(), curves(undisturbed).values()
    assert (small.ending, large.ending) == (Ending.COMPLETED, Ending.TOO_LARGE)
    np.testing.assert_allclose(small.history["val_loss"], expected["val_loss"], rtol=1e-5)
