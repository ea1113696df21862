"""The library asks the network for nothing: a program from import to saving runs where every way out fails."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

from marks import needs_jax

pytestmark = needs_jax

#: Python tells of every socket that is bound, connected or written to, and of every name that is looked up (PEP 578).
CUT = """
import os, sys
asked = []
def hook(event, arguments):
    ways = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
            "socket.gethostbyname", "socket.gethostbyaddr", "urllib.Request", "http.client.connect")
    # Whoever asks whether this machine has IPv6 (urllib3 does) binds a port of its own, and asks nobody.
    if event in ways and not (event == "socket.bind" and arguments[1] == ("::1", 0)):
        asked.append((event, arguments[1:]))
        raise OSError("the network is cut")
sys.addaudithook(hook)
"""
PROGRAM = """
import manyfit as kt
import keras
import numpy as np

def build(hp):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.SGD(hp.Float("rate", 0.01, 0.3)), "binary_crossentropy", metrics=["accuracy"])
    return model

x = np.random.default_rng(0).normal(size=(60, 3)).astype("float32")
y = (x.sum(axis=1) > 0).astype("int32")
tuner = kt.RandomSearch(build, "val_loss", max_trials=2, seed=0, directory="projects", project_name="p")
tuner.search(x[:40], y[:40], epochs=1, validation_data=(x[40:], y[40:]), verbose=1)
tuner.report("report.html")
tuner.ensemble().save("ensemble")
kt.Ensemble.load("ensemble")
winner = tuner.fit(x, y, max_seconds=5, verbose=0)  # whatever it has time for: the search has left a model
kt.load_winner(winner.save("winner.keras")).predict(x)
tuner.close()
print(kt.open_project("projects/p").results())
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CUT + textwrap.dedent(program) + "\nassert not asked, asked\n"],
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_cut_is_one(tmp_path):
    asked = "import contextlib, socket\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))"
    done = run(asked, tmp_path)
    assert done.returncode == 1 and "socket.getaddrinfo" in done.stderr


def test_from_import_to_saving_nobody_asks_the_network(tmp_path):
    done = run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "report.html").is_file() and (tmp_path / "winner.keras").is_file()
