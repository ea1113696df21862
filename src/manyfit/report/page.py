"""A project as one HTML file that needs nothing else: no network, no server, no other file.

The first thing on it is a sentence with an interval. Vega, Vega-Lite and Vega-Embed (900 kB, from vl-convert-python)
are written into the page, and a policy in it lets the browser run these scripts and no others, and ask nobody for
anything. Texts of projects are escaped where they are text, and where they are data of scripts.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.core.files import replaced
from manyfit.report import bars, charts, words
from manyfit.report.chart_rows import Cell, Row, axis_names, finalist_rows, state_of
from manyfit.report.checks import checks
from manyfit.report.drawing import extra, scripts_of_vega
from manyfit.report.importance import importances
from manyfit.report.ranges import searched_ranges
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.report.words import plain
from manyfit.store.reading import rows_told

_MOST_TRIALS = 200  # in the table
_MOST_COLUMNS = 12  # hyperparameters in it
_MOST_SLICES = 9
_DRAWN: dict[str, Callable[[Snapshot], dict[str, object] | None]] = {
    "finalists": bars.finalists,
    "history": charts.history,
    "curves": charts.curves,
    "importance": bars.importance,
    "pareto": charts.pareto,
    "time": bars.time,
    "ensemble": bars.ensemble,
    "diversity": bars.diversity,
}


@rows_told("report of a project")
def page(
    snapshot: Snapshot,
    *,
    every_seconds: float | None = None,
    live: str | None = None,
    above: str = "",
    scripts: Sequence[str] = (),
    now: float | None = None,
) -> str:
    """The report of a project: one HTML file that asks nobody for anything.

    Args:
        snapshot: the project.
        every_seconds: the browser loads the file again so often, for one that is written again; None: not.
        live: a URL of the page's own origin that answers the newest page: it is asked all the time; the picked
            trial, the focus and charts that have not changed stay. None: a file.
        above: HTML that stands above the report, as it is.
        scripts: further JavaScript that the page runs, after its own.
        now: seconds since 1970; None: the clock's.

    Raises:
        ImportError: jinja2 or vl-convert-python is not installed: `pip install manyfit[report]`.

    Example: `Path("report.html").write_text(page(kt.open_project("run/search")), encoding="utf-8")`, which is what
    `kt.open_project("run/search").report("report.html")` does.
    """
    jinja2 = extra("jinja2")
    drawn = _charts(snapshot)
    told = {key: str(spec["description"]) for key, spec in drawn.items()}
    run = [scripts_of_vega(), _file("report.js"), *scripts]
    columns, numeric, rows = _trial_table(snapshot)
    # A name that is spelled wrongly in the template is our bug, and not an empty place on the page.
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_file("report.html"))
    return str(
        template.render(
            policy=policy(run, live=live is not None),
            every=None if every_seconds is None else max(1, round(every_seconds)),
            style=jinja2_markup(_file("report.css")),
            above=jinja2_markup(above),
            scripts=[jinja2_markup(script) for script in run],
            data=jinja2_markup(_data(snapshot, drawn, live)),
            title=words.name_of(snapshot.folder),
            state=words.state(snapshot, now),
            verdict=words.verdict(snapshot),
            next=words.next_step(snapshot),
            charts=drawn,
            told={**dict.fromkeys([*_DRAWN, "contour"], ""), **told},
            slices=[(key, text) for key, text in told.items() if key.startswith("slice")],
            finalists=[_finalist(row) for row in finalist_rows(snapshot)],
            checks=checks(snapshot),
            columns=columns,
            numeric=numeric,
            trials=rows,
            shown=_shown(len(rows), len(snapshot.trials)),
            time=words.time_line(snapshot.time(), snapshot.seconds(now)),
            programs=words.programs_line(snapshot),
            ensemble=list(_ensemble(snapshot)),
            failures=words.failures(snapshot.failed),
            records=list(_records(snapshot)),
        )
    )


def write_page(snapshot: Snapshot, path: str | os.PathLike[str], *, every_seconds: float | None = None) -> Path:
    """Writes the report of a project as one HTML file, whole or not at all.

    Args:
        snapshot: the project.
        path: of the file; its folder is made.
        every_seconds: see `page`.

    Returns:
        The path.

    Raises:
        ImportError: `pip install manyfit[report]`.
        UsageError: the file cannot be written.
    """
    text, path = page(snapshot, every_seconds=every_seconds), Path(path)
    try:
        with replaced(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        got = f"{path}, which cannot be written ({error.strerror})"
        raise UsageError(explain("report(path)", got, "a file in a writable folder", "Type another.")) from None
    return path


def policy(scripts: Sequence[str], *, live: bool = False) -> str:
    """What the browser may do for the page: run exactly these scripts; and ask its own origin, where it is live.

    Args:
        scripts: all of the page.
        live: whether it asks for what is new.
    """
    # By what they are and not by a word that is in the page: whoever gets markup into it does not get a script to run.
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; connect-src {connect}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'self'"
    )


def jinja2_markup(text: str) -> object:
    """A text that is written as it is."""
    return extra("jinja2").utils.markupsafe.Markup(text)  # what Jinja2 itself escapes with


@functools.cache
def _file(name: str) -> str:
    return (importlib.resources.files("manyfit.report") / "templates" / name).read_text(encoding="utf-8")


# What is on it --------------------------------------------------------------------------------------------------


def _charts(snapshot: Snapshot) -> dict[str, dict[str, object]]:
    found = {key: draw(snapshot) for key, draw in _DRAWN.items()}
    # What matters most comes first, and is what the one contour shows.
    order = [each.name for each in importances(snapshot)] or list(axis_names(snapshot))
    sliced = charts.slices(snapshot, order[:_MOST_SLICES]).values()
    found |= {f"slice{number}": spec for number, spec in enumerate(sliced)}
    found["contour"] = _contour(snapshot, order)
    return {key: spec for key, spec in found.items() if spec is not None}


def _contour(snapshot: Snapshot, order: Sequence[str]) -> dict[str, object] | None:
    # Of more than two, the two that matter most: a matrix of all pairs is looked at by nobody.
    numbers = {each.name for each in searched_ranges(snapshot) if each.is_number}
    first_two = [name for name in order if name in numbers][:2]
    return charts.contour(snapshot, *first_two) if len(first_two) == 2 else None


def _data(snapshot: Snapshot, drawn: Mapping[str, Mapping[str, Any]], live: str | None) -> str:
    """What the scripts read: charts, their rows once each, and the names of columns."""
    datasets = {name: rows for spec in drawn.values() for name, rows in spec["datasets"].items()}
    # Apart from their rows, most of which several charts have in common.
    specs = {
        key: {"rows": list(spec["datasets"]), "spec": {name: part for name, part in spec.items() if name != "datasets"}}
        for key, spec in drawn.items()
    }
    facts = {
        "charts": specs,
        "datasets": datasets,
        "names": {field: plain(name, 40) for name, field in axis_names(snapshot).items()},
        "objective": plain(snapshot.objective, 40),
        "live": live,
    }
    # "<" cannot end the element, nor begin a comment in it; JSON reads the same.
    return json.dumps(facts, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _finalist(row: Row) -> dict[str, object]:
    ends = [row[key] for key in ("expected", "low", "high")]
    known = all(isinstance(end, float) for end in ends)
    error = (float(row["high"] or 0) - float(row["low"] or 0)) / 2 if known else None
    return {
        **row,
        "expected": _number(row["expected"], error),
        "interval": f"[{_number(row['low'], error)}, {_number(row['high'], error)}]" if known else "",
        "search": _number(row["search"], error),
    }


def _number(value: Cell, error: float | None = None) -> str:
    return words.number(float(value), error) if isinstance(value, int | float) else ""


def _trial_table(snapshot: Snapshot) -> tuple[list[str], list[int], list[list[str]]]:
    """Headings, the places of columns of numbers, and the rows: best first, then those that run, then the others."""
    names = list(axis_names(snapshot))[:_MOST_COLUMNS]
    # Rows beyond are in the export: a table of thousands is slow to open and quick to be left.
    best = snapshot.best(_MOST_TRIALS)
    ranked = {trial.trial_id for trial in snapshot.best()}
    others = [trial for trial in [*snapshot.running, *snapshot.failed] if trial.trial_id not in ranked]
    noise = None if snapshot.leader is None else snapshot.leader.noise
    error = None if noise is None else 2 * noise
    rows = [_trial_row(trial, names, error) for trial in [*best, *others][:_MOST_TRIALS]]
    columns = [
        "trial",
        plain(snapshot.objective, 30),
        "state",
        "epochs",
        "seconds",
        *(plain(name, 30) for name in names),
    ]
    return columns, [1, 3, 4], rows


def _trial_row(trial: RecordedTrial, names: Sequence[str], error: float | None) -> list[str]:
    values = [trial.values.get(name, "") for name in names]
    spent = sum(float(run.outcome.get("seconds") or 0.0) for run in trial.searched)
    return [
        trial.trial_id,
        _number(trial.score, error),
        state_of(trial),
        str(max((run.num_epochs for run in trial.searched), default=0)),
        f"{spent:.3g}",
        *(f"{value:.3g}" if isinstance(value, float) else plain(value, 40) for value in values),
    ]


def _shown(num_shown: int, num_trials: int) -> str:
    return f"{words.counted(num_trials, 'trial')}" + (
        f", the best {num_shown} of them." if num_shown < num_trials else "."
    )


def _ensemble(snapshot: Snapshot) -> Iterator[str]:
    found = snapshot.ensemble
    if found is None:
        return
    members, metric = words.counted(len(found.get("weights") or {}), "member"), plain(found.get("metric"))
    gain, score = found.get("gain"), found.get("score")
    if gain is not None:
        beyond = "" if gain[1] > 0 else " It is not proven: the interval holds zero."
        yield f"{members} gain {metric} {words.interval(*gain)} over the best one alone.{beyond}"
    if found.get("refused"):
        yield "The ensemble was refused: the best member predicts alone."
    if score is not None:
        yield f"{metric} {words.number(score)} on the validation rows, combined by {plain(found.get('method'))}."
    yield from words.diversity(found.get("diversity"))
    yield from (plain(note, 300) for note in found.get("notes") or ())


def _records(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    search = snapshot.facts.get("search") or {}
    yield "objective", f"{plain(snapshot.objective, 60)} ({snapshot.direction})"
    for name in ("sampler", "scheduler"):
        if search.get(name):
            yield name, plain(search[name])
    if snapshot.facts.get("seed") is not None:
        yield "seed", plain(snapshot.facts["seed"])
    if snapshot.leader is not None and snapshot.leader.num_rows is not None:
        yield "validation rows", f"{snapshot.leader.num_rows:,}"
    for data in snapshot.facts.get("searched_data") or ():
        for name, text in (data.get("prints") or {}).items():
            yield f"{plain(name)} data", f"{plain(text)} (fingerprint, from trial {plain(data.get('first_trial'))})"
    known = snapshot.environment
    yield from ((plain(name), plain(version)) for name, version in (known.get("packages") or {}).items())
    for name in ("python", "backend", "platform", "processors"):
        if known.get(name) is not None:
            yield name, plain(known[name], 80)
    if snapshot.ended_by:
        yield "ended", plain(snapshot.ended_by, 300)
