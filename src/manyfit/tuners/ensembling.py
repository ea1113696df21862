"""Ensembles of searches, from predictions of search-time models on rows that these models never trained on.

A search keeps what every execution predicted of the rows that it did not train on. So weights are learned without
training or predicting anything, and only models that get weight are loaded. Where several searches take part, their
rows are matched (`rows_in_common`): who shuffled the data in between, cut them otherwise, or encoded them in another
way, still gets an honest ensemble of the rows that all of them left out, or an error, never predictions of one row
compared with the target of another. Predictions of other programs' join by the names of rows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective
from manyfit.data.classes import Classes, ProjectFacts
from manyfit.data.kinds import Ability, FitData, is_nested
from manyfit.data.rows import Rows
from manyfit.ensemble.alignment import aligned
from manyfit.ensemble.diversity import diversity
from manyfit.ensemble.ensemble import Ensemble
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.metrics import named_metric
from manyfit.ensemble.outputs import Prediction
from manyfit.ensemble.outside import OutsidePredictions
from manyfit.ensemble.settings import EnsembleSettings, RowCuts
from manyfit.ensemble.weights.greedy import complementary_members
from manyfit.finish.related import known_groups
from manyfit.oracles import Oracle, Trial
from manyfit.store.answers import Answers
from manyfit.store.predictions import Labels
from manyfit.training.base import Task
from manyfit.tuners.rows_in_common import ToldRows, check_labels, rows_in_common, shared_rows
from manyfit.tuners.searched import (
    MOST_CANDIDATES,
    Foretold,
    SearchedModel,
    SearchedProject,
    SearchedTuner,
    cuts_of,
    foretold,
    models_of,
)


def ensemble_of_searches(
    projects: Sequence[SearchedProject],
    outside: Sequence[OutsidePredictions] = (),
    *,
    preferred: str | None = None,
    **options: Any,
) -> Ensemble | None:
    """Fits an ensemble on the predictions that searches kept, and loads only the models that get weight.

    In three steps. First the rows: of every kept model those are taken that all of them predicted, in one order, and
    their targets are checked against the labels that each search kept. Then the weights, from these rows alone; one
    model is loaded for it, which tells the task by the loss that it was compiled with. Last the models with weight.

    Args:
        projects: one or several; rows are matched, see `rows_in_common`, and rows that not all of them predicted are
            left out.
        outside: predictions of other programs, a member each; they know the first project's rows by their names.
        preferred: the metric of the search's objective, for models with one output; None: it is none of predictions.
        **options: of `Ensemble.fit`.

    Returns:
        The ensemble; None if nothing was kept.

    Raises:
        UsageError: predictions of other rows than the labels', or projects without a row (and its target) in common.
        UsageError: outside predictions that lack a row, or have other columns.
    """
    # Labels lie beside the predictions, so this works in a process that has no data, and for other projects.
    searched = [(one, models_of(one), _labels_of(one.tuner)) for one in projects]
    lacking = next((one.tuner for one, found, labels in searched if labels is None or not found), None)
    if lacking is not None:
        if len(projects) == 1 and not outside:
            return None  # the caller has models and rows of its own to fall back to; other projects' are not at hand
        raise _keeps_nothing(lacking)
    several = len(projects) > 1
    named = [
        (dataclasses.replace(one, name=f"{project.tuner.project_name}, {one.name}" if several else one.name), labels)
        for project, found, labels in searched
        for one in found
        if labels is not None
    ]
    # Those without models come last, of all projects: they take part in no more than the choice among all.
    named.sort(key=lambda pair: pair[0].load is None)
    everyone, num_loadable = [one for one, _ in named], sum(one.load is not None for one, _ in named)
    told = [ToldRows(one.name, one.foretold.kept, labels) for one, labels in named]
    match = rows_in_common(told)
    targets = told[0].targets(match.places[0])
    members = _members_of(everyone, match.places, options.get("settings"))
    classes = Classes.of_project(projects[0].tuner.store)
    asked = Answers.beside(projects[0].tuner.predictions_archive).rows() if outside else None
    to_answer = None if asked is None else asked.names
    strangers = [one.member(targets.names, to_answer, members[0], classes) for one in outside]
    # Nobody knows which of the strangers' models predicted a row, so models cannot leave together with their rows.
    foretold_by_each = [one.foretold for one in everyone]
    cuts = RowCuts(targets.groups) if strangers else cuts_of(foretold_by_each, match.places, targets.groups)
    known: dict[str, Any] = {"sample_weight": targets.sample_weight, "cuts": cuts}
    if preferred is not None and not is_nested(targets.y):
        known["metric"] = preferred
    joined = [*members[:num_loadable], *strangers, *members[num_loadable:]]
    ensemble = Ensemble.fit(joined, targets.y, num_shown=num_loadable + len(strangers), **known | options)
    used, shown = set(ensemble.pool.support.tolist()), everyone[:num_loadable]
    models = [
        # Most members get no weight, and a model costs a build: the others stay unloaded.
        one.load() if index in used and not member.models and one.load is not None else None
        for index, (one, member) in enumerate(zip(shown, members, strict=False))
    ]
    notes = [match.note] if match.note else []
    total = max(len(one.kept.row_ids) for one in told)
    if (
        count := len(match.places[0])
    ) < total:  # said, since an interval for few rows is wide and nobody would know why
        notes.append(f"Weights are learned on the {count} rows, of up to {total}, that all searches predicted.")
    retrain = retrainer_of([one.origin for one in shown], [one.num_seeds for one in shown])
    return ensemble.with_models([*models, *(None for _ in strangers)]).with_retrainer(retrain, notes=notes)


def _members_of(
    everyone: Sequence[SearchedModel], places: Sequence[np.ndarray], settings: EnsembleSettings | None
) -> list[EnsembleMember]:
    """The members on the common rows, with the models that are needed before weights are known."""
    # They are matched: whatever the identities of their own encodings were, these are one and the same rows.
    identities = everyone[0].foretold.kept.row_ids[places[0]]
    members = [
        dataclasses.replace(one.member(rows), row_ids=identities) for one, rows in zip(everyone, places, strict=True)
    ]
    budget = None if settings is None else settings.budget
    costs_count = budget is not None and (budget.max_bytes is not None or budget.max_latency_seconds is not None)
    # The first model tells the task by the loss it was compiled with; a budget has to weigh all of them.
    return [
        dataclasses.replace(member, model=one.load())
        if one.load is not None and (costs_count or one is everyone[0])
        else member
        for member, one in zip(members, everyone, strict=True)
    ]


def _keeps_nothing(tuner: SearchedTuner) -> UsageError:
    return UsageError(
        explain(
            "ensemble(others)",
            f'project "{tuner.project_dir}", which keeps no predictions together with models',
            "searches whose validation rows are arrays",
            "Search there with validation_data=(x, y) and keep_predictions=True, or pass models, x and y.",
        )
    )


def with_class_names(ensemble: Ensemble, facts: ProjectFacts) -> Ensemble:
    """The ensemble, with the names that the classes of a project have, if they have any."""
    classes = Classes.of_project(facts)
    return ensemble if classes is None else ensemble.with_classes(classes.names.tolist())


def retrainer_of(
    origins: Sequence[tuple[SearchedProject, str]], num_seeds: Sequence[int] | None = None
) -> Callable[..., dict[int, Any]]:
    """What `Ensemble.refit` retrains members with: each tuner retrains its own trials, once per member.

    Members of one project are retrained in one call, so that they train together. A trial may be several members, or a
    member have several seeds, and `retrain` makes equally many models of each trial that it is given: as many as the
    trial that needs most. Those that are too many are dropped.

    Args:
        origins: the project and the trial of every member.
        num_seeds: models of each member, its folds counted as one; None: one of each.
    """
    seeds = [1] * len(origins) if num_seeds is None else list(num_seeds)

    def retrain(used: Sequence[int], **options: Any) -> dict[int, Any]:
        models: dict[int, Any] = {}
        used = [index for index in used if index < len(origins)]  # behind them are members of no search
        for project in dict.fromkeys(origins[index][0] for index in used):
            mine: dict[str, list[int]] = {}
            for index in used:
                if origins[index][0] is project:
                    mine.setdefault(origins[index][1], []).append(index)
            # One call for all, although some trials then get more models than they need: a second call would be a
            # second population, which costs more than a member does.
            most = max(sum(seeds[index] for index in members) for members in mine.values())
            trained = iter(project.retrain(list(mine), executions=most, **options))
            for members in mine.values():
                own = list(itertools.islice(trained, most))
                for index in members:
                    taken, own = own[: seeds[index]], own[seeds[index] :]
                    models[index] = taken[0] if len(taken) == 1 else taken
        return {index: model for index, model in models.items() if model != []}

    return retrain


def diverse_trials(tuner: SearchedTuner, count: int) -> tuple[list[Trial], list[str]]:
    """The trials that add most to each other: the best one, then each time the one that helps the mean of them most.

    Args:
        tuner: whose search kept predictions.
        count: how many at most.

    Returns:
        The trials, and what is to be said: near-copies among them.

    Raises:
        UsageError: the search kept no predictions, or not of the same rows, or fewer than three of them.
    """
    labels = tuner.predictions_archive.labels()
    best = tuner.oracle.get_best_trials(MOST_CANDIDATES)
    told = [(trial, foretold(tuner, trial, sorted(trial.executions), beside=len(best))) for trial in best]
    kept = [(trial, found.kept) for trial, found in told if found is not None]
    if labels is None or not kept:
        raise UsageError(
            explain(
                "retrain(diverse=True)",
                f'project "{tuner.project_dir}", which keeps no predictions',
                "a search whose validation rows are arrays, with keep_predictions=True",
                "Leave diverse out: the best trials are taken.",
            )
        )
    places = shared_rows([found.row_ids for _, found in kept])
    where = kept[0][1].rows[places[0]]
    check_labels(f"trial {kept[0][0].trial_id}", labels, where, kept[0][1].row_ids[places[0]])
    targets = labels.take(where)
    members = [
        EnsembleMember(f"trial {trial.trial_id}", predictions=found.take(rows).predictions)
        for (trial, found), rows in zip(kept, places, strict=True)
    ]
    first = kept[0][0]
    if tuner.has_model(first, best_execution(tuner.oracle, first)):
        # One model tells what its outputs are, and what they count.
        members[0] = dataclasses.replace(members[0], model=tuner.load_model(first))
    weight = targets.sample_weight
    found = aligned(
        members, targets.y, task=None, sample_weight=weight, metric=None, settings=EnsembleSettings(), seed=0
    )
    chosen = complementary_members(found.problem, found.metric, count)
    trials = [kept[found.usable[place]][0] for place in chosen]
    copies = diversity(found.problem.members(np.array(chosen))).copies
    return trials, [
        f"trials {trials[one].trial_id} and {trials[other].trial_id} are near-copies: they err on the same rows."
        for one, other in zip(*np.nonzero(np.triu(copies)), strict=True)
    ]


def best_execution(oracle: Oracle, trial: Trial) -> int:
    """The execution of a trial with the best score."""
    loss = oracle.objective.loss
    return min(trial.executions, key=lambda index: loss(trial.executions[index].score), default=0)


@dataclasses.dataclass(frozen=True, eq=False)
class LearnedFrom:
    """What weights of models are learned from: predictions by member, and what is known of their rows."""

    predictions: Mapping[str, Prediction]
    y: FitData
    sample_weight: FitData
    cuts: RowCuts = dataclasses.field(default_factory=RowCuts)


def _labels_of(tuner: SearchedTuner) -> Labels | None:
    """The labels that a search kept, with what is known of rows that resemble each other."""
    labels = tuner.predictions_archive.labels()
    if labels is None or labels.groups is not None:
        return labels
    return dataclasses.replace(labels, groups=known_groups(tuner.store, len(labels.row_ids)))


def kept_predictions(tuner: SearchedTuner, models: Sequence[Any]) -> LearnedFrom | None:
    """What a search kept for the trials of these models.

    Returns:
        None where something was not kept, or the rows of the trials differ by what the size cap left out.

    Raises:
        UsageError: a model that this tuner did not make, or predictions of other rows than the labels'.
    """
    labels = _labels_of(tuner)
    by_trial: dict[str, Foretold | None] = {}

    # Several models may be seeds of one trial: each trial is read once.
    def look_up(trial_id: str) -> Prediction:
        if trial_id not in by_trial:
            by_trial[trial_id] = _foretold_of_trial(tuner, tuner.oracle.get_trial(trial_id))
        told = by_trial[trial_id]
        return np.empty(0) if told is None else told.kept.predictions

    predictions = member_predictions(models, tuner.model_origins, look_up)
    found = [told for told in by_trial.values() if told is not None]
    if labels is None or not found or len(found) < len(by_trial):
        return None
    for trial_id, told in zip(by_trial, found, strict=True):
        check_labels(f"trial {trial_id}", labels, told.kept.rows, told.kept.row_ids)
    # Executions that were cut off by the size cap at different rows cannot be compared row by row.
    rows = found[0].kept.rows
    if any(not np.array_equal(told.kept.rows, rows) for told in found):
        return None
    targets = labels.take(rows)
    cuts = cuts_of(found, [np.arange(len(rows))] * len(found), targets.groups)
    if cuts.folds is not None and len(np.atleast_2d(cuts.folds)) > 1:
        cuts = RowCuts(targets.groups)  # predictions are means over the repeats here
    return LearnedFrom(predictions, targets.y, targets.sample_weight, cuts)


def _foretold_of_trial(tuner: SearchedTuner, trial: Trial) -> Foretold | None:
    """What the best execution of a trial said, or what its folds said together."""
    archive, best = tuner.predictions_archive, best_execution(tuner.oracle, trial)
    parts = {e: archive.get(trial.trial_id, [e]) for e in sorted(trial.executions)}
    first = next(iter(parts.values()), None)
    missing = first is None or any(part is None for part in parts.values())
    if missing or all(np.array_equal(part.rows, first.rows) for part in parts.values()):  # type: ignore[union-attr]  # not missing
        alone = parts.get(best)
        return None if alone is None else Foretold(alone)
    return foretold(tuner, trial, list(parts))


def member_predictions(
    models: Sequence[Any],
    trial_ids: Mapping[Any, str],
    predict: Callable[[str], Prediction],
) -> dict[str, Prediction]:
    """Predictions on rows that no member trained on, by the member's name.

    A retrained model has seen the validation rows, so the model of the same trial from the search predicts in its
    place.

    Args:
        models: the members.
        trial_ids: the trial of each model that this tuner made.
        predict: what the search-time models of a trial say of the rows that they did not train on.

    Raises:
        UsageError: a model that this tuner did not make.
    """
    predictions: dict[str, Prediction] = {}
    for model in models:
        if model not in trial_ids:
            raise UsageError(
                explain(
                    "ensemble(models)",
                    f"{getattr(model, 'name', type(model).__name__)}, a model that this tuner did not make",
                    "models from tuner.retrain() or tuner.get_best_models()",
                    "For other models type kt.Ensemble.fit(models, y, x=x) with rows that none of them trained on.",
                )
            )
        trial_id = trial_ids[model]
        name = f"trial {trial_id}"
        copies = sum(known == name or known.startswith(f"{name} (") for known in predictions)
        predictions[f"{name} ({copies + 1})" if copies else name] = predict(trial_id)
    return predictions


def metric_of(objective: Objective) -> str | None:
    """The metric of a search's objective, where it is one of predictions that an ensemble can be chosen by.

    None for the loss, which decides where nothing else does, and for what is not measured on predictions: sizes, times,
    metrics of a user's own, several objectives.

    Example:

    >>> [metric_of(Objective(name, "max")) for name in ("val_auc", "val_loss", "val_my_score")]
    ['auc', None, None]
    """
    if len(objective.terms) > 1 or len(objective.names) > 1:
        return None
    metric = named_metric(objective.name)
    return None if metric is None or objective.name in ("loss", "val_loss") else metric.name


def validation_data(task: Task | None) -> tuple[Any, Any, Any]:
    """The validation rows of the latest search: x, y, sample weights or None.

    Raises:
        UsageError: there was no search in this process, or its validation data are no arrays, or without targets.
    """
    rows = None if task is None else task.call.validation_rows()
    if rows is not None and rows.can(Ability.AS_ARRAYS):
        rows = rows.read("ensemble()")
    got, instead = _why_not_learned_from(rows)
    if rows is None or got:
        allowed = "x= and y= that no search-time model trained on"
        raise UsageError(explain("ensemble()", got, allowed, instead))
    return rows.parts


def _why_not_learned_from(rows: Rows | None) -> tuple[str, str]:
    """What is wrong with validation rows, and what to type instead; empty texts where nothing is."""
    instead = "Type tuner.ensemble(models, x=x_val, y=y_val) with the validation rows of the search."
    if rows is None:
        return "no validation rows to learn the weights from", instead
    if not rows.can(Ability.TAKEN):
        return f"validation rows that cannot be numbered ({rows.describe()})", instead
    if rows.y is None:
        # What models of x alone are to say is written in their own code, so nobody else can compare them.
        told = "Type tuner.ensemble(models, x=x_val, y=...) with what they are to answer: x_val, for autoencoders."
        return f"validation rows without targets ({rows.describe()})", told
    return "", ""
