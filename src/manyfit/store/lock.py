"""Who may write to a project: one process at a time, and within it one tuner at a time.

Between processes an operating-system lock decides that dies with its holder; a note beside it says who that is. Within
the process every tuner may open the project and read it. One that begins a search *takes* the project until the search
has ended; meanwhile the others are refused, by name, whenever they write (`check`). A tuner that is idle holds nothing
back: a notebook's cell that is run twice makes a second tuner, and whichever of the two searches reads the project
again first (`ProjectStore.has_changed`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import threading
import time
import weakref
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from manyfit.core.errors import ProjectError, explain
from manyfit.core.untrusted import read_json
from manyfit.store.layout import ProjectLayout

if TYPE_CHECKING:
    import filelock


class Opener(Protocol):
    """Who has opened a project; `ProjectStore` is one."""

    @property
    def is_closed(self) -> bool:
        """Whether it has given the project back."""


@dataclasses.dataclass
class _Work:
    """A step in which nobody else may write."""

    opener: weakref.ref[Opener]
    what: str
    since: str
    thread: threading.Thread
    depth: int = 1  # a step may be part of another one of the same thread

    def is_over(self) -> bool:
        """Whether its tuner is gone, or was closed in the middle."""
        opener = self.opener()
        return opener is None or opener.is_closed


@dataclasses.dataclass
class _Holding:
    """A project that this process has open."""

    lock: filelock.BaseFileLock
    count: int = 1  # of those who have opened it
    work: _Work | None = None


# An operating-system lock and not a file that is there or not: the system gives it back when its holder is killed.
_held: dict[Path, _Holding] = {}
_released: deque[Path] = deque()  # given back, not settled yet
_guard = threading.Lock()


def acquire(folder: Path) -> bool:
    """Takes the project's lock for this process. Several tuners of one process may open a project.

    Returns:
        Whether no other tuner of this process had it open.

    Raises:
        ProjectError: another process holds the lock; the message names it.
    """
    path = ProjectLayout(folder.resolve()).lock
    with _guard:
        _settle()
        if path in _held:
            _held[path].count += 1
            return False
        _held[path] = _Holding(_taken(folder, path))
        _tell(folder)
        return True


def renew(folder: Path) -> None:
    """Takes the lock again of a project whose files were deleted while this process had it open.

    Raises:
        ProjectError: another process has taken it meanwhile.
    """
    path = ProjectLayout(folder.resolve()).lock
    with _guard:
        holding = _held[path]
        holding.lock.release()  # of a file that has no name any more
        holding.lock = _taken(folder, path)
        _tell(folder)


def _taken(folder: Path, path: Path) -> filelock.BaseFileLock:
    # One lock per process, counted: a lock of the system is the process's, so a second one would just succeed.
    import filelock  # slow to load, for each command that only reads projects

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ProjectError(
            explain(
                f'project "{folder}"',
                f"a second process, while {_describe_holder(folder)} has it open",
                "one process at a time",
                "Wait for that process, end it, or type another project_name= or directory=.",
            )
        ) from None
    except NotImplementedError as error:
        got, instead = f"a file system without locks ({error})", "Type a directory= on a disk of this machine."
        raise ProjectError(explain(f'project "{folder}"', got, "one that can lock files", instead)) from None
    return lock


def _tell(folder: Path) -> None:
    holder = {"pid": os.getpid(), "host": platform.node(), "since": _now()}
    with contextlib.suppress(OSError):  # for messages only; a disk without room for it says so at the next commit
        ProjectLayout(folder).holder.write_text(json.dumps(holder))


def release(folder: Path) -> None:
    """Gives the lock back once nobody in this process needs it. Never waits: a garbage collector may call it."""
    _released.append(ProjectLayout(folder.resolve()).lock)
    if _guard.acquire(blocking=False):  # else whoever holds the guard, or takes it next, settles this
        try:
            _settle()
        finally:
            _guard.release()


def begin(folder: Path, opener: Opener, what: str) -> None:
    """Takes the project for a step of one tuner; `end` gives it back.

    Args:
        folder: the project's, which the opener has acquired.
        opener: whose step it is.
        what: for messages, "a search" say.

    Raises:
        ProjectError: another tuner works on it, or another thread of this one; the message names it.
    """
    with _guard:
        holding = _held[ProjectLayout(folder.resolve()).lock]
        _check(folder, holding, opener, of_others=True, of_threads=True)
        if holding.work is None:
            holding.work = _Work(weakref.ref(opener), what, _now(), threading.current_thread())
        else:
            holding.work.depth += 1


def end(folder: Path, opener: Opener) -> None:
    """Gives the project back that `begin` has taken."""
    with _guard:
        holding = _held.get(ProjectLayout(folder.resolve()).lock)
        if holding is None or holding.work is None or holding.work.opener() is not opener:
            return
        holding.work.depth -= 1
        if holding.work.depth == 0:
            holding.work = None


def check(folder: Path, opener: Opener, *, of_others: bool = True, of_threads: bool = False) -> None:
    """Checks that nobody else works on the project.

    Args:
        folder: the project's.
        opener: who asks.
        of_others: whether other tuners count as somebody else.
        of_threads: whether other threads of the same tuner do.

    Raises:
        ProjectError: somebody does; the message names it.
    """
    with _guard:
        holding = _held.get(ProjectLayout(folder.resolve()).lock)
        if holding is not None:
            _check(folder, holding, opener, of_others=of_others, of_threads=of_threads)


def _check(folder: Path, holding: _Holding, opener: Opener, *, of_others: bool, of_threads: bool) -> None:
    if holding.work is not None and holding.work.is_over():
        holding.work = None
    work = holding.work
    if work is None:
        return
    is_own = work.opener() is opener
    if (not of_threads or work.thread is threading.current_thread()) if is_own else not of_others:
        return
    got = "a second call, while this tuner runs" if is_own else "a second tuner, while another of this process runs"
    raise ProjectError(
        explain(
            f'project "{folder}"',
            f'{got} {work.what} (process {os.getpid()}, thread "{work.thread.name}", since {work.since})',
            "one at a time; the others may read",
            "Wait until it has ended, or type another project_name= or directory=.",
        )
    )


def _settle() -> None:
    while _released:
        path = _released.popleft()
        holding = _held.get(path)
        if holding is None:
            continue
        holding.count -= 1
        if holding.count == 0:
            del _held[path]
            holding.lock.release()


def _describe_holder(folder: Path) -> str:
    try:
        holder = read_json(ProjectLayout(folder).holder.read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
