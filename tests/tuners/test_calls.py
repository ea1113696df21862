"""Batch size, epochs and the like as hyperparameters: trials with calls of `fit` of their own train together."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest

RNG = np.random.default_rng(5)
X = RNG.normal(size=(50, 3)).astype("float32")
Y = (X[:, :1] > 0).astype("float32")
DATA = {"x": X[:40], "y": Y[:40], "validation_data": (X[40:], Y[40:]), "shuffle": False, "verbose": 0}
FITTED, CALLED = "fit inside", "fit"
IN_TURN = "Trials run one after another"


def build(hp):
    layers = [keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(1, activation="sigmoid")]
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.05, 0.3)), "binary_crossentropy", weighted_metrics=["mse"])
    return model


class Usual(kt.HyperModel):
    """As KerasTuner's guide has it: batch size, epochs, weights of classes, and a callback with hyperparameters."""

    def build(self, hp):
        return build(hp)

    def fit(self, hp, model, *args, callbacks, **kwargs):
        decay = hp.Choice("decay", [0.5, 1.0])
        halves = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * decay)
        return model.fit(
            *args,
            batch_size=hp.Choice("batch_size", [8, 16]),
            epochs=hp.Int("epochs", 2, 4),
            class_weight={0: 1.0, 1: 2.0},
            callbacks=[*callbacks, halves],
            **kwargs,
        )


def space(*, batch_size=(8, 16)):
    """All that the code of the tests asks for, so that both searches propose the same."""
    hp = kt.HyperParameters()
    hp.Float("rate", 0.05, 0.3)
    hp.Choice("batch_size", list(batch_size))
    hp.Int("epochs", 2, 4)
    return hp


def searched(folder, hypermodel, tuner=kt.RandomSearch, *, data=None, **arguments):
    arguments = {"objective": "val_loss", "max_trials": 6, "seed": 4, "hyperparameters": space(), **arguments}
    made = tuner(hypermodel, directory=folder, project_name=f"{arguments.get('population', True)}", **arguments)
    data = {**DATA, **({} if data is None else data)}
    made.search(**{name: value for name, value in data.items() if value is not None})
    return made


def both(folder, hypermodel, *args, **arguments):
    """The same search with trials that train together, and through `model.fit`."""
    return [searched(folder, hypermodel, *args, population=together, **arguments) for together in (True, False)]


def runs_of(tuner):
    trials = sorted(tuner.oracle.trials.items())
    return {(trial_id, number): run for trial_id, trial in trials for number, run in sorted(trial.executions.items())}


def check_equal(together, apart, *, values=True):
    """The same trials, by the same calls, with the same curves."""
    one, other = runs_of(together), runs_of(apart)
    assert list(one) == list(other)
    for trial_id, trial in together.oracle.trials.items() if values else ():
        assert trial.hyperparameters.values == apart.oracle.trials[trial_id].hyperparameters.values
    for key, run in one.items():
        assert {name: run.notes.get(name) for name in (FITTED, CALLED)} == {
            name: other[key].notes.get(name) for name in (FITTED, CALLED)
        }
        assert run.seed == other[key].seed and sorted(run.history) == sorted(other[key].history)
        for name, curve in run.history.items():
            curves = np.array([curve, other[key].history[name]], float)  # NaN where it was not measured
            np.testing.assert_allclose(*curves, rtol=2e-4, atol=1e-6, err_msg=name)


def num_together(tuner):
    return sum(record.members for record in tuner.programs().records)


def reasons(tuner):
    return {why: sorted(trials) for why, trials in tuner.programs().reasons.items()}


# HyperModel.fit ------------------------------------------------------------------------------------------------------


def with_programs(tuners):
    """Both, and the programs of the first one's search: what follows trains more."""
    return tuners, tuners[0].programs()


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    return with_programs(both(tmp_path_factory.mktemp("usual"), Usual()))


def test_a_usual_fit_trains_together_by_its_own_calls(usual):
    (together, apart), programs = usual
    check_equal(together, apart)
    assert not programs.reasons and sum(record.members for record in programs.records) == 6
    sizes = {trial.hyperparameters.get("batch_size") for trial in together.oracle.trials.values()}
    assert len(programs.records) == len(sizes) == 2  # a program per batch size, and epochs are data
    assert len({run.num_epochs for run in runs_of(together).values()}) > 1
    assert "decay" in {hp.name for hp in together.oracle.get_space().space}


def test_what_follows_trains_by_the_same_calls(usual):
    weights = []
    for tuner in usual[0]:
        [model] = tuner.retrain(epochs=3, verbose=0)
        confirmation = tuner.confirm(top=2, max_executions=6, proof_executions=0, verbose=0)
        weights.append([*model.get_weights(), np.array(confirmation.score)])
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert reasons(usual[0][0]) == {}


def test_folds_of_a_usual_fit(tmp_path):
    data = {"cross_validation": 2, "x": X, "y": Y, "validation_data": None}
    together, apart = both(tmp_path, Usual(), data=data, max_trials=2)
    check_equal(together, apart)
    assert reasons(together) == {} and num_together(together) == 4


def test_rows_of_the_hypermodel_and_weights_before_the_call(tmp_path):
    class Loads(Usual):
        def fit(self, hp, model, **kwargs):
            model.layers[0].set_weights([np.full((3, 4), hp.Choice("start", [0.1, 0.2])), np.zeros(4)])
            model.optimizer.learning_rate = hp.Choice("rate of fit", [0.1, 0.2])
            return model.fit(X, Y, validation_split=0.2, batch_size=10, epochs=2, **kwargs)

    data = {"x": None, "y": None, "validation_data": None}
    together, apart = both(tmp_path, Loads(), data=data, max_trials=3)
    check_equal(together, apart)
    assert reasons(together) == {} and num_together(together) == 3


def test_a_trial_that_makes_rows_of_its_own_trains_alone(tmp_path):
    class Scales(Usual):
        def fit(self, hp, model, x, y, **kwargs):
            if hp.Boolean("scale"):
                x = x / 2
            return model.fit(x, y, epochs=2, **kwargs)

    together, apart = both(tmp_path, Scales())
    check_equal(together, apart)
    scaled = [one for one, trial in together.oracle.trials.items() if trial.hyperparameters.get("scale")]
    assert reasons(together) == {"the hypermodel's own `fit` trains on other rows than it is given": scaled}
    assert 0 < len(scaled) < 6 and num_together(together) == 6 - len(scaled)


class Counting(Usual):
    """Counts the calls of its `fit`, which is told what to do with what Keras's answers."""

    def __init__(self, then):
        super().__init__()
        self.then, self.calls = then, []

    def fit(self, hp, model, *args, **kwargs):
        self.calls.append(hp)
        return self.then(model, model.fit(*args, epochs=2, **kwargs))


@pytest.mark.parametrize(
    ("then", "does", "num_calls"),
    [
        (lambda model, history: min(history.history["val_loss"]), "looks at what model.fit returns", 4),
        (lambda model, history: {"val_loss": 1.0}, "returns something else than model.fit does", 4),
        (lambda model, history: (model.count_params(), history)[1], "uses the model after fit", 4),
        (lambda model, history: history, None, 3),
    ],
)
def test_a_fit_that_does_more_is_tried_once(tmp_path, then, does, num_calls):
    together, apart = both(tmp_path, Counting(then), max_trials=3)
    assert len(together.hypermodel.calls) == num_calls + 3  # those of the other search
    check_equal(together, apart)
    assert list(reasons(together)) == ([] if does is None else [f"the hypermodel's own `fit` {does}"])


def test_what_fit_raises_comes_up_as_ever(tmp_path):
    class Fails(Usual):
        def fit(self, hp, model, *args, **kwargs):
            if hp.get("batch_size") == 8:
                raise ValueError("eight is too few")
            return super().fit(hp, model, *args, **kwargs)

    together, apart = both(tmp_path, Fails(), max_consecutive_failed_trials=9)
    for tuner in (together, apart):
        for trial in tuner.oracle.trials.values():
            failed = trial.hyperparameters.get("batch_size") == 8
            assert (trial.status == "FAILED") == failed and (not failed or "eight is too few" in trial.message)


class Interrupt(keras.callbacks.Callback):
    """Ctrl+C at the second epoch of a trial, once."""

    times = 0

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1 and Interrupt.times == 0:
            Interrupt.times += 1
            raise KeyboardInterrupt


def test_paused_trials_of_a_usual_fit_go_on_after_an_interruption(tmp_path):
    class Long(Usual):
        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, batch_size=hp.Choice("batch_size", [8, 16]), **kwargs)

    arguments = {"tuner": kt.Hyperband, "max_trials": 6, "max_epochs": 4, "factor": 2, "population_size": 2}
    Interrupt.times = 1
    whole = searched(tmp_path / "whole", Long(), data={"callbacks": [Interrupt()]}, **arguments)
    assert reasons(whole) == {} and {run.num_epochs for run in runs_of(whole).values()} > {4}
    Interrupt.times = 0
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "cut", Long(), data={"callbacks": [Interrupt()]}, **arguments)
    again = searched(tmp_path / "cut", Long(), data={"callbacks": [Interrupt()]}, **arguments)
    check_equal(again, whole, values=False)


def test_on_an_executor_it_is_called_for_each_training(tmp_path):
    tuner = kt.RandomSearch(
        Usual(), "val_loss", max_trials=1, directory=tmp_path, executor=kt.ProcessExecutor(workers=1)
    )
    assert "executor" in tuner._make_task((X, Y), {}).why_fit_alone
    tuner.close()


# run_trial -----------------------------------------------------------------------------------------------------------


class Run(kt.RandomSearch):
    """As KerasTuner's guide has it."""

    def run_trial(self, trial, *args, **kwargs):
        kwargs["batch_size"] = trial.hyperparameters.Choice("batch_size", [8, 16])
        kwargs["epochs"] = trial.hyperparameters.Int("epochs", 2, 4)
        kwargs["callbacks"] = [keras.callbacks.EarlyStopping(patience=trial.hyperparameters.Choice("patience", [2, 3]))]
        return super().run_trial(trial, *args, **kwargs)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return with_programs(both(tmp_path_factory.mktemp("run"), build, Run))


def test_a_usual_run_trial_trains_together_by_its_own_calls(run):
    (together, apart), programs = run
    check_equal(together, apart)
    assert not programs.reasons and sum(record.members for record in programs.records) == 6
    assert len(programs.records) == 2
    assert len({run.num_epochs for run in runs_of(together).values()}) > 1


def test_what_follows_a_usual_run_trial(run):
    found = []
    for tuner in run[0]:
        models = tuner.retrain(epochs=3, verbose=0)
        score = tuner.confirm(top=2, max_executions=6, proof_executions=0, verbose=0).score
        found.append([*models[0].get_weights(), np.array(score)])
        best = tuner.get_best_models(1)[0].evaluate(X[40:], Y[40:], verbose=0, return_dict=True)["loss"]
        assert best == pytest.approx(min(tuner.oracle.get_best_trials(1)[0].scores), rel=1e-3)
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    assert reasons(run[0][0]) == {}


def averaged(tuner, trial, results):
    return float(np.mean([min(result.history["val_loss"]) for result in results]))


def evaluated(tuner, trial, results):
    return {"val_loss": min(results[0].history["val_loss"]), "of mine": 1.0}


def noted(tuner, trial, results):
    tuner.latest = trial.trial_id  # a build function might read it
    return results


@pytest.mark.parametrize(
    ("then", "does"),
    [
        (averaged, "looks at what model.fit returns"),
        (evaluated, "looks at what model.fit returns"),
        (noted, "sets attributes of its object"),
    ],
)
def test_a_run_trial_that_does_more_runs_as_ever(tmp_path, capsys, then, does):
    calls = []

    class More(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            calls.append(trial.trial_id)
            size = trial.hyperparameters.Choice("batch_size", [8, 16])
            return then(self, trial, super().run_trial(trial, *args, batch_size=size, epochs=2, **kwargs))

    together, apart = both(tmp_path, build, More, max_trials=3, data={"verbose": 2})
    check_equal(together, apart)
    assert calls == ["0", *"012", *"012"]  # tried once
    assert reasons(together) == {f"More.run_trial {does}": ["0", "1", "2"]}
    assert f"{IN_TURN}, because More.run_trial is overridden." in capsys.readouterr().out


def test_a_run_trial_without_the_default_is_called_once(tmp_path):
    calls = []

    class Own(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            calls.append(trial.trial_id)
            return {"val_loss": trial.hyperparameters.get("rate")}

    searched(tmp_path, build, Own, max_trials=3)
    assert calls == ["0", "1", "2"]


def test_a_usual_run_trial_goes_on_after_an_interruption(tmp_path):
    class Longer(kt.RandomSearch):
        def run_trial(self, trial, *args, **kwargs):
            kwargs["batch_size"] = trial.hyperparameters.Choice("batch_size", [8, 16])
            return super().run_trial(trial, *args, **kwargs)

    data = {"callbacks": [Interrupt()], "epochs": 3}
    Interrupt.times = 1
    whole = searched(tmp_path / "whole", build, Longer, data=data, population_size=2)
    Interrupt.times = 0
    with pytest.raises(KeyboardInterrupt):
        searched(tmp_path / "cut", build, Longer, data=data, population_size=2)
    again = searched(tmp_path / "cut", build, Longer, data=data, population_size=2)
    check_equal(again, whole)
    assert reasons(again) == {}
