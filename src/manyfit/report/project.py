"""A project that is opened to be looked at: a snapshot, with the pages that show it."""

from __future__ import annotations

import os
from pathlib import Path

from manyfit.core.signatures import PATH, checked_arguments
from manyfit.report.notebook import project_html
from manyfit.report.snapshot import Snapshot


class Project(Snapshot):
    """A `Snapshot` that shows itself: `kt.open_project(folder)`."""

    @checked_arguments(path=PATH)
    def report(self, path: str | os.PathLike[str]) -> Path:
        """Writes the report: one HTML file, which needs no network and no other file.

        Args:
            path: of the file; its folder is made.

        Returns:
            The path.

        Raises:
            ImportError: `pip install manyfit[report]`.
            UsageError: the file cannot be written.
        """
        from manyfit.report.page import write_page  # NumPy, which only looking does without

        return write_page(self, path)

    def _repr_html_(self) -> str:
        return project_html(self)


@checked_arguments()
def open_project(folder: str | os.PathLike[str]) -> Project:
    """Opens a project to look at it: its trials and what is known of them, without the function that built its models.

    Nothing is written, and another process may be searching there: call it again for what has come since.

    Args:
        folder: `directory/project_name`.

    Returns:
        A `Snapshot`: `best()`, `results()`, `trial("7").runs[0].curves`, `leader`, `time()`, ... and `report(path)`.

    Raises:
        ProjectError: there is no project, its file is damaged, or a newer Manyfit wrote it.
    """
    return Project.of(folder)
