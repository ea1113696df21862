"""From luck to proof: finalists run on fresh seeds, the same for all, until it is settled who may be the best.

The race itself is arithmetic (`manyfit.stats.racing`); this file feeds a trainer with what the race asks for, and
writes every execution into the book before anything is concluded from it. So a confirmation that was killed goes on
where it was.
"""

from __future__ import annotations

import abc
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core import seeds
from manyfit.core.checks import seconds_or_none, whole_number, whole_number_or_none
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.records import Decision, Plan, Result
from manyfit.data.identity import fingerprint
from manyfit.finish.summary import confirmed, summarise
from manyfit.oracles import Oracle, Trial
from manyfit.oracles.trial import Execution
from manyfit.report.confirmation import Confirmation
from manyfit.space.encoding import Encoding
from manyfit.stats import racing
from manyfit.stats.racing import MIN_ROUNDS
from manyfit.store.layout import ProjectLayout
from manyfit.training.base import Permissions, Task, Trainer

RACE, PROOF = "confirm", "proof"  # phases of executions in the book

#: Runs that may be ahead of the race: a population needs work for all its members, a single trainer never asks for it.
_RUNS_AHEAD = 8

_NEAR = 0.01  # of the range of a hyperparameter: what differs by less is nearly the same


@dataclasses.dataclass(frozen=True)
class ConfirmSettings:
    """How a confirmation runs.

    Args:
        confidence: with which the winning set holds the best finalist, from 0.7 to below 1.
        max_executions: training runs at most, proof runs included; None: as many as the race needs.
        max_seconds: nothing starts, and what runs is broken off, when so much time has passed.
        max_rounds: fresh seeds per finalist at most.
        proof_executions: further seeds for the recommended finalist, which no decision has seen: its honest score.
        keep_weights: keep the weights of every execution.

    Raises:
        UsageError: a number out of its range.
    """

    confidence: float = 0.95
    max_executions: int | None = None
    max_seconds: float | None = None
    max_rounds: int = 30
    proof_executions: int = 5
    keep_weights: bool = False

    def __post_init__(self) -> None:
        racing.race([[0.0]], confidence=self.confidence, max_rounds=self.max_rounds)  # checks both
        for name, value, least in (
            ("max_executions", self.max_executions, 1),
            ("proof_executions", self.proof_executions, 0),
        ):
            whole_number_or_none(f"confirm({name})", value, least=least, instead="Leave it out.")
        seconds_or_none("confirm(max_seconds=...)", self.max_seconds)

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


class FreshSeeds(abc.ABC):
    """A supply of executions of finalists on fresh seeds; results go into the book.

    Args:
        trials: the finalists.
        oracle: objective, seed and book.
        protocol: names data and settings: only executions under the same protocol count.
        deadline: `time.monotonic()` at which to stop; None: never.
        epochs: train up to here; None: as the fit arguments say.
        layout: says where weights go; None: they are not kept.
    """

    phase: str
    independent = False  # what is run next depends on results
    remaining: int | None = None  # nobody knows before the race is over

    def __init__(
        self,
        trials: Sequence[Trial],
        oracle: Oracle,
        *,
        protocol: str,
        deadline: float | None = None,
        epochs: int | None = None,
        layout: ProjectLayout | None = None,
    ) -> None:
        self.trials = list(trials)
        self.out_of_time = False
        self._oracle = oracle
        self._protocol = protocol
        self._deadline = deadline
        self._epochs = epochs
        self._layout = layout
        self._running: set[tuple[int, int]] = set()
        self._rows = {trial.trial_id: row for row, trial in enumerate(self.trials)}

    @abc.abstractmethod
    def wanted(self, count: int) -> Sequence[tuple[int, int]]:
        """Up to `count` pairs (row of the trial, seed index) to run next."""

    def known(self, trial: Trial) -> dict[int, Execution]:
        """The executions of a trial that count, by seed index."""
        runs = trial.executions_of(self.phase).items()
        return {index: run for index, run in runs if run.notes.get("protocol") == self._protocol}

    def losses(self) -> np.ndarray:
        """Losses of shape (trials, seeds): NaN where not run, inf where it diverged or failed."""
        runs = [self.known(trial) for trial in self.trials]
        table = np.full((len(runs), max((max(row, default=-1) for row in runs), default=-1) + 1), np.nan)
        for row, executions in zip(table, runs, strict=True):
            for index, run in executions.items():
                row[index] = self._oracle.objective.loss(run.score)
        return table

    @property
    def num_executions(self) -> int:
        """Executions so far, those of an earlier, interrupted call included."""
        return sum(len(self.known(trial)) for trial in self.trials)

    def take(self, count: int) -> Sequence[Plan]:
        """See `manyfit.training.base.Supply`."""
        if self._time_is_up():
            return []
        # More is asked for than is wanted, because what runs already is among the answers.
        pairs = [pair for pair in self.wanted(count + len(self._running)) if pair not in self._running][:count]
        self._running.update(pairs)
        return [self._plan(row, index) for row, index in pairs]

    def _plan(self, row: int, index: int) -> Plan:
        trial = self.trials[row]
        layout = self._layout
        weights = None if layout is None else str(layout.weights(trial.trial_id, index, phase=self.phase))
        return Plan(
            trial.trial_id,
            index,
            trial.hyperparameters.copy(),
            seeds.seed_of(self._oracle.seed, self.phase, index),  # the same for all trials: they are compared in pairs
            epochs=self._epochs,
            weights_path=weights,
            phase=self.phase,
        )

    def report(self, epochs: Sequence[tuple[Plan, int, Mapping[str, float]]]) -> Sequence[Decision]:
        """See `manyfit.training.base.Supply`."""
        self._oracle.book.add_epochs(epochs)
        return [Decision.STOP if self._time_is_up() else Decision.GO_ON] * len(epochs)

    def finish(self, result: Result) -> None:
        """See `manyfit.training.base.Supply`."""
        plan = result.plan
        self._running.discard((self._rows[plan.trial_id], plan.execution))
        # A curve that the clock cut off is no run of the protocol: kept, it would pull its trial's mean down.
        if self.out_of_time and result.ending.name == "STOPPED":
            self._oracle.book.forget_epochs(plan)  # broken off: it says nothing about a full training
            return
        if result.ending.has_score:
            self._oracle.scoring.check({**result.history, **result.measures})
        self._oracle.book.add_execution(result, protocol=self._protocol)

    def _time_is_up(self) -> bool:
        self.out_of_time = self.out_of_time or (self._deadline is not None and time.monotonic() >= self._deadline)
        return self.out_of_time


class RaceSupply(FreshSeeds):
    """Hands out what the race needs next.

    Args:
        trials: the finalists.
        oracle: objective, seed and book.
        settings: of the confirmation.
        **options: see `FreshSeeds`.
    """

    phase = RACE

    def __init__(self, trials: Sequence[Trial], oracle: Oracle, *, settings: ConfirmSettings, **options: Any) -> None:
        super().__init__(trials, oracle, **options)
        self._settings = settings
        self.costs = costs(trials)

    def standing(self) -> racing.Standing:
        """Where the race stands."""
        table = self.losses()
        table = table if table.shape[1] else np.full((len(self.trials), 1), np.nan)
        settings = self._settings
        return racing.race(table, confidence=settings.confidence, max_rounds=settings.max_rounds, costs=self.costs)

    def wanted(self, count: int) -> Sequence[tuple[int, int]]:
        """See `FreshSeeds`. After the first rounds, in which nobody can be dropped, it stays close to the last look."""
        standing, table = self.standing(), self.losses()
        max_rounds = self._settings.max_rounds
        pairs = racing.next_runs(table, standing, count=count, max_rounds=max_rounds)
        ahead = max(1, _RUNS_AHEAD // len(standing.winning_set))
        horizon = max(MIN_ROUNDS, standing.rounds + ahead)
        return [pair for pair in pairs if pair[1] < horizon][: self._left()]

    def _left(self) -> int | None:
        budget = self._settings.max_executions
        return None if budget is None else max(0, budget - self._settings.proof_executions - self.num_executions)


class ProofSupply(FreshSeeds):
    """Runs one trial on further seeds.

    Args:
        trial: the recommended one.
        oracle: objective, seed and book.
        num_executions: on so many seeds.
        **options: see `FreshSeeds`.
    """

    phase = PROOF

    def __init__(self, trial: Trial, oracle: Oracle, *, num_executions: int, **options: Any) -> None:
        super().__init__([trial], oracle, **options)
        self._num_wanted = num_executions

    def wanted(self, count: int) -> Sequence[tuple[int, int]]:
        """See `FreshSeeds`."""
        known = self.known(self.trials[0])
        return [(0, index) for index in range(self._num_wanted) if index not in known][:count]


def costs(trials: Sequence[Trial]) -> list[float] | None:
    """What each trial's model costs: its parameters; seconds where a trainer did not count those; None: unknown."""
    runs = [list(trial.executions.values()) for trial in trials]
    sizes = [max((run.num_parameters or 0 for run in row), default=0) for row in runs]
    if all(sizes):
        return [float(size) for size in sizes]
    seconds = [float(np.mean([run.seconds for run in row])) if row else 0.0 for row in runs]
    return seconds if all(seconds) else None


def finalists(oracle: Oracle, top: object, say: Callable[[str], None] = lambda line: None) -> list[Trial]:
    """The best trials by the score of the search, without those that are nearly the same as a better one.

    Of two configurations that hardly differ no number of seeds tells which is better: to run both is to run one twice.

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
        better = next((one for one in trials if _nearly_equal(one, trial, encoding)), None)
        if better is None:
            trials.append(trial)
        else:
            say(f"confirm: trial {trial.trial_id} is left out, a near-copy of trial {better.trial_id}.")
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
    layout: ProjectLayout | None = None,
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
        layout: says where weights go if they are kept.
        protocol: names splits that are drawn anew; see `FreshSeeds`.
        has_own_epochs: train for as long as the task's call says; else as long as the best trained finalist.

    Returns:
        What was found; it is noted on the trials, too, and stored.

    Raises:
        UsageError: the budget is too small to tell anything.
        SearchError: no execution at all has a score; the message says why.
    """
    settings.check_budget(len(trials))
    started = time.monotonic()
    # All finalists get as many epochs as the best trained one: what halving stopped early might have won.
    targets = [trial.target_epochs for trial in trials if trial.target_epochs is not None]
    options: dict[str, Any] = {
        "protocol": f"{protocol}/{_protocol(task)}",
        "deadline": None if settings.max_seconds is None else started + settings.max_seconds,
        "epochs": task.call.get("epochs") if has_own_epochs or not targets else max(targets),
        "layout": layout if settings.keep_weights else None,
    }
    may = Permissions(share_callbacks=task.may.share_callbacks, share_order=False)  # each seed orders its own batches
    task = dataclasses.replace(task, callbacks=None, may=may)
    race = RaceSupply(trials, oracle, settings=settings, **options)
    trainer.train(race, task)
    standing = race.standing()
    # Before the proof runs: with no score at all there is no one to prove, and the reason is known.
    _check_any_score(race)
    recommended = race.trials[standing.recommended]
    proof = ProofSupply(recommended, oracle, num_executions=settings.proof_executions, **options)
    trainer.train(proof, task)
    confirmation = summarise(
        trials,
        oracle,
        standing,
        race=race.losses(),
        proof=proof.losses()[0],
        out_of_time=race.out_of_time or proof.out_of_time,
        seconds=time.monotonic() - started,
        costs=race.costs,
    )
    _note(confirmation, trials, oracle)
    return confirmation


def _protocol(task: Task) -> str:
    """Names what executions must have in common to be compared: data and the arguments of `fit`."""
    call, own = task.call, [call.arguments for _, call in sorted(task.calls.items())]
    # Callbacks count by their classes: their state would make every call another protocol.
    settings = {name: value for name, value in call.kwargs.items() if name not in ("verbose", "callbacks")}
    return fingerprint(*call.args, settings, " ".join(type(one).__name__ for one in call.callbacks), *own)


def _check_any_score(race: RaceSupply) -> None:
    table = race.losses()
    if table.size and (np.isinf(table) | np.isnan(table)).all() and np.isinf(table).any():
        messages = [run.message for trial in race.trials for run in race.known(trial).values() if run.message]
        raise SearchError(f"confirm: no finalist has a score on a fresh seed. The first one ended so:\n{messages[0]}")


def _note(confirmation: Confirmation, trials: Sequence[Trial], oracle: Oracle) -> None:
    """Marks the trials, and stores everything in one transaction."""
    by_id = {trial.trial_id: trial for trial in trials}
    others = [trial for trial in oracle.trials.values() if trial.confirmed is not None and trial.trial_id not in by_id]
    for trial in others:  # confirmed by an earlier call: they rank behind
        assert trial.confirmed is not None
        trial.confirmed = dataclasses.replace(trial.confirmed, rank=trial.confirmed.rank + len(trials))
    for trial_id, note in confirmed(confirmation).items():
        by_id[trial_id].confirmed = note
    oracle.book.save([*by_id.values(), *others], confirmation=confirmation.to_dict())
