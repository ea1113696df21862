"""Checks at the oracle's door."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from manyfit.core.checks import whole_number, whole_number_or_none
from manyfit.core.errors import ProjectError, UsageError, explain
from manyfit.core.objective import Objective
from manyfit.oracles.trial import Trial


def check_limits(
    max_trials: int | None, max_retries_per_trial: int, max_consecutive_failed_trials: int, max_seconds: float | None
) -> None:
    """Checks the limits of a search.

    Raises:
        UsageError: a limit is no number, or below its least value.
    """
    whole_number_or_none("max_trials", max_trials, instead="Type max_trials=10, say.")
    whole_number("max_retries_per_trial", max_retries_per_trial, least=0, instead="Type 0 for no retries.")
    whole_number(
        "max_consecutive_failed_trials",
        max_consecutive_failed_trials,
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
    whole_number_or_none("seed", seed, least=0, instead="Type seed=0, say; leave it out for a random one.")


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


def check_measured(objective: Objective, metrics: Mapping[str, Any]) -> None:
    """Checks that an objective is among metrics.

    Raises:
        UsageError: it is not; the message lists what is there.
    """
    if objective.is_complete(metrics):
        return
    found = sorted(metrics)
    missing = next((name for name in objective.names if name not in metrics), objective.name)
    closest = (difflib.get_close_matches(missing, found, n=1, cutoff=0.0) or ["loss"])[0]
    raise UsageError(
        explain(
            "Objective value missing in metrics reported to the Oracle",
            f"expected: {list(objective.names)}, found: {found}",
            f"one of {', '.join(found) or 'the names that fit logs'}",
            f'Type objective="{closest}", or compile the model with that metric.',
        )
    )


def failure_report(trials: Sequence[Trial]) -> str:
    """Groups and counts why trials failed: one line per cause, most frequent first."""
    causes = Counter(f"{trial.ending}: {(trial.message or 'no message').strip().splitlines()[-1]}" for trial in trials)
    return "\n".join(f"{count} x {cause}" for cause, count in causes.most_common())
