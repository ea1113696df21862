"""The table of usual hyperparameters: which names it knows, what it says, and where it keeps silent."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, truncnorm

from manyfit.samplers.base import Belief
from manyfit.samplers.beliefs import USUAL, Prior, first_values, usual_beliefs
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters


def a_space() -> HyperParameters:
    space = HyperParameters()
    space.Float("learning_rate", 1e-5, 1e-1, sampling="log")
    space.Int("units_1", 32, 512, step=32)
    space.Float("dropout", 0.0, 0.5)
    space.Choice("optimizer", ["sgd", "rmsprop", "adam"])
    space.Choice("batch_size", [16, 64, 256])
    space.Float("temperature", 0.0, 1.0)
    return space


def test_the_first_trial_is_not_the_lowest_corner() -> None:
    first = first_values(a_space(), usual_beliefs(a_space()))
    assert first == {
        "learning_rate": 1e-3,
        "units_1": 128,
        "dropout": 0.2,
        "optimizer": "adam",
        "batch_size": 64,
        "temperature": 0.0,  # nobody knows what that is
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", 1e-3),
        ("LearningRate", 1e-3),
        ("adam/learning-rate", 1e-3),
        ("sgd_lr", 1e-2),
        ("initial_learning_rate_2", 1e-3),
        ("weight_decay", 1e-4),
        ("lr_decay_steps_color", 1e-3),
    ],
)
def test_names_are_read_as_words(name: str, value: float) -> None:
    space = HyperParameters()
    space.Float(name, 1e-6, 0.5, sampling="log")
    (held,) = usual_beliefs(space)
    assert held.belief.value == pytest.approx(value) and held.reason in str(held)


def test_a_learning_rate_beside_a_momentum_is_that_of_sgd() -> None:
    space = HyperParameters()
    space.Float("learning_rate", 1e-5, 1.0, sampling="log")
    space.Float("momentum", 0.5, 0.99)
    assert usual_beliefs(space)[0].belief.value == 1e-2
    space.Choice("optimizer", ["sgd", "adam"])
    assert usual_beliefs(space)[0].belief.value == 1e-3  # it may be that of either, and the search begins with Adam


@pytest.mark.parametrize("name", ["color", "slr", "unit_price", "reactor", "layered"])
def test_names_that_only_look_alike_say_nothing(name: str) -> None:
    space = HyperParameters()
    space.Float(name, 1e-6, 0.5, sampling="log")
    assert usual_beliefs(space) == []


def test_the_user_knows_better() -> None:
    space = HyperParameters()
    space.Float("learning_rate", 0.1, 10.0, sampling="log")  # the table's value is not in it
    space.Float("dropout", 0.0, 0.9, default=0.6)
    space.Int("units", 8, 64)
    held = usual_beliefs(space, [Belief("units", 48)])
    assert [(each.belief.name, each.belief.value, each.reason) for each in held] == [
        ("dropout", 0.6, "your default"),
        ("units", 48, "your belief"),
    ]
    assert first_values(space, held) == {"learning_rate": 0.1, "dropout": 0.6, "units": 48}


def test_switches_and_texts_are_not_taken_for_numbers() -> None:
    space = HyperParameters()
    space.Boolean("dropout")
    space.Choice("layers", ["few", "many"])
    space.Float("momentum", -1.0, 1.0)
    space.Fixed("units", 7)
    assert usual_beliefs(space) == []


def test_a_name_of_two_meanings_says_nothing() -> None:
    space = HyperParameters()
    space.Choice("optimizer", ["sgd", "adam"])
    with space.conditional_scope("optimizer", "sgd"):
        space.Float("learning_rate", 1e-3, 1.0, sampling="log")
    with space.conditional_scope("optimizer", "adam"):
        space.Float("learning_rate", 1e-5, 1e-2, sampling="log")
    assert [each.belief.name for each in usual_beliefs(space)] == ["optimizer"]


def test_every_line_of_the_table_has_its_reason_and_is_reached() -> None:
    for usual in USUAL:
        assert len(usual.reason) > 10
        space = HyperParameters()
        if usual.values and isinstance(usual.values[0], str):
            space.Choice(usual.names[0], ["other", *(str(each) for each in usual.values)])
        else:
            space.Float(usual.names[0], 1e-6, 1.0 if usual.most <= 1.0 else 256.0, sampling="log")
        (held,) = usual_beliefs(space)
        assert held.reason == usual.reason and 0 < held.belief.spread <= 0.35


def test_statistical_prior_is_a_normal_that_is_cut_off_and_categories_have_their_share() -> None:
    """Against SciPy's truncated normal; alpha 1e-4 each."""
    space = HyperParameters()
    space.Float("rate", 0.0, 1.0)
    space.Choice("kind", ["a", "b", "c"])
    space.Float("other", 0.0, 1.0)
    prior = Prior(Encoding(space), [Belief("rate", 0.9, spread=0.2), Belief("kind", "b")])
    points = prior.through(np.random.default_rng(5).random((4000, 3)))
    witness = truncnorm((0.0 - 0.9) / 0.2, (1.0 - 0.9) / 0.2, loc=0.9, scale=0.2)
    assert kstest(points[:, 0], witness.cdf).pvalue > 1e-4
    assert np.mean(points[:, 1] == 0.5) == pytest.approx(1.0 / 1.4, abs=0.03)
    assert kstest(points[:, 2], "uniform").pvalue > 1e-4
