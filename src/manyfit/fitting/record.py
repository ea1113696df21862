"""What a project remembers of `fit`, so that the same call goes on with what is left of its limit.

Beside the winner and not in the database: seconds are noted every now and then while trials train, also for a process
that will be killed, and a commit for each would cost more than they are worth.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path

from manyfit.core.errors import ProjectError, warn_user
from manyfit.core.files import has_right_checksum, with_checksum, written_whole
from manyfit.core.untrusted import plain_file, read_json

_NAME = "fit.json"
_EVERY_SECONDS = 2.0  # of a fit that is killed so many are not counted, and what it compiled meanwhile


@dataclasses.dataclass(frozen=True)
class Spent:
    """What earlier calls of `fit` have spent.

    Attributes:
        phases: seconds of each, in order.
        is_finished: whether the last of them came to its end.
        keeping_seconds: of the last of them, that went into keeping its winner on the disk.
    """

    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    is_finished: bool = False
    keeping_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """Of all phases."""
        return math.fsum(self.phases.values())


class FitRecord:
    """Keeps what the calls of `fit` on a project have spent.

    Args:
        folder: of the project's winner.

    Example:

    >>> import tempfile
    >>> record = FitRecord(Path(tempfile.mkdtemp()))
    >>> record.note({"search": 3.0}, at=0.0)
    >>> record.note({"search": 4.0}, at=1.0)  # too soon
    >>> record.read().seconds
    3.0
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._next = -math.inf

    def read(self) -> Spent:
        """What was noted; nothing, where nothing was or it cannot be read."""
        if not self._path.exists():
            return Spent()
        try:
            facts = read_json(plain_file(self._path).read_text())
            if not has_right_checksum(facts):
                raise ValueError("it has changed since it was written")
            phases = {str(name): float(spent) for name, spent in facts["phases"].items()}
            return Spent(phases, bool(facts["finished"]), float(facts["keeping"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            warn_user(f'"{self._path}" is damaged ({error}): the seconds of earlier calls of fit are not counted.')
            return Spent()

    def note(
        self, phases: Mapping[str, float], *, at: float, finished: bool | None = None, keeping: float = 0.0
    ) -> None:
        """Notes what was spent so far, if some time has gone by since the last note.

        Args:
            phases: seconds of each.
            at: the time now, in seconds.
            finished: whether the call came to its end; None: it goes on.
            keeping: seconds that went into keeping its winner on the disk.
        """
        if finished is None and at < self._next:
            return
        self._next = at + _EVERY_SECONDS
        facts = {"phases": dict(phases), "finished": bool(finished), "keeping": keeping}
        with contextlib.suppress(ProjectError), written_whole(self._path, "record of fit") as partial:
            partial.write_text(json.dumps(with_checksum(facts)))
