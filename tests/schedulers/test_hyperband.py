import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyfit.core.errors import UsageError
from manyfit.core.records import Ending, Progress
from manyfit.schedulers import HyperbandScheduler
from manyfit.schedulers.base import Limits, Resume, Start
from manyfit.schedulers.rungs import rungs_of
from manyfit.testing.schedulers import FakeOracle, falling_curve


def run(scheduler, *, limits=None, order=None, **oracle_options):
    oracle = FakeOracle(limits or Limits(), **oracle_options)
    oracle.run(lambda: scheduler, order=order)
    return oracle


def entries(oracle, iteration=0):
    """{bracket: {epochs of rung: ids of the trials that finished it}}"""
    found = {}
    for p in oracle.history:
        if p.tags["tuner/iteration"] == iteration:
            for rung in rungs_of(9, 3, p.tags["tuner/bracket"]):
                if p.epochs >= rung.epochs:
                    found.setdefault(p.tags["tuner/bracket"], {}).setdefault(rung.epochs, set()).add(p.trial_id)
    return found


@pytest.mark.parametrize(("max_epochs", "num_entries", "num_epochs"), [(10, 30, 120), (30, 90, 576), (81, 211, 1767)])
@pytest.mark.parametrize("slots", [1, 16])
def test_a_whole_search_spends_kerastuners_trials_and_epochs(max_epochs, num_entries, num_epochs, slots):
    # KerasTuner 1.4.8, see `test_rungs`; its trials are our jobs.
    oracle = run(HyperbandScheduler(max_epochs, 3), slots=slots)
    assert (len(oracle.jobs), oracle.num_epochs) == (num_entries, num_epochs)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_of_each_rung_are_promoted_whatever_the_order_of_results(seed):
    oracle = run(HyperbandScheduler(9, 3), slots=7, order=np.random.default_rng(seed))
    for bracket, finished in entries(oracle).items():
        ladder = rungs_of(9, 3, bracket)
        for rung, following in itertools.pairwise(ladder):
            by_loss = sorted(
                finished[rung.epochs], key=lambda name: min(falling_curve(int(name), e + 1) for e in range(rung.epochs))
            )
            assert finished[following.epochs] == set(by_loss[: following.num_trials])


def test_a_slot_does_not_wait_when_a_promotion_is_sure():
    # 9 trials, 3 to promote. With 7 results the best has at most 2 unknown above it: sure. The second is not.
    scheduler = HyperbandScheduler(9, 3)
    tags = {"tuner/bracket": 2, "tuner/iteration": 0}
    finished = [Progress(str(i), (float(i),), 1, tags=tags) for i in range(7)]
    running = [Progress(str(i), (), 1, running=True, tags=tags) for i in (7, 8)]
    jobs = scheduler.assign([*finished, *running], 1, Limits())
    assert [job.trial_id for job in jobs] == ["0"]
    still = [*finished[1:], *running, Progress("0", (0.0,), 3, running=True, tags=tags)]
    assert isinstance(scheduler.assign(still, 1, Limits())[0], Start)  # of the next bracket


def test_tags_are_kerastuners():
    oracle = run(HyperbandScheduler(9, 3), slots=1)
    first = next(job for job in oracle.jobs if isinstance(job, Start))
    assert dict(first.tags) == {
        "tuner/epochs": 1,
        "tuner/initial_epoch": 0,
        "tuner/bracket": 2,
        "tuner/round": 0,
        "tuner/iteration": 0,
    }
    promoted = next(job for job in oracle.jobs if isinstance(job, Resume))
    assert dict(promoted.tags) == {
        "tuner/epochs": 3,
        "tuner/initial_epoch": 1,
        "tuner/bracket": 2,
        "tuner/round": 1,
        "tuner/iteration": 0,
        "tuner/trial_id": promoted.trial_id,
    }


def test_iterations_repeat_the_brackets():
    once, twice = run(HyperbandScheduler(9, 3), slots=4), run(HyperbandScheduler(9, 3, 2), slots=4)
    assert twice.num_epochs == 2 * once.num_epochs
    assert {p.tags["tuner/iteration"] for p in twice.history} == {0, 1}
    sizes = {epochs: len(ids) for epochs, ids in entries(twice, 1)[2].items()}
    assert sizes == {1: 9, 3: 3, 9: 1}


def test_failed_trials_are_replaced_in_every_rung():
    whole = run(HyperbandScheduler(9, 3), slots=3)
    best = min((p for p in whole.history if p.tags["tuner/bracket"] == 2), key=lambda p: p.best_loss())
    # The would-be winner of the first bracket fails at its last rung, two others in their first epoch.
    oracle = run(HyperbandScheduler(9, 3), slots=3, fail_at={int(best.trial_id): 5, 1: 1, 4: 1})
    sizes = {bracket: [len(ids) for ids in rungs.values()] for bracket, rungs in entries(oracle).items()}
    assert sizes == {2: [9, 3, 1], 1: [5, 2], 0: [3]}
    assert sum(p.ending is Ending.FAILED for p in oracle.history) == 3
    assert len(oracle.history) == len(whole.history) + 2  # a failure above the first rung costs no new trial


def test_diverged_trials_keep_their_place_and_are_promoted_by_nobody():
    oracle = run(HyperbandScheduler(9, 3), slots=4, curve=lambda t, e: math.inf if t < 8 else falling_curve(t, e))
    whole = run(HyperbandScheduler(9, 3), slots=4)
    assert len(oracle.history) == len(whole.history)
    assert sum(p.ending is Ending.DIVERGED for p in oracle.history) == 8
    assert all(job.trial_id >= "0008" for job in oracle.jobs if isinstance(job, Resume))


def test_a_trial_that_a_callback_ended_keeps_its_score_in_higher_rungs():
    tags = {"tuner/bracket": 2, "tuner/iteration": 0}
    history = [Progress(str(i), (float(i),), 1, tags=tags) for i in range(9)]
    history[0] = dataclasses.replace(history[0], ending=Ending.COMPLETED)
    jobs = HyperbandScheduler(9, 3).assign(history, 3, Limits(exhausted=True))
    assert [job.trial_id for job in jobs] == ["1", "2"]  # 0 holds the third place without training
    done = [
        dataclasses.replace(p, curve=(*p.curve, 5.0, 5.0), target_epochs=3) if p.trial_id in "12" else p
        for p in history
    ]
    assert HyperbandScheduler(9, 3).assign(done, 3, Limits(exhausted=True)) == []  # and wins the last place, too


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("slots", [1, 8])
def test_eight_configurations_still_halve(known, slots):
    limits = Limits(num_configurations=8) if known else Limits()
    oracle = run(HyperbandScheduler(100, 3), limits=limits, slots=slots, space_size=8)
    epochs = sorted((p.epochs for p in oracle.history), reverse=True)
    assert len(epochs) == 8 and epochs[0] == 100
    assert sum(e == epochs[-1] for e in epochs) == 5  # 8 -> 3: the others never leave the first rung
    assert oracle.num_epochs < 800 / 2
    winner = min(oracle.history, key=lambda p: p.best_loss())
    assert winner.epochs == 100


def test_a_cap_on_epochs_is_spent_and_not_passed():
    oracle = run(HyperbandScheduler(27, 3), limits=Limits(max_total_epochs=200), slots=32)
    assert 190 <= oracle.num_epochs <= 200


@pytest.mark.parametrize("rest", [0, 1, 2, 3])
def test_endless_iterations_end_when_no_first_rung_can_be_paid(rest):
    oracle = run(HyperbandScheduler(50, 3, None), limits=Limits(max_total_epochs=922 + rest), slots=1)
    assert oracle.num_epochs + 1 >= 922  # one epoch is less than a first rung of two


def test_a_cap_on_trials_means_fewer_brackets():
    oracle = run(HyperbandScheduler(27, 3), limits=Limits(max_trials=40), slots=8)
    assert len(oracle.history) == 40
    assert max(p.epochs for p in oracle.history) == 27


def test_raising_the_cap_goes_on_with_the_old_brackets():
    limits = Limits(max_trials=12)
    oracle = FakeOracle(limits, slots=4)
    oracle.run(lambda: HyperbandScheduler(9, 3))
    before = oracle.num_epochs
    oracle.limits = Limits(max_trials=30)
    oracle.run(lambda: HyperbandScheduler(9, 3))
    assert len(oracle.history) == 17 and oracle.num_epochs > before  # 9 + 5 + 3


def test_an_objective_that_is_never_logged_within_a_rung_is_said():
    def every_second(trial, epoch):
        return falling_curve(trial, epoch) if epoch % 2 == 0 else math.nan

    with pytest.raises(UsageError, match=r"first 1 epochs.*min_epochs=2 or more, or validate in every epoch"):
        run(HyperbandScheduler(9, 3), curve=every_second)
    assert run(HyperbandScheduler(9, 3, min_epochs=2), curve=every_second).num_epochs > 0


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(2, 4), st.integers(1, 12), st.integers(0, 2**20))
def test_every_search_ends_and_reaches_the_last_rung(max_epochs, factor, slots, seed):
    rng = np.random.default_rng(seed)
    fail_at = {int(row): int(rng.integers(1, max_epochs + 1)) for row in rng.integers(0, 60, size=10)}
    oracle = run(HyperbandScheduler(max_epochs, factor), slots=slots, order=rng, fail_at=fail_at)
    assert max(p.epochs for p in oracle.history) == max_epochs


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (
            {"factor": 1},
            r"Hyperband\(factor=...\): got 1. Allowed: an integer of 2 or more.*factor needs to be a int larger than 1",
        ),
        ({"factor": 2.5}, r"Hyperband\(factor=...\)"),
        ({"max_epochs": 0}, r"Hyperband\(max_epochs=...\): got 0"),
        ({"max_epochs": 5, "min_epochs": 6}, "min_epochs=6, max_epochs=5. Allowed: min_epochs <= max_epochs"),
        ({"min_epochs": 0}, r"Hyperband\(min_epochs=...\)"),
        ({"hyperband_iterations": 0}, "Type 1, or None"),
        ({"hyperband_iterations": 0.5}, "Type 1, or None"),
    ],
)
def test_wrong_arguments_are_explained(arguments, part):
    with pytest.raises(UsageError, match=part):
        HyperbandScheduler(**arguments)
