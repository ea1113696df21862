"""KerasTuner's own tests, run with Manyfit in its place: how many pass, and what the others say.

    git clone --branch v1.4.7 https://github.com/keras-team/keras-tuner
    KERAS_BACKEND=jax python tests/compat/suite.py keras-tuner

The tests of its repository (of the last version that was tagged there) stay as they are, without its source: `import
keras_tuner` is Manyfit's, but for `keras_tuner.test_utils`, a tool of the tests. `make bench-suite` does the same.
What is printed is the table of `benchmarks/results/keras_tuner_suite.md`.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PLUGIN = """
import importlib.util, json, os, sys, types
import manyfit.compat

manyfit.compat.install()
tools = sys.modules["keras_tuner.test_utils"] = types.ModuleType("keras_tuner.test_utils")
place = os.path.join(os.environ["THEIRS"], "test_utils", "mock_distribute.py")
spec = importlib.util.spec_from_file_location("keras_tuner.test_utils.mock_distribute", place)
tools.mock_distribute = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
try:
    spec.loader.exec_module(tools.mock_distribute)
except ImportError as error:
    print(f"The tests with a chief and workers are not run: {error}", file=sys.stderr)


def note(name, outcome, says):
    with open(os.environ["FOUND"], "a") as file:
        print(json.dumps([name, outcome, says]), file=file)


def pytest_runtest_logreport(report):
    if report.when == "call" or report.outcome != "passed":
        crash = getattr(report.longrepr, "reprcrash", None)
        says = crash.message if crash else str(report.longrepr or "")
        note(report.nodeid, report.outcome, says.strip().splitlines()[0] if says.strip() else "")


def pytest_collectreport(report):
    if report.failed or report.skipped:
        note(report.nodeid, "not collected", str(report.longrepr).strip().splitlines()[-1])
"""


def run(file: Path, theirs: Path, seconds: int) -> list[tuple[str, str, str]]:
    """Name, outcome and first line of the error of each test of a file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        shutil.copy(file, folder)
        shutil.copy(theirs / "conftest.py", folder)
        (folder / "manyfit_in_its_place.py").write_text(PLUGIN)
        found = folder / "found"
        found.touch()
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "FOUND": str(found), "THEIRS": str(theirs), "PYTHONPATH": path}
        options = [
            "-q",
            "-p",
            "manyfit_in_its_place",
            "-p",
            "no:cacheprovider",
            "--timeout",
            str(seconds),
            "-W",
            "ignore",
        ]
        command = [sys.executable, "-m", "pytest", *options, file.name]
        subprocess.run(command, cwd=folder, env=environment, check=False, stdout=sys.stderr, timeout=3600)
        return [tuple(json.loads(line)) for line in found.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of KerasTuner")
    parser.add_argument("--seconds", type=int, default=120, help="for a test, which fails then")
    parser.add_argument("--files", default="", help="only those whose path has this in it")
    options = parser.parse_args()
    theirs = (options.checkout / "keras_tuner").resolve()
    print("| file of KerasTuner's tests | tests | pass | do not | are not run |\n|---|---|---|---|---|")
    total: collections.Counter[str] = collections.Counter()
    told = []
    for file in sorted(theirs.rglob("*_test.py")):
        name = str(file.relative_to(theirs))
        if options.files not in name:
            continue
        found = run(file, theirs, options.seconds)
        counts = collections.Counter(outcome for _, outcome, _ in found)
        counts = collections.Counter(
            passed=counts["passed"], failed=counts["failed"], other=counts["skipped"] + counts["not collected"]
        )
        total += counts
        print(
            f"| {name} | {counts.total()} | {counts['passed']} | {counts['failed']} | {counts['other']} |", flush=True
        )
        told += [f"- `{test.partition('::')[2] or name}`: {says[:160]}" for test, end, says in found if end != "passed"]
    print(f"| all | {total.total()} | {total['passed']} | {total['failed']} | {total['other']} |\n")
    print(*told, sep="\n")


if __name__ == "__main__":
    main()
