"""The rows of a search: joined, counted, and recognised again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from manyfit.core.errors import UsageError, explain
from manyfit.training.fit_arguments import fit_data, num_rows, validation_rows

#: Arguments of `search` that make no sense once the validation rows are trained on.
VALIDATION_ARGUMENTS = frozenset(
    [
        "validation_data",
        "validation_split",
        "validation_freq",
        "validation_steps",
        "validation_batch_size",
        "epochs",
        "initial_epoch",
        "callbacks",
    ]
)


def joined_rows(where: str, fit_args: Sequence[Any], fit_kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Training and validation rows of a search as one x and one y.

    Args:
        where: the call, for messages.
        fit_args: positional arguments of the search.
        fit_kwargs: keyword arguments of the search.

    Raises:
        UsageError: they are no arrays, or have sample weights.
    """
    x, y = fit_data(fit_args, fit_kwargs)
    validation = fit_kwargs.get("validation_data")
    if validation is None:
        return x, y
    arrays = isinstance(x, np.ndarray) and isinstance(y, np.ndarray)
    if not arrays or not isinstance(validation, list | tuple) or fit_kwargs.get("sample_weight") is not None:
        raise UsageError(
            explain(
                where,
                "no x and y, while the data of the search cannot be joined to one array",
                "x= and y= with training and validation rows",
                "Type tuner.retrain(x=x_full, y=y_full).",
            )
        )
    return np.concatenate([x, validation[0]]), np.concatenate([y, validation[1]])


def counted_rows(fit_args: Sequence[Any], fit_kwargs: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many rows a search trained and validated on; None where there is no telling."""
    rows = num_rows(fit_data(fit_args, fit_kwargs)[0])
    if rows is None:
        return None
    validation = validation_rows(fit_args, fit_kwargs)
    held_out = 0 if validation is None else (num_rows(validation[0]) or 0)
    return (rows, held_out) if fit_kwargs.get("validation_data") is not None else (rows - held_out, held_out)


def fingerprint(*data: Any) -> str:
    """A short text that tells data apart: equal arrays give equal texts. What is no array counts by its type alone.

    Example:

    >>> fingerprint(np.zeros(3)) == fingerprint(np.zeros(3)), fingerprint(np.zeros(3)) == fingerprint(np.ones(3))
    (True, False)
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in data:
        _feed(digest, part)
    return digest.hexdigest()


def _feed(digest: Any, part: Any) -> None:
    if isinstance(part, Mapping):
        for name in sorted(part, key=str):
            digest.update(str(name).encode())
            _feed(digest, part[name])
    elif isinstance(part, list | tuple) and any(hasattr(one, "shape") for one in part):
        for one in part:
            _feed(digest, one)
    elif part is None or isinstance(part, bool | int | float | str):
        digest.update(repr(part).encode())
    elif hasattr(part, "shape") or isinstance(part, list | tuple):
        array = np.ascontiguousarray(part)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes())
    else:
        digest.update(type(part).__name__.encode())
