"""Which display is used where, and the coloured table per trial for terminals on which others print, too."""

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


def style_of(display: str, *, redraws: bool, keras_tuner: bool = False) -> str:
    """How a call is shown, for what was asked: "live", "notebook", "lines", "tables" or "plain".

    Args:
        display: as `check_display` has it.
        redraws: whether nothing else prints while it is under way; Keras's bars may.
        keras_tuner: whether the program was written for KerasTuner: other programs may read its lines.
    """
    if display in ("plain", "lines"):
        return display
    if in_notebook():
        return "notebook"
    if sys.stdout.isatty():
        return "live" if redraws else "tables"
    if display == "rich":
        return "tables"
    return "plain" if keras_tuner else "lines"


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
    from rich.table import Table

    from manyfit.report.pages import ShownConsole  # rich takes a while to load

    table = Table(title=f"Trial {trial_id}: {status.lower()} in {duration(seconds)}", title_justify="left")
    table.add_column("hyperparameter")
    table.add_column("value", justify="right")
    for name, value in values.items():
        table.add_row(name, f"{value:.5g}" if isinstance(value, float) else str(value))
    is_best = score is not None and score == best
    table.add_row(objective, "-" if score is None else f"{score:.5g}", style="bold green" if is_best else "bold")
    console = ShownConsole(file=sys.stdout, markup=False)
    console.print(table)
    of_all = "" if max_trials is None else f" of {max_trials}"
    found = "none yet" if best is None else f"{best:.5g}"
    console.print(f"{num_ended}{of_all} trials, best {objective} {found}, {duration(elapsed_seconds)}", highlight=False)
