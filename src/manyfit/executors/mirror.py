"""Files of a project that workers write: under the same names in a folder of the worker's, from where they travel.

A worker need not see the driver's disk, and no two workers write to the same file: the driver alone does.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from manyfit.core.files import PARTIAL, written_whole


class Mirror:
    """The worker's side.

    Args:
        root: an empty folder.

    Example:

    >>> import tempfile
    >>> mirror = Mirror(Path(tempfile.mkdtemp()))
    >>> _ = mirror.path("/project/weights/3-0.npz").write_bytes(b"1")
    >>> mirror.collect(), mirror.collect()
    ({'/project/weights/3-0.npz': b'1'}, {})
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, driver_path: str | Path) -> Path:
        """Where a worker writes what goes to an absolute path of the driver. The folder is there."""
        path = self.root.joinpath(*Path(driver_path).parts[1:])
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def collect(self) -> dict[str, bytes]:
        """The files that were written since, by their paths on the driver."""
        files = {}
        for path in self.root.rglob("*"):
            if path.is_file() and not path.name.startswith(PARTIAL):
                files[f"/{path.relative_to(self.root).as_posix()}"] = path.read_bytes()
                path.unlink()
        return files

    def remove(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.root, ignore_errors=True)


def write_files(files: Mapping[str, bytes], allowed: Iterable[Path]) -> None:
    """The driver's side: puts files where they belong. Each is complete or absent.

    Args:
        files: by their paths.
        allowed: folders below which a worker may have files written; others are left out.

    Raises:
        ProjectError: the disk is full or a file cannot be written.
    """
    folders = [str(folder.absolute()) for folder in allowed]
    for name, content in files.items():
        path = Path(name)
        if ".." in path.parts or not any(path.is_relative_to(folder) for folder in folders):
            continue
        with written_whole(path, "file") as partial:
            partial.write_bytes(content)
