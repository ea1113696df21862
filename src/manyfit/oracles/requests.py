"""What is asked of a search or of a step after it: stop, stop a trial, try this, go on for longer, note that.

Requests come as files (`manyfit.store.requests`) or from another thread of this process. They are taken on the thread
that trains, between two epochs: what they change is changed where everything else is. Each is answered by a fact of
the project, committed together with what it has changed; then its file is deleted. A process that is killed in between
leaves a file whose answer is there, and is not done twice, or one without an answer, which the next process takes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from manyfit.core.clock import Clock
from manyfit.core.errors import UsageError, UsageKeyError, explain
from manyfit.core.events import EpochsEnded, Event, ExecutionsEnded, PhaseBegan
from manyfit.oracles.book import TrialBook
from manyfit.oracles.proposals import ProposalQueue
from manyfit.oracles.trial import Trial
from manyfit.samplers.base import Sampler
from manyfit.store.facts import ACTIVITY, ASKED, PLAN, REQUEST
from manyfit.store.layout import ProjectLayout
from manyfit.store.requests import ENQUEUE, NOTE, RAISE, STOP, STOP_TRIAL, Request, read_request

_LOOK_SECONDS = 0.5  # between two looks into the folder: one `listdir` each
_MOST_AT_ONCE = 50
_ASKED_TO = "it was asked to"

_Done: TypeAlias = tuple[str, Mapping[str, Any]]
"""The answer, and the facts that it changes beside those of the desk."""


class Asked(Protocol):
    """What is needed of the oracle of the search."""

    book: TrialBook
    clock: Clock
    proposals: ProposalQueue
    sampler: Sampler | None
    max_trials: int | None

    @property
    def trials(self) -> dict[str, Trial]:
        """All of them."""


class RequestDesk:
    """Takes requests to a search, and answers them.

    Args:
        oracle: of the search.
        now: a time in seconds that never goes back.

    Attributes:
        ends_trials: whether a trial can be told to stop after an epoch; set by who hears of epochs.
        stopping: trials that are to stop, and why.
    """

    def __init__(self, oracle: Asked, *, now: Callable[[], float] = time.monotonic) -> None:
        self._oracle, self._now = oracle, now
        self._next_look = -math.inf
        self._own: collections.deque[Request] = collections.deque()  # of this process, from any thread
        # Both what it was and what it is: a script that says another limit than it did then is not overruled.
        self._raised: dict[str, Any] = {}  # limit -> [what it was, what it is now]
        self._new: list[str] = []
        self._steps: list[_Step] = []  # that are under way besides a search, the innermost last
        self.stopping: dict[str, str] = {}
        self.ends_trials = False

    # For the search ----------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A search begins: what was asked of the project before holds on."""
        self._remember()
        self._new = list(self.stopping)
        self._next_look, self.ends_trials = -math.inf, False
        oracle = self._oracle
        # Where the script says another limit than it did then, the script is what holds.
        was, now = self._raised.get("max_trials", (None, None))
        if now is not None and oracle.max_trials == was:
            self._set_max_trials(now)
        was, now = self._raised.get("max_seconds", (None, None))
        if now is not None and oracle.clock.limits() == was:
            oracle.clock.raise_limits(now)

    def _remember(self) -> None:
        store = self._oracle.book.store
        known = {} if store is None else store.get(ASKED, {})
        self.stopping, self._raised = dict(known.get("stopping", {})), dict(known.get("raised", {}))

    def look(self) -> None:
        """Takes what was asked since, if it is time to look. Called on the thread that trains, between epochs."""
        # Those of this process need no look at the disk, so they do not wait for the next one.
        while self._own:
            self._take(self._own.popleft())
        if self._now() < self._next_look:
            return
        self._next_look = self._now() + _LOOK_SECONDS
        store = self._oracle.book.store
        folder = getattr(store, "folder", None)  # a store of a test, in memory, has none
        if not isinstance(folder, Path) or store is None:
            return
        for name, path in list(ProjectLayout.of(folder).waiting_requests().items())[:_MOST_AT_ONCE]:
            if store.get(REQUEST + name) is None:  # else a process was killed before it could delete the file
                self._take_file(name, path)
            with contextlib.suppress(OSError):  # of a folder that is not ours: it is answered, and seen no more
                path.unlink(missing_ok=True)

    def newly_stopped(self) -> list[str]:
        """Trials that are to stop and were not told of here before."""
        found, self._new = self._new, []
        return [trial_id for trial_id in found if trial_id in self._oracle.trials]

    # For other steps ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def during(self, what: str, clock: Clock) -> Iterator[None]:
        """Within it a step other than a search is under way: between its epochs requests are taken, too.

        Args:
            what: the step, "the confirmation" say.
            clock: of the step; who stops the step ends it, and those that it is within.
        """
        is_outermost = not self._steps
        if is_outermost and not self._oracle.clock.is_running:
            self._remember()  # a process that has not searched knows of no earlier request
            self._next_look = -math.inf
        self._steps.append(_Step(what, clock, time.time()))
        try:
            with self._oracle.book.events.listening(self if is_outermost else None):
                yield
        finally:
            self._steps.pop()

    def hear(self, event: Event) -> None:
        """See `manyfit.core.events.Listener`: looks, but in a search, which does so itself once it may act on it."""
        if self._oracle.clock.is_running or not isinstance(event, EpochsEnded | ExecutionsEnded | PhaseBegan):
            return
        if isinstance(event, PhaseBegan):  # there are few, and nothing may train in what is left
            self._next_look = -math.inf
        self.look()

    @property
    def _step(self) -> _Step | None:
        """The step that is under way; None: it is a search, or nothing is."""
        return None if self._oracle.clock.is_running or not self._steps else self._steps[-1]

    # From other threads ------------------------------------------------------------------------------------------

    def stop(self, why: str) -> None:
        """Ends the search, or the step, that is under way; nothing happens where nothing is.

        Args:
            why: in words.
        """
        step = self._step
        if step is not None:
            step.clock.halt(why, outer=True)
        elif self._oracle.clock.is_running:
            self._oracle.clock.halt(why, outer=True)

    def stop_trial(self, trial_id: str) -> bool:
        """Has a trial stop after the epoch that it is in, with what it has.

        Returns:
            Whether it had not ended before.

        Raises:
            UsageKeyError: there is no such trial.
        """
        # Asked here and not by whoever takes it: the caller is told at once that the id is wrong.
        trial = self._oracle.trials.get(trial_id)
        if trial is None:
            some = ", ".join(list(self._oracle.trials)[:8]) or "none yet"
            raise UsageKeyError(explain("stop_trial(trial_id)", repr(trial_id), f"an id: {some}", "Type one of these."))
        if trial.has_ended:
            return False
        self._own.append(Request.now(STOP_TRIAL, trial_id=trial.trial_id))
        return True

    # One request -------------------------------------------------------------------------------------------------

    def _take_file(self, name: str, path: Path) -> None:
        try:
            request = read_request(name, path)
        except UsageError as error:
            self._answer(Request(name, "unknown", {}, 0.0), str(error), is_done=False)
            return
        self._take(request)

    def _take(self, request: Request) -> None:
        do = {
            STOP: self._stop,
            STOP_TRIAL: self._stop_trial,
            ENQUEUE: self._enqueue,
            RAISE: self._raise,
            NOTE: self._note,
        }[request.what]
        try:
            answer, facts = do(request.details)
        except _Refused as refused:
            self._answer(request, refused.why, is_done=False)
        else:
            asked = {"stopping": dict(self.stopping), "raised": dict(self._raised)}
            self._answer(request, answer, is_done=True, facts={**facts, ASKED: asked})

    def _answer(self, request: Request, answer: str, *, is_done: bool, facts: Mapping[str, Any] | None = None) -> None:
        """Commits an answer together with what is changed by it."""
        # One commit for the answer and for what it changes: a kill leaves both or neither.
        record = {**request.to_dict(), "taken_at": time.time(), "is_done": is_done, "answer": answer}
        self._oracle.book.put(**(facts or {}), **{REQUEST + request.name: record})

    def _stop(self, details: Mapping[str, Any]) -> _Done:
        # One that died before it took this: who starts the next one wants that to run.
        if not self._is_meant(details):
            raise _Refused("the search that was to stop is over")
        step = self._step
        self.stop(_ASKED_TO)
        if step is not None:
            return f"{step.what} stops, with what it has", {}
        return "the search stops; trials that run end with the epochs that they have", {}

    def _is_meant(self, details: Mapping[str, Any]) -> bool:
        """Whether it is what is under way, or a part of it that has ended before this was taken."""
        store = self._oracle.book.store
        activity = {} if store is None else store.get(ACTIVITY, {})
        if all(details[name] == activity.get(name) for name in ("pid", "since") if name in details):
            return True
        return bool(self._steps) and details["pid"] == os.getpid() and details["since"] >= self._steps[0].since

    def _stop_trial(self, details: Mapping[str, Any]) -> _Done:
        trial = self._of_id(details["trial_id"])
        if trial.has_ended:
            raise _Refused(f"trial {trial.trial_id} has ended before")
        # Said now: a request that waits for a trial that nobody can tell would seem to have been lost.
        if not self.ends_trials:
            raise _Refused("the script's own run_trial runs the trials, and nobody can tell it to stop")
        self.stopping[trial.trial_id] = _ASKED_TO
        self._new.append(trial.trial_id)
        return f"trial {trial.trial_id} stops after its epoch, with the epochs that it has", {}

    def _enqueue(self, details: Mapping[str, Any]) -> _Done:
        try:
            facts = self._oracle.proposals.add_first(details["values"])
        except UsageError as error:
            raise _Refused(str(error)) from None
        if not self._oracle.clock.is_running:
            return "it waits: the next search tries it first", facts
        limit = self._oracle.max_trials
        is_full = limit is not None and len(self._oracle.trials) >= limit
        return (f"it waits: max_trials={limit} is reached" if is_full else "it is tried next"), facts

    def _raise(self, details: Mapping[str, Any]) -> _Done:
        oracle, step = self._oracle, self._step
        clock = oracle.clock if step is None else step.clock
        limits = clock.limits()
        shortest = min((limit for limit in limits if limit is not None), default=None)
        for name, limit in (("max_trials", oracle.max_trials), ("max_seconds", shortest)):
            value = details.get(name)
            if value is not None and (limit is None or value <= limit):
                why = "has no such limit" if limit is None else f"has {limit:g}, and a limit can only be raised"
                whose = "the search" if step is None or name == "max_trials" else step.what
                raise _Refused(f"{name}={value:g}: {whose} {why}")
        trials, seconds = details.get("max_trials"), details.get("max_seconds")
        if trials is not None:
            self._raised["max_trials"] = [self._raised.get("max_trials", [oracle.max_trials])[0], trials]
            self._set_max_trials(trials)
        if seconds is not None:
            clock.raise_limits(seconds)
        answer = ", ".join(f"{name} is {value:g} now" for name, value in details.items())
        plan = {} if oracle.book.store is None else oracle.book.store.get(PLAN, {})
        if step is not None:  # the seconds are of its call alone, and not of a search that goes on
            return answer, {} if trials is None else {PLAN: {**plan, "max_trials": trials}}
        if seconds is not None:
            self._raised["max_seconds"] = [self._raised.get("max_seconds", [limits])[0], seconds]
        return answer, {PLAN: {**plan, **details}}

    def _note(self, details: Mapping[str, Any]) -> _Done:
        self._of_id(details["trial_id"])
        return "noted", {}

    def _of_id(self, trial_id: str) -> Trial:
        trial = self._oracle.trials.get(trial_id)
        if trial is None:
            raise _Refused(f"there is no trial {trial_id!r}")
        return trial

    def _set_max_trials(self, limit: int) -> None:
        oracle = self._oracle
        oracle.max_trials = limit
        if hasattr(oracle.sampler, "max_trials"):  # one that plans by it
            oracle.sampler.max_trials = limit  # type: ignore[union-attr]  # asked above


@dataclasses.dataclass(frozen=True)
class _Step:
    """A step that is under way: what it is, its clock, and since when, in seconds since 1970."""

    what: str
    clock: Clock
    since: float


@dataclasses.dataclass
class _Refused(Exception):
    """A request that cannot be done, and why: an answer, and no error of the search."""

    why: str
