"""The choice of Keras's backend, asked of fresh interpreters without Keras; threads of BLAS."""

import json
import os
import subprocess
import sys
import threading

import pytest
import scipy.linalg
import threadpoolctl

import manyfit as kt
from manyfit.core.environment import one_thread
from manyfit.samplers.non_adaptive import RandomSampler

assert scipy.linalg  # whose BLAS is not NumPy's

CODE = "import os, manyfit; print(os.environ.get('KERAS_BACKEND'))"


def _chosen(tmp_path, backend=None, config=None):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    if backend is not None:
        environment["KERAS_BACKEND"] = backend
    if config is not None:
        (tmp_path / "keras.json").write_text(config)
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("backend", "config", "chosen"),
    [
        (None, None, "jax"),
        ("torch", None, "torch"),
        (None, json.dumps({"backend": "tensorflow"}), "jax"),  # Keras writes this by itself
        (None, json.dumps({"backend": "torch"}), "None"),  # the file decides
        (None, "{not json", "jax"),
    ],
)
def test_jax_unless_the_user_has_chosen(tmp_path, backend, config, chosen):
    assert _chosen(tmp_path, backend, config) == chosen


# In a fresh interpreter, where of the three backends those are installed that the arguments name.
INSTALLED = """
import importlib.util, os, sys, types, warnings
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: (
    (object() if name in sys.argv else None) if name in ("jax", "tensorflow", "torch") else real(name, package)
)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import manyfit
print(os.environ.get("KERAS_BACKEND"), *[each.message for each in said], sep="|")
"""


@pytest.mark.parametrize(
    ("installed", "asked", "backend", "remedy"),
    [
        (["jax", "torch"], None, "jax", None),
        (["tensorflow", "torch"], None, "tensorflow", None),
        (["torch"], None, "torch", None),
        (["jax"], "torch", "torch", "KERAS_BACKEND asks for torch, which is not installed. Type pip "),
        (["jax"], "file", "None", "Keras's configuration file asks for torch, which is not installed."),
    ],
)  # fmt: skip
def test_what_is_not_installed_is_not_chosen_and_one_line_says_what_to_type(
    tmp_path, installed, asked, backend, remedy
):
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    environment["KERAS_HOME"] = str(tmp_path)
    if asked == "file":
        (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    elif asked is not None:
        environment["KERAS_BACKEND"] = asked
    command = [sys.executable, "-c", INSTALLED, *installed]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = run.stdout.strip().split("|")
    assert told[0] == backend and len(told) == 1 + (remedy is not None)
    assert remedy is None or remedy in told[1]


def _threads():
    """Threads that BLAS uses, for each of its copies (NumPy and SciPy have their own)."""
    return [each["num_threads"] for each in threadpoolctl.threadpool_info() if each["user_api"] == "blas"]


@pytest.fixture
def two_threads():
    """BLAS with two threads, whatever this machine and its environment say."""
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        assert _threads() and set(_threads()) == {2}
        yield


@pytest.mark.usefixtures("two_threads")
class TestOneThread:
    def test_blas_has_one_thread_inside_and_what_it_had_afterwards(self):
        with one_thread():
            assert set(_threads()) == {1}
        assert set(_threads()) == {2}

    def test_an_error_inside_gives_the_threads_back(self):
        with pytest.raises(ZeroDivisionError), one_thread():
            1 / 0
        assert set(_threads()) == {2}

    def test_a_stay_within_a_stay_changes_nothing(self):
        with one_thread():
            with one_thread():
                assert set(_threads()) == {1}
            assert set(_threads()) == {1}
        assert set(_threads()) == {2}

    def test_samplers_propose_and_rank_with_one_thread(self):
        seen = []

        class Watching(RandomSampler):
            def propose(self, *args, **kwargs):
                seen.append(("propose", set(_threads())))
                return super().propose(*args, **kwargs)

            def rank(self, *args, **kwargs):
                seen.append(("rank", set(_threads())))
                return super().rank(*args, **kwargs)

        oracle = kt.Oracle("val_loss", max_trials=3, sampler=Watching(), seed=0)
        space = kt.HyperParameters()
        space.Float("rate", 0.0, 1.0)
        oracle.update_space(space)
        oracle.create_trial("tuner")
        oracle.get_recommended_trials()
        assert seen == [("propose", {1}), ("rank", {1})]
        assert set(_threads()) == {2}


def test_who_comes_second_and_leaves_last_changes_nothing():
    before = _threads()
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with one_thread():
            inside.set()
            leave.wait()

    worker = threading.Thread(target=stay)
    with one_thread():
        worker.start()
        inside.wait()
        assert set(_threads()) == {1}
    assert _threads() == before
    leave.set()
    worker.join()
    assert _threads() == before
