"""The projects that a dashboard shows: found in one folder, named by keys, and read when they change."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from manyfit.core.errors import ProjectError, explain
from manyfit.report.snapshot import Snapshot
from manyfit.report.words import plain
from manyfit.store.layout import ProjectLayout
from manyfit.store.reading import projects_below, token_of

_FIND_SECONDS = 2.0  # between two walks through the folder, which may be large
_MOST_KEPT = 8  # snapshots and pages in memory
_MOST_SHARE = (
    5.0  # what took a second to read or to draw is done anew after five: a dashboard must not slow a search down
)


@dataclasses.dataclass(frozen=True)
class ListedProject:
    """A project of the dashboard.

    Attributes:
        key: in URLs: letters and digits that stand for the folder, and no part of a path.
        folder: the project's.
        name: the folder for people, told from that of the dashboard.
    """

    key: str
    folder: Path
    name: str


class Projects:
    """The projects in a folder and below, or the one that the folder is.

    A request names a project by its key, which is looked up among those that were found: no text of a URL ever becomes
    part of a path. Folders and databases that are links are not followed.

    Args:
        folder: of one project or of many.
        now: a time in seconds that never goes back.

    Raises:
        ProjectError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], *, now: Callable[[], float] = time.monotonic) -> None:
        self.folder, self._now = Path(folder), now
        if not self.folder.is_dir():
            raise ProjectError(
                explain(
                    f"manyfit dashboard {folder}",
                    "no folder",
                    "a project's folder, or one with projects in it",
                    "Type the directory= of your tuners.",
                )
            )
        self.is_single = ProjectLayout.of(self.folder).database.is_file()
        self._found: dict[str, ListedProject] = {}
        self._found_at = float("-inf")
        self._guard = threading.Lock()  # pages are made by several threads
        self._snapshots: collections.OrderedDict[str, tuple[str, Snapshot, float]] = collections.OrderedDict()

    def places(self) -> list[ListedProject]:
        """All of them, in order of their names."""
        with self._guard:
            if self._now() >= self._found_at + _FIND_SECONDS:
                folders = [self.folder] if self.is_single else projects_below(self.folder)
                made = [self._place(folder) for folder in folders if not ProjectLayout(folder).database.is_symlink()]
                self._found = {place.key: place for place in made}
                self._found_at = self._now()
            return list(self._found.values())

    def _place(self, folder: Path) -> ListedProject:
        inside = folder.relative_to(self.folder)
        name = folder.resolve().name if folder == self.folder else str(inside)
        return ListedProject(hashlib.sha256(os.fsencode(inside)).hexdigest()[:16], folder, plain(name, 80))

    def place(self, key: str) -> ListedProject | None:
        """The project of a key; None: there is none."""
        return {place.key: place for place in self.places()}.get(key)

    def snapshot(self, place: ListedProject) -> tuple[str, Snapshot]:
        """A project, and the token of its state; read anew where it has changed, large ones not too often.

        Raises:
            ProjectError: it cannot be read.
        """
        # Before it is read: what comes in between is seen by the next token.
        token = token_of(place.folder)
        with self._guard:
            known = self._snapshots.get(place.key)
        began = self._now()
        if known is not None and (known[0] == token or began < known[2]):
            return known[0], known[1]
        self._check_inside(place)
        snapshot = Snapshot.of(place.folder)
        ended = self._now()
        with self._guard:
            self._snapshots[place.key] = token, snapshot, ended + _MOST_SHARE * (ended - began)
            self._snapshots.move_to_end(place.key)
            while len(self._snapshots) > _MOST_KEPT:
                self._snapshots.popitem(last=False)
        return token, snapshot

    def _check_inside(self, place: ListedProject) -> None:
        """Checks that nothing of a project leads out of the folder by now.

        Raises:
            ProjectError: a link does.
        """
        links = ProjectLayout(place.folder).links()
        if links or not place.folder.resolve().is_relative_to(self.folder.resolve()):
            got = f"{links[0].name if links else 'a folder'}, a link to somewhere else"
            allowed = "files and folders that lie in the folder of the dashboard"
            raise ProjectError(explain(f'project "{place.name}"', got, allowed, "Put the project itself there."))


class DrawnPages:
    """Pages that were drawn, each until its project changes; dear ones are not drawn too often.

    Args:
        draw: makes the page of a project.
        now: a time in seconds that never goes back.
    """

    def __init__(
        self, draw: Callable[[ListedProject, str, Snapshot], str], *, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._draw, self._now = draw, now
        self._pages: collections.OrderedDict[str, tuple[str, str, float]] = collections.OrderedDict()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    def is_ready(self, key: str) -> bool:
        """Whether there is a page of a project, however old."""
        return key in self._pages

    def rests(self, key: str) -> bool:
        """Whether the page was drawn so recently, for what it costs, that it is not drawn again yet."""
        known = self._pages.get(key)
        return known is not None and self._now() < known[2]

    def page(self, place: ListedProject, token: str, snapshot: Snapshot) -> tuple[str, str]:
        """The page of a state of a project, or of an earlier one where drawing costs too much; with its token."""
        with self._guard:
            lock = self._locks.setdefault(place.key, threading.Lock())
        with lock:  # two browsers ask for the same page: it is drawn once
            known = self._pages.get(place.key)
            if known is not None and (known[0] == token or self._now() < known[2]):
                return known[0], known[1]
            began = self._now()
            html = self._draw(place, token, snapshot)
            ended = self._now()
            self._pages[place.key] = token, html, ended + _MOST_SHARE * (ended - began)
            self._pages.move_to_end(place.key)
            while len(self._pages) > _MOST_KEPT:
                self._pages.popitem(last=False)
            return token, html
