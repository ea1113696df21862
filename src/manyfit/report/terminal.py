"""Lines on the terminal, in KerasTuner's formats: programs and people read them."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.untrusted import shown


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel; IPython being installed, or a console of it, is none."""
    # Looked up and not imported: who runs in a notebook has imported it.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell" or type(shell).__module__.startswith("google.colab")


def space_summary(hyperparameters: Sequence[Any]) -> str:
    """The text of `search_space_summary`: a name and class, and the settings, for each hyperparameter."""
    lines = ["Search space summary", f"Default search space size: {len(hyperparameters)}"]
    for hyperparameter in hyperparameters:
        config = dict(hyperparameter.get_config())
        lines += [f"{config.pop('name')} ({type(hyperparameter).__name__})", str(config)]
    return shown("\n".join(lines))


def trial_begin(number: int, values: Mapping[str, Any], best_values: Mapping[str, Any] | None) -> str:
    """The table that is shown when a trial starts."""
    lines = ["", f"Search: Running Trial #{number}", ""]
    if not values:
        return shown("\n".join([*lines, "default configuration", ""]))
    lines.append(_columns("Value", "Best Value So Far", "Hyperparameter"))
    for name, value in values.items():
        best = "?" if best_values is None else _short(best_values.get(name, "?"))
        lines.append(_columns(_short(value), best, name))
    return shown("\n".join([*lines, ""]))


def trial_end(
    number: int, seconds: float, *, objective: str, score: float | None, best: float | None, elapsed_seconds: float
) -> str:
    """The lines that are shown when a trial ends."""
    lines = ["", f"Trial {number} Complete [{duration(seconds)}]"]
    if score is not None:
        lines.append(f"{objective}: {score}")
    lines += ["", f"Best {objective} So Far: {best}", f"Total elapsed time: {duration(elapsed_seconds)}"]
    return shown("\n".join(lines))


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, with days where there are any.

    Example:

    >>> duration(3671), duration(90000)
    ('01h 01m 11s', '1d 01h 00m 00s')
    """
    days, rest = divmod(int(seconds), 24 * 3600)
    text = time.strftime("%Hh %Mm %Ss", time.gmtime(rest))
    return f"{days}d {text}" if days else text


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A plain-text table; numbers to the right with four significant digits, texts to the left.

    Example:

    >>> print(table([{"model": "mlp", "loss": 0.123456}], ["model", "loss"]))
    model    loss
    mlp    0.1235
    """
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(columns)]
    right = [all(row.get(column) is None or _is_number(row[column]) for row in rows) for column in columns]
    lines = []
    for line in [list(columns), *cells]:
        padded = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip())
    return shown("\n".join(lines))


def _columns(left: str, middle: str, right: str) -> str:
    return f"{left:<18}|{middle:<18}|{right}"


def _short(value: object) -> str:
    if _is_number(value):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= 15 else f"{text[:15]}..."


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
