"""Runs a search on a cluster that is reached through a client server, as from a laptop outside of it.

The first argument is a folder for the projects. Prints the scores of a search through "ray://", and of one here.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

os.environ.update(RAY_USAGE_STATS_ENABLED="0")

import remote_work
from ray.cluster_utils import Cluster

import manyfit as kt


def main() -> None:
    """Starts a cluster of one machine and a client server, and searches."""
    cluster = Cluster()
    cluster.add_node(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    command = [sys.executable, "-m", "ray.util.client.server", "--mode", "legacy", "--host", "127.0.0.1"]
    with subprocess.Popen([*command, "--port", str(port), "--address", cluster.address]) as client_server:
        try:
            wait_for(port, client_server)
            executor = kt.RayExecutor(f"ray://127.0.0.1:{port}", max_workers=2)
            print(scores("there", executor), scores("here", None), sep="\n")
            executor.close()
        finally:
            client_server.kill()
            cluster.shutdown()


def wait_for(port: int, listener: subprocess.Popen[bytes]) -> None:
    """Returns when a process listens, or has ended."""
    while listener.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)


def scores(name: str, executor: kt.Executor | None) -> list[float]:
    """Of a random search over models."""
    x, y = remote_work.rows()
    x = x.repeat(2000, axis=0)  # larger than what travels in the pickle
    y = y.repeat(2000, axis=0)
    tuner = kt.RandomSearch(
        remote_work.build, "val_loss", 3, seed=0, directory=sys.argv[1], project_name=name, executor=executor
    )
    tuner.search(x, y, epochs=2, batch_size=4096, validation_data=(x, y), verbose=0)
    found = [round(trial.score, 4) for _, trial in sorted(tuner.oracle.trials.items())]
    tuner.close()
    return found


if __name__ == "__main__":
    main()
