"""The display for people at an interactive terminal: a coloured table per trial that ended, and what is left."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import UsageError, explain
from manyfit.report.terminal import duration, in_notebook

DISPLAYS = ("auto", "plain", "rich", "lines")


def check_display(display: object) -> str:
    """The name of a display.

    Raises:
        UsageError: another name.
    """
    if display not in DISPLAYS:
        raise UsageError(explain("display", repr(display), ", ".join(DISPLAYS), 'Type display="plain", say.'))
    return display


def is_rich(display: str) -> bool:
    """Whether to print for people: where that is asked for, or "auto" meets an interactive terminal."""
    return display == "rich" or (display == "auto" and sys.stdout.isatty() and not in_notebook())


def is_terminal() -> bool:
    """Whether standard output is a terminal whose lines can be redrawn."""
    return sys.stdout.isatty() and not in_notebook()


def trial_line(
    trial_id: str,
    values: Mapping[str, Any],
    *,
    status: str,
    seconds: float,
    score: float | None,
    best: float | None,
    objective: str,
    num_ended: int,
    max_trials: int | None,
    elapsed_seconds: float,
) -> None:
    """Prints a trial that ended, and where the search stands.

    Args:
        trial_id: the trial.
        values: its hyperparameters.
        status: how it ended.
        seconds: how long it took.
        score: its score, or None.
        best: the best score so far, or None.
        objective: the objective's name.
        num_ended: how many trials have ended.
        max_trials: how many there will be, or None.
        elapsed_seconds: of the whole search.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Trial {trial_id}: {status.lower()} in {duration(seconds)}", title_justify="left")
    table.add_column("hyperparameter")
    table.add_column("value", justify="right")
    for name, value in values.items():
        table.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
    is_best = score is not None and score == best
    table.add_row(objective, "-" if score is None else f"{score:.5g}", style="bold green" if is_best else "bold")
    console = Console(file=sys.stdout)
    console.print(table)
    of_all = "" if max_trials is None else f" of {max_trials}"
    found = "none yet" if best is None else f"{best:.5g}"
    console.print(f"{num_ended}{of_all} trials, best {objective} {found}, {duration(elapsed_seconds)}", highlight=False)
