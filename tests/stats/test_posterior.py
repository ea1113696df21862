import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.stats.noise import row_noise
from manyfit.stats.posterior import good_half, posterior_grid, search_posterior
from manyfit.stats.posterior_grid import _tails

LOSSES = [0.1, 0.5, 0.9, 1.4, 1.5, 2.0, 2.6, 3.0, 9.0, math.inf]


def laws(omega):
    """(chance, [(weight, variance of truths besides tau^2, variance of luck)]) as `posterior_grid` states them."""
    edges = np.array([0.0, 0.02, 0.1, 0.3, 0.6, 1.0])
    heavy = 3 / scipy.stats.chi2(3).ppf((edges[1:] + edges[:-1]) / 2)
    heavy = omega**2 * heavy / (np.diff(edges) @ heavy)
    yield 0.4, [(1.0, 0.0, omega**2)]
    yield 0.35, [(weight, 0.0, luck) for weight, luck in zip(np.diff(edges), heavy, strict=True)]
    yield 0.25, [(0.9, 0.0, omega**2), (0.1, 6 * omega**2, omega**2)]


def test_the_posterior_mean_is_that_of_a_fine_integral():
    # 9 and infinity lie far beyond the best quarter: hopeless. The better half of the others is seen.
    y, omega = np.sort(LOSSES)[:8], 0.8
    seen, cut = y[:4], y[3]
    reach = cut - y[0]
    m, tau = np.linspace(cut - 1.5 * reach, cut + 1.5 * reach, 300)[:, None], np.linspace(0, 2.5 * reach, 301)[1:]
    moments = np.zeros(3)
    for chance, parts in laws(omega):
        scales = [(weight, np.sqrt(tau**2 + truths + luck)) for weight, truths, luck in parts]

        def density(at, scales=scales):
            return sum(weight * scipy.stats.norm.pdf(at, m, scale) for weight, scale in scales)

        above = sum(weight * scipy.stats.norm.sf(cut, m, scale) for weight, scale in scales)
        others = np.prod([density(at) for at in seen[1:]], axis=0) * above ** (y.size - seen.size)
        prior = chance / (1 + (tau / (0.75 * omega)) ** 2)
        for weight, truths, luck in parts:
            spread = tau**2 + truths
            own = weight * scipy.stats.norm.pdf(y[0], m, np.sqrt(spread + luck)) * others * prior
            share = spread / (spread + luck)
            mean, variance = m + share * (y[0] - m), share * luck
            moments += [own.sum(), (own * mean).sum(), (own * (mean**2 + variance)).sum()]
    total, first, second = moments
    found = search_posterior(LOSSES, omega).finalists[0]
    assert found.mean == pytest.approx(first / total, abs=0.03 * omega)
    assert found.variance == pytest.approx(second / total - (first / total) ** 2, rel=0.06)


@given(st.integers(0, 1000), st.floats(-100, 100), st.floats(0.01, 100))
def test_the_posterior_moves_and_stretches_with_the_losses(seed, shift, factor):
    y = np.random.default_rng(seed).normal(size=12)
    plain, moved = search_posterior(y, 0.7), search_posterior(shift + factor * y, 0.7 * factor)
    assert moved.finalists[0].mean == pytest.approx(shift + factor * plain.finalists[0].mean, abs=1e-6 * factor)
    assert moved.finalists[0].optimism == pytest.approx(factor * plain.finalists[0].optimism, rel=1e-6, abs=1e-9)


@given(st.integers(0, 1000), st.floats(3, 1e9))
def test_how_bad_the_worse_half_is_does_not_matter(seed, factor):
    y = np.sort(np.random.default_rng(seed).normal(size=11))
    bad = np.arange(11) > 7
    means = [search_posterior(np.where(bad, each, y), 0.5).finalists[0].mean for each in (y + 30 * factor, np.inf)]
    assert means[0] == pytest.approx(means[1])
    worse = np.where(np.arange(11) > 5, y + factor, y)
    assert good_half(worse, 0.5).optimism == pytest.approx(good_half(y, 0.5).optimism)


@given(
    st.lists(st.floats(-1e6, 1e6) | st.just(math.inf) | st.just(math.nan), max_size=12),
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.floats(0, 1e6),
)
def test_whatever_came_in_the_answer_is_a_number(others, own, noise, variance):
    found = search_posterior([own, *others], noise, finalists=[(own, variance), (own, noise**2)], places=None)
    for place in range(2):
        printed = found.printed(place)
        assert math.isfinite(printed.mean) and math.isfinite(printed.variance) and printed.variance >= 0
    chances = found.probability_best(rng=np.random.default_rng(0), num_draws=100)
    assert chances.sum() == pytest.approx(1)


def test_more_runs_leave_less_luck():
    few = search_posterior(LOSSES, 0.8, finalists=[(0.1, 0.64)])
    more = search_posterior(LOSSES, 0.8, finalists=[(0.1, 0.64 / 10)])
    assert few.finalists[0].optimism > more.finalists[0].optimism > 0
    assert few.finalists[0].variance > more.finalists[0].variance
    # Rows that all have in common widen the level and change no order.
    level = search_posterior(LOSSES, 0.8, finalists=[(0.1, 0.64)], common_row_variance=1.0)
    assert level.finalists[0].variance == pytest.approx(few.finalists[0].variance + 1)
    assert level.finalists[0].mean == few.finalists[0].mean


def test_many_searches_at_once_are_the_same_searches():
    y = np.random.default_rng(3).normal(size=(4, 9))
    together = posterior_grid(y, np.full(y.shape, 0.5))
    for index in range(4):
        alone = search_posterior(y[index], 0.5).grid
        for part in ("m", "tau", "p", "noise"):
            np.testing.assert_allclose(getattr(alone, part)[0], getattr(together, part)[index])


def test_the_probability_of_the_best_is_a_normal_integral():
    # Truths far apart: nothing is shrunk; means of many runs differ by a normal law, whatever that of one run.
    y = np.linspace(0, 1000, 40)
    found = search_posterior(y, 0.1, finalists=[(0.0, 0.04), (0.2, 0.05)], runs=[10**6, 10**6])
    p = found.probability_best(rng=np.random.default_rng(0), num_draws=40_000)
    assert p[0] == pytest.approx(scipy.stats.norm.cdf(0.2 / 0.3), abs=0.01)
    assert p.sum() == pytest.approx(1)


def test_the_less_sure_of_two_estimates_is_printed_where_they_differ():
    # Three trials apart, the rest together: the rule says more of the best is luck than the posterior does, or less.
    rng = np.random.default_rng(11)
    seen = set()
    for _ in range(60):
        y = np.r_[-rng.uniform(0, 6, 3), rng.normal(0, 0.3, 9)]
        found = search_posterior(y, 1.0)
        printed, own = found.printed(0), found.finalists[0]
        by_rule = found.rule.best_loss + found.rule.optimism
        if abs(by_rule - own.mean) <= 0.3:
            assert printed == own
        else:
            assert printed.variance >= own.variance
            seen.add(printed == own)
            assert printed.mean == own.mean  # by one rule for all finalists, or they would not be in order
    assert seen == {True, False}


def test_good_half_by_hand():
    found = good_half([1.0, 2.0, 4.0, 4.0, 7.0, math.nan], noise=1.0)
    # The median is 4; twice the squares of 3, 2, 0, 0 by 6 trials.
    assert found.median == 4.0
    assert found.optimism == pytest.approx(3 / (26 / 6))
    assert good_half([2.0], 1.0).optimism == 0.0
    assert good_half([2.0, 2.0, 2.0], 1.0).optimism == 0.0
    assert good_half([1.0, 2.0, 3.0], 50.0).expected_loss == 2.0
    assert good_half([1.0, math.inf, math.inf, math.inf], 1.0).optimism == 0.0


def test_row_noise_is_the_residual_of_trials_by_rows():
    losses = np.random.default_rng(4).normal(size=(3, 50)) + np.random.default_rng(5).normal(size=50)
    residual = losses - losses.mean(axis=1, keepdims=True) - losses.mean(axis=0) + losses.mean()
    found = row_noise(losses)
    assert found.deviation**2 == pytest.approx((residual**2).sum() / (2 * 49) / 50)
    covariances = np.cov(losses)[np.triu_indices(3, 1)].mean() / 50
    assert found.common_variance == pytest.approx(covariances)
    same = row_noise(losses, groups=np.arange(50))
    assert same.deviation == pytest.approx(found.deviation)
    assert math.isnan(row_noise(losses[:1]).deviation)


def test_the_noise_of_skewed_losses_is_that_of_all_but_the_hopeless():
    """The better half of equal trials are those that drew few large losses, and they vary less."""
    rng = np.random.default_rng(3)
    rows = np.exp(rng.standard_normal((60, 1, 100)))
    losses = rows * np.exp(0.6 * rng.standard_normal((60, 40, 100)))  # 60 searches of 40 equal trials
    own = math.exp(2 + 0.36) * math.expm1(0.36)  # variance of what is not common, per row
    found = np.mean([row_noise(each).deviation ** 2 for each in losses])
    assert found * 100 == pytest.approx(own, rel=0.12)
    hopeless = [np.concatenate([each, 50 + 30 * each[:20]]) for each in losses]
    assert np.mean([row_noise(each).deviation ** 2 for each in hopeless]) == pytest.approx(found, rel=0.05)


def test_row_noise_leaves_out_the_worse_half_and_the_failed():
    rng = np.random.default_rng(6)
    good, bad = rng.normal(size=(30, 200)), 50 + 100 * rng.normal(size=(30, 200))
    failed = np.full((2, 200), np.nan)
    found = row_noise(np.concatenate([bad, good, failed]))
    assert found.deviation == pytest.approx(1 / math.sqrt(200), rel=0.1)
    assert found.num_trials == 30


# -- what the procedure is worth: truths and noise that are not the model's own --------


def normal(rng, shape):
    return rng.normal(size=shape)


def heavy(rng, shape):
    return (rng.normal(size=shape) + rng.standard_t(3, shape) / math.sqrt(3)) / math.sqrt(2)


def truths(kind, rng, shape):
    if kind == "exponential":
        return rng.exponential(size=shape)
    spread, hopeless = kind
    return rng.normal(0, spread, shape) + np.where(rng.random(shape) < hopeless, 5 + rng.exponential(30, shape), 0)


@pytest.mark.parametrize("num_trials", [5, 20, 60])
@pytest.mark.parametrize(
    ("kind", "noise"),
    [
        ((1.0, 0.0), normal), ((0.0, 0.0), normal), ((0.3, 0.1), normal), ((1.0, 0.1), normal), ((0.5, 0.4), normal),
        ((0.5, 0.6), normal), ("exponential", normal), ((0.5, 0.1), heavy), ((0.0, 0.0), heavy),
    ],
)  # fmt: skip
def test_the_best_of_a_search_is_told_without_its_luck(kind, noise, num_trials):
    """Error of a bias: about .04 noises; of a cover: 2 points around 90 %."""
    rng, searches = np.random.default_rng(num_trials + 1), 200
    truth = truths(kind, rng, (searches, num_trials))
    y = truth + noise(rng, truth.shape)
    found = posterior_grid(y, np.ones_like(y))
    mean, variance = found.moments(y.min(axis=1)[:, None], np.ones((searches, 1)))
    error = mean[:, 0] - truth[np.arange(searches), y.argmin(axis=1)]
    assert abs(error.mean()) < 0.4 + 0.1
    assert (abs(error) < 1.96 * np.sqrt(variance[:, 0])).mean() > 0.9 - 0.06
    raw = y.min(axis=1) - truth[np.arange(searches), y.argmin(axis=1)]
    # Without it the best score is too good, and the more so the more trials there are.
    assert raw.mean() < error.mean() - 0.1 and raw.mean() < -0.1 - 0.3 * math.log(num_trials / 5)


def test_later_runs_pull_less_and_the_order_is_theirs():
    """8 finalists with 5 fresh runs each, half of whose luck stays with the rows: the recommended one's level holds."""
    rng, searches, trials, later = np.random.default_rng(0), 400, 40, 5
    own = rng.normal(0, math.sqrt(0.5), (searches, trials))
    truth = rng.normal(0, 0.7, own.shape)
    y = truth + own + rng.normal(0, math.sqrt(0.5), own.shape)
    top = np.argsort(y, axis=1)[:, :8]
    runs = np.take_along_axis(truth + own, top, axis=1)[..., None] + rng.normal(0, math.sqrt(0.5), (searches, 8, later))
    bar = (np.take_along_axis(y, top, axis=1) + runs.sum(axis=-1)) / (later + 1)
    mean, variance = posterior_grid(y, np.ones_like(y)).moments(bar, np.full(bar.shape, 0.5 + 0.5 / (later + 1)))
    chosen = mean.argmin(axis=1)[:, None]
    error = np.take_along_axis(mean - np.take_along_axis(truth, top, axis=1), chosen, axis=1)
    deviation = np.sqrt(np.take_along_axis(variance, chosen, axis=1))
    assert abs(error.mean()) < 0.4
    assert (abs(error) < 1.96 * deviation).mean() > 0.88
    # Fresh runs alone, on the same rows, with Student's interval over them.
    fresh = np.take_along_axis(runs.mean(axis=-1), chosen, axis=1)
    spread = np.take_along_axis(runs.std(axis=-1, ddof=1), chosen, axis=1) / math.sqrt(later)
    missed = fresh - np.take_along_axis(np.take_along_axis(truth, top, axis=1), chosen, axis=1)
    assert (abs(missed) < 2.776 * spread).mean() < 0.85


def test_all_runs_of_finalists_tell_how_far_truths_lie_apart():
    """Three truths of 50 lie two units below the others; a search of single runs takes that for luck."""
    rng = np.random.default_rng(0)
    errors = {True: [], False: []}
    for _ in range(60):
        truths = np.r_[np.zeros(3), np.full(47, 2.0)]
        y = truths + rng.standard_normal(50)
        places = [int(place) for place in np.argsort(y)[:8]]
        runs = [(np.r_[y[place], truths[place] + rng.standard_normal(9)].mean(), 0.1) for place in places]
        for known in errors:
            found = search_posterior(y, 1.0, finalists=runs, places=places if known else None)
            errors[known].append(found.finalists[found.best].mean - truths[places[found.best]])
    assert abs(np.mean(errors[True])) < 0.2 < 0.35 < np.mean(errors[False])


def test_several_runs_are_no_single_stroke_of_luck():
    """Half of a mean's variance is luck with these rows, which has no tails: 12 runs say more than their variance."""
    y = np.r_[0.0, np.full(30, 3.0) + np.linspace(-0.5, 0.5, 30)]
    of_many, of_one = (
        search_posterior(y, 1.0, finalists=[(0.0, 0.5)], places=[0], runs=[runs]).finalists[0] for runs in (12, 1)
    )
    assert of_many.mean < of_one.mean - 0.1


def test_places_of_finalists_with_one_run_change_nothing():
    y = np.arange(10.0)
    alone = search_posterior(y, 0.5, finalists=[(0.0, 0.25), (3.0, 0.25)])
    placed = search_posterior(y, 0.5, finalists=[(0.0, 0.25), (3.0, 0.25)], places=[0, 3])
    assert alone.finalists == placed.finalists


@pytest.mark.parametrize(
    "call",
    [
        lambda: good_half([math.inf], 1.0),
        lambda: good_half([1.0], -1.0),
        lambda: search_posterior([], 1.0),
        lambda: search_posterior([1.0, 2.0], 0.0),
        lambda: search_posterior([1.0, 2.0], [1.0, 1.0, 1.0]),
        lambda: search_posterior([1.0, 2.0], 1.0, finalists=[(math.inf, 1.0)]),
        lambda: row_noise([1.0, 2.0]),
        lambda: row_noise([[1.0, 2.0], [1.0, 2.0]], groups=[1]),
    ],
)
def test_what_cannot_be_is_said(call):
    with pytest.raises(UsageError, match=r"got .* Allowed: "):
        call()


def test_tails_shrink_with_runs_as_far_as_the_luck_is_theirs():
    # omega^2 = 4: of a mean over 2 runs with w = 3, the share (4 - 3) / (2 - 1) / 3 shrinks with runs.
    one, half, none = (_tails(np.array([w]), 2.0, np.array([2.0]))[0] - 1 for w in (2.0, 3.0, 4.0))
    np.testing.assert_allclose(half, one / 3)
    np.testing.assert_allclose(none, 0.0, atol=1e-12)
    np.testing.assert_allclose(one, (_tails(np.array([4.0]), 2.0)[0] - 1) / np.sqrt(2))
    np.testing.assert_allclose(_tails(np.array([30.0]), math.sqrt(40.0), np.array([2.0]))[0] - 1, half)
