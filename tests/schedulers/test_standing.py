import math

import numpy as np
import pytest

from manyfit.core.records import Ending, Progress
from manyfit.schedulers import ASHA, HyperbandScheduler
from manyfit.schedulers.base import Limits
from manyfit.schedulers.rungs import loss_at, stand
from manyfit.testing.schedulers import FakeOracle


@pytest.mark.parametrize(
    ("curve", "ending", "epochs", "loss"),
    [
        ((0.1, 0.5, 0.4), None, 3, 0.4),  # where it stands, not the peak that is over
        ((0.1, 0.5, 0.4), None, 2, 0.5),  # what came after the rung does not matter
        ((0.1, 0.5, math.nan), None, 3, 0.5),  # not logged at the rung's end: the latest that was
        ((math.nan, math.nan), None, 2, math.inf),
        ((0.1, math.inf), None, 2, math.inf),
        ((0.3, 0.1, 0.5), Ending.COMPLETED, 9, 0.1),  # a callback ended it: its score stands for it
        ((0.3, 0.1, 0.5), Ending.FAILED, 3, 0.5),  # failed in a higher rung, its rank here stays
        ((0.1, 0.1), Ending.DIVERGED, 2, math.inf),
    ],
)
def test_a_rung_ranks_by_the_loss_at_its_end(curve, ending, epochs, loss):
    assert loss_at(Progress("0", curve, 9, ending), epochs) == loss


def test_equal_losses_rank_by_the_order_of_their_start():
    members = [Progress(name, (loss,), 1) for name, loss in (("0", 0.2), ("1", 0.1), ("2", 0.2), ("3", 0.1))]
    assert [p.trial_id for p in stand(members, 1, 3).finished] == ["1", "3", "0", "2"]


@pytest.mark.parametrize("make", [lambda: HyperbandScheduler(9, 3), lambda: ASHA(9, 3)])
def test_who_was_lucky_in_one_epoch_is_not_promoted_from_the_rung_after_it(make):
    truths = np.random.default_rng(0).permutation(12) / 12

    def curve(trial, epoch):
        if epoch == 1:
            return 0.5  # says nothing, so the rung at epoch 3 has good ones and bad ones
        return -1.0 if epoch == 2 and truths[trial] > 0.5 else float(truths[trial])

    history = FakeOracle(Limits(max_trials=12), curve=curve).run(make)
    promoted = [row for row, progress in enumerate(history) if progress.tags["tuner/initial_epoch"] == 3]
    in_rung = [row for row, progress in enumerate(history) if progress.epochs >= 3]
    assert max(truths[row] for row in in_rung) > 0.5
    assert promoted and all(truths[row] <= 0.5 for row in promoted)
