"""The executor that everybody has: this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manyfit.executors.base import Executor, MakeTrainer
from manyfit.training.base import Trainer


class LocalExecutor(Executor):
    """Trains in this process: what a tuner without `executor=` does."""

    def trainer(
        self, make: MakeTrainer, *, notify: Callable[[str], None], folder: Path, keeps_programs: bool
    ) -> Trainer:
        """See `Executor`."""
        del folder, keeps_programs
        return make(notify)
