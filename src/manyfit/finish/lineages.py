"""Trials that are branches, trained anew: their values change as they did along their lineage.

A branch went on from another trial's state, so its own values are those of its last epochs only; a model that is
trained with them from the start is another one. Confirmations, folds and retrainings therefore replay the lineage: the
values of each ancestor up to the epoch at which they changed, in one training with one seed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from manyfit.core.lifecycle import is_paused
from manyfit.core.records import Configuration, Decision, Origin, Plan, Result
from manyfit.oracles import Trial
from manyfit.oracles.jobs import Stretch, is_branch, lineage_of
from manyfit.space.hyperparameters import HyperParameters
from manyfit.training.base import Supply, Task, Trainer
from manyfit.training.program_report import Programs


def replaying(trainer: Trainer, trials: Mapping[str, Trial], say: Callable[[str], None]) -> Trainer:
    """A trainer that replays the lineages of trials that are branches; the very one where there are none.

    Args:
        trainer: that trains.
        trials: all of a search, by id.
        say: takes one line of text for people.
    """
    return LineageTrainer(trainer, trials, say) if any(map(is_branch, trials.values())) else trainer


class LineageTrainer(Trainer):
    """Has another trainer train, with the values of a lineage one after another.

    Args:
        trainer: that trains. Each stretch of a lineage is an execution that goes on from its own state.
        trials: all of a search, by id.
        say: takes one line of text for people.
    """

    def __init__(self, trainer: Trainer, trials: Mapping[str, Trial], say: Callable[[str], None]) -> None:
        self._trainer, self._say = trainer, say
        self._lineages = {name: lineage_of(trial, trials) for name, trial in trials.items() if is_branch(trial)}
        self.takes_splits = trainer.takes_splits

    def train(self, supply: Supply, task: Task) -> None:
        """See `Trainer`."""
        may = dataclasses.replace(task.may, pause=True)
        self._trainer.train(_Replay(supply, self._lineages, self._say), dataclasses.replace(task, may=may))

    def programs(self) -> Programs | None:
        """See `Trainer`."""
        return self._trainer.programs()

    def trains_in_epochs(self, values: Configuration, task: Task) -> bool:
        """See `Trainer`."""
        return self._trainer.trains_in_epochs(values, task)


class _Replay:
    """A supply that cuts the plans of another one into the stretches of their lineages."""

    independent = False

    def __init__(self, supply: Supply, lineages: Mapping[str, Sequence[Stretch]], say: Callable[[str], None]) -> None:
        self._supply, self._lineages, self._say = supply, lineages, say
        self._whole: dict[tuple[str, int], Plan] = {}  # as the other supply knows them
        self._places: dict[tuple[str, int], int] = {}  # the stretch that is trained now
        self._next: list[Plan] = []
        self._said: set[str] = set()

    @property
    def remaining(self) -> int | None:
        """See `Supply`."""
        remaining = self._supply.remaining
        return None if remaining is None else remaining + len(self._next)

    def take(self, count: int) -> Sequence[Plan]:
        """See `Supply`."""
        # Those that are on their way first: nobody is told of their pauses.
        found, self._next = self._next[:count], self._next[count:]
        for plan in self._supply.take(count - len(found)) if len(found) < count else ():
            if plan.trial_id not in self._lineages:
                found.append(plan)
                continue
            self._whole[plan.key], self._places[plan.key] = plan, 0
            found.append(self._stretch(plan))
            self._tell(plan.trial_id)
        return found

    def _stretch(self, plan: Plan) -> Plan:
        """A plan with the values of the stretch that it is at."""
        stretch = self._lineages[plan.trial_id][self._places[plan.key]]
        values = plan.values.copy()
        assert isinstance(values, HyperParameters)  # our bug: the steps of a tuner put them there
        values.values = dict(stretch.values)
        if not stretch.first_epoch:
            return dataclasses.replace(plan, values=values)
        origin = Origin(*plan.key, stretch.first_epoch)
        return dataclasses.replace(plan, values=values, first_epoch=stretch.first_epoch, origin=origin)

    def _tell(self, trial_id: str) -> None:
        if trial_id in self._said:
            return
        self._said.add(trial_id)
        parts = [f"of trial {one.trial_id} up to epoch {one.end_epoch}" for one in self._lineages[trial_id][:-1]]
        self._say(f"trial {trial_id} is a branch: it trains with the values {', '.join(parts)}, then with its own")

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `Supply`."""
        answers = self._supply.report(epochs)
        return [
            Decision.PAUSE if answer is Decision.GO_ON and self._ends_stretch(plan, epoch) else answer
            for (plan, epoch, _), answer in zip(epochs, answers, strict=True)
        ]

    def _ends_stretch(self, plan: Plan, epoch: int) -> bool:
        if plan.key not in self._places:
            return False
        end = self._lineages[plan.trial_id][self._places[plan.key]].end_epoch
        return epoch + 1 == end and plan.epochs != end

    def finish(self, result: Result) -> None:
        """See `Supply`."""
        key = result.plan.key
        if key in self._places and is_paused(result):
            self._places[key] += 1
            self._next.append(self._stretch(self._whole[key]))
            return
        if key in self._places:
            del self._places[key]
            result.plan = self._whole.pop(key)
        self._supply.finish(result)
