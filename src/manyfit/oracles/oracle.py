"""The oracle: asks a sampler what to try and a scheduler how long, and keeps the book of trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core import history as histories
from manyfit.core import seeds
from manyfit.core.clock import Clock
from manyfit.core.environment import compat_of, one_thread
from manyfit.core.lifecycle import TrialState, TrialStatus
from manyfit.core.objective import ObjectiveLike, create_objective, measures_among
from manyfit.core.records import Values
from manyfit.core.signatures import above, at_least, checked_arguments
from manyfit.oracles import checks
from manyfit.oracles.commits import RELOADING, Store
from manyfit.oracles.jobs import Stretch, is_branch, lineage_of, trial_of
from manyfit.oracles.keras_tuner.style import KerasTunerOracle, overridden
from manyfit.oracles.keras_tuner.synchronized import synchronized
from manyfit.oracles.proposals import ProposalQueue
from manyfit.oracles.replication import Replication, replication
from manyfit.oracles.requests import RequestDesk
from manyfit.oracles.scoring import Scoring
from manyfit.oracles.trial import Trial
from manyfit.oracles.warm_start import EarlierProject, EarlierTrials, check_learns
from manyfit.samplers.base import Constraint, Sampler
from manyfit.schedulers import Limits, Scheduler, Start, scheduler_of
from manyfit.space.encoding import Encoding
from manyfit.space.hyperparameters import HyperParameters
from manyfit.store.reading import rows_told


class Oracle(KerasTunerOracle):
    """Decides what is tried, and remembers what became of it.

    It consists of parts: the `book` of trials, the queue of `proposals`, the `scoring`, the `clock`, the trials of
    `earlier` searches, a `sampler` (what to try) and a `scheduler` (how long). What is here joins them: a trial's way
    from a proposal to its end. The parts do not know each other, save that all read the book.

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
        max_seconds: when the search has taken so long, running trials end with the epochs that they have; what would
            not end in time is not started.
        constraints: bounds on metrics that the best trials have to keep.
        compat: "keras_tuner" does as KerasTuner does: a list of objectives means their sum, and the first definition of
            a name holds where a build function asks for it again with other bounds. It is the default in programs that
            `manyfit.compat` runs.

    Raises:
        UsageError: a limit or the seed is out of its range, or entries are forbidden without `hyperparameters`.
    """

    @checked_arguments(skip=("objective", "compat"), max_total_epochs=at_least(1, 100), max_seconds=above(0, 3600))
    def __init__(
        self,
        objective: ObjectiveLike = None,
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
        checks.check_limits(max_trials, max_retries_per_trial, max_consecutive_failed_trials, max_seconds)
        checks.check_entries(
            type(self).__name__,
            hyperparameters,
            allow_new_entries=allow_new_entries,
            tune_new_entries=tune_new_entries,
        )
        checks.check_seed(seed)
        self.compat = compat_of(compat)
        super().__init__(
            create_objective(objective, compat=self.compat),
            constraints,
            hyperparameters=HyperParameters() if hyperparameters is None else hyperparameters,
            tune_new_entries=tune_new_entries,
            seed=seeds.fresh_seed() if seed is None else int(seed),
        )
        self.hyperparameters.first_definition_holds |= self.compat == "keras_tuner"
        self.hyperparameters.pin()  # the user's own ranges win over those of the build function
        self._seed_given = seed is not None
        self.allow_new_entries = allow_new_entries
        self.max_trials = max_trials
        self.max_retries_per_trial = max_retries_per_trial
        self.max_consecutive_failed_trials = max_consecutive_failed_trials
        self.max_total_epochs = max_total_epochs
        self.sampler = sampler
        # A scheduler given by name learns the epochs of a full training from `search`: see `set_epochs`.
        self.scheduler = scheduler_of(scheduler, None if scheduler is None else 1)
        self._named_scheduler = None if isinstance(scheduler, Scheduler) else scheduler
        self.clock = Clock(max_seconds)
        self.scoring = Scoring(self.objective, constraints)
        self.earlier, self.requests = EarlierTrials(), RequestDesk(self)
        self.proposals = ProposalQueue(self, is_overridden=bool(self.overrides("populate_space")))

    @property
    def max_seconds(self) -> float | None:
        """How long the search may take; None: no limit."""
        return self.clock.max_seconds

    @max_seconds.setter
    def max_seconds(self, seconds: float | None) -> None:
        self.clock.max_seconds = seconds

    def overrides(self, *names: str) -> list[str]:
        """Those of these methods that a subclass has written anew."""
        return overridden(self, Oracle, names)

    def update_space(self, hyperparameters: HyperParameters) -> None:
        """Adds what a build brought to light.

        Raises:
            SearchError: new entries where `allow_new_entries=False`.
        """
        if not self.allow_new_entries:
            checks.check_no_new_entries(self.hyperparameters, hyperparameters)
        before = {hp.name: hp for hp in self.hyperparameters.space}
        if self.tune_new_entries and self.hyperparameters.widen(hyperparameters):
            self.proposals.is_exhausted = False  # there is more to try than before
            # A range that has widened shows that it depends on another value: the space keeps the envelope of what
            # builds asked for, so from now on a proposal may lie outside of what its own build allows.
            if any(hp.name in before and not hp.same_domain(before[hp.name]) for hp in self.hyperparameters.space):
                self.proposals.has_dependent_bounds = True

    @checked_arguments(num_trials=at_least(1))
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
        with one_thread():
            ranked = self.sampler.rank(self.get_space(), self.proposals.history())
        trials = [self.trials[each.trial_id] for each in ranked]
        return [trial for trial in trials if not self.book.ranking.broken(trial)][:num_trials]

    @checked_arguments()
    def lineage(self, trial_id: str) -> list[Stretch]:
        """The values that a trial's model was trained with, epoch after epoch: those of its parents, then its own."""
        return lineage_of(self.get_trial(trial_id), self.trials)

    @property
    def measures(self) -> tuple[str, ...]:
        """What trainers have to measure for objective and constraints, besides what is logged."""
        return measures_among(dict.fromkeys([*self.objective.names, *(each.metric for each in self.constraints)]))

    def remaining_trials(self) -> int | None:
        """How many more trials may be started; None: no limit."""
        if self.max_trials is None:
            return None
        num_branches = sum(map(is_branch, self.trials.values())) if self.scheduler.may_branch else 0
        return max(0, self.max_trials - len(self.trials) + num_branches)

    # What to run -----------------------------------------------------------------------------------------------

    @synchronized
    @checked_arguments()
    def create_trial(self, tuner_id: str) -> Trial:
        """One trial to run, under KerasTuner's protocol: its status is RUNNING, IDLE (ask again) or STOPPED (over)."""
        self.tuner_ids.add(tuner_id)
        if tuner_id in self.ongoing_trials:
            return self.ongoing_trials[tuner_id]
        trials = self.assign(1)
        if trials:
            self.ongoing_trials[tuner_id] = trials[0]
            return trials[0]
        # The answer has a status and is no trial of the search: it is in no book, and its id is only the next one.
        idle = self.proposals.is_idle or any(t.state is TrialState.RUNNING for t in self.book.unended())
        status = TrialStatus.IDLE if idle else TrialStatus.STOPPED
        if status == TrialStatus.STOPPED:
            self.tuner_ids.discard(tuner_id)
        return Trial(self.get_space(), trial_id=self.new_id(len(self.trials)), status=status)

    def set_epochs(self, epochs: int | None) -> None:
        """Tells a scheduler that was given by name how long a full training is: the `epochs` of `search`."""
        if self._named_scheduler is not None or (
            self.max_total_epochs is not None and self.scheduler.max_epochs is None
        ):
            self.scheduler = scheduler_of(self._named_scheduler, epochs)

    def assign(self, count: int) -> list[Trial]:
        """Up to `count` trials to run now, committed before they are returned; interrupted and retried ones come first.

        Returns:
            An empty list while trials are running means: wait; while none is running: the search is over.
        """
        if self.clock.begins_nothing():
            return []
        # Before anything new, so that a search that goes on has the trials that it would have had: what the sampler
        # proposes next may rest on how these end.
        again = [self.trials[trial_id] for trial_id in self.waiting[:count]]
        del self.waiting[:count]
        self._hand_out(again)
        return again or self._assign_new(count)

    def _assign_new(self, count: int) -> list[Trial]:
        """What the scheduler asks for: starts of new trials, and paused ones that go on.

        It says how many are to start before anybody knows whether there is something new to try. Where there is not, it
        is told so and asked once more: with nobody to wait for it may promote trials that it would have let wait.
        """
        if self.remaining_trials() == 0 and not (self.scheduler.may_pause or self.scheduler.may_restart):
            return []
        jobs = self.scheduler.assign(self.book.progress(), count, self.limits())
        starts = [job for job in jobs if isinstance(job, Start)]
        with self.book.timed("propose"):
            proposals = self.proposals.next(len(starts)) if starts else []
        short = len(proposals) < len(starts)
        handed: list[Trial] = []
        for job in jobs:
            trial = trial_of(job, self, proposals)
            if trial is None:
                continue
            trial.target_epochs = job.target_epochs
            trial.tags.update(job.tags)
            trial.hyperparameters.values.update(job.tags)  # where KerasTuner's users look for them
            handed.append(trial)
        self._hand_out(handed)
        if short and not self.proposals.is_exhausted and not self.overrides("populate_space"):
            # Not for a `populate_space` of the user's: that has nothing *now*, and may have something later.
            self.proposals.is_exhausted = True
            handed += self._assign_new(count - len(handed)) if len(handed) < count else []
        return handed

    def _hand_out(self, trials: Sequence[Trial]) -> None:
        # Committed before anybody acts on it, with all that the proposals rest on, in one transaction: whatever kills
        # the process, the trial is either there with its values, or the sampler is asked for it again.
        for trial in trials:
            trial.move(TrialState.RUNNING)
            trial.message = None  # of an attempt before
        if trials:
            self.book.add(trials, space=self.hyperparameters.get_config(), **self.proposals.facts(), **self.own_facts())

    def new_id(self, number: int) -> str:
        """The id of the trial of this number."""
        width = 4 if self.max_trials is None else len(str(self.max_trials))
        return str(number).zfill(width)

    def limits(self) -> Limits:
        """What the scheduler is told of the limits of this search."""
        own = bool(self.overrides("populate_space"))
        return Limits(
            max_trials=self.max_trials,
            max_total_epochs=self.max_total_epochs,
            # A `populate_space` of the user's alone knows when it has nothing more.
            num_configurations=None if own else Encoding(self.hyperparameters).num_configurations(limit=100_000),
            exhausted=self.proposals.is_exhausted and not own,
        )

    def warm_start(self, source: EarlierProject) -> int:
        """Lets trials of an earlier search tell where to look, and says how many did; see `BaseTuner.warm_start`.

        Raises:
            UsageError: none of its trials has the metrics of this objective, or the sampler does not learn.
        """
        check_learns(self.sampler, type(self).__name__)
        return self.earlier.take(source, self.objective, self.book)

    @checked_arguments()
    def enqueue(self, values: Values) -> None:
        """Has a configuration tried before the sampler is asked; see `BaseTuner.enqueue`.

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
    @checked_arguments(step=at_least(0))
    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Trial:
        """Reports metrics of a running trial, for `run_trial` overrides that train with a loop of their own.

        Args:
            trial_id: the trial.
            metrics: with the objective among them.
            step: the epoch, counted from 0; where it was reported before, another execution begins.

        Raises:
            UsageError: the objective is not among the metrics.
        """
        trial = self.get_trial(trial_id)
        self.scoring.report(trial, metrics, step)
        return trial

    def hear(self, trial: Trial, found: Sequence[histories.History]) -> None:
        """Calls an `update_trial` of the user's, once, with the metrics at the best epoch, as KerasTuner does."""
        if self.overrides("update_trial") and not trial.is_reported:
            metrics, step = self.scoring.summary(found)
            self.update_trial(trial.trial_id, metrics, step=step)

    def score_trial(self, trial: Trial) -> None:
        """Sets the trial's score and best step: means over its executions. Override it to score otherwise."""
        self.scoring.score(trial)

    @synchronized
    def end_trial(self, trial: Trial) -> None:
        """Takes a trial's end: scores it, or retries it, or records why it failed.

        Args:
            trial: with its status; also a copy of it, or (as in old programs) its id and, second, its status.

        Raises:
            SearchError: too many trials in a row ended with an exception.
        """
        trial = self.book.own(trial)
        self.update_space(trial.hyperparameters)
        if trial.state is TrialState.QUEUED:  # made by a program that ends it without having been handed it
            trial.move(TrialState.RUNNING)
        for result in self.scoring.take_reports(trial, self.seed):
            self.book.add_execution(result)
        trial.running.clear()
        if trial.is_completed:
            self.score_trial(trial)
            self.scoring.judge(trial)
        self._retry_or_settle(trial)
        self.book.end(trial, space=self.hyperparameters.get_config(), **self.own_facts())
        self.ongoing_trials = {key: other for key, other in self.ongoing_trials.items() if other is not trial}
        checks.check_failures(self.book, self.max_consecutive_failed_trials, is_endless=self.max_trials is None)

    def pause_trial(self, trial: Trial) -> None:
        """Takes note that a trial has reached its target, and may be promoted later."""
        trial.move(TrialState.PAUSED)
        trial.running.clear()
        self.book.pause(trial)

    def _retry_or_settle(self, trial: Trial) -> None:
        """Queues a trial without a score again while it has retries; else it has ended."""
        outcome = trial.outcome
        if outcome is None:
            # A program called `end_trial` and neither set a status nor reported anything: it can only be waited for.
            if trial.state is TrialState.RUNNING:
                trial.move(TrialState.PAUSED)
        elif outcome.may_be_retried and trial.num_retries < self.max_retries_per_trial:
            trial.begin_again()
            self.waiting.append(trial.trial_id)
        else:
            trial.move(TrialState.ENDED)

    # Time ------------------------------------------------------------------------------------------------------

    def start_clock(self) -> None:
        """Starts counting the seconds of the search; those of earlier runs of the project count, too.

        What an interrupted run in this process left in the middle (Ctrl-C in a notebook, a full disk) goes on as in a
        new process: it is read again, once what could not be written is.

        Raises:
            ProjectError: a search is under way on this project, or what is owed still cannot be written.
        """
        self.waiting += self.book.requeue(is_searching=self.clock.is_running)
        if self.waiting or self.book.has_changed():
            self.reload()
        self.requests.begin()  # before anybody is told of the limits
        self.book.begin_work("a search", at_once=False)  # with the first trials, a moment later
        self.ongoing_trials.clear()
        self.clock.start()

    def stop_clock(self) -> None:
        """Stores the seconds that were spent."""
        self.clock.stop()
        self.book.end_work(at_once=False)
        self.book.put(spent_seconds=self.clock.spent(), seconds=dict(self.book.seconds))

    # Repeating contenders --------------------------------------------------------------------------------------

    #: Whether a budget that is left when a finite space is exhausted goes to further executions of the contenders.
    replicates: bool = False

    def may_replicate(self) -> bool:
        """Whether everything was tried, and time is left."""
        return self.ends_with_contenders() and not self.clock.begins_nothing()

    def ends_with_contenders(self) -> bool:
        """Whether everything was tried, so that what is left of the budget is for the contenders."""
        if not self.replicates or len(self.objective.terms) > 1:
            return False
        size = Encoding(self.hyperparameters).num_configurations(limit=len(self.trials))
        return self.proposals.is_exhausted or size is not None

    def replication(self, executions_per_trial: int | None) -> Replication | None:
        """Where the repetition of contenders stands; None when there is nothing to compare.

        Args:
            executions_per_trial: of the tuner; None counts calls of a user's `run_trial`, whatever each returns.
        """
        by_call = executions_per_trial is None
        budget = None if self.max_trials is None else self.max_trials * (executions_per_trial or 1)
        return replication(list(self.trials.values()), self.book.ranking, budget, by_call=by_call)

    def rescore(self, trial: Trial) -> None:
        """Takes further executions of a completed trial into its score."""
        trial.running.clear()
        self.score_trial(trial)
        self.book.end(trial)

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
        known = checks.search_of(store)
        if known is None:
            self.book.begin(search=identity, seed=self.seed)
            return False
        checks.check_same_search(known, {**identity, "seed": self.seed}, with_seed=self._seed_given)
        self.seed = known["seed"]
        self.reload()
        return True

    def reload(self) -> None:
        """Reads the store again. Trials that were running are run again, with their own seeds.

        Raises:
            ProjectError: a search is under way, or another tuner has started the project anew.
        """
        if self.book.store is None:
            return
        self.book.check_may_reload(is_searching=self.clock.is_running)
        with rows_told(RELOADING):
            space = self.book.store.get("space")
            if space is not None and self.tune_new_entries:
                self.hyperparameters.widen(HyperParameters.from_config({**space, "values": {}}))
            self.book.load(self.get_space())
            self.clock.set_spent(self.book.store.get("spent_seconds", 0.0))
            self.waiting = [trial.trial_id for trial in self.trials.values() if trial.state is TrialState.QUEUED]
            self.proposals.load(self.book.store)
            self.earlier.load(self.book.store)
        self.ongoing_trials = {}
        if self.ends_with_contenders():
            # The process may have died between a repeated run and the score that it became part of.
            for trial in self.trials.values():
                if trial.is_completed:
                    self.score_trial(trial)
        if self.remembers_more() and (state := self.book.store.get("oracle_state")) is not None:
            self.set_state(state)

    def save(self) -> None:
        """Stores the space. Everything else is stored when it happens."""
        self.book.put(space=self.hyperparameters.get_config(), **self.own_facts())

    def _identity(self) -> dict[str, Any]:
        sampler = type(self).__name__ if self.sampler is None else self.sampler.settings()["name"]
        return {
            "objective": str(self.objective),
            "sampler": sampler,
            "scheduler": self.scheduler.settings()["name"],
        }
