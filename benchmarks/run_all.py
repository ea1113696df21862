"""Runs all benchmarks, one after another, and writes docs/evidence.md: `make bench`.

    python benchmarks/run_all.py [--only speed confirm] [--list]

What each prints lies in `build/bench/NAME.md` afterwards, under its conditions. Whoever runs it compares that with
`benchmarks/results/NAME.md` and takes over what has changed: a table alone does not say what a figure means. It takes
most of a day on two cores (truth alone 8.5 hours). What fails is named at the end, and keeps nothing from running.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import conditions
import evidence

ROOT = Path(__file__).resolve().parents[1]
PRINTED = ROOT / "build" / "bench"
#: The page of results, and the targets of the Makefile that print what stands on it.
TARGETS = {
    "speed": ("bench-speed", "bench-structures"),
    "search_quality": ("bench-search",),
    "costs": ("bench-costs",),
    "hyperband": ("bench-hyperband",),
    "confirm": ("bench-confirm",),
    "truth": ("bench-truth",),
    "minutes": ("bench-minutes",),
    "gains_of_phases": ("bench-phases",),
    "ensemble": ("bench-ensemble",),
    "estimators": ("bench-estimators",),
    "scale": ("bench-scale",),
    "look": ("bench-look",),
    "long": ("bench-long",),
    "kills": ("kills",),
    "install_size": ("bench-install",),
    "keras_tuner_suite": ("bench-suite",),
}


def run(name: str) -> bool:
    """Whether the targets of a page have run to their end."""
    PRINTED.mkdir(parents=True, exist_ok=True)
    ended = True
    with (PRINTED / f"{name}.md").open("w", encoding="utf-8") as page:
        for target in TARGETS[name]:
            command = ["make", "--no-print-directory", target]
            page.write(f"{conditions.conditions(command)}\n\n")
            page.flush()
            ended &= subprocess.run(command, cwd=ROOT, stdout=page, check=False).returncode == 0
            page.write("\n")
    return ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--list", action="store_true", help="say what would run")
    options = parser.parse_args()
    if options.list:
        print(*(f"{name}: make {' '.join(TARGETS[name])}" for name in options.only), sep="\n")
        return
    failed = []
    for name in options.only:
        print(f"{name} ...", flush=True)
        if not run(name):
            failed.append(name)
    evidence.PAGE.write_text(evidence.page(), encoding="utf-8")
    if failed:
        sys.exit(f"Not run to the end: {', '.join(failed)}. What they printed lies in {PRINTED.relative_to(ROOT)}.")


if __name__ == "__main__":
    main()
