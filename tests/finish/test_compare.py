"""Two methods against each other: what is compared, what an interval covers, what is refused."""

from __future__ import annotations

import itertools
import math

import keras
import numpy as np
import pytest
import tiny

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.evidence.test_rows import Look, Looks, MeasuredModel, RowSet
from manyfit.finish.compare import _ENOUGH, _MEANINGFUL

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 3)).astype("float32")
FOLDER = itertools.count()


def project(folder, score, *, seed=0, objective="val_accuracy", trials=3, losses=None, rows=X, prints=None):
    """A closed project in which the best of some trials has this score, and a model was looked at on test rows."""
    direction = kt.Objective(objective, "max" if objective == "val_accuracy" else "min")
    run = lambda trial: {objective: score if trial.trial_id == "0" else (0.0 if direction.direction == "max" else 9.0)}  # noqa: E731
    tuner = tiny.numbers(
        run, objective=direction, max_trials=trials, seed=seed, directory=folder, project_name=f"p{next(FOLDER)}"
    )
    tuner.search(verbose=0)
    if prints is not None:
        tuner.store.put(searched_data=[{"first_trial": 0, "prints": prints}])
    if losses is not None:
        kept, order = RowSet.ordered(rows)
        name = objective.removeprefix("val_")
        model = MeasuredModel(
            str(tuner.project_dir), {name: losses.mean()}, {}, {name: (losses - losses.mean())[order]}
        )
        Looks(tuner.store).add(Look(f"d{next(FOLDER)}", kept, {"winner": model}, 0.95))
    tuner.close()
    return tuner.project_dir


def test_methods_are_compared_by_folders_alone_one_search_per_seed(tmp_path):
    a = [project(tmp_path, 0.90 + 0.01 * seed, seed=seed) for seed in range(4)]
    b = [project(tmp_path, 0.88 + 0.01 * seed + 0.002 * (seed % 2), seed=seed) for seed in range(4)]
    found = kt.compare(a, b, names=("bayes", "random"))
    differences = np.array([0.02, 0.018, 0.02, 0.018])
    assert found.kind == "search" and found.difference.estimate == pytest.approx(differences.mean())
    reach = 3.182446 * differences.std(ddof=1) / 2  # Student's t of 3 degrees
    assert found.difference.half_width == pytest.approx(reach, rel=1e-5)
    assert found.better == "bayes" and found.wins.estimate == 1.0 and 0.3 < found.wins.low < 0.6
    said = str(found)
    assert "bayes is better on other seeds (95%)" in said and "the best of up to 3 noisy ones" in said
    assert "Varied between repetitions: the seed of the search" in said


def test_losses_are_better_when_they_are_smaller(tmp_path):
    a = [project(tmp_path, 0.3 + 0.01 * seed, seed=seed, objective="val_loss") for seed in range(3)]
    b = [project(tmp_path, 0.5 + 0.012 * seed, seed=seed, objective="val_loss") for seed in range(3)]
    found = kt.compare(a, b)
    assert found.difference.high < 0 and found.better == "a" and found.wins.estimate == 1.0


def test_on_common_test_rows_the_interval_covers_other_rows_too(tmp_path):
    """Equal on fresh rows, but these rows suit a: seeds alone call it better, seeds and rows do not."""
    rng = np.random.default_rng(3)
    rows_suit = rng.normal(size=200)
    rows_suit += 0.09 - rows_suit.mean()
    a = [project(tmp_path, 0.9, seed=s, losses=rows_suit + 0.02 * rng.normal(size=200)) for s in range(4)]
    b = [project(tmp_path, 0.9, seed=s, losses=0.02 * rng.normal(size=200)) for s in range(4)]
    found = kt.compare(a, b)
    assert found.kind == "held-out" and found.metric == "accuracy" and found.covers == "rows"
    differences = found.scores[:, 0] - found.scores[:, 1]
    assert differences.mean() / (differences.std(ddof=1) / 2) > 10, "seeds alone are sure of it"
    assert found.better is None and found.difference.half_width == pytest.approx(1.97 * 1 / math.sqrt(200), rel=0.15)
    assert "Neither is shown to be better on other seeds and other rows" in str(found)
    assert "the same in all: test rows" in str(found)


def test_where_test_rows_are_drawn_anew_for_each_seed_repetitions_cover_them(tmp_path):
    rng = np.random.default_rng(5)
    a, b = [], []
    for seed in range(5):
        rows, common = rng.normal(size=(100, 3)), rng.normal(size=100)
        a.append(project(tmp_path, 0.9, seed=seed, losses=common + 0.5, rows=rows))
        b.append(project(tmp_path, 0.9, seed=seed, losses=common + 0.1 * rng.normal(size=100), rows=rows))
    found = kt.compare(a, b)
    assert found.kind == "held-out" and found.covers == "" and found.better == "a"
    assert "test rows" in found.varied


def test_a_difference_that_did_not_vary_is_no_proof(tmp_path):
    a, b = ([project(tmp_path, score, seed=seed) for seed in range(2)] for score in (0.9, 0.8))
    found = kt.compare(a, b)
    assert found.better is None and "how much it varies was not seen" in str(found)


def test_one_search_each_says_nothing_of_methods(tmp_path):
    losses = RNG.normal(size=200)
    a, b = project(tmp_path, 0.9, losses=losses + 0.3), project(tmp_path, 0.8, losses=losses)
    found = kt.compare(a, b)
    assert "One search each" in str(found) and "says nothing of the methods" in str(found)
    assert kt.compare(project(tmp_path, 0.9), project(tmp_path, 0.8)).better is None


def test_what_differs_besides_the_method_is_told(tmp_path):
    a = [project(tmp_path, 0.9, seed=s, trials=6, prints={"training": "t", "validation": "v"}) for s in (0, 1)]
    b = [project(tmp_path, 0.8, seed=s + 2, prints={"training": "other", "validation": "v"}) for s in (0, 1)]
    said = str(kt.compare(a, b))
    assert "Not at equal budget: a took 6 trials, b 3" in said
    assert "not trained on the same rows" in said and "Seeds differ within pairs" in said


def test_what_cannot_be_compared_is_refused(tmp_path):
    accuracy, loss = project(tmp_path, 0.9), project(tmp_path, 0.2, objective="val_loss")
    v, w = (project(tmp_path, 0.9, prints={"training": "t", "validation": name}) for name in "vw")
    empty = tiny.numbers(lambda trial: 1 / 0, max_trials=1, directory=tmp_path, project_name="empty")
    cases = [
        (([accuracy], [loss]), "one objective for both"),
        (([accuracy, v], [w]), "as many of each"),
        ((accuracy, accuracy), "twice"),
        (([accuracy, project(tmp_path, 0.8)], [project(tmp_path, 0.8), project(tmp_path, 0.8, seed=1)]), "seed 0"),
        ((v, w), "validated on different rows"),
        ((accuracy, tmp_path / "nowhere"), "no project"),
        ((accuracy, empty), "no trial was completed"),
    ]
    for projects, words in cases:
        with pytest.raises(UsageError, match=words) as error:
            kt.compare(*projects)
        tiny.four_parts(error.value)
    empty.close()


def test_so_many_repetitions_are_enough_as_noether_has_it():
    """The number that is printed: Noether 1987, eq. 4, for P = .75 with both errors 5 %."""
    z = 1.6448536
    assert math.ceil((2 * z / (math.sqrt(6) * (0.5 - _MEANINGFUL))) ** 2) == _ENOUGH


@pytest.mark.filterwarnings("ignore:__array__ implementation")
def test_searches_of_nets_as_a_user_compares_them(tmp_path):
    y = (X[:, :1] + 0.5 * RNG.normal(size=(200, 1)) > 0).astype("float32")
    train, validation, test = slice(0, 80), slice(80, 120), slice(120, 200)
    tuners = {"wide": [], "narrow": []}
    for name, rate in (("wide", 0.5), ("narrow", 1e-4)):
        for seed in range(2):

            def build(hp, rate=rate):
                model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
                hp.Int("units", 1, 4)
                model.compile(keras.optimizers.SGD(rate), "binary_crossentropy", metrics=["accuracy"])
                return model

            tuner = kt.RandomSearch(
                build, "val_loss", max_trials=2, seed=seed, directory=tmp_path, project_name=f"{name} {seed}"
            )
            tuner.search(
                X[train], y[train], validation_data=(X[validation], y[validation]), epochs=8, batch_size=20, verbose=0
            )
            tuner.evaluate(X[test], y[test])
            tuners[name].append(tuner)
    found = kt.compare(*tuners.values(), names=("wide", "narrow"))
    assert found.kind == "held-out" and found.covers == "rows" and found.better == "wide"
    assert found.fixed == ("training rows", "validation rows", "test rows")
    for tuner in itertools.chain(*tuners.values()):
        tuner.close()
