"""`manyfit doctor` says what is there, what is used and what is missing, and never falls over."""

import os
import re
import subprocess
import sys

import pytest

from manyfit.cli import main


def doctor(**environment):
    settings = {name: value for name, value in os.environ.items() if name not in ("KERAS_BACKEND", "XLA_FLAGS")}
    settings["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "manyfit", "doctor"]
    done = subprocess.run(command, env={**settings, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.backends
def test_the_doctor_names_device_backend_precisions_and_extras(capsys):
    import keras

    assert main(["doctor"]) == 0
    page = capsys.readouterr().out
    assert re.search(rf"backend +{keras.backend.backend()} \d", page)
    assert re.search(r"device +(CPU|\d* ?x? ?GPU|TPU)", page)
    for precision in ("float32 +1", r"bfloat16 +\d", r"float16 +\d"):
        assert re.search(precision, page)
    assert re.search(r"pandas +pandas \d", page)  # what the tests need is there
    assert bool(re.search("trials +train together", page)) is (keras.backend.backend() == "jax")


def test_a_backend_that_is_missing_is_told_with_its_extra():
    page = doctor(KERAS_BACKEND="openvino", MANYFIT_CACHE_DIR="off")
    assert "openvino, which does not load" in page and "set KERAS_BACKEND=jax" in page


def test_eight_devices_and_no_cache_are_seen():
    page = doctor(XLA_FLAGS="--xla_force_host_platform_device_count=8", MANYFIT_CACHE_DIR="off")
    assert "divided between 8 devices" in page and "are not kept" in page and ", the default" in page


def test_no_command_is_an_error_with_a_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2 and "Usage: manyfit" in capsys.readouterr().err
