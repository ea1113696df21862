"""What a search left of its models for an ensemble: which there are, what they said of rows, which of them go together.

A configuration is one member, whatever number of models it has. Seeds are averaged: weights between them would be
learned from their luck. The models of its folds are used together, each having predicted the rows that it did not train
on.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from manyfit.core.clock import Clock
from manyfit.data.classes import ProjectFacts
from manyfit.data.kinds import leaves, map_leaves
from manyfit.ensemble.members import EnsembleMember
from manyfit.ensemble.settings import RowCuts
from manyfit.oracles import Oracle, Trial
from manyfit.store.answers import Answers
from manyfit.store.predictions import Archive, Kept
from manyfit.tuners.keeping import ModelOrigins

MOST_CANDIDATES = 50  # trials whose predictions are looked at
_MOST_NUMBERS = 1 << 26  # that they said together and that are held at once: 256 MiB


class SearchedTuner(Protocol):
    """What an ensemble asks of a tuner that has searched; `Tuner` is one."""

    oracle: Oracle
    store: ProjectFacts
    limits: tuple[Clock, ...]
    num_kept_models: int
    project_name: str
    model_origins: ModelOrigins

    @property
    def project_dir(self) -> str:
        """The project's folder."""

    @property
    def predictions_archive(self) -> Archive:
        """Where the predictions of the search are kept."""

    def load_model(self, trial: Trial, execution: int | None = None) -> Any:
        """A trial's model; None takes its best execution."""

    def has_model(self, trial: Trial, execution: int) -> bool:
        """Whether the weights of an execution were kept."""


@dataclasses.dataclass(frozen=True, eq=False)
class SearchedProject:
    """One of the searches that an ensemble is made of."""

    tuner: SearchedTuner
    retrain: Callable[..., list[Any]]  # (trial ids, executions=, **options of `retrain`) -> as many models of each


@dataclasses.dataclass(frozen=True, eq=False)
class Foretold:
    """What the models of one configuration said of rows that they did not train on.

    Attributes:
        kept: of all of them together; where several predicted a row, the mean.
        folds: (repeats, n) which model predicted each row in each repeat of a cross-validation; None: none has rows of
            its own.
        repeats: what was predicted in each repeat, where there are several.
    """

    kept: Kept
    folds: np.ndarray | None = None
    repeats: tuple[Any, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Kept], together: Kept) -> Foretold:
        """Tells folds from seeds, by the rows that each model predicted.

        Args:
            parts: of each model, in the order of executions.
            together: of all of them.
        """
        repeats: list[list[Kept]] = []
        for part in parts:
            if not repeats or np.isin(part.rows, np.concatenate([one.rows for one in repeats[-1]])).any():
                repeats.append([])
            repeats[-1].append(part)
        whole = [np.concatenate([one.rows for one in repeat]) for repeat in repeats]
        if len(repeats[0]) == 1 or any(not np.array_equal(np.sort(rows), together.rows) for rows in whole):
            return cls(together)
        orders = [np.argsort(rows, kind="stable") for rows in whole]
        folds = [
            np.repeat(np.arange(len(repeat)), [len(one.rows) for one in repeat])[order]
            for repeat, order in zip(repeats, orders, strict=True)
        ]
        if len(repeats) == 1:
            return cls(together, np.stack(folds))
        said = tuple(
            map_leaves(lambda *parts, order=order: np.concatenate(parts)[order], *(one.predictions for one in repeat))
            for repeat, order in zip(repeats, orders, strict=True)
        )
        return cls(together, np.stack(folds), said)

    def member(self, name: str, rows: np.ndarray, configuration: Mapping[str, Any]) -> EnsembleMember:
        """The member of these rows, without its model."""
        kept = self.kept.take(rows)
        repeats = [map_leaves(lambda output: output[rows], one) for one in self.repeats]
        return EnsembleMember(name, None, kept.predictions, kept.row_ids, dict(configuration), repeats=tuple(repeats))


@dataclasses.dataclass(frozen=True, eq=False)
class SearchedModel:
    """The models of one trial, with what was kept of their predictions."""

    name: str
    foretold: Foretold
    configuration: Mapping[str, Any]
    load: Callable[[], Any] | None  # one model, or a list; None where none was kept
    origin: tuple[SearchedProject, str]  # whose trial it is
    num_seeds: int = 1  # models that take its place when it is retrained
    answers: Callable[[], Any] | None = None  # reads what they said of rows that are to be answered; may be None

    def member(self, rows: np.ndarray) -> EnsembleMember:
        """The member, without its model, on some of the rows that were kept."""
        return dataclasses.replace(self.foretold.member(self.name, rows, self.configuration), test=self.answers)


def models_of(project: SearchedProject) -> list[SearchedModel]:
    """The trials of a search whose predictions are there, best first, those without models last.

    Which models were kept was decided by the rows that the ensemble is to be learned from. So the others are told of,
    too: the choice among all of them can then be cross-fitted like everything else.
    """
    tuner = project.tuner
    archive = tuner.predictions_archive
    answers = Answers.beside(archive)
    kept = {trial.trial_id for trial in tuner.oracle.get_best_trials(tuner.num_kept_models)}
    found = []
    candidates = tuner.oracle.get_best_trials(max(MOST_CANDIDATES, tuner.num_kept_models))
    for trial in candidates:
        executions = [e for e in archive.executions(trial.trial_id) if e in trial.executions]
        loaded = [e for e in executions if trial.trial_id in kept and tuner.has_model(trial, e)]
        told = foretold(tuner, trial, loaded or executions, beside=len(candidates))
        if told is not None:
            load = _loader(tuner, trial, loaded) if loaded else None
            seeds = len(loaded) if told.folds is None else max(1, len(told.folds))
            name, values = f"trial {trial.trial_id}", trial.hyperparameters.values
            said = functools.partial(answers.stored, trial.trial_id, loaded or executions)
            found.append(SearchedModel(name, told, values, load, (project, trial.trial_id), seeds, said))
    usable = [one for one in found if one.load is not None]
    # Of others nothing is used but what they said of the very same rows.
    rest = [one for one in found if one.load is None and usable and _same_rows(one, usable[0])]
    return usable + rest


def foretold(tuner: SearchedTuner, trial: Trial, executions: Sequence[int], *, beside: int = 1) -> Foretold | None:
    """What executions of a trial said of rows that they did not train on; None where nothing was kept of one.

    Args:
        tuner: whose trial it is.
        trial: of which something was kept.
        executions: by their numbers.
        beside: trials that are held in memory at once. Rows beyond what there is room for are left out, the same of
            each.
    """
    archive = tuner.predictions_archive
    together = archive.get(trial.trial_id, list(executions))
    if together is None:
        return None
    # Read one after another and cut at once: a trial as a whole is in memory while it is read, and no longer.
    largest = _largest_identity(together, beside)
    parts = [part for e in executions if (part := archive.get(trial.trial_id, [e])) is not None]
    return Foretold.of([_up_to(largest, part) for part in parts], _up_to(largest, together))


def _largest_identity(kept: Kept, beside: int) -> int | None:
    """Of the rows that find room where so many trials are held at once; None: all do."""
    numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves(kept.predictions))
    most = max(1, _MOST_NUMBERS // max(1, numbers * beside))
    # The smallest identities: those that the archive keeps where there is no room for all.
    return None if most >= len(kept.row_ids) else int(np.partition(kept.row_ids, most - 1)[most - 1])


def _up_to(largest: int | None, kept: Kept) -> Kept:
    return kept if largest is None else kept.take(np.flatnonzero(kept.row_ids <= np.uint64(largest)))


def common_folds(told: Sequence[Foretold], places: Sequence[np.ndarray]) -> np.ndarray | None:
    """(repeats, n) folds that all members have in common; None where they differ, or have none.

    Args:
        told: of each member.
        places: of each, where the common rows lie.
    """
    first = told[0].folds
    if first is None:
        return None
    folds = [None if one.folds is None else one.folds[:, rows] for one, rows in zip(told, places, strict=True)]
    alike = all(fold is not None and np.array_equal(fold, folds[0]) for fold in folds)  # type: ignore[arg-type]  # not None
    return folds[0] if alike else None


def cuts_of(told: Sequence[Foretold], places: Sequence[np.ndarray], groups: np.ndarray | None) -> RowCuts:
    """What belongs together in the cross-fitting of these members."""
    return RowCuts(groups, common_folds(told, places))


def _same_rows(one: SearchedModel, other: SearchedModel) -> bool:
    return np.array_equal(one.foretold.kept.row_ids, other.foretold.kept.row_ids)


def _loader(tuner: SearchedTuner, trial: Trial, executions: list[int]) -> Callable[[], Any]:
    if len(executions) == 1:
        return lambda: tuner.load_model(trial, executions[0])
    return lambda: [tuner.load_model(trial, execution) for execution in executions]
