"""The results of a search as rows, for reading, for files, for pandas."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from manyfit.core.causes import reason_of
from manyfit.core.html import MOST_ROWS, cell, piece, table
from manyfit.core.records import Ending, Values, num_inherited
from manyfit.report import terminal


@dataclasses.dataclass(frozen=True)
class Row:
    """One execution: what was tried, how it ended, what was measured at its best epoch."""

    trial_id: str
    execution: int
    status: str  # of the trial
    ending: str  # of the execution
    seed: int
    values: Values
    score: float | None  # the objective at the best epoch
    best_epoch: int | None  # counted from 0
    num_epochs: int
    metrics: dict[str, float]  # every metric at the best epoch
    seconds: float
    message: str | None

    @property
    def first_epoch(self) -> int:
        """The first one that it has trained itself, from 0: those before are its parent's, where it is a branch."""
        return num_inherited(self.values)

    def flat(self) -> dict[str, Any]:
        """The row with one entry per hyperparameter and per metric; a metric named like a value gets `metric/`."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values, metrics = row.pop("values"), row.pop("metrics")
        # A hyperparameter may be called "seed" or "score"; the fact keeps the plain name, since code reads it by that.
        row.update({(f"values/{name}" if name in row else name): value for name, value in values.items()})
        row.update({(f"metric/{name}" if name in row else name): value for name, value in metrics.items()})
        return row


class Results(Sequence[Row]):
    """Rows of a search, one per execution; trials that never finished an execution have one row, too.

    Example: `tuner.results().to_pandas().sort_values("score")`, or `print(tuner.results())`.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        curves: Sequence[dict[str, Any]],
        *,
        max_epochs: int | None = None,
        direction: str | None = None,
    ) -> None:
        self.rows = list(rows)
        self.curves = list(curves)
        """One mapping per execution and epoch: trial_id, execution, epoch, and every metric that was measured."""
        self.max_epochs = max_epochs
        """Epochs of a full training, where a scheduler decides how long trials train; else None."""
        self.direction = direction
        """ "max" or "min" of the objective; None: unknown."""

    @property
    def epochs_spent(self) -> int:
        """Epochs that all executions together have trained."""
        return sum(max(0, row.num_epochs - row.first_epoch) for row in self.rows)

    @property
    def epochs_full(self) -> int:
        """Epochs that they would have taken if no scheduler had stopped any."""
        # Only what a scheduler stopped would have trained on; a callback of the user's would have ended it anyway.
        return sum(
            self.max_epochs if self.max_epochs is not None and row.ending == Ending.STOPPED else row.num_epochs
            for row in self.rows
            if not row.first_epoch  # without a scheduler there are no branches
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | slice) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        flat = [{**row.flat(), "ended": _in_short(row)} for row in self.rows]
        names = dict.fromkeys(name for row in flat for name in row)
        hidden = {"message", "seed", "ending"}
        return terminal.table(flat, [name for name in names if name not in hidden])

    def _repr_html_(self) -> str:
        """Best first where the direction is known; a click on a heading sorts."""
        known = [row for row in self.rows if row.score is not None and math.isfinite(row.score)]
        ordered = sorted(known, key=self._loss) if self.direction is not None else known
        ordered += [row for row in self.rows if row.score is None or not math.isfinite(row.score)]
        names = list(dict.fromkeys(name for row in self.rows for name in row.values if not name.startswith("tuner/")))
        heads = ["trial", "run", "score", "status", "epochs", "seconds", *(cell(name, 30) for name in names)]
        rows = [
            [
                row.trial_id, str(row.execution + 1), cell(row.score), row.status.lower(), str(row.num_epochs),
                cell(row.seconds), *(cell(row.values.get(name)) for name in names),
            ]
            for row in ordered[:MOST_ROWS]
        ]  # fmt: skip
        lead = f"{len({row.trial_id for row in self.rows})} trials, {len(self.rows)} executions"
        notes = [f"{len(ordered) - len(rows):,} more: .to_pandas() has all."] if len(rows) < len(ordered) else []
        first = "" if self.direction is None else ", best first"
        return piece([lead + first], table(heads, rows, numeric={1, 2, 4, 5}, sortable=True), notes)

    def _loss(self, row: Row) -> float:
        assert row.score is not None  # our bug: only those with one are ordered
        return -row.score if self.direction == "max" else row.score

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`, hyperparameters and metrics as columns.

        Raises:
            ImportError: pandas is not installed: `pip install manyfit[pandas]`.
        """
        return _pandas().DataFrame([row.flat() for row in self.rows])

    def curves_to_pandas(self) -> Any:
        """The per-epoch curves as a `pandas.DataFrame`.

        Raises:
            ImportError: pandas is not installed: `pip install manyfit[pandas]`.
        """
        return _pandas().DataFrame(self.curves)


def _in_short(row: Row) -> str:
    """Why an execution ended, on one line."""
    return reason_of(row.message) or row.ending


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "to_pandas(): pandas is not installed. Type pip install manyfit[pandas], or iterate over the rows."
        ) from None
    return pandas
