"""Data that no trial could use are refused before the first one, and generators may not end."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from kinds_of_data import CASES, NUM_ROWS, Batches, W, X, Y, endless, new_tuner, once, refused
from marks import needs_jax
from tiny import four_parts

from manyfit.core.errors import FatalError
from manyfit.data.arguments import check_data
from manyfit.data.call import Call

pytestmark = needs_jax

OTHERS = {
    "finite generator": ((once((X, Y)),), {}),
    "finite generator to validate on": ((X, Y), {"validation_data": once((X, Y))}),
    "an iterator": ((iter([(X, Y)]),), {}),
    "a list of numbers as y": ((X, Y[:, 0].tolist()), {}),
    "texts": ((np.array([["a"] * 4] * NUM_ROWS), Y), {}),
    "objects": ((pd.DataFrame({"a": ["u", "v"] * 12}), Y), {}),
    "y beside a pipeline": ((Batches((X, Y)), Y), {}),
    "split of a pipeline": ((Batches((X, Y)),), {"validation_data": None, "validation_split": 0.2}),
    "split that leaves nothing": ((X, Y), {"validation_data": None, "validation_split": 0.99}),
    "endless without steps": ((endless((X, Y)),), {}),
    "class weights for several outputs": ((X, [Y, Y]), {"class_weight": {0: 2.0}}),
    "class weights of a generator": ((endless((X, Y)),), {"steps_per_epoch": 2, "class_weight": {0: 2.0}}),
    "both kinds of weights": ((X, Y), {"class_weight": {0: 2.0}, "sample_weight": W}),
    "validation data of four parts": ((X, Y), {"validation_data": (X, Y, W, W)}),
    "unlike lengths": ((X, Y[:7]), {}),
    "unlike weights": ((X, Y), {"sample_weight": W[:7]}),
}


@pytest.mark.parametrize(("args", "kwargs"), OTHERS.values(), ids=OTHERS)
def test_what_no_trial_could_use_is_refused(tmp_path, args, kwargs):
    tuner = new_tuner(CASES[0], tmp_path)
    refused(lambda: tuner.search(*args, **{"validation_data": (X, Y), "verbose": 0, **kwargs}), tuner)
    assert not tuner.oracle.trials


@pytest.mark.parametrize("population", [True, False])
def test_a_generator_that_promised_to_go_on_and_ends_ends_the_search(tmp_path, population):
    tuner = new_tuner(CASES[0], tmp_path, population=population)
    three = once((X, Y))  # 3 batches: enough for the first epoch, and then one is left
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(FatalError) as error:
            tuner.search(three, steps_per_epoch=2, epochs=2, validation_data=(X, Y), verbose=0)
    assert "after 3 batches" in four_parts(error.value)[1]
    assert not tuner.oracle.get_best_trials(2)


def test_frames_of_numbers_and_truth_values_are_taken():
    frame = pd.DataFrame({"a": np.arange(NUM_ROWS), "b": X[:, 0], "c": X[:, 1] > 0})
    check_data(Call((frame, Y)))
    check_data(Call((frame.assign(d="text"), Y[:, 0].tolist())), estimators=True)
    check_data(Call((np.array(["text"] * NUM_ROWS), Y)), takes_texts=True)


def test_retraining_refuses_the_same(tmp_path):
    tuner = new_tuner(CASES[0], tmp_path, max_trials=1)
    tuner.search(X, Y, validation_split=0.5, batch_size=8, epochs=1, verbose=0)
    for x, y in ((X, Y[:, 0].tolist()), (once((X, Y)), None), ("rows.csv", None), (X, Y[:7])):
        refused(lambda x=x, y=y: tuner.retrain(x=x, y=y, verbose=0), tuner)
