"""Draws that take seconds each, kept as they are made: a run that was broken off goes on where it was.

One line of JSON per draw in `cache/truth/PART.jsonl`. What is counted comes from the file alone, so several runs, on
several machines, add up: put their lines together.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Draw = dict[str, Any]


class Ledger:
    """The draws of one part of the proof.

    Args:
        path: of the file; it is made when the first draw is added.
        ends: when no further draw is begun, by `time.monotonic`; None: when all are made.
    """

    def __init__(self, path: Path, ends: float | None = None) -> None:
        self.path, self.ends = path, ends

    def draws(self, name: str | None = None) -> list[Draw]:
        """All that were made, or those of one name; a line that a kill cut off is none."""
        found: dict[tuple[str, int], Draw] = {}
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                draw = json.loads(line)
            except json.JSONDecodeError:
                continue
            found[draw["name"], draw["number"]] = draw
        return [draw for draw in found.values() if name in (None, draw["name"])]

    def fill(self, names: list[str], count: int, make: Callable[[str, int], Draw]) -> Iterator[Draw]:
        """Makes the draws that are missing, in turn over the names, and answers each as it is made.

        Args:
            names: of what is drawn: cells, data sets.
            count: draws of each.
            make: one draw, from a name and a number; the number is the only source of chance.
        """
        known = {(draw["name"], draw["number"]) for draw in self.draws()}
        for number in range(count):
            for name in names:
                if (name, number) in known:
                    continue
                if self.ends is not None and time.monotonic() > self.ends:
                    return
                draw = {"name": name, "number": number} | make(name, number)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                # A line of its own, also after one that was cut off.
                with self.path.open("a") as file:
                    file.write("\n" * _is_cut(self.path) + json.dumps(draw) + "\n")
                yield draw


def _is_cut(path: Path) -> bool:
    """Whether a kill has left a line without an end."""
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def share(draws: list[Draw], key: str) -> str:
    """How often something was so, in %, with the standard error that the number of draws leaves."""
    values = [bool(draw[key]) for draw in draws if draw.get(key) is not None]
    if not values:
        return "-"
    part = min(max(sum(values) / len(values), 1 / (len(values) + 1)), len(values) / (len(values) + 1))
    return f"{100 * sum(values) / len(values):.1f} ± {100 * math.sqrt(part * (1 - part) / len(values)):.1f}"


def slope(draws: list[Draw], claimed: str, actual: str) -> str:
    """Actual by claimed, through 0: the ratio of the sums, with the standard error of a ratio."""
    pairs = [(draw[claimed], draw[actual]) for draw in draws if draw.get(claimed) is not None]
    total = sum(one for one, _ in pairs)
    if len(pairs) < 2 or total == 0:
        return "-"
    ratio = sum(two for _, two in pairs) / total
    left = sum((two - ratio * one) ** 2 for one, two in pairs)
    return f"{ratio:.2f} ± {math.sqrt(left * len(pairs) / (len(pairs) - 1)) / abs(total):.2f}"
