"""Devices and large data: how the work of a population is divided, and what memory a search over a file takes.

Run it with `make bench-scale`; each row runs in a process of its own. Memory is what the process itself allocates
(RssAnon): pages of the file that the system keeps for it can be dropped at any time, and are shown beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import conditions

os.environ.setdefault("KERAS_BACKEND", "jax")

NUM_MEMBERS, NUM_DEVICES = 64, 8
NUM_COLUMNS, BATCH_SIZE = 1024, 256
MOST_RATIO_OF_FLOPS, MOST_RATIO_OF_MEMORY = 1.02, 1.2


def flops() -> dict[str, Any]:
    """What one device computes in an epoch of 64 members of an MLP 784-64-10 with dropout, by the compiler's count."""
    import jax
    import keras
    import numpy as np

    from manyfit.data.call import Call
    from manyfit.training.keras_internals.building import build_symbolically
    from manyfit.training.population.arrays import values_of, variables_of
    from manyfit.training.population.data import Rows, Shapes, read_fit_arguments
    from manyfit.training.population.layout import Layout
    from manyfit.training.population.lift import Lift
    from manyfit.training.population.passes import RowsPass
    from manyfit.training.population.trace import trace

    layers = [keras.layers.Dense(64, activation="relu"), keras.layers.Dropout(0.3)]
    model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    x, y = np.zeros((1280, 784), "float32"), np.zeros(1280, "int32")
    rows = read_fit_arguments(Call((x, y), {"batch_size": 128})).training
    if not isinstance(rows, Rows):
        raise SystemExit("the rows are not resident")
    build_symbolically(model, (x[:128], y[:128], None))
    found = trace(model, Shapes(rows, None))
    state = tuple(tuple(values_of(part)) for part in variables_of(model)[:3])
    program = RowsPass("train", Lift(found), layout=Layout("scan", "vmap"), count=NUM_MEMBERS, rows=rows)
    states, lifted = program.spread.gather([state] * NUM_MEMBERS), program.lifted([found] * NUM_MEMBERS)
    compiled = program.spread.compile(program.scan, (states, lifted, rows.leaves, rows.in_order()[0]))
    return {"devices": jax.local_device_count(), "flops": compiled.num_flops, "bytes": compiled.num_bytes}


def memory(num_bytes: int, layout: str) -> dict[str, Any]:
    """Peak memory of a search over a file of zeros (it takes no room on the disk), epochs of a few batches each."""
    import keras
    import numpy as np

    import manyfit as kt

    def build(hp: kt.HyperParameters) -> keras.Model:
        layers = [keras.layers.Dense(hp.Choice("units", [32, 64]), activation="relu"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((NUM_COLUMNS,)), *layers])
        model.compile(keras.optimizers.Adam(hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")), "mse")
        return model

    num_rows = num_bytes // (4 * NUM_COLUMNS)
    with tempfile.TemporaryDirectory() as folder:
        if layout == "whole rows":
            x = np.memmap(Path(folder) / "x", "float32", "w+", shape=(num_rows, NUM_COLUMNS))
        else:  # no device computes on such a view of a file without copying it
            x = np.memmap(Path(folder) / "x", "float32", "w+", shape=(num_rows, NUM_COLUMNS + 1))[:, 1:]
        y = np.zeros((num_rows, 1), "float32")
        tuner = kt.RandomSearch(build, "loss", max_trials=4, seed=0, directory=folder)
        with Peak() as peak:
            started = time.perf_counter()
            tuner.search(x, y, epochs=1, batch_size=BATCH_SIZE, verbose=0)
            seconds = time.perf_counter() - started
        if any(row.status != "COMPLETED" for row in tuner.results()):
            raise SystemExit(str(tuner.results()))
    return {"own": peak.own, "file": peak.file, "seconds": seconds, "rows": num_rows}


class Peak:
    """Watches the memory of this process from a thread: bytes of its own, and of files that it has mapped."""

    def __enter__(self) -> Peak:
        self.own = self.file = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            lines = Path("/proc/self/status").read_text().splitlines()
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}
            self.own = max(self.own, kilobytes["RssAnon"] * 1024)
            self.file = max(self.file, kilobytes["RssFile"] * 1024)


def in_own_process(row: str, *arguments: str, devices: int = 1) -> dict[str, Any]:
    """Runs one row in a fresh interpreter."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    # Each row compiles its programs: reading kept ones takes less memory, and not every row would find some.
    environment = {**os.environ, "XLA_FLAGS": flags, "MANYFIT_CACHE_DIR": "off"}
    command = [sys.executable, __file__, "--row", row, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def report(megabytes: int) -> None:
    """Prints the table."""
    one, eight = in_own_process("flops"), in_own_process("flops", devices=NUM_DEVICES)
    ratio = eight["flops"] / (one["flops"] / NUM_DEVICES)
    print(f"{NUM_MEMBERS} members, MLP 784-64-10, {NUM_DEVICES} simulated devices")
    print(f"  work per device, by 1/{NUM_DEVICES} of one device's: {ratio:.4f} (goal: at most {MOST_RATIO_OF_FLOPS})")
    print(f"Memory of a search over a file of {megabytes} MB, by that over 8 MB (batches, model, program)")
    for layout, how in (("whole rows", "computed on in place"), ("some columns", "host batches")):
        arguments = ("--layout", layout, "--megabytes")
        small, large = (in_own_process("memory", *arguments, str(size)) for size in (8, megabytes))
        ratio = large["own"] / small["own"]
        print(
            f"  {how}: {ratio:.2f} ({large['own'] / 2**20:.0f} MiB by {small['own'] / 2**20:.0f} MiB; goal: at most "
            f"{MOST_RATIO_OF_MEMORY}); pages of the file at most {large['file'] / 2**20:.0f} MiB; "
            f"{large['seconds']:.0f} s for {4 * large['rows']} rows"
        )


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--row", choices=["flops", "memory"], help="one row, as JSON")
    parser.add_argument("--megabytes", type=int, default=2048, help="size of the file")
    parser.add_argument("--layout", choices=["whole rows", "some columns"], default="whole rows")
    given = parser.parse_args()
    conditions.show()
    if given.row == "flops":
        print(json.dumps(flops()))
    elif given.row == "memory":
        print(json.dumps(memory(given.megabytes << 20, given.layout)))
    else:
        report(given.megabytes)


if __name__ == "__main__":
    main()
