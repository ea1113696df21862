"""Under what conditions something was measured: the table that stands below the title of each page of results.

python benchmarks/conditions.py benchmarks/speed.py A   # of a command that is about to run
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Sequence

COLUMNS = ("command", "machine", "date", "load")
PACKAGES = ("keras", "jax", "keras-tuner", "optuna")


def conditions(command: Sequence[str] | None = None) -> str:
    """The table, of this machine at this moment.

    Args:
        command: what measures; None: this process.

    Returns:
        Three lines of Markdown: the command, the machine with the versions that matter, the day, and how many
        processes wanted a core in the last minute.
    """
    words = ["python", *sys.argv] if command is None else list(command)
    versions = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    machine = f"{os.cpu_count()} {platform.machine()} CPU cores; {', '.join(versions)}"
    load = f"{os.getloadavg()[0]:.1f} when it began" if hasattr(os, "getloadavg") else "not known on this system"
    day = datetime.datetime.now(datetime.UTC).date()
    row = (f"`{shlex.join(words)}`", machine, f"{day.day} {day:%B %Y}", load)
    lines = (COLUMNS, ("---",) * len(COLUMNS), row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def show() -> None:
    """Prints the table, above what a benchmark prints."""
    print(conditions(), end="\n\n", flush=True)


if __name__ == "__main__":
    print(conditions(["python", *sys.argv[1:]]))
