"""Tests of the tests: one small error at a time is made in the library, and the tests that reach it have to fail.

    python benchmarks/mutate.py                      500 mutants, or what 60 minutes allow; goes on where it stopped
    python benchmarks/mutate.py --minutes 10 --mutants 200
    python benchmarks/mutate.py --wider              also tests that train: of tuners, evidence and reports
    python benchmarks/mutate.py --again stats        tries those of stats that survived once more, by the tests of now
    python benchmarks/mutate.py --survivors          prints what no test saw
    python benchmarks/mutate.py --certain 20         as many changes that nothing survives: all have to be killed

`mutants.py` says what a mutant is. They are drawn from all, over all packages alike, by a fixed seed; of 500, the first
200 are those that 200 would be. One that cannot be put in place is left out of the table.

Which test reaches which line is recorded once (coverage.py, each test by itself, with the fixtures that it shares with
others), and again only for files of tests that have changed, or for all when the library has. Tests of more than
`SLOWEST` seconds take no part.

Each mutant is a fork of a process that has imported and collected everything. In it, the function's code is exchanged,
wherever it has been imported to, and the tests that reach its line run, the quickest first, until one fails. What kills
for the first time runs again without the mutant, after the same tests: if it fails there, too, it takes part no more.

What computes for ever is killed: it has taken `PATIENCE` times the processor time of a test, and 5 seconds. What waits
for ever is not, since a busy machine may be the reason. Processes that tests start see the library as it is on disk.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import hashlib
import importlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conditions import conditions
from mutants import PACKAGES, ROOT, SOURCE, Mutant, all_mutants, certain_of, drawn, exchange, functions_of_process

CONTRACTS = ("contract/test_samplers.py", "contract/test_families.py", "contract/test_optuna_adapter.py")
#: Of tuners, with formulas in place of models: requests, warm starts, endings and resuming are reached by them.
TUNERS = tuple(f"tuners/test_{each}.py" for each in ("requests", "knowledge", "stopping", "resume"))
TESTS = (*PACKAGES, *CONTRACTS, *TUNERS)
#: They train models, in the main.
WIDER = ("evidence", "report", "tuners", "finish", "contract", "executors", "data")
KEPT = ROOT / "build" / "mutation"
RECORD, RESULTS = KEPT / "reached.json", KEPT / "results.jsonl"
SLOWEST, ENOUGH = 3.0, 8.0  # processor seconds: of one test, of all of a mutant
LONGEST = 20  # seconds of a test while it is recorded
PATIENCE, MOST_BYTES = 10.0, 4 << 30  # of a mutant: times the seconds of a test, memory beside what it begins with
SEED = 0
OPTIONS = ("-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly", "--continue-on-collection-errors")
KILLED = {"killed", "no end"}


def digest(paths: Iterable[Path]) -> str:
    """Of the contents of files."""
    return hashlib.sha256(b"\0".join(each.read_bytes() for each in sorted(paths))).hexdigest()[:16]


# -- which test reaches which line -----------------------------------------------------------------------------------


class Recording:
    """A plugin of pytest that notes which lines each test reaches, and how long it takes."""

    def __init__(self) -> None:
        import coverage

        self._coverage = coverage.Coverage(data_file=None, include=[f"{SOURCE / each}/*" for each in PACKAGES])
        self._seconds: dict[str, float] = {}
        self._passed: set[str] = set()
        self._coverage.start()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.outcome != "passed":
            self._passed.discard(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        for item in session.items:
            self._passed.add(item.nodeid)
            self._coverage.switch_context(item.nodeid)
            start = time.process_time()
            # No next one: fixtures of modules are made for each test, and counted as its own.
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            self._seconds[item.nodeid] = time.process_time() - start
            self._coverage.switch_context("")
        self._coverage.stop()
        (KEPT / "part.json").write_text(json.dumps(self._noted()))
        return True

    def _noted(self) -> dict[str, Any]:
        data = self._coverage.get_data()
        lines: dict[str, dict[int, list[str]]] = {}
        statements = {}
        for name in data.measured_files():
            path = Path(name).relative_to(SOURCE).as_posix()
            lines[path] = {
                line: [each for each in tests if each in self._passed or not each]
                for line, tests in data.contexts_by_lineno(name).items()
            }
            statements[path] = self._coverage.analysis2(name)[1]
        seconds = {name: seconds for name, seconds in self._seconds.items() if name in self._passed}
        return {"seconds": seconds, "lines": lines, "statements": statements}


class Record:
    """Which tests reach a line; kept in a file, by file of tests, while the library stays as it is."""

    def __init__(self, folders: Iterable[str]) -> None:
        self._folders = [ROOT / "tests" / each for each in folders]
        self._library = digest(path for package in PACKAGES for path in (SOURCE / package).rglob("*.py"))
        kept = json.loads(RECORD.read_text()) if RECORD.exists() else {}
        self._files: dict[str, Any] = kept["files"] if kept.get("library") == self._library else {}

    @property
    def files(self) -> list[str]:
        """The files of tests."""
        found = {path for each in self._folders for path in (each.rglob("test_*.py") if each.is_dir() else [each])}
        return sorted(path.relative_to(ROOT).as_posix() for path in found)

    def refresh(self) -> None:
        """Runs the files of tests that have changed, in one process, which leaves nothing behind in this one."""
        digests = {name: digest([ROOT / name]) for name in self.files}
        stale = [name for name, found in digests.items() if self._files.get(name, {}).get("digest") != found]
        if not stale:
            return
        KEPT.mkdir(parents=True, exist_ok=True)
        code = "import sys; sys.path.insert(0, 'benchmarks'); import mutate, pytest; "
        code += f"pytest.main({[*stale, *OPTIONS, f'--timeout={LONGEST}']!r}, plugins=[mutate.Recording()])"
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        part = json.loads((KEPT / "part.json").read_text())
        for name in stale:
            self._files[name] = {"digest": digests[name], "seconds": {}, "lines": {}, "statements": part["statements"]}
        for test, seconds in part["seconds"].items():
            self._files[test.partition("::")[0]]["seconds"][test] = seconds
        for path, lines in part["lines"].items():
            for line, tests in lines.items():
                for test in tests:
                    for name in [test.partition("::")[0]] if test else stale:
                        self._files[name]["lines"].setdefault(path, {}).setdefault(line, []).append(test)
        RECORD.write_text(json.dumps({"library": self._library, "files": self._files}))

    def seconds(self, test: str) -> float:
        return self._files[test.partition("::")[0]]["seconds"][test]

    def tests_of(self, mutant: Mutant) -> list[str]:
        """The tests that reach a mutant, quickest first; those of its own package come sooner."""
        places = [each["lines"].get(mutant.path, {}) for name, each in self._files.items() if name in self.files]
        for line in (mutant.line, mutant.statement):
            reaching = [test for each in places for test in each.get(str(line), []) if test]
            if reaching:
                break
        own = f"tests/{mutant.package}/"
        return sorted(reaching, key=lambda each: (self.seconds(each) * (0.1 if each.startswith(own) else 1.0), each))

    def coverage(self) -> dict[str, tuple[int, int]]:
        """For each package the lines that these tests reach, and all that there are."""
        statements: dict[str, set[str]] = defaultdict(set)
        reached: dict[str, set[str]] = defaultdict(set)
        for name in sorted({*self.files} & {*self._files}):  # those that were recorded
            for path, lines in self._files[name]["statements"].items():
                statements[path] |= set(map(str, lines))
            for path, lines in self._files[name]["lines"].items():
                reached[path] |= set(lines)
        found = dict.fromkeys(PACKAGES, (0, 0))
        for path, lines in statements.items():
            done, total = found[path.partition("/")[0]]
            found[path.partition("/")[0]] = done + len(lines & reached[path]), total + len(lines)
        return found


# -- one mutant after another ----------------------------------------------------------------------------------------


class Mutating:
    """A plugin of pytest that runs, in place of the tests, the tests of each mutant in a process of its own."""

    def __init__(self, mutants: list[Mutant], record: Record, until: float) -> None:
        self._mutants, self._record, self._until = mutants, record, until
        self._trusted: set[str] = set()
        self._distrusted: set[str] = set()
        self._tell: int | None = None  # in a child: where to name the test that runs

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._tell is not None and report.failed:
            os._exit(1)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for package in PACKAGES:
            for path in sorted((SOURCE / package).rglob("*.py")):
                importlib.import_module(".".join(path.relative_to(SOURCE.parent).with_suffix("").parts))
        functions = functions_of_process()
        gc.disable()
        for number, mutant in enumerate(self._mutants):
            if time.time() > self._until:
                break
            start = time.time()
            fate, by, tried = self._outcome(mutant, items, functions)
            note = {"key": mutant.key, "file": digest([SOURCE / mutant.path]), "fate": fate, "by": by, "tests": tried}
            with RESULTS.open("a") as file:
                file.write(json.dumps(note | {"seconds": round(time.time() - start, 1)}) + "\n")
            print(number + 1, fate, mutant.where, f"[{tried} tests, {by}]", file=sys.stderr, flush=True)
        return True

    def _outcome(self, mutant: Mutant, items: dict[str, pytest.Item], functions: list[Any]) -> tuple[str, str, int]:
        """What became of a mutant, the test that decided it, and how many could have."""
        while True:
            chosen: list[str] = []
            total = 0.0
            for name in self._record.tests_of(mutant):
                seconds = self._record.seconds(name)
                if name not in items or name in self._distrusted or seconds > SLOWEST:
                    continue
                total += seconds
                if chosen and total > ENOUGH:
                    break
                chosen.append(name)
            if not chosen:
                return "not reached", "", 0
            fate, by = self._child(mutant, [items[name] for name in chosen], functions)
            if fate not in KILLED | {"waits"} or by in self._trusted:
                return fate, by, len(chosen)
            alone, _ = self._child(None, [items[name] for name in chosen[: chosen.index(by) + 1]], functions)
            if alone == "survived":
                self._trusted.add(by)
                return fate, by, len(chosen)
            print("fails without a mutant:", by, file=sys.stderr)
            self._distrusted.add(by)

    def _child(self, mutant: Mutant | None, tests: list[pytest.Item], functions: list[Any]) -> tuple[str, str]:
        hear, tell = os.pipe()
        folder = tempfile.mkdtemp(prefix="manyfit-mutant-")
        child = os.fork()
        if child == 0:
            os.close(hear)
            self._tell = tell
            self._run(mutant, tests, functions, folder)
        os.close(tell)
        last = time.time() + 40.0 + 4.0 * sum(self._record.seconds(item.nodeid) for item in tests)
        is_late = False
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            if time.time() > last:
                is_late = True
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        with os.fdopen(hear) as told:
            at = told.read().splitlines()
        shutil.rmtree(folder, ignore_errors=True)
        code = os.waitstatus_to_exitcode(status)
        by = tests[int(at[-1])].nodeid if at else ""
        if is_late:
            return "waits", by
        fate = {0: "survived", 3: "no mutant", -signal.SIGXCPU: "no end"}.get(code, "killed")
        return fate, "" if fate == "survived" else by

    def _run(self, mutant: Mutant | None, tests: list[pytest.Item], functions: list[Any], folder: str) -> None:
        """In the child; does not come back."""
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        os.environ.update(TMPDIR=folder, MANYFIT_CACHE_DIR=f"{folder}/cache", PYTEST_DEBUG_TEMPROOT=folder)
        tempfile.tempdir = folder
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (held + MOST_BYTES, resource.RLIM_INFINITY))
        try:
            if mutant is not None and not exchange(mutant, functions):
                os._exit(3)
            for number, item in enumerate(tests):
                os.write(self._tell or 0, f"{number}\n".encode())
                limit = time.process_time() + 5.0 + PATIENCE * self._record.seconds(item.nodeid)
                resource.setrlimit(resource.RLIMIT_CPU, (int(limit), resource.RLIM_INFINITY))
                following = tests[number + 1] if number + 1 < len(tests) else None
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except BaseException:
            os._exit(1)
        os._exit(0)


# -- the table -------------------------------------------------------------------------------------------------------


def results() -> dict[str, dict[str, Any]]:
    """What became of each mutant whose file is what it was, the last time that it was tried."""
    found = {}
    for line in RESULTS.read_text().splitlines() if RESULTS.exists() else []:
        note = json.loads(line)
        with contextlib.suppress(FileNotFoundError):
            if note["file"] == digest([SOURCE / note["key"].partition(" ")[0]]):
                found[note["key"]] = note
    return found


def table(mutants: list[Mutant], fates: dict[str, str], coverage: dict[str, tuple[int, int]]) -> str:
    """Markdown: for each package how many there were, how many were killed, and the lines that tests reach."""
    by_package: dict[str, Counter[str]] = defaultdict(Counter)
    for each in mutants:
        fate = fates.get(each.key)
        if fate not in (None, "no mutant"):
            by_package[each.package][fate] += 1
            by_package["all"][fate] += 1
    coverage = coverage | {"all": tuple(map(sum, zip(*coverage.values(), strict=True)))} if coverage else {}
    columns = ("killed", "no end", "waits", "survived", "not reached")
    lines = [f"| package | tried | {' | '.join(columns)} | score | lines reached |", "|---" * 9 + "|"]
    for package in (*PACKAGES, "all"):
        counts = by_package[package]
        total = sum(counts.values())
        score = f"{sum(counts[each] for each in KILLED) / total:.0%}" if total else "-"
        done, lines_in_all = coverage.get(package, (0, 0))
        reached = f"{done:,} of {lines_in_all:,}, {done / lines_in_all:.1%}" if lines_in_all else "-"
        cells = (package, total, *(counts[each] for each in columns), score, reached)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def run(mutants: list[Mutant], record: Record, *, minutes: float) -> None:
    """Tries mutants, as many as the minutes allow."""
    os.chdir(ROOT)
    # Examples that failed with one mutant are no test of the next one: Hypothesis keeps none, and draws the same.
    os.environ["CI"] = "1"
    record.refresh()
    plugin = Mutating(mutants, record, time.time() + 60.0 * minutes)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        pytest.main([*record.files, *OPTIONS], plugins=[plugin])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=500)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--wider", action="store_true", help="tests of more folders, most of which train models")
    parser.add_argument("--again", metavar="PATTERN", help="tries survivors of that name once more, by tests of now")
    parser.add_argument("--survivors", action="store_true", help="only prints what survived, of earlier runs")
    parser.add_argument("--certain", type=int, metavar="N", help="only tries so many changes that nothing survives")
    options = parser.parse_args()
    record = Record((*TESTS, *WIDER) if options.wider else TESTS)
    possible = all_mutants()
    sampled = drawn(possible, SEED)
    if options.certain:
        mutants = [certain_of(each) for each in sampled[: options.certain]]
        run(mutants, record, minutes=options.minutes)
        print(Counter(note["fate"] for key, note in results().items() if key in {each.key for each in mutants}))
        return
    sampled = sampled[: options.mutants]
    done = results()
    if not options.survivors:
        todo = [each for each in sampled if each.key not in done]
        if options.again:
            survived = [each for each in sampled if each.key in done and done[each.key]["fate"] not in KILLED]
            todo = [each for each in survived if re.search(options.again, each.where)]
        run(todo, record, minutes=options.minutes)
        done = results()
    fates = {key: note["fate"] for key, note in done.items()}
    for each in sampled:
        if options.survivors and fates.get(each.key) not in {None, "no mutant", *KILLED}:
            print(f"{fates[each.key]}, {done[each.key]['tests']} tests: {each.where}")
    print(f"{conditions()}\n\n{len(possible):,} possible mutants, {len(sampled)} drawn by seed {SEED}\n")
    print(table(sampled, fates, record.coverage()))


if __name__ == "__main__":
    main()
