"""Importance of hyperparameters: Optuna's numbers, a closed form, and intervals that hold what is so."""

from __future__ import annotations

import math

import drawn_projects
import numpy as np
import pytest
import scipy.stats

from manyfit.report.importance import Column, importances, ranked_trials, raw_importances, top_size
from manyfit.report.ranges import searched_ranges
from manyfit.report.snapshot import Snapshot


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("importance") / "one"
    return Snapshot.of(drawn_projects.write(folder, drawn_projects.Drawn(trials=120, epochs=1)))


def raw_of(snapshot):
    ranked, ranges = ranked_trials(snapshot), searched_ranges(snapshot)
    columns = [Column.of(each, ranked) for each in ranges]
    raw = raw_importances(columns, np.arange(len(ranked)), top_size(len(ranked)), of_tried=True)
    return dict(zip((each.name for each in ranges), raw, strict=True))


@pytest.mark.parametrize("direction", ["max", "min"])
def test_the_numbers_are_those_of_optuna(direction, tmp_path):
    """Outside witness: `PedAnovaImportanceEvaluator` of Optuna, on the same trials, not normalised."""
    optuna = pytest.importorskip("optuna", reason="Optuna, the witness, is not installed")
    drawn = drawn_projects.Drawn(trials=120, epochs=1, direction=direction)
    snapshot = Snapshot.of(drawn_projects.write(tmp_path / "one", drawn))
    study = optuna.create_study(direction={"max": "maximize", "min": "minimize"}[direction])
    distributions = {
        "rate": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "units": optuna.distributions.IntDistribution(8, 128, step=8),
        "kind": optuna.distributions.CategoricalDistribution(["relu", "tanh"]),
        "idle": optuna.distributions.FloatDistribution(0.0, 0.5),
    }
    for number, trial in enumerate(snapshot.trials):
        if number % 3 == 0:  # a hyperparameter that is not always active
            del trial.values["idle"]
        active = {name: distributions[name] for name in trial.values}
        added = optuna.trial.create_trial(params=dict(trial.values), distributions=active, value=trial.score)
        study.add_trial(added)
    theirs = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.1).evaluate(study)
    assert raw_of(snapshot) == pytest.approx(theirs, rel=1e-6)


def test_a_choice_in_closed_form():
    """Of a choice of two, 3 to 1 among all and all of one kind among the best, with one trial's weight of the prior."""
    places = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    [found] = raw_importances([Column(places, 2, False)], np.arange(8), 2, of_tried=True)
    p_top = density([2, 0])
    p_all = density([6, 2])
    expected = (2 / 8) ** 2 * sum(a * (t / a - 1) ** 2 for t, a in zip(p_top, p_all, strict=True))
    assert found == pytest.approx(expected, rel=1e-9)


def density(counts):
    """A mixture: each kind's kernel is 1 at its own place and the prior's share everywhere, and a flat one."""
    known = [place for place, count in enumerate(counts) if count]
    prior = 1 / (len(known) + 1)
    total, whole = sum(counts), [0.0, 0.0]
    for place in known:
        kernel = [prior + (at == place) for at in range(2)]
        whole = [w + counts[place] * k / sum(kernel) for w, k in zip(whole, kernel, strict=True)]
    return [(w + 0.5) / (total + 1) for w in whole]


def test_a_number_is_a_mixture_of_scipys_truncated_normal_kernels():
    """Seven trials at four places of nine, the best two of them at the first."""
    places, size = np.array([2, 2, 3, 3, 3, 7, 8]), 9
    [found] = raw_importances([Column(places, size, True)], np.arange(7), 2, of_tried=True)
    p_top, p_all = (kernels(tried, size) for tried in (places[:2], places))
    assert found == pytest.approx((2 / 7) ** 2 * sum(p_all * (p_top / p_all - 1) ** 2), rel=1e-9)


def kernels(tried, size):
    deviation = tried.std(ddof=1)
    first, third = np.sort(tried)[[len(tried) // 4, min(len(tried) - 1, len(tried) * 3 // 4)]]
    width = max(1.059 * min((third - first) / 1.34, deviation) * len(tried) ** -0.2, 0.5 / 1.64)
    ends = np.arange(size + 1) - 0.5
    below = [scipy.stats.norm.cdf(ends, place, width) for place in tried]
    below.append(scipy.stats.norm.cdf(ends, (size - 1) / 2, size))
    return sum(np.diff(each) / (each[-1] - each[0]) for each in below) / len(below)


def test_what_decides_comes_first_and_what_does_nothing_is_no_more_than_chance(seen):
    found = {one.name: one for one in importances(seen)}
    assert next(iter(found)) == "rate" and found["rate"].by_chance <= 0.02
    assert math.fsum(one.share for one in found.values()) == pytest.approx(1.0)
    assert all(0 <= one.low <= one.share <= one.high <= 1 for one in found.values())
    assert found["rate"].low > found["idle"].high
    assert importances(seen) is importances(seen), "one snapshot is read once"


def test_shuffled_scores_look_as_important_as_often_as_they_should(tmp_path):
    """Under no effect `by_chance` is uniform: 5 % of 40 are 2, and 9 or more happen once in 4,000 such tests."""
    small = 0
    for seed in range(10):
        drawn = drawn_projects.Drawn(trials=40, epochs=1)
        snapshot = Snapshot.of(drawn_projects.write(tmp_path / str(seed), drawn, seed))
        scores = np.random.default_rng(seed).permutation([trial.score for trial in snapshot.trials])
        for trial, score in zip(snapshot.trials, scores, strict=True):
            object.__setattr__(trial, "score", float(score))
        small += sum(one.by_chance <= 0.05 for one in importances(snapshot))
    assert small < 9


def test_a_sampler_that_tries_little_else_than_what_is_good_hides_nothing(tmp_path):
    """Nine of ten trials at a good rate: among them it matters no more, over its range it does, and `idle` does not."""
    snapshot = Snapshot.of(drawn_projects.write(tmp_path / "one", drawn_projects.Drawn(trials=120, epochs=1)))
    for trial in snapshot.trials:
        if trial.number % 8:
            good = 0.008 * 1.5 ** (trial.values["idle"] - 0.25)
            trial.values["rate"] = good
            object.__setattr__(trial, "score", 0.92 + 0.0001 * (trial.number % 7))
    found = {one.name: one for one in importances(snapshot)}
    assert next(iter(found)) == "rate" and found["rate"].by_chance < 0.05
    assert found["rate"].share > 2 * found["idle"].share


def test_of_few_trials_nothing_is_said(tmp_path):
    assert importances(Snapshot.of(drawn_projects.write(tmp_path / "few", drawn_projects.Drawn(trials=9)))) == []
