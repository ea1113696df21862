"""What a trainer hands over is predicted and kept, alone or together."""

import numpy as np
import pytest

from manyfit.core.records import Plan
from manyfit.data.rows import Rows
from manyfit.store.predictions import Archive
from manyfit.tuners.keeping import Keeper

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)


class Column:
    """Predicts one column of the rows."""

    def __init__(self, number):
        self.number = number

    def predict(self, x):
        return x[:, self.number]


class Broken:
    """Cannot predict."""

    def predict(self, x):
        raise RuntimeError("no")


@pytest.fixture
def archive(tmp_path):
    return Archive(tmp_path)


def plan(trial_id, phase="search"):
    return Plan(trial_id, 0, {}, seed=0, phase=phase)


def test_one_that_cannot_be_predicted_harms_no_other(archive):
    keeper = Keeper(archive, Rows.of(X, Y), None)
    keeper([(plan("0"), Column(0)), (plan("1"), Broken()), (plan("2"), Column(1))])
    for trial_id, column in (("0", 0), ("2", 1)):
        kept = archive.get(trial_id, [0])
        np.testing.assert_allclose(kept.predictions[:, 0], X[:, column], rtol=2e-3, atol=2e-3)
    assert archive.get("1", [0]) is None
    assert keeper.reason == "RuntimeError: no"


def test_those_of_other_phases_are_left_alone(archive):
    Keeper(archive, Rows.of(X, Y), None)([(plan("0", phase="confirm"), Column(0)), (plan("1"), Column(1))])
    assert archive.get("0", [0]) is None and archive.get("1", [0]) is not None
