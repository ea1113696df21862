"""Estimators end in time: boosting between two rounds, what is fitted in one go by not being begun."""

from __future__ import annotations

import manyfit as kt  # isort: skip

import numpy as np
import pytest

from manyfit.core.clock import Clock
from manyfit.core.records import Plan
from manyfit.data.call import Call
from manyfit.training import known_costs
from manyfit.training.base import FixedSupply, Task
from manyfit.training.boosting import LabelledRows, RoundClock, fit_boosting
from manyfit.training.estimators import Estimators


class Takes1000:
    """An estimator whose fit takes 1,000 seconds of a time that is told here."""

    now = 0.0

    def fit(self, x, y):
        type(self).now += 1000.0
        return self

    def predict(self, x):
        return np.zeros(len(x))


def test_what_is_fitted_in_one_go_is_not_begun_where_it_would_not_end(rows, monkeypatch):
    monkeypatch.setattr(known_costs, "cache_folder", lambda *parts: None)
    monkeypatch.setattr(Takes1000, "now", 0.0)
    clock = Clock(2500, now=lambda: Takes1000.now)
    clock.start()
    supply = FixedSupply([Plan(str(number), 0, kt.HyperParameters(), seed=number) for number in range(4)])
    task = Task(lambda hp: Takes1000(), Call(rows), kt.Objective("loss", "min"), clock=clock)
    Estimators(print).train(supply, task)
    assert [result.num_epochs for result in supply.results.values()] == [1, 1, 0, 0]
    assert Takes1000.now == 2000 and clock.refused_seconds == pytest.approx(1000)
    first, *_, last = supply.results.values()
    assert (first.ending, first.costs.structure, first.costs.epoch) == ("completed", "Takes1000", 1000)
    assert last.is_unbegun and "time was up" in last.message


def _boosting(library):
    package = pytest.importorskip(library, reason="no part of what tests need")
    if library == "catboost":
        return package.CatBoostClassifier(iterations=50, verbose=False, allow_writing_files=False)
    if library == "lightgbm":
        return package.LGBMClassifier(n_estimators=50, n_jobs=1, verbose=-1)
    return package.XGBClassifier(n_estimators=50, n_jobs=1)


@pytest.mark.parametrize("library", ["lightgbm", "xgboost", "catboost"])
@pytest.mark.parametrize(("limit", "most"), [(6.5, 12), (0.5, 1), (1e9, 50)])
def test_boosting_ends_after_the_round_in_which_the_time_was_up(library, limit, most):
    estimator = _boosting(library)
    x = np.random.default_rng(0).normal(size=(200, 4))
    held = LabelledRows(x[150:], (x[150:, 0] > 0).astype(int))
    asked = [0.0]

    def now():
        asked[0] += 0.5  # of each round one question
        return asked[0]

    clock = Clock(limit, now=now)
    clock.start()
    rounds = RoundClock(clock)
    best, num_rounds = fit_boosting(estimator, LabelledRows(x[:150], (x[:150, 0] > 0).astype(int)), held, rounds)
    assert 0 <= best < num_rounds <= most + 1 and rounds.has_ended is (limit < 100)
    assert len(estimator.predict(x)) == 200
