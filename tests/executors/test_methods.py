"""What a tuner can do here it can do on workers: schedulers, confirming, estimators, hooks of subclasses."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
import remote_work
import tiny

import manyfit as kt
from manyfit.testing.executors import ThreadExecutor


def curves(tuner):
    """Ending and curve of every execution."""
    return {
        (trial_id, number): (run.ending, run.history["val_loss"])
        for trial_id, trial in tuner.oracle.trials.items()
        for number, run in trial.executions.items()
    }


def rates(tuner):
    """The learning rate of every trial: its number names its values, whoever runs it."""
    return {trial_id: trial.hyperparameters.get("learning_rate") for trial_id, trial in tuner.oracle.trials.items()}


def searches(folder, executor, make, **fit_arguments):
    """The same search here and on an executor."""
    x, y = remote_work.rows()
    tuners = []
    for name, used in (("here", None), ("there", executor)):
        tuner = make(directory=folder, project_name=name, executor=used)
        tuner.search(x, y, validation_data=(x, y), verbose=0, **fit_arguments)
        tuners.append(tuner)
    return tuners


@pytest.mark.parametrize(
    ("scheduler", "lengths"),
    [(kt.ASHA(9), {1, 3, 9}), (kt.MedianRule(6, grace_epochs=2, min_trials=2), {2, 6})],
    ids=["asha", "median"],
)
def test_schedulers_decide_for_a_worker_as_they_do_here(tmp_path, scheduler, lengths):
    here, there = searches(
        tmp_path,
        ThreadExecutor(1),
        lambda **where: kt.RandomSearch(remote_work.build, "val_loss", 6, seed=0, scheduler=scheduler, **where),
    )
    there.close()
    expected, found = curves(here), curves(there)
    assert tiny.proposals(there) == tiny.proposals(here)
    assert {len(curve) for _, curve in expected.values()} == lengths, "the scheduler decided something"
    assert {key: ending for key, (ending, _) in found.items()} == {key: ending for key, (ending, _) in expected.items()}
    for key, (_, curve) in expected.items():
        np.testing.assert_allclose(found[key][1], curve, rtol=1e-5)


def test_hooks_of_batches_are_called_in_the_workers_and_asha_pauses_there(tmp_path):
    """Which trials are promoted depends on who is first; what an epoch of a trial brings does not."""
    x, y = remote_work.rows()
    notes = tmp_path / "notes"
    notes.mkdir()

    class Noting(remote_work.CountingBatches):
        folder = str(notes)

    there = Noting(
        remote_work.build,
        "val_loss",
        5,
        seed=0,
        directory=tmp_path,
        project_name="there",
        scheduler=kt.ASHA(4, factor=2),
        executor=kt.ProcessExecutor(workers=2),
    )
    fit_arguments = {"validation_data": (x, y), "batch_size": 8, "verbose": 0}
    there.search(x, y, **fit_arguments)
    there.close()
    here = kt.RandomSearch(
        remote_work.build, "val_loss", 5, seed=0, directory=tmp_path, project_name="here", population=False
    )
    here.search(x, y, epochs=4, **fit_arguments)
    assert rates(there) == rates(here)
    expected, found = curves(here), curves(there)
    for key, (_, curve) in found.items():
        np.testing.assert_allclose(curve, expected[key][1][: len(curve)], rtol=1e-4)
    lengths = {trial_id: len(curve) for (trial_id, _), (_, curve) in found.items()}
    assert max(lengths.values()) == 4 and min(lengths.values()) < 4
    calls = Counter[str]()
    for note in notes.iterdir():
        process, trial_id = note.name.split("-")
        assert int(process) != os.getpid()
        calls[trial_id] += len(note.read_text(encoding="ascii"))
    # A continuation that another worker was sooner with trains the first epochs again: more calls, never fewer.
    assert all(calls[trial_id] >= 3 * length for trial_id, length in lengths.items()), (calls, lengths)


def test_estimators_are_fitted_in_workers(tmp_path):
    here, there = searches(
        tmp_path,
        kt.ProcessExecutor(workers=2),
        lambda **where: kt.GridSearch(remote_work.estimator, "accuracy", **where),
    )
    there.close()
    assert tiny.scores(there) == tiny.scores(here) and len(tiny.scores(here)) == 4
    x, _ = remote_work.rows()
    best_here, best_there = (tuner.get_best_models(1)[0] for tuner in (here, there))
    np.testing.assert_array_equal(best_there.predict(x), best_here.predict(x))
