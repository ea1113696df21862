"""What the steps of training took: in this process, and on this machine before.

A trainer notes here what it has timed, and asks whether a step still fits before it begins it. What is known outlives
the process: one small file per trainer and kind of machine, in the folder of the other things that can be made again.
A memory that is wrong by now costs time, and no results.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import hashlib
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

import keras

from manyfit.core.clock import Clock
from manyfit.core.files import cache_folder, replaced
from manyfit.stats.costs import Measurement, Step, predicted_seconds
from manyfit.training.hardware import hardware, num_cores

_EACH = 5  # measurements of a step and structure that are kept, the latest
_MOST = 400  # steps and structures that are
_MOST_COMPARED = 60  # structures by which one is predicted that nobody has timed
_DOUBT = 3.0  # so many times less is expected of what nobody has timed

ANY = ""
"""The structure of steps that are begun before anybody knows it."""

_Key: TypeAlias = tuple[str, str]  # step and structure


class KnownCosts:
    """Measurements of one trainer's steps.

    Args:
        trainer: a name for what trains; one kind of trainer tells nothing of another.

    Example:

    >>> known = KnownCosts("example")
    >>> known.note("epoch", "a", 2.0, rows=100)
    >>> known.fits(Clock(5), {"epoch": 3}, "a", rows=100), known.fits(Clock(5), {"epoch": 2}, "a", rows=100)
    (False, True)
    """

    def __init__(self, trainer: str) -> None:
        self._trainer = trainer
        self._known: dict[_Key, collections.deque[Measurement]] = {}
        self._new: set[_Key] = set()  # timed in this process
        self._is_read = False

    def note(self, step: Step, structure: str, seconds: float, *, rows: int = 1, parameters: int = 1) -> None:
        """Takes what one such step has taken."""
        if seconds > 0.0:
            key = step, structure
            _put(self._known, key, [Measurement(step, structure, rows, parameters, seconds)])
            self._new.add(key)

    def expected(self, step: Step, structure: str, *, rows: int = 1, parameters: int = 1, count: int = 1) -> float:
        """Seconds that so many of a step will take at least; see `predicted_seconds`.

        What was never timed is given the benefit of the doubt, since a step that is not begun is never timed: of
        structures that only others tell of, and of those of other processes where `structure` says nothing, it is a
        third; where nobody has timed such a step it is nothing.
        """
        self._read()
        own = self._known.get((step, structure))
        is_sure = own is not None and (structure != ANY or (step, structure) in self._new)
        alike = [found for (other, _), found in self._known.items() if other == step][-_MOST_COMPARED:]
        known = list(own) if own is not None else [one for found in alike for one in found]
        seconds = predicted_seconds(step, structure, known, rows=rows, parameters=parameters, count=count) or 0.0
        return seconds if is_sure else seconds / _DOUBT

    def fits(self, clock: Clock, steps: dict[Step, int], structure: str, *, rows: int = 1, parameters: int = 1) -> bool:
        """Whether so many of these steps fit into what is left; a clock that they do not fit into is told."""
        if not clock.is_limited:
            return True
        size = {"rows": rows, "parameters": parameters}
        needed = sum(self.expected(step, structure, count=count, **size) for step, count in steps.items())
        if clock.allows(needed):
            return True
        clock.refuse(needed)
        return False

    def _read(self) -> None:
        """Takes in what earlier processes have left; what this one has timed is the latest."""
        if not self._is_read:
            self._is_read, own, self._known = True, self._known, _read(self.path)
            for key, found in own.items():
                _put(self._known, key, found)

    def remember(self) -> None:
        """Writes down what is new, for later processes. A folder that cannot be written to costs time, no more."""
        path = self.path
        if path is None or not self._new:
            return
        kept = _read(path)  # anew: another process may have written meanwhile
        for key in self._new:
            before = () if self._is_read else kept.get(key, ())
            kept.pop(key, None)  # the latest come last, and the first go when there are too many
            _put(kept, key, [*before, *self._known[key]])
        rows = [dataclasses.astuple(one) for found in list(kept.values())[-_MOST:] for one in found]
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced(path, is_shared=True) as partial:
                partial.write_text(json.dumps(rows))

    @property
    def path(self) -> Path | None:
        """Where it is remembered on this machine; None: nowhere."""
        folder = cache_folder("costs")
        if folder is None:
            return None
        backend = f"{keras.backend.backend()} {keras.__version__} {hardware().name} {num_cores()} {platform.node()}"
        return folder / f"{self._trainer}-{hashlib.sha256(backend.encode()).hexdigest()[:16]}.json"


def _put(known: dict[_Key, collections.deque[Measurement]], key: _Key, found: Iterable[Measurement]) -> None:
    known.setdefault(key, collections.deque(maxlen=_EACH)).extend(found)


def _read(path: Path | None) -> dict[_Key, collections.deque[Measurement]]:
    """What lies in a file; nothing where there is none, or one of another version."""
    known: dict[_Key, collections.deque[Measurement]] = {}
    if path is None:
        return known
    try:
        for step, structure, rows, parameters, seconds in json.loads(path.read_text()):
            found = Measurement(step, str(structure), int(rows), int(parameters), float(seconds))
            _put(known, (step, found.structure), [found])
    except (OSError, ValueError, TypeError):
        return {}
    return known
