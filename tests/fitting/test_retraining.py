"""When a model that has trained on all rows may replace one that has not."""

from __future__ import annotations

from types import SimpleNamespace

import keras
import numpy as np

from manyfit.core.objective import Objective
from manyfit.data.rows import Rows
from manyfit.fitting.retraining import recipe_fails, worse_on_rows
from manyfit.store.facts import Leader

LOSS = Objective("val_loss", "min")


def trial_with(own, fresh):
    runs = {number: SimpleNamespace(score=score) for number, score in enumerate(fresh)}
    return SimpleNamespace(trial_id="7", executions={0: SimpleNamespace(score=own)}, executions_of=lambda phase: runs)


def test_a_recipe_that_is_as_good_on_fresh_seeds_holds():
    assert recipe_fails(trial_with(0.50, [0.48, 0.52, 0.53]), LOSS, None) is None


def test_one_that_was_lucky_does_not():
    assert "worse by 0.11 ± 0.01 than the model in hand" in recipe_fails(trial_with(0.50, [0.60, 0.62]), LOSS, None)


def test_the_luck_of_the_choice_is_taken_off():
    """A leader that is too good by .1 is expected to be as good as those fresh runs."""
    leader = Leader("7", 0.50, 20, luck=0.1)
    assert recipe_fails(trial_with(0.50, [0.60, 0.62]), LOSS, leader) is None
    assert recipe_fails(trial_with(0.50, [0.60, 0.62]), LOSS, Leader("8", 0.50, 20, luck=0.1)) is not None


def test_of_one_fresh_run_nothing_is_concluded():
    assert "fewer than 2 fresh seeds" in recipe_fails(trial_with(0.50, [0.40]), LOSS, None)


def test_a_model_that_is_worse_on_rows_that_it_has_trained_on_is_not_used():
    x = np.arange(6, dtype="float32")[:, None]

    def model(slope):
        found = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        found.set_weights([np.float32([[slope]])])
        found.compile("sgd", "mse")
        return found

    rows = Rows(x, 2 * x)
    assert worse_on_rows(model(2.0), model(1.0), rows, LOSS) is None
    assert "is worse on them (9.167 against 0)" in worse_on_rows(model(1.0), model(2.0), rows, LOSS)
