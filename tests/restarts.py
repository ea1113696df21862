"""A driver that is killed in the middle of a search, and its script run again: the same trials, each once."""

from __future__ import annotations

import ast
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import remote_work

SCRIPT = """
import sys, time
from pathlib import Path
import manyfit as kt
import remote_work

class Waiting(remote_work.Numbers):
    def run_trial(self, trial, *args, **kwargs):
        while trial.trial_id >= "3" and not Path({go!r}).exists():
            time.sleep(0.05)  # until the driver has been killed, and this process with it
        return super().run_trial(trial)

tuner = Waiting(objective="loss", max_trials=8, seed=0, hyperparameters=remote_work.space(), directory=sys.argv[1],
                executor={executor})
tuner.search(verbose=0)
print(sorted((trial.trial_id, round(trial.score, 6), trial.status) for trial in tuner.oracle.trials.values()))
"""


def check(executor: str, folder: Path) -> list[int]:
    """Kills a script in the middle of its search, runs it again and compares with a search that nobody disturbed.

    Args:
        executor: how the script makes its executor.
        folder: an empty one.

    Returns:
        The processes that the killed script had started.
    """
    path, go = folder / "script.py", folder / "go"
    path.write_text(SCRIPT.format(executor=executor, go=str(go)), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(path), str(folder)]
    first = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and num_ended(folder) < 2:
        time.sleep(0.05)
    children = children_of(first.pid)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 2 <= num_ended(folder) <= 3
    go.touch()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert second.returncode == 0, second.stderr[-3000:]
    trials = ast.literal_eval(second.stdout.strip().splitlines()[-1])
    assert [(name, status) for name, _, status in trials] == [(str(number), "COMPLETED") for number in range(8)]
    undisturbed = remote_work.Numbers(
        objective="loss", max_trials=8, seed=0, hyperparameters=remote_work.space(), directory=folder / "here"
    )
    undisturbed.search(verbose=0)
    assert [score for _, score, _ in trials] == [round(t.score, 6) for t in undisturbed.oracle.trials.values()]
    return children


def num_ended(folder: Path) -> int:
    """Trials that ended, by the store."""
    path = folder / "untitled_project" / "manyfit.sqlite"
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        try:
            return database.execute("select count(*) from executions").fetchone()[0]
        except sqlite3.OperationalError:  # before its tables are there
            return 0


def children_of(pid: int) -> list[int]:
    """Processes that a process has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in listed.stdout.split()]
