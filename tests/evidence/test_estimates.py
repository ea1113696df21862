"""What configurations will score on fresh seeds and rows: covered as often as stated, by three named sources."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.evidence.estimates import Measured, Told, estimates
from manyfit.stats.intervals import Scale

NUM_ROWS = 300
UNIT = 1 / np.sqrt(NUM_ROWS)  # about a run's noise by the rows


def searches(rng, *, num_trials, runs, repeats, terrible=0.1):
    """(truths, losses (trials, runs, rows)): run 0 is the search's; a tenth of the trials is far off."""
    for _ in range(repeats):
        truths = 0.5 * UNIT * rng.normal(size=num_trials) + 50 * UNIT * (rng.random(num_trials) < terrible)
        common = rng.lognormal(size=NUM_ROWS) - np.exp(0.5)
        own = 0.7 * rng.normal(size=(num_trials, 1, NUM_ROWS))
        seeds = 0.7 * UNIT * rng.normal(size=(num_trials, runs, 1))
        rest = 0.7 * rng.normal(size=(num_trials, runs, NUM_ROWS))
        yield truths, truths[:, None, None] + common + own + seeds + rest


def found_in(losses, num_finalists, **options):
    searched = losses[:, 0].mean(axis=1)
    chosen = np.argsort(searched)[:num_finalists]
    runs = [Measured(losses[i].mean(axis=1), losses[i]) for i in chosen]
    return chosen, estimates(searched, runs, search_rows=losses[:, 0], **options)


@pytest.mark.parametrize("num_trials", [5, 40])
def test_the_interval_of_the_best_covers_and_its_centre_is_not_too_good(num_trials):
    rng = np.random.default_rng(num_trials)
    covered, errors, naive = [], [], []
    for truths, losses in searches(rng, num_trials=num_trials, runs=4, repeats=150):
        chosen, found = found_in(losses, min(4, num_trials))
        best, truth = found.finalists[found.best], truths[chosen[found.best]]
        interval = best.interval()
        covered.append(interval.low <= truth <= interval.high)
        errors.append((best.mean - truth) / found.noise)
        naive.append((losses[chosen[0], 0].mean() - truths[chosen[0]]) / found.noise)
    # 150 draws at 93 %: fewer than 129 have a probability of 1 in 1,000.
    assert sum(covered) >= 129
    assert abs(np.mean(errors)) <= 0.4 + 2 * np.std(errors) / np.sqrt(150)
    assert np.mean(naive) < -0.4  # while the search's own score is too good by more


def test_a_prediction_for_new_rows_covers_what_new_models_score_there():
    rng = np.random.default_rng(1)
    covered = []
    for truths, losses in searches(rng, num_trials=30, runs=4, repeats=150):
        chosen, found = found_in(losses, 2)
        best, truth = found.finalists[0], truths[chosen[0]]
        fresh = truth + np.mean(rng.lognormal(size=100) - np.exp(0.5) + np.sqrt(0.98) * rng.normal(size=100))
        interval = best.interval(rows=100)
        covered.append(interval.low <= fresh + 0.7 * UNIT * rng.normal() <= interval.high)
    assert sum(covered) >= 129
    wide, narrow = best.interval(rows=100), best.interval()
    assert wide.low < narrow.low < narrow.high < wide.high


def test_terrible_trials_say_nothing_about_luck():
    rng = np.random.default_rng(2)
    _, losses = next(searches(rng, num_trials=30, runs=3, repeats=1, terrible=0.0))
    _, plain = found_in(losses, 3)
    losses[-3:] += 1e6 * (np.argsort(np.argsort(losses[-3:, 0].mean(axis=1))) > -1)[:, None, None]
    spoilt = np.append(losses[:-3, 0].mean(axis=1), [1e6, np.inf, np.nan])
    runs = [Measured(losses[i].mean(axis=1), losses[i]) for i in np.argsort(spoilt)[:3]]
    found = estimates(spoilt, runs)
    assert found.luck_of_best > 0.3 * plain.luck_of_best > 0


def halved(rng, *, repeats):
    """Truths and losses (4, 5 runs, rows) of the four of forty that a rung let through, not least by luck with rows."""
    for truths, losses in searches(rng, num_trials=40, runs=6, repeats=repeats, terrible=0.0):
        # The rung has seen the same rows, with another run's luck: what gets through is lucky with the rows.
        through = np.argsort(losses[:, 5].mean(axis=1))[:4]
        yield truths[through] - truths.mean() + 1.0, losses[through, :5] - losses[:, :5].mean() + 1.0


def test_trials_that_were_stopped_early_tell_how_lucky_the_others_are():
    """Four full scores alone hide that they are the best of forty; scores of fewer epochs are not needed for that."""
    errors = {0: [], 36: []}
    for truths, losses in halved(np.random.default_rng(7), repeats=60):
        searched = losses[:, 0].mean(axis=1)
        runs = [Measured(table.mean(axis=1), table) for table in losses]
        for stopped, found in errors.items():
            told = estimates(searched, runs, search_rows=losses[:, 0], stopped=stopped)
            found.append((told.finalists[told.best].mean - truths[told.best]) / told.noise)
    alone, together = np.mean(errors[0]), np.mean(errors[36])
    assert alone < -0.6 and abs(together) < 0.4


def test_a_single_run_has_seeds_unknown_and_a_finite_interval():
    rng = np.random.default_rng(3)
    _, losses = next(searches(rng, num_trials=10, runs=1, repeats=1))
    _, found = found_in(losses, 2)
    for each in found.finalists:
        assert each.seeds_error is None and each.rows_error > 0 and each.num_runs == 1
        assert np.isfinite(each.interval().half_width)


def test_where_rows_are_unknown_it_is_said_and_not_hidden():
    values = np.random.default_rng(4).normal(0.3, 0.01, size=(12, 4))
    found = estimates(values[:, 0], [Measured(values[i]) for i in range(2)])
    one = found.finalists[0]
    assert one.rows_error is None and one.num_rows is None and one.seeds_error > 0
    assert np.isfinite(one.interval().half_width)  # over seeds, on these rows
    with pytest.raises(UsageError, match="rows are unknown"):
        one.interval(rows=100)
    nothing = estimates(values[:, 0], [Measured(values[0, :1])]).finalists[0]
    assert nothing.interval() is None and nothing.seeds_error is None


def test_scores_to_be_maximised_stay_inside_their_bounds():
    rng = np.random.default_rng(5)
    right = rng.random((10, 4, 20)) < np.linspace(0.9, 1.0, 10)[:, None, None]
    losses = -right.astype(float)
    best = losses[-1]
    found = estimates(losses[:, 0].mean(axis=1), [Measured(best.mean(axis=1), best)], told=Told("max", Scale.WILSON))
    one = found.finalists[0]
    assert one.measured == right[-1].mean() and one.mean <= one.measured
    interval = one.interval(rows=50)
    assert 0 < interval.low < interval.high <= 1


def test_a_constant_metric_and_five_rows():
    constant = np.full((3, 2, 5), 0.25)
    [one] = estimates(constant[:, 0].mean(axis=1), [Measured(constant[0].mean(axis=1), constant[0])]).finalists
    assert one.mean == 0.25 and one.interval().half_width == 0 and one.seeds_error == 0
    rows = np.random.default_rng(6).random((8, 3, 5))
    [five] = estimates(rows[:, 0].mean(axis=1), [Measured(rows[0].mean(axis=1), rows[0])]).finalists
    assert five.num_rows == 5 and np.isfinite(five.interval().half_width)


def test_runs_without_a_score_are_left_out():
    values = [0.3, np.inf, 0.32, np.nan]
    [one] = estimates([0.3, 0.4], [Measured(values)]).finalists
    assert one.measured == pytest.approx(0.31) and one.num_runs == 2
    with pytest.raises(UsageError, match="without a finite loss"):
        estimates([0.3], [Measured([np.inf])])
