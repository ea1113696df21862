"""Arguments of searches: what is refused, and how it is said."""

import pytest
import tiny

import manyfit as kt
from manyfit.core.errors import ProjectError, UsageError
from manyfit.oracles.checks import check_same_search


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_trials", 0),
        ("max_trials", -1),
        ("max_trials", 2.5),
        ("max_trials", "ten"),
        ("max_trials", True),
        ("max_retries_per_trial", -1),
        ("max_retries_per_trial", None),
        ("max_consecutive_failed_trials", 0),
        ("max_seconds", 0),
        ("max_seconds", -1.0),
        ("max_seconds", float("nan")),
        ("max_seconds", "60"),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", "0"),
    ],
)
def test_a_wrong_limit_is_refused(name, value):
    with pytest.raises(UsageError, match=name) as caught:
        kt.Oracle(objective="loss", **{name: value})
    where, got, _, _ = tiny.four_parts(caught.value)
    assert name in where and got == repr(value)


@pytest.mark.parametrize("name", ["allow_new_entries", "tune_new_entries"])
def test_entries_are_forbidden_only_where_there_are_some(name):
    with pytest.raises(UsageError, match=f"{name}=False") as caught:
        kt.Oracle(objective="loss", **{name: False})
    assert "hyperparameters=" in tiny.four_parts(caught.value)[3]
    assert kt.Oracle(objective="loss", hyperparameters=tiny.space(), **{name: False}).hyperparameters.space


def test_the_same_search_is_let_in_and_another_is_told_both_ways_out():
    known = {"objective": "a", "sampler": "b"}
    check_same_search(known, dict(known))
    with pytest.raises(ProjectError, match="sampler b in the project, c asked for") as caught:
        check_same_search(known, {"objective": "a", "sampler": "c"})
    instead = tiny.four_parts(caught.value)[3]
    assert "construct the tuner as before" in instead and "overwrite=True" in instead
