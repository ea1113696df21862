"""What KerasTuner 1.4.8's algorithms and bookkeeping are weak at, each with the test that shows Manyfit without it."""

from __future__ import annotations

import contextlib
import gc
import weakref

import manyfit as kt  # isort: skip

import numpy as np
import pytest
import remote_work
import tiny

from manyfit.core.records import Ending, Observation
from manyfit.samplers.gp.data import collect
from manyfit.samplers.gp.kernels import Geometry
from manyfit.samplers.gp.model import fit
from manyfit.samplers.gp.sampler import GaussianProcessSampler
from manyfit.samplers.gp.surrogate import NoisePrior
from manyfit.schedulers import HyperbandScheduler
from manyfit.schedulers.base import Limits, Start
from manyfit.schedulers.rungs import rungs_of
from manyfit.space.encoding import Encoding
from manyfit.testing.executors import ThreadExecutor
from manyfit.testing.schedulers import FakeOracle
from manyfit.training import keras_fit


def continua(*names):
    """A space of numbers between 0 and 1."""
    hp = kt.HyperParameters()
    for name in names:
        hp.Float(name, 0.0, 1.0)
    return hp


def measured(space, count, loss):
    """Random trials of a space, with the loss that a function of their values gives them."""
    drawn = Encoding(space).random_many(count, np.random.default_rng(0))
    return [Observation(str(i), values, Ending.COMPLETED, (loss(values),)) for i, values in enumerate(drawn)]


# Random search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tuner", [kt.RandomSearch, kt.GridSearch])
def test_configurations_that_differ_only_in_what_they_do_not_use_count_once(tuner, project):
    """`units_1` with one layer is part of a configuration: the same model is trained again for each of its values."""
    hp = kt.HyperParameters()
    hp.Int("layers", 1, 2)
    hp.Int("units_0", 1, 2)
    with hp.conditional_scope("layers", [2]):
        hp.Int("units_1", 1, 2)
    search = tiny.numbers(lambda trial: 1.0, tuner, max_trials=20, seed=0, hyperparameters=hp, **project)
    search.search(verbose=0)
    used = [tuple(values[name] for name in ("units_0", "units_1")[: values["layers"]])
            for values in tiny.proposals(search)]  # fmt: skip
    assert sorted(used) == [(1,), (1, 1), (1, 2), (2,), (2, 1), (2, 2)]


# Bayesian optimisation -----------------------------------------------------------------------------------------


def test_each_hyperparameter_has_a_length_scale():
    """One length scale for all hyperparameters: those that do nothing count as much as those that decide."""
    space = continua("decides", "idle")
    evidence = collect(Encoding(space), measured(space, 24, lambda values: float(np.sin(6 * values["decides"]))))
    members = fit(evidence, Geometry(np.zeros(2, dtype=bool)), NoisePrior())
    for member in members:
        decides, idle, _ = member.surrogate.theta
        assert idle > decides + np.log(2)


@pytest.mark.parametrize("num_hyperparameters", [4, 12])
def test_the_model_decides_from_the_ninth_trial_at_the_latest(num_hyperparameters):
    """Three random trials per hyperparameter, fixed and inactive ones included: with four, ten trials have no model."""
    space = continua(*(f"x{i}" for i in range(num_hyperparameters)))
    for i in range(20):
        space.Fixed(f"fixed{i}", i)
    sampler = kt.oracles.BayesianOptimizationOracle("loss", hyperparameters=space).sampler

    def ninth(loss):
        return sampler.propose(space, measured(space, 8, loss), [], 1, np.random.default_rng(0))

    assert ninth(lambda values: values["x0"]) != ninth(lambda values: -values["x0"])


def test_a_hyperparameter_that_appears_while_trials_run_is_no_error():
    """Pending trials keep the dimensions of the last fit: "XA and XB must have the same number of columns"."""
    before, now = continua("x"), continua("x", "late")
    done, pending = measured(before, 8, lambda values: values["x"]), [{"x": 0.25}, {"x": 0.75}]
    [proposed] = GaussianProcessSampler().propose(now, done, pending, 1, np.random.default_rng(0))
    assert set(proposed) == {"x", "late"}


def test_a_model_that_was_never_fitted_can_have_pending_trials():
    """With pending trials the first fit imagines results of 0 + 1, whatever the objective's unit."""
    space = continua("x")
    done = measured(space, 8, lambda values: 1e6 + 1e5 * (values["x"] - 0.3) ** 2)
    [proposed] = GaussianProcessSampler().propose(space, done, [{"x": 0.9}], 1, np.random.default_rng(0))
    assert abs(proposed["x"] - 0.3) < 0.2  # a result of 1 at 0.9 would be the best by far, and draw others there


def test_an_interrupted_bayesian_search_proposes_what_a_whole_one_does(tmp_path):
    """The random state of the acquisition is not stored: a search that goes on starts from the same points again."""

    def search(name, dies_at=None):
        def run(trial):
            if trial.number == dies_at:
                raise KeyboardInterrupt
            return {"loss": (trial.hyperparameters.get("x") - 0.3) ** 2}

        tuner = tiny.numbers(
            run, kt.BayesianOptimization, objective="loss", max_trials=9, seed=0,
            hyperparameters=continua("x", "y"), directory=tmp_path, project_name=name,
        )  # fmt: skip
        with contextlib.closing(tuner):
            tuner.search(verbose=0)
        return tiny.proposals(tuner)

    with pytest.raises(KeyboardInterrupt):
        search("interrupted", dies_at=6)
    assert search("interrupted") == search("whole")


# Hyperband -----------------------------------------------------------------------------------------------------


def test_hyperband_searches_what_only_the_run_asks_for(project):
    """A space that is empty at the first question ends Hyperband with no trial."""
    tuner = tiny.numbers(
        lambda trial: {"loss": float(trial.hyperparameters.Int("n", 1, 4))},
        kt.Hyperband, objective="loss", max_epochs=4, seed=0, hyperparameters=kt.HyperParameters(), **project,
    )  # fmt: skip
    tuner.search(verbose=0)
    assert {values["n"] for values in tiny.proposals(tuner)} == {1, 2, 3, 4}


def test_trials_carry_the_number_of_their_own_bracket():
    """`tuner/bracket` says which bracket is the current one: wrong where brackets overlap."""
    oracle = FakeOracle(Limits(), slots=16)  # as many as to begin a bracket before the one in front of it is full
    oracle.run(lambda: HyperbandScheduler(9, 3))
    started = [job.tags["tuner/bracket"] for job in oracle.jobs if isinstance(job, Start)]
    assert {number: started.count(number) for number in (2, 1, 0)} == {
        number: rungs_of(9, 3, number)[0].num_trials for number in (2, 1, 0)
    }
    for job in oracle.jobs:
        rung = rungs_of(9, 3, job.tags["tuner/bracket"])[job.tags["tuner/round"]]
        assert rung.epochs == job.tags["tuner/epochs"] == job.target_epochs


# Bookkeeping ---------------------------------------------------------------------------------------------------


def test_recording_a_trial_costs_the_same_however_many_there_are(project):
    """`oracle.json`, with the ids and hashes of all trials, is written again three times per trial."""
    rows = []

    def run(trial):
        rows.append(tuner.store._connection.total_changes)
        return {"loss": 1.0}

    tuner = tiny.numbers(run, objective="loss", max_trials=30, seed=0, **project)
    tuner.search(verbose=0)
    changes = np.diff(rows)
    # After 8, 16, ... trials who leads is written down, too.
    assert changes.max() - changes.min() <= 1 and (changes > changes.min()).sum() == 2


def test_an_oracle_that_nobody_uses_is_gone():
    """Dicts of a module keep every oracle alive that was ever asked."""
    oracle = kt.oracles.RandomSearchOracle("loss", max_trials=2, hyperparameters=tiny.space())
    oracle.create_trial("tuner0")
    reference = weakref.ref(oracle)
    del oracle
    gc.collect()
    assert reference() is None


@pytest.mark.backends
def test_executions_leave_no_model_and_write_weights_once(project, rows, monkeypatch):
    """Histories keep the models of all executions alive; weights are written at every epoch that improves."""
    built, alive, written = [], [], []
    write = keras_fit.write_weights

    def build(hp):
        alive.append(sum(reference() is not None for reference in built))
        model = tiny.build(hp)
        built.append(weakref.ref(model))
        return model

    def counted(path, *arguments, **more):
        written.append(path)
        write(path, *arguments, **more)

    monkeypatch.setattr(keras_fit, "write_weights", counted)
    monkeypatch.setattr(keras_fit, "_LARGE", 1)  # every model counts as one whose memory is missed
    tuner = kt.RandomSearch(build, "loss", 1, 0, executions_per_trial=4, population=False, **project)
    alive.clear()
    tuner.search(*rows, epochs=4, verbose=0)
    assert len(alive) == 4 and max(alive[1:]) == 0  # the first one saw the model that the search space was found with
    assert len(written) == len(set(written)) == 4


def test_run_trial_on_an_executor_is_not_said_to_run_one_after_another(project, capsys):
    """The line about overrides belongs to searches in this process alone."""
    tuner = remote_work.Numbers(
        max_trials=3,
        executor=ThreadExecutor(2),
        objective="loss",
        hyperparameters=remote_work.space(),
        display="plain",
        **project,
    )
    tuner.search(verbose=2)
    tuner.close()
    shown = capsys.readouterr().out
    assert "Trial 3 Complete" in shown and "one after another" not in shown
