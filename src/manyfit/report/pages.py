"""Projects on a terminal: a page for one, a line for each of many. Texts of projects are never markup."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from manyfit.core.errors import ManyfitError
from manyfit.core.untrusted import shown
from manyfit.report import words
from manyfit.report.snapshot import RecordedRun, RecordedTrial, Snapshot
from manyfit.report.words import plain
from manyfit.store.reading import rows_told

_BARS = "▁▂▃▄▅▆▇█"
_MOST_VARIED = 4  # hyperparameters in a table of trials


class ShownConsole(Console):
    """A console that obeys no letter of a text: rich writes those that a terminal would obey as they are."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See rich; what is rich's own, colours and the cursor, is no text."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(shown(segment.text), segment.style)


def console(file: IO[str] | None = None, *, width: int | None = None) -> Console:
    """A console that prints texts as they are: no markup, no emoji, no colours of its own choice.

    Args:
        file: where to; None: standard output.
        width: in letters; None: the terminal's.
    """
    # In a notebook rich would show what is written to a file as an output of the cell.
    to_cell = False if file is not None else None
    return ShownConsole(
        file=file, width=width, markup=False, emoji=False, highlight=False, soft_wrap=False, force_jupyter=to_cell
    )


def sparkline(curve: Sequence[float | None], width: int = 12) -> str:
    """A curve in a few letters, from its lowest to its highest finite value.

    Args:
        curve: a number per epoch; None and NaN are gaps.
        width: the newest so many epochs are drawn, or as many means of neighbours.

    Example:

    >>> sparkline([1.0, 2.0, None, 3.0]), sparkline([5.0, 5.0]), sparkline([])
    ('▁▅ █', '▄▄', '')
    """
    step = -(-len(curve) // width) if curve else 1
    groups = [curve[start : start + step] for start in range(0, len(curve), step)]
    known = [[value for value in group if value is not None and math.isfinite(value)] for group in groups]
    means = [math.fsum(group) / len(group) if group else None for group in known]
    finite = [mean for mean in means if mean is not None]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)

    def bar(value: float | None) -> str:
        if value is None:
            return " "
        return _BARS[3] if high == low else _BARS[round((value - low) / (high - low) * 7)]

    return "".join(map(bar, means))


def value_text(value: object, most: int = 14) -> str:
    """A hyperparameter's value in a table."""
    return f"{value:.3g}" if isinstance(value, float) else plain(value, most)


# One project ----------------------------------------------------------------------------------------------------


@rows_told("manyfit show")
def page(snapshot: Snapshot, *, most_trials: int = 10, now: float | None = None) -> RenderableType:
    """A project: the verdict, the best trials, what failed, programs, time, and what to do next.

    Args:
        snapshot: the project.
        most_trials: in the table.
        now: seconds since 1970; None: the clock's.
    """
    first, *rest = words.verdict(snapshot)
    head = [Text(words.name_of(snapshot.folder)), Text(words.state(snapshot, now), style="dim")]
    parts: list[RenderableType] = [*head, Text(), Text(first, style="bold"), *map(Text, rest), Text()]
    shown = [*snapshot.best(), *snapshot.running][:most_trials]
    if shown:
        parts += [_trials_table(snapshot, shown)]
    hidden = len(snapshot.trials) - len(shown) - len(snapshot.failed)
    if hidden > 0:
        parts.append(Text(f"… and {hidden:,} more", style="dim"))
    parts += [Text(line, style="red") for line in words.failures(snapshot.failed)[:5]]
    parts.append(Text())
    parts += [Text(f"{label:<9} {line}") for label, line in _facts(snapshot, now) if line]
    return Group(*parts)


def _facts(snapshot: Snapshot, now: float | None) -> Iterator[tuple[str, str | None]]:
    most = None if snapshot.plan is None else snapshot.plan.max_trials
    ended = sum(trial.ended_at is not None for trial in snapshot.trials)
    of_all = f" of {most:,}" if most is not None and most > ended else ""
    epochs = sum(run.num_epochs for trial in snapshot.trials for run in trial.searched)
    run_now = f", {len(snapshot.running):,} run" if snapshot.running else ""
    yield "Trials", f"{ended:,}{of_all} ended{run_now}; {words.counted(epochs, 'epoch')}"
    yield "Programs", words.programs_line(snapshot)
    yield "Time", words.time_line(snapshot.time(), snapshot.seconds(now))
    ensemble = snapshot.ensemble
    if ensemble is not None:
        members = words.counted(len(ensemble["weights"]), "member")
        score = "" if ensemble["score"] is None else f", {ensemble['metric']} {words.number(ensemble['score'])}"
        gain = ensemble.get("gain")
        told = "" if gain is None else f", gain {words.interval(*gain)}"
        refused = "; refused: the best member predicts" if ensemble["refused"] else ""
        yield "Ensemble", f"{members}{score}{told}{refused}"
    yield "Ended", snapshot.ended_by
    yield "Next", words.next_step(snapshot)


def _trials_table(snapshot: Snapshot, trials: Sequence[RecordedTrial]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    names = snapshot.varied[:_MOST_VARIED]
    table.add_column("trial")
    table.add_column(plain(snapshot.objective, 20), justify="right")
    table.add_column("curve", no_wrap=True)
    for name in names:
        table.add_column(plain(name, 14), justify="right", no_wrap=True)
    table.add_column("epochs", justify="right")
    noise = None if snapshot.leader is None else snapshot.leader.noise
    for trial in trials:
        runs = trial.searched
        score = "runs" if trial.score is None else words.number(trial.score, None if noise is None else 2 * noise)
        curve = sparkline(runs[0].curves.get(snapshot.objective, ())) if runs else ""
        values = [value_text(trial.values[name]) if name in trial.values else "" for name in names]
        epochs = max((run.num_epochs for run in runs), default=0)
        table.add_row(*map(Text, (plain(trial.trial_id, 14), score, curve, *values, f"{epochs:,}")))
    return table


@rows_told("manyfit show --trial")
def trial_page(snapshot: Snapshot, trial: RecordedTrial) -> RenderableType:
    """One trial: how it stands, its values, its runs, and why it ended."""
    head = f"trial {plain(trial.trial_id)}  {trial.status.lower()}"
    if trial.score is not None:
        head += (
            f", {plain(snapshot.objective)} {words.number(trial.score)} in {words.counted(len(trial.searched), 'run')}"
        )
    parts: list[RenderableType] = [Text(head, style="bold")]
    if trial.confirmed is not None and trial.confirmed.get("score") is not None:
        facts = trial.confirmed
        known = facts.get("low") is not None and facts.get("high") is not None
        score = words.interval(facts["score"], facts["low"], facts["high"]) if known else words.number(facts["score"])
        parts.append(Text(f"confirmed: {score} by {words.counted(facts['num_executions'], 'fresh seed')}"))
    values = Table(box=None, pad_edge=False, show_header=False)
    for name, value in trial.values.items():
        values.add_row(Text(plain(name, 40)), Text(value_text(value, 40)))
    parts += [Text(), values, Text(), _runs_table(snapshot, trial.runs)]
    if trial.message:
        parts += [Text(), *(Text(plain(line, 200)) for line in trial.message.strip().splitlines()[-12:])]
    return Group(*parts)


def _runs_table(snapshot: Snapshot, runs: Sequence[RecordedRun]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("run", "ending", plain(snapshot.objective, 20), "best epoch", "epochs", "seconds", "curve"):
        table.add_column(name, justify="left" if name in ("run", "ending", "curve") else "right", no_wrap=True)
    for run in runs:
        cells = (*words.run_cells(run), sparkline(run.curves.get(snapshot.objective, ())))
        table.add_row(*map(Text, cells))
    return table


# Many projects ----------------------------------------------------------------------------------------------------


def list_as_json(folders: Sequence[Path], root: Path) -> tuple[str, int]:
    """The same for programs; docs/looking.md has the schema. And how many cannot be read.

    Args:
        folders: of the projects.
        root: that their names are told from.
    """
    rows: list[dict[str, Any]] = []
    for folder in folders:
        name = str(folder.relative_to(root) if folder != root else folder)
        try:
            with rows_told(f"manyfit ls {folder}"):
                headline = _headline(Snapshot.of(folder))
        except ManyfitError as error:
            rows.append({"name": name, "project": str(folder), "error": str(error)})
            continue
        rows.append({"name": name, "project": str(folder), "error": None, **headline})
    unread = sum(row["error"] is not None for row in rows)
    return json.dumps(_finite({"schema": 1, "projects": rows}), indent=1), unread


def list_of_projects(folders: Sequence[Path], root: Path, now: float | None = None) -> tuple[RenderableType, int]:
    """A line per project, with its best score and the interval of that; and how many cannot be read.

    Args:
        folders: of the projects.
        root: that their names are told from.
        now: seconds since 1970; None: the clock's.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("project", "trials", "best", "state"):
        table.add_column(name, justify="right" if name == "trials" else "left", overflow="fold")
    unread = 0
    for folder in folders:
        name = plain(folder.relative_to(root) if folder != root else folder, 60)
        try:
            with rows_told(f"manyfit ls {folder}"):
                seen = Snapshot.of(folder)
                best, told = _best_cell(seen), words.state(seen, now)
        except ManyfitError as error:
            unread += 1
            table.add_row(*map(Text, (name, "", "", plain(error, 200))))
            continue
        told = told.removesuffix(": run the same script to go on").replace("last written ", "")
        table.add_row(*map(Text, (name, f"{len(seen.trials):,}", best, told)))
    return table, unread


def _best_cell(snapshot: Snapshot) -> str:
    best = snapshot.best(1)
    if not best or best[0].score is None:
        return "-"
    facts, leader, name = best[0].confirmed or {}, snapshot.leader, plain(snapshot.objective, 24)
    if facts.get("low") is not None and facts.get("high") is not None:
        return f"{name} {words.interval(facts['score'], facts['low'], facts['high'])}"
    if (
        leader is not None
        and leader.trial_id == best[0].trial_id
        and leader.low is not None
        and leader.high is not None
    ):
        return f"{name} {words.interval(leader.expected or leader.score, leader.low, leader.high)}"
    return f"{name} {words.number(best[0].score)}, luck unknown"


# For programs -------------------------------------------------------------------------------------------------------


@rows_told("manyfit show --json")
def as_json(snapshot: Snapshot, trial: RecordedTrial | None = None) -> str:
    """A project, or one trial of it, for programs; docs/looking.md has the schema. NaN and infinities are null."""
    if trial is not None:
        return json.dumps(_finite(_trial_facts(trial, curves=True)), indent=1)
    facts = {
        "schema": 1,
        "project": str(snapshot.folder),
        **_headline(snapshot),
        "plan": None if snapshot.plan is None else vars(snapshot.plan),
        "best": [trial.trial_id for trial in snapshot.best()],
        "trials": [_trial_facts(trial, curves=False) for trial in snapshot.trials],
        "programs": list(snapshot.programs.values()),
        "fallbacks": snapshot.fallbacks,
        "seconds": {"total": snapshot.seconds(), **snapshot.time()},
        "ensemble": snapshot.ensemble,
        "ended_by": snapshot.ended_by,
        "environment": snapshot.environment,
    }
    return json.dumps(_finite(facts), indent=1)


def _headline(snapshot: Snapshot) -> dict[str, Any]:
    """What `ls --json` and `show --json` have in common: what the best trial is worth, and who works there."""
    step, num_ended = snapshot.activity, sum(trial.ended_at is not None for trial in snapshot.trials)
    return {
        "objective": snapshot.objective,
        "direction": snapshot.direction,
        "verdict": words.verdict(snapshot),
        "state": {
            "step": None if step is None else step.what,
            "running": step is not None and step.until is None and not snapshot.has_died,
            "died": snapshot.has_died,
            "pid": None if step is None else step.pid,
            "written_at": snapshot.written_at,
        },
        "counts": {"trials": len(snapshot.trials), "ended": num_ended, "failed": len(snapshot.failed)},
        "leader": None if snapshot.leader is None else vars(snapshot.leader),
    }


def _trial_facts(trial: RecordedTrial, *, curves: bool) -> dict[str, Any]:
    return {
        "trial": trial.trial_id,
        "status": trial.status,
        "values": trial.values,
        "score": trial.score,
        "confirmed": trial.confirmed,
        "message": trial.message,
        "started_at": trial.started_at,
        "ended_at": trial.ended_at,
        "runs": [
            {
                "phase": run.phase,
                "execution": run.execution,
                "ending": run.ending,
                "epochs": run.num_epochs,
                **{
                    name: run.outcome.get(name)
                    for name in ("seed", "score", "best_epoch", "metrics", "seconds", "costs")
                },
                **({"curves": run.curves} if curves else {}),
            }
            for run in trial.runs
        ],
    }


def _finite(value: object) -> object:
    """The same without numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value
