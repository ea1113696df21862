"""What is asked of a search from outside: one small file each in the project's folder `requests/`.

Who looks at a project must not write to its database, which has one writer. So a request is a file that is written at
once or not at all; the search reads it between two epochs, does it, commits the answer, and deletes it. What is read
there may come from anybody who can write in that folder: size, form and kinds of values are checked at both ends.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from manyfit.core.checks import whole_number
from manyfit.core.errors import ProjectError, UsageError, explain
from manyfit.core.files import written_whole
from manyfit.store.layout import DATABASE_NAME, ProjectLayout, check_id

MOST_BYTES = 16_384
"""Of one request."""
MOST_WAITING = 100
"""Requests that wait in a project; the search takes them within a second, so more are a mistake or an attack."""
MOST_LETTERS = 2_000
"""Of a note."""
_MOST_VALUES = 500

STOP, STOP_TRIAL, ENQUEUE, RAISE, NOTE = "stop", "stop_trial", "enqueue", "raise_limit", "note"


@dataclasses.dataclass(frozen=True)
class Request:
    """Something that is asked of a search.

    Attributes:
        name: of its file; sorts by the time at which it was made.
        what: `STOP`, `STOP_TRIAL`, `ENQUEUE`, `RAISE` or `NOTE`.
        details: `STOP`: "pid" and "since" of the search that is meant, or nothing; `STOP_TRIAL`: "trial_id";
            `ENQUEUE`: "values"; `RAISE`: "max_trials", "max_seconds" or both; `NOTE`: "trial_id", "text".
        asked_at: seconds since 1970.
    """

    name: str
    what: str
    details: Mapping[str, Any]
    asked_at: float

    @classmethod
    def now(cls, what: str, *, after: str = "", **details: Any) -> Request:
        """A request that is made now.

        Args:
            what: see `Request`.
            after: the name of the latest that waits; this one is behind it, even if the clock was set back meanwhile.
            **details: see `Request`.

        Raises:
            UsageError: nobody knows such a request, or its details are not as they should be.
        """
        # A time, so that they sort, and a random part: two pages may ask within the same tick of the clock.
        number = max(time.time_ns(), int(after.partition("-")[0] or 0) + 1)
        name = f"{number:020d}-{secrets.token_hex(4)}"
        return cls(name, what, checked(what, details), time.time())

    def to_dict(self) -> dict[str, Any]:
        """As its file has it."""
        return {"what": self.what, "details": dict(self.details), "asked_at": self.asked_at}


def ask(folder: str | os.PathLike[str], what: str, **details: Any) -> Request:
    """Leaves a request for the search of a project; one that runs takes it within a second or after its epoch.

    Args:
        folder: the project's.
        what: see `Request`.
        details: likewise.

    Raises:
        UsageError: as `Request.now` says, or too many requests are waiting.
        ProjectError: there is no project, or its folder cannot be written.
    """
    layout = ProjectLayout.of(folder)
    waiting = [] if layout.requests.is_symlink() else list(layout.waiting_requests())
    request = Request.now(what, after=waiting[-1] if waiting else "", **details)
    where = f'a request to project "{layout.folder}"'
    if not layout.database.is_file() or layout.requests.is_symlink():
        got = "a link in place of its folder" if layout.requests.is_symlink() else "a folder without a project"
        raise ProjectError(explain(where, got, f"a folder with {DATABASE_NAME} in it", "Type the project's folder."))
    # Counted before one is written: whoever floods the folder fills no disk, and the search reads few at a time.
    if len(waiting) >= MOST_WAITING:
        got = f"{MOST_WAITING} requests that nobody has taken"
        raise UsageError(explain(where, got, "fewer", "Wait for the search, or start it, which takes them."))
    content = json.dumps(request.to_dict(), allow_nan=False).encode()
    if len(content) > MOST_BYTES:
        raise UsageError(explain(where, f"{len(content)} bytes", f"up to {MOST_BYTES}", "Say it in fewer words."))
    with written_whole(layout.request(request.name), "a request") as partial:
        partial.write_bytes(content)
    return request


def read_request(name: str, path: Path) -> Request:
    """A request from its file.

    Args:
        name: of the request.
        path: of its file, which anybody may have written.

    Raises:
        UsageError: it is no request, or one with details that are not as they should be.
    """
    try:
        content = _content(path)
        # Python's JSON reads NaN and infinities, which are no values of a hyperparameter.
        found = json.loads(content, parse_constant=_no_constant)
        asked_at = found["asked_at"]
        if not isinstance(found["details"], dict) or not isinstance(asked_at, int | float) or not asked_at >= 0:
            raise ValueError("other fields than those of a request")
        what, details = found["what"], found["details"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        got = f"a file that is none ({error})"
        raise UsageError(explain("a request", got, "a file as Manyfit writes it", "Ask once more.")) from None
    return Request(name, str(what), checked(what, details), float(asked_at))


def _content(path: Path) -> bytes:
    # Neither a link, which would lead elsewhere, nor a pipe, for which one would wait.
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("a link, or no plain file")
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
        # Not by the size that the system tells: the file may grow while it is read.
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    return content


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is no number")


# What each of them needs ---------------------------------------------------------------------------------------


def checked(what: object, details: Mapping[str, Any]) -> dict[str, Any]:
    """The details of a request, once they are known to be right.

    Args:
        what: see `Request`.
        details: likewise.

    Raises:
        UsageError: nobody knows such a request, a detail is missing, unknown, or of another kind.

    Example:

    >>> checked("note", {"trial_id": "7", "text": "looks odd"})
    {'trial_id': '7', 'text': 'looks odd'}
    """
    known = _DETAILS.get(what) if isinstance(what, str) else None
    if known is None:
        raise UsageError(explain("a request", repr(what)[:80], f"one of {', '.join(_DETAILS)}", f"Type {STOP}, say."))
    where = f"a request ({what})"
    odd = [repr(name)[:80] for name in details if name not in known]
    if odd:
        raise UsageError(explain(where, odd[0], ", ".join(known) or "no details", "Leave it out."))
    found = {name: known[name](f"{where}, {name}", value) for name, value in details.items() if value is not None}
    missing = [name for name in known if name not in found]
    if missing and what != STOP and (what != RAISE or not found):
        raise UsageError(explain(where, f"no {missing[0]}", ", ".join(known), f"Say {missing[0]}."))
    return found


def _trial_id(where: str, value: object) -> str:
    del where
    return check_id(value)


def _text(where: str, value: object) -> str:
    if isinstance(value, str) and len(value.strip()) > 0 and len(value) <= MOST_LETTERS:
        return value.strip()
    raise UsageError(explain(where, repr(value)[:80], f"1 to {MOST_LETTERS} letters", "Write a line or two."))


def _values(where: str, value: object) -> dict[str, Any]:
    if isinstance(value, Mapping) and 0 < len(value) <= _MOST_VALUES:
        odd = [name for name, each in value.items() if not isinstance(name, str) or not _is_value(each)]
        if not odd:
            return dict(value)
        value = value[odd[0]]
    got = repr(value)[:80]
    allowed = "names of hyperparameters with a number, a text, True or False each"
    raise UsageError(explain(where, got, allowed, 'Type {"units": 64}, say.'))


def _is_value(value: object) -> bool:
    return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


def _whole(where: str, value: object) -> int:
    return whole_number(where, value, instead="Type how many there are to be in all.")


def _number(where: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise UsageError(explain(where, repr(value)[:80], "a number above 0", "Type seconds in all."))


_Check = Callable[[str, object], Any]
_DETAILS: dict[str, dict[str, _Check]] = {
    STOP: {"pid": _whole, "since": _number},
    STOP_TRIAL: {"trial_id": _trial_id},
    ENQUEUE: {"values": _values},
    RAISE: {"max_trials": _whole, "max_seconds": _number},
    NOTE: {"trial_id": _trial_id, "text": _text},
}
