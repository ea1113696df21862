"""A trial: one configuration and what became of it, with its executions."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyfit.core import history as histories
from manyfit.core.checks import did_you_mean
from manyfit.core.costs import Costs
from manyfit.core.errors import UsageError, UsageKeyError, explain, first_line
from manyfit.core.files import written_whole
from manyfit.core.html import cell, piece, table
from manyfit.core.lifecycle import Life, TrialOutcome, TrialState, TrialStatus, is_paused
from manyfit.core.objective import Objective, ParetoObjective
from manyfit.core.records import ROWS, SEARCH, Ending, Observation, Progress, SteadyDict, Value
from manyfit.core.signatures import checked_arguments, one_of
from manyfit.core.untrusted import plain_file, read_json, shown
from manyfit.oracles.executions import Before as Before
from manyfit.oracles.executions import Confirmed as Confirmed
from manyfit.oracles.executions import Execution as Execution
from manyfit.oracles.executions import KnownEpochs as KnownEpochs
from manyfit.oracles.metrics_tracking import MetricsTracker
from manyfit.space.hyperparameters import HyperParameters
from manyfit.stats.intervals import fold_interval

RACE, PROOF = "confirm", "proof"  # those of a confirmation: on common fresh seeds, and on further ones of the winner
RESTARTS = "tuner/restarts"  # tag: how often a trial was trained anew on more rows


class Trial:
    """One configuration and what became of it.

    Args:
        hyperparameters: the configuration, with its space.
        trial_id: its name within the search.
        status: one of `TrialStatus`.
        message: why it failed, where it did.
    """

    _told: tuple[tuple[dict[str, None], str], ...] = ()  # where changes are noted, and under which name

    @checked_arguments(status=one_of("RUNNING", "IDLE", "INVALID", "STOPPED", "COMPLETED", "FAILED"))
    def __init__(
        self,
        hyperparameters: HyperParameters,
        trial_id: str | None = None,
        status: str = TrialStatus.RUNNING,
        message: str | None = None,
    ) -> None:
        self.hyperparameters = hyperparameters
        self.trial_id = generate_trial_id() if trial_id is None else trial_id
        self.message = message
        self.score: float | None = None
        self.best_step: int | None = None  # mean best epoch of its executions
        self.number = 0  # 0, 1, 2, ... in the order of start
        self.attempt = 0  # how often it was retried
        self.started_at = 0.0
        self.ended_at: float | None = None
        self.end_number: int | None = None  # 1, 2, 3, ... in the order of end; None: running, or ended in 0.1.0
        self._life = Life()
        self.executions: dict[int, Execution] = SteadyDict()  # of the search, of this attempt, by index
        self.replicates: dict[str, dict[int, Execution]] = (
            SteadyDict()
        )  # of later phases ("confirm", "proof"), by index
        self.confirmed: Confirmed | None = None  # replaces the search score wherever trials are ranked or shown
        self.validation_ratio: float | None = None  # cross-validation: validation rows / training rows of a fold
        # The curves of executions that have not ended, as reported. The book alone keeps them: schedulers decide by
        # them, executors have none. A trainer has its own, which its `Result` brings in place of this one; where the
        # trainer is lost (a worker died), this one stands. A paused execution's curve is in `executions` until it goes
        # on.
        self.running: dict[int, dict[str, list[float | None]]] = {}
        # Of executions that another process has not ended, until they are handed out again.
        self.known: dict[int, KnownEpochs] = {}
        self.target_epochs: int | None = None  # train up to here; None: as the fit arguments say
        self.tags: dict[str, Value] = {}  # the scheduler's notes
        self.moment: dict[str, float] | None = None  # what its proposal saw of time; None: nothing
        self._reported = MetricsTracker()  # what `Oracle.update_trial` was told, or a user wrote there
        self.before: Before | None = None  # what it was before it was trained anew on more rows
        self.status = status

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        self.note_change()

    def tell_changes(self, changed: dict[str, None], name: str) -> None:
        """Has every change from now on noted: its book keeps what it has read of it.

        What others change in its dictionaries of executions is for them to tell, with `note_change`.

        Args:
            changed: where to.
            name: under which.
        """
        if not any(known is changed and key == name for known, key in self._told):
            self._told = (*self._told, (changed, name))
        self.note_change()

    def note_change(self) -> None:
        """Tells whoever wants to know that it has changed."""
        for changed, name in self._told:
            changed[name] = None

    # Its life: see `core.lifecycle`, which decides all of this -------------------------------------------------

    @property
    def state(self) -> TrialState:
        """Where it stands."""
        return self._life.state

    @property
    def ending(self) -> Ending | None:
        """How it ended; None while that is not known.

        It may be set, after the status, to say more than that: why it failed, for instance. None leaves it at what the
        status says.
        """
        return self._life.ending

    @ending.setter
    def ending(self, ending: Ending | None) -> None:
        if ending is not None:
            self._life.set_ending(ending)

    @property
    def outcome(self) -> TrialOutcome | None:
        """What became of it; None while that is not known."""
        return None if self.ending is None else TrialOutcome(self.ending, self.message, self._life.final)

    @property
    def status(self) -> str:
        """KerasTuner's word for where it stands. It may be set, as KerasTuner's programs do before `end_trial`."""
        return self._life.status(self.attempt)

    @status.setter
    def status(self, status: str) -> None:
        self._life.set_status(status, self.attempt)

    @property
    def has_ended(self) -> bool:
        """Whether it is over, and how is known."""
        return self._life.has_ended

    @property
    def is_completed(self) -> bool:
        """Whether it has ended as one that is ranked."""
        return self._life.is_completed

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without a score."""
        return self.has_ended and not self.is_completed

    @property
    def is_open(self) -> bool:
        """Whether it waits or runs, or may do so again."""
        return self._life.state is not TrialState.ENDED

    @property
    def is_underway(self) -> bool:
        """Whether it is handed out, or about to be."""
        return self._life.is_underway

    def move(self, to: TrialState) -> None:
        """Takes a step of its life; the oracle's to call."""
        self._life.move(to)
        self.note_change()

    def conclude(self, outcome: TrialOutcome) -> None:
        """Takes what became of it, before it is handed to `Oracle.end_trial`."""
        self._life.conclude(outcome)
        self.message = outcome.message or self.message

    def begin_again(self) -> None:
        """Queues it for another attempt; what the last one left is dropped here, and stays in the store."""
        self.move(TrialState.QUEUED)
        self.attempt += 1
        self.executions.clear()
        self.known.clear()
        self.forget_reports()
        self.score, self.best_step = None, None

    @property
    def num_rows(self) -> int | None:
        """On how many of the training rows it is trained; None: on all of them."""
        return None if (num_rows := self.tags.get(ROWS)) is None else int(num_rows)

    @property
    def num_retries(self) -> int:
        """How often it has failed and was tried again."""
        return self.attempt - int(self.tags.get(RESTARTS, 0))

    def goes_on(self, execution: int) -> bool:
        """Whether an execution of the search is still to be trained, or may be."""
        run = self.executions.get(execution)
        return not self.has_ended and (run is None or is_paused(run))

    def executions_of(self, phase: str) -> dict[int, Execution]:
        """The executions of a phase, by index."""
        return self.executions if phase == SEARCH else self.replicates.setdefault(phase, SteadyDict())

    @property
    def metrics(self) -> MetricsTracker:
        """Its metrics under KerasTuner's methods (`get_best_value("val_loss")` and so on), made when asked for.

        What was reported through `Oracle.update_trial` is there step by step; else there is one observation, at the
        best step, of the values of all executions. `measured` has the means alone.
        """
        scored = self._scored_metrics()
        if self._reported.metrics or not scored:
            return self._reported
        tracker = MetricsTracker()
        for name in histories.mean_metrics(scored):
            tracker.register(name)
            tracker.metrics[name].update([metrics[name] for metrics in scored], step=self.best_step or 0)
        return tracker

    @property
    def measured(self) -> dict[str, float]:
        """Means over executions of what each measured at its best epoch; what was reported last, where it was."""
        scored = self._scored_metrics()
        if self._reported.metrics or not scored:
            return dict(self._reported)
        # NumPy's mean, as in the tracker: the two must not differ in the last bit where a constraint is close.
        return {name: float(np.mean([row[name] for row in scored])) for name in histories.mean_metrics(scored)}

    def _scored_metrics(self) -> list[dict[str, float]]:
        return [run.metrics for run in self.executions.values() if run.ending.has_score]

    def report(self, metrics: Mapping[str, float], step: int, objective: Objective) -> None:
        """Takes metrics that were reported for a step."""
        directions = {term.name: term.direction for term in [objective, *getattr(objective, "objectives", [])]}
        numbers = {**metrics, objective.name: objective.get_value(metrics)}
        for name, value in numbers.items():
            if not self._reported.exists(name):
                self._reported.register(name, directions.get(name))
            self._reported.update(name, value, step=step)

    @property
    def is_reported(self) -> bool:
        """Whether anything was reported through `Oracle.update_trial`."""
        return bool(self._reported.metrics)

    def forget_reports(self) -> None:
        """Drops what was reported: it runs again."""
        self._reported = MetricsTracker()

    @property
    def scores(self) -> list[float]:
        """The scores of its executions, in the order of their index."""
        return [run.score for _, run in sorted(self.executions.items()) if run.score is not None]

    @property
    def spread(self) -> float | None:
        """Standard deviation of the executions' scores (n - 1); None with fewer than two."""
        return float(np.std(self.scores, ddof=1)) if len(self.scores) > 1 else None

    @property
    def searched_values(self) -> dict[str, Value]:
        """Its values without the scheduler's notes (KerasTuner's `tuner/...` names)."""
        values = self.hyperparameters.values
        return {name: value for name, value in values.items() if not name.startswith("tuner/")}

    def observation(self, objective: Objective) -> Observation:
        """What samplers may know of this trial once it has ended."""
        scored = [run.history for run in self.executions.values() if run.ending.has_score]
        ending = self.ending or Ending.FAILED
        return Observation(
            trial_id=self.trial_id,
            values=self.searched_values,
            ending=ending,
            losses=tuple(objective.loss(value) for value in self.scores) or self._reported_loss(objective),
            epochs=max((run.num_epochs for run in self.executions.values()), default=None),
            full=ending is not Ending.STOPPED,
            share=min((run.share for run in self.executions.values()), default=1.0),
            curve=_mean_curve(scored, objective),
            metrics=self.measured,
            vectors=self._vectors(objective),
            costs=Costs.joined(run.costs for _, run in sorted(self.executions.items()) if run.costs is not None),
        )

    def _vectors(self, objective: Objective) -> tuple[tuple[float, ...], ...]:
        """Losses of several objectives, per execution with a score; nothing where there is one objective."""
        if not isinstance(objective, ParetoObjective):
            return ()
        return tuple(
            objective.losses(run.metrics) for _, run in sorted(self.executions.items()) if run.score is not None
        )

    def _reported_loss(self, objective: Objective) -> tuple[float, ...]:
        # For oracles of users whose `score_trial` sets a score without executions.
        return () if self.score is None or not math.isfinite(self.score) else (objective.loss(self.score),)

    def progress(self, objective: Objective) -> Progress:
        """What schedulers may know of this trial."""
        return Progress(
            self.trial_id,
            self._curve_so_far(objective),
            self.target_epochs,
            self.ending,
            self.is_underway,
            self.tags,
        )

    def _curve_so_far(self, objective: Objective) -> tuple[float, ...]:
        """Mean loss per epoch. An execution that ended by itself keeps its last loss while its siblings go on."""
        # The mean over executions reaches as far as the slowest of those that still go on; one that ended by itself (a
        # callback of the user's) cannot go further, so its last loss stands for the epochs after.
        going = [objective.epoch_losses(history) for history in self.running.values()]
        going += [objective.epoch_losses(run.history) for run in self.executions.values() if is_paused(run)]
        ended = [
            objective.epoch_losses(run.history)
            for run in self.executions.values()
            if run.ending.has_score and not is_paused(run)
        ]
        length = min(map(len, going)) if going else max(map(len, ended), default=0)
        curves = going + [(losses + losses[-1:] * (length - len(losses)))[:length] for losses in ended if losses]
        return tuple(math.fsum(losses) / len(losses) for losses in zip(*curves, strict=False))[:length]

    def summary(self) -> None:
        """Prints the trial's values and its score."""
        print(shown("\n".join(self.summary_lines())))

    def summary_lines(self) -> list[str]:
        """The lines of `summary`."""
        lines = [f"Trial {self.trial_id} summary", "Hyperparameters:", *self.value_lines()]
        if self.confirmed is not None:
            lines += [f"Score: {self.confirmed.score}", self.confirmed.line(), f"Search score: {self.score}"]
        elif self.score is not None:
            lines.append(f"Score: {self.score}")
        if self.spread is not None and self.validation_ratio is not None:
            lines.append(f"Folds: {fold_interval(self.scores, self.validation_ratio)} (mean and 95% interval)")
        elif self.spread is not None:
            lines.append(f"Spread: {self.spread:.4g} (standard deviation over {len(self.scores)} executions)")
        if self.message is not None:
            lines.append(self.message)
        return lines

    def _repr_html_(self) -> str:
        told = f"Trial {self.trial_id}: {self.status.lower()}"
        lead = told if self.score is None else f"{told}, score {cell(self.score)}"
        values = table(
            ["hyperparameter", "value"], [[cell(name), cell(one)] for name, one in self.hyperparameters.values.items()]
        )
        return piece([lead], values, [cell(line, 300) for line in (self.message or "").strip().splitlines()[-1:]])

    def display_hyperparameters(self) -> None:
        """Prints the trial's values."""
        print(shown("\n".join(self.value_lines())))

    def value_lines(self) -> list[str]:
        """One line per value."""
        values = self.hyperparameters.values
        return [f"{name}: {value}" for name, value in values.items()] or ["default configuration"]

    def row(self) -> dict[str, Any]:
        """What the store keeps of it, besides its executions."""
        return {
            "id": self.trial_id,
            "number": self.number,
            "status": self.status,
            "attempt": self.attempt,
            "values": dict(self.hyperparameters.values),
            "outcome": {
                "score": self.score,
                "best_step": self.best_step,
                "message": self.message,
                "ending": None if self.ending is None else str(self.ending),
                "target_epochs": self.target_epochs,
                "tags": dict(self.tags),
                "moment": self.moment,
                "end_number": self.end_number,
                "is_running": self._life.runs_again(self.attempt),
                "confirmed": None if self.confirmed is None else dataclasses.asdict(self.confirmed),
                "validation_ratio": self.validation_ratio,
            },
            "started_at": self.started_at,
            "ended_at": self.ended_at,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any], space: HyperParameters) -> Trial:
        """The trial that `row` was made of, without its executions."""
        # The row has values only: the space is the same for all trials, and stored once.
        hyperparameters = space.shared_copy()
        hyperparameters.values = dict(row["values"])
        if odd := [name for name, value in hyperparameters.values.items() if not isinstance(value, Value)]:
            raise ValueError(f"{odd[0]}={hyperparameters.values[odd[0]]!r}, which is no value of a hyperparameter")
        outcome = row["outcome"]
        trial = cls(hyperparameters, row["id"], message=outcome["message"])
        trial.score, trial.best_step = outcome["score"], outcome["best_step"]
        trial.target_epochs, trial.tags = outcome["target_epochs"], dict(outcome["tags"])
        trial.moment = outcome.get("moment")
        trial._life = Life.of_row(row["status"], outcome["ending"], is_running=outcome["is_running"])
        confirmed = outcome.get("confirmed")
        trial.confirmed = None if confirmed is None else Confirmed(**confirmed)
        trial.validation_ratio = outcome.get("validation_ratio")
        trial.number, trial.attempt = row["number"], row["attempt"]
        trial.started_at, trial.ended_at = row["started_at"], row["ended_at"]
        trial.end_number = outcome.get("end_number")
        return trial

    def get_state(self) -> dict[str, Any]:
        """The trial as JSON, with KerasTuner's keys."""
        return {
            "trial_id": self.trial_id,
            "hyperparameters": self.hyperparameters.get_config(),
            "metrics": self.metrics.get_config(),
            "score": self.score,
            "best_step": self.best_step,
            "status": self.status,
            "message": self.message,
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `get_state`."""
        try:
            self.trial_id = str(state["trial_id"])
            self.hyperparameters = HyperParameters.from_config(state["hyperparameters"])
            self._reported = MetricsTracker.from_config(state["metrics"])
            self.score, self.best_step = state["score"], state["best_step"]
            self.status, self.message = state["status"], state["message"]
        except UsageError:
            raise
        except Exception as error:  # of a file nobody knows what it holds
            got, allowed = f"{state!r}"[:200], "what `get_state` or `save` wrote"
            instead = "Check that the file is a trial's: trial_.../trial.json."
            raise UsageError(explain("Trial.set_state", got, allowed, instead)) from error

    @classmethod
    @checked_arguments()
    def from_state(cls, state: Mapping[str, Any]) -> Trial:
        """A trial from what `get_state` gave."""
        trial = cls(HyperParameters())
        trial.set_state(state)
        return trial

    def save(self, fname: str | os.PathLike[str]) -> None:
        """Writes `get_state()` to a JSON file."""
        with written_whole(Path(fname), "trial", again="call save again.", lasts=True) as partial:
            partial.write_text(json.dumps(self.get_state()))

    def reload(self, fname: str | os.PathLike[str]) -> None:
        """Reads what `save` wrote."""
        self.set_state(_json_of(fname))

    @classmethod
    @checked_arguments()
    def load(cls, fname: str | os.PathLike[str]) -> Trial:
        """A trial from what `save` wrote."""
        return cls.from_state(_json_of(fname))


def _json_of(fname: str | os.PathLike[str]) -> Any:
    try:
        return read_json(plain_file(Path(fname)).read_text())
    except (OSError, ValueError) as error:
        got, allowed = f"{os.fspath(fname)!r}: {first_line(error)}", "a file that `save` wrote"
        raise UsageError(explain("Trial.load(fname)", got, allowed, "Type the path of a trial.json.")) from error


def trial_named(trial_id: str, trials: Mapping[str, Trial]) -> Trial:
    """The trial of an id.

    Raises:
        UsageKeyError: there is none; the message names the closest.
    """
    if isinstance(trial_id, str) and trial_id in trials:
        return trials[trial_id]
    some = [*list(trials)[:10], *(["..."] if len(trials) > 10 else [])]
    allowed = f"one of {', '.join(some)}" if some else "a trial that has begun"
    instead = did_you_mean(trial_id, trials, "See tuner.results() for all of them.")
    raise UsageKeyError(explain("trial_id", f"{trial_id!r}, which is no trial", allowed, instead))


def generate_trial_id() -> str:
    """An id that no other trial has, for trials that no oracle has numbered."""
    return f"{time.time():.0f}_{uuid.uuid4().hex[:12]}"


def _mean_curve(runs: Sequence[histories.History], objective: Objective) -> tuple[float, ...]:
    """Mean loss per epoch over runs, up to the shortest of them; NaN where an epoch was not measured."""
    curves = [objective.epoch_losses(history) for history in runs]
    return tuple(math.fsum(losses) / len(curves) for losses in zip(*curves, strict=False))
