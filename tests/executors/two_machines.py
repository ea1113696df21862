"""Runs a program on a cluster of two machines, kills one of them in the middle of training, and adds a third.

A raylet on loopback is a machine to Ray. Executions wait in their third epoch until the third machine has a worker.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time
from pathlib import Path

os.environ.update(RAY_USAGE_STATS_ENABLED="0")

import remote_work
from ray.cluster_utils import Cluster

import manyfit as kt
from manyfit.executors.messages import Hello, Report
from manyfit.executors.ray import RayPool

MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
JOINED = Path("joined").absolute()

nodes: set[str] = set()
reported = threading.Event()


def main() -> None:
    """Runs the program whose path is the first argument."""
    watch()
    cluster = Cluster()
    cluster.add_node(**MACHINE)
    second = cluster.add_node(**MACHINE)
    os.environ["RAY_ADDRESS"] = cluster.address

    def change() -> None:
        while len(nodes) < 2 or not reported.is_set():
            time.sleep(0.1)
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(**MACHINE)

    threading.Thread(target=change, daemon=True).start()
    tuner = runpy.run_path(sys.argv[1], run_name="__main__")["tuner"]
    completed = [trial for trial in tuner.oracle.trials.values() if trial.status == "COMPLETED"]
    print(f"{len(completed)} trials completed; workers on {len(nodes)} machines")
    tuner.executor.close()
    cluster.shutdown()


def watch() -> None:
    """Hears what workers say to the driver, and slows training down."""
    read, search = RayPool._read, kt.Tuner.search

    def reading(pool, name):
        message = read(pool, name)
        if isinstance(message, Hello):
            nodes.add(message.node)
        if isinstance(message, Report):
            reported.set()
        if len(nodes) == 3:
            JOINED.touch()
        return message

    def searching(tuner, *args, **kwargs):
        search(tuner, *args, callbacks=[remote_work.WaitingFor(str(JOINED))], **kwargs)

    RayPool._read = reading
    kt.Tuner.search = searching


if __name__ == "__main__":
    main()
