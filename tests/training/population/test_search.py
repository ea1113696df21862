"""Population training as a user meets it: through `tuner.search`."""

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
from marks import needs_jax

import manyfit as kt
from manyfit.core.records import Ending
from manyfit.training.population.rounds import Rounds
from manyfit.training.population.rows_pass import RowsPass

pytestmark = needs_jax

FOLDERS = [str(folder) for folder in (Path(__file__).parent, Path(__file__).parents[2])]  # of this file, and of `marks`

RNG = np.random.default_rng(4)
X = RNG.normal(size=(60, 5)).astype("float32")
LABELS = (X[:, 0] > X[:, 1]).astype("int32")
Y = np.eye(2, dtype="float32")[LABELS]
FIT = {"epochs": 2, "batch_size": 16, "validation_data": (X[:21], Y[:21]), "verbose": 0}


def build(hp):
    model = keras.Sequential(
        [
            keras.layers.Input((5,)),
            keras.layers.Dense(4, activation="relu"),
            keras.layers.Dropout(hp.Float("dropout", 0.1, 0.5, step=0.1)),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    model.compile(
        keras.optimizers.AdamW(
            hp.Float("learning_rate", 1e-3, 1e-1, sampling="log"), weight_decay=hp.Float("decay", 1e-5, 1e-2)
        ),
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=hp.Float("smoothing", 0.05, 0.2)),
        metrics=["accuracy"],
    )
    return model


def search(project, trials, *, build=build, **options):
    tuner = kt.RandomSearch(build, "val_loss", max_trials=trials, seed=0, **options, **project)
    tuner.search(X, Y, **FIT)
    return tuner


def test_sixty_trials_over_scalars_compile_at_most_three_training_programs(project):
    tuner = search(project, 60)
    (record,) = tuner.programs().records
    assert record.members == 60
    assert record.compilations <= 3
    assert record.lifted >= 3
    assert not tuner.programs().reasons
    assert record.program in str(tuner.programs()) and "AdamW" in str(tuner.programs())


def test_a_learning_sampler_compiles_no_more(project):
    tuner = kt.Evolution(build, "val_loss", max_trials=24, seed=0, **project)
    tuner.search(X, Y, **FIT)
    (record,) = tuner.programs().records
    assert (record.members, record.compilations <= 3) == (24, True)


def test_best_models_reproduce_their_recorded_scores(project):
    tuner = search(project, 6)
    for trial, model in zip(tuner.oracle.get_best_trials(3), tuner.get_best_models(3), strict=True):
        found = model.evaluate(X[:21], Y[:21], batch_size=16, verbose=0, return_dict=True)
        best = int(np.argmin(trial.executions[0].history["val_loss"]))
        assert found["accuracy"] == trial.executions[0].history["val_accuracy"][best]
        assert found["loss"] == pytest.approx(trial.score, rel=1e-6)


def test_the_same_search_twice_is_the_same_search(project, tmp_path):
    first = search(project, 6)
    second = search({"directory": str(tmp_path), "project_name": "again"}, 6)
    assert [t.score for t in first.oracle.trials.values()] == [t.score for t in second.oracle.trials.values()]


def test_population_off_and_bounded(project, tmp_path):
    one_by_one = search(project, 3, population=False)
    assert "model.fit" in str(one_by_one.programs())
    alone = search({"directory": str(tmp_path), "project_name": "alone"}, 3, population_size=1)
    for one, other in zip(one_by_one.oracle.trials.values(), alone.oracle.trials.values(), strict=True):
        assert one.hyperparameters.values == other.hyperparameters.values
    (record,) = alone.programs().records
    assert record.members == 3


def test_memory_that_runs_out_halves_the_population_and_goes_on(project, monkeypatch, capsys):
    running, most = [], []
    honest = RowsPass.advance

    def limited(self, *arguments, **parts):
        running.append(1)
        try:
            most.append(len(running))
            if len(running) > 1:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.")
            return honest(self, *arguments, **parts)
        finally:
            running.pop()

    monkeypatch.setattr(RowsPass, "advance", limited)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=8, seed=0, **project)
    tuner.search(X, Y, **{**FIT, "verbose": 1})
    endings = [run.ending for trial in tuner.oracle.trials.values() for run in trial.executions.values()]
    assert endings == [Ending.COMPLETED] * 8
    if max(most) > 1:
        assert "out of memory with" in capsys.readouterr().out


def test_one_member_alone_that_needs_too_much_memory_is_an_ending(project, monkeypatch):
    def full(self, *arguments, **parts):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.")

    monkeypatch.setattr(RowsPass, "advance", full)
    tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, max_consecutive_failed_trials=9, **project)
    with pytest.raises(Exception, match=r"(o|O)ut of memory"):
        tuner.search(X, Y, **FIT)
    (first, *_) = tuner.oracle.trials.values()
    assert first.ending is Ending.OUT_OF_MEMORY


SCRIPT = """
    import collections, json, sys
    import jax
    counts = collections.Counter()
    jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
    sys.path[:0] = {folders!r}
    from test_search import X, Y, FIT, build
    import manyfit as kt
    tuner = kt.RandomSearch(build, "val_loss", max_trials=4, seed=0, directory={project!r}, overwrite=True)
    rows, held_out = map(int, sys.argv[1:])
    tuner.search(X[:rows], Y[:rows], **{{**FIT, "validation_data": (X[:held_out], Y[:held_out])}})
    print(json.dumps([counts["/jax/compilation_cache/cache_misses"], counts["/jax/compilation_cache/cache_hits"]]))
"""


def test_the_second_run_of_a_search_compiles_nothing_on_other_numbers_of_rows_either(tmp_path):
    script = textwrap.dedent(SCRIPT).format(folders=FOLDERS, project=str(tmp_path / "project"))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "KERAS_BACKEND": "jax"}
    environment.pop("MANYFIT_CACHE_DIR", None)
    counts = []
    for rows in (("60", "21"), ("58", "25")):  # the last batches of 16 have 12 and 5 rows, then 10 and 9
        command = [sys.executable, "-c", script, *rows]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        counts.append(json.loads(run.stdout.splitlines()[-1]))
    (first_misses, _), (second_misses, second_hits) = counts
    assert first_misses > 0
    assert (tmp_path / "cache" / "manyfit" / "programs").is_dir()
    assert second_misses == 0 and second_hits > 0


def test_models_of_trials_that_ended_are_gone(project):
    built = []

    def watched(hp):
        model = build(hp)
        built.append(weakref.ref(model))
        return model

    tuner = search(project, 24, build=watched)
    gc.collect()
    assert len(built) >= 24
    # What stays does not grow with the trials: what is resident for the next search is traces and programs.
    assert sum(reference() is not None for reference in built) <= 4
    del tuner


def test_members_go_on_while_further_ones_are_built(project, monkeypatch):
    """The thread that builds collects an epoch's end between two builds, not after all of them."""
    builds, collected, all_rounds = [], [], []
    original = Rounds.collect

    def collect(self, *, everything):
        found = original(self, everything=everything)
        if found:
            collected.append(len(builds))
        return found

    def started(self, batches, original=Rounds.start):
        all_rounds[:] = [self]
        original(self, batches)

    monkeypatch.setattr(Rounds, "collect", collect)
    monkeypatch.setattr(Rounds, "start", started)
    monkeypatch.setattr("manyfit.training.population.rounds.num_workers", lambda: 2)
    monkeypatch.setattr("manyfit.training.population.session.num_workers", lambda: 2)

    def slow_build(hp):
        builds.append(1)
        if all_rounds and not collected:  # members train: wait until an epoch of theirs has ended
            deadline = time.monotonic() + 60
            while not all_rounds[0].has_outcome and time.monotonic() < deadline:
                time.sleep(0.01)
            assert all_rounds[0].has_outcome
        return build(hp)

    tuner = kt.RandomSearch(slow_build, "val_loss", max_trials=40, seed=0, **project)
    tuner.search(X, Y, **FIT)
    assert collected[0] < 41  # one build explored the space
    assert len(tuner.oracle.trials) == 40
