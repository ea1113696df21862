"""Confirming: fresh seeds, the same for all; who may be the best; what is written down."""

from __future__ import annotations

import dataclasses
import io
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from deaths import Killed
from finalists import Noisy, searched

import manyfit as kt
from manyfit.core.errors import SearchError, UsageError
from manyfit.finish import summary
from manyfit.finish.fresh_runs import PROOF
from manyfit.finish.fresh_seeds import ProofSupply
from manyfit.report.confirmation import Confirmation
from manyfit.training.base import judge

pytestmark = pytest.mark.backends


def test_a_race_finds_the_best_on_seeds_that_all_finalists_share(project, capsys):
    trainer = Noisy()
    tuner = searched(project, trainer)
    num_searched = len(trainer.trained)
    confirmation = tuner.confirm(top=4)
    true = {t.trial_id: t.hyperparameters.values["units"] for t in tuner.oracle.trials.values()}
    best = min((row.trial_id for row in confirmation.rows), key=true.__getitem__)
    assert confirmation.settled and best in confirmation.winning_set
    assert len(trainer.trained) - num_searched == confirmation.num_executions
    seeds = {}
    for trial_id, execution, seed in trainer.trained[num_searched:]:
        seeds.setdefault((execution, seed), set()).add(trial_id)
    race = [runs for (execution, _), runs in seeds.items() if execution < 3 and len(runs) > 1]
    assert len(race) == 3 and all(len(runs) == 4 for runs in race)  # the first three seeds run for everybody
    searched_seeds = {seed for _, _, seed in trainer.trained[:num_searched]}
    assert not searched_seeds & {seed for _, seed in seeds}  # fresh

    recommended = tuner.oracle.trials[confirmation.recommended.trial_id]
    assert tuner.get_best_hyperparameters(1)[0].values == recommended.hyperparameters.values
    assert recommended.confirmed.score == confirmation.score
    assert confirmation.proof.num_executions == 5
    assert "Rows unknown" in " ".join(
        str(confirmation).split()
    )  # this trainer keeps none, so nothing is said of others
    tuner.results_summary(4)
    printed = capsys.readouterr().out
    assert "Confirmed:" in printed and "Search score:" in printed and "recommended" in printed


def test_it_can_be_read_as_text_as_html_and_in_a_rich_terminal(project):
    tuner = searched(project, Noisy())
    confirmation = tuner.confirm(top=3)
    best = confirmation.recommended.trial_id
    text, page = str(confirmation), confirmation._repr_html_()
    for words in ("expected", "95% interval", "best with", "runs", "search said"):
        assert words in text and words in page
    assert f"rial {best}" in text.splitlines()[0] and "executions on fresh seeds" in text
    assert page.count("<tr") == 1 + 2 * 3 and page.count("<svg") == 3 and "<script" not in page
    rich = pytest.importorskip("rich.console")
    console = rich.Console(width=200, record=True, file=io.StringIO())
    console.print(confirmation)
    assert "recommended" in console.export_text()
    assert Confirmation.from_dict(confirmation.to_dict()) == dataclasses.replace(confirmation)


def test_what_cannot_be_told_apart_is_not_called_equal(project):
    tuner = searched(project, Noisy(), max_trials=2, units=1)  # only `kind` differs, which does nothing
    confirmation = tuner.confirm(top=2, max_rounds=12)
    assert len(confirmation.winning_set) == 2 and not confirmation.settled
    assert confirmation.ending == "no more drops" and confirmation.num_executions < 2 * 12 + 5
    words = " ".join(str(confirmation).split())
    assert f"One of {' and '.join(confirmation.winning_set)}." in words and "Recommended by all evidence" in words
    leader = min(confirmation.rows, key=lambda row: row.score)
    assert confirmation.recommended.trial_id == leader.trial_id


def test_equal_within_a_margin_is_a_finding_and_the_cheapest_is_taken(project):
    tuner = searched(project, Noisy(), max_trials=4, units=1)  # "a" has 99 parameters, "b" 7
    confirmation = tuner.confirm(top=4, margin=0.1)
    assert confirmation.ending == "equal" and confirmation.settled and len(confirmation.winning_set) == 4
    assert confirmation.recommended.values["kind"] == "b"
    assert {row.values["kind"] for row in confirmation.rows} == {"a", "b"}
    best, *_, last = confirmation.winning_set
    words = " ".join(str(confirmation).split())
    assert f"and {last} are equal within 0.1; {best} is the cheapest, at 0.071 of the cost of" in words


class Equal(Noisy):
    deviation = 0.0


def test_all_tie(project):
    confirmation = searched(project, Equal(), max_trials=2, units=1).confirm(top=8, proof_executions=0)
    assert len(confirmation.winning_set) == 2 and confirmation.settled and confirmation.proof is None
    assert confirmation.ending == "equal" and confirmation.rounds == 3


def test_one_finalist(project):
    confirmation = searched(project, Noisy(), max_trials=3).confirm(top=1, proof_executions=4)
    assert confirmation.winning_set == (confirmation.recommended.trial_id,)
    assert "the only finalist" in " ".join(str(confirmation).split()) and confirmation.proof.num_executions == 4


class Diverging(Noisy):
    """One trial's loss is NaN on the second fresh seed."""

    victim = None

    def train(self, supply, task):
        class Spoilt:
            def __getattr__(self, name):
                return getattr(supply, name)

            def finish(_, result):
                if (result.plan.phase, result.plan.trial_id, result.plan.execution) == ("confirm", self.victim, 1):
                    result.history = {"loss": [float("nan")]}
                    result.ending, result.message = judge(result.history, task.objective, stopped=False)
                supply.finish(result)

        super().train(Spoilt(), task)


@pytest.mark.parametrize("how", ["fails", "diverges"])
def test_one_failure_among_good_runs_has_its_own_line_and_drops_nobody(how, project):
    trainer = Diverging()
    tuner = searched(project, trainer)
    best = min(tuner.oracle.trials.values(), key=lambda t: t.hyperparameters.values["units"]).trial_id
    if how == "diverges":
        trainer.victim = best
    else:
        trainer.fail = lambda plan: (
            ValueError("no") if plan.trial_id == best and plan.phase == "confirm" and plan.execution == 1 else None
        )
    confirmation = tuner.confirm(top=3, max_rounds=12)
    row = next(row for row in confirmation.rows if row.trial_id == best)
    assert row.in_winning_set and row.num_failed == 1 and np.isfinite(row.score)
    assert confirmation.recommended.trial_id == best
    words = " ".join(str(confirmation).split())
    assert f"Trial {best} diverged or failed in 1 of {row.num_executions} fresh runs (" in words


def test_who_fails_far_more_often_is_out(project):
    trainer = Noisy()
    tuner = searched(project, trainer)
    best = min(tuner.oracle.trials.values(), key=lambda t: t.hyperparameters.values["units"]).trial_id
    trainer.fail = lambda plan: ValueError("no") if plan.trial_id == best and plan.phase == "confirm" else None
    confirmation = tuner.confirm(top=3)
    row = next(row for row in confirmation.rows if row.trial_id == best)
    assert not row.in_winning_set and row.standing.startswith("fails more than")
    assert confirmation.recommended.trial_id != best


def test_finalists_that_all_fail_are_an_error_with_their_reason(project):
    trainer = Noisy()
    tuner = searched(project, trainer)
    trainer.fail = lambda plan: ValueError("everything is broken")
    with pytest.raises(SearchError, match="everything is broken"):
        tuner.confirm(top=2)


def test_a_confirmation_that_is_called_again_runs_nothing_twice(project):
    trainer = Noisy()
    tuner = searched(project, trainer)
    first = tuner.confirm(top=3)
    count = len(trainer.trained)
    again = tuner.confirm(top=3)
    assert len(trainer.trained) == count
    assert dataclasses.replace(again, seconds=first.seconds) == first


def test_budgets(project):
    tuner = searched(project, Noisy(), units=3)
    with pytest.raises(UsageError, match="max_executions=17"):
        tuner.confirm(top=4, max_executions=10)
    confirmation = tuner.confirm(top=4, max_executions=17, confidence=0.99)
    assert confirmation.num_executions == 17
    proofs = [len(trial.executions_of("proof")) for trial in tuner.oracle.trials.values()]
    assert sorted(proofs)[-2:] == [0, 5]  # of one trial, which these runs may have shown not to be the best after all
    for wrong in ({"top": 0}, {"confidence": 1.5}, {"max_seconds": 0}, {"max_rounds": 0}, {"proof_executions": -1}):
        with pytest.raises(UsageError) as error:
            tuner.confirm(**wrong)
        tiny.four_parts(error.value)


@pytest.mark.parametrize("num_in_time", [1, 7])
def test_the_time_may_end_it(num_in_time, project, monkeypatch):
    trainer = Noisy()
    trainer.members = 1
    tuner = searched(project, trainer)
    already = len(trainer.trained)
    clock = SimpleNamespace(monotonic=lambda: float(len(trainer.trained) - already))  # an execution takes a second
    monkeypatch.setattr("manyfit.core.clock.time", clock)
    confirmation = tuner.confirm(top=4, max_seconds=num_in_time)
    assert confirmation.num_executions == num_in_time and confirmation.proof is None and not confirmation.settled
    assert confirmation.verdict == "the time was up"
    words = " ".join(str(confirmation).split())
    runs = "One fresh run each" if num_in_time == 7 else "No fresh run of all"
    assert f"{runs}: too few to compare. Order by all evidence: " in words
    assert len(confirmation.winning_set) == 4 and "inf" not in words
    monkeypatch.undo()
    assert tuner.confirm(top=4).settled  # it goes on where it was


def test_confirming_needs_a_search_in_this_process(project):
    tuner = tiny.searched(Noisy(), max_trials=1, hyperparameters=tiny.space(3), **project)
    with pytest.raises(UsageError, match="search"):
        tuner.confirm()


def test_a_tuner_that_trains_by_its_own_code_is_told_so(project):
    tuner = tiny.numbers(lambda trial: 1.0, max_trials=2, **project)
    tuner.search(verbose=0)
    with pytest.raises(UsageError, match="run_trial"):
        tuner.confirm()
    assert isinstance(tuner, kt.RandomSearch)


def test_a_kill_between_proof_runs_does_not_have_another_trial_proven(project, monkeypatch):
    """Proof runs count as evidence, so that with a part of them another trial may be the recommended one."""
    options = {"seed": 3, "hyperparameters": tiny.space(1), **project}  # two that are equal but for luck

    def confirm():
        tuner = tiny.searched(Noisy(), max_trials=2, **options)
        tuner.search(np.zeros((8, 3)), np.zeros(8), verbose=0)
        try:
            tuner.confirm(top=2, max_executions=11, verbose=0)
        finally:
            tuner.close()
        return {trial.trial_id: len(trial.executions_of(PROOF)) for trial in tuner.oracle.trials.values()}

    def mortal(supply, result, finish=ProofSupply.finish):
        if supply.num_executions == 2:
            raise Killed
        finish(supply, result)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ProofSupply, "finish", mortal)
        confirm()
    recommended = summary.recommended

    def other(runs, standings):
        found = recommended(runs, standings)
        return next(trial for trial in runs.oracle.trials.values() if trial is not found)

    monkeypatch.setattr(summary, "recommended", other)
    assert sorted(confirm().values()) == [0, 5]
