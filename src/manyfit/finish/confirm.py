"""From luck to proof: finalists run on fresh seeds, the same for all, until it is settled who may be the best.

Who is worse is decided in `manyfit.evidence`, by rules that are fixed here before the first run, with the error of
seeds and of rows; what is printed comes from all runs ever made. This file says who takes part, for how long they
train and at which epoch they are scored.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyfit.core.checks import seconds_or_none, whole_number, whole_number_or_none
from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.records import Ending, Plan
from manyfit.data.identity import fingerprint
from manyfit.evidence.book import SEEDS_APART
from manyfit.evidence.rules import MIN_MAX_ROUNDS, RaceRules
from manyfit.evidence.sentences import listed
from manyfit.finish import summary
from manyfit.finish.fold_runs import SharedFolds
from manyfit.finish.fresh_runs import RACE, FreshRuns
from manyfit.finish.fresh_seeds import ProofSupply, RaceSupply
from manyfit.finish.summary import CallEffort, num_parameters
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Confirmed
from manyfit.report.confirmation import Confirmation
from manyfit.space.encoding import Encoding
from manyfit.stats.racing import MIN_ROUNDS
from manyfit.store.layout import ProjectLayout
from manyfit.store.predictions import Archive
from manyfit.training.base import Permissions, Task, Trainer

_NEAR = 0.01  # of the range of a hyperparameter: what differs by less is nearly the same


@dataclasses.dataclass(frozen=True)
class ConfirmSettings:
    """How a confirmation runs.

    Args:
        confidence: that no finalist is called worse wrongly, from 0.7 to below 1. A rule: the first call fixes it.
        max_executions: training runs at most, proof runs included; None: as many as the race needs.
        max_seconds: what runs is broken off when so much time has passed; what would not end in time is not started.
        max_rounds: fresh seeds per finalist at most. More than 20 is a rule, too; fewer is what this call spends.
        proof_executions: further seeds for the recommended finalist, so that its own estimate becomes sharper.
        keep_weights: keep the weights of every execution.
        margin: finalists whose scores differ by less are equal, in units of the metric; None: 1 % of the leader's. A
            rule.
        groups: a label per validation row, where rows of one group resemble each other (patients): other rows are other
            groups then. A rule.
        time_ordered: validation rows are in the order of time, so blocks of neighbours resemble each other. A rule.

    Raises:
        UsageError: a number out of its range.
    """

    confidence: float = 0.95
    max_executions: int | None = None
    max_seconds: float | None = None
    max_rounds: int = MIN_MAX_ROUNDS
    proof_executions: int = 5
    keep_weights: bool = False
    margin: float | None = None
    groups: Any = None
    time_ordered: bool = False

    def __post_init__(self) -> None:
        self.rules()  # checks what is part of them
        for name, value, least in (
            ("max_executions", self.max_executions, 1),
            ("proof_executions", self.proof_executions, 0),
        ):
            whole_number_or_none(f"confirm({name})", value, least=least, instead="Leave it out.")
        seconds_or_none("confirm(max_seconds=...)", self.max_seconds)

    def rules(self) -> RaceRules:
        """Those that this call asks for; they count where it is the first one."""
        return RaceRules(confidence=self.confidence, max_rounds=self.max_rounds, margin=self.margin)

    def check_budget(self, num_finalists: int) -> None:
        """Refuses a budget that could tell nothing.

        Raises:
            UsageError: fewer executions than it takes to drop anybody.
        """
        least = MIN_ROUNDS * num_finalists if num_finalists > 1 else 1
        if self.max_executions is not None and self.max_executions < least + self.proof_executions:
            raise UsageError(
                explain(
                    "confirm(max_executions)",
                    f"{self.max_executions} for {num_finalists} finalists and {self.proof_executions} proof runs",
                    f"at least {least + self.proof_executions}: {MIN_ROUNDS} seeds each and the proof runs",
                    f"Type max_executions={least + self.proof_executions}, or a smaller top=.",
                )
            )

    def notes(self, runs: FreshRuns) -> list[str]:
        """What this call asked for, and the rules of the first one do not allow."""
        first = runs.evidence.of(runs.protocol)[0]
        fixed, asked = first.rules, self.rules().after(first.number, first.rules.num_contenders)
        found = []
        if asked.confidence != fixed.confidence:
            found.append(f"the confidence stays {100 * fixed.confidence:.3g} %")
        if self.max_rounds > fixed.max_rounds:
            found.append(f"there are at most {fixed.max_rounds} rounds")
        if self.margin is not None and self.margin != fixed.margin:
            found.append("the margin of equality stays as it was")
        if not found:
            return []
        return [f"The rules are those of the first confirmation: {listed(found)}."]


@dataclasses.dataclass(frozen=True)
class ConfirmFiles:
    """Where a confirmation keeps what is too large for the database.

    Args:
        layout: says where weights go.
        archive: predictions of the search, and what fresh runs score on each row.
        folds: names of the splits of the first seeds, where each has a fold of its own; see `fold_runs.fold_names`.
    """

    layout: ProjectLayout
    archive: Archive
    folds: tuple[str, ...] = ()


def finalists(oracle: Oracle, top: object, say: Callable[[str], None] = lambda line: None) -> list[Trial]:
    """The best trials by the score of the search, of those that are nearly the same the one with fewer parameters.

    Of two configurations that hardly differ no number of seeds tells which is better: to run both is to run one twice.
    Where their models have as many parameters it is the one with the better score.

    Args:
        oracle: knows the trials.
        top: how many.
        say: takes one line of text for people.

    Raises:
        UsageError: `top` is below 1, or no trial was completed.
    """
    count = whole_number("confirm(top=...)", top, instead="Type confirm(top=8), say.")
    trials: list[Trial] = []
    encoding = Encoding(oracle.get_space())
    for trial in oracle.book.by_search_score():
        if len(trials) == count:
            break
        place = next((place for place, one in enumerate(trials) if _nearly_equal(one, trial, encoding)), None)
        if place is None:
            trials.append(trial)
            continue
        stays, goes = trials[place], trial
        if 0 < num_parameters(goes) < num_parameters(stays):
            stays, goes = goes, stays
        trials[place] = stays
        say(f"confirm: trial {goes.trial_id} is left out, a near-copy of trial {stays.trial_id}.")
    if not trials:
        raise UsageError(
            explain("confirm()", "a project without completed trials", "at least one", "Call tuner.search(...) first.")
        )
    return trials


def _nearly_equal(one: Trial, other: Trial, encoding: Encoding) -> bool:
    """Whether two configurations are close in every hyperparameter: within a hundredth of its range."""
    try:
        points = encoding.encode_many([one.searched_values, other.searched_values])
    except UsageError:  # values that the space, as it is now, does not have
        return False
    inactive = np.isnan(points)
    if points.shape[1] == 0 or (inactive[0] != inactive[1]).any():
        return False
    return bool((np.abs(points[0] - points[1])[~inactive[0]] <= _NEAR).all())


def confirm(
    trials: Sequence[Trial],
    oracle: Oracle,
    task: Task,
    trainer: Trainer,
    settings: ConfirmSettings,
    *,
    kept: ConfirmFiles,
    clock: Clock,
    protocol: str = "",
    has_own_epochs: bool = False,
) -> Confirmation:
    """Runs finalists on fresh seeds until it is settled who may be the best, or the budget ends.

    Args:
        trials: the finalists.
        oracle: objective, seed and book.
        task: what to train.
        trainer: how.
        settings: confidence and budget.
        kept: where weights and row losses are kept.
        clock: of this call; it runs.
        protocol: names splits that are drawn anew; see `FreshRuns`.
        has_own_epochs: train for as long as the task's call says; else as long as the best trained finalist.

    Returns:
        What was found; it is noted on the trials, too, and stored.

    Raises:
        UsageError: the budget is too small to tell anything.
        SearchError: no execution at all has a score; the message says why.
    """
    settings.check_budget(len(trials))
    # All finalists get as many epochs as the best trained one: what halving stopped early might have won.
    targets = [trial.target_epochs for trial in trials if trial.target_epochs is not None]
    num_epochs = task.call.get("epochs") if has_own_epochs or not targets else max(targets)
    asked = f"{protocol}/{_protocol(task)}"
    # Runs of other epochs than the search's are of no use to a bag.
    folds = SharedFolds(kept.folds, max(targets, default=None)) if kept.folds and not has_own_epochs else None
    runs = FreshRuns(oracle, asked, kept.archive, overlap_of(task, trials[0]), settings.groups, folds)
    fixed = fixed_epochs(trials, oracle, num_epochs=num_epochs, has_own_epochs=has_own_epochs)
    taking_part = _with_family(trials, runs, settings.rules(), fixed)
    options: dict[str, Any] = {
        "clock": clock,
        "epochs": num_epochs,
        "layout": kept.layout,
        "keep_weights": settings.keep_weights,
    }
    may = Permissions(share_callbacks=task.may.share_callbacks, share_order=False)  # each seed orders its own batches
    task = dataclasses.replace(task, callbacks=None, may=may, clock=clock)
    most = None if settings.max_executions is None else settings.max_executions - settings.proof_executions
    race = RaceSupply(taking_part, runs, max_executions=most, max_rounds=settings.max_rounds, **options)
    trainer.train(race, task)
    race.standings()  # what the last runs decide is committed, too
    # Before the proof runs: with no score at all there is no one to prove, and the reason is known.
    _check_any_score(race)
    recommended = summary.recommended(runs, race.standings())
    proof = ProofSupply(recommended, runs, num_executions=settings.proof_executions, **options)
    trainer.train(proof, task)
    effort = CallEffort(clock.spent(), race.out_of_time or proof.out_of_time, settings.max_rounds, clock.halted)
    confirmation = summary.summarise(runs, race.standings(), effort, settings.notes(runs))
    _note(confirmation, oracle)
    return confirmation


def _with_family(trials: Sequence[Trial], runs: FreshRuns, asked: RaceRules, fixed: dict[str, int]) -> list[Trial]:
    """Fixes the rules of finalists that were not compared before, and answers who takes part in this call."""
    oracle, ids = runs.oracle, [trial.trial_id for trial in trials]
    first_seed = _first_seed(trials, runs)
    family = runs.evidence.family_for(runs.protocol, ids, asked, epochs=fixed, first_seed=first_seed)
    if family is None:
        return list(trials)
    # Before the first run: a kill right after it must find the rules that the runs were made under.
    oracle.book.add_evidence(family)
    return [oracle.trials[trial_id] for trial_id in dict.fromkeys([*ids, *family.trial_ids])]


def _first_seed(trials: Sequence[Trial], runs: FreshRuns) -> int:
    """Where the seeds of this protocol begin: runs of another one must not be replaced."""
    own = [index for trial in trials for index in runs.executions(trial)]
    if own:
        return min(own) // SEEDS_APART * SEEDS_APART
    taken = [index for trial in runs.oracle.trials.values() for index in trial.executions_of(RACE)]
    families = [family.first_seed for family in runs.evidence.families]
    return (max([*taken, *families]) // SEEDS_APART + 1) * SEEDS_APART if taken or families else 0


def fixed_epochs(
    trials: Sequence[Trial], oracle: Oracle, *, num_epochs: int | None, has_own_epochs: bool
) -> dict[str, int]:
    """The epoch, from 0, at which fresh runs of each trial are scored: the median best epoch of its own runs so far.

    A run at its own best epoch is too good, by the luck of that epoch; and a retraining knows no best epoch either.
    Trials that a scheduler stopped early have no best epoch of a full training: they get the median of those that have
    one. With other epochs than the search's it is the last one.

    Args:
        trials: the finalists.
        oracle: knows all trials.
        num_epochs: that fresh runs train; None: as the fit arguments say.
        has_own_epochs: whether the caller asked for that number.
    """

    def best(trial: Trial) -> list[int]:
        in_full = num_epochs is None or trial.target_epochs in (None, num_epochs)
        runs = [run for run in trial.executions.values() if in_full and run.ending is Ending.COMPLETED]
        return [run.best_epoch for run in runs if run.best_epoch is not None]

    searched = max((run.num_epochs for trial in trials for run in trial.executions.values()), default=0)
    if has_own_epochs and num_epochs is not None and num_epochs != searched:
        return {trial.trial_id: num_epochs - 1 for trial in trials}
    others = [epoch for trial in oracle.trials.values() for epoch in best(trial)]
    typical = statistics.median_low(others) if others else (num_epochs or 1) - 1
    return {trial.trial_id: statistics.median_low(best(trial) or [typical]) for trial in trials}


def overlap_of(task: Task, trial: Trial) -> float | None:
    """Validation rows by training rows, where each seed has rows of its own; None: the same rows for all."""
    if task.split_for is None:
        return None
    split = task.split_for(Plan(trial.trial_id, 0, trial.hyperparameters, seed=0))
    return len(split.validation) / max(1, len(split.training))


def _protocol(task: Task) -> str:
    """Names what executions must have in common to be compared: data and the arguments of `fit`."""
    call, own = task.call, [call.arguments for _, call in sorted(task.calls.items())]
    # Callbacks count by their classes: their state would make every call another protocol.
    settings = {name: value for name, value in call.kwargs.items() if name not in ("verbose", "callbacks")}
    return fingerprint(*call.args, settings, " ".join(type(one).__name__ for one in call.callbacks), *own)


def _check_any_score(race: RaceSupply) -> None:
    found = [run for trial in race.trials for run in race.runs.executions(trial).values()]
    if found and not any(run.ending.has_score for run in found):
        messages = [run.message for run in found if run.message]
        raise SearchError(f"confirm: no finalist has a score on a fresh seed. The first one ended so:\n{messages[0]}")


def _note(confirmation: Confirmation, oracle: Oracle) -> None:
    """Marks the trials, and stores everything in one transaction."""
    ranked = [row.trial_id for row in confirmation.rows]
    others = [one for one in oracle.trials.values() if one.confirmed is not None and one.trial_id not in ranked]
    for trial in others:  # confirmed with other data or settings: they rank behind
        assert trial.confirmed is not None
        trial.confirmed = dataclasses.replace(trial.confirmed, rank=trial.confirmed.rank + len(ranked))
    trials = [oracle.trials[trial_id] for trial_id in ranked]
    for trial, row, rank in zip(trials, confirmation.rows, range(len(ranked)), strict=True):
        if row.num_executions:
            trial.confirmed = Confirmed(
                row.score, row.low, row.high, confirmation.confidence, row.num_executions, rank,
                row.in_winning_set, row.probability_best,
            )  # fmt: skip
    oracle.book.save([*trials, *others], confirmation=confirmation.to_dict())
