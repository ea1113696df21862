"""How many members train at once: by the memory of the device, and by what one more member costs."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax

_SHARE_OF_MEMORY = 0.8  # of what is free; the rest is for models being built and weights being written
_MOST = 256
HAS_NEXT = True  # members that come next are at hand: row A, warm cache (cores idle for 8 % of it instead of 13 %)
_START = 8  # on an accelerator
# A member is worth having beside the others while it costs less than this share of what each of those costs.
_CHEAP_WHILE_LEARNING = 0.6  # members of one batch are proposed without knowing each other's results
_CHEAP = 0.9


class Sizing:
    """Chooses the number of members that train at once, and learns from epochs that were timed.

    Where a member costs nearly a full run (a CPU, a large model), it brings little by standing beside others, and a
    sampler that learns would propose it without their results: as many members as there are workers; a few for each
    worker where proposals do not depend on results. Where members are nearly free (a GPU, small models), the number
    doubles while further members cost little.

    Args:
        limit: most members, the user's word; None: chosen here.
        learns: whether proposals learn from results.
        workers: programs that run at the same time.
        cpu: whether the device is a CPU.
        devices: that members are divided between.

    Example:

    >>> sizing = Sizing(None, learns=True, workers=1, cpu=False)
    >>> sizing.record("mlp", 8, 1.4)  # nothing to compare with yet: twice as many are tried
    >>> sizing.size
    16
    >>> sizing.record("mlp", 16, 1.6)  # the further eight cost a seventh of the first
    >>> sizing.size
    32
    >>> sizing.record("mlp", 32, 3.1)  # the further sixteen cost as much each as the others
    >>> sizing.size
    16
    """

    def __init__(self, limit: int | None, *, learns: bool, workers: int, cpu: bool, devices: int = 1) -> None:
        self._chosen = limit is not None
        self._programs = workers if cpu else 1
        self._cpu = cpu
        self._cheap = _CHEAP_WHILE_LEARNING if learns else _CHEAP
        self._seconds: dict[str, dict[int, float]] = {}
        self._ceiling = _MOST * devices if limit is None else limit
        start = workers if cpu else _START * devices
        self._has_next = HAS_NEXT and cpu and workers > 1 and not learns and limit is None
        self._target = self._ceiling if limit is not None else start if learns else 4 * start

    @property
    def size(self) -> int:
        """Members that may train at once."""
        return max(1, min(self._target, self._ceiling))

    @property
    def joined(self) -> int:
        """Members that train or are next: where proposals do not depend on results, a core goes on with a program's
        worth of them while those that ended are written out."""
        return self.size + (self.group if self._has_next else 0)

    @property
    def group(self) -> int:
        """Members that may stand side by side in one program: all of them, or each core's share."""
        return max(1, math.ceil(self.size / self._programs))

    def record(self, program: str, count: int, seconds: float, bytes_per_member: float = 0.0) -> None:
        """Takes the time of an epoch in a program for `count` members side by side.

        What one more member costs is the difference between two sizes of one program, divided by the members between
        them. As long as that is a small part of what each of the others costs, the number doubles; where it is not,
        the smaller size stays. Memory ends the doubling, by what the compiler says that a member takes.

        Args:
            program: whose epoch it was.
            count: its slots.
            seconds: of the whole epoch.
            bytes_per_member: by the compiler's analysis of the memory; 0 if that is not known.
        """
        known = self._seconds.setdefault(program, {})
        # The fastest that was seen, as in `LayoutChoice.record`: what else the machine does makes epochs longer only.
        known[count] = min(seconds, known.get(count, math.inf))
        if self._chosen or self._cpu or count < self.size:
            return  # the user's word; or all cores are busy; or a program for fewer members than may train
        # What a further member costs is seen from two sizes, not from one: a step costs something without any member,
        # too.
        smaller = max((one for one in known if one < count), default=0)
        if smaller:
            further = (known[count] - known[smaller]) / (count - smaller)
            if further > self._cheap * known[smaller] / smaller:
                self._target = smaller
                return
        room = _MOST if not bytes_per_member else count + int(_SHARE_OF_MEMORY * free_bytes() / bytes_per_member)
        if 2 * count in known:
            return
        # By doubling: each size is a program to compile, so that sizes in between would cost more than they bring.
        self._target = max(count, min(2 * count, room))

    def halve(self, num_members: int) -> int:
        """Takes note that `num_members` were too many for the memory; answers how many it will be."""
        # For good: memory that ran out once would run out again, and each time costs all members an epoch.
        self._ceiling = max(1, math.ceil(num_members / 2))
        self._has_next = False
        return self._ceiling


def free_bytes() -> int:
    """Memory that is free on the device; on a CPU, of the machine."""
    device = jax.local_devices()[0]
    found = device.memory_stats() or {}
    if "bytes_limit" in found:
        return int(found["bytes_limit"]) - int(found.get("bytes_in_use", 0))
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in lines:
            return int(lines["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 1 << 62  # a system that does not tell
