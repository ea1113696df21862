"""Every search ends for a reason that it states, and says so when nothing is left of it."""

from __future__ import annotations

import warnings

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
from marks import needs_jax

from manyfit.core.errors import SearchError
from manyfit.training.callbacks import too_few_epochs
from manyfit.tuners import trainers
from manyfit.tuners.trainers import price_of_backend


def loss_of(trial):
    return trial.hyperparameters.get("units") / 10


def said_by(capsys):
    return capsys.readouterr().out.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("tuner", "arguments", "reason", "words"),
    [
        (kt.RandomSearch, {"max_trials": 3}, "max_trials", "after 3 trials: max_trials=3 is reached."),
        (kt.RandomSearch, {"max_trials": None, "max_seconds": 1e-9}, "max_seconds", "max_seconds=1e-09 are used up."),
        (kt.GridSearch, {}, "exhausted", "after 4 trials: no configuration of the space is left"),
        (kt.Evolution, {"max_trials": 9}, "exhausted", "after 4 trials: no configuration of the space is left"),
        (kt.BayesianOptimization, {"max_trials": 9}, "exhausted", "All 4 configurations were tried"),
        (kt.Search, {"max_trials": 4}, "exhausted", "All 4 configurations were tried"),
    ],
)
def test_the_reason_is_said_stored_and_shown(tuner, arguments, reason, words, project, capsys):
    known = {"seed": 0, "hyperparameters": tiny.space(units=2), "display": "plain"}
    made = tiny.numbers(loss_of, tuner, **known, **arguments, **project)
    assert made.ended_by is None
    made.search()
    assert words in said_by(capsys)
    made.close()
    again = tiny.numbers(loss_of, tuner, seed=0, hyperparameters=tiny.space(units=2), **arguments, **project)
    assert again.ended_by == reason
    again.results_summary(1)
    assert words in said_by(capsys)


def test_limits_on_epochs_and_plans_of_schedulers_are_reasons(tmp_path):
    trainer = tiny.Formula(num_epochs=4)
    limited = tiny.searched(trainer, max_trials=None, max_total_epochs=12, seed=0, directory=tmp_path)
    limited.search(epochs=4, verbose=0)
    assert (len(limited.oracle.trials), limited.ended_by) == (3, "max_total_epochs")


def test_failures_interruptions_and_errors_are_reasons(tmp_path):
    def ends(error, **arguments):
        def run(trial):
            raise error

        name = type(error).__name__
        tuner = tiny.numbers(run, seed=0, directory=tmp_path, project_name=name, **arguments)
        with pytest.raises((SearchError, type(error))):
            tuner.search(verbose=0)
        return tuner.ended_by

    assert ends(ValueError("no"), max_consecutive_failed_trials=2) == "failures"
    assert ends(KeyboardInterrupt()) == "interrupted"
    assert ends(kt.errors.FatalError("the disk is on fire")) == "error"


def test_models_that_are_all_too_large_end_a_search_without_a_limit(project, rows):
    def build(hp):
        hp.Float("rate", 0.0, 1.0)
        return tiny.compiled(keras.Sequential([keras.Input((3,)), keras.layers.Dense(9), keras.layers.Dense(1)]))

    tuner = kt.Hyperband(build, "loss", max_epochs=4, max_model_size=5, seed=0, **project)
    with pytest.raises(SearchError, match="100 x too large"):
        tuner.search(*rows, verbose=0)
    assert tuner.ended_by == "failures"


KINDS = ("fails", "is too large", "trains through model.fit")
TUNERS = {
    "random": lambda build, **arguments: kt.RandomSearch(build, "loss", max_trials=5, **arguments),
    "Bayes": lambda build, **arguments: kt.BayesianOptimization(build, "loss", max_trials=5, **arguments),
    "evolution": lambda build, **arguments: kt.Evolution(build, "loss", max_trials=5, **arguments),
    "ASHA": lambda build, **arguments: kt.BayesianOptimization(
        build, "loss", max_trials=5, scheduler=kt.ASHA(max_epochs=2, factor=2), **arguments
    ),
    "Hyperband": lambda build, **arguments: kt.Hyperband(
        build, "loss", max_epochs=4, factor=2, max_trials=5, **arguments
    ),
}


class NotCompiled(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_jit = False

    def call(self, inputs):
        return inputs


@needs_jax
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tuner", TUNERS)
def test_rounds_in_which_nothing_trains_together_do_not_end_a_search(tuner, kind, project, rows):
    first = []

    def build(hp):
        hp.Float("rate", 0.1, 1.0)
        if kind == "fails" and first:
            raise ValueError("no such model")
        first.append(None)
        hidden = [NotCompiled()] if kind == "trains through model.fit" else [keras.layers.Dense(99)]
        model = keras.Sequential([keras.Input((3,)), *hidden, keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse")
        return model

    made = TUNERS[tuner](build, seed=0, max_model_size=50, max_consecutive_failed_trials=9, **project)
    if kind == "trains through model.fit":
        made.search(*rows, epochs=2, batch_size=24, verbose=0)
    else:
        with pytest.raises(SearchError, match="all 5 trials failed"):
            made.search(*rows, epochs=2, verbose=0)
    assert (len(made.oracle.trials), made.ended_by) == (5, "max_trials")


class TellsOfShortBatches(keras.layers.Layer):
    """Does something beside its answer where a batch is short, which trials that train together cannot."""

    def call(self, inputs):
        if inputs.shape[0] == 3:
            import jax

            jax.debug.callback(lambda: None)
        return inputs


class Uneven(keras.utils.PyDataset):
    """A batch of four rows, and one of three."""

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return np.ones((4 - number, 3), "float32"), np.zeros((4 - number, 1), "float32")


@needs_jax
def test_members_that_all_fall_back_while_they_join_do_not_end_a_search(project, capsys):
    def build(hp):
        model = keras.Sequential([keras.Input((3,)), TellsOfShortBatches(), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.1)), "mse")
        return model

    # While one trains, others wait; and what the short batch brings to light sends all of these back at once.
    tuner = kt.RandomSearch(build, "loss", max_trials=12, seed=0, population_size=1, **project)
    tuner.search(Uneven(), verbose=1)
    assert "effects beyond its outputs" in capsys.readouterr().out
    assert (len(tuner.oracle.get_best_trials(20)), tuner.ended_by) == (12, "max_trials")


# Nothing left ---------------------------------------------------------------------------------------------------


def test_a_search_that_is_complete_says_what_to_type_and_runs_again_with_a_higher_limit(project, capsys):
    tuner = tiny.numbers(loss_of, max_trials=2, seed=0, display="plain", **project)
    tuner.search(verbose=0)
    tuner.search()
    said = said_by(capsys)
    assert said.startswith("Nothing is left to search. The search ended after 2 trials: max_trials=2 is reached.")
    assert "tuner.oracle.max_trials = 4" in said and "project_name=" in said and "overwrite=True" in said
    tuner.oracle.max_trials = 4
    tuner.search()
    assert len(tuner.oracle.trials) == 4 and said_by(capsys).startswith("The search ended after 4 trials")


def test_seconds_that_are_used_up_return_at_once_and_may_be_raised(project, rows, capsys):
    arguments = {"max_trials": 2, "seed": 0, **project}
    tuner = kt.RandomSearch(tiny.build, "loss", max_seconds=1e-9, **arguments)
    tuner.search(*rows, verbose=0)
    tuner.close()
    tuner = kt.RandomSearch(tiny.build, "loss", max_seconds=1e-9, **arguments)
    capsys.readouterr()
    tuner.search(*rows)
    assert "max_seconds=1e-09 are used up. To go on, raise max_seconds=" in said_by(capsys)
    tuner.close()
    tuner = kt.RandomSearch(tiny.build, "loss", max_seconds=600, **arguments)
    tuner.search(*rows, verbose=0)
    assert (len(tuner.oracle.trials), tuner.ended_by) == (2, "max_trials")


# Other data -----------------------------------------------------------------------------------------------------


def test_other_data_are_noticed_whatever_is_printed(project, rows, capsys):
    def open_again(max_trials):
        return kt.RandomSearch(tiny.build, "val_loss", max_trials=max_trials, seed=0, **project)

    x, y = rows
    first = open_again(1)
    first.search(x, y, validation_data=(x[:8], y[:8]), verbose=0)
    first.search(x.copy(), y.copy(), validation_data=(x[:8], y[:8]), verbose=0)  # equal, so no warning
    first.close()
    second = open_again(2)
    with pytest.warns(UserWarning, match="other validation rows than the 1 trials of this project") as caught:
        second.search(x, y, validation_data=(x[8:], y[8:]), verbose=0)
    assert caught[0].filename == __file__
    second.search(x, y, validation_data=(x[8:], y[8:]), verbose=0)
    capsys.readouterr()
    second.results_summary()
    assert "different data, anew from trial 1: scores are not comparable" in said_by(capsys)


def test_a_loop_over_folds_with_one_tuner_is_noticed(project, rows):
    x, y = rows
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, seed=0, **project)
    for fold in range(3):
        held_out = np.arange(len(x)) % 3 == fold
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tuner.search(x[~held_out], y[~held_out], validation_data=(x[held_out], y[held_out]), verbose=0)
        assert [("training and validation rows" in str(each.message)) for each in caught] == [True] * (fold > 0)


# Callbacks that wait for more epochs than there are -----------------------------------------------------------------


def test_a_search_without_epochs_says_that_patience_cannot_act(project, rows):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, seed=0, **project)
    with pytest.warns(
        UserWarning, match=r"trains 1 epoch, since epochs= is not given, and EarlyStopping\(patience=3\)"
    ):
        tuner.search(*rows, validation_split=0.25, callbacks=[keras.callbacks.EarlyStopping(patience=3)], verbose=0)


@pytest.mark.parametrize(
    ("callback", "epochs", "speaks"),
    [
        (keras.callbacks.EarlyStopping(patience=5), 3, True),
        (keras.callbacks.EarlyStopping(patience=5), 5, True),
        (keras.callbacks.EarlyStopping(patience=5), 6, False),
        (keras.callbacks.EarlyStopping(patience=0), 1, True),
        (keras.callbacks.EarlyStopping(patience=1, start_from_epoch=4), 5, True),
        (keras.callbacks.ReduceLROnPlateau(patience=10), 10, True),
        (keras.callbacks.ReduceLROnPlateau(patience=2), 10, False),
        (keras.callbacks.TerminateOnNaN(), 1, False),
    ],
)
def test_patience_that_no_trial_is_long_enough_for(callback, epochs, speaks):
    assert (too_few_epochs([callback], epochs, are_given=True) is not None) is speaks


def test_a_scheduler_given_by_name_counts_the_epochs_of_the_search(project, rows):
    tuner = kt.RandomSearch(tiny.build, "val_loss", max_trials=1, scheduler="asha", seed=0, **project)
    early = keras.callbacks.EarlyStopping(patience=1)
    tuner.search(*rows, epochs=3, validation_split=0.25, callbacks=[early], verbose=0)  # no warning
    assert tuner.ended_by == "max_trials"


def test_other_backends_say_what_they_do_without(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    assert "import manyfit before Keras" in price_of_backend(in_workers=False)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    said = price_of_backend(in_workers=True)
    assert "one after another in each worker" in said and "set KERAS_BACKEND=jax" in said and "import" not in said
    monkeypatch.setattr(trainers, "is_installed", lambda package: package != "jax")
    assert "pip install jax, and set KERAS_BACKEND=jax before" in price_of_backend(in_workers=False)
    monkeypatch.setattr(trainers, "chosen_by", "what is installed")
    assert price_of_backend(in_workers=False).endswith("as one compiled program: pip install jax.")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert price_of_backend(in_workers=False) is None
