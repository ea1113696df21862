"""The book of evidence through `tuner.confirm`: rules that stay, decisions that stay, rows that count."""

from __future__ import annotations

import itertools

import manyfit as kt  # isort: skip

import keras
import numpy as np
import pytest
import tiny
from finalists import Noisy, searched
from marks import only_on

from manyfit.core.errors import UsageError
from manyfit.core.records import Result
from manyfit.finish.fresh_runs import RACE
from manyfit.store.predictions import RowLosses


def facts(tuner):
    """All that was decided, as the project keeps it."""
    book = tuner.oracle.book.evidence
    return [(one.facts(), {trial: each.to_dict() for trial, each in one.decisions.items()}) for one in book.families]


def test_whatever_is_called_nobody_comes_back_and_no_rule_changes(project):
    """Random sequences of calls: another `top`, other rounds, other budgets. Contradictions: none."""
    rng = np.random.default_rng(0)
    for number in range(4):
        trainer = Noisy()
        trainer.deviation = 0.05
        tuner = searched({**project, "project_name": str(number)}, trainer, max_trials=10, units=20)
        before, dropped = [], set()
        for _ in range(5):
            top = int(rng.integers(1, 11))
            rounds = int(rng.choice([1, 2, 4, 8, 40]))
            budget = {"max_executions": 3 * top + 2} if rng.random() < 0.3 else {}
            found = tuner.confirm(top=top, max_rounds=rounds, proof_executions=int(rng.integers(0, 3)), **budget)
            now = facts(tuner)
            for (rules, decisions), (same_rules, more) in zip(before, now, strict=False):
                assert rules == same_rules and decisions.items() <= more.items()
            assert not dropped & set(found.winning_set)
            dropped = {row.trial_id for row in found.rows if not row.in_winning_set}
            assert all(
                row.standing.startswith(("worse than", "fails more")) for row in found.rows[len(found.winning_set) :]
            )
            assert found.recommended.trial_id in found.winning_set
            before = now


def test_the_first_call_fixes_the_rules_and_later_ones_say_so(project):
    tuner = searched(project, Noisy(), max_trials=10, units=3)
    tuner.confirm(top=2, max_rounds=3)
    [family] = tuner.oracle.book.evidence.families
    assert (family.rules.num_contenders, family.rules.max_rounds, family.rules.confidence) == (8, 20, 0.95)
    words = " ".join(str(tuner.confirm(top=2, max_rounds=60, confidence=0.8)).split())
    assert (
        "The rules are those of the first confirmation: the confidence stays 95 % and there are at most 20 rounds"
        in words
    )
    assert max(tuner.oracle.trials[one].executions_of(RACE)) < 20 if (one := family.trial_ids[0]) else False
    assert tuner.oracle.book.evidence.families == [family]


def test_finalists_that_come_later_meet_the_winners_at_half_the_error(project):
    tuner = searched(project, Noisy(), max_trials=10)
    first = tuner.confirm(top=3)
    winners = set(first.winning_set)
    later = tuner.confirm(top=6)
    one, two = tuner.oracle.book.evidence.families
    assert two.rules.confidence == 0.975 and two.rules.max_rounds == one.rules.max_rounds
    new = set(two.trial_ids) - winners
    assert winners <= set(two.trial_ids) and not new & set(one.trial_ids) and len(new) == 3
    assert {row.trial_id for row in later.rows} == set(one.trial_ids) | new
    assert "came later: compared with the winners so far, at 97.5 %." in " ".join(str(later).split())


class Killed(Noisy):
    """Dies after so many runs, as a process does: nothing is told to anybody."""

    def __init__(self, num_runs):
        super().__init__()
        self.num_runs = num_runs

    def train(self, supply, task):
        runs = itertools.count(1)

        class Dying:
            def __getattr__(_, name):
                return getattr(supply, name)

            def finish(_, result: Result):
                supply.finish(result)
                if next(runs) == self.num_runs and result.plan.phase == "confirm":
                    raise KeyboardInterrupt

        super().train(Dying(), task)


@pytest.mark.parametrize("num_runs", [1, 5, 13])
def test_a_confirmation_that_was_killed_goes_on_and_decides_the_same(num_runs, tmp_path):
    whole = searched({"directory": tmp_path / "whole"}, Noisy(), units=20).confirm(top=4)
    killed = searched({"directory": tmp_path / "parts"}, Killed(10**9), units=20)
    killed._get_trainer().num_runs = num_runs
    with pytest.raises(KeyboardInterrupt):
        killed.confirm(top=4)
    killed.close()
    again = tiny.searched(Noisy(), max_trials=8, seed=3, hyperparameters=tiny.space(20), directory=tmp_path / "parts")
    again.search(np.zeros((8, 3)), np.zeros(8), verbose=0)
    found = again.confirm(top=4)
    assert [(row.trial_id, row.score, row.standing) for row in found.rows] == [
        (row.trial_id, row.score, row.standing) for row in whole.rows
    ]


def test_other_settings_are_another_question_and_replace_no_run(project):
    tuner = searched(project, Noisy(), max_trials=6)
    tuner.confirm(top=3, max_rounds=3)
    before = {one: dict(trial.executions_of(RACE)) for one, trial in tuner.oracle.trials.items()}
    found = tuner.confirm(top=3, max_rounds=3, batch_size=4)
    for one, runs in before.items():
        assert runs.items() <= tuner.oracle.trials[one].executions_of(RACE).items()
    assert len(tuner.oracle.book.evidence.families) == 2 and found.rounds == 3
    assert "answer another question" in " ".join(str(found).split())


# With rows -----------------------------------------------------------------------------------------------------------


def build(hp):
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(hp.Choice("units", [1, 8]), "relu"),
            keras.layers.Dense(1, "sigmoid"),
        ]
    )
    model.compile(keras.optimizers.Adam(hp.Choice("rate", [0.001, 0.03])), "binary_crossentropy", metrics=["accuracy"])
    return model


def with_rows(directory, objective, **more):
    """A grid of four nets on 60 validation rows."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(160, 3)).astype("float32")
    y = (x[:, 0] * x[:, 1] + 0.3 * rng.normal(size=160) > 0).astype("int32")
    tuner = kt.GridSearch(build, objective, seed=0, directory=directory, overwrite=True, **more)
    tuner.search(x[:100], y[:100], validation_data=(x[100:], y[100:]), epochs=4, batch_size=50, verbose=0)
    return tuner


@only_on("jax", "the population; the other trainer is tried below")
@pytest.mark.parametrize(("objective", "population"), [("val_loss", True), ("val_accuracy", False)])
def test_fresh_runs_keep_what_they_score_on_each_row_at_an_epoch_that_was_fixed_before(objective, population, tmp_path):
    # One after another takes long, and is the same but for who keeps the weights of the epoch.
    num_trials, rounds = (4, 3) if population else (2, 1)
    tuner = with_rows(tmp_path, objective, population=population, max_trials=num_trials)
    found = tuner.confirm(top=num_trials, max_rounds=rounds, proof_executions=0)
    assert found.num_rows == 60 and "rows unknown" not in str(found)
    [family] = tuner.oracle.book.evidence.families
    archive, loss = tuner.predictions_archive, tuner.oracle.objective.loss
    for trial_id, epoch in family.epochs.items():
        trial = tuner.oracle.trials[trial_id]
        assert epoch == trial.executions[0].best_epoch
        for index, run in trial.executions_of(RACE).items():
            kept = archive.losses(trial_id, RACE, index)
            assert kept.rows.shape == (60,) and kept.metric == ("log_loss" if objective == "val_loss" else "accuracy")
            assert kept.value == pytest.approx(run.history[objective][epoch], rel=1e-4)
            assert kept.rows.mean() == pytest.approx(kept.value, rel=2e-3)
            assert len(run.history[objective]) == 4  # trained to the end: its own best epoch is known, too
    best = found.recommended.estimate
    assert best.rows_error > 0 and best.seeds_error > 0 and best.num_runs == 1 + rounds
    wide, narrow = found.interval(rows=20), found.interval(rows=10_000)
    assert wide.half_width > narrow.half_width > 0 and loss(best.mean) >= loss(best.measured) - 1e-9
    if objective == "val_accuracy":
        assert 0 <= wide.low < wide.high <= 1
    with pytest.raises(UsageError) as error:
        found.interval(trial_id="nobody")
    tiny.four_parts(error.value)
    words = found.methods_paragraph()
    for part in ("the same 60 validation rows", "seeds and of rows", objective, f"{found.num_executions} trainings"):
        assert part in words


@only_on("jax", "one backend is enough")
def test_one_fresh_run_settles_nothing_and_five_rows_are_said(tmp_path):
    x = np.random.default_rng(2).normal(size=(45, 3)).astype("float32")
    y = (x[:, 0] > 0).astype("int32")
    tuner = kt.GridSearch(build, "val_loss", seed=0, directory=tmp_path)
    tuner.search(x[:40], y[:40], validation_data=(x[40:], np.zeros(5, "int32")), epochs=2, verbose=0)  # one class
    found = tuner.confirm(top=4, max_rounds=1, proof_executions=0)
    words = " ".join(str(found).split())
    assert words.startswith("One fresh run each: too few to compare. Order by all evidence: ")
    assert len(found.winning_set) == 4 and not found.settled and "inf" not in words
    assert "by rows (5 rows)" in words and all(np.isfinite(row.high) for row in found.rows)


class WithRows(Noisy):
    """Keeps what each fresh run scores on 50 rows: every trial has luck of its own with them, whatever the seed."""

    archive = None
    luck = 0.0

    def train(self, supply, task):
        class Keeping:
            def __getattr__(_, name):
                return getattr(supply, name)

            def finish(_, result: Result):
                plan, loss = result.plan, result.history["loss"][-1]
                if plan.phase != "search":
                    own = self.luck * np.random.default_rng(int(plan.trial_id)).normal(size=50)
                    rows = (loss + own - own.mean()).astype(np.float32)
                    kept = RowLosses("mse", loss, rows, "these", "plain")
                    self.archive.keep_losses(plan.trial_id, plan.phase, plan.execution, kept)
                supply.finish(result)

        super().train(Keeping(), task)


def confirmed_with_rows(project, luck, **more):
    trainer = WithRows()
    trainer.luck = luck
    tuner = searched(project, trainer)
    trainer.archive = tuner.predictions_archive
    return tuner.confirm(top=3, **more)


def test_settled_means_fresh_seeds_and_fresh_rows(project):
    found = confirmed_with_rows(project, 0.02)
    words = " ".join(str(found).split())
    best, num = found.recommended.trial_id, len(found.rows)
    assert words.startswith(
        f"Trial {best} is the best of {num} (95 %): every other is worse on fresh seeds and fresh rows."
    )
    assert found.ending == "settled" and found.num_rows == 50 and "by rows (50 rows)" in words


def test_a_difference_that_the_rows_could_hide_is_not_proven_by_any_number_of_seeds(project):
    """The same losses, seed by seed, of which a test over seeds alone makes a winner (above, without luck of rows)."""
    found = confirmed_with_rows(project, 3.0)
    assert found.ending == "rows are the limit" and len(found.winning_set) == 3
    words = " ".join(str(found).split())
    assert "differ by less than these 50 rows can show (about " in words
    assert "the rows are the limit" in found.verdict
    needed = [rival.rows_needed for rival in found.rivals]
    assert all(count > 50 for count in needed)


def test_of_near_copies_the_one_with_fewer_parameters_is_a_finalist(project, capsys):
    """Units 40 and 45 of 1,000 are nearly the same; the second has the worse score, and 55 parameters instead of 60."""
    tuner = tiny.searched(Noisy(), max_trials=3, seed=3, hyperparameters=tiny.space(1000), overwrite=True, **project)
    for units in (40, 45, 90):
        tuner.enqueue({"units": units, "kind": "a"})
    tuner.search(np.zeros((8, 3)), np.zeros(8), verbose=0)
    first, second, third = tuner.oracle.trials
    assert [trial.trial_id for trial in tuner.oracle.get_best_trials(3)] == [first, second, third]
    found = tuner.confirm(top=3, max_rounds=2, proof_executions=0, verbose=1)
    assert {row.trial_id for row in found.rows} == {second, third}
    assert f"trial {first} is left out, a near-copy of trial {second}." in capsys.readouterr().out


def test_rows_of_groups_are_as_many_rows_as_there_are_groups(project):
    """The luck of 50 rows in 10 groups: what rows one by one settle, groups do not."""
    found = confirmed_with_rows(project, 0.02, groups=np.arange(50) // 5)
    words = " ".join(str(found).split())
    assert found.recommended.estimate.num_groups == 10 and "by rows (50 rows in 10 groups)" in words
    assert "the same 50 validation rows in 10 groups, which are drawn together" in found.methods_paragraph()


@only_on("jax", "one backend is enough")
def test_a_model_without_a_prediction_for_some_rows_is_no_finalist_and_folds_of_too_few_groups_are_refused(tmp_path):
    """The logarithm of three validation rows is NaN: of the others alone it would look as good as any."""

    def build(hp):
        inputs = keras.Input((3,))
        hidden = keras.ops.log(inputs) if hp.Boolean("logarithms") else inputs
        model = keras.Model(inputs, keras.layers.Dense(2, "softmax")(hidden))
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    x = 0.1 + np.random.default_rng(0).random((60, 3)).astype("float32")
    y = (x[:, 0] > x[:, 1]).astype("int32")
    x[40:43] *= -1
    tuner = kt.GridSearch(build, "val_accuracy", seed=0, directory=tmp_path)
    tuner.search(x[:40], y[:40], validation_data=(x[40:], y[40:]), epochs=1, verbose=0)
    [broken] = [trial for trial in tuner.oracle.trials.values() if trial.hyperparameters.values["logarithms"]]
    assert broken.has_failed and "not finite" in broken.message
    found = tuner.confirm(top=2, max_rounds=1, proof_executions=2)
    words = " ".join(str(found).split())
    assert [row.values["logarithms"] for row in found.rows] == [False]
    assert found.recommended.estimate.num_rows == 20 and "nan" not in words
    with pytest.raises(UsageError, match="5 folds of 2 groups") as error:
        tuner.confirm(cross_validation=kt.CrossValidation(5, groups=np.arange(60) // 30))
    tiny.four_parts(error.value)
