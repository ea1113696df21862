"""What a step will take, by what such steps took: log-linear in rows and parameters, by medians.

Cost models of low variance are enough, and better than flexible ones while little is known (Guinet et al. 2020). So a
step of a structure that was measured takes what it took there, and one of another takes what all have taken, moved
along a line whose slope is the median of the slopes between measurements (Theil 1950, Sen 1968): one that waited for a
busy machine moves neither. Slopes are never below 0: more rows or parameters are never predicted to take less.

    log(seconds of one) = level + slope of rows * log(rows) + slope of parameters * log(parameters)
    seconds of several epochs = epochs * seconds of one
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

Step: TypeAlias = Literal["build", "compile", "epoch", "predict"]

_RECENT = 5  # measurements of one structure that count: machines, and what lies in caches, change
_FEWEST = 1e-6  # seconds: what takes no time has no logarithm

#: What is believed of the slopes of parameters before there is anything to fit.
_USUAL_SLOPE = {"build": 0.1, "compile": 0.1, "epoch": 0.5, "predict": 0.5}
_STEEPEST = 1.5  # of parameters: two measurements that lie close to each other can say anything

#: Steps that read rows take as long as there are rows; building and compiling do not look at them.
_SLOPE_OF_ROWS = {"build": 0.0, "compile": 0.0, "epoch": 1.0, "predict": 1.0}


@dataclasses.dataclass(frozen=True, slots=True)
class Measurement:
    """One step that was timed.

    Attributes:
        step: which.
        structure: names what was trained; of equal names, costs are alike but for the rows.
        rows: that were read.
        parameters: of the model.
        seconds: of one of it: one build, one epoch.
    """

    step: Step
    structure: str
    rows: int
    parameters: int
    seconds: float


def predicted_seconds(
    step: Step, structure: str, known: Sequence[Measurement], *, rows: int = 1, parameters: int = 1, count: int = 1
) -> float | None:
    """What a step will take.

    Args:
        step: which.
        structure: of what.
        known: in the order in which they were measured.
        rows: that it reads.
        parameters: of the model.
        count: how often it is done: epochs, say.

    Returns:
        Seconds; None where no such step was ever measured.

    Example: twice the rows take twice as long; of a larger model that nobody has timed, the others tell.

    >>> known = [Measurement("epoch", "a", 1000, 100, 0.2), Measurement("epoch", "b", 1000, 10_000, 2.0)]
    >>> round(predicted_seconds("epoch", "a", known, rows=2000, parameters=100, count=10), 3)
    4.0
    >>> round(predicted_seconds("epoch", "c", known, rows=1000, parameters=1000), 3)
    0.632
    >>> predicted_seconds("build", "a", known) is None
    True
    """
    alike = [one for one in known if one.step == step and math.isfinite(one.seconds)]
    own = [one for one in alike if one.structure == structure][-_RECENT:]
    if not alike:
        return None
    of_rows, slope = _SLOPE_OF_ROWS[step], 0.0 if own else _slope(step, alike)
    levels = [_level(one, of_rows) - slope * math.log(max(1, one.parameters)) for one in own or alike]
    # Of an even number the mean of the two in the middle: between two measurements lies what is between them.
    log_seconds = statistics.median(levels) + of_rows * math.log(max(1, rows)) + slope * math.log(max(1, parameters))
    return count * math.exp(log_seconds)


def _level(one: Measurement, of_rows: float) -> float:
    """Its logarithm, of one row."""
    return math.log(max(one.seconds, _FEWEST)) - of_rows * math.log(max(1, one.rows))


def _slope(step: Step, measured: Iterable[Measurement]) -> float:
    """Of parameters: the median between structures of different sizes, what is usual being one of them."""
    by_structure: dict[tuple[str, int], list[float]] = {}
    for one in measured:
        by_structure.setdefault((one.structure, max(1, one.parameters)), []).append(_level(one, _SLOPE_OF_ROWS[step]))
    points = [(math.log(size), statistics.median(levels)) for (_, size), levels in by_structure.items()]
    slopes = [
        (other[1] - one[1]) / (other[0] - one[0])
        for one, other in itertools.combinations(points, 2)
        if abs(other[0] - one[0]) > math.log(1.5)
    ]
    return min(max(statistics.median([*slopes, _USUAL_SLOPE[step]]), 0.0), _STEEPEST)
