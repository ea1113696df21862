"""The trials that a scheduler's jobs are about: they begin, go on, or branch off from others; and their lineages."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from manyfit.core import seeds
from manyfit.core.records import Origin, Values
from manyfit.oracles.proposals import ProposalQueue
from manyfit.oracles.restarting import begin_on
from manyfit.oracles.trial import Trial
from manyfit.schedulers.base import PARENT, PARENT_EPOCH, REPLACES, Branch, Job, Restart, Resume, Scheduler
from manyfit.space.hyperparameters import HyperParameters


class Trials(Protocol):
    """What is needed of an oracle."""

    scheduler: Scheduler
    proposals: ProposalQueue
    hyperparameters: HyperParameters
    seed: int

    @property
    def trials(self) -> dict[str, Trial]:
        """All of them, in the order of their start."""

    def get_space(self) -> HyperParameters:
        """A copy of the space."""

    def new_id(self, number: int) -> str:
        """The id of the trial of this number."""


def trial_of(job: Job, oracle: Trials, proposals: list[Values]) -> Trial | None:
    """The trial that a job is about, the next one of the search where it begins.

    Args:
        job: of the scheduler.
        oracle: whose trials they are.
        proposals: for starts; the first one is taken out.

    Returns:
        None: there is nothing new to try.
    """
    if isinstance(job, Resume):
        return oracle.trials[job.trial_id]
    if isinstance(job, Restart):
        trial = oracle.trials[job.trial_id]
        begin_on(trial, job.num_rows)
        return trial
    if isinstance(job, Branch):
        # By the trial's number, as proposals are: after a restart the same branch gets the same values.
        rng = seeds.generator(oracle.seed, "explore", len(oracle.trials))
        parent = oracle.trials[job.parent_id].searched_values
        values = oracle.proposals.settled(oracle.scheduler.explore(oracle.get_space(), parent, rng))
        trial = _begun(oracle, values)
        trial.tags.update(job.lineage)
        trial.hyperparameters.values.update(job.lineage)  # where people look for them
        return trial
    if not proposals:
        return None
    trial = _begun(oracle, proposals.pop(0))
    trial.moment = oracle.proposals.moment_facts()
    return trial


def _begun(oracle: Trials, values: Values) -> Trial:
    hyperparameters = oracle.hyperparameters.shared_copy()
    hyperparameters.values = dict(values)
    number = len(oracle.trials)
    trial = Trial(hyperparameters, oracle.new_id(number))
    trial.number = number
    oracle.trials[trial.trial_id] = trial  # so that the next id and the next proposal know of it
    return trial


# Lineages --------------------------------------------------------------------------------------------------------


def is_branch(trial: Trial) -> bool:
    """Whether a trial has gone on from another one's state."""
    return PARENT in trial.tags


def origin_of(trial: Trial, execution: int) -> Origin | None:
    """What an execution of a trial begins with; None: a model as it is built."""
    if not is_branch(trial):
        return None
    return Origin(str(trial.tags[PARENT]), execution, int(trial.tags[PARENT_EPOCH]))


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of a lineage: what a model was trained with from one epoch to another.

    Attributes:
        trial_id: whose values these are.
        values: without tags.
        first_epoch: the first one that was trained with them, from 0.
        end_epoch: the first one that was not; None: the last stretch.
    """

    trial_id: str
    values: Values
    first_epoch: int
    end_epoch: int | None


def lineage_of(trial: Trial, trials: Mapping[str, Trial]) -> list[Stretch]:
    """The schedule of values that led to a trial, oldest first; one stretch where it is no branch."""
    found: list[Stretch] = []
    each, end = trial, None
    while True:
        first = int(each.tags.get(PARENT_EPOCH, 0))
        found.append(Stretch(each.trial_id, each.searched_values, first, end))
        if not is_branch(each):
            return found[::-1]
        each, end = trials[str(each.tags[PARENT])], first


def why_paused_for_good(trial: Trial, trials: Mapping[str, Trial]) -> str:
    """Why a trial that waits will not go on, in words."""
    taken_by = next((each for each in trials.values() if each.tags.get(REPLACES) == trial.trial_id), None)
    if taken_by is None:
        return "not promoted"
    return f"trial {taken_by.trial_id} took its place, a branch of trial {taken_by.tags[PARENT]}"
