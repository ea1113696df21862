"""What `run_trial` and `HyperModel.fit` may return, as one history."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import FatalTypeError, FatalValueError, explain
from manyfit.core.history import History, mean_metrics
from manyfit.core.objective import Objective


def to_histories(returned: Any, objective: Objective, where: str) -> list[dict[str, list[float | None]]]:
    """Turns what the user's function returned into one history per execution.

    Args:
        returned: a number to be minimised, a dict of metrics, a Keras `History`, or a list of these.
        objective: what is ranked.
        where: the function's name, for messages.

    Raises:
        FatalTypeError: None, or something of another type.
        FatalValueError: a dict without the objective, or a number while an objective has a name.
    """
    if isinstance(returned, list):
        return [history for item in returned for history in to_histories(item, objective, where)]
    return [_to_history(returned, objective, where)]


def merge_histories(histories: list[dict[str, list[float | None]]]) -> History:
    """One history out of several: themselves when there is one, else the means of what each measured last."""
    if len(histories) == 1:
        return histories[0]
    rows = [{name: curve[-1] for name, curve in history.items() if curve[-1] is not None} for history in histories]
    return {name: [value] for name, value in mean_metrics(rows).items()}


def _to_history(returned: Any, objective: Objective, where: str) -> dict[str, list[float | None]]:
    curves = getattr(returned, "history", None)
    if isinstance(curves, Mapping):
        return {name: list(map(_number, curve)) for name, curve in curves.items()}
    if isinstance(returned, Mapping):
        if not objective.has_value(returned):
            raise FatalValueError(
                explain(
                    where,
                    f"a dict with {sorted(returned)}",
                    f"a dict with {', '.join(map(repr, objective.names))}. "
                    f"Expected the returned dict to contain the objective",
                    "Add the objective to the dict, or change objective=.",
                )
            )
        return {name: [_number(value)] for name, value in returned.items()}
    if isinstance(returned, numbers.Real) and not isinstance(returned, bool) or hasattr(returned, "__float__"):
        return _from_number(float(returned), objective, where)
    if returned is None:
        got, instead = f"The return value of {where} is None. Did you forget to return the metrics?", ""
    else:
        got, instead = f"{returned!r} of type {type(returned).__name__}", " For a custom loop return one number."
    raise FatalTypeError(
        explain(
            where, got, "a number, a dict, a keras.callbacks.History, or a list of these", f"Return model.fit(...).{instead}"
        )
    )


def _from_number(value: float, objective: Objective, where: str) -> dict[str, list[float | None]]:
    if len(objective.names) > 1:
        raise FatalValueError(
            explain(
                where,
                f"the number {value}, with the objectives {list(objective.names)}",
                "a dict with all of them",
                "Return a dict.",
            )
        )
    return {objective.name: [value]}


def _number(value: Any) -> float | None:
    if value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
