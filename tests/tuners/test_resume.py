"""Kill at any moment, start again: nothing finished is lost, and the search is the one that was never interrupted."""

from __future__ import annotations

import functools

import pytest
import tiny
from deaths import interrupted

import manyfit as kt
from manyfit.core.errors import FailedTrialError, ProjectError
from manyfit.core.records import Decision, Ending, Result

pytestmark = pytest.mark.backends


def story(tuner):
    """What a search was, as far as the user can tell."""
    rows = [(row.trial_id, row.execution, row.seed, row.status, row.ending, row.score) for row in tuner.results()]
    return tiny.proposals(tuner), rows, tuner.results().curves


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_death_at_any_commit_changes_nothing(tmp_path, monkeypatch, capsys, late, members):
    def make(name):
        trainer = tiny.Formula(num_epochs=2, members=members)
        return tiny.searched(
            trainer, max_trials=4, executions_per_trial=2, seed=3, directory=str(tmp_path), project_name=name
        )

    whole = make("whole")
    whole.search(verbose=0)
    assert len(whole.results()) == 8 and len(whole.results().curves) == 16
    num_deaths = 0
    while True:
        again = interrupted(functools.partial(make, f"{num_deaths}"), monkeypatch, num_deaths, late)
        if again is None:
            break
        assert story(again) == story(whole), f"killed after commit {num_deaths}"
        num_deaths += 1
    assert num_deaths > 20


class Rolling(tiny.Formula):
    """Trains members side by side as a population does: who pauses or ends makes room, and the others go on.

    It keeps no states, so it trains what was paused again from its start, in silence; and what is known of before a
    kill before anything else.
    """

    def train(self, supply, task):
        members = []
        while True:
            is_behind = any(plan.is_known(epoch) for plan, epoch in members)
            if not is_behind and len(members) < self.members:
                members += [[plan, plan.first_epoch] for plan in supply.take(self.members - len(members))]
                is_behind = any(plan.is_known(epoch) for plan, epoch in members)
            if not members:
                return
            now = [member for member in members if member[0].is_known(member[1]) or not is_behind]
            answers = supply.report([(plan, epoch, {"loss": self.loss(plan, epoch)}) for plan, epoch in now])
            for member, answer in zip(now, answers, strict=True):
                member[1] += 1
                plan, epochs = member
                if answer is Decision.PAUSE or epochs == self.num_epochs:
                    members.remove(member)
                    ending = Ending.PAUSED if answer is Decision.PAUSE else Ending.COMPLETED
                    supply.finish(Result(plan, ending, {"loss": [self.loss(plan, epoch) for epoch in range(epochs)]}))

    @staticmethod
    def loss(plan, epoch):
        return tiny.loss_of(plan, epoch) * (1 - 0.01 * epoch)


def test_death_at_any_commit_promotes_the_same_trials(tmp_path, monkeypatch, capsys):
    """Who is promoted depends on who is how far; so nobody goes on before all are where they were."""

    def make(name):
        trainer = Rolling(num_epochs=27, members=6)
        options = {"max_trials": 14, "seed": 1, "directory": str(tmp_path), "project_name": name}
        return tiny.searched(trainer, scheduler=kt.ASHA(max_epochs=27), **options)

    whole = make("whole")
    whole.search(verbose=0)
    assert {len(trial.executions[0].history["loss"]) for trial in whole.oracle.trials.values()} == {1, 3, 9, 27}
    # Every sixth: after 33 and 45 commits other trials were promoted as long as an interrupted one came later.
    for num_commits in range(3, 111, 6):
        again = interrupted(functools.partial(make, f"{num_commits}"), monkeypatch, num_commits, False)
        assert story(again) == story(whole), f"killed after commit {num_commits}"
        again.close()


def test_death_at_any_commit_with_failures_and_retries(tmp_path, monkeypatch, capsys):
    def make(name):
        def fails(plan):
            units = plan.values.values["units"]
            if units % 3 == 0:
                return FailedTrialError("units")
            return ValueError("odd seed") if plan.seed % 2 else None

        trainer = tiny.Formula(num_epochs=1, fail=fails)
        return tiny.searched(
            trainer,
            max_trials=5,
            executions_per_trial=2,
            max_retries_per_trial=2,
            max_consecutive_failed_trials=9,
            seed=3,
            directory=str(tmp_path),
            project_name=name,
        )

    whole = make("whole")
    whole.search(verbose=0)
    statuses = [trial.status for trial in whole.oracle.trials.values()]
    assert {"COMPLETED", "FAILED"} == set(statuses)
    assert any(trial.attempt and trial.status == "COMPLETED" for trial in whole.oracle.trials.values())
    num_deaths = 0
    while (again := interrupted(functools.partial(make, f"{num_deaths}"), monkeypatch, num_deaths, True)) is not None:
        assert tiny.proposals(again) == tiny.proposals(whole)
        assert [trial.status for trial in again.oracle.trials.values()] == statuses
        best = [[(t.trial_id, t.score) for t in tuner.oracle.get_best_trials(9)] for tuner in (again, whole)]
        assert best[0] == best[1], f"killed after commit {num_deaths}"
        num_deaths += 1
    assert num_deaths > 20


def test_finished_executions_are_not_trained_again(tmp_path, monkeypatch, capsys):
    trainers = [tiny.Formula(num_epochs=1), tiny.Formula(num_epochs=1)]
    made = iter(trainers)

    def make():
        return tiny.searched(next(made), max_trials=2, executions_per_trial=3, seed=0, directory=str(tmp_path))

    interrupted(make, monkeypatch, 9, True)
    first, second = ([(trial, execution) for trial, execution, _ in trainer.trained] for trainer in trainers)
    finished = first[:-1]  # the last one died in the commit of its end, or before
    assert finished and not set(finished) & set(second)
    assert set(first) | set(second) == {(trial, execution) for trial in "01" for execution in range(3)}


@pytest.mark.parametrize("tuner", [kt.RandomSearch, kt.GridSearch])
def test_death_between_trials_of_an_override(tuner, tmp_path, monkeypatch, capsys):
    def make(name):
        return tiny.numbers(
            lambda trial: trial.hyperparameters.get("units") / 3,
            tuner,
            hyperparameters=tiny.space(units=3),
            seed=1,
            max_trials=6,
            directory=str(tmp_path),
            project_name=name,
        )

    whole = make("whole")
    whole.search(verbose=0)
    assert len(whole.results()) == 6
    num_deaths = 0
    while (again := interrupted(functools.partial(make, f"{num_deaths}"), monkeypatch, num_deaths, True)) is not None:
        assert story(again) == story(whole)
        num_deaths += 1
    assert num_deaths > 12


def test_an_interrupted_search_goes_on_in_the_same_process(project, capsys):
    calls = []

    def interrupt_once(trial):
        calls.append(trial.trial_id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return float(trial.hyperparameters.get("units"))

    tuner = tiny.numbers(interrupt_once, max_trials=3, seed=0, **project)
    with pytest.raises(KeyboardInterrupt):
        tuner.search(verbose=0)
    tuner.search(verbose=0)
    assert calls == ["0", "1", "1", "2"]
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 3


def test_interrupted_training_goes_on_in_the_same_process(project, capsys):
    class InterruptOnce(tiny.Formula):
        def _finish(self, plan, curve, supply, task):
            if plan.key == ("1", 0) and not any(key[:2] == ("1", 0) for key in self.trained):
                self.trained.append((*plan.key, plan.seed))
                raise KeyboardInterrupt
            super()._finish(plan, curve, supply, task)

    trainer = InterruptOnce(members=2)
    tuner = tiny.searched(trainer, max_trials=4, seed=0, **project)
    with pytest.raises(KeyboardInterrupt):
        tuner.search(verbose=0)
    tuner.search(verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"] * 4
    seeds = [seed for trial, _, seed in trainer.trained if trial == "1"]
    assert len(seeds) == 2 and len(set(seeds)) == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"objective": "loss"}, 'Objective(name="loss", direction="min") asked for'),
        ({"objective": kt.Objective("score", "min")}, 'direction="min") asked for'),
        ({"seed": 8}, "seed 7 in the project, 8 asked for"),
        ({"tuner": kt.GridSearch}, "sampler RandomSampler in the project, GridSampler asked for"),
    ],
)
def test_another_search_is_refused_with_both_ways_out(project, capsys, changed, told):
    arguments = {"objective": kt.Objective("score", "max"), "seed": 7, "max_trials": 2, **project}
    first = tiny.numbers(lambda trial: 1.0, **arguments)
    first.search(verbose=0)
    first.close()
    with pytest.raises(ProjectError, match="Error reloading `Oracle` from existing project") as caught:
        tiny.numbers(lambda trial: 1.0, **{**arguments, **changed})
    _, got, _, instead = tiny.four_parts(caught.value)
    assert told in got
    assert "construct the tuner as before" in instead and "overwrite=True" in instead
    fresh = tiny.numbers(lambda trial: 1.0, **{**arguments, **changed, "overwrite": True})
    assert fresh.oracle.trials == {}


def test_a_project_without_a_given_seed_keeps_its_own(project, capsys):
    first = tiny.numbers(lambda trial: 1.0, max_trials=3, **project)
    first.search(verbose=0)
    first.close()
    again = tiny.numbers(lambda trial: 1.0, max_trials=6, **project)
    assert again.oracle.seed == first.oracle.seed
    assert tiny.proposals(again) == tiny.proposals(first)
    again.search(verbose=0)
    assert len({tuple(values.values()) for values in tiny.proposals(again)}) == 6


def test_reloading_is_said(project, capsys):
    tiny.numbers(lambda trial: 1.0, max_trials=1, **project).close()
    assert "Reloading" not in capsys.readouterr().out
    again = tiny.numbers(lambda trial: 1.0, max_trials=1, **project)
    assert capsys.readouterr().out == f"Reloading Tuner from {again.project_dir}/tuner0.json\n"
