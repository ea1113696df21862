"""Why a search ends, whether anything is left of it, and whether it goes on with the data that it began with.

Every search ends for one reason (`SearchEnd`). It is stored with the project, said in one line, and found again as
`tuner.ended_by`. A search that had nothing to run says so, and what to type: a loop that calls `search` of one tuner
for each of its folds would otherwise get the models of the first fold each time, without a word.

The data are told apart by fingerprints of training and validation rows. Finished trials were measured on theirs, and a
score on other rows cannot be compared with them; KerasTuner mixes them without a word. Other data are a warning and not
an error: who computes features anew on a GPU gets other last bits, and should not lose a search of two days to them.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from manyfit.core.clock import Clock
from manyfit.core.errors import first_line
from manyfit.core.lifecycle import TrialState
from manyfit.oracles.book import TrialBook
from manyfit.oracles.checks import failed_in_a_row
from manyfit.oracles.commits import Store
from manyfit.oracles.oracle import Oracle
from manyfit.space.encoding import Encoding
from manyfit.store.reading import rows_told

_STORED_AS, _DATA = "ended_by", "searched_data"


class SearchEnd(enum.StrEnum):
    """Why a search ended."""

    TRIALS = "max_trials"
    EPOCHS = "max_total_epochs"
    SECONDS = "max_seconds"
    EXHAUSTED = "exhausted"  # no configuration of the space is left that was not tried
    SCHEDULE = "schedule"  # the scheduler has nothing more to run: all brackets are through, say
    ORACLE = "oracle"  # a `populate_space` or `create_trial` of the user's has nothing more
    FAILURES = "failures"  # too many trials in a row ended with an exception
    STOPPED = "stopped"  # by `tuner.stop()`, from the dashboard, or by `stop_when`
    INTERRUPTED = "interrupted"  # Ctrl+C
    ERROR = "error"  # any other exception


@dataclasses.dataclass(frozen=True)
class EndOfSearch:
    """How a search ended: the reason, and a sentence for people.

    Attributes:
        reason: one of the list.
        sentence: what was reached, with its numbers.
    """

    reason: SearchEnd
    sentence: str

    def keep(self, book: TrialBook) -> None:
        """Commits it, in place of how the search before ended."""
        book.put(**{_STORED_AS: {"reason": self.reason, "sentence": self.sentence}})

    @classmethod
    def kept(cls, store: Store | None) -> EndOfSearch | None:
        """How the latest search of a project ended; None: there was none, or its process was killed."""
        facts = None if store is None else store.get(_STORED_AS)
        with rows_told("project"):
            return None if facts is None else cls(SearchEnd(facts["reason"]), str(facts["sentence"]))


# Why ----------------------------------------------------------------------------------------------------------


def end_of(oracle: Oracle) -> EndOfSearch:
    """How a search ended that nothing has broken off, from what was recorded.

    An exhausted space comes before the limit on trials: where both are reached, a higher limit brings nothing.
    """
    return _because(oracle, _reached(oracle))


def broken_off(oracle: Oracle, error: BaseException) -> EndOfSearch:
    """How a search ended that an exception broke off."""
    if isinstance(error, KeyboardInterrupt):
        return _because(oracle, SearchEnd.INTERRUPTED)
    limit, is_endless = oracle.max_consecutive_failed_trials, oracle.max_trials is None
    if failed := failed_in_a_row(oracle.book, limit, is_endless=is_endless):
        return EndOfSearch(SearchEnd.FAILURES, f"{_after(oracle)}: the last {len(failed)} failed.")
    return EndOfSearch(SearchEnd.ERROR, f"{_after(oracle)}: {type(error).__name__}: {first_line(error)}")


def _reached(oracle: Oracle) -> SearchEnd:
    own = bool(oracle.overrides("populate_space", "create_trial"))
    if oracle.clock.halted is not None:
        return SearchEnd.STOPPED
    if oracle.clock.begins_nothing():
        return SearchEnd.SECONDS
    size = None if own else Encoding(oracle.hyperparameters).num_configurations(limit=len(oracle.trials))
    if not own and (oracle.proposals.is_exhausted or size is not None):
        return SearchEnd.EXHAUSTED
    if oracle.remaining_trials() == 0 and not oracle.scheduler.may_branch:
        return SearchEnd.TRIALS
    if own:
        return SearchEnd.ORACLE
    # Asked again without the limit: if there is a job now, it was the limit that held it back.
    unlimited = dataclasses.replace(oracle.limits(), max_total_epochs=None)
    if oracle.max_total_epochs is not None and oracle.scheduler.assign(oracle.book.progress(), 1, unlimited):
        return SearchEnd.EPOCHS
    return SearchEnd.SCHEDULE


def _because(oracle: Oracle, reason: SearchEnd) -> EndOfSearch:
    because = {
        SearchEnd.TRIALS: f"max_trials={oracle.max_trials} is reached",
        SearchEnd.EPOCHS: f"max_total_epochs={oracle.max_total_epochs} leaves no room for another training",
        SearchEnd.SECONDS: _time_that_ended(oracle.clock),
        SearchEnd.EXHAUSTED: "no configuration of the space is left that was not tried",
        SearchEnd.SCHEDULE: f"{type(oracle.scheduler).__name__} has nothing more to run",
        SearchEnd.ORACLE: f"{type(oracle).__name__} has nothing more to try",
        SearchEnd.STOPPED: oracle.clock.halted,
        SearchEnd.INTERRUPTED: "it was interrupted. What has finished is kept; call search again to go on",
    }[reason]
    return EndOfSearch(reason, f"{_after(oracle)}: {because}.")


def _time_that_ended(clock: Clock) -> str:
    if not clock.is_over() and clock.refused_seconds is not None:
        return f"another step, of about {clock.refused_seconds:.2g} s, did not fit into the {clock.left():.2g} s left"
    if any(outer.is_over() for outer in clock.within):
        return "the time of the call that it is a part of is used up"
    return f"max_seconds={clock.max_seconds} are used up"


def _after(oracle: Oracle) -> str:
    number = len(oracle.trials)
    return f"The search ended after {number} {'trial' if number == 1 else 'trials'}"


# Whether anything is left -------------------------------------------------------------------------------------


def is_complete(oracle: Oracle) -> bool:
    """Whether there is nothing to run, as far as that is known without asking for a trial."""
    if oracle.clock.begins_nothing():
        return True
    if oracle.overrides("populate_space", "create_trial") or oracle.ends_with_contenders():
        return False
    all_ended = all(trial.state is TrialState.ENDED for trial in oracle.trials.values())
    return oracle.remaining_trials() == 0 and all_ended and not oracle.scheduler.may_restart


def work_of(oracle: Oracle) -> tuple[int, int, int]:
    """Trials, attempts and epochs so far: a search that leaves these as they were has run nothing."""
    trials = oracle.trials.values()
    epochs = sum(1 + run.num_epochs for trial in trials for run in trial.executions.values())
    return len(trials), sum(trial.attempt for trial in trials), epochs


def nothing_left(oracle: Oracle, end: EndOfSearch) -> str:
    """What a search says that had nothing to run: why, and what to type."""
    more = {
        SearchEnd.TRIALS: f"raise max_trials= (tuner.oracle.max_trials = {2 * (oracle.max_trials or 1)}, say)",
        SearchEnd.EPOCHS: "raise max_total_epochs=",
        SearchEnd.SECONDS: f"raise max_seconds= (tuner.oracle.max_seconds = {2 * (oracle.max_seconds or 1):g}, say; "
        "the seconds of all searches of a project count)",
        SearchEnd.EXHAUSTED: "widen the space",
        SearchEnd.SCHEDULE: "give the scheduler more to do (hyperband_iterations=, say)",
    }.get(end.reason)
    to_go_on = "" if more is None else f"To go on, {more}. "
    return (
        f"Nothing is left to search. {end.sentence} {to_go_on}"
        "To search anew, with other data for instance, make a tuner with another project_name=, or with overwrite=True."
    )


# On which data ------------------------------------------------------------------------------------------------


def notice_data(oracle: Oracle, prints: Mapping[str, str]) -> str | None:
    """Notes what a search trains on, and says whether that is what the trials before were trained on.

    Args:
        oracle: of the search.
        prints: "training" and "validation" -> a fingerprint; without those of data that cannot be told apart.

    Returns:
        A sentence for people where the data are others; else None.
    """
    store = oracle.book.store
    if store is None or not prints:
        return None
    number = len(oracle.trials)
    # What no trial was trained on is forgotten: a search that is complete trains nothing, whatever it is given.
    known = [each for each in store.get(_DATA, []) if each["first_trial"] < number]
    if known and known[-1]["prints"] == dict(prints):
        return None
    store.put(**{_DATA: [*known, {"first_trial": number, "prints": dict(prints)}]})
    if not known:
        return None
    others = [name for name in ("training", "validation") if known[-1]["prints"].get(name) != prints.get(name)]
    return (
        f"search: other {' and '.join(others)} rows than the {number} trials of this project were trained with. Scores "
        "on other rows cannot be compared. Search with the same rows (seed what splits them), or make a tuner with "
        "another project_name=, or with overwrite=True; tuner.warm_start(folder) takes along what was learned."
    )


@rows_told("project")
def mixed_data(oracle: Oracle) -> str | None:
    """A sentence where the trials of a project were trained on different data, so that their ranking means little."""
    known: list[dict[str, Any]] = [] if oracle.book.store is None else oracle.book.store.get(_DATA, [])
    ids = list(oracle.trials)
    starts = [ids[each["first_trial"]] for each in known if each["first_trial"] < len(ids)]
    if len(starts) < 2:
        return None
    return f"Trials were trained on different data, anew from trial {', '.join(starts[1:])}: scores are not comparable."
