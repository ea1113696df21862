"""A search whose trials begin on a part of the rows, as users type it."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest

from manyfit.core.clock import Clock
from manyfit.core.errors import UsageError

rng = np.random.default_rng(0)
X = rng.normal(size=(256, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int32")
ROWS = {"validation_split": 0.25, "epochs": 1, "verbose": 0}


def linear(hp, **options):
    """One structure, whatever the values are."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    rate = hp.Float("learning_rate", 0.01, 1.0, sampling="log")
    model.compile(keras.optimizers.SGD(rate), "binary_crossentropy", **options)
    return model


def eager(hp):
    return linear(hp, run_eagerly=True)


def tuner_in(folder, kind=kt.RandomSearch, build=linear, rows=(64,), **options):
    options = {"max_trials": 3, "seed": 0, **options}
    return kind(build, "val_loss", directory=folder, scheduler=kt.RowHalving(rows), **options)


class Fit(kt.HyperModel):
    def build(self, hp):
        return linear(hp)

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.Choice("batch_size", [16, 32]), **kwargs)


@pytest.mark.parametrize("build", [linear, Fit()], ids=["plain", "a fit of its own"])
def test_the_best_of_three_is_trained_anew_on_all_rows(tmp_path, build):
    seen = []

    class Counts(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(self.params["steps"])

    tuner = tuner_in(tmp_path, build=build)
    options = {**ROWS, **({"batch_size": 32} if build is linear else {})}
    tuner.search(X, Y, callbacks=[Counts()], **options)
    trials = list(tuner.oracle.trials.values())
    assert sorted(trial.num_rows or 0 for trial in trials) == [0, 64, 64]
    (best,) = tuner.oracle.get_best_trials(3)
    assert best.num_rows is None and best.attempt == 1 and best.num_retries == 0
    rows = {row.trial_id: row for row in tuner.results()}
    assert {row.message for key, row in rows.items() if key != best.trial_id} == {"trained on 64 of 192 rows"}
    assert rows[best.trial_id].message is None and "tuner/rows" not in rows[best.trial_id].values
    # What it came to on fewer rows is what the report tells the use of more rows by.
    shares = [share for share, _ in kt.open_project(tuner.project_dir).trial(best.trial_id).by_rows]
    assert shares == [pytest.approx(64 / 192), 1.0]
    if build is linear:
        assert sorted(seen) == [2, 2, 2, 6]
        programs = tuner.programs()
        assert len(programs.records) == 1, programs  # numbers of rows are no part of a program
    assert tuner.remaining_trials == 0
    tuner.search(X, Y, **options)
    assert [trial.attempt for trial in tuner.oracle.trials.values()] == [trial.attempt for trial in trials]


def test_a_training_on_all_rows_that_has_no_time_takes_nothing_away(tmp_path):
    """What the trial came to on a part counts again, and stays where the project is opened anew."""
    tuner = tuner_in(tmp_path, build=eager, population=False)
    clock = Clock(1000.0)
    clock.start()
    is_over = []

    class Ends(keras.callbacks.Callback):
        trained = 0

        def on_train_begin(self, logs=None):
            Ends.trained += 1

        def on_train_batch_end(self, batch, logs=None):
            if Ends.trained == 4:  # the first one on all rows
                is_over.append(True)
                clock.left = lambda: 0.0

    with tuner.limited(clock):
        tuner.search(X, Y, callbacks=[Ends()], **ROWS)
    assert is_over
    trials = list(tuner.oracle.trials.values())
    assert [trial.num_rows for trial in trials] == [64] * 3 and all(trial.score is not None for trial in trials)
    assert len(tuner.oracle.get_best_trials(3)) == 3  # nothing else is there
    scores = [trial.score for trial in trials]
    tuner.close()
    again = tuner_in(tmp_path, build=eager, population=False)
    assert [trial.score for trial in again.oracle.trials.values()] == scores
    again.search(X, Y, **ROWS)  # and goes on where there is time
    assert again.oracle.get_best_trials(1)[0].num_rows is None


class Own(kt.RandomSearch):
    def run_trial(self, trial, *args, **kwargs):
        return 1.0


@pytest.mark.parametrize(
    ("data", "options", "kind", "said"),
    [
        ((X, Y), {"steps_per_epoch": 2, "validation_data": (X, Y)}, kt.RandomSearch, "steps_per_epoch"),
        ((X, Y), {"cross_validation": 3}, kt.RandomSearch, "folds"),
        ((X, Y), {}, Own, "run_trial"),
        ((X[:60], Y[:60]), {}, kt.RandomSearch, r"rows=\[64\] of 60"),
    ],
)
def test_what_has_no_parts_is_refused_before_anything_trains(tmp_path, data, options, kind, said):
    tuner = tuner_in(tmp_path, kind)
    with pytest.raises(UsageError, match=said):
        tuner.search(*data, epochs=1, verbose=0, **options)
    assert not tuner.oracle.trials
