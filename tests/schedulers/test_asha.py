import math

import numpy as np
import pytest

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Progress
from manyfit.schedulers import ASHA, scheduler_of
from manyfit.schedulers.base import Limits, Resume, Start
from manyfit.testing.schedulers import FakeOracle, falling_curve


def rung(losses, epochs=1):
    return [Progress(str(i), (loss,) * epochs, epochs) for i, loss in enumerate(losses)]


def test_the_papers_rule_one_in_factor_promoted_from_the_top_rung_down():
    asha = ASHA(9, 3)
    assert asha.rungs == [1, 3, 9]
    assert isinstance(asha.assign(rung([0.3, 0.2]), 1, Limits())[0], Start)  # floor(2 / 3) = 0
    assert asha.assign(rung([0.3, 0.2, 0.4]), 1, Limits())[0] == Resume(
        "1", 3, {"tuner/epochs": 3, "tuner/initial_epoch": 1, "tuner/round": 1, "tuner/trial_id": "1"}
    )
    top = [Progress(f"t{i}", (0.1 * i,) * 3, 3) for i in range(3)]
    jobs = asha.assign([*top, *rung([0.3] * 9)], 3, Limits())
    assert [getattr(job, "trial_id", None) for job in jobs] == ["t0", "0", None]


def test_nine_trials_of_falling_quality():
    # Algorithm 2 of the paper by hand: the first trials are the best, so a promotion comes with every third result,
    # and the third promotion completes the next rung.
    oracle = FakeOracle(Limits(max_trials=9), slots=1, curve=lambda trial, epoch: trial + 1 / epoch)
    oracle.run(lambda: ASHA(9, 3))
    shown = [f"{job.trial_id[-1]}to{job.target_epochs}" if isinstance(job, Resume) else "s" for job in oracle.jobs]
    assert " ".join(shown) == "s s s 0to3 s s s 1to3 s s s 2to3 0to9"


def test_who_was_promoted_stays_promoted_when_better_ones_come():
    history = rung([0.5, 0.6, 0.7])
    history[0] = Progress("0", (0.5, 0.5, 0.5), 3)
    later = [Progress(f"n{i}", (0.1,), 1) for i in range(2)]
    assert isinstance(ASHA(9, 3).assign([*history, *later], 1, Limits())[0], Resume) is True
    # floor(5 / 3) = 1: n0 is the best of the rung now, and has not been promoted.
    assert ASHA(9, 3).assign([*history, *later], 1, Limits())[0].trial_id == "n0"


def test_a_closed_search_promotes_at_least_one_per_rung():
    for size in (1, 2, 4, 8):
        oracle = FakeOracle(Limits(), slots=3, space_size=size)
        oracle.run(lambda: ASHA(27, 3))
        assert len(oracle.history) == size and max(p.epochs for p in oracle.history) == 27
        best = min(oracle.history, key=lambda p: p.best_loss())
        assert best.epochs == 27


def test_it_never_waits_while_trials_may_start():
    oracle = FakeOracle(Limits(max_trials=50), slots=8)
    rng = np.random.default_rng(0)
    while oracle.fill(ASHA(9, 3)):
        running = [row for row, p in enumerate(oracle.history) if p.running]
        assert len(running) == 8 or len(oracle.history) == 50
        oracle.train(ASHA(9, 3), [int(rng.choice(running))])


def test_quarter_of_the_epochs_of_full_training():
    oracle = FakeOracle(Limits(max_trials=81), slots=8)
    oracle.run(lambda: ASHA(81, 3))
    assert oracle.num_epochs < 81 * 81 / 10
    best = min(range(81), key=lambda trial: falling_curve(trial, 81))
    assert falling_curve(best, 81) == pytest.approx(min(p.best_loss() for p in oracle.history), abs=0.1)


def test_the_next_best_moves_up_for_one_that_fails_when_the_rung_is_closed():
    history = rung([0.1, 0.2, 0.3])
    history[0] = Progress("0", (0.1,), 3, ending=Ending.FAILED)
    jobs = ASHA(9, 3).assign(history, 1, Limits(exhausted=True))
    assert [job.trial_id for job in jobs] == ["1"]


def test_min_epochs_drops_the_short_rungs():
    assert ASHA(50, 3, min_epochs=3).rungs == [6, 17, 50]
    assert ASHA(50, 3).rungs == [2, 6, 17, 50]


def test_diverged_trials_are_never_promoted():
    history = rung([0.1, math.inf, 0.3])
    history[1] = Progress("1", (math.inf,), 1, ending=Ending.DIVERGED)
    assert ASHA(9, 3).assign(history, 1, Limits(exhausted=True))[0].trial_id == "0"


def test_a_scheduler_by_name():
    assert isinstance(scheduler_of("asha", 9), ASHA) and scheduler_of("asha", 9).max_epochs == 9
    assert scheduler_of("hyperband", 9).settings()["name"] == "Hyperband"
    assert scheduler_of("median", None).settings()["name"] == "MedianRule"
    assert scheduler_of(None, None).settings() == {"name": "FullBudget", "max_epochs": None}
    mine = ASHA(5)
    assert scheduler_of(mine, 100) is mine


@pytest.mark.parametrize(
    ("scheduler", "max_epochs", "part"),
    [
        ("ahsa", 9, "'full', 'hyperband', 'asha', 'median'"),
        ("asha", None, "Add `epochs=...`"),
        (3, 9, "a scheduler, or"),
    ],
)
def test_a_scheduler_that_is_none(scheduler, max_epochs, part):
    with pytest.raises((UsageError, TypeError), match=part):
        scheduler_of(scheduler, max_epochs)
