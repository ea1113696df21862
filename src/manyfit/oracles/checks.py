"""Checks at the oracle's door, and the report of what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from manyfit.core.causes import reason_of
from manyfit.core.checks import whole_number, whole_number_or_none
from manyfit.core.errors import ProjectError, SearchError, UsageError, explain
from manyfit.core.records import Ending
from manyfit.oracles.trial import Trial
from manyfit.space.hyperparameters import HyperParameters


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


def check_seed(seed: int | None) -> None:
    """Checks the seed of a search.

    Raises:
        UsageError: it is neither None nor a whole number of at least 0.
    """
    whole_number_or_none("seed", seed, least=0, instead="Type seed=0, say; leave it out for a random one.")


def check_entries(owner: str, hyperparameters: HyperParameters | None, **allowed: bool) -> None:
    """Checks that new hyperparameters are forbidden only where there are some to begin with.

    Args:
        owner: the class of the oracle.
        hyperparameters: what the user passed.
        **allowed: `allow_new_entries` and `tune_new_entries`.

    Raises:
        UsageError: one of them is False, and nothing was passed.
    """
    for name, value in allowed.items():
        if hyperparameters is None and not value:
            raise UsageError(
                explain(
                    f"{owner}({name}=False)",
                    "no hyperparameters",
                    f"{name}=False only together with hyperparameters=",
                    "Add hyperparameters=hp with what may be tuned.",
                )
            )


def check_no_new_entries(known: HyperParameters, found: HyperParameters) -> None:
    """Checks that a build asked for nothing that the user did not list.

    Raises:
        SearchError: it did; the message names the entries.
    """
    names = {hp.name for hp in known.space}
    new = [hp.name for hp in found.space if hp.name not in names]
    if new:
        raise SearchError(
            explain(
                "`allow_new_entries` is `False`, but found new entries in the build function",
                ", ".join(new),
                f"only {', '.join(sorted(names)) or 'none'}",
                "Add them to hyperparameters=, or type allow_new_entries=True.",
            )
        )


def check_same_search(known: Mapping[str, object], asked: Mapping[str, object]) -> None:
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


def check_failures(last: Sequence[Trial], limit: int) -> None:
    """Gives up a search whose latest trials all ended with an exception.

    Models that are too large or diverge say something about a configuration; three of them in a row are no reason to
    give up.

    Args:
        last: the latest trials that ended.
        limit: so many are too many.

    Raises:
        SearchError: they all failed; the message counts the causes.
    """
    if len(last) == limit and all(trial.has_ended and trial.ending is Ending.FAILED for trial in last):
        raise SearchError(
            f"Number of consecutive failures exceeded the limit of {limit}.\n{failure_report(last)}\n"
            f"Allowed: fewer than {limit} trials in a row that fail. Mend the cause, or type "
            f"max_consecutive_failed_trials={10 * limit} where the tuner is made.\n{last[-1].message}"
        )


def failure_report(trials: Sequence[Trial]) -> str:
    """Counts why trials failed: one line per cause, most frequent first. Causes that differ in anything are two."""
    causes = Counter(f"{trial.ending}: {reason_of(trial.message) or 'no message'}" for trial in trials)
    return "\n".join(f"{count} x {cause}" for cause, count in causes.most_common())
