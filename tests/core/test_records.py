"""Records that the parts exchange."""

import math

import pytest

from manyfit.core.records import Ending, Observation, Plan, Progress


def test_only_what_trained_to_an_end_is_ranked():
    ranked = {ending for ending in Ending if ending.has_score}
    assert {Ending.COMPLETED, Ending.STOPPED} <= ranked
    assert not ranked & {Ending.DIVERGED, Ending.FAILED, Ending.TOO_LARGE, Ending.OUT_OF_MEMORY}


def test_endings_come_back_from_their_texts():
    assert all(Ending(str(ending)) is ending for ending in Ending)


def test_an_observation_without_score_is_the_worst():
    assert Observation("0", {}, Ending.FAILED, losses=(0.1,)).loss == math.inf
    assert Observation("0", {}, Ending.COMPLETED).loss == math.inf
    assert Observation("0", {}, Ending.COMPLETED, losses=(0.1, 0.3)).loss == pytest.approx(0.2)


def test_progress_counts_epochs_and_ignores_what_was_not_logged():
    progress = Progress("0", (math.nan, 0.5, 0.3), running=True)
    assert (progress.epochs, progress.paused) == (3, False)
    assert progress.best_loss() == 0.3 and progress.best_loss(2) == 0.5
    assert progress.best_loss(1) == math.inf
    assert Progress("0", (0.5,)).paused and not Progress("0", ending=Ending.COMPLETED).paused


def test_a_plan_is_named_by_trial_and_execution():
    assert Plan("7", 2, None, seed=1).key == ("7", 2)
