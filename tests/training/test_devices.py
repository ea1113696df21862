"""One big model over several devices, and over several processes; simulated devices prove correctness, not speed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from marks import only_on

BACKEND = keras.backend.backend()
needs_jax = only_on("jax", "keras.distribution needs the JAX backend")
JOB = Path(__file__).parent / "one_big_model.py"


def started(folder, num_devices, *arguments):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={num_devices}",
        "PYTHONPATH": os.pathsep.join([str(JOB.parents[2] / "src"), *sys.path]),
    }
    command = [sys.executable, str(JOB), *arguments]
    return subprocess.Popen(command, env=environment, cwd=folder, stdout=-1, stderr=-1, text=True)


def answer(process):
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return answer(started(tmp_path_factory.mktemp("eight"), 8))


@needs_jax
@pytest.mark.parametrize("kind", ["data_parallel", "model_parallel"])
def test_a_model_over_eight_devices_is_the_model_of_one(found, kind):
    assert len(found["alone"]) == 4
    np.testing.assert_allclose(found[kind], found["alone"], rtol=1e-5)


@needs_jax
def test_retrain_lays_a_model_out_by_the_rules(found):
    assert found["share"] == [4, 2]  # of a kernel (4, 8) between four devices
    assert found["scope"] == "None"  # outside of Manyfit there is no distribution


@needs_jax
def test_a_layout_rule_that_matches_nothing_is_an_error_that_shows_what_would_match(found):
    message = found["idle rule"]
    assert message.startswith("FatalValueError") and "'inner/kernel', which matches no variable" in message
    assert "sequential/inner/kernel" in message and "Type '.*inner/kernel.*'" in message


@needs_jax
def test_batches_that_cannot_be_divided_are_refused_before_training(found):
    assert "64 rows in batches of 12: one has 12 rows, for 8 copies" in found["uneven"]
    assert "Type batch_size=8" in found["uneven"]


@needs_jax
def test_two_processes_are_one(found, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folders = [tmp_path / "0", tmp_path / "1"]
    for folder in folders:
        folder.mkdir()
    both = [started(folder, 2, str(number), "2", port) for number, folder in enumerate(folders)]
    answers = [answer(process) for process in both]
    assert [one["devices"] for one in answers] == [4, 4]  # each sees the devices of both
    for one in answers:
        np.testing.assert_allclose(one["losses"], found["alone"], rtol=1e-5)


@pytest.mark.backends
@only_on("tensorflow", "tf.distribute is TensorFlow's")
def test_a_mirrored_strategy_trains_what_one_device_trains(tmp_path):
    found = answer(started(tmp_path, 1))
    np.testing.assert_allclose(found["mirrored"]["losses"], found["alone"]["losses"], rtol=1e-5)
    assert "Mirrored" in found["mirrored"]["variable"] and "Mirrored" not in found["alone"]["variable"]
