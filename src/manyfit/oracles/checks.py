"""Checks at the oracle's door."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyfit.core.errors import ProjectError, UsageError, explain


def check_limits(
    max_trials: int | None, max_retries_per_trial: int, max_consecutive_failed_trials: int, max_seconds: float | None
) -> None:
    """Checks the limits of a search.

    Raises:
        UsageError: a limit is no number, or below its least value.
    """
    _check_whole("max_trials", max_trials, least=1, optional=True, instead="Type max_trials=10, say.")
    _check_whole("max_retries_per_trial", max_retries_per_trial, least=0, instead="Type 0 for no retries.")
    _check_whole(
        "max_consecutive_failed_trials",
        max_consecutive_failed_trials,
        least=1,
        instead="Type a large number for never.",
    )
    if max_seconds is not None and (not isinstance(max_seconds, int | float) or not max_seconds > 0):
        raise UsageError(
            explain("max_seconds", repr(max_seconds), "more than 0", "Type max_seconds=3600 for one hour.")
        )


def check_seed(seed: Any) -> None:
    """Checks the seed of a search.

    Raises:
        UsageError: it is neither None nor a whole number of at least 0.
    """
    _check_whole("seed", seed, least=0, optional=True, instead="Type seed=0, say; leave it out for a random one.")


def _check_whole(name: str, value: Any, *, least: int, instead: str, optional: bool = False) -> None:
    if value is None and optional:
        return
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
        raise UsageError(explain(name, repr(value), f"a whole number of at least {least}", instead))


def check_same_search(known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Checks that a project belongs to this search.

    Raises:
        ProjectError: another objective, sampler, scheduler or seed; the message names both ways out.
    """
    changes = [
        f"{name} {known[name]} in the project, {asked[name]} asked for" for name in known if known[name] != asked[name]
    ]
    if changes:
        raise ProjectError(
            explain(
                "Error reloading `Oracle` from existing project",
                "; ".join(changes),
                "the search that the project was started with",
                "To keep the project, construct the tuner as before; to start anew, pass `overwrite=True` "
                "or another project_name=.",
            )
        )
