"""Decompositions are identities; copies are called copies."""

import numpy as np
import pytest

from manyfit.ensemble.diversity import diversity, heat_map, log_decomposition, squared_decomposition
from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.pools import GeometricPool, LinearPool
from manyfit.ensemble.problem import make_problem


def probabilities(seed, shape):
    p = np.random.default_rng(seed).gamma(1.0, size=shape) + 1e-3
    return p / p.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
def test_squared_error_identity(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(80, 3))
    p = y + rng.normal(size=(6, 80, 3))
    weights = rng.dirichlet(np.ones(6))
    split = squared_decomposition(make_problem(p, y, sample_weight=rng.random(80)), weights)
    assert abs(split.pooled - (split.members - split.diversity)) < 1e-12
    assert split.diversity > 0


@pytest.mark.parametrize("geometric", [False, True])
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_log_loss_identity(task, geometric):
    rng = np.random.default_rng(7)
    if task == "multiclass":
        p, y = probabilities(0, (5, 90, 4)), rng.integers(0, 4, 90)
    else:
        columns = 1 if task == "binary" else 3
        p, y = rng.uniform(0.02, 0.98, (5, 90, columns)), rng.integers(0, 2, (90, columns))
    problem = make_problem(p, y, task=task, sample_weight=rng.random(90))
    weights = rng.dirichlet(np.ones(5))
    split = log_decomposition(problem, weights, geometric=geometric)
    assert abs(split.pooled - (split.members - split.diversity)) < 1e-12
    assert split.diversity > 0
    pooled = (GeometricPool if geometric else LinearPool)(weights)(problem.predictions, problem.task)
    assert split.pooled == pytest.approx(named_metric("log_loss").loss(pooled, problem), abs=1e-6)


def test_copies_are_named_and_others_are_not():
    p = probabilities(0, (2, 400, 3))
    y = np.random.default_rng(1).integers(0, 3, 400)
    nearly = p[:1] * np.exp(np.random.default_rng(2).normal(size=p[:1].shape) * 1e-3)
    nearly /= nearly.sum(axis=-1, keepdims=True)
    measured = diversity(make_problem(np.concatenate([p, nearly]), y))
    assert measured.copies.tolist() == [[False, False, True], [False, False, False], [True, False, False]]
    assert measured.q_statistic[0, 2] > 0.99


def test_q_statistic_by_hand():
    """Yule's Q of 4 rows: both right once, both wrong once, one of them twice: (1 * 1 - 1 * 1) / (1 + 1) = 0."""
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    first, second = [right, right, wrong, wrong], [right, wrong, right, wrong]
    measured = diversity(make_problem(np.array([first, second]), np.zeros(4, int)))
    assert measured.q_statistic[0, 1] == 0
    assert measured.disagreement[0, 1] == pytest.approx(0.5)


def test_values_have_correlation_but_no_q():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    e = rng.normal(size=200)
    measured = diversity(make_problem(np.stack([y + e, y + e, y + rng.normal(size=200)])[..., None], y))
    assert measured.q_statistic is None
    assert measured.copies[0, 1]
    assert not measured.copies[0, 2]
    assert measured.disagreement[0, 1] == pytest.approx(0, abs=1e-6)


def test_heat_map_is_well_formed():
    import xml.etree.ElementTree as tree

    svg = tree.fromstring(
        heat_map(np.array([[1, -0.5], [-0.5, 1]]), ["a<b", "trial 0007 with a long name"], "Q & more")
    )
    squares = svg.findall("{http://www.w3.org/2000/svg}rect")
    assert len(squares) == 4
    assert squares[1].find("{http://www.w3.org/2000/svg}title").text.endswith("-0.500")
