"""Bags: the fold models of some configurations, each configuration one member of an ensemble.

Every row is predicted by a model that did not train on it, so weights and what they gain are learned from all rows, and
all models that were trained for it are used afterwards. What is missing of the folds is trained as one population.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.checks import seconds_or_none, whole_number
from manyfit.core.clock import Clock
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.events import RunsPlanned
from manyfit.core.records import SEARCH
from manyfit.data.folds import CrossValidation, FoldPlan
from manyfit.data.identity import row_identities
from manyfit.data.kinds import as_arrays, is_nested, map_leaves
from manyfit.data.rows import Rows
from manyfit.ensemble.choosing.methods import SHRUNK
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember, model_predictions
from manyfit.ensemble.settings import RowCuts
from manyfit.finish.cross_validation import of_all_rows
from manyfit.finish.fold_runs import FOLD, FoldRun, FoldSupply, fold_names, known_runs, load_run
from manyfit.oracles import Trial
from manyfit.store.predictions import Kept, together
from manyfit.training.base import Permissions, Task
from manyfit.tuners import ensembling
from manyfit.tuners.finished import FinishedTuner, Training, working
from manyfit.tuners.keeping import Keeper
from manyfit.tuners.rows_in_common import shared_rows
from manyfit.tuners.searched import Foretold, SearchedProject, cuts_of

_FEWEST_FOLDS = 3  # the choice of weights leaves out two, and learns from the rest


@dataclasses.dataclass(frozen=True)
class BagSettings:
    """What is bagged: see `Tuner.bag`.

    Raises:
        UsageError: `top` or `repeats` below 1, no trial, `max_seconds` not above 0.
    """

    top: int | Sequence[str] = 3
    folds: object = None
    repeats: int = 1
    groups: Any = None
    diverse: bool = True
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.top, int) or not isinstance(self.top, Sequence) or not self.top:
            whole_number("bag(top=...)", self.top, instead="Type bag(top=3), say.")
        whole_number("bag(repeats=...)", self.repeats, instead="Leave it out for 1.")
        seconds_or_none("bag(max_seconds=...)", self.max_seconds)

    def cross_validation(self, searched: FoldPlan | None) -> CrossValidation:
        """The folds that are asked for; groups of the search's are kept together here, too.

        Raises:
            UsageError: fewer than three folds, folds in the order of time, or groups or repeats beside what has its
            own.
        """
        if isinstance(self.folds, int) or self.folds is None:
            related = None if searched is None else searched.folds.related
            groups = related if self.groups is None else self.groups
            usual = 5 if searched is None else searched.folds.num_splits
            found = CrossValidation(usual if self.folds is None else self.folds, self.repeats, groups=groups)
        else:
            found = CrossValidation.of(self.folds)
            if self.groups is not None or self.repeats > 1:
                got = "groups= or repeats= beside folds that are no number"
                instead = "Type folds=kt.CrossValidation(5, repeats=2, groups=groups)."
                raise UsageError(explain("bag(folds=...)", got, "what the folds say themselves", instead))
        if found.time_series:
            raise UsageError(
                explain(
                    "bag(folds=...)",
                    "folds in the order of time",
                    "folds whose models are of equal standing: those of early windows have seen the least",
                    "Type tuner.retrain(), which trains on all rows.",
                )
            )
        return found


class Bagging:
    """The part of a tuner that bags.

    Args:
        project: the tuner's, as an ensemble of several searches takes it.
        tuner: whose models and trials these are.
        training: how it trains.
        say: takes one line of text for people.
    """

    def __init__(
        self, project: SearchedProject, tuner: FinishedTuner, training: Training, say: Callable[[str], None]
    ) -> None:
        self._project = project
        self._tuner = tuner
        self._oracle = tuner.oracle
        self._training = training
        self._say = say

    def bag(self, settings: BagSettings, options: Mapping[str, Any]) -> Ensemble:
        """See `Tuner.bag`."""
        clock = Clock.started(settings.max_seconds, within=self._tuner.limits)
        trials = self._chosen(settings)
        searched = self._tuner.searched_task("bag()", trials)
        task, rows = of_all_rows("bag()", searched)
        plan = self._plan(settings, rows)
        wanted = [(trial, split) for trial in trials for split in range(plan.num_splits)]
        runs = self._runs(wanted, plan, rows, dataclasses.replace(task, clock=clock), clock)
        splits = range(plan.num_splits)
        complete = [trial for trial in trials if all((trial.trial_id, split) in runs for split in splits)]
        bags = [[runs[trial.trial_id, split] for split in splits] for trial in complete]
        told = [self._foretold(bag, plan, rows, task) for bag in bags]
        return self._combined(bags, told, plan, rows, task, options)

    def _chosen(self, settings: BagSettings) -> list[Trial]:
        """The trials that are bagged: those that add most to each other, or the best, where nobody knows that."""
        if not isinstance(settings.top, int):
            return self._named(settings.top)
        if settings.diverse and settings.top > 1 and self._tuner.predictions_archive.labels() is not None:
            try:
                trials, notes = ensembling.diverse_trials(self._tuner, settings.top)
            except UsageError:  # predictions of other rows than the labels', or too few
                trials, notes = self._oracle.get_best_trials(settings.top), []
        else:
            trials, notes = self._oracle.get_best_trials(settings.top), []
        if not trials:
            got = "a project without completed trials"
            raise UsageError(explain("bag()", got, "at least one", "Call tuner.search(...) first."))
        if len(trials) < settings.top:
            self._say(f"bag: {len(trials)} configurations instead of {settings.top}, since no more were completed.")
        for note in notes:
            self._say(f"bag: {note}")
        return trials

    def _named(self, trial_ids: Sequence[str]) -> list[Trial]:
        trials = self._oracle.trials
        unknown = [one for one in trial_ids if one not in trials or not trials[one].is_completed]
        if unknown:
            got = f'"{unknown[0]}", which ' + ("is no trial" if unknown[0] not in trials else "was not completed")
            known = [one.trial_id for one in self._oracle.get_best_trials(3)]
            raise UsageError(explain("bag(top=[...])", got, "ids of completed trials", f"Type bag({known}), say."))
        return [trials[one] for one in trial_ids]

    def _plan(self, settings: BagSettings, rows: Rows) -> FoldPlan:
        latest = self._tuner.latest_search
        searched = None if latest is None else latest.folds
        as_searched = settings.folds is None and settings.repeats == 1 and settings.groups is None
        if as_searched and searched is not None:
            plan = searched
        else:
            cut = settings.cross_validation(searched)
            folds = cut.resolve(rows.x, rows.y)
            plan = FoldPlan(folds, folds.num_splits * cut.repeats)
        _check_folds(plan, rows.num_rows or 0)
        return plan

    def _runs(
        self, wanted: Sequence[tuple[Trial, int]], plan: FoldPlan, rows: Rows, task: Task, clock: Clock
    ) -> dict[tuple[str, int], FoldRun]:
        """The run of every trial and split, trained now where there was none."""
        layout, names = self._tuner.store.layout, fold_names(plan, rows, task.call)
        # All get as many epochs as the best trained one: what halving stopped early might have won.
        targets = [trial.target_epochs for trial, _ in wanted if trial.target_epochs is not None]
        epochs = max(targets, default=None)

        def known() -> dict[tuple[str, int], FoldRun]:
            sound = self._tuner.store.is_sound
            found = {
                (trial.trial_id, split): known_runs(trial, names[split], layout, epochs, is_sound=sound)
                for trial, split in wanted
            }
            return {key: runs[0] for key, runs in found.items() if runs}

        before = known()
        missing = [pair for pair in wanted if (pair[0].trial_id, pair[1]) not in before]
        if not missing:
            return before
        supply = FoldSupply(missing, names, self._oracle, layout, epochs=epochs, clock=clock)
        numbered = dataclasses.replace(plan, numbers=supply.splits)
        archive = self._tuner.predictions_archive
        keeper = Keeper(archive, rows, numbered, FOLD) if self._training.keep_predictions else None
        may = Permissions(share_callbacks=task.may.share_callbacks, share_order=False)
        task = dataclasses.replace(task, split_for=numbered.split_for, keep=keeper, callbacks=None, may=may)
        with working(self._oracle, "bag", clock):
            self._oracle.book.events.tell(RunsPlanned(len(missing), len(missing) * epochs if epochs else None))
            self._training.trainer_for(task).train(supply, task)
        self._say_what_is_missing(supply, wanted, after := known(), clock.halted or "the time was up")
        return after

    def _say_what_is_missing(
        self,
        supply: FoldSupply,
        wanted: Sequence[tuple[Trial, int]],
        known: Mapping[tuple[str, int], FoldRun],
        why: str,
    ) -> None:
        """Names the configurations that are left out, and why nothing more was trained.

        Raises:
            SearchError: all of them are.
        """
        lacking = dict.fromkeys(trial.trial_id for trial, split in wanted if (trial.trial_id, split) not in known)
        if not lacking:
            return
        reasons = {
            trial_id: f"trial {trial_id} is left out: "
            + (supply.failures[trial_id].strip().splitlines()[-1] if trial_id in supply.failures else why)
            for trial_id in lacking
        }
        if len(lacking) == len({trial.trial_id for trial, _ in wanted}):
            raise SearchError(
                "bag: no configuration has a model of every fold. What was trained is kept: the same call goes on.\n"
                + "\n".join(reasons.values())
            )
        for reason in reasons.values():
            self._say(f"bag: {reason}")

    def _foretold(self, runs: Sequence[FoldRun], plan: FoldPlan, rows: Rows, task: Task) -> Foretold:
        """What the models of a trial's folds said of the rows that they did not train on."""
        archive, parts = self._tuner.predictions_archive, []
        for split, one in enumerate(runs):
            kept = archive.get(one.trial.trial_id, [one.run.index], phase=one.phase)
            held_out = plan.folds.split(split % plan.num_splits).validation
            parts.append(self._predicted(one, held_out, rows, task) if kept is None else kept)
        return Foretold.of(parts, together(runs[0].trial.trial_id, parts))

    def _predicted(self, one: FoldRun, held_out: np.ndarray, rows: Rows, task: Task) -> Kept:
        some = rows.take(held_out)
        said = model_predictions(self._load(one, task), some.x, 1024)
        return Kept(said, row_identities(some.x, some.y), held_out)

    def _load(self, one: FoldRun, task: Task) -> Any:
        model = load_run(task, one, self._tuner.store.layout, trust=self._tuner.trust)
        self._tuner.model_origins[model] = one.trial.trial_id
        return model

    def _combined(
        self,
        bags: Sequence[Sequence[FoldRun]],
        told: Sequence[Foretold],
        plan: FoldPlan,
        rows: Rows,
        task: Task,
        options: Mapping[str, Any],
    ) -> Ensemble:
        """The ensemble of the bags."""
        places = shared_rows([one.kept.row_ids for one in told])
        where = told[0].kept.rows[places[0]]
        y, weight = (map_leaves(lambda leaf: leaf[where], as_arrays(part)) for part in (rows.y, rows.sample_weight))
        related = plan.folds.related
        cuts = cuts_of(told, places, None if related is None else related[where])
        trials = [bag[0].trial for bag in bags]
        members = [
            dataclasses.replace(
                one.member(f"trial {trial.trial_id}", own, trial.hyperparameters.values),
                model=[self._load(run, task) for run in bag],
            )
            for one, own, trial, bag in zip(told, places, trials, bags, strict=True)
        ]
        metric = ensembling.metric_of(self._oracle.objective)
        known: dict[str, Any] = {"sample_weight": weight, "method": SHRUNK, "seed": self._oracle.seed}
        known |= {} if metric is None or is_nested(y) else {"metric": metric}
        members, seen = self._seen_again(bags, members) if plan.num_splits == plan.folds.num_splits else (members, None)
        known["cuts"] = RowCuts(cuts.groups, cuts.folds, plan.num_splits, seen)
        ensemble = Ensemble.fit(members, y, **known | dict(options))
        retrain = ensembling.retrainer_of([(self._project, trial.trial_id) for trial in trials])
        ensemble = ensemble.with_retrainer(retrain, notes=bag_notes(ensemble, plan))
        return ensembling.with_class_names(ensemble, self._tuner.store)

    def _seen_again(
        self, bags: Sequence[Sequence[FoldRun]], members: Sequence[EnsembleMember]
    ) -> tuple[list[EnsembleMember], np.ndarray | None]:
        """Members with what the search's models said of the same rows, and which rows all of them said something of.

        A row with two predictions tells what averaging gains. The search's models validated on some of the rows, and
        did not train on these; they are no part of the bags, unless their folds are.
        """
        archive, found = self._tuner.predictions_archive, []
        for bag in bags:
            trial, executions = bag[0].trial, sorted(bag[0].trial.executions)
            used = any(run.phase == SEARCH for run in bag)
            kept = None if used or not executions else archive.get(trial.trial_id, executions[:1])
            if kept is None:
                return list(members), None
            found.append(kept)
        row_ids = np.asarray(members[0].row_ids)
        known = set.intersection(*(set(kept.row_ids.tolist()) for kept in found))
        seen = np.isin(row_ids, np.array(sorted(known), dtype=row_ids.dtype))
        answer = []
        for member, kept in zip(members, found, strict=True):
            # Rows with equal features and targets have equal predictions, so any of them will do.
            order = np.argsort(kept.row_ids)
            place = order[np.minimum(np.searchsorted(kept.row_ids[order], row_ids), len(order) - 1)]

            def put(own: np.ndarray, other: np.ndarray, place: np.ndarray = place) -> np.ndarray:
                return np.where(seen.reshape(-1, *[1] * (own.ndim - 1)), other[place], own)

            again = map_leaves(put, member.predictions, kept.predictions)
            answer.append(dataclasses.replace(member, again=again))
        return answer, seen


def bag_notes(ensemble: Ensemble, plan: FoldPlan) -> list[str]:
    """What is to be said of a bag's score: what was measured, and what was carried on from it."""
    choice, name, count = ensemble.choice, ensemble.metric.name, plan.num_splits
    if choice is None or choice.measured is None:
        return []
    repeats, score = count // plan.folds.num_splits, choice.baseline_score if ensemble.refused else choice.score
    measured = f"Measured out of fold with one model of each configuration that is used: {name} {choice.measured:.4g}."
    if repeats == 1 and ensemble.fitting is not None and ensemble.fitting.again is not None:
        further = f"Carried on from rows that the search's models predicted, too, to bags of {count}: {score:.4g}."
    elif repeats == 1:
        further = f"Bags of {count} are better, and gain less over each other: bag(repeats=2) measures how much."
    else:
        further = f"Carried on from the means of {repeats} to bags of {count}: about {score:.4g}."
    return [f"{measured} {further}"]


def _check_folds(plan: FoldPlan, num_rows: int) -> None:
    """Refuses folds that do not hold out every row once in each repeat, or are too few.

    Raises:
        UsageError: that is so.
    """
    count = plan.folds.num_splits
    if count < _FEWEST_FOLDS:
        raise UsageError(
            explain(
                "bag(folds=...)",
                f"{count} folds",
                "three or more: two are left out while weights are learned from the rest",
                "Type bag(folds=5).",
            )
        )
    for first in range(0, plan.num_splits, count):
        held_out = np.concatenate([plan.folds.split(first + fold).validation for fold in range(count)])
        if len(held_out) != num_rows or len(np.unique(held_out)) != num_rows:
            raise UsageError(
                explain(
                    "bag(folds=...)",
                    f"folds that hold out {len(np.unique(held_out))} of {num_rows} rows, {len(held_out)} in all",
                    "folds that hold out every row once",
                    "Type bag(folds=5), or pass a splitter such as KFold.",
                )
            )
