"""Population-based training: trials copy each other's weights, and change their values while they train.

Source: Jaderberg, Dalibard, Osindero, Czarnecki, Donahue, Razavi, Vinyals, Green, Dunning, Simonyan, Fernando and
Kavukcuoglu 2017, Population Based Training of Neural Networks, Algorithm 1 and section 4.1 (truncation selection,
perturb and resample).

A trial keeps one configuration, here as everywhere. To *exploit* ends the worse trial and begins a new one, a branch,
which starts from the better trial's state after so many epochs; to *explore* gives the branch values near its parent's.
So what a model was trained with is written down in its lineage: the values of each ancestor, and from which epoch to
which. A lineage is a schedule of values.

Generations are in step: whoever is ranked has trained for as many epochs. The paper lets each worker ask for itself,
since its workers differ in speed; here who is copied must not depend on that, or a search that was killed would become
another one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, UsageTypeError, explain
from manyfit.core.records import Progress, Value, Values
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.schedulers import base
from manyfit.schedulers.base import Branch, Job, Limits, Resume, Room, Scheduler, Start, check_count
from manyfit.schedulers.rungs import ceil_div, failed_before, loss_at
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters
from manyfit.space.numerical import Float, Numerical


class PopulationBasedTraining(Scheduler):
    """Trains a population in steps; after each, the worst trials give way to copies of the best with other values.

    What is copied is the state: weights, the optimizer's slots, the seeds of dropout. Callbacks begin anew. What is
    changed are numbers that a program takes as data, such as learning rates, rates of dropout, weight decay; widths,
    depths and choices stay as the parent has them. The trials that a sampler proposes are the first generation, and
    `max_trials` counts these; branches come on top.

    It pays where the best value changes in the course of a training. All of a population trains to the end of each
    step, so it spends more on bad configurations than ASHA does.

    Args:
        max_epochs: epochs of a full training.
        interval_epochs: of a step; None: a tenth of `max_epochs`, at least 1.
        population_size: most trials that train in a generation. With `max_trials` below it, these are all.
        factor: the worst 1 / `factor` of a generation give way to copies of the best 1 / `factor`, rounded up, at most
            half. Trials that failed give way, too.
        perturbation: a value is multiplied by one of these, and kept within its range.
        resample_probability: of drawing a value anew from its range instead, for each value.
        names: of the hyperparameters that are changed; None: every `Float`.

    Raises:
        UsageError: a count that is no integer in its range, `interval_epochs` not below `max_epochs`, factors of a
            perturbation that are no positive numbers, a probability outside of 0 to 1.
        UsageTypeError: `perturbation` is no pair of numbers, or `names` are no texts.

    Example: of five trials after a step of two epochs, the worst gives way to a copy of the best.

    >>> generation = [Progress(str(i), (1.0, 0.1 * i), target_epochs=2) for i in range(5)]
    >>> training = PopulationBasedTraining(max_epochs=20, interval_epochs=2, population_size=5)
    >>> jobs = training.assign(generation, 5, Limits(max_trials=5))
    >>> jobs[0].parent_id, jobs[0].replaces, [job.trial_id for job in jobs[1:]]
    ('0', '4', ['0', '1', '2', '3'])
    """

    may_stop = False
    may_branch = True
    first_decision = "interval_epochs"

    @checked_arguments(skip=("perturbation", "resample_probability", "names"), population_size=at_least(2, 20))
    def __init__(
        self,
        max_epochs: int = 100,
        interval_epochs: int | None = None,
        *,
        population_size: int = 20,
        factor: int = 5,
        perturbation: tuple[float, float] = (0.8, 1.2),
        resample_probability: float = 0.25,
        names: Sequence[str] | None = None,
    ) -> None:
        where = "PopulationBasedTraining"
        hint = "Type the epochs of a full training, for instance 100."
        self.max_epochs: int
        self.max_epochs = check_count(where, "max_epochs", max_epochs, low=2, hint=hint)
        if interval_epochs is None:
            interval_epochs = max(1, self.max_epochs // 10)
        hint = "Type for instance a tenth of max_epochs, or leave it out."
        self.interval_epochs = check_count(where, "interval_epochs", interval_epochs, low=1, hint=hint)
        if self.interval_epochs >= self.max_epochs:
            got = f"interval_epochs={self.interval_epochs}, max_epochs={self.max_epochs}: nobody would ever be copied"
            raise UsageError(explain(where, got, "interval_epochs < max_epochs", hint))
        self.population_size = check_count(where, "population_size", population_size, low=1, hint="Type 20, say.")
        self.factor = check_count(where, "factor", factor, low=2, hint="Type 5 to exchange a fifth in each step.")
        self.perturbation = _checked_perturbation(perturbation)
        self.resample_probability = _checked_probability(resample_probability)
        self.names = _checked_names(names)

    # How long ----------------------------------------------------------------------------------------------------

    def assign(self, history: Sequence[Progress], count: int, limits: Limits) -> list[Job]:
        """See `Scheduler.assign`."""
        room = Room(history, limits, count)
        size = self._size(limits)
        jobs: list[Job] = self._starts(history, room, size)
        if jobs:
            return jobs
        for epochs in range(self.interval_epochs, self.max_epochs, self.interval_epochs):
            members = [p for p in history if _trains_towards(p, epochs)]
            if any(p.running and p.target_epochs == epochs for p in members):
                return []  # ranked once everybody is there
            pending = self._after_step(history, members, epochs, size)
            for job in pending:
                num_more = job.target_epochs - epochs
                if room.fits(num_more):
                    room.take(num_more, start=False)
                    jobs.append(job)
            # Where no more epochs can be had, the best alone have gone on, and theirs is the next step.
            if jobs or any(room.affords(job.target_epochs - epochs) for job in pending):
                return jobs
        return []

    def _size(self, limits: Limits) -> int:
        """Trials of a generation."""
        if limits.max_total_epochs is None:
            return self.population_size
        # So many can be trained to their end.
        return min(self.population_size, max(1, limits.max_total_epochs // self.max_epochs))

    def _starts(self, history: Sequence[Progress], room: Room, size: int) -> list[Job]:
        """Trials of the first generation that are missing, until its first step is over."""
        first = self.interval_epochs
        if any((p.target_epochs or 0) > first for p in history):
            return []
        num_missing = size - sum(not failed_before(p, first) for p in history)
        jobs: list[Job] = []
        while len(jobs) < num_missing and room.can_start and room.fits(first):
            room.take(first, start=True)
            jobs.append(Start(first, self._tags(0, first)))
        return jobs

    def _after_step(
        self, history: Sequence[Progress], members: Sequence[Progress], epochs: int, size: int
    ) -> list[Branch | Resume]:
        """What is still to be handed out of a generation after a step; all branches come before any trial goes on.

        A parent rests until its copies are made: what it was after this step would be gone otherwise. All is read off
        the losses at the end of the step, which never change, so that it comes to the same when part of it was handed
        out already.
        """
        following = min(epochs + self.interval_epochs, self.max_epochs)
        tags = self._tags(epochs, following)
        ranked = _ranked(members, epochs)
        parents, losers = self._selected(ranked, epochs)
        # Of trials that failed in the first step, new ones may have taken the place already.
        failed = [p for p in members if failed_before(p, epochs)][: max(0, size - len(ranked))]
        replaced = [p.trial_id for p in (*failed, *losers)] if parents else []
        served = {p.tags[base.REPLACES] for p in history if p.tags.get(base.PARENT_EPOCH) == epochs}
        branches = [
            # In turn, where the paper draws: nothing has to be drawn here, and no parent has all copies by chance.
            Branch(parents[place % len(parents)].trial_id, epochs, following, loser, tags)
            for place, loser in enumerate(replaced)
            if loser not in served
        ]
        resumes = [
            Resume(p.trial_id, following, {**tags, base.TRIAL_ID: p.trial_id})
            for p in ranked
            if p.paused and p.target_epochs == epochs and p.trial_id not in replaced
        ]
        return [*branches, *resumes]

    def _selected(self, ranked: Sequence[Progress], epochs: int) -> tuple[list[Progress], list[Progress]]:
        """Whose state is copied, best first; and who gives way, worst first."""
        num_chosen = min(ceil_div(len(ranked), self.factor), len(ranked) // 2)
        # One that a callback of the user's has ended cannot be gone on from: its state is that of an earlier epoch.
        rest = [p for p in ranked if math.isfinite(loss_at(p, epochs)) and not _ended_by(p, epochs)]
        parents = rest[: max(1, num_chosen)]
        chosen = {p.trial_id for p in parents}
        return parents, [p for p in reversed(ranked) if p.trial_id not in chosen][:num_chosen]

    def _tags(self, epochs: int, following: int) -> dict[str, Value]:
        return {base.EPOCHS: following, base.INITIAL_EPOCH: epochs, base.ROUND: ceil_div(epochs, self.interval_epochs)}

    # With which values -------------------------------------------------------------------------------------------

    def explored(self, space: HyperParameters) -> list[Numerical]:
        """The hyperparameters that are changed.

        Raises:
            UsageError: there are none, or one of `names` is unknown, or no number.
        """
        numbers = {each.name: each for each in space.space if isinstance(each, Numerical)}
        floats = [each for each in numbers.values() if isinstance(each, Float) and each.num_values != 1]
        chosen: list[Numerical] = [*floats]
        if self.names is not None:
            chosen = [numbers[name] for name in self.names if name in numbers]
        unknown = [name for name in self.names or () if name not in numbers]
        if unknown or not chosen:
            got = f"names={list(self.names or ())}" if self.names else "a space without an hp.Float"
            there = ", ".join(numbers) or "none: the space has no numbers"
            allowed = f"numbers that a model takes as data, such as a learning rate ({there})"
            instead = 'Type hp.Float("learning_rate", 1e-4, 1e-1, sampling="log") in the build function.'
            raise UsageError(explain("PopulationBasedTraining", got, allowed, instead))
        return chosen

    def explore(self, space: HyperParameters, values: Values, rng: np.random.Generator) -> dict[str, Value]:
        """See `Scheduler.explore`: each number is multiplied by one of the factors, or drawn anew.

        Example:

        >>> from manyfit.space.hyperparameters import HyperParameters
        >>> space = HyperParameters()
        >>> rate = space.Float("rate", 0.01, 1.0, sampling="log")
        >>> training = PopulationBasedTraining(20, resample_probability=0.0)
        >>> round(training.explore(space, {"rate": 0.5}, np.random.default_rng(0))["rate"], 6)
        0.6
        """
        found = dict(values)
        for each in self.explored(space):
            draws = rng.random(3)  # always as many, so that one value's draws do not depend on another's
            if each.name not in values:  # inactive
                continue
            if draws[0] < self.resample_probability:
                found[each.name] = each.prob_to_value(float(draws[1]))
            else:
                found[each.name] = _multiplied(each, float(values[each.name]), self.perturbation[int(draws[2] < 0.5)])
        # What a number switches on or off may have changed with it.
        return Encoding(space).adapt(found)

    def settings(self) -> dict[str, Any]:
        """See `Scheduler.settings`."""
        return {
            "name": "PopulationBasedTraining",
            "max_epochs": self.max_epochs,
            "interval_epochs": self.interval_epochs,
            "population_size": self.population_size,
            "factor": self.factor,
            "perturbation": list(self.perturbation),
            "resample_probability": self.resample_probability,
            "names": None if self.names is None else list(self.names),
        }


def _trains_towards(progress: Progress, epochs: int) -> bool:
    """Whether a trial has trained, or trains, in the step that ends at these epochs."""
    return base.num_inherited(progress.tags) < epochs <= (progress.target_epochs or 0)


def _ranked(members: Sequence[Progress], epochs: int) -> list[Progress]:
    """Best first, those that failed apart; ties go to the earlier start.

    Raises:
        UsageError: several trials trained so long, and not one logged its objective.
    """
    finished = [p for p in members if not failed_before(p, epochs)]
    if len(finished) > 1 and not any(loss == loss for p in finished for loss in p.curve[:epochs]):
        got = f"{len(finished)} trials without a logged objective in their first {epochs} epochs"
        allowed = "an objective that is logged before the first step ends"
        instead = f"Type interval_epochs={epochs + 1} or more, or validate in every epoch (validation_freq=1)."
        raise UsageError(explain("PopulationBasedTraining: a step", got, allowed, instead))
    return sorted(finished, key=lambda p: loss_at(p, epochs))


def _multiplied(hyperparameter: Numerical, value: float, factor: float) -> Value:
    """A value times a factor, within its range; on a grid at least the next one, where there is one."""
    moved = min(max(value * factor, hyperparameter.min_value), hyperparameter.max_value)
    if hyperparameter.kind == "continuous":
        return float(moved)
    here, there = (int(place) for place in hyperparameter.nearest([value, moved]))
    num_values = hyperparameter.num_values
    assert num_values is not None  # our bug: only a continuum has no number of values
    if here == there:
        there = min(max(here + (1 if factor > 1 else -1), 0), num_values - 1)
    return hyperparameter.value_at(there)


def _ended_by(progress: Progress, epochs: int) -> bool:
    """Whether it has ended within the step, and was never sent further."""
    return progress.ending is not None and (progress.target_epochs or 0) <= epochs


def _checked_perturbation(pair: object) -> tuple[float, float]:
    allowed, instead = "two positive numbers, such as (0.8, 1.2)", "Type perturbation=(0.8, 1.2), or leave it out."
    where = "PopulationBasedTraining(perturbation=...)"
    if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(each, int | float) for each in pair):
        raise UsageTypeError(explain(where, repr(pair), allowed, instead))
    low, high = map(float, pair)
    if not (0 < low < math.inf and 0 < high < math.inf):
        raise UsageError(explain(where, repr(pair), allowed, instead))
    return low, high


def _checked_probability(probability: object) -> float:
    if isinstance(probability, int | float) and not isinstance(probability, bool) and 0 <= probability <= 1:
        return float(probability)
    where = "PopulationBasedTraining(resample_probability=...)"
    raise UsageError(explain(where, repr(probability), "a number from 0 to 1", "Type 0.25, or leave it out."))


def _checked_names(names: object) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    where, allowed = "PopulationBasedTraining(names=...)", "a list of names, or None"
    raise UsageTypeError(explain(where, repr(names), allowed, 'Type names=["learning_rate"], or leave it out.'))
