"""Opening a project's database, and seeing that it is still where it was opened.

SQLite keeps its files open. Where somebody moves or deletes a project's folder meanwhile, commits would go on, without
an error, into a file that has no name any more. So each commit asks first whether the name still leads to the file that
was opened; and what was committed until then can be written anew (`copied_to`), since an open file lives on.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from pathlib import Path
from typing import TypeAlias

from manyfit.core.errors import ProjectError, explain, warn_user
from manyfit.core.files import replaced
from manyfit.store.layout import ProjectLayout
from manyfit.store.migrations import bring_up_to_date, database_failed
from manyfit.store.schema import check_harmless

Identity: TypeAlias = tuple[int, int]
"""What a file is, whatever it is called: device and number on it."""

_MOUNTS = Path("/proc/self/mountinfo")
#: As Linux calls them. SQLite's WAL needs memory that all who read share: of these, each machine has its own.
_NETWORK = re.compile(
    r"nfs\d*|cifs|smb\w*|ncpfs|9p|afs|ceph|lustre|gpfs|beegfs\w*|glusterfs|pvfs2"
    r"|fuse\.(sshfs|gluster\w*|ceph\w*|s3fs|gcsfuse|rclone|juicefs|goofys)"
)


def connect(database: Path, where: str) -> sqlite3.Connection:
    """Opens a project's database, or makes it; in autocommit mode, for any thread, its tables up to date.

    Args:
        database: its file; the folder is there.
        where: the project, for messages.

    Raises:
        ProjectError: it is damaged, holds more than tables, was written by a newer Manyfit, or the disk is full.
    """
    connection = None
    try:
        # Autocommit (`isolation_level=None`): transactions begin where `transaction` says so, and nowhere else. Any
        # thread may write, since oracles are called from several; their lock keeps the order.
        connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False, timeout=30.0)
        # First: the schema of a stranger's file can hold code (SQLite's own advice for files of unknown origin).
        connection.execute("PRAGMA trusted_schema=OFF")
        check_harmless(connection, where)
        kind = network_file_system(database.parent)
        if kind is None:
            connection.execute("PRAGMA journal_mode=WAL")
            # A killed process loses nothing at this level; only a power cut can lose the last transactions.
            connection.execute("PRAGMA synchronous=NORMAL")
        else:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("PRAGMA synchronous=FULL")
            warn_user(
                f"{where} lies on a network file system ({kind}). It is kept without SQLite's write-ahead log, which "
                "does not work there, so commits take longer; and only one machine at a time may use it. A directory= "
                "on a disk of this machine is faster and safer."
            )
        bring_up_to_date(connection, where)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if not isinstance(error, sqlite3.DatabaseError):
            raise
        raise database_failed(where, error) from None
    return connection


def check_not_emptied(layout: ProjectLayout, where: str) -> None:
    """Checks that a database that is empty is that of a project that has just begun.

    Raises:
        ProjectError: files of trials lie beside it: somebody, or a power cut, has emptied it.
    """
    with contextlib.suppress(OSError):
        if layout.database.stat().st_size > 0 or not layout.of_some_trial():
            return
        got, allowed = f"{layout.database.name}, which is empty, beside files of trials", "a database with their facts"
        raise ProjectError(explain(where, got, allowed, "Restore the file from a copy, or type overwrite=True."))


def network_file_system(folder: Path, mounts: Path = _MOUNTS) -> str | None:
    """The kind of network file system that a folder lies on; None: it lies on none, or nobody here knows.

    Args:
        folder: any that is there.
        mounts: what is mounted where, as Linux tells it; other systems have no such file.
    """
    with contextlib.suppress(OSError, UnicodeError):
        place, best = str(folder.resolve()), ("", "")
        for line in mounts.read_text().splitlines():
            before, _, after = line.partition(" - ")
            # Of two on one place the later one covers the earlier.
            point = re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), before.split()[4])
            if len(point) >= len(best[0]) and (place == point or place.startswith(point.rstrip("/") + "/")):
                best = point, after.split()[0]
        if _NETWORK.fullmatch(best[1]):
            return best[1]
    return None


def identity_of(database: Path) -> Identity | None:
    """What lies under a name; None: nothing, or nobody may ask."""
    try:
        found = os.stat(database)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def displaced(where: str, *, is_gone: bool) -> ProjectError:
    """The error of a project whose database is not where it was opened.

    Args:
        where: the project.
        is_gone: whether nothing is there; else somebody has put another one in its place.
    """
    if is_gone:
        got, instead = (
            "a folder that was moved or deleted while it was open",
            "Put it back and call again; or make the tuner again with the directory= where it is now; or call again as "
            "it is, which writes all that was finished anew, except for weights.",
        )
    else:
        got, instead = "a database that was replaced while it was open", "Make the tuner again with the same arguments."
    return ProjectError(explain(where, got, "the folder that was opened, in its place", instead))


def copied_to(database: Path, connection: sqlite3.Connection) -> None:
    """Writes all that an open connection has committed to a new file: it is there as a whole, or not at all.

    Raises:
        sqlite3.DatabaseError: it cannot be written.
    """
    with replaced(database) as partial, contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as copy:
        connection.backup(copy)
