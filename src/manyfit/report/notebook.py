"""What notebooks show of a project: the verdict, what comes next, and its best trials."""

from __future__ import annotations

from manyfit.core.html import cell, piece, table
from manyfit.report import words
from manyfit.report.chart_rows import state_of
from manyfit.report.snapshot import Snapshot
from manyfit.report.words import plain
from manyfit.store.reading import rows_told

_MOST_TRIALS, _MOST_COLUMNS = 10, 10


@rows_told("open_project(...)")
def project_html(snapshot: Snapshot) -> str:
    """A project as a piece of HTML."""
    trials = [*snapshot.best(_MOST_TRIALS), *snapshot.running][:_MOST_TRIALS]
    names = snapshot.varied[:_MOST_COLUMNS]
    noise = None if snapshot.leader is None else snapshot.leader.noise
    error = None if noise is None else 2 * noise
    rows = [
        [
            trial.trial_id,
            "" if trial.score is None else words.number(trial.score, error),
            state_of(trial),
            *(cell(trial.values.get(name)) for name in names),
        ]
        for trial in trials
    ]
    after = words.next_step(snapshot)
    heads = ["trial", plain(snapshot.objective, 30), "state", *(plain(name, 30) for name in names)]
    return piece(
        [*words.verdict(snapshot), *([f"Next: {after}."] if after else [])],
        table(heads, rows, numeric={1}) if rows else "",
        [f"{words.name_of(snapshot.folder)}: {words.state(snapshot)}", *words.failures(snapshot.failed)[:3]],
    )
