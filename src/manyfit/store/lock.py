"""One process per project: an operating-system lock that dies with its holder, and a note that says who holds it."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections import deque
from pathlib import Path

import filelock

from manyfit.core.errors import ProjectError, explain
from manyfit.store.layout import ProjectLayout

# An operating-system lock and not a file that is there or not: the system gives it back when its holder is killed.
_held: dict[Path, tuple[filelock.FileLock, int]] = {}
_released: deque[Path] = deque()  # given back, not settled yet
_guard = threading.Lock()


def acquire(folder: Path) -> None:
    """Takes the project's lock for this process. Several tuners of one process may share a project.

    Raises:
        ProjectError: another process holds the lock; the message names it.
    """
    path = ProjectLayout(folder.resolve()).lock
    with _guard:
        _settle()
        if path in _held:
            lock, count = _held[path]
            _held[path] = (lock, count + 1)
            return
        # One lock per process, counted: a lock of the system is the process's, so a second one would just succeed.
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
        _held[path] = (lock, 1)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        ProjectLayout(folder).holder.write_text(json.dumps(holder))


def release(folder: Path) -> None:
    """Gives the lock back once nobody in this process needs it. Never waits: a garbage collector may call it."""
    _released.append(ProjectLayout(folder.resolve()).lock)
    if _guard.acquire(blocking=False):  # else whoever holds the guard, or takes it next, settles this
        try:
            _settle()
        finally:
            _guard.release()


def _settle() -> None:
    while _released:
        path = _released.popleft()
        if path not in _held:
            continue
        lock, count = _held[path]
        if count > 1:
            _held[path] = (lock, count - 1)
        else:
            del _held[path]
            lock.release()


def _describe_holder(folder: Path) -> str:
    try:
        holder = json.loads(ProjectLayout(folder).holder.read_text())
        return f"process {holder['pid']} on {holder['host']} (since {holder['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"
