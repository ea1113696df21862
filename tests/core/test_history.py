"""Rules about metrics over epochs."""

import math

from hypothesis import given
from hypothesis import strategies as st

from manyfit.core import history as histories
from manyfit.core.objective import Objective

NAN, INF = math.nan, math.inf


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=8))
def test_the_best_epoch_is_the_first_lowest_finite_one(losses):
    best = histories.best_epoch(losses)
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        assert best is None
    else:
        assert losses[best] == min(finite)
        assert all(loss != losses[best] for loss in losses[:best] if math.isfinite(loss))


def test_nan_at_the_first_epoch_does_not_poison_the_others():
    assert histories.score({"val_loss": [NAN, 0.5, 0.3, INF]}, Objective("val_loss", "min")) == (0.3, 2)


def test_the_score_has_the_metrics_own_sign():
    assert histories.score({"acc": [0.7, 0.9, 0.8]}, Objective("acc", "max")) == (0.9, 1)


def test_no_score_where_nothing_was_finite_or_measured():
    objective = Objective("val_loss", "min")
    assert histories.score({"val_loss": [NAN, INF]}, objective) is None
    assert histories.score({"loss": [1.0]}, objective) is None
    assert histories.score({}, objective) is None


def test_means_are_over_what_all_executions_have():
    assert histories.mean_metrics([{"loss": 1.0, "mae": 2.0}, {"loss": 3.0}]) == {"loss": 2.0}
    assert histories.mean_metrics([]) == {}


def test_appending_keeps_epochs_aligned():
    history = {}
    histories.append(history, {"loss": 1.0}, 0)
    histories.append(history, {"loss": 0.5, "val_loss": 0.7}, 1)
    histories.append(history, {"loss": 0.4}, 2)
    histories.append(history, {"loss": 0.3, "val_loss": 0.6}, 3)
    assert history == {"loss": [1.0, 0.5, 0.4, 0.3], "val_loss": [None, 0.7, None, 0.6]}


def test_metrics_at_an_epoch_leave_out_what_was_not_measured():
    history = {"loss": [1.0, 0.5], "val_loss": [None, 0.7], "late": [3.0]}
    assert histories.at_epoch(history, 0) == {"loss": 1.0, "late": 3.0}
    assert histories.at_epoch(history, 1) == {"loss": 0.5, "val_loss": 0.7}


def test_why_no_epoch_counts():
    accuracy = Objective("accuracy", "max")
    why = histories.why_diverged({"loss": [NAN, INF], "accuracy": [0.9, 0.8]}, accuracy)
    assert why == "the loss was not finite in any epoch that measured accuracy"
    assert histories.why_diverged({"loss": [1.0], "accuracy": [INF]}, accuracy) == "accuracy was never finite"
    assert histories.why_diverged({"loss": [NAN, 1.0], "accuracy": [0.9, 0.8]}, accuracy) is None
    assert histories.why_diverged({"loss": [NAN]}, accuracy) is None  # for the scorer to complain about
