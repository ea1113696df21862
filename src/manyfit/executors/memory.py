"""How much memory a worker holds, and the cap on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from manyfit.core.limits import give_back, held_bytes

_WORTH_BYTES = 32 << 20  # collecting takes a tenth of a second
_CACHES_BYTES = 128 << 20
_EVERY_SECONDS = 0.05


class Footprint:
    """What this process holds beyond what it held when this object was made, and giving back what it can.

    Args:
        drop_caches: drops what can be made again, at a price: compiled functions, say.
    """

    def __init__(self, drop_caches: Callable[[], None] = lambda: None) -> None:
        self._drop_caches = drop_caches
        self._first_bytes = self._last_bytes = held_bytes()

    def give_back(self) -> int:
        """Collects what is unreachable and returns freed memory to the system, where that is worth the time.

        Returns:
            What the process holds now beyond its first state.
        """
        held = held_bytes()
        # Grown since the last look, and not above a fixed line: a big model would have it collect every time.
        if held - self._last_bytes > _WORTH_BYTES:
            held = _collect()
            if held - self._first_bytes > _CACHES_BYTES:
                self._drop_caches()
                held = _collect()
            self._last_bytes = held
        return held - self._first_bytes


def _collect() -> int:
    give_back()
    return held_bytes()


def watch(max_bytes: int, exceeded: Callable[[int], None]) -> threading.Thread:
    """Calls `exceeded` once, with the bytes in use, when this process holds more than `max_bytes`.

    The memory that a process may have is not limited by the kernel's address-space limit: accelerator runtimes
    reserve far more addresses than they use.
    """

    def look() -> None:
        while (used := held_bytes()) <= max_bytes:
            time.sleep(_EVERY_SECONDS)
        exceeded(used)

    thread = threading.Thread(target=look, name="memory-watch", daemon=True)
    thread.start()
    return thread
