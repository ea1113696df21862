"""Fixtures that every test may use. Manyfit is imported before Keras, so that it chooses the backend."""

from __future__ import annotations

from pathlib import Path

import manyfit  # isort: skip

import numpy as np
import pytest


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
