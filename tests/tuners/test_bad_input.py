"""Wrong use through the public API: refused before the first epoch where that is possible, in four parts."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import FatalError, FatalTypeError, FatalValueError, ProjectError, UsageError, UsageTypeError

pytestmark = pytest.mark.backends


class Epochs(keras.callbacks.Callback):
    """Counts epochs over all copies of itself."""

    count = 0

    def on_epoch_end(self, epoch, logs=None):
        Epochs.count += 1


@pytest.fixture
def counted(monkeypatch):
    """Callbacks to pass to `search`, that count its epochs in `Epochs.count`."""
    monkeypatch.setattr(Epochs, "count", 0)
    return [Epochs()]


def searching(project, build=tiny.build, objective="loss", **arguments):
    return kt.RandomSearch(build, objective, max_trials=3, seed=0, population=False, **arguments, **project)


# Construction --------------------------------------------------------------------------------------------------


def forgets_to_return(hp):
    tiny.build(hp)


def returns_a_text(hp):
    return "model"


def forgets_to_compile(hp):
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 1, 4))])


@pytest.mark.parametrize(
    ("build", "got", "instead"),
    [
        (forgets_to_return, "None", "return model"),
        (returns_a_text, "'model' of type str", "keras.Model"),
        (forgets_to_compile, "not compiled", "model.compile(...)"),
    ],
)
def test_a_build_function_that_builds_no_model(build, got, instead, project):
    with pytest.raises(FatalTypeError) as caught:
        searching(project, build)
    parts = tiny.four_parts(caught.value)
    assert got in parts[1] and instead in parts[3]


def test_a_model_in_place_of_a_build_function(project):
    with pytest.raises(FatalValueError, match="Sequential") as caught:
        searching(project, forgets_to_compile(kt.HyperParameters()))
    assert "without calling it" in tiny.four_parts(caught.value)[3]


@pytest.mark.parametrize("wrong", ["build", 3])
def test_no_build_function_at_all(wrong, project):
    with pytest.raises(FatalValueError, match="callable with signature build") as caught:
        searching(project, wrong)
    assert "build_model" in tiny.four_parts(caught.value)[3]


def test_a_tuner_without_a_build_function(project):
    with pytest.raises(UsageError, match="hypermodel=None") as caught:
        kt.RandomSearch(objective="loss", **project)
    assert "kt.RandomSearch(build_model" in tiny.four_parts(caught.value)[3]


@pytest.mark.parametrize(
    ("ask", "shown"),
    [
        (lambda hp: hp.Int("units", 64, 16), ("units", "64", "16")),
        (lambda hp: hp.Int("units", 16, 64, step=0), ("units", "step")),
        (lambda hp: hp.Int("units", 0, 64, sampling="log"), ("units", "log")),
        (lambda hp: hp.Float("rate", 0.0, 1.0, sampling="cubic"), ("rate", "cubic")),
        (lambda hp: hp.Float("rate", 0.0, 1.0, default=2.0), ("rate", "2.0")),
        (lambda hp: hp.Choice("kind", []), ("kind",)),
        (lambda hp: hp.Choice("kind", ["a", 1]), ("kind",)),
        (lambda hp: hp.Choice("kind", ["a", "b"], default="c"), ("kind", "'c'")),
    ],
)
def test_wrong_bounds_in_a_build_function(ask, shown, project):
    def build(hp):
        ask(hp)
        return tiny.build(hp)

    with pytest.raises((UsageError, UsageTypeError)) as caught:
        searching(project, build)
    where, got, _, _ = tiny.four_parts(caught.value)
    assert all(text in where + got for text in shown)


def test_two_definitions_of_one_name(project):
    def build(hp):
        hp.Int("units", 100, 200)
        return tiny.build(hp)

    with pytest.raises(UsageError, match="units") as caught:
        searching(project, build)
    assert all(bound in str(caught.value) for bound in ("100", "200", "4"))
    tiny.four_parts(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("max_trials", 0), ("seed", -1), ("max_seconds", 0), ("executions_per_trial", 0), ("num_kept_models", 1.5)],
)
def test_a_limit_out_of_its_range(argument, value, project):
    with pytest.raises(UsageError, match=argument) as caught:
        kt.RandomSearch(tiny.build, "loss", **{argument: value}, **project)
    where, got, _, _ = tiny.four_parts(caught.value)
    assert argument in where and str(value) in got


def test_an_unknown_argument(project):
    with pytest.raises(UsageError, match="max_trails") as caught:
        kt.RandomSearch(tiny.build, "loss", max_trails=3, **project)
    assert "help(kt.RandomSearch)" in tiny.four_parts(caught.value)[3]


def test_an_oracle_that_is_none(project):
    with pytest.raises(UsageError, match="`Oracle`") as caught:
        kt.Tuner("random", tiny.build, **project)
    tiny.four_parts(caught.value)


def test_a_metric_whose_direction_is_unknown(project):
    with pytest.raises(UsageError, match="val_spam") as caught:
        searching(project, objective="val_spam")
    assert 'kt.Objective("val_spam", ' in tiny.four_parts(caught.value)[3]


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProjectError, match="cannot be written") as caught:
        searching({"directory": str(tmp_path / "file")})
    where, _, _, instead = tiny.four_parts(caught.value)
    assert str(tmp_path / "file") in where and "directory=" in instead


def test_a_construction_that_failed_leaves_the_project_free(project):
    with pytest.raises(FatalTypeError):
        searching(project, forgets_to_return)
    tuner = searching(project)
    assert {hp.name for hp in tuner.oracle.get_space().space} == {"units", "learning_rate"}


# Search: the data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {"y": np.zeros(20)},
        {"y": np.zeros((25, 1))},
        {"x": {"a": np.zeros((20, 3)), "b": np.zeros((20, 3))}},
        {"validation_data": (np.zeros((5, 3)), np.zeros(6))},
    ],
)
def test_x_and_y_of_different_length(arguments, project, rows, counted):
    tuner = searching(project)
    with pytest.raises(UsageError, match="rows") as caught:
        tuner.search(**{"x": rows[0], "y": rows[1], **arguments}, callbacks=counted, verbose=0)
    tiny.four_parts(caught.value)
    assert Epochs.count == 0 and not tuner.oracle.trials


def test_a_val_objective_without_validation_data(project, rows, counted):
    tuner = searching(project, objective="val_accuracy")
    with pytest.raises(UsageError, match="no validation data") as caught:
        tuner.search(*rows, callbacks=counted, verbose=0)
    assert 'validation_split=0.2, or type objective="accuracy"' in tiny.four_parts(caught.value)[3]
    assert Epochs.count == 0 and not tuner.oracle.trials


@pytest.mark.parametrize("epochs", [0, -3])
def test_no_epochs(epochs, project, rows, counted):
    tuner = searching(project)
    with pytest.raises(UsageError, match="epochs") as caught:
        tuner.search(*rows, epochs=epochs, callbacks=counted, verbose=0)
    tiny.four_parts(caught.value)
    assert not tuner.oracle.trials


@pytest.mark.parametrize(
    ("arguments", "got", "instead"),
    [
        ({"epoch": 3}, "epoch=", "epochs="),
        ({"batchsize": 4, "epochs": 2}, "batchsize=", "batch_size="),
        ({"epochs": True}, "True", "epochs=10"),
        ({"batch_size": 0}, "0", "batch_size=32"),
        ({"batch_size": 4.0}, "4.0", "batch_size=32"),
        ({"steps_per_epoch": -1}, "-1", "steps_per_epoch=100"),
        ({"steps_per_epoch": 0}, "0", "steps_per_epoch=100"),
        ({"steps_per_epoch": 1.5}, "1.5", "steps_per_epoch=100"),
        ({"validation_steps": 0}, "0", "validation_steps=10"),
        ({"validation_batch_size": "all"}, "'all'", "validation_batch_size=32"),
        ({"initial_epoch": -1}, "-1", "Leave it out"),
        ({"validation_split": 1.5}, "1.5", "validation_split=0.2"),
        ({"validation_split": "0.2"}, "'0.2'", "validation_split=0.2"),
        ({"validation_freq": 0}, "0", "validation_freq=1"),
        ({"validation_freq": [1, 2.5]}, "[1, 2.5]", "validation_freq=1"),
        ({"verbose": "loud"}, "'loud'", "verbose=0"),
        ({"shuffle": "often"}, "'often'", "shuffle=True"),
        ({"callbacks": "x"}, "'x'", "EarlyStopping(patience=5)"),
        ({"callbacks": [keras.callbacks.EarlyStopping]}, "EarlyStopping", "EarlyStopping(patience=5)"),
        ({"callbacks": print}, "print", "EarlyStopping(patience=5)"),
        ({"class_weight": "balanced"}, "'balanced'", "{0: 1.0, 1: 3.0}"),
        ({"validation_data": np.zeros((5, 3))}, "without y", "validation_data=(x_val, y_val)"),
        ({"validation_data": (np.zeros((5, 3)),)}, "without y", "validation_data=(x_val, y_val)"),
        ({"sample_weight": np.ones(7)}, "sample_weight with 7", "how they were split"),
    ],
    ids=str,
)
def test_arguments_that_fit_does_not_take(arguments, got, instead, project, rows, counted):
    tuner = searching(project)
    with pytest.raises(UsageError) as caught:
        tuner.search(*rows, **{"callbacks": counted, "verbose": 0, **arguments})
    parts = tiny.four_parts(caught.value)
    assert got in parts[1] and instead in parts[3]
    assert Epochs.count == 0 and not tuner.oracle.trials


def test_an_argument_twice_or_too_many_of_them(project, rows):
    tuner = searching(project)
    with pytest.raises(UsageError, match="batch_size twice"):
        tuner.search(*rows, 8, batch_size=8)
    with pytest.raises(UsageError, match="17 arguments without a name"):
        tuner.search(*rows, 8, 1, 0, *[None] * 12)
    assert not tuner.oracle.trials


class OwnFit(keras.Sequential):
    """Takes an argument that Keras's models do not."""

    def fit(self, *args, passes, **kwargs):
        return super().fit(*args, epochs=passes, **kwargs)


class FitsWithMore(kt.HyperModel):
    def build(self, hp):
        return tiny.build(hp)

    def fit(self, hp, model, *args, passes, **kwargs):
        return model.fit(*args, epochs=passes, **kwargs)


class RunsWithMore(kt.RandomSearch):
    def run_trial(self, trial, x, y, passes):
        return self.hypermodel.build(trial.hyperparameters).fit(x, y, epochs=passes, verbose=0)


def build_with_own_fit(hp):
    model = OwnFit([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 1, 1), activation="sigmoid")])
    return tiny.compiled(model)


def test_a_fit_of_the_users_own_takes_what_it_likes(tmp_path, rows):
    for number, (tuner, hypermodel) in enumerate(
        [(kt.RandomSearch, build_with_own_fit), (kt.RandomSearch, FitsWithMore()), (RunsWithMore, tiny.build)]
    ):
        tuner = tuner(hypermodel, "loss", max_trials=1, seed=0, population=False, directory=tmp_path / str(number))
        tuner.search(*rows, passes=2, **({} if number == 2 else {"verbose": 0}))
        [trial] = tuner.oracle.get_best_trials(1)
        assert trial.score is not None


def test_what_fit_takes_in_other_forms_is_no_error(project, rows):
    tuner = searching(project)
    tuner.search(
        *rows,
        8 if keras.backend.backend() == "torch" else np.int64(8),  # torch's own loader wants Python's whole numbers
        np.int32(1),
        "0",
        (Epochs(),),
        np.float32(0.25),
        shuffle="batch",
        validation_freq=[1],
        class_weight={0: 1, 1: 2.0},
        steps_per_epoch=None,
    )
    assert len(tuner.oracle.get_best_trials(3)) == 3


@pytest.mark.parametrize(("objective", "validation_freq", "num_epochs"), [("auc", 1, 1), ("val_auc", 2, 2)])
def test_an_objective_that_fit_never_logs(objective, validation_freq, num_epochs, project, rows):
    tuner = searching(project, objective=objective)
    stopping = keras.callbacks.EarlyStopping("loss", patience=18)
    with pytest.raises(UsageError, match=f"expected: \\['{objective}'\\]") as caught:
        tuner.search(
            *rows, epochs=20, validation_split=0.25, validation_freq=validation_freq, callbacks=[stopping], verbose=0
        )
    _, got, allowed, instead = tiny.four_parts(caught.value)
    for logged in ("accuracy", "loss", "val_accuracy", "val_loss"):
        assert repr(logged) in got and logged in allowed
    assert "objective=" in instead and "compile" in instead
    assert len(tuner.store.epochs()) == num_epochs  # Keras names its metrics when they were first measured


def test_an_objective_that_is_never_logged_is_told_after_one_epoch_of_a_population_too(project, rows):
    tuner = kt.RandomSearch(tiny.build, "val_auc", max_trials=2, seed=0, **project)
    with pytest.raises(UsageError, match="'val_loss'"):
        tuner.search(*rows, epochs=20, validation_split=0.25, verbose=0)
    assert {row["epoch"] for row in tuner.store.epochs()} == {0}


class Late(keras.callbacks.Callback):
    """Measures something of its own every second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch % 2:
            logs["own_error"] = 1.0 / (1 + epoch)


def test_an_objective_that_a_callback_measures_now_and_then(project, rows):
    tuner = searching(project, objective="own_error")
    tuner.search(*rows, epochs=4, callbacks=[Late()], verbose=0)
    assert [(row.score, row.best_epoch) for row in tuner.results()] == [(0.25, 3)] * 3


def test_an_objective_that_is_measured_every_third_epoch_is_no_error(project, rows):
    tuner = searching(project, objective="val_loss")
    tuner.search(*rows, epochs=3, validation_split=0.25, validation_freq=3, verbose=0)
    assert [row.best_epoch for row in tuner.results()] == [2, 2, 2]


@pytest.mark.parametrize(("options", "instead"), [
    ({"validation_freq": 2}, "Type validation_freq=1, or epochs=2 or more."),
    ({"validation_freq": [7, 5], "epochs": 4}, "epochs=5 or more."),
])  # fmt: skip
def test_an_objective_that_no_epoch_will_measure(options, instead, project, rows):
    tuner = searching(project, objective="val_loss")
    with pytest.raises(UsageError, match="val_loss is never measured") as caught:
        tuner.search(*rows, validation_split=0.25, verbose=0, **options)
    assert tiny.four_parts(caught.value)[3].endswith(instead)
    assert not tuner.oracle.trials


class Unique(keras.callbacks.Callback):
    """Cannot be copied, like an open file."""

    def __deepcopy__(self, memory):
        raise TypeError("there is only one of me")


@pytest.mark.parametrize("arguments", [{"scheduler": "asha"}, {"compat": "keras_tuner"}])
def test_a_callback_that_cannot_be_copied_is_refused_where_it_cannot_be_shared(arguments, project, rows, counted):
    """Paused executions would mix up its state; and KerasTuner's programs expect the error."""
    tuner = searching(project, **arguments)
    with pytest.raises(FatalValueError, match="deep-copyable") as caught:
        tuner.search(*rows, epochs=3, callbacks=[*counted, Unique()], verbose=0)
    assert "Unique" in tiny.four_parts(caught.value)[1]
    assert Epochs.count == 0


def test_a_callback_that_cannot_be_copied_is_shared_by_executions_that_train_one_by_one(project, rows):
    seen = []

    class Journal(Unique):
        def on_train_begin(self, logs=None):
            seen.append([])

        def on_epoch_end(self, epoch, logs=None):
            seen[-1].append((epoch, id(self)))

    journal = Journal()
    tuner = searching(project)
    tuner.search(*rows, epochs=2, callbacks=[journal], verbose=0)
    assert seen == [[(0, id(journal)), (1, id(journal))]] * 3


# Search: what comes back from the user's functions -------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "got", "instead"),
    [
        (None, "Did you forget to return the metrics?", "Return model.fit(...)"),
        ("0.5", "'0.5' of type str", "return one number"),
        ([], "[] of type list", "return one number"),
        ({"accuracy": 1.0}, "a dict with ['accuracy']", "Add the objective"),
    ],
)
def test_a_run_that_returns_no_result(returned, got, instead, project):
    tuner = tiny.numbers(lambda trial: returned, objective="loss", max_trials=3, **project)
    with pytest.raises(FatalError) as caught:
        tuner.search(verbose=0)
    parts = tiny.four_parts(caught.value)
    assert "run_trial()" in parts[0] and got in parts[1] and instead in parts[3]
    assert len(tuner.oracle.trials) == 1


def test_a_fit_that_returns_nothing(project, rows):
    class Forgets(kt.HyperModel):
        def build(self, hp):
            return tiny.build(hp)

        def fit(self, hp, model, *args, **kwargs):
            model.fit(*args, **kwargs)

    with pytest.raises(FatalTypeError, match="Did you forget") as caught:
        searching(project, Forgets()).search(*rows, verbose=0)
    assert "HyperModel.fit()" in tiny.four_parts(caught.value)[0]


# Afterwards ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [[], "1", 1.0, True])
def test_models_are_asked_for_by_number(wrong, project):
    tuner = searching(project)
    with pytest.raises(UsageTypeError, match="get_best_models") as caught:
        tuner.get_best_models(wrong)
    tiny.four_parts(caught.value)


@pytest.mark.parametrize(("values", "got"), [({"unit": 3}, "unit"), ({"units": 99}, "99"), ({"units": "many"}, "many")])
def test_a_configuration_that_is_none_is_not_enqueued(values, got, project):
    tuner = searching(project)
    with pytest.raises((UsageError, UsageTypeError), match=got) as caught:
        tuner.enqueue(values)
    tiny.four_parts(caught.value)
