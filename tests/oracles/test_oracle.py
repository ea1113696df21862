"""The oracle: ids, proposals, retries, limits, ends; under KerasTuner's protocol, without any training."""

import math

import pytest
import tiny

import manyfit as kt
from manyfit.core.errors import SearchError, UsageError
from manyfit.core.records import Ending, Plan, Result
from manyfit.oracles.checks import failure_report
from manyfit.oracles.searches import GridSearchOracle, RandomSearchOracle
from manyfit.store import ProjectStore


def random_oracle(**arguments):
    arguments = {"objective": "loss", "max_trials": 5, "seed": 0, "hyperparameters": tiny.space(), **arguments}
    return RandomSearchOracle(**arguments)


def end(oracle, trial, *losses, status="COMPLETED", message=None, ending=None):
    """Ends a trial with one execution per loss curve."""
    for execution, curve in enumerate(losses):
        result = Result(Plan(trial.trial_id, execution, trial.hyperparameters, 1), Ending.COMPLETED, {"loss": curve})
        oracle.book.add_execution(result)
    trial.status, trial.message, trial.ending = status, message, ending
    oracle.end_trial(trial)


def fail(oracle, trial, message="ValueError: bad", ending=Ending.FAILED, status="INVALID"):
    end(oracle, trial, status=status, message=message, ending=ending)


def test_ids_are_numbers_as_wide_as_the_largest():
    oracle = random_oracle(max_trials=10)
    ids = []
    for _ in range(3):
        trial = oracle.create_trial("tuner0")
        ids.append(trial.trial_id)
        end(oracle, trial, [1.0])
    assert ids == ["00", "01", "02"] == oracle.start_order == oracle.end_order
    assert random_oracle(max_trials=None).create_trial("tuner0").trial_id == "0000"


def test_a_tuner_gets_its_running_trial_back():
    oracle = random_oracle()
    first = oracle.create_trial("a")
    assert oracle.create_trial("a") is first
    assert oracle.create_trial("b") is not first


def test_the_search_stops_at_max_trials_and_waits_for_what_runs():
    oracle = random_oracle(max_trials=2)
    trials = [oracle.create_trial(name) for name in "ab"]
    assert oracle.create_trial("c").status == kt.TrialStatus.IDLE
    assert oracle.remaining_trials() == 0
    for trial in trials:
        end(oracle, trial, [1.0])
    assert oracle.create_trial("c").status == kt.TrialStatus.STOPPED
    assert len(oracle.trials) == 2


def test_scores_are_means_over_executions_and_the_spread_is_kept():
    oracle = random_oracle()
    trial = oracle.create_trial("a")
    end(oracle, trial, [3.0, 1.0, 2.0], [5.0, 4.0, 3.0])
    assert trial.score == 2.0 and trial.scores == [1.0, 3.0]
    assert trial.spread == pytest.approx(math.sqrt(2))
    assert trial.best_step == round((1 + 2) / 2)
    assert trial.metrics == {"loss": 2.0}


@pytest.mark.parametrize(("objective", "best"), [("loss", 1.0), ("val_f1_score", 3.0)])
def test_the_best_trials_follow_the_direction(objective, best):
    oracle = random_oracle(objective=objective)
    for value in (2.0, 1.0, 3.0):
        trial = oracle.create_trial("a")
        plan = Plan(trial.trial_id, 0, trial.hyperparameters, 1)
        oracle.book.add_execution(Result(plan, Ending.COMPLETED, {objective: [value]}))
        trial.status = "COMPLETED"
        oracle.end_trial(trial)
    assert [t.score for t in oracle.get_best_trials(9)] == sorted([1.0, 2.0, 3.0], reverse=objective != "loss")
    assert oracle.get_best_trials()[0].score == best


def test_only_completed_trials_are_ranked():
    oracle = random_oracle()
    fail(oracle, oracle.create_trial("a"))
    running = oracle.create_trial("b")
    end(oracle, oracle.create_trial("c"), [1.0])
    assert [trial.trial_id for trial in oracle.get_best_trials(5)] == ["2"]
    assert running.status == "RUNNING"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_was_never_finite_is_no_score(value):
    oracle = random_oracle()
    trial = oracle.create_trial("a")
    end(oracle, trial, [value, value])
    assert (trial.status, trial.ending, trial.score) == ("FAILED", Ending.DIVERGED, None)
    assert "never finite" in trial.message
    assert oracle.get_best_trials() == []
    assert oracle.book.observations()[0].loss == math.inf


def test_a_retried_trial_recovers():
    oracle = random_oracle(max_retries_per_trial=2)
    trial = oracle.create_trial("a")
    values = dict(trial.hyperparameters.values)
    end(oracle, trial, [math.nan])
    again = oracle.create_trial("a")
    assert (again.trial_id, again.attempt, dict(again.hyperparameters.values)) == (trial.trial_id, 1, values)
    fail(oracle, again)
    again = oracle.create_trial("a")
    end(oracle, again, [0.5])
    assert (again.status, again.score, again.attempt) == ("COMPLETED", 0.5, 2)
    assert oracle.create_trial("a").trial_id != trial.trial_id
    assert oracle.get_best_trials() == [again]


def test_retries_end():
    oracle = random_oracle(max_retries_per_trial=1)
    for _ in range(2):
        trial = oracle.create_trial("a")
        fail(oracle, trial)
    assert trial.status == "FAILED" and trial.attempt == 1
    assert len(oracle.trials) == 1 and oracle.end_order == [trial.trial_id]
    assert oracle.create_trial("a").trial_id != trial.trial_id


def test_a_trial_that_failed_for_good_is_not_retried():
    oracle = random_oracle(max_retries_per_trial=3)
    trial = oracle.create_trial("a")
    fail(oracle, trial, status="FAILED")
    assert trial.status == "FAILED" and oracle.create_trial("a").trial_id != trial.trial_id


def test_failures_in_a_row_give_the_search_up_with_their_causes():
    oracle = random_oracle(max_consecutive_failed_trials=3)
    fail(oracle, oracle.create_trial("a"))
    end(oracle, oracle.create_trial("a"), [1.0])
    fail(oracle, oracle.create_trial("a"))
    fail(oracle, oracle.create_trial("a"))
    with pytest.raises(SearchError, match="limit of 3") as caught:
        fail(oracle, oracle.create_trial("a"), message="Traceback...\nKeyError: 'x'")
    assert "2 x failed: ValueError: bad\n1 x failed: KeyError: 'x'" in str(caught.value)
    assert len(oracle.end_order) == 5


@pytest.mark.parametrize("ending", [Ending.TOO_LARGE, Ending.OUT_OF_MEMORY, Ending.DIVERGED])
def test_what_says_something_about_a_configuration_does_not_give_the_search_up(ending):
    oracle = random_oracle(max_consecutive_failed_trials=2)
    for _ in range(4):
        fail(oracle, oracle.create_trial("a"), ending=ending)
    assert len(oracle.trials) == 4


def test_causes_are_grouped_and_counted():
    trials = [
        tiny_trial("ValueError: a"),
        tiny_trial("Traceback\nValueError: b"),
        tiny_trial("ValueError: a"),
        tiny_trial(None),
    ]
    assert failure_report(trials).splitlines() == [
        "2 x failed: ValueError: a",
        "1 x failed: ValueError: b",
        "1 x failed: no message",
    ]


def tiny_trial(message):
    trial = kt.Trial(tiny.space(), message=message)
    trial.ending = Ending.FAILED
    return trial


def test_the_same_seed_proposes_the_same():
    def run(seed):
        oracle = random_oracle(seed=seed)
        trials = [oracle.create_trial(str(number)) for number in range(5)]
        return [dict(trial.hyperparameters.values) for trial in trials]

    assert run(0) == run(0)
    assert run(0) != run(1)


def test_asking_one_by_one_or_all_at_once_proposes_the_same():
    one_by_one, at_once = random_oracle(), random_oracle()
    first = [dict(one_by_one.assign(1)[0].hyperparameters.values) for _ in range(5)]
    assert [dict(trial.hyperparameters.values) for trial in at_once.assign(8)] == first


def test_no_configuration_is_proposed_twice_and_a_finite_space_ends():
    oracle = random_oracle(hyperparameters=tiny.space(units=4), max_trials=100)
    trials = oracle.assign(50)
    assert len({tuple(trial.hyperparameters.values.values()) for trial in trials}) == len(trials) == 8
    assert oracle.assign(1) == []


def test_a_grid_is_walked_in_its_order():
    oracle = GridSearchOracle(objective="loss", hyperparameters=tiny.space(units=2))
    values = [dict(trial.hyperparameters.values) for trial in oracle.assign(10)]
    assert values == [{"units": u, "kind": k} for u in (1, 2) for k in ("a", "b")]


def test_new_entries_widen_the_space_unless_they_are_forbidden():
    grown = tiny.space()
    grown.Boolean("bias")
    oracle = random_oracle()
    oracle.update_space(grown)
    assert [hp.name for hp in oracle.get_space().space] == ["units", "kind", "bias"]
    oracle = random_oracle(tune_new_entries=False)
    oracle.update_space(grown)
    assert [hp.name for hp in oracle.get_space().space] == ["units", "kind"]
    oracle = random_oracle(allow_new_entries=False)
    with pytest.raises(SearchError, match="`allow_new_entries` is `False`, but found new entries") as caught:
        oracle.update_space(grown)
    assert tiny.four_parts(caught.value)[1] == "bias"


def test_an_exhausted_space_that_grows_is_searched_on():
    oracle = random_oracle(hyperparameters=tiny.space(units=1), max_trials=10)
    for trial in oracle.assign(4):
        end(oracle, trial, [1.0])
    assert len(oracle.trials) == 2 and oracle.assign(1) == []
    oracle.update_space(tiny.space(units=1))
    assert oracle.assign(1) == []
    grown = tiny.space(units=1)
    grown.Boolean("bias")
    oracle.update_space(grown)
    assert len(oracle.assign(9)) == 2


def test_what_a_lost_trainer_had_reported_stays(tmp_path):
    """Its result comes from the executor, which keeps no curves."""
    store = ProjectStore(tmp_path)
    oracle = random_oracle()
    oracle.open(store)
    [trial] = oracle.assign(1)
    plan = Plan(trial.trial_id, 0, trial.hyperparameters, 1)
    for epoch, loss in enumerate([3.0, 2.0]):
        oracle.book.add_epochs([(plan, epoch, {"loss": loss})])
    execution = oracle.book.add_execution(Result(plan, Ending.FAILED, {}, message="it lost 3 workers"))
    assert execution.history == {"loss": [3.0, 2.0]} and trial.running == {}
    assert [row["logs"] for row in store.epochs()] == [{"loss": 3.0}, {"loss": 2.0}]
    store.close()


def test_a_trial_that_is_ended_without_a_word_is_neither_completed_nor_promoted():
    oracle = random_oracle()
    trial = oracle.create_trial("a")
    oracle.end_trial(trial)
    oracle.end_trial(trial)
    assert trial.status == "RUNNING" and not trial.has_ended
    assert oracle.book.paused() == [] and oracle.get_best_trials() == []
    trial.status = "COMPLETED"
    oracle.update_trial(trial.trial_id, {"loss": 2.0})
    oracle.end_trial(trial)
    assert (trial.score, trial.status) == (2.0, "COMPLETED")


def test_a_trial_that_no_oracle_handed_out_may_be_ended():
    oracle = random_oracle()
    trial = kt.Trial(oracle.get_space(), "mine")
    oracle.trials["mine"] = trial
    oracle.update_trial("mine", {"loss": 2.0})
    oracle.end_trial(trial)
    assert oracle.get_best_trials() == [trial] and trial.score == 2.0


def test_metrics_are_the_same_with_and_without_a_tracker():
    oracle = random_oracle()
    trial = oracle.create_trial("a")
    end(oracle, trial, [3.0, 1.0], [0.1, 0.3], [0.7])
    assert trial.measured == dict(trial.metrics)
    other = oracle.create_trial("b")
    oracle.update_trial(other.trial_id, {"loss": 2.0, "mae": 1.0})
    assert other.measured == dict(other.metrics)


def test_a_reported_step_belongs_to_an_epoch_and_a_repeated_one_to_another_execution():
    oracle = random_oracle()
    trial = oracle.create_trial("a")
    for step, loss in enumerate([3.0, 1.0, 2.0]):
        oracle.update_trial(trial.trial_id, {"loss": loss, "mae": 7.0}, step=step)
    oracle.update_trial(trial.trial_id, {"loss": 5.0}, step=0)
    assert trial.running == {0: {"loss": [3.0, 1.0, 2.0], "mae": [7.0, 7.0, 7.0]}, 1: {"loss": [5.0]}}


def test_a_report_without_the_objective_lists_what_there_is():
    oracle = random_oracle(objective="val_accuracy")
    trial = oracle.create_trial("a")
    with pytest.raises(UsageError, match="Objective value missing in metrics reported to the Oracle") as caught:
        oracle.update_trial(trial.trial_id, {"loss": 1.0, "accuracy": 0.5})
    _, got, _, instead = tiny.four_parts(caught.value)
    assert "found: ['accuracy', 'loss']" in got and 'objective="accuracy"' in instead


def test_an_oracle_of_ones_own():
    class Counting(kt.Oracle):
        def populate_space(self, trial_id):
            if int(trial_id) >= 3:
                return {"status": kt.TrialStatus.STOPPED}
            return {"status": kt.TrialStatus.RUNNING, "values": {"units": 10 + int(trial_id), "kind": "b"}}

    oracle = Counting(objective="loss", max_trials=10, hyperparameters=tiny.space())
    assert [trial.hyperparameters.get("units") for trial in oracle.assign(10)] == [10, 11, 12]


def test_a_score_of_ones_own():
    class Last(RandomSearchOracle):
        def score_trial(self, trial):
            trial.score, trial.best_step = trial.executions[0].history["loss"][-1], 2

    oracle = Last(objective="loss", hyperparameters=tiny.space(), seed=0)
    trial = oracle.create_trial("a")
    end(oracle, trial, [3.0, 1.0, 2.0])
    assert (trial.score, trial.best_step) == (2.0, 2)


def test_an_oracle_without_sampler_says_what_to_override():
    with pytest.raises(NotImplementedError, match="override populate_space"):
        kt.Oracle(objective="loss", hyperparameters=tiny.space()).create_trial("a")


def test_time_runs_only_while_the_clock_does():
    oracle = random_oracle(max_seconds=1e-9)
    assert not oracle.clock.is_over() and oracle.assign(1)
    oracle.start_clock()
    assert oracle.clock.is_over() and oracle.assign(1) == []
    oracle.stop_clock()
    spent = oracle.clock.spent()
    assert spent > 0 and oracle.clock.spent() == spent


def test_contenders_get_what_is_left_once_everything_was_tried():
    hp = kt.HyperParameters()
    hp.Int("units", 1, 2)
    oracle = random_oracle(hyperparameters=hp)
    for name in "ab":
        assert not oracle.ends_with_contenders()
        end(oracle, oracle.create_trial(name), [1.0])
        oracle.replicates = True
    assert oracle.ends_with_contenders()
    oracle.replicates = False
    assert not oracle.ends_with_contenders()
    several = random_oracle(hyperparameters=hp, objective=[kt.Objective("loss", "min"), kt.Objective("mae", "min")])
    several.replicates = several.proposals.is_exhausted = True
    assert not several.ends_with_contenders()


def test_the_state_counts_runs_and_numbers_from_one():
    oracle = random_oracle(max_retries_per_trial=1)
    failed = oracle.create_trial("a")
    fail(oracle, failed)
    assert oracle.create_trial("a") is failed
    end(oracle, failed, [1.0])
    second = oracle.create_trial("a")
    state = oracle.get_state()
    assert state["run_times"] == {failed.trial_id: 2, second.trial_id: 1}
    assert state["display"]["trial_number"] == {failed.trial_id: 1, second.trial_id: 2}


def test_a_search_limited_in_epochs_learns_how_long_a_training_is():
    free, limited = random_oracle(), random_oracle(max_total_epochs=100)
    before = free.scheduler
    free.set_epochs(5)
    assert free.scheduler is before
    limited.set_epochs(5)
    assert limited.scheduler.max_epochs == 5


def test_models_are_kept_of_the_best_and_of_the_whole_front():
    objectives = [kt.Objective("loss", "min"), kt.Objective("mae", "min")]
    oracle = random_oracle(objective=objectives)
    for loss, mae in ((1.0, 5.0), (2.0, 3.0), (4.0, 4.0), (3.0, 1.0)):
        trial = oracle.create_trial("a")
        plan = Plan(trial.trial_id, 0, trial.hyperparameters, 1)
        oracle.book.add_execution(Result(plan, Ending.COMPLETED, {"loss": [loss], "mae": [mae]}))
        end(oracle, trial)
    front = [trial.trial_id for trial in oracle.book.front()]
    assert sorted(front) == ["0", "1", "3"]
    kept = [trial.trial_id for trial in oracle.book.kept(2)]
    assert sorted(kept) == sorted(front) and kept[:2] == [trial.trial_id for trial in oracle.book.best(2)]
