"""A project as it is at one moment: what every surface reads. Neither Keras nor JAX nor NumPy is loaded for it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from manyfit.core.compared import on_most_rows
from manyfit.core.errors import ProjectError, UsageKeyError, explain
from manyfit.core.html import MOST_ROWS, cell, piece, table
from manyfit.core.records import ROWS, SEARCH, SHARE, Ending, Value, Values
from manyfit.core.signatures import at_least, checked_arguments
from manyfit.core.untrusted import read_json
from manyfit.report.results import Results, Row
from manyfit.store import facts as names
from manyfit.store.facts import Activity, Leader, SearchPlan, from_fact
from manyfit.store.reading import ProjectRows, read_project, rows_told
from manyfit.store.schema import MOST_COUNTED

_ENDED_BY = "ended_by"  # of `manyfit.oracles.endings`
_OBJECTIVE = re.compile(r'name="([^"]+)", direction="(max|min)"')


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """One execution, as the store has it.

    Attributes:
        phase: what it was run for: "search", "confirm", "proof", "fold".
        execution: its number within the phase.
        ending: why it ended; None: it is under way, or was when its process died.
        outcome: what else was kept: seed, score, best_epoch, metrics at the best epoch, seconds, message, costs, ...
        logs: of each epoch that it has trained, as JSON.
        first_epoch: the first of these, from 0: those before are its parent's, where its trial is a branch.
    """

    phase: str
    execution: int
    ending: str | None
    outcome: Mapping[str, Any]
    logs: tuple[str, ...]
    first_epoch: int = 0

    @property
    def num_epochs(self) -> int:
        """Epochs behind it."""
        return self.first_epoch + len(self.logs)

    @property
    def score(self) -> float | None:
        """The objective at its best epoch."""
        return self.outcome.get("score")

    @property
    def costs(self) -> Mapping[str, Any]:
        """Seconds of its parts, as they were measured; empty where they were not."""
        return self.outcome.get("costs") or {}

    @functools.cached_property
    def curves(self) -> dict[str, list[float | None]]:
        """Metric -> a number per epoch, None where it was not measured."""
        epochs: list[Mapping[str, Any]] = [{}] * self.first_epoch + [_logs(text) for text in self.logs]
        metrics = dict.fromkeys(name for epoch in epochs for name in epoch)
        return {name: [epoch.get(name) for epoch in epochs] for name in metrics}


@dataclasses.dataclass(frozen=True)
class RecordedTrial:
    """One configuration and what became of it, as the store has it.

    Attributes:
        status: KerasTuner's word: "RUNNING", "COMPLETED", "FAILED", ...
        ending: why it ended; None: it has not.
        confirmed: what fresh seeds said of it (score, low, high, rank, ...); None: it was not confirmed.
        runs: of its latest attempt, those of the search first.
        by_rows: (share of the training rows, mean score of the runs that were trained on so many), ascending; more than
            one where it was trained anew on more.
    """

    trial_id: str
    number: int
    status: str
    values: Values
    score: float | None
    best_step: int | None
    message: str | None
    ending: str | None
    confirmed: Mapping[str, Any] | None
    started_at: float
    ended_at: float | None
    runs: tuple[RecordedRun, ...]
    by_rows: tuple[tuple[float, float], ...] = ()

    @property
    def searched(self) -> list[RecordedRun]:
        """Its runs of the search."""
        return [run for run in self.runs if run.phase == SEARCH]

    @property
    def is_completed(self) -> bool:
        """Whether it is ranked."""
        return self.status == "COMPLETED" and self.score is not None

    @property
    def num_rows(self) -> int | None:
        """On how many of the training rows it was trained; None: on all of them."""
        return None if (num_rows := self.values.get(ROWS)) is None else int(num_rows)

    @property
    def has_failed(self) -> bool:
        """Whether it has ended without a score."""
        return self.ended_at is not None and self.ending is not None and not self.is_completed

    @property
    def metrics(self) -> dict[str, float]:
        """Means over its runs of what each measured at its best epoch."""
        known = [run.outcome.get("metrics") or {} for run in self.searched if run.score is not None]
        shared = [name for name in (known[0] if known else {}) if all(name in one for one in known)]
        return {name: math.fsum(one[name] for one in known) / len(known) for name in shared}

    @rows_told("a trial of a project")
    def _repr_html_(self) -> str:
        runs = [
            [f"{run.phase} {run.execution}", run.ending or "runs", cell(run.score), str(run.num_epochs)]
            for run in self.runs[:MOST_ROWS]
        ]
        told = f"Trial {self.trial_id}: {self.status.lower()}"
        values = ", ".join(f"{cell(name)} {cell(value)}" for name, value in self.values.items())
        return piece(
            [told if self.score is None else f"{told}, score {cell(self.score)}", values],
            table(["run", "ending", "score", "epochs"], runs, numeric={2, 3}) if runs else "",
            [cell(line, 300) for line in (self.message or "").strip().splitlines()[-1:]],
        )


@dataclasses.dataclass(frozen=True, eq=False)  # two are the same if they are one: what is read off it may be kept
class Snapshot:
    """A project at one moment; `Snapshot.of(folder)`, or `kt.open_project(folder)`, reads it. It never writes.

    Attributes:
        folder: the project's.
        objective: the metric's name; of several the first.
        direction: "max" or "min".
        trials: in the order of their start.
        plan: how far the latest search was to go; None: an earlier version wrote the project.
        activity: the step that is under way, or was the last; None likewise.
        leader: who leads, and what is luck in that; None: nobody has looked yet.
        programs: records of compiled programs, by id (`manyfit.training.program_report.ProgramRecord`).
        fallbacks: why executions trained with `model.fit` -> ids of their trials.
        facts: all other facts of the project, by name.
        written_at: when it was last written to, in seconds since 1970.
    """

    folder: Path
    objective: str
    direction: str
    trials: tuple[RecordedTrial, ...]
    plan: SearchPlan | None
    activity: Activity | None
    leader: Leader | None
    programs: Mapping[str, Mapping[str, Any]]
    fallbacks: Mapping[str, Sequence[str]]
    facts: Mapping[str, Any]
    written_at: float

    @classmethod
    @checked_arguments()
    def of(cls, folder: str | os.PathLike[str]) -> Self:
        """Reads a project as it is now, also while a search writes to it.

        Args:
            folder: `directory/project_name`.

        Raises:
            ProjectError: there is no project, its file is damaged, or a newer Manyfit wrote it.
        """
        rows = read_project(folder)
        with rows_told(f'project "{folder}"'):
            return cls._from_rows(Path(folder), rows)

    @classmethod
    def _from_rows(cls, folder: Path, rows: ProjectRows) -> Self:
        facts = {name: read_json(value) for name, value in rows.facts.items()}
        found = _OBJECTIVE.search((facts.get("search") or {}).get("objective", ""))
        name, direction = ("score", "min") if found is None else (found[1], found[2])
        is_program = {key: key.startswith(names.PROGRAM) for key in facts}
        shown = (names.PLAN, names.ACTIVITY, names.LEADER, names.FALLBACKS)
        return cls(
            folder=folder,
            objective=name,
            direction=direction,
            trials=tuple(_trials(rows)),
            plan=from_fact(SearchPlan, facts.get(names.PLAN)),
            activity=from_fact(Activity, facts.get(names.ACTIVITY)),
            leader=from_fact(Leader, facts.get(names.LEADER)),
            programs={key.removeprefix(names.PROGRAM): fact for key, fact in facts.items() if is_program[key]},
            fallbacks=facts.get(names.FALLBACKS) or {},
            facts={key: fact for key, fact in facts.items() if not is_program[key] and key not in shown},
            written_at=rows.written_at,
        )

    # Trials --------------------------------------------------------------------------------------------------

    @checked_arguments()
    def trial(self, trial_id: str) -> RecordedTrial:
        """A trial by its id; leading zeros may be left out.

        Raises:
            UsageKeyError: there is none of that id.
        """
        known = {one.trial_id: one for one in self.trials}
        short = {key.lstrip("0") or "0": one for key, one in known.items()}
        found = known.get(trial_id) or (short.get(trial_id.lstrip("0") or "0") if trial_id else None)
        if found is None:
            some = ", ".join(list(known)[:8]) or "none yet"
            got = f"trial {trial_id!r}"
            raise UsageKeyError(explain(f'project "{self.folder}"', got, f"a trial of it: {some}", "Type its id."))
        return found

    @rows_told("open_project(...).best()")
    @checked_arguments(num_trials=at_least(0, 3))
    def best(self, num_trials: int | None = None) -> list[RecordedTrial]:
        """Completed trials, best first: those that were confirmed, then the others by the score of the search.

        Trials that break a constraint are left out, unless all do. With several objectives the first one orders them.
        """
        ranked = on_most_rows([trial for trial in self.trials if trial.is_completed], self._loss)
        ranked.sort(key=self._loss)
        ranked = [trial for trial in ranked if self._keeps_constraints(trial)] or ranked
        confirmed = [trial for trial in ranked if trial.confirmed is not None]
        confirmed.sort(key=lambda trial: trial.confirmed["rank"])  # type: ignore[index]  # those above
        return (confirmed + [trial for trial in ranked if trial.confirmed is None])[:num_trials]

    def _loss(self, trial: RecordedTrial) -> float:
        if trial.score is None or math.isnan(trial.score):
            return math.inf
        return -trial.score if self.direction == "max" else trial.score

    def _keeps_constraints(self, trial: RecordedTrial) -> bool:
        bounds = () if self.plan is None else self.plan.constraints
        metrics = trial.metrics if bounds else {}  # means over runs, of thousands of trials each time they are ranked
        return all(
            (most is None or metrics.get(name, math.inf) <= most)
            and (least is None or metrics.get(name, -math.inf) >= least)
            for name, most, least in bounds
        )

    @property
    def running(self) -> list[RecordedTrial]:
        """Trials that are under way, or were when their process died."""
        return [trial for trial in self.trials if trial.status == "RUNNING"]

    @property
    def failed(self) -> list[RecordedTrial]:
        """Trials that have ended without a score."""
        return [trial for trial in self.trials if trial.has_failed]

    @property
    def varied(self) -> list[str]:
        """Hyperparameters in whose value trials differ."""
        seen: dict[str, set[Value]] = {}
        for trial in self.trials:
            for name, value in trial.values.items():
                seen.setdefault(name, set()).add(value)
        return [name for name, values in seen.items() if len(values) > 1 and not name.startswith("tuner/")]

    @rows_told("open_project(...).results()")
    def results(self) -> Results:
        """One row per execution of the search, and the curves, as `tuner.results()` has them."""
        rows = [row for trial in self.trials for row in _result_rows(trial)]
        curves = [
            {"trial_id": trial.trial_id, "execution": run.execution, "epoch": epoch, **_logs(logs)}
            for trial in self.trials
            for run in trial.searched
            for epoch, logs in enumerate(run.logs, run.first_epoch)
        ]
        longest = None if self.plan is None else self.plan.max_epochs
        return Results(rows, curves, max_epochs=longest, direction=self.direction)

    # How it went ----------------------------------------------------------------------------------------------

    @property
    def ended_by(self) -> str | None:
        """Why the latest search ended, in a sentence; None: it has not."""
        return (self.facts.get(_ENDED_BY) or {}).get("sentence")

    @property
    def ensemble(self) -> Mapping[str, Any] | None:
        """The latest ensemble: method, metric, weights, score, gain; None: there was none."""
        return self.facts.get(names.ENSEMBLE)

    @property
    def confirmation(self) -> Mapping[str, Any] | None:
        """What the latest confirmation found (`manyfit.report.confirmation.Confirmation.to_dict`)."""
        return self.facts.get("confirmation")

    @property
    def requests(self) -> list[Mapping[str, Any]]:
        """What was asked of its searches (`manyfit.store.requests`), in order: what, details, is_done, answer, when."""
        asked = sorted(name for name in self.facts if name.startswith(names.REQUEST))
        return [self.facts[name] for name in asked]

    @checked_arguments()
    def notes(self, trial_id: str) -> list[str]:
        """What people have noted on a trial, in order."""
        trial_id = self.trial(trial_id).trial_id
        taken = [one for one in self.requests if one["what"] == "note" and one["is_done"]]
        return [one["details"]["text"] for one in taken if one["details"]["trial_id"] == trial_id]

    @property
    def environment(self) -> Mapping[str, Any]:
        """Versions, backend and machine; empty: unknown."""
        return self.facts.get(names.ENVIRONMENT) or {}

    def seconds(self, now: float | None = None) -> float:
        """That all runs of the search have taken together, the one that is under way included.

        Args:
            now: seconds since 1970; None: the clock's.
        """
        spent = float(self.facts.get("spent_seconds") or 0.0)
        step = self.activity
        if step is None or step.until is not None or step.what != "a search":
            return spent
        until = self.written_at if self.has_died else (time.time() if now is None else now)
        return spent + max(0.0, until - step.since)

    @property
    def has_died(self) -> bool:
        """Whether the process that worked on it is gone, in the middle of a step."""
        return self.activity is not None and bool(self.activity.has_died(_exists))

    def time(self) -> dict[str, float]:
        """Where the seconds of the search went: build, compile, train, predict, propose, store, and what is left.

        Measured per execution; of executions that trained together each has its share. "train" holds validation.
        """
        runs = [run for trial in self.trials for run in trial.searched]
        costs = [run.costs for run in runs if run.costs]
        # Executions of one structure share what was compiled: its price is paid once.
        shared = {one["structure"]: float(one["compile"]) for one in costs if one.get("structure") is not None}
        alone = math.fsum(float(one["compile"]) for one in costs if one.get("structure") is None)
        parts = {
            "build": math.fsum(float(one["build"]) for one in costs),
            "compile": math.fsum(shared.values()) + alone,
            "train": math.fsum(float(run.costs["epoch"]) * len(run.logs) for run in runs if run.costs),
            "predict": math.fsum(float(one["predict"]) for one in costs),
            **{name: float(seconds) for name, seconds in (self.facts.get(names.SECONDS) or {}).items()},
        }
        other = self.seconds() - math.fsum(parts.values())
        return {name: seconds for name, seconds in {**parts, "other": max(0.0, other)}.items() if seconds > 0}

    def time_of_programs(self) -> dict[str, dict[str, float]]:
        """The same for each program: build, compile, train and predict of its members, by the program's id."""
        found: dict[str, dict[str, float]] = {}
        for run in (run for trial in self.trials for run in trial.runs):
            if run.costs.get("structure") is not None:
                own = found.setdefault(run.costs["structure"], {"build": 0.0, "train": 0.0, "predict": 0.0})
                own["compile"] = float(run.costs["compile"])
                own["build"] += float(run.costs["build"])
                own["train"] += float(run.costs["epoch"]) * len(run.logs)
                own["predict"] += float(run.costs["predict"])
        return found

    def members(self) -> dict[str, list[str]]:
        """Ids of the trials that each program has trained, by the program's id."""
        found: dict[str, list[str]] = {}
        for trial in self.trials:
            for structure in {run.costs.get("structure") for run in trial.runs} - {None}:
                found.setdefault(str(structure), []).append(trial.trial_id)
        return found


def _trials(rows: ProjectRows) -> Iterator[RecordedTrial]:
    logs: dict[tuple[Any, ...], list[str]] = {}
    first: dict[tuple[Any, ...], int] = {}
    for row in rows.epochs:
        if type(row[4]) is not int or not 0 <= row[4] < MOST_COUNTED:
            raise ValueError(f"an epoch that is called {row[4]!r}")
        logs.setdefault(row[:4], []).append(row[5])
        first.setdefault(row[:4], row[4])
    outcomes = {row[:4]: read_json(row[4]) for row in rows.executions}
    by_trial: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
    for key in sorted({*logs, *outcomes}, key=lambda key: (key[1] != SEARCH, key)):
        by_trial.setdefault((key[0], key[2]), []).append(key)
    by_rows: dict[str, dict[float, list[float]]] = {}
    for key, outcome in outcomes.items():
        if key[1] == SEARCH and outcome.get("score") is not None:
            share = float((outcome.get("notes") or {}).get(SHARE, 1.0))
            by_rows.setdefault(key[0], {}).setdefault(share, []).append(float(outcome["score"]))
    for trial_id, number, status, attempt, values, text, started_at, ended_at in rows.trials:
        outcome = read_json(text)
        _check_kinds(trial_id, (number, int), (status, str), (started_at, float), (ended_at, float | None))
        _check_kinds(trial_id, (outcome["score"], float | int | None), (outcome["message"], str | None))
        runs = [
            RecordedRun(
                key[1],
                key[3],
                outcomes[key]["ending"] if key in outcomes else None,
                outcomes.get(key, {}),
                tuple(logs.get(key, ())),
                first.get(key, 0),
            )
            for key in by_trial.get((trial_id, attempt), ())
        ]
        yield RecordedTrial(
            trial_id, number, status, read_json(values), outcome["score"], outcome.get("best_step"),
            outcome["message"], outcome["ending"], outcome.get("confirmed"), started_at, ended_at, tuple(runs),
            tuple((share, math.fsum(known) / len(known)) for share, known in sorted(by_rows.get(trial_id, {}).items())),
        )  # fmt: skip


def _check_kinds(trial_id: object, *pairs: tuple[object, Any]) -> None:
    """Columns of SQLite hold whatever was put there; what shows them counts on numbers and texts."""
    for value, kind in pairs:
        if not isinstance(value, kind):
            raise TypeError(f"trial {trial_id!r} with {value!r}")


def _result_rows(trial: RecordedTrial) -> list[Row]:
    ended = [run for run in trial.searched if run.ending is not None]
    if not ended:
        nothing = Row(
            trial.trial_id, 0, trial.status, trial.ending or "", -1, trial.values,
            trial.score, None, 0, {}, 0.0, trial.message,
        )  # fmt: skip
        return [nothing]
    return [
        Row(
            trial.trial_id,
            run.execution,
            trial.status,
            str(run.ending),
            run.outcome["seed"],
            dict(trial.values),
            run.score,
            run.outcome["best_epoch"],
            # A paused one that had gone on stands where it was paused.
            run.outcome.get("num_epochs", run.num_epochs) if run.ending == Ending.PAUSED else run.num_epochs,
            dict(run.outcome["metrics"]),
            run.outcome["seconds"],
            run.outcome["message"],
        )
        for run in ended
    ]


def _logs(text: str) -> dict[str, Any]:
    """What an epoch has logged; it is read when somebody asks for it, since there are thousands."""
    try:
        found = read_json(text)
        return dict(found)
    except (ValueError, TypeError) as error:
        got, instead = f"an epoch that cannot be read ({error})", "Restore the project from a copy."
        raise ProjectError(explain("a project's curves", got, "rows as Manyfit writes them", instead)) from error


def _exists(pid: int) -> bool:
    if os.name == "nt":  # where the same call ends the process
        return True
    try:
        os.kill(pid, 0)  # asks only
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True
