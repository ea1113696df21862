"""What `pip install manyfit` costs: packages, megabytes, seconds; what each dependency brings; what imports take.

    python benchmarks/install_size.py [dist/manyfit-*.whl] [--repeats 9]

Installs the wheel (built here if none is given) into an environment of its own, and weighs what pip has recorded. Times
are wall clock and processor seconds; those of imports are medians of fresh interpreters.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

import conditions

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "nothing": "pass",
    "`import manyfit`": "import manyfit",
    "`import manyfit`, `import keras`": "import manyfit, keras",
    "... and `manyfit.RandomSearch`": "import manyfit, keras; manyfit.RandomSearch",
    "`manyfit.open_project` (without Keras)": "import manyfit; manyfit.open_project",
}
# Runs in the environment: each distribution, its bytes, and what it needs there.
WEIGH = """
import importlib.metadata, json, re, sys
from packaging.requirements import Requirement
found = {}
for one in importlib.metadata.distributions():
    needs = [Requirement(each) for each in one.requires or []]
    needs = [each.name for each in needs if each.marker is None or each.marker.evaluate({"extra": ""})]
    files = [file.locate() for file in one.files or []]
    size = sum(file.stat().st_size for file in files if file.exists())
    name = re.sub("[-_.]+", "-", one.metadata["Name"]).lower()
    needs = [re.sub("[-_.]+", "-", each).lower() for each in needs]
    found[name] = {"version": one.version, "bytes": size, "needs": needs}
print(json.dumps(found))
"""


def timed(command: Sequence[str | Path]) -> tuple[float, float, str]:
    """Wall clock and processor seconds of a command, and what it prints."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tempfile.gettempdir()).stdout
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, printed


def reached(packages: dict[str, dict], roots: Sequence[str]) -> set[str]:
    """What is installed for the sake of some packages, themselves included."""
    seen: set[str] = set()
    waiting = [root for root in roots if root in packages]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += [need for need in packages[name]["needs"] if need in packages]
    return seen


def only_for(packages: dict[str, dict], dependency: str) -> set[str]:
    """What would not be there without one of Manyfit's dependencies, whoever else needs it but by way of Manyfit."""
    others = [need for need in packages["manyfit"]["needs"] if need != dependency]
    return reached(packages, [dependency]) - reached(packages, others)


def print_sizes(packages: dict[str, dict]) -> None:
    """A row per dependency: alone, and with what comes with it and with nothing else."""
    print("| dependency | version | MB | with what only it brings, MB | these are |\n|---|---|---|---|---|")
    million = 1e6

    def alone(name: str) -> int:
        return sum(packages[each]["bytes"] for each in only_for(packages, name))

    for name in sorted(packages["manyfit"]["needs"], key=alone, reverse=True):
        brought = sorted(only_for(packages, name) - {name})
        saved = f"{alone(name) / million:.1f}" if name in only_for(packages, name) else "0.0: others need it, too"
        one = packages[name]
        print(f"| {name} | {one['version']} | {one['bytes'] / million:.1f} | {saved} | {', '.join(brought)} |")
    own = packages["manyfit"]
    print(f"| manyfit itself | {own['version']} | {own['bytes'] / million:.1f} | | |")
    total = sum(one["bytes"] for one in packages.values())
    print(f"| all {len(packages)} packages | | {total / million:.0f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", nargs="?", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        wheel = options.wheel
        if wheel is None:
            subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, ROOT], check=True)
            (wheel,) = Path(place).glob("*.whl")
        conditions.show()
        home = Path(place) / "environment"
        venv.create(home, with_pip=True)
        python = home / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        seconds, cpu, _ = timed([*pip, wheel.resolve()])
        subprocess.run([*pip, "packaging"], check=True)
        packages = json.loads(timed([python, "-c", WEIGH])[2])
        packages = {name: one for name, one in packages.items() if name in reached(packages, ["manyfit"])}
        print(f"`pip install` of the wheel, with pip's cache as it was: {seconds:.0f} s, {cpu:.0f} s of a processor\n")
        print_sizes(packages)
        print("\n| import, in a fresh interpreter | s | processor s |\n|---|---|---|")
        timed([python, "-c", "import manyfit, keras; manyfit.RandomSearch"])  # writes the byte code
        for what, code in IMPORTS.items():
            runs = [timed([python, "-c", code])[:2] for _ in range(options.repeats)]
            wall, processor = (statistics.median(run[part] for run in runs) for part in (0, 1))
            print(f"| {what} | {wall:.2f} | {processor:.2f} |", flush=True)


if __name__ == "__main__":
    main()
