"""Models that are built for a population, before there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from manyfit.training.population import keras_side, persistence


@contextlib.contextmanager
def quick_building() -> Iterator[None]:
    """Around the builds that explore a space: drawing weights compiles, so it is quick, and stays for the next run."""
    persistence.enable_compilation_cache()
    with keras_side.quick_draws():
        yield
