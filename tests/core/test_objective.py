"""Objectives: direction, the one sign flip, what counts as not measured and as diverged."""

import math

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.core.objective import (
    MEASURES,
    DefaultObjective,
    MultiObjective,
    Objective,
    ParetoObjective,
    create_objective,
    measures_among,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(value=finite, direction=st.sampled_from(["min", "max"]))
def test_a_loss_turns_back_into_its_value(value, direction):
    objective = Objective("metric", direction)
    assert objective.value(objective.loss(value)) == value


@given(a=finite, b=finite)
def test_directions_are_mirror_images(a, b):
    assert Objective("m", "max").better_than(a, b) == Objective("m", "min").better_than(b, a) == (a > b)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("direction", ["min", "max"])
def test_what_is_not_finite_is_the_worst(value, direction):
    objective = Objective("m", direction)
    assert objective.loss(value) == math.inf
    assert not objective.better_than(value, 1e300) and not objective.better_than(value, -1e300)
    assert objective.better_than(-1e300, value) and objective.better_than(1e300, value)


def test_not_measured_is_told_from_diverged():
    losses = Objective("val_loss", "min").epoch_losses({"loss": [1.0, 2.0, 3.0], "val_loss": [None, math.nan, 0.5]})
    assert math.isnan(losses[0])
    assert losses[1:] == [math.inf, 0.5]


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("val_loss", "min"),
        ("val_accuracy", "max"),
        ("val_f1_score", "max"),
        ("val_r2_score", "max"),
        ("auc", "max"),
        ("mean_io_u", "max"),
    ],
)
def test_a_name_tells_its_direction(name, direction):
    assert create_objective(name) == Objective(name, direction)


def test_a_name_that_does_not_tell_is_refused_with_what_to_type():
    with pytest.raises(UsageError, match="Could not infer optimization direction") as caught:
        create_objective("val_spam")
    assert 'kt.Objective("val_spam", direction="max")' in tiny.four_parts(caught.value)[3]


def test_a_wrong_direction_is_refused():
    with pytest.raises(UsageError, match="'min', 'max'") as caught:
        Objective("val_loss", "minimise")
    tiny.four_parts(caught.value)


@pytest.mark.parametrize("wrong", [3, 1.5, object(), {"val_loss"}])
def test_another_type_is_refused(wrong):
    with pytest.raises(UsageTypeError, match="objective not understood, expected str") as caught:
        create_objective(wrong)
    tiny.four_parts(caught.value)


def test_an_empty_list_is_refused():
    with pytest.raises(UsageError, match="at least one") as caught:
        create_objective([])
    tiny.four_parts(caught.value)


def test_no_objective_minimises_a_number():
    objective = create_objective(None)
    assert isinstance(objective, DefaultObjective)
    assert (objective.name, objective.direction) == ("default_objective", "min")


def test_several_objectives_are_a_sum_to_be_minimised():
    objective = create_objective(["val_loss", Objective("speed", "max")], compat="keras_tuner")
    assert objective.names == ("val_loss", "speed")
    assert objective.get_value({"val_loss": 3.0, "speed": 5.0}) == -2.0
    assert not objective.has_value({"val_loss": 3.0})
    assert objective.epoch_losses({"val_loss": [3.0, 1.0], "speed": [5.0, None]})[0] == -2.0
    assert math.isnan(objective.epoch_losses({"val_loss": [3.0, 1.0], "speed": [5.0, None]})[1])


def test_a_sum_that_is_given_wins_over_its_terms():
    assert MultiObjective(["loss", "mae"]).get_value({"multi_objective": 7.0, "loss": 1.0, "mae": 1.0}) == 7.0


def test_texts_are_those_of_keras_tuner():
    assert str(Objective("val_loss", "min")) == 'Objective(name="val_loss", direction="min")'
    assert str(create_objective(["loss", "acc"], compat="keras_tuner")) == (
        'MultiObjective(name="multi_objective", direction="min"): '
        '[Objective(name="loss", direction="min"), Objective(name="acc", direction="max")]'
    )


def test_equality_and_hash():
    assert Objective("a", "min") != Objective("a", "max")
    assert create_objective(["loss", "acc"], compat="keras_tuner") == MultiObjective(
        [Objective("loss", "min"), Objective("acc", "max")]
    )
    sums = [create_objective(names, compat="keras_tuner") for names in (["loss", "acc"], ["acc", "loss"])]
    assert sums[0] == sums[1] and hash(sums[0]) == hash(sums[1])  # a sum has no order
    assert create_objective(["loss", "acc"]) != create_objective(["loss", "auc"])
    assert len({Objective("a", "min"), Objective("a", "min"), create_objective(["loss"])}) == 2


def test_a_list_is_a_sum_in_programs_written_for_keras_tuner(monkeypatch):
    assert isinstance(create_objective(["loss", "mae"]), ParetoObjective)
    monkeypatch.setattr("manyfit.core.environment.written_for_keras_tuner", True)
    assert isinstance(create_objective(["loss", "mae"]), MultiObjective)


def test_what_is_measured_once_is_not_asked_of_every_epoch():
    """A sum with a measured term, several objectives led by a measured one, and a measured one alone."""
    total = MultiObjective(["val_loss", "model_bytes"])
    assert total.has_value({"val_loss": 1.0}) and total.get_value({"val_loss": 1.0}) == 1.0
    assert not total.is_complete({"val_loss": 1.0})
    assert total.get_value({"val_loss": 1.0, "model_bytes": 8.0}) == 9.0
    several = ParetoObjective(["model_bytes", "val_accuracy"])
    assert (several.name, several.direction) == ("val_accuracy", "max")
    assert several.has_value({"val_accuracy": 0.5}) and not several.is_complete({"val_accuracy": 0.5})
    assert several.losses({"val_accuracy": 0.5}) == (math.inf, -0.5)
    assert not create_objective("num_parameters").has_value({"val_loss": 1.0})


def test_directions_of_measures_are_known():
    assert {create_objective(name).direction for name in MEASURES} == {"min"}


@pytest.mark.parametrize("objectives", [["loss"], ["loss", "loss"]])
def test_several_objectives_are_at_least_two(objectives):
    with pytest.raises(UsageError, match="two or more different objectives") as caught:
        ParetoObjective(objectives)
    tiny.four_parts(caught.value)


def test_what_trainers_have_to_measure_is_told_from_what_keras_logs():
    assert measures_among(["val_loss", *MEASURES, "accuracy"]) == tuple(MEASURES)
    assert measures_among(["val_loss"]) == ()
