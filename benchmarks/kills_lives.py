"""Lives of a program: each a process of its own, forked from one that has Keras loaded, which dies where it is told to.

Where a process dies is counted in *boundaries*: a commit to the project's database, or a file that gets its name. Each
has two sides: before it, and after it. A process dies by SIGKILL, which no handler sees: its own at a boundary, or that
of its parent at any moment.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kills_cases
import numpy as np

from manyfit.finish.fold_runs import FoldSupply
from manyfit.finish.fresh_seeds import FreshSeeds
from manyfit.store import ProjectStore
from manyfit.tuners.supply import SearchSupply

_MOST_SECONDS = 300.0
_SUPPLIES = (FoldSupply, FreshSeeds, SearchSupply)


@dataclasses.dataclass(frozen=True)
class Death:
    """When a process dies.

    Attributes:
        boundary: before this one, counted from 0; None: at a moment.
        late: after it instead.
        seconds: so long after its begin; counts where there is no boundary.
    """

    boundary: int | None = None
    late: bool = False
    seconds: float = 0.0

    def __str__(self) -> str:
        if self.boundary is None:
            return f"at {self.seconds:.2f} s"
        return f"{'after' if self.late else 'before'} boundary {self.boundary}"


@dataclasses.dataclass(frozen=True)
class Life:
    """What became of a process.

    Attributes:
        ending: "killed", "ended", "failed" (with an exception) or "hangs".
        boundaries: what those that it passed are; of one that ended.
        taken: trial, phase, execution, seed and first epoch of what was handed out to be trained.
        answers: what its step has come to; of one that ended.
        seconds: from its begin to its end.
        text: what it printed last.
        orphans: processes that it has left behind half a minute after its end.
    """

    ending: str
    boundaries: tuple[str, ...]
    taken: tuple[tuple[str, str, int, int, int], ...]
    answers: dict[str, np.ndarray]
    seconds: float
    text: str
    orphans: int = 0


def live(case: kills_cases.Case, folder: Path, death: Death | None = None) -> Life:
    """Runs a case in a process of its own.

    Args:
        case: what is run.
        folder: with `project`, where a project is or comes to be, and `notes`, emptied before.
        death: None: it lives to its end.
    """
    notes = folder / "notes"
    notes.mkdir(parents=True, exist_ok=True)
    for path in notes.iterdir():
        path.unlink()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(case, folder, death)
    limit = _MOST_SECONDS if death is None or death.boundary is not None else death.seconds
    status = _wait(child, started + limit)
    is_over = status is not None
    if not is_over:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    seconds = time.monotonic() - started
    ending = "ended" if status == 0 else "killed" if os.WIFSIGNALED(status or 0) else "failed"
    if not is_over and limit == _MOST_SECONDS:
        ending = "hangs"
    return Life(
        ending,
        tuple(_lines(notes / "boundaries")),
        tuple(tuple(json.loads(line)) for line in _lines(notes / "taken")),
        _answers(notes / "answers.npz"),
        seconds,
        "\n".join(_lines(notes / "printed")[-20:]),
        _orphans(child),
    )


def _wait(child: int, until: float) -> int | None:
    """The status of a child's end; None where it does not come."""
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.005)
    return None


def _orphans(session: int) -> int:
    """Processes of a session that do not end by themselves within half a minute, once its leader is gone."""
    until = time.monotonic() + 30.0
    while found := _processes_of(session):
        if time.monotonic() > until:
            return len(found)
        time.sleep(0.05)
    return 0


def _processes_of(session: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            state, _, _, its_session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state != "Z":
                found.append(int(path.name))
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _answers(path: Path) -> dict[str, np.ndarray]:
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


# In the child --------------------------------------------------------------------------------------------------


def _be_child(case: kills_cases.Case, folder: Path, death: Death | None) -> None:
    status = 1
    try:
        os.setsid()
        notes = folder / "notes"
        printed = os.open(notes / "printed", os.O_WRONLY | os.O_CREAT)
        os.dup2(printed, 1)
        os.dup2(printed, 2)
        _note_what_is_taken(notes / "taken")
        _die_at(death, folder)
        tuner = kills_cases.make(case, folder / "project")
        answers = kills_cases.run(case, tuner, folder)
        tuner.close()
        np.savez(notes / "answers.npz", **answers)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)  # never back into the parent's code


class _Notes:
    """Lines that are there when the process is not any more."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, line: str) -> None:
        os.write(self._file, f"{line}\n".encode())


def _note_what_is_taken(path: Path) -> None:
    notes = _Notes(path)

    def noted(take: Any) -> Any:
        def taking(supply: Any, count: int) -> Any:
            plans = take(supply, count)
            for plan in plans:
                notes.add(json.dumps([plan.trial_id, plan.phase, plan.execution, plan.seed, plan.first_epoch]))
            return plans

        return taking

    for supply in _SUPPLIES:
        supply.take = noted(supply.take)  # type: ignore[attr-defined]


def _die_at(death: Death | None, folder: Path) -> None:
    notes, passed = _Notes(folder / "notes" / "boundaries"), [0]
    at = None if death is None else death.boundary

    @contextlib.contextmanager
    def boundary(name: str) -> Iterator[None]:
        number = passed[0]
        passed[0] += 1
        is_last = number == at and death is not None
        if is_last and not death.late:
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        notes.add(name)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    transaction, replace = ProjectStore.transaction, os.replace

    @contextlib.contextmanager
    def counted(store: ProjectStore) -> Iterator[Any]:
        with boundary("commit"), transaction(store) as connection:
            yield connection

    def renamed(source: Any, target: Any, **options: Any) -> None:
        is_ours = Path(target).is_relative_to(folder)  # and not in a cache
        with boundary(f"file {Path(target).name}") if is_ours else contextlib.nullcontext():
            replace(source, target, **options)

    ProjectStore.transaction = counted  # type: ignore[method-assign]
    os.replace = renamed  # type: ignore[assignment]
