"""Metrics that are arrays or no numbers, losses and weights that are not finite: what a search makes of them."""

from __future__ import annotations

import decimal
import fractions
import math

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny

from manyfit.core.errors import FatalTypeError, FatalValueError, SearchError, UsageError

NAN = math.nan


def classifier(metric=None, units=2, loss="categorical_crossentropy", rate=0.1):
    def build(hp):
        hp.Choice("kind", ["a", "b"])
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(units, activation="softmax")])
        metrics = [metric(hp) if callable(metric) else metric] if metric is not None else []
        model.compile(keras.optimizers.SGD(rate), loss, metrics=metrics)
        return model

    return build


def f1(hp):
    return keras.metrics.F1Score(name="f1")


@pytest.fixture
def one_hot(rows):
    return rows[0], np.eye(2, dtype="float32")[rows[1]]


# Arrays, through both trainers ---------------------------------------------------------------------------------------


@pytest.mark.backends
@pytest.mark.parametrize("population", [True, False])
def test_a_metric_of_several_elements_is_ranked_by_the_one_that_is_named(project, one_hot, population):
    tuner = kt.RandomSearch(
        classifier(f1), kt.Objective("val_f1[1]", "max"), max_trials=1, seed=0, population=population, **project
    )
    tuner.search(*one_hot, validation_data=one_hot, epochs=2, verbose=0)
    [trial] = tuner.oracle.get_best_trials(1)
    history = trial.executions[0].history
    assert {"f1[0]", "f1[1]", "val_f1[0]", "val_f1[1]"} <= set(history)
    assert trial.score == max(history["val_f1[1]"])
    model = tuner.get_best_models(1)[0]
    measured = model.evaluate(*one_hot, verbose=0, return_dict=True)
    assert float(measured["f1"][1]) == pytest.approx(trial.score, abs=1e-6)
    found = tuner.evaluate(*one_hot)
    assert found["f1[1]"] == pytest.approx(trial.score, abs=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize("population", [True, False])
def test_a_metric_of_one_element_is_a_number(project, rows, population):
    def build(hp):
        hp.Choice("kind", ["a", "b"])
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile("sgd", "binary_crossentropy", metrics=[keras.metrics.F1Score(threshold=0.5, name="f1")])
        return model

    x, y = rows[0], rows[1][:, None].astype("float32")
    tuner = kt.RandomSearch(build, kt.Objective("val_f1", "max"), max_trials=1, population=population, **project)
    tuner.search(x, y, validation_data=(x, y), verbose=0)
    assert 0 <= tuner.oracle.get_best_trials(1)[0].score <= 1


@pytest.mark.parametrize("population", [True, False])
def test_an_objective_of_several_elements_says_what_to_type(project, one_hot, population):
    tuner = kt.RandomSearch(
        classifier(f1), kt.Objective("val_f1", "max"), max_trials=2, population=population, **project
    )
    with pytest.raises(UsageError, match=r"Allowed: .* Type objective=kt\.Objective\(\"val_f1\[0\]\", \"max\"\)"):
        tuner.search(*one_hot, validation_data=one_hot, epochs=50, verbose=0)


# What run_trial returns ----------------------------------------------------------------------------------------------


def score_of(value, project, objective="val_loss"):
    tuner = tiny.numbers(lambda trial: value, objective=objective, max_trials=1, **project)
    tuner.search(verbose=0)
    return tuner.oracle.get_best_trials(1)[0].score


NUMBERS = {
    "integer": 3,
    "fraction": fractions.Fraction(1, 4),
    "decimal": decimal.Decimal("0.25"),
    "NumPy": np.float32(0.5),
    "0-d": np.array(0.5),
    "1 element": np.array([0.5]),
    "1x1": np.array([[0.5]]),
    "tensor": keras.ops.convert_to_tensor(0.5),
    "tensor of one": keras.ops.convert_to_tensor([0.5]),
}


@pytest.mark.backends
@pytest.mark.parametrize("value", NUMBERS.values(), ids=NUMBERS)
def test_what_is_one_number_is_one(project, value):
    expected = float(np.asarray(value, dtype=float).reshape(()))
    assert score_of({"val_loss": value}, project) == expected


@pytest.mark.backends
def test_numbers_may_be_returned_alone(project):
    values = iter(NUMBERS.values())
    tuner = tiny.numbers(lambda trial: next(values), max_trials=len(NUMBERS), **project)
    tuner.search(verbose=0)
    assert sorted(trial.score for trial in tuner.oracle.trials.values()) == [0.25] * 2 + [0.5] * 6 + [3.0]


@pytest.mark.parametrize("value", ["low", "0.5", 1 + 2j, np.complex64(1), None, object(), {}, np.array(["a"])])
def test_an_objective_that_is_no_number_ends_the_search_and_says_so(project, value):
    with pytest.raises(FatalValueError, match=r"got .* for 'val_loss'\. Allowed: a number .* Return") as caught:
        score_of({"val_loss": value}, project)
    assert type(value).__name__ in str(caught.value)


@pytest.mark.parametrize("value", [True, np.True_, "low", 1 + 2j, None, np.array([0.5, 0.25]), object()])
def test_what_is_no_number_cannot_be_returned_alone(project, value):
    with pytest.raises(FatalTypeError, match="Allowed: a number, a dict"):
        score_of(value, project)


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf, 10**400, np.float32(np.nan)])
def test_what_is_not_finite_is_never_ranked(project, value):
    with pytest.raises(SearchError, match="1 x diverged: val_loss was never finite"):
        score_of({"val_loss": value}, project)


def test_other_metrics_may_be_anything(project):
    others = {"phase": "warm-up", "nothing": None, "z": 1j, "converged": True, "large": 10**400, "iou": np.eye(2)}
    tuner = tiny.numbers(lambda trial: {"val_loss": 0.5, **others}, objective="val_loss", max_trials=1, **project)
    tuner.search(verbose=0)
    [trial] = tuner.oracle.get_best_trials(1)
    assert dict(trial.metrics) == {
        "val_loss": 0.5, "converged": 1.0, "large": math.inf,
        "iou[0][0]": 1.0, "iou[0][1]": 0.0, "iou[1][0]": 0.0, "iou[1][1]": 1.0,
    }  # fmt: skip


def test_the_dict_of_a_history_is_one(project):
    value = {"val_loss": [0.5, NAN, 0.25], "val_f1": [np.array([0.0, 1.0])] * 3, "late": [None, None, 1.0]}
    tuner = tiny.numbers(lambda trial: value, objective="val_loss", max_trials=1, **project)
    tuner.search(verbose=0)
    run = tuner.oracle.trials["0"].executions[0]
    assert (run.score, run.best_epoch) == (0.25, 2)
    assert run.history["val_f1[1]"] == [1.0] * 3 and run.history["late"] == [None, None, 1.0]


def test_an_array_as_the_objective_of_run_trial_says_what_to_type(project):
    with pytest.raises(FatalValueError, match=r"Type objective=kt\.Objective\(\"val_loss\[0\]\", \"min\"\)"):
        score_of({"val_loss": np.array([0.5, 0.25])}, project)


def test_metrics_that_are_reported_may_be_arrays(project):
    class Reporting(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            trial.hyperparameters.Choice("kind", ["a"])
            self.oracle.update_trial(trial.trial_id, {"val_loss": np.array([0.5]), "f1": np.array([0.0, 1.0])})

    tuner = Reporting(objective="val_loss", max_trials=1, **project)
    with pytest.warns(DeprecationWarning, match="update_trial"):
        tuner.search(verbose=0)
    [trial] = tuner.oracle.get_best_trials(1)
    assert trial.score == 0.5 and trial.metrics.get_best_value("f1[1]") == 1.0


# What is not finite --------------------------------------------------------------------------------------------------


def steady(hp):
    """A metric that says that all is well, whatever the model predicts."""
    return keras.metrics.MeanMetricWrapper(lambda y, predicted: keras.ops.ones_like(y), name="well")


def breaking(y, predicted):
    return keras.ops.mean(predicted, axis=-1) * float("nan")


@pytest.mark.backends
@pytest.mark.parametrize("population", [True, False])
@pytest.mark.parametrize("callbacks", [[], [keras.callbacks.TerminateOnNaN()]], ids=["", "TerminateOnNaN"])
def test_a_trial_whose_loss_is_not_finite_is_never_ranked(project, one_hot, population, callbacks):
    tuner = kt.RandomSearch(
        classifier(steady, loss=breaking),
        kt.Objective("val_well", "max"),
        max_trials=1,
        population=population,
        **project,
    )
    with pytest.raises(SearchError, match="1 x diverged"):
        tuner.search(*one_hot, validation_data=one_hot, epochs=2, verbose=0, callbacks=callbacks)
    [trial] = tuner.oracle.trials.values()
    assert trial.score is None and trial.executions[0].history["val_well"][0] == 1.0
    assert "loss" in trial.message and not trial.message.startswith("val_well was")


class Breaking(keras.callbacks.Callback):
    """Weights that no loss has seen yet."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.set_weights([each * np.nan for each in self.model.get_weights()])


@pytest.mark.parametrize("population", [True, False])
def test_a_trial_whose_weights_are_not_finite_is_never_ranked(project, one_hot, population):
    tuner = kt.RandomSearch(
        classifier(steady), kt.Objective("well", "max"), max_trials=1, population=population, **project
    )
    # Before Manyfit's own callbacks, which come last: the weights of the epoch are those that it leaves behind.
    with pytest.raises(SearchError, match="1 x diverged: the weights are not finite"):
        tuner.search(*one_hot, verbose=0, callbacks=[Breaking()])


@pytest.mark.parametrize("population", [True, False])
def test_what_a_run_was_before_it_diverged_counts(project, one_hot, population):
    """One rule, also for KerasTuner's programs: an epoch that is not finite does not poison the others."""

    class Late(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                self.model.set_weights([each * np.nan for each in self.model.get_weights()])

    tuner = kt.RandomSearch(
        classifier(steady), kt.Objective("val_well", "max"), max_trials=1, population=population, **project
    )
    tuner.search(*one_hot, validation_data=one_hot, epochs=3, verbose=0, callbacks=[Late()])
    run = tuner.oracle.get_best_trials(1)[0].executions[0]
    assert (run.best_epoch, run.score) == (0, 1.0)
    assert all(np.isfinite(each).all() for each in tuner.get_best_models(1)[0].get_weights())


def test_numbers_are_judged_by_what_is_returned(project):
    tuner = tiny.numbers(
        lambda trial: {"val_accuracy": 0.9, "val_loss": NAN if trial.number else 0.5},
        objective="val_accuracy",
        max_trials=2,
        **project,
    )
    tuner.search(verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED", "FAILED"]
    assert tuner.oracle.trials["1"].message == "the loss was not finite in any epoch that measured val_accuracy"
