"""What a dashboard shows, as HTML: the list of projects, the bar above a report, a trial, two projects side by side.

Templates escape everything that they are given; what is written as it is was made here. The report itself is
`manyfit.report.page`.
"""

from __future__ import annotations

import functools
import importlib.resources
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jinja2
from jinja2.utils import markupsafe

from manyfit.core.causes import reason_of
from manyfit.core.errors import ManyfitError
from manyfit.core.records import Value
from manyfit.dashboard.guard import Door
from manyfit.dashboard.projects import ListedProject, Projects
from manyfit.report import words
from manyfit.report.chart_rows import finalist_rows
from manyfit.report.snapshot import RecordedTrial, Snapshot
from manyfit.report.words import plain

STATIC = {
    "report.css": ("manyfit.report", "text/css"),
    "dashboard.css": ("manyfit.dashboard", "text/css"),
    "dashboard.js": ("manyfit.dashboard", "text/javascript"),
}
"""Files that browsers load, with the room whose template folder they lie in."""

_MOST_ANSWERS = 5
_WIDTH, _HEIGHT, _LEFT, _BELOW = 320, 130, 8, 18
_environment = jinja2.Environment(
    loader=jinja2.PackageLoader("manyfit.dashboard"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@functools.cache
def static(name: str) -> str:
    """The text of one of the files in `STATIC`."""
    room, _ = STATIC[name]
    return (importlib.resources.files(room) / "templates" / name).read_text(encoding="utf-8")


def _frame(template: str, door: Door, **told: Any) -> str:
    told = {"is_refreshed": template != "message.html", "token": door.token, "home": "Manyfit", **told}
    return _environment.get_template(template).render(told)


def message(door: Door, title: str, headline: str, *sentences: str) -> str:
    """A page that says something."""
    return _frame("message.html", door, title=title, headline=headline, sentences=sentences)


# Where a search stands -------------------------------------------------------------------------------------------


def kind_of(snapshot: Snapshot) -> str:
    """ "runs", "died" or "rests"."""
    step = snapshot.activity
    if step is None or step.until is not None:
        return "rests"
    return "died" if snapshot.has_died else "runs"


def state_of(snapshot: Snapshot, now: float | None = None) -> str:
    """Whether somebody works on it, in words: "a search runs, process 17, last epoch 3 s ago"."""
    state = words.state(snapshot, now)
    return state.replace("last written", "last epoch") if kind_of(snapshot) == "runs" else state


def facts_of(snapshot: Snapshot, waiting: Sequence[str], now: float | None = None) -> dict[str, Any]:
    """What the bar asks for each second.

    Args:
        snapshot: the project.
        waiting: names of requests that nobody has taken yet.
        now: seconds since 1970; None: the clock's.
    """
    state = state_of(snapshot, now)
    if waiting:
        state += f"; {words.counted(len(waiting), 'request')} waiting"
    answers = [
        (str(one["taken_at"]), f"{_title_of(one)}: {plain(one['answer'], 300)}", bool(one["is_done"]))
        for one in snapshot.requests[-_MOST_ANSWERS:]
    ]
    return {"state": state, "kind": kind_of(snapshot), "answers": answers}


def _title_of(request: Mapping[str, Any]) -> str:
    details = request.get("details") or {}
    what = {"stop": "stop", "enqueue": "try values", "raise_limit": "raise a limit"}.get(str(request["what"]))
    return (
        what or f"{plain(str(request['what']).replace('_', ' '), 30)} {plain(details.get('trial_id', ''), 20)}".strip()
    )


def bar(door: Door, projects: Projects, place: ListedProject, snapshot: Snapshot, trial: str = "") -> str:
    """What stands above the pages of a project: where it stands, and what one may ask of its search."""
    best, plan = snapshot.best(1), snapshot.plan
    values = (best or snapshot.running or list(snapshot.trials))[:1]
    searched = {name: _short(value) for one in values for name, value in _shown(one)}
    return _environment.get_template("bar.html").render(
        token=door.token,
        key=place.key,
        name=place.name,
        trial=trial,
        state=state_of(snapshot),
        is_single=projects.is_single,
        is_read_only=door.is_read_only,
        max_trials="" if plan is None or plan.max_trials is None else plan.max_trials,
        max_seconds="" if plan is None or plan.max_seconds is None else f"{plan.max_seconds:g}",
        values=json.dumps(searched, ensure_ascii=False),
    )


def _shown(trial: RecordedTrial) -> list[tuple[str, Value]]:
    return [(name, value) for name, value in trial.values.items() if not name.startswith("tuner/")]


def _short(value: Value) -> Value:
    """A value to be changed by hand: nobody types sixteen digits."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


# The list ----------------------------------------------------------------------------------------------------------


def list_of(door: Door, projects: Projects, now: float | None = None) -> str:
    """All projects: what the best trial is worth, and whether somebody works there."""
    rows = [_listed(projects, place, now) for place in projects.places()]
    title = f"{words.counted(len(rows), 'project')} in {plain(projects.folder, 60)}"
    return _frame("list.html", door, title=title, rows=rows)


def _listed(projects: Projects, place: ListedProject, now: float | None) -> dict[str, Any]:
    told: dict[str, Any]
    try:
        _, snapshot = projects.snapshot(place)
    except ManyfitError as error:
        told = {"why": plain(error, 300)}
    else:
        odd = kind_of(snapshot) == "died"
        best = best_of(snapshot)
        told = {
            "why": "",
            "trials": f"{len(snapshot.trials):,}",
            "best": best,
            "state": state_of(snapshot, now),
            "is_odd": odd,
        }
    return {"key": place.key, "name": place.name, **told}


def expected_of(snapshot: Snapshot) -> tuple[float, float, float] | None:
    """What the best trial should show when it is trained afresh, with its interval; None: its luck is not known."""
    best = snapshot.best(1)
    if not best:
        return None
    facts, leader = best[0].confirmed or {}, snapshot.leader
    ends = [facts.get("score"), facts.get("low"), facts.get("high")]
    if not facts and leader is not None and leader.trial_id == best[0].trial_id:
        ends = [leader.expected, leader.low, leader.high]
    known = [float(end) for end in ends if end is not None and math.isfinite(end)]
    return (known[0], known[1], known[2]) if len(known) == 3 else None


def best_of(snapshot: Snapshot) -> str:
    """The best trial in a few words, with the interval of its score."""
    best = snapshot.best(1)
    if not best or best[0].score is None:
        return "no score yet"
    known = expected_of(snapshot)
    name = plain(snapshot.objective, 40)
    return (
        f"{name} {words.number(best[0].score)}, luck unknown" if known is None else f"{name} {words.interval(*known)}"
    )


# A trial -----------------------------------------------------------------------------------------------------------


def trial_page(door: Door, above: str, place: ListedProject, snapshot: Snapshot, trial: RecordedTrial) -> str:
    """One trial: values, curves, runs, why it ended, and what people have noted."""
    headline, *sentences = _verdict_of(snapshot, trial)
    return _frame(
        "trial.html",
        door,
        title=f"Trial {plain(trial.trial_id)}, {place.name}",
        bar=markupsafe.Markup(above),  # made by `bar`, which escapes
        headline=headline,
        sentences=sentences,
        notes=snapshot.notes(trial.trial_id),
        values=[
            (plain(name, 200), f"{value:.5g}" if isinstance(value, float) else plain(value, 300))
            for name, value in _shown(trial)
        ],
        curves=list(_curves(snapshot, trial)),
        objective=plain(snapshot.objective, 40),
        runs=[[*words.run_cells(run), plain(run.outcome.get("seed", ""), 20)] for run in trial.runs],
        message="\n".join(plain(line, 300) for line in (trial.message or "").strip().splitlines()[-20:]),
    )


def _verdict_of(snapshot: Snapshot, trial: RecordedTrial) -> list[str]:
    """What a trial is worth, and how sure that is, in sentences."""
    name, metric = f"Trial {plain(trial.trial_id)}", plain(snapshot.objective, 60)
    if trial.score is None:
        reason = reason_of(trial.message) or trial.ending
        return [f"{name} failed: {plain(reason, 120)}" if trial.has_failed else f"{name}: {trial.status.lower()}"]
    rows = {str(row["trial"]): row for row in finalist_rows(snapshot)}
    ends = [rows.get(trial.trial_id, {}).get(end) for end in ("expected", "low", "high")]
    known = [float(end) for end in ends if isinstance(end, int | float)]
    if len(known) == 3:
        error = (known[2] - known[1]) / 2
        return [
            f"{name}, trained afresh, should show {metric} {words.interval(known[0], known[1], known[2])}.",
            f"The search said {words.number(trial.score, error)}.",
        ]
    noise = None if snapshot.leader is None else snapshot.leader.noise
    if noise is None:
        return [f"{name}: {metric} {words.number(trial.score)}; how much of it is luck is not known"]
    score, luck = words.number(trial.score, 2 * noise), words.number(2 * noise, 2 * noise)
    return [f"{name}: {metric} {score} ±{luck}, which is the luck of a run"]


def _curves(snapshot: Snapshot, trial: RecordedTrial) -> Iterator[dict[str, object]]:
    """Curves of the search's runs by metric, the objective first."""
    runs = trial.searched
    names = list(dict.fromkeys(name for run in runs for name in run.curves))
    names.sort(key=lambda name: (name != snapshot.objective, not name.startswith("val_")))
    for name in names[:8]:
        curves = [run.curves.get(name, []) for run in runs]
        finite = [value for curve in curves for value in curve if value is not None and math.isfinite(value)]
        if finite:
            told = (
                f"from {words.number(min(finite))} to {words.number(max(finite))}, over {max(map(len, curves))} epochs"
            )
            yield {"metric": plain(name, 60), "drawing": markupsafe.Markup(drawn(curves)), "told": told}


def drawn(curves: Sequence[Sequence[float | None]]) -> str:
    """Curves as SVG without scripts or styles of its own: numbers only, so there is nothing to escape.

    Args:
        curves: a number per epoch each; None and NaN are gaps.

    Example:

    >>> drawn([[0.0, 1.0]]).count("polyline"), drawn([[None]])
    (1, '<svg class="curve" viewBox="0 0 320 130" role="img"></svg>')
    """
    finite = [value for curve in curves for value in curve if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    longest = max(map(len, curves), default=0)
    shapes = []
    if finite:
        bottom = _HEIGHT - _BELOW
        shapes.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{bottom}" y2="{bottom}"/>')
        shapes.append(f'<text x="{_LEFT}" y="{_HEIGHT - 5}">1</text>')
        shapes.append(f'<text x="{_WIDTH - _LEFT}" y="{_HEIGHT - 5}" text-anchor="end">{longest}</text>')
    for curve in curves:
        points = [
            (
                _LEFT + (_WIDTH - 2 * _LEFT) * (epoch / max(1, longest - 1)),
                8 + (_HEIGHT - _BELOW - 16) * (1 - ((value - low) / (high - low) if high > low else 0.5)),
            )
            for epoch, value in enumerate(curve)
            if value is not None and math.isfinite(value)
        ]
        if len(points) == 1:
            shapes.append(f'<circle cx="{points[0][0]:.1f}" cy="{points[0][1]:.1f}" r="3"/>')
        elif points:
            shapes.append(f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    return f'<svg class="curve" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(shapes)}</svg>'


# Two projects ------------------------------------------------------------------------------------------------------


def compare_page(door: Door, sides: Sequence[tuple[ListedProject, Snapshot]]) -> str:
    """Two projects side by side, and whether their best trials can be told apart."""
    headline, *sentences = difference(sides)
    rows: list[tuple[str, ...]] = [
        ("best", *(best_of(seen) for _, seen in sides)),
        ("state", *(state_of(seen) for _, seen in sides)),
        ("trials", *(f"{len(seen.trials):,}, {len(seen.failed):,} failed" for _, seen in sides)),
        ("time", *(words.time_line(seen.time(), seen.seconds()) for _, seen in sides)),
        ("validation rows", *(_rows_of(seen) for _, seen in sides)),
        ("programs", *(words.programs_line(seen) or "" for _, seen in sides)),
    ]
    best = [(seen.best(1) or [None])[0] for _, seen in sides]  # type: ignore[list-item]  # None: there is none
    names = dict.fromkeys(name for one in best if one is not None for name in one.values)
    for name in names:
        if not name.startswith("tuner/"):
            values = ["" if one is None or name not in one.values else one.values[name] for one in best]
            rows.append((plain(name, 60), *(words.values({name: value})[len(plain(name, 30)) :] for value in values)))
    told = [{"key": place.key, "name": place.name} for place, _ in sides]
    return _frame(
        "compare.html", door, title="Two projects", headline=headline, sentences=sentences, sides=told, rows=rows
    )


def _rows_of(snapshot: Snapshot) -> str:
    leader = snapshot.leader
    return "unknown" if leader is None or leader.num_rows is None else f"{leader.num_rows:,}"


def difference(sides: Sequence[tuple[ListedProject, Snapshot]]) -> list[str]:
    """How the best trials of two projects differ, in sentences, most important first."""
    (one, a), (other, b) = sides
    if (a.objective, a.direction) != (b.objective, b.direction):
        first, second = plain(a.objective, 40), plain(b.objective, 40)
        return [f"Two objectives: {first} and {second} cannot be compared."]
    known = expected_of(a), expected_of(b)
    if known[0] is None or known[1] is None:
        which = one.name if known[0] is None else other.name
        return [f"How much of the best score of {which} is luck is not known, so nobody can say which is better."]
    (expected, low, high), (other_expected, least, most) = known[0], known[1]
    gap = (expected - other_expected) * (1.0 if a.direction == "max" else -1.0)
    half = math.hypot((high - low) / 2, (most - least) / 2)
    better, worse = (one, other) if gap >= 0 else (other, one)
    told = f"{plain(a.objective, 40)} by {words.interval(abs(gap), abs(gap) - half, abs(gap) + half)}"
    sure = abs(gap) > half
    return [
        f"{better.name} is better than {worse.name}: {told}."
        if sure
        else f"{better.name} and {worse.name} cannot be told apart: they differ in {told}.",
        "The two intervals count as independent. Each search was made once: manyfit compare A B takes a folder of "
        "repetitions for each.",
    ]


def report_of(door: Door, projects: Projects, place: ListedProject, token: str, snapshot: Snapshot) -> str:
    """The report of a project under its bar, which asks for what is new."""
    from manyfit.report.page import page  # draws with packages that the other pages do without

    return page(
        snapshot,
        live=f"/p/{place.key}/live?seen={token}",
        above=f"<style>{static('dashboard.css')}</style>{bar(door, projects, place, snapshot)}",
        scripts=[static("dashboard.js")],
        now=time.time(),
    )
