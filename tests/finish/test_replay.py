"""A retraining replays the call that trained its winner: as plain Keras, called the same way, would train it."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tiny

import manyfit as kt
from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError
from manyfit.finish.longer import LONGER
from manyfit.training.replay import ReplayedRate, rate_of_run, reacts_to_validation, seen_fits

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

RNG = np.random.default_rng(3)
X = RNG.normal(size=(60, 3)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5]]) + RNG.normal(size=(60, 1))).astype("float32")
WEIGHTS = RNG.uniform(0.1, 4.0, size=60).astype("float32")
TRAIN, VALIDATION = slice(0, 40), slice(40, 60)
FOLDER = itertools.count()


def linear(optimizer):
    """A model that starts at zero: what comes out depends on the calls of `fit` alone."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile(optimizer, "mse")
    return model


def build(hp):
    return linear(keras.optimizers.SGD(hp.Choice("rate", [0.05])))


def searched(tmp_path, model=build, *, tuner=kt.GridSearch, call=None, **made):
    folder = {"directory": tmp_path, "project_name": f"search {next(FOLDER)}"}
    found = tuner(model, **{"objective": "val_loss", **folder, **made})
    call = {"epochs": 3, "batch_size": 10, "shuffle": False, "verbose": 0, **(call or {})}
    if "validation_split" not in call:
        call.setdefault("validation_data", (X[VALIDATION], Y[VALIDATION]))
        found.search(X[TRAIN], Y[TRAIN], **call)
    else:
        found.search(X, Y, **call)
    return found


def keras_weights(optimizer, *data, **call):
    model = linear(optimizer)
    model.fit(*data, **{"batch_size": 10, "shuffle": False, "verbose": 0, **call})
    return model.get_weights()


def check_equal(model, weights):
    for one, other in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


POPULATION = pytest.mark.parametrize("population", [True, False])


@POPULATION
def test_sample_weights_of_both_parts_are_joined(tmp_path, population):
    call = {
        "sample_weight": WEIGHTS[TRAIN],
        "validation_data": (X[VALIDATION], Y[VALIDATION], WEIGHTS[VALIDATION]),
        "initial_epoch": 1,
    }
    tuner = searched(tmp_path, population=population, call=call)
    [model] = tuner.retrain(epochs=4)
    wanted = keras_weights(keras.optimizers.SGD(0.05), X, Y, sample_weight=WEIGHTS, initial_epoch=1, epochs=5)
    check_equal(model, wanted)
    assert model.history.epoch == [1, 2, 3, 4] and len(model.history.history["loss"]) == 4
    [model] = tuner.retrain(x=X, y=Y, sample_weight=np.ones(60), epochs=2)
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X, Y, initial_epoch=1, epochs=3))
    with pytest.raises(UsageError, match="without sample weights, while the search weighed its rows") as error:
        tuner.retrain(x=X, y=Y)
    tiny.four_parts(error.value)


def test_weights_of_one_part_are_not_invented_for_the_other(tmp_path):
    tuner = searched(tmp_path, call={"sample_weight": WEIGHTS[TRAIN]})
    with pytest.raises(UsageError, match="sample_weight in one part of the data only") as error:
        tuner.retrain()
    tiny.four_parts(error.value)


@POPULATION
def test_moving_averages_are_what_is_kept(tmp_path, population):
    average = {"use_ema": True, "ema_momentum": 0.9}
    tuner = searched(
        tmp_path, lambda hp: linear(keras.optimizers.SGD(hp.Fixed("rate", 0.05), **average)), population=population
    )
    [model] = tuner.retrain(epochs=3)
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05, **average), X, Y, epochs=3))
    # In the search the best epoch's weights are those that its score was measured with.
    [best] = tuner.get_best_models(1)
    score = tuner.oracle.get_best_trials(1)[0].score
    assert best.evaluate(X[VALIDATION], Y[VALIDATION], verbose=0) == pytest.approx(score, rel=1e-5)


class Cooling(keras.callbacks.Callback):
    """A user's own: lowers the rate when the validation gets no better."""

    def __init__(self):
        super().__init__()
        self.best = np.inf

    def on_epoch_end(self, epoch, logs=None):
        if logs["val_loss"] > 0.2 * self.best:
            self.model.optimizer.learning_rate = 0.5 * float(self.model.optimizer.learning_rate)
        self.best = min(self.best, logs["val_loss"])


@POPULATION
@pytest.mark.parametrize(
    "callback",
    [keras.callbacks.ReduceLROnPlateau(patience=1, factor=0.5, min_delta=99), Cooling()],
    ids=lambda one: type(one).__name__,
)
def test_rates_that_reacted_to_the_validation_are_replayed(tmp_path, capsys, population, callback):
    call = {"callbacks": [callback, keras.callbacks.EarlyStopping(patience=7)], "epochs": 8}
    tuner = searched(tmp_path, population=population, call=call)
    [run] = tuner.oracle.get_best_trials(1)[0].executions.values()
    rates = rate_of_run(run.history, run.best_epoch + 1)
    rates = [0.05 if rate is None else rate for rate in rates]
    assert rates[0] == pytest.approx(0.05) and rates[-1] < 0.03
    capsys.readouterr()
    models = tuner.retrain(epochs=2 * len(rates), verbose=1)
    assert f"{type(callback).__name__}, EarlyStopping left out" in capsys.readouterr().out
    assert models.retrainings[0].rates_replayed and "learning rates are replayed" in str(models)
    replay = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rates[epoch // 2])
    wanted = keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=2 * len(rates), callbacks=[replay])
    check_equal(models[0], wanted)
    # With callbacks of one's own nothing is set for them.
    [plain] = tuner.retrain(epochs=4, callbacks=[], verbose=0)
    check_equal(plain, keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=4))


def test_a_replayed_path_ends_where_the_recorded_one_ended():
    class Optimizer:
        learning_rate = 1.0

    class Model:
        optimizer = Optimizer()

    def path(rates, num_epochs, first=0):
        replay, seen = ReplayedRate(rates, num_epochs, first), []
        replay.set_model(Model())
        for epoch in range(first, first + num_epochs):
            replay.on_epoch_begin(epoch)
            seen.append(replay.model.optimizer.learning_rate)
        return seen

    assert path([4.0, 2.0, 1.0], 6) == [4, 4, 2, 2, 1, 1]
    assert path([4.0, 2.0, 1.0, 0.5], 2, first=3) == [4, 1]
    assert path([4.0, None, 1.0], 3) == [4, 4, 1]  # what is not known has not moved


def test_what_reacts_to_validation_is_seen():
    assert reacts_to_validation(keras.callbacks.EarlyStopping()) and reacts_to_validation(Cooling())
    looks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs["val_loss"]))
    looks_not = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: print(logs["loss"]))
    assert reacts_to_validation(looks) and not reacts_to_validation(looks_not)
    assert not reacts_to_validation(keras.callbacks.LearningRateScheduler(lambda epoch: 0.1))


class OwnFit(kt.HyperModel):
    """The usual reasons for a `fit` of one's own: batch size, epochs, rows held out, and a callback."""

    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, x, y, *args, callbacks=None, **kwargs):
        stop = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=9)
        size, epochs = hp.Fixed("batch_size", 5), hp.Fixed("epochs", 3)
        return model.fit(
            x, y, *args, batch_size=size, epochs=epochs, validation_split=0.25, callbacks=[*callbacks, stop], **kwargs
        )


def test_a_fit_of_the_users_trains_as_in_the_search_on_all_rows(tmp_path):
    tuner = kt.GridSearch(OwnFit(), "val_loss", directory=tmp_path)
    tuner.search(X, Y, shuffle=False, verbose=0)
    [run] = tuner.oracle.get_best_trials(1)[0].executions.values()
    assert run.notes["fit inside"]["arguments"]["batch_size"] == 5
    models = tuner.retrain(epochs=4)
    check_equal(models[0], keras_weights(keras.optimizers.SGD(0.05), X, Y, batch_size=5, epochs=4))
    assert models.retrainings[0].left_out == ("ReduceLROnPlateau",)


def test_a_fit_that_wants_validation_rows_is_given_none(tmp_path):
    class Wants(OwnFit):
        def fit(self, hp, model, x, y, validation_data, epochs, **kwargs):
            return model.fit(x, y, validation_data=validation_data, epochs=range(epochs)[-1] + 1, **kwargs)

    [model] = searched(tmp_path, Wants(), tuner=kt.GridSearch).retrain(epochs=4)
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=4))


def test_rows_that_run_trial_makes_are_those_of_its_trial(tmp_path):
    class Scaled(kt.GridSearch):
        def run_trial(self, trial, **kwargs):
            scale = trial.hyperparameters.Choice("scale", [1.0, 2.0])
            return super().run_trial(
                trial, X[TRAIN] * scale, Y[TRAIN], validation_data=(X[VALIDATION] * scale, Y[VALIDATION]), **kwargs
            )

    tuner = Scaled(build, "val_loss", directory=tmp_path)
    tuner.search(epochs=2, shuffle=False, verbose=0)
    models = tuner.retrain(top=2, epochs=3)
    for model, how in zip(models, models.retrainings, strict=True):
        scale = tuner.oracle.get_trial(how.trial_id).hyperparameters.values["scale"]
        check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X * scale, Y, epochs=3, batch_size=32))


def test_schedules_are_stretched_from_the_rows_of_a_fold(tmp_path):
    def schedule(factor):
        return keras.optimizers.schedules.ExponentialDecay(0.05, 4 * factor, 0.5)

    model = lambda hp: linear(keras.optimizers.SGD(schedule(1.0)))  # noqa: E731
    tuner = kt.GridSearch(model, "val_loss", directory=tmp_path)
    tuner.search(X, Y, cross_validation=3, epochs=3, batch_size=10, shuffle=False, verbose=0)
    models = tuner.retrain(epochs_factor=1.0, max_epochs=3)
    assert models.retrainings[0].changes["rows"] == (40, 60)
    epochs = models.retrainings[0].epochs
    check_equal(models[0], keras_weights(keras.optimizers.SGD(schedule(1.5)), X, Y, epochs=epochs))


def test_several_fits_inside_keep_their_own_epochs(tmp_path):
    class Twice(OwnFit):
        def fit(self, hp, model, x, y, **kwargs):
            model.fit(x, y, batch_size=10, epochs=2, validation_split=0.25, shuffle=False, verbose=0)
            return model.fit(x, y, batch_size=10, epochs=1, validation_split=0.25, **kwargs)

    tuner = kt.GridSearch(Twice(), "val_loss", directory=tmp_path)
    tuner.search(X, Y, shuffle=False, verbose=0)
    [model] = tuner.retrain(epochs=9)
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X[:45], Y[:45], epochs=3))


class OwnRun(kt.GridSearch):
    def run_trial(self, trial, *args, **kwargs):
        kwargs["batch_size"] = trial.hyperparameters.Choice("batch_size", [6, 20])
        kwargs["class_weight"] = {0: 1.0}
        return super().run_trial(trial, *args, **kwargs)


def test_what_run_trial_made_of_the_call_is_used_again_here_and_in_another_process(tmp_path):
    tuner = searched(tmp_path, tuner=OwnRun, project_name="own", call={"batch_size": None}, population=False)
    best, *_ = tuner.oracle.get_best_trials(1)
    size = best.hyperparameters.values["batch_size"]
    wanted = keras_weights(keras.optimizers.SGD(0.05), X, Y, batch_size=size, epochs=4)
    models = tuner.retrain(epochs=4)
    check_equal(models[0], wanted)
    assert models.retrainings[0].changes["rows"] == (40, 60)
    confirmation = tuner.confirm(top=2, max_rounds=5, proof_executions=0, verbose=0)
    assert confirmation.num_executions >= 2
    with seen_fits() as seen:
        tuner.confirm(top=1, proof_executions=1, epochs=2)
    assert {one.call.get("batch_size") for one in seen} == {size} and seen[0].call.get("epochs") == 2
    tuner.close()
    again = OwnRun(build, objective="val_loss", directory=tmp_path, project_name="own")
    with pytest.raises(UsageError, match="in a process that has not searched") as error:
        again.retrain()
    tiny.four_parts(error.value)
    [model] = again.retrain(x=X, y=Y, shuffle=False, epochs=4, verbose=0)
    check_equal(model, wanted)


def test_a_loop_of_the_users_own_is_replayed_by_what_reached_fit(tmp_path):
    class Folds(kt.GridSearch):
        def run_trial(self, trial, x, y, epochs):
            losses = []
            for rows in (slice(0, 30), slice(30, 60)):
                model = self.hypermodel.build(trial.hyperparameters)
                found = model.fit(x[rows], y[rows], batch_size=6, epochs=epochs, shuffle=False, verbose=0)
                losses.append(found.history["loss"][-1])
            return float(np.mean(losses))

    tuner = Folds(build, directory=tmp_path)
    tuner.search(X, Y, epochs=5)
    [model] = tuner.retrain(epochs_factor=1.0, verbose=0)
    # For as long as it was trained inside, and on all rows: a number has no epochs, and each fold only its own.
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X, Y, batch_size=6, epochs=5))
    with pytest.raises(UsageError, match="a run_trial of its own has measured"):
        tuner.confirm(top=1)


def test_steps_follow_the_rows_and_a_new_size_of_them(tmp_path):
    tuner = searched(tmp_path, call={"steps_per_epoch": 4})
    models = tuner.retrain(epochs=2)
    assert models.retrainings[0].changes["steps_per_epoch"] == (4, 6)
    check_equal(models[0], keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=2, steps_per_epoch=6))
    more = np.concatenate([X, X]), np.concatenate([Y, Y])
    again = tuner.retrain(x=more[0], y=more[1], epochs=1)
    assert again.retrainings[0].changes == {"rows": (40, 120), "steps_per_epoch": (4, 12)}


# How long ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path):
    """Two trials whose one epoch says nothing of how long they have to be trained."""
    return searched(
        tmp_path, lambda hp: linear(keras.optimizers.SGD(hp.Choice("rate", [0.001, 0.002]))), call={"epochs": 1}
    )


def test_runs_that_still_improve_go_on_and_say_what_is_left(short, capsys):
    models = short.retrain(top=5, epochs_factor=1.0, max_epochs=12, verbose=1)
    said = capsys.readouterr().out
    assert "2 instead of 5" in said and "up to 12 epochs" in said and "retrain(max_epochs=24)" in said
    assert [one.epochs for one in models.retrainings] == [12, 12]
    short.retrain(top=2, verbose=1)
    assert "still improving" not in capsys.readouterr().out  # they are made once
    assert len(short.retrain(epochs=2)[0].history.history["loss"]) == 2


def test_a_callback_of_the_users_ends_the_longer_run_too(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch >= 5

    tuner = searched(tmp_path, call={"epochs": 1, "callbacks": Stop()})
    models = tuner.retrain(epochs_factor=1.0)
    assert tuner.oracle.get_best_trials(1)[0].executions_of(LONGER)[0].num_epochs == 6
    assert 1 < models.retrainings[0].epochs <= 6


def test_when_the_time_is_up_what_trains_is_kept_as_it_is(short, capsys):
    now = [0.0]
    ticks = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: now.__setitem__(0, now[0] + 1.0))
    clock = Clock(1.5, now=lambda: now[0])
    clock.start()
    with short.limited(clock):
        models = short.retrain(top=2, epochs_factor=30.0, callbacks=[ticks], verbose=1)
    said = capsys.readouterr().out
    assert len(models) == 2 and all(one.epochs <= 2 < one.planned_epochs for one in models.retrainings)
    assert all(f"ended after {one.epochs} of {one.planned_epochs} epochs" in said for one in models.retrainings)
    assert short.retrain(top=2, max_seconds=1e-6, epochs=3, verbose=1) == []
    assert "2 models were not begun, since the time was up" in capsys.readouterr().out
    with pytest.raises(UsageError, match="max_seconds") as error:
        short.retrain(max_seconds="1h")
    tiny.four_parts(error.value)


class Raises(keras.callbacks.Callback):
    """Raises in the second training that it sees."""

    def __init__(self, error):
        super().__init__()
        self.error, self.seen = error, [0]

    def __deepcopy__(self, memo):
        return self

    def on_train_begin(self, logs=None):
        self.seen[0] += 1
        if self.seen[0] == 2:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine")], ids=["Ctrl+C", "error"])
def test_what_was_trained_before_an_interruption_stays(tmp_path, error):
    tuner = searched(
        tmp_path, lambda hp: linear(keras.optimizers.SGD(hp.Choice("rate", [0.001, 0.002]))), population=False
    )
    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else SearchError):
        tuner.retrain(top=2, epochs=2, callbacks=[Raises(error)])
    first = tuner.oracle.get_best_trials(1)[0].trial_id
    assert list(tuner.evaluate(X, Y).scores) == [f"trial {first}"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"top": ["nope"]}, "is no trial"),
        ({"epochs": 0}, "epochs"),
        ({"max_epochs": "3"}, "max_epochs"),
        ({"top": ["0000"], "diverse": True}, "diverse"),
        ({"x": (row for row in X)}, "can be read again"),
    ],
)
def test_what_is_refused_before_anything_trains(short, arguments, words):
    with seen_fits() as seen, pytest.raises(UsageError, match=words) as error:
        short.retrain(**arguments)
    tiny.four_parts(error.value)
    assert not seen


# Which ------------------------------------------------------------------------------------------------------------


def test_those_that_add_most_to_each_other(tmp_path, capsys):
    def columns(hp):
        # Each sees one column of the three; those of "first" and "twin" are the same.
        mask = {"first": [1, 0, 0], "twin": [1, 0, 0], "second": [0, 1, 0]}[
            hp.Choice("sees", ["first", "twin", "second"])
        ]
        inputs = keras.Input((3,))
        outputs = keras.layers.Dense(1, use_bias=False)(inputs * np.array(mask, dtype="float32"))
        model = keras.Model(inputs, outputs)
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    tuner = searched(tmp_path, columns, call={"epochs": 20})
    sees = lambda models: [  # noqa: E731
        tuner.oracle.get_trial(one.trial_id).hyperparameters.values["sees"] for one in models.retrainings
    ]
    chosen = sees(tuner.retrain(top=2, diverse=True, epochs=1))
    assert len(set(chosen) & {"first", "twin"}) == 1 and "second" in chosen
    tuner.retrain(top=3, diverse=True, epochs=1, verbose=1)
    assert "near-copies" in capsys.readouterr().out


def test_confirm_takes_what_its_siblings_take(short, capsys):
    short.confirm(top=2, max_executions=6, proof_executions=0, verbose=0, callbacks=[], epochs=2)
    assert capsys.readouterr().out == ""
    best = short.oracle.get_best_trials(1)[0]
    assert {run.num_epochs for run in best.executions_of("confirm").values()} == {2}
    for wrong in ({"epoch": 3}, {"max_seconds": "1h"}, {"validation_split": 0.2}):
        with pytest.raises(UsageError) as error:
            short.confirm(**wrong)
        tiny.four_parts(error.value)
    assert short.evaluate(X, Y, verbose=0)["loss"] > 0


def test_a_measured_objective_is_confirmed_and_retrained_for_as_long_as_the_search_trained(tmp_path):
    tuner = searched(tmp_path, objective="num_parameters", call={"epochs": 3})
    confirmation = tuner.confirm(top=1, max_executions=2, proof_executions=1)
    assert confirmation.score == 4
    [model] = tuner.retrain(epochs_factor=1.0)
    check_equal(model, keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=3))


def test_near_copies_are_confirmed_once(tmp_path, capsys):
    tuner = kt.RandomSearch(
        lambda hp: linear(keras.optimizers.SGD(hp.Float("rate", 0.0, 0.1))),
        "val_loss", max_trials=3, directory=tmp_path,
    )  # fmt: skip
    for rate in (0.0500, 0.0504, 0.01):
        tuner.enqueue({"rate": rate})
    tuner.search(X[TRAIN], Y[TRAIN], validation_data=(X[VALIDATION], Y[VALIDATION]), epochs=2, verbose=0)
    confirmation = tuner.confirm(top=3, max_executions=6, proof_executions=0, verbose=1)
    assert "near-copy of trial" in capsys.readouterr().out
    assert len(confirmation.rows) == 2


@POPULATION
def test_a_plateau_of_the_training_loss_goes_on_watching_it(tmp_path, capsys, population):
    plateau = lambda: keras.callbacks.ReduceLROnPlateau(monitor="loss", patience=1, factor=0.5, min_delta=99)  # noqa: E731
    tuner = searched(tmp_path, population=population, call={"callbacks": [plateau()], "epochs": 4})
    capsys.readouterr()
    models = tuner.retrain(epochs=6, verbose=1)
    assert "left out" not in capsys.readouterr().out and models.retrainings[0].left_out == ()
    wanted = keras_weights(keras.optimizers.SGD(0.05), X, Y, epochs=6, callbacks=[plateau()])
    check_equal(models[0], wanted)


def test_as_many_epochs_on_more_rows_are_more_steps_already(tmp_path):
    class Counts(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_end(self, batch, logs=None):
            Counts.steps += 1

    # Larger steps from the sixth epoch on spoil what was learned: the best epoch is in the middle.
    spoils = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.05 if epoch < 5 else 0.4)
    tuner = searched(tmp_path, population=False, call={"epochs": 9, "callbacks": [spoils]})
    [trial] = tuner.oracle.get_best_trials(1)
    epochs = trial.executions[0].best_epoch + 1
    assert 3 <= epochs <= 6
    models = tuner.retrain(callbacks=[Counts()])
    assert models.retrainings[0].epochs == epochs
    assert Counts.steps == epochs * -(-len(X) // 10)
