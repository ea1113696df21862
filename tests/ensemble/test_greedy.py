"""Greedy selection against a literal transcription of its description."""

import numpy as np
import pytest

from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.problem import make_problem
from manyfit.ensemble.weights.greedy import bagged_greedy_weights, greedy_path, greedy_weights, own_losses


def caruana(predictions, loss, num_steps, num_start=0):
    """Section 2 of Caruana et al. 2004, word by word.

    Start with the empty ensemble (2.3: or with the N best models); add the model that maximises the ensemble's
    performance to the hillclimb set, models may be added several times (2.2); repeat; return the ensemble with the
    best performance.
    """
    chosen = []
    path = []
    if num_start:
        order = sorted(range(len(predictions)), key=lambda i: loss(predictions[i]))[:num_start]
        sizes = [loss(np.mean([predictions[i] for i in order[: k + 1]], axis=0)) for k in range(len(order))]
        chosen = order[: int(np.argmin(sizes)) + 1]
        path = [(i, sizes[k]) for k, i in enumerate(chosen)]
    while len(chosen) < num_steps:
        results = [loss(np.mean([predictions[i] for i in [*chosen, new]], axis=0)) for new in range(len(predictions))]
        best = int(np.argmin(results))
        chosen.append(best)
        path.append((best, results[best]))
    return path


def classes(seed, num_members=9, num_rows=120, num_classes=4):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, num_classes, num_rows)
    logits = rng.normal(size=(num_members, num_rows, num_classes)) * rng.uniform(0.5, 2, (num_members, 1, 1))
    logits[:, np.arange(num_rows), y] += 1.5
    p = np.exp(logits)
    return p / p.sum(axis=-1, keepdims=True), y


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("num_start", [1, 5])
def test_log_loss_selection_is_the_literal_one(seed, num_start):
    p, y = classes(seed)
    problem = make_problem(p, y)
    theirs = caruana(p, lambda q: -np.log(q[np.arange(len(y)), y]).mean(), 25, 0 if num_start == 1 else num_start)
    ours = greedy_path(problem, named_metric("log_loss"), num_steps=25, num_start=num_start)
    assert [member for member, _ in ours] == [member for member, _ in theirs]
    np.testing.assert_allclose([loss for _, loss in ours], [loss for _, loss in theirs], rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_candidates_that_are_ruled_out_would_not_have_been_chosen(dtype):
    """Large enough for the bound and for float32, which only rule out: members and losses are the literal ones."""
    p, y = classes(0, num_members=40, num_rows=300)
    p = p.astype(dtype)
    problem = make_problem(p, y)
    ours = greedy_path(problem, named_metric("log_loss"), num_steps=25)
    p = problem.predictions.astype("float64")
    theirs = caruana(p, lambda q: -np.log(q[np.arange(len(y)), y]).mean(), 25)
    assert [member for member, _ in ours] == [member for member, _ in theirs]
    np.testing.assert_allclose(
        [loss for _, loss in ours], [loss for _, loss in theirs], rtol=1e-6 if dtype == "float32" else 1e-12
    )


@pytest.mark.parametrize("seed", range(6))
def test_squared_error_selection_is_the_literal_one(seed):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(150, 2))
    p = y + rng.normal(size=(8, 150, 2)) * rng.uniform(0.5, 1.5, (8, 1, 1))
    ours = greedy_path(make_problem(p, y), named_metric("mse"), num_steps=25)
    theirs = caruana(p, lambda q: ((q - y) ** 2).mean(), 25)
    assert [member for member, _ in ours] == [member for member, _ in theirs]
    np.testing.assert_allclose([loss for _, loss in ours], [loss for _, loss in theirs], rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_selection_by_any_metric_reaches_the_losses_of_the_literal_one(seed):
    """Mean absolute error has no shortcut, so every candidate is pooled."""
    rng = np.random.default_rng(seed)
    y = rng.normal(size=150)
    p = y + rng.normal(size=(7, 150)) * rng.uniform(0.5, 1.5, (7, 1))
    ours = greedy_path(make_problem(p[:, :, None], y), named_metric("mae"), num_steps=15)
    theirs = caruana(p, lambda q: np.abs(q - y).mean(), 15)
    assert [member for member, _ in ours] == [member for member, _ in theirs]


def test_ties_go_to_members_that_are_in_already():
    p, y = classes(0, num_members=3)
    copies = np.concatenate([p, p])  # six members, three of them twins
    weights = greedy_weights(make_problem(copies, y), named_metric("accuracy"), num_start=1)
    assert not any(weights[i] > 0 and weights[i + 3] > 0 for i in range(3))


def test_the_best_prefix_is_kept():
    p, y = classes(3)
    problem = make_problem(p, y)
    path = greedy_path(problem, named_metric("log_loss"), num_steps=25, num_start=5)
    weights = greedy_weights(problem, named_metric("log_loss"))
    pooled = np.tensordot(weights, p, axes=1)
    assert -np.log(pooled[np.arange(len(y)), y]).mean() == pytest.approx(min(loss for _, loss in path), abs=1e-12)


def test_row_weights_are_repeated_rows():
    p, y = classes(5)
    counts = np.random.default_rng(0).integers(1, 4, len(y))
    rows = np.repeat(np.arange(len(y)), counts)
    weighted = greedy_weights(make_problem(p, y, sample_weight=counts), named_metric("log_loss"))
    repeated = greedy_weights(make_problem(p[:, rows], y[rows]), named_metric("log_loss"))
    np.testing.assert_allclose(weighted, repeated, atol=1e-12)


def test_own_losses_are_those_of_the_metric():
    p, y = classes(1)
    problem = make_problem(p, y)
    for name in ("log_loss", "accuracy", "brier", "auc"):
        metric = named_metric(name)
        np.testing.assert_allclose(own_losses(problem, metric), [metric.loss(q, problem) for q in p], rtol=1e-12)


@pytest.mark.parametrize("name", ["log_loss", "accuracy", "f1"])
def test_bagging_spreads_weight_and_repeats_with_its_seed(name):
    p, y = classes(2)
    problem, metric = make_problem(p, y), named_metric(name)
    plain = greedy_weights(problem, metric)
    bagged = bagged_greedy_weights(problem, metric, np.random.default_rng(0))
    again = bagged_greedy_weights(problem, metric, np.random.default_rng(0))
    assert abs(bagged.sum() - 1) < 1e-12
    assert (bagged > 0).sum() >= (plain > 0).sum()
    np.testing.assert_array_equal(bagged, again)
