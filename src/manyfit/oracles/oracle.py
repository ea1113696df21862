"""The oracle: asks a sampler what to try and a scheduler how long, and keeps the book of trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manyfit.core import seeds
from manyfit.core.environment import compat_of
from manyfit.core.errors import SearchError, UsageError, explain
from manyfit.core.lifecycle import TrialOutcome, TrialState
from manyfit.core.measures import measures_among
from manyfit.core.objective import create_objective
from manyfit.core.records import Ending, Values
from manyfit.oracles.book import Store, TrialBook
from manyfit.oracles.budget import Budget
from manyfit.oracles.checks import check_limits, check_same_search, check_seed, failure_report
from manyfit.oracles.earlier import Earlier
from manyfit.oracles.keras_tuner_style import KerasTunerStyle
from manyfit.oracles.proposals import Proposals
from manyfit.oracles.scoring import Scoring
from manyfit.oracles.synchronized import synchronized
from manyfit.oracles.trial import Trial, TrialStatus
from manyfit.samplers.base import Sampler
from manyfit.samplers.outcomes import Constraint
from manyfit.schedulers import Limits, Resume, Scheduler, Start, scheduler_of
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters

#: Endings that count towards `max_consecutive_failed_trials`. Models that are too large or diverge say something
#: about a configuration; three of them in a row are no reason to give up a search.
_BROKEN = (Ending.FAILED,)


class Oracle(Scoring, KerasTunerStyle, Budget):
    """Decides what is tried, and remembers what became of it.

    Args:
        objective: metric name, `Objective`, list of these, or None (the number that `run_trial` returns is minimised).
        max_trials: most trials that are started; None: no limit of its own.
        hyperparameters: starting points of the space; their ranges win over those of the build function.
        allow_new_entries: whether the build function may add hyperparameters to `hyperparameters`.
        tune_new_entries: whether added hyperparameters are searched or stay at their defaults.
        seed: of the whole search; 0 is a seed. None draws one for a new project, and takes the stored one of an old
            project. Another one than the stored one is refused: half of the trials would come from either.
        max_retries_per_trial: how often a failed trial runs again.
        max_consecutive_failed_trials: after so many trials in a row that ended with an exception the search gives up.
        sampler: what to try.
        scheduler: how long to train: a `Scheduler`, or "asha", "hyperband", "median"; None: every trial in full.
        max_total_epochs: epochs that all trials together may train; a trial's executions count once.
        max_seconds: no trial is started, and running ones are stopped, when the search has taken so long.
        constraints: bounds on metrics that the best trials have to keep.
        compat: "keras_tuner" does as KerasTuner does: a list of objectives means their sum, and the first definition of
            a name holds where a build function asks for it again with other bounds. It is the default in programs that
            `manyfit.compat` runs.

    Raises:
        UsageError: a limit or the seed is out of its range, or entries are forbidden without `hyperparameters`.
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        hyperparameters: HyperParameters | None = None,
        allow_new_entries: bool = True,
        tune_new_entries: bool = True,
        seed: int | None = None,
        max_retries_per_trial: int = 0,
        max_consecutive_failed_trials: int = 3,
        *,
        sampler: Sampler | None = None,
        scheduler: Scheduler | str | None = None,
        max_total_epochs: int | None = None,
        max_seconds: float | None = None,
        constraints: Sequence[Constraint] = (),
        compat: str | None = None,
    ) -> None:
        check_limits(max_trials, max_retries_per_trial, max_consecutive_failed_trials, max_seconds)
        for name, allowed in (("allow_new_entries", allow_new_entries), ("tune_new_entries", tune_new_entries)):
            if hyperparameters is None and not allowed:
                raise UsageError(
                    explain(
                        f"{type(self).__name__}({name}=False)",
                        "no hyperparameters",
                        f"{name}=False only together with hyperparameters=",
                        "Add hyperparameters=hp with what may be tuned.",
                    )
                )
        self.compat = compat_of(compat)
        self.objective = create_objective(objective, compat=self.compat)
        self.constraints = tuple(constraints)
        self.max_trials = max_trials
        self.hyperparameters = HyperParameters() if hyperparameters is None else hyperparameters
        self.hyperparameters.first_definition_holds |= self.compat == "keras_tuner"
        self.hyperparameters.pin()  # the user's own ranges win over those of the build function
        self.allow_new_entries = allow_new_entries
        self.tune_new_entries = tune_new_entries
        check_seed(seed)
        self.seed = seeds.fresh_seed() if seed is None else int(seed)
        self._seed_given = seed is not None
        self.max_retries_per_trial = max_retries_per_trial
        self.max_consecutive_failed_trials = max_consecutive_failed_trials
        self.sampler = sampler
        # A scheduler given by name learns the epochs of a full training from `search`: see `set_epochs`.
        self.scheduler = scheduler_of(scheduler, None if scheduler is None else 1)
        self._named_scheduler = None if isinstance(scheduler, Scheduler) else scheduler
        self.max_total_epochs = max_total_epochs
        self.max_seconds = max_seconds
        self.book = TrialBook(self.objective, self.constraints)
        self.earlier = Earlier()
        self.ongoing_trials: dict[str, Trial] = {}
        self.waiting: list[str] = []  # ids of trials to run (again) before anything new is proposed
        self.proposals = Proposals(self, is_overridden=type(self).populate_space is not Oracle.populate_space)
        self._exhausted = False
        self._init_style()

    # What KerasTuner's users know ------------------------------------------------------------------------------

    @property
    def trials(self) -> dict[str, Trial]:
        """All trials by id, in the order of their start."""
        return self.book.trials

    @trials.setter
    def trials(self, trials: dict[str, Trial]) -> None:
        self.book.trials = trials

    @property
    def start_order(self) -> list[str]:
        """Ids in the order of their start."""
        return list(self.book.trials)

    @property
    def end_order(self) -> list[str]:
        """Ids in the order of their end."""
        return list(self.book.ended)

    def get_space(self) -> HyperParameters:
        """A copy of the search space as known so far."""
        return self.hyperparameters.copy()

    def update_space(self, hyperparameters: HyperParameters) -> None:
        """Adds what a build brought to light.

        Raises:
            SearchError: new entries where `allow_new_entries=False`.
        """
        known = {hp.name for hp in self.hyperparameters.space}
        new = [hp.name for hp in hyperparameters.space if hp.name not in known]
        if new and not self.allow_new_entries:
            raise SearchError(
                explain(
                    "`allow_new_entries` is `False`, but found new entries in the build function",
                    ", ".join(new),
                    f"only {', '.join(sorted(known)) or 'none'}",
                    "Add them to hyperparameters=, or type allow_new_entries=True.",
                )
            )
        before = {hp.name: hp for hp in self.hyperparameters.space}
        if self.tune_new_entries and self.hyperparameters.widen(hyperparameters):
            self._exhausted = False  # there is more to try than before
            if any(hp.name in before and not hp.same_domain(before[hp.name]) for hp in self.hyperparameters.space):
                self.proposals.has_dependent_bounds = True

    def get_trial(self, trial_id: str) -> Trial:
        """The trial of this id."""
        return self.trials[trial_id]

    def get_best_trials(self, num_trials: int | None = None) -> list[Trial]:
        """The best completed trials, best first: by front where there are several objectives.

        Args:
            num_trials: how many; None: the best one, or with several objectives all that no other trial dominates.

        Returns:
            Trials that keep the constraints, if any trial does.
        """
        several = len(self.objective.terms) > 1
        if num_trials is None and several:
            return self.book.front()
        return self.book.best(1 if num_trials is None else num_trials)

    def get_recommended_trials(self, num_trials: int = 1) -> list[Trial]:
        """The trials that are expected to be the best, best first: noise averaged out over neighbours and replicates.

        The best score among many noisy ones is partly luck. Searches with a model of the noise
        (`BayesianOptimization`, `Search`) say what they expect of each trial; others return the best scores.
        `tuner.confirm` finds out by training again.

        Args:
            num_trials: how many; those that break a constraint are not among them.
        """
        if self.sampler is None:
            return self.get_best_trials(num_trials)
        ranked = self.sampler.rank(self.get_space(), self.proposals.history())
        trials = [self.trials[each.trial_id] for each in ranked]
        return [trial for trial in trials if not self.book.ranking.broken(trial)][:num_trials]

    @property
    def measures(self) -> tuple[str, ...]:
        """What trainers have to measure for objective and constraints, besides what is logged."""
        return measures_among(dict.fromkeys([*self.objective.names, *(each.metric for each in self.constraints)]))

    def remaining_trials(self) -> int | None:
        """How many more trials may be started; None: no limit."""
        return None if self.max_trials is None else max(0, self.max_trials - len(self.trials))

    # What to run -----------------------------------------------------------------------------------------------

    @synchronized
    def create_trial(self, tuner_id: str) -> Trial:
        """One trial to run, under KerasTuner's protocol: its status is RUNNING, IDLE (ask again) or STOPPED (over)."""
        self.tuner_ids.add(tuner_id)
        if tuner_id in self.ongoing_trials:
            return self.ongoing_trials[tuner_id]
        trials = self.assign(1)
        if trials:
            self.ongoing_trials[tuner_id] = trials[0]
            return trials[0]
        idle = self.proposals.is_idle or any(t.state is TrialState.RUNNING for t in self.trials.values())
        status = TrialStatus.IDLE if idle else TrialStatus.STOPPED
        if status == TrialStatus.STOPPED:
            self.tuner_ids.discard(tuner_id)
        return Trial(self.get_space(), trial_id=self.new_id(len(self.trials)), status=status)

    def set_epochs(self, epochs: int | None) -> None:
        """Tells a scheduler that was given by name how long a full training is.

        Args:
            epochs: the `epochs` of `search`.
        """
        if self._named_scheduler is not None or (
            self.max_total_epochs is not None and self.scheduler.max_epochs is None
        ):
            self.scheduler = scheduler_of(self._named_scheduler, epochs)

    def assign(self, count: int) -> list[Trial]:
        """Up to `count` trials to run now, committed before they are returned.

        Interrupted and retried trials come first, then what the scheduler asks for.

        Returns:
            An empty list while trials are running means: wait; while none is running: the search is over.
        """
        if self.out_of_time():
            return []
        again = [self.trials[trial_id] for trial_id in self.waiting[:count]]
        del self.waiting[:count]
        self._hand_out(again)
        return again + (self._assign_new(count - len(again)) if len(again) < count else [])

    def _assign_new(self, count: int) -> list[Trial]:
        jobs = self.scheduler.assign(self.book.progress(), count, self._limits())
        starts = [job for job in jobs if isinstance(job, Start)]
        proposals = self.proposals.next(len(starts)) if starts else []
        short = len(proposals) < len(starts)
        handed: list[Trial] = []
        for job in jobs:
            if isinstance(job, Resume):
                trial = self.trials[job.trial_id]
            elif proposals:
                trial = self._new_trial(proposals.pop(0))
            else:
                continue
            trial.target_epochs = job.target_epochs
            trial.tags.update(job.tags)
            trial.hyperparameters.values.update(job.tags)  # where KerasTuner's users look for them
            handed.append(trial)
        self._hand_out(handed)
        if short and not self._exhausted and not self.overrides("populate_space"):
            # Paused trials are promoted among themselves once nothing new can be started.
            self._exhausted = True
            handed += self._assign_new(count - len(handed)) if len(handed) < count else []
        return handed

    def _hand_out(self, trials: Sequence[Trial]) -> None:
        for trial in trials:
            trial.move(TrialState.RUNNING)
            trial.message = None  # of an attempt before
        if trials:
            self.book.add(trials, space=self.hyperparameters.get_config(), **self.proposals.facts(), **self._facts())

    def _new_trial(self, values: Values) -> Trial:
        hyperparameters = self.get_space()
        hyperparameters.values = dict(values)
        number = len(self.trials)
        trial = Trial(hyperparameters, self.new_id(number))
        trial.number = number
        self.trials[trial.trial_id] = trial  # so that the next id and the next proposal know of it
        return trial

    def new_id(self, number: int) -> str:
        """The id of the trial of this number."""
        width = 4 if self.max_trials is None else len(str(self.max_trials))
        return str(number).zfill(width)

    def _limits(self) -> Limits:
        own = bool(self.overrides("populate_space"))
        return Limits(
            max_trials=self.max_trials,
            max_total_epochs=self.max_total_epochs,
            # A `populate_space` of the user's alone knows when it has nothing more.
            num_configurations=None if own else Encoding(self.hyperparameters).num_configurations(limit=100_000),
            exhausted=self._exhausted and not own,
        )

    def warm_start(self, source: Any) -> int:
        """Lets trials of an earlier search tell where to look; see `BaseTuner.warm_start`.

        Args:
            source: the rows of an earlier project's store: an object with `trials()` and `executions()`.

        Returns:
            How many trials were of use.

        Raises:
            UsageError: none of its trials has the metrics of this objective, or the sampler does not learn.
        """
        if self.sampler is None or not self.sampler.uses_earlier:
            raise UsageError(
                explain(
                    "warm_start(source)",
                    f"a search by {type(self).__name__}, which does not learn from trials",
                    "a search that learns",
                    "Type kt.BayesianOptimization, kt.Search or kt.Evolution.",
                )
            )
        return self.earlier.take(source, self.objective, self.book.store)

    def enqueue(self, values: Values) -> None:
        """Has a configuration tried before the sampler is asked.

        Args:
            values: hyperparameter names and values; missing ones get their defaults.

        Raises:
            UsageError: an unknown name, or a value outside of its range.
        """
        self.proposals.enqueue(values)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """What to try in a trial. Override it to write an oracle of your own.

        Args:
            trial_id: the new trial's id.

        Returns:
            `{"status": TrialStatus.RUNNING, "values": {...}}`, or only a status: IDLE (ask again later), STOPPED.
        """
        del trial_id
        proposals = self.proposals.of_sampler(1, number=len(self.trials), pending=self.book.pending())
        if not proposals:
            return {"status": TrialStatus.STOPPED, "values": None}
        return {"status": TrialStatus.RUNNING, "values": dict(proposals[0])}

    # What came of it -------------------------------------------------------------------------------------------

    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes a trial's end: scores it, or retries it, or records why it failed.

        Args:
            trial: with its status; also a copy of it, or (as in old programs) its id and, second, its status.

        Raises:
            SearchError: too many trials in a row ended with an exception.
        """
        trial = self._own_trial(trial)
        self.update_space(trial.hyperparameters)
        self._take_reports(trial)
        trial.running.clear()
        if trial.is_completed:
            self.score_trial(trial)
            if trial.score is None or self.objective.loss(trial.score) == float("inf"):
                trial.score = None
                message = trial.message or f"{self.objective.name} was never finite"
                trial.conclude(TrialOutcome(Ending.DIVERGED, message))
        self._retry_or_settle(trial)
        self.book.end(trial, space=self.hyperparameters.get_config(), **self._facts())
        self.ongoing_trials = {key: other for key, other in self.ongoing_trials.items() if other is not trial}
        self._check_consecutive_failures()

    def pause_trial(self, trial: Trial) -> None:
        """Takes note that a trial has reached its target, and may be promoted later."""
        trial.move(TrialState.PAUSED)
        trial.running.clear()
        self.book.pause(trial)

    def paused_trials(self) -> list[Trial]:
        """Trials that wait for a promotion."""
        return [trial for trial in self.trials.values() if trial.state is TrialState.PAUSED]

    def _retry_or_settle(self, trial: Trial) -> None:
        """Queues a trial without a score again while it has retries; else it has ended."""
        outcome = trial.outcome
        if outcome is None:
            # A program called `end_trial` and neither set a status nor reported anything: it can only be waited for.
            trial.move(TrialState.PAUSED)
        elif outcome.may_be_retried and trial.attempt < self.max_retries_per_trial:
            trial.attempt += 1
            trial.executions.clear()
            trial.forget_reports()
            trial.score, trial.best_step = None, None
            trial.move(TrialState.QUEUED)
            self.waiting.append(trial.trial_id)
        else:
            trial.move(TrialState.ENDED)

    def _check_consecutive_failures(self) -> None:
        last = [self.trials[trial_id] for trial_id in self.book.ended[-self.max_consecutive_failed_trials :]]
        if len(last) == self.max_consecutive_failed_trials and all(
            trial.has_ended and trial.ending in _BROKEN for trial in last
        ):
            raise SearchError(
                f"Number of consecutive failures exceeded the limit of {self.max_consecutive_failed_trials}.\n"
                f"{failure_report(last)}\n{last[-1].message}"
            )

    # Memory ----------------------------------------------------------------------------------------------------

    def open(self, store: Store) -> bool:
        """Joins the oracle to a project's store: a new project is noted there, an old one is read.

        Returns:
            Whether there was an old one.

        Raises:
            ProjectError: the project belongs to a search with another objective, sampler, scheduler or seed.
        """
        self.book.store = store
        identity = self._identity()
        known = store.get("search")
        if known is None:
            store.put(search=identity, seed=self.seed)
            return False
        if self._seed_given:
            known, identity = {**known, "seed": store.get("seed")}, {**identity, "seed": self.seed}
        check_same_search(known, identity)
        self.seed = store.get("seed")
        self._spent_seconds = store.get("spent_seconds", 0.0)
        self.reload()
        return True

    def reload(self) -> None:
        """Reads the store again. Trials that were running are run again, with their own seeds."""
        if self.book.store is None:
            return
        space = self.book.store.get("space")
        if space is not None and self.tune_new_entries:
            self.hyperparameters.widen(HyperParameters.from_config({**space, "values": {}}))
        self.book.load(self.get_space())
        self.waiting = [trial.trial_id for trial in self.trials.values() if trial.state is TrialState.QUEUED]
        self.proposals.load(self.book.store)
        self.earlier.load(self.book.store)
        self.ongoing_trials = {}
        self._exhausted = False
        if self.ends_with_contenders():  # killed before the last repeated run became part of its trial's score
            for trial in self.trials.values():
                if trial.is_completed:
                    self.score_trial(trial)
        if self._remembers_more() and (state := self.book.store.get("oracle_state")) is not None:
            self.set_state(state)

    def save(self) -> None:
        """Stores the space. Everything else is stored when it happens."""
        if self.book.store is not None:
            self.book.store.put(space=self.hyperparameters.get_config(), **self._facts())

    def _identity(self) -> dict[str, Any]:
        sampler = type(self).__name__ if self.sampler is None else self.sampler.settings()["name"]
        return {
            "objective": str(self.objective),
            "sampler": sampler,
            "scheduler": self.scheduler.settings()["name"],
        }
