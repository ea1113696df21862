"""Kills: 200 processes that die in the middle of searches and of what follows them. Run by `make kills`.

Each case (`kills_cases`) is run once as a whole. Then it is run again and again, killed each time at another place
(`kills_lives`), and started anew with the same lines, as a user would. What is there then is compared with what was
committed when the process died, and with what the run came to that nobody killed:

- lost: executions and epochs that were committed, and are not there any more, or are others;
- redone: executions that had ended, and were handed out to be trained once more;
- proposals: trials with other values, or others in number;
- scores, and what the step answers: equal bit for bit, or to float32 rounding (1e-4), or neither;
- stray: files that the whole run does not leave;
- integrity: SQLite's own check, and processes that are still there half a minute later.

    python benchmarks/kills.py --kills 200
    python benchmarks/kills.py --only "ASHA, population" --every   # at each boundary of these cases
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Programs are compiled once for all lives; the folder is made anew for each run of this file.
os.environ["MANYFIT_CACHE_DIR"] = tempfile.mkdtemp(prefix="manyfit-kills-")
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import manyfit  # isort: skip  # noqa: F401  # before Keras

import numpy as np
from kills_cases import SAMPLERS, SCHEDULERS, STEPS, TRAINERS, Case, pairwise
from kills_lives import Death, Life, live

_CACHE = Path(os.environ["MANYFIT_CACHE_DIR"])
_ROUNDING = 1e-4
_FEW = 2  # kills of a case whose lives take long


@dataclasses.dataclass(frozen=True)
class Known:
    """What a project knows.

    Attributes:
        trials: id -> values and status.
        executions: key -> what came of it, without what is measured by a clock.
        epochs: key and epoch -> logs.
        decisions: of confirmations.
        is_sound: what SQLite says of the file.
    """

    trials: dict[str, tuple[dict[str, Any], str]]
    executions: dict[tuple[Any, ...], dict[str, Any]]
    epochs: dict[tuple[Any, ...], dict[str, Any]]
    decisions: list[tuple[Any, ...]]
    is_sound: bool = True

    @classmethod
    def read(cls, folder: Path) -> Known:
        """Reads a project, whoever died in it."""
        path = folder / "search" / "manyfit.sqlite"
        if not path.exists():
            return cls({}, {}, {}, [])
        with contextlib.closing(sqlite3.connect(path)) as database:
            is_sound = database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
            try:
                rows = {table: database.execute(f"SELECT * FROM {table}").fetchall() for table in _TABLES}
            except sqlite3.OperationalError:  # it died before its tables were there
                return cls({}, {}, {}, [], is_sound)
        trials = {row[0]: (json.loads(row[4]), row[2]) for row in rows["trials"]}
        executions = {row[:4]: _untimed(json.loads(row[4])) for row in rows["executions"]}
        epochs = {row[:5]: json.loads(row[5]) for row in rows["epochs"]}
        return cls(trials, executions, epochs, rows["decisions"], is_sound)


_TABLES = ("trials", "executions", "epochs", "decisions")


def _untimed(outcome: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in outcome.items() if name not in ("seconds", "costs", "notes", "message")}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a kill has done.

    Attributes:
        case: that was killed.
        death: where.
        at: what was known then: executions that had ended, and epochs.
        faults: what is wrong, in words; none where nothing is.
        scores: "bits", "rounding" or "others".
    """

    case: Case
    death: Death
    at: tuple[int, int]
    faults: tuple[str, ...]
    scores: str


class Bench:
    """Runs cases and kills them.

    Args:
        folder: for projects.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved = folder.with_name("saved")

    def begin(self, case: Case) -> Life:
        """Runs a case as a whole; of a step after a search, what is killed begins where the search has ended."""
        for path in (self.folder, self._saved):
            shutil.rmtree(path, ignore_errors=True)
        self.folder.mkdir(parents=True)
        if case.begins_with_a_search:
            searched = live(dataclasses.replace(case, step="search"), self.folder)
            if searched.ending != "ended":
                return searched
        shutil.copytree(self.folder, self._saved)
        self._forget_layouts()
        self.life = live(case, self.folder)
        self.known = Known.read(self.folder / "project")
        self.files = _files(self.folder)
        return self.life

    def kill(self, case: Case, death: Death) -> Verdict | None:
        """Kills it, and starts it anew; None where it had ended before."""
        shutil.rmtree(self.folder)
        shutil.copytree(self._saved, self.folder)
        self._forget_layouts()
        first = live(case, self.folder, death)
        if first.ending == "ended":
            return None
        known = Known.read(self.folder / "project")
        second = live(case, self.folder)
        after = Known.read(self.folder / "project")
        faults = [] if first.ending == "killed" else [f"the first life {first.ending}: {_last(first)}"]
        if first.orphans or second.orphans:
            faults.append(f"{first.orphans + second.orphans} processes are left")
        if second.ending != "ended":
            faults.append(f"the second life {second.ending}: {_last(second)}")
            return Verdict(case, death, _counted(known), tuple(faults), "others")
        faults += lost(known, after) + redone(known, second) + proposed(self.known, after)
        faults += strays(self.files, _files(self.folder))
        faults += [] if known.is_sound and after.is_sound else ["integrity"]
        scores = _worse(compared(self.known, after), answered(self.life.answers, second.answers))
        return Verdict(case, death, _counted(known), tuple(faults), scores)

    def _forget_layouts(self) -> None:
        # What the whole run remembers of the quickest layout would make the lives after it other ones.
        shutil.rmtree(_CACHE / "layouts", ignore_errors=True)


def _last(life: Life) -> str:
    return life.text.splitlines()[-1] if life.text else "it said nothing"


def _counted(known: Known) -> tuple[int, int]:
    ended = [one for one in known.executions.values() if one["ending"] != "paused"]
    return len(ended), len(known.epochs)


def lost(known: Known, after: Known) -> list[str]:
    """Executions and epochs that were committed when the process died, and that are others now."""
    ended = {key: one for key, one in known.executions.items() if one["ending"] != "paused"}
    others = [key for key, one in ended.items() if not _same(after.executions.get(key), one)]
    # What is no search goes on run by run: one that was broken off is trained again from its beginning.
    kept = {key: logs for key, logs in known.epochs.items() if key[1] == "search" or key[:4] in ended}
    epochs = [key for key, logs in kept.items() if not _same(after.epochs.get(key), logs)]
    told = [f"lost: execution {key}" for key in others[:1]] + [f"lost: epoch {key}" for key in epochs[:1]]
    return [*told, *(["lost: trials"] if not known.trials.keys() <= after.trials.keys() else [])]


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def redone(known: Known, second: Life) -> list[str]:
    """Executions that had ended and were handed out all the same."""
    ended = {
        (key[0], key[1], key[3], one["seed"]) for key, one in known.executions.items() if one["ending"] != "paused"
    }
    found = [one for one in second.taken if one[:4] in ended]
    return [f"redone: {one[:3]}" for one in found[:1]]


def proposed(whole: Known, after: Known) -> list[str]:
    """Trials that the whole run does not have, or has with other values."""
    ids = [
        trial_id for trial_id in whole.trials | after.trials if whole.trials.get(trial_id) != after.trials.get(trial_id)
    ]
    same = [one for one in ids if one in whole.trials and one in after.trials and _near(whole, after, one)]
    return [f"proposals: trial {one}" for one in ids if one not in same][:1]


def _near(whole: Known, after: Known, trial_id: str) -> bool:
    (values, status), (others, its_status) = whole.trials[trial_id], after.trials[trial_id]
    return status == its_status and _ratio(values, others) < _ROUNDING


def strays(files: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Files that are there and should not be, or are not and should."""
    more = sorted(name for name, count in after.items() if count > files.get(name, 0))
    fewer = sorted(name for name, count in files.items() if count > after.get(name, 0))
    return [f"stray: {', '.join(more[:4])}"] * bool(more) + [f"missing: {', '.join(fewer[:4])}"] * bool(fewer)


def _files(folder: Path) -> Mapping[str, int]:
    """The names of all files, and how many have each: winners that are ensembles are numbered."""
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return collections.Counter(
        re.sub(r"ensemble-\d+/", "ensemble/", str(path)) for path in paths if path.parts[0] != "notes"
    )


def compared(whole: Known, after: Known) -> str:
    """How near the numbers of executions and epochs are, and what was decided by them."""
    if whole.executions.keys() != after.executions.keys() or whole.epochs.keys() != after.epochs.keys():
        return "others"
    pairs = [(one, after.executions[key]) for key, one in whole.executions.items()]
    pairs += [(logs, after.epochs[key]) for key, logs in whole.epochs.items()]
    worst = max((_ratio(one, other) for one, other in pairs), default=0.0)
    decided = "bits" if whole.decisions == after.decisions else "rounding"
    return _worse("bits" if worst == 0 else "rounding" if worst < _ROUNDING else "others", decided)


def answered(whole: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> str:
    """How near what a step has answered is."""
    if whole.keys() != after.keys() or any(whole[name].shape != after[name].shape for name in whole):
        return "others"
    worst = max((float(np.abs(whole[name] - after[name]).max(initial=0.0)) for name in whole), default=0.0)
    return "bits" if worst == 0 else "rounding" if worst < _ROUNDING else "others"


def _ratio(one: Any, other: Any) -> float:
    """The largest difference of numbers in two records, in units of 1 plus the number; infinite where texts differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        if one.keys() != other.keys():
            return math.inf
        return max((_ratio(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, float) and isinstance(other, float):
        return 0.0 if one == other or (one != one and other != other) else abs(one - other) / (1.0 + abs(one))
    return 0.0 if one == other else math.inf


_ORDER = ("bits", "rounding", "others")


def _worse(*scores: str) -> str:
    return max(scores, key=_ORDER.index)


# Which kills ----------------------------------------------------------------------------------------------------


def deaths(life: Life, count: int, rng: random.Random, *, every: bool) -> list[Death]:
    """Where a case is killed.

    Args:
        life: of the whole run.
        count: how often; a quarter of them at any moment, the others at boundaries.
        rng: draws them.
        every: at each boundary instead, on both sides.
    """
    sides = [Death(number, late) for number in range(len(life.boundaries)) for late in (False, True)]
    if every:
        return sides
    num_moments = (count + rng.randrange(4)) // 4
    moments = [Death(seconds=rng.uniform(0.2, 0.95) * life.seconds) for _ in range(num_moments)]
    return rng.sample(sides, min(len(sides), count - num_moments)) + moments


def run(
    cases: Sequence[Case], kills: int, folder: Path, *, every: bool, seed: int, until: float = math.inf
) -> list[Verdict]:
    """Kills each case its share of times.

    Args:
        cases: in their order.
        kills: in all.
        folder: for projects.
        every: at every boundary instead.
        seed: of the draws.
        until: no case begins later, by `time.monotonic`.
    """
    rng, bench, verdicts = random.Random(seed), Bench(folder / "case"), []
    for number, case in enumerate(cases):
        if time.monotonic() > until:
            print(f"{len(cases) - number} cases were left out: the time was up", flush=True)
            break
        whole = bench.begin(case)
        if whole.ending != "ended":
            print(f"{case.name}: {whole.ending}: {whole.text[-1500:]}", flush=True)
            continue
        left = kills - len(verdicts)
        # A worker loads Keras anew, and a `fit` takes many steps: what others make up for.
        share = _FEW if case.trainer == "process" or case.step == "fit" else math.ceil(left / (len(cases) - number))
        for death in deaths(whole, share, rng, every=every):
            while (verdict := bench.kill(case, death)) is None and death.boundary is None:
                death = dataclasses.replace(death, seconds=death.seconds / 2)  # it had ended before
            if verdict is None:
                print(f"{case.name}: {death}: it had ended", flush=True)
                continue
            verdicts.append(verdict)
            ended, epochs = verdict.at
            told = "; ".join(verdict.faults) or "nothing"
            print(f"{case.name}: {death} ({ended} ended, {epochs} epochs): {verdict.scores}; {told}", flush=True)


# The table ------------------------------------------------------------------------------------------------------


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """A row per sampler, scheduler, trainer and step."""
    lines = [
        "| what was killed | kills | lost | redone | other proposals | stray or missing files | anything else "
        "| scores: bits / rounding / others |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for field, names in (("sampler", SAMPLERS), ("scheduler", SCHEDULERS), ("trainer", TRAINERS), ("step", STEPS)):
        for name in names:
            lines.append(_row(name, [one for one in verdicts if getattr(one.case, field) == name]))
    return [*lines, _row("**all**", verdicts)]


def _row(name: str, verdicts: Sequence[Verdict]) -> str:
    faults = [fault for one in verdicts for fault in one.faults]
    kinds = [("lost",), ("redone",), ("proposals",), ("stray", "missing")]
    counts = [sum(fault.startswith(kind) for fault in faults) for kind in kinds]
    scores = collections.Counter(one.scores for one in verdicts)
    cells = [name, len(verdicts), *counts, len(faults) - sum(counts)]
    return f"| {' | '.join(map(str, cells))} | {' / '.join(str(scores[name]) for name in _ORDER)} |"


def main(arguments: Iterable[str] | None = None) -> None:
    """Kills, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="how many in all")
    parser.add_argument("--only", default="", help="cases in whose name this stands; or one")
    parser.add_argument("--every", action="store_true", help="at every boundary, on both sides, however many")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no case begins later")
    options = parser.parse_args(None if arguments is None else list(arguments))
    names = [name for name in SAMPLERS if name != "Optuna" or _has_optuna()]
    cases = [case for case in pairwise(names) if options.only in case.name] or [Case(*options.only.split(", "))]
    started = time.monotonic()
    until = started + 60 * options.minutes
    verdicts = run(cases, options.kills, _CACHE / "lives", every=options.every, seed=options.seed, until=until)
    shutil.rmtree(_CACHE, ignore_errors=True)
    kinds = collections.Counter("a moment" if one.death.boundary is None else "a boundary" for one in verdicts)
    told = ", ".join(f"{number} at {kind}" for kind, number in kinds.items())
    print(f"\n{len(verdicts)} kills of {len(cases)} cases: {told}; {time.monotonic() - started:.0f} s\n")
    print("\n".join(table(verdicts)))
    for one in verdicts:
        if one.faults or one.scores == "others":
            print(f"- {one.case.name}, {one.death}: {one.scores}; {'; '.join(one.faults)}")


def _has_optuna() -> bool:
    with contextlib.suppress(ImportError):
        import optuna  # noqa: F401  # an optional extra

        return True
    return False


if __name__ == "__main__":
    main()
