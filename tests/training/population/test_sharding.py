"""A population over eight devices (of a CPU that says it had them) is the population over one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from marks import needs_jax

pytestmark = [needs_jax]

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def job():
    sys.path.insert(0, str(HERE))
    try:
        import on_devices

        yield on_devices
    finally:
        sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def on_eight():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(HERE.parents[2] / "src"), *sys.path]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "on_devices.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("order", ["shared order", "own order", "stream"])
def test_every_member_is_the_member_of_one_device(job, on_eight, order):
    assert on_eight["devices"] == 8
    one = job.curves(own_order=order == "own order", stream=order == "stream")
    assert len(one) == 2 * job.NUM_MEMBERS and set(one) == set(on_eight[order])
    for name, curve in one.items():
        np.testing.assert_allclose(on_eight[order][name], curve, rtol=2e-5, err_msg=name)


def test_each_device_computes_its_share_and_no_more(job, on_eight):
    assert on_eight["flops"] <= 1.02 * job.num_flops(64) / 8


def test_the_same_program_is_lowered_for_tpus_and_its_devices_tell_each_other_nothing(on_eight):
    assert on_eight["tpu"] == {"platforms": ["tpu"], "devices": 8, "collectives": []}


def test_one_device_lowers_for_a_tpu_too(job):
    rows_pass, arguments = job.training_pass(3)
    exported = jax.export.export(jax.jit(rows_pass.loop), platforms=["tpu"])(*arguments)
    assert exported.platforms == ("tpu",) and "stablehlo.while" in exported.mlir_module()
