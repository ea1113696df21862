"""A process that dies at a commit of its own, and the search that is started again."""

from __future__ import annotations

import contextlib

from manyfit.store import ProjectStore


class Killed(BaseException):
    """The process is gone: no handler of the library sees it as an error of a trial."""


class Death:
    """Lets a project live for so many commits, and none after that.

    Args:
        monkeypatch: pytest's.
        num_commits: commits that succeed.
        late: whether the process dies after its last commit, and not before the next one.
    """

    def __init__(self, monkeypatch, num_commits, late):
        self.left = num_commits
        transaction = ProjectStore.transaction

        @contextlib.contextmanager
        def mortal(store):
            if self.left <= 0:
                raise Killed
            with transaction(store) as connection:
                yield connection
            self.left -= 1
            if late and self.left <= 0:
                raise Killed

        monkeypatch.setattr(ProjectStore, "transaction", mortal)


def interrupted(make, monkeypatch, num_commits, late, search=lambda tuner: tuner.search(verbose=0)):
    """A search that dies after so many commits, and is started again; None when it lived to its end.

    Args:
        make: makes the tuner.
        monkeypatch: pytest's.
        num_commits: see `Death`.
        late: see `Death`.
        search: calls the tuner's `search`.
    """
    with monkeypatch.context() as patched:
        Death(patched, num_commits, late)
        dead = None
        try:
            dead = make()
            search(dead)
            return None
        except Killed:
            pass
        finally:
            if dead is not None:
                dead.close()
    again = make()
    search(again)
    return again
