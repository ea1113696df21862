"""Writes docs/evidence.md: for each claim of README.md the rows that show it, and how they were measured.

    python benchmarks/evidence.py           # writes the page
    python benchmarks/evidence.py --check   # says whether it is up to date

Nothing is measured here: rows are quoted from `benchmarks/results/`, word by word, under their conditions.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from pathlib import Path

from conditions import COLUMNS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "evidence.md"


@dataclasses.dataclass(frozen=True)
class Claim:
    """What README.md says, and where it was measured.

    Attributes:
        name: the anchor on the page.
        says: the claim in a few words.
        file: the page of results, without its ending.
        shown: beginnings of the rows of its tables (their first cell, or more), or parts of its sentences.
        run: which row of its conditions it was measured under.
    """

    name: str
    says: str
    file: str
    shown: tuple[str, ...]
    run: int = 0


CLAIMS = (
    Claim("eight-structures", "A search of eight structures against KerasTuner", "speed", (
        "A, cold cache", "A, warm cache")),
    Claim("wide-models", "Wide models against KerasTuner: the goal is missed", "speed", ("B, warm cache",)),
    Claim("one-model", "One model alone against `model.fit`", "speed", (
        "F, MLP of 64 units, alone", "F, LSTM of 32 units", "F, attention")),
    Claim("every-structure", "Spaces in which every trial has another structure", "speed", (
        "G1, dense", "G3, table", "G4, LSTM", "G2, CNN"), 1),
    Claim("proposals", "Proposals one at a time, LCBench surrogate", "search_quality", (
        "Manyfit, Gaussian process | 0.1.0", "Optuna GPSampler | 5.0.0", "KerasTuner BayesianOptimization | 1.4.8",
        "Optuna TPESampler | 5.0.0", "Optuna GPSampler | 0.017")),
    Claim("noise", "Proposals under noise: what is found, and what is handed over", "search_quality", (
        "Manyfit, Gaussian process | 0.071", "Optuna GPSampler | 0.064", "KerasTuner BayesianOptimization | 0.122")),
    Claim("epochs", "Schedulers at equal epochs, after 20 full trainings", "hyperband", (
        "Manyfit ASHA + BayesianOptimization", "Optuna 5.0.0 TPE + HyperbandPruner", "Manyfit Hyperband",
        "KerasTuner 1.4.8 Hyperband")),
    Claim("schedules", "Population-based training where the best rate falls", "moving_optimum", (
        "random, rate falls by a cosine | 0.2846", "ASHA | 0.7343", "population, as it comes (")),
    Claim("minute", "Rows and a minute: five tasks, one seed", "minutes", (
        "Manyfit | 2.00", "Optuna | 3.20", "linear | 3.20", "default model | 3.20", "KerasTuner | 3.80",
        "AutoKeras | 5.60", "churn | log loss", "weather | RMSE")),
    Claim("intervals", "The interval of a report's first sentence, on simulated searches", "look", ("in all",)),
    Claim("confirmed", "The interval of a confirmation, nominal 95 %, on simulated searches", "truth", (
        "equal, 5 trials, 100 rows | 54", "equal, 50 trials, 100 rows | 39", "equal, 200 trials, 100 rows",
        "normal, 50 trials, 1,000 rows | 55 → 93")),
    Claim("groups", "Rows that come in groups", "truth", ("groups in 61 of 100 searches",)),
    Claim("ensembles", "Ensembles against their rivals over 14 tasks and sizes", "ensemble", (
        "**mean rank**", "median seconds to fit", "breast cancer, 16 members, 200 rows | 0.1047",
        "Worse than the single best by more", "Null test")),
    Claim("brands", "Ready spaces against their libraries' defaults", "estimators", ("On test rows (",)),
    Claim("costs", "Minding what trials cost", "costs", ("**How sure that is.**",)),
    Claim("cluster", "Two workers on one machine", "scale_executors", (
        "RayExecutor(max_workers=2): overhead", "RayExecutor: 20 workers killed")),
    Claim("memory", "A search over a file of 2 GB, in place", "scale_devices", ("search over a file of 2048 MB",)),
    Claim("confirming", "What racing on fresh seeds saves", "confirm", ("gaps of 1%", "gaps of 5%")),
    Claim("their-suite", "KerasTuner's own tests, run on Manyfit", "keras_tuner_suite", (
        "all", "31 | a chief", "9 | they look", "3 | they play", "4 | an error", "1 | a module", "2 | two Eff",
        "1 | an augm", "1 | five", "1 | three models", "1 | a stepped", "1 | a grid waits", "1 | a grid has",
        "1 | `kerastuner`", "The second part found")),
    Claim("install", "What an installation takes", "install_size", (
        "all ", "keras |", "jax |", "`import manyfit` |", "`pip install`")),
)  # fmt: skip

#: What, and with what it will be measured.
NOT_MEASURED = (
    ("Speed on a GPU, float32 and bfloat16", "`make bench-gpu`", "no machine with one yet"),
    ("Anything on a TPU", "`make bench-gpu`", "no machine with one yet"),
    ("Several hosts: Ray was run with two workers on one machine", "`make bench-scale`", "no second machine yet"),
    ("Several real devices: eight simulated ones show how work is divided, not how fast it is", "`make bench-scale`",
     "no machine with them yet"),
    ("A minute with three seeds, and 300 seconds", "`python benchmarks/minutes.py --final`", "not run yet"),
    ("Intervals in 4,000 searches a cell", "`make bench-truth`", "8.5 hours; small runs so far"),
    ("Speed on macOS and Windows", "`make bench-speed`", "no machine yet"),
)  # fmt: skip


@functools.cache
def lines_of(file: str) -> tuple[str, ...]:
    """The lines of a page of results."""
    return tuple((RESULTS / f"{file}.md").read_text(encoding="utf-8").splitlines())


def conditions_of(file: str, run: int = 0) -> dict[str, str]:
    """Command, machine, date, load: a row of the table below the title."""
    rows = [line for line in lines_of(file)[:12] if line.startswith("|")]
    heading = [cell.strip() for cell in rows[0].strip("|").split("|")]
    if tuple(heading) != COLUMNS:
        raise LookupError(f"benchmarks/results/{file}.md: below the title stands no table of {', '.join(COLUMNS)}")
    return dict(zip(COLUMNS, (cell.strip() for cell in rows[2 + run].strip("|").split(" | ")), strict=True))


def quoted(file: str, beginning: str) -> tuple[str | None, str]:
    """The heading of the table, if it is a row of one, and the row; else the paragraph that has these words in it."""
    lines = lines_of(file)
    found = [at for at, line in enumerate(lines) if line.startswith(f"| {beginning}")]
    if not found:
        blocks = "\n".join(lines).split("\n\n")
        (text,) = [block for block in blocks if beginning in block]
        return None, text.strip("`\n")
    if len(found) > 1:
        raise LookupError(f"benchmarks/results/{file}.md: {len(found)} rows begin with {beginning!r}")
    heading = found[0]
    while lines[heading - 1].startswith("|"):
        heading -= 1
    return "\n".join(lines[heading : heading + 2]), lines[found[0]]


def section(claim: Claim) -> str:
    """A claim, its rows, and how they were measured."""
    by_heading: dict[str, list[str]] = {}
    sentences = []
    for beginning in claim.shown:
        heading, row = quoted(claim.file, beginning)
        if heading is None:
            sentences.append("> " + row.replace("\n", "\n> "))
        elif row not in by_heading.setdefault(heading, []):
            by_heading[heading].append(row)
    tables = ["\n".join([heading, *rows]) for heading, rows in by_heading.items()]
    how = conditions_of(claim.file, claim.run)
    source = f"[results/{claim.file}.md](../benchmarks/results/{claim.file}.md)"
    told = f"{how['command']}, {how['machine']}; {how['date']}; load: {how['load']}. All of it: {source}."
    parts = [f'<a id="{claim.name}"></a>', f"## {claim.says}", *tables, *dict.fromkeys(sentences), told]
    return "\n\n".join(parts)


def page() -> str:
    """The whole of docs/evidence.md."""
    opening = (
        "# Evidence\n\n"
        "What README.md says in figures, and the rows that show it, as `benchmarks/results` has them.\n"
        "`benchmarks/evidence.py` writes this page; `make bench` runs all that is measured, one after another, and\n"
        "writes it, too. A ratio is worth more than a time, and a figure from one seed is worth little. The machine\n"
        "stands below each claim's rows."
    )
    columns = [column for column in COLUMNS if column != "machine"]  # it would be most of the table
    table = [f"| claim | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for claim in CLAIMS:
        how = conditions_of(claim.file, claim.run)
        table.append(f"| [{claim.says}](#{claim.name}) | " + " | ".join(how[column] for column in columns) + " |")
    table += [f"| {what} | {command} | **not measured**: {why} | |" for what, command, why in NOT_MEASURED]
    return "\n\n".join([opening, "\n".join(table), *map(section, CLAIMS)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is not up to date")
    written = page()
    if not parser.parse_args().check:
        PAGE.write_text(written, encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != written:
        sys.exit("docs/evidence.md is not what benchmarks/results say: run python benchmarks/evidence.py")


if __name__ == "__main__":
    main()
