"""What is in hand is given up for what is better on the same rows; luck in being chosen is none of its worth."""

from __future__ import annotations

import numpy as np
import pytest

from manyfit.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.settings import RowCuts
from manyfit.fitting.comparison import difference
from manyfit.store.facts import Leader

ROWS = 400


def single(seed, noise):
    """An ensemble of two members, of which only the first one is any good."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=ROWS)
    own = np.random.default_rng(seed)
    members = [
        EnsembleMember(name, predictions=(y + scale * own.normal(size=ROWS))[:, None], row_ids=np.arange(ROWS))
        for name, scale in (("good", noise), ("bad", 5.0))
    ]
    return Ensemble.fit(members, y, metric="mse", method="shrunk")


def test_a_lead_is_that_of_paired_losses():
    first, second = single(1, 0.5), single(2, 0.3)
    told = difference(first, second)
    assert first.refused and second.refused
    assert 0.08 < told.estimate < 0.24 and told.favours_second and told.num_rows == ROWS, "about .25 less .09"
    assert told.is_clear and not difference(second, first).is_clear
    assert not difference(second, first).favours_second


def test_the_luck_of_the_choice_is_taken_from_what_was_chosen():
    first, second = single(1, 0.4), single(2, 0.4)
    score = first.metric.score(first.pool(first.problem.predictions, first.task), first.problem)
    plain = difference(first, second)
    lucky = difference(first, second, leader=Leader("0", score, 81, luck=0.1))
    assert lucky.estimate == pytest.approx(plain.estimate + 0.1) and lucky.is_clear and not plain.is_clear
    unknown = difference(first, second, leader=Leader("0", score, 81))
    elsewhere = difference(first, second, leader=Leader("0", 3 * score, 81, luck=0.1))
    assert unknown.estimate == elsewhere.estimate == plain.estimate


def test_without_rows_in_common_nothing_is_said():
    first, second = single(1, 0.4), single(2, 0.4)
    for member in second.members:
        object.__setattr__(member, "row_ids", None)
    told = difference(first, second)
    assert not told.favours_second and str(told) == "they have no rows in common"


def test_rows_of_one_group_err_together():
    """Each row four times is as much as each row once: the error does not shrink by saying things again."""
    once, again = [], []
    rng = np.random.default_rng(3)
    y = rng.normal(size=60)
    for seed in (1, 2):
        said = y + 0.4 * np.random.default_rng(seed).normal(size=60)
        for known, times in ((once, 1), (again, 4)):
            rows = len(y) * times
            member = EnsembleMember(
                "m", predictions=np.repeat(said, times)[:, None], row_ids=np.arange(rows, dtype=np.uint64)
            )
            cuts = RowCuts(groups=np.repeat(np.arange(60), times))
            known.append(Ensemble.fit([member], np.repeat(y, times), metric="mse", cuts=cuts))
    one, four = difference(*once), difference(*again)
    assert four.num_rows == 240 and four.estimate == pytest.approx(one.estimate)
    assert four.standard_error == pytest.approx(one.standard_error)
