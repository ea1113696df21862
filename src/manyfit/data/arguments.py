"""Arguments of `search` and `retrain`: checked before the first model is trained, and joined for a retraining."""

from __future__ import annotations

from collections.abc import Sequence

from manyfit.core.checks import whole_number
from manyfit.core.errors import UsageError, explain
from manyfit.core.objective import Objective
from manyfit.data.call import Call
from manyfit.data.rows import FitData, Rows

#: Arguments of `search` that make no sense once the validation rows are trained on.
VALIDATION_ARGUMENTS = frozenset(
    [
        "validation_data",
        "validation_split",
        "validation_freq",
        "validation_steps",
        "validation_batch_size",
    ]
)


def check_fit_arguments(
    call: Call,
    objective: Objective,
    *,
    has_validation: bool = False,
    max_epochs: int | None = None,
) -> None:
    """Checks the arguments of `search` that `model.fit` would refuse, or silently accept, later.

    Args:
        call: of `search`.
        objective: what is ranked.
        has_validation: whether validation rows come from elsewhere (folds).
        max_epochs: of a trial, where a scheduler says so; None: as the arguments say.

    Raises:
        UsageError: x and y of different length, no epochs, a `val_` objective without validation data, or one that no
            epoch measures (`validation_freq`).
    """
    call.rows.check_lengths("search(x, y)")
    validation_data = call.get("validation_data")
    if validation_data is not None and (validation := call.validation_rows()) is not None:
        validation.check_lengths("search(validation_data=(x, y))")
    epochs = call.get("epochs", 1)
    if isinstance(epochs, int) and epochs < 1:
        raise UsageError(explain("search(epochs=...)", epochs, "a whole number of at least 1", "Type epochs=10, say."))
    needs_validation = [name for name in objective.names if name.startswith("val_")]
    # Keras would train to the end and log no such metric; better said before the first epoch.
    if needs_validation and not has_validation and validation_data is None and not call.get("validation_split"):
        name = needs_validation[0]
        raise UsageError(
            explain(
                "search(...)",
                f'no validation data, with objective="{name}"',
                "validation_data= or validation_split=",
                f'Add validation_split=0.2, or type objective="{name.removeprefix("val_")}".',
            )
        )
    if needs_validation:
        _check_frequency(call.get("validation_freq", 1), epochs if max_epochs is None else max_epochs, needs_validation)


def _check_frequency(frequency: object, epochs: object, names: Sequence[str]) -> None:
    first = min(frequency, default=1) if isinstance(frequency, list | tuple | set) else frequency
    if not isinstance(first, int) or not isinstance(epochs, int) or first <= epochs:
        return
    raise UsageError(
        explain(
            "search(validation_freq=...)",
            f"validation_freq={frequency} with epochs={epochs}, so {names[0]} is never measured",
            "a first validation within the epochs of a trial",
            f"Type validation_freq=1, or epochs={first} or more.",
        )
    )


def check_retrain(top: object, x: FitData, y: FitData) -> None:
    """Checks the arguments of `retrain`.

    Raises:
        UsageError: `top` is neither a number of at least 1 nor ids of trials, y without x, or x and y of different
            length.
    """
    ids = isinstance(top, list | tuple) and len(top) > 0 and all(isinstance(one, str) for one in top)
    if not ids:
        allowed = "a whole number of at least 1, or a list of trial ids"
        whole_number("retrain(top=...)", top, allowed=allowed, instead="Type retrain(top=4), say.")
    if x is None and y is not None:
        raise UsageError(explain("retrain(x, y)", "y without x", "both or neither", "Add x=."))
    Rows.of(x, y).check_lengths("retrain(x, y)")


def joined_rows(where: str, call: Call) -> Rows:
    """Training and validation rows of a search as one.

    Args:
        where: who asks, for messages.
        call: of the search.

    Raises:
        UsageError: they cannot be joined: see `Rows.join`.
    """
    validation = call.validation_rows()
    if validation is None or call.get("validation_data") is None:
        return call.rows  # `validation_split` holds out a part of these
    return call.rows.join(validation, where)
