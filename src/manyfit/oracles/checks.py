"""Checks at the oracle's door, and the report of what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from manyfit.core.causes import reason_of
from manyfit.core.checks import did_you_mean, is_whole, whole_number, whole_number_or_none
from manyfit.core.errors import ProjectError, SearchError, UsageError, explain, warn_user
from manyfit.core.records import Ending
from manyfit.oracles.book import TrialBook
from manyfit.oracles.commits import RELOADING, Store
from manyfit.oracles.trial import Trial
from manyfit.samplers.base import Sampler
from manyfit.schedulers.base import REPLACED_ENDINGS
from manyfit.space.hyperparameters import HyperParameters


class UntypedLimit(int):
    """A limit that is a default: nobody typed it, and a call with limits of its own does not heed it.

    Example:

    >>> UNTYPED_TRIALS, UNTYPED_TRIALS == 10, isinstance(10, UntypedLimit)
    (10, True, False)
    """


UNTYPED_TRIALS = UntypedLimit(10)  # KerasTuner's number of trials
_MOST_UNTRAINED = 100  # trials in a row that fail, are too large or run out of memory, where no `max_trials` ends them


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


def search_of(store: Store) -> dict[str, Any] | None:
    """The search that a project was started with, and its seed; None: the project is a new one.

    Raises:
        ProjectError: it is none that Manyfit writes, or there are trials and no search.
    """
    known, seed = store.get("search"), store.get("seed")
    if known is None and not store.trials():
        return None
    if not isinstance(known, dict) or not is_whole(seed):
        raise ProjectError(
            explain(
                RELOADING,
                f"trials of a search {known!r} with the seed {seed!r}",
                "a project as Manyfit writes it",
                "Restore the project from a copy, or search again with overwrite=True.",
            )
        )
    return {**known, "seed": seed}


def check_same_search(known: Mapping[str, object], asked: Mapping[str, object], *, with_seed: bool = True) -> None:
    """Checks that a project belongs to this search.

    Args:
        known: the project's, as `search_of` tells.
        asked: the same of this search.
        with_seed: the seeds are compared, too.

    Raises:
        ProjectError: another objective, sampler, scheduler or seed; the message names both ways out.
    """
    changes = [
        f"{name} {value} in the project, {asked.get(name)} asked for"
        for name, value in known.items()
        if value != asked.get(name) and (with_seed or name != "seed")
    ]
    if changes:
        raise ProjectError(
            explain(
                RELOADING,
                "; ".join(changes),
                "the search that the project was started with",
                "To keep the project, construct the tuner as before; to start anew, pass `overwrite=True` "
                "or another project_name=.",
            )
        )


def failed_in_a_row(book: TrialBook, limit: int, *, is_endless: bool = False) -> list[Trial]:
    """The latest trials that ended, if so many of them in a row failed that a search is to be given up; else none.

    Models that are too large, too slow or diverge say something about a configuration; three of them in a row are no
    reason to give up. But where every model is too large, a search without `max_trials` would replace them for ever.

    Args:
        book: the trials.
        limit: so many exceptions in a row are too many.
        is_endless: whether no `max_trials` ends the search.
    """
    rules: list[tuple[int, Callable[[Trial], bool]]] = [(limit, _is_broken)]
    rules += [(_MOST_UNTRAINED, lambda trial: trial.ending in REPLACED_ENDINGS)] if is_endless else []
    for number, is_failure in rules:
        last = [book.trials[trial_id] for trial_id in book.ended[-number:]]
        if len(last) == number and all(trial.has_ended and is_failure(trial) for trial in last):
            return last
    return []


def _is_broken(trial: Trial) -> bool:
    """Whether a trial failed in a way that says more of the program than of its configuration."""
    # One that had not trained an epoch when its time was up hangs, or has less time than any trial needs to compile.
    hangs = trial.ending is Ending.TOO_SLOW and not any(run.num_epochs for run in trial.executions.values())
    return hangs or trial.ending is Ending.FAILED


def check_failures(book: TrialBook, limit: int, *, is_endless: bool) -> None:
    """Gives up a search whose latest trials all failed: see `failed_in_a_row`.

    Raises:
        SearchError: they all failed; the message counts the causes.
    """
    if last := failed_in_a_row(book, limit, is_endless=is_endless):
        instead = f"type max_consecutive_failed_trials={10 * limit}" if len(last) == limit else "set max_trials="
        got = f"Number of consecutive failures exceeded the limit of {len(last)}.\n{failure_report(last)}".rstrip(".")
        allowed = f"fewer than {len(last)} trials in a row that fail"
        instead = f"Mend the cause, or {instead} where the tuner is made.\n{last[-1].message}"
        raise SearchError(explain("search(...)", got, allowed, instead))


def check_any_completed(trials: Iterable[Trial], suspect: Callable[[], str]) -> None:
    """Checks, at the end of a search, that a trial has a score.

    Args:
        trials: of the search.
        suspect: says what of the data may be the cause, "" for nothing; asked only where all failed.

    Raises:
        SearchError: all failed; the message counts the causes.
    """
    trials = list(trials)
    failed = [trial for trial in trials if trial.has_failed]
    # None failed either: the search was stopped by a limit before a trial ended, which is no error.
    if not failed or any(trial.is_completed for trial in trials):
        return
    got = f"all {len(failed)} trials failed, so there is nothing to rank. Causes:\n{failure_report(failed)}"
    instead = "See tuner.results() for each trial's message, mend the cause, and search with overwrite=True."
    allowed = "at least one trial that ends with a score"
    raise SearchError(explain("search(...)", f"{got}\n{suspect() or 'None has a score'}", allowed, instead))


def warn_of_unmet_beliefs(sampler: Sampler | None, space: HyperParameters) -> None:
    """Warns of beliefs about hyperparameters that no trial of a search had: misspelt, or behind a condition never met.

    Args:
        sampler: with the beliefs that it was given; None: there is none.
        space: all hyperparameters that trials have had.
    """
    known = list(dict.fromkeys(hp.name for hp in space.space))
    for name in (belief.name for belief in (sampler.beliefs if sampler is not None else ())):
        if name not in known:
            allowed = f"one of {', '.join(known)}" if known else "the name of a hyperparameter"
            instead = did_you_mean(name, known, "Leave it out, or mend the name.")
            warn_user(explain("beliefs", f'"{name}", which no trial had: it has steered nothing', allowed, instead))


def failure_report(trials: Sequence[Trial]) -> str:
    """Counts why trials failed: one line per cause, most frequent first. Causes that differ in anything are two."""
    causes = Counter(f"{trial.ending}: {reason_of(trial.message) or 'no message'}" for trial in trials)
    return "\n".join(f"{count} x {cause}" for cause, count in causes.most_common())
