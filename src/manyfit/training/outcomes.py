"""What `run_trial` and `HyperModel.fit` may return, as one history."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from manyfit.core.errors import FatalTypeError, FatalValueError, explain
from manyfit.core.history import History, append, mean_metrics, numbers_of
from manyfit.core.objective import DefaultObjective, Objective


def to_histories(returned: object, objective: Objective, where: str) -> list[dict[str, list[float | None]]]:
    """Turns what the user's function returned into one history per execution.

    Args:
        returned: a number to be minimised, a dict of metrics, a Keras `History`, or a list of these.
        objective: what is ranked.
        where: the function's name, for messages.

    Raises:
        FatalTypeError: None, an empty list, or something of another type.
        FatalValueError: a dict without the objective or with another thing than a number for it, or one number for
            several objectives.
    """
    if isinstance(returned, list) and returned:
        return [history for item in returned for history in to_histories(item, objective, where)]
    return [_to_history(returned, objective, where)]


def merge_histories(histories: list[dict[str, list[float | None]]]) -> History:
    """One history out of several: themselves when there is one, else the means of what each measured last."""
    if len(histories) == 1:
        return histories[0]
    rows = [{name: curve[-1] for name, curve in history.items() if curve[-1] is not None} for history in histories]
    return {name: [value] for name, value in mean_metrics(rows).items()}


def completed_by(reported: History, found: History) -> dict[str, list[float | None]]:
    """The curves that callbacks reported, completed by what the user's function returned.

    A returned curve that was reported is known already, and better: with the epochs that did not measure it. A
    single number describes the model at its end, so it belongs to the last epoch that was reported.

    Args:
        reported: from the callbacks; empty where the user's function did not pass them on.
        found: what the function returned.

    Example:

    >>> completed_by({"loss": [0.5, 0.4]}, {"val_loss": [0.6]})
    {'loss': [0.5, 0.4], 'val_loss': [None, 0.6]}
    """
    num_epochs = max((len(curve) for curve in reported.values()), default=0)
    history = {name: list(curve) for name, curve in reported.items()}
    for name, curve in found.items():
        if [value for value in history.get(name, ()) if value is not None] != list(curve):
            # A single number describes the model as it was handed back: after its last epoch.
            missing = num_epochs - len(curve) if len(curve) == 1 else 0
            history[name] = [*[None] * missing, *curve]
    return history


def _to_history(returned: object, objective: Objective, where: str) -> dict[str, list[float | None]]:
    """One history of what the user's function returned.

    KerasTuner takes a `History`, a dict or a number, and programs rely on all three, so they are told apart by what
    they can do and not by their class. What cannot be meant (no objective in it, None, a text) ends the search: every
    further trial would return the same.
    """
    # By its attribute, not its class: wrappers of Keras's `History` are common in programs written for KerasTuner.
    curves = getattr(returned, "history", None)
    if not isinstance(curves, Mapping) and _is_history(returned):
        curves = returned
    known = curves if isinstance(curves, Mapping) else returned
    if isinstance(known, Mapping) and isinstance(objective, DefaultObjective) and not objective.has_value(known):
        raise FatalTypeError(
            explain(
                where,
                f"{sorted(known)}. Expected the return value of {where} to be a single float when `objective` is left "
                "unspecified",
                "a number, or objective= where the tuner is made",
                f'Type objective="{next(iter(known), "loss")}", say, or return one number.',
            )
        )
    if isinstance(curves, Mapping):
        return _curves(curves)
    if isinstance(returned, Mapping):
        found = numbers_of(returned)
        _check_objective(returned, found, objective, where)
        return {name: [value] for name, value in found.items()}
    # True is a number for Python, and a mistake of whoever returns it.
    if not isinstance(returned, bool | np.bool_) and list(number := numbers_of({"": returned})) == [""]:
        return _from_number(number[""], objective, where)
    raise FatalTypeError(_not_understood(returned, where))


def _is_history(returned: object) -> bool:
    """Whether it is the dict of a `History`: a list per metric, as `return model.fit(...).history` gives it."""
    return (
        isinstance(returned, Mapping) and bool(returned) and all(isinstance(each, list) for each in returned.values())
    )


def _curves(curves: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """The curves of a `History`, whose entries may be arrays."""
    columns = {name: list(curve) if isinstance(curve, Iterable) else [curve] for name, curve in curves.items()}
    found: dict[str, list[float | None]] = {}
    for epoch in range(max(map(len, columns.values()), default=0)):
        logs = {name: column[epoch] for name, column in columns.items() if epoch < len(column)}
        append(found, numbers_of(logs), epoch)
    return found


def _check_objective(returned: Mapping[str, Any], found: Mapping[str, float], objective: Objective, where: str) -> None:
    """Checks that a dict of metrics has the objective, as a number.

    Raises:
        FatalValueError: it has not; the message says what it has.
    """
    if objective.has_value(found):
        return
    missing = next((name for name in objective.names if name not in found), objective.name)
    if missing not in returned:
        got, allowed = f"a dict with {sorted(returned)}", f"a dict with {', '.join(map(repr, objective.names))}"
        allowed += ". Expected the returned dict to contain the specified objective as a key"
        instead = "Add the objective to the dict, or change objective=."
    else:
        value = returned[missing]
        got = f"{value!r} of type {type(value).__name__} for {missing!r}"
        allowed = "a number for the objective"
        instead = f'Return {{"{missing}": float(...)}}, or raise kt.errors.FailedTrialError where there is none.'
        if any(name.startswith(f"{missing}[") for name in found):
            instead = f'Type objective=kt.Objective("{missing}[0]", "{objective.direction}"), or return the mean.'
    raise FatalValueError(explain(where, got, allowed, instead))


def _not_understood(returned: object, where: str) -> str:
    if returned is None:
        got, instead = f"The return value of {where} is None. Did you forget to return the metrics?", ""
    else:
        expected = f"Expected the return value of {where} to be one of these types"
        got = f"{returned!r} of type {type(returned).__name__}. {expected}"
        instead = " For a custom loop return one number."
    return explain(
        where,
        got,
        "a number, a dict, a keras.callbacks.History, or a list of these",
        f"Return model.fit(...).{instead}",
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
