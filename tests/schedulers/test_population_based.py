"""Population-based training: who is copied, with which values, and that a killed search goes on as the same one."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tiny
from deaths import interrupted
from marks import on_jax_only

import manyfit as kt
from manyfit.core.errors import UsageError, UsageTypeError
from manyfit.core.records import Decision, Ending, Progress, Result
from manyfit.core.seeds import seed_of
from manyfit.oracles.jobs import is_branch, lineage_of
from manyfit.schedulers.base import Branch, Limits, Resume, Start
from manyfit.testing.schedulers import FakeOracle
from manyfit.training.stored_state import StoredState, read_state, write_state

PBT = kt.PopulationBasedTraining


def step(losses, epochs=2, **options):
    return [Progress(str(i), (9.0,) * (epochs - 1) + (loss,), epochs, **options) for i, loss in enumerate(losses)]


# Who ------------------------------------------------------------------------------------------------------------


def test_the_worst_fifth_gives_way_to_the_best_fifth():
    losses = [0.5, 0.1, 0.9, 0.4, 0.2, 0.6, 0.7, 0.3, 0.8, 0.55]
    jobs = PBT(10, 2, population_size=10).assign(step(losses), 10, Limits(max_trials=10))
    branches = [job for job in jobs if isinstance(job, Branch)]
    assert [(job.replaces, job.parent_id, job.parent_epoch, job.target_epochs) for job in branches] == [
        ("2", "1", 2, 4), ("8", "4", 2, 4),
    ]  # fmt: skip
    assert jobs[:2] == branches  # a parent rests until its copies are made
    assert {job.trial_id for job in jobs[2:]} == set("0134567") | {"9"}
    assert branches[0].lineage == {"tuner/parent": "1", "tuner/parent_epoch": 2, "tuner/replaces": "2"}


def test_nobody_is_ranked_before_all_are_there():
    history = step([0.5, 0.1, 0.9])
    history[1] = Progress("1", (9.0,), 2, running=True)
    assert PBT(10, 2, population_size=3).assign(history, 2, Limits(max_trials=3)) == []


def test_no_more_go_on_than_there_are_slots_and_epochs():
    members = step([0.1, 0.2, 0.3, 0.4])
    scheduler = PBT(10, 2, population_size=4)
    assert len(scheduler.assign(members, 8, Limits(max_trials=4))) == 4
    assert len(scheduler.assign(members, 3, Limits(max_trials=4))) == 3
    assert len(scheduler.assign(members, 8, Limits(max_trials=4, max_total_epochs=8 + 2 * 2))) == 2


def test_the_last_loss_of_a_step_counts_and_not_its_best():
    history = [Progress("0", (0.1, 0.9), 2), Progress("1", (0.6, 0.5), 2)]
    [branch, _] = PBT(10, 2, population_size=2).assign(history, 2, Limits(max_trials=2))
    assert (branch.parent_id, branch.replaces) == ("1", "0")


def test_whoever_failed_gives_way_and_one_that_ended_by_itself_is_no_parent():
    history = step([0.5, 0.1, 0.4, 0.45])
    history.append(Progress("4", (0.3,), 2, ending=Ending.FAILED))
    history[1] = Progress("1", (9.0, 0.1), 2, ending=Ending.COMPLETED)  # a callback's word
    history.append(Progress("5", (float("inf"),), 2, ending=Ending.DIVERGED))
    jobs = PBT(10, 2, population_size=6).assign(history, 9, Limits(max_trials=6))
    assert [(job.replaces, job.parent_id) for job in jobs if isinstance(job, Branch)] == [("4", "2"), ("5", "2")]
    assert [job.trial_id for job in jobs if isinstance(job, Resume)] == ["2", "3", "0"]


def test_failures_of_the_first_step_are_replaced_by_new_trials_while_there_are_some():
    history = step([0.5, 0.1])
    history.append(Progress("2", (0.3,), 2, ending=Ending.FAILED))
    assert PBT(10, 2, population_size=3).assign(history, 9, Limits(max_trials=9))[0] == Start(
        2, {"tuner/epochs": 2, "tuner/initial_epoch": 0, "tuner/round": 0}
    )


@pytest.mark.parametrize("slots", [1, 3, 20])
def test_a_population_keeps_its_size_and_spends_what_full_trainings_would(slots):
    oracle = FakeOracle(Limits(max_trials=10), slots=slots)
    history = oracle.run(lambda: PBT(9, 2))
    assert oracle.num_starts == 10 and oracle.num_epochs == 10 * 9
    assert sum(p.ending is Ending.COMPLETED for p in history) == 10
    by_slots = [(p.trial_id, p.tags.get("tuner/parent"), p.tags.get("tuner/replaces")) for p in history]
    together = FakeOracle(Limits(max_trials=10), slots=99).run(lambda: PBT(9, 2))
    assert by_slots == [(p.trial_id, p.tags.get("tuner/parent"), p.tags.get("tuner/replaces")) for p in together]


def test_bad_settings_are_refused_in_words():
    for options, error in (
        ({"max_epochs": 1}, UsageError),
        ({"interval_epochs": 10}, UsageError),
        ({"factor": 1}, UsageError),
        ({"perturbation": (0.8, 0.0)}, UsageError),
        ({"perturbation": 1.2}, UsageTypeError),
        ({"resample_probability": 2}, UsageError),
        ({"names": "rate"}, UsageTypeError),
    ):
        with pytest.raises(error) as caught:
            PBT(**{"max_epochs": 10, **options})
        tiny.four_parts(caught.value)


def test_a_step_without_a_logged_objective_is_said():
    history = [Progress(str(i), (float("nan"),) * 2, 2) for i in range(3)]
    with pytest.raises(UsageError, match="interval_epochs=3"):
        PBT(10, 2, population_size=3).assign(history, 3, Limits(max_trials=3))


# With which values ------------------------------------------------------------------------------------------------


def wide_space():
    hp = kt.HyperParameters()
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Float("dropout", 0.0, 0.5, step=0.1)
    hp.Int("units", 8, 64)
    hp.Choice("kind", ["a", "b"])
    return hp


def test_numbers_are_multiplied_and_nothing_else_changes():
    scheduler, seen = PBT(10, resample_probability=0.0), set()
    for seed in range(40):
        values = {"rate": 0.01, "dropout": 0.2, "units": 20, "kind": "b"}
        found = scheduler.explore(wide_space(), values, np.random.default_rng(seed))
        assert (found["units"], found["kind"]) == (20, "b")
        seen.add((round(found["rate"], 9), found["dropout"]))
    # 0.16 and 0.24 are next to 0.2: on a grid at least the next value is taken.
    assert seen == {(0.008, 0.1), (0.008, 0.3), (0.012, 0.1), (0.012, 0.3)}


def test_values_stay_in_their_range_and_names_say_which():
    scheduler = PBT(10, names=["units", "rate"], perturbation=(3.0, 3.0), resample_probability=0.0)
    values = {"rate": 0.08, "dropout": 0.2, "units": 20, "kind": "b"}
    found = scheduler.explore(wide_space(), values, np.random.default_rng(0))
    assert found == {"rate": 0.1, "dropout": 0.2, "units": 60, "kind": "b"}
    for names in (["kind"], ["speed"]):
        with pytest.raises(UsageError, match="rate, dropout, units") as caught:
            PBT(10, names=names).explored(wide_space())
        tiny.four_parts(caught.value)


def test_resampled_values_are_draws_from_the_range():
    scheduler = PBT(10, names=["rate"], resample_probability=1.0)
    drawn = [
        scheduler.explore(wide_space(), {"rate": 0.01}, np.random.default_rng(seed))["rate"] for seed in range(300)
    ]
    # Equal chances per power of ten: three of them between the bounds.
    shares = np.histogram(np.log10(drawn), bins=[-4, -3, -2, -1])[0] / 300
    np.testing.assert_allclose(shares, 1 / 3, atol=0.1)


# A killed search ---------------------------------------------------------------------------------------------------


class Walker(tiny.Formula):
    """A trainer of one number, which keeps states as trainers do: in memory, and in a file for another process."""

    remembers = True

    def train(self, supply, task):
        members, parked = [], {}
        while True:
            if not any(member["plan"].is_known(member["epoch"]) for member in members):
                members += [self.begun(plan, parked) for plan in supply.take(self.members - len(members))]
            if not members:
                return
            behind = [member for member in members if member["plan"].is_known(member["epoch"])]
            now = behind or list(members)
            for member in now:
                noise = np.random.default_rng([member["plan"].seed, member["epoch"]]).normal()
                rate = member["plan"].values.values["rate"]
                member["walked"] += rate * (1 - member["walked"]) + 0.01 * noise
                member["curve"] += [None] * (member["epoch"] - len(member["curve"])) + [(1 - member["walked"]) ** 2]
            told = [each for each in now if each["epoch"] >= each["plan"].first_epoch]
            reports = [(each["plan"], each["epoch"], {"loss": each["curve"][-1]}) for each in told]
            answers = dict(zip(map(id, told), supply.report(reports), strict=True)) if reports else {}
            for member in now:
                member["epoch"] += 1
                paused = answers.get(id(member)) is Decision.PAUSE
                if paused or member["epoch"] == self.num_epochs:
                    members.remove(member)
                    self.leave(member, paused, supply, parked)

    def begun(self, plan, parked):
        if self.remembers and plan.key in parked and parked[plan.key]["epoch"] == plan.first_epoch:
            return {**parked.pop(plan.key), "plan": plan}
        state = read_state(plan, "walker", 0)
        found = {"plan": plan, "epoch": 0, "walked": 0.0, "curve": []}
        if state is not None:
            found |= {
                "epoch": state.epoch,
                "walked": float(state.variables[0][0]),
                "curve": state.history.get("loss", []),
            }
        assert plan.origin is None or state is not None
        return found

    @staticmethod
    def leave(member, paused, supply, parked):
        plan, curve = member["plan"], list(member["curve"])
        if paused:
            variables = ([np.float64(member["walked"])], [], [])
            state = StoredState("walker", plan.seed, member["epoch"], variables, [], {"loss": curve}, None, 0.0)
            write_state(plan.state_path, state, keeps_earlier=plan.origin is not None)
            parked[plan.key] = member
        supply.finish(Result(plan, Ending.PAUSED if paused else Ending.COMPLETED, {"loss": curve}))


def rates():
    hp = kt.HyperParameters()
    hp.Float("rate", 1e-3, 1.0, sampling="log")
    return hp


def walk(folder, name, *, members=3, **options):
    return tiny.searched(
        Walker(num_epochs=6, members=members), max_trials=5, seed=2, hyperparameters=rates(),
        scheduler=PBT(6, 2, resample_probability=0.0), directory=str(folder), project_name=name, **options,
    )  # fmt: skip


def story(tuner):
    rows = [
        (row.trial_id, row.values, row.seed, row.ending, row.score, row.message, row.num_epochs)
        for row in tuner.results()
    ]
    return rows, tuner.results().curves


@pytest.fixture
def fake_fit(monkeypatch):
    """The trainer of these tests reads no rows."""
    monkeypatch.setattr("manyfit.tuners.together.check_branching", lambda *args: None)


@pytest.mark.parametrize("late", [False, True])
def test_death_at_any_commit_copies_the_same_trials(tmp_path, monkeypatch, capsys, fake_fit, late):
    whole = walk(tmp_path, "whole")
    whole.search(verbose=0)
    assert len(whole.oracle.trials) == 7 and whole.results().epochs_spent == 5 * 6
    num_deaths = int(late)  # every second commit: the other test dies at the others
    while True:
        make = functools.partial(walk, tmp_path, f"{late}{num_deaths}")
        again = interrupted(make, monkeypatch, num_deaths, late)
        if again is None:
            break
        assert story(again) == story(whole), f"killed after commit {num_deaths}"
        again.close()
        num_deaths += 2
    assert num_deaths > 25
    assert not [path for path in (tmp_path / "whole" / "weights").iterdir() if ".state" in path.name]


def test_what_is_copied_does_not_depend_on_what_is_in_memory(tmp_path, monkeypatch, capsys, fake_fit):
    stories = []
    for remembers in (True, False):
        monkeypatch.setattr(Walker, "remembers", remembers)
        tuner = walk(tmp_path, f"{remembers}", members=1)
        tuner.search(verbose=0)
        stories.append(story(tuner))
    assert stories[0] == stories[1]


def test_a_lineage_is_a_schedule_of_values(tmp_path, capsys, fake_fit):
    tuner = walk(tmp_path, "lineage")
    tuner.search(verbose=0)
    trials = tuner.oracle.trials
    last = trials["6"]
    stretches = lineage_of(last, trials)
    assert [one.trial_id for one in stretches][-1] == "6" and stretches[0].first_epoch == 0
    assert [one.end_epoch for one in stretches[:-1]] == [one.first_epoch for one in stretches[1:]]
    before, after = (one.values["rate"] for one in stretches[-2:])
    assert after / before in (pytest.approx(0.8), pytest.approx(1.2))
    assert last.tags["tuner/parent"] == stretches[-2].trial_id
    replaced = trials[last.tags["tuner/replaces"]]
    assert f"trial 6 took its place, a branch of trial {stretches[-2].trial_id}" in replaced.message


# In the trainers ---------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 3)).astype("float32")
Y = (X @ np.array([1.0, -2.0, 0.5])).astype("float32")[:, None]
FIT = {"validation_split": 0.5, "batch_size": 8, "shuffle": False, "verbose": 0}


def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    rate, decay = hp.Float("rate", 1e-3, 1e-1, sampling="log"), hp.Float("decay", 1e-3, 1e-1, sampling="log")
    model.compile(keras.optimizers.AdamW(rate, weight_decay=decay), "mse")
    return model


def search(folder, population, **options):
    tuner = kt.RandomSearch(
        build, "val_loss", max_trials=4, seed=3, scheduler=PBT(6, 2), directory=str(folder),
        population=population, **options,
    )  # fmt: skip
    tuner.search(X, Y, **FIT)
    return tuner


def by_hand(stretches, epochs, start, metric="val_loss", fit=FIT):
    """The losses of a schedule of values, trained by Keras alone, from these first weights."""
    losses, model = [], None
    for stretch in stretches:
        hp = kt.HyperParameters()
        hp.values = dict(stretch.values)
        before, model = model, build(hp)
        model.set_weights(start if before is None else before.get_weights())
        if before is not None:
            model.optimizer.build(model.trainable_variables)
            for mine, other in zip(model.optimizer.variables, before.optimizer.variables, strict=True):
                if "learning_rate" not in mine.path:
                    mine.assign(other)
        end = epochs if stretch.end_epoch is None else stretch.end_epoch
        losses += model.fit(X, Y, initial_epoch=stretch.first_epoch, epochs=end, **fit).history[metric]
    return losses


@on_jax_only
@pytest.mark.parametrize("population", [True, False])
def test_a_branch_trains_as_its_lineage_by_hand(tmp_path, population):
    tuner = search(tmp_path, population)
    trials = tuner.oracle.trials
    last = list(trials.values())[-1]
    stretches = lineage_of(last, trials)
    assert len(stretches) > 1
    root = trials[stretches[0].trial_id]
    keras.utils.set_random_seed(root.executions[0].seed)
    hp = kt.HyperParameters()
    hp.values = dict(stretches[0].values)
    expected = by_hand(stretches, 6, build(hp).get_weights())
    mine = last.executions[0].history["val_loss"]
    first = stretches[-1].first_epoch
    assert mine[:first] == [None] * first
    np.testing.assert_allclose(mine[first:], expected[first:], rtol=2e-5)
    tuner.close()


@on_jax_only
def test_the_population_goes_on_bit_for_bit_after_a_kill(tmp_path, monkeypatch):
    whole = search(tmp_path / "whole", True)
    for num_commits in (9, 14):
        make = functools.partial(
            kt.RandomSearch, build, "val_loss", 4, 3, scheduler=PBT(6, 2), directory=tmp_path / f"{num_commits}"
        )
        again = interrupted(make, monkeypatch, num_commits, False, lambda tuner: tuner.search(X, Y, **FIT))
        assert story(again) == story(whole), f"killed after commit {num_commits}"
        again.close()
    whole.close()


# What cannot be ------------------------------------------------------------------------------------------------------


def refused(match, build_function=build, fit=(X, Y), **options):
    with pytest.raises(UsageError, match=match) as caught:
        tuner = kt.RandomSearch(build_function, options.pop("objective", "val_loss"), 4, scheduler=PBT(6, 2), **options)
        tuner.search(*fit, **FIT)
    tiny.four_parts(caught.value)


def test_what_cannot_be_copied_is_refused_before_training(tmp_path):
    class OwnFit(kt.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **kwargs)

    refused("HyperModel.fit of its own", OwnFit(), directory=tmp_path / "fit")
    refused("2 objectives", objective=["val_loss", "loss"], directory=tmp_path / "two")

    def without_numbers(hp):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(hp.Int("units", 1, 3)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    refused("a space without an hp.Float", without_numbers, directory=tmp_path / "numbers")
    with pytest.raises(UsageError, match="run_trial, which trains in its own way"):
        tuner = tiny.numbers(lambda trial: 0.5, scheduler=PBT(6, 2), max_trials=2, directory=tmp_path / "own")
        tuner.search()


@on_jax_only
def test_a_number_that_decides_about_shapes_fails_its_branches_in_words(tmp_path):
    def shaped(hp):
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(int(hp.Float("width", 2, 9))), keras.layers.Dense(1)]
        )
        model.compile(keras.optimizers.Adam(hp.Float("rate", 1e-3, 1e-1)), "mse")
        return model

    tuner = kt.RandomSearch(
        shaped, "val_loss", 2, 0, scheduler=PBT(4, 2, perturbation=(3.0, 3.0), resample_probability=0.0),
        directory=tmp_path, population=False,
    )  # fmt: skip
    tuner.search(X, Y, **FIT)
    [branch] = list(tuner.oracle.trials.values())[2:]
    assert branch.status == "FAILED" and 'names=["learning_rate"]' in branch.message
    assert sum(trial.status == "COMPLETED" for trial in tuner.oracle.trials.values()) == 2


# After the search ----------------------------------------------------------------------------------------------------


@on_jax_only
@pytest.mark.parametrize("population", [True, False])
def test_a_retraining_of_a_branch_replays_its_schedule_of_values(tmp_path, population, capsys):
    tuner = search(tmp_path, population)
    trials = tuner.oracle.trials
    branch = next(trial for trial in reversed(trials.values()) if trial.ending is Ending.COMPLETED and is_branch(trial))
    stretches = lineage_of(branch, trials)
    tuner.verbose = 1
    [model] = tuner.retrain([branch.trial_id], epochs=6)
    assert f"trial {branch.trial_id} is a branch: it trains with the values of trial" in capsys.readouterr().out
    keras.utils.set_random_seed(seed_of(tuner.oracle.seed, "retrain", branch.trial_id))
    hp = kt.HyperParameters()
    hp.values = dict(stretches[0].values)
    expected = by_hand(stretches, 6, build(hp).get_weights(), metric="loss", fit={**FIT, "validation_split": 0.0})
    np.testing.assert_allclose(model.history.history["loss"], expected, rtol=2e-5)
    if not population:  # a confirmation goes the same way, and compiles for each of its runs there
        return
    assert tuner.confirm(2, max_executions=6, proof_executions=0, verbose=0).rows
    runs = {index: run for trial in trials.values() for index, run in trial.executions_of("confirm").items()}
    assert all(len(run.history["val_loss"]) == 6 and None not in run.history["val_loss"] for run in runs.values())
    tuner.close()
