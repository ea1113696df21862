"""Runs a program on a cluster of two machines, kills one of them in the middle of training, and adds a third.

A raylet on loopback is a machine to Ray. Executions wait in their third epoch until the third machine has a worker.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0")

import remote_work
from ray.cluster_utils import Cluster

import manyfit as kt
from manyfit.executors.messages import Hello, Report
from manyfit.executors.ray import RayPool

MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
JOINED = Path("joined").absolute()


def main() -> None:
    """Runs the program whose path is the first argument."""
    cluster = Cluster()
    cluster.add_node(**MACHINE)
    second = cluster.add_node(**MACHINE)
    os.environ["RAY_ADDRESS"] = cluster.address
    nodes = watch(lambda: (cluster.remove_node(second, allow_graceful=False), cluster.add_node(**MACHINE)))
    tuner = runpy.run_path(sys.argv[1], run_name="__main__")["tuner"]
    completed = [trial for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
    print(f"{len(completed)} trials completed; workers on {len(nodes)} machines")
    tuner.executor.close()
    cluster.shutdown()


def watch(change: Callable[[], object]) -> set[str]:
    """Hears what workers say to the driver, calls `change` once, in between, and slows training down.

    Returns:
        The machines on which workers were.
    """
    read, search = RayPool._read, kt.Tuner.search
    nodes: set[str] = set()
    changes = [change]

    def reading(pool, name):
        message = read(pool, name)
        if isinstance(message, Hello):
            nodes.add(message.node)
        if isinstance(message, Report) and len(nodes) == 2 and changes:
            changes.pop()()
        if len(nodes) == 3:
            JOINED.touch()
        return message

    def searching(tuner, *args, **kwargs):
        search(tuner, *args, callbacks=[remote_work.WaitingFor(str(JOINED))], **kwargs)

    RayPool._read = reading
    kt.Tuner.search = searching
    return nodes


if __name__ == "__main__":
    main()
