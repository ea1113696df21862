"""What every test runs in: Keras's backend, a cache folder of this session's own, and shared fixtures."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import tempfile
from pathlib import Path

# One place for all tests, and the programs that they start: JAX, unless somebody asks for another backend.
os.environ.setdefault("KERAS_BACKEND", "jax")
# A search reads which layouts were fastest, and compiled programs, that earlier runs left in the user's cache folder. A
# test must not depend on what was run on this machine before. One folder for the whole session, and not one per test:
# compiling the same small programs again for each test would take most of the suite's time.
CACHE = Path(tempfile.mkdtemp(prefix="manyfit-tests-"))
os.environ["MANYFIT_CACHE_DIR"] = str(CACHE)

import manyfit  # isort: skip  # noqa: E402  # before Keras

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from manyfit.core import threads  # noqa: E402

# Hypothesis's own deadline of 200 ms an example says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("manyfit", deadline=None)
hypothesis.settings.load_profile("manyfit")


def pytest_unconfigure() -> None:
    """Removes the cache folder."""
    shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_layout_of_another_test():
    """Compiled programs change nothing but time; a remembered layout changes what a search does."""
    shutil.rmtree(CACHE / "layouts", ignore_errors=True)


@pytest.fixture(autouse=True)
def nobody_compiles_for_another_test():
    """A compilation that a test has left goes on; while it does, JAX keeps all programs where that test keeps them."""
    yield
    concurrent.futures.wait(list(threads.working), timeout=30)


@pytest.fixture
def project(tmp_path: Path) -> dict[str, str]:
    """Where a tuner's project goes: `kt.RandomSearch(build, ..., **project)`."""
    return {"directory": str(tmp_path), "project_name": "search"}


@pytest.fixture(scope="session")
def rows() -> tuple[np.ndarray, np.ndarray]:
    """24 rows of 3 features, and a label that a line separates."""
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]):
    """Fails a test that printed anything."""
    yield
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


assert manyfit.__version__
