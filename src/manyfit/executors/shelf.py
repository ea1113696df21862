"""Arrays that workers share with the driver: each is put where they find it once, whatever the number of tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from manyfit.executors.parcels import on_disk


class Shelf:
    """Names arrays, and remembers them from one task to the next.

    Example:

    >>> shelf, x = Shelf(), np.zeros(5)
    >>> shelf.begin(lambda array: "somewhere")
    >>> shelf.put(x) == shelf.put(x), shelf.handles()
    (True, {'array-0': 'somewhere'})
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, Any, Any]] = {}  # id -> name, the array (so that its id stays), handle
        self._used: dict[int, tuple[str, Any, Any]] = {}
        self._count = 0
        self._share: Callable[[np.ndarray], Any] = lambda array: None

    def begin(self, share: Callable[[np.ndarray], Any]) -> None:
        """Begins a task; what neither it nor the one before has used is dropped."""
        self._share = share
        self._known, self._used = self._used, {}

    def put(self, array: np.ndarray) -> str:
        """Names an array of this task."""
        entry = self._used.get(id(array)) or self._known.get(id(array))
        if entry is None:
            entry = (f"array-{self._count}", array, on_disk(array) or self._share(array))
            self._count += 1
        self._used[id(array)] = entry
        return entry[0]

    def handles(self) -> dict[str, Any]:
        """Name -> where workers find it, for the arrays of this task."""
        return {name: handle for name, _, handle in self._used.values()}
