import math
import threading

import keras
import numpy as np
import pytest

import manyfit as kt
from manyfit.core.errors import UsageError
from manyfit.core.records import Decision, Progress
from manyfit.schedulers import MedianRule


def others(*finals):
    return [Progress(f"o{i}", (final + 0.2, final + 0.1, final), 9) for i, final in enumerate(finals)]


def decide(trial, history, **options):
    rule = MedianRule(9, **{"grace_epochs": 3, "min_trials": 3, **options})
    return rule.decide([*history, trial], [trial.trial_id])[0]


@pytest.mark.parametrize(
    ("best", "decision"),
    # Running averages after 3 epochs are 0.3, 0.4, 0.6: the median is 0.4 (Golovin et al. 2017, section 3.2.2).
    [(0.39, Decision.GO_ON), (0.40, Decision.GO_ON), (0.41, Decision.STOP)],
)
def test_the_rule_of_vizier(best, decision):
    trial = Progress("t", (0.9, best, 0.95), 9, running=True)
    history = [Progress("a", (0.3, 0.3, 0.3)), Progress("b", (0.2, 0.4, 0.6)), Progress("c", (0.5, 0.6, 0.7))]
    assert decide(trial, history) is decision


def test_grace_and_company():
    slow = Progress("t", (9.0, 9.0, 9.0), 9, running=True)
    assert decide(slow, others(0.1, 0.2, 0.3)) is Decision.STOP
    assert decide(slow, others(0.1, 0.2, 0.3), grace_epochs=4) is Decision.GO_ON
    assert decide(slow, others(0.1, 0.2)) is Decision.GO_ON
    short = [Progress(f"s{i}", (0.1, 0.1), 9) for i in range(5)]
    assert decide(slow, short) is Decision.GO_ON  # nobody else has come as far


def test_the_last_epoch_is_no_reason_to_stop():
    slow = Progress("t", (9.0,) * 9, 9, running=True)
    history = [Progress(f"o{i}", (0.1,) * 9, 9) for i in range(5)]
    assert decide(slow, history) is Decision.GO_ON


def test_gaps_and_divergence():
    gappy = [Progress(f"o{i}", (math.nan, 0.2, math.nan), 9) for i in range(3)]
    assert decide(Progress("t", (0.9, 0.9, 0.9), 9, running=True), gappy) is Decision.STOP
    assert decide(Progress("t", (math.nan,) * 3, 9, running=True), gappy) is Decision.GO_ON
    assert decide(Progress("t", (math.inf,) * 3, 9, running=True), others(0.1, 0.2, 0.3)) is Decision.STOP
    assert decide(Progress("t", (0.1,) * 3, 9, running=True), others(math.inf, math.inf, math.inf)) is Decision.GO_ON


def test_one_call_for_a_population_answers_like_calls_one_by_one():
    history = [Progress(str(i), (i / 10, i / 10 + 0.05, i / 10), 9, running=True) for i in range(12)]
    ids = [p.trial_id for p in history]
    rule = MedianRule(9)
    together = rule.decide(history, ids)
    assert together == [rule.decide(history, [name])[0] for name in ids]
    assert together.count(Decision.STOP) == 6


@pytest.mark.parametrize("options", [{"grace_epochs": 0}, {"min_trials": 0}, {"max_epochs": 0}])
def test_wrong_arguments_are_explained(options):
    with pytest.raises(UsageError, match=r"MedianRule|FullBudget"):
        MedianRule(**options)


def test_who_does_not_pause_trains_in_no_thread_of_its_own(tmp_path):
    threads = set()

    def build(hp):
        threads.add(threading.current_thread())
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Float("rate", 1e-3, 1e-1)), "mse")
        return model

    x = np.arange(16.0).reshape(8, 2)
    scheduler = MedianRule(2, grace_epochs=1, min_trials=1)
    tuner = kt.Search(build, "loss", scheduler=scheduler, max_trials=3, directory=tmp_path, population=False)
    tuner.search(x, x[:, :1], verbose=0)
    assert threads == {threading.main_thread()}
    assert not MedianRule(2).may_pause and MedianRule(2).may_stop


def test_estimators_take_a_scheduler_that_does_not_pause(tmp_path):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    x = np.random.default_rng(0).normal(size=(40, 2))
    tuner = kt.Search(
        lambda hp: linear_model.Ridge(hp.Float("alpha", 1e-3, 1.0)), kt.Objective("val_mse", "min"),
        scheduler=MedianRule(), max_trials=2, directory=tmp_path,
    )  # fmt: skip
    tuner.search(x, x[:, 0], verbose=0)
    assert len(tuner.oracle.trials) == 2
    assert all(trial.score is not None for trial in tuner.oracle.trials.values())
