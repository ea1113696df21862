"""What a tuner shows of its project: how much is printed, rows of results, the report, and what a notebook prints."""

from __future__ import annotations

import os
from pathlib import Path

from manyfit.oracles import Oracle
from manyfit.report.notebook import project_html
from manyfit.report.page import write_page
from manyfit.report.results import Results
from manyfit.report.snapshot import Snapshot
from manyfit.tuners.display import TrialDisplay
from manyfit.tuners.results import results_of


class LookedAt:
    """The part of a tuner that reads what was recorded, as anybody can who opens the project."""

    oracle: Oracle
    _display: TrialDisplay

    @property
    def verbose(self) -> int | str | bool:
        """How much is printed: the `verbose` of the latest `search`; 0 prints nothing."""
        return self._display.verbose

    @verbose.setter
    def verbose(self, value: int | str | bool) -> None:
        self._display.verbose = value

    @property
    def project_dir(self) -> str:
        """The project's folder."""
        raise NotImplementedError

    def results(self) -> Results:
        """One row per execution: values, seed, status, best epoch, every metric, seconds; and the curves."""
        oracle = self.oracle
        direction = oracle.objective.direction if len(oracle.objective.terms) == 1 else None
        return results_of(list(oracle.trials.values()), oracle.scheduler.max_epochs, direction=direction)

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report of the project: one HTML file, which needs no network and no other file.

        It says what is real and what is luck, what to change, and where the time went. Another process can write it
        while this one searches: `manyfit report PROJECT -o report.html --every 10`.

        Args:
            path: of the file; its folder is made.

        Returns:
            The path.

        Raises:
            ImportError: `pip install manyfit[report]`.
            UsageError: the file cannot be written.
        """
        return write_page(Snapshot.of(self.project_dir), path)

    def _repr_html_(self) -> str:
        return project_html(Snapshot.of(self.project_dir))
