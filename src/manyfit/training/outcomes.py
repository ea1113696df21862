"""What `run_trial` and `HyperModel.fit` may return, as one history."""

from __future__ import annotations

import numbers
from collections.abc import Mapping

from manyfit.core.errors import FatalTypeError, FatalValueError, explain
from manyfit.core.history import History, mean_metrics
from manyfit.core.objective import DefaultObjective, Objective


def to_histories(returned: object, objective: Objective, where: str) -> list[dict[str, list[float | None]]]:
    """Turns what the user's function returned into one history per execution.

    Args:
        returned: a number to be minimised, a dict of metrics, a Keras `History`, or a list of these.
        objective: what is ranked.
        where: the function's name, for messages.

    Raises:
        FatalTypeError: None, an empty list, or something of another type.
        FatalValueError: a dict without the objective, or a number while an objective has a name.
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
        return {name: list(map(_number, curve)) for name, curve in curves.items()}
    if isinstance(returned, Mapping):
        if not objective.has_value(returned):
            raise FatalValueError(
                explain(
                    where,
                    f"a dict with {sorted(returned)}",
                    f"a dict with {', '.join(map(repr, objective.names))}. "
                    "Expected the returned dict to contain the specified objective as a key",
                    "Add the objective to the dict, or change objective=.",
                )
            )
        return {name: [_number(value)] for name, value in returned.items()}
    # True is a number for Python, and a mistake of whoever returns it.
    if (isinstance(returned, numbers.Real) and not isinstance(returned, bool)) or hasattr(returned, "__float__"):
        return _from_number(float(returned), objective, where)
    if returned is None:
        got, instead = f"The return value of {where} is None. Did you forget to return the metrics?", ""
    else:
        expected = f"Expected the return value of {where} to be one of these types"
        got = f"{returned!r} of type {type(returned).__name__}. {expected}"
        instead = " For a custom loop return one number."
    raise FatalTypeError(
        explain(
            where,
            got,
            "a number, a dict, a keras.callbacks.History, or a list of these",
            f"Return model.fit(...).{instead}",
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


def _number(value: object) -> float | None:
    if value is None:
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # what it cannot take is why it stands in a `try`
    except (TypeError, ValueError):
        return None
