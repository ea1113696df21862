"""What is freed while training is going on stays with the process, and goes back to the system afterwards."""

import os
import platform
import subprocess
import sys
import threading

import keras
import numpy as np
import pytest

import manyfit
from manyfit.training import hardware
from manyfit.training.hardware import freed_memory_kept

VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
NEVER, DEFAULT = 2**31 - 1, 128 << 10
SET = [("mallopt", -3, NEVER), ("mallopt", -1, NEVER)]
RESTORED = [("mallopt", -3, DEFAULT), ("mallopt", -1, DEFAULT), ("malloc_trim", 0)]


class Library:
    """In place of glibc: writes down what it is told."""

    def __init__(self, most=NEVER):
        self.calls, self.most = [], most

    def mallopt(self, name, size):
        self.calls.append(("mallopt", name, size))
        return int(size <= self.most)

    def malloc_trim(self, pad):
        self.calls.append(("malloc_trim", pad))


@pytest.fixture
def library(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    library = Library()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(hardware, "_c_library", lambda: library)
    return library


def test_it_is_set_by_the_first_and_restored_by_the_last_of_all_threads(library):
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with freed_memory_kept():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=stay)
    with freed_memory_kept(), freed_memory_kept():
        thread.start()
        assert inside.wait(30)
    assert library.calls == SET
    leave.set()
    thread.join()
    assert library.calls == SET + RESTORED


def test_an_error_restores_it(library):
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
    assert library.calls == SET + RESTORED


def test_a_glibc_that_takes_less_gets_as_much_as_it_takes(library):
    library.most = 32 << 20
    with freed_memory_kept():
        assert library.calls == [(name, which, size) for name, which, _ in SET for size in (NEVER, 32 << 20)]


def test_other_libraries_and_what_a_user_has_set_are_left_alone(library, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(platform, "libc_ver", lambda: ("", ""))
        with freed_memory_kept():
            pass
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1")
    with freed_memory_kept():
        pass
    assert library.calls == []


@pytest.mark.filterwarnings("ignore")  # without `jit_compile` a search says that it trains one after the other
@pytest.mark.parametrize("together", [True, False])
def test_a_search_trains_inside(library, monkeypatch, tmp_path, together):
    monkeypatch.setenv("MANYFIT_CACHE_DIR", "off")
    seen = []

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(list(library.calls))

    def build(hp):
        model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(hp.Float("learning_rate", 0.01, 0.1)), "mse", jit_compile=together)
        return model

    x = np.zeros((4, 2), "float32")
    tuner = manyfit.RandomSearch(build, objective="val_loss", max_trials=1, seed=0, directory=tmp_path)
    tuner.search(x, x[:, :1], validation_data=(x, x[:, :1]), epochs=1, callbacks=[Look()])
    assert seen
    assert all(calls == SET for calls in seen)
    assert library.calls[-3:] == RESTORED


FAULTS = """
import resource
import numpy as np
from manyfit.training.hardware import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(40):
        np.empty(1 << 20, "uint8").fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with freed_memory_kept():
    faults()
    inside = faults()
print(inside, faults(), 40 * (1 << 20) // resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_the_pages_of_arrays_are_faulted_in_once():
    # In a process of its own: another test may have left holes in the heap, which are filled without a fault.
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    run = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    inside, outside, pages = map(int, run.stdout.split())
    assert inside < pages / 10
    assert outside > pages / 2


def test_what_is_freed_is_given_back_while_more_is_kept(library, monkeypatch):
    with freed_memory_kept():
        hardware.give_back_freed_memory()
    assert library.calls == [*SET, ("malloc_trim", 0), *RESTORED]
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    hardware.give_back_freed_memory()  # another C library is left alone
    assert library.calls[-1:] == RESTORED[-1:] and len(library.calls) == 6
